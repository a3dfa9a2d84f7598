"""``flussod`` in a process of its own, with a double in place of the daemon: ``daemon_double.py MODE ARGUMENTS``.

Everything around the daemon is the real thing: command line, signals, logs, surface, telemetry.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Dict

CHECKOUT = Path(__file__).resolve().parent.parent


def main() -> None:
    sys.path[0] = str(CHECKOUT)
    mode = sys.argv.pop(1)
    from flusso_sync.cli import main as flussod

    # Imported only now: the closed descriptors of some tests must be met by the command line first.
    module = ModuleType("flusso_sync.daemon")
    module.__dict__.update(_double(mode))
    sys.modules["flusso_sync.daemon"] = module
    flussod(sys.argv[1:])


def _double(mode: str) -> Dict[str, Any]:
    class DaemonOptions:
        def __init__(self, **values: Any) -> None:
            self.values = values

    class Running:
        def __init__(self, config: Any, options: Any, status: Any) -> None:
            self.config, self.options, self.status = config, options, status

        sinks: Dict[str, Any] = {}

        def reload(self, config: Any) -> None:
            self.config = config

        def reindex(self, name: str) -> None:
            raise KeyError(name)

        def run(self, shutdown: threading.Event) -> None:
            from flusso_sync.status import Phase

            if mode not in ("outage", "refuse"):
                self.status.set_phase(Phase.LIVE)
            try:
                getattr(self, mode)(shutdown)
            finally:
                self.status.set_phase(Phase.STOPPED)

        def wait(self, shutdown: threading.Event) -> None:
            shutdown.wait()

        def outage(self, shutdown: threading.Event) -> None:
            self.status.trouble("source", "the database is away", "Start it", blocking=True)
            shutdown.wait()

        def passing_outage(self, shutdown: threading.Event) -> None:
            """Away once it was live, until somebody makes a file in the folder of the run; then back again."""
            self.status.trouble("source", "the database is away", "Start it", blocking=True)
            while not os.path.exists("back") and not shutdown.wait(0.05):
                pass
            self.status.clear_trouble("source")
            shutdown.wait()

        def deaf(self, shutdown: threading.Event) -> None:
            while True:
                time.sleep(1)

        def slow(self, shutdown: threading.Event) -> None:
            shutdown.wait()
            time.sleep(0.5)

        def finish(self, shutdown: threading.Event) -> None:
            """A finite source ends by itself."""

        def refuse(self, shutdown: threading.Event) -> None:
            from flusso_sync.errors import SourceRefused, SyncStopped

            cause = SourceRefused("password authentication failed for postgresql://app:canary@db/x", hint="Mend it")
            raise SyncStopped(cause) from cause

        def crash(self, shutdown: threading.Event) -> None:
            from flusso_sync.errors import SyncStopped

            try:
                raise ZeroDivisionError("a mistake of ours")
            except ZeroDivisionError as error:
                raise SyncStopped(error) from error

        def spam(self, shutdown: threading.Event) -> None:
            while not shutdown.wait(0.001):
                logging.getLogger("flusso_sync.engine").info("x" * 2000)

        def count(self, shutdown: threading.Event) -> None:
            number = 0
            while not shutdown.wait(0.002):
                # Longer than what is written at once.
                logging.getLogger("flusso_sync.engine").info("line %d %s", number, "x" * 9000)
                number += 1

        def build(self, shutdown: threading.Event) -> None:
            """Two builds, and a log that is busy meanwhile."""
            from flusso_sync.status import IndexState

            log = logging.getLogger("flusso_sync.engine")
            self.status.set_build_workers(2)
            for name in ("users", "orders"):
                self.status.set_index_state(name, IndexState.BACKFILLING)
            for step in range(1, 41):
                for name, rows in (("users", 5000), ("orders", 100)):
                    self.status.set_build_progress(name, step * rows // 2, 20 * rows, exact=step > 20)
                for number in range(5):
                    log.info("line %d of step %d %s", number, step, "x" * 60)
                if shutdown.wait(0.1):
                    return
            for name in ("users", "orders"):
                self.status.set_index_state(name, IndexState.SEEDED)
            shutdown.wait()

        def lose_surface(self, shutdown: threading.Event) -> None:
            import waitress.wasyncore as wasyncore  # type: ignore[import-untyped]

            def broken(*args: Any, **kwargs: Any) -> None:
                raise MemoryError("the surface")

            wasyncore.loop = broken
            shutdown.wait()

        def tell(self, shutdown: threading.Event) -> None:
            server = self.config.server
            told = {
                "options": self.options.values,
                "prefix": self.config.prefix,
                "source": self.config.source.model_dump(mode="json"),
                "workers": self.config.backfill.workers,
                "private": str(server.private_address),
                "admin_user": server.admin_user,
                "admin_password": server.admin_password.resolve() if server.admin_password else None,
                "addresses": self.status.snapshot().to_json()["addresses"],
                "files": len(os.listdir("/proc/self/fd")),
            }
            print(json.dumps(told), flush=True)

    class Daemon:
        def __init__(self, config: Any, backends: Any, *, options: Any, observers: Any, status: Any) -> None:
            self.running = Running(config, options, status)

        def start(self) -> Running:
            return self.running

    return {"Daemon": Daemon, "DaemonOptions": DaemonOptions}


if __name__ == "__main__":
    main()

"""The two processes behind the page, kept running: one that ended is started again some seconds later.

All of it happens on the main thread, in ``tick``: children then get a signal when the demo itself is killed, which
Linux binds to the thread that starts them.  Other threads leave a wish and read ``state``.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from flusso_sync.testing.postgres import NoPostgres, PostgresServer, die_with_parent, free_port

FLUSSOD = Path(__file__).resolve().parent.parent / "bin" / "flussod"

#: How long the page shows that something is gone before it comes back.
FLUSSOD_PAUSE_SECONDS = 4.0
POSTGRES_PAUSE_SECONDS = 5.0

#: The daemon itself promises to end within five seconds.
STOP_SECONDS = 10.0


class Service:
    """One process; what exactly it is, subclasses know."""

    name = ""
    pause_seconds = 0.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self._due: Optional[float] = None
        self._why = ""
        self.starts = 0

    # -- by any thread ------------------------------------------------------------------------------

    def ask_to_end(self) -> bool:
        """End it soon, the hard way; False when it does not run."""
        with self._lock:
            if self._due is not None:
                return False
            self._asked = True
            return True

    def state(self) -> Dict[str, Any]:
        with self._lock:
            if self._due is None:
                return {"running": True, "back_in_seconds": None, "why": "", "starts": self.starts}
            left = max(0.0, self._due - time.monotonic())
            return {"running": False, "back_in_seconds": round(left, 1), "why": self._why, "starts": self.starts}

    # -- by the main thread -------------------------------------------------------------------------

    def start(self) -> None:
        self._start()
        with self._lock:
            self._due = None
            self._asked = False
            self.starts += 1

    def tick(self) -> None:
        """Carry out what was asked for, see whether it ended, start it when its time has come."""
        with self._lock:
            asked, due = self._asked, self._due
        if due is not None:
            if time.monotonic() >= due:
                self.start()
            return
        why = ""
        if asked:
            why = self._end()
        elif not self._alive():
            why = self._told()
        if why:
            with self._lock:
                self._asked = False
                self._why = why
                self._due = time.monotonic() + self.pause_seconds

    def _start(self) -> None:
        raise NotImplementedError

    def _alive(self) -> bool:
        raise NotImplementedError

    def _end(self) -> str:
        """End it, and say how."""
        raise NotImplementedError

    def _told(self) -> str:
        """How it ended by itself."""
        raise NotImplementedError


class Postgres(Service):
    """Stopped as by an administrator in a hurry: every connection is cut."""

    name = "Postgres"
    pause_seconds = POSTGRES_PAUSE_SECONDS

    def __init__(self, server: PostgresServer) -> None:
        super().__init__()
        self._server = server

    def _start(self) -> None:
        with contextlib.suppress(NoPostgres):
            # What keeps it from starting may pass; the next tick sees that it does not run.
            self._server.start()

    def _alive(self) -> bool:
        return self._server.running

    def _end(self) -> str:
        self._server.stop("fast")
        return "stopped by you"

    def _told(self) -> str:
        return "ended by itself"


class Flussod(Service):
    """``bin/flussod run`` with files of the folder; its log is ``flussod.log`` there."""

    name = "flussod"
    pause_seconds = FLUSSOD_PAUSE_SECONDS

    def __init__(self, folder: Path, arguments: List[str], env: Mapping[str, str], *, adopt: bool = False) -> None:
        super().__init__()
        self.log = folder / "flussod.log"
        self.port = free_port()
        self._folder = folder
        self._arguments = arguments
        self._env = dict(env)
        self._adopt = adopt
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._log_begin = 0

    @property
    def address(self) -> str:
        """Where its page, ``/status`` and ``/synced`` are."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> Optional[int]:
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> Optional[int]:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def log_tail(self, lines: int = 20) -> str:
        """The end of what this start has logged."""
        with contextlib.suppress(OSError), open(self.log, "rb") as log:
            log.seek(self._log_begin)
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
        return ""

    def command(self, *arguments: str) -> List[str]:
        """Any other command of ``flussod`` with the same files; run it with ``env`` in ``folder``."""
        return [str(FLUSSOD), *arguments, *self._arguments]

    @property
    def env(self) -> Dict[str, str]:
        return dict(self._env)

    @property
    def folder(self) -> Path:
        return self._folder

    def stop(self) -> None:
        """As an operator would, and then not."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> None:
        if self.exit_code == 3 and "cannot serve the public surface" in self.log_tail():
            # Somebody took the port in the meantime.
            self.port = free_port()
        self._log_begin = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*self.command("run"), "--public-address", self.address, *(["--adopt"] if self._adopt else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=str(self._folder),
                env=self._env,
                # Ctrl-C in a terminal is for us; the daemon ends when we say so.
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self) -> str:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        return "killed by you (kill -9)"

    def _told(self) -> str:
        return f"ended by itself with code {self.exit_code}"

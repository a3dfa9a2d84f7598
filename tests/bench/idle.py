"""What a daemon costs that has nothing to do, and how soon it is there: CPU, queries, start to live, imports.

Times are bare seconds: nothing runs beside them, and there is no peer to compare with but an interpreter that does
nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict

import psycopg

from tests.bench import shop
from tests.bench.rig import Rig, Say, configuration, cpu_seconds, drop_slot, prefix, seeded, table
from tests.fix_daemon import CHECKOUT, DaemonProcess, clean_environment

#: Users of the shop; its size matters to none of this.
ROWS = 1_000
ROUNDS = 5

#: How long nothing happens.
IDLE_SECONDS = 60.0

PATIENCE_SECONDS = 120.0

#: Issue 8: of one core, and seconds from the start of the process to live on a deployment that is seeded.
MOST_IDLE = 0.005
MOST_START_SECONDS = 1.5


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    url = rig.server.url(rig.server.create_database("idle"))
    with rig.server.connect("idle") as connection:
        shop.fill(connection, rows)
    schemas = {index: shop.SCHEMAS / f"{index}.schema.yml" for index in shop.INDEXES}
    config = configuration(url, rig.node_url, "idle", schemas)
    daemon = rig.make(config, name="idle")
    daemon.wait_for_status(lambda status: seeded(status, *shop.INDEXES), PATIENCE_SECONDS, "the first build")
    figures: Dict[str, Any] = {**_idle(daemon, url), "threads": len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))}
    say(f"idle: {figures}")
    daemon.stop()
    figures["start_seconds"] = round(statistics.median(_start(rig, config, number) for number in range(ROUNDS)), 3)
    drop_slot(rig, "idle")
    rig.node.call("DELETE", f"/{prefix('idle')}*")
    figures["interpreter_seconds"] = _median("-c", "pass")
    figures["import_seconds"] = _median("-c", "import flusso_sync")
    figures["help_seconds"] = _median(str(CHECKOUT / "bin" / "flussod"), "--help")
    return judged(figures)


def judged(figures: Dict[str, Any]) -> Dict[str, Any]:
    """The figures, and whether each bound is kept."""
    idle, start = figures["of_one_core"] <= MOST_IDLE, figures["start_seconds"] <= MOST_START_SECONDS
    return {**figures, "idle_within": idle, "start_within": start}


def _idle(daemon: DaemonProcess, url: str) -> Dict[str, float]:
    """Nobody asks it anything meanwhile.  Transactions are those of every client of its database."""
    with psycopg.connect(url, autocommit=True) as connection:

        def transactions() -> int:
            row = connection.execute(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
            assert row is not None
            return int(row[0])

        begin, used, before = time.monotonic(), cpu_seconds(daemon.pid), transactions()
        time.sleep(IDLE_SECONDS)
        seconds = time.monotonic() - begin
        return {
            "idle_seconds": round(seconds, 1),
            "of_one_core": round((cpu_seconds(daemon.pid) - used) / seconds, 4),
            "transactions_per_second": round((transactions() - before) / seconds, 2),
        }


def _start(rig: Rig, config: Dict[str, Any], number: int) -> float:
    """Seconds from the start of the process until live changes flow and it says so."""
    begin = time.perf_counter()
    daemon = rig.make(config, name=f"idle{number}")
    daemon.wait_for_status(lambda status: status["phase"] == "live", PATIENCE_SECONDS, "live", pause=0.01)
    seconds = time.perf_counter() - begin
    daemon.stop()
    return seconds


def _median(*arguments: str) -> float:
    def once() -> float:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], cwd=CHECKOUT, env=clean_environment(), check=True, stdout=subprocess.DEVNULL
        )
        return time.perf_counter() - begin

    once()
    return round(statistics.median(once() for _ in range(ROUNDS)), 3)


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    said = {True: "within", False: "BEYOND"}
    rows = [
        ["idle and start", "", "bound"],
        ["CPU, of one core", f"{figures['of_one_core']:.2%}", f"{MOST_IDLE:.1%}, {said[figures['idle_within']]}"],
        ["transactions a second", f"{figures['transactions_per_second']:.2f}", ""],
        ["threads", f"{figures['threads']}", ""],
        [
            "start to live, seeded",
            f"{figures['start_seconds']:.2f} s",
            f"{MOST_START_SECONDS:.1f} s, {said[figures['start_within']]}",
        ],
        ["python -c pass", f"{figures['interpreter_seconds']:.2f} s", ""],
        ["import flusso_sync", f"{figures['import_seconds']:.2f} s", ""],
        ["flussod --help", f"{figures['help_seconds']:.2f} s", ""],
    ]
    return table(rows)

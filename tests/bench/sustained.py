"""How many row changes a second flow through with a flat lag, beside the writers that make them, for a minute each.

pgbench writes as fast as it can, alone first, then with the daemon beside it on the same cores.  Where the lag grows,
pgbench is held back step by step until it does not.  Lag is the age of the oldest commit that no search finds yet.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from tests.bench import shop
from tests.bench.burst import INDEXES
from tests.bench.rig import Rig, Say, caught_up, configuration, drop_slot, prefix, seeded, table
from tests.fix_daemon import DaemonProcess
from tests.postgres_server import PostgresServer, find_binaries

#: Users of the shop.
ROWS = 50_000

#: How long pgbench writes each time, and with how many clients.
SECONDS = 60
CLIENTS = 2

#: How long it writes as fast as it can, to find out how much is too much: a minute of that takes minutes to carry.
PROBE_SECONDS = 10

#: pgbench is held to this share of what was carried when it was too much.
STEP = 0.8
STEPS = 8

#: Flat: at the end everything is found so soon, and no later than this longer than in the middle.
FLAT_SECONDS = 2.0

PATIENCE_SECONDS = 900.0

#: Rows changed by one transaction -> its script.  Items are shown in both indexes.
SCRIPTS = {
    1: "\\set id random(1, {items})\nUPDATE items SET quantity = quantity + 1 WHERE id = :id;\n",
    100: (
        "\\set id random(1, {items} - 99)\n"
        "UPDATE items SET quantity = quantity + 1 WHERE id BETWEEN :id AND :id + 99;\n"
    ),
}


class Written(NamedTuple):
    """What pgbench did: transactions a second; and the lag in seconds in the middle and at the end, if looked at."""

    per_second: float
    middle: float = 0.0
    end: float = 0.0

    @property
    def flat(self) -> bool:
        return self.end <= FLAT_SECONDS and self.end <= self.middle + FLAT_SECONDS


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    pgbench = find_binaries() / "pgbench"
    if not pgbench.exists():
        raise RuntimeError(f"there is no pgbench beside {find_binaries()}/postgres, so nothing can be compared")
    url = rig.server.url(rig.server.create_database("sustained"))
    with rig.server.connect("sustained") as connection:
        items = shop.fill(connection, rows).items
    schemas = {index: shop.SCHEMAS / f"{index}.schema.yml" for index in INDEXES}
    figures: Dict[str, Any] = {}
    alone: Dict[int, float] = {}
    for changed, script in SCRIPTS.items():
        file = rig.folder / f"pgbench{changed}.sql"
        file.write_text(script.format(items=items))
        alone[changed] = _write(rig.server, pgbench, file, SECONDS).per_second
    daemon = rig.make(configuration(url, rig.node_url, "sustained", schemas), name="sustained")
    daemon.wait_for_status(lambda status: seeded(status, *INDEXES), PATIENCE_SECONDS, "the first build")
    for changed in SCRIPTS:
        file = rig.folder / f"pgbench{changed}.sql"
        rate: Optional[float] = None
        seconds = PROBE_SECONDS
        for _ in range(STEPS):
            written = _write(rig.server, pgbench, file, seconds, daemon, rate)
            say(f"sustained: {changed} rows a transaction, {seconds} s, {written}")
            caught_up(daemon)
            if not written.flat:
                rate = carried(written, seconds) * STEP
            elif seconds == SECONDS:
                break
            seconds = SECONDS
        figures[str(changed)] = judged(changed, alone[changed], written, rate)
    daemon.stop()
    drop_slot(rig, "sustained")
    rig.node.call("DELETE", f"/{prefix('sustained')}*")
    return figures


def carried(written: Written, seconds: float) -> float:
    """Transactions a second that went through, the time until the last was found included."""
    return written.per_second * seconds / (seconds + written.end)


def judged(changed: int, alone: float, written: Written, rate: Optional[float]) -> Dict[str, Any]:
    """Rows a second; ``held_back``: whether pgbench could have written more than flows through."""
    return {
        "rows_per_second": round(changed * written.per_second),
        "pgbench_alone_rows_per_second": round(changed * alone),
        "of_alone": round(written.per_second / alone, 3),
        "held_back": rate is not None,
        "lag_seconds": round(written.end, 2),
        "flat": written.flat,
    }


def _write(
    server: PostgresServer,
    pgbench: Path,
    file: Path,
    seconds: int,
    daemon: Optional[DaemonProcess] = None,
    rate: Optional[float] = None,
) -> Written:
    """One run of pgbench; with ``daemon``, its lag is looked at in the middle and at the end."""
    command = [str(pgbench), "-n", "-M", "prepared", "-c", str(CLIENTS), "-T", str(seconds), "-f", str(file)]
    if rate is not None:
        command += ["-R", f"{rate:.1f}"]
    lags: List[float] = []

    def look() -> None:
        time.sleep(seconds / 2)
        lags.append(lag(daemon))  # type: ignore[arg-type]

    looker = threading.Thread(target=look, name="bench-lag")
    if daemon is not None:
        looker.start()
    ran = subprocess.run(
        [*command, server.conninfo("sustained")], stdout=subprocess.PIPE, check=True, timeout=PATIENCE_SECONDS
    )
    found = re.search(rb"^tps = ([0-9.]+)", ran.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"pgbench said {ran.stdout.decode()}")
    if daemon is None:
        return Written(float(found[1]))
    end = lag(daemon)
    looker.join()
    return Written(float(found[1]), lags[0], end)


def lag(daemon: DaemonProcess) -> float:
    """Seconds until what is committed now is found by a search."""
    begin = time.perf_counter()
    caught_up(daemon)
    return time.perf_counter() - begin


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    rows = [[f"rows changed a second, {SECONDS} s", "with the daemon", "pgbench alone", "ratio", "lag at the end"]]
    for changed, one in figures.items():
        rows.append(
            [
                f"{changed} a transaction" + (", held back" if one["held_back"] else ""),
                f"{one['rows_per_second']:,}",
                f"{one['pgbench_alone_rows_per_second']:,}",
                f"{one['of_alone']:.2f}",
                f"{one['lag_seconds']:.2f} s" + ("" if one["flat"] else ", GROWING"),
            ]
        )
    return table(rows)

"""What share of the sink a build gets while live changes always wait, and what it costs them: a build must not creep.

Two writers keep the daemon a few megabytes behind all the time, however fast it is; beside them an index is rebuilt in
small chunks.  The same rebuild alone, and the same writers alone, stand beside it.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Dict, Optional, Tuple, Type

import psycopg

from tests.bench import shop
from tests.bench.latency import PATIENCE_SECONDS, SCHEMAS, STOCK_ROWS, make_stock
from tests.bench.rig import LOOK_SECONDS, Rig, Say, configuration, drop_slot, prefix, reindex, seeded, table
from tests.fix_daemon import DaemonProcess

#: Rows of the index that is rebuilt.
ROWS = 60_000
CHUNK_ROWS = 200

WRITERS = 2
#: Rows of one transaction.
TRANSACTION_ROWS = 500

#: The writers pause while the daemon is so many bytes behind: less than what would make builds wait.
AHEAD_BYTES = 16 * 1024 * 1024

#: How long each is measured at most.
SECONDS = 20.0


_BEHIND = (
    "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) FROM pg_replication_slots WHERE slot_name = %s"
)


class Load:
    """Writers that are always ahead of whoever confirms ``slot``; they write while this context is open."""

    def __init__(self, url: str, slot: str) -> None:
        self._url = url
        self._slot = slot
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=[number], name=f"bench-load-{number}", daemon=True)
            for number in range(WRITERS)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        # Each in a part of the table of its own, so that they never wait for each other.
        part = STOCK_ROWS // WRITERS
        begin = 0
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.is_set():
                row = connection.execute(_BEHIND, [self._slot]).fetchone()
                if row is not None and row[0] > AHEAD_BYTES:
                    self._stop.wait(0.01)
                    continue
                first = number * part + begin
                connection.execute(
                    "UPDATE stock SET quantity = quantity + 1 WHERE id > %s AND id <= %s",
                    [first, first + TRANSACTION_ROWS],
                )
                begin = (begin + TRANSACTION_ROWS) % part


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    """All figures, for one and for two requests of the sink at a time."""
    url = rig.server.url(rig.server.create_database("share"))
    with rig.server.connect("share") as connection:
        orders = shop.fill(connection, max(1, rows // 3)).orders
        make_stock(connection)
    figures: Dict[str, Any] = {"rows": orders}
    for concurrency in (1, 2):
        name = f"share{concurrency}"
        backfill = {"chunk_rows": CHUNK_ROWS, "workers": 2}
        sink = {"concurrency": concurrency}
        daemon = rig.make(configuration(url, rig.node_url, name, SCHEMAS, sink, backfill=backfill), name=name)
        daemon.wait_for_status(lambda status: seeded(status, *SCHEMAS), PATIENCE_SECONDS, "the first build")
        figures[str(concurrency)] = one = _measure(daemon, url, f"bench_{name}")
        say(f"share: concurrency {concurrency}: {one}")
        daemon.stop()
        drop_slot(rig, name)
        rig.node.call("DELETE", f"/{prefix(name)}*")
    return figures


def _measure(daemon: DaemonProcess, url: str, slot: str) -> Dict[str, Any]:
    reindex(daemon, "orders")
    alone, _ = _rates(daemon)
    with Load(url, slot):
        most = _changes(daemon.status()) + 10 * TRANSACTION_ROWS
        daemon.wait_for_status(lambda status: _changes(status) > most, 60, "the load has begun", pause=LOOK_SECONDS)
        _, live_alone = _rates(daemon)
        reindex(daemon, "orders")
        beside, live_beside = _rates(daemon)
    return {
        "build_alone": round(alone),
        "build_beside": round(beside),
        "live_alone": round(live_alone),
        "live_beside": round(live_beside),
    }


def _rates(daemon: DaemonProcess) -> Tuple[float, float]:
    """Rows built and changes made durable, each per second, until the rebuild is complete or the time is over."""
    before, begin = daemon.status(), time.perf_counter()
    while True:
        time.sleep(LOOK_SECONDS)
        now, seconds = daemon.status(), time.perf_counter() - begin
        rows = _built(now) - _built(before)
        if seconds > SECONDS or (seeded(now, "orders") and rows):
            return rows / seconds, (_changes(now) - _changes(before)) / seconds


def _built(status: Dict[str, Any]) -> int:
    return int(status["index_details"]["orders"]["documents_built"])


def _changes(status: Dict[str, Any]) -> int:
    """Live changes made durable so far."""
    return int(status["changes_committed"])


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    rows = [["documents and changes/s", "build alone", "beside", "share", "live alone", "beside", "share"]]
    for concurrency in ("1", "2"):
        one = figures[concurrency]
        cells = [f"sink with concurrency {concurrency}"]
        for kind in ("build", "live"):
            alone, beside = one[f"{kind}_alone"], one[f"{kind}_beside"]
            cells += [f"{alone:,}", f"{beside:,}", f"{beside / alone:.2f}"]
        rows.append(cells)
    return table(rows)

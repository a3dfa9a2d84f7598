"""Whether the memory of a build depends on the size of the table: the peak of the process over few and over many rows.

Rows are as small as they come, so that the many are soon built; what a build holds is bounded in bytes, not in rows,
and small rows have the most overhead.
"""

from __future__ import annotations

import time
from typing import Any, Dict

from tests.bench import shop
from tests.bench.rig import (
    LOOK_SECONDS,
    Rig,
    Say,
    Transactions,
    configuration,
    drop_slot,
    peak_memory,
    prefix,
    seeded,
    table,
)

#: Rows of the large table; the small one has a tenth of them.
ROWS = 2_000_000
TIMES = 10

#: The large build may take this much more memory than the small one (issue 6).
MOST_MORE = 0.15

PATIENCE_SECONDS = 1800.0

FILL = "INSERT INTO entries SELECT i, 'entry ' || i FROM generate_series(%s::bigint + 1, %s::bigint) i"


def more(small_bytes: int, large_bytes: int) -> float:
    """How much more the large build took, as a share of the small one."""
    return large_bytes / small_bytes - 1


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    """Build the index over a tenth of ``rows``, then over all of them, each by a daemon of its own."""
    url = rig.server.url(rig.server.create_database("memory"))
    figures: Dict[str, Any] = {}
    before = 0
    with rig.server.connect("memory") as connection:
        connection.execute("CREATE TABLE entries (id bigint PRIMARY KEY, name text NOT NULL)")
        for name, size in (("small", rows // TIMES), ("large", rows)):
            connection.execute(FILL, [before, size])
            connection.execute("VACUUM ANALYZE entries")
            before = size
            figures[name] = _build(rig, url, name, size)
            say(f"memory: {figures[name]}")
    return judged(figures)


def judged(figures: Dict[str, Any]) -> Dict[str, Any]:
    """The figures of both builds, and how they compare."""
    grown = more(figures["small"]["memory_bytes"], figures["large"]["memory_bytes"])
    return {**figures, "more": round(grown, 3), "within": round(grown, 3) < MOST_MORE}


def _build(rig: Rig, url: str, name: str, rows: int) -> Dict[str, Any]:
    run = f"memory_{name}"
    schemas = {"entries": shop.SCHEMAS / "entries.schema.yml"}
    with Transactions(url) as transactions:
        begin = time.perf_counter()
        daemon = rig.make(configuration(url, rig.node_url, run, schemas), name=run)
        daemon.wait_for_status(lambda status: seeded(status, "entries"), PATIENCE_SECONDS, pause=LOOK_SECONDS)
        seconds = time.perf_counter() - begin
    memory = peak_memory(daemon)
    daemon.stop()
    drop_slot(rig, run)
    found = rig.node.count(f"{prefix(run)}entries")
    if found != rows:
        raise RuntimeError(f"the build is wrong, so its memory means nothing: {found} documents of {rows}")
    rig.node.call("DELETE", f"/{prefix(run)}*")
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "memory_bytes": memory,
        "oldest_transaction_seconds": round(transactions.oldest_seconds, 2),
    }


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    rows = [["memory of a first build", "peak", "seconds", "oldest transaction"]]
    for name in ("small", "large"):
        one = figures[name]
        rows.append(
            [
                f"{one['rows']:,} rows",
                f"{one['memory_bytes'] / 1048576:.1f} MB",
                f"{one['seconds']:.1f}",
                f"{one['oldest_transaction_seconds']:.2f} s",
            ]
        )
    said = "within" if figures["within"] else "BEYOND"
    return f"{table(rows)}\n{TIMES} times the rows: {figures['more']:+.1%}, {said} the bound of {MOST_MORE:.0%}"

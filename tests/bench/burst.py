"""One UPDATE of many items until every document that shows them is right, against the same work done by hand.

By hand: one statement finds the documents, one COPY per index renders them, one bulk load per index over two
connections writes them, one refresh makes them searchable.  It knows beforehand what was changed, keeps no order and
survives nothing; nobody is faster with the same servers and the same documents.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import psycopg
from psycopg import sql

from tests.bench import shop
from tests.bench.ceilings import Node, difference, load, spool
from tests.bench.documents import Source, settings
from tests.bench.rig import Rig, Say, caught_up, configuration, drop_slot, prefix, seeded, table
from tests.fix_daemon import DaemonProcess

#: Items changed at once.
ROWS = 20_000
ROUNDS = 3
PATIENCE_SECONDS = 600.0

#: Every so many changed documents one is compared word for word.
SAMPLE_EVERY = 97

#: The daemon may take so many times what it takes by hand (issue 8).
MOST = 1.3

INDEXES = ("users", "orders")

#: Of the items up to a number: the documents that show them.
RESOLVE = {
    "orders": "SELECT DISTINCT order_id FROM items WHERE id <= {last}",
    "users": "SELECT DISTINCT o.user_id FROM items i JOIN orders o ON o.id = i.order_id WHERE i.id <= {last}",
}

CHANGE = "UPDATE items SET quantity = quantity + 1 WHERE id <= {last}"


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    """The daemon's rounds, then those by hand on the same indexes; each round is checked before its time counts."""
    url = rig.server.url(rig.server.create_database("burst"))
    with rig.server.connect("burst") as connection:
        size = shop.fill(connection, max(50, rows * 5 // 2))
    schemas = {index: shop.SCHEMAS / f"{index}.schema.yml" for index in INDEXES}
    daemon = rig.make(configuration(url, rig.node_url, "burst", schemas), name="burst")
    daemon.wait_for_status(lambda status: seeded(status, *INDEXES), PATIENCE_SECONDS, "the first build")
    hand = ByHand(rig.node, url, daemon.folder / "flusso.yaml", rows)
    ours: List[float] = []
    touched = {index: len(hand.keys(index)) for index in INDEXES}
    say(f"burst: {rows:,} of {size.items:,} items, shown in {touched}")
    for _ in range(ROUNDS):
        _change(url, rows)
        ours.append(_until_synced(daemon))
        hand.check(size.documents)
        say(f"burst: {ours[-1]:.2f} s by the daemon")
    daemon.stop()
    drop_slot(rig, "burst")
    theirs: List[Dict[str, float]] = []
    for number in range(ROUNDS):
        _change(url, rows)
        theirs.append(hand.work(rig.folder / f"burst{number}"))
        hand.check(size.documents)
        say(f"burst: {theirs[-1]} by hand")
    rig.node.call("DELETE", f"/{prefix('burst')}*")
    return judged(rows, touched, ours, theirs)


def judged(
    rows: int, documents: Dict[str, int], ours: Sequence[float], theirs: Sequence[Dict[str, float]]
) -> Dict[str, Any]:
    """Medians of the rounds (seconds) and their ratio."""
    daemon = statistics.median(ours)
    hand = statistics.median(sum(one.values()) for one in theirs)
    return {
        "rows": rows,
        "documents": documents,
        "daemon_seconds": round(daemon, 3),
        "by_hand_seconds": round(hand, 3),
        "by_hand_parts": {part: round(statistics.median(one[part] for one in theirs), 3) for part in theirs[0]},
        "of_by_hand": round(daemon / hand, 3),
        "within": daemon / hand <= MOST,
    }


def _change(url: str, rows: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(CHANGE.format(last=rows).encode())


def _until_synced(daemon: DaemonProcess) -> float:
    """Seconds until everything committed before is found by a search."""
    begin = time.perf_counter()
    caught_up(daemon)
    return time.perf_counter() - begin


class ByHand:
    """The same work without a daemon, on the indexes that a daemon has left."""

    def __init__(self, node: Node, url: str, config: Path, rows: int) -> None:
        self._node = node
        self._url = url
        self._config = config
        self._rows = rows

    def keys(self, index: str) -> List[str]:
        """Of the documents that show a changed item, as texts."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            found = connection.execute(RESOLVE[index].format(last=self._rows).encode()).fetchall()
        return [str(row[0]) for row in found]

    def work(self, folder: Path) -> Dict[str, float]:
        """Seconds of each part: resolve, copy, bulk (its refresh included)."""
        parts = {"resolve": 0.0, "copy": 0.0, "bulk": 0.0}
        with Source(self._config, self._url) as source, psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(settings())
            for index in INDEXES:
                lookup = source.lookup(index, "{keys}")
                begin = time.perf_counter()
                keys = self.keys(index)
                resolved = time.perf_counter()
                documents = _copy(connection, lookup, keys)
                copied = time.perf_counter()
                files = spool(iter(documents), folder / index)
                parts["resolve"] += resolved - begin
                parts["copy"] += copied - resolved
                parts["bulk"] += load(self._node, prefix("burst") + index, files)
        return parts

    def check(self, rows: Dict[str, int]) -> None:
        """Raise ``RuntimeError`` when an index is not what its rows make it."""
        with Source(self._config, self._url) as source:
            for index in INDEXES:
                sample = dict(source.some(index, self.keys(index)[::SAMPLE_EVERY]))
                wrong = difference(self._node, prefix("burst") + index, sample, rows[index])
                if wrong:
                    raise RuntimeError(f"the documents are wrong, so their time means nothing: {wrong}")


def _copy(connection: psycopg.Connection[Any], lookup: str, keys: Sequence[str]) -> List[Tuple[str, bytes]]:
    given = sql.Literal(list(keys)).as_string(connection)
    documents: List[Tuple[str, bytes]] = []
    with connection.cursor().copy(
        f"COPY ({lookup.replace('{keys}', given)}) TO STDOUT (FORMAT binary)".encode()
    ) as copy:
        copy.set_types(["text", "text"])
        for id, document in copy.rows():
            documents.append((id, document.encode().replace(b"\n", b"")))
    if len(documents) != len(keys):
        raise RuntimeError(f"{len(documents)} documents of {len(keys)} keys")
    return documents


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    parts = figures["by_hand_parts"]
    rows = [
        [f"one UPDATE of {figures['rows']:,} items", "seconds", "of by hand"],
        ["daemon, until found by search", f"{figures['daemon_seconds']:.2f}", f"{figures['of_by_hand']:.2f}"],
        ["by hand", f"{figures['by_hand_seconds']:.2f}", "1.00"],
        *([f"  {part}", f"{seconds:.2f}", ""] for part, seconds in parts.items()),
    ]
    shown = ", ".join(f"{count:,} {index}" for index, count in figures["documents"].items())
    said = "within" if figures["within"] else "BEYOND"
    return f"{table(rows)}\n{shown} show them; {said} the bound of {MOST} times by hand"

"""What an optimisation is worth where it cannot be had: each setting measured beside the one that is the default.

One index, orders, over the same shop in a database of its own for each: its first build; an UPDATE of many items, until
a search finds all of it; an UPDATE of a column of products that no document shows; and the WAL that the first UPDATE
wrote for each row.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, NamedTuple, Tuple

import psycopg

from tests.bench import shop
from tests.bench.rig import Rig, Say, caught_up, configuration, cpu_seconds, drop_slot, prefix, seeded, table

#: Items that are changed; the shop has so many users, and six items for each.
ROWS = 20_000
PATIENCE_SECONDS = 600.0

FULL = "ALTER TABLE {} REPLICA IDENTITY FULL"
TABLES = ("users", "products", "orders", "items")


class Twin(NamedTuple):
    """What differs from the default: statements before the daemon starts, and keys of ``source``."""

    name: str
    statements: Tuple[str, ...] = ()
    source: Dict[str, Any] = {}
    #: Whether changes that no document shows are told from others.
    ignores: bool = False


TWINS = {
    "default": Twin("identities set by the daemon, prepared statements"),
    "full": Twin("REPLICA IDENTITY FULL on every table", tuple(FULL.format(name) for name in TABLES), ignores=True),
    "weak": Twin("no right to ALTER, identities as they are", (), {"manage_replica_identity": False}),
    "unprepared": Twin("source.prepare: false", (), {"prepare": False}),
}


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    """Twin -> figures; the first one is measured once before, and that is thrown away."""
    figures: Dict[str, Any] = {"rows": rows}
    for number, name in enumerate(["default", *TWINS]):
        figures[name] = _one(rig, f"twin{number}", TWINS[name], rows)
        say(f"twins: {name} {figures[name]}")
    return figures


def _one(rig: Rig, database: str, twin: Twin, rows: int) -> Dict[str, Any]:
    url = rig.server.url(rig.server.create_database(database))
    with rig.server.connect(database) as connection:
        size = shop.fill(connection, rows)
        for statement in twin.statements:
            connection.execute(statement.encode())
    config = configuration(url, rig.node_url, database, {"orders": shop.SCHEMAS / "orders.schema.yml"})
    config["source"].update(twin.source)
    begin = time.perf_counter()
    daemon = rig.make(config, name=database)
    daemon.wait_for_status(lambda status: seeded(status, "orders"), PATIENCE_SECONDS, "the first build", pause=0.1)
    built = time.perf_counter() - begin
    with psycopg.connect(url, autocommit=True) as connection:
        before = _wal(connection)
        connection.execute("UPDATE items SET quantity = quantity + 1 WHERE id <= %s", [rows])
        wal = _wal(connection) - before
        begin = time.perf_counter()
        caught_up(daemon)
        shown = time.perf_counter() - begin
        ignored, used = daemon.status()["changes_ignored"], cpu_seconds(daemon.pid)
        connection.execute("UPDATE products SET stock = stock + 1")
        begin = time.perf_counter()
        caught_up(daemon)
        unshown = time.perf_counter() - begin
        if twin.ignores:
            # They are counted now and then.
            daemon.wait_for_status(lambda s: s["changes_ignored"] - ignored == size.products, 30, "all are ignored")
        figures = {
            "build_seconds": round(built, 2),
            "shown_seconds": round(shown, 2),
            "unshown_seconds": round(unshown, 2),
            "unshown_daemon_cpu_seconds": round(cpu_seconds(daemon.pid) - used, 2),
            "unshown_ignored": daemon.status()["changes_ignored"] - ignored,
            "wal_bytes_per_row": round(wal / rows),
            "products": size.products,
        }
    daemon.stop()
    found = rig.node.count(f"{prefix(database)}orders")
    if found != size.orders:
        raise RuntimeError(f"the build is wrong, so its time means nothing: {found} documents of {size.orders}")
    drop_slot(rig, database)
    rig.node.call("DELETE", f"/{prefix(database)}*")
    return figures


def _wal(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8").fetchone()
    assert row is not None
    return int(row[0])


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    products = figures["default"]["products"]
    rows: List[List[str]] = [
        [
            "orders alone",
            "first build",
            f"{figures['rows']:,} items",
            f"{products:,} rows nobody shows",
            "of them ignored",
            "WAL per item",
        ]
    ]
    for name, twin in TWINS.items():
        one = figures[name]
        rows.append(
            [
                twin.name,
                f"{one['build_seconds']:.1f} s",
                f"{one['shown_seconds']:.1f} s",
                f"{one['unshown_seconds']:.1f} s",
                f"{one['unshown_ignored']:,}",
                f"{one['wal_bytes_per_row']:,} bytes",
            ]
        )
    return table(rows)

"""First builds of the shop's orders into sinks that are no server: standard output, and a SQLite file."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any, Dict, Optional

from tests.bench import shop
from tests.bench.builds import SAMPLE_EVERY, build
from tests.bench.ceilings import copy_seconds
from tests.bench.documents import Source, settings
from tests.bench.rig import Rig, Say, configuration, drop_slot, prefix, table
from tests.fix_daemon import DaemonProcess

#: Orders.
ROWS = 150_000

SINKS = ("stdout", "sqlite")


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    """Sink -> figures; each is compared with the tables before its time counts."""
    url = rig.server.url(rig.server.create_database("sinks"))
    with rig.server.connect("sinks") as connection:
        size = shop.fill(connection, max(1, rows // 3))
    figures: Dict[str, Any] = {}
    for sink in SINKS:
        config = configuration(url, rig.node_url, sink, {"orders": shop.SCHEMAS / "orders.schema.yml"})
        file = rig.folder / "documents.sqlite"
        config["sinks"] = {"primary": {"type": sink, **({"path": str(file)} if sink == "sqlite" else {})}}
        daemon = rig.make(config, name=f"sinks-{sink}")
        built = build(rig, daemon, ("orders",), size.documents)
        daemon.stop()
        drop_slot(rig, sink)
        with Source(daemon.folder / "flusso.yaml", url) as source:
            wrong = _wrong(source, _read_stdout(daemon) if sink == "stdout" else _read_sqlite(file), size.orders)
            if wrong:
                raise RuntimeError(f"the build into {sink} is wrong, so its time means nothing: {wrong}")
            copied, copying = copy_seconds(url, source.query("orders"), settings())
        figures[sink] = {
            "documents": built.documents,
            "documents_per_second": round(built.documents / built.seconds),
            "copy_per_second": round(copied / copying),
            "of_copy": round(built.documents / built.seconds / (copied / copying), 3),
            "memory_bytes": built.memory,
        }
        say(f"sinks: {sink} {figures[sink]}")
    return figures


def _wrong(source: Source, found: Dict[str, Any], rows: int) -> Optional[str]:
    if len(found) != rows:
        return f"{len(found)} documents of {rows} rows"
    for number, (id, body) in enumerate(source.documents("orders")):
        if number % SAMPLE_EVERY == 0 and found.get(id) != json.loads(body):
            return f"orders/{id} is {found.get(id)}, but should be {body.decode()}"
    return None


def _read_stdout(daemon: DaemonProcess) -> Dict[str, Any]:
    return {id: document for (_, id), document in daemon.documents.items()}


def _read_sqlite(file: Path) -> Dict[str, Any]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        found = connection.execute(f'SELECT id, body FROM "{prefix("sqlite")}orders"')
        return {id: json.loads(body) for id, body in found}


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    rows = [["first build of orders into", "documents", "docs/s", "COPY/s", "of COPY", "memory"]]
    for sink, one in figures.items():
        rows.append(
            [
                sink,
                f"{one['documents']:,}",
                f"{one['documents_per_second']:,}",
                f"{one['copy_per_second']:,}",
                f"{one['of_copy']:.2f}",
                f"{one['memory_bytes'] / 1048576:.0f} MB",
            ]
        )
    return table(rows)

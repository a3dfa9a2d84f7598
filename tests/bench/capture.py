"""How fast changes leave the replication stream as keys, against pg_recvlogical on the same WAL.

pg_recvlogical decodes nothing: it writes what the output plugin sends to a file, here to nowhere.  Both read from a
slot of their own that was made before the changes, with the same publication and the same options of pgoutput.
"""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from flusso_sync.backends import DefaultBackends
from flusso_sync.config.load import load_config
from flusso_sync.daemon import DaemonOptions
from flusso_sync.engine.source import ChangeRun
from flusso_sync.status import Status
from tests.bench import shop
from tests.bench.rig import Rig, Say, configuration, table
from tests.postgres_server import PostgresServer, find_binaries

#: Row changes in the WAL, of each of the two kinds.
ROWS = 200_000
ROUNDS = 3
PATIENCE_SECONDS = 300.0

#: What we may be at least of pg_recvlogical (issue 8).
LEAST = 0.9

#: Whole transactions of many rows, and transactions of one row each.
LARGE = "UPDATE items SET quantity = quantity + 1 WHERE id <= %s"
SMALL = """
CREATE PROCEDURE one_by_one(rows bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. rows LOOP
        UPDATE items SET quantity = quantity + 1 WHERE id = i;
        COMMIT;
    END LOOP;
END $$
"""

#: Under DEFAULT identities a message has the new row alone; under FULL, which items need, it has the old one as well,
#: and both are compared.
KINDS = {
    "keys": "in one transaction, DEFAULT identities",
    "large": "in one transaction, FULL",
    "small": "one a transaction, FULL",
}

SLOTS = ("bench_capture_theirs", "bench_capture")


class Read(NamedTuple):
    """What a reader has read of one stretch of WAL, and its seconds."""

    changes: int
    seconds: float


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    """Rounds in turns; the median of each side, for large transactions and for small ones."""
    url = rig.server.url(rig.server.create_database("capture"))
    with rig.server.connect("capture") as connection:
        shop.fill(connection, max(1, rows // 6 + 1))
        connection.execute(SMALL)
    schemas = {index: shop.SCHEMAS / f"{index}.schema.yml" for index in ("users", "orders")}
    figures: Dict[str, Any] = {"rows": rows}
    # First with identities as they are: once the daemon has set them they stay.
    for kind in KINDS:
        given = configuration(url, rig.node_url, "capture", schemas)
        given["source"]["manage_replica_identity"] = kind != "keys"
        config = rig.make(given, name=f"capture-{kind}", start=False).folder
        ours: List[float] = []
        theirs: List[float] = []
        for _ in range(ROUNDS):
            read = _round(rig.server, config / "flusso.yaml", kind, rows)
            for side, seconds in (("ours", ours), ("theirs", theirs)):
                one = read[side]
                if one.changes not in (rows, 0):
                    raise RuntimeError(
                        f"{side} read {one.changes} changes instead of {rows}, so its time means nothing"
                    )
                seconds.append(one.seconds)
        figures[kind] = judged(rows, ours, theirs)
        say(f"capture: {kind} transactions {figures[kind]}")
    return figures


def judged(rows: int, ours: Sequence[float], theirs: Sequence[float]) -> Dict[str, Any]:
    """Changes per second of both sides, by the medians of their seconds, and the ratio."""
    mine, others = statistics.median(ours), statistics.median(theirs)
    return {
        "changes_per_second": round(rows / mine),
        "pg_recvlogical_per_second": round(rows / others),
        "of_pg_recvlogical": round(others / mine, 3),
        "within": others / mine >= LEAST,
    }


def _round(server: PostgresServer, config: Path, kind: str, rows: int) -> Dict[str, Read]:
    parts = DefaultBackends().source(load_config(str(config)), DaemonOptions())
    stop = threading.Event()
    capture = parts.capture
    status = Status()
    capture.report_to(status, lambda: None)
    capture.connect(stop)
    try:
        capture.prepare(None, stop)
        with server.connect("capture") as connection:
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOTS[0]])
            if kind == "small":
                connection.execute("CALL one_by_one(%s)", [rows])
            else:
                connection.execute(LARGE, [rows])
            connection.execute("CHECKPOINT")
            end = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            assert end is not None
        theirs = _recvlogical(server, end[0])
        ours = _stream(capture, rows, stop)
    finally:
        stop.set()
        capture.close()
        with server.connect("capture") as connection:
            for slot in SLOTS:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    return {"ours": ours, "theirs": theirs}


def _recvlogical(server: PostgresServer, end: str) -> Read:
    command = [
        str(find_binaries() / "pg_recvlogical"),
        *("-d", server.conninfo("capture"), "--slot", SLOTS[0], "--start", "--endpos", end, "--no-loop"),
        *("-o", "proto_version=1", "-o", "publication_names=bench_capture", "-f", "/dev/null"),
    ]
    begin = time.perf_counter()
    subprocess.run(command, check=True, timeout=PATIENCE_SECONDS, stderr=subprocess.PIPE)
    return Read(0, time.perf_counter() - begin)


def _stream(capture: Any, rows: int, stop: threading.Event) -> Read:
    """Read on a thread, as the daemon does, until ``rows`` changes are there and their transaction has ended."""
    changes = 0
    done = threading.Event()
    failed: List[BaseException] = []

    def emit(run: ChangeRun, timeout: Optional[float]) -> bool:
        nonlocal changes
        changes += len(run.changes)
        if changes >= rows and run.commit is not None:
            done.set()
        return True

    def work() -> None:
        try:
            capture.stream(emit, stop)
        except BaseException as error:
            failed.append(error)
            done.set()

    thread = threading.Thread(target=work, name="bench-capture")
    begin = time.perf_counter()
    thread.start()
    arrived = done.wait(PATIENCE_SECONDS)
    seconds = time.perf_counter() - begin
    stop.set()
    thread.join()
    if failed or not arrived:
        raise RuntimeError(f"the stream ended after {changes} changes") from (failed[0] if failed else None)
    return Read(changes, seconds)


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    rows = [[f"{figures['rows']:,} changes to keys", "changes/s", "pg_recvlogical", "ratio"]]
    for kind, name in KINDS.items():
        one = figures[kind]
        rows.append(
            [
                name,
                f"{one['changes_per_second']:,}",
                f"{one['pg_recvlogical_per_second']:,}",
                f"{one['of_pg_recvlogical']:.2f}",
            ]
        )
    within = all(figures[kind]["within"] for kind in KINDS)
    return f"{table(rows)}\n{'within' if within else 'BEYOND'} the bound of {LEAST} at least"

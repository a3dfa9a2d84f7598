"""What the tests of faults share: writers that go on through the fault, and the look at a daemon's readiness."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Optional

import psycopg

from tests.cases import Case
from tests.deployment import Deployment
from tests.fix_daemon import DaemonProcess, write_yaml
from tests.histories import Writer
from tests.waiting import wait_for

#: Full durations and counts; the default is as short as the same test still fails with its guard off.
LONG = os.environ.get("FLUSSO_LONG") == "1"


def is_stream(opening: bytes) -> bool:
    """Whether a session began as a replication session; for the ``only`` of a proxy."""
    return b"\0replication\0" in opening


def is_query(opening: bytes) -> bool:
    return b"\0database\0" in opening and not is_stream(opening)


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/")[0])


@contextlib.contextmanager
def writing(
    deployment: Deployment, seed: int, pause_seconds: float = 0.005, url: Optional[str] = None
) -> Iterator[Writer]:
    """A writer over the tables of the deployment; it has begun to write when this returns it."""
    with Writer(url or deployment.database.url, seed, deployment.case, pause_seconds=pause_seconds) as writer:
        # It reads all rows first.
        wait_for(lambda: writer.counts["transactions"], 300 if LONG else 30, "the writer writes")
        yield writer


def went_on(writer: Writer, transactions: int = 5) -> None:
    """Wait until the writer has done some more."""
    before = writer.counts["transactions"]
    wait_for(lambda: writer.counts["transactions"] >= before + transactions, 60, "the writer goes on")


def finish(deployment: Deployment, writer: Writer, timeout: float = 120.0) -> None:
    """End the writer, let everything arrive, and ask the oracle."""
    writer.stop()
    deployment.settle(timeout)
    deployment.assert_right()
    assert "Traceback" not in deployment.daemon.log, deployment.daemon.log_tail()


def status_of(daemon: DaemonProcess) -> int:
    """Of ``/readyz``; 0 while nobody answers."""
    try:
        return daemon.get("/readyz")[0]
    except OSError:
        return 0


def wait_unready(daemon: DaemonProcess, saying: str = "", timeout: float = 60.0) -> None:
    """Wait until ``/readyz`` is 503, and says ``saying``."""

    def unready() -> bool:
        status, body = daemon.get("/readyz")
        return status == 503 and saying in body

    daemon.wait_for(unready, timeout, f"unready, saying {saying!r}")


def wait_ready(daemon: DaemonProcess, timeout: float = 60.0) -> None:
    daemon.wait_for(lambda: status_of(daemon) == 200, timeout, "ready")


def backends(deployment: Deployment, kind: Optional[str] = None) -> List[int]:
    """Process ids of the daemon's sessions; ``kind`` as in ``pg_stat_activity.backend_type``."""
    rows = deployment.database.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'flusso_sync%%' AND datname = current_database()"
        " AND (%s::text IS NULL OR backend_type = %s)",
        [kind, kind],
    )
    return [row[0] for row in rows]


def terminate(deployment: Deployment, pids: List[int]) -> None:
    for pid in pids:
        deployment.database.execute("SELECT pg_terminate_backend(%s)", [pid])


def walsender(deployment: Deployment) -> Any:
    """Process id of whoever streams from the slot; None when nobody does."""
    rows = deployment.database.execute(
        "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot]
    )
    return rows[0][0] if rows else None


@contextlib.contextmanager
def frozen(daemon: DaemonProcess) -> Iterator[None]:
    """The daemon does nothing within, and does not know of it."""
    daemon.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.signal(signal.SIGCONT)


def drop_slot(deployment: Deployment) -> None:
    """Drop the slot under whoever streams from it; one that is not frozen may be back before."""

    def dropped() -> bool:
        pid = walsender(deployment)
        terminate(deployment, [] if pid is None else [pid])
        with contextlib.suppress(psycopg.errors.ObjectInUse):
            deployment.database.execute("SELECT pg_drop_replication_slot(%s)", [deployment.slot])
            return True
        return False

    wait_for(dropped, 30, "the slot is dropped")


def held_by(daemon: DaemonProcess) -> "tuple[int, int]":
    """Open descriptors and threads of the daemon (Linux)."""
    place = f"/proc/{daemon.pid}"
    return len(os.listdir(f"{place}/fd")), len(os.listdir(f"{place}/task"))


class OwnCase(Case):
    """A case of one test's own: ``tables`` are its statements, ``schemas`` index -> schema."""

    def __init__(self, folder: Path, tables: str, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(folder.name)
        self.folder = folder
        self._tables = tables
        for name, schema in schemas.items():
            write_yaml(folder / "schemas" / f"{name}.schema.yml", schema)

    def load(self, url: str, scale: int = 1) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(self._tables.encode())

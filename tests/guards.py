"""Switches guards off, and stops at named places: each function here replaces one named function of the package.

Used by ``tests/launch.py``, which then runs the command line in the same process.  A guard switched off must make the
test of its promise find a difference; a gate makes the moment in question last until a file exists.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, Set

GATE = "FLUSSO_TEST_GATE"


def wait_at_gate() -> None:
    """Leave a mark beside the gate that somebody waits, and wait until the gate exists."""
    gate = Path(os.environ[GATE])
    gate.with_suffix(".reached").touch()
    while not gate.exists():
        time.sleep(0.005)


# -- guards ---------------------------------------------------------------------------------------------


def slot_after_the_first_read() -> None:
    """Promise 1 off: the slot is created only when every index is built."""
    from flusso_sync.postgres import capture, slot
    from flusso_sync.postgres.connection import connect
    from flusso_sync.status import Phase

    create_slot = slot.create_slot
    stream = capture.PostgresCapture.stream

    def late(self: Any, emit: Any, stop: Any) -> None:
        while self._status.phase is not Phase.LIVE and not stop.wait(0.02):
            self._heartbeat()
        connection = connect(self._access)
        self._received = self._confirmed = create_slot(connection, self._settings.slot, stop, self._waiting)
        connection.close()
        stream(self, emit, stop)

    slot.create_slot = lambda connection, name, stop, waiting: 0
    capture.PostgresCapture.stream = late  # type: ignore[method-assign]


def confirm_before_durable() -> None:
    """Promise 2 off: a position is confirmed as soon as its writes are enqueued."""
    from flusso_sync.engine.ledger import Entry, Ledger

    release = Ledger._release

    def at_once(self: Any, entry: Any, count: int) -> None:
        if entry._remaining:
            release(self, entry, entry._remaining)

    Entry.hold = lambda self, count=1: None  # type: ignore[method-assign]
    Ledger._release = at_once  # type: ignore[method-assign]


def build_before_visible() -> None:
    """Promise 3 off: nobody asks whether the snapshot sees the batch."""
    from flusso_sync.postgres import documents

    documents.waits_for = lambda facts, xids, replayed, runs: None


class _Sticky(Set[str]):
    """A pending set from which nothing can be removed."""

    def __isub__(self, other: Any) -> Any:
        return self


def old_reads_win() -> None:
    """Promise 4 off: live writes do not cancel pending reads, and versions say nothing."""
    from flusso_sync.engine import seeding
    from flusso_sync.postgres.documents import SnapshotFacts

    init = seeding.Pending.__init__

    def sticky(self: Any, build: Any, ids: Any) -> None:
        init(self, build, ids)
        self.ids = _Sticky(self.ids)

    seeding.Pending.__init__ = sticky  # type: ignore[method-assign]
    SnapshotFacts.version = property(lambda self: 1)  # type: ignore[assignment,method-assign]


def no_lock_before_the_snapshot() -> None:
    """Promise 8 off: no table is locked before the snapshot is taken."""
    from flusso_sync.postgres import documents

    documents.lock_statement = lambda tables: "SELECT 1 --"


# -- gates ----------------------------------------------------------------------------------------------


def pause_finished_chunks() -> None:
    """A chunk that was read waits at the gate before the engine gets it."""
    from flusso_sync.engine.engine import Engine

    submit = Engine.submit

    def late(self: Any, finished: Any) -> None:
        wait_at_gate()
        submit(self, finished)

    Engine.submit = late  # type: ignore[method-assign]


def pause_inside_snapshots() -> None:
    """A live batch waits at the gate between its snapshot and its first read."""
    from flusso_sync.postgres.documents import _PostgresSnapshot

    build = _PostgresSnapshot.build

    def late(self: Any, index: str, keys: Any) -> Any:
        wait_at_gate()
        return build(self, index, keys)

    _PostgresSnapshot.build = late  # type: ignore[method-assign]


# -- threads that die or hang ---------------------------------------------------------------------------


def _sabotage(owner: Any, name: str, harm: Callable[[], None]) -> None:
    """Do ``harm`` instead of calling ``owner.name``, once the gate exists."""
    original = getattr(owner, name)

    def harmed(*arguments: Any, **keywords: Any) -> Any:
        if Path(os.environ[GATE]).exists():
            harm()
        return original(*arguments, **keywords)

    setattr(owner, name, harmed)


def _die() -> None:
    raise MemoryError("on purpose")


def _hang() -> None:
    while True:
        time.sleep(1)


def capture_dies() -> None:
    from flusso_sync.postgres.replication import ReplicationStream

    _sabotage(ReplicationStream, "receive", _die)


def engine_dies() -> None:
    from flusso_sync.engine.engine import Engine

    _sabotage(Engine, "_process", _die)


def writer_dies() -> None:
    from flusso_sync.engine.writer import SinkWriter

    _sabotage(SinkWriter, "_send", _die)


def watch_dies() -> None:
    from flusso_sync.postgres.capture import PostgresCapture

    _sabotage(PostgresCapture, "watch", _die)


def confirm_dies() -> None:
    from flusso_sync.pipeline import Pipeline

    _sabotage(Pipeline, "_write_record", _die)


def capture_hangs() -> None:
    from flusso_sync.postgres.replication import ReplicationStream

    _sabotage(ReplicationStream, "receive", _hang)


def engine_hangs() -> None:
    from flusso_sync.engine.engine import Engine

    _sabotage(Engine, "_process", _hang)


def writer_hangs() -> None:
    from flusso_sync.engine.writer import SinkWriter

    _sabotage(SinkWriter, "_send", _hang)


# -- bounds of files ------------------------------------------------------------------------------------

NO_END = 10**12


def files_without_end() -> None:
    from flusso_sync.config import yaml12

    yaml12.MAX_FILE_BYTES = NO_END


def values_without_end() -> None:
    from flusso_sync.config import yaml12

    yaml12.MAX_VALUES = NO_END


def depth_without_end() -> None:
    from flusso_sync.config import yaml12

    yaml12.MAX_DEPTH = NO_END


def problems_without_end() -> None:
    from flusso_sync.config import load, yaml12
    from flusso_sync.schema import language

    for module in (yaml12, load, language):
        setattr(module, "MAX_PROBLEMS", NO_END)  # noqa: B010


GUARDS: Dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        slot_after_the_first_read,
        confirm_before_durable,
        build_before_visible,
        old_reads_win,
        no_lock_before_the_snapshot,
        pause_finished_chunks,
        pause_inside_snapshots,
        capture_dies,
        engine_dies,
        writer_dies,
        watch_dies,
        confirm_dies,
        capture_hangs,
        engine_hangs,
        writer_hangs,
        files_without_end,
        values_without_end,
        depth_without_end,
        problems_without_end,
    )
}

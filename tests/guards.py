"""Switches guards off, and stops at named places: each function here replaces one named function of the package.

Used by ``tests/launch.py``, which then runs the command line in the same process.  A guard switched off must make the
test of its promise find a difference; which test that is says :data:`PROOFS`.  A gate makes the moment in question last
until a file exists.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, Set

from tests.places import count_chunks, die_at_a_place

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

    slot.create_slot = lambda *arguments, **keywords: 0
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

    def sticky(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self.ids = _Sticky(self.ids)

    seeding.Pending.__init__ = sticky  # type: ignore[method-assign]
    SnapshotFacts.version = property(lambda self: 1)  # type: ignore[assignment,method-assign]


def no_lock_before_the_snapshot() -> None:
    """Promise 8 off: no table is locked before the snapshot is taken."""
    from flusso_sync.postgres import documents

    documents.lock_statement = lambda tables: "SELECT 1 --"


def truncates_ignored() -> None:
    """Promise 7 off for TRUNCATE: it is taken for a change of no row."""
    from flusso_sync.postgres.resolve import Touched

    Touched.truncated = property(lambda self: set())  # type: ignore[assignment,method-assign]


def truncates_do_not_wait() -> None:
    """Promise 4 off for TRUNCATE: what was read before it may still be on its way when the next generation begins."""
    from flusso_sync.engine.engine import Engine

    Engine._wait_clear = lambda self, indexes: None  # type: ignore[method-assign]


def shapes_forgotten() -> None:
    """Nobody compares of what the documents were made: neither the watch, nor a snapshot, nor the next start."""
    from flusso_sync.drift import Drift
    from flusso_sync.postgres import catalog, documents

    documents.PostgresDocuments.watch = lambda self: None  # type: ignore[method-assign]
    compare = Drift.compare

    def forgetful(self: Any, plans: Any, records: Any) -> Any:
        compare(self, plans, records)
        return {}

    Drift.compare = forgetful  # type: ignore[method-assign]
    catalog.Shape.statement = property(  # type: ignore[assignment]
        lambda self: (
            "SELECT 1::int8, 1::int2 WHERE $1 = '' AND $2 = '' AND $3 = '' AND $4 = '' AND $5 = '' AND"
            " $6 = '' AND $7 = '' AND $8 = '' AND $9 = ''"
        ),
        lambda self, value: None,
    )


def partitions_forgotten() -> None:
    """What is told of a table is compared neither by the watch nor at the start."""
    from flusso_sync.postgres import capture

    survey = capture.PostgresCapture._survey
    capture.PostgresCapture._survey = lambda self, connection: survey(self, connection)._replace(  # type: ignore[method-assign]
        marks={}
    )
    prepare = capture.PostgresCapture.prepare
    capture.PostgresCapture.prepare = lambda self, record, stop: prepare(self, None, stop)  # type: ignore[method-assign]


def partitions_taken_for_empty() -> None:
    """Promise 1 off for new partitions: whatever came into them before they were published, none is taken for used."""
    from flusso_sync.postgres import publication

    publication.never_held_rows = lambda connection, oids: set(oids)


def jobs_are_not_stored() -> None:
    """Promise 2 off for changes that show in many documents: their jobs are kept in memory alone."""
    from flusso_sync.engine.spread import Spreader

    Spreader._write = lambda self, id, document: None  # type: ignore[method-assign]


def builds_take_every_request() -> None:
    """Promise 5 off: builds leave no request of a sink free for live changes."""
    from flusso_sync.engine.writer import SinkWriter

    SinkWriter._patient_limit = lambda self: self.sink.concurrency  # type: ignore[method-assign]


def slow_spreading() -> None:
    """Changes that show in many documents are worked off two documents at a time, with a pause in between."""
    from flusso_sync.engine import spread

    spread.STEP_DOCUMENTS = 2
    step = spread.Spreader._step

    def slowly(self: Any, *arguments: Any) -> None:
        self._stop.wait(0.2)
        step(self, *arguments)

    spread.Spreader._step = slowly  # type: ignore[method-assign]


def engines_never_change() -> None:
    """Nobody asks whether the sink forgot the versions of what was deleted."""
    from flusso_sync.sinks.opensearch.sink import OpenSearchSink

    OpenSearchSink.forgotten = lambda self: ()  # type: ignore[method-assign]


def gaps_papered_over() -> None:
    """Promise 9 off for gaps: nobody compares slot and source with the record."""
    from flusso_sync.postgres import history, slot

    slot.describe_gap = lambda name, state, recorded: None
    history.describe_break = lambda record, now, address, state, asked: None


def owners_all_alike() -> None:
    """Promise 13 off: whoever comes is taken for the owner."""
    from flusso_sync.sinks import lease

    lease.same_owner = lambda source, identity: True


def missing_indexes_taken_for_whole() -> None:
    """Promise 9 off for the sink: writes ask for no alias, and nobody looks whether the indexes are still ours."""
    from flusso_sync.sinks.opensearch.sink import OpenSearchSink

    init = OpenSearchSink.__init__

    def careless(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self._bulk_path = self._bulk_path.replace("require_alias=true", "require_alias=false")

    OpenSearchSink.__init__ = careless  # type: ignore[method-assign]
    OpenSearchSink._answer_missing = lambda self, judgement: None  # type: ignore[method-assign]
    OpenSearchSink.watch = lambda self: []  # type: ignore[method-assign]


def older_transactions_forgotten() -> None:
    """Promise 1 off for a table added later: it is copied while older transactions are still open."""
    from flusso_sync.postgres import slot

    slot.wait_for_older = lambda connection, stop, waiting: None


def rejected_and_forgotten() -> None:
    """Promise 2 off for rejected documents: they are neither written nor parked."""
    from flusso_sync.engine.writer import SinkWriter

    SinkWriter._park = lambda self, rejected, sent: None  # type: ignore[method-assign]


def forget_old_tuples() -> None:
    """Promise 7 off: what the stream says of a row before its change is not looked at."""
    from flusso_sync.postgres import documents, resolve

    def forgetful(changes: Any, traces: Any) -> Any:
        return resolve.touched((change._replace(old=None) for change in changes), traces)

    documents.touched = forgetful


def suspects_believed() -> None:
    """The guard of ``verify`` off: what differs is judged before what is on its way can have arrived."""
    from flusso_sync.verify import Verifier

    Verifier._wait_until_durable = lambda self: True  # type: ignore[method-assign]


def leave_identities_alone() -> None:
    """Promise 7 off: nobody sees to it that deletes and moves name the old parent."""
    from flusso_sync.postgres import identity

    identity_of = identity.identity_of
    identity.identity_of = lambda *arguments: identity_of(*arguments)._replace(remedy=None)


# -- gates ----------------------------------------------------------------------------------------------


def pause_finished_chunks() -> None:
    """A chunk that was read waits at the gate before the engine gets it."""
    from flusso_sync.engine.engine import Engine

    submit = Engine.submit

    def late(self: Any, finished: Any) -> None:
        wait_at_gate()
        submit(self, finished)

    Engine.submit = late  # type: ignore[method-assign]


def pause_later_chunks() -> None:
    """The first three chunks pass, one of each index of the shop; what is read later waits at the gate."""
    from flusso_sync.engine.engine import Engine

    submit = Engine.submit
    passed = []

    def late(self: Any, finished: Any) -> None:
        if len(passed) >= 3:
            wait_at_gate()
        passed.append(finished)
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


def short_silences() -> None:
    """What counts as dead after long enough a silence does so sooner; no guard is off."""
    from flusso_sync import pipeline
    from flusso_sync.postgres import capture, connection

    capture.SILENCE_ASK_SECONDS, capture.SILENCE_LIMIT_SECONDS = 2.0, 6.0
    connection.SILENCE_SECONDS = 2.0
    pipeline.CAPTURE_SILENCE_SECONDS = 5.0
    pipeline.ENGINE_SILENCE_SECONDS = pipeline.CONFIRM_SILENCE_SECONDS = 8.0
    pipeline.WATCH_SECONDS, pipeline.WATCH_SILENCE_SECONDS = 1.0, 8.0


def impatient() -> None:
    """The watch looks often, and what is silent counts as dead almost at once; no guard is off."""
    from flusso_sync import pipeline
    from flusso_sync.postgres import capture, connection

    capture.SILENCE_ASK_SECONDS, capture.SILENCE_LIMIT_SECONDS = 0.7, 2.5
    connection.SILENCE_SECONDS = 1.5
    pipeline.WATCH_SECONDS = 0.5


def frequent_watch() -> None:
    """The watch looks often; no guard is off."""
    from flusso_sync import pipeline

    pipeline.WATCH_SECONDS = 0.5


# -- clocks ---------------------------------------------------------------------------------------------


def stepping_clock() -> None:
    """The wall clock is off by as many seconds as the gate's file says, whenever it says so."""
    right = time.time
    gate = Path(os.environ[GATE])

    def wrong() -> float:
        try:
            return right() + float(gate.read_text() or 0)
        except (OSError, ValueError):
            return right()

    time.time = wrong


# -- kill -9 at a named step (faults E1) -------------------------------------------------------------------


def _kill(owner: Any, name: str, *, before: bool) -> None:
    """Once the gate exists: ``kill -9`` ourselves right before or after ``owner.name`` is carried out."""
    original = getattr(owner, name)

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        armed = Path(os.environ[GATE]).exists()
        if armed and before:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = original(*arguments, **keywords)
        if armed and not before and answer is not False:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(owner, name, deadly)


def killed_when_queued() -> None:
    from flusso_sync.engine.queue import ChangeQueue

    _kill(ChangeQueue, "offer", before=False)


def killed_when_built() -> None:
    from flusso_sync.engine.writer import SinkWriter

    _kill(SinkWriter, "enqueue", before=False)


def killed_when_flushed() -> None:
    from flusso_sync.sinks.opensearch.sink import OpenSearchSink

    _kill(OpenSearchSink, "write", before=False)


def killed_when_in_the_ledger() -> None:
    from flusso_sync.pipeline import Pipeline

    _kill(Pipeline, "_write_record", before=True)


def killed_when_recorded() -> None:
    from flusso_sync.postgres.capture import PostgresCapture

    _kill(PostgresCapture, "confirm", before=True)


def killed_when_fed_back() -> None:
    from flusso_sync.postgres.replication import ReplicationStream

    _kill(ReplicationStream, "feedback", before=False)


# -- threads that die or hang ---------------------------------------------------------------------------


def _sabotage(owner: Any, name: str, harm: Callable[[], None]) -> None:
    """Do ``harm`` instead of calling ``owner.name``, once the gate exists."""
    original = getattr(owner, name)

    def harmed(*arguments: Any, **keywords: Any) -> Any:
        if Path(os.environ[GATE]).exists():
            harm()
        return original(*arguments, **keywords)

    setattr(owner, name, harmed)


#: What happens to the thread: ``exception``, ``memory`` or ``hang``.
HARM = "FLUSSO_TEST_HARM"


def _harm() -> None:
    harm = os.environ[HARM]
    if harm == "exception":
        raise RuntimeError("on purpose")
    if harm == "memory":
        raise MemoryError("on purpose")
    while True:
        time.sleep(1)


def harm_capture() -> None:
    from flusso_sync.postgres.replication import ReplicationStream

    _sabotage(ReplicationStream, "receive", _harm)


def harm_engine() -> None:
    from flusso_sync.engine.engine import Engine

    _sabotage(Engine, "_process", _harm)


def harm_writer() -> None:
    from flusso_sync.engine.writer import SinkWriter

    _sabotage(SinkWriter, "_send", _harm)


def harm_watch() -> None:
    from flusso_sync.postgres.capture import PostgresCapture

    _sabotage(PostgresCapture, "watch", _harm)


def harm_sink_watch() -> None:
    from flusso_sync.sinks.opensearch.sink import OpenSearchSink

    _sabotage(OpenSearchSink, "watch", _harm)


def harm_confirm() -> None:
    from flusso_sync.pipeline import Pipeline

    _sabotage(Pipeline, "_write_record", _harm)


def harm_backfill() -> None:
    from flusso_sync.engine.seeding import Seeding

    _sabotage(Seeding, "_read", _harm)


def harm_lag() -> None:
    from flusso_sync.postgres.capture import PostgresCapture

    _sabotage(PostgresCapture, "lag", _harm)


def harm_surface() -> None:
    from flusso_sync.web.server import _Server

    _sabotage(_Server, "readable", _harm)


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
        truncates_ignored,
        truncates_do_not_wait,
        shapes_forgotten,
        partitions_forgotten,
        partitions_taken_for_empty,
        frequent_watch,
        impatient,
        jobs_are_not_stored,
        slow_spreading,
        builds_take_every_request,
        engines_never_change,
        gaps_papered_over,
        owners_all_alike,
        missing_indexes_taken_for_whole,
        older_transactions_forgotten,
        rejected_and_forgotten,
        forget_old_tuples,
        leave_identities_alone,
        suspects_believed,
        pause_finished_chunks,
        pause_later_chunks,
        pause_inside_snapshots,
        short_silences,
        stepping_clock,
        die_at_a_place,
        count_chunks,
        killed_when_queued,
        killed_when_built,
        killed_when_flushed,
        killed_when_in_the_ledger,
        killed_when_recorded,
        killed_when_fed_back,
        harm_capture,
        harm_engine,
        harm_writer,
        harm_watch,
        harm_sink_watch,
        harm_confirm,
        harm_backfill,
        harm_lag,
        harm_surface,
        files_without_end,
        values_without_end,
        depth_without_end,
        problems_without_end,
    )
}

#: What each guard of a promise is there for (design section 3), and the test that fails without it: it runs with the
#: guard and finds everything right, and with the guard off must find that it is not.
PROOFS: Dict[str, Dict[str, str]] = {
    "order of birth": {
        "slot_after_the_first_read": "test_promises.py::test_nothing_committed_while_an_index_is_built_is_missed",
        "partitions_taken_for_empty": (
            "test_partitions.py::test_a_leaf_made_for_days_to_come_has_nothing_rebuilt_and_one_in_use_has"
        ),
        "older_transactions_forgotten": (
            "faults/test_b4_table_added.py::test_what_an_open_transaction_wrote_to_a_table_before_it_was_added_is_copied"
        ),
    },
    "confirmed means durable": {
        "confirm_before_durable": "test_promises.py::test_an_unconfirmed_batch_is_sent_again_after_kill",
        "rejected_and_forgotten": (
            "faults/test_d3_poison.py::test_one_bad_document_of_a_thousand_is_parked_alone_until_its_row_is_mended"
        ),
    },
    "fan-out storing": {
        "jobs_are_not_stored": "test_spread.py::test_a_job_that_is_not_stored_is_lost_in_a_kill",
    },
    "visibility": {
        "build_before_visible": "test_promises.py::test_no_document_is_built_before_its_cause_is_visible",
    },
    "no old read over a new one": {
        "old_reads_win": "test_promises.py::test_no_old_read_overwrites_a_newer_document",
        "truncates_do_not_wait": (
            "faults/test_c4_truncate.py::test_what_was_read_before_a_truncate_does_not_reach_the_generation_after_it"
        ),
        "engines_never_change": (
            "faults/test_d8_version_order.py::test_a_write_held_up_over_a_reopened_index_does_not_bring_a_row_back"
        ),
    },
    "live changes flow always": {
        # It shows in figures: bin/bench --only latency.
        "builds_take_every_request": "bench/latency.py::measure",
    },
    "old-tuple use": {
        "forget_old_tuples": "test_links.py::test_old_parents_need_old_tuples_and_identities_that_have_them",
    },
    "identity management": {
        "leave_identities_alone": "test_links.py::test_old_parents_need_old_tuples_and_identities_that_have_them",
    },
    "TRUNCATE handling": {
        "truncates_ignored": "faults/test_c4_truncate.py::test_a_truncate_is_a_change_of_every_row",
    },
    "partitions": {
        "partitions_forgotten": "test_partitions.py::test_a_partition_that_goes_takes_its_rows_along",
    },
    "shapes": {
        "shapes_forgotten": (
            "faults/test_c6_ddl.py::test_a_type_that_the_plan_accepts_is_planned_anew_without_a_word_from_any_row"
        ),
    },
    "lock-before-snapshot": {
        "no_lock_before_the_snapshot": "test_promises.py::test_no_row_is_not_the_same_as_no_answer",
    },
    "gaps": {
        "gaps_papered_over": (
            "faults/test_b2_slot_dropped.py::test_b2_a_slot_dropped_or_made_anew_is_a_gap_and_leaves_no_document_of_a_"
            "deleted_row"
        ),
        "missing_indexes_taken_for_whole": (
            "faults/test_d4_index_deleted.py::test_d4_an_index_and_aliases_deleted_live_come_back"
        ),
    },
    "owners": {
        "owners_all_alike": "faults/test_b2_copies.py::test_a_clone_is_refused_and_taken_over_only_when_told",
    },
    "the proof": {
        "suspects_believed": "test_verify.py::test_what_is_on_its_way_is_waited_for_and_not_reported",
    },
}

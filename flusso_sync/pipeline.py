"""One life of the pipeline: everything connected, every thread started, watched, stopped and joined.

A pipeline runs once.  When a thread of it fails it is torn down as a whole (promise 10: a dead thread is a dead
daemon); whether another one is laid is the daemon's decision.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set

from flusso_sync.backoff import Stopped, wait_out
from flusso_sync.engine.engine import Engine
from flusso_sync.engine.frontier import furthest_behind
from flusso_sync.engine.ledger import Entry, Ledger
from flusso_sync.engine.pace import Pace
from flusso_sync.engine.policies import FailurePolicies
from flusso_sync.engine.queue import ChangeQueue
from flusso_sync.engine.seeding import Seeding
from flusso_sync.engine.source import ChangeRun, Record, SourceIdentity, SourceParts
from flusso_sync.engine.spread import Spreader
from flusso_sync.engine.writer import SinkWriter
from flusso_sync.errors import ConfigError, FlussoError, SinkRefused
from flusso_sync.observer import BatchStats, FanOut
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import Answer, Request, Sink
from flusso_sync.status import IndexState, Status
from flusso_sync.worker import Worker

log = logging.getLogger(__name__)

#: How often the main thread looks after its threads.
LOOK_SECONDS = 0.1

#: At stop: how long what is already built may take to become durable, and how long threads may take to end.
DRAIN_SECONDS = 2.5
JOIN_SECONDS = 1.0

#: The watch: leases, index UUIDs, the slot's guard; well inside the lease of 30 s (settled.md section 5).
WATCH_SECONDS = 5.0

#: Records of the confirmed position are at least this far apart: with work in between, and when only idle.
RECORD_SECONDS = 0.25
IDLE_RECORD_SECONDS = 1.0

#: How long a command waits for the documents it had read again.
RETRY_SECONDS = 20.0

#: What the record says of an index that stands still: no digest is like it, so it is built anew once it fits again.
DRIFTED_NOTE = "drifted"

#: Silences of a thread that make the daemon unready.
CAPTURE_SILENCE_SECONDS = 20.0
ENGINE_SILENCE_SECONDS = 90.0
CONFIRM_SILENCE_SECONDS = 60.0
WATCH_SILENCE_SECONDS = 120.0


@dataclass(frozen=True)
class PipelineOptions:
    """The numbers a pipeline runs by; sizes in changes, rows and seconds."""

    queue_capacity: int
    batch_changes: int
    backfill_workers: int
    chunk_rows: int
    lag_poll_seconds: float
    skip_backfill: bool
    adopt: bool = False
    max_rows_per_second: Optional[int] = None
    max_lag_bytes: Optional[int] = None


class _Found(NamedTuple):
    """What the sinks have of the indexes.

    ``missing``: index -> the sinks that lack it; ``readable``: indexes that readers find at every sink; ``progress``:
    index -> how far an earlier life came with its build.
    """

    missing: Dict[str, List[str]]
    readable: Set[str]
    progress: Dict[str, Mapping[str, Any]]


class Pipeline:
    """Source, engine and sinks of one run, for the enabled indexes ``plans``.

    An index that fitted its tables before, and does not any more, has drifted: it stands still, gets nothing and keeps
    what it has, until it fits again and is built anew.  The others go on.  What the record says of each index (its
    schema, and what its documents are made of) tells at the next start what must be built anew.
    """

    def __init__(
        self,
        plans: Sequence[IndexPlan],
        parts: SourceParts,
        sinks: Mapping[str, Sink],
        policies: FailurePolicies,
        options: PipelineOptions,
        status: Status,
        observer: FanOut,
        *,
        rebuild: Optional[Dict[str, str]] = None,
        fitted: Optional[Set[str]] = None,
    ) -> None:
        #: Index -> reason; emptied once their new generations are begun.
        self._wanted_rebuilds: Dict[str, str] = {} if rebuild is None else rebuild
        #: Those that are kept current; less those that drifted once the source is open.
        self._plans = tuple(plans)
        #: Indexes that fitted their tables in this run, in earlier lives of the pipeline.
        self._fitted: Set[str] = set() if fitted is None else fitted
        #: Index -> why it stands still.
        self._drifted: Dict[str, FlussoError] = {}
        #: Index -> what the record says of it.
        self._shapes: Dict[str, str] = {}
        self._capture = parts.capture
        self._documents = parts.documents
        #: By name; for readers of any thread.
        self.sinks: Mapping[str, Sink] = dict(sinks)
        self._policies = policies
        self._options = options
        self._status = status
        self._observer = observer
        #: Ends everything at once; set by ``run`` alone.
        self._halt = threading.Event()
        self._capture_stop = threading.Event()
        self._draining = threading.Event()
        self._capture_ended = threading.Event()
        #: What failed first; ``run`` raises it.
        self.failure: Optional[BaseException] = None
        self._failed = threading.Event()
        #: Set once it is known which indexes are to be built.
        self._opened = threading.Event()
        #: Indexes that are rebuilt because somebody asked, while what is read stays right.
        self._asked: Set[str] = set()
        self._workers: List[Worker] = []
        self._builders: List[Worker] = []
        self._identity: Optional[SourceIdentity] = None
        self._queue = ChangeQueue(options.queue_capacity)
        self._ledger = Ledger(on_finished=self._finished)
        self._writers: List[SinkWriter] = []
        self._engine: Optional[Engine] = None
        self._seeding: Optional[Seeding] = None
        self._spreader: Optional[Spreader] = None
        self._recorded = 0
        self._coverage: Mapping[str, str] = {}
        self._gap = False
        self._recording = threading.Lock()
        #: Guards ``_beginning``: the indexes whose rebuild a watch asked for and that has not begun yet.
        self._watching = threading.Lock()
        self._beginning: Set[str] = set()
        #: Requests that are being carried out, by id.
        self._answering: Set[str] = set()
        #: Index under build -> ids that were parked when it began.
        self._parked_before: Dict[str, Set[str]] = {}
        self._first_builds: Set[str] = set()

    # -- one life -----------------------------------------------------------------------------------

    def run(self, shutdown: threading.Event) -> None:
        """Connect, run and block until ``shutdown`` is set or a finite source ends; raises what failed first.

        Everything the pipeline opened is closed when this returns, however it returns.
        """
        self._capture.report_to(self._status, lambda: self._status.heartbeat("flusso-capture"))
        self._documents.report_to(self._status)
        try:
            try:
                self._open(shutdown)
                self._start()
                self._attend(shutdown)
            except Stopped:
                pass
        finally:
            self._stop()
        if self.failure is not None:
            raise self.failure

    def _open(self, stop: threading.Event) -> None:
        """Everything before the first thread: source, owner and lease, plans, order of birth, builds to do."""
        status = self._status
        identity = wait_out(lambda: self._capture.connect(stop), stop, status, "source")
        self._identity = identity
        wait_out(lambda: self._documents.open(self._plans, stop), stop, status, "source documents")
        for name, sink in self.sinks.items():
            wait_out(lambda s=sink: s.open(identity, adopt=self._options.adopt), stop, status, f"sink {name}")  # type: ignore[misc]
        stateful = {name: sink for name, sink in self.sinks.items() if sink.stateful}
        records = [
            wait_out(lambda s=sink: s.read_record(), stop, status, f"sink {name}")  # type: ignore[misc]
            for name, sink in stateful.items()
        ]
        known = [record for record in records if record is not None]
        # The sink that is furthest behind decides what must be streamed again.
        record = min(known, key=lambda r: r.confirmed) if known else None
        if record is not None and len(known) > 1:
            record = replace(record, version=max(r.version for r in known))
        altered = self._compare(known)
        prepared = wait_out(lambda: self._capture.prepare(record, stop), stop, status, "source")
        status.set_gap(prepared.gap)
        self._gap = prepared.gap is not None
        self._ledger = Ledger(prepared.position, self._finished)
        self._recorded = prepared.position
        self._coverage = prepared.coverage
        status.set_confirmed(prepared.position)
        found = self._ensure(stateful or self.sinks, stop)
        missing = found.missing
        every = {plan.name: list(self.sinks) for plan in self._plans}
        rebuild: Dict[str, str] = {**altered, **self._wanted_rebuilds, **prepared.rebuild}
        if prepared.gap is not None:
            rebuild = {name: prepared.gap for name in every}
        for name, sink in self.sinks.items():
            self._writers.append(self._writer(sink))
            log.debug("sink %s is %s", name, "stateful" if sink.stateful else "stateless")
        self._make_engine()
        if record is not None and prepared.gap is None and self._engine is not None:
            # The high-water mark outlives a run that writes nothing.
            self._engine.version = record.version
        self._observer.on_indexes_ensured([plan.name for plan in self._plans])
        if self._options.skip_backfill:
            for plan in self._plans:
                if missing.get(plan.name):
                    status.set_index_state(plan.name, IndexState.SKIPPED)
            missing = {}
        # What was built before a gap, a TRUNCATE or the like is not gone on with.
        progress = {name: one for name, one in found.progress.items() if name in missing and name not in rebuild}
        builds = {name: "it is not complete yet" for name in missing}
        builds.update((name, reason) for name, reason in rebuild.items() if name in every)
        self._first_builds = {name for name in builds if name not in found.readable}
        for plan in self._plans:
            if plan.name not in builds and status.index_state(plan.name) is not IndexState.SKIPPED:
                status.set_index_state(plan.name, IndexState.SEEDED)
        # A rebuild concerns every sink, also where only one of them lacks the index.
        self._begin(builds, {**missing, **{name: list(self.sinks) for name in rebuild}}, stop, progress)
        self._wanted_rebuilds.clear()
        self._load_jobs(stateful, stop)
        self._opened.set()
        if prepared.gap is not None or any(record.shapes != self._shapes for record in known) or record is None:
            # Only now: a crash before every rebuild was begun must find the gap or the drift again.  And without any
            # record a slot that is dropped before the first confirmation would be no gap.
            self._write_record(prepared.position, stop)
        self._capture.confirm(prepared.position)

    def _compare(self, records: Sequence[Record]) -> Dict[str, str]:
        """Set those apart that drifted; returns index -> reason for those that are made of something else by now.

        Raises what a plan was refused with that never fitted its tables: then the file is wrong.
        """
        refused = self._documents.unreadable()
        new: List[FlussoError] = []
        altered: Dict[str, str] = {}
        for plan in self._plans:
            name = plan.name
            schema = sha256(plan.canonical.encode()).hexdigest()[:16]
            error = refused.get(name)
            self._shapes[name] = f"{schema} {DRIFTED_NOTE if error is not None else self._documents.shape(name)}"
            notes = [record.shapes.get(name, "") for record in records if record.shapes]
            if error is None:
                self._fitted.add(name)
                self._status.clear_trouble(f"drift {name}")
                if any(note != self._shapes[name] for note in notes):
                    altered[name] = _altered(self._shapes[name], notes)
            elif name in self._fitted or any(note.split(" ")[0] == schema for note in notes):
                self._drifted[name] = error
                self._stand_still(name, error)
            else:
                new.append(error)
        if new:
            raise _together(new)
        self._plans = tuple(plan for plan in self._plans if plan.name not in self._drifted)
        self._capture.leave_out(sorted(self._drifted))
        return altered

    def _stand_still(self, index: str, error: FlussoError) -> None:
        hint = error.hint or "Mend the table, which is looked at every few seconds, or the schema file, and start again"
        self._status.set_index_state(index, IndexState.DRIFTED, reason=error.message, todo=hint)
        self._status.trouble(
            f"drift {index}", f"index {index} has drifted and stands still: {error.message}", hint, blocking=False
        )

    def _load_jobs(self, stateful: Mapping[str, Sink], stop: threading.Event) -> None:
        """Go on with the changes that an earlier life was still spreading."""
        spreader = self._spreader
        if spreader is None:
            raise AssertionError("jobs before the engine")
        stored = [
            wait_out(lambda s=sink: s.jobs(), stop, self._status, f"sink {name}")  # type: ignore[misc]
            for name, sink in stateful.items()
        ]
        known = {plan.name for plan in self._plans}
        spreader.load([{id: job for id, job in jobs.items() if job["index"] in known} for jobs in stored])

    def _ensure(self, voters: Mapping[str, Sink], stop: threading.Event) -> "_Found":
        """Ask every sink what it has.  Sinks without a vote receive what is written to the others."""
        missing: Dict[str, List[str]] = {}
        unreadable: Set[str] = set()
        progress: Dict[str, List[Optional[Mapping[str, Any]]]] = {}
        for name, sink in self.sinks.items():
            reports = wait_out(
                lambda s=sink: s.ensure(self._plans, skip_build=self._options.skip_backfill),  # type: ignore[misc]
                stop,
                self._status,
                f"sink {name}",
            )
            for report in reports:
                self._status.set_index_state(report.index, IndexState.PENDING, generation=report.generation or None)
                if not report.seeded and name in voters:
                    missing.setdefault(report.index, []).append(name)
                    progress.setdefault(report.index, []).append(report.progress)
                if not (report.seeded or report.readable) and name in voters:
                    unreadable.add(report.index)
        silent = [name for name in self.sinks if name not in voters]
        agreed = {index: furthest_behind(stored) for index, stored in progress.items()}
        return _Found(
            {index: names + silent for index, names in missing.items()},
            {plan.name for plan in self._plans} - unreadable,
            {index: one for index, one in agreed.items() if one is not None},
        )

    def _writer(self, sink: Sink) -> SinkWriter:
        return SinkWriter(
            sink,
            policies=self._policies,
            observer=self._observer,
            status=self._status,
            stop=self._halt,
            caught_up=self._queue.empty,
            confirmed=lambda: self._ledger.confirmed,
        )

    def _make_engine(self) -> None:
        self._engine = Engine(
            self._queue,
            self._documents,
            self._writers,
            self._ledger,
            status=self._status,
            observer=self._observer,
            stop=self._halt,
            draining=self._draining,
            rebuild=self._rebuild,
            batch_changes=self._options.batch_changes,
            heartbeat="flusso-engine",
        )
        self._spreader = self._engine.spreader = Spreader(
            self._documents,
            self._writers,
            register=self._engine.register,
            submit=self._engine.submit,
            rebuild=self._rebuild,
            status=self._status,
            stop=self._halt,
        )
        self._seeding = Seeding(
            self._documents,
            register=self._engine.register,
            submit=self._engine.submit,
            status=self._status,
            observer=self._observer,
            stop=self._halt,
            chunk_rows=self._options.chunk_rows,
            workers=self._options.backfill_workers,
            pace=Pace(
                most_rows_per_second=self._options.max_rows_per_second,
                most_lag_bytes=self._options.max_lag_bytes,
                behind=self._capture.behind,
                status=self._status,
                stop=self._halt,
            ),
            completed=self._look_at_parked,
        )

    # -- builds -------------------------------------------------------------------------------------

    def _rebuild(self, reasons: Mapping[str, str]) -> None:
        """Rebuild indexes while the pipeline runs, into every sink; the new generation is begun when this returns."""
        self._asked.difference_update(reasons)
        self._begin(reasons, {name: list(self.sinks) for name in reasons}, self._halt)

    def _begin(
        self,
        reasons: Mapping[str, str],
        targets: Mapping[str, Sequence[str]],
        stop: threading.Event,
        progress: Optional[Mapping[str, Mapping[str, Any]]] = None,
    ) -> None:
        """Begin the builds of ``reasons`` (index -> why); those in ``progress`` go on where an earlier life ended."""
        seeding = self._seeding
        if seeding is None:
            raise AssertionError("a build before the engine")
        with seeding.changing:
            for index, reason in reasons.items():
                seeding.give_up(index)
                writers = [writer for writer in self._writers if writer.sink.name in targets[index]]
                stored = (progress or {}).get(index)
                if stored is not None and stored["order"] != self._documents.order(index):
                    log.info("index %s: its unfinished build walked in another order and is not gone on with", index)
                    stored = None
                generations: Dict[SinkWriter, int] = {}
                for writer in writers:
                    sink = writer.sink
                    begin = sink.resume_build if stored is not None and sink.stateful else sink.begin_build
                    generations[writer] = wait_out(
                        lambda b=begin, i=index: b(i),  # type: ignore[misc]
                        stop,
                        self._status,
                        f"sink {sink.name}",
                    )
                if stored is None:
                    log.info("building index %s: %s", index, reason)
                else:
                    log.info("building index %s: it goes on after %d rows", index, stored["rows"])
                self._start_build(index, generations, stored)
        if reasons:
            self._observer.on_backfill_started(list(reasons))

    def _start_build(
        self, index: str, generations: Mapping[SinkWriter, int], progress: Optional[Mapping[str, Any]] = None
    ) -> None:
        seeding = self._seeding
        if seeding is None:
            raise AssertionError("a build before the engine")
        # Complete once, it is read, whatever the others are still waiting for.
        unread = self._status.index_state(index) in (IndexState.PENDING, IndexState.BACKFILLING)
        first = unread and index in self._first_builds
        building = max(generations.values(), default=0)
        if building and not first:
            self._status.set_index_state(index, IndexState.REBUILDING, building=building)
        self._parked_before[index] = {id for sink in self.sinks.values() for id in sink.quarantined().get(index, ())}
        seeding.start(index, generations, rebuilding=not first, progress=progress)

    # -- threads --------------------------------------------------------------------------------------

    def _start(self) -> None:
        engine = self._engine
        if engine is None:
            raise AssertionError("started before opened")
        status = self._status
        status.expect_heartbeat("flusso-capture", CAPTURE_SILENCE_SECONDS)
        status.expect_heartbeat("flusso-engine", ENGINE_SILENCE_SECONDS)
        status.expect_heartbeat("flusso-confirm", CONFIRM_SILENCE_SECONDS)
        for watch in ("flusso-watch", *(f"flusso-watch-{name}" for name in self.sinks)):
            status.expect_heartbeat(watch, WATCH_SILENCE_SECONDS)
        for writer in self._writers:
            for number in range(writer.sink.concurrency):
                suffix = f"-{number + 1}" if writer.sink.concurrency > 1 else ""
                self._spawn(f"flusso-sink-{writer.sink.name}{suffix}", writer.loop)
        self._spawn("flusso-engine", engine.loop)
        self._spawn("flusso-confirm", self._confirm)
        self._spawn("flusso-progress", self._connected().keep_progress)
        if self._spreader is not None:
            self._spawn("flusso-fan-out", self._spreader.loop)
        self._spawn("flusso-watch", self._watch)
        for sink in self.sinks.values():
            self._spawn(f"flusso-watch-{sink.name}", lambda s=sink: self._watch_sink(s))  # type: ignore[misc]
        self._spawn("flusso-lag", self._lag)
        self._spawn("flusso-capture", lambda: self._capture.stream(self._emit, self._capture_stop), self._capture_done)

    def _spawn(self, name: str, loop: Callable[[], None], ended: Optional[Callable[[str], None]] = None) -> Worker:
        worker = Worker(name, loop, self._fail, ended)
        # Those that answer a request or begin a rebuild come and go.
        self._workers = [other for other in self._workers if other.ident is None or other.is_alive()]
        self._workers.append(worker)
        worker.start()
        return worker

    def _fail(self, name: str, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
            if not isinstance(error, FlussoError):
                log.error("thread %s failed", name, exc_info=error)
        self._failed.set()

    def _capture_done(self, name: str) -> None:
        self._status.forget_thread(name)
        self._capture_ended.set()

    def _emit(self, run: ChangeRun, timeout: Optional[float] = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._capture_stop.is_set():
            left = 0.2 if deadline is None else min(0.2, deadline - time.monotonic())
            if left <= 0:
                return False
            if self._queue.offer(run, left):
                if run.changes:
                    self._observer.on_changes_captured(len(run.changes))
                return True
        return False

    def _attend(self, shutdown: threading.Event) -> None:
        """The main thread: start builders when there is work, notice failures, wait for the end."""
        seeding = self._seeding
        if seeding is None:
            raise AssertionError("attended before opened")
        live = False
        while not shutdown.wait(LOOK_SECONDS):
            if self._failed.is_set():
                return
            self._builders = [worker for worker in self._builders if worker.is_alive()]
            if seeding.active and not self._builders:
                for number in range(self._options.backfill_workers):
                    worker = Worker(f"flusso-backfill-{number + 1}", seeding.loop, self._fail)
                    self._builders.append(worker)
                    worker.start()
            self._status.set_build_workers(len(self._builders))
            if not live and all(
                self._status.index_state(plan.name) in (IndexState.SEEDED, IndexState.SKIPPED, IndexState.REBUILDING)
                for plan in self._plans
            ):
                live = True
                self._first_builds.clear()
                self._status.clear_trouble("pipeline")
                self._observer.on_live_started()
            # In the order of a change's way: queue, ledger, and last the build that it may have begun.
            ended = (
                self._capture_ended.is_set() and self._queue.unfinished_tasks == 0 and self._ledger.open_entries == 0
            )
            if seeding.idle:
                if self._gap:
                    self._gap = False
                    self._status.set_gap(None)
                if ended:
                    return
            if self._capture_ended.is_set() and self._capture_stop.is_set():
                return

    def _confirm(self) -> None:
        """Record what is durable, then let the source know; in this order, or a gap could not be told."""
        recorded_at = 0.0
        while not self._halt.is_set():
            self._status.heartbeat("flusso-confirm")
            position = self._ledger.wait_beyond(self._recorded, 0.5)
            if position <= self._recorded:
                continue
            interval = RECORD_SECONDS if self._ledger.worked_beyond(self._recorded) else IDLE_RECORD_SECONDS
            if self._halt.wait(max(0.0, recorded_at + interval - time.monotonic())):
                return
            self._write_record(self._ledger.confirmed, self._halt)
            recorded_at = time.monotonic()

    def _write_record(self, position: int, stop: threading.Event) -> None:
        engine = self._engine
        record = Record(
            confirmed=position,
            version=engine.version if engine is not None else 0,
            timeline=self._identity.timeline if self._identity is not None else 0,
            slot=self._identity.slot if self._identity is not None else "",
            coverage=self._coverage,
            shapes=self._shapes,
        )
        # A record that cannot be written is tried until ``stop``; whoever comes second must not wait longer than that.
        while not self._recording.acquire(timeout=0.1):
            if stop.is_set():
                raise Stopped
        try:
            if position < self._recorded:
                # Somebody was faster; a record behind what the source was told would look like a gap.
                return
            for name, sink in self.sinks.items():
                if sink.stateful:
                    wait_out(lambda s=sink: s.write_record(record), stop, self._status, f"sink {name}")  # type: ignore[misc]
            self._recorded = position
            self._capture.confirm(position)
            self._status.set_confirmed(position)
        finally:
            self._recording.release()

    def _watch(self) -> None:
        """The slot's guard, and what else the source must keep true while nobody looks."""
        while not self._halt.wait(WATCH_SECONDS):
            self._status.heartbeat("flusso-watch")
            self._look("watch of the source", self._look_at_source)

    def _look_at_source(self) -> Mapping[str, str]:
        reasons = self._capture.watch()
        self._documents.watch()
        return reasons

    def _look_at_parked(self, index: str) -> None:
        """A build wrote what could be written; what was parked before it and still is may have no row any more."""
        before = self._parked_before.pop(index, set())
        left = sorted(
            id for id in before if any(id in sink.quarantined().get(index, ()) for sink in self.sinks.values())
        )
        if left:
            self._spawn("flusso-parked", lambda: self._retry_quietly(index, left))

    def _retry_quietly(self, index: str, ids: Sequence[str]) -> None:
        try:
            self.retry(index, ids)
        except FlussoError as error:
            if not error.transient:
                raise
            log.info("what is parked of index %s is not looked at now: %s", index, error.message)

    def _watch_sink(self, sink: Sink) -> None:
        """A sink's lease, index UUIDs, aliases and requests; a thread for each, so that one that hangs costs nobody's
        lease."""

        def look() -> Mapping[str, str]:
            sink.renew()
            lost = {index: f"sink {sink.name} no longer holds it as it was" for index in sink.watch()}
            self._take_requests(sink)
            for index in sink.forgotten():
                self._spawn("flusso-again", lambda i=index: self._read_again(sink, i))  # type: ignore[misc]
            return lost

        while not self._halt.wait(WATCH_SECONDS):
            self._status.heartbeat(f"flusso-watch-{sink.name}")
            self._look(f"watch of sink {sink.name}", look)

    def _read_again(self, sink: Sink, index: str) -> None:
        """A sink forgot which versions it had deleted: what a late request could bring back is written once more."""
        engine = self._engine
        if engine is None:
            raise AssertionError("watched without an engine")
        (writer,) = [writer for writer in self._writers if writer.sink is sink]
        ids = writer.at_risk(index)
        if not ids:
            return
        keys = wait_out(lambda: self._documents.keys_of(index, ids), self._halt, self._status, "source documents")
        if keys:
            log.info(
                "sink %s: index %s runs anew; %d documents that were deleted lately are read again",
                sink.name,
                index,
                len(keys),
            )
            engine.mend(index, list(keys.values()))

    def _take_requests(self, sink: Sink) -> None:
        """Carry out what commands left in the meta store, each on a thread of its own: the lease must not wait."""
        with self._watching:
            due = [request for request in sink.requests() if request.id not in self._answering]
            self._answering.update(request.id for request in due)
        for request in due:
            self._spawn("flusso-request", lambda r=request: self._carry_out(sink, r))  # type: ignore[misc]

    def _carry_out(self, sink: Sink, request: Request) -> None:
        try:
            answer = Answer(True, self.ask(request))
        except SinkRefused as error:
            answer = Answer(False, str(error))
        log.info("request %s of index %s: %s", request.command, request.index, answer.text)
        wait_out(lambda: sink.answer(request.id, answer), self._halt, self._status, f"sink {sink.name}")
        with self._watching:
            self._answering.discard(request.id)

    def ask(self, request: Request) -> str:
        """Do what ``request`` asks for and say so in a sentence; raises ``SinkRefused`` where that cannot be."""
        index = request.index
        self._refuse_drifted(index)
        if index not in {plan.name for plan in self._plans}:
            known = ", ".join(sorted(plan.name for plan in self._plans))
            raise SinkRefused(f"no index {index} is enabled in the running daemon; there is {known}", index=index)
        if request.command == "reindex":
            return self.reindex(index)
        if request.command == "rollback":
            return self.rollback(index)
        if request.command == "retry":
            return self.retry(index, request.ids)
        if request.command == "repair":
            return self.repair(index, request.ids)
        raise SinkRefused(f"the running daemon does not know the request {request.command}")

    def _look(self, trouble: str, look: Callable[[], Mapping[str, str]]) -> None:
        """Look once; indexes that must be rebuilt are begun on a thread of their own, for that may take its time."""
        try:
            reasons = look()
        except FlussoError as error:
            if not error.transient:
                raise
            self._status.trouble(trouble, error.message, error.hint or "", blocking=False)
            return
        self._status.clear_trouble(trouble)
        with self._watching:
            due = {index: reason for index, reason in reasons.items() if index not in self._beginning}
            self._beginning.update(due)
        if due:
            self._spawn("flusso-rebuild", lambda: self._begin_again(due))

    def _begin_again(self, reasons: Mapping[str, str]) -> None:
        try:
            self._rebuild(reasons)
        finally:
            with self._watching:
                self._beginning.difference_update(reasons)

    def _lag(self) -> None:
        """Sample the lag; its failures are logged and ignored, and it always ends with the pipeline."""
        while True:
            try:
                lag = self._capture.lag()
            except Exception as error:
                log.debug("the lag could not be sampled: %s", error)
                lag = None
            if lag is None:
                self._status.lag(None)
            else:
                self._observer.on_slot_lag(lag)
            if self._halt.wait(self._options.lag_poll_seconds):
                return

    def _finished(self, entry: Entry) -> None:
        if entry.changes:
            self._observer.on_batch_committed(
                BatchStats(
                    entry.changes,
                    sum(entry.documents.values()),
                    dict(entry.documents),
                    time.monotonic() - entry.started,
                )
            )

    def reindex(self, index: str) -> str:
        """Build a new generation of ``index`` beside the one that is read; joins a build that is under way.

        Returns a sentence.  Raises ``RuntimeError`` before there is a connection, ``SinkRefused`` for one that drifted.
        """
        seeding = self._connected()
        self._refuse_drifted(index)
        with seeding.changing:
            if seeding.building(index):
                return f"index {index} is being built already; what it is built from is as new as anything begun now"
            if self._status.index_state(index) is IndexState.SEEDED:
                self._asked.add(index)
            self._begin({index: "it was asked for"}, {index: list(self.sinks)}, self._halt)
        return f"index {index} is built anew beside the one that is read"

    def rollback(self, index: str) -> str:
        """Let readers have the newest kept generation of ``index``, at once, and build a fresh one.

        Returns a sentence.  Raises ``RuntimeError`` before there is a connection, ``SinkRefused`` where none is kept.
        """
        seeding = self._connected()
        self._refuse_drifted(index)
        with seeding.changing:
            writers = [writer for writer in self._writers if writer.sink.stateful]
            if not writers:
                raise SinkRefused(f"no sink keeps generations of index {index}", index=index)
            numbers: List[str] = []
            begun: Dict[SinkWriter, int] = {}
            for writer in writers:
                # Before anything changes: a refusal leaves all as it is.
                if not any(one.state == "kept" for one in writer.sink.generations().get(index, ())):
                    raise SinkRefused(
                        f"sink {writer.sink.name} keeps no former generation of index {index}",
                        hint="index[].keep_generations says how many are kept",
                        index=index,
                    )
            seeding.give_up(index)
            self._asked.discard(index)
            for writer in writers:
                sink = writer.sink
                back = wait_out(lambda s=sink: s.rollback(index), self._halt, self._status, f"sink {sink.name}")  # type: ignore[misc]
                numbers.append(f"generation {back.read} in sink {sink.name}")
                begun[writer] = back.building
            self._start_build(index, begun)
        self._observer.on_backfill_started([index])
        sentence = (
            f"readers of index {index} are back on {', '.join(numbers)}, which stands still until the next is built"
        )
        log.warning("%s", sentence)
        return sentence

    def retry(self, index: str, ids: Sequence[str] = ()) -> str:
        """Read parked documents of ``index`` again (``ids``, or all) and write what can be; waits some seconds.

        Returns a sentence.  Raises ``RuntimeError`` before there is a connection, ``SinkRefused`` for one that drifted.
        """
        self._connected()
        self._refuse_drifted(index)
        engine = self._engine
        if engine is None:
            raise AssertionError("connected without an engine")
        parked = {id for sink in self.sinks.values() for id in sink.quarantined().get(index, ())}
        wanted = sorted(parked.intersection(ids) if ids else parked)
        keys = wait_out(lambda: self._documents.keys_of(index, wanted), self._halt, self._status, "source documents")
        mend = engine.mend(index, [keys[id] for id in wanted if id in keys])
        done = mend.done.wait(RETRY_SECONDS)
        left = {id for sink in self.sinks.values() for id in sink.quarantined().get(index, ())}
        parts = [
            f"{sum(id not in left for id in wanted)} of {len(wanted)} parked documents of index {index} are right now"
        ]
        if not done:
            parts.append("the others are still on their way")
        strange = [id for id in wanted if id not in keys]
        if strange:
            parts.append(f"{len(strange)} have an id that no key gives, for example {strange[0]!r}: change their rows")
        missing = sorted(set(ids) - parked)
        if missing:
            parts.append(f"{len(missing)} are not parked, for example {missing[0]!r}")
        return "; ".join(parts)

    def _refuse_drifted(self, index: str) -> None:
        error = self._drifted.get(index)
        if error is not None:
            raise SinkRefused(
                f"index {index} has drifted and stands still: {error.message}", hint=error.hint, index=index
            )

    def repair(self, index: str, ids: Sequence[str]) -> str:
        """Write the documents ``ids`` of ``index`` as their rows say, whatever the sinks hold; waits some seconds.

        An id without a row is deleted.  Returns a sentence.  Raises ``RuntimeError`` before there is a connection.
        """
        self._connected()
        engine = self._engine
        if engine is None:
            raise AssertionError("connected without an engine")
        self._refuse_drifted(index)
        wanted = list(dict.fromkeys(ids))
        keys = wait_out(lambda: self._documents.keys_of(index, wanted), self._halt, self._status, "source documents")
        # What was written by hand has the version of our last write and a little more.
        wait_out(self._documents.advance, self._halt, self._status, "source documents")
        ghosts = [id for id in wanted if id not in keys]
        mend = engine.mend(index, [keys[id] for id in wanted if id in keys], ghosts)
        done = mend.done.wait(RETRY_SECONDS)
        sentence = f"{len(wanted)} documents of index {index} are read and written again"
        if ghosts:
            sentence += f", of which {len(ghosts)} have an id that no key gives and are deleted"
        return sentence if done else sentence + "; they are still on their way"

    def _connected(self) -> Seeding:
        if self._seeding is None or not self._opened.is_set():
            raise RuntimeError("the daemon is not connected yet")
        return self._seeding

    def position(self) -> int:
        """The end of what is committed at the source now."""
        return self._capture.position()

    def synced(self, position: int, timeout: float) -> bool:
        """True once everything up to ``position`` is found by search in every sink, where it is read."""
        deadline = time.monotonic() + timeout
        position = self._capture.commit_position(position)
        if self._ledger.wait_beyond(position - 1, timeout) < position or not self._opened.is_set():
            return False
        if not self._status.wait_for(self._complete, max(0.0, deadline - time.monotonic())):
            return False
        spreader = self._spreader
        while spreader is not None and spreader.open_up_to(position):
            if self._halt.is_set() or not spreader.wait(max(0.0, deadline - time.monotonic())):
                return False
        if self._halt.is_set():
            # What was asked for after the end is as searchable as it will be.
            return True
        return all(writer.wait_searchable(position, max(0.0, deadline - time.monotonic())) for writer in self._writers)

    def _complete(self) -> bool:
        """Whether no index is being built whose readers lack something; one that drifted is not waited for."""
        unfinished = (IndexState.PENDING, IndexState.BACKFILLING, IndexState.REBUILDING)
        return not any(
            plan.name not in self._asked and self._status.index_state(plan.name) in unfinished for plan in self._plans
        )

    # -- the end ----------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Capture stops taking; the engine ends its batch; what is built becomes durable and is confirmed; the source
        gets the last feedback; then everything closes."""
        self._capture_stop.set()
        self._draining.set()
        self._queue.ring()
        if self._workers and self.failure is None:
            deadline = time.monotonic() + DRAIN_SECONDS
            if self._engine is not None and self._engine.idle.wait(DRAIN_SECONDS):
                self._ledger.wait_drained(max(0.0, deadline - time.monotonic()))
        if self._workers:
            self._last_record()
        self._halt.set()
        self._queue.ring()
        self._ledger.wake()
        for writer in self._writers:
            writer.wake()
        self._documents.cancel()
        deadline = time.monotonic() + JOIN_SECONDS
        for worker in [*self._workers, *self._builders]:
            worker.join(max(0.05, deadline - time.monotonic()))
        for worker in [*self._workers, *self._builders]:
            if worker.is_alive():
                log.warning("thread %s is still busy and is left behind", worker.name)
        self._status.forget_threads()
        for close in (self._capture.close, self._documents.close, *(sink.close for sink in self.sinks.values())):
            try:
                close()
            except Exception as error:
                # Whatever it is, the others are closed too.
                log.warning("closing: %s", error)

    def _last_record(self) -> None:
        """One attempt: a sink that is away now must not hold up the end; the slot then stays where it is."""
        confirmed = self._ledger.confirmed
        if confirmed <= self._recorded:
            return
        once = threading.Event()
        once.set()
        try:
            self._write_record(confirmed, once)
        except (FlussoError, Stopped) as error:
            log.info("the last position could not be recorded and will be streamed again: %s", error)


def _altered(note: str, former: Sequence[str]) -> str:
    """Why an index is built anew whose note in the record is another one."""
    if not all(former):
        return "it was not kept current"
    if any(one.endswith(f" {DRIFTED_NOTE}") for one in former):
        return "its tables had drifted, and fit again"
    if any(one.split(" ")[0] != note.split(" ")[0] for one in former):
        return "its schema is another one"
    return "its tables were altered meanwhile"


def _together(errors: Sequence[FlussoError]) -> FlussoError:
    """One error that says all: what else was refused comes before mistakes in files."""
    problems = [problem for error in errors if isinstance(error, ConfigError) for problem in error.problems]
    other = [error for error in errors if not isinstance(error, ConfigError)]
    if other or len(errors) == 1:
        return [*other, *errors][0]
    return ConfigError(problems, hint=errors[0].hint)

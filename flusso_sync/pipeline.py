"""One life of the pipeline: everything connected, every thread started, watched, stopped and joined.

A pipeline runs once.  When a thread of it fails it is torn down as a whole (promise 10: a dead thread is a dead
daemon); whether another one is laid is the daemon's decision.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set

from flusso_sync.backoff import Stopped, wait_out
from flusso_sync.builds import Builds
from flusso_sync.comparing import Comparisons
from flusso_sync.drift import Drift
from flusso_sync.engine.engine import Engine
from flusso_sync.engine.frontier import furthest_behind
from flusso_sync.engine.ledger import Entry, Ledger
from flusso_sync.engine.pace import Pace
from flusso_sync.engine.policies import FailurePolicies, OnError
from flusso_sync.engine.queue import ChangeQueue
from flusso_sync.engine.seeding import Seeding
from flusso_sync.engine.source import ChangeRun, Record, SourceIdentity, SourceParts, furthest_record
from flusso_sync.engine.spread import Spreader
from flusso_sync.engine.writer import SinkWriter
from flusso_sync.errors import FlussoError, SourceError
from flusso_sync.observer import BatchStats, FanOut
from flusso_sync.operations import Operations
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import GenerationReport, Sink
from flusso_sync.status import IndexState, Status, format_lsn
from flusso_sync.worker import Worker

log = logging.getLogger(__name__)

#: How often the main thread looks after its threads, and how often once there was nothing to do for a while.
LOOK_SECONDS = 0.1
QUIET_LOOK_SECONDS = 0.5
QUIET_AFTER_SECONDS = 5.0

#: At stop: how long what is already built may take to become durable, and how long threads may take to end.
DRAIN_SECONDS = 2.5
JOIN_SECONDS = 1.0

#: The watch: leases, index UUIDs, the slot's guard; well inside the lease of 30 s (settled.md section 5).
WATCH_SECONDS = 5.0

#: The longest pause between two looks at a source that writes nothing: the session of its guard must not fall asleep.
QUIET_WATCH_SECONDS = 15.0

#: Records of the confirmed position are at least this far apart: with work in between, and when only idle.
RECORD_SECONDS = 0.25
IDLE_RECORD_SECONDS = 1.0

#: How often sinks are asked how many documents they hold.
COUNT_SECONDS = 15.0

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
    quarantine_limit: int = 10_000


class _Found(NamedTuple):
    """What the sinks have of the indexes.

    ``missing``: index -> the sinks that lack it; ``readable``: indexes that readers find at every sink; ``progress``:
    index -> how far an earlier life came with its build.
    """

    missing: Dict[str, List[str]]
    readable: Set[str]
    progress: Dict[str, Mapping[str, Any]]


class _Works(NamedTuple):
    """What runs between the source and the sinks, once it is known what there is to do."""

    engine: Engine
    spreader: Spreader
    seeding: Seeding
    pace: Pace
    builds: Builds
    operations: Operations


class Pipeline:
    """Source, engine and sinks of one run, for the enabled indexes ``plans``.

    An index that fitted its tables before, and does not any more, has drifted: it stands still, gets nothing and keeps
    what it has, until it fits again and is built anew.  The others go on (``drift.py``).
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
        self._capture = parts.capture
        self._documents = parts.documents
        self._drift = Drift(parts.documents, status, set() if fitted is None else fitted)
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
        #: Set once a full quarantine was looked at: what is read before may end the run for what was mended long ago.
        self._room_made = threading.Event()
        #: What failed first; ``run`` raises it.
        self.failure: Optional[BaseException] = None
        self._failed = threading.Event()
        #: Set once it is known which indexes are to be built.
        self._opened = threading.Event()
        self._workers: List[Worker] = []
        self._builders: List[Worker] = []
        #: Of leases, before all others are started.
        self._keepers: List[Worker] = []
        self._identity: Optional[SourceIdentity] = None
        self._queue = ChangeQueue(options.queue_capacity)
        #: The run that was counted and has found no space in the queue yet.
        self._announced: Optional[ChangeRun] = None
        self._ledger = Ledger(on_finished=self._finished)
        self._writers: List[SinkWriter] = []
        self._works: Optional[_Works] = None
        self._recorded = 0
        self._coverage: Mapping[str, str] = {}
        self._gap = False
        self._recording = threading.Lock()

    def change(self, options: PipelineOptions, policies: FailurePolicies) -> None:
        """Go on by the limits and workers of builds of ``options``, and by ``policies``; for any thread.

        Workers count for builds that begin from now on; every other option stays as it is.
        """
        self._policies.follow(policies)
        self._options = replace(
            self._options,
            backfill_workers=options.backfill_workers,
            max_rows_per_second=options.max_rows_per_second,
            max_lag_bytes=options.max_lag_bytes,
        )
        works = self._works
        if works is not None:
            works.seeding.change_workers(options.backfill_workers)
            works.pace.change(most_rows_per_second=options.max_rows_per_second, most_lag_bytes=options.max_lag_bytes)

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
            wait_out(lambda s=sink: self._reach(s, identity), stop, status, f"sink {name}")  # type: ignore[misc]
            if sink.stateful:
                keeper = Worker(f"flusso-lease-{name}", lambda s=sink: self._keep_lease(s), self._fail)  # type: ignore[misc]
                self._keepers.append(keeper)
                keeper.start()
        stateful = {name: sink for name, sink in self.sinks.items() if sink.stateful}
        records = [
            wait_out(lambda s=sink: s.read_record(), stop, status, f"sink {name}")  # type: ignore[misc]
            for name, sink in stateful.items()
        ]
        known = [record for record in records if record is not None]
        record = furthest_record(known)
        altered = self._drift.compare(self._plans, known)
        self._plans = tuple(plan for plan in self._plans if plan.name not in self._drift.drifted)
        self._capture.leave_out(sorted(self._drift.drifted))
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
            for index in sorted(found.readable):
                # What an earlier life wrote last may be found by no search yet.
                self._writers[-1].touch(index)
        works = self._works = self._make()
        if record is not None and prepared.gap is None:
            # The high-water mark outlives a run that writes nothing.
            works.engine.version = record.version
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
        works.builds.first.update(name for name in builds if name not in found.readable)
        for plan in self._plans:
            if plan.name not in builds and status.index_state(plan.name) is not IndexState.SKIPPED:
                status.set_index_state(plan.name, IndexState.SEEDED)
        # A rebuild concerns every sink, also where only one of them lacks the index.
        works.builds.begin(builds, {**missing, **{name: list(self.sinks) for name in rebuild}}, stop, progress)
        self._wanted_rebuilds.clear()
        self._load_jobs(stateful, stop)
        self._opened.set()
        if prepared.gap is not None or any(record.shapes != self._drift.shapes for record in known) or record is None:
            # Only now: a crash before every rebuild was begun must find the gap or the drift again.  And without any
            # record a slot that is dropped before the first confirmation would be no gap.
            self._write_record(prepared.position, stop)
        self._capture.confirm(prepared.position)

    def _reach(self, sink: Sink, identity: SourceIdentity) -> None:
        """Open a sink; while it is away nothing is streamed, so the slot keeps more and more."""
        with contextlib.suppress(SourceError):
            self._capture.relieve()
        sink.open(identity, adopt=self._options.adopt)

    def _keep_lease(self, sink: Sink) -> None:
        """Until the watch does: the start may wait for something else, for longer than a lease lasts."""
        while not self._halt.wait(WATCH_SECONDS) and not self._opened.is_set():
            # Whoever writes next finds a lease that is lost.
            with contextlib.suppress(FlussoError):
                sink.renew()

    def _load_jobs(self, stateful: Mapping[str, Sink], stop: threading.Event) -> None:
        """Go on with the changes that an earlier life was still spreading."""
        stored = [
            wait_out(lambda s=sink: s.jobs(), stop, self._status, f"sink {name}")  # type: ignore[misc]
            for name, sink in stateful.items()
        ]
        known = {plan.name for plan in self._plans}
        self._made.spreader.load([{id: job for id, job in jobs.items() if job["index"] in known} for jobs in stored])

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

    def _make(self) -> "_Works":
        engine = Engine(
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
        spreader = engine.spreader = Spreader(
            self._documents,
            self._writers,
            register=engine.register,
            submit=engine.submit,
            rebuild=self._rebuild,
            status=self._status,
            stop=self._halt,
        )
        pace = Pace(
            most_rows_per_second=self._options.max_rows_per_second,
            most_lag_bytes=self._options.max_lag_bytes,
            behind=self._capture.behind,
            status=self._status,
            stop=self._halt,
        )
        seeding = Seeding(
            self._documents,
            register=engine.register,
            submit=engine.submit,
            status=self._status,
            observer=self._observer,
            stop=self._halt,
            chunk_rows=self._options.chunk_rows,
            workers=self._options.backfill_workers,
            pace=pace,
            completed=lambda index: self._made.operations.look_at_parked(index),
        )
        builds = Builds(seeding, self._writers, self._documents, self._status, self._observer, self._halt)
        operations = Operations(
            {plan.name for plan in self._plans},
            builds,
            self._drift,
            engine,
            self._documents,
            self.sinks,
            self._status,
            self._halt,
            self._spawn,
            Comparisons(self._documents, self.sinks, self._status, self._halt, self._spawn),
        )
        return _Works(engine, spreader, seeding, pace, builds, operations)

    @property
    def _made(self) -> "_Works":
        if self._works is None:
            raise AssertionError("used before it was opened")
        return self._works

    def _rebuild(self, reasons: Mapping[str, str]) -> None:
        """Build indexes anew, into every sink; the new generations are begun when this returns."""
        self._made.builds.rebuild(reasons)

    # -- threads --------------------------------------------------------------------------------------

    def _start(self) -> None:
        works = self._made
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
        status.set_figures("queue", lambda: {"changes": self._queue.qsize(), "capacity": self._queue.maxsize})
        status.set_figures("sinks", lambda: {writer.sink.name: writer.figures() for writer in self._writers})
        self._spawn("flusso-engine", works.engine.loop)
        self._spawn("flusso-confirm", self._confirm)
        self._spawn("flusso-progress", works.seeding.keep_progress)
        self._spawn("flusso-fan-out", works.spreader.loop)
        self._spawn("flusso-watch", self._watch)
        for sink in self.sinks.values():
            self._spawn(f"flusso-watch-{sink.name}", lambda s=sink: self._watch_sink(s))  # type: ignore[misc]
        self._spawn("flusso-lag", self._lag)
        self._spawn("flusso-count", self._count)
        self._spawn("flusso-capture", self._capture_changes, self._capture_done)

    def _capture_changes(self) -> None:
        skipping = [plan.name for plan in self._plans if self._policies.of(plan.name) is OnError.SKIP]
        self._made.operations.make_room(
            skipping, self._options.quarantine_limit, lambda: self._status.heartbeat("flusso-capture")
        )
        self._room_made.set()
        self._capture.stream(self._emit, self._capture_stop)

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
            if run.changes and run is not self._announced:
                # Before anybody can take it: what is durable was captured before.  One that finds no space is offered
                # again, and was captured once.
                self._announced = run
                self._observer.on_changes_captured(len(run.changes))
            if self._queue.offer(run, left):
                self._announced = None
                return True
        return False

    def _attend(self, shutdown: threading.Event) -> None:
        """The main thread: start builders when there is work, notice failures, wait for the end."""
        seeding = self._made.seeding
        live = False
        quiet_from = 0.0
        while not shutdown.wait(QUIET_LOOK_SECONDS if live and time.monotonic() > quiet_from else LOOK_SECONDS):
            if self._failed.is_set():
                return
            if seeding.active or self._builders or self._capture_ended.is_set():
                quiet_from = time.monotonic() + QUIET_AFTER_SECONDS
            self._builders = [worker for worker in self._builders if worker.is_alive()]
            if seeding.active and not self._builders and self._room_made.is_set():
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
                quiet_from = time.monotonic() + QUIET_AFTER_SECONDS
                self._made.builds.first.clear()
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
        record = Record(
            confirmed=position,
            version=self._works.engine.version if self._works is not None else 0,
            timeline=self._identity.timeline if self._identity is not None else 0,
            slot=self._identity.slot if self._identity is not None else "",
            address=self._identity.address if self._identity is not None else "",
            coverage=self._coverage,
            shapes=self._drift.shapes,
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
        """The slot's guard, and what else the source must keep true while nobody looks.

        Whatever alters it is written to the WAL, so a source that writes nothing is asked no oftener than for the lag.
        """
        seen: Optional[int] = None
        due = 0.0
        while not self._halt.wait(WATCH_SECONDS):
            self._status.heartbeat("flusso-watch")
            heard = self._capture.heard()
            if heard is not None and heard == seen and time.monotonic() < due:
                continue
            seen, due = heard, time.monotonic() + min(QUIET_WATCH_SECONDS, self._options.lag_poll_seconds)
            self._look("watch of the source", self._look_at_source)

    def _look_at_source(self) -> Mapping[str, str]:
        reasons = self._capture.watch()
        self._documents.watch()
        return reasons

    def _watch_sink(self, sink: Sink) -> None:
        """A sink's lease, index UUIDs, aliases and requests; a thread for each, so that one that hangs costs nobody's
        lease."""

        def look() -> Mapping[str, str]:
            sink.renew()
            lost = {index: f"sink {sink.name} no longer holds it as it was" for index in sink.watch()}
            self._made.operations.take_requests(sink)
            for index in sink.forgotten():
                self._spawn("flusso-again", lambda i=index: self._read_again(sink, i))  # type: ignore[misc]
            return lost

        while not self._halt.wait(WATCH_SECONDS):
            self._status.heartbeat(f"flusso-watch-{sink.name}")
            self._look(f"watch of sink {sink.name}", look)

    def _read_again(self, sink: Sink, index: str) -> None:
        """A sink forgot which versions it had deleted: what a late request could bring back is written once more."""
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
                extra={"index": index},
            )
            self._made.engine.mend(index, list(keys.values()))

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
        builds = self._made.builds
        due = builds.due(reasons)
        if due:
            self._spawn("flusso-rebuild", lambda: builds.rebuild_due(due))

    def _lag(self) -> None:
        """Sample the lag; its failures are logged and ignored, and it always ends with the pipeline."""
        while True:
            self._status.heartbeat("flusso-lag")
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

    def _count(self) -> None:
        """Ask each sink now and then what it holds, for people; failures are logged and ignored."""
        waited = 0.0
        while not self._halt.wait(waited):
            waited = COUNT_SECONDS
            self._status.heartbeat("flusso-count")
            for name, sink in self.sinks.items():
                try:
                    reports = sink.generations()
                except Exception as error:
                    log.debug("sink %s does not tell what it holds: %s", name, error)
                    continue
                for index, generations in reports.items():
                    if self._status.index_state(index) is not None:
                        self._status.set_index_sinks(index, name, _held(generations))

    def _finished(self, entry: Entry) -> None:
        if entry.changes:
            log.debug(
                "%d changes are durable in %d documents",
                entry.changes,
                sum(entry.documents.values()),
                extra={"lsn": None if entry.position is None else format_lsn(entry.position)},
            )
            self._observer.on_batch_committed(
                BatchStats(
                    entry.changes,
                    sum(entry.documents.values()),
                    dict(entry.documents),
                    time.monotonic() - entry.started,
                    entry.position,
                    tuple(entry.stages),
                )
            )

    # -- for whoever asks, on any thread ------------------------------------------------------------------

    @property
    def operations(self) -> Operations:
        """Raises ``RuntimeError`` before there is a connection."""
        if not self._opened.is_set():
            raise RuntimeError("the daemon is not connected yet")
        return self._made.operations

    def position(self) -> int:
        """The end of what is committed at the source now."""
        return self._capture.position()

    def synced(self, position: int, timeout: float) -> bool:
        """True once everything up to ``position`` is found by search in every sink, where it is read."""
        deadline = time.monotonic() + timeout
        position = self._capture.commit_position(position)
        if self._ledger.wait_beyond(position - 1, timeout) < position or not self._opened.is_set():
            return False
        spreader = self._made.spreader
        if not self._status.wait_for(self._complete, max(0.0, deadline - time.monotonic())):
            return False
        while spreader.open_up_to(position):
            if self._halt.is_set() or not spreader.wait(max(0.0, deadline - time.monotonic())):
                return False
        if self._halt.is_set():
            # What was asked for after the end is as searchable as it will be.
            return True
        return all(writer.wait_searchable(position, max(0.0, deadline - time.monotonic())) for writer in self._writers)

    def _complete(self) -> bool:
        """Whether no index is being built whose readers lack something; one that drifted is not waited for."""
        unfinished = (IndexState.PENDING, IndexState.BACKFILLING, IndexState.REBUILDING)
        asked = self._made.builds.asked
        return not any(
            plan.name not in asked and self._status.index_state(plan.name) in unfinished for plan in self._plans
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
            if self._made.engine.idle.wait(DRAIN_SECONDS):
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
        workers = [*self._workers, *self._builders, *self._keepers]
        for worker in workers:
            worker.join(max(0.05, deadline - time.monotonic()))
        for worker in workers:
            if worker.is_alive():
                log.warning("thread %s is still busy and is left behind", worker.name)
        self._status.forget_threads()
        for figures in ("queue", "sinks"):
            self._status.set_figures(figures, None)
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


def _held(generations: Sequence[GenerationReport]) -> Dict[str, Any]:
    """What a sink holds of an index, as ``/status`` shows it."""
    read = next((one for one in generations if one.state in ("read", "rolled back to")), None)
    return {
        "generation": None if read is None else read.number,
        "documents": None if read is None else read.documents,
        "kept": sum(one.state == "kept" for one in generations),
    }

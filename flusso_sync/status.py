"""What the daemon knows about itself: one small locked object that hands out immutable snapshots.

Threads write facts into :class:`Status`; surfaces, exporters and host programs read
:class:`StatusSnapshot`.  Every decision (staleness, stalls, log intervals) uses the monotonic clock;
wall-clock times are there for people only.  This module knows no HTTP, no Postgres and no sink.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from flusso_sync.history import Event, Events, History, Point, Rate, Waiting, utc_now

if TYPE_CHECKING:
    from flusso_sync.observer import BatchStats

logger = logging.getLogger("flusso_sync.status")

#: A backlog (captured changes not yet committed) without any progress for this long is unready.
STALL_SECONDS = 30.0

#: A trouble that goes on is logged again after this long, then after twice as long, up to the cap.
TROUBLE_LOG_SECONDS = 10.0
TROUBLE_LOG_CAP_SECONDS = 3600.0

#: A trouble that comes back within this long is logged on as the old one, or a flapping sink would fill the log.
TROUBLE_QUIET_SECONDS = 60.0
PAST_TROUBLES = 100

#: Events that ``/status`` shows.
EVENTS_SHOWN = 20

#: The rate of a build is measured over about this long, so that the ETA follows what happens now.
RATE_WINDOW_SECONDS = 30.0


class Phase(str, enum.Enum):
    """Where the process stands; ``live`` also while an index is rebuilt beside its old generation."""

    STARTING = "starting"
    BACKFILLING = "backfilling"
    LIVE = "live"
    STOPPED = "stopped"

    def __str__(self) -> str:
        return self.value


class IndexState(str, enum.Enum):
    """Where one index stands."""

    PENDING = "pending"  #: not looked at yet
    BACKFILLING = "backfilling"  #: its first build runs; nothing can be read yet
    SEEDED = "seeded"  #: complete and kept current
    REBUILDING = "rebuilding"  #: a new generation is built, readers keep the old one
    SKIPPED = "skipped"  #: readable but never built, because the user asked for that
    DRIFTED = "drifted"  #: a table no longer has the shape the index was planned with
    BLIND = "blind"  #: runs without hearing some of its tables
    DISABLED = "disabled"  #: in the configuration, and switched off there: neither built nor kept current
    STOPPED = "stopped"  #: gets no more changes until somebody acts

    def __str__(self) -> str:
        return self.value


def format_lsn(position: int) -> str:
    """The text form of an LSN, as Postgres prints it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


# -- what readers get -----------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildProgress:
    """How far a build is.  ``total`` is an estimate unless ``exact``, and may be None; the rate is in rows per second.

    ``workers`` read rows now, for all builds together.
    """

    done: int
    total: Optional[int]
    rate: float
    eta_seconds: Optional[float]
    exact: bool = False
    workers: int = 0

    def to_json(self) -> Dict[str, Any]:
        return {
            "done": self.done,
            "total": self.total,
            "rate": round(self.rate, 1),
            "eta_seconds": None if self.eta_seconds is None else round(self.eta_seconds, 1),
            "exact": self.exact,
            "workers": self.workers,
        }


@dataclass(frozen=True)
class IndexSnapshot:
    """One index.  ``documents_built`` counts this process's writes, ``quarantined`` what is parked now.

    ``sinks``: what each sink that was asked holds of it (``generation`` that is read, ``documents`` in it, former ones
    ``kept``).  ``lag_seconds`` is None while readers see nothing of it.
    """

    name: str
    state: IndexState
    since: str
    documents_built: int = 0
    quarantined: int = 0
    documents_per_second: float = 0.0
    lag_seconds: Optional[float] = None
    build: Optional[BuildProgress] = None
    sinks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def documents(self) -> Optional[int]:
        """How many documents readers find, in the first sink that tells; None while nobody does."""
        told = (sink.get("documents") for sink in self.sinks.values())
        return next((documents for documents in told if documents is not None), None)

    @property
    def generation(self) -> Optional[int]:
        """The generation that readers see."""
        told = (sink.get("generation") for sink in self.sinks.values())
        return next((number for number in told if number is not None), self.details.get("generation"))

    def to_json(self) -> Dict[str, Any]:
        return {
            "state": self.state.value,
            "since": self.since,
            "generation": self.generation,
            "documents": self.documents,
            "documents_built": self.documents_built,
            "documents_per_second": round(self.documents_per_second, 1),
            "lag_seconds": None if self.lag_seconds is None else round(self.lag_seconds, 3),
            "quarantined": self.quarantined,
            "build": None if self.build is None else self.build.to_json(),
            "sinks": {name: dict(sink) for name, sink in self.sinks.items()},
            **{name: value for name, value in self.details.items() if name != "generation"},
        }


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong now; ``blocking`` when changes cannot flow because of it."""

    key: str
    what: str
    todo: str
    blocking: bool
    count: int
    since: str
    last: str
    seconds: float

    def to_json(self) -> Dict[str, Any]:
        return {
            "key": self.key,
            "what": self.what,
            "todo": self.todo,
            "blocking": self.blocking,
            "count": self.count,
            "since": self.since,
            "last": self.last,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class ThreadSnapshot:
    """A thread's last sign of life; ``within_seconds`` is None when none is expected."""

    name: str
    seconds_ago: float
    within_seconds: Optional[float]

    def to_json(self) -> Dict[str, Any]:
        return {"name": self.name, "seconds_ago": round(self.seconds_ago, 1), "within_seconds": self.within_seconds}


@dataclass(frozen=True)
class StageSnapshot:
    """A stage of the way of a batch: how often it was gone through, and how long that took, all in all and last."""

    count: int
    seconds: float
    last_seconds: float

    def to_json(self) -> Dict[str, Any]:
        return {
            "count": self.count,
            "seconds": round(self.seconds, 6),
            "last_seconds": round(self.last_seconds, 6),
        }


@dataclass(frozen=True)
class StatusSnapshot:
    """The whole status at one moment.

    ``lag_seconds``: how long the oldest change that came from the source and is not durable yet has been waited for;
    None while nobody knows.  ``figures``: what the parts of the pipeline say of themselves when asked.
    """

    phase: Phase
    uptime_seconds: int
    indexes: Mapping[str, IndexSnapshot]
    changes_captured: int
    changes_committed: int
    changes_in_flight: int
    documents_built: int
    documents_quarantined: int
    batches: int
    last_flush_micros: int
    slot_lag_bytes: Optional[int]
    errors: int
    last_error: Optional[str]
    ready: bool
    ready_reason: str
    troubles: Tuple[Trouble, ...]
    gap: Optional[str]
    confirmed: Optional[int]
    indexes_ensured: int
    observer_events_dropped: int
    changes_ignored: int
    documents_deduplicated: int
    threads: Tuple[ThreadSnapshot, ...]
    facts: Mapping[str, Any]
    lag_seconds: Optional[float]
    changes_per_second: float
    documents_per_second: float
    visibility_waits: int
    visibility_wait_seconds: float
    stages: Mapping[str, StageSnapshot]
    figures: Mapping[str, Any]
    events: Tuple[Event, ...]

    def to_json(self) -> Dict[str, Any]:
        """A plain dict in the order of ``/status``: first flusso's keys exactly, then ours.

        Facts are grouped by the part of their name before the first dot.
        """
        groups: Dict[str, Any] = {}
        for name, value in self.facts.items():
            group, dot, rest = name.partition(".")
            if dot:
                groups.setdefault(group, {})[rest] = value
            else:
                groups[name] = value
        return {
            "phase": self.phase.value,
            "uptime_seconds": self.uptime_seconds,
            "indexes": {name: index.state.value for name, index in self.indexes.items()},
            "changes_captured": self.changes_captured,
            "changes_committed": self.changes_committed,
            "changes_in_flight": self.changes_in_flight,
            "documents_built": self.documents_built,
            "documents_quarantined": self.documents_quarantined,
            "batches": self.batches,
            "last_flush_micros": self.last_flush_micros,
            "slot_lag_bytes": self.slot_lag_bytes,
            "errors": self.errors,
            "last_error": self.last_error,
            "ready": self.ready,
            "ready_reason": self.ready_reason,
            "trouble": [trouble.to_json() for trouble in self.troubles],
            "gap": self.gap,
            "lag_seconds": None if self.lag_seconds is None else round(self.lag_seconds, 3),
            "rates": {
                "changes_per_second": round(self.changes_per_second, 1),
                "documents_per_second": round(self.documents_per_second, 1),
            },
            "confirmed_lsn": None if self.confirmed is None else format_lsn(self.confirmed),
            "index_details": {name: index.to_json() for name, index in self.indexes.items()},
            "slot": groups.pop("slot", {}),
            "queue": self.figures.get("queue", {}),
            "sinks": self.figures.get("sinks", {}),
            "connections": self.figures.get("connections", {}),
            "stages": {name: stage.to_json() for name, stage in self.stages.items()},
            "visibility": {"waits": self.visibility_waits, "seconds": round(self.visibility_wait_seconds, 3)},
            "addresses": groups.pop("addresses", {}),
            "configuration": groups.pop("configuration", {}),
            "verify": groups.pop("verify", {}),
            "changes_ignored": self.changes_ignored,
            "documents_deduplicated": self.documents_deduplicated,
            "observer_events_dropped": self.observer_events_dropped,
            "threads": [thread.to_json() for thread in self.threads],
            "events": [event.to_json() for event in self.events],
            "facts": groups,
        }


def _asked(name: str, ask: Callable[[], Any]) -> Any:
    """What a part says of itself; nothing when it cannot, for it may be about to end."""
    try:
        return ask()
    except Exception as error:
        logger.debug("no figures of %s: %s", name, error)
        return None


# -- what the lock protects -----------------------------------------------------------------------


class _Index:
    """The mutable record of one index."""

    def __init__(self) -> None:
        self.state = IndexState.PENDING
        self.since = utc_now()
        self.changed = monotonic()
        self.documents_built = 0
        self.rate = Rate(self.changed)
        self.sinks: Dict[str, Mapping[str, Any]] = {}
        self.quarantined = 0
        self.details: Dict[str, Any] = {}
        self.build: Optional[_Build] = None
        #: What of its tables we do not hear; empty when we hear everything.
        self.blind: Tuple[str, ...] = ()

    @property
    def shown(self) -> IndexState:
        """A complete index that is not told of everything is no more than ``blind``."""
        return IndexState.BLIND if self.blind and self.state is IndexState.SEEDED else self.state

    def lag_seconds(self, lag: Optional[float], now: float) -> Optional[float]:
        """How far its readers are behind, where ``lag`` is that of the pipeline: a batch is durable as a whole."""
        if self.state in (IndexState.PENDING, IndexState.BACKFILLING, IndexState.DISABLED):
            return None
        if self.state in (IndexState.DRIFTED, IndexState.STOPPED):
            return now - self.changed
        return lag


class _Build:
    """Progress of one build, with samples to measure its rate from."""

    def __init__(self) -> None:
        self.done = 0
        self.total: Optional[int] = None
        self.exact = False
        self.samples: Deque[Tuple[float, int]] = deque()

    def report(self, done: int, total: Optional[int], exact: bool, now: float) -> None:
        self.done, self.total, self.exact = done, total, exact
        if self.samples and now - self.samples[-1][0] < 0.5 and len(self.samples) > 1:
            self.samples[-1] = (self.samples[-1][0], done)
            return
        self.samples.append((now, done))
        while len(self.samples) > 2 and now - self.samples[0][0] > RATE_WINDOW_SECONDS:
            self.samples.popleft()

    def snapshot(self, now: float, workers: int) -> BuildProgress:
        # Measured up to now, not up to the last sample: a build that stands still slows down visibly.
        since, done_then = self.samples[0]
        seconds = now - since
        rate = (self.done - done_then) / seconds if seconds > 0 else 0.0
        eta: Optional[float] = None
        if self.total is not None and rate > 0:
            eta = max(0, self.total - self.done) / rate
        return BuildProgress(self.done, self.total, rate, eta, self.exact, workers)


class _Stage:
    """The mutable record of one stage."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.last_seconds = 0.0


class _Trouble:
    """The mutable record of one trouble."""

    def __init__(self, now: float, former: Optional[_Trouble] = None) -> None:
        self.what = ""
        self.todo = ""
        self.blocking = False
        self.count = 0
        self.first = now
        self.last = now
        self.since_text = utc_now()
        self.last_text = self.since_text
        self.said = False
        self.log_at: float = now if former is None else former.log_at
        self.log_interval: float = TROUBLE_LOG_SECONDS if former is None else former.log_interval
        self.returns: int = 0 if former is None else former.returns + 1


class Status:
    """The daemon's state, safe to write and read from any thread; no method blocks on anything but its lock.

    One Status may outlive several runs and several daemons: counters and uptime go on, see
    :meth:`reset_for_run`.
    """

    def __init__(self, indexes: Iterable[str] = (), *, stall_seconds: float = STALL_SECONDS) -> None:
        # Reentrant: the predicates of wait_for run under it and call the properties below.
        self._changed = threading.Condition(threading.RLock())
        self._stall_seconds = stall_seconds
        self._started = monotonic()
        self._run_started = self._started
        self._phase = Phase.STARTING
        self._indexes: Dict[str, _Index] = {name: _Index() for name in indexes}
        self._indexes_ensured = 0
        self._build_workers = 0
        self._captured = 0
        self._committed = 0
        self._in_flight = 0
        self._documents_built = 0
        self._documents_quarantined = 0
        self._batches = 0
        self._last_flush_micros = 0
        self._lag_bytes: Optional[int] = None
        self._errors = 0
        self._last_error: Optional[str] = None
        self._progressed = self._started
        self._troubles: Dict[str, _Trouble] = {}
        self._past_troubles: Dict[str, Tuple[float, _Trouble]] = {}
        self._beats: Dict[str, float] = {}
        self._expected: Dict[str, float] = {}
        self._confirmed: Optional[int] = None
        self._gap: Optional[str] = None
        self._facts: Dict[str, Any] = {}
        self._events_dropped = 0
        self._ignored = 0
        self._deduplicated = 0
        self._waiting = Waiting()
        self._changes_rate = Rate(self._started)
        self._documents_rate = Rate(self._started)
        self._history = History(self._started)
        self._events = Events()
        self._stages: Dict[str, _Stage] = {}
        self._visibility_waits = 0
        self._visibility_wait_seconds = 0.0
        #: Asked by whoever looks, outside the lock: they take locks of their own.
        self._figures: Dict[str, Callable[[], Any]] = {}

    # -- phase and indexes --

    @property
    def phase(self) -> Phase:
        with self._changed:
            return self._phase

    def set_phase(self, phase: Phase) -> None:
        """Enter a phase.  Reaching ``backfilling`` or ``live`` clears troubles left by an earlier run."""
        with self._changed:
            if phase is self._phase:
                return
            self._phase = phase
            self._progressed = monotonic()
            self._events.add("phase", f"phase is {phase.value}")
            flows = phase in (Phase.BACKFILLING, Phase.LIVE)
            left = [key for key, trouble in self._troubles.items() if trouble.last < self._run_started]
            self._changed.notify_all()
        logger.info("phase is %s", phase.value)
        if flows:
            # Whoever registered them is gone with its run; what is still wrong has been said again since.
            for key in left:
                self.clear_trouble(key)

    def reset_for_run(self) -> None:
        """Go back to ``starting`` for another run: counters, uptime, index states and troubles survive.

        Changes in flight are forgotten: they come again from the source.
        """
        with self._changed:
            self._phase = Phase.STARTING
            self._run_started = self._progressed = monotonic()
            self._in_flight = 0
            self._waiting.forget()
            self._lag_bytes = None
            self._beats.clear()
            self._expected.clear()
            self._changed.notify_all()

    def add_index(self, name: str) -> None:
        """Make an index known, as ``pending``; one already known keeps its state."""
        with self._changed:
            self._indexes.setdefault(name, _Index())

    def indexes_ensured(self, count: int) -> None:
        """So many indexes were ensured at the sinks."""
        with self._changed:
            self._indexes_ensured = count

    def index_state(self, name: str) -> Optional[IndexState]:
        """The state of an index, None for an unknown one."""
        with self._changed:
            index = self._indexes.get(name)
            return None if index is None else index.state

    def set_index_state(self, name: str, state: IndexState, **details: Any) -> None:
        """Set the state and merge ``details`` (``generation=3``, ``reason="..."``; None removes one).

        A change of state drops what belonged to the former one: ``reason``, ``building`` (the generation) and the
        build's progress.
        """
        with self._changed:
            index = self._indexes.setdefault(name, _Index())
            if state is not index.state:
                index.state = state
                index.since = utc_now()
                index.changed = monotonic()
                if state is not IndexState.PENDING:
                    reason = details.get("reason")
                    self._events.add("index", f"index {name} is {state.value}{f': {reason}' if reason else ''}")
                for passing in ("reason", "building"):
                    index.details.pop(passing, None)
                index.build = None
            index.details.update(details)
            for key in [key for key, value in details.items() if value is None]:
                del index.details[key]
            self._progressed = monotonic()
            self._changed.notify_all()

    def set_blind(self, name: str, reasons: Sequence[str]) -> None:
        """Show a complete index as ``blind``, with ``reasons``, until there are none."""
        with self._changed:
            index = self._indexes.setdefault(name, _Index())
            if tuple(reasons) != index.blind:
                index.blind = tuple(reasons)
                index.since = utc_now()
                self._changed.notify_all()

    def set_index_sinks(self, name: str, sink: str, held: Mapping[str, Any]) -> None:
        """What ``sink`` holds of an index, see ``IndexSnapshot``."""
        with self._changed:
            self._indexes.setdefault(name, _Index()).sinks[sink] = held

    def set_build_workers(self, count: int) -> None:
        """So many threads read rows for builds now."""
        with self._changed:
            self._build_workers = count

    def set_build_progress(self, name: str, done: int, total: Optional[int], *, exact: bool = False) -> None:
        """Rows of the current build that are done, and how many there are: about, or ``exact`` (None: unknown)."""
        with self._changed:
            index = self._indexes.setdefault(name, _Index())
            if index.build is None or done < index.build.done:
                index.build = _Build()
            index.build.report(done, total, exact, monotonic())

    # -- counters --

    def captured(self, n: int) -> None:
        """So many changes came from the source and are in flight until committed."""
        with self._changed:
            now = monotonic()
            if self._in_flight == 0:
                # A backlog begins now: it may take as long as a stall from here, whatever the idle time before.
                self._progressed = now
            self._waiting.arrive(n, now)
            self._changes_rate.grows(self._captured, now)
            self._captured += n
            self._in_flight += n
            self._changed.notify_all()

    def committed(self, stats: BatchStats) -> None:
        """A batch is durable; its ``changes`` were announced by :meth:`captured` before."""
        with self._changed:
            now = monotonic()
            self._keep_history(now)
            self._committed += stats.changes
            self._in_flight = max(0, self._in_flight - stats.changes)
            self._waiting.settle(stats.changes)
            self._documents_rate.grows(self._documents_built, now)
            self._documents_built += stats.documents
            for name, documents in stats.documents_by_index.items():
                index = self._indexes.setdefault(name, _Index())
                index.rate.grows(index.documents_built, now)
                index.documents_built += documents
            self._batches += 1
            self._last_flush_micros = int(stats.flush_seconds * 1_000_000)
            self._progressed = now
            self._changed.notify_all()

    def ignored(self, n: int) -> None:
        """So many updates left every column that an index uses as it was: they are not among the captured."""
        with self._changed:
            self._ignored += n

    def deduplicated(self, n: int) -> None:
        """So many changes led only to documents that are built for another change of the same batch."""
        with self._changed:
            self._deduplicated += n

    def untraceable(self, changes: Mapping[str, int]) -> None:
        """So many changes of each table did not tell which documents had shown the row before."""
        with self._changed:
            counted = dict(self._facts.get("untraceable_changes", {}))
            for table, n in changes.items():
                counted[table] = counted.get(table, 0) + n
            self._facts["untraceable_changes"] = dict(sorted(counted.items()))

    def progressed(self) -> None:
        """Something moved that no counter shows, so that a backlog does not count as stalled."""
        with self._changed:
            self._progressed = monotonic()

    @property
    def in_flight(self) -> int:
        """Changes captured and not yet committed."""
        with self._changed:
            return self._in_flight

    def lag(self, bytes: Optional[int]) -> None:
        """The slot's lag as sampled; None when it could not be known."""
        with self._changed:
            self._lag_bytes = None if bytes is None else max(0, bytes)
            self._keep_history(monotonic())

    def stage(self, name: str, seconds: float) -> None:
        """A batch went through this stage; names are few and fixed."""
        with self._changed:
            stage = self._stages.setdefault(name, _Stage())
            stage.count += 1
            stage.seconds += seconds
            stage.last_seconds = seconds

    def waited_for_visibility(self, seconds: float) -> None:
        """A snapshot did not show a transaction of its batch at once, and was waited for so long."""
        with self._changed:
            self._visibility_waits += 1
            self._visibility_wait_seconds += seconds

    def _keep_history(self, now: float) -> None:
        """Note the lag as it is now; the lock is held."""
        self._history.lag(self._lag_seconds(now), self._lag_bytes)
        self._history.turn(self._captured, self._documents_built, now)

    def _lag_seconds(self, now: float) -> Optional[float]:
        if self._phase not in (Phase.BACKFILLING, Phase.LIVE):
            return None
        lag = self._waiting.oldest(now)
        # What happens at a source that is away is heard of later, but it waits from now on.
        away = (self._troubles.get(key) for key in ("source", "source stream"))
        return max([lag, *(now - trouble.first for trouble in away if trouble is not None)])

    def history(self) -> Tuple[Point, ...]:
        """The last hour, oldest first."""
        with self._changed:
            self._keep_history(monotonic())
            return self._history.points()

    def error(self, text: str) -> None:
        """Count an error that ended the pipeline.  The text is shown in ``/status``: no secrets, no rows."""
        with self._changed:
            self._errors += 1
            self._last_error = text
            self._events.add("error", text)
            self._changed.notify_all()

    def quarantined(self, index: str, n: int = 1) -> None:
        """So many more documents of an index were parked."""
        with self._changed:
            self._documents_quarantined += n
            self._events.parked(index, n)
            self._indexes.setdefault(index, _Index()).quarantined += n

    def set_quarantined(self, index: str, n: int) -> None:
        """So many documents of an index are parked now, as the sink says."""
        with self._changed:
            self._indexes.setdefault(index, _Index()).quarantined = n

    def events_dropped(self, n: int = 1) -> None:
        """So many events could not be handed to a slow observer."""
        with self._changed:
            self._events_dropped += n

    # -- facts --

    @property
    def confirmed(self) -> Optional[int]:
        """The position confirmed to the source last."""
        with self._changed:
            return self._confirmed

    def set_confirmed(self, lsn: int) -> None:
        """Everything up to ``lsn`` is durable and recorded."""
        with self._changed:
            self._confirmed = lsn
            now = self._progressed = monotonic()
            self._keep_history(now)
            self._changed.notify_all()

    def set_gap(self, sentence: Optional[str]) -> None:
        """Announce that changes were lost, until None says that every index is rebuilt."""
        with self._changed:
            if sentence != self._gap:
                self._events.add("gap", sentence or "every index is rebuilt after the gap")
            self._gap = sentence
            self._changed.notify_all()

    def set_fact(self, name: str, value: Any) -> None:
        """Show a JSON value in ``/status``; dots group (``slot.wal_status``, ``addresses.public``), None removes."""
        with self._changed:
            if value is None:
                self._facts.pop(name, None)
            else:
                self._facts[name] = value

    def set_figures(self, name: str, ask: Optional[Callable[[], Any]]) -> None:
        """Show what ``ask`` returns, a JSON value, to whoever looks from now on; None ends that.

        It is called from any thread, outside our lock, and must not block.
        """
        with self._changed:
            if ask is None:
                self._figures.pop(name, None)
            else:
                self._figures[name] = ask

    # -- troubles --

    def trouble(self, key: str, what: str, todo: str = "", *, blocking: bool = False) -> None:
        """Register or refresh a trouble; ``blocking`` when changes cannot flow because of it.

        Call it on every occurrence: it is logged on the first and then at doubling intervals only, also when it
        ends and comes back all the time.
        """
        now = monotonic()
        with self._changed:
            trouble = self._troubles.get(key)
            if trouble is None:
                over, former = self._past_troubles.pop(key, (0.0, None))
                if now - over > TROUBLE_QUIET_SECONDS:
                    former = None
                trouble = self._troubles[key] = _Trouble(now, former)
            trouble.what, trouble.todo, trouble.blocking = what, todo, blocking
            trouble.count += 1
            trouble.last, trouble.last_text = now, utc_now()
            count, returns, seconds = trouble.count, trouble.returns, now - trouble.first
            due = now >= trouble.log_at
            if due:
                if not trouble.said:
                    self._events.add("trouble", what)
                trouble.said = True
                trouble.log_at = now + trouble.log_interval
                trouble.log_interval = min(2 * trouble.log_interval, TROUBLE_LOG_CAP_SECONDS)
            self._changed.notify_all()
        if due:
            # Outside the lock: a slow log must not hold up whoever asks for the status.
            sentence = f"{what}{'' if what.endswith(('.', '?', '!')) else '.'} {todo}" if todo else what
            if count > 1:
                sentence += f" ({count} times in {seconds:.0f} s)"
            if returns:
                sentence += f" (came back {returns} times)"
            logger.warning("%s", sentence, extra={"trouble": key})

    def clear_trouble(self, key: str) -> bool:
        """The trouble is over; says how often and how long once.  False when there was none."""
        now = monotonic()
        with self._changed:
            trouble = self._troubles.pop(key, None)
            if trouble is None:
                return False
            self._past_troubles[key] = (now, trouble)
            while len(self._past_troubles) > PAST_TROUBLES:
                del self._past_troubles[next(iter(self._past_troubles))]
            self._progressed = now
            if trouble.said:
                self._events.add("over", f"over: {trouble.what}")
            self._changed.notify_all()
        if trouble.said:
            sentence = f"over: {trouble.what} ({trouble.count} times in {now - trouble.first:.0f} s)"
            logger.info("%s", sentence, extra={"trouble": key})
        return True

    def troubles(self) -> Tuple[Trouble, ...]:
        """Everything that is wrong now, oldest first."""
        with self._changed:
            return self._trouble_list(monotonic())

    def _trouble_list(self, now: float) -> Tuple[Trouble, ...]:
        return tuple(
            Trouble(key, t.what, t.todo, t.blocking, t.count, t.since_text, t.last_text, now - t.first)
            for key, t in self._troubles.items()
        )

    # -- threads --

    def expect_heartbeat(self, thread_name: str, within_seconds: float) -> None:
        """From now on a silence of this thread longer than ``within_seconds`` is unready."""
        with self._changed:
            self._expected[thread_name] = within_seconds
            self._beats[thread_name] = monotonic()

    def heartbeat(self, thread_name: str) -> None:
        """The thread lives and its loop turns."""
        # One store into a dict needs no lock, and this is called from the hottest loops.
        self._beats[thread_name] = monotonic()

    def forget_thread(self, thread_name: str) -> None:
        """The thread ended as it should; no more heartbeats are expected."""
        with self._changed:
            self._expected.pop(thread_name, None)
            self._beats.pop(thread_name, None)

    def forget_threads(self) -> None:
        """No thread is expected any more."""
        with self._changed:
            self._expected.clear()
            self._beats.clear()

    # -- reading --

    def ready(self) -> Tuple[bool, str]:
        """Whether changes flow or are proven idle, and one line saying why not."""
        with self._changed:
            return self._readiness(monotonic())

    def _readiness(self, now: float) -> Tuple[bool, str]:
        if self._phase not in (Phase.BACKFILLING, Phase.LIVE):
            blocking = self._first_blocking()
            return False, f"{self._phase.value}: {blocking}" if blocking else f"phase is {self._phase.value}"
        blocking = self._first_blocking()
        if blocking:
            return False, blocking
        for name, within_seconds in self._expected.items():
            silent = now - self._beats[name]
            if silent > within_seconds:
                return False, f"thread {name} has been silent for {silent:.0f} s"
        standing = now - self._progressed
        if self._in_flight > 0 and standing > self._stall_seconds:
            return False, f"{self._in_flight} changes have been waiting for {standing:.0f} s without progress"
        return True, "ok"

    def _first_blocking(self) -> Optional[str]:
        for trouble in self._troubles.values():
            if trouble.blocking:
                return " ".join(trouble.what.split())
        return None

    def snapshot(self) -> StatusSnapshot:
        """An immutable copy of everything, taken at one moment."""
        with self._changed:
            asked = dict(self._figures)
        figures = {name: value for name, value in ((name, _asked(name, ask)) for name, ask in asked.items()) if value}
        with self._changed:
            now = monotonic()
            self._keep_history(now)
            lag_seconds = self._lag_seconds(now)
            ready, reason = self._readiness(now)
            beats: List[Tuple[str, float]] = sorted(self._beats.copy().items())
            return StatusSnapshot(
                phase=self._phase,
                uptime_seconds=int(now - self._started),
                indexes={
                    name: IndexSnapshot(
                        name=name,
                        state=index.shown,
                        since=index.since,
                        documents_built=index.documents_built,
                        quarantined=index.quarantined,
                        documents_per_second=index.rate.per_second(index.documents_built, now),
                        lag_seconds=index.lag_seconds(lag_seconds, now),
                        sinks=dict(index.sinks),
                        build=None if index.build is None else index.build.snapshot(now, self._build_workers),
                        details={**index.details, **({"blind": list(index.blind)} if index.blind else {})},
                    )
                    for name, index in self._indexes.items()
                },
                changes_captured=self._captured,
                changes_committed=self._committed,
                changes_in_flight=self._in_flight,
                documents_built=self._documents_built,
                documents_quarantined=self._documents_quarantined,
                batches=self._batches,
                last_flush_micros=self._last_flush_micros,
                slot_lag_bytes=self._lag_bytes,
                errors=self._errors,
                last_error=self._last_error,
                ready=ready,
                ready_reason=reason,
                troubles=self._trouble_list(now),
                gap=self._gap,
                confirmed=self._confirmed,
                indexes_ensured=self._indexes_ensured,
                observer_events_dropped=self._events_dropped,
                changes_ignored=self._ignored,
                documents_deduplicated=self._deduplicated,
                threads=tuple(ThreadSnapshot(name, now - beat, self._expected.get(name)) for name, beat in beats),
                facts=dict(self._facts),
                lag_seconds=lag_seconds,
                changes_per_second=self._changes_rate.per_second(self._captured, now),
                documents_per_second=self._documents_rate.per_second(self._documents_built, now),
                visibility_waits=self._visibility_waits,
                visibility_wait_seconds=self._visibility_wait_seconds,
                stages={
                    name: StageSnapshot(stage.count, stage.seconds, stage.last_seconds)
                    for name, stage in self._stages.items()
                },
                figures=figures,
                events=tuple(self._events.newest(EVENTS_SHOWN)),
            )

    def wait_for(self, predicate: Callable[[], bool], timeout: Optional[float] = None) -> bool:
        """Block until ``predicate`` holds, at most ``timeout`` seconds; True when it held.

        The predicate runs under the lock after each change, so it may only look at this object's
        properties (``phase``, ``confirmed``, ``in_flight``, ``index_state``).
        """
        with self._changed:
            return self._changed.wait_for(predicate, timeout)

"""What happens in a run, told to whoever listens; listening can neither stop nor slow the engine.

:class:`Observer` is the base class with one hook per event.  Ours (``inline = True``) are cheap and run in
the thread that reports; a user's runs on a thread of its own behind a bounded queue.  :class:`FanOut`
drives them all.  No transport and no exporter is known here.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Callable, Deque, List, Mapping, Optional, Sequence, Set, Tuple

from flusso_sync.errors import FlussoError
from flusso_sync.status import IndexState, Phase, Status

logger = logging.getLogger("flusso_sync.observer")

#: Stages remembered of one batch: a huge one is written by thousands of requests.
STAGES_KEPT = 64

#: Events a slow observer may be behind; what comes on top is dropped and counted.
QUEUE_CAPACITY = 1024


@dataclass(frozen=True)
class Stage:
    """A stage that was gone through.  ``began`` is in seconds of ``time.monotonic``; ``items``: changes, or documents.

    ``name``, in the order of a batch's way: ``snapshot`` (waiting for one that shows it), ``resolve`` (tracing its
    changes), ``build`` (of its documents), ``bulk`` (a request of ``sink`` that writes them, maybe with those of other
    batches).
    """

    name: str
    began: float
    seconds: float
    items: int = 0
    sink: Optional[str] = None


@dataclass(frozen=True)
class BatchStats:
    """One durable batch.  ``documents`` counts writes, deletes included; a chunk of a build has no changes.

    ``position`` is the LSN that it confirms, if it ends with a commit; ``stages`` are those of a live batch, at most
    ``STAGES_KEPT``.
    """

    changes: int
    documents: int
    documents_by_index: Mapping[str, int] = field(default_factory=dict)
    flush_seconds: float = 0.0
    position: Optional[int] = None
    stages: Sequence[Stage] = ()


class Observer:
    """Hooks called while a daemon runs; every one does nothing until overridden.

    An observer handed to a daemon runs on a thread of its own, unless its class says ``inline = True``: then
    its hooks run in the engine's threads and must neither block nor be slow.
    """

    inline = False

    def on_indexes_ensured(self, indexes: Sequence[str]) -> None:
        """Every index exists at every sink."""

    def on_backfill_started(self, indexes: Sequence[str]) -> None:
        """These indexes are built from all their rows now."""

    def on_index_seeded(self, index: str) -> None:
        """A build is complete and readers see it."""

    def on_backfill_completed(self) -> None:
        """No build is left to do."""

    def on_live_started(self) -> None:
        """Every index has had its first build; from now on changes alone move documents."""

    def on_changes_captured(self, n: int) -> None:
        """So many changes came from the source."""

    def on_batch_committed(self, stats: BatchStats) -> None:
        """A batch is durable in every sink."""

    def on_stage(self, stage: Stage) -> None:
        """Work of one kind was done for a batch, a chunk of a build or a repair."""

    def on_slot_lag(self, bytes: int) -> None:
        """The slot's lag was sampled."""

    def on_document_quarantined(self, index: str, id: str, reason: str) -> None:
        """A document was refused and parked."""

    def on_error(self, error: BaseException) -> None:
        """The pipeline ended because of this."""


class StatusObserver(Observer):
    """Keeps a :class:`~flusso_sync.status.Status` up to date."""

    inline = True

    def __init__(self, status: Status) -> None:
        self._status = status

    def on_indexes_ensured(self, indexes: Sequence[str]) -> None:
        self._status.indexes_ensured(len(indexes))

    def on_backfill_started(self, indexes: Sequence[str]) -> None:
        # A first build delays "live"; a rebuild beside a readable generation does not.
        live = self._status.phase is Phase.LIVE
        first = False
        for index in indexes:
            if live or self._status.index_state(index) in (IndexState.REBUILDING, IndexState.SEEDED):
                self._status.set_index_state(index, IndexState.REBUILDING)
            else:
                self._status.set_index_state(index, IndexState.BACKFILLING)
                first = True
        if first:
            self._status.set_phase(Phase.BACKFILLING)

    def on_index_seeded(self, index: str) -> None:
        self._status.set_index_state(index, IndexState.SEEDED)

    def on_live_started(self) -> None:
        self._status.set_phase(Phase.LIVE)

    def on_changes_captured(self, n: int) -> None:
        self._status.captured(n)

    def on_batch_committed(self, stats: BatchStats) -> None:
        self._status.committed(stats)

    def on_stage(self, stage: Stage) -> None:
        self._status.stage(stage.name, stage.seconds)

    def on_slot_lag(self, bytes: int) -> None:
        self._status.lag(bytes)

    def on_document_quarantined(self, index: str, id: str, reason: str) -> None:
        self._status.quarantined(index, 1)

    def on_error(self, error: BaseException) -> None:
        self._status.error(_describe(error))


def _describe(error: BaseException) -> str:
    """One line: our own errors speak for themselves, others are named by their type."""
    text = " ".join(str(error).split())
    if isinstance(error, FlussoError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Detached(Observer):
    """Runs another observer's hooks on a thread of its own, in order.

    The reporting thread never waits: an event beyond ``capacity`` is dropped and counted in ``dropped``.
    What the hooks raise is logged once per hook and otherwise ignored.  ``start`` and ``stop`` may be
    called once each; events before ``start`` wait in the queue, events after ``stop`` are ignored.
    """

    inline = True
    _numbers = itertools.count(1)

    def __init__(
        self, observer: Observer, *, capacity: int = QUEUE_CAPACITY, on_drop: Optional[Callable[[int], None]] = None
    ) -> None:
        self._observer = observer
        self._capacity = capacity
        self._on_drop = on_drop
        self._events: Deque[Tuple[str, Tuple[Any, ...]]] = deque()
        self._waiting = threading.Condition()
        self._stopping = False
        self._abandoned = False
        self._dropped = 0
        self._failed: Set[str] = set()
        # A daemon thread: the code is a stranger's and may never return, which must not keep the process.
        self._thread = threading.Thread(target=self._loop, name=f"flusso-observer-{next(self._numbers)}", daemon=True)

    @property
    def dropped(self) -> int:
        """Events that never reached the observer."""
        with self._waiting:
            return self._dropped

    def start(self) -> None:
        """Start delivering."""
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Deliver what is queued for at most ``timeout`` seconds; False when the observer did not return in time."""
        with self._waiting:
            self._stopping = True
            self._waiting.notify_all()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return True
        with self._waiting:
            self._abandoned = True
            left = len(self._events)
        logger.warning("observer %s did not return in %.1f s; %d events dropped", self._name, timeout, left)
        return False

    @property
    def _name(self) -> str:
        return type(self._observer).__qualname__

    def _put(self, hook: str, *args: Any) -> None:
        with self._waiting:
            if self._stopping:
                return
            full = len(self._events) >= self._capacity
            if full:
                self._dropped += 1
                first = self._dropped == 1
            else:
                self._events.append((hook, args))
                self._waiting.notify()
        if full:
            if first:
                logger.warning("observer %s is too slow: events are dropped from now on", self._name)
            if self._on_drop is not None:
                self._on_drop(1)

    def _loop(self) -> None:
        while True:
            with self._waiting:
                while not self._events and not self._stopping:
                    self._waiting.wait(1.0)
                if self._abandoned or not self._events:
                    return
                hook, args = self._events.popleft()
            try:
                getattr(self._observer, hook)(*args)
            except BaseException:  # noqa: B036 - even SystemExit from a stranger's hook must not end deliveries
                if hook not in self._failed:
                    self._failed.add(hook)
                    logger.exception("observer %s failed in %s; logged once", self._name, hook)

    def on_indexes_ensured(self, indexes: Sequence[str]) -> None:
        self._put("on_indexes_ensured", tuple(indexes))

    def on_backfill_started(self, indexes: Sequence[str]) -> None:
        self._put("on_backfill_started", tuple(indexes))

    def on_index_seeded(self, index: str) -> None:
        self._put("on_index_seeded", index)

    def on_backfill_completed(self) -> None:
        self._put("on_backfill_completed")

    def on_live_started(self) -> None:
        self._put("on_live_started")

    def on_changes_captured(self, n: int) -> None:
        self._put("on_changes_captured", n)

    def on_batch_committed(self, stats: BatchStats) -> None:
        self._put("on_batch_committed", stats)

    def on_stage(self, stage: Stage) -> None:
        self._put("on_stage", stage)

    def on_slot_lag(self, bytes: int) -> None:
        self._put("on_slot_lag", bytes)

    def on_document_quarantined(self, index: str, id: str, reason: str) -> None:
        self._put("on_document_quarantined", index, id, reason)

    def on_error(self, error: BaseException) -> None:
        self._put("on_error", error)


class FanOut(Observer):
    """Hands every event to all observers in the order given; those not ``inline`` are detached first.

    ``start`` and ``stop`` own the threads of the detached ones.  An inline observer that raises is logged
    once per hook and neither stops the others nor reaches the caller.
    """

    inline = True

    def __init__(self, observers: Sequence[Observer], *, on_drop: Optional[Callable[[int], None]] = None) -> None:
        self._observers: List[Observer] = []
        self._detached: List[Detached] = []
        self._failed: Set[Tuple[int, str]] = set()
        for observer in observers:
            if getattr(observer, "inline", False):
                self._observers.append(observer)
            else:
                detached = Detached(observer, on_drop=on_drop)
                self._detached.append(detached)
                self._observers.append(detached)

    def start(self) -> None:
        """Start the threads of the detached observers."""
        for detached in self._detached:
            detached.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Let the detached observers finish, all of them together in at most ``timeout`` seconds."""
        deadline = monotonic() + timeout
        for detached in self._detached:
            detached.stop(max(0.0, deadline - monotonic()))

    def _tell(self, hook: str, *args: Any) -> None:
        for observer in self._observers:
            try:
                getattr(observer, hook)(*args)
            except Exception:
                key = (id(observer), hook)
                if key not in self._failed:
                    self._failed.add(key)
                    logger.exception("observer %s failed in %s; logged once", type(observer).__qualname__, hook)

    def on_indexes_ensured(self, indexes: Sequence[str]) -> None:
        self._tell("on_indexes_ensured", indexes)

    def on_backfill_started(self, indexes: Sequence[str]) -> None:
        self._tell("on_backfill_started", indexes)

    def on_index_seeded(self, index: str) -> None:
        self._tell("on_index_seeded", index)

    def on_backfill_completed(self) -> None:
        self._tell("on_backfill_completed")

    def on_live_started(self) -> None:
        self._tell("on_live_started")

    def on_changes_captured(self, n: int) -> None:
        self._tell("on_changes_captured", n)

    def on_batch_committed(self, stats: BatchStats) -> None:
        self._tell("on_batch_committed", stats)

    def on_stage(self, stage: Stage) -> None:
        self._tell("on_stage", stage)

    def on_slot_lag(self, bytes: int) -> None:
        self._tell("on_slot_lag", bytes)

    def on_document_quarantined(self, index: str, id: str, reason: str) -> None:
        self._tell("on_document_quarantined", index, id, reason)

    def on_error(self, error: BaseException) -> None:
        self._tell("on_error", error)

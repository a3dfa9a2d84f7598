"""The sink writer: order, waiting and judgement of writes, the same for every sink.

The engine thread alone enqueues (design section 4, write protocol a).  A lane is one document: while a request
holding (index, id) is unresolved, no other write of it is sent; a newer write takes the place of one that
still waits, with everything that waited for it.  Live writes go before those of builds, which still get their share.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Protocol, Sequence, Set, Tuple, Union

from flusso_sync.backoff import Backoff, Outage, wait_out
from flusso_sync.engine.pace import Stride
from flusso_sync.engine.policies import FailurePolicies, OnError, mostly_rejected
from flusso_sync.errors import DocumentRejected, PayloadTooLarge, SinkUnavailable
from flusso_sync.observer import Observer, Stage
from flusso_sync.sinks.base import Failure, FailureKind, Rejected, Sink, Write
from flusso_sync.status import Status, format_lsn

log = logging.getLogger(__name__)

Lane = Tuple[str, str]

#: ``Write.state``
WAITING, SENT, GONE = 0, 1, 2

#: A live write this recent keeps one of the sink's requests free of builds (settled.md section 5).
LIVE_RECENTLY_SECONDS = 1.0

#: While live writes wait, builds still get one of so many writes, and each request counts as so many writes more.
BUILD_SHARE = 5
REQUEST_WRITES = 50

#: Of a sink that takes one request at a time: about how long one of a build is under way, while there are live writes
#: that would wait for it, and how many writes it takes at least.
SINGLE_REQUEST_SECONDS = 0.02
FEWEST_WRITES = 20

#: A refresh that failed is tried again after this.
REFRESH_AGAIN_SECONDS = 1.0

#: Beyond this many waiting bytes the engine builds no further documents for a sink.
ROOM_BYTES = 8 * 1024 * 1024

#: What a waiting write weighs beside its body.
WRITE_OVERHEAD_BYTES = 500

#: How long a request of ours may be held up on its way and arrive all the same; ``gc_deletes`` of settled.md section 5.
LATE_SECONDS = 600.0

#: Deletes and writes in doubt that are remembered for so long, at most.
MOST_AT_RISK = 100_000


class Token(Protocol):
    """Something that waits for writes: a ledger entry, a chunk of a build."""

    def hold(self, count: int = 1) -> None: ...

    def release(self, count: int = 1) -> None: ...

    def note(self, stage: Stage) -> None: ...


class SinkWriter:
    """The queue of one sink and the loop its ``concurrency`` threads run."""

    def __init__(
        self,
        sink: Sink,
        *,
        policies: FailurePolicies,
        observer: Observer,
        status: Status,
        stop: threading.Event,
        caught_up: Callable[[], bool],
        confirmed: Callable[[], int] = lambda: 0,
        room_bytes: int = ROOM_BYTES,
    ) -> None:
        self.sink = sink
        self._policies = policies
        self._observer = observer
        self._status = status
        self._stop = stop
        self._caught_up = caught_up
        self._confirmed = confirmed
        self._room_bytes = room_bytes
        self._changed = threading.Condition()
        self._live: Deque[Write] = deque()
        self._patient: Deque[Write] = deque()
        self._waiting: Dict[Lane, Write] = {}
        self._in_flight: Set[Lane] = set()
        self._live_bytes = 0
        self._patient_bytes = 0
        self._patient_in_flight = 0
        #: What builds are owed of the live writes that went before theirs, in writes; below 0 what they had of it.
        self._owed = 0
        #: How many writes one request of a build takes where live writes wait for it.
        self._stride = Stride(sink.max_actions, SINGLE_REQUEST_SECONDS, FEWEST_WRITES)
        self._live_at = float("-inf")
        #: Indexes with live writes that no refresh has made searchable yet.
        self._dirty: Set[str] = set()
        self._refreshing = False
        #: Documents that a request which arrives late would set back if the sink forgot their versions, and when they
        #: were deleted, or sent by a request whose fate nobody knows; oldest first.
        self._at_risk: Dict[Lane, float] = {}
        #: Everything confirmed up to here was searchable after the last refresh.
        self._searchable = -1
        #: What was confirmed when the refresh under way began.
        self._refreshing_to = -1
        #: Somebody waits for a refresh, so it is due although more writes are on their way.
        self._refresh_wanted = False
        #: After a refresh that failed, the next one comes no sooner than this.
        self._refresh_at = float("-inf")
        # What failed may since have been handed to a write of another request, so the outage is the sink's.
        self._outage = Outage(status, f"sink {sink.name}")
        self._requests = self._requests_in_flight = self._written = self._retries = 0
        #: How often something was enqueued or parked by the engine: what comes later was read later (``Write.order``).
        self._order = 0
        #: Parked documents, and the order of what was refused: only a later write makes one right.
        self._parked: Dict[Lane, int] = {(index, id): 0 for index, ids in sink.quarantined().items() for id in ids}
        #: Held while the quarantine is changed, or one who frees a document could forget another's later parking of it;
        #: whoever waits in place for the sink meanwhile ends with the stop event.
        self._parking = threading.Lock()

    # -- the engine's side ------------------------------------------------------------------------

    def enqueue(self, writes: Sequence[Write], token: Token) -> None:
        """Queue writes, the newest of their ids; ``token`` is released once for each when it is durable."""
        token.hold(len(writes))
        with self._changed:
            self._order += 1
            for write in writes:
                lane = (write.index, write.id)
                older = self._waiting.get(lane)
                write.order = self._order
                write.tokens.append(token)
                if older is not None:
                    if write.build and not older.build:
                        # Never a build over a live write: the live one is as new as anything we could say.
                        older.tokens.append(token)
                        continue
                    self._forget(older)
                    if older.build == write.build and (write.patient or not older.patient):
                        # In its place: a sink that is away must not make a queue of what one hot document once was.
                        older.body, older.version, older.lsn = write.body, write.version, write.lsn
                        older.generation, older.order = write.generation, write.order
                        older.tokens.append(token)
                        self._weigh(older)
                        continue
                    older.state, older.body = GONE, None
                    write.tokens.extend(older.tokens)
                    write.doubt = older.doubt
                self._waiting[lane] = write
                self._remember(write)
            if writes and not writes[0].patient:
                self._live_at = time.monotonic()
            self._changed.notify_all()

    def wait_room(self, *, patient: bool, timeout: float) -> bool:
        """True once there is room for more live or ``patient`` writes; False after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while (self._patient_bytes if patient else self._live_bytes) >= self._room_bytes:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._changed.wait(remaining)
            return True

    def has_room(self, *, patient: bool) -> bool:
        with self._changed:
            return (self._patient_bytes if patient else self._live_bytes) < self._room_bytes

    def serves_live(self) -> bool:
        """Whether live writes wait, or came lately: what is patient should not take all there is."""
        with self._changed:
            return self._live_lately()

    def touch(self, index: str) -> None:
        """Patient writes to the readable generation of ``index`` are durable: have them found by search, too."""
        with self._changed:
            self._dirty.add(index)
            # They may belong to a position that was searchable but for them.
            self._searchable = self._refreshing_to = -1
            self._changed.notify_all()

    def wait_searchable(self, position: int, timeout: float) -> bool:
        """True once what was confirmed up to ``position`` is found by search; False after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._searchable < position and (self._dirty or self._refreshing):
                self._refresh_wanted = True
                self._changed.notify_all()
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._stop.is_set():
                    return False
                self._changed.wait(min(remaining, 0.5))
            return True

    def wait_clear(self, index: str, timeout: float) -> bool:
        """True once no write of ``index`` waits or is on its way; False after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while any(lane[0] == index for held in (self._waiting, self._in_flight) for lane in held):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._changed.wait(remaining)
            return True

    def forget_builds(self, index: str) -> None:
        """Drop the waiting build writes of an index whose build starts over; their tokens stay held."""
        with self._changed:
            for write in [w for w in self._patient if w.build and w.index == index and w.state == WAITING]:
                self._forget(write)
                write.state, write.body = GONE, None
                del self._waiting[(write.index, write.id)]
            self._changed.notify_all()

    def park(self, rejected: Sequence[Rejected], token: Token) -> None:
        """Judge documents that the source could not render: the same policies as a sink's refusal."""
        token.hold(len(rejected))
        with self._changed:
            self._order += 1
            order = self._order
        self._park([(document, order) for document in rejected], Counter())
        token.release(len(rejected))

    def at_risk(self, index: str) -> List[str]:
        """Ids of ``index`` that were deleted lately, or written by a request whose fate nobody knows."""
        with self._changed:
            self._forget_risks()
            return [id for name, id in self._at_risk if name == index]

    def wake(self) -> None:
        """Let the threads look at the stop event now."""
        with self._changed:
            self._changed.notify_all()

    def figures(self) -> Dict[str, Any]:
        """What waits, what is on its way, and what was done since the start; for people."""
        with self._changed:
            return {
                "waiting": len(self._waiting),
                "waiting_bytes": self._live_bytes + self._patient_bytes,
                "requests_in_flight": self._requests_in_flight,
                "concurrency": self.sink.concurrency,
                "requests": self._requests,
                "written": self._written,
                "retries": self._retries,
            }

    # -- the threads' side --------------------------------------------------------------------------

    def loop(self) -> None:
        """Send requests until stop; what still waits then is left alone, for it is not confirmed either."""
        while True:
            taken = self._take()
            if taken is None:
                return
            if isinstance(taken, set):
                self._refresh(taken)
                continue
            writes, patient = taken
            begun = time.monotonic()
            try:
                self._send(writes)
                if patient:
                    self._stride.took(len(writes), time.monotonic() - begun)
            finally:
                with self._changed:
                    if patient:
                        self._patient_in_flight -= 1
                    for write in writes:
                        # One that was superseded while it waited gave its lane up already.
                        if write.state == SENT:
                            self._in_flight.discard((write.index, write.id))
                    self._changed.notify_all()

    def _remember(self, write: Write) -> None:
        (self._patient if write.patient else self._live).append(write)
        self._weigh(write)

    def _weigh(self, write: Write) -> None:
        weight = (len(write.body) if write.body is not None else 0) + WRITE_OVERHEAD_BYTES
        if write.patient:
            self._patient_bytes += weight
        else:
            self._live_bytes += weight

    def _forget(self, write: Write) -> None:
        weight = (len(write.body) if write.body is not None else 0) + WRITE_OVERHEAD_BYTES
        if write.patient:
            self._patient_bytes -= weight
        else:
            self._live_bytes -= weight

    def _refresh(self, indexes: Set[str]) -> None:
        """Make what was written searchable now, because nothing more is on its way or somebody waits for it."""
        done = False
        try:
            self.sink.refresh(sorted(indexes))
            done = True
        except SinkUnavailable as error:
            # The writes are durable; the sink's own interval may refresh them before we can.
            log.debug("sink %s was not refreshed: %s", self.sink.name, error)
        finally:
            with self._changed:
                if done:
                    self._searchable = max(self._searchable, self._refreshing_to)
                else:
                    self._dirty.update(indexes)
                    self._refresh_at = time.monotonic() + REFRESH_AGAIN_SECONDS
                self._refreshing = False
                self._changed.notify_all()

    def _take(self) -> "Union[Tuple[List[Write], bool], Set[str], None]":
        """The writes of the next request, their lanes taken, or the indexes to refresh; None at stop."""
        name = threading.current_thread().name
        with self._changed:
            while not self._stop.is_set():
                self._status.heartbeat(name)
                if self._owed > 0:
                    writes = self._take_patient()
                    if writes:
                        self._owed -= (BUILD_SHARE - 1) * (len(writes) + REQUEST_WRITES)
                        return writes, True
                if self._refresh_wanted and self._refresh_due():
                    writes = []
                else:
                    writes = self._collect(self._live, self.sink.max_actions)
                if writes:
                    self._owe(len(writes))
                    return writes, False
                if self._refresh_due():
                    # One refresh at a time: meanwhile the other requests write on.
                    indexes, self._dirty = self._dirty, set()
                    self._refreshing, self._refresh_wanted = True, False
                    # Under the lock: whatever is confirmed by now was marked dirty before.
                    self._refreshing_to = self._confirmed()
                    return indexes
                writes = self._take_patient()
                if writes:
                    # Nobody had to wait for that.
                    self._owed = 0
                    return writes, True
                self._changed.wait(0.5)
            return None

    def _take_patient(self) -> List[Write]:
        if not self._patient or self._patient_in_flight >= self._patient_limit():
            return []
        most = self.sink.max_actions
        if self.sink.concurrency == 1 and self._live_lately():
            most = min(most, self._stride.rows)
        writes = self._collect(self._patient, most)
        if writes:
            self._patient_in_flight += 1
        return writes

    def _owe(self, writes: int) -> None:
        """So many live writes go before those of builds; the lock is held."""
        if not self._patient:
            self._owed = 0
            return
        # No more than the largest request is worth, or builds would come in bursts.
        most = (BUILD_SHARE - 1) * (self.sink.max_actions + REQUEST_WRITES)
        self._owed = min(most, self._owed + writes + REQUEST_WRITES)

    def _refresh_due(self) -> bool:
        if not self._dirty or self._refreshing or time.monotonic() < self._refresh_at:
            return False
        return self._refresh_wanted or self._caught_up()

    def _patient_limit(self) -> int:
        if self._live_lately():
            return max(1, self.sink.concurrency - 1)
        return self.sink.concurrency

    def _live_lately(self) -> bool:
        """The lock is held."""
        return bool(self._live) or time.monotonic() - self._live_at < LIVE_RECENTLY_SECONDS

    def _collect(self, source: Deque[Write], most: int) -> List[Write]:
        taken: List[Write] = []
        blocked: List[Write] = []
        size = 0
        most_bytes = self.sink.max_bytes
        while source and len(taken) < most and len(blocked) < most:
            write = source[0]
            if write.state != WAITING:
                source.popleft()
                continue
            lane = (write.index, write.id)
            if lane in self._in_flight:
                blocked.append(source.popleft())
                continue
            length = len(write.body) if write.body is not None else 0
            if taken and size + length > most_bytes:
                break
            source.popleft()
            write.state = SENT
            self._forget(write)
            del self._waiting[lane]
            self._in_flight.add(lane)
            taken.append(write)
            size += length
        source.extendleft(reversed(blocked))
        return taken

    def _send(self, writes: List[Write]) -> None:
        """Carry ``writes`` out to the end, whatever it takes; releases their tokens."""
        backoff = Backoff()
        while writes:
            try:
                failures, stage = self._request(writes)
            except PayloadTooLarge as error:
                if len(writes) == 1:
                    self._reject([(writes[0], error.message)], Counter({writes[0].index: 1}))
                    return
                half = len(writes) // 2
                self._send(writes[:half])
                writes = writes[half:]
                continue
            except SinkUnavailable as error:
                for write in writes:
                    write.doubt = write.doubt or error.in_doubt
                if error.in_doubt:
                    self._remember_risks(writes)
                with self._changed:
                    self._retries += len(writes)
                self._outage.sit_out(error, backoff, self._stop)
                writes = self._newest(writes)
                continue
            if not any(failure.kind is FailureKind.RETRY for failure in failures):
                self._outage.over()
            writes = self._judge(writes, failures, stage)
            if writes:
                with self._changed:
                    self._retries += len(writes)
                reason = next(f for f in failures if f.kind is FailureKind.RETRY)
                self._outage.goes_on(f"sink {self.sink.name} asks to wait: {reason.reason}", "It is asked again.")
                backoff.wait(self._stop, reason.retry_after_seconds)
                writes = self._newest(writes)

    def _request(self, writes: List[Write]) -> Tuple[Sequence[Failure], Stage]:
        began = time.monotonic()
        with self._changed:
            self._requests_in_flight += 1
        try:
            failures = self.sink.write(writes)
        finally:
            with self._changed:
                self._requests_in_flight -= 1
                self._requests += 1
        stage = Stage("bulk", began, time.monotonic() - began, len(writes), self.sink.name)
        self._observer.on_stage(stage)
        return failures, stage

    def _insist(self, action: Callable[[], None]) -> None:
        """Wait in place for as long as the sink is away: no thread ends because of that (promise 10)."""
        wait_out(action, self._stop, self._status, f"quarantine of sink {self.sink.name}")

    def _judge(self, writes: List[Write], failures: Sequence[Failure], stage: Stage) -> List[Write]:
        """Release what is durable, park what is refused, and return what must be sent again."""
        if not failures:
            self._durable(writes, stage)
            return []
        failed = {failure.position: failure for failure in failures}
        again: List[Write] = []
        rejected: List[Tuple[Write, str]] = []
        done: List[Write] = []
        for position, write in enumerate(writes):
            failure = failed.get(position)
            if failure is None:
                done.append(write)
            elif failure.kind is FailureKind.RETRY:
                write.tries += 1
                again.append(write)
            elif failure.kind is FailureKind.CONFLICT:
                if not write.doubt and not write.tries:
                    # Nobody but us writes with our versions, and we never overtake ourselves (settled.md section 4).
                    # Which document is for the log alone: an id may be an address, and everybody may read troubles.
                    log.warning("sink %s: a newer version of %s/%s", self.sink.name, write.index, write.id)
                    self._status.trouble(
                        f"versions in sink {self.sink.name}",
                        f"sink {self.sink.name} holds a newer version of a document of index {write.index} than we "
                        "ever wrote",
                        "Somebody else writes to the index, or the source was set back; rebuild the index.",
                        blocking=False,
                    )
                done.append(write)
            else:
                rejected.append((write, failure.reason))
        self._durable(done, stage)
        if rejected:
            # Those that were parked before say nothing new: to try a hundred of them again is no fault of the mapping.
            self._reject(rejected, self._unparked((write.index, write.id) for write in writes))
        return again

    def _remember_risks(self, writes: Sequence[Write]) -> None:
        now = time.monotonic()
        with self._changed:
            for write in writes:
                lane = (write.index, write.id)
                self._at_risk.pop(lane, None)
                self._at_risk[lane] = now
            self._forget_risks()

    def _forget_risks(self) -> None:
        """Drop what is too old to matter, and the oldest of what is too much; the lock is held."""
        until = time.monotonic() - LATE_SECONDS
        while self._at_risk:
            oldest = next(iter(self._at_risk))
            if len(self._at_risk) <= MOST_AT_RISK and self._at_risk[oldest] > until:
                return
            del self._at_risk[oldest]

    def _durable(self, writes: Sequence[Write], stage: Stage) -> None:
        with self._changed:
            self._written += len(writes)
        deleted = [write for write in writes if write.body is None and not write.build]
        if deleted:
            self._remember_risks(deleted)
        live = {write.index for write in writes if not write.patient}
        if live:
            # Before anybody hears that they are durable, or a wait for the search would not wait for these.
            with self._changed:
                self._dirty.update(live)
        if self._parked:
            with self._parking:
                self._free(writes)
        _release(writes, stage)

    def _free(self, writes: Sequence[Write]) -> None:
        """Let what was parked before ``writes`` were enqueued leave the quarantine; ``_parking`` is held."""
        freed: Dict[str, List[str]] = {}
        with self._changed:
            for write in writes:
                if write.order > self._parked.get((write.index, write.id), write.order):
                    freed.setdefault(write.index, []).append(write.id)
        for index, ids in freed.items():
            self._insist(lambda i=index, gone=ids: self.sink.release(i, gone))  # type: ignore[misc]
            with self._changed:
                for id in ids:
                    del self._parked[(index, id)]
            self._count_parked(index)

    def _reject(self, rejected: Sequence[Tuple[Write, str]], sent: "Counter[str]") -> None:
        self._park(
            [
                (Rejected(write.index, write.id, reason, write.lsn, delete=write.body is None), write.order)
                for write, reason in rejected
            ],
            sent,
        )
        _release([write for write, _ in rejected])

    def _unparked(self, lanes: Iterable[Lane]) -> "Counter[str]":
        with self._changed:
            return Counter(lane[0] for lane in lanes if lane not in self._parked)

    def _park(self, refused: Sequence[Tuple[Rejected, int]], sent: "Counter[str]") -> None:
        """Judge documents, each with the order of what was refused, and put them into the quarantine."""
        rejected = [document for document, _ in refused]
        counts = Counter(document.index for document in rejected)
        fresh = self._unparked((document.index, document.id) for document in rejected)
        for document in rejected:
            if self._policies.of(document.index) is OnError.STOP:
                raise DocumentRejected(
                    f"sink {self.sink.name} refused {counts[document.index]} document(s) of index {document.index}, "
                    f"for example {document.id!r}: {document.reason}",
                    hint="Mend the row or the schema, or set on_error: skip to park such documents",
                    index=document.index,
                )
            if mostly_rejected(sent[document.index], fresh[document.index]):
                raise DocumentRejected(
                    f"sink {self.sink.name} refused {fresh[document.index]} of {sent[document.index]} documents "
                    f"of index {document.index}, for example {document.id!r}: {document.reason}",
                    hint="So many at once show a fault of the mapping; see why and rebuild the index",
                    index=document.index,
                )
        with self._parking:
            self._insist(lambda: self.sink.quarantine(rejected))
            with self._changed:
                for document, order in refused:
                    lane = (document.index, document.id)
                    # What is refused last may have been read first.
                    self._parked[lane] = max(order, self._parked.get(lane, 0))
        for document in rejected:
            log.warning(
                "document %s/%s parked: %s",
                document.index,
                document.id,
                document.reason,
                extra={"index": document.index, "lsn": format_lsn(document.lsn)},
            )
            self._observer.on_document_quarantined(document.index, document.id, document.reason)
        # Last: the observer counted those again that were parked before.
        for index in counts:
            self._count_parked(index)

    def _count_parked(self, index: str) -> None:
        with self._changed:
            count = sum(1 for lane in self._parked if lane[0] == index)
        self._status.set_quarantined(index, count)

    def _newest(self, writes: List[Write]) -> List[Write]:
        """What is left to send again: a write that a waiting one supersedes hands its tokens over."""
        kept: List[Write] = []
        with self._changed:
            for write in writes:
                lane = (write.index, write.id)
                newer = self._waiting.get(lane)
                if newer is None or (newer.build and not write.build):
                    # A build's write goes to the generation being built alone, so it cannot stand for a live one.
                    kept.append(write)
                    continue
                newer.tokens.extend(write.tokens)
                newer.doubt = newer.doubt or write.doubt
                write.state = GONE
                self._in_flight.discard(lane)
            self._changed.notify_all()
        return kept


def _release(writes: Sequence[Write], stage: Optional[Stage] = None) -> None:
    """Tell every token how many of its writes are durable; one call per token, whatever the batch."""
    counts: Dict[int, int] = {}
    tokens: Dict[int, Token] = {}
    for write in writes:
        for token in write.tokens:
            key = id(token)
            if key in counts:
                counts[key] += 1
            else:
                counts[key] = 1
                tokens[key] = token  # type: ignore[assignment]
        write.tokens = []
    for key, token in tokens.items():
        if stage is not None:
            token.note(stage)
        token.release(counts[key])

"""The engine: runs of changes in, document writes out, in an order that is always right.

One thread owns everything here.  It takes what the queue holds, opens one snapshot in which all those
transactions are visible, traces the changes to documents, has them built, and enqueues them at every sink;
the sinks' threads write them while the next batch is built.  Chunks of builds pass through the same thread,
so that no old read is ever enqueued over a new one (design section 4).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from flusso_sync.backoff import Stopped, wait_out
from flusso_sync.engine.countdown import Countdown
from flusso_sync.engine.ledger import Entry, Ledger
from flusso_sync.engine.queue import ChangeQueue
from flusso_sync.engine.seeding import Finished, Pending
from flusso_sync.engine.source import ChangeRun, Document, Documents, Resolution, Snapshot, Spread
from flusso_sync.engine.writer import SinkWriter, Token
from flusso_sync.observer import BatchStats, Observer, Stage
from flusso_sync.sinks.base import Rejected, Write
from flusso_sync.status import Status

if TYPE_CHECKING:
    from flusso_sync.engine.spread import Spreader

log = logging.getLogger(__name__)

#: Chunks read ahead of the engine; what a worker has read waits here, so this times the bytes of a chunk is held.  Of
#: small chunks more are let in, up to so many bytes, or each would wait for a live batch.
CHUNKS_AHEAD = 2
BYTES_AHEAD = 4 * 1024 * 1024

#: The least that is enqueued of chunks between two live batches, in documents; beyond it, as many as the batch had.  It
#: bounds how slow a build can become, and how long a live change waits for chunks: some 10 ms.
FEWEST_CHUNK_DOCUMENTS = 5000

#: Batches on their way at the most: what is remembered of a batch must not grow with an outage of a sink.
OPEN_ENTRIES = 4096

#: Pause while no sink has room, and the longest an idle engine sleeps between two signs of life.
ROOM_WAIT_SECONDS = 0.5
IDLE_SECONDS = 1.0


class _Part(Countdown):
    """Waits for the writes of one part of a chunk and reports them when durable."""

    __slots__ = ("_pending", "_documents", "_observer", "_started")

    def __init__(self, pending: Pending, documents: int, observer: Observer) -> None:
        super().__init__(self._report)
        self._pending = pending
        self._documents = documents
        self._observer = observer
        self._started = time.monotonic()
        pending.hold()

    def _report(self) -> None:
        if self._documents:
            index = self._pending.work.index
            self._observer.on_batch_committed(
                BatchStats(0, self._documents, {index: self._documents}, time.monotonic() - self._started)
            )
        self._pending.release()


class Mend(Countdown):
    """Documents to be read and written again although no change asks for it; a token of the writers.

    ``ghosts`` are ids that no key gives: their documents are deleted.  ``done`` is set once each of them is durable, or
    parked again.
    """

    def __init__(self, index: str, keys: Sequence[Any], ghosts: Sequence[str] = ()) -> None:
        self.done = threading.Event()
        super().__init__(self._finish)
        self.index = index
        self.left: Sequence[Any] = keys
        self.ghosts: Sequence[str] = ghosts
        self._overtaken: List[Pending] = []

    def overtake(self, pendings: Sequence[Pending]) -> None:
        """Let the chunks that lost ids to this wait for it: after a crash the stream does not bring these again."""
        for pending in pendings:
            pending.hold()
        self._overtaken.extend(pendings)

    def _finish(self) -> None:
        for pending in self._overtaken:
            pending.release()
        self.done.set()


class Engine:
    """Turns the queue into writes.  ``loop`` runs on its thread; ``register`` and ``submit`` are called by build
    threads."""

    def __init__(
        self,
        queue: ChangeQueue,
        documents: Documents,
        writers: Sequence[SinkWriter],
        ledger: Ledger,
        *,
        status: Status,
        observer: Observer,
        stop: threading.Event,
        draining: threading.Event,
        rebuild: Callable[[Mapping[str, str]], None],
        batch_changes: int,
        heartbeat: str,
    ) -> None:
        self._queue = queue
        self._documents = documents
        self._writers = tuple(writers)
        self._ledger = ledger
        self._status = status
        self._observer = observer
        self._stop = stop
        self._draining = draining
        self._rebuild = rebuild
        self._batch_changes = batch_changes
        self._heartbeat = heartbeat
        #: With the bytes of each.
        self._finished: Deque[Tuple[Finished, int]] = deque()
        self._ahead_bytes = 0
        self._mends: Deque[Mend] = deque()
        self._space = threading.Condition()
        #: By index; added to by build threads, and by nobody else, under the lock.
        self._pending: Dict[str, List[Pending]] = {}
        self._registering = threading.Lock()
        #: Set once the engine takes nothing new because it is drained.
        self.idle = threading.Event()
        #: Where changes go that show in too many documents; set once, before ``loop``.
        self.spreader: Optional[Spreader] = None
        #: The highest version any write was given: the high-water mark of settled.md section 4.
        self.version = 0

    # -- called by build threads ----------------------------------------------------------------------

    def register(self, pending: Pending) -> None:
        """Register a chunk's ids as pending: whatever live write is enqueued from now on removes its id from them.

        A live write that was enqueued before was read before, too: by the time this returns, the snapshot that the
        chunk is then read in is a later one.
        """
        with self._registering:
            self._pending.setdefault(pending.work.index, []).append(pending)

    def submit(self, finished: Finished) -> None:
        """Hand a chunk's documents over; blocks while the engine has enough of them."""
        size = sum(len(document.body) for document in finished.documents if document.body is not None)
        with self._space:
            while len(self._finished) >= CHUNKS_AHEAD and self._ahead_bytes + size > BYTES_AHEAD:
                if self._stop.is_set():
                    raise Stopped
                self._space.wait(IDLE_SECONDS)
            self._finished.append((finished, size))
            self._ahead_bytes += size
        self._queue.ring()

    def mend(self, index: str, keys: Sequence[Any], ghosts: Sequence[str] = ()) -> Mend:
        """Have the documents of ``keys`` read and written again, and those of the ids ``ghosts`` deleted, between live
        batches; returns at once."""
        mend = Mend(index, keys, ghosts)
        self._mends.append(mend)
        self._queue.ring()
        return mend

    # -- the engine's thread ----------------------------------------------------------------------------

    def loop(self) -> None:
        """Work until stop; once ``draining`` is set, take nothing new and say so by ``idle``."""
        while not self._stop.is_set():
            self._status.heartbeat(self._heartbeat)
            if self._draining.is_set():
                self.idle.set()
                self._stop.wait(0.02)
                continue
            waiting = bool(self._mends) or bool(self._finished) and self._chunk_room()
            if self._live_room():
                runs = self._queue.take(self._batch_changes, 0.0 if waiting else self._pause())
                if runs:
                    self._process(runs)
                self._mend()
            # Else the sinks are behind: let the queue fill.
            self._take_chunks()

    def _pause(self) -> float:
        # A finished chunk that no sink has room for is looked at again soon; nothing rings for it.
        return 0.01 if self._finished else IDLE_SECONDS

    def _live_room(self) -> bool:
        return self._ledger.wait_room(OPEN_ENTRIES, ROOM_WAIT_SECONDS) and all(
            writer.wait_room(patient=False, timeout=ROOM_WAIT_SECONDS) for writer in self._writers
        )

    def _chunk_room(self) -> bool:
        return all(writer.has_room(patient=True) for writer in self._finished[0][0].pending.work.targets)

    def _process(self, runs: Sequence[ChangeRun]) -> None:
        """Make every document that shows a change of ``runs`` right again."""
        changes = sum(len(run.changes) for run in runs)
        position = next((run.commit for run in reversed(runs) if run.commit is not None), None)
        entry = self._ledger.open(position, changes)
        for _ in runs:
            # Only now: a run is in the queue or in the ledger, never in neither.
            self._queue.task_done()
        if changes:
            work = _Batch(runs)
            while not work.done:
                wait_out(lambda: self._advance(work, entry), self._stop, self._status, "source documents")
                while not work.done:
                    # A large batch takes many snapshots, and builds have their share beside each.
                    self._take_chunks(work.built)
                    if self._live_room():
                        break
                    if self._stop.is_set():
                        raise Stopped
                    self._status.heartbeat(self._heartbeat)
        entry.release()

    def _advance(self, work: "_Batch", entry: Entry) -> None:
        """One snapshot's worth of a batch: trace it if that is still to do, then build what fits."""
        built: List[Tuple[str, List[Document]]] = []
        began = time.monotonic()
        with self._documents.snapshot(work.runs, self._stop) as snapshot:
            began = self._went_through("snapshot", began, entry.changes, entry)
            if work.left is None:
                resolution = snapshot.resolve(work.runs)
                work.begin(resolution)
                began = self._went_through("resolve", began, entry.changes, entry)
            left = _build(snapshot, work.left or {}, built)
            version = snapshot.version
        self._went_through("build", began, sum(len(documents) for _, documents in built), entry)
        self.version = max(self.version, version)
        if work.rebuild:
            self._wait_clear(work.rebuild)
            self._rebuild(work.rebuild)
            work.rebuild = {}
        for index, documents in built:
            entry.documents[index] = entry.documents.get(index, 0) + len(documents)
            self._overtake(index, documents)
            self._enqueue_live(index, documents, version, entry, entry.position or 0)
        work.built = sum(len(documents) for _, documents in built)
        work.left = left
        # Last: while it waits, chunks are enqueued, and theirs may be later reads than what was built here.
        while work.spread:
            self._spread(work.spread[0], entry)
            work.spread = work.spread[1:]

    def _went_through(self, name: str, began: float, items: int, entry: Entry) -> float:
        """Tell of a stage that ends now; returns now."""
        now = time.monotonic()
        stage = Stage(name, began, now - began, items)
        entry.note(stage)
        self._observer.on_stage(stage)
        return now

    def _spread(self, spread: Spread, entry: Entry) -> None:
        """Make a job of a change that shows in too many documents to build them here."""
        spreader = self.spreader
        if spreader is None:
            raise AssertionError("a source spreads changes and nobody takes them")
        while not spreader.has_room():
            if self._stop.is_set():
                raise Stopped
            # Whoever makes the room may be waiting for its documents to be taken.
            self._status.heartbeat(self._heartbeat)
            self._take_chunks()
            self._stop.wait(0.01)
        # Inside a transaction its end is not known yet; what is at an unknown place is waited for by everybody.
        spreader.add(spread, entry.position or 0, entry)

    def _wait_clear(self, indexes: Iterable[str]) -> None:
        """Wait until nothing of ``indexes`` is on its way, and give up what else was read of them for every generation.

        What was read before a TRUNCATE must not reach the generation that begins with it: no later change would ever
        delete it there.  What is given up, that generation's build reads again.
        """
        with self._registering:
            # Not the chunks of builds: one that is about to be complete would lack them where readers look.
            live = [one for index in indexes for one in self._pending.get(index, ()) if one.work.live]
        for pending in live:
            pending.ids.clear()
        for writer in self._writers:
            for index in indexes:
                while not writer.wait_clear(index, ROOM_WAIT_SECONDS):
                    if self._stop.is_set():
                        raise Stopped
                    self._status.heartbeat(self._heartbeat)

    def _enqueue_live(self, index: str, documents: Sequence[Document], version: int, token: Token, lsn: int) -> None:
        rejected = [Rejected(index, d.id, d.error, lsn) for d in documents if d.error is not None]
        for writer in self._writers:
            writer.enqueue(
                [Write(index, d.id, d.body, version, False, lsn) for d in documents if d.error is None], token
            )
            if rejected:
                writer.park(rejected, token)

    def _mend(self) -> None:
        """Read again what fits into one snapshot of the first mend; the rest of it comes after the next live batch."""
        if not self._mends:
            return
        mend = self._mends[0]
        if mend.left or mend.ghosts:
            wait_out(lambda: self._read_again(mend), self._stop, self._status, "source documents")
        if not mend.left:
            self._mends.popleft()
            mend.release()

    def _read_again(self, mend: Mend) -> None:
        documents: List[Document] = []
        left: Sequence[Any] = ()
        with self._documents.snapshot((), self._stop) as snapshot:
            if mend.left:
                documents, left = snapshot.build(mend.index, mend.left)
            version = snapshot.version
        self.version = max(self.version, version)
        documents = [*documents, *(Document(id, None) for id in mend.ghosts)]
        mend.overtake(self._overtake(mend.index, documents))
        self._enqueue_live(mend.index, documents, version, mend, 0)
        mend.left, mend.ghosts = left, ()

    def _take_chunks(self, live: int = 0) -> None:
        """Enqueue what is finished of chunks and has room: after ``live`` documents of a batch, about as many."""
        most = max(FEWEST_CHUNK_DOCUMENTS, live)
        while most > 0 and self._finished and self._chunk_room():
            with self._space:
                finished, size = self._finished.popleft()
                if len(finished.documents) > most:
                    self._finished.appendleft((finished._replace(documents=finished.documents[most:]), size))
                    finished = finished._replace(documents=finished.documents[:most], last=False)
                else:
                    self._ahead_bytes -= size
                    self._space.notify_all()
            # A chunk without documents costs something as well.
            most -= len(finished.documents) or 1
            self._take_chunk(finished)

    def _take_chunk(self, finished: Finished) -> None:
        """Enqueue documents of a chunk, those that no live write overtook."""
        pending, work = finished.pending, finished.pending.work
        if not work.cancelled:
            documents = [document for document in finished.documents if document.id in pending.ids]
            self.version = max(self.version, finished.version)
            if work.live:
                self._overtake(work.index, documents, but=pending)
            token = _Part(pending, len(documents), self._observer)
            rejected = [Rejected(work.index, d.id, d.error, 0) for d in documents if d.error is not None]
            for writer, generation in work.targets.items():
                writes = [
                    Write(work.index, d.id, d.body, finished.version, not work.live, 0, generation)
                    for d in documents
                    if d.error is None
                ]
                for write in writes:
                    write.patient = True
                writer.enqueue(writes, token)
                if rejected:
                    writer.park(rejected, token)
            token.release()
        if finished.last:
            with self._registering:
                self._pending[work.index].remove(pending)
            pending.release()

    def _overtake(self, index: str, documents: Sequence[Document], but: Optional[Pending] = None) -> List[Pending]:
        """What is written to the generations that are kept current is no chunk's business any more.

        Returns the chunks that lost something; their reader holds each of them still.
        """
        with self._registering:
            pendings = [pending for pending in self._pending.get(index, ()) if pending is not but]
        if not pendings:
            return []
        ids = {document.id for document in documents}
        losers = [pending for pending in pendings if not pending.ids.isdisjoint(ids)]
        for pending in losers:
            pending.ids -= ids
        return losers


class _Batch:
    """A batch on its way: its runs, and once traced, the keys whose documents are still to build."""

    def __init__(self, runs: Sequence[ChangeRun]) -> None:
        self.runs = runs
        self.left: Any = None
        #: Documents of the last snapshot.
        self.built = 0
        self.rebuild: Mapping[str, str] = {}
        self.spread: Sequence[Spread] = ()

    def begin(self, resolution: Resolution) -> None:
        self.left = {index: keys for index, keys in resolution.keys.items() if keys}
        self.rebuild = resolution.rebuild
        self.spread = resolution.spread

    @property
    def done(self) -> bool:
        return self.left is not None and not (self.left or self.rebuild or self.spread)


def _build(
    snapshot: Snapshot, left: Mapping[str, Sequence[Any]], built: List[Tuple[str, List[Document]]]
) -> Dict[str, Sequence[Any]]:
    """Build the first of what is left of each index in ``snapshot``; returns what remains for the next one.

    A transaction must stay short: an index that did not fit at once waits for a snapshot of its own.
    """
    remaining: Dict[str, Sequence[Any]] = {}
    full = False
    for index, keys in left.items():
        if full:
            remaining[index] = keys
            continue
        documents, rest = snapshot.build(index, keys)
        built.append((index, documents))
        if rest:
            remaining[index] = rest
            full = True
    return remaining

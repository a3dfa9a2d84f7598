"""Builds of whole indexes beside the live stream (design section 4, write protocol b).

A worker reads a chunk's keys, has them registered as *pending* by the engine, and only then opens the snapshot it
builds from.  Every live write removes its id from all pending sets; of a finished chunk, only what is still
pending is written.  Dropping a chunk's read is safe: what the live snapshot did not see is still to come.

How far a build is stands in the sinks that it goes to, so that the next start goes on from there.  A chunk whose ids a
live write took over counts as done, too: the source sends that write again unless it is durable.  One whose ids a
``Mend`` took over waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Set

from flusso_sync.backoff import Stopped, wait_out
from flusso_sync.engine.countdown import Countdown
from flusso_sync.engine.frontier import Frontier, Stretch
from flusso_sync.engine.pace import Pace, Stride
from flusso_sync.engine.source import Chunk, Document, Documents
from flusso_sync.engine.writer import SinkWriter
from flusso_sync.observer import Observer
from flusso_sync.status import IndexState, Status

log = logging.getLogger(__name__)

#: How long a worker that has nothing to read waits for the last writes before it looks again.
COMPLETE_WAIT_SECONDS = 0.05

#: How long one waits that has enough chunks under way.
ROOM_WAIT_SECONDS = 0.005

#: Chunks of one build, for each worker, that are read and not yet both durable and stored as such: all that a crash
#: makes the next life repeat.
OPEN_CHUNKS_PER_WORKER = 4


class Work(Protocol):
    """What chunks are read for: a build, or a change that shows in many documents.

    ``targets``: writer -> the generation its sink builds, None for every generation that is kept current (``live``).
    """

    index: str
    live: bool
    cancelled: bool

    @property
    def targets(self) -> Mapping[SinkWriter, Optional[int]]: ...


class Pending(Countdown):
    """A chunk under way: the ids that no live write has touched since it was registered, and the writes it waits for.

    Held once for its reader until all of it was handed over; ``durable`` is called once nothing is waited for.
    """

    __slots__ = ("work", "ids")

    def __init__(self, work: Work, ids: Sequence[str], durable: Callable[[], None]) -> None:
        super().__init__(durable)
        self.work = work
        self.ids: Set[str] = set(ids)


class Finished(NamedTuple):
    """Documents of a chunk, read; ``last`` when the chunk has no more."""

    pending: Pending
    documents: List[Document]
    version: int
    last: bool


class Taken(NamedTuple):
    """A chunk and the stretch of the build that it is."""

    chunk: Chunk
    stretch: Stretch


class Build:
    """One index being built into the sinks that lack it; complete when every chunk was read and is durable."""

    live = False

    def __init__(
        self,
        index: str,
        targets: Mapping[SinkWriter, int],
        frontier: Frontier,
        total: Optional[int],
        chunk_rows: int,
        moved: Callable[[], None] = lambda: None,
        most_open: int = OPEN_CHUNKS_PER_WORKER,
    ) -> None:
        self.index = index
        #: Writer -> the generation that its sink builds.
        self.targets: Mapping[SinkWriter, Optional[int]] = dict(targets)
        self.writers = tuple(self.targets)
        self.frontier = frontier
        self.stride = Stride(chunk_rows)
        self.cancelled = False
        #: Cancelled, or being completed: what is stored from now on would be taken for the next one's.
        self.over = False
        #: Guards the frontier and what follows.
        self.lock = threading.RLock()
        self._total = total
        #: Told, with the lock held, that there is progress to store.
        self._moved = moved
        self._read_rows = frontier.rows
        self._unsaved = False
        self._most_open = most_open
        #: Chunks that are being read, and those that are durable while what is stored does not say so yet.
        self._claimed = 0
        self._unstored = 0
        self._reading = threading.Lock()
        self._saving = threading.Lock()
        self.complete = threading.Event()
        if frontier.complete:
            self.complete.set()

    def claim(self) -> bool:
        """Whether one more chunk may be read; whoever is told so calls ``next_chunk`` once it has what it reads."""
        with self.lock:
            if self._claimed + self.frontier.under_way + self._unstored >= self._most_open:
                return False
            self._claimed += 1
            return True

    def next_chunk(self, documents: Documents, rows: int) -> Optional[Taken]:
        """Read the keys of the next chunk; None when there are no more.  Gives the claim up, unless it raises."""
        taken = self._next_chunk(documents, rows)
        with self.lock:
            self._claimed -= 1
        return taken

    def _next_chunk(self, documents: Documents, rows: int) -> Optional[Taken]:
        with self._reading:
            while not self.cancelled:
                with self.lock:
                    wanted = self.frontier.wanted()
                if wanted is None:
                    break
                chunk = documents.next_chunk(self.index, wanted.lower, wanted.upper, rows)
                with self.lock:
                    if chunk is not None:
                        self._read_rows += chunk.rows
                        return Taken(chunk, self.frontier.handed_out(chunk.upper))
                    self.frontier.nothing()
                    self._settle()
            return None

    def durable(self, taken: Taken) -> None:
        """Every document of a chunk is durable."""
        with self.lock:
            self.frontier.durable(taken.stretch, taken.chunk.rows)
            self._unstored += 1
            self._settle()

    def _settle(self) -> None:
        self._unsaved = True
        self._moved()
        if self.frontier.complete:
            self.complete.set()

    def cancel(self) -> None:
        """Write and store nothing any more; waits for progress that is being stored now."""
        self.cancelled = True
        for writer in self.writers:
            writer.forget_builds(self.index)
        self.end()

    def end(self) -> None:
        """Store nothing any more; waits for what is being stored now."""
        self.over = True
        with self._saving:
            pass

    def go_on(self) -> None:
        """Store again, after ``end``."""
        self.over = self.cancelled
        self._moved()

    @property
    def done(self) -> int:
        """Rows whose documents are durable."""
        with self.lock:
            return self.frontier.rows

    @property
    def total(self) -> Optional[int]:
        """Rows there are: exact once all keys were read, before that an estimate that what was read never passes."""
        with self.lock:
            if self.frontier.exhausted or self._total is None:
                return self._read_rows if self.frontier.exhausted else None
            # Should the statistics be too low, the end is still ahead: what was read is at most 99 of 100.
            return max(self._total, self._read_rows + self._read_rows // 100 + 1)

    def save(self, stop: threading.Event, status: Status) -> None:
        """Store the progress in every sink of the build, unless it stands there already."""
        with self._saving:
            with self.lock:
                if not self._unsaved:
                    return
                self._unsaved = False
                told = self._unstored
                progress = self.frontier.to_json()
            for writer in self.writers:
                if writer.sink.stateful and not self.over:
                    wait_out(
                        lambda w=writer: w.sink.save_progress(self.index, progress),  # type: ignore[misc]
                        stop,
                        status,
                        f"sink {writer.sink.name}",
                    )
            with self.lock:
                self._unstored -= told


class Seeding:
    """The builds under way, and the loop the ``flusso-backfill-N`` threads run.

    ``register`` and ``submit`` are the engine's: they answer from its thread.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        register: Callable[[Pending], None],
        submit: Callable[[Finished], None],
        status: Status,
        observer: Observer,
        stop: threading.Event,
        chunk_rows: int,
        workers: int,
        pace: Pace,
        completed: Callable[[str], None] = lambda index: None,
    ) -> None:
        self._documents = documents
        self._register = register
        self._submit = submit
        self._status = status
        self._observer = observer
        self._stop = stop
        self._chunk_rows = chunk_rows
        self._most_open = OPEN_CHUNKS_PER_WORKER * workers
        self._pace = pace
        self._completed = completed
        #: Held while a build is begun, and while one is completed: else a completion could switch readers to the
        #: generation that was begun in its place a moment ago.
        self.changing = threading.RLock()
        self._lock = threading.Lock()
        self._builds: Dict[str, Build] = {}
        self._turn: Deque[str] = deque()
        self._completing = 0
        self._moved = threading.Event()

    def change_workers(self, workers: int) -> None:
        """So many threads will read builds begun from now on; for any thread."""
        self._most_open = OPEN_CHUNKS_PER_WORKER * workers

    def start(
        self,
        index: str,
        targets: Mapping[SinkWriter, int],
        *,
        rebuilding: bool,
        progress: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """Build ``index`` into the generations (``targets``: writer -> number) that its sinks have begun.

        The caller holds ``changing`` since before it gave up an older build and had the sinks begin.  ``progress`` is
        what an earlier life stored of the generation that the sinks go on with.
        """
        total = wait_out(lambda: self._documents.estimate(index), self._stop, self._status, "source documents")
        frontier = Frontier(self._documents.order(index)) if progress is None else Frontier.resumed(progress)
        build = Build(index, targets, frontier, total, self._chunk_rows, self._moved.set, self._most_open)
        with self._lock:
            older = self._builds.get(index)
            if older is None:
                self._turn.append(index)
            self._builds[index] = build
        self._status.set_index_state(index, IndexState.REBUILDING if rebuilding else IndexState.BACKFILLING)
        self._show(build)

    def give_up(self, index: str) -> None:
        """End the build of ``index``, if there is one: it writes, stores and completes nothing any more."""
        with self._lock:
            older = self._builds.get(index)
        if older is not None:
            older.cancel()

    @contextlib.contextmanager
    def unsaved(self, index: str) -> Iterator[None]:
        """The build of ``index``, if there is one, stores nothing within, and goes on storing unless it is given up.

        The caller holds ``changing``, so that it is not completed either.
        """
        with self._lock:
            build = self._builds.get(index)
        if build is not None:
            build.end()
        try:
            yield
        finally:
            if build is not None:
                build.go_on()

    def building(self, index: str) -> bool:
        """Whether a build of ``index`` is under way."""
        with self._lock:
            return index in self._builds

    @property
    def active(self) -> List[str]:
        with self._lock:
            return list(self._builds)

    @property
    def idle(self) -> bool:
        """No build is under way or being completed."""
        with self._lock:
            return not self._builds and not self._completing

    def loop(self) -> None:
        """Work builds off, one chunk at a time, the indexes in turn, until none is left or stop."""
        while not self._stop.is_set():
            build = self._next()
            if build is None:
                self._pace.over()
                return
            self._show(build)
            if build.frontier.exhausted:
                self._finish(build)
                continue
            if not build.claim():
                self._stop.wait(ROOM_WAIT_SECONDS)
                continue
            rows = self._pace.rows(build.stride.rows)
            self._pace.wait(rows)
            taken = wait_out(
                lambda b=build, r=rows: b.next_chunk(self._documents, r),  # type: ignore[misc]
                self._stop,
                self._status,
                "source documents",
            )
            if taken is not None:
                self._read(build, taken)

    def keep_progress(self) -> None:
        """The loop of ``flusso-progress``: store how far each build is, whenever it moved, until stop.

        On a thread of its own, because a durable write takes as long as a chunk.
        """
        while not self._stop.is_set():
            if not self._moved.wait(0.5):
                continue
            self._moved.clear()
            with self._lock:
                builds = list(self._builds.values())
            for build in builds:
                build.save(self._stop, self._status)

    def _next(self) -> Optional[Build]:
        with self._lock:
            if not self._turn:
                return None
            index = self._turn[0]
            self._turn.rotate(-1)
            return self._builds[index]

    def _show(self, build: Build) -> None:
        self._status.set_build_progress(build.index, build.done, build.total, exact=build.frontier.exhausted)

    def _read(self, build: Build, taken: Taken) -> None:
        pending = Pending(build, taken.chunk.ids, lambda: build.durable(taken))
        self._register(pending)
        rest: Optional[Sequence[object]] = None
        while True:
            if self._stop.is_set():
                raise Stopped
            started = time.monotonic()
            documents, version, rest = wait_out(
                lambda r=rest: self._build(taken.chunk, r),  # type: ignore[misc]
                self._stop,
                self._status,
                "source documents",
            )
            build.stride.took(taken.chunk.rows, time.monotonic() - started)
            self._submit(Finished(pending, documents, version, last=not rest))
            if not rest:
                break

    def _build(self, chunk: Chunk, rest: Optional[Sequence[object]]) -> "tuple[List[Document], int, Sequence[object]]":
        with self._documents.snapshot((), self._stop) as snapshot:
            if rest is None:
                documents, rest = snapshot.build_chunk(chunk)
            else:
                documents, rest = snapshot.build(chunk.index, rest)
                # A row that went meanwhile: its delete is still to come in the stream.
                documents = [d for d in documents if d.body is not None or d.error is not None]
            return documents, snapshot.version, rest

    def _finish(self, build: Build) -> None:
        """All chunks are handed out: whoever finds the build complete completes it, once."""
        if not build.complete.wait(COMPLETE_WAIT_SECONDS):
            return
        with self.changing:
            with self._lock:
                if self._builds.get(build.index) is not build:
                    return
                del self._builds[build.index]
                self._turn.remove(build.index)
                self._completing += 1
            build.end()
            self._complete(build)
            with self._lock:
                self._completing -= 1
                left = self._completing + len(self._builds)
        if left == 0:
            self._observer.on_backfill_completed()

    def _complete(self, build: Build) -> None:
        for writer in build.writers:
            wait_out(
                lambda w=writer: w.sink.complete_build(build.index),  # type: ignore[misc]
                self._stop,
                self._status,
                f"sink {writer.sink.name}",
            )
        self._show(build)
        log.info("index %s is complete: %d rows read", build.index, build.done, extra={"index": build.index})
        self._observer.on_index_seeded(build.index)
        self._completed(build.index)

"""Builds of whole indexes beside the live stream (design section 4, write protocol b).

A worker reads a chunk's keys, has them registered as *pending* by the engine, and only then opens the snapshot it
builds from.  Every live write removes its id from all pending sets; of a finished chunk, only what is still
pending is written.  Dropping a chunk's read is safe: what the live snapshot did not see is still to come.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Set

from flusso_sync.backoff import Stopped, wait_out
from flusso_sync.engine.source import Chunk, Document, Documents
from flusso_sync.engine.writer import SinkWriter
from flusso_sync.observer import Observer
from flusso_sync.status import IndexState, Status

log = logging.getLogger(__name__)


class Pending:
    """A registered chunk: the ids that no live write has touched since."""

    __slots__ = ("build", "ids")

    def __init__(self, build: "Build", ids: Sequence[str]) -> None:
        self.build = build
        self.ids: Set[str] = set(ids)


class Finished(NamedTuple):
    """Documents of a chunk, read; ``last`` when the chunk has no more."""

    pending: Pending
    documents: List[Document]
    version: int
    last: bool


class Build:
    """One index being built into the sinks that lack it.

    It is a token of the writers: complete when all chunks were read and every write of them is durable.
    """

    def __init__(self, index: str, writers: Sequence[SinkWriter], total: Optional[int]) -> None:
        self.index = index
        self.writers = tuple(writers)
        self.total = total
        self.done = 0
        self.cancelled = False
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._remaining = 1
        self._last: Optional[Chunk] = None
        self._exhausted = False
        self.complete = threading.Event()

    def hold(self, count: int = 1) -> None:
        with self._lock:
            self._remaining += count

    def release(self, count: int = 1) -> None:
        with self._lock:
            self._remaining -= count
            if self._remaining == 0:
                self.complete.set()

    def next_chunk(self, documents: Documents, chunk_rows: int) -> Optional[Chunk]:
        """Read the keys of the next chunk (held once for it); None when there are no more."""
        with self._reading:
            if self._exhausted or self.cancelled:
                return None
            chunk = documents.next_chunk(self.index, self._last, chunk_rows)
            if chunk is None:
                self._exhausted = True
                self.release()
                return None
            self._last = chunk
            self.hold()
            return chunk


class Seeding:
    """The builds under way, and the loop the ``flusso-backfill-N`` threads run.

    ``register`` and ``submit`` are the engine's: they answer from its thread.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        register: Callable[[Build, Sequence[str]], Pending],
        submit: Callable[[Finished], None],
        status: Status,
        observer: Observer,
        stop: threading.Event,
        chunk_rows: int,
    ) -> None:
        self._documents = documents
        self._register = register
        self._submit = submit
        self._status = status
        self._observer = observer
        self._stop = stop
        self._chunk_rows = chunk_rows
        #: Held while a build is begun, and while one is completed: else a completion could switch readers to the
        #: generation that was begun in its place a moment ago.
        self.changing = threading.RLock()
        self._lock = threading.Lock()
        self._builds: Dict[str, Build] = {}
        self._turn: Deque[str] = deque()
        self._completing = 0

    def start(self, index: str, writers: Sequence[SinkWriter], *, rebuilding: bool) -> None:
        """Build ``index`` into the generation its sinks have begun; a build under way is given up for it.

        The caller holds ``changing`` since before it had the sinks begin.
        """
        total = wait_out(lambda: self._documents.estimate(index), self._stop, self._status, "source documents")
        build = Build(index, writers, total)
        with self._lock:
            older = self._builds.get(index)
            if older is not None:
                older.cancelled = True
                for writer in older.writers:
                    writer.forget_builds(index)
            else:
                self._turn.append(index)
            self._builds[index] = build
        self._status.set_index_state(index, IndexState.REBUILDING if rebuilding else IndexState.BACKFILLING)
        self._status.set_build_progress(index, 0, total)

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
                return
            chunk = wait_out(
                lambda b=build: b.next_chunk(self._documents, self._chunk_rows),  # type: ignore[misc]
                self._stop,
                self._status,
                "source documents",
            )
            if chunk is None:
                self._finish(build)
                continue
            self._read(build, chunk)

    def _next(self) -> Optional[Build]:
        with self._lock:
            if not self._turn:
                return None
            index = self._turn[0]
            self._turn.rotate(-1)
            return self._builds[index]

    def _read(self, build: Build, chunk: Chunk) -> None:
        pending = self._register(build, chunk.ids)
        rest: Optional[Sequence[object]] = None
        while True:
            if self._stop.is_set():
                raise Stopped
            documents, version, rest = wait_out(
                lambda r=rest: self._build(chunk, r),  # type: ignore[misc]
                self._stop,
                self._status,
                "source documents",
            )
            self._submit(Finished(pending, documents, version, last=not rest))
            if not rest:
                break
        build.done += chunk.rows
        self._status.set_build_progress(
            build.index, build.done, max(build.total, build.done) if build.total is not None else None
        )

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
        if not build.complete.wait(0.05):
            return
        with self.changing:
            with self._lock:
                if self._builds.get(build.index) is not build:
                    return
                del self._builds[build.index]
                self._turn.remove(build.index)
                self._completing += 1
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
        self._status.set_build_progress(build.index, build.done, build.done)
        log.info("index %s is complete: %d rows read", build.index, build.done)
        self._observer.on_index_seeded(build.index)

"""Changes that show in very many documents: stored as jobs, worked off beside the live stream.

One renamed category may stand in a million documents.  To build them in its batch would hold up every later commit
and need memory for all their keys.  Instead the change becomes a job: which values of which path it touched, and how
far the documents that show them were rebuilt.  A job is durable as soon as every sink has it in its meta store; then
the change's position may be confirmed (promise 2), and ``synced`` waits for the job instead.

A job's documents go the way of a build's chunks (design section 4, write protocol b): their ids are registered as
pending with the engine, only then they are read, and what a live write overtook meanwhile is dropped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from flusso_sync.backoff import Stopped, wait_out
from flusso_sync.engine.pace import Stride
from flusso_sync.engine.seeding import Finished, Pending
from flusso_sync.engine.source import Document, Documents, Spread, Spreading
from flusso_sync.engine.writer import SinkWriter, Token
from flusso_sync.status import Status

log = logging.getLogger(__name__)

#: Keys read at once of the documents that a job touches; what a job holds in memory.
PAGE_KEYS = 20_000

#: Documents of one step at most; and after so many, how far a job came is noted in the meta stores.
STEP_DOCUMENTS = 1_000

#: While there are live changes, too, they share the machine with the step that is under way.  So it takes about so long
#: then, from its first read until it is durable, but so many documents in any case; and the pause after it is so many
#: times as long, though a step that waited for a sink makes no long one.
BESIDE_LIVE_SECONDS = 0.03
FEWEST_DOCUMENTS = 20
PAUSE_SHARE = 0.5
LONGEST_PAUSE_SECONDS = 0.1

#: Jobs that wait to be stored, at most; the engine takes nothing more until there is room.
MOST_NEW = 64

#: Lengths of the list in ``/status``.
SHOWN_JOBS = 20


class Job:
    """Documents of ``index`` that show ``values`` of ``path``; those up to the mark ``cursor`` are done.

    ``position`` is that of the change: ``synced`` of anything beyond it waits for the job.
    """

    def __init__(
        self, index: str, path: str, label: str, values: Sequence[Sequence[Optional[str]]], position: int
    ) -> None:
        self.index = index
        self.path = path
        self.label = label
        self.values = _in_order(values)
        self.position = position
        self.cursor: Any = None
        self.done = 0
        self.total: Optional[int] = None
        #: For the rate: since when this process works at it, and what was done before.
        self.started = time.monotonic()
        self.before = 0
        #: How many were done when that was last noted in the meta stores.
        self.noted = 0

    @property
    def id(self) -> str:
        """The same for the same values of the same path, so that a row that changes again does not make two jobs."""
        text = json.dumps([self.index, self.path, self.values])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def to_json(self) -> Dict[str, Any]:
        return {
            "index": self.index,
            "path": self.path,
            "label": self.label,
            "values": [list(value) for value in self.values],
            "position": str(self.position),
            "cursor": self.cursor,
            "done": self.done,
            "total": self.total,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Job":
        job = cls(stored["index"], stored["path"], stored["label"], stored["values"], int(stored["position"]))
        job.cursor, job.done, job.total = stored["cursor"], stored["done"], stored["total"]
        job.before = job.noted = job.done
        return job

    def shown(self) -> Dict[str, Any]:
        """For ``/status``: no values, for they are row data."""
        seconds = time.monotonic() - self.started
        rate = (self.done - self.before) / seconds if seconds > 0 else 0.0
        eta = (self.total - self.done) / rate if self.total is not None and rate > 0 else None
        return {
            "index": self.index,
            "path": self.label,
            "values": len(self.values),
            "done": self.done,
            "total": self.total,
            "rate": round(rate, 1),
            "eta_seconds": None if eta is None else round(max(0.0, eta), 1),
        }


def _in_order(values: Iterable[Sequence[Optional[str]]]) -> List[Tuple[Optional[str], ...]]:
    """Values in one order, whatever order they came in; a part may be null where a link is computed from it."""
    return sorted(map(tuple, values), key=lambda value: [(part is not None, part or "") for part in value])


class _Live:
    """The generations that readers have and those being built: what a job's documents are written to."""

    live = True
    cancelled = False

    def __init__(self, index: str, writers: Sequence[SinkWriter]) -> None:
        self.index = index
        self.targets: Mapping[SinkWriter, Optional[int]] = {writer: None for writer in writers}


class Spreader:
    """The jobs of a pipeline, and the loop of the thread ``flusso-fan-out``.

    ``add`` is called by the engine's thread; ``register`` and ``submit`` are the engine's, as for a build; ``rebuild``
    is asked where a stored job cannot be understood any more.
    """

    def __init__(
        self,
        documents: Documents,
        writers: Sequence[SinkWriter],
        *,
        register: Callable[[Pending], None],
        submit: Callable[[Finished], None],
        rebuild: Callable[[Mapping[str, str]], None],
        status: Status,
        stop: threading.Event,
        heartbeat: str = "flusso-fan-out",
    ) -> None:
        self._documents = documents
        self._writers = tuple(writers)
        self._register = register
        self._submit = submit
        self._rebuild = rebuild
        self._status = status
        self._stop = stop
        self._heartbeat = heartbeat
        self._changed = threading.Condition()
        #: Not yet in the meta stores, with who waits for that.
        self._new: List[Tuple[Job, Token]] = []
        self._jobs: Dict[str, Job] = {}
        #: By index: how many documents one read takes, and one step beside live changes.
        self._strides: Dict[str, Stride] = {}
        self._beside: Dict[str, Stride] = {}

    # -- the engine's side ----------------------------------------------------------------------------------

    def add(self, spread: Spread, position: int, token: Token) -> None:
        """Make a job of ``spread``; ``token`` is held until every sink has it."""
        token.hold()
        job = Job(spread.index, spread.path, spread.label, spread.values, position)
        with self._changed:
            self._new.append((job, token))
            self._changed.notify_all()

    def has_room(self) -> bool:
        with self._changed:
            return len(self._new) < MOST_NEW

    def open_up_to(self, position: int) -> bool:
        """Whether a change up to ``position`` still waits for documents of a job."""
        with self._changed:
            jobs = [*self._jobs.values(), *(job for job, _ in self._new)]
            return any(job.position <= position for job in jobs)

    def wait(self, timeout: float) -> bool:
        """Wait until some job is over; False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait(timeout)

    # -- the thread -----------------------------------------------------------------------------------------

    def load(self, stored: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
        """Take up what the sinks (id -> job each) have of earlier lives; of one job, what is furthest behind."""
        for jobs in stored:
            for id, one in jobs.items():
                job = Job.from_json(one)
                known = self._jobs.get(id)
                if known is None or job.done < known.done:
                    self._jobs[id] = job
        if self._jobs:
            log.info("%d jobs of changes that show in many documents go on", len(self._jobs))
        self._show()

    def loop(self) -> None:
        """Store new jobs, then do a step of the oldest, until stop."""
        page: List[Spreading] = []
        paged: Optional[Job] = None
        while not self._stop.is_set():
            self._status.heartbeat(self._heartbeat)
            self._take_new()
            with self._changed:
                job = next(iter(self._jobs.values()), None)
                if job is None:
                    self._changed.wait(0.5)
                    continue
            if job is not paged or not page:
                found = self._page(job)
                if found is None:
                    continue
                page, paged = found, job
                if not page:
                    self._finish(job)
                    continue
            most = self._strides.setdefault(job.index, Stride(STEP_DOCUMENTS)).rows
            beside = None
            if any(writer.serves_live() for writer in self._writers):
                beside = self._beside.setdefault(
                    job.index, Stride(STEP_DOCUMENTS, BESIDE_LIVE_SECONDS, FEWEST_DOCUMENTS)
                )
                most = min(most, beside.rows)
            step, page = page[:most], page[most:]
            started = time.monotonic()
            self._step(job, step)
            if beside is not None:
                took = time.monotonic() - started
                beside.took(len(step), took)
                self._stop.wait(min(took * PAUSE_SHARE, LONGEST_PAUSE_SECONDS))

    def _take_new(self) -> None:
        with self._changed:
            new, self._new = self._new, []
        for job, token in new:
            merged, replaced = self._merged(job)
            # Stored before what it replaces is forgotten: a crash in between does the work twice, never not at all.
            self._store(merged)
            for other in replaced:
                self._forget(other)
            token.release()
        if new:
            self._show()

    def _merged(self, job: Job) -> Tuple[Job, List[Job]]:
        """The job, with the values of one that waits for its turn on the same path, and the jobs it stands for.

        One that is under way loses the values, for its cursor may be past their documents.
        """
        replaced: List[Job] = []
        with self._changed:
            waiting = list(self._jobs.values())
        for position, other in enumerate(waiting):
            if (other.index, other.path) != (job.index, job.path):
                continue
            if position == 0 and other.cursor is not None:
                left = _in_order(set(other.values).difference(job.values))
                if len(left) == len(other.values):
                    continue
                if left:
                    # Its documents up to the cursor are right as to what is left; a smaller job of the same progress.
                    rest = Job.from_json({**other.to_json(), "values": left})
                    self._store(rest, first=True)
            else:
                job = Job(
                    job.index, job.path, job.label, [*{*other.values, *job.values}], min(other.position, job.position)
                )
            replaced.append(other)
        return job, [other for other in replaced if other.id != job.id]

    def _write(self, id: str, document: Optional[Mapping[str, Any]]) -> None:
        for writer in self._writers:
            if writer.sink.stateful:
                wait_out(
                    lambda s=writer.sink: s.write_job(id, document),  # type: ignore[misc]
                    self._stop,
                    self._status,
                    f"sink {writer.sink.name}",
                )

    def _store(self, job: Job, *, first: bool = False) -> None:
        self._write(job.id, job.to_json())
        with self._changed:
            rest = {id: other for id, other in self._jobs.items() if id != job.id}
            self._jobs = {job.id: job, **rest} if first else {**self._jobs, job.id: job}

    def _forget(self, job: Job) -> None:
        self._write(job.id, None)
        with self._changed:
            self._jobs.pop(job.id, None)
            self._changed.notify_all()

    def _page(self, job: Job) -> Optional[List[Spreading]]:
        """The next documents of the job; None when they cannot be listed, for then its index is rebuilt."""
        if job.total is None:
            job.total = self._wait(lambda: self._documents.count_spread(job.index, job.path, job.values))
        found = self._wait(lambda: self._documents.spread(job.index, job.path, job.values, job.cursor, PAGE_KEYS))
        if found is None:
            reason = f"a change of {job.label} shows in it, in documents that cannot be listed in time, or no more"
            self._rebuild({job.index: reason})
            self._forget(job)
            return None
        return list(found)

    def _wait(self, action: Callable[[], Any]) -> Any:
        return wait_out(action, self._stop, self._status, "source documents")

    def _step(self, job: Job, step: Sequence[Spreading]) -> None:
        stride = self._strides[job.index]
        durable = threading.Event()
        pending = Pending(_Live(job.index, self._writers), [one.id for one in step], durable.set)
        self._register(pending)
        left: Sequence[Any] = [one.key for one in step]
        while left:
            if self._stop.is_set():
                raise Stopped
            started = time.monotonic()
            documents, version, rest = self._read(job.index, left)
            stride.took(len(left) - len(rest), time.monotonic() - started)
            self._submit(Finished(pending, documents, version, last=not rest))
            left = rest
        while not durable.wait(0.5):
            if self._stop.is_set():
                raise Stopped
            self._status.heartbeat(self._heartbeat)
            self._take_new()
        job.cursor = step[-1].mark
        job.done += len(step)
        with self._changed:
            known = self._jobs.get(job.id) is job
        if known and job.done - job.noted >= STEP_DOCUMENTS:
            self._write(job.id, job.to_json())
            job.noted = job.done
        self._show()

    def _read(self, index: str, keys: Sequence[Any]) -> Tuple[List[Document], int, Sequence[Any]]:
        def read() -> Tuple[List[Document], int, Sequence[Any]]:
            with self._documents.snapshot((), self._stop) as snapshot:
                documents, rest = snapshot.build(index, keys)
                return documents, snapshot.version, rest

        return wait_out(read, self._stop, self._status, "source documents")

    def _finish(self, job: Job) -> None:
        for writer in self._writers:
            writer.touch(job.index)
        self._forget(job)
        log.info(
            "%s: %d documents of index %s that show it are right again",
            job.label,
            job.done,
            job.index,
            extra={"index": job.index},
        )
        self._show()

    def _show(self) -> None:
        with self._changed:
            jobs = [*self._jobs.values()]
            waiting = len(self._new)
        self._status.set_fact("fan_out.jobs", [job.shown() for job in jobs[:SHOWN_JOBS]] or None)
        self._status.set_fact("fan_out.waiting", len(jobs) + waiting or None)

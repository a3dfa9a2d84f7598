"""What somebody may ask of the running pipeline: by a method, over HTTP, or by a request left in a meta store."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timezone
from typing import Any, Callable, Collection, Mapping, Sequence, Set

from flusso_sync.backoff import Stopped, wait_out
from flusso_sync.builds import Builds
from flusso_sync.comparing import Comparisons, Spawn
from flusso_sync.drift import Drift
from flusso_sync.engine.engine import Engine, Mend
from flusso_sync.engine.source import Documents
from flusso_sync.errors import FlussoError, SinkRefused
from flusso_sync.sinks.base import Answer, Request, Sink
from flusso_sync.status import Status

log = logging.getLogger(__name__)

#: How long whoever asks waits for the documents that are read again.
RETRY_SECONDS = 20.0

#: Between two looks at whether it is time to stop waiting.
LOOK_SECONDS = 0.2


class Operations:
    """For the indexes of one life of the pipeline (``known``: those that are enabled and fit their tables).

    Each returns a sentence; each raises ``SinkRefused`` where something cannot be, for an index that drifted, say.
    """

    def __init__(
        self,
        known: Set[str],
        builds: Builds,
        drift: Drift,
        engine: Engine,
        documents: Documents,
        sinks: Mapping[str, Sink],
        status: Status,
        stop: threading.Event,
        spawn: Spawn,
        comparisons: Comparisons,
    ) -> None:
        self._known = known
        self._builds = builds
        self._drift = drift
        self._engine = engine
        self._documents = documents
        self._sinks = sinks
        self._status = status
        self._stop = stop
        self._spawn = spawn
        self._comparisons = comparisons
        self._lock = threading.Lock()
        #: Requests that are being carried out, by id.
        self._answering: Set[str] = set()

    # -- requests in a meta store -----------------------------------------------------------------------

    def take_requests(self, sink: Sink) -> None:
        """Carry out what commands left in a meta store, each on a thread of its own: the lease must not wait."""
        with self._lock:
            due = [request for request in sink.requests() if request.id not in self._answering]
            self._answering.update(request.id for request in due)
        for request in due:
            self._spawn("flusso-request", lambda r=request: self._carry_out(sink, r))  # type: ignore[misc]

    def make_room(self, skipping: Collection[str], limit: int, heartbeat: Callable[[], None]) -> None:
        """Before the first change: read again what is parked of each of ``skipping`` that has ``limit`` parked.

        The change that found the place full comes again first of all, and would end this run, too, whatever was mended
        in between.  Requests for a retry that wait are answered before.  Blocks until all is durable or parked again.
        """
        full = [name for name in sorted(skipping) if self._most_parked(name) >= limit]
        if not full:
            return
        for sink in self._sinks.values():
            waiting = wait_out(sink.requests, self._stop, self._status, f"sink {sink.name}")
            with self._lock:
                due = [r for r in waiting if r.command == "retry" and r.id not in self._answering]
                self._answering.update(request.id for request in due)
            for request in due:
                heartbeat()
                self._carry_out(sink, request)
        for name in full:
            parked = self._builds.parked(name)
            log.info(
                "index %s: its quarantine is full, so what is in it is read again first", name, extra={"index": name}
            )
            keys = wait_out(lambda i=name, p=parked: self._keys_of(i, p), self._stop, self._status, "source documents")  # type: ignore[misc]
            mend = self._engine.mend(name, list(keys.values()))
            while not mend.done.wait(LOOK_SECONDS):
                heartbeat()
                if self._stop.is_set():
                    raise Stopped
            log.info(
                "index %s: %d of %d parked documents are right now",
                name,
                len(parked - self._builds.parked(name)),
                len(parked),
                extra={"index": name},
            )

    def _most_parked(self, index: str) -> int:
        return max((len(sink.quarantined().get(index, ())) for sink in self._sinks.values()), default=0)

    def _keys_of(self, index: str, ids: Collection[str]) -> Mapping[str, Any]:
        return self._documents.keys_of(index, sorted(ids))

    def _carry_out(self, sink: Sink, request: Request) -> None:
        try:
            self._refuse_overdue(request)
            answer = Answer(True, self.ask(request))
        except FlussoError as error:
            if error.relay:
                # The pipeline is laid anew, which takes the request again.
                raise
            answer = Answer(False, str(error))
        log.info(
            "request %s of index %s: %s", request.command, request.index, answer.text, extra={"index": request.index}
        )
        wait_out(lambda: sink.answer(request.id, answer), self._stop, self._status, f"sink {sink.name}")
        with self._lock:
            self._answering.discard(request.id)

    def _refuse_overdue(self, request: Request) -> None:
        """What was asked of a daemon that never came is not done hours later, when nobody thinks of it any more."""
        if request.overdue(datetime.now(timezone.utc)):
            raise SinkRefused(
                f"the {request.command} of index {request.index} that was asked for at {request.at} stood for "
                f"{request.lasts_seconds:.0f} s, in which no daemon took it, and is not done any more",
                hint="Ask again, or with a longer --keep",
                index=request.index,
            )

    def ask(self, request: Request) -> str:
        """Do what ``request`` asks for."""
        index = request.index
        self._drift.refuse(index)
        if index not in self._known:
            raise SinkRefused(
                f"no index {index} is enabled in the running daemon; there is {', '.join(sorted(self._known))}",
                index=index,
            )
        if request.command == "reindex":
            return self.reindex(index)
        if request.command == "rollback":
            return self.rollback(index)
        if request.command == "retry":
            return self.retry(index, request.ids)
        if request.command == "repair":
            return self.repair(index, request.ids)
        raise SinkRefused(f"the running daemon does not know the request {request.command}")

    # -- whole indexes ----------------------------------------------------------------------------------

    def reindex(self, index: str) -> str:
        """See :meth:`Builds.reindex`."""
        self._drift.refuse(index)
        return self._builds.reindex(index)

    def rollback(self, index: str) -> str:
        """See :meth:`Builds.rollback`."""
        self._drift.refuse(index)
        return self._builds.rollback(index)

    def verify(self, index: str) -> str:
        """See :meth:`Comparisons.ask`."""
        self._drift.refuse(index)
        return self._comparisons.ask(index)

    # -- single documents -------------------------------------------------------------------------------

    def retry(self, index: str, ids: Sequence[str] = ()) -> str:
        """Read parked documents of ``index`` again (``ids``, or all) and write what can be; waits some seconds."""
        self._drift.refuse(index)
        parked = self._builds.parked(index)
        wanted = sorted(parked.intersection(ids) if ids else parked)
        keys = wait_out(lambda: self._documents.keys_of(index, wanted), self._stop, self._status, "source documents")
        done = self._wait(self._engine.mend(index, [keys[id] for id in wanted if id in keys]))
        left = self._builds.parked(index)
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

    def _wait(self, mend: Mend) -> bool:
        """True once ``mend`` is done; False after as long as somebody waits for it.  Raises ``Stopped`` at stop."""
        deadline = time.monotonic() + RETRY_SECONDS
        while not mend.done.wait(max(0.0, min(LOOK_SECONDS, deadline - time.monotonic()))):
            if self._stop.is_set():
                raise Stopped
            if time.monotonic() > deadline:
                return False
        return True

    def look_at_parked(self, index: str) -> None:
        """A build wrote what could be written; what was parked before it and still is may have no row any more."""
        left = self._builds.parked_since(index)
        if left:
            self._spawn("flusso-parked", lambda: self._retry_quietly(index, left))

    def _retry_quietly(self, index: str, ids: Sequence[str]) -> None:
        try:
            self.retry(index, ids)
        except FlussoError as error:
            if not error.transient:
                raise
            log.info(
                "what is parked of index %s is not looked at now: %s", index, error.message, extra={"index": index}
            )

    def repair(self, index: str, ids: Sequence[str]) -> str:
        """Write the documents ``ids`` of ``index`` as their rows say, whatever the sinks hold; waits some seconds.

        An id without a row is deleted.
        """
        self._drift.refuse(index)
        wanted = list(dict.fromkeys(ids))
        keys = wait_out(lambda: self._documents.keys_of(index, wanted), self._stop, self._status, "source documents")
        # What was written by hand has the version of our last write and a little more.
        wait_out(self._documents.advance, self._stop, self._status, "source documents")
        ghosts = [id for id in wanted if id not in keys]
        done = self._wait(self._engine.mend(index, [keys[id] for id in wanted if id in keys], ghosts))
        sentence = f"{len(wanted)} documents of index {index} are read and written again"
        if ghosts:
            sentence += f", of which {len(ghosts)} have an id that no key gives and are deleted"
        return sentence if done else sentence + "; they are still on their way"

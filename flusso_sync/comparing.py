"""Comparisons of indexes with their rows that the running daemon makes itself, when somebody asks it to."""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable, Dict, List, Mapping, Optional

from flusso_sync.backoff import Stopped
from flusso_sync.engine.source import Documents
from flusso_sync.errors import FlussoError, SinkRefused
from flusso_sync.history import utc_now
from flusso_sync.sinks.base import Sink
from flusso_sync.status import Status
from flusso_sync.verify import Options, Result, Verifier

log = logging.getLogger(__name__)

#: Rows and ids that are compared in a second: live changes share the process with it.
ROWS_PER_SECOND = 2000.0

#: Differences that are shown one by one; ``flussod verify`` lists the others.
MOST_SHOWN = 10

#: Runs something on a thread of its own, whose failure is the pipeline's.
Spawn = Callable[[str, Callable[[], None]], object]


class Comparisons:
    """One comparison at a time, the others wait.  How far each is, and what it found, stands in ``/status`` under
    ``verify``: ``state`` (``waiting``, ``running``, ``right``, ``wrong``, ``failed``), ``seen`` of ``total`` rows
    and ids, ``found`` differences and the first of them, ``started`` and ``ended``."""

    def __init__(
        self,
        documents: Documents,
        sinks: Mapping[str, Sink],
        status: Status,
        stop: threading.Event,
        spawn: Spawn,
        rows_per_second: Optional[float] = ROWS_PER_SECOND,
    ) -> None:
        self._documents = documents
        self._sinks = {name: sink for name, sink in sinks.items() if type(sink).get is not Sink.get}
        self._status = status
        self._stop = stop
        self._spawn = spawn
        self._options = Options(max_rows_per_second=rows_per_second)
        self._lock = threading.Lock()
        self._wanted: List[str] = []
        self._busy = False

    def ask(self, index: str) -> str:
        """Have ``index`` compared with its rows, now or after those that wait; returns a sentence."""
        if not self._sinks:
            raise SinkRefused("no sink can be read back, so there is nothing to compare", index=index)
        with self._lock:
            if index in self._wanted:
                return f"index {index} is being compared with its rows already"
            self._wanted.append(index)
            first, self._busy = not self._busy, True
            ahead = len(self._wanted) - 1
        self._tell(index, state="waiting")
        if first:
            self._spawn("flusso-verify", self._loop)
        return f"index {index} is compared with its rows" + (f", after {ahead} other" if ahead else "")

    def _loop(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._busy = False
                    return
                index = self._wanted[0]
            self._compare(index)
            with self._lock:
                self._wanted.pop(0)

    def _compare(self, index: str) -> None:
        started = utc_now()
        results: List[Result] = []

        def progress(done: int, total: Optional[int], found: int) -> None:
            self._tell(index, state="running", started=started, seen=done, total=total, found=found)

        try:
            for sink in self._sinks.values():
                verifier = Verifier(
                    self._documents, sink, self._options, progress=progress, stop=self._stop, status=self._status
                )
                results.append(verifier.verify(index))
        except Stopped:
            with self._lock:
                waiting = self._wanted[1:]
            self._tell(index, state="failed", started=started, ended=utc_now(), why="the daemon stopped meanwhile")
            for other in waiting:
                self._tell(other, state="failed", ended=utc_now(), why="the daemon stopped before its turn")
            raise
        except FlussoError as error:
            log.warning("index %s could not be compared with its rows: %s", index, error, extra={"index": index})
            self._tell(index, state="failed", started=started, ended=utc_now(), why=str(error))
            return
        except Exception as error:
            # A proof that breaks must not end what it is the proof of.
            log.exception("index %s could not be compared with its rows", index, extra={"index": index})
            self._tell(index, state="failed", started=started, ended=utc_now(), why=f"{type(error).__name__}: {error}")
            return
        found = sum(result.found for result in results)
        log.info(
            "index %s is compared with its rows: %d documents, %d differences",
            index,
            sum(result.compared for result in results),
            found,
            extra={"index": index},
        )
        self._tell(
            index,
            state="wrong" if found else "right",
            started=started,
            ended=utc_now(),
            seen=sum(result.rows + result.ids for result in results),
            compared=sum(result.compared for result in results),
            found=found,
            notes=[note for result in results for note in result.notes],
            differences=[
                {"sink": result.sink, "id": one.id, "kind": one.kind, "path": one.path}
                for result in results
                for one in result.differences
            ][:MOST_SHOWN],
        )

    def _tell(self, index: str, **said: Any) -> None:
        shown: Dict[str, Any] = {"state": "", "started": None, "ended": None, "seen": 0, "total": None, "found": 0}
        self._status.set_fact(f"verify.{index}", {**shown, **said})

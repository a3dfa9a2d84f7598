"""Somebody else's backends: a finite source of plain Python values and a sink in a dict; neither psycopg nor Flask."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from flusso_sync.engine.source import (
    Capture,
    ChangeRun,
    Chunk,
    Document,
    Documents,
    Emit,
    Prepared,
    Record,
    Resolution,
    Snapshot,
    SourceIdentity,
    SourceParts,
)
from flusso_sync.errors import SinkUnavailable
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import Failure, IndexReport, Rejected, Sink, Write


class Rows:
    """A table: key -> value.  Changes are applied, then streamed; reads are of the present."""

    def __init__(self, rows: Mapping[str, str]) -> None:
        self.lock = threading.Lock()
        self.rows = dict(rows)
        self.version = 1

    def apply(self, key: str, value: Optional[str]) -> None:
        with self.lock:
            self.version += 1
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value


class FiniteCapture(Capture):
    """Streams ``changes`` (key, value or None), one transaction each, and ends; ``hold`` keeps it open."""

    def __init__(
        self, rows: Rows, changes: Sequence[Tuple[str, Optional[str]]], hold: Optional[threading.Event]
    ) -> None:
        self._rows = rows
        self._changes = changes
        self._hold = hold
        self.confirmed = 0

    def connect(self, stop: threading.Event) -> SourceIdentity:
        return SourceIdentity("plain", "rows", "slot", "here")

    def prepare(self, record: Optional[Record], stop: threading.Event) -> Prepared:
        return Prepared(0)

    def stream(self, emit: Emit, stop: threading.Event) -> None:
        for position, (key, value) in enumerate(self._changes, start=1):
            self._rows.apply(key, value)
            if not emit(ChangeRun([key], position, None)):
                return
        while self._hold is not None and not self._hold.is_set() and not stop.wait(0.01):
            pass

    def confirm(self, position: int) -> None:
        self.confirmed = position


class PlainSnapshot(Snapshot):
    def __init__(self, rows: Rows, index: str) -> None:
        with rows.lock:
            self._seen = dict(rows.rows)
            self.version = rows.version
        self._index = index

    def resolve(self, runs: Sequence[ChangeRun]) -> Resolution:
        keys = sorted({key for run in runs for key in run.changes})
        return Resolution({self._index: keys}, {})

    def build(self, index: str, keys: Sequence[Any]) -> Tuple[List[Document], Sequence[Any]]:
        now, later = keys[:100], keys[100:]
        return [Document(key, self._body(key)) for key in now], later

    def build_chunk(self, chunk: Chunk) -> Tuple[List[Document], Sequence[Any]]:
        return [Document(key, self._body(key)) for key in chunk.ids if key in self._seen], ()

    def _body(self, key: str) -> Optional[bytes]:
        value = self._seen.get(key)
        return None if value is None else json.dumps({"key": key, "value": value}).encode()


class PlainDocuments(Documents):
    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._index = ""

    def open(self, plans: Sequence[IndexPlan], stop: threading.Event) -> None:
        self._index = plans[0].name

    @contextlib.contextmanager
    def snapshot(self, runs: Sequence[ChangeRun], stop: threading.Event) -> Iterator[Snapshot]:
        yield PlainSnapshot(self._rows, self._index)

    def estimate(self, index: str) -> Optional[int]:
        return len(self._rows.rows)

    def next_chunk(self, index: str, after: Any, until: Any, rows: int) -> Optional[Chunk]:
        with self._rows.lock:
            keys = sorted(key for key in self._rows.rows if after is None or key > after)
        keys = [key for key in keys if until is None or key <= until][:rows]
        upper = until if until is not None and len(keys) < rows else keys[-1] if keys else None
        return Chunk(index, keys, None, len(keys), upper) if keys else None


class DictSink(Sink):
    """Keeps bodies by id; ``away`` makes every write fail until it is cleared."""

    stateful = False
    concurrency = 1
    max_actions = 100
    max_bytes = 1_000_000

    def __init__(self, name: str) -> None:
        self.name = name
        self.documents: Dict[str, Any] = {}
        self.away = threading.Event()
        self.closed = 0

    def open(self, identity: SourceIdentity, *, adopt: bool = False) -> None: ...

    def read_record(self) -> Optional[Record]:
        return None

    def write_record(self, record: Record) -> None: ...

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        return [IndexReport(plan.name, False) for plan in plans]

    def begin_build(self, index: str) -> int:
        return 0

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        if self.away.is_set():
            raise SinkUnavailable(f"sink {self.name} is away")
        for write in writes:
            if write.body is None:
                self.documents.pop(write.id, None)
            else:
                self.documents[write.id] = json.loads(write.body)
        return ()

    def complete_build(self, index: str) -> None: ...

    def quarantine(self, documents: Sequence[Rejected]) -> None: ...

    def release(self, index: str, ids: Sequence[str]) -> None: ...

    def quarantined(self) -> Dict[str, List[str]]:
        return {}

    def renew(self) -> None: ...

    def watch(self) -> List[str]:
        return []

    def close(self) -> None:
        self.closed += 1


class ThirdParty:
    """``Backends`` over the above."""

    def __init__(
        self,
        rows: Mapping[str, str],
        changes: Sequence[Tuple[str, Optional[str]]] = (),
        hold: Optional[threading.Event] = None,
    ) -> None:
        self.rows = Rows(rows)
        self.capture = FiniteCapture(self.rows, changes, hold)
        self.sink = DictSink("dict")

    def source(self, config: Any, options: Any) -> SourceParts:
        return SourceParts(self.capture, PlainDocuments(self.rows))

    def sinks(self, config: Any, options: Any) -> Mapping[str, Sink]:
        return {"dict": self.sink}

    @property
    def expected(self) -> Dict[str, Any]:
        return {key: {"key": key, "value": value} for key, value in self.rows.rows.items()}

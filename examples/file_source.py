"""A source of one's own behind ``Backends``: a file that grows by a line for each change, in place of Postgres.

A line is ``{"id": "7", "document": {...}}``, or ``"document": null`` for a delete; the last line of an id counts.
``python examples/file_source.py flusso.yaml changes.jsonl`` keeps the first index of the configuration in step with it,
in the sinks of the configuration.  A position is a number of bytes of the file, and so is the version of a document.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from flusso_sync import Config, Daemon, DaemonOptions, load_config
from flusso_sync.backends import DefaultBackends
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
from flusso_sync.errors import SourceUnavailable
from flusso_sync.schema.plan import IndexPlan

#: Changes that are handed on at once, and how often the file is looked at for more.
RUN_CHANGES = 256
LOOK_SECONDS = 0.1


class Log:
    """The file; a line without its end is still being written and does not count."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def identity(self) -> SourceIdentity:
        found = self._stat()
        return SourceIdentity(f"{found.st_dev}-{found.st_ino}", self._path.name, "file", str(self._path.resolve()))

    def size(self) -> int:
        return self._stat().st_size

    def lines(self, start: int) -> Iterator[Tuple[int, str, Optional[Any]]]:
        """Where each complete line behind ``start`` ends, its id and its document."""
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    start += len(line)
                    change = json.loads(line)
                    yield start, str(change["id"]), change["document"]
        except OSError as error:
            raise SourceUnavailable(f"{self._path} cannot be read: {error.strerror}") from error

    def _stat(self) -> os.stat_result:
        try:
            return self._path.stat()
        except OSError as error:
            raise SourceUnavailable(f"{self._path} cannot be read: {error.strerror}") from error


class FileCapture(Capture):
    """The stream: ids of changed documents, in the order of the file."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._start = 0

    def connect(self, stop: threading.Event) -> SourceIdentity:
        return self._log.identity()

    def prepare(self, record: Optional[Record], stop: threading.Event) -> Prepared:
        size = self._log.size()
        if record is not None and record.confirmed > size:
            self._start = size
            return Prepared(size, gap=f"the file ends at {size}, before {record.confirmed}, where we were")
        self._start = size if record is None else record.confirmed
        return Prepared(self._start)

    def stream(self, emit: Emit, stop: threading.Event) -> None:
        position = self._start
        while not stop.is_set():
            ids: List[str] = []
            for end, id, _ in self._log.lines(position):
                ids.append(id)
                position = end
                if len(ids) >= RUN_CHANGES:
                    break
            if not ids:
                stop.wait(LOOK_SECONDS)
            elif not emit(ChangeRun(ids, position)):
                return

    def confirm(self, position: int) -> None:
        """The file keeps everything anyway."""


class FileSnapshot(Snapshot):
    """What the file says up to where it ended when this was made."""

    def __init__(self, documents: Dict[str, Any], version: int, index: str) -> None:
        self.version = version
        self._documents = documents
        self._index = index

    def resolve(self, runs: Sequence[ChangeRun]) -> Resolution:
        return Resolution({self._index: sorted({id for run in runs for id in run.changes})}, {})

    def build(self, index: str, keys: Sequence[Any]) -> Tuple[List[Document], Sequence[Any]]:
        now, later = keys[:500], keys[500:]
        return [Document(id, self._body(id)) for id in now], later

    def build_chunk(self, chunk: Chunk) -> Tuple[List[Document], Sequence[Any]]:
        return [Document(id, self._body(id)) for id in chunk.ids if id in self._documents], ()

    def _body(self, id: str) -> Optional[bytes]:
        document = self._documents.get(id)
        return None if document is None else json.dumps(document, ensure_ascii=False).encode()


class FileDocuments(Documents):
    """Keeps the newest document of each id in memory, and reads on from there."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._documents: Dict[str, Any] = {}
        self._read = 0
        self._index = ""

    def open(self, plans: Sequence[IndexPlan], stop: threading.Event) -> None:
        self._index = plans[0].name

    @contextlib.contextmanager
    def snapshot(self, runs: Sequence[ChangeRun], stop: threading.Event) -> Iterator[Snapshot]:
        # Whatever was streamed stood in the file before, so it is seen.
        with self._lock:
            for position, id, document in self._log.lines(self._read):
                self._read = position
                if document is None:
                    self._documents.pop(id, None)
                else:
                    self._documents[id] = document
            # Versions begin at 1.
            yield FileSnapshot(self._documents, self._read + 1, self._index)

    def next_chunk(self, index: str, after: Any, until: Any, rows: int) -> Optional[Chunk]:
        with self.snapshot((), threading.Event()):
            behind = sorted(id for id in self._documents if after is None or id > after)
        ids = [id for id in behind if until is None or id <= until][:rows]
        return Chunk(index, ids, None, len(ids), ids[-1]) if ids else None


class Backends(DefaultBackends):
    """The file in place of Postgres; sinks as the configuration says."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._log = Log(path)

    def source(self, config: Config, options: DaemonOptions) -> SourceParts:
        return SourceParts(FileCapture(self._log), FileDocuments(self._log))


if __name__ == "__main__":
    Daemon(load_config(sys.argv[1]), Backends(sys.argv[2])).start().run(threading.Event())

"""A sink of one's own: documents as files in a folder, one per document.

A link called like the index points to the generation that is read.  ``python examples/folder_sink.py etc/flusso.yaml
/srv/documents`` keeps them in step with Postgres.  docs/sinks.md tells what a sink promises.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

from flusso_sync import Config, Daemon, DaemonOptions, load_config
from flusso_sync.backends import DefaultBackends
from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.errors import IndexMissing, SinkUnavailable
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import Failure, IndexReport, Rejected, Sink, Write


class FolderSink(Sink):
    """A file per document; stateless, so every start writes them all anew."""

    stateful = False
    concurrency = 1
    max_actions = 500
    max_bytes = 10 * 1024 * 1024

    def __init__(self, name: str, folder: str) -> None:
        self.name = name
        self._folder = Path(folder)
        self._read: Dict[str, Path] = {}
        self._building: Dict[str, Path] = {}

    def open(self, identity: SourceIdentity, *, adopt: bool = False) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(error, in_doubt=False) from error

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        for plan in plans:
            self.begin_build(plan.name)
            if skip_build:
                self.complete_build(plan.name)
        return [IndexReport(plan.name, seeded=False) for plan in plans]

    def begin_build(self, index: str) -> int:
        numbers = [int(path.suffix[1:]) for path in self._folder.glob(f"{index}.*") if path.suffix[1:].isdigit()]
        number = max(numbers, default=0) + 1
        building = self._folder / f"{index}.{number}"
        try:
            building.mkdir()
            given_up = self._building.get(index)
            self._building[index] = building
            if given_up is not None:
                shutil.rmtree(given_up)
        except OSError as error:
            raise self._unavailable(error) from error
        return number

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        touched = set()
        try:
            for write in writes:
                for folder in self._targets(write):
                    self._put(folder, write.id, write.body)
                    touched.add(folder)
            for folder in touched:
                _sync(folder)
        except FileNotFoundError as error:
            raise IndexMissing(f"sink {self.name}: {error}", index=writes[0].index) from error
        except OSError as error:
            # Sent again as a whole, which does no harm.
            raise self._unavailable(error) from error
        return ()

    def _targets(self, write: Write) -> List[Path]:
        building = self._building.get(write.index)
        if write.build:
            wanted = building is not None and (write.generation is None or building.suffix == f".{write.generation}")
            return [building] if building is not None and wanted else []
        read = self._read.get(write.index)
        return [folder for folder in (read, building) if folder is not None]

    def _put(self, folder: Path, id: str, body: Optional[bytes]) -> None:
        # An id may hold any character, and be longer than a file's name.
        path = folder / (hashlib.sha256(id.encode()).hexdigest() + ".json")
        if body is None:
            if path.exists():
                path.unlink()
            return
        with open(path.with_suffix(".new"), "wb") as file:
            file.write(b'{"id":%s,"document":%s}' % (json.dumps(id).encode(), body))
            file.flush()
            os.fsync(file.fileno())
        os.replace(path.with_suffix(".new"), path)

    def complete_build(self, index: str) -> None:
        built = self._building.get(index)
        if built is None:
            return
        try:
            link = self._folder / f"{index}.link"
            if link.is_symlink():
                link.unlink()
            link.symlink_to(built.name)
            os.replace(link, self._folder / index)
            _sync(self._folder)
            self._read[index] = self._building.pop(index)
            for former in self._folder.glob(f"{index}.*"):
                if former != built:
                    shutil.rmtree(former)
        except OSError as error:
            raise self._unavailable(error) from error

    def watch(self) -> List[str]:
        return [index for index, folder in self._read.items() if not folder.is_dir()]

    def _unavailable(self, error: OSError, in_doubt: bool = True) -> SinkUnavailable:
        return SinkUnavailable(f"sink {self.name}: {error}", in_doubt=in_doubt, hint="See the folder and its disk")

    # A stateless sink remembers nothing.

    def read_record(self) -> Optional[Record]:
        return None

    def write_record(self, record: Record) -> None: ...

    def quarantine(self, documents: Sequence[Rejected]) -> None: ...

    def release(self, index: str, ids: Sequence[str]) -> None: ...

    def quarantined(self) -> Dict[str, List[str]]:
        return {}

    def renew(self) -> None: ...

    def close(self) -> None: ...


def _sync(folder: Path) -> None:
    """A name is durable once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Backends(DefaultBackends):
    """Postgres as ever, and this sink whatever the configuration says of sinks."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def sinks(self, config: Config, options: DaemonOptions) -> Mapping[str, Sink]:
        return {"folder": FolderSink("folder", self._folder)}


if __name__ == "__main__":
    Daemon(load_config(sys.argv[1]), Backends(sys.argv[2])).start().run(threading.Event())

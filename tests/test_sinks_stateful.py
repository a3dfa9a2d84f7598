"""A sink of somebody's own that remembers: ``StatefulSink`` over two dictionaries keeps all of the contract.

Its generations are those of the sink in memory; what is tested is the half that lies in a meta store.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import pytest

from flusso_sync.engine.source import SourceIdentity
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import (
    Failure,
    Found,
    GenerationReport,
    IndexReport,
    Parked,
    Rejected,
    RolledBack,
    Sink,
    Write,
    park,
    quarantine_full,
)
from flusso_sync.sinks.memory import MemorySink, MemoryStore
from flusso_sync.sinks.meta import Json, MetaConflict, Stored
from flusso_sync.sinks.stateful import StatefulSink
from flusso_sync.testing.sinks import MakeSink, StatefulSinkContract
from tests.test_sinks_memory import read


class Place:
    """All that outlives a sink."""

    def __init__(self) -> None:
        self.documents: Dict[str, Tuple[int, str]] = {}
        self.parked: Dict[Tuple[str, str], Parked] = {}
        self.store = MemoryStore()


class DictMeta:
    """The protocol ``Meta``, and no more than it asks for."""

    def __init__(self, place: Place) -> None:
        self._documents = place.documents

    def read(self, id: str) -> Optional[Stored]:
        found = self._documents.get(id)
        return None if found is None else Stored(json.loads(found[1]), (found[0],))

    def write(self, id: str, source: Json, *, after: Optional[Stored] = None, create: bool = False) -> Stored:
        there = self._documents.get(id, (0, ""))[0]
        if create and there or after is not None and after.revision != (there,):
            raise MetaConflict(id)
        self._documents[id] = (there + 1, json.dumps(source))
        return Stored(source, (there + 1,))

    def delete(self, id: str) -> None:
        self._documents.pop(id, None)

    def every(self, kind: str) -> Iterator[Tuple[str, Json]]:
        found = sorted((id, text) for id, (_, text) in self._documents.items() if id.partition(":")[0] == kind)
        return iter([(id, json.loads(text)) for id, text in found])


class DictQuarantine:
    def __init__(self, place: Place, limit: int) -> None:
        self._place = place
        self._limit = limit

    def park(self, documents: Sequence[Rejected]) -> None:
        parked = dict(self._place.parked)
        for document in documents:
            key = (document.index, document.id)
            parked[key] = park(parked.get(key), document)
            if sum(index == document.index for index, _ in parked) > self._limit:
                raise quarantine_full(self._limit, document)
        self._place.parked = parked

    def release(self, index: str, ids: Sequence[str]) -> None:
        for id in ids:
            self._place.parked.pop((index, id), None)

    def ids(self) -> Dict[str, List[str]]:
        found: Dict[str, List[str]] = {}
        for index, id in sorted(self._place.parked):
            found.setdefault(index, []).append(id)
        return found

    def entries(self, index: Optional[str] = None) -> Iterator[Parked]:
        return iter([one for (name, _), one in self._place.parked.items() if index in (None, name)])


class OwnSink(StatefulSink):
    concurrency = 1
    max_actions = 1000
    max_bytes = 1_000_000

    def __init__(self, name: str, place: Place, keep: int = 0) -> None:
        super().__init__(name, DictMeta(place), DictQuarantine(place, 10_000), elsewhere="another place")
        self._place = place
        self.documents = MemorySink(name, store=place.store, stateful=True, keep_generations=keep)

    def open(self, identity: SourceIdentity, *, adopt: bool = False) -> None:
        self._take_over(identity, adopt=adopt)
        self._place.store.holder = self.documents

    def _start_over(self) -> None:
        super()._start_over()
        for held in self._place.store.indexes.values():
            held.seeded, held.progress = False, None

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        return self.documents.ensure(plans, skip_build=skip_build)

    def begin_build(self, index: str) -> int:
        return self.documents.begin_build(index)

    def resume_build(self, index: str) -> int:
        return self.documents.resume_build(index)

    def save_progress(self, index: str, progress: Mapping[str, Any]) -> None:
        self._lease.check()
        self.documents.save_progress(index, progress)

    def complete_build(self, index: str) -> None:
        self._place.store.record = self.read_record()
        self.documents.complete_build(index)

    def rollback(self, index: str) -> RolledBack:
        return self.documents.rollback(index)

    def generations(self) -> Mapping[str, Sequence[GenerationReport]]:
        return self.documents.generations()

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        self._lease.check()
        return self.documents.write(writes)

    def watch(self) -> List[str]:
        return self.documents.watch()

    def get(self, index: str, id: str) -> Optional[bytes]:
        return self.documents.get(index, id)

    def count(self, index: str) -> int:
        return self.documents.count(index)

    def search(self, index: str, words: str, limit: int = 10) -> List[Tuple[str, Any]]:
        return self.documents.search(index, words, limit)

    def scan(self, index: str) -> Iterator[Tuple[str, Any]]:
        return self.documents.scan(index)

    def get_many(self, index: str, ids: Sequence[str]) -> Dict[str, Found]:
        return self.documents.get_many(index, ids)

    def close(self) -> None:
        self._give_back()
        self.documents.close()


class TestContract(StatefulSinkContract):
    @pytest.fixture
    def make_sink(self) -> Iterator[MakeSink]:
        place = Place()
        yield lambda: OwnSink("own", place)

    @pytest.fixture
    def make_keeping(self) -> Iterator[MakeSink]:
        place = Place()
        yield lambda: OwnSink("own", place, keep=1)

    def read(self, sink: Sink, index: str) -> Dict[str, Any]:
        assert isinstance(sink, OwnSink)
        return read(sink.documents, index)

    def delete_index(self, sink: Sink, index: str) -> None:
        assert isinstance(sink, OwnSink)
        sink._place.store.delete_index(index)

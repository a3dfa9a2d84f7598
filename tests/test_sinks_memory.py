"""The sink in memory keeps the contract, and fails when it is told to in every way a real one does."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, Optional, Sequence

import pytest

from flusso_sync.errors import (
    DocumentRejected,
    FlussoError,
    IndexMissing,
    OwnerConflict,
    PayloadTooLarge,
    SinkBlocked,
    SinkOverloaded,
    SinkUnavailable,
)
from flusso_sync.sinks.base import FailureKind, Rejected, Sink, Write
from flusso_sync.sinks.memory import Fault, ItemFault, MemorySink, MemoryStore, Refusal
from flusso_sync.testing.sinks import ME, MakeSink, SinkContract, StatefulSinkContract, plan, put


def read(sink: Sink, index: str) -> Dict[str, Any]:
    assert isinstance(sink, MemorySink)
    return {id: json.loads(document) for id, document in sink.documents(index).items()}


class TestStateless(SinkContract):
    read = staticmethod(read)

    @pytest.fixture
    def make_sink(self) -> Iterator[MakeSink]:
        yield MemorySink


class TestStateful(StatefulSinkContract):
    read = staticmethod(read)

    @pytest.fixture
    def make_sink(self) -> Iterator[MakeSink]:
        store = MemoryStore()
        yield lambda: MemorySink(store=store, stateful=True)

    @pytest.fixture
    def make_keeping(self) -> Iterator[MakeSink]:
        store = MemoryStore()
        yield lambda: MemorySink(store=store, stateful=True, keep_generations=1)

    def delete_index(self, sink: Sink, index: str) -> None:
        assert isinstance(sink, MemorySink)
        sink.store.delete_index(index)


class Script:
    """Faults in the order they are given, for ``write`` alone."""

    def __init__(self, *faults: Optional[Fault]) -> None:
        self.faults = list(faults)

    def __call__(self, method: str, writes: Sequence[Write]) -> Optional[Fault]:
        return self.faults.pop(0) if method == "write" and self.faults else None


def open_with(*faults: Optional[Fault]) -> MemorySink:
    sink = MemorySink(faults=Script(*faults))
    sink.open(ME)
    sink.ensure([plan()])
    sink.begin_build("users")
    sink.complete_build("users")
    return sink


@pytest.mark.parametrize(
    "error",
    [
        SinkUnavailable("away"),
        SinkOverloaded("slow down", retry_after_seconds=2),
        SinkBlocked("disk full"),
        PayloadTooLarge("too large"),
        IndexMissing("gone", index="users"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_request_fails_as_it_is_told_to_and_the_next_one_passes(error: FlussoError) -> None:
    sink = open_with(Refusal(error))
    with pytest.raises(type(error)):
        sink.write([put("1")])
    assert sink.get("users", "1") is None
    sink.write([put("1")])
    assert sink.get("users", "1") is not None


def test_a_request_of_unknown_fate_may_have_been_carried_out() -> None:
    sink = open_with(Refusal(SinkUnavailable("timed out"), applied=True))
    with pytest.raises(SinkUnavailable):
        sink.write([put("1")])
    assert sink.get("users", "1") is not None


@pytest.mark.parametrize("kind", list(FailureKind))
def test_single_writes_fail_while_their_neighbours_are_durable(kind: FailureKind) -> None:
    sink = open_with(ItemFault(kind, "told to", 429, ids={"2"}, retry_after_seconds=1.5))
    failures: List[Any] = list(sink.write([put("1"), put("2"), put("3")]))
    assert [(f.position, f.kind, f.retry_after_seconds) for f in failures] == [(1, kind, 1.5)]
    assert set(sink.documents("users")) == {"1", "3"}


def test_any_method_can_fail() -> None:
    sink = MemorySink(faults=lambda method, writes: Refusal(SinkUnavailable("away")) if method == "renew" else None)
    sink.open(ME)
    with pytest.raises(SinkUnavailable):
        sink.renew()


def test_a_full_quarantine_refuses_and_keeps_what_it_has() -> None:
    sink = MemorySink(stateful=True, quarantine_limit=1)
    sink.open(ME)
    sink.quarantine([Rejected("users", "1", "odd", 1)])
    with pytest.raises(DocumentRejected, match="limit of 1 documents.*`flussod quarantine list users`"):
        sink.quarantine([Rejected("users", "2", "odd", 1), Rejected("orders", "1", "odd", 1)])
    assert sink.quarantined() == {"users": ["1"], "orders": ["1"]}


def test_a_sink_without_the_lease_writes_nothing() -> None:
    store = MemoryStore()
    first = MemorySink("first", store=store, stateful=True)
    first.open(ME)
    first.ensure([plan()])
    store.holder = None
    MemorySink("second", store=store, stateful=True).open(ME)
    with pytest.raises(OwnerConflict):
        first.write([put("1")])
    with pytest.raises(OwnerConflict):
        first.renew()

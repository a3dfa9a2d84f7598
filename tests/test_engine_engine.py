"""The engine's order: nothing old reaches a generation that begins anew, and nothing grows while a sink is away."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Iterator, List, Mapping, Sequence, Tuple

import pytest

from flusso_sync.engine import engine as module
from flusso_sync.engine.engine import Engine
from flusso_sync.engine.ledger import Ledger
from flusso_sync.engine.policies import FailurePolicies
from flusso_sync.engine.queue import ChangeQueue
from flusso_sync.engine.source import ChangeRun, Document, Documents, Resolution, Snapshot
from flusso_sync.engine.writer import SinkWriter
from flusso_sync.observer import Observer
from flusso_sync.sinks.base import Failure, Write
from flusso_sync.status import Status
from flusso_sync.worker import Worker
from tests.third_party import DictSink
from tests.waiting import wait_for


class GatedSink(DictSink):
    """Writes wait at ``gate``; ``reached`` is set as soon as one does."""

    concurrency = 1

    def __init__(self) -> None:
        super().__init__("gated")
        self.gate = threading.Event()
        self.reached = threading.Event()

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        self.reached.set()
        assert self.gate.wait(20)
        self.documents.update((write.id, write.body) for write in writes)
        return ()


class EchoSnapshot(Snapshot):
    """A change is the id of the document that shows it; the change ``TRUNCATE`` asks for a rebuild."""

    version = 1

    def resolve(self, runs: Sequence[ChangeRun]) -> Resolution:
        ids = {change for run in runs for change in run.changes}
        rebuild = {"i": "truncated"} if "TRUNCATE" in ids else {}
        return Resolution({"i": sorted(ids - {"TRUNCATE"})}, rebuild)

    def build(self, index: str, keys: Sequence[Any]) -> Tuple[List[Document], Sequence[Any]]:
        return [Document(key, b"{}") for key in keys], ()


class EchoDocuments(Documents):
    @contextlib.contextmanager
    def snapshot(self, runs: Sequence[ChangeRun], stop: threading.Event) -> Iterator[Snapshot]:
        yield EchoSnapshot()


class Rig:
    """An engine and a writer on their threads, over a sink whose writes wait at a gate."""

    def __init__(self) -> None:
        self.sink = GatedSink()
        self.queue = ChangeQueue(100_000)
        self.ledger = Ledger()
        self.stop = threading.Event()
        self.rebuilt: List[Mapping[str, str]] = []
        self.failures: List[BaseException] = []
        status, observer = Status(), Observer()
        self.writer = SinkWriter(
            self.sink,
            policies=FailurePolicies(),
            observer=observer,
            status=status,
            stop=self.stop,
            caught_up=self.queue.empty,
        )
        self.engine = Engine(
            self.queue,
            EchoDocuments(),
            [self.writer],
            self.ledger,
            status=status,
            observer=observer,
            stop=self.stop,
            draining=threading.Event(),
            rebuild=self.rebuilt.append,
            batch_changes=1,
            heartbeat="flusso-engine",
        )
        self.threads = [
            Worker(name, loop, lambda name, error: self.failures.append(error))
            for name, loop in (("flusso-engine", self.engine.loop), ("flusso-sink-gated", self.writer.loop))
        ]
        for thread in self.threads:
            thread.start()

    def commit(self, position: int, change: str) -> None:
        self.queue.offer(ChangeRun([change], position, position), None)

    def end(self) -> None:
        self.sink.gate.set()
        self.stop.set()
        self.queue.ring()
        self.writer.wake()
        for thread in self.threads:
            thread.join(10)
        assert not self.failures


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.end()


def test_a_truncated_index_begins_anew_only_when_nothing_older_is_on_its_way(rig: Rig) -> None:
    # Given a document that was read before the TRUNCATE, and whose request is not answered yet
    rig.commit(1, "a")
    assert rig.sink.reached.wait(10)
    # When the TRUNCATE is worked off
    rig.commit(2, "TRUNCATE")
    wait_for(lambda: rig.ledger.open_entries == 2)
    assert not rig.rebuilt
    # Then the new generation begins after that request, or the document would be in it for ever
    rig.sink.gate.set()
    wait_for(lambda: rig.rebuilt == [{"i": "truncated"}])
    assert rig.sink.documents == {"a": b"{}"}
    wait_for(lambda: rig.ledger.confirmed == 2)


def test_the_batches_on_their_way_are_bounded_while_a_sink_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_ENTRIES", 8)
    monkeypatch.setattr(module, "ROOM_WAIT_SECONDS", 0.01)
    for position in range(1, 101):
        rig.commit(position, "hot")
    wait_for(lambda: rig.ledger.open_entries == 8)
    assert not rig.ledger.wait_room(8, 0.2)
    assert rig.ledger.open_entries == 8 and rig.queue.qsize() == 92
    rig.sink.gate.set()
    wait_for(lambda: rig.ledger.confirmed == 100)


def test_a_run_is_in_the_queue_or_in_the_ledger_until_it_is_durable(rig: Rig) -> None:
    rig.commit(1, "a")
    assert rig.sink.reached.wait(10)
    assert rig.queue.unfinished_tasks == 0 and rig.ledger.open_entries == 1
    rig.sink.gate.set()
    wait_for(lambda: rig.ledger.open_entries == 0)


def test_what_is_mended_is_read_anew_and_done_when_it_is_durable(rig: Rig) -> None:
    rig.commit(1, "a")
    assert rig.sink.reached.wait(10)
    mend = rig.engine.mend("i", ["b", "c"])
    assert not mend.done.wait(0.1)
    rig.sink.gate.set()
    assert mend.done.wait(10)
    assert rig.sink.documents == {"a": b"{}", "b": b"{}", "c": b"{}"}
    assert rig.engine.mend("i", []).done.wait(10)

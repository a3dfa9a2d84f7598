"""The engine's order: nothing old reaches a generation that begins anew, and nothing grows while a sink is away."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence, Tuple

import pytest

from flusso_sync.engine import engine as module
from flusso_sync.engine.engine import Engine
from flusso_sync.engine.ledger import Ledger
from flusso_sync.engine.policies import FailurePolicies
from flusso_sync.engine.queue import ChangeQueue
from flusso_sync.engine.seeding import Finished, Pending
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
    """``opened`` is called with each snapshot."""

    def __init__(self, opened: Callable[[], object] = lambda: None) -> None:
        self.opened = opened

    @contextlib.contextmanager
    def snapshot(self, runs: Sequence[ChangeRun], stop: threading.Event) -> Iterator[Snapshot]:
        self.opened()
        yield EchoSnapshot()


class Chunks:
    """What the chunks of a test are read for; their documents go to ``writer``."""

    index, live, cancelled = "i", False, False

    def __init__(self, writer: SinkWriter) -> None:
        self.targets: Mapping[SinkWriter, Optional[int]] = {writer: 1}

    def finished(self, engine: Engine, ids: Sequence[str], done: Callable[[], None] = lambda: None) -> Finished:
        """A chunk of ``ids``, registered and read."""
        pending = Pending(self, ids, done)
        engine.register(pending)
        return Finished(pending, [Document(id, b"old") for id in ids], 1, last=True)


class Rig:
    """An engine and a writer on their threads, over a sink whose writes wait at a gate."""

    def __init__(self) -> None:
        self.sink = GatedSink()
        self.documents = EchoDocuments()
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
            self.documents,
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

    def start(self) -> None:
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
            if thread.ident is not None:
                thread.join(10)
        assert not self.failures


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.start()
    yield made
    made.end()


@pytest.fixture
def still() -> Iterator[Rig]:
    """A rig whose threads the test starts."""
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


def test_what_a_fan_out_step_read_before_a_truncate_reaches_no_generation_that_begins_with_it(rig: Rig) -> None:
    # Given a step that is read and not handed over yet, and a chunk of a build beside it
    rig.sink.gate.set()
    fan_out, build = Chunks(rig.writer), Chunks(rig.writer)
    fan_out.live, fan_out.targets = True, {rig.writer: None}
    before, chunk = threading.Event(), threading.Event()
    step = fan_out.finished(rig.engine, ["gone"], before.set)
    built = build.finished(rig.engine, ["built"], chunk.set)
    # When the TRUNCATE is worked off before they are
    rig.commit(1, "TRUNCATE")
    wait_for(lambda: rig.rebuilt == [{"i": "truncated"}])
    rig.engine.submit(step)
    rig.engine.submit(built)
    # Then the step is over and wrote nothing, which no change would delete; the build's end is for others to decide
    assert before.wait(10) and chunk.wait(10)
    assert rig.sink.documents == {"built": b"old"}
    # And what is read from now on is written
    after = threading.Event()
    rig.engine.submit(fan_out.finished(rig.engine, ["there"], after.set))
    assert after.wait(10)
    assert rig.sink.documents == {"built": b"old", "there": b"old"}


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


def test_chunks_are_registered_while_a_batch_is_read_and_lose_what_it_writes(rig: Rig) -> None:
    # Given a live batch whose snapshot is open
    opened, go = threading.Event(), threading.Event()
    rig.documents.opened = lambda: (opened.set(), go.wait(10))
    rig.commit(1, "a")
    assert opened.wait(10)
    # When a chunk with its document is registered, read and handed over meanwhile, without waiting for the engine
    done = threading.Event()
    rig.engine.submit(Chunks(rig.writer).finished(rig.engine, ["a", "b"], done.set))
    # Then of the two reads, only the live one is written
    go.set()
    rig.sink.gate.set()
    assert done.wait(10)
    wait_for(lambda: rig.ledger.confirmed == 1)
    assert rig.sink.documents == {"a": b"{}", "b": b"old"}


def test_a_chunk_waits_for_a_mend_that_took_over_its_document(still: Rig) -> None:
    # Given a chunk that lost a document to a mend, and another that lost none
    lost, whole = threading.Event(), threading.Event()
    chunks = Chunks(still.writer)
    first = chunks.finished(still.engine, ["a"], lost.set)
    second = chunks.finished(still.engine, [], whole.set)
    mend = still.engine.mend("i", ["a"])
    still.engine._mend()
    # When both were handed over and nothing of them is left to write
    still.engine.submit(first)
    still.engine.submit(second)
    still.engine._take_chunks()
    # Then only the one counts as done: after a crash the stream would not bring the document of the other
    assert whole.is_set() and not lost.is_set()
    still.start()
    still.sink.gate.set()
    assert mend.done.wait(10)
    assert lost.is_set() and still.sink.documents == {"a": b"{}"}


def test_small_chunks_do_not_wait_for_a_batch_each(still: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given live changes that always wait
    waiting: List[int] = []

    def opened() -> None:
        waiting.append(len(still.writer._patient))
        if len(waiting) == 3:
            still.stop.set()
        still.commit(len(waiting) + 1, "a")

    still.documents.opened = opened
    still.commit(1, "a")
    chunks = Chunks(still.writer)
    for number in range(8):
        still.engine.submit(chunks.finished(still.engine, [f"{number} {row}" for row in range(50)]))
    still.engine.loop()
    # Then all chunks that are ready are enqueued after the first of their batches
    assert waiting == [0, 400, 400]


def test_a_large_chunk_is_enqueued_in_parts_while_live_changes_wait(
    still: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEWEST_CHUNK_DOCUMENTS", 100)
    waiting: List[int] = []

    def opened() -> None:
        waiting.append(len(still.writer._patient))
        if len(waiting) == 5:
            still.stop.set()
        still.commit(len(waiting) + 1, "a")

    still.documents.opened = opened
    still.commit(1, "a")
    done = threading.Event()
    still.engine.submit(Chunks(still.writer).finished(still.engine, [str(row) for row in range(250)], done.set))
    still.engine.loop()
    assert waiting == [0, 100, 200, 250, 250]
    # Nothing of it counts as done before all of it is durable
    assert not done.is_set()
    still.stop.clear()
    still.sink.gate.set()
    still.start()
    assert done.wait(10)

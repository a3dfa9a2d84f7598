"""The writer keeps one unresolved request per document, lets newer writes replace waiting ones, and judges replies."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import pytest

from flusso_sync.engine import writer as module
from flusso_sync.engine.policies import FailurePolicies, OnError
from flusso_sync.engine.writer import BUILD_SHARE, REQUEST_WRITES, SinkWriter
from flusso_sync.errors import DocumentRejected, PayloadTooLarge, SinkUnavailable
from flusso_sync.observer import Observer, Stage, StatusObserver
from flusso_sync.sinks.base import Failure, FailureKind, Rejected, Write
from flusso_sync.status import Status
from flusso_sync.worker import Worker
from tests.third_party import DictSink

Answer = Callable[[Sequence[Write]], Sequence[Failure]]


class Scripted(DictSink):
    """Asks ``answer`` about each request first; records requests and overlapping ids."""

    def __init__(self, answer: Optional[Answer] = None, concurrency: int = 2) -> None:
        super().__init__("scripted")
        self.concurrency = concurrency
        self.answer = answer
        self.requests: List[List[Tuple[str, Optional[bytes], bool]]] = []
        self.parked: List[Rejected] = []
        self.released: List[str] = []
        self.busy: Dict[str, int] = {}
        self.overlapped = False
        self._guard = threading.Lock()

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        with self._guard:
            self.requests.append([(w.id, w.body, w.build) for w in writes])
            for write in writes:
                self.busy[write.id] = self.busy.get(write.id, 0) + 1
                self.overlapped = self.overlapped or self.busy[write.id] > 1
        try:
            failures = self.answer(writes) if self.answer is not None else ()
            failed = {f.position for f in failures}
            for position, write in enumerate(writes):
                if position not in failed:
                    self.documents[write.id] = write.body
            return failures
        finally:
            with self._guard:
                for write in writes:
                    self.busy[write.id] -= 1

    def quarantine(self, documents: Sequence[Rejected]) -> None:
        self.parked.extend(documents)

    def release(self, index: str, ids: Sequence[str]) -> None:
        self.released.extend(ids)


class Count:
    def __init__(self) -> None:
        self.left = 0
        self.stages: List[Stage] = []
        self.lock = threading.Lock()

    def hold(self, count: int = 1) -> None:
        with self.lock:
            self.left += count

    def release(self, count: int = 1) -> None:
        with self.lock:
            self.left -= count
            assert self.left >= 0

    def note(self, stage: Stage) -> None:
        with self.lock:
            self.stages.append(stage)


class Rig:
    def __init__(self, sink: Scripted, policy: OnError = OnError.STOP) -> None:
        self.sink = sink
        self.stop = threading.Event()
        self.status = Status()
        self.failures: List[BaseException] = []
        self.writer = SinkWriter(
            sink,
            policies=FailurePolicies(policy),
            observer=Observer(),
            status=self.status,
            stop=self.stop,
            caught_up=lambda: True,
        )
        self.threads = [
            Worker(f"flusso-sink-test-{i}", self.writer.loop, lambda name, error: self.failures.append(error))
            for i in range(sink.concurrency)
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        self.stop.set()
        self.writer.wake()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join(10)
                assert not thread.is_alive()


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    made: List[Rig] = []

    def make(answer: Optional[Answer] = None, policy: OnError = OnError.STOP, concurrency: int = 2) -> Rig:
        made.append(Rig(Scripted(answer, concurrency), policy))
        return made[-1]

    yield make
    for one in made:
        one.end()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)


def write(id: str, body: Optional[str], build: bool = False) -> Write:
    return Write("i", id, None if body is None else body.encode(), build=build)


def test_a_newer_write_replaces_a_waiting_one_and_both_tokens_are_released(rig: Callable[..., Rig]) -> None:
    made = rig()
    first, second = Count(), Count()
    made.writer.enqueue([write("a", "1"), write("b", "1")], first)
    made.writer.enqueue([write("a", "2")], second)
    made.start()
    until(lambda: first.left == 0 and second.left == 0)
    assert made.sink.documents == {"a": b"2", "b": b"1"}
    assert sorted(id for request in made.sink.requests for id, _, _ in request) == ["a", "b"]


def test_a_live_write_goes_before_builds_and_replaces_a_waiting_build(rig: Callable[..., Rig]) -> None:
    made = rig(concurrency=1)
    build, live = Count(), Count()
    made.writer.enqueue([write("a", "old", True), write("b", "old", True)], build)
    made.writer.enqueue([write("a", "new")], live)
    made.start()
    until(lambda: build.left == 0 and live.left == 0)
    assert made.sink.requests[0] == [("a", b"new", False)]
    assert made.sink.documents == {"a": b"new", "b": b"old"}


def test_builds_get_their_share_and_no_more_while_live_writes_always_wait(rig: Callable[..., Rig]) -> None:
    # Given a sink that takes one request at a time, and a live write that always waits
    live = Count()

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        if len(live_requests()) < 1000:
            made.writer.enqueue([write(f"live {len(made.sink.requests)}", "1")], live)
        return ()

    def live_requests() -> List[Any]:
        return [request for request in made.sink.requests if not request[0][2]]

    made = rig(answer, concurrency=1)
    build = Count()
    made.writer.enqueue([write(f"build {n}", "1", True) for n in range(1000)], build)
    made.writer.enqueue([write("live", "1")], live)
    made.start()
    until(lambda: build.left == 0, 60)
    # Then every build's write has let four live ones pass, and no more; a request counts as some writes
    requests = made.sink.requests[: 1 + max(i for i, request in enumerate(made.sink.requests) if request[0][2])]
    builds = [request for request in requests if request[0][2]]
    weights = [sum(len(r) + REQUEST_WRITES for r in requests if r[0][2] is of_build) for of_build in (True, False)]
    last = len(builds[-1]) + REQUEST_WRITES
    assert (BUILD_SHARE - 1) * (weights[0] - last) <= weights[1] <= (BUILD_SHARE - 1) * weights[0] + last


@pytest.mark.parametrize("guarded", [True, False])
def test_a_request_stays_free_of_builds_while_live_writes_arrive(
    guarded: bool, rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not guarded:
        monkeypatch.setattr(SinkWriter, "_patient_limit", lambda self: self.sink.concurrency)
    monkeypatch.setattr(module, "LIVE_RECENTLY_SECONDS", 60.0)
    go = threading.Event()

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        if writes[0].build:
            go.wait(60)
        return ()

    # Given a sink of three requests at a time, and more writes of builds than two can take
    made = rig(answer, concurrency=3)
    made.sink.max_actions = 10
    build, live = Count(), Count()
    made.writer.enqueue([write("live", "1")], live)
    made.writer.enqueue([write(f"build {n}", "1", True) for n in range(100)], build)
    made.start()
    until(lambda: made.writer._patient_in_flight == (2 if guarded else 3))
    # When more live writes arrive, then they are sent, however much is owed to the builds; unless the guard is off
    made.writer.enqueue([write("next", "1")], live)
    if not guarded:
        time.sleep(0.1)
        assert live.left
    else:
        for number in range(20):
            until(lambda: live.left == 0)
            assert made.writer._patient_in_flight == 2
            made.writer.enqueue([write(f"live {number}", "1")], live)
    go.set()
    until(lambda: build.left == 0 and live.left == 0)


def test_a_sink_that_takes_one_request_at_a_time_gets_small_ones_of_builds_while_live_writes_arrive(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIVE_RECENTLY_SECONDS", 60.0)

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        time.sleep(len(writes) * 0.001)
        return ()

    for lively, sizes in ((True, [25, *[20] * 8, 15]), (False, [100, 100])):
        made = rig(answer, concurrency=1)
        build, live = Count(), Count()
        made.writer.enqueue([write(f"build {n}", "1", True) for n in range(200)], build)
        if lively:
            made.writer.enqueue([write("live", "1")], live)
        made.start()
        until(lambda b=build: b.left == 0)  # type: ignore[misc]
        # The first must be tried; then no fewer than are worth a request
        assert [len(request) for request in made.sink.requests if request[0][2]] == sizes


def test_a_build_never_replaces_a_waiting_live_write(rig: Callable[..., Rig]) -> None:
    made = rig()
    live, build = Count(), Count()
    made.writer.enqueue([write("a", "new")], live)
    made.writer.enqueue([write("a", "old", True)], build)
    made.start()
    until(lambda: build.left == 0 and live.left == 0)
    assert made.sink.documents == {"a": b"new"}


def test_a_builds_write_goes_to_its_own_generation_also_in_place_of_one_of_a_build_that_is_over(
    rig: Callable[..., Rig],
) -> None:
    generations: List[Optional[int]] = []

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        generations.extend(one.generation for one in writes)
        return ()

    made = rig(answer)
    over, build = Count(), Count()
    # The engine enqueued the first a moment after its build was given up
    made.writer.enqueue([Write("i", "a", b"1", build=True, generation=1)], over)
    made.writer.enqueue([Write("i", "a", b"2", build=True, generation=2)], build)
    made.start()
    until(lambda: build.left == 0)
    assert generations == [2] and made.sink.documents == {"a": b"2"}


def test_no_document_is_in_two_requests_at_once_and_the_last_write_wins(rig: Callable[..., Rig]) -> None:
    chance = random.Random(7)

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        time.sleep(chance.random() * 0.002)
        if chance.random() < 0.1:
            raise SinkUnavailable("cut")
        return [Failure(i, FailureKind.RETRY, "full", 429, 0.001) for i in range(len(writes)) if chance.random() < 0.2]

    made = rig(answer, concurrency=4)
    made.sink.max_actions = 7
    made.start()
    token = Count()
    last: Dict[str, bytes] = {}
    for round in range(60):
        writes = [write(f"d{chance.randrange(20)}", f"{round}-{n}") for n in range(10)]
        for one in writes:
            last[one.id] = one.body or b""
        made.writer.enqueue(writes, token)
    until(lambda: token.left == 0, 60)
    assert not made.failures
    assert not made.sink.overlapped
    assert made.sink.documents == last


def test_an_item_told_to_wait_is_sent_again_and_its_neighbours_are_not(rig: Callable[..., Rig]) -> None:
    seen: List[str] = []

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        seen.extend(w.id for w in writes)
        return [
            Failure(i, FailureKind.RETRY, "queue full", 429, 0.01)
            for i, w in enumerate(writes)
            if seen.count(w.id) < 3 and w.id == "a"
        ]

    made = rig(answer)
    token = Count()
    made.writer.enqueue([write("a", "1"), write("b", "1")], token)
    made.start()
    until(lambda: token.left == 0)
    assert sorted(seen) == ["a", "a", "a", "b"]
    until(lambda: not made.status.troubles())


def test_a_request_too_large_is_halved_down_to_the_one_document(rig: Callable[..., Rig]) -> None:
    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        if any(w.id == "huge" for w in writes):
            raise PayloadTooLarge("413")
        return ()

    made = rig(answer, OnError.SKIP)
    token = Count()
    made.writer.enqueue([write(f"d{i}", "1") for i in range(9)] + [write("huge", "1")], token)
    made.start()
    until(lambda: token.left == 0)
    assert sorted(made.sink.documents) == [f"d{i}" for i in range(9)]
    assert [r.id for r in made.sink.parked] == ["huge"]


def test_a_rejected_document_stops_the_run_and_is_not_confirmed(rig: Callable[..., Rig]) -> None:
    made = rig(lambda writes: [Failure(0, FailureKind.REJECTED, "bad date", 400)])
    token = Count()
    made.writer.enqueue([write("a", "1")], token)
    made.start()
    until(lambda: bool(made.failures))
    assert isinstance(made.failures[0], DocumentRejected)
    assert "bad date" in str(made.failures[0])
    assert token.left == 1


def test_a_rejected_document_is_parked_under_skip_and_freed_when_it_succeeds(rig: Callable[..., Rig]) -> None:
    bad = True

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        return [Failure(i, FailureKind.REJECTED, "bad", 400) for i, w in enumerate(writes) if bad and w.id == "a"]

    made = rig(answer, OnError.SKIP)
    made.start()
    token = Count()
    made.writer.enqueue([write("a", "1"), write("b", "1")], token)
    until(lambda: token.left == 0)
    assert [r.id for r in made.sink.parked] == ["a"]
    assert made.status.snapshot().indexes["i"].quarantined == 1
    bad = False
    made.writer.enqueue([write("a", "2")], token)
    until(lambda: token.left == 0)
    assert made.sink.released == ["a"]
    assert made.status.snapshot().indexes["i"].quarantined == 0


def test_what_the_source_could_not_render_is_not_freed_by_a_write_that_was_read_before(rig: Callable[..., Rig]) -> None:
    # Given a write that waits while the source fails to render its document anew
    made = rig(policy=OnError.SKIP)
    token = Count()
    made.writer.enqueue([write("a", "1")], token)
    made.writer.park([Rejected("i", "a", "cannot be rendered", 7)], token)
    # When the write becomes durable, then what is found is older than the row, and is listed on
    made.start()
    until(lambda: token.left == 0)
    assert made.sink.documents == {"a": b"1"} and made.sink.released == []
    assert made.status.snapshot().indexes["i"].quarantined == 1
    made.writer.enqueue([write("a", "2")], token)
    until(lambda: token.left == 0)
    assert made.sink.released == ["a"] and made.status.snapshot().indexes["i"].quarantined == 0


def test_a_write_that_takes_the_place_of_one_read_before_the_parking_frees_the_document(
    rig: Callable[..., Rig],
) -> None:
    made = rig(policy=OnError.SKIP)
    token = Count()
    made.writer.enqueue([write("a", "1")], token)
    made.writer.park([Rejected("i", "a", "cannot be rendered", 7)], token)
    made.writer.enqueue([write("a", "2")], token)
    made.start()
    until(lambda: token.left == 0)
    assert made.sink.documents == {"a": b"2"} and made.sink.released == ["a"]


def test_a_write_that_waited_while_an_older_one_was_refused_frees_the_document(rig: Callable[..., Rig]) -> None:
    asked, go = threading.Event(), threading.Event()

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        if writes[0].body == b"bad":
            asked.set()
            go.wait(10)
            return [Failure(0, FailureKind.REJECTED, "bad", 400)]
        return ()

    made = rig(answer, OnError.SKIP)
    token = Count()
    made.writer.enqueue([write("a", "bad")], token)
    made.start()
    assert asked.wait(10)
    made.writer.enqueue([write("a", "good")], token)
    go.set()
    until(lambda: token.left == 0)
    assert [one.id for one in made.sink.parked] == ["a"] and made.sink.released == ["a"]


def test_a_document_that_is_parked_while_its_older_entry_is_forgotten_is_listed(rig: Callable[..., Rig]) -> None:
    made = rig(policy=OnError.SKIP)
    token = Count()
    listed: List[str] = []
    parking: List[threading.Thread] = []
    # Given a parked document whose newer write became durable
    made.sink.quarantine = lambda documents: listed.extend(one.id for one in documents)  # type: ignore[method-assign]
    made.writer.park([Rejected("i", "a", "cannot be rendered", 7)], token)

    def free(index: str, ids: Sequence[str]) -> None:
        # When the source fails to render it once more, at that very moment
        again = [Rejected("i", "a", "cannot be rendered", 8)]
        parking.append(threading.Thread(target=made.writer.park, args=(again, token)))
        parking[0].start()
        parking[0].join(0.2)
        listed.clear()

    made.sink.release = free  # type: ignore[method-assign]
    made.writer.enqueue([write("a", "1")], token)
    made.start()
    until(lambda: token.left == 0)
    parking[0].join(10)
    # Then the later of the two lasts
    assert listed == ["a"] and made.status.snapshot().indexes["i"].quarantined == 1


def test_a_document_that_is_parked_twice_is_counted_once(rig: Callable[..., Rig]) -> None:
    made = rig(lambda writes: [Failure(0, FailureKind.REJECTED, "bad", 400)], OnError.SKIP)
    made.writer._observer = StatusObserver(made.status)
    token = Count()
    made.start()
    for _ in range(2):
        made.writer.enqueue([write("a", "1")], token)
        until(lambda: token.left == 0)
        assert made.status.snapshot().indexes["i"].quarantined == 1


def test_mostly_rejected_stops_even_under_skip(rig: Callable[..., Rig]) -> None:
    made = rig(lambda writes: [Failure(i, FailureKind.REJECTED, "mapping", 400) for i in range(30)], OnError.SKIP)
    token = Count()
    made.writer.enqueue([write(f"d{i}", "1") for i in range(50)], token)
    made.start()
    until(lambda: bool(made.failures))
    assert isinstance(made.failures[0], DocumentRejected)
    assert token.left == 50 - 20


def test_what_was_parked_before_and_is_refused_again_is_no_fault_of_the_mapping(rig: Callable[..., Rig]) -> None:
    refused = {f"d{i}" for i in range(60)}
    made = rig(
        lambda writes: [
            Failure(i, FailureKind.REJECTED, "odd", 400) for i, one in enumerate(writes) if one.id in refused
        ],
        OnError.SKIP,
    )
    token = Count()
    # A few at a time they are parked, as when they come with changes.
    made.writer.enqueue([write(f"d{i}", "1") for i in range(30)], token)
    made.start()
    until(lambda: token.left == 0)
    made.writer.enqueue([write(f"d{i}", "1") for i in range(30, 60)], token)
    until(lambda: token.left == 0)
    # Tried again together, all of them or all but two.
    made.writer.enqueue([write(f"d{i}", "2") for i in range(60)], token)
    until(lambda: token.left == 0)
    refused -= {"d3", "d4"}
    made.writer.enqueue([write(f"d{i}", "2") for i in range(60)], token)
    until(lambda: token.left == 0)
    assert not made.failures and made.status.snapshot().indexes["i"].quarantined == 58


def test_a_full_writer_says_so_until_something_is_sent(rig: Callable[..., Rig]) -> None:
    made = rig()
    made.writer._room_bytes = 1000
    token = Count()
    made.writer.enqueue([write("a", "x" * 2000)], token)
    assert not made.writer.wait_room(patient=False, timeout=0.01)
    assert made.writer.has_room(patient=True)
    made.start()
    assert made.writer.wait_room(patient=False, timeout=10)


def test_a_retried_live_write_is_not_given_up_for_a_builds_write(rig: Callable[..., Rig]) -> None:
    # Given a live write that the sink asks to wait for, while a chunk's write of the same document is enqueued
    asked, go = threading.Event(), threading.Event()

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        if not asked.is_set():
            asked.set()
            go.wait(10)
            return [Failure(0, FailureKind.RETRY, "full", 429, 0.001)]
        return ()

    made = rig(answer)
    live, build = Count(), Count()
    made.writer.enqueue([write("a", "live")], live)
    made.start()
    assert asked.wait(10)
    made.writer.enqueue([write("a", "read by the build", True)], build)
    go.set()
    until(lambda: live.left == 0 and build.left == 0)
    # Then the live write is sent, for a build's goes to the unfinished generation alone
    assert [("a", b"live", False)] in made.sink.requests[1:]


def test_trouble_ends_although_what_met_it_was_replaced_meanwhile(rig: Callable[..., Rig]) -> None:
    failing, go = threading.Event(), threading.Event()

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        if not failing.is_set():
            failing.set()
            go.wait(10)
            raise SinkUnavailable("cut")
        return ()

    made = rig(answer)
    token = Count()
    made.writer.enqueue([write("a", "1")], token)
    made.start()
    assert failing.wait(10)
    made.writer.enqueue([write("a", "2")], token)
    go.set()
    until(lambda: token.left == 0)
    until(lambda: not made.status.troubles(), 2)


def test_a_hot_document_of_a_sink_that_is_away_is_held_once(rig: Callable[..., Rig]) -> None:
    made = rig()
    token = Count()
    for turn in range(1000):
        made.writer.enqueue([write("a", f"{turn}")], token)
    assert len(made.writer._live) == 1
    made.start()
    until(lambda: token.left == 0)
    assert made.sink.documents == {"a": b"999"}
    assert made.writer._live_bytes == 0


def test_a_quarantine_that_is_away_is_waited_for_and_the_trouble_ends(rig: Callable[..., Rig]) -> None:
    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        return [Failure(i, FailureKind.REJECTED, "bad", 400) for i, w in enumerate(writes) if w.body == b"bad"]

    made = rig(answer, OnError.SKIP)
    away = threading.Event()
    away.set()
    quarantine, release = made.sink.quarantine, made.sink.release

    def park(documents: Sequence[Rejected]) -> None:
        if away.is_set():
            raise SinkUnavailable("away")
        quarantine(documents)

    def free(index: str, ids: Sequence[str]) -> None:
        if away.is_set():
            raise SinkUnavailable("away")
        release(index, ids)

    made.sink.quarantine, made.sink.release = park, free  # type: ignore[method-assign]
    token = Count()
    made.start()
    for body in ("bad", "good"):
        away.set()
        made.writer.enqueue([write("a", body)], token)
        until(lambda: bool(made.status.troubles()))
        away.clear()
        until(lambda: token.left == 0)
        until(lambda: not made.status.troubles(), 2)
    assert not made.failures
    assert made.sink.released == ["a"]


def test_an_index_is_clear_once_nothing_of_it_waits_or_is_on_its_way(rig: Callable[..., Rig]) -> None:
    go = threading.Event()

    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        go.wait(10)
        return ()

    made = rig(answer)
    assert made.writer.wait_clear("i", 0.0)
    made.writer.enqueue([write("a", "1"), write("b", "1", True)], Count())
    assert not made.writer.wait_clear("i", 0.01)
    assert made.writer.wait_clear("another", 0.0)
    made.start()
    assert not made.writer.wait_clear("i", 0.05)
    go.set()
    assert made.writer.wait_clear("i", 10)


def test_what_a_late_request_could_set_back_is_remembered_for_as_long_as_it_may_be_late(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(writes: Sequence[Write]) -> Sequence[Failure]:
        if any(write.id == "doubtful" for write in writes) and not doubted:
            doubted.append(True)
            raise SinkUnavailable("no answer")
        return ()

    doubted: List[bool] = []
    made = rig(answer)
    token = Count()
    writes = [
        Write("things", "gone", None, 2),
        Write("things", "there", b"{}", 2),
        Write("others", "gone", None, 2),
        Write("things", "rebuilt", None, 2, True),
    ]
    made.writer.enqueue(writes[:3], token)
    made.writer.enqueue(writes[3:], token)
    made.start()
    until(lambda: token.left == 0)
    made.writer.enqueue([Write("things", "doubtful", b"{}", 3)], token)
    until(lambda: token.left == 0)
    assert sorted(made.writer.at_risk("things")) == ["doubtful", "gone"]
    monkeypatch.setattr("flusso_sync.engine.writer.LATE_SECONDS", 0.0)
    assert made.writer.at_risk("things") == []

"""Changes that show in very many documents: durable as jobs, worked off bit by bit, never lost nor done twice over."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import pytest

from flusso_sync.engine import spread as module
from flusso_sync.engine.source import Document, Documents, Snapshot, Spread, Spreading
from flusso_sync.engine.spread import Job, Spreader
from flusso_sync.observer import Stage
from flusso_sync.sinks.memory import MemorySink, MemoryStore
from flusso_sync.status import Status
from flusso_sync.testing.sinks import ME
from flusso_sync.worker import Worker
from tests.waiting import wait_for


class Shown(Snapshot):
    version = 1

    def build(self, index: str, keys: Sequence[Any]) -> Tuple[List[Document], Sequence[Any]]:
        return [Document(str(key), b"{}") for key in keys], ()


class Table(Documents):
    """Document n shows the value n % 10 of the path ``category``; ``asked`` lists the marks pages began behind."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.asked: List[Any] = []
        self.known = True

    @contextlib.contextmanager
    def snapshot(self, runs: Sequence[Any], stop: threading.Event) -> Iterator[Snapshot]:
        yield Shown()

    def spread(
        self, index: str, path: str, values: Sequence[Sequence[str]], after: Any, most: int
    ) -> Optional[Sequence[Spreading]]:
        if not self.known:
            return None
        self.asked.append(after)
        wanted = {int(value[0]) for value in values}
        found = [n for n in range(self.rows) if n % 10 in wanted and (after is None or n > after)]
        return [Spreading(n, str(n), n) for n in found[:most]]

    def count_spread(self, index: str, path: str, values: Sequence[Sequence[str]]) -> Optional[int]:
        return self.rows // 10 * len(values)


class Token:
    def __init__(self) -> None:
        self.held = 0

    def hold(self, count: int = 1) -> None:
        self.held += count

    def release(self, count: int = 1) -> None:
        self.held -= count

    def note(self, stage: Stage) -> None:
        """No batch."""


class FakeWriter:
    """A writer in the one respect that counts here: its sink, and that it can be touched."""

    def __init__(self, sink: MemorySink) -> None:
        self.sink = sink
        self.touched: List[str] = []
        self.live = False

    def serves_live(self) -> bool:
        return self.live

    def touch(self, index: str) -> None:
        self.touched.append(index)


class Rig:
    """A spreader on its thread; ``submitted`` reached the engine, and is not durable behind a closed ``gate``."""

    def __init__(self, table: Table, store: MemoryStore) -> None:
        self.table = table
        self.sink = MemorySink(store=store, stateful=True)
        self.sink.open(ME)
        self.writer = FakeWriter(self.sink)
        self.submitted: List[str] = []
        #: The gate closes behind so many.
        self.most: Optional[int] = None
        self._held: List[Any] = []
        self.rebuilt: Dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.stop = threading.Event()
        self.status = Status()
        self.failures: List[BaseException] = []
        self.spreader = Spreader(
            table,
            [self.writer],  # type: ignore[list-item]
            register=lambda pending: None,
            submit=self.submit,
            rebuild=self.rebuilt.update,
            status=self.status,
            stop=self.stop,
        )
        self.thread = Worker("flusso-fan-out", self.spreader.loop, lambda name, error: self.failures.append(error))

    def submit(self, finished: Any) -> None:
        self.submitted.extend(document.id for document in finished.documents)
        if self.most is not None and len(self.submitted) >= self.most:
            self.gate.clear()
        if self.gate.is_set():
            finished.pending.release()
        else:
            self._held.append(finished.pending)

    def open(self) -> None:
        """What is under way becomes durable, and so does everything from now on."""
        self.most = None
        self.gate.set()
        for pending in self._held:
            pending.release()

    def add(self, *values: int, position: int = 1) -> Token:
        token = Token()
        self.spreader.add(Spread("i", "p", "a change of category", [(str(v),) for v in values]), position, token)
        return token

    def end(self) -> None:
        self.stop.set()
        self.thread.join(10)
        self.sink.close()
        assert not self.failures


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_KEYS", 6)
    monkeypatch.setattr(module, "STEP_DOCUMENTS", 3)


@pytest.fixture
def rigs() -> Iterator[Any]:
    made: List[Rig] = []

    def make(rows: int = 200, store: Optional[MemoryStore] = None) -> Rig:
        made.append(Rig(Table(rows), store or MemoryStore()))
        return made[-1]

    yield make
    for rig in made:
        if not rig.stop.is_set():
            rig.end()


def ids(*values: int, rows: int = 200) -> List[str]:
    return [str(n) for n in range(rows) if n % 10 in values]


def test_a_job_is_stored_before_its_change_counts_as_durable_and_gone_when_it_is_done(rigs: Any) -> None:
    rig = rigs()
    token = rig.add(3, position=77)
    assert token.held == 1 and rig.spreader.open_up_to(77) and not rig.spreader.open_up_to(76)
    rig.gate.clear()
    rig.thread.start()
    wait_for(lambda: token.held == 0)
    assert [job["values"] for job in rig.sink.jobs().values()] == [[["3"]]]
    shown = rig.status.snapshot().to_json()["facts"]["fan_out"]
    assert shown["waiting"] == 1 and shown["jobs"][0]["total"] in (None, 20)
    rig.open()
    wait_for(lambda: not rig.spreader.open_up_to(77))
    assert rig.submitted == ids(3) and rig.sink.jobs() == {} and rig.writer.touched == ["i"]
    assert "fan_out" not in rig.status.snapshot().to_json()["facts"]


def test_a_job_goes_on_behind_what_was_durable_when_its_process_died(rigs: Any) -> None:
    store = MemoryStore()
    first = rigs(store=store)
    first.most = 9
    first.add(3)
    first.thread.start()
    wait_for(lambda: len(first.submitted) == 9 and any(job["done"] == 6 for job in first.sink.jobs().values()))
    first.end()
    (stored,) = store.jobs.values()
    again = rigs(store=store)
    again.spreader.load([again.sink.jobs()])
    assert again.spreader.open_up_to(1)
    again.thread.start()
    wait_for(lambda: not again.spreader.open_up_to(1))
    assert stored["done"] in (6, 9) and again.submitted == ids(3)[stored["done"] :]
    assert store.jobs == {}


def test_no_more_than_one_step_is_under_way_so_that_live_changes_wait_for_no_more(rigs: Any) -> None:
    rig = rigs()
    rig.gate.clear()
    rig.add(3, 4)
    rig.thread.start()
    wait_for(lambda: len(rig.submitted) == module.STEP_DOCUMENTS)
    # A second one would be read within this time many times over.
    assert not rig.stop.wait(0.3) and len(rig.submitted) == module.STEP_DOCUMENTS
    rig.open()
    wait_for(lambda: not rig.spreader.open_up_to(10**9))


def test_a_row_that_changes_again_makes_no_second_job(rigs: Any) -> None:
    rig = rigs()
    rig.gate.clear()
    rig.thread.start()
    rig.add(3, 4)
    wait_for(lambda: len(rig.sink.jobs()) == 1)
    tokens = [rig.add(3), rig.add(3), rig.add(5)]
    wait_for(lambda: not any(token.held for token in tokens))
    # The one under way keeps what nobody changed since; everything else is one job.
    assert sorted(tuple(v[0] for v in job["values"]) for job in rig.sink.jobs().values()) in (
        [("3", "4", "5")],
        [("3", "5"), ("4",)],
    )
    rig.open()
    wait_for(lambda: not rig.spreader.open_up_to(10**9))
    assert set(rig.submitted) == set(ids(3, 4, 5)) and rig.sink.jobs() == {}
    last: Mapping[str, int] = {id: position for position, id in enumerate(rig.submitted)}
    assert len(rig.submitted) <= len(last) + 12


def test_at_no_moment_of_a_merge_could_a_crash_lose_a_value(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = rigs()
    rig.gate.clear()
    write, lost = rig.sink.write_job, []

    def noticed(id: str, job: Optional[Mapping[str, Any]]) -> None:
        before = {tuple(value) for one in rig.sink.jobs().values() for value in one["values"]}
        write(id, job)
        after = {tuple(value) for one in rig.sink.jobs().values() for value in one["values"]}
        lost.extend(before - after)

    monkeypatch.setattr(rig.sink, "write_job", noticed)
    rig.thread.start()
    for values in ((3, 4), (3,), (5,), (3, 6), (4, 5)):
        token = rig.add(*values)
        wait_for(lambda: token.held == 0)  # noqa: B023 - awaited within the round
    assert not lost, "nothing is done yet, so each value stands in some job, whenever one looks"
    monkeypatch.undo()
    rig.open()
    wait_for(lambda: not rig.spreader.open_up_to(10**9))


def test_a_thousand_such_rows_are_one_job_of_bounded_memory(rigs: Any) -> None:
    rig = rigs(rows=400)
    rig.thread.start()
    most = 0
    for number in range(1000):
        wait_for(rig.spreader.has_room)
        token = rig.add(number % 10)
        if number % 20 == 19:
            # Between two merges: in one, what is merged stands beside the merged for a moment, for safety.
            wait_for(lambda: token.held == 0)  # noqa: B023 - awaited within the round
            most = max(most, len(rig.sink.jobs()))
    assert most <= 3, "the one under way, what is left of it, and one that waits"
    wait_for(lambda: not rig.spreader.open_up_to(1), 60)
    assert set(rig.submitted) == {str(n) for n in range(400)}


def test_a_path_that_nobody_knows_any_more_has_its_index_rebuilt(rigs: Any) -> None:
    rig = rigs()
    rig.table.known = False
    rig.thread.start()
    rig.add(3)
    wait_for(lambda: rig.rebuilt)
    wait_for(lambda: not rig.sink.jobs())
    assert "a change of category" in rig.rebuilt["i"] and rig.submitted == []


def test_of_two_sinks_the_one_that_is_behind_decides_where_a_job_goes_on(rigs: Any) -> None:
    job = Job("i", "p", "a change of category", [("3",)], 5)
    ahead = {**job.to_json(), "cursor": 53, "done": 6}
    behind = {**job.to_json(), "cursor": 23, "done": 3}
    rig = rigs()
    rig.spreader.load([{job.id: ahead}, {job.id: behind}])
    rig.thread.start()
    wait_for(lambda: not rig.spreader.open_up_to(5))
    assert rig.submitted == ids(3)[3:]


def test_a_job_is_shown_with_its_path_how_far_it_is_and_how_long_it_will_take() -> None:
    job = Job("i", "p", "a change of category", [("secret",)], 1)
    job.total, job.done, job.started = 2000, 500, job.started - 10
    shown = job.shown()
    assert (shown["index"], shown["path"], shown["values"]) == ("i", "a change of category", 1)
    assert (shown["done"], shown["total"]) == (500, 2000)
    assert shown["rate"] == pytest.approx(50, rel=0.2) and shown["eta_seconds"] == pytest.approx(30, rel=0.2)
    assert "secret" not in str(shown)


def test_beside_live_changes_steps_are_as_large_as_they_may_last_and_pauses_follow(
    rigs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by the sizes of the steps: large alone, small beside live changes that would suffer from large ones."""
    monkeypatch.setattr(module, "STEP_DOCUMENTS", 100)
    monkeypatch.setattr(module, "PAGE_KEYS", 1000)
    rig = rigs(rows=20_000)
    sizes: List[int] = []
    submit = rig.submit

    def timed(finished: Any) -> None:
        sizes.append(len(finished.documents))
        # A document takes a millisecond.
        rig.stop.wait(len(finished.documents) / 1000)
        submit(finished)

    monkeypatch.setattr(rig.spreader, "_submit", timed)
    rig.add(3)
    rig.thread.start()
    wait_for(lambda: len(sizes) > 4)
    assert sizes[-1] == 100
    rig.writer.live = True
    seen = len(sizes)
    wait_for(lambda: len(sizes) > seen + 6)
    assert max(sizes[-2:]) <= 40, sizes
    rig.writer.live = False
    seen = len(sizes)
    wait_for(lambda: len(sizes) > seen + 2)
    assert sizes[-1] == 100


def test_values_with_nulls_have_one_order_and_survive_being_stored() -> None:
    one = Job("i", "p", "x", [("b", None), (None, "a"), ("b", "a")], 1)
    two = Job("i", "p", "x", [("b", "a"), ("b", None), (None, "a")], 2)
    assert one.id == two.id and Job.from_json(one.to_json()).values == one.values

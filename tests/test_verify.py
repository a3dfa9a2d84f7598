"""The verifier on sinks in memory and rows in Python: what it calls a difference, and what it leaves alone."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from decimal import Decimal
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import pytest

from flusso_sync.cli.verify import progress_line
from flusso_sync.daemon import Daemon
from flusso_sync.engine.source import ChangeRun, Document, Record, Snapshot, SourceParts
from flusso_sync.errors import SinkUnavailable
from flusso_sync.sinks.base import Answer, Found, Rejected, Sink, Write, exact
from flusso_sync.sinks.memory import Held, MemorySink, MemoryStore
from flusso_sync.verify import MOST_LISTED, Options, Result, Throttle, Verifier, parting, shown
from tests.guards import GUARDS
from tests.test_daemon import config
from tests.third_party import FiniteCapture, PlainDocuments, PlainSnapshot, Rows

# -- two documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one, other",
    [
        ('{"a": 1, "b": [1, {"c": null}]}', '{"b":[1.0,{"c":null}],"a":1.00}'),
        ("12345678901234567890.10", "12345678901234567890.1"),
        ("1e3", "1000"),
        ("-0.0", "0"),
        ("9" * 5000, "9" * 5000 + ".0"),
        ('"\\u00e4"', '"ä"'),
    ],
)
def test_form_and_the_order_of_keys_mean_nothing(one: str, other: str) -> None:
    assert parting(exact(one), exact(other)) is None


@pytest.mark.parametrize(
    "one, other, path, expected, found",
    [
        ('{"a": 1}', '{"a": true}', "a", "1", "true"),
        ('{"a": 1}', '{"a": "1"}', "a", "1", '"1"'),
        ('{"a": null}', "{}", "a", "null", None),
        ("{}", '{"a": null}', "a", None, "null"),
        ('{"a": {"b": [1, 2, {"c": 3}]}}', '{"a": {"b": [1, 2, {"c": 4}]}}', "a.b[2].c", "3", "4"),
        ('{"a": [1, 2]}', '{"a": [1]}', "a[1]", "2", None),
        ('{"a": [1]}', '{"a": [1, 2]}', "a[1]", None, "2"),
        ('{"a": {}}', '{"a": []}', "a", "{}", "[]"),
        ('{"a": 9007199254740993}', '{"a": 9007199254740992}', "a", "9007199254740993", "9007199254740992"),
        ('{"a": 0.1}', '{"a": 0.1000000000000000000000001}', "a", "0.1", "0.1000000000000000000000001"),
        ('{"z": 1, "a": 1}', '{"a": 2, "z": 2}', "z", "1", "2"),
    ],
)
def test_the_first_place_at_which_they_part(
    one: str, other: str, path: str, expected: Optional[str], found: Optional[str]
) -> None:
    parted = parting(exact(one), exact(other))
    assert parted is not None
    assert (parted[0], shown(parted[1]), shown(parted[2])) == (path, expected, found)


def test_values_are_shown_short() -> None:
    assert shown("ä" * 500) == '"' + "ä" * 199 + "…"
    assert shown(Decimal("1.50")) == "1.50"
    assert shown({"a": Decimal("1.5")}) == '{"a": "1.5"}'


# -- indexes ------------------------------------------------------------------------------------------


class Source(PlainDocuments):
    """Rows with positions; every key is a number as text, and an id that is none is nobody's."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self.at = 0
        self.advanced = 0
        self.errors: Dict[str, str] = {}
        self.built = 0
        #: Called with each snapshot.
        self.seen: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def snapshot(self, runs: Sequence[ChangeRun], stop: threading.Event) -> Iterator[Snapshot]:
        source = self

        class Counting(PlainSnapshot):
            def build(self, index: str, keys: Sequence[Any]) -> Tuple[List[Document], Sequence[Any]]:
                documents, later = super().build(index, keys)
                source.built = max(source.built, len(documents))
                return [
                    Document(d.id, None, source.errors[d.id]) if d.id in source.errors else d for d in documents
                ], later

        snapshot = Counting(self._rows, self._index)
        self.seen()
        yield snapshot

    def keys_of(self, index: str, ids: Sequence[str]) -> Mapping[str, Any]:
        return {id: id for id in ids if id.isdigit()}

    def position(self) -> Optional[int]:
        return self.at

    def advance(self) -> None:
        self.advanced += 1


def body(key: str, value: str) -> bytes:
    return json.dumps({"key": key, "value": value}).encode()


class World:
    """Rows, an index that shows them, and a daemon that is all but idle: ``record`` says how far it is."""

    def __init__(self, count: int = 2500) -> None:
        self.rows = Rows({f"{n:05}": str(n) for n in range(count)})
        self.source = Source(self.rows)
        self.source.open(config().plans, threading.Event())
        self.index = config().plans[0].name
        self.store = MemoryStore()
        self.sink = MemorySink("one", store=self.store, stateful=True)
        self.sink.open(FiniteCapture(self.rows, (), None).connect(threading.Event()))
        self.sink.ensure(config().plans)
        self.sink.begin_build(self.index)
        self.write({key: value for key, value in self.rows.rows.items()}, build=True)
        self.sink.complete_build(self.index)
        self.sink.write_record(Record(confirmed=0))

    def write(self, values: Mapping[str, Optional[str]], *, build: bool = False) -> None:
        """What the daemon would write of ``values``."""
        self.sink.write(
            [
                Write(self.index, key, None if value is None else body(key, value), self.rows.version, build)
                for key, value in values.items()
            ]
        )

    @property
    def held(self) -> Dict[str, Held]:
        shown = self.store.indexes[self.index].shown
        assert shown is not None
        return shown.documents

    def verify(self, sink: Optional[Sink] = None, options: Optional[Options] = None, **more: Any) -> Result:
        options = options or Options(chunk_rows=1000, wait_seconds=20.0)
        return Verifier(self.source, sink or self.sink, options, **more).verify(self.index)


def test_a_right_index_has_no_difference_and_everything_was_seen() -> None:
    result = World().verify()
    assert (result.found, result.rows, result.compared, result.ids) == (0, 2500, 2500, 2500)
    assert result.settled and result.unsettled == 0 and result.notes == []


def test_what_is_missing_extra_and_different_is_named() -> None:
    world = World()
    del world.held["00007"]
    world.held["00008"] = Held(body("00008", "eight"), 1)
    world.held["99999"] = Held(b"{}", 1)
    world.held["by hand"] = Held(b"{}", 1)
    result = world.verify()
    assert sorted((one.id, one.kind, one.path, one.expected, one.found) for one in result.differences) == [
        ("00007", "missing", "", None, None),
        ("00008", "different", "value", '"8"', '"eight"'),
        ("99999", "extra", "", None, None),
        ("by hand", "extra", "", None, None),
    ]
    assert (result.missing, result.different, result.extra, result.left) == (1, 1, 2, 4)


@pytest.mark.parametrize("guard", [None, "suspects_believed"])
def test_what_is_on_its_way_is_waited_for_and_not_reported(
    monkeypatch: pytest.MonkeyPatch, guard: Optional[str]
) -> None:
    """The rows are ahead of the sink by three changes; the daemon writes them while the verifier waits."""
    monkeypatch.setattr(Verifier, "_wait_until_durable", Verifier._wait_until_durable)
    if guard is not None:
        GUARDS[guard]()
    world = World()
    for key, value in (("00001", "new"), ("00002", None), ("70000", "born")):
        world.rows.apply(key, value)
    world.source.at = 42

    # Nobody is waited for before everything was looked at once; with the guard off, nobody at all.
    waited_for = threading.Event()
    read_record = world.sink.read_record

    def asked() -> Optional[Record]:
        waited_for.set()
        return read_record()

    world.sink.read_record = asked  # type: ignore[method-assign]

    def daemon() -> None:
        assert waited_for.wait(60)
        world.write({"00001": "new", "00002": None, "70000": "born"})
        world.sink.write_record(Record(confirmed=42))

    thread = threading.Thread(target=daemon)
    thread.start()
    result = world.verify()
    waited_for.set()
    thread.join()
    if guard is None:
        assert (result.found, result.unsettled, result.settled) == (0, 0, True)
    else:
        assert result.found == 3, "the guard is off and nothing was reported: the test proves nothing"


def test_without_a_daemon_the_same_is_reported_and_said_to_be_uncertain() -> None:
    world = World()
    world.rows.apply("00001", "new")
    world.source.at = 42
    world.store.holder = None
    result = world.verify()
    assert (result.different, result.settled) == (1, False)
    assert "no daemon runs for sink one" in result.notes


def test_a_daemon_that_does_not_catch_up_is_waited_for_once_and_named() -> None:
    world = World()
    for n in range(1200):
        world.rows.apply(f"{n:05}", "new")
    world.source.at = 42
    started = time.monotonic()
    result = world.verify(options=Options(chunk_rows=1000, wait_seconds=2.0))
    assert (result.different, result.settled) == (1200, False)
    assert "the daemon did not catch up with what was seen within 2 s" in result.notes
    # Three times 500 suspects: one long wait, then short ones.
    assert time.monotonic() - started < 15


def test_a_document_that_is_written_at_every_look_is_no_difference() -> None:
    """It goes to and fro between two values, and sink and rows are never seen with the same one."""
    world = World(10)
    turns = {"n": 0}

    def turn() -> None:
        turns["n"] += 1
        world.rows.apply("00003", f"row {turns['n']}")
        world.held["00003"] = Held(body("00003", f"sink {turns['n']}"), world.rows.version)

    world.source.seen = turn
    result = world.verify()
    assert (result.found, result.unsettled) == (0, 1)


def test_a_document_that_comes_and_goes_is_not_missing() -> None:
    world = World(10)
    generator = random.Random(5)

    def turn() -> None:
        if generator.random() < 0.5:
            world.held.pop("00003", None)
        else:
            world.held["00003"] = Held(body("00003", "3"), world.rows.version)

    world.source.seen = turn
    assert world.verify().found == 0


def test_parked_documents_and_rows_that_make_none_are_no_differences() -> None:
    world = World(10)
    del world.held["00003"]
    world.sink.quarantine([Rejected(world.index, "00003", "refused", 1)])
    world.held["00004"] = Held(body("00004", "old"), 1)
    world.source.errors["00004"] = "too large"
    result = world.verify()
    assert (result.found, result.parked) == (0, 1)


def test_a_sample_compares_some_chunks_and_at_least_one() -> None:
    world = World(5000)
    world.held.update({key: Held(b"{}", 1) for key in list(world.held)})
    result = world.verify(options=Options(sample_percent=40), lot=random.Random(1))
    assert result.sample_percent == 40 and result.rows == 5000
    assert 0 < result.different < 5000 and result.different % 500 == 0
    least = world.verify(options=Options(sample_percent=0.0001), lot=random.Random(1))
    assert least.different == 500


def test_what_is_listed_is_bounded_and_what_is_counted_is_not() -> None:
    world = World(MOST_LISTED + 700)
    world.held.clear()
    result = world.verify()
    assert (result.missing, len(result.differences)) == (MOST_LISTED + 700, MOST_LISTED)
    # Never more than a chunk of 1000 rows at once, and 500 suspects.
    assert world.source.built <= 500


def test_a_walk_through_ids_that_is_cut_off_begins_anew_and_counts_nothing_twice() -> None:
    world = World(3000)
    world.held["by hand"] = Held(b"{}", 1)

    class Cut(MemorySink):
        cuts = 2

        def scan_ids(self, index: str, size: int = 1000) -> Iterator[List[str]]:
            pages = list(super().scan_ids(index, size))
            for page in reversed(pages):
                yield page
                if self.cuts and "by hand" not in page:
                    Cut.cuts -= 1
                    raise SinkUnavailable("the index was replaced", in_doubt=False)

    sink = Cut("one", store=world.store, stateful=True)
    result = world.verify(sink)
    assert (result.extra, result.found, result.ids, Cut.cuts) == (1, 1, 3001, 0)


def test_a_repair_that_is_refused_or_does_not_help_leaves_the_differences() -> None:
    world = World(10)
    del world.held["00003"]
    asked: List[Sequence[str]] = []

    def repair(index: str, ids: Sequence[str]) -> Answer:
        asked.append(ids)
        return Answer(False, "not today")

    result = world.verify(repair=repair)
    assert (asked, result.missing, result.repaired, result.left) == ([["00003"]], 1, 0, 1)
    assert "the daemon did not repair: not today" in result.notes


def test_a_sink_that_only_knows_get_and_scan_can_be_verified() -> None:
    world = World(50)

    class Plain(MemorySink):
        get_many = Sink.get_many
        scan_ids = Sink.scan_ids

    sink = Plain("one", store=world.store, stateful=True)
    assert sink.get_many(world.index, ["00001", "x"]) == {"00001": Found({"key": "00001", "value": "1"}, 0)}
    assert [len(page) for page in sink.scan_ids(world.index, 20)] == [20, 20, 10]
    assert world.verify(sink).found == 0
    world.held["00003"] = Held(body("00003", "three"), 1)
    assert world.verify(sink).different == 1


# -- through a daemon -----------------------------------------------------------------------------------


class Numbered:
    """``Backends`` over rows with numbers as keys and one stateful sink."""

    def __init__(self) -> None:
        self.rows = Rows({f"{n:05}": str(n) for n in range(300)})
        self.store = MemoryStore()
        self.source_of: List[Source] = []

    def source(self, given: Any, options: Any) -> SourceParts:
        source = Source(self.rows)
        self.source_of.append(source)
        return SourceParts(FiniteCapture(self.rows, (), threading.Event()), source)

    def sinks(self, given: Any, options: Any) -> Mapping[str, Sink]:
        return {"one": MemorySink("one", store=self.store, stateful=True)}


def test_the_running_daemon_repairs_what_is_asked_also_what_no_key_gives() -> None:
    backends = Numbered()
    with Daemon(config(), backends).background() as running:
        assert running.wait_until_live(10)
        index = config().plans[0].name
        shown = backends.store.indexes[index].shown
        assert shown is not None
        held = shown.documents
        del held["00001"]
        held["00002"] = Held(b"{}", backends.rows.version)
        held["70000"] = Held(b"{}", backends.rows.version)
        held["by hand"] = Held(b"{}", backends.rows.version)
        sink = running.sinks["one"]
        source = Source(backends.rows)
        source.open(config().plans, threading.Event())

        def repair(index: str, ids: Sequence[str]) -> Answer:
            return Answer(True, running.repair(index, ids))

        result = Verifier(source, sink, Options(), repair=repair).verify(index)
        assert (result.missing, result.different, result.extra, result.repaired) == (1, 1, 2, 4)
        assert [bool(one.repaired) for one in result.differences] == [True] * 4
        assert Verifier(source, sink, Options()).verify(index).found == 0
        assert backends.source_of[-1].advanced == 2
        with pytest.raises(KeyError):
            running.repair("nothing", ["1"])


# -- small things ---------------------------------------------------------------------------------------


def test_a_throttle_lets_so_many_pass_in_a_second_and_does_not_make_up_for_a_pause() -> None:
    throttle = Throttle(200, threading.Event())
    started = time.monotonic()
    for _ in range(5):
        throttle.passed(20)
    assert 0.45 <= time.monotonic() - started < 5
    time.sleep(0.5)
    started = time.monotonic()
    throttle.passed(40)
    assert time.monotonic() - started >= 0.19


def test_a_line_of_progress_tells_how_far_and_how_long_it_will_take() -> None:
    assert progress_line("users", 2500, 10000, 3, 50.0) == (
        "users: 2,500 rows and ids seen of about 10,000, 2 min 30 s left, 3 differ"
    )
    assert progress_line("users", 2500, None, 0, 50.0) == "users: 2,500 rows and ids seen, 0 differ"
    assert progress_line("users", 300, 100, 0, 50.0).endswith("of about 300, 0 s left, 0 differ")
    assert "3 h 4 min left" in progress_line("users", 1, 2, 0, 3 * 3600 + 4 * 60)

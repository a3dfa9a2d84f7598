"""One life of the pipeline with a third party's backends: how it is laid, ended, and laid anew."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import pytest

from flusso_sync.builds import Builds
from flusso_sync.daemon import Daemon, RunningDaemon
from flusso_sync.engine.source import Emit, Prepared, Record, SourceParts
from flusso_sync.errors import IndexMissing, SchemaDrift, SinkError, SinkUnavailable, SourceUnavailable, SyncStopped
from flusso_sync.observer import BatchStats
from flusso_sync.sinks.base import Failure, FailureKind, Parked, Request, Sink, Write
from flusso_sync.sinks.memory import Faults, ItemFault, MemorySink, MemoryStore
from flusso_sync.status import IndexState, Phase, Status
from tests.test_daemon import changes, config
from tests.third_party import DictSink, FiniteCapture, PlainDocuments, Rows, ThirdParty
from tests.waiting import wait_for


class Lives:
    """``Backends`` that make every part anew for each life of the pipeline, over the same rows and stores."""

    def __init__(self, rows: Mapping[str, str], moves: Sequence[Tuple[str, Optional[str]]] = ()) -> None:
        self.rows = Rows(rows)
        self.moves = moves
        self.hold: Optional[threading.Event] = threading.Event()
        self.stores: Dict[str, MemoryStore] = {"one": MemoryStore()}
        self.prepared = Prepared(0)
        self.keep = 0
        self.max_actions = 1000
        self.faults: Optional[Faults] = None
        self.records: List[Optional[Record]] = []
        self.captures: List[FiniteCapture] = []
        self.made: List[Dict[str, MemorySink]] = []

    def source(self, config: Any, options: Any) -> SourceParts:
        capture = FiniteCapture(self.rows, self.moves, self.hold)

        def prepare(record: Optional[Record], stop: threading.Event) -> Prepared:
            self.records.append(record)
            return self.prepared

        capture.prepare = prepare  # type: ignore[method-assign]
        self.captures.append(capture)
        return SourceParts(capture, PlainDocuments(self.rows))

    def sinks(self, config: Any, options: Any) -> Mapping[str, Sink]:
        self.made.append(
            {
                name: MemorySink(
                    name,
                    store=store,
                    stateful=True,
                    max_actions=self.max_actions,
                    keep_generations=self.keep,
                    faults=self.faults,
                )
                for name, store in self.stores.items()
            }
        )
        return dict(self.made[-1])

    @property
    def expected(self) -> Dict[str, bytes]:
        """What readers should find: id -> body."""
        return {key: json.dumps({"key": key, "value": value}).encode() for key, value in self.rows.rows.items()}


def live(lives: Any) -> Any:
    """A daemon on a thread of its own, and live."""
    return Daemon(config(), lives).background()


def test_the_position_a_first_run_starts_from_is_recorded_before_anything_is_confirmed() -> None:
    lives = Lives({"a": "1"})
    lives.prepared = Prepared(41)
    with live(lives) as running:
        assert running.wait_until_live(10)
    assert lives.records == [None]
    record = lives.stores["one"].record
    assert record is not None and record.confirmed == 41


def test_a_gap_rebuilds_every_sink_also_where_one_of_them_lacks_the_index() -> None:
    # Given an index complete in one sink, and a second sink that is new
    lives = Lives({"a": "1", "b": "2"})
    with live(lives) as running:
        assert running.wait_until_live(10)
    lives.stores["two"] = MemoryStore()
    # When the source has a gap in which a row went
    lives.rows.apply("a", None)
    lives.prepared = Prepared(50, gap="the slot is gone")
    with live(lives) as running:
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED)
        wait_for(lambda: running.status.phase is Phase.LIVE)
    # Then neither sink keeps what the gap hid
    for name in ("one", "two"):
        assert lives.made[-1][name].documents("things") == lives.expected, name


def test_the_high_water_mark_outlives_a_run_that_writes_nothing() -> None:
    lives = Lives({"a": "1"})
    with live(lives) as running:
        assert running.wait_until_live(10)
        pipeline = running._pipeline
        assert pipeline is not None
        pipeline._write_record(5, threading.Event())
    before = lives.stores["one"].record
    assert before is not None and before.version > 0
    lives.prepared = Prepared(5)
    with live(lives) as running:
        assert running.wait_until_live(10)
        pipeline = running._pipeline
        assert pipeline is not None
        pipeline._write_record(6, threading.Event())
    after = lives.stores["one"].record
    assert after is not None and after.confirmed == 6 and after.version == before.version


def test_the_record_never_goes_back() -> None:
    lives = Lives({"a": "1"})
    with live(lives) as running:
        assert running.wait_until_live(10)
        pipeline = running._pipeline
        assert pipeline is not None
        pipeline._write_record(110, threading.Event())
        pipeline._write_record(100, threading.Event())
        assert lives.captures[-1].confirmed == 110
        record = lives.stores["one"].record
        assert record is not None and record.confirmed == 110


def test_a_stop_does_not_wait_for_a_record_that_cannot_be_written() -> None:
    # Given a sink that takes no record, and something to record
    lives = Lives({}, changes(5))
    shutdown = threading.Event()
    running = Daemon(config(), lives).start()
    thread = threading.Thread(target=running.run, args=(shutdown,))
    asked = threading.Event()

    def away(record: Record) -> None:
        asked.set()
        raise SinkUnavailable("away", in_doubt=False)

    (sink,) = lives.made[-1].values()
    first = sink.write_record
    sink.write_record = lambda record: first(record) if record.confirmed == 0 else away(record)  # type: ignore[method-assign]
    thread.start()
    assert asked.wait(10)
    # When it is stopped
    started = time.monotonic()
    shutdown.set()
    thread.join(10)
    # Then the record stays, and the slot with it
    assert not thread.is_alive() and time.monotonic() - started < 5
    assert lives.captures[-1].confirmed == 0


def test_a_build_is_never_completed_while_another_one_is_begun() -> None:
    backends = ThirdParty({f"k{i}": "v" for i in range(50)}, hold=threading.Event())
    log: List[str] = []
    inside = threading.Event()
    go = threading.Event()
    begin = backends.sink.begin_build

    def begin_build(index: str) -> int:
        log.append("begin")
        return begin(index)

    def complete_build(index: str) -> None:
        log.append("completing")
        inside.set()
        assert go.wait(10)
        log.append("complete")

    backends.sink.begin_build = begin_build  # type: ignore[method-assign]
    backends.sink.complete_build = complete_build  # type: ignore[method-assign]
    with live(backends) as running:
        assert inside.wait(10)
        again = threading.Thread(target=running.reindex, args=("things",))
        again.start()
        # A new generation begun now would be the one that is completed, empty as it is.
        again.join(0.3)
        go.set()
        again.join(10)
        wait_for(lambda: log.count("complete") == 2)
    assert log == ["begin", "completing", "complete"] * 2


def test_a_build_given_up_while_the_next_one_is_begun_completes_nothing() -> None:
    backends = ThirdParty({f"k{i}": "v" for i in range(50)}, hold=threading.Event())
    log: List[str] = []
    begun, go = threading.Event(), threading.Event()
    write = backends.sink.write

    def begin_build(index: str) -> int:
        log.append("begin")
        if log.count("begin") == 2:
            # The sink's writes go to the new generation from here on; the old build's last write is let through.
            begun.set()
            time.sleep(0.3)
            log.append("begun")
        return 0

    def slow(writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        go.set()
        assert begun.wait(10)
        return write(writes)

    backends.sink.begin_build = begin_build  # type: ignore[method-assign]
    backends.sink.write = slow  # type: ignore[method-assign]
    backends.sink.complete_build = lambda index: log.append("complete")  # type: ignore[method-assign]
    with live(backends) as running:
        assert go.wait(10)
        assert running._pipeline is not None
        running._pipeline._rebuild({"things": "a table was truncated"})
        assert running.wait_until_live(10)
        wait_for(lambda: "complete" in log)
    assert log == ["begin", "begin", "begun", "complete"]


@pytest.mark.parametrize(
    "error",
    [
        IndexMissing("the index is gone", index="things"),
        SchemaDrift("column things.value has another type", changed=("things",)),
        SourceUnavailable("cut"),
    ],
    ids=["index missing", "schema drift", "transient"],
)
def test_what_may_pass_lays_the_pipeline_anew(error: Exception) -> None:
    lives = Lives({"a": "1"}, [("b", "2")])
    source = lives.source

    def failing_once(config: Any, options: Any) -> SourceParts:
        parts = source(config, options)
        if len(lives.captures) == 1:

            def stream(emit: Emit, stop: threading.Event) -> None:
                while lives.made[-1]["one"].count("things") == 0:
                    if stop.wait(0.01):
                        return
                raise error

            parts.capture.stream = stream  # type: ignore[method-assign]
        return parts

    lives.source = failing_once  # type: ignore[method-assign]
    with live(lives) as running:
        wait_for(lambda: len(lives.captures) == 2 and lives.made[-1]["one"].documents("things") == lives.expected)
        wait_for(lambda: "b" in lives.expected and running.status.phase is Phase.LIVE)
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED)
        generation = lives.stores["one"].indexes["things"].last
    assert generation == (2 if isinstance(error, SchemaDrift) else 1)


def test_drift_that_names_no_index_ends_the_daemon_with_the_sources_exit_code() -> None:
    lives = Lives({"a": "1"})
    running = Daemon(config(), lives).start()
    lives.captures[-1].stream = _raising(SchemaDrift("relation gone"))  # type: ignore[method-assign]
    with pytest.raises(SyncStopped) as caught:
        running.run(threading.Event())
    assert caught.value.exit_code == 4 and len(lives.captures) == 1


def _raising(error: BaseException) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise error

    return call


def test_a_source_that_writes_nothing_is_looked_at_no_oftener_than_for_the_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flusso_sync.pipeline.WATCH_SECONDS", 0.01)
    lives = Lives({"a": "1"})
    looks: List[int] = []
    rounds: List[int] = []
    told = [1]
    source = lives.source

    def watched(given: Any, options: Any) -> SourceParts:
        parts = source(given, options)

        def heard() -> int:
            rounds.append(told[0])
            return told[0]

        parts.capture.heard = heard  # type: ignore[method-assign]
        parts.capture.watch = lambda: looks.append(told[0]) or {}  # type: ignore[assignment,method-assign,func-returns-value]
        return parts

    lives.source = watched  # type: ignore[method-assign]
    # The lag is polled every 15 s, which this test does not last.
    with live(lives) as running:
        assert running.wait_until_live(10)
        wait_for(lambda: len(rounds) > 20, 10)
        assert looks == [1]
        told[0] = 2
        wait_for(lambda: looks == [1, 2], 10)


@pytest.mark.parametrize("where", ["flusso-engine", "flusso-sink-dict", "flusso-watch", "flusso-backfill", "capture"])
def test_a_dead_thread_is_a_dead_daemon(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flusso_sync.pipeline.WATCH_SECONDS", 0.01)
    backends = ThirdParty({f"k{i}": "v" for i in range(10)}, changes(5), hold=threading.Event())
    parts = backends.source(None, None)
    backends.source = lambda config, options: parts  # type: ignore[method-assign]
    dead = _raising(MemoryError("no more"))
    place, name = {
        "flusso-engine": (parts.documents, "snapshot"),
        "flusso-sink-dict": (backends.sink, "write"),
        "flusso-watch": (parts.capture, "watch"),
        "flusso-backfill": (parts.documents, "next_chunk"),
        "capture": (parts.capture, "stream"),
    }[where]
    setattr(place, name, dead)
    running: RunningDaemon = Daemon(config(), backends).start()
    started = time.monotonic()
    with pytest.raises(SyncStopped) as caught:
        running.run(threading.Event())
    assert time.monotonic() - started < 10
    assert isinstance(caught.value.__cause__, MemoryError) and caught.value.exit_code == 1
    assert running.status.phase is Phase.STOPPED and backends.sink.closed


def test_trouble_that_may_pass_while_stopping_is_no_failure() -> None:
    lives = Lives({})
    running = Daemon(config(), lives).start()
    shutdown = threading.Event()

    def stream(emit: Emit, stop: threading.Event) -> None:
        stop.wait(10)
        raise SourceUnavailable("cut while stopping")

    lives.captures[-1].stream = stream  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: outcome.append(_outcome(running, shutdown)))
    outcome: List[Optional[BaseException]] = []
    thread.start()
    assert running.wait_until_live(10)
    shutdown.set()
    thread.join(10)
    assert outcome == [None]


def _outcome(running: RunningDaemon, shutdown: threading.Event) -> Optional[BaseException]:
    try:
        running.run(shutdown)
    except BaseException as error:
        return error
    return None


def test_one_part_that_cannot_be_closed_does_not_keep_the_others_open() -> None:
    backends = ThirdParty({})
    backends.capture.close = _raising(OSError("bad descriptor"))  # type: ignore[method-assign]
    Daemon(config(), backends).start().run(threading.Event())
    assert backends.sink.closed


class SlowSink(DictSink):
    """Takes its time for every write."""

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        time.sleep(0.05)
        return super().write(writes)


def test_a_finite_source_ends_only_when_all_of_it_is_durable() -> None:
    backends = ThirdParty({}, changes(200))
    backends.sink = SlowSink("dict")
    Daemon(config(), backends).start().run(threading.Event())
    assert backends.sink.documents == backends.expected
    assert backends.capture.confirmed == 200


def test_a_build_cut_off_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a build of many small chunks whose writes end after some of them
    lives = Lives({f"k{i:03}": "v" for i in range(300)})
    lives.max_actions = 10
    most = 120
    away = SinkUnavailable("away")
    written: List[str] = []
    counting = threading.Lock()
    write = MemorySink.write

    def counted(self: MemorySink, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        with counting:
            if len(written) + len(writes) > most:
                raise away
            written.extend(one.id for one in writes if one.build)
        return write(self, writes, refresh=refresh)

    monkeypatch.setattr(MemorySink, "write", counted)
    daemon = Daemon(config(backfill={"chunk_rows": 10, "workers": 2}), lives)
    with daemon.background() as running:
        held = lives.stores["one"].indexes
        wait_for(lambda: "things" in held and (held["things"].progress or {}).get("rows", 0) >= 80, 20)
        running.stop(10)
    first = list(written)
    rows = (lives.stores["one"].indexes["things"].progress or {})["rows"]
    # When another life begins
    del written[:]
    most = 10_000
    with live(lives) as running:
        assert running.wait_until_live(20)
    # Then it repeats what was in flight and no more, and the index is whole
    assert len(written) == 300 - rows
    assert len(set(first) | set(written)) == 300
    assert lives.made[-1]["one"].documents("things") == lives.expected


def test_requests_left_in_a_meta_store_are_carried_out_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flusso_sync.pipeline.WATCH_SECONDS", 0.05)
    lives = Lives({"a": "1", "b": "2"})
    store = lives.stores["one"]
    asker = MemorySink("asker", store=store, stateful=True)
    with live(lives) as running:
        assert running.wait_until_live(20)
        before = store.indexes["things"].last
        asker.post(Request("1", "reindex", "things"))
        asker.post(Request("2", "reindex", "nothing"))
        asker.post(Request("3", "rollback", "things"))
        asker.post(Request("4", "dance", "things"))
        wait_for(lambda: not asker.requests(), 20)
        answers = {id: store.answers[id] for id in "1234"}
        assert answers["1"].accepted and store.indexes["things"].last > before
        assert not answers["2"].accepted and "there is things" in answers["2"].text
        assert not answers["3"].accepted and "keeps no former generation" in answers["3"].text
        assert not answers["4"].accepted and "dance" in answers["4"].text
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED, 20)


def test_a_request_that_fails_is_answered_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flusso_sync.pipeline.WATCH_SECONDS", 0.05)
    lives = Lives({"a": "1"})
    store = lives.stores["one"]
    asker = MemorySink("asker", store=store, stateful=True)
    errors = iter([SinkUnavailable("sink two is away"), SinkError("sink two answers 500")])

    def fail(self: Builds, index: str) -> str:
        raise next(errors)

    monkeypatch.setattr(Builds, "reindex", fail)
    with live(lives) as running:
        assert running.wait_until_live(20)
        asker.post(Request("1", "reindex", "things"))
        wait_for(lambda: "1" in store.answers, 20)
        asker.post(Request("2", "reindex", "things"))
        wait_for(lambda: "2" in store.answers, 20)
        assert [store.answers[id].accepted for id in "12"] == [False, False]
        assert "away" in store.answers["1"].text and "500" in store.answers["2"].text
        assert len(lives.made) == 1, "the pipeline was laid anew"


def test_parked_documents_are_written_on_request_once_the_sink_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lives = Lives({"a": "1", "b": "2", "c": "3"})
    bad = {"b", "c"}
    lives.faults = lambda method, writes: ItemFault(FailureKind.REJECTED, "too odd", 400, bad) if writes else None
    with Daemon(config(on_error="skip"), lives).background() as running:
        assert running.wait_until_live(20)
        sink = lives.made[-1]["one"]
        assert sink.quarantined() == {"things": ["b", "c"]}
        bad.discard("b")
        assert running.retry("things") == "1 of 2 parked documents of index things are right now"
        assert [(one.id, one.tries) for one in sink.parked()] == [("c", 2)]
        assert set(sink.documents("things")) == {"a", "b"}
        # Nobody's row any more: nothing is left to park.
        lives.rows.apply("c", None)
        bad.clear()
        assert "1 are not parked" in running.retry("things", ["c", "z"])
        assert sink.quarantined() == {}
        with pytest.raises(KeyError):
            running.retry("nothing")


def test_a_build_forgets_what_was_parked_of_rows_that_are_gone() -> None:
    lives = Lives({"a": "1"})
    store = lives.stores["one"]
    store.parked["things", "ghost"] = Parked("things", "ghost", "too odd", 7)
    with live(lives) as running:
        assert running.wait_until_live(20)
        wait_for(lambda: not store.parked, 20)


def test_a_rollback_shows_readers_the_kept_generation_while_a_fresh_one_is_built() -> None:
    lives = Lives({"a": "1"})
    lives.keep = 1
    store = lives.stores["one"]
    with live(lives) as running:
        assert running.wait_until_live(20)
        assert running.reindex("things").endswith("beside the one that is read")
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED, 20)
        first = store.indexes["things"].kept[0].number
        assert f"generation {first} in sink one" in running.rollback("things")
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED, 20)
        shown = store.indexes["things"].shown
        assert shown is not None and shown.number > first + 1


def test_a_running_pipeline_shows_queue_sinks_documents_and_stages() -> None:
    lives = Lives({"a": "1", "b": "2"}, changes(5))
    with live(lives) as running:
        assert running.wait_until_live(10)
        status = wait_for(
            lambda: (
                (told := running.status.snapshot().to_json())["changes_committed"] == 5
                and told["index_details"]["things"]["documents"] is not None
                and told
            )
        )
        assert status["queue"] == {"changes": 0, "capacity": 16384}
        sink = status["sinks"]["one"]
        assert (sink["waiting"], sink["waiting_bytes"], sink["requests_in_flight"], sink["retries"]) == (0, 0, 0, 0)
        assert sink["written"] >= 7 and sink["requests"] >= 2
        assert set(status["stages"]) == {"snapshot", "resolve", "build", "bulk"}
        names = {thread["name"] for thread in status["threads"]}
        assert {"flusso-capture", "flusso-engine", "flusso-lag", "flusso-sink-one-1", "flusso-watch-one"} <= names
    after = running.status.snapshot().to_json()
    assert (after["queue"], after["sinks"], after["threads"]) == ({}, {}, [])


def test_a_change_is_captured_once_and_before_it_can_be_durable() -> None:
    """Else it would be in flight for ever, and after a while the daemon unready."""

    class Slow(Status):
        def __init__(self) -> None:
            super().__init__()
            self.seen: List[int] = []

        def captured(self, n: int) -> None:
            # Whatever could be taken before it is counted would be durable by the end of this.
            time.sleep(0.01)
            super().captured(n)

        def committed(self, stats: BatchStats) -> None:
            if stats.changes:
                self.seen.append(self.in_flight - stats.changes)
            super().committed(stats)

    status = Slow()
    with Daemon(config(), Lives({}, changes(50))).with_status(status).background():
        wait_for(lambda: status.snapshot().changes_committed == 50)
        assert (status.in_flight, status.snapshot().changes_captured) == (0, 50)
    assert status.seen and min(status.seen) >= 0, "a batch was durable before its changes were captured"

"""Two sinks that are differently far: each ends right, and its readers move only when its own build is complete."""

from __future__ import annotations

import threading
from typing import Dict, List, Sequence

import pytest

from flusso_sync import pipeline
from flusso_sync.daemon import Daemon
from flusso_sync.engine.source import SourceIdentity
from flusso_sync.errors import SinkRefused, SinkUnavailable
from flusso_sync.sinks.base import Failure, RolledBack, Write
from flusso_sync.sinks.memory import MemorySink, MemoryStore
from flusso_sync.status import IndexState
from tests.test_daemon import config
from tests.test_pipeline import Lives, live
from tests.waiting import wait_for

KEYS = {f"k{i:03}": "v" for i in range(200)}


class Watched(Lives):
    """Lives over two stores; writes of builds to a sink end where ``most`` says, counted over a life."""

    def __init__(self) -> None:
        super().__init__(KEYS)
        self.stores = {"one": MemoryStore(), "two": MemoryStore()}
        self.max_actions = 10
        self.most: Dict[str, int] = {}
        self.built: Dict[str, List[str]] = {"one": [], "two": []}
        #: What readers of a sink found whenever something was written to it: how many documents.
        self.seen: Dict[str, List[int]] = {"one": [], "two": []}

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write, lock = MemorySink.write, threading.Lock()

        def counted(sink: MemorySink, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
            ids = [one.id for one in writes if one.build]
            with lock:
                if ids and len(self.built[sink.name]) + len(ids) > self.most.get(sink.name, 10**9):
                    raise SinkUnavailable("away")
                self.built[sink.name].extend(ids)
                self.seen[sink.name].append(sink.count("things"))
            return write(sink, writes, refresh=refresh)

        monkeypatch.setattr(MemorySink, "write", counted)

    def complete(self, name: str) -> bool:
        held = self.stores[name].indexes.get("things")
        return held is not None and held.seeded

    def assert_right(self) -> None:
        for name in self.stores:
            assert self.made[-1][name].documents("things") == self.expected, name
            assert set(self.seen[name]) <= {0, len(KEYS)}, f"{name}: readers never find a part"


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch) -> Watched:
    lives = Watched()
    lives.patch(monkeypatch)
    return lives


def test_a_new_sink_is_filled_beside_one_that_is_complete_and_is_not_built_again(lives: Watched) -> None:
    new = lives.stores.pop("two")
    with live(lives) as running:
        assert running.wait_until_live(20)
    lives.built["one"].clear()
    lives.stores["two"] = new
    # Given a new sink whose build does not come to its end yet
    lives.most["two"] = 100
    with live(lives) as running:
        wait_for(lambda: len(lives.built["two"]) >= 90, 20)
        one, two = lives.made[-1]["one"], lives.made[-1]["two"]
        # Then readers of the other one have everything, and those of the new one nothing rather than a part
        assert one.count("things") == len(KEYS) and two.count("things") == 0
        assert new.indexes["things"].shown is None
        lives.most.clear()
        wait_for(lambda: lives.complete("two"), 20)
        assert running.wait_until_live(20)
    assert not lives.built["one"] and lives.stores["one"].indexes["things"].last == 1
    lives.assert_right()


def test_one_that_is_behind_in_the_build_is_made_up_for_and_each_switches_by_itself(lives: Watched) -> None:
    # Given a build of which one sink took less than the other
    lives.most = {"one": 150, "two": 50}
    daemon = Daemon(config(backfill={"chunk_rows": 10, "workers": 2}), lives)
    with daemon.background() as running:
        wait_for(lambda: len(lives.built["two"]) >= 40, 20)
        running.stop(10)
    assert not lives.complete("one") and not lives.complete("two")
    lives.most.clear()
    # When another life goes on with it
    with live(lives) as running:
        assert running.wait_until_live(20)
    lives.assert_right()
    for name in ("one", "two"):
        assert set(lives.built[name]) == set(KEYS), "what one of them lacked was sent to it"
        assert lives.stores[name].indexes["things"].last == 1, "both went on with the generation they had begun"


def test_one_that_was_complete_when_the_other_was_cut_off_stays_and_the_other_goes_on(
    lives: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a life that ends between the two completions
    complete = MemorySink.complete_build

    def cut(sink: MemorySink, index: str) -> None:
        if sink.name == "two":
            raise SinkUnavailable("away")
        complete(sink, index)

    with monkeypatch.context() as patch:
        patch.setattr(MemorySink, "complete_build", cut)
        with Daemon(config(backfill={"chunk_rows": 10, "workers": 1}), lives).background() as running:
            wait_for(lambda: lives.complete("one"), 20)
            assert lives.made[-1]["two"].count("things") == 0
            running.stop(10)
    for built in lives.built.values():
        built.clear()
    # When the next one begins
    with live(lives) as running:
        assert running.wait_until_live(20)
    # Then only that sink is asked for anything, and little of it
    lives.assert_right()
    assert not lives.built["one"] and lives.stores["one"].indexes["things"].last == 1
    assert len(lives.built["two"]) < len(KEYS) and lives.stores["two"].indexes["things"].last == 1


def test_a_rollback_is_of_all_sinks_or_of_none(lives: Watched) -> None:
    lives.keep = 1
    with live(lives) as running:
        assert running.wait_until_live(20)
        running.reindex("things")
        wait_for(lambda: all(len(store.indexes["things"].kept) == 1 for store in lives.stores.values()), 20)
        wait_for(lambda: running.status.snapshot().indexes["things"].state.value == "seeded", 20)
        lives.stores["two"].indexes["things"].kept.clear()
        with pytest.raises(Exception, match="sink two keeps no former generation of index things"):
            running.rollback("things")
        shown = lives.stores["one"].indexes["things"].shown
        assert shown is not None and shown.number == 2, "the other one was left as it was"


def test_a_rollback_that_ends_in_the_middle_is_built_in_every_sink(
    lives: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives.keep = 1
    rollback = MemorySink.rollback

    def refused(sink: MemorySink, index: str) -> RolledBack:
        if sink.name == "two":
            raise SinkRefused("sink two can hold no more")
        return rollback(sink, index)

    with live(lives) as running:
        assert running.wait_until_live(20)
        running.reindex("things")
        wait_for(lambda: all(len(store.indexes["things"].kept) == 1 for store in lives.stores.values()), 20)
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED, 20)
        monkeypatch.setattr(MemorySink, "rollback", refused)
        with pytest.raises(SinkRefused, match="no more"):
            running.rollback("things")
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED, 20)
        wait_for(lambda: all(store.indexes["things"].seeded for store in lives.stores.values()), 20)
        lives.assert_right()


def test_a_rollback_that_is_refused_leaves_the_build_that_runs(lives: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    lives.keep = 1
    go_on = threading.Event()
    go_on.set()
    lives.faults = lambda method, writes: None if not any(one.build for one in writes or ()) or go_on.wait(20) else None

    def refused(sink: MemorySink, index: str) -> RolledBack:
        raise SinkRefused(f"sink {sink.name} can hold no more")

    with live(lives) as running:
        assert running.wait_until_live(20)
        running.reindex("things")
        wait_for(lambda: all(len(store.indexes["things"].kept) == 1 for store in lives.stores.values()), 20)
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED, 20)
        go_on.clear()
        running.reindex("things")
        monkeypatch.setattr(MemorySink, "rollback", refused)
        with pytest.raises(SinkRefused, match="no more"):
            running.rollback("things")
        go_on.set()
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED, 20)
        for store in lives.stores.values():
            wait_for(lambda s=store: s.indexes["things"].shown.number == s.indexes["things"].last == 3, 20)  # type: ignore[misc]
        lives.assert_right()


def test_a_lease_is_kept_while_the_start_waits_for_another_sink(
    lives: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WATCH_SECONDS", 0.02)
    away, renewed = threading.Event(), threading.Event()
    away.set()
    opened, renew = MemorySink.open, MemorySink.renew

    def open_(sink: MemorySink, identity: SourceIdentity, *, adopt: bool = False) -> None:
        if sink.name == "two" and away.is_set():
            raise SinkUnavailable("away")
        opened(sink, identity, adopt=adopt)

    def renewed_(sink: MemorySink) -> None:
        if sink.name == "one":
            renewed.set()
        renew(sink)

    monkeypatch.setattr(MemorySink, "open", open_)
    monkeypatch.setattr(MemorySink, "renew", renewed_)
    # Given a life that has the lease of one sink, and waits for the other
    with live(lives) as running:
        assert renewed.wait(20)
        assert not running.wait_until_live(0)
        away.clear()
        assert running.wait_until_live(20)
    lives.assert_right()


def test_what_an_earlier_life_wrote_last_is_made_searchable_before_anything_is_called_synced(
    lives: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live(lives) as running:
        assert running.wait_until_live(20)
    refreshed: List[str] = []
    refresh = MemorySink.refresh

    def counted(sink: MemorySink, indexes: Sequence[str]) -> None:
        refreshed.extend(f"{sink.name} {index}" for index in indexes)
        refresh(sink, indexes)

    monkeypatch.setattr(MemorySink, "refresh", counted)
    with live(lives) as running:
        assert running.wait_until_live(20)
        assert running.synced(0, timeout=20)
        assert {"one things", "two things"} <= set(refreshed)

"""The running daemon compares an index with its rows when it is asked to, and says in its status what it found."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from flusso_sync.backoff import Stopped
from flusso_sync.comparing import MOST_SHOWN, Comparisons
from flusso_sync.errors import SinkRefused, SinkUnavailable
from flusso_sync.sinks.memory.store import Held
from flusso_sync.status import Status
from tests.in_process import in_process, write_schemas
from tests.postgres_server import Database
from tests.test_verify import World
from tests.third_party import DictSink
from tests.waiting import wait_for


class Desk:
    """Comparisons over a world; ``held`` keeps those that are asked for from beginning."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.status = Status()
        self.stop = threading.Event()
        self.spawned: List[Callable[[], None]] = []
        self.comparisons = Comparisons(
            world.source,
            {"one": world.sink, "written only": DictSink("written only")},
            self.status,
            self.stop,
            lambda name, loop: self.spawned.append(loop),
            rows_per_second=None,
        )

    def work(self) -> None:
        (loop,) = self.spawned
        self.spawned.clear()
        loop()

    @property
    def said(self) -> Dict[str, Any]:
        found: Dict[str, Any] = self.status.snapshot().to_json()["verify"][self.world.index]
        return found


def test_what_is_right_is_said_to_be_and_asking_twice_compares_once() -> None:
    desk = Desk(World())
    assert desk.comparisons.ask(desk.world.index) == f"index {desk.world.index} is compared with its rows"
    assert "already" in desk.comparisons.ask(desk.world.index)
    assert desk.said["state"] == "waiting"
    desk.work()
    said = desk.said
    assert (said["state"], said["compared"], said["seen"], said["found"]) == ("right", 2500, 5000, 0)
    assert said["started"] <= said["ended"] and said["differences"] == []
    # And once more, for it is over.
    desk.comparisons.ask(desk.world.index)
    desk.work()


def test_what_differs_is_counted_and_the_first_are_named() -> None:
    desk = Desk(World())
    desk.world.held["00008"] = Held(b'{"key": "00008", "value": "eight"}', 1)
    for number in range(100, 100 + MOST_SHOWN):
        del desk.world.held[f"{number:05}"]
    desk.comparisons.ask(desk.world.index)
    desk.work()
    said = desk.said
    assert (said["state"], said["found"], len(said["differences"])) == ("wrong", MOST_SHOWN + 1, MOST_SHOWN)
    assert said["differences"][0] == {"sink": "one", "id": "00008", "kind": "different", "path": "value"}


@pytest.mark.parametrize("error", [SinkUnavailable("sink one is away for good"), ValueError("odd")])
def test_a_comparison_that_fails_says_why_and_ends_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(World())

    def fail(*given: Any) -> Any:
        raise error

    # What a sink refuses at the first request after all waiting.
    monkeypatch.setattr("flusso_sync.comparing.Verifier.verify", fail)
    desk.comparisons.ask(desk.world.index)
    desk.work()
    assert desk.said["state"] == "failed" and str(error).split(".")[0] in desk.said["why"]


def test_a_stop_ends_it_and_is_said() -> None:
    desk = Desk(World())
    desk.stop.set()
    desk.world.sink.count = _away  # type: ignore[method-assign]
    desk.comparisons.ask(desk.world.index)
    with pytest.raises(Stopped):
        desk.work()
    assert desk.said["state"] == "failed" and "stopped" in desk.said["why"]
    assert desk.status.ready()[0] or "verify" not in desk.status.ready()[1], "changes flow meanwhile"
    assert [one.blocking for one in desk.status.snapshot().troubles] == [False]


def test_those_that_wait_for_their_turn_do_not_wait_for_ever() -> None:
    desk = Desk(World())
    desk.stop.set()
    desk.world.sink.count = _away  # type: ignore[method-assign]
    desk.comparisons.ask(desk.world.index)
    desk.comparisons.ask("other")
    with pytest.raises(Stopped):
        desk.work()
    other = desk.status.snapshot().to_json()["verify"]["other"]
    assert other["state"] == "failed" and "before its turn" in other["why"]


def _away(index: str) -> int:
    raise SinkUnavailable("sink one is away")


def test_without_a_sink_that_can_be_read_it_is_refused() -> None:
    world = World()
    only = Comparisons(world.source, {"dict": DictSink("dict")}, Status(), threading.Event(), lambda name, loop: None)
    with pytest.raises(SinkRefused, match="nothing to compare"):
        only.ask(world.index)


@pytest.mark.pg
def test_a_running_daemon_compares_and_finds_what_was_changed_behind_its_back(
    database: Database, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE notes (id int PRIMARY KEY, body text NOT NULL)")
    database.execute("INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 500) i")
    fields = [{"integer": "id", "required": True}, {"text": "body", "required": True}]
    paths = write_schemas(tmp_path, {"notes": {"version": 1, "table": "notes", "fields": fields}})
    with in_process(database.url, database.name, paths) as deployment:
        deployment.settle()

        def compared() -> Dict[str, Any]:
            deployment.running.verify("notes")
            ended: Dict[str, Any] = wait_for(
                lambda: (said := deployment.status["verify"]["notes"])["ended"] and said, 30
            )
            return ended

        ended = compared()
        assert (ended["state"], ended["compared"], ended["found"]) == ("right", 500, 0)
        shown = deployment.sink.store.indexes["notes"].shown
        assert shown is not None
        del shown.documents["7"]
        wrong = compared()
        assert (wrong["state"], wrong["differences"]) == (
            "wrong",
            [{"sink": "memory", "id": "7", "kind": "missing", "path": ""}],
        )
        with pytest.raises(KeyError):
            deployment.running.verify("nothing")

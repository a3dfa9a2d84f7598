"""What becomes of an index whose tables change under it, over lives of the pipeline and restarts, with doubles."""

from __future__ import annotations

import threading
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence

import pytest

from flusso_sync import pipeline
from flusso_sync.config.load import Config
from flusso_sync.daemon import Daemon
from flusso_sync.engine.source import SourceParts
from flusso_sync.errors import (
    EXIT_CONFIG,
    EXIT_SOURCE,
    ConfigError,
    FlussoError,
    Problem,
    SchemaDrift,
    SinkRefused,
    SourceRefused,
    SyncStopped,
)
from flusso_sync.sinks.base import Request
from flusso_sync.sinks.memory import MemoryStore
from flusso_sync.status import IndexState, Phase
from tests.test_daemon import SCHEMA, config
from tests.test_pipeline import Lives
from tests.third_party import PlainDocuments, Rows
from tests.waiting import wait_for


class Table:
    """What the documents are made of: ``shape``, or ``error`` while they cannot be."""

    def __init__(self) -> None:
        self.shape = "as planned"
        self.error: Optional[FlussoError] = None


class Shaped(PlainDocuments):
    def __init__(self, rows: Rows, table: Table) -> None:
        super().__init__(rows)
        self._table = table
        self._opened: Optional[str] = None

    def open(self, plans: Sequence[Any], stop: threading.Event) -> None:
        super().open(plans, stop)
        self._error = self._table.error
        self._opened = self._table.shape if self._error is None else None

    def unreadable(self) -> Mapping[str, FlussoError]:
        return {} if self._error is None else {"things": self._error}

    def shape(self, index: str) -> str:
        assert self._opened is not None
        return self._opened

    def watch(self) -> None:
        now = self._table.shape if self._table.error is None else None
        if now != self._opened:
            raise SchemaDrift("column things.value changed", changed=("things",))


class Shapes(Lives):
    def __init__(self, rows: Mapping[str, str]) -> None:
        super().__init__(rows)
        self.table = Table()

    def source(self, config: Any, options: Any) -> SourceParts:
        return SourceParts(super().source(config, options).capture, Shaped(self.rows, self.table))

    @property
    def note(self) -> str:
        record = self.stores["one"].record
        assert record is not None
        return record.shapes["things"].split(" ", 1)[1]


GONE = ConfigError([Problem("index things: table things has no column value")])


@pytest.fixture(autouse=True)
def frequent_watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pipeline, "WATCH_SECONDS", 0.05)
    yield


def seeded(running: Any) -> None:
    wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED and running.status.phase is Phase.LIVE)


@pytest.mark.parametrize(("error", "code"), [(GONE, EXIT_CONFIG), (SourceRefused("no right"), EXIT_SOURCE)])
def test_what_never_fitted_is_refused(error: FlussoError, code: int) -> None:
    lives = Shapes({"a": "1"})
    lives.table.error = error
    with pytest.raises(SyncStopped) as caught:
        Daemon(config(), lives).start().run(threading.Event())
    assert caught.value.exit_code == code and caught.value.__cause__ is error
    assert lives.stores["one"].record is None


@pytest.mark.parametrize("stateful", [True, False], ids=["with a record", "without any memory"])
def test_what_fits_no_more_stands_still_and_is_built_anew_when_it_fits(stateful: bool) -> None:
    lives = Shapes({"a": "1"})
    if not stateful:
        sinks = lives.sinks

        def forgetful(config: Any, options: Any) -> Mapping[str, Any]:
            made = sinks(config, options)
            for sink in made.values():
                sink.stateful = False
            return made

        lives.sinks = forgetful  # type: ignore[method-assign]
    with Daemon(config(), lives).background() as running:
        seeded(running)
        lives.table.error = GONE
        wait_for(lambda: running.status.index_state("things") is IndexState.DRIFTED)
        wait_for(lambda: running.status.phase is Phase.LIVE)
        shown = running.status.snapshot()
        (trouble,) = [one for one in shown.troubles if one.key == "drift things"]
        assert "no column value" in trouble.what and trouble.todo and not trouble.blocking and shown.ready
        assert "no column value" in shown.indexes["things"].details["reason"]
        # Nothing is done to it, and nothing is laid anew while nothing changes.
        for ask in (running.reindex, running.rollback, running.retry):
            with pytest.raises(SinkRefused, match="no column value"):
                ask("things")
        with pytest.raises(SinkRefused, match="no column value"):
            assert running._pipeline is not None
            running._pipeline.operations.ask(Request("1", "reindex", "things"))
        laid = len(lives.made)
        lives.rows.apply("b", "2")
        assert not threading.Event().wait(0.3) and len(lives.made) == laid
        if stateful:
            assert lives.made[0]["one"].documents("things").keys() == {"a"}
        lives.table.error = None
        wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED)
        wait_for(lambda: running.status.phase is Phase.LIVE)
        assert lives.made[-1]["one"].documents("things") == lives.expected
        assert not [one for one in running.status.snapshot().troubles if one.key == "drift things"]


def test_a_drift_is_remembered_over_restarts_although_the_table_is_as_it_was() -> None:
    lives = Shapes({"a": "1"})
    with Daemon(config(), lives).background() as running:
        seeded(running)
        assert lives.note == "as planned"
    # Found at a start, and over the next, it stands still: the file is the one that did fit.
    lives.table.error = GONE
    for _ in range(2):
        with Daemon(config(), lives).background() as running:
            wait_for(lambda: running.status.phase is Phase.LIVE)
            assert running.status.index_state("things") is IndexState.DRIFTED
            assert lives.note == "drifted"
            lives.rows.apply("b", "2")
    # Mended meanwhile: only the record knows that something was missed.
    lives.table.error = None
    with Daemon(config(), lives).background() as running:
        seeded(running)
        assert lives.made[-1]["one"].documents("things") == lives.expected
        assert lives.note == "as planned"


def test_another_shape_at_the_start_is_built_anew_and_the_same_is_not() -> None:
    lives = Shapes({"a": "1"})
    for shape, generation in (("as planned", 1), ("as planned", 1), ("other", 2), ("other", 2)):
        lives.table.shape = shape
        with Daemon(config(), lives).background() as running:
            seeded(running)
            assert lives.stores["one"].indexes["things"].last == generation, shape


def test_a_file_that_does_not_fit_is_refused_although_its_index_did_before() -> None:
    lives = Shapes({"a": "1"})
    with Daemon(config(), lives).background() as running:
        seeded(running)
    lives.table.error = GONE
    other: Dict[str, Any] = {**SCHEMA, "filters": [{"column": "value", "op": "neq", "value": "x"}]}
    changed = Config.from_mapping(
        {"source": {"type": "postgres"}, "index": [{"name": "things", "schema": other, "enabled": True}]}
    )
    with pytest.raises(SyncStopped) as caught:
        Daemon(changed, lives).start().run(threading.Event())
    assert caught.value.exit_code == EXIT_CONFIG


def test_an_index_that_was_left_out_for_a_while_is_built_anew() -> None:
    lives = Shapes({"a": "1"})
    with Daemon(config(), lives).background() as running:
        seeded(running)
    store: MemoryStore = lives.stores["one"]
    assert store.record is not None
    # As a run without it records it.
    store.record = type(store.record)(**{**vars(store.record), "shapes": {"others": "x y"}})
    lives.rows.apply("b", "2")
    with Daemon(config(), lives).background() as running:
        seeded(running)
        assert lives.made[-1]["one"].documents("things") == lives.expected

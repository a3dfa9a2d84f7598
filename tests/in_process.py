"""The daemon within the test: the real Postgres source, one sink in memory; no subprocess, no HTTP."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Union

import psycopg

from flusso_sync.backends import DefaultBackends
from flusso_sync.config.load import Config
from flusso_sync.daemon import Daemon, DaemonOptions, RunningDaemon
from flusso_sync.sinks.base import Sink
from flusso_sync.sinks.memory import MemorySink
from flusso_sync.status import IndexState
from tests.deployment import lsn_number
from tests.oracle import assert_same, evaluate_all, parse
from tests.waiting import wait_for

#: How long anything may take on a machine that others use, too.
PATIENCE_SECONDS = 60.0


class InMemory(DefaultBackends):
    """``Backends`` with the usual source and one sink in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = MemorySink()

    def sinks(self, config: Config, options: DaemonOptions) -> Mapping[str, Sink]:
        return {"memory": self.sink}


def write_schemas(folder: Path, schemas: Mapping[str, Mapping[str, Any]]) -> Dict[str, Path]:
    """Schema files by index name; the oracle and the daemon read the same ones."""
    paths = {name: folder / f"{name}.schema.yml" for name in schemas}
    for name, schema in schemas.items():
        # JSON is YAML in any version of it.
        paths[name].write_text(json.dumps(schema, ensure_ascii=False), encoding="utf-8")
    return paths


class InProcess:
    """A live daemon over ``url``; ``right`` is the oracle's question and answer."""

    def __init__(self, url: str, indexes: Mapping[str, Path], running: RunningDaemon, sink: MemorySink) -> None:
        self._url = url
        self._indexes = indexes
        self.running = running
        self.sink = sink

    @property
    def status(self) -> Dict[str, Any]:
        found: Dict[str, Any] = self.running.status.snapshot().to_json()
        return found

    def documents(self, index: str) -> Dict[str, Any]:
        return {id: parse(body) for id, body in self.sink.documents(index).items()}

    def settle(self) -> None:
        """Wait until everything committed up to now is durable, and whatever it made us rebuild is built."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        synced = self.running.synced(lsn_number(row[0]), PATIENCE_SECONDS)
        if not synced:
            status = self.status
            said = {what: status[what] for what in ("phase", "ready_reason", "last_error", "trouble")}
            raise AssertionError(f"what was committed is not durable: {json.dumps(said, default=str)}")

        def built() -> bool:
            return {self.running.status.index_state(name) for name in self._indexes} == {IndexState.SEEDED}

        wait_for(built, PATIENCE_SECONDS, "every index is built")

    def right(self, when: str = "now") -> Dict[str, Any]:
        """Settle, and assert that every index holds the oracle's documents, which are returned."""
        self.settle()
        with psycopg.connect(self._url, autocommit=True) as connection:
            expected = evaluate_all(connection, self._indexes)
        for name, documents in expected.items():
            assert_same(documents, self.documents(name), f"{name}, {when}", key_order=True)
        return dict(expected)


@contextlib.contextmanager
def in_process(url: str, slot: str, indexes: Mapping[str, Union[str, Path]], **settings: Any) -> Iterator[InProcess]:
    """Run a daemon until the end of the block; it is live when the block begins.

    Raises ``SyncStopped`` where it failed, before the block or in it.
    """
    config = Config.from_mapping(
        {
            "source": {"type": "postgres", "connection_url": url, "slot": slot, "publication": slot},
            "index": [{"name": name, "schema": str(path)} for name, path in indexes.items()],
            "backfill": {"workers": 1},
            **settings,
        }
    )
    backends = InMemory()
    live, said = False, ""
    with Daemon(config, backends).background(PATIENCE_SECONDS) as running:
        live = running.wait_until_live(PATIENCE_SECONDS)
        if live:
            yield InProcess(url, {name: Path(path) for name, path in indexes.items()}, running, backends.sink)
        else:
            said = json.dumps(running.status.snapshot().to_json()["trouble"])
    # A daemon that failed has said why by now.
    assert live, f"not live after {PATIENCE_SECONDS:g} s: {said}"

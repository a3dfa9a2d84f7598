"""Fixtures for pytest, by ``pytest_plugins = ["flusso_sync.testing.plugin"]`` in the topmost conftest.py.

A Postgres that cannot be had skips a test and names the cause; with ``CI=true`` it fails it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Union

import pytest

from flusso_sync.testing.postgres import Database, NoPostgres, PostgresServer, start_postgres
from flusso_sync.testing.sync import InMemory, configuration, run_in_memory

# Before anybody imports it: so that its assertions say what they found.
pytest.register_assert_rewrite("flusso_sync.testing.sinks")

#: Schema files by index name, and other sections of the configuration by theirs.
StartInMemory = Callable[..., InMemory]


@pytest.fixture(scope="session")
def flusso_postgres() -> Iterator[PostgresServer]:
    """A Postgres of the session's own, with ``wal_level=logical``."""
    with contextlib.ExitStack() as closing:
        try:
            server = closing.enter_context(start_postgres())
        except NoPostgres as error:
            if os.environ.get("CI") == "true":
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))
        yield server


@pytest.fixture
def flusso_database(flusso_postgres: PostgresServer) -> Iterator[Database]:
    """An empty database; dropped afterwards with its sessions, slots and prepared transactions."""
    flusso_postgres.start()
    name = flusso_postgres.create_database()
    yield Database(flusso_postgres, name)
    flusso_postgres.drop_database(name)


@pytest.fixture
def flusso_in_memory(flusso_database: Database) -> Iterator[StartInMemory]:
    """``flusso_in_memory({"users": "users.schema.yml"})``: a daemon from ``flusso_database`` to a sink in memory.

    It is live when the call returns and ends with the test, which fails when the daemon failed.
    """
    with contextlib.ExitStack() as closing:

        def start(indexes: Mapping[str, Union[str, Path]], **settings: Any) -> InMemory:
            return closing.enter_context(run_in_memory(configuration(flusso_database.url, indexes, **settings)))

        yield start

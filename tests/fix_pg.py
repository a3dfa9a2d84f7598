"""Fixtures: a real Postgres for the session, and a fresh database for each test that asks for one.

A server that cannot be had skips the test and names the cause; with ``CI=true`` it fails it.
"""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from tests.postgres_server import Database, NoPostgres, PostgresServer, start_postgres

__all__ = ["Database", "NoPostgres", "PostgresServer", "start_postgres", "unavailable"]


def unavailable(cause: str) -> None:
    """Skip loudly, or fail where a missing real server is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(cause, pytrace=False)
    pytest.skip(cause)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of the session; a test that stops it starts it again."""
    try:
        context = start_postgres()
        server = context.__enter__()
    except NoPostgres as error:
        unavailable(str(error))
        return
    try:
        yield server
    finally:
        context.__exit__(None, None, None)


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    """An empty database; dropped afterwards with its sessions, slots and prepared transactions."""
    postgres.start()
    name = postgres.create_database()
    yield Database(postgres, name)
    postgres.drop_database(name)

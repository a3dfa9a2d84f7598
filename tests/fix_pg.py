"""The fixtures of ``flusso_sync.testing.plugin``, by the names our tests know them under.

A server that cannot be had skips the test and names the cause; with ``CI=true`` it fails it.
"""

from __future__ import annotations

import os

import pytest

from tests.postgres_server import Database, NoPostgres, PostgresServer, start_postgres

__all__ = ["Database", "NoPostgres", "PostgresServer", "start_postgres", "unavailable"]


def unavailable(cause: str) -> None:
    """Skip loudly, or fail where a missing real server is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(cause, pytrace=False)
    pytest.skip(cause)


@pytest.fixture(scope="session")
def postgres(flusso_postgres: PostgresServer) -> PostgresServer:
    """One server for all tests of the session; a test that stops it starts it again."""
    return flusso_postgres


@pytest.fixture
def database(flusso_database: Database) -> Database:
    """An empty database; dropped afterwards with its sessions, slots and prepared transactions."""
    return flusso_database

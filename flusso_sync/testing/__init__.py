"""For the tests of programs that keep search documents with flusso-sync: a Postgres of one's own, a daemon with a sink
in memory, and the question whether its documents are right.

Fixtures for pytest are in :mod:`flusso_sync.testing.plugin`, what a sink of your own must pass in
:mod:`flusso_sync.testing.sinks` (the extra ``test``); nothing else here needs pytest::

    with start_postgres() as server:
        database = Database(server, server.create_database())
        with run_in_memory(configuration(database.url, {"users": "users.schema.yml"})) as documents:
            database.execute("INSERT INTO ...")
            assert_in_sync(documents)
            assert documents.get("users", "1") == {...}
"""

from __future__ import annotations

from flusso_sync.testing.postgres import Database, NoPostgres, PostgresServer, start_postgres
from flusso_sync.testing.sync import InMemory, assert_in_sync, configuration, run_in_memory

__all__ = [
    "Database",
    "InMemory",
    "NoPostgres",
    "PostgresServer",
    "assert_in_sync",
    "configuration",
    "run_in_memory",
    "start_postgres",
]

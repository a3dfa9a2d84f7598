"""Replica identities: the least that suffices, only ever from DEFAULT, and no lock that an application waits behind."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any, Iterator, Sequence, Tuple

import psycopg
import pytest

from flusso_sync.backoff import Stopped
from flusso_sync.errors import SourceRefused
from flusso_sync.postgres import identity as module
from flusso_sync.postgres.catalog import read_catalog
from flusso_sync.postgres.identity import Identity, identity_of, strengthen
from flusso_sync.schema.plan import Table, TableUse
from tests.postgres_server import Database
from tests.waiting import wait_for

CHILDREN = Table("public", "children")

TABLES = """
CREATE TABLE children (id int PRIMARY KEY, parent_id int NOT NULL, place int NOT NULL, note text);
"""


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    database.execute(TABLES)
    with closing(database.connect()) as connection:
        yield connection


def found(connection: psycopg.Connection[Any], links: Sequence[str]) -> Identity:
    relation = read_catalog(connection, [CHILDREN]).tables[CHILDREN]
    return identity_of(relation, TableUse(CHILDREN, ("id", *links), ("id", *links), tuple(links), ("i",)))


def chosen(connection: psycopg.Connection[Any]) -> Tuple[str, str]:
    row = connection.execute(
        "SELECT relreplident::text, coalesce((SELECT indexrelid::regclass::text FROM pg_index"
        " WHERE indrelid = c.oid AND indisreplident), '') FROM pg_class c WHERE relname = 'children'"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_what_the_key_tells_is_left_alone(connection: psycopg.Connection[Any]) -> None:
    assert found(connection, ()).remedy is None
    assert found(connection, ("id",)).remedy is None


def test_the_smallest_constraint_that_covers_the_links_is_used(connection: psycopg.Connection[Any]) -> None:
    connection.execute("ALTER TABLE children ADD CONSTRAINT wide UNIQUE (parent_id, place, id)")
    connection.execute("ALTER TABLE children ADD CONSTRAINT fit UNIQUE (place, parent_id)")
    assert strengthen(connection, found(connection, ("parent_id",)), threading.Event())
    assert chosen(connection) == ("i", "fit")
    assert found(connection, ("parent_id",)).remedy is None


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE UNIQUE INDEX plain ON children (parent_id, place)",
        "ALTER TABLE children ADD UNIQUE (parent_id, place) DEFERRABLE",
        "ALTER TABLE children ADD UNIQUE (parent_id, note)",
        "ALTER TABLE children ADD UNIQUE (place)",
    ],
    ids=["no constraint", "deferrable", "nullable", "other columns"],
)
def test_without_a_fitting_constraint_it_is_full(connection: psycopg.Connection[Any], statement: str) -> None:
    connection.execute(statement.encode())
    assert strengthen(connection, found(connection, ("parent_id",)), threading.Event())
    assert chosen(connection)[0] == "f"


@pytest.mark.parametrize("choice", ["NOTHING", "USING INDEX theirs"])
def test_what_somebody_chose_is_named_and_never_ours_to_change(
    connection: psycopg.Connection[Any], choice: str
) -> None:
    connection.execute("ALTER TABLE children ADD CONSTRAINT theirs UNIQUE (place)")
    connection.execute(f"ALTER TABLE children REPLICA IDENTITY {choice}".encode())
    weak = found(connection, ("parent_id",))
    assert weak.remedy is not None and weak.obstacle is not None
    assert weak.mute is (choice == "NOTHING")


def test_an_index_somebody_chose_that_lacks_the_key_is_too_weak_for_a_root(connection: psycopg.Connection[Any]) -> None:
    connection.execute("ALTER TABLE children ADD CONSTRAINT theirs UNIQUE (place)")
    connection.execute("ALTER TABLE children REPLICA IDENTITY USING INDEX theirs")
    weak = found(connection, ("id",))
    assert (
        weak.remedy is not None
        and not weak.mute
        and weak.obstacle == "its replica identity was chosen by somebody else"
    )


def test_full_is_enough_for_anything(connection: psycopg.Connection[Any]) -> None:
    connection.execute("ALTER TABLE children REPLICA IDENTITY FULL")
    assert found(connection, ("parent_id",)).remedy is None


def test_the_lock_never_queues_in_front_of_an_application(
    connection: psycopg.Connection[Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_BUDGET_SECONDS", 1.0)
    weak = found(connection, ("parent_id",))
    slowest = 0.0
    with database.connect(autocommit=False) as reader:
        # Given a long reader, which holds the lock off for ever
        reader.execute("SELECT * FROM children")
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(strengthen(connection, weak, threading.Event())))
        thread.start()
        # When the application reads and writes all the while
        with closing(database.connect()) as application:
            id = 0
            while thread.is_alive():
                id += 1
                started = time.monotonic()
                application.execute("INSERT INTO children VALUES (%s, 1, 1)", [id])
                slowest = max(slowest, time.monotonic() - started)
    thread.join()
    # Then it is never kept waiting, and we give up after a bounded time
    assert outcome == [False] and slowest < 0.5 and id > 10
    assert chosen(connection)[0] == "d"
    assert strengthen(connection, weak, threading.Event())


def test_a_stop_ends_the_attempts(connection: psycopg.Connection[Any], database: Database) -> None:
    weak = found(connection, ("parent_id",))
    stop = threading.Event()
    outcome = []

    def attempt() -> None:
        try:
            strengthen(connection, weak, stop)
        except Stopped as error:
            outcome.append(error)

    with database.connect(autocommit=False) as reader:
        reader.execute("SELECT * FROM children")
        thread = threading.Thread(target=attempt)
        thread.start()
        stop.set()
        wait_for(lambda: outcome, 5)
    thread.join()


def test_without_the_right_it_is_refused_with_a_sentence(
    connection: psycopg.Connection[Any], database: Database
) -> None:
    role = f"role_{database.name}"[:60]
    connection.execute(f"CREATE ROLE {role}".encode())
    try:
        connection.execute(f"GRANT SELECT ON children TO {role}; SET ROLE {role}".encode())
        with pytest.raises(SourceRefused, match="replica identity of public.children"):
            strengthen(connection, found(connection, ("parent_id",)), threading.Event())
    finally:
        connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}".encode())

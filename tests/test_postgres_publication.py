"""The publication tells of every leaf, whole and by its own name, or is refused with the statement that mends it."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Iterator

import psycopg
import pytest

from flusso_sync.errors import PublicationMismatch, SourceRefused
from flusso_sync.postgres.publication import coverage, extend
from flusso_sync.schema.plan import Table
from tests.postgres_server import Database

A, B = Table("public", "a"), Table("public", "Mixed.Name")


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    database.execute('CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE "Mixed.Name" (id int PRIMARY KEY)')
    with closing(database.connect()) as connection:
        yield connection


def members(connection: psycopg.Connection[Any]) -> Any:
    return connection.execute("SELECT tablename::text FROM pg_publication_tables ORDER BY 1").fetchall()


def test_it_is_created_and_later_extended_by_what_is_missing(connection: psycopg.Connection[Any]) -> None:
    found = coverage(connection, 'odd "name"', [A])
    assert not found.exists and found.missing == (A,)
    extend(connection, found)
    assert coverage(connection, 'odd "name"', [A]).missing == ()
    found = coverage(connection, 'odd "name"', [A, B])
    assert found.exists and found.missing == (B,)
    extend(connection, found)
    assert members(connection) == [("Mixed.Name",), ("a",)]
    assert coverage(connection, 'odd "name"', [A, B]).statement is None


def test_tables_that_inherit_are_not_published_in_passing(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE TABLE heir () INHERITS (a)")
    extend(connection, coverage(connection, "p", [A]))
    assert members(connection) == [("a",)]


def test_one_for_all_tables_covers_them(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE PUBLICATION p FOR ALL TABLES")
    assert coverage(connection, "p", [A, B]).missing == ()


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("CREATE PUBLICATION p FOR TABLE a WITH (publish = 'insert, update')", "does not publish delete, truncate"),
        ("CREATE PUBLICATION p FOR TABLE a WITH (publish_via_partition_root)", "as their root table"),
        ("CREATE PUBLICATION p FOR TABLE a WHERE (id > 5)", "row filter on public.a"),
        ("CREATE PUBLICATION p FOR TABLE a (id)", "column list on public.a"),
    ],
)
def test_one_that_would_hide_changes_is_refused_and_its_hint_mends_it(
    connection: psycopg.Connection[Any], statement: str, complaint: str
) -> None:
    if ("(id" in statement) and connection.info.server_version < 150000:
        pytest.skip("row filters and column lists came with Postgres 15")
    connection.execute(statement.encode())
    with pytest.raises(PublicationMismatch, match=complaint) as caught:
        coverage(connection, "p", [A])
    assert caught.value.hint is not None
    connection.execute(caught.value.hint.replace("Run: ", "").encode())
    assert coverage(connection, "p", [A]).missing == ()


def test_without_the_right_it_is_refused_with_a_sentence(
    connection: psycopg.Connection[Any], database: Database
) -> None:
    role = f"role_{database.name}"[:60]
    connection.execute(f"CREATE ROLE {role}; SET ROLE {role}".encode())
    try:
        with pytest.raises(SourceRefused, match="creating or extending the publication"):
            extend(connection, coverage(connection, "p", [A]))
    finally:
        connection.execute(f"RESET ROLE; DROP ROLE {role}".encode())

"""Mistakes that only Postgres can see are told at the start, and never blamed on rows."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Iterator, List, Sequence

import psycopg
import pytest

from flusso_sync.errors import ConfigError
from flusso_sync.postgres.bind import bind
from flusso_sync.postgres.catalog import read_catalog
from flusso_sync.postgres.statements import READING_SETTINGS, compile_statements
from flusso_sync.postgres.trial import try_out
from flusso_sync.schema.paths import tables
from flusso_sync.schema.plan import (
    AggregateField,
    AnyField,
    ChildLink,
    Filter,
    IndexPlan,
    JoinField,
    ObjectField,
    RawFilter,
    ScalarField,
    SoftDelete,
    Table,
)
from tests.postgres_server import Database

TABLES = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE t (id int PRIMARY KEY, m mood, n int, j json); CREATE TABLE c (id uuid PRIMARY KEY, t_id int, at date)
"""
T, C = Table("public", "t"), Table("public", "c")


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    options = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in READING_SETTINGS.items())
    with closing(database.connect(options=options)) as connection:
        yield connection


def tried(connection: psycopg.Connection[Any], fields: Sequence[AnyField] = (), **kw: Any) -> None:
    plan = IndexPlan("things", T, tuple(fields), **kw)
    bound = bind(plan, read_catalog(connection, tables(plan)))
    try_out(connection, bound, compile_statements(bound))


def test_constants_that_do_not_fit_their_column_are_all_named(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(TABLES)
    late = (Filter("at", "gt", ("tomorrowish",)),)
    fields: List[AnyField] = [
        ObjectField("o", (ScalarField("n", "integer", "n", default="many"),)),
        ScalarField("m", "enum", "m", default="glad"),
        JoinField("c", "has_many", C, ChildLink(("t_id",)), (), filters=late),
        AggregateField("k", "count", C, ChildLink(("t_id",)), filters=late),
    ]
    with pytest.raises(ConfigError) as caught:
        tried(
            connection,
            fields,
            filters=(Filter("n", "in", ("1", "two")),),
            soft_delete=SoftDelete("n", (Filter("m", "eq", ("mad",)),)),
        )
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["filters", "soft_delete.when", "o.n", "m", "c", "k"]
    assert "index things: filters: 'two' is no integer" in str(caught.value)


@pytest.mark.parametrize(
    "raw, words",
    [("nope > 1", 'column "nope" does not exist'), ("n > ", "syntax error"), ("n + 1", "must be type boolean")],
)
def test_raw_filters_are_parsed_before_anything_is_read(
    database: Database, connection: psycopg.Connection[Any], raw: str, words: str
) -> None:
    database.execute(TABLES)
    with pytest.raises(ConfigError, match=words) as caught:
        tried(connection, filters=(RawFilter(raw),))
    assert raw.split()[0] in (caught.value.hint or "")
    tried(connection, filters=(RawFilter("n > 1"),))


def test_a_raw_filter_that_calls_what_is_only_volatile_is_refused_unless_it_says_so(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(TABLES)
    database.execute(
        """
        CREATE FUNCTION wanders(int) RETURNS bool VOLATILE LANGUAGE sql AS 'SELECT $1 > random()';
        CREATE FUNCTION "Wanders Too"(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
        CREATE FUNCTION rests(int) RETURNS bool STABLE LANGUAGE sql AS 'SELECT $1 > 1';
        CREATE FUNCTION mixed(int) RETURNS bool VOLATILE LANGUAGE sql AS 'SELECT true';
        CREATE FUNCTION mixed(text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true';
        """
    )
    late = (RawFilter('public."Wanders Too"(1)'),)
    fields: List[AnyField] = [
        ObjectField("o", (JoinField("c", "has_many", C, ChildLink(("t_id",)), (), filters=late),)),
        AggregateField("k", "count", C, ChildLink(("t_id",)), filters=(RawFilter("clock_timestamp() > at"),)),
    ]
    with pytest.raises(ConfigError) as caught:
        tried(
            connection,
            fields,
            filters=(RawFilter("WANDERS(n) and rests(n)"),),
            soft_delete=SoftDelete("n", (RawFilter("nextval('s') > 1"),)),
        )
    assert [problem.path for problem in caught.value.problems] == ["filters", "soft_delete.when", "o.c", "k"]
    assert "index things: filters: wanders() is VOLATILE" in str(caught.value)
    assert "Wanders Too() is VOLATILE" in str(caught.value)
    # STABLE is accepted, a name that also means something stable is believed, and whoever says so may.
    calm = (RawFilter("rests(n) or mixed(n) or lower('x') = 'wanders(' or n in (1)"), RawFilter("wanders(n)", True))
    tried(connection, filters=calm)


def test_links_between_types_that_cannot_be_compared_are_refused(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(TABLES)
    with pytest.raises(ConfigError, match=r"uuid.* cannot be compared"):
        tried(connection, [JoinField("c", "has_many", C, ChildLink(("id",)), ())])


def test_a_sound_index_passes_and_leaves_nothing_behind(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(TABLES)
    fields: List[AnyField] = [
        ScalarField("n", "integer", "n", default="1"),
        JoinField("c", "has_many", C, ChildLink(("t_id",)), (), filters=(Filter("at", "lt", ("2024-01-01",)),)),
    ]
    for _ in range(2):
        tried(connection, fields, filters=(Filter("m", "like", ("s%",)), Filter("n", "in", ("1", "2"))))
    assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall() == [(0,)]

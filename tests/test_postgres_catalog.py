"""The catalog says what is there; its shape is compared: whatever a plan relies on must show when it changes."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any, Iterator, List, Sequence

import psycopg
import pytest
from psycopg.rows import dict_row

from flusso_sync.postgres.bind import row_key
from flusso_sync.postgres.catalog import Catalog, Shape, lock_statement, read_catalog, shape_of
from flusso_sync.schema.plan import Table, TableUse
from tests.postgres_server import Database

TABLES = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN inner_label AS text COLLATE "C"; CREATE DOMAIN label AS inner_label;
CREATE TABLE parents (a int, b text, PRIMARY KEY (b, a));
CREATE TABLE things (
    id bigint PRIMARY KEY, code varchar(8) NOT NULL, other int NOT NULL, maybe int,
    m mood, ms mood[], l label, ls label[], price numeric(10,2)[], dead text,
    twice int GENERATED ALWAYS AS (other * 2) STORED,
    CONSTRAINT pair UNIQUE (other, code), UNIQUE (maybe)
);
ALTER TABLE things DROP COLUMN dead;
CREATE UNIQUE INDEX plain ON things (code);
CREATE UNIQUE INDEX partial ON things (twice) WHERE other > 0;
CREATE UNIQUE INDEX computed ON things (lower(code));
CREATE INDEX ON things (maybe, other);
CREATE VIEW shown AS SELECT * FROM things;
"""


def table(name: str) -> Table:
    return Table("public", name)


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with closing(database.connect()) as connection:
        yield connection


def test_missing_tables_are_listed_and_the_others_read(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(TABLES)
    found = read_catalog(connection, [table("nope"), Table("nowhere", "things"), table("things"), table("shown")])
    assert set(found.missing) == {Table("nowhere", "things"), table("nope")}
    assert {t.name: r.kind for t, r in found.tables.items()} == {"things": "r", "shown": "v"}
    assert read_catalog(connection, []) == Catalog({})


def test_keys_and_indexes_are_told_apart(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(TABLES)
    found = read_catalog(connection, [table("things"), table("parents")])
    assert found.primary_keys == {table("things"): ("id",), table("parents"): ("b", "a")}
    things = found.tables[table("things")]
    by_name = {index.name: index for index in things.indexes}
    assert things.indexes[0].primary
    assert (by_name["pair"].columns, by_name["pair"].constraint) == (("other", "code"), True)
    assert (by_name["plain"].constraint, by_name["partial"].partial, by_name["computed"].columns) == (False, True, None)
    assert things.unique_over(("code", "other"), constraint=True) is by_name["pair"]
    assert things.unique_over(("code",), constraint=True) is None
    assert things.unique_over(("code",), constraint=False) is by_name["plain"]
    assert things.unique_over(("maybe",), constraint=True) is None  # may be null
    assert things.unique_over(("maybe",), constraint=True, not_null=False) is not None
    assert things.unique_over(("twice",), constraint=False, not_null=False) is None
    assert things.finds(("other", "maybe")) and things.finds(("maybe",)) and not things.finds(("twice",))
    database.execute("ALTER TABLE things DROP CONSTRAINT things_pkey")
    assert row_key(read_catalog(connection, [table("things")]).tables[table("things")]) == ("other", "code")


def test_columns_come_down_to_their_base_types(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(TABLES)
    columns = read_catalog(connection, [table("things")]).tables[table("things")].columns
    assert "dead" not in columns
    assert [columns[n].number for n in ("id", "price", "twice")] == [1, 9, 11]
    seen = {n: (c.type.looks_like, c.type.is_array, c.type.is_enum, c.type.is_domain) for n, c in columns.items()}
    assert seen == {
        "id": ("bigint", False, False, False),
        "code": ("character varying", False, False, False),
        "other": ("integer", False, False, False),
        "maybe": ("integer", False, False, False),
        "m": ("text", False, True, False),
        "ms": ("text", True, True, False),
        "l": ("text", False, False, True),
        "ls": ("text", True, False, True),
        "price": ("numeric", True, False, False),
        "twice": ("integer", False, False, False),
    }
    assert columns["price"].type_name == "numeric(10,2)[]" and columns["price"].sql_type == '"pg_catalog"."_numeric"'
    assert columns["l"].sql_type == '"pg_catalog"."text"' and columns["l"].collation == '"pg_catalog"."C"'
    assert {"label", "public.label", "inner_label", "text"} <= columns["l"].type.names
    assert (columns["twice"].generated, columns["other"].generated) == ("s", "")
    assert (columns["code"].not_null, columns["maybe"].not_null) == (True, False)


def test_replica_identities_are_read_with_their_columns(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(TABLES)

    def identity() -> Any:
        things = read_catalog(connection, [table("things")]).tables[table("things")]
        return things.replica_identity, things.identity_columns

    assert identity() == ("d", ("id",))
    database.execute("ALTER TABLE things REPLICA IDENTITY USING INDEX pair")
    assert identity() == ("i", ("other", "code"))
    database.execute("ALTER TABLE things REPLICA IDENTITY FULL")
    assert identity() == ("f", None)
    database.execute("ALTER TABLE things REPLICA IDENTITY NOTHING")
    assert identity() == ("n", ())


def test_leaves_of_partitions_are_found_at_any_depth(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE SCHEMA parts;
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        CREATE TABLE parts.p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
        CREATE TABLE parts.p2a PARTITION OF parts.p2 DEFAULT; ALTER TABLE p1 REPLICA IDENTITY FULL"""
    )
    found = read_catalog(connection, [table("p")])
    whole = found.tables[table("p")]
    assert whole.kind == "p" and not whole.is_partition
    leaves = {str(leaf.table): (leaf.kind, leaf.replica_identity, leaf.primary_key) for leaf in whole.leaves}
    assert leaves == {"public.p1": ("r", "f", ("id",)), "parts.p2a": ("r", "d", ("id",))}
    assert {found.table_of(oid) for oid in (whole.oid, *(leaf.oid for leaf in whole.leaves))} == {table("p")}
    assert found.table_of(1) is None


def test_kind_persistence_and_row_security_are_told(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TABLE a (id int); CREATE UNLOGGED TABLE b (id int); CREATE MATERIALIZED VIEW c AS SELECT 1 AS id;
        ALTER TABLE a ENABLE ROW LEVEL SECURITY"""
    )
    found = read_catalog(connection, [table(name) for name in "abc"])
    facts = {t.name: (r.kind, r.persistence, r.row_security) for t, r in found.tables.items()}
    assert facts == {"a": ("r", "p", True), "b": ("r", "u", False), "c": ("m", "p", False)}


def test_the_callers_row_factory_and_transaction_are_left_alone(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(TABLES)
    connection.row_factory = dict_row
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    assert table("things") in read_catalog(connection, [table("things")]).tables
    assert connection.execute("SELECT 1 AS one").fetchall() == [{"one": 1}]
    connection.execute("COMMIT")


# -- shape --------------------------------------------------------------------------------------------

USE = TableUse(table("things"), ("id", "code", "other"), ("id",), (), ("i",))


def changes(connection: psycopg.Connection[Any], shape: Shape) -> List[str]:
    with psycopg.RawCursor(connection) as cursor:
        return shape.differences(cursor.execute(shape.statement, shape.parameters).fetchall())


@pytest.mark.parametrize(
    "ddl, told",
    [
        ("SELECT 1", []),
        ("ALTER TABLE things ADD COLUMN more int", []),
        ("ALTER TABLE things DROP COLUMN m", []),
        ("ALTER TABLE things ALTER COLUMN maybe TYPE bigint", []),
        ("CREATE INDEX ON things (other); ANALYZE things; TRUNCATE things", []),
        ("ALTER TABLE things DROP COLUMN code", ["column public.things.code"]),
        ("ALTER TABLE things RENAME COLUMN code TO kode", ["column public.things.code"]),
        ("ALTER TABLE things ALTER COLUMN code TYPE text", ["column public.things.code"]),
        ("ALTER TABLE things ALTER COLUMN code TYPE varchar(9)", ["column public.things.code"]),
        ("ALTER TABLE things DROP COLUMN code; ALTER TABLE things ADD code varchar(8)", ["column public.things.code"]),
        ("ALTER TABLE things RENAME TO thinks", ["table public.things"]),
        ("ALTER TABLE things RENAME TO x; ALTER TABLE copy RENAME TO things", ["table public.things"]),
        ("CREATE SCHEMA s; ALTER TABLE things SET SCHEMA s", ["table public.things"]),
        ("ALTER SCHEMA public RENAME TO secret", ["table public.things"]),
        ("ALTER TABLE things ENABLE ROW LEVEL SECURITY", ["table public.things"]),
        (
            "DROP TABLE things",
            [
                "table public.things",
                "column public.things.id",
                "column public.things.code",
                "column public.things.other",
            ],
        ),
    ],
)
def test_the_shape_shows_every_change_that_matters_and_no_other(
    database: Database, connection: psycopg.Connection[Any], ddl: str, told: Sequence[str]
) -> None:
    database.execute(TABLES + "DROP VIEW shown; CREATE TABLE copy (LIKE things INCLUDING ALL)")
    shape = shape_of(read_catalog(connection, [table("things")]), [USE])
    assert changes(connection, shape) == []
    database.execute(ddl)
    assert sorted(changes(connection, shape)) == sorted(told)


def test_a_raw_filter_makes_every_column_part_of_the_shape(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(TABLES)
    use = TableUse(table("things"), None, ("id",), (), ("i",))
    shape = shape_of(read_catalog(connection, [table("things")]), [use])
    database.execute("DROP VIEW shown; ALTER TABLE things DROP COLUMN price; ALTER TABLE things ADD COLUMN more int")
    assert changes(connection, shape) == ["column public.things.price"]


def test_the_shape_can_stand_in_not_exists(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(TABLES)
    shape = shape_of(read_catalog(connection, [table("things")]), [USE])
    with psycopg.RawCursor(connection) as cursor:
        statement = f"SELECT pg_current_snapshot(), NOT EXISTS ({shape.statement})"
        assert cursor.execute(statement, shape.parameters).fetchall()[0][1] is True


def test_comparing_ten_tables_is_cheap(database: Database, connection: psycopg.Connection[Any]) -> None:
    columns = ", ".join(f"c{n} int" for n in range(10))
    database.execute("".join(f"CREATE TABLE t{n} (id int PRIMARY KEY, {columns});" for n in range(10)))
    names = [table(f"t{n}") for n in range(10)]
    found = read_catalog(connection, names)
    shape = shape_of(found, [TableUse(name, None, (), (), ()) for name in names])
    connection.execute("SET plan_cache_mode = force_generic_plan")
    best = 1.0
    with psycopg.RawCursor(connection) as cursor:
        for _ in range(200):
            started = time.perf_counter()
            cursor.execute(shape.statement, shape.parameters, prepare=True).fetchall()
            best = min(best, time.perf_counter() - started)
    assert best < 0.005  # about 0.3 ms on an idle machine


def test_lock_statement_names_tables_once_in_one_order() -> None:
    found = lock_statement([table("b"), Table("a", 'x"'), table("b")])
    assert found == 'LOCK TABLE "a"."x""", "public"."b" IN ACCESS SHARE MODE'

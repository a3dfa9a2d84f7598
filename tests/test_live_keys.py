"""Ids and keys of every type, live: what the stream leads to is what a build writes (settled.md sections 4 and 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import psycopg
import pytest

from tests.cases import BEYOND, KEYS, Case
from tests.fix_pg import Database
from tests.in_process import in_process, write_schemas

pytestmark = pytest.mark.pg


@pytest.mark.parametrize("case", [KEYS, BEYOND], ids=repr)
def test_every_listed_change_is_right_by_itself(database: Database, case: Case) -> None:
    case.load(database.url)
    with in_process(database.url, database.name, case.indexes) as daemon:
        daemon.right("as built")
        with database.connect() as connection:
            for change in case.changes:
                case.apply(connection, change)
                daemon.right(change.title)


class Key(NamedTuple):
    """A key type: four values that differ, and perhaps pairs that Postgres calls equal although they print unlike."""

    type: str
    values: Tuple[str, str, str, str]
    alike: Sequence[Tuple[str, str]] = ()
    #: The ids of ``values``, where they are not just the values.
    ids: Sequence[str] = ()


TYPES = """
CREATE EXTENSION citext;
CREATE TYPE label AS ENUM ('z', 'a:b', '%', '');
CREATE DOMAIN code AS varchar(10);
CREATE DOMAIN "Code;Two" AS code;
CREATE TYPE pair AS (a int, b text);
CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
"""

KEY_TYPES: List[Key] = [
    Key("smallint", ("-32768", "0", "7", "32767")),
    Key("integer", ("-2147483648", "0", "7", "8")),
    Key("bigint", ("9007199254740993", "-1", "0", "9223372036854775807")),
    Key("oid", ("4294967295", "1", "2", "3")),
    Key("text", ("a:b", "50%", " x ", "line\nbreak\\\"'")),
    Key('text COLLATE "loose"', ("a", "b", "ü", "d"), [("x", "X")]),
    Key("varchar(12)", ("A", "a", "a\"b", "日本")),
    Key("character(4)", ("ab", "c ", "d", "efgh"), ids=("ab", "c", "d", "efgh")),
    Key('"char"', ("x", ":", "%", "y")),
    Key("name", ("n", "N", "n:n", "m")),
    Key("citext", ("Ab", "c", "É", "d"), [("xy", "XY")]),
    Key("uuid", ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{00000000000000000000000000000000}",
                 "b0000000-0000-4000-8000-000000000001", "c0000000-0000-4000-8000-000000000001"),
        ids=("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000",
             "b0000000-0000-4000-8000-000000000001", "c0000000-0000-4000-8000-000000000001")),
    Key("bytea", ("\\xdead", "\\x00", "\\x0a0d", "\\x25")),
    Key("date", ("2024-01-02", "0044-03-15 BC", "10000-01-01", "infinity"),
        ids=("2024-01-02", "-0043-03-15", "+10000-01-01", "infinity")),
    Key("time", ("03:04:05", "23:59:59.999999", "24:00", "12:00"),
        ids=("03:04:05", "23:59:59.999999", "24:00:00", "12:00:00")),
    Key("timetz", ("03:04:05+02", "23:30-05:30", "12:00+00", "13:00+01:30"),
        [("10:00+00", "11:00+01")], ids=("01:04:05", "05:00:00", "12:00:00", "11:30:00")),
    Key("timestamp", ("2024-01-02 03:04:05.5", "0001-01-01 BC", "2024-01-02", "-infinity"),
        ids=("2024-01-02T03:04:05.5", "0000-01-01T00:00:00", "2024-01-02T00:00:00", "-infinity")),
    Key("timestamptz",
        ("2024-01-02 03:04:05.5+02", "2024-03-31 02:30+01", "2024-01-02 00:00+00", "10000-01-01 00:00+00"),
        ids=("2024-01-02T01:04:05.5+00:00", "2024-03-31T01:30:00+00:00", "2024-01-02T00:00:00+00:00",
             "+10000-01-01T00:00:00+00:00")),
    Key("numeric", ("10.500", "100", "-0.00000000000000000001", "NaN"), [("1.0", "1.00"), ("1e3", "1000")],
        ids=("10.5", "100", "-0.00000000000000000001", "NaN")),
    Key("numeric(9,3)", ("1", "2.5", "-7.125", "0"), ids=("1", "2.5", "-7.125", "0")),
    Key("money", ("12.34", "-5", "0", "1000000"), ids=("12.34", "-5.00", "0.00", "1000000.00")),
    Key("double precision", ("0.1", "NaN", "-Infinity", "5e-324"), [("0", "-0")]),
    Key("real", ("0.1", "1e-45", "NaN", "3.4028235e+38"), [("-0", "0")]),
    Key("label", ("z", "a:b", "%", ""), ids=("z", "a:b", "%", "")),
    Key("code", ("C-1", "c-1", "x", "y")),
    Key('"Code;Two"', ("C-1", "c-1", "x", "y")),
    Key("inet", ("10.0.0.1", "10.0.0.0/8", "2001:db8::1", "::/0")),
    Key("cidr", ("10.0.0.0/8", "10.0.0.1/32", "2001:db8::/32", "0.0.0.0/0")),
    Key("macaddr", ("08:00:2b:01:02:03", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:01")),
    Key("interval", ("1 year 2 mons -3 days +04:05:06.7", "00:00:00", "-1 days", "2 days"), [("1 mon", "30 days")]),
    Key("bit varying(8)", ("1010", "0", "11", "1")),
    Key("int4range", ("[1,5)", "empty", "[7,)", "(,)")),
    Key("pg_lsn", ("0/16B3748", "FF/0", "0/0", "1/1")),
    Key("integer[]", ("{1,NULL}", "{}", "{{1,2},{3,4}}", "{7}")),
    Key("text[]", ("{a:b,\"c,d\"}", "{}", "{%}", "{NULL}")),
    Key("jsonb", ('{"a": [1, "x"]}', "[]", '"s"', "null"), [("1.0", "1.00")]),
    Key("pair", ('(1,"a b")', "(,)", "(2,x)", "(3,)")),
]  # fmt: skip


def test_ids_of_every_key_type_are_the_same_from_the_stream_and_from_the_table(
    database: Database, tmp_path: Path
) -> None:
    """Built, then inserted, updated, moved and deleted live; a build of the same rows must find nothing to change."""
    schemas: Dict[str, Dict[str, Any]] = {}
    with database.connect() as connection:
        connection.execute(TYPES.encode())
        for number, key in enumerate(KEY_TYPES):
            for table in (f"one{number}", f"two{number}"):
                nr = "nr int NOT NULL, " if table.startswith("two") else ""
                columns = "key, nr" if nr else "key"
                connection.execute(
                    f"CREATE TABLE {table} ({nr}key {key.type} NOT NULL, note text, PRIMARY KEY ({columns}))"
                )
                rows = [(value, str(n)) for n, value in enumerate((*key.values[:3], *(a for a, _ in key.alike)))]
                _insert(connection, table, key, rows)
                schemas[table] = {"version": 1, "table": table, "fields": [{"text": "note", "required": False}]}
    paths = write_schemas(tmp_path, schemas)
    with in_process(database.url, database.name, paths, on_error="skip") as daemon:
        for number, key in enumerate(KEY_TYPES):
            wanted = [id for id in (key.ids or key.values)[:3] if id]
            found = list(daemon.sink.documents(f"one{number}"))
            assert len(found) == 3 + len(key.alike) - (len(wanted) < 3), (key.type, found)
            assert set(wanted) <= set(found), key.type
        with database.connect() as connection:
            for number, key in enumerate(KEY_TYPES):
                for table in (f"one{number}", f"two{number}"):
                    _change(connection, table, key)
        daemon.settle()
        live = {name: daemon.documents(name) for name in paths}
    with in_process(database.url, f"{database.name}_again", paths, on_error="skip") as daemon:
        fresh = {name: daemon.documents(name) for name in paths}
    unlike = {
        f"{name} ({KEY_TYPES[int(name[3:])].type})": (live[name], fresh[name])
        for name in paths
        if live[name] != fresh[name]
    }
    assert not unlike, unlike
    for number, key in enumerate(KEY_TYPES):
        # The second value is gone, the third has become the fourth, the first was written again.
        first = (key.ids or key.values)[0]
        assert live[f"one{number}"][first] == {"note": "again"}, key.type
        assert len(live[f"one{number}"]) == len(live[f"two{number}"]) - (not (key.ids or key.values)[3])


def _insert(connection: psycopg.Connection[Any], table: str, key: Key, rows: Sequence[Tuple[str, str]]) -> None:
    type_ = key.type.replace(' COLLATE "loose"', "")
    nr = ("nr, ", f"{len(table)}, ") if table.startswith("two") else ("", "")
    for value, note in rows:
        connection.execute(
            f"INSERT INTO {table} ({nr[0]}key, note) VALUES ({nr[1]}%s::text::{type_}, %s)", [value, note]
        )


def _change(connection: psycopg.Connection[Any], table: str, key: Key) -> None:
    type_ = key.type.replace(' COLLATE "loose"', "")
    first, second, third, fourth = key.values
    same = f"key = %s::text::{type_}"
    connection.execute(f"UPDATE {table} SET note = 'again' WHERE {same}", [first])
    connection.execute(f"DELETE FROM {table} WHERE {same}", [second])
    connection.execute(f"UPDATE {table} SET key = %s::text::{type_} WHERE {same}", [fourth, third])
    for one, other in key.alike:
        # The same key to Postgres, another id to everybody else.
        connection.execute(f"UPDATE {table} SET key = %s::text::{type_}, note = 'alike' WHERE {same}", [other, one])

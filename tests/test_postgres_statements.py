"""Documents as Postgres renders them: every kind with awkward values, relations, filters, bounds, ids, plans."""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import psycopg
import pytest

from flusso_sync.errors import ConfigError, SourceRefused
from flusso_sync.postgres.bind import BoundIndex, bind
from flusso_sync.postgres.catalog import Catalog, Column, Index, Relation, Type, read_catalog
from flusso_sync.postgres.quoting import array_literal, identifier, literal
from flusso_sync.postgres.render import MAX_PIECES, Text, constant, joined, member, members
from flusso_sync.postgres.statements import READING_SETTINGS, IndexStatements, compile_statements
from flusso_sync.schema.paths import tables
from flusso_sync.schema.plan import (
    AggregateField,
    AnyField,
    AnyFilter,
    ChildLink,
    ConstantField,
    Filter,
    GeoField,
    IndexPlan,
    JoinField,
    ObjectField,
    Order,
    RawFilter,
    ScalarField,
    SoftDelete,
    Table,
    TargetLink,
    ThroughLink,
)
from tests.postgres_server import Database

MEGABYTE = 1024 * 1024


def table(name: str) -> Table:
    return Table("public", name)


def scalar(name: str, kind: str, column: Optional[str] = None, **kw: Any) -> ScalarField:
    return ScalarField(name, kind, column or name, **kw)


def plan(root: str, fields: Sequence[AnyField], **kw: Any) -> IndexPlan:
    return IndexPlan("things", table(root), tuple(fields), **kw)


# -- pure text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, quoted",
    [("plain", "'plain'"), ("it's", "'it''s'"), ("back\\slash's", " E'back\\\\slash''s'"), ("ü\n", "'ü\n'")],
)
def test_literals_read_the_same_under_both_string_settings(text: str, quoted: str) -> None:
    assert literal(text) == quoted


def test_a_zero_character_is_refused_in_literals_and_identifiers() -> None:
    with pytest.raises(ValueError):
        literal("a\x00b")
    with pytest.raises(ValueError):
        identifier("a\x00b")


def test_identifiers_keep_case_and_quotes() -> None:
    assert identifier('Mixed."Name"') == '"Mixed.""Name"""'


def test_array_literals_tell_null_from_the_word_null() -> None:
    assert array_literal([None, "NULL", 'a"b\\c', ""]) == '{NULL,"NULL","a\\"b\\\\c",""}'


def test_constants_keep_their_json_type_and_drop_what_json_cannot_carry() -> None:
    value = {"n": 1, "f": 0.5, "b": True, "none": None, "list": [1, "x"], "nan": float("nan"), "ü": "\n"}
    assert constant(value) == '{"n":1,"f":0.5,"b":true,"none":null,"list":[1,"x"],"nan":null,"ü":"\\n"}'


def test_neighbouring_texts_melt_into_one_literal() -> None:
    pieces = members([member("a", [Text("1")]), member("b", ["t.b"]), member("c", [Text("2")])])
    assert joined(pieces) == """pg_catalog.concat('{"a":1,"b":', t.b, ',"c":2}')"""


def test_wide_objects_never_exceed_the_argument_limit_of_concat() -> None:
    text = joined(members(member(f"f{n}", [f"t.f{n}"]) for n in range(500)))
    depth, counts, most = 0, [0], 0
    for character in re.sub("'[^']*'", "", text):
        if character == "(":
            counts.append(1)
        elif character == ")":
            most = max(most, counts.pop())
        elif character == ",":
            counts[-1] += 1
        depth = max(depth, len(counts))
    assert depth == 3 and most <= MAX_PIECES + 2


INT = Type(sql='"pg_catalog"."int4"', base="int4", looks_like="integer", names=frozenset({"integer", "int4"}))
TEXT = Type(sql='"pg_catalog"."text"', base="text", looks_like="text", names=frozenset({"text"}))


def relation(name: str, kind: str = "r", persistence: str = "p", **columns: Type) -> Relation:
    found = {
        column: Column(column, number, 0, -1, type_.looks_like, type_, not_null=column == "id")
        for number, (column, type_) in enumerate({"id": INT, **columns}.items(), 1)
    }
    key = Index(f"{name}_pkey", 1, ("id",), unique=True, primary=True, constraint=True)
    return Relation(table(name), 1, kind, persistence, columns=found, indexes=(key,))


def catalog(*relations: Relation) -> Catalog:
    return Catalog({r.table: r for r in relations})


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        bind(
            plan(
                "a",
                [
                    scalar("x", "text", "nope"),
                    ObjectField("o", (scalar("y", "text", "neither"),)),
                    JoinField("b", "has_many", table("b"), ChildLink(("lost",)), (scalar("z", "text", "gone"),)),
                    scalar("t", "integer", "id", transforms=("trim",)),
                    scalar("d", "text", "label", default="a\x00b"),
                ],
                filters=(Filter("vanished", "eq", ("1",)), Filter("id", "like", ("1",))),
                soft_delete=SoftDelete("dead"),
                primary_key=("label",),
            ),
            catalog(relation("a", label=TEXT), relation("b")),
        )
    text = str(caught.value)
    for name in ("nope", "neither", "lost", "gone", "vanished", "dead", "transforms", "like", "label"):
        assert name in text
    paths = [problem.path for problem in caught.value.problems]
    assert {"x", "o.y", "b", "b.z", "t", "d", "primary_key", "filters", "soft_delete"} <= set(paths)


def test_missing_tables_are_named() -> None:
    with pytest.raises(ConfigError, match=r"index things: table public\.a does not exist"):
        bind(plan("a", []), Catalog({}, (table("a"),)))


@pytest.mark.parametrize(
    "kind, persistence, words",
    [("v", "p", "a view"), ("m", "p", "a materialized view"), ("f", "p", "a foreign table")]
    + [("r", "u", "an unlogged table"), ("r", "t", "a temporary table")],
)
def test_what_is_not_in_the_stream_is_refused(kind: str, persistence: str, words: str) -> None:
    with pytest.raises(SourceRefused, match=words):
        bind(plan("a", []), catalog(relation("a", kind, persistence)))


def test_a_type_the_kind_does_not_list_is_a_finding_and_runs() -> None:
    bound = bind(plan("a", [scalar("id", "long")]), catalog(relation("a")))
    assert [(f.severity, f.path) for f in bound.findings] == [("error", "id")]
    assert "public.a.id is integer" in bound.findings[0].message


def test_belongs_to_needs_a_unique_target() -> None:
    field = JoinField("b", "belongs_to", table("b"), TargetLink(("label",), ("label",)), ())
    with pytest.raises(ConfigError, match="is not unique"):
        bind(plan("a", [field]), catalog(relation("a", label=TEXT), relation("b", label=TEXT)))


def test_a_link_without_an_index_is_a_warning() -> None:
    field = JoinField("b", "has_many", table("b"), ChildLink(("label",)), ())
    bound = bind(plan("a", [field]), catalog(relation("a", label=TEXT), relation("b", label=TEXT)))
    assert [(f.severity, f.path) for f in bound.findings] == [("warning", "b")]


# -- on a server --------------------------------------------------------------------------------------

Row = Tuple[Any, ...]


class Reader:
    """Runs the statements of one index as the daemon does: prepared, numbered parameters as texts."""

    def __init__(self, connection: psycopg.Connection[Any], index: IndexPlan) -> None:
        self.connection = connection
        self.bound: BoundIndex = bind(index, read_catalog(connection, tables(index)))
        self.statements: IndexStatements = compile_statements(self.bound)

    def run(self, statement: str, *parameters: Any) -> List[Row]:
        with psycopg.RawCursor(self.connection) as cursor:
            return cursor.execute(statement, [str(p) for p in parameters], prepare=True).fetchall()

    def lookup(self, *keys: Any, batch: int = 32 * MEGABYTE, most: int = 20 * MEGABYTE) -> List[Row]:
        rows = [key if isinstance(key, tuple) else (key,) for key in keys]
        arrays = [array_literal([str(part) for part in parts]) for parts in zip(*rows)]
        return self.run(self.statements.lookup, *arrays, batch, most)

    def text(self, key: Any) -> str:
        ((_, _, size, document),) = self.lookup(key)
        assert document is not None and size == len(document.encode())
        assert "\n" not in document and "\r" not in document
        return str(document)

    def document(self, key: Any) -> Any:
        return json.loads(self.text(key), parse_float=str)


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    options = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in READING_SETTINGS.items())
    with closing(database.connect(options=options)) as connection:
        yield connection


#: (column type, kind, SQL value, JSON text)
VALUES: List[Tuple[str, str, str, str]] = [
    ("text", "text", "'say \"hi\"\\ ' || chr(10) || chr(9) || chr(1) || ' ü €'", r'"say \"hi\"\\ \n\t\u0001 ü €"'),
    ("text", "text", "NULL", "null"),
    ("text", "keyword", "''", '""'),
    ("varchar(10)", "identifier", "'abc'", '"abc"'),
    ("char(6)", "keyword", "'ab'", '"ab"'),
    ('"char"', "keyword", "'x'", '"x"'),
    ("name", "keyword", "'n'", '"n"'),
    ("citext", "text", "'MiXed'", '"MiXed"'),
    ("mood", "enum", "'so so'", '"so so"'),
    ("mood[]", "enum", "'{sad,so so}'", '["sad","so so"]'),
    ("uuid", "uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    ("boolean", "boolean", "true", "true"),
    ("boolean", "boolean", "false", "false"),
    ("boolean", "boolean", "NULL", "null"),
    ("smallint", "short", "-32768", "-32768"),
    ("integer", "integer", "7", "7"),
    ("bigint", "long", "9007199254740993", "9007199254740993"),
    ("bigint", "long", "NULL", "null"),
    ("real", "float", "0.1", "0.1"),
    ("real", "float", "'NaN'", "null"),
    ("double precision", "double", "0.1", "0.1"),
    ("double precision", "double", "1e22", "1e+22"),
    ("double precision", "double", "1e-7", "1e-07"),
    ("double precision", "double", "'Infinity'", "null"),
    ("double precision", "double", "'-Infinity'", "null"),
    ("numeric", "decimal", "123456789012345678901234567890.50", "123456789012345678901234567890.50"),
    ("numeric(10,4)", "decimal", "42.5", "42.5000"),
    ("numeric", "decimal", "'NaN'", "null"),
    ("numeric", "decimal", "'-Infinity'", "null"),
    ("numeric", "decimal", "-0.5", "-0.5"),
    ("money", "decimal", "'-1234.5'", "-1234.50"),
    ("date", "date", "'2024-01-02'", '"2024-01-02"'),
    ("date", "date", "'0044-03-15 BC'", '"-0043-03-15"'),
    ("date", "date", "'0001-12-31 BC'", '"0000-12-31"'),
    ("date", "date", "'12345-01-02'", '"+12345-01-02"'),
    ("date", "date", "'infinity'", "null"),
    ("timestamp", "timestamp", "'2024-01-02 03:04:05.5'", '"2024-01-02T03:04:05.5"'),
    ("timestamp", "timestamp", "'2024-01-02'", '"2024-01-02T00:00:00"'),
    ("timestamp", "timestamp", "'0044-03-15 10:00:00.25 BC'", '"-0043-03-15T10:00:00.25"'),
    ("timestamp", "timestamp", "'10000-01-01 00:00:00'", '"+10000-01-01T00:00:00"'),
    ("timestamp", "timestamp", "'-infinity'", "null"),
    ("timestamptz", "timestamp", "'2024-01-02 03:04:05.123456+02'", '"2024-01-02T01:04:05.123456+00:00"'),
    ("timestamptz", "timestamp", "'0044-03-15 10:00:00+00 BC'", '"-0043-03-15T10:00:00+00:00"'),
    ("timestamptz", "timestamp", "'infinity'", "null"),
    ("time", "timestamp", "'03:04:05.100'", '"03:04:05.1"'),
    ("time", "timestamp", "'24:00:00'", '"24:00:00"'),
    ("timetz", "timestamp", "'03:04:05+02'", '"01:04:05"'),
    ("timetz", "timestamp", "NULL", "null"),
    ("bytea", "binary", r"'\x00ff10'", '"AP8Q"'),
    ("bytea", "binary", "convert_to(repeat('abc', 30), 'UTF8')", '"' + "YWJj" * 30 + '"'),
    ("bytea", "binary", "''", '""'),
    ("json", "json", 'E\'{"a":\\n 1.50, "a": [2, null]}\'', '{"a": [2, null]}'),
    ("json", "json", "'null'", "null"),
    ("json", "json", "'\"text\"'", '"text"'),
    ("jsonb", "json", "'{\"b\": 12345678901234567890.10}'", '{"b": 12345678901234567890.10}'),
    ("jsonb", "map", '\'{"de": "x"}\'', '{"de": "x"}'),
    ("hstore", "custom", "'a=>1'", '{"a": "1"}'),
    ("inet", "custom", "'10.0.0.1'", '"10.0.0.1"'),
    ("interval", "custom", "'1 day 2 hours'", '"1 day 02:00:00"'),
    ("int4range", "custom", "'[1,5)'", '"[1,5)"'),
    ("pair", "custom", "ROW(1, E'{\"k\":\\n1}')", '{"a":1,"b":{"k":1}}'),
    ("tsvector", "custom", "'b a'", "\"'a' 'b'\""),
    ("positive", "integer", "5", "5"),
    ("label", "text", "'x\"y'", r'"x\"y"'),
    ("labels", "text", "'{a,b}'", '["a","b"]'),
    ("label[]", "text", "ARRAY['a','b']::label[]", '["a","b"]'),
    ("text[]", "text", "ARRAY['a\"', NULL, 'null']", r'["a\"",null,"null"]'),
    ("text[]", "text", "'{}'", "[]"),
    ("text[]", "text", "NULL", "null"),
    ("citext[]", "text", "'{A,b}'", '["A","b"]'),
    ("char(3)[]", "keyword", "'{a,bc}'", '["a","bc"]'),
    ("int[]", "integer", "'{{1,2},{3,4}}'", "[[1,2],[3,4]]"),
    ("boolean[]", "boolean", "'{t,f,NULL}'", "[true,false,null]"),
    ("float8[]", "double", "'{0.1,NaN,-Infinity,NULL}'", "[0.1,null,null,null]"),
    ("numeric[]", "decimal", "'{1.50,NaN}'", "[1.50,null]"),
    ("money[]", "decimal", "'{1.5,2}'", "[1.50,2.00]"),
    ("date[]", "date", "'{2024-01-02,infinity,0044-03-15 BC,NULL}'", '["2024-01-02",null,"-0043-03-15",null]'),
    (
        "date[]",
        "date",
        "'{{2024-01-02,2024-01-03},{2024-01-04,NULL}}'",
        '[["2024-01-02","2024-01-03"],["2024-01-04",null]]',
    ),
    ("date[]", "date", "'{}'", "[]"),
    ("date[]", "date", "NULL", "null"),
    ("timestamptz[]", "timestamp", "'{2024-01-02 03:00+02}'", '["2024-01-02T01:00:00+00:00"]'),
    ("timestamp[]", "timestamp", "'{2024-01-02 03:00}'", '["2024-01-02T03:00:00"]'),
    ("time[]", "timestamp", "'{03:00}'", '["03:00:00"]'),
    ("timetz[]", "timestamp", "'{03:00+02}'", '["01:00:00"]'),
    ("bytea[]", "binary", r"ARRAY['\x00ff10'::bytea, NULL]", '["AP8Q",null]'),
    (
        "bytea[]",
        "binary",
        r"ARRAY[[['\x61'],['\x62']],[['\x63'],['\x64']]]::bytea[]",
        '[[["YQ=="],["Yg=="]],[["Yw=="],["ZA=="]]]',
    ),
    ("uuid[]", "uuid", "'{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}'", '["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]'),
    ("json[]", "json", "ARRAY[E'{\"a\":\\n1}'::json]", '[{"a": 1}]'),
    ("jsonb[]", "json", "ARRAY['1'::jsonb, NULL]", "[1,null]"),
]

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'so so');
CREATE TYPE pair AS (a int, b json);
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN label0 AS text; CREATE DOMAIN label AS label0 CHECK (VALUE <> '');
CREATE DOMAIN labels AS text[];
"""


def make_types(database: Database, *needed: str) -> Set[str]:
    """Make the types above and what this Postgres has of citext and hstore; a wheel has neither.

    Returns what it lacks; skips the test when that is ``needed``.
    """
    known = {row[0] for row in database.execute("SELECT name FROM pg_available_extensions")}
    lacking = {"citext", "hstore"} - known
    if lacking & set(needed):
        pytest.skip(f"this Postgres has no {', '.join(sorted(lacking))}")
    database.execute(TYPES + "".join(f"CREATE EXTENSION {name};" for name in {"citext", "hstore"} & known))
    return lacking


def test_every_type_renders_as_written_down(database: Database, connection: psycopg.Connection[Any]) -> None:
    lacking = make_types(database)
    values = [value for value in VALUES if value[0].split("[")[0] not in lacking]
    columns = ", ".join(f"c{n} {type_}" for n, (type_, _, _, _) in enumerate(values))
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns});")
    database.execute(f"INSERT INTO t VALUES (1, {', '.join(sql for _, _, sql, _ in values)})")
    custom = ("hstore", "inet", "interval", "int4range", "pair", "tsvector")
    fields: List[AnyField] = [
        scalar(f"f{n}", kind, f"c{n}", postgres=custom if kind == "custom" else ())
        for n, (_, kind, _, _) in enumerate(values)
    ]
    reader = Reader(connection, plan("t", fields))
    found = reader.text(1)

    expected = "{" + ",".join(f'"f{n}":{text}' for n, (_, _, _, text) in enumerate(values)) + "}"
    pairs = json.loads(found, object_pairs_hook=list, parse_float=str)
    wanted = json.loads(expected, object_pairs_hook=list, parse_float=str)
    assert pairs == wanted
    assert found == expected
    assert [f for f in reader.bound.findings if f.severity == "error"] == []


def test_transforms_run_in_order_and_defaults_after_them(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(
        """CREATE TYPE lang AS ENUM ('DE', 'EN');
        CREATE TABLE t (id int PRIMARY KEY, a text, c char(8), l lang, n int, d timestamptz, tags text[], j jsonb);
        INSERT INTO t VALUES (1, '  AbC' || chr(9) || ' ', ' X', 'DE', 0, '2024-01-01', '{}', 'null');
        INSERT INTO t VALUES (2)"""
    )
    both = ("trim", "lowercase")
    fields: List[AnyField] = [
        scalar("a", "text", transforms=both, default=" Kept As It Is "),
        scalar("c", "keyword", transforms=both, default="Y"),
        scalar("l", "enum", transforms=("lowercase",), default="EN"),
        scalar("n", "integer", default="42"),
        scalar("d", "timestamp", default="2020-02-03"),
        scalar("tags", "text", default="{a,b}"),
        scalar("j", "json", default='{"x": 1}'),
    ]
    reader = Reader(connection, plan("t", fields))
    assert reader.document(1) == {
        "a": "abc\t", "c": "x", "l": "de", "n": 0, "d": "2024-01-01T00:00:00+00:00", "tags": [], "j": None
    }  # fmt: skip
    assert reader.document(2) == {
        "a": " Kept As It Is ", "c": "Y", "l": "EN", "n": 42, "d": "2020-02-03T00:00:00+00:00",
        "tags": ["a", "b"], "j": {"x": 1},
    }  # fmt: skip


def test_geo_constants_and_objects(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TABLE t (id int PRIMARY KEY, lat float8, lon numeric, j jsonb, s text);
        INSERT INTO t VALUES (1, 45.123456789012345, 9.10, '{"lat": 1, "lon": 2}', '1,2'),
            (2, 1, NULL, NULL, NULL), (3, 'NaN', 1, NULL, NULL)"""
    )
    fields: List[AnyField] = [
        GeoField("p", "lat", "lon"),
        GeoField("j", column="j"),
        GeoField("s", column="s"),
        ConstantField("k", {"list": [1, "it's\\"], "t": True}),
        ObjectField("o", (scalar("s", "text"), ObjectField("empty", ()))),
    ]
    reader = Reader(connection, plan("t", fields))
    assert reader.text(1) == (
        '{"p":{"lat":45.123456789012344,"lon":9.10},"j":{"lat": 1, "lon": 2},"s":"1,2",'
        '"k":{"list":[1,"it\'s\\\\"],"t":true},"o":{"s":"1,2","empty":{}}}'
    )
    for key in (2, 3):
        assert reader.document(key)["p"] is None


SHOP = """
CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, boss_id int REFERENCES people);
CREATE TABLE tags (id int PRIMARY KEY, label text, hidden boolean NOT NULL DEFAULT false);
CREATE TABLE posts (id int PRIMARY KEY, title text, author_id int REFERENCES people);
CREATE TABLE comments (id int PRIMARY KEY, post_id int REFERENCES posts, body text, rank int, at timestamptz,
    price numeric(8,2), weight float8, spam boolean NOT NULL DEFAULT false, mark uuid);
CREATE TABLE replies (id int PRIMARY KEY, comment_id int REFERENCES comments, body text);
CREATE TABLE post_tags (post_id int REFERENCES posts, tag_id int REFERENCES tags, place int);
INSERT INTO people VALUES (1, 'Ann', NULL), (2, 'Bob', 1);
INSERT INTO tags VALUES (1, 'one', false), (2, 'two', false), (3, 'three', true);
INSERT INTO posts VALUES (1, 'first', 2), (2, 'second', NULL), (3, 'third', 1);
INSERT INTO comments VALUES
    (12, 1, 'b', 1, '2024-01-02', 1.50, 0.1, false, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
    (11, 1, 'a', 2, '2024-01-03', 2.25, 0.2, false, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
    (10, 1, 'c', 1, NULL, NULL, 'NaN', true, NULL),
    (13, 3, 'z', NULL, NULL, NULL, NULL, false, NULL);
INSERT INTO replies VALUES (102, 11, 'late'), (101, 11, 'early'), (103, 12, 'x');
INSERT INTO post_tags VALUES (1, 3, 1), (1, 1, 2), (1, 2, 3), (1, 1, 4), (2, NULL, 1);
"""

ON_POST = ChildLink(("post_id",))
BY_TAG = ThroughLink(table("post_tags"), ("post_id",), ("tag_id",))


def test_joins_nest_to_any_depth_and_are_ordered(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(SHOP)
    comment = (scalar("id", "integer"),)
    fields: List[AnyField] = [
        JoinField(
            "author", "belongs_to", table("people"), TargetLink(("author_id",)),
            (scalar("name", "keyword"),
             JoinField("boss", "belongs_to", table("people"), TargetLink(("boss_id",)), (scalar("name", "keyword"),)),
             JoinField("team", "has_many", table("people"), ChildLink(("boss_id",)), (scalar("id", "integer"),))),
        ),
        JoinField("all", "has_many", table("comments"), ON_POST,
                  (scalar("id", "integer"),
                   JoinField("replies", "has_many", table("replies"), ChildLink(("comment_id",)),
                             (scalar("body", "text"),)))),
        JoinField("ranked", "has_many", table("comments"), ON_POST, comment, order_by=(Order("rank"),)),
        JoinField("two", "has_many", table("comments"), ON_POST, comment, order_by=(Order("rank", True),), limit=2),
        JoinField("fine", "has_many", table("comments"), ON_POST, comment, filters=(Filter("spam", "eq", ("false",)),)),
        JoinField("first", "has_one", table("comments"), ON_POST, comment),
        JoinField("last", "has_one", table("comments"), ON_POST, comment, order_by=(Order("at", True),)),
        JoinField("tags", "many_to_many", table("tags"), BY_TAG, (scalar("label", "keyword"),)),
        JoinField("some", "many_to_many", table("tags"), BY_TAG, (scalar("label", "keyword"),),
                  filters=(Filter("hidden", "neq", ("true",)),), order_by=(Order("label", True),), limit=2),
        JoinField("nothing", "has_many", table("comments"), ON_POST, ()),
    ]  # fmt: skip
    reader = Reader(connection, plan("posts", fields))
    first = reader.document(1)
    assert first == {
        "author": {"name": "Bob", "boss": {"name": "Ann"}, "team": []},
        "all": [
            {"id": 10, "replies": []},
            {"id": 11, "replies": [{"body": "early"}, {"body": "late"}]},
            {"id": 12, "replies": [{"body": "x"}]},
        ],
        "ranked": [{"id": 10}, {"id": 12}, {"id": 11}],
        "two": [{"id": 11}, {"id": 10}],
        "fine": [{"id": 11}, {"id": 12}],
        "first": {"id": 10},
        "last": {"id": 10},
        "tags": [{"label": "one"}, {"label": "one"}, {"label": "two"}, {"label": "three"}],
        "some": [{"label": "two"}, {"label": "one"}],
        "nothing": [{}, {}, {}],
    }
    assert list(first) == [field.name for field in fields]
    assert reader.document(2) == {
        "author": None, "all": [], "ranked": [], "two": [], "fine": [], "first": None, "last": None, "tags": [],
        "some": [], "nothing": [],
    }  # fmt: skip
    assert reader.document(3)["author"] == {"name": "Ann", "boss": None, "team": [{"id": 2}]}


def test_aggregates_by_foreign_key_and_through(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(SHOP)
    comments, tags = table("comments"), table("tags")
    shown = (Filter("spam", "eq", ("false",)),)
    fields: List[AnyField] = [
        AggregateField("count", "count", comments, ON_POST),
        AggregateField("fine", "count", comments, ON_POST, filters=shown),
        AggregateField("sum", "sum", comments, ON_POST, "price", "decimal"),
        AggregateField("ranks", "sum", comments, ON_POST, "rank", "long"),
        AggregateField("weights", "sum", comments, ON_POST, "weight", "double", filters=shown),
        AggregateField("broken", "sum", comments, ON_POST, "weight", "double"),
        AggregateField("avg", "avg", comments, ON_POST, "price"),
        AggregateField("avgrank", "avg", comments, ON_POST, "rank"),
        AggregateField("min", "min", comments, ON_POST, "at", "timestamp"),
        AggregateField("max", "max", comments, ON_POST, "body", "keyword"),
        AggregateField("mark", "max", comments, ON_POST, "mark", "uuid"),
        AggregateField("flag", "min", comments, ON_POST, "spam", "boolean"),
        AggregateField("ids", "ids", comments, ON_POST, value_type="integer"),
        AggregateField("tag_ids", "ids", tags, BY_TAG, value_type="integer"),
        AggregateField(
            "open_ids", "ids", tags, BY_TAG, value_type="integer", filters=(Filter("hidden", "eq", ("f",)),)
        ),
        AggregateField("tags", "count", tags, BY_TAG),
        AggregateField("label", "max", tags, BY_TAG, "label", "keyword"),
        AggregateField("total", "sum", tags, BY_TAG, "id", "long"),
    ]
    reader = Reader(connection, plan("posts", fields))
    assert reader.document(1) == {
        "count": 3, "fine": 2, "sum": "3.75", "ranks": 4, "weights": "0.30000000000000004", "broken": None,
        "avg": "1.875", "avgrank": "1.3333333333333333", "min": "2024-01-02T00:00:00+00:00", "max": "c",
        "mark": "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "flag": False, "ids": [10, 11, 12],
        "tag_ids": [1, 1, 2, 3], "open_ids": [1, 1, 2], "tags": 4, "label": "two", "total": 7,
    }  # fmt: skip
    assert reader.document(2) == {
        "count": 0, "fine": 0, "sum": None, "ranks": None, "weights": None, "broken": None, "avg": None,
        "avgrank": None, "min": None, "max": None, "mark": None, "flag": None, "ids": [], "tag_ids": [],
        "open_ids": [], "tags": 0, "label": None, "total": None,
    }  # fmt: skip


def test_neighbouring_aggregates_share_one_pass_and_say_the_same(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(SHOP + "CREATE INDEX ON comments (post_id)")
    made = [
        AggregateField(f"{op}_{column}", op, table("comments"), ON_POST, column, "keyword")
        for op, column in (
            [("count", None), ("ids", None), ("sum", "rank"), ("avg", "price"), ("sum", "weight")]
            + [(op, c) for op in ("min", "max") for c in ("rank", "body", "at", "price", "weight", "mark", "spam")]
        )
    ]
    together = Reader(connection, plan("posts", made))
    apart = Reader(connection, plan("posts", [f for m in made for f in (m, ConstantField("x" + m.name))]))
    for key in (1, 2, 3):
        expected = {name: value for name, value in apart.document(key).items() if name[0] != "x"}
        assert together.document(key) == expected
        assert list(expected) == [field.name for field in made]
    assert together.statements.lookup.count('"comments" AS') < apart.statements.lookup.count('"comments" AS')


def test_rows_without_any_key_are_ordered_by_what_they_show(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(
        """CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE c (t_id int, v text, n int);
        INSERT INTO t VALUES (1), (2); INSERT INTO c VALUES (1, 'b', 1), (1, 'a', 1), (1, 'c', 0)"""
    )
    link, v = ChildLink(("t_id",)), (scalar("v", "text"),)
    fields: List[AnyField] = [
        JoinField("all", "has_many", table("c"), link, v),
        JoinField("two", "has_many", table("c"), link, v, order_by=(Order("n"),), limit=2),
        JoinField("one", "has_one", table("c"), link, v, order_by=(Order("n", True),)),
        AggregateField("max", "max", table("c"), link, "v", "text"),
    ]
    reader = Reader(connection, plan("t", fields))
    assert reader.document(1) == {
        "all": [{"v": "a"}, {"v": "b"}, {"v": "c"}], "two": [{"v": "c"}, {"v": "a"}], "one": {"v": "a"}, "max": "c"
    }  # fmt: skip
    assert reader.document(2) == {"all": [], "two": [], "one": None, "max": None}


#: On citext: compared without regard to case.
CITEXT: List[Tuple[AnyFilter, str]] = [
    (Filter("c", "eq", ("x",)), "12"),
    (Filter("c", "in", ("X", "q")), "12"),
    (Filter("c", "like", ("X%",)), "12"),
    (RawFilter("c = 'X'"), "12"),
]

FILTERS: List[Tuple[AnyFilter, str]] = [
    (Filter("n", "eq", ("2",)), "2"),
    (Filter("n", "neq", ("2",)), "13"),
    (Filter("n", "lt", ("2",)), "1"),
    (Filter("n", "lte", ("2",)), "12"),
    (Filter("n", "gt", ("2",)), "3"),
    (Filter("n", "gte", ("2",)), "23"),
    (Filter("n", "in", ("1", "3")), "13"),
    (Filter("n", "not_in", ("1", "3")), "2"),
    (Filter("n", "between", ("2", "3")), "23"),
    (Filter("n", "is_null"), "4"),
    (Filter("n", "is_not_null"), "123"),
    (Filter("s", "like", ("A%",)), "1"),
    (Filter("s", "ilike", ("a%",)), "12"),
    (Filter("s", "eq", ("O'Hara\\",)), "3"),
    (Filter("e", "gt", ("low",)), "2"),
    (Filter("e", "like", ("h%",)), "2"),
    (Filter("b", "eq", ("ab",)), "1"),
    (Filter("d", "between", ("2024-01-01", "2024-12-31")), "1"),
    (Filter("a", "eq", ("{1,2}",)), "1"),
    (Filter("a", "in", ("{1,2}", "{3}")), "12"),
    (Filter("p", "eq", ("5",)), "1"),
    (RawFilter("root.n = 1 OR s = 'ab' -- a comment"), "12"),
    *CITEXT,
]


def test_filters_compare_by_the_columns_type(database: Database, connection: psycopg.Connection[Any]) -> None:
    folded = "text" if "citext" in make_types(database) else "citext"
    database.execute(
        f"""CREATE TYPE level AS ENUM ('low', 'high');
        CREATE TABLE t (id int PRIMARY KEY, n int, s text, e level, c {folded}, b char(5), d date, a int[], p positive);
        INSERT INTO t VALUES (1, 1, 'Ab', 'low', 'X', 'ab', '2024-05-05', '{{1,2}}', 5),
            (2, 2, 'ab', 'high', 'x', 'b', '2025-01-01', '{{3}}', 6);
        INSERT INTO t VALUES (3, 3, $$O'Hara\\$$, 'low', 'y'); INSERT INTO t VALUES (4)"""
    )
    found: List[Tuple[AnyFilter, str]] = []
    expected = [case for case in FILTERS if folded == "citext" or case not in CITEXT]
    for item, _ in expected:
        reader = Reader(connection, plan("t", [], filters=(item,)))
        ids = "".join(row[1] for row in reader.lookup(1, 2, 3, 4) if row[2] is not None)
        ranged = reader.run(reader.statements.range_first, 4, MEGABYTE, MEGABYTE)
        assert ids == "".join(sorted(row[0] for row in ranged))
        found.append((item, ids))
    assert found == expected


def test_raw_filters_of_relations_see_their_own_columns_first(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(SHOP)
    label = (scalar("label", "keyword"),)
    fields: List[AnyField] = [
        JoinField("late", "has_many", table("comments"), ON_POST, (scalar("id", "integer"),),
                  filters=(RawFilter("rank = 1 AND length(title) > 2"),)),
        # tag_id and place are the junction's, id and label those of tags.
        JoinField("tags", "many_to_many", table("tags"), BY_TAG, label, filters=(RawFilter("id < 3 AND place > 2"),)),
        AggregateField("n", "count", table("tags"), BY_TAG, filters=(RawFilter("id = tag_id AND label <> 'one'"),)),
    ]  # fmt: skip
    reader = Reader(connection, plan("posts", fields))
    assert reader.document(1) == {
        "late": [{"id": 10}, {"id": 12}], "tags": [{"label": "one"}, {"label": "two"}], "n": 2
    }  # fmt: skip


@pytest.mark.parametrize(
    "soft_delete, ids",
    [
        (SoftDelete("gone"), "13"),
        (SoftDelete("at"), "12"),
        (SoftDelete("at", (Filter("hold", "eq", ("false",)),)), "1234"),
        (SoftDelete("at", (Filter("hold", "is_null"),)), "124"),
    ],
)
def test_soft_deleted_rows_are_no_documents(
    database: Database, connection: psycopg.Connection[Any], soft_delete: SoftDelete, ids: str
) -> None:
    database.execute(
        """CREATE TABLE t (id int PRIMARY KEY, gone boolean, at timestamptz, hold boolean);
        INSERT INTO t VALUES (1, false, NULL, NULL), (2, true, NULL, false),
            (3, NULL, now(), NULL), (4, true, now(), true)"""
    )
    reader = Reader(connection, plan("t", [], soft_delete=soft_delete))
    assert "".join(row[1] for row in reader.lookup(1, 2, 3, 4) if row[2] is not None) == ids


#: (type, value in the table, text in the stream, id)
KEYS = [
    ("smallint", "7", "7", "7"),
    ("bigint", "-9007199254740993", "-9007199254740993", "-9007199254740993"),
    ("text", "'a:b%c ü'", "a:b%c ü", "a:b%c ü"),
    ("varchar(3)", "'abc'", "abc", "abc"),
    ("char(5)", "'ab'", "ab   ", "ab"),
    (
        "uuid",
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ),
    ("boolean", "true", "t", "true"),
    ("bytea", r"'\x00ff'", r"\x00ff", r"\x00ff"),
    ("date", "'2024-01-02'", "2024-01-02", "2024-01-02"),
    ("date", "'0044-03-15 BC'", "0044-03-15 BC", "-0043-03-15"),
    ("timestamp", "'2024-01-02 03:04:05.50'", "2024-01-02 03:04:05.5", "2024-01-02T03:04:05.5"),
    ("timestamptz", "'2024-01-02 03:04:05+02'", "2024-01-02 01:04:05+00", "2024-01-02T01:04:05+00:00"),
    ("timestamptz", "'infinity'", "infinity", "infinity"),
    ("time", "'03:04:05'", "03:04:05", "03:04:05"),
    ("timetz", "'03:04:05+02'", "03:04:05+02", "01:04:05"),
    ("numeric(10,2)", "1.50", "1.50", "1.5"),
    ("numeric", "100", "100", "100"),
    ("float8", "0.1", "0.1", "0.1"),
    ("interval", "'1 day'", "1 day", "1 day"),
    ("mood", "'so so'", "so so", "so so"),
    ("positive", "5", "5", "5"),
    ("inet", "'10.0.0.1'", "10.0.0.1", "10.0.0.1"),
    ("citext", "'Ab'", "Ab", "Ab"),
]


def test_ids_are_the_same_text_from_stream_and_table(database: Database, connection: psycopg.Connection[Any]) -> None:
    lacking = make_types(database)
    for number, (type_, stored, streamed, id_) in enumerate(key for key in KEYS if key[0] not in lacking):
        database.execute(f"CREATE TABLE t{number} (k {type_} PRIMARY KEY); INSERT INTO t{number} VALUES ({stored})")
        reader = Reader(connection, plan(f"t{number}", []))
        assert reader.lookup(streamed) == [(1, id_, 2, "{}")]
        ((shown, place, walked, key),) = reader.run(reader.statements.chunk_first, 10)
        assert (shown, place, walked) == (True, 1, id_)
        assert reader.run(reader.statements.chunk_after, key, 10) == []
        assert reader.lookup(key) == [(1, id_, 2, "{}")]
        assert reader.run(reader.statements.range_first, key, MEGABYTE, MEGABYTE) == [(id_, 2, "{}", None)]
        # The row of a deleted key is looked up all the same, and gives the id to delete.
        database.execute(f"DELETE FROM t{number}")
        assert reader.lookup(streamed) == [(1, id_, None, None)]


@pytest.mark.parametrize("type_, old, new", [("citext", "ABC", "abc"), ("float8", "-0", "0")])
def test_a_row_found_by_a_loose_equality_is_not_the_document_looked_for(
    database: Database, connection: psycopg.Connection[Any], type_: str, old: str, new: str
) -> None:
    make_types(database, type_)
    database.execute(f"CREATE TABLE t (k {type_} PRIMARY KEY); INSERT INTO t VALUES ('{new}')")
    reader = Reader(connection, plan("t", []))
    assert reader.lookup(old, new) == [(1, old, None, None), (2, new, 2, "{}")]


def test_nondeterministic_collations_do_not_confuse_ids(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    try:
        database.execute("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this Postgres has no ICU")
    database.execute("CREATE TABLE t (k text COLLATE loose PRIMARY KEY); INSERT INTO t VALUES ('abc')")
    reader = Reader(connection, plan("t", []))
    assert reader.lookup("ABC", "abc") == [(1, "ABC", None, None), (2, "abc", 2, "{}")]


def test_composite_keys_are_joined_and_walked_in_the_order_of_their_index(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    folded = "text" if "citext" in make_types(database) else "citext"
    database.execute(
        f"""CREATE TABLE t (a text, b int, c {folded}, PRIMARY KEY (b, c, a));
        INSERT INTO t SELECT 'x:' || n % 3 || '%', n % 7, 'K' || n FROM generate_series(1, 50) n"""
    )
    reader = Reader(connection, plan("t", [scalar("b", "integer")], primary_key=("a", "b", "c")))
    assert reader.bound.lookup == ("a", "b", "c") and reader.bound.walk == ("b", "c", "a")
    assert reader.lookup(("x:1%", 1, "K1"), ("x:1%", 2, "K1")) == [
        (1, "x%3A1%25:1:K1", 7, '{"b":1}'),
        (2, "x%3A1%25:2:K1", None, None),
    ]
    seen: List[str] = []
    rows = reader.run(reader.statements.chunk_first, 9)
    previous: Tuple[Any, ...] = ()
    while rows:
        ids = [row[2] for row in rows]
        key = rows[-1][3:]
        statement = reader.statements.range_after if previous else reader.statements.range_first
        assert sorted(row[0] for row in reader.run(statement, *previous, *key, MEGABYTE, MEGABYTE)) == sorted(ids)
        seen += ids
        previous = key
        rows = reader.run(reader.statements.chunk_after, *key, 9)
    assert len(seen) == len(set(seen)) == 50


def test_a_walk_gets_on_where_no_row_is_a_document(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 25)")
    reader = Reader(connection, plan("t", [], filters=(Filter("id", "between", ("12", "13")),)))
    walk = reader.statements
    assert reader.run(walk.chunk_first, 10) == [(False, 10, "10", "10")]
    assert reader.run(walk.chunk_after, 10, 10) == [
        (True, 2, "12", "12"), (True, 3, "13", "13"), (False, 10, "20", "20")
    ]  # fmt: skip
    assert reader.run(walk.chunk_after, 20, 10) == [(False, 5, "25", "25")]
    assert reader.run(walk.chunk_after, 25, 10) == []


def test_doc_id_takes_the_place_of_the_key(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TABLE t (id int PRIMARY KEY, slug text NOT NULL UNIQUE, n int UNIQUE);
        INSERT INTO t VALUES (1, 'b', 1), (2, 'a', 2)"""
    )
    reader = Reader(connection, plan("t", [scalar("id", "integer")], doc_id=("slug",)))
    assert reader.lookup("a", "c") == [(1, "a", 8, '{"id":2}'), (2, "c", None, None)]
    assert [row[2:] for row in reader.run(reader.statements.chunk_first, 5)] == [("a", "a"), ("b", "b")]
    for name in ("n", "id_"):
        with pytest.raises(ConfigError, match="doc_id"):
            Reader(connection, plan("t", [], doc_id=(name,)))


def test_a_statement_returns_no_more_bytes_than_asked_for(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(
        """CREATE TABLE t (id int PRIMARY KEY, v text);
        INSERT INTO t SELECT n, repeat('x', CASE WHEN n = 3 THEN 5000 ELSE 92 END) FROM generate_series(1, 8) n"""
    )
    reader = Reader(connection, plan("t", [scalar("v", "text")]))  # 100 bytes each, 5008 for the third

    def what(rows: List[Row]) -> List[Tuple[str, Optional[int], bool]]:
        return [(id_, size, document is not None) for id_, size, document in rows]

    rows = what([row[1:4] for row in reader.lookup(1, 2, 3, 99, 4, 5, 6, batch=350, most=4000)])
    assert rows == [
        ("1", 100, True), ("2", 100, True), ("3", 5008, False), ("99", None, False), ("4", 100, True),
        ("5", 100, False), ("6", 100, False),
    ]  # fmt: skip
    # However small the bound, the first document comes.
    rows = what([row[1:4] for row in reader.lookup(3, 1, 2, batch=1, most=4000)])
    assert rows == [("3", 5008, False), ("1", 100, True), ("2", 100, False)]
    ranged = reader.run(reader.statements.range_after, 1, 6, 250, 4000)
    assert what([row[:3] for row in ranged]) == [
        ("2", 100, True), ("3", 5008, False), ("4", 100, True), ("5", 100, False), ("6", 100, False)
    ]  # fmt: skip
    # Keys only of what is to be built next: not of the one that is too large.
    assert [row[3] for row in ranged] == [None, None, None, "5", "6"]


def test_batches_stream_through_the_server_without_temporary_files(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(
        """CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE c (id int PRIMARY KEY, t_id int, v text);
        INSERT INTO t SELECT n, repeat('x', 20000) FROM generate_series(1, 2000) n;
        INSERT INTO c SELECT n, n % 2000 + 1, repeat('y', 1000) FROM generate_series(1, 4000) n;
        CREATE INDEX ON c (t_id)"""
    )
    field = JoinField("c", "has_many", table("c"), ChildLink(("t_id",)), (scalar("v", "text"),))
    reader = Reader(connection, plan("t", [scalar("v", "text"), field]))
    keys = literal(array_literal([str(n) for n in range(1, 2001)]))
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
    for statement, parameters in (
        (reader.statements.lookup, [keys, "'33554432'", "'20971520'"]),
        (reader.statements.range_first, ["'2000'", "'33554432'", "'20971520'"]),
    ):
        for place, parameter in enumerate(parameters, 1):
            statement = statement.replace(f"${place}::", f"{parameter}::")
        ((found,),) = connection.execute(explain + statement).fetchall()
        assert found[0]["Plan"]["Temp Written Blocks"] == 0
        assert found[0]["Plan"]["Actual Rows"] == 2000


def plan_of(reader: Reader, statement: str, *parameters: str) -> str:
    """The generic plan of a statement, as text."""
    with psycopg.RawCursor(reader.connection) as cursor:
        cursor.execute("PREPARE p AS " + statement)
        rows = cursor.execute("EXPLAIN EXECUTE p(" + ", ".join(literal(p) for p in parameters) + ")").fetchall()
        cursor.execute("DEALLOCATE p")
    return "\n".join(row[0] for row in rows)


def test_generic_plans_find_every_row_by_index_even_when_made_for_empty_tables(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    database.execute(SHOP.split("INSERT", 1)[0])
    database.execute(
        """CREATE INDEX ON comments (post_id); CREATE INDEX ON replies (comment_id);
        CREATE INDEX ON post_tags (post_id); ANALYZE"""
    )
    fields: List[AnyField] = [
        JoinField("author", "belongs_to", table("people"), TargetLink(("author_id",)), (scalar("name", "keyword"),)),
        JoinField("c", "has_many", table("comments"), ON_POST,
                  (JoinField("r", "has_many", table("replies"), ChildLink(("comment_id",)), ()),)),
        JoinField("tags", "many_to_many", table("tags"), BY_TAG, (scalar("label", "keyword"),)),
        AggregateField("n", "count", table("comments"), ON_POST),
    ]  # fmt: skip
    reader = Reader(connection, plan("posts", fields))
    statements = reader.statements
    for statement, parameters in (
        (statements.lookup, ("{1}", "1", "1")),
        (statements.range_first, ("1", "1", "1")),
        (statements.range_after, ("1", "2", "1", "1")),
        (statements.chunk_first, ("10",)),
        (statements.chunk_after, ("1", "10")),
    ):
        text = plan_of(reader, statement, *parameters)
        assert "Seq Scan" not in text and "Sort Key: root" not in text, text


def test_partitioned_roots_and_children_are_read_whole(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);
        CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
        CREATE TABLE t21 PARTITION OF t2 DEFAULT;
        INSERT INTO t VALUES (1), (11), (12); ANALYZE t1; ANALYZE t21"""
    )
    reader = Reader(connection, plan("t", [AggregateField("n", "count", table("t"), ChildLink(("id",)))]))
    assert {leaf.table.name for leaf in reader.bound.root.leaves} == {"t1", "t21"}
    assert reader.lookup(11) == [(1, "11", 7, '{"n":1}')]
    assert [row[2] for row in reader.run(reader.statements.chunk_after, 1, 5)] == ["11", "12"]
    assert reader.run(reader.statements.estimate) == [(3,)]


def test_estimate_is_unknown_before_the_first_analyze(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    reader = Reader(connection, plan("t", []))
    assert reader.run(reader.statements.estimate) == [(None,)]
    database.execute("INSERT INTO t SELECT generate_series(1, 1000); ANALYZE t")
    assert reader.run(reader.statements.estimate) == [(1000,)]


def test_awkward_names_and_other_schemas(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE SCHEMA "Odd.One";
        CREATE TABLE "Odd.One"."select" ("Id" int PRIMARY KEY, "it's ""x"" y" text, root int);
        CREATE TABLE "Odd.One".t1 (root int PRIMARY KEY, t1 int, "select" int);
        INSERT INTO "Odd.One"."select" VALUES (1, 'v', 1); INSERT INTO "Odd.One".t1 VALUES (1, 2, 1)"""
    )
    child = Table("Odd.One", "t1")
    fields = (
        scalar("f\"\\'ü", "text", 'it\'s "x" y'),
        JoinField("t", "has_many", child, ChildLink(("select",)), (scalar("t1", "integer"), scalar("root", "integer"))),
        JoinField("b", "belongs_to", child, TargetLink(("root",)), (scalar("t1", "integer"),)),
    )
    reader = Reader(connection, IndexPlan("i", Table("Odd.One", "select"), fields))
    assert reader.document(1) == {"f\"\\'ü": "v", "t": [{"t1": 2, "root": 1}], "b": {"t1": 2}}


def test_an_object_may_have_any_number_of_fields(database: Database, connection: psycopg.Connection[Any]) -> None:
    columns = ", ".join(f"c{n} int DEFAULT {n}" for n in range(600))
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns}); INSERT INTO t (id) VALUES (1)")
    reader = Reader(connection, plan("t", [scalar(f"c{n}", "integer") for n in range(600)]))
    assert reader.document(1) == {f"c{n}": n for n in range(600)}


def test_a_search_path_with_traps_changes_nothing(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute(
        """CREATE TABLE t (id int PRIMARY KEY, s varchar(9), d date); INSERT INTO t VALUES (1, 'a', '2024-01-02');
        CREATE SCHEMA trap;
        CREATE FUNCTION trap.no(varchar, varchar) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
        CREATE OPERATOR trap.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = trap.no);
        CREATE FUNCTION trap.to_json(anyelement) RETURNS json LANGUAGE sql AS $$SELECT '"trap"'::json$$"""
    )
    connection.execute("SET search_path = trap, pg_catalog")
    index = plan("t", [scalar("s", "keyword"), scalar("d", "date")], filters=(Filter("s", "eq", ("a",)),))
    assert Reader(connection, index).text(1) == '{"s":"a","d":"2024-01-02"}'


def test_documents_map_to_one_dictionary_per_row(database: Database, connection: psycopg.Connection[Any]) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 500)")
    reader = Reader(connection, plan("t", [scalar("id", "integer")]))
    keys = [(n * 7919) % 600 + 1 for n in range(600)]
    rows = reader.lookup(*keys)
    assert [row[0] for row in rows] == list(range(1, 601))
    assert [row[1] for row in rows] == [str(key) for key in keys]
    found: Dict[str, Any] = {row[1]: row[3] and json.loads(row[3]) for row in rows}
    assert found == {str(key): ({"id": key} if key <= 500 else None) for key in keys}

"""Databases, schema files over them and changes, drawn by Hypothesis: all that the schema language can say.

A :class:`World` is tables with rows, schema files, and transactions to come.  Everything in it is plain values and SQL
text, so that a failure prints what it takes to see it again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from hypothesis import strategies as st

from tests.test_type_table import TEXTS, VALUES

Node = Dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]
Text = Optional[str]
Names = Tuple[str, ...]

#: Longer values only cost time here; the type table has them.
LONGEST_VALUE = 300

# -- column types ------------------------------------------------------------------------------------------------------


class Flavour(NamedTuple):
    """A column type with values.  ``sql`` declares it; ``kinds`` read it; ``custom`` is what a custom field calls it.

    ``key``: fit for keys, whose values are ``pool`` then.  ``sums``: sums of the values are exact and in range, in any
    order.  ``alike``: other types whose columns may hold keys of this one.
    """

    sql: str
    pool: Tuple[str, ...]
    kinds: Tuple[str, ...] = ()
    custom: str = ""
    key: bool = False
    ordered: bool = True
    texts: bool = False
    sums: bool = False
    alike: Tuple[str, ...] = ()

    @property
    def array(self) -> bool:
        return self.sql.endswith("[]")


_TEXT_KINDS = ("text", "identifier", "keyword", "enum")
_LABELS = ("z", "a:b", "100%", "ü", "a b", "", 'q"', "back\\slash", "c'est")
#: Long and hard to compress, so that it is stored out of line and left out of the stream when it does not change.
_OUT_OF_LINE = "".join(hashlib.md5(b"%d" % n).hexdigest() for n in range(200))
_WORDS = tuple(text for text in TEXTS.values() if len(text) < 40 and "\ufffe" not in text) + (
    "ÀÉ",
    "àé",
    "_",
    "%",
    "a%b",
)


def _values(family: str, *without: str) -> Tuple[str, ...]:
    return tuple(v for n, v in VALUES[family].items() if len(v) < LONGEST_VALUE and n not in without)


_ENDLESS = ("infinity", "minus infinity", "NaN")
#: Quarters, far from the ends: floats of them add up exactly.
_QUARTERS = ("0", "0.25", "-1.5", "7", "100.75", "-0")

KEYS: Tuple[Flavour, ...] = (
    Flavour("integer", ("1", "2", "3", "-4", "2147483647"), ("integer",), key=True, sums=True,
            alike=("bigint", "numeric")),
    Flavour("bigint", ("1", "2", "9007199254740993", "-9223372036854775808"), ("long",), key=True, sums=True,
            alike=("integer", "numeric(30,2)")),
    Flavour("smallint", ("0", "1", "-32768", "32767"), ("short",), key=True, sums=True, alike=("integer",)),
    Flavour("text", ("a", "A", "a:b", "50%", " x ", "é", "\"q'\\", "e\u0301", "line\nbreak", "\U0001f600"), _TEXT_KINDS,
            key=True, texts=True, alike=("varchar(20)", "citext", "kinds.code")),
    Flavour("varchar(20)", ("v", "V", "v ", "%25", "::"), _TEXT_KINDS, key=True, texts=True, alike=("text",)),
    Flavour("character(4)", ("a", "b ", "ü", "a:"), _TEXT_KINDS, key=True, texts=True, alike=("text",)),
    Flavour("citext", ("Ab", "aB", "c", "É", "é"), _TEXT_KINDS, key=True, texts=True, alike=("text",)),
    Flavour("name", ("n", "N", "n:%"), _TEXT_KINDS, key=True, texts=True, alike=("text",)),
    Flavour('"char"', ("x", ":", "%"), _TEXT_KINDS, key=True, texts=True),
    Flavour("uuid", _values("uuid"), ("uuid",), key=True),
    Flavour("boolean", ("true", "false"), ("boolean",), key=True),
    Flavour("bytea", ("\\x00", "\\xff3a", "\\x25"), ("binary",), key=True),
    Flavour("date", _values("date", *_ENDLESS), ("date",), key=True, alike=("timestamp",)),
    Flavour("time", ("00:00", "03:04:05.5", "24:00:00"), ("timestamp",), key=True),
    Flavour("timetz", ("01:00+05:30", "23:59:59.5-12", "00:00+00"), ("timestamp",), key=True),
    Flavour("timestamp", _values("timestamp", *_ENDLESS), ("timestamp",), key=True),
    Flavour("timestamptz", _values("timestamptz", *_ENDLESS), ("timestamp",), key=True),
    Flavour("numeric", ("1", "1.00", "2.50", "1e3", "-0.001", "12345678901234567890123456789.5"), ("decimal",),
            key=True, sums=True, alike=("bigint",)),
    Flavour("numeric(12,3)", ("1", "2.5", "-7.125"), ("decimal",), key=True, sums=True, alike=("numeric",)),
    Flavour("money", ("0", "12.34", "-5"), ("decimal",), key=True, sums=True),
    Flavour("double precision", ("0", "0.1", "1e22", "5e-324", "NaN", "Infinity"), ("double",), key=True),
    Flavour("real", ("0", "0.1", "1e-45"), ("float",), key=True),
    Flavour("kinds.label", _LABELS, _TEXT_KINDS, key=True, texts=True, custom="label"),
    Flavour("kinds.code", ("C-1", "C-2", "c-1"), _TEXT_KINDS, key=True, texts=True, alike=("text",)),
    Flavour("kinds.count", ("1", "2", "3"), ("long",), key=True, sums=True, alike=("bigint",)),
)  # fmt: skip

OTHERS: Tuple[Flavour, ...] = (
    Flavour("text", _WORDS, _TEXT_KINDS, texts=True),
    Flavour('text COLLATE "C"', _WORDS, _TEXT_KINDS, texts=True),
    Flavour("double precision", _QUARTERS + ("NaN", "Infinity"), ("double",), sums=True),
    Flavour("real", _QUARTERS + ("-Infinity",), ("float",), sums=True),
    Flavour("double precision", _values("float8"), ("double",)),
    Flavour("real", _values("float4"), ("float",)),
    Flavour("numeric", _values("numeric"), ("decimal",), sums=True),
    Flavour("money", _values("money"), ("decimal",)),
    Flavour("bigint", _values("int8"), ("long",), sums=True),
    Flavour("integer", _values("int4"), ("integer",), sums=True),
    Flavour("date", _values("date"), ("date",)),
    Flavour("timestamp", _values("timestamp"), ("timestamp",)),
    Flavour("timestamptz", _values("timestamptz"), ("timestamp",)),
    Flavour("timetz", _values("timetz"), ("timestamp",)),
    Flavour("bytea", _values("bytea"), ("binary",)),
    Flavour("json", _values("json"), ("json", "map"), ordered=False),
    Flavour("jsonb", _values("jsonb"), ("json", "map"), ordered=False),
    Flavour("inet", ("10.0.0.1", "10.0.0.1/8", "2001:db8::1"), custom="inet", ordered=False),
    Flavour("interval", ("1 year 2 mons -3 days 04:05:06.7", "0"), custom="interval", ordered=False),
    Flavour("xml", ("<a b=\"c\">\n</a>",), custom="xml", ordered=False),
    Flavour("int4range", ("[1,5)", "empty"), custom="int4range", ordered=False),
    Flavour("point", ("(1,2)",), custom="point", ordered=False),
    Flavour("bit varying(8)", ("1010", ""), custom="bit varying", ordered=False),
    Flavour("kinds.prices", ("{1.50,NULL}", "{}", "{NaN}"), ("decimal",), ordered=False),
    *(
        Flavour(f"{sql}[]", pool, kinds, ordered=False)
        for sql, kinds, pool in (
            ("text", _TEXT_KINDS, ("{}", "{a,NULL}")),
            ("text", _TEXT_KINDS, ('{{"x,y","\\"q\\""},{"back\\\\slash","é"}}', '[5:6]={a,"new\nline"}')),
            ("varchar(9)", _TEXT_KINDS, ('{"a b"}',)),
            ("character(3)", _TEXT_KINDS, ("{a,ab}",)),
            ("citext", _TEXT_KINDS, ("{Ab,NULL}",)),
            ("kinds.label", _TEXT_KINDS, ('{z,"a:b",NULL}', "{{ü},{z}}")),
            ("kinds.code", _TEXT_KINDS, ("{C-1,C-2}",)),
            ("integer", ("integer",), ("{1,NULL,-3}", "{{{1},{2}},{{3},{4}}}")),
            ("bigint", ("long",), ("{9007199254740993}",)),
            ("boolean", ("boolean",), ("{t,f,NULL}",)),
            ("double precision", ("double",), ("{NaN,1e22,-0,NULL}", "{{Infinity},{0.1}}")),
            ("numeric", ("decimal",), ("{1.50,NaN,1e30}",)),
            ("money", ("decimal",), ("{1.50,NULL}",)),
            ("date", ("date",), ('{2024-01-02,"0044-03-15 BC",infinity}', "{{10000-01-01},{NULL}}")),
            ("timestamp", ("timestamp",), ('{"2024-01-02 03:04:05.5",NULL}',)),
            ("timestamptz", ("timestamp",), ('{{"2024-01-02 03:04:05+02","0001-01-01 00:00+00 BC"}}',)),
            ("timetz", ("timestamp",), ("{01:00+05:30}",)),
            ("bytea", ("binary",), ('{"\\\\x00ff",NULL}', '{{"\\\\x"},{NULL}}')),
            ("uuid", ("uuid",), ("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",)),
            ("jsonb", ("json",), ('{"{\\"a\\": [1, null]}",NULL}',)),
            ("json", ("json",), ('{"{\\"a\\":1,\\"a\\":2}"}',)),
        )
    ),
)  # fmt: skip


class Palette(NamedTuple):
    """What worlds are made of; ``places``: whether there are geo fields."""

    keys: Sequence[Flavour]
    others: Sequence[Flavour]
    places: bool = True


EVERYTHING = Palette(KEYS, OTHERS + KEYS)

_MOMENTS = ("2024-01-02 03:04:05.5", "1999-12-31 23:59:59", "2024-02-29 00:00:00")
_DAYS = ("2024-01-02", "1999-12-31", "2024-02-29", "2031-07-01")

#: What every sink takes, whatever its values: no document of it is ever refused for what it says.
TAKEN = Palette(
    (
        *(flavour for flavour in KEYS if flavour.sql in ("integer", "bigint", "smallint", "text", "varchar(20)")),
        *(flavour for flavour in KEYS if flavour.sql in ("uuid", "citext", "numeric(12,3)", "kinds.code")),
        Flavour("kinds.label", tuple(filter(None, _LABELS)), _TEXT_KINDS, key=True, texts=True, custom="label"),
        Flavour("date", _DAYS, ("date",), key=True),
        Flavour("timestamptz", _MOMENTS, ("timestamp",), key=True),
    ),
    (
        Flavour("text", ("a", "B", "zz", "é☃", "", " x", '"', "%_", "\\", _OUT_OF_LINE), _TEXT_KINDS, texts=True),
        Flavour("integer", ("0", "1", "-7", "40"), ("integer",), sums=True),
        Flavour("bigint", ("1", "2", "9007199254740993"), ("long",), sums=True),
        Flavour("numeric(12,3)", ("1", "2.5", "-7.125"), ("decimal",), sums=True),
        Flavour("double precision", _QUARTERS, ("double",), sums=True),
        Flavour("boolean", ("true", "false"), ("boolean",)),
        Flavour("date", _DAYS, ("date",)),
        Flavour("timestamp", _MOMENTS, ("timestamp",)),
        Flavour("bytea", ("\\x00", "\\xff3a"), ("binary",)),
        Flavour("jsonb", ('{"a": [1, null]}', "[]", "7", '"t"'), ("json",), ordered=False),
        Flavour("integer[]", ("{1,NULL,-3}", "{}"), ("integer",), ordered=False),
        Flavour("text[]", ("{}", "{a,NULL}"), _TEXT_KINDS, ordered=False),
    ),
    places=False,
)

#: Made once in a database; flavours name them.
TYPES = """
CREATE EXTENSION IF NOT EXISTS citext;
CREATE SCHEMA kinds;
CREATE TYPE kinds.label AS ENUM ({labels});
CREATE DOMAIN kinds.code AS varchar(10) CHECK (VALUE ~* '^C-');
CREATE DOMAIN kinds.inner_count AS bigint;
CREATE DOMAIN kinds.count AS kinds.inner_count CHECK (VALUE > 0);
CREATE DOMAIN kinds.prices AS numeric[];
""".format(labels=", ".join("'" + label.replace("'", "''") + "'" for label in _LABELS))

_TABLE_NAMES = (
    "t",
    "T",
    "sel;ect",
    "dot.ted",
    'quo"te',
    "größe",
    "with space",
    "n" * 63,
    "back\\slash",
    "per%cent",
    "$1",
    "order",
)
_COLUMN_NAMES = (
    "a",
    "A",
    "b;",
    "c.d",
    'e"f',
    "ß",
    "user",
    "root",
    "k" * 63,
    "%s",
    "x\ny",
    "t1",
    "document",
    "id",
    "key1",
    "value",
)


def namespaces(place: int) -> Tuple[str, str]:
    """The two database schemas that hold the tables of the world at ``place``."""
    return f"left {place}", f"Right.Side{place}"


def quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


# -- tables ------------------------------------------------------------------------------------------------------------


class Pointer(NamedTuple):
    """``columns`` hold values of the columns ``target_columns`` of the table of that number."""

    columns: Names
    target: int
    target_columns: Names


class Table(NamedTuple):
    """``unique``: a column that is UNIQUE NOT NULL beside the key; ``partitions``: how the table is cut, if at all;
    ``beside``: the other database schema, where an inner partition's leaf lies; ``generated``: columns that copy
    others, which the stream never has."""

    namespace: str
    beside: str
    name: str
    columns: Dict[str, Flavour]
    key: Names
    unique: Optional[str]
    pointers: Tuple[Pointer, ...]
    partitions: str
    generated: Dict[str, str]
    rows: Tuple[Tuple[Text, ...], ...]

    @property
    def sql(self) -> str:
        return quoted(self.namespace, self.name)

    def ddl(self) -> List[str]:
        required = {*self.key, self.unique}
        more = {name: " NOT NULL" for name in required}
        more.update((n, f" GENERATED ALWAYS AS ({quoted(source)}) STORED") for n, source in self.generated.items())
        parts = [f"{quoted(name)} {flavour.sql}{more.get(name, '')}" for name, flavour in self.columns.items()]
        parts.append(f"PRIMARY KEY ({', '.join(map(quoted, self.key))})")
        if self.unique is not None:
            parts.append(f"UNIQUE ({quoted(self.unique)})")
        first = quoted(self.key[0])
        made = [f"CREATE TABLE {self.sql} ({', '.join(parts)})"]
        if self.partitions == "hash":
            made[0] += f" PARTITION BY HASH ({first})"
            for part in range(2):
                leaf = quoted(self.namespace, f"{self.name[:20]} leaf {part}")
                made.append(
                    f"CREATE TABLE {leaf} PARTITION OF {self.sql} FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
                )
        elif self.partitions == "default":
            made[0] += f" PARTITION BY LIST ({first})"
            # Two levels, the inner one in the other database schema.
            inner = quoted(self.namespace, f"{self.name[:20]} inner")
            made.append(f"CREATE TABLE {inner} PARTITION OF {self.sql} DEFAULT PARTITION BY LIST ({first})")
            leaf = quoted(self.beside, f"{self.name[:20]} leaf of {self.namespace}")
            made.append(f"CREATE TABLE {leaf} PARTITION OF {inner} DEFAULT")
        return made

    @property
    def parts(self) -> List[Tuple[str, str]]:
        """The partitions right below the table, each with its bound."""
        if self.partitions == "hash":
            bounds = (f"FOR VALUES WITH (MODULUS 2, REMAINDER {part})" for part in range(2))
            return [(quoted(self.namespace, f"{self.name[:20]} leaf {n}"), bound) for n, bound in enumerate(bounds)]
        return [(quoted(self.namespace, f"{self.name[:20]} inner"), "DEFAULT")] if self.partitions else []

    def insert(self, row: Sequence[Text]) -> Tuple[str, List[Text]]:
        given = {name: value for name, value in zip(self.columns, row) if name not in self.generated}
        values = [f"${place}::text::{_cast(self.columns[name])}" for place, name in enumerate(given, 1)]
        names = ", ".join(map(quoted, given))
        statement = f"INSERT INTO {self.sql} ({names}) VALUES ({', '.join(values)}) ON CONFLICT DO NOTHING"
        return statement, list(given.values())


def _cast(flavour: Flavour) -> str:
    return flavour.sql.replace(' COLLATE "C"', "")


Statement = Tuple[str, List[Text]]


class World(NamedTuple):
    """``changes``: transactions, each a list of statements with their parameters.

    Worlds at different places share nothing but the types, and so can be in one database and one daemon.
    """

    place: int
    tables: Tuple[Table, ...]
    schemas: Tuple[Node, ...]
    changes: Tuple[Tuple[Statement, ...], ...]

    def __repr__(self) -> str:
        return f"<world {self.place}: {len(self.tables)} tables, {len(self.schemas)} schemas>"

    def script(self) -> str:
        """All of it as text that psql and a schema file would take."""
        lines = [TYPES.strip(), *(f"CREATE SCHEMA {quoted(name)};" for name in namespaces(self.place))]
        for table in self.tables:
            lines += [f"{statement};" for statement in table.ddl()]
            lines += [inlined(*table.insert(row)) for row in table.rows]
        lines += [json.dumps(schema, ensure_ascii=False) for schema in self.schemas]
        for transaction in self.changes:
            lines += ["BEGIN;", *(inlined(*statement) for statement in transaction), "COMMIT;"]
        return "\n".join(lines)


def inlined(statement: str, parameters: Sequence[Text]) -> str:
    for place, value in reversed(list(enumerate(parameters, 1))):
        text = "NULL" if value is None else "'" + value.replace("'", "''") + "'"
        statement = statement.replace(f"${place}::text", f"{text}::text")
    return statement + ";"


class Shape(NamedTuple):
    """A table before its rows: keys first, because pointers and rows of other tables take them."""

    namespace: str
    name: str
    key: Dict[str, Flavour]
    keys: List[Tuple[str, ...]]


@st.composite
def worlds(draw: Draw, place: int = 0, most_tables: int = 4, most_rows: int = 6) -> World:
    """A whole world.  Smaller ones come first, so that a failure shrinks to few tables and rows."""
    tables, shapes = draw_tables(draw, place, EVERYTHING, most_tables, most_rows)
    author = Author(draw, tables)
    schemas = tuple(author.schema() for _ in range(draw(st.integers(1, 3))))
    changes = tuple(tuple(_statements(draw, tables, shapes)) for _ in range(draw(st.integers(0, 5))))
    return World(place, tables, schemas, changes)


def draw_tables(
    draw: Draw, place: int, palette: Palette, most_tables: int = 4, most_rows: int = 6
) -> Tuple[Tuple[Table, ...], List[Shape]]:
    """Tables with rows, and what :func:`draw_statement` must know of them."""
    count = draw(st.integers(1, most_tables))
    names = st.tuples(st.sampled_from(namespaces(place)), st.sampled_from(_TABLE_NAMES))
    places = draw(st.lists(names, min_size=count, max_size=count, unique=True))
    shapes: List[Shape] = []
    for namespace, name in places:
        parts = draw(st.lists(st.sampled_from(_COLUMN_NAMES), min_size=1, max_size=2, unique=True))
        key = {column: draw(st.sampled_from(palette.keys)) for column in parts}
        pools = [st.sampled_from(flavour.pool) for flavour in key.values()]
        # Few enough for every pool, two of which have but two values.
        least = draw(st.sampled_from([0, 2, 2])) * len(parts)
        keys = draw(st.lists(st.tuples(*pools), min_size=least, max_size=most_rows, unique=True))
        shapes.append(Shape(namespace, name, key, keys))
    return tuple(_table(draw, place, number, shapes, palette) for number in range(count)), shapes


def _table(draw: Draw, place: int, number: int, shapes: Sequence[Shape], palette: Palette) -> Table:
    shape = shapes[number]
    columns = dict(shape.key)
    free = [name for name in _COLUMN_NAMES if name not in columns]
    partitions = draw(st.sampled_from(["", "", "", "hash", "default"]))
    if any(flavour.sql == "money" for flavour in shape.key.values()):
        partitions = ""  # Neither hashed nor, for want of an immutable cast, listed.
    unique: Optional[str] = None
    if not partitions and draw(st.booleans()):
        unique = free.pop(0)
        columns[unique] = draw(st.sampled_from(palette.keys))
    pointers: List[Pointer] = []
    generated: Dict[str, str] = {}
    targets = st.lists(st.integers(0, len(shapes) - 1), min_size=draw(st.integers(0, 1)), max_size=2)
    for target in draw(targets):
        names = []
        for flavour in shapes[target].key.values():
            # A part of the own key may be the pointer's, as in a junction.
            own = [n for n, f in shape.key.items() if f.sql == flavour.sql and n not in names]
            if own and draw(st.booleans()):
                names.append(own[0])
                continue
            name = free.pop(0)
            columns[name] = _alike(draw, flavour, palette)
            names.append(name)
        pointers.append(Pointer(tuple(names), target, tuple(shapes[target].key)))
    if draw(st.integers(0, 3)) == 3:
        # No pointer: nobody can say where the copy in a row that is gone pointed.
        copy, source = free.pop(0), draw(st.sampled_from(list(columns)))
        columns[copy], generated[copy] = columns[source], source
    for _ in range(draw(st.integers(0, 4))):
        columns[free.pop(draw(st.integers(0, min(3, len(free) - 1))))] = draw(st.sampled_from(palette.others))
    rows = tuple(
        tuple(_row(draw, shapes, key, columns, unique, pointers).values()) for key in shape.keys
    )  # fmt: skip
    (beside,) = [name for name in namespaces(place) if name != shape.namespace]
    key, pointing = tuple(shape.key), tuple(pointers)
    return Table(shape.namespace, beside, shape.name, columns, key, unique, pointing, partitions, generated, rows)


def _alike(draw: Draw, flavour: Flavour, palette: Palette) -> Flavour:
    """The type of a column that holds keys: mostly the key's own."""
    sql = draw(st.sampled_from((flavour.sql, flavour.sql, *flavour.alike)))
    other = next((f for f in palette.keys if f.sql == sql), None)
    return flavour if other is None or sql == flavour.sql else other


def _row(
    draw: Draw, shapes: Sequence[Shape], key: Sequence[Text], columns: Dict[str, Flavour], unique: Optional[str],
    pointers: Sequence[Pointer],
) -> Dict[str, Text]:  # fmt: skip
    pointing = {name for pointer in pointers for name in pointer.columns}
    row: Dict[str, Text] = dict(zip(columns, key))
    for name, flavour in columns.items():
        if name not in row and name not in pointing:
            values: st.SearchStrategy[Any] = st.sampled_from(flavour.pool)
            row[name] = draw(values if name == unique else st.none() | values)
    for pointer in pointers:
        row.update({n: v for n, v in _pointed(draw, shapes, pointer).items() if n not in row or row[n] is None})
    return {name: row[name] for name in columns}


def _pointed(draw: Draw, shapes: Sequence[Shape], pointer: Pointer) -> Dict[str, Text]:
    """Mostly a key that is there, sometimes one that is not, or none."""
    target = shapes[pointer.target]
    pools = st.tuples(*(st.none() | st.sampled_from(flavour.pool) for flavour in target.key.values()))
    there = st.sampled_from(target.keys) if target.keys else pools
    return dict(zip(pointer.columns, draw(there | there | pools)))


# -- changes -----------------------------------------------------------------------------------------------------------


def _statements(draw: Draw, tables: Sequence[Table], shapes: Sequence[Shape]) -> List[Statement]:
    return [draw_statement(draw, tables, shapes) for _ in range(draw(st.integers(1, 3)))]


KINDS = ("update", "insert", "move", "delete", "rekey", "replace", "all", "truncate")


def draw_statement(
    draw: Draw, tables: Sequence[Table], shapes: Sequence[Shape], kinds: Sequence[str] = KINDS
) -> Statement:
    """A change of one table, of one of ``kinds``; it may violate a constraint."""
    number = draw(st.integers(0, len(tables) - 1))
    table, shape = tables[number], shapes[number]
    some_key = st.tuples(*(st.sampled_from(flavour.pool) for flavour in shape.key.values()))
    there = st.sampled_from(shape.keys) if shape.keys else some_key
    kind = draw(st.sampled_from(kinds))
    key = draw(some_key if kind in ("insert", "replace") else there | there | some_key)
    if kind == "truncate":
        # As rare as it is dear: every index over the table is built anew.
        kind = "truncate" if draw(st.integers(0, 3)) == 3 else "delete"
    if kind == "truncate":
        return f"TRUNCATE {table.sql}", []
    if kind in ("insert", "replace"):
        row = _row(draw, shapes, key, table.columns, table.unique, table.pointers)
        statement, parameters = table.insert(list(row.values()))
        if kind == "replace":
            updated = ", ".join(
                f"{quoted(n)} = excluded.{quoted(n)}" for n in row if n not in {*table.key, *table.generated}
            )
            conflict = f"ON CONFLICT ({', '.join(map(quoted, table.key))}) DO UPDATE SET {updated}"
            statement = statement.replace("ON CONFLICT DO NOTHING", conflict if updated else "ON CONFLICT DO NOTHING")
        return statement, parameters
    where = [f"{quoted(name)} = ${place}::text::{_cast(f)}" for place, (name, f) in enumerate(shape.key.items(), 1)]
    parameters = list(key)
    if kind == "delete":
        return f"DELETE FROM {table.sql} WHERE {' AND '.join(where)}", parameters
    if kind == "rekey":
        values = dict(zip(table.key, draw(some_key)))
    elif kind == "move" and table.pointers:
        values = _pointed(draw, shapes, draw(st.sampled_from(table.pointers)))
    else:
        values = _row(draw, shapes, key, table.columns, table.unique, table.pointers)
        chosen = draw(st.lists(st.sampled_from(list(values)), min_size=1, max_size=3, unique=True))
        values = {name: values[name] for name in chosen}
    # A copy follows by itself.
    values = {name: value for name, value in values.items() if name not in table.generated} or dict(zip(table.key, key))
    if kind == "all":
        where, parameters = ["true"], []
    first = len(parameters) + 1
    parts = [f"{quoted(n)} = ${at}::text::{_cast(table.columns[n])}" for at, n in enumerate(values, first)]
    return f"UPDATE {table.sql} SET {', '.join(parts)} WHERE {' AND '.join(where)}", [*parameters, *values.values()]


# -- schema files ------------------------------------------------------------------------------------------------------

_CONSTANTS: Tuple[Any, ...] = (
    1, "x", None, True, 2.5, -(2**63), "", "é\"\\\n", [], {}, [1, "a", None, {"b": []}],
    {"k": {"nested": [1.25]}, "a": False},
)  # fmt: skip


class Author:
    """Writes schema files over tables; every one of them is valid."""

    DEPTH = 4

    def __init__(self, draw: Draw, tables: Sequence[Table], places: bool = True) -> None:
        self._draw = draw
        self._tables = tables
        self._places = places

    def schema(self) -> Node:
        table = self._one(self._tables)
        top: Node = {"version": 1, "table": quoted(table.name), "schema": quoted(table.namespace)}
        if self._some():
            top.update({"table": table.sql, "schema": quoted(self._one((table.namespace, table.beside)))})
        if self._some():
            top["primary_key"] = self._columns(table.key)
        if table.unique is not None and self._some():
            top["doc_id"] = quoted(table.unique)
        if self._some() and self._some():
            top["filters"] = self._filters(table, "root.")
        top["fields"] = self._fields(table, self.DEPTH)
        if self._some() and self._some():
            top["soft_delete"] = {
                "column": quoted(self._one(list(table.columns))),
                "when": self._filters(table, "root."),
            }
        return top

    def _one(self, choices: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(list(choices)))

    def _some(self) -> bool:
        return bool(self._draw(st.booleans()))

    def _columns(self, names: Names) -> Any:
        return quoted(names[0]) if len(names) == 1 and self._some() else [quoted(name) for name in names]

    def _literal(self, flavour: Flavour) -> str:
        """A value that stands in a YAML file as it is: JSON leaves DEL and the like unescaped."""
        fitting = [v for v in flavour.pool if len(v) < LONGEST_VALUE and all(c.isprintable() or c < " " for c in v)]
        return str(self._one(fitting))

    # -- fields ---------------------------------------------------------------------------------------

    def _fields(self, table: Table, depth: int) -> List[Node]:
        fields: List[Node] = []
        for _ in range(self._draw(st.integers(1, 4 if depth == self.DEPTH else 2))):
            fields.append(self._plain(table))
        for _ in range(self._draw(st.integers(0, 3 if depth == self.DEPTH else 2)) if depth else 0):
            found = self._relation(table, depth)
            if found is not None:
                fields.append(found)
        if depth == self.DEPTH and self._some():
            fields.append({"object": "", "fields": self._fields(table, depth - 2)})
        # The type key comes first; its value is the field's name.
        return [{**node, next(iter(node)): f"f{number}"} for number, node in enumerate(fields)]

    def _plain(self, table: Table) -> Node:
        what = self._draw(st.integers(0, 9))
        if what == 9:
            return {"constant": "", "value": self._one(_CONSTANTS)}
        if what == 8 and self._places:
            geo = self._geo(table)
            if geo is not None:
                return geo
        name = self._one(list(table.columns))
        flavour = table.columns[name]
        node: Node = {"column": quoted(name), "required": False}
        if not flavour.kinds:
            found: Node = {"custom": "", "postgres": [flavour.custom], "opensearch": "keyword", **node}
        else:
            kind = self._one(flavour.kinds)
            found = {kind: "", **node}
            if kind == "map":
                return {**found, "values": "keyword"}
            if kind == "enum" and self._some():
                found["variants"] = ["z", "a:b"]
            if flavour.texts and self._some():
                found["transforms"] = self._one([["trim"], ["lowercase"], ["trim", "lowercase"], ["lowercase", "trim"]])
        if self._some() and "money" not in flavour.sql:
            found["default"] = self._literal(flavour)
        return found

    def _geo(self, table: Table) -> Optional[Node]:
        numbers = [n for n, f in table.columns.items() if f.kinds and f.kinds[0] in _NUMBERS and f.ordered]
        if numbers and self._some():
            return {"geo": "", "lat": quoted(self._one(numbers)), "lon": quoted(self._one(numbers)), "required": False}
        places = [n for n, f in table.columns.items() if (f.texts or "map" in f.kinds)]
        return {"geo": "", "column": quoted(self._one(places)), "required": False} if places else None

    def _relation(self, table: Table, depth: int) -> Optional[Node]:
        """A join or aggregate of ``table``; None where nothing is linked to it."""
        number = self._tables.index(table)
        ways: List[Tuple[str, Table, Node]] = []
        for pointer in table.pointers:
            target = self._tables[pointer.target]
            node = {"column": self._columns(pointer.columns), "primary_key": self._columns(pointer.target_columns)}
            ways.append(("belongs_to", target, node))
        for other in self._tables:
            for pointer in other.pointers:
                if pointer.target != number:
                    continue
                node = {"foreign_key": self._columns(pointer.columns)}
                if self._some():
                    node["references"] = self._columns(pointer.target_columns)
                elif pointer.target_columns != table.key:
                    node["references"] = self._columns(pointer.target_columns)
                ways.append(("has", other, node))
                for right in other.pointers:
                    if right is not pointer:
                        through = {
                            "table": other.sql,
                            "left_key": self._columns(pointer.columns),
                            "left_references": self._columns(pointer.target_columns),
                            "right_key": self._columns(right.columns),
                            "right_references": self._columns(right.target_columns),
                        }
                        ways.append(("through", self._tables[right.target], {"through": through}))
        if not ways:
            return None
        way, related, link = self._one(ways)
        node = {"table": related.sql, **link}
        if self._some() and self._some():
            node["filters"] = self._filters(related, "")
        if way != "belongs_to" and self._some():
            found = self._aggregate(related, node)
            if found is not None:
                return found
        verb = {"belongs_to": "belongs_to", "through": "many_to_many"}.get(way) or self._one(["has_many", "has_one"])
        node.setdefault("primary_key", self._columns(related.key))
        if verb != "belongs_to" and self._some():
            sortable = [name for name, flavour in related.columns.items() if flavour.ordered]
            chosen = self._draw(st.lists(st.sampled_from(sortable), max_size=2, unique=True))
            node["order_by"] = [{"column": quoted(name), "direction": self._one(["asc", "desc"])} for name in chosen]
        if verb in ("has_many", "many_to_many") and self._some():
            node["limit"] = self._draw(st.integers(1, 3))
        return {verb: "", **node, "fields": self._fields(related, depth - 1)}

    def _aggregate(self, related: Table, node: Node) -> Optional[Node]:
        op = self._one(["count", "sum", "avg", "min", "max", "ids"])
        if op == "count":
            return {"count": "", **node}
        if op == "ids":
            names, source = related.key, related
            if "through" in node:
                (source,) = [table for table in self._tables if table.sql == node["through"]["table"]]
                right = node["through"]["right_key"]
                names = tuple(n for n in source.columns if quoted(n) in ([right] if isinstance(right, str) else right))
            if len(names) != 1:
                return None
            return {"ids": "", "element_type": self._one(source.columns[names[0]].kinds), **node}
        wanted = [name for name, f in related.columns.items() if (f.sums if op in ("sum", "avg") else f.ordered)]
        if not wanted:
            return None
        column = self._one(wanted)
        if op != "avg":
            node["value_type"] = self._one(related.columns[column].kinds)
        if op == "sum" and node["value_type"] in ("short", "integer", "long"):
            # That of large numbers is beyond a long, and OpenSearch would rightly refuse its document.
            node["value_type"] = "long"
            op = "max" if related.columns[column].sql == "bigint" else op
        return {op: "", "column": quoted(column), **node}

    # -- filters --------------------------------------------------------------------------------------

    def _filters(self, table: Table, alias: str) -> List[Node]:
        return [self._filter(table, alias) for _ in range(self._draw(st.integers(0, 2)))]

    def _filter(self, table: Table, alias: str) -> Node:
        name = self._one(list(table.columns))
        flavour = table.columns[name]
        what = self._draw(st.integers(0, 4))
        if what == 0 or not flavour.ordered:
            return {"column": quoted(name), "op": self._one(["is_not_null", "is_null"])}
        if what == 1:
            key = f"{alias}{quoted(table.key[0])}::text"
            return {"raw": f"{alias}{quoted(name)} IS NOT NULL OR {key} < 'b' /* %s; ' */ -- so"}
        op = self._one(["eq", "neq", "lt", "lte", "gt", "gte", "in", "not_in", "between", "like", "ilike"])
        first, second = self._literal(flavour), self._literal(flavour)
        if op in ("in", "not_in", "between"):
            return {"column": quoted(name), "op": op, "value": [first, second]}
        if op not in ("like", "ilike"):
            return {"column": quoted(name), "op": op, "value": first}
        if not flavour.texts:
            return {"column": quoted(name), "op": "neq", "value": first}
        whole, start, end, rest = (part.replace("\\", "\\\\") for part in (first, first[:1], first[-1:], first[1:]))
        return {"column": quoted(name), "op": op, "value": self._one([whole, f"{start}%", f"%{end}", f"_{rest}", "%"])}


_NUMBERS = ("short", "integer", "long", "float", "double", "decimal")

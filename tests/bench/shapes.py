"""First builds of documents unlike the shop's: wide rows, deep nesting, very small ones, very many items in one.

The question is whether the rate stays the same share of what the machine can do at most; only the ceilings of the same
documents can tell.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import yaml

from tests.bench import builds
from tests.bench.rig import Rig, Say

#: Of the shape with the fewest bytes per document; the others have fewer rows, for about as many bytes.
ROWS = 300_000

#: Columns of a wide row, and the kinds of them, by turns.
COLUMNS = 200
KINDS = (
    ("integer", "int", "(n * {k}) % 100003"),
    ("keyword", "text", "'k' || (n * {k}) % 997"),
    ("text", "text", "'some words of column {k}, row ' || n"),
    ("boolean", "boolean", "(n + {k}) % 3 = 0"),
    ("timestamp", "timestamptz", "timestamptz '2026-01-01 00:00:00+00' + n * interval '{k} seconds'"),
)

#: Tables below the root of the deep shape, and rows of each per row above.
LEVELS = ("books", "editions", "copies", "loans")
PER_ROW = 2

#: Items of each of the few documents of the shape with very many.
ITEMS = 10_000


class Shape(NamedTuple):
    """Statements that make the tables, the schema of the index, and its documents."""

    tables: List[str]
    schema: Dict[str, Any]
    documents: int


def wide(rows: int) -> Shape:
    columns, fields, values = ["id bigint PRIMARY KEY"], [{"long": "id", "required": True}], ["n"]
    for number in range(1, COLUMNS):
        kind, type, value = KINDS[number % len(KINDS)]
        columns.append(f"c{number} {type} NOT NULL")
        fields.append({kind: f"c{number}", "required": True})
        values.append(value.format(k=number))
    return Shape(
        [
            f"CREATE TABLE wide ({', '.join(columns)})",
            f"INSERT INTO wide SELECT {', '.join(values)} FROM generate_series(1::bigint, {rows}) n",
        ],
        _schema("wide", fields),
        rows,
    )


def deep(rows: int) -> Shape:
    statements = [
        "CREATE TABLE deep (id bigint PRIMARY KEY, name text NOT NULL)",
        f"INSERT INTO deep SELECT n, 'author ' || n FROM generate_series(1, {rows}) n",
    ]
    above, count = "deep", rows
    for level in LEVELS:
        count *= PER_ROW
        statements += [
            f"CREATE TABLE {level} (id bigint PRIMARY KEY, up bigint NOT NULL REFERENCES {above}, name text NOT NULL)",
            f"INSERT INTO {level} SELECT n, 1 + (n - 1) / {PER_ROW}, '{level} ' || n"
            f" FROM generate_series(1, {count}) n",
            f"CREATE INDEX ON {level} (up)",
        ]
        above = level
    fields: List[Dict[str, Any]] = []
    for level in (*LEVELS[::-1], "deep"):
        fields = [{"long": "id", "required": True}, {"text": "name", "required": True}, *fields]
        if level != "deep":
            fields = [
                {
                    "has_many": level,
                    "table": level,
                    "foreign_key": "up",
                    "primary_key": "id",
                    "order_by": [{"column": "id"}],
                    "fields": fields,
                }
            ]
    return Shape(statements, _schema("deep", fields), rows)


def small(rows: int) -> Shape:
    return Shape(
        [
            "CREATE TABLE small (id bigint PRIMARY KEY, word text NOT NULL)",
            f"INSERT INTO small SELECT n, 'word' || n % 1000 FROM generate_series(1, {rows}) n",
        ],
        _schema("small", [{"long": "id", "required": True}, {"keyword": "word", "required": True}]),
        rows,
    )


def many(rows: int) -> Shape:
    return Shape(
        [
            "CREATE TABLE many (id bigint PRIMARY KEY, name text NOT NULL)",
            f"INSERT INTO many SELECT n, 'order ' || n FROM generate_series(1, {rows}) n",
            "CREATE TABLE many_items (id bigint PRIMARY KEY, up bigint NOT NULL REFERENCES many, word text NOT NULL)",
            f"INSERT INTO many_items SELECT n, 1 + (n - 1) / {ITEMS}, 'item ' || n"
            f" FROM generate_series(1, {rows * ITEMS}) n",
            "CREATE INDEX ON many_items (up)",
        ],
        _schema(
            "many",
            [
                {"long": "id", "required": True},
                {"text": "name", "required": True},
                {
                    "has_many": "items",
                    "table": "many_items",
                    "foreign_key": "up",
                    "primary_key": "id",
                    "order_by": [{"column": "id"}],
                    "fields": [{"long": "id", "required": True}, {"keyword": "word", "required": True}],
                },
            ],
        ),
        rows,
    )


def shapes(rows: int) -> Dict[str, Shape]:
    """Name, which is its index as well, -> shape."""
    return {
        "small": small(rows),
        "wide": wide(max(100, rows // 20)),
        "deep": deep(max(100, rows // 20)),
        "many": many(max(2, rows * 2 // ITEMS)),
    }


def _schema(table: str, fields: List[Dict[str, Any]]) -> Dict[str, Any]:
    return {"version": 1, "table": table, "primary_key": "id", "fields": fields}


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    """Each shape built alone: name -> figures."""
    url = rig.server.url(rig.server.create_database("shapes"))
    found = shapes(rows)
    files = {name: _file(rig.folder, name, shape) for name, shape in found.items()}
    with rig.server.connect("shapes") as connection:
        for shape in found.values():
            for statement in shape.tables:
                connection.execute(statement.encode())
        connection.execute("VACUUM ANALYZE")
    # Thrown away, as that of the shop.
    builds.measured(rig, "warm", url, files, {name: shape.documents for name, shape in found.items()})
    figures: Dict[str, Any] = {}
    order = list(found)
    # Not always after the same one.
    random.Random(rows).shuffle(order)
    for name in order:
        with rig.server.connect("shapes") as connection:
            connection.execute("CHECKPOINT")
        figures[name] = builds.measured(rig, name, url, {name: files[name]}, {name: found[name].documents})
        say(builds.line(name, figures[name]))
    return {name: figures[name] for name in found}


def _file(folder: Path, name: str, shape: Shape) -> Path:
    file = folder / f"{name}.schema.yml"
    file.write_text(yaml.safe_dump(shape.schema, sort_keys=False))
    return file


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    return "\n".join([builds.HEADER, *(builds.line(name, one) for name, one in figures.items())])

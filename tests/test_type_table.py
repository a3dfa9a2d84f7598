"""Whatever a type accepts from Postgres, its mapping accepts in OpenSearch: every pair, on real servers.

A *cell* is a field kind, a column type it reads, and one value.  Its row goes the whole way: schema file, document
SQL, bulk request; then it is found again by its value, or it is on the list of what is rejected, and everything else
of the same bulk is there.  The table of ``docs/types.md`` is written from the same lists, so that it cannot drift:
``FLUSSO_WRITE_TYPES=1`` writes it anew.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import urllib.request
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import psycopg
import pytest

from flusso_sync.engine.source import Document
from flusso_sync.postgres.connection import SourceAccess
from flusso_sync.postgres.documents import DocumentSettings, PostgresDocuments
from flusso_sync.schema.language import load_schema, parse_mapping
from flusso_sync.schema.types import (
    ACCEPTED,
    GEO_COLUMN,
    GEO_NUMBER,
    MAP_VALUES,
    OPENSEARCH,
    SCALAR_KINDS,
    accepts_aggregate,
)
from flusso_sync.sinks.base import FailureKind, Write
from flusso_sync.sinks.opensearch.mapping import index_body
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings
from flusso_sync.sinks.opensearch.sink import OpenSearchSink
from flusso_sync.testing.sinks import ME
from tests.fix_opensearch import Prefix
from tests.fix_pg import Database
from tests.oracle import Documents as Expected
from tests.oracle import assert_same, evaluate_all, read_opensearch

Json = Any
Query = Dict[str, Any]
Queries = Callable[[str, Json], List[Query]]

#: UTF-16 units, each of up to three bytes, that fit into Lucene's longest term.
LONGEST_KEYWORD = 32_766 // 3

MANUAL = Path(__file__).resolve().parent.parent / "docs" / "types.md"

# -- values ------------------------------------------------------------------------------------------------------------

#: Texts by name; what a column type cannot hold is left out there.
TEXTS: Dict[str, str] = {
    "a word": "word",
    "empty": "",
    "a blank": " ",
    "blanks around": "  both sides\t",
    "quotes": "\"double\" 'single' `back`",
    "backslashes": "C:\\temp\\new \\\\ \\u0000 \\ud800 \\n",
    "line breaks": "one\ntwo\r\nthree\rfour\u2028five\x85six",
    "control characters": "".join(map(chr, range(1, 32))) + "end\x7f",
    "a bulk action": '{"index":{"_index":"x","_id":"1"}}\n{"a":1}',
    "markup": "<b>&amp;</b><script>",
    "wildcards": "a*b?c %_ $0 ^x$ [y]",
    "accents": "Crème Brûlée",
    "decomposed accents": "Cre\u0300me",
    "right to left": "שלום \u202eعالم",
    "cjk": "日本語のテキスト",
    "outside the plane": "\U0001f600\U00020000x",
    "zero width": "a\u200db\ufeffc",
    "noncharacters": "\ufffe\uffff\ue000x",
    "a number": "1e400",
    "a date": "2024-01-02",
    "null": "null",
    "256 characters": "k" * 256,
    "257 characters": "k" * 257,
    "10,922 characters": "ä" * LONGEST_KEYWORD,
    "10,923 characters": "語" * (LONGEST_KEYWORD + 1),
    "32,767 bytes": "z" * 32_767,
    "80,000 bytes": "\U00020000" * 20_000,
    "1 MB of words": "word " * 200_000 + "needle",
    "1 MB without a blank": "x" * 1_000_000,
}

#: Longer ones only in the column types named here: they cost time, and their way is the same.
LARGE = 100_000
LARGE_TYPES = ("text", "character varying")

#: Values by the base type's name, as text that Postgres reads.
VALUES: Dict[str, Dict[str, str]] = {
    "uuid": {
        "upper case": "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        "in braces": "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a12}",
        "all zeros": "00000000-0000-0000-0000-000000000000",
        "all ones": "ffffffff-ffff-ffff-ffff-ffffffffffff",
    },
    "bool": {"true": "true", "false": "false"},
    "int2": {"zero": "0", "least": "-32768", "greatest": "32767"},
    "int4": {"zero": "0", "least": "-2147483648", "greatest": "2147483647"},
    "int8": {
        "zero": "0",
        "least": "-9223372036854775808",
        "greatest": "9223372036854775807",
        "odd beyond 2^53": "9007199254740993",
    },
    "float4": {
        "zero": "0",
        "negative zero": "-0",
        "a tenth": "0.1",
        "greatest": "3.4028235e38",
        "least": "-3.4028235e38",
        "smallest": "1e-45",
        "NaN": "NaN",
        "infinity": "Infinity",
        "minus infinity": "-Infinity",
    },
    "float8": {
        "zero": "0",
        "negative zero": "-0",
        "a tenth": "0.1",
        "greatest": "1.7976931348623157e308",
        "least": "-1.7976931348623157e308",
        "smallest": "5e-324",
        "whole": "1e22",
        "NaN": "NaN",
        "infinity": "Infinity",
        "minus infinity": "-Infinity",
    },
    "numeric": {
        "zero": "0",
        "trailing zeros": "42.5000",
        "negative": "-12.34",
        "40 digits": "1234567890123456789012345678901234567890",
        "40 decimals": "0.1234567890123456789012345678901234567891",
        "a double's greatest": "17976931348623157" + "0" * 292,
        "beyond a double": "1" + "0" * 309,
        "minus beyond a double": "-1" + "0" * 309,
        "below a double's smallest": "0." + "0" * 400 + "1",
        "1,000 digits": "0." + "7" * 998,
        "1,200 digits": "0." + "7" * 1_200,
        "10,000 decimals": "3." + "1" * 10_000,
        "NaN": "NaN",
        "infinity": "Infinity",
        "minus infinity": "-Infinity",
    },
    "money": {
        "zero": "0",
        "cents": "12.34",
        "greatest": "92233720368547758.07",
        "least": "-92233720368547758.08",
    },
    "date": {
        "a day": "2024-01-02",
        "a leap day": "2000-02-29",
        "the year 1": "0001-01-01",
        "1 BC": "0001-12-31 BC",
        "44 BC": "0044-03-15 BC",
        "first": "4713-01-01 BC",
        "the year 9999": "9999-12-31",
        "the year 10000": "10000-01-01",
        "the year 294276": "294276-12-31",
        "last": "5874897-12-31",
        "infinity": "infinity",
        "minus infinity": "-infinity",
    },
    "timestamp": {
        "to the second": "2024-01-02 03:04:05",
        "tenths": "2024-01-02 03:04:05.5",
        "microseconds": "2024-01-02 03:04:05.123456",
        "midnight by 24": "2024-01-01 24:00:00",
        "before 1970": "1969-12-31 23:59:59.999999",
        "the year 1": "0001-01-01 00:00:00",
        "44 BC": "0044-03-15 12:00:00 BC",
        "first": "4713-01-01 00:00:00 BC",
        "the year 10000": "10000-01-01 00:00:00",
        "last": "294276-12-31 23:59:59.999999",
        "infinity": "infinity",
        "minus infinity": "-infinity",
    },
    "timestamptz": {
        "to the second": "2024-01-02 03:04:05+02",
        "microseconds": "2024-01-02 03:04:05.123456-11:30",
        "44 BC": "0044-03-15 12:00:00+00 BC",
        "first": "4713-01-01 00:00:00+00 BC",
        "the year 10000": "10000-01-01 00:00:00+00",
        "last": "294276-12-31 23:59:59.999999+00",
        "infinity": "infinity",
        "minus infinity": "-infinity",
    },
    "time": {
        "midnight": "00:00:00",
        "last": "23:59:59.999999",
        "tenths": "03:04:05.5",
        "24:00:00": "24:00:00",
    },
    "timetz": {
        "midnight": "00:00:00+00",
        "of another zone": "01:00:00.25+05:30",
        "last": "23:59:59.999999-12",
        "24:00:00": "24:00:00+00",
    },
    "bytea": {"empty": "\\x", "every byte": "\\x" + bytes(range(256)).hex(), "1 MB": "\\x" + "ab" * 1_000_000},
    "jsonb": {
        "an object": '{"b": 1, "a": {"c": [1, "x", null, {"d": true}]}}',
        "empty object": "{}",
        "empty array": "[]",
        "a mixed array": '[1, "x", {"y": []}, [[1], [[]]], null]',
        "a string": '"text with \\"quotes\\" and \\\\"',
        "a line break": '"one\\ntwo"',
        "a number": "12345678901234567890123456789012345678901234567890.5",
        "a huge exponent": "1e400",
        "true": "true",
        "json null": "null",
        "awkward keys": '{"": 1, ".": 2, "a.b": 3, "a": 4, " ": 5, "_id": 6, "\\"": 7}',
        "a surrogate pair": '"\\ud83d\\ude00"',
        "an escaped NUL": '{"a": "\\\\u0000"}',
        "1 MB": json.dumps({"text": "y" * 1_000_000}),
        "900 levels of arrays": "[" * 900 + "]" * 900,
        "1,100 levels of arrays": "[" * 1_100 + "]" * 1_100,
        "900 levels of objects": '{"a":' * 900 + "{}" + "}" * 900,
        "1,100 levels of objects": '{"a":' * 1_100 + "{}" + "}" * 1_100,
    },
}
VALUES["json"] = {
    **VALUES["jsonb"],
    "repeated keys": '{"a": 1, "a": 2}',
    "white space": '{\n\t"a" :\r\n [ ]\n}',
    "a NUL": '{"a": "\\u0000"}',
    "a lone surrogate": '"\\ud800"',
    "4,000 digits": "1" + "0" * 3_999,
}

#: Labels of the ENUM types: at most 63 bytes.
LABELS: Dict[str, str] = {name: text for name, text in TEXTS.items() if len(text.encode()) <= 63}

_BEYOND = "OpenSearch keeps it as a double, which ends at 1.8e308"
_DIGITS = "OpenSearch reads no number of more than 1,000 digits"
_CLOCK = "OpenSearch's clock ends before 24:00"
_DEEP = "OpenSearch reads no more than 1,000 arrays inside each other"
_NO_TEXT = "Postgres itself cannot turn it into text, which `jsonb` would do at the insert"

_JSONB = {"1,100 levels of arrays": _DEEP}

_SUM = "the sum is beyond its type in Postgres"
_WIDE = "the sum is beyond 64 bits"
_MEAN = "the mean is beyond a double"

#: (value type, column type) -> what two rows of it make of ``sum`` and of ``avg``.
SUMS_REJECTED: Dict[Tuple[str, str], Dict[str, str]] = {
    ("integer", "bigint"): {"least": _WIDE, "greatest": _WIDE},
    ("long", "bigint"): {"least": _WIDE, "greatest": _WIDE},
    ("float", "real"): {"least": _SUM, "greatest": _SUM},
    ("double", "double precision"): {"least": _SUM, "greatest": _SUM},
    ("decimal", "money"): {"least": _SUM, "greatest": _SUM},
}
AVERAGES_REJECTED: Dict[str, Dict[str, str]] = {
    "double precision": {"least": _SUM, "greatest": _SUM},
    "numeric": {"beyond a double": _MEAN, "minus beyond a double": _MEAN, "below a double's smallest": _MEAN},
}

#: (kind, family of column types) -> value -> why its document is rejected, in arrays as well.
REJECTED: Dict[Tuple[str, str], Dict[str, str]] = {
    ("decimal", "numeric"): {
        "beyond a double": _BEYOND,
        "minus beyond a double": _BEYOND,
        "1,200 digits": _DIGITS,
        "10,000 decimals": _DIGITS,
    },
    ("timestamp", "time"): {"24:00:00": _CLOCK},
    ("json", "jsonb"): _JSONB,
    ("json", "json"): {**_JSONB, "a NUL": _NO_TEXT, "a lone surrogate": _NO_TEXT, "4,000 digits": _DIGITS},
}


SUMS_REJECTED["decimal", "numeric"] = {**REJECTED["decimal", "numeric"], "a double's greatest": _BEYOND}


class ColumnType(NamedTuple):
    """``name``: as the schema language compares it; ``sql``: as a column is declared; ``family``: whose values."""

    name: str
    sql: str
    family: str
    #: Units of text it can hold, and whether they are bytes.
    longest: int = 10**9


FAMILIES = {
    "uuid": "uuid",
    "boolean": "bool", "bool": "bool",
    "smallint": "int2", "int2": "int2", "smallserial": "int2",
    "integer": "int4", "int": "int4", "int4": "int4", "serial": "int4",
    "bigint": "int8", "int8": "int8", "bigserial": "int8",
    "real": "float4", "float4": "float4",
    "double precision": "float8", "float8": "float8",
    "numeric": "numeric", "decimal": "numeric", "money": "money",
    "date": "date",
    "timestamp": "timestamp", "timestamp without time zone": "timestamp",
    "timestamptz": "timestamptz", "timestamp with time zone": "timestamptz",
    "time": "time", "time without time zone": "time",
    "timetz": "timetz", "time with time zone": "timetz",
    "bytea": "bytea",
    "json": "json", "jsonb": "jsonb",
    "text": "text", "character varying": "text", "varchar": "text", "bpchar": "text", "citext": "text",
    "character": "text", "char": "text", "name": "text",
}  # fmt: skip

_DECLARED = {"character": "character(300)", "char": '"char"', "varchar": "varchar(2000000)"}
_LONGEST = {"character": 300, "char": 1, "name": 63}


def column_type(name: str) -> ColumnType:
    return ColumnType(name, _DECLARED.get(name, name), FAMILIES[name], _LONGEST.get(name, 10**9))


def values_of(type_: ColumnType) -> Dict[str, str]:
    """The awkward values that a column of this type can hold."""
    if type_.family != "text":
        return VALUES[type_.family]
    found = {name: text for name, text in TEXTS.items() if len(text.encode()) <= type_.longest}
    if type_.name == "char":
        found.update({"a letter": "x", "a quote": '"', "a backslash": "\\", "a line break": "\n"})
    if type_.name not in LARGE_TYPES:
        found = {name: text for name, text in found.items() if len(text) < LARGE}
    return found


def in_array(values: Mapping[str, str]) -> Iterator[Tuple[str, Json, Sequence[str]]]:
    """Arrays out of values: name, nested list, and the names of the values in it."""
    yield "empty array", [], ()
    yield "only null", [None], ()
    names = [name for name, text in values.items() if len(text) < LARGE]
    for name in names:
        yield f"[{name}]", [values[name]], (name,)
    one, two = (names * 2)[:2]
    a, b = values[one], values[two]
    yield "with null", [a, None, b], (one, two)
    yield "two dimensions", [[a, b], [b, None]], (one, two)
    yield "three dimensions", [[[a], [b]], [[b], [a]]], (one, two)


# -- how a value is found ----------------------------------------------------------------------------------------------


def utf16(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def words_of(field: str, text: str) -> List[Query]:
    """A match for the last word; none where the text has no word at all."""
    if not any(c.isalnum() for c in text):
        return []
    word = text.split()[-1]
    # Longer words are indexed in pieces: of 255 units, or one more to keep a pair together.
    piece = word[: -(-255 * len(word) // utf16(word))]
    return [{"match": {field: {"query": piece, "operator": "and"}}}]


def by_words(field: str, value: Json) -> List[Query]:
    exact = [{"term": {f"{field}.keyword": value}}] if utf16(value) <= 256 else []
    return exact + words_of(field, value)


def by_term(field: str, value: Json) -> List[Query]:
    if utf16(value) <= LONGEST_KEYWORD:
        return [{"term": {field: value}}]
    return words_of(f"{field}.text", value)


def by_number(field: str, value: Json) -> List[Query]:
    # Postgres' -0 is its 0, and is indexed as such.
    text = str(value) if value else "0"
    return [{"term": {field: text}}, {"range": {field: {"gte": text, "lte": text}}}]


def by_date(field: str, value: Json) -> List[Query]:
    return [{"term": {field: value}}, {"range": {field: {"gte": value, "lte": value}}}]


def by_flag(field: str, value: Json) -> List[Query]:
    return [{"term": {field: value}}]


def unsearched(field: str, value: Json) -> List[Query]:
    return []


QUERIES: Dict[str, Queries] = {
    **{kind: by_words for kind in ("text", "identifier")},
    **{kind: by_term for kind in ("keyword", "enum", "uuid")},
    **{kind: by_number for kind in ("short", "integer", "long", "float", "double", "decimal")},
    **{kind: by_date for kind in ("date", "timestamp")},
    "boolean": by_flag,
    # Kept and handed out; OpenSearch has no search for the one, and nothing to search the other by.
    "binary": unsearched,
    "json": unsearched,
}

#: Per kind a value that no row has.
NOBODY: Dict[str, Json] = {
    **dict.fromkeys(("text", "identifier", "keyword", "enum"), "nobody"),
    "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a99",
    **dict.fromkeys(("short", "integer", "long", "float", "double", "decimal"), 4711),
    **dict.fromkeys(("date", "timestamp"), "2024-07-07"),
}


def leaves(value: Json) -> Iterator[Json]:
    if isinstance(value, list):
        for part in value:
            yield from leaves(part)
    elif value is not None:
        yield value


# -- cells -------------------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """One row, and how its document is found: ``finds(value in the document)``; ``reason``: rejected for it."""

    kind: str
    type: str
    value: str
    field: str
    finds: Callable[[Json], List[Query]]
    reason: str = ""


class Case:
    """One index: its tables, its schema file, its cells by document id."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ddl: List[str] = []
        self.inserts: List[Tuple[str, List[Tuple[Any, ...]]]] = []
        self.fields: List[Dict[str, Json]] = [{"keyword": "id", "required": True}]
        self.cells: Dict[str, Cell] = {}
        self._columns: List[str] = ["id text PRIMARY KEY"]

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.name}.schema.yml"
        schema = {"version": 1, "table": self.name, "primary_key": "id", "fields": self.fields}
        # JSON's escapes are read alike by every YAML reader.
        path.write_text(json.dumps(schema, indent=1))
        return path

    def load(self, connection: psycopg.Connection[Any]) -> None:
        for statement in self.ddl:
            connection.execute(statement)
        connection.execute(f"CREATE TABLE {self.name} ({', '.join(self._columns)})")
        for column in self._columns:
            if column.endswith("serial"):
                # Its own numbers would stand in every row.
                name = column.split()[0]
                connection.execute(f"ALTER TABLE {self.name} ALTER {name} DROP DEFAULT, ALTER {name} DROP NOT NULL")
        with connection.cursor() as cursor:
            for statement, rows in self.inserts:
                cursor.executemany(statement, rows)

    def column(
        self,
        kind: str,
        label: str,
        sql: str,
        rows: Iterable[Tuple[str, Json, str]],
        queries: Queries,
        array: bool = False,
        cast: str = "",
        **field: Json,
    ) -> None:
        """A column with its field; ``rows``: name of the value, the value as text, why it is rejected."""
        column = self.add_column(sql)
        self.fields.append({kind: column, "required": False, **field})
        written = [(self.add_cell(kind, label, name, column, queries, reason), value) for name, value, reason in rows]
        # What the sequence of a serial column would put there is no value of the cell.
        through = "text[]" if array else "text"
        statement = f"INSERT INTO {self.name} (id, {column}) VALUES (%s, %s::{through}::{cast or sql})"
        self.inserts.append((statement, written))

    def add_column(self, sql: str) -> str:
        self._columns.append(f"c{len(self._columns)} {sql}")
        return f"c{len(self._columns) - 1}"

    def add_cell(self, kind: str, label: str, value: str, field: str, queries: Queries, reason: str) -> str:
        """The id of its document."""
        id = f"{kind} / {label} / {value}"
        assert id not in self.cells, id
        self.cells[id] = Cell(kind, label, value, field, _finder(field, queries), reason)
        return id


def _finder(field: str, queries: Queries) -> Callable[[Json], List[Query]]:
    def find(value: Json) -> List[Query]:
        found = [query for leaf in leaves(value) for query in queries(field, leaf)]
        if not found and queries is not unsearched:
            return [{"bool": {"must_not": {"exists": {"field": field}}}}]
        return found

    return find


def rejected(kind: str, family: str, *names: str) -> str:
    return next((REJECTED[kind, family][name] for name in names if name in REJECTED.get((kind, family), {})), "")


def scalar_case(kind: str) -> Case:
    """Every column type of a kind: plain, as a domain, as an array, as a domain over an array; ENUMs where they fit."""
    case = Case(f"kind_{kind}")
    queries = QUERIES[kind]
    for number, name in enumerate(sorted(ACCEPTED[kind])):
        type_ = column_type(name)
        values = values_of(type_)
        family = type_.family
        plain = [("NULL", None, ""), *((n, text, rejected(kind, family, n)) for n, text in values.items())]
        arrays = [(n, nested, rejected(kind, family, *parts)) for n, nested, parts in in_array(values)]
        if name.endswith("serial"):
            case.column(kind, name, type_.sql, plain[1:], queries, cast=FAMILIES[name])
            continue
        domain = f"{case.name}_d{number}"
        case.ddl += [f"CREATE DOMAIN {domain} AS {type_.sql}", f"CREATE DOMAIN {domain}_a AS {type_.sql}[]"]
        case.column(kind, name, type_.sql, plain, queries)
        small = [row for row in plain if len(row[1] or "") < LARGE]
        case.column(kind, f"domain over {name}", domain, small, queries)
        case.column(kind, f"{name}[]", f"{type_.sql}[]", arrays, queries, array=True)
        case.column(kind, f"{domain}[]", f"{domain}[]", arrays[:4], queries, array=True)
        case.column(kind, f"domain over {name}[]", f"{domain}_a", arrays[-4:], queries, array=True)
    if "text" in ACCEPTED[kind]:
        labels = ", ".join("E'" + _escaped(text) + "'" for text in LABELS.values())
        case.ddl += [f"CREATE TYPE {case.name}_e AS ENUM ({labels})", f"CREATE DOMAIN {case.name}_ed AS {case.name}_e"]
        plain = [(n, text, "") for n, text in LABELS.items()]
        variants = {"variants": [text for text in TEXTS.values() if text in ("word", "null", "1e400")]}
        more: Dict[str, Json] = variants if kind == "enum" else {}
        case.column(kind, "an ENUM", f"{case.name}_e", plain, queries, **more)
        case.column(kind, "domain over an ENUM", f"{case.name}_ed", plain, queries)
        arrays = [(n, nested, "") for n, nested, _ in in_array(LABELS)]
        case.column(kind, "an ENUM[]", f"{case.name}_e[]", arrays, queries, array=True)
    return case


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08X}" for c in text)


#: A small value or two per kind, as JSON writes them in a map.
IN_MAP: Dict[str, List[Json]] = {
    **dict.fromkeys(("text", "identifier", "keyword", "enum"), ["Crème 2024-01-02", "", "null"]),
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "short": [-32768, 32767],
    "integer": [-(2**31), 2**31 - 1],
    "long": [-(2**63), 2**63 - 1],
    "float": [0.1, 3.4e38],
    "double": [0.1, 1.7e308],
    "decimal": [12.5, 10**39],
    "date": ["2024-01-02", "-0043-03-15", "+10000-01-01"],
    "timestamp": ["2024-01-02T03:04:05.123456+02:00", "2024-01-02", "03:04:05"],
}

#: A value of another type, that OpenSearch cannot read as one of the kind.
NOT_IN_MAP: Dict[str, Json] = {
    **dict.fromkeys(("float", "double", "decimal"), "one"),
    **{"short": 32_768, "integer": 2**31, "long": 2**63, "date": "2.1.2024", "timestamp": "2024-01-02 03:04"},
}

_PATH = "OpenSearch takes the key of a map for a path"
_OTHER = "the value is none of the map's kind"
_CLASH = "one key is a value in one document and an object, as `k0.x` makes it, in another"
_NO_MAP = "a map must be an object"


def map_case() -> Case:
    """Maps: every kind of their values, in json and jsonb, under awkward keys."""
    case = Case("kind_map")
    for kind in MAP_VALUES:
        one, many = IN_MAP[kind][0], IN_MAP[kind]
        rows: List[Tuple[str, Json, str]] = [
            ("values", {f"k{n}": value for n, value in enumerate(many)}, ""),
            ("lists of values", {"k0": many, "k1": [one, None]}, ""),
            ("no value", {"k0": None, "k1": [], "k2": one}, ""),
            ("empty object", {}, ""),
            ("json null", None, ""),
            ("a list of maps", [{"k0": one}, {"k1": one}], ""),
        ]
        strange: List[Tuple[str, Json, str]] = [
            ("strange keys", {"ä\U0001f600": one, '"q" \\\n': one, "*": one, "_id": one, "n" * 300: one}, ""),
            ("a key with a dot", {"en.gb": one}, ""),
            ("an empty key", {"": one}, _PATH),
            ("a blank key", {" ": one}, _PATH),
            ("a key of dots", {"..": one}, _PATH),
            ("a key that ends in a dot", {"k0.": one}, ""),
            ("an object as value", {"inner": {"x": one}}, ""),
            ("an object where others have a value", {"k0": {"x": one}}, _CLASH),
            ("a string", "no map", _NO_MAP),
            ("a number", 7, _NO_MAP),
        ]
        if kind == "keyword":
            strange.append(("a key of 40,000 characters", {"k" * 40_000: one}, ""))
        if kind in NOT_IN_MAP:
            strange.append(("a value of another type", {"k0": NOT_IN_MAP[kind]}, _OTHER))
        for type_, given in (("jsonb", rows + strange), ("json", rows)):
            written = [("NULL", None, ""), *((name, json.dumps(value), reason) for name, value, reason in given)]
            case.column("map", f"{type_} of {kind}", type_, written, _map_queries(QUERIES[kind]), values=kind)
    return case


def _map_queries(queries: Queries) -> Queries:
    def find(field: str, value: Json) -> List[Query]:
        if not isinstance(value, dict):
            return []
        paths = {key: ".".join([field, *filter(None, key.split("."))]) for key in value}
        found: List[Query] = []
        for key, path in paths.items():
            for leaf in leaves(value[key]):
                found += find(path, leaf) if isinstance(leaf, dict) else queries(path, leaf)
        return found

    return find


#: Places as texts and as JSON: what is written, and where it is.
PLACES: Dict[str, Tuple[str, float, float]] = {
    "lat,lon": ("45.1234567,7.5", 45.1234567, 7.5),
    "lat, lon": ("45.5, 8.5", 45.5, 8.5),
    "pole and antimeridian": ("-90,180", -90, 180),
    "WKT": ("POINT (7.25 45.25)", 45.25, 7.25),
    "a geohash": ("u4pruydqqvj", 57.64911, 10.40744),
}
JSON_PLACES: Dict[str, Tuple[Json, List[Tuple[float, float]]]] = {
    "an object": ({"lat": 45.1, "lon": 7.5}, [(45.1, 7.5)]),
    "an object of texts": ({"lat": "45.1", "lon": "7.5"}, [(45.1, 7.5)]),
    "[lon, lat]": ([7.5, 45], [(45, 7.5)]),
    "a text": ("45.1,7.5", [(45.1, 7.5)]),
    "GeoJSON": ({"type": "Point", "coordinates": [7.5, 45]}, [(45, 7.5)]),
    "several": ([{"lat": 1, "lon": 2}, {"lat": 3, "lon": 4}], [(1, 2), (3, 4)]),
    "40 digits": ({"lat": Decimal("45.12345678901234567890123456789012345678"), "lon": 7}, [(45.123456789, 7)]),
}
_NO_PLACE = "not a place"
_OFF_EARTH = "latitudes end at 90, longitudes at 180"
NO_PLACES = {"a word": ("nowhere!", _NO_PLACE), "empty": ("", _NO_PLACE), "latitude 95": ("95,7", _OFF_EARTH)}
NO_JSON_PLACES: Dict[str, Tuple[Json, str]] = {
    "a word": ("nowhere!", _NO_PLACE),
    "a number": (7, _NO_PLACE),
    "empty object": ({}, _NO_PLACE),
    "no lon": ({"lat": 1}, _NO_PLACE),
    "latitude 95": ({"lat": 95, "lon": 7}, _OFF_EARTH),
    "longitude 181": ({"lat": 9, "lon": 181}, _OFF_EARTH),
}


def near(places: Sequence[Tuple[float, float]]) -> Queries:
    def find(field: str, value: Json) -> List[Query]:
        return [{"geo_distance": {"distance": "20m", field: {"lat": a, "lon": b}}} for a, b in places]

    return find


def geo_case() -> Case:
    """Places in one column: every text type, json and jsonb; and in two: every type of number."""
    case = Case("kind_geo")
    for name in sorted(GEO_COLUMN):
        type_ = column_type(name)
        if name in ("json", "jsonb"):
            for label, (value, places) in JSON_PLACES.items():
                case.column("geo", name, name, [(label, _json(value), "")], near(places))
            bad = [(n, _json(value), reason) for n, (value, reason) in NO_JSON_PLACES.items()]
            case.column("geo", name, name, [("NULL", None, ""), ("json null", "null", ""), *bad], near([]))
            both = [_json({"lat": 1, "lon": 2}), _json({"lat": 3, "lon": 4})]
            points = near([(1, 2), (3, 4)])
            case.column("geo", f"{name}[]", f"{name}[]", [("two", both, "")], points, array=True)
        elif type_.longest > 1:
            case.ddl.append(f"CREATE DOMAIN geo_{len(case.ddl)} AS {type_.sql}")
            domain = f"geo_{len(case.ddl) - 1}"
            for label, (text, lat, lon) in PLACES.items():
                case.column("geo", name, type_.sql, [(label, text, "")], near([(lat, lon)]))
            case.column("geo", f"domain over {name}", domain, [("lat,lon", "45,7", "")], near([(45, 7)]))
            bad = [(n, text, reason) for n, (text, reason) in NO_PLACES.items()]
            case.column("geo", name, type_.sql, [("NULL", None, ""), *bad], near([]))
            two = [("two", ["1,2", "3,4"], ""), ("none", [], "")]
            case.column("geo", f"{name}[]", f"{type_.sql}[]", two[:1], near([(1, 2), (3, 4)]), array=True)
            case.column("geo", f"{name}[] ", f"{type_.sql}[]", two[1:], near([]), array=True)
        else:
            # One letter can only be a geohash: the corner of a square as large as a continent.
            case.column("geo", name, type_.sql, [("a geohash", "u", "")], near([(45, 0)]))
            case.column("geo", name, type_.sql, [("a blank", " ", _NO_PLACE)], near([]))
    case.ddl.append("CREATE TYPE geo_e AS ENUM ('45,7', 'nowhere!')")
    case.column("geo", "an ENUM", "geo_e", [("lat,lon", "45,7", "")], near([(45, 7)]))
    case.column("geo", "an ENUM", "geo_e", [("a word", "nowhere!", _NO_PLACE)], near([]))
    for name in sorted(GEO_NUMBER):
        _geo_pairs(case, column_type(name))
    return case


def _geo_pairs(case: Case, type_: ColumnType) -> None:
    pairs: List[Tuple[str, Optional[str], Optional[str], str]] = [
        ("a place", "45", "-7", ""),
        ("pole and antimeridian", "-90", "180", ""),
        ("zero", "0", "0", ""),
        ("no latitude", None, "7", ""),
        ("no longitude", "7", None, ""),
        ("latitude 95", "95", "7", _OFF_EARTH),
        ("longitude 181", "9", "-181", _OFF_EARTH),
    ]
    if type_.family in ("float4", "float8", "numeric"):
        pairs += [("NaN", "NaN", "7", ""), ("infinity", "7", "-Infinity", ""), ("decimals", "0.123456", "1e-7", "")]
    if type_.name.endswith("serial"):
        pairs = [pair for pair in pairs if None not in pair]
    column = case.add_column(type_.sql)
    other = case.add_column(type_.sql)
    case.fields.append({"geo": column, "lat": column, "lon": other, "required": False})
    serial = type_.name.endswith("serial")
    cast = FAMILIES[type_.name] if serial else type_.sql
    rows = []
    for label, lat, lon, reason in pairs:
        found = lat is not None and lon is not None and "N" not in lat and "I" not in lon
        places = [(float(lat or 0), float(lon or 0))] if found else []
        # What is no number in one of the two makes the whole no place.
        id = case.add_cell("geo", f"two {type_.name}", label, column, near(places), reason)
        rows.append((id, lat, lon))
    case.inserts.append(
        (f"INSERT INTO {case.name} (id, {column}, {other}) VALUES (%s, %s::text::{cast}, %s::text::{cast})", rows)
    )


def _json(value: Json) -> str:
    return re.sub(r'"D(-?[0-9.]+)"', r"\1", json.dumps(value, default=lambda number: f"D{number}"))


class Own(NamedTuple):
    """A ``custom`` field: what its column is, what OpenSearch makes of it, how its values are found."""

    sql: str
    names: Tuple[str, ...]
    opensearch: str
    values: Mapping[str, str]
    queries: Queries
    options: Mapping[str, Json] = {}
    reasons: Mapping[str, str] = {}


def by_exact(field: str, value: Json) -> List[Query]:
    return [{"term": {field: value}}]


def by_inner(field: str, value: Json) -> List[Query]:
    return [{"term": {f"{field}.a": value["a"]}}] if isinstance(value, dict) and "a" in value else []


def by_inside(field: str, value: Json) -> List[Query]:
    return [{"term": {field: value["gte"]}}]


_NETWORK = "OpenSearch's `ip` is an address, not a network"
_NANOS = "`date_nanos` begins in 1970 and ends in 2262"

OWN: List[Own] = [
    Own("inet", ("inet",), "ip", {"v4": "10.0.0.1", "v6": "2001:db8::1", "network": "10.0.0.1/24"}, by_exact,
        reasons={"network": _NETWORK}),
    Own("inet", ("inet",), "keyword", {"v4": "10.0.0.1", "network": "10.0.0.1/24"}, by_term),
    Own("cidr", ("cidr",), "keyword", {"network": "10.0.0.0/24"}, by_term),
    Own("macaddr", ("macaddr",), "keyword", {"an address": "08:00:2b:01:02:03"}, by_term),
    Own("interval", ("interval",), "keyword", {"mixed": "1 year 2 mons -3 days 04:05:06.7", "zero": "0"}, by_term),
    Own("xml", ("xml",), "text", {"markup": "<a b=\"c\">needle\n</a>"}, words_of),
    Own("tsvector", ("tsvector",), "keyword", {"words": "'a b':1 c:2A"}, by_term),
    Own("int4range", ("int4range",), "keyword", {"a range": "[1,5)", "empty": "empty"}, by_term),
    Own("bit varying(40)", ("bit varying",), "keyword", {"bits": "1010", "empty": ""}, by_term),
    Own("numeric(20,4)", ("numeric",), "scaled_float", {"cents": "12.34", "negative": "-0.5", "NaN": "NaN"}, by_number,
        {"scaling_factor": 100}),
    Own("numeric", ("numeric",), "unsigned_long", {"greatest": "18446744073709551615", "minus one": "-1"}, by_number,
        reasons={"minus one": "an `unsigned_long` is not negative"}),
    Own("numeric", ("numeric",), "keyword", {"40 digits": VALUES["numeric"]["40 digits"]}, by_exact),
    Own("bigint", ("int8",), "integer", {"small": "7", "large": "2147483648"}, by_number,
        reasons={"large": "beyond the width of `integer`"}),
    Own("boolean", ("bool",), "keyword", {"true": "true"}, lambda f, v: [{"term": {f: "true" if v else "false"}}]),
    Own("timestamptz", ("timestamptz",), "date_nanos",
        {"microseconds": "2024-01-02 03:04:05.123456+00", "the year 1": "0001-01-01 00:00:00+00"}, by_date,
        reasons={"the year 1": _NANOS}),
    Own("text", ("text",), "date", {"a day": "2.1.2024", "a word": "today"}, by_date, {"format": "d.M.yyyy"},
        {"a word": "not of the field's format"}),
    Own("text", ("text",), "wildcard", {"wildcards": TEXTS["wildcards"], "long": "z" * 5000}, by_exact),
    Own("bytea", ("bytea",), "keyword", {"bytes": "\\x00ff"}, by_term),
    Own("uuid[]", ("uuid",), "keyword", {"two": "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}"}, by_term),
    Own("jsonb", ("jsonb",), "flat_object", {"an object": '{"a": "x", "b.c": [1, {"d": 2}]}', "a word": '"x"'},
        by_inner, reasons={"a word": "a `flat_object` must be an object"}),
    Own("jsonb", ("jsonb",), "object", {"an object": '{"a": "x", "b": {"c": 1.5}}'}, by_inner, {"dynamic": True}),
    Own("jsonb", ("jsonb",), "integer_range", {"a range": '{"gte": 1, "lte": 5}'}, by_inside),
    Own("jsonb", ("jsonb",), "geo_shape", {"a line": '{"type": "LineString", "coordinates": [[1, 2], [3, 4]]}'},
        lambda f, v: [{"geo_shape": {f: {"shape": {"type": "point", "coordinates": [1, 2]}}}}]),
]  # fmt: skip


def custom_case() -> Case:
    case = Case("kind_custom")
    for own in OWN:
        rows = [(n, text, own.reasons.get(n, "")) for n, text in own.values.items()]
        label = f"{own.sql} as {own.opensearch}"
        more: Dict[str, Json] = {"options": dict(own.options)} if own.options else {}
        case.column(
            "custom", label, own.sql, rows, own.queries, postgres=list(own.names), opensearch=own.opensearch, **more
        )
    return case


#: Per kind the one column type that relations are tried with.
CANONICAL: Dict[str, str] = {
    **dict.fromkeys(("text", "identifier", "keyword", "enum"), "text"),
    **{"uuid": "uuid", "boolean": "boolean", "short": "smallint", "integer": "integer", "long": "bigint"},
    **{"float": "real", "double": "double precision", "decimal": "numeric", "date": "date"},
    **{"timestamp": "timestamptz", "binary": "bytea"},
}

_NUMBERS = ("smallint", "integer", "bigint", "real", "double precision", "numeric", "money")


def aggregate_case() -> Case:
    """``min`` and ``max`` of every kind with an order, ``sum`` and ``avg`` of every number, ``ids`` of every key.

    Each value stands in two rows.
    """
    case = Case("aggregates")
    columns: List[str] = []
    children: List[Tuple[str, List[Tuple[Any, ...]]]] = []

    def add(op: str, label: str, type_: ColumnType, queries: Queries, reasons: Mapping[str, str], **more: Json) -> None:
        column = f"v{len(columns)}"
        columns.append(f"{column} {type_.sql}")
        field = f"f{len(case.fields)}"
        case.fields.append({op: field, "table": "aggregated", "foreign_key": "parent", "column": column, **more})
        rows = []
        for name, text in values_of(type_).items():
            if len(text) < 30_000:
                id = case.add_cell(op, label, name, field, queries, reasons.get(name, ""))
                rows += [(id, text), (id, text)]
        case.inserts.append((f"INSERT INTO {case.name} (id) VALUES (%s)", [(id,) for id, _ in rows[::2]]))
        children.append((f"INSERT INTO aggregated (parent, {column}) VALUES (%s, %s::text::{type_.sql})", rows))

    for kind, name in CANONICAL.items():
        type_ = column_type(name)
        reasons = REJECTED.get((kind, type_.family), {})
        for op in ("min", "max"):
            add(op, f"{kind} over {name}", type_, QUERIES[kind], reasons, value_type=kind)
    for name in _NUMBERS:
        type_ = column_type(name)
        for kind in ("short", "integer", "long", "float", "double", "decimal"):
            if accepts_aggregate("sum", kind, name):
                reasons = SUMS_REJECTED.get((kind, name), {})
                add("sum", f"{kind} over {name}", type_, QUERIES[kind], reasons, value_type=kind)
        add("avg", f"over {name}", type_, by_number, AVERAGES_REJECTED.get(name, {}))
    case.ddl.append(f"CREATE TABLE aggregated (id serial PRIMARY KEY, parent text, {', '.join(columns)})")
    case.ddl.append("CREATE INDEX ON aggregated (parent)")
    case.inserts += children
    for kind, name in CANONICAL.items():
        type_ = column_type(name)
        table = f"ids_{kind}"
        case.ddl.append(f"CREATE TABLE {table} (parent text, k {type_.sql}, PRIMARY KEY (k))")
        field = f"f{len(case.fields)}"
        case.fields.append({"ids": field, "table": table, "foreign_key": "parent", "element_type": kind})
        reasons = REJECTED.get((kind, type_.family), {})
        rows = []
        for value, text in values_of(type_).items():
            if len(text) < 600 and text != "-0":
                why = reasons.get(value, "")
                rows.append((case.add_cell("ids", f"{kind} over {name}", value, field, QUERIES[kind], why), text))
        case.inserts.append((f"INSERT INTO {case.name} (id) VALUES (%s)", [(id,) for id, _ in rows]))
        case.inserts.append((f"INSERT INTO {table} (parent, k) VALUES (%s, %s::text::{type_.sql})", rows))
    return case


# -- running -----------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What became of the cells of a case; ``wrong``: neither found by their value nor rejected as listed."""

    cells: int
    searchable: int
    kept: int
    rejected: int
    wrong: List[str]


class Servers(NamedTuple):
    database: Database
    node: Prefix
    folder: Path

    def run(self, cases: Sequence[Case], **shaping: Any) -> Dict[str, Outcome]:
        """All cells of ``cases``, from rows to searches; ``shaping``: settings of the sink."""
        paths = {case.name: case.write(self.folder) for case in cases}
        with self.database.connect(autocommit=True) as connection:
            for case in cases:
                case.load(connection)
            expected = evaluate_all(connection, paths)
        plans = [load_schema(path, name)[0] for name, path in paths.items()]
        documents = PostgresDocuments(
            SourceAccess(lambda: self.database.conninfo, address="here"), DocumentSettings(max_document_bytes=5_000_000)
        )
        settings = OpenSearchSettings(
            self.node.url, prefix=self.node.prefix, number_of_replicas=0, timeout_secs=60, **shaping
        )
        sink = OpenSearchSink("search", settings)
        try:
            documents.open(plans, threading.Event())
            sink.open(ME)
            sink.ensure(plans)
            refused: Dict[str, Dict[str, str]] = {}
            for case in cases:
                sink.begin_build(case.name)
                refused[case.name] = self._write(sink, case.name, self._build(documents, case))
                sink.complete_build(case.name)
        finally:
            sink.close()
            documents.close()
        return {case.name: self._judge(case, expected[case.name], refused[case.name]) for case in cases}

    @staticmethod
    def _build(documents: PostgresDocuments, case: Case) -> List[Document]:
        keys: Sequence[Any] = [(id,) for id in case.cells]
        built: List[Document] = []
        with documents.snapshot((), threading.Event()) as snapshot:
            while keys:
                some, keys = snapshot.build(case.name, keys)
                built.extend(some)
        assert sorted(document.id for document in built) == sorted(case.cells)
        return built

    @staticmethod
    def _write(sink: OpenSearchSink, index: str, documents: Iterable[Document]) -> Dict[str, str]:
        """Rejected ids with the reason: Postgres', or OpenSearch's."""
        refused: Dict[str, str] = {}
        writes: List[Write] = []

        def send() -> None:
            sink.renew()
            for failure in sink.write(writes):
                assert failure.kind is FailureKind.REJECTED, failure
                refused[writes[failure.position].id] = failure.reason
            writes.clear()

        for document in documents:
            if document.body is None:
                refused[document.id] = document.error or "no document"
                continue
            size = sum(len(write.body or b"") for write in writes) + len(document.body)
            if size > sink.max_bytes or len(writes) == sink.max_actions:
                send()
            writes.append(Write(index, document.id, document.body, build=True))
        send()
        return refused

    def _judge(self, case: Case, expected: Expected, refused: Dict[str, str]) -> Outcome:
        alias = self.node.prefix + case.name
        unlike = {id: why for id, why in expected.rejected.items() if id not in refused}
        assert not unlike, f"documents that the oracle rejects: {unlike}"
        for id in refused:
            expected.pop(id, None)
        # The neighbours of the rejected are all there, and as they should be.
        assert_same(expected, read_opensearch(self.node.url, alias), case.name)
        wrong = [f"{id}: rejected: {reason}" for id, reason in refused.items() if not case.cells[id].reason]
        wrong += [f"{id}: accepted" for id, cell in case.cells.items() if cell.reason and id not in refused]
        wrong += [f"{id}: rejected without a word" for id, reason in refused.items() if not reason]
        asked: List[Tuple[str, Query]] = []
        kept = 0
        for id, document in expected.items():
            queries = case.cells[id].finds(document[case.cells[id].field])
            kept += not queries
            asked += [(id, query) for query in queries]
        missed = self._missed(alias, asked)
        wrong += [f"{id}: not found by {json.dumps(query, default=str)[:200]}" for id, query in missed]
        searchable = len(expected) - kept - len({id for id, _ in missed})
        return Outcome(len(case.cells), searchable, kept, len(refused), wrong)

    def _missed(self, alias: str, asked: Sequence[Tuple[str, Query]]) -> List[Tuple[str, Query]]:
        missed: List[Tuple[str, Query]] = []
        for start in range(0, len(asked), 400):
            some = asked[start : start + 400]
            lines: List[str] = []
            for id, query in some:
                wanted = {"bool": {"filter": [{"ids": {"values": [id]}}, query]}}
                lines += ["{}", json.dumps({"size": 0, "query": wanted}, default=str)]
            answers = self.search(alias, lines)
            for one, answer in zip(some, answers):
                if answer.get("error") is not None or answer["hits"]["total"]["value"] != 1:
                    missed.append(one)
        return missed

    def search(self, alias: str, lines: Sequence[str]) -> List[Json]:
        url = f"{self.node.url}/{alias}/_msearch"
        data = "".join(line + "\n" for line in lines).encode()
        request = urllib.request.Request(url, data, {"content-type": "application/x-ndjson"}, method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:
            found: List[Json] = json.loads(response.read())["responses"]
        return found


@pytest.fixture
def servers(database: Database, opensearch_prefix: Prefix, tmp_path: Path) -> Iterator[Servers]:
    database.execute("CREATE EXTENSION citext")
    limit = sys.getrecursionlimit()
    # The oracle reads deep JSON by recursion.
    sys.setrecursionlimit(10_000)
    yield Servers(database, opensearch_prefix, tmp_path)
    sys.setrecursionlimit(limit)


def every_case() -> List[Case]:
    return [*(scalar_case(kind) for kind in SCALAR_KINDS), map_case(), geo_case(), custom_case(), aggregate_case()]


def test_every_cell_is_found_by_its_value_or_rejected_as_listed(servers: Servers) -> None:
    cases = {case.name: case for case in every_case()}
    outcomes = servers.run(list(cases.values()))
    lines = [f"{'case':18} {'cells':>6} {'searchable':>10} {'kept':>6} {'rejected':>8}"]
    lines += [f"{name:18} {o.cells:6} {o.searchable:10} {o.kept:6} {o.rejected:8}" for name, o in outcomes.items()]
    total = [sum(counts) for counts in zip(*((o.cells, o.searchable, o.kept, o.rejected) for o in outcomes.values()))]
    lines.append(f"{'all':18} {total[0]:6} {total[1]:10} {total[2]:6} {total[3]:8}")
    print("\n".join(lines))
    wrong = [f"{name}: {line}" for name, o in outcomes.items() for line in o.wrong]
    assert not wrong, "\n".join([f"{len(wrong)} cells", *wrong[:40]])
    assert total[0] == sum(total[1:])
    # Only what OpenSearch has no search for may be kept without one (aggregates: extremes and ids that are bytes).
    assert {name for name, o in outcomes.items() if o.kept} == {"kind_binary", "kind_json", "aggregates"}
    # The same queries find nothing that is not there.
    for kind, nobody in NOBODY.items():
        fields = sorted({cell.field for cell in cases[f"kind_{kind}"].cells.values()})
        queries = [query for field in fields for query in QUERIES[kind](field, nobody)]
        lines = [text for query in queries for text in ("{}", json.dumps({"size": 0, "query": query}))]
        answers = servers.search(f"{servers.node.prefix}kind_{kind}", lines)
        assert [answer["hits"]["total"]["value"] for answer in answers] == [0] * len(queries) != [], kind


SEARCHED = {
    "version": 1,
    "table": "articles",
    "primary_key": "id",
    "fields": [
        {"keyword": "id", "required": True},
        {"text": "title", "required": True},
        {"text": "english", "column": "title", "required": True, "options": {"analyzer": "english"}},
        {"identifier": "sku", "required": True},
        {"keyword": "exact", "column": "sku", "required": True, "options": {"ignore_above": 8, "fields": {}}},
        {"enum": "state", "required": True, "variants": ["draft", "in review", "live", "10", "9"]},
        {"json": "plain", "column": "extra", "required": False},
        {"json": "dynamic", "column": "extra", "required": False, "options": {"dynamic": True}},
        {"json": "flat", "column": "extra", "required": False, "options": {"type": "flat_object"}},
        {"timestamp": "at", "required": False},
        {
            "has_many": "comments",
            "table": "comments",
            "foreign_key": "article",
            "fields": [{"integer": "id", "required": True}, {"keyword": "author", "required": True},
                       {"short": "stars", "required": True}],
        },
        {
            "has_one": "last",
            "table": "comments",
            "foreign_key": "article",
            "order_by": [{"column": "id", "direction": "desc"}],
            "fields": [{"keyword": "author", "required": True}],
        },
        {"constant": "kind", "value": {"of": "article", "rank": [1, 2.5]}},
        {"count": "commented", "table": "comments", "foreign_key": "article"},
    ],
}  # fmt: skip

_ARTICLES = """
CREATE TYPE state AS ENUM ('live', 'draft', 'in review', '10', '9', 'retired');
CREATE TABLE articles (id text PRIMARY KEY, title text, sku text, state state, extra jsonb, at timestamptz);
CREATE TABLE comments (id int PRIMARY KEY, article text, author text, stars smallint);
INSERT INTO articles VALUES
    ('a', 'Crème Brûlée Running', 'AB-1234/xy', 'live', '{"size": {"w": 7}, "tag": "Red"}', '2024-01-02 03:04+02'),
    ('b', 'The cat ran home', 'CD-77', 'draft', '{"tag": "blue", "more": ["x", "y"]}', '2025-01-01 00:00+00'),
    ('c', 'Nothing', 'ÄB 1', 'in review', '{"size": {"w": 9}}', NULL),
    ('d', 'Last', 'zz', 'retired', NULL, NULL),
    ('e', 'Ten', 'Foo_Bar2', '10', '{}', NULL),
    ('f', 'Nine', 'short', '9', '{}', NULL);
INSERT INTO comments VALUES (1, 'a', 'ann', 1), (2, 'a', 'bob', 5), (3, 'b', 'ann', 5);
"""


def match(field: str, words: str) -> Query:
    return {"match": {field: {"query": words, "operator": "and"}}}


def term(field: str, value: Json) -> Query:
    return {"term": {field: value}}


def nested(path: str, *queries: Query) -> Query:
    return {"nested": {"path": path, "query": {"bool": {"must": list(queries)}}}}


class Library:
    """An index with one letter per document, asked by hand."""

    def __init__(self, servers: Servers, name: str, fields: List[Dict[str, Json]], sql: str, ids: str) -> None:
        self._servers = servers
        self._name = name
        self.case = Case(name)
        self.case.fields = fields
        self.case.cells = {id: Cell("", "", "", "id", _finder("id", by_term)) for id in ids}
        self.case.load = lambda connection: connection.execute(sql.encode())  # type: ignore[method-assign,assignment]

    def built(self, **shaping: Any) -> Library:
        assert not self._servers.run([self.case], **shaping)[self._name].wrong
        return self

    def found(self, query: Query, *sort: Json) -> str:
        body = {"query": query, "sort": list(sort) or ["id"], "size": 100}
        hits = self._servers.node.call("POST", f"/{{p}}{self._name}/_search", body)["hits"]["hits"]
        return "".join(hit["_id"] for hit in hits)

    def check(self, expected: Sequence[Tuple[Query, str]]) -> None:
        assert [(query, self.found(query)) for query, _ in expected] == list(expected)


def test_subfields_analyzers_options_objects_and_nested_rows_are_searched(servers: Servers) -> None:
    fields: List[Dict[str, Json]] = SEARCHED["fields"]  # type: ignore[assignment]
    library = Library(servers, "articles", fields, _ARTICLES, "abcdef").built()
    expected: List[Tuple[Query, str]] = [
        # Texts: folded, unless an option names another analyzer.
        (match("title", "creme brulee"), "a"),
        (match("title", "run"), ""),
        (match("english", "run"), "a"),
        (match("english", "the cats"), "b"),
        (term("title.keyword", "The cat ran home"), "b"),
        (term("title.keyword_lowercase", "the CAT ran home"), "b"),
        # Identifiers: by their parts, joined, and as they are.
        (match("sku", "1234"), "a"),
        (match("sku", "ab1234xy"), "a"),
        (match("sku", "AB-1234/xy"), "a"),
        (match("sku", "bar"), "e"),
        (match("sku", "ab"), "ac"),
        (term("sku.keyword_lowercase", "ab 1"), "c"),
        # Options: what is longer than ignore_above is kept and not searched.
        (term("exact", "CD-77"), "b"),
        (term("exact", "AB-1234/xy"), ""),
        (term("state", "in review"), "c"),
        (match("state.text", "REVIEW"), "c"),
        (term("state.keyword_lowercase", "LIVE"), "a"),
        # JSON: unread, in full, or flat.
        ({"exists": {"field": "plain"}}, ""),
        (term("dynamic.size.w", 7), "a"),
        ({"range": {"dynamic.size.w": {"gt": 7}}}, "c"),
        (match("dynamic.tag", "RED"), "a"),
        (term("flat.tag", "blue"), "b"),
        (term("flat.more", "y"), "b"),
        (term("flat", "Red"), "a"),
        ({"range": {"at": {"gte": "2024-01-02T01:04:00Z", "lt": "2024-01-02T01:05:00Z"}}}, "a"),
        # Two conditions on one related row, not on any two.
        (nested("comments", term("comments.author", "ann"), term("comments.stars", 5)), "b"),
        (term("last.author", "bob"), "a"),
        (term("kind.of", "article"), "abcdef"),
        (term("kind.rank", 2.5), "abcdef"),
        (term("commented", 2), "a"),
    ]
    library.check(expected)
    # By the order of the variants, and what is none of them after.
    assert library.found({"match_all": {}}, "state.sort", "id") == "bcaefd"


PLACES_FIELDS: List[Dict[str, Json]] = [
    {"keyword": "id", "required": True},
    {"geo": "at", "lat": "lat", "lon": "lon", "required": False},
    {"geo": "area", "required": False},
    {"map": "names", "values": "text", "required": False},
    {"map": "seats", "values": "long", "required": False},
    {"map": "opened", "values": "date", "required": False},
    {"map": "codes", "values": "keyword", "required": False},
    {
        "many_to_many": "owners",
        "table": "owners",
        "through": {"table": "owned", "left_key": "place", "right_key": "owner"},
        "fields": [
            {"text": "name", "required": True},
            {"geo": "home", "required": False},
            {"map": "labels", "values": "keyword", "required": False},
            {
                "has_many": "grades",
                "table": "grades",
                "foreign_key": "owner",
                "fields": [
                    {"enum": "grade", "required": True, "variants": ["low", "below", "high"]},
                    {"decimal": "points", "required": True},
                ],
            },
        ],
    },
    {
        "ids": "ownerIds",
        "table": "owners",
        "element_type": "integer",
        "through": {"table": "owned", "left_key": "place", "right_key": "owner"},
    },
    {
        "avg": "size",
        "table": "owners",
        "column": "size",
        "through": {"table": "owned", "left_key": "place", "right_key": "owner"},
    },
]

_PLACES = """
CREATE TABLE places (
    id text PRIMARY KEY, lat numeric, lon real, area jsonb, names jsonb, seats json, opened jsonb, codes jsonb
);
CREATE TABLE owners (id int PRIMARY KEY, name text, home text, labels jsonb, size int);
CREATE TABLE owned (place text, owner int, PRIMARY KEY (place, owner));
CREATE TABLE grades (id int PRIMARY KEY, owner int, grade text, points numeric);
INSERT INTO places VALUES
    ('a', 48.8583, 2.2945, '[{"lat": 1, "lon": 2}, {"lat": 60, "lon": 25}]', '{"en": "Eiffel Tower", "fr": "La Tour"}',
     '{"inside": 12, "outside": [3, 400]}', '{"first": "1889-03-31"}', '{"x": "A-1", "y.z": "B"}'),
    ('b', 51.5007, -0.1246, '{"lat": 59, "lon": 24}', '{"en": "Big Ben", "de": "Glocke des Turms"}',
     '{"inside": 4}', '{"first": "1859-05-31", "last": "+10000-01-01"}', '{"x": "a-1"}'),
    ('c', -17.7134, 178.065, '"-17.7,-178"', '{"fr": "Tower"}', '{}', NULL, '{"y": {"z": "B"}}'),
    ('d', NULL, 1, NULL, NULL, NULL, '{"first": "-0043-03-15"}', NULL);
INSERT INTO owners VALUES
    (1, 'Ann Öz', '48,2', '{"k": "v"}', 2), (2, 'Bob', '51,0', NULL, 5), (3, 'Cy', NULL, '{"k": "w"}', 0);
INSERT INTO owned VALUES ('a', 1), ('a', 2), ('b', 2), ('c', 3), ('c', 9);
INSERT INTO grades VALUES (1, 1, 'high', 1.5), (2, 1, 'low', 9.5), (3, 2, 'below', 9.5), (4, 3, 'beyond', 3);
"""


def test_places_maps_and_rows_inside_rows_are_searched(servers: Servers) -> None:
    library = Library(servers, "places", PLACES_FIELDS, _PLACES, "abcd").built()

    def distance(field: str, far: str, lat: float, lon: float) -> Query:
        return {"geo_distance": {"distance": far, field: {"lat": lat, "lon": lon}}}

    def box(field: str, top: float, left: float, bottom: float, right: float) -> Query:
        corners = {"top_left": {"lat": top, "lon": left}, "bottom_right": {"lat": bottom, "lon": right}}
        return {"geo_bounding_box": {field: corners}}

    def between(field: str, **limits: Json) -> Query:
        return {"range": {field: limits}}

    inner = "owners.grades"
    expected: List[Tuple[Query, str]] = [
        (distance("at", "1km", 48.8584, 2.2945), "a"),
        (distance("at", "400km", 48.8584, 2.2945), "ab"),
        (distance("at", "100km", -17.7, -179.0), ""),
        (box("at", 52, -1, 48, 3), "ab"),
        # Over the antimeridian.
        (box("at", 0, 170, -20, -170), "c"),
        (box("area", 61, 23, 58, 26), "ab"),
        (box("area", 0, 170, -20, -170), "c"),
        ({"exists": {"field": "at"}}, "abc"),
        # Maps: each key is a field of its kind.
        (match("names.en", "tower"), "a"),
        (match("names.fr", "TOWER"), "c"),
        ({"multi_match": {"query": "tower", "fields": ["names.*"]}}, "ac"),
        (term("names.en.keyword", "Big Ben"), "b"),
        (between("seats.inside", gte=4, lt=12), "b"),
        (term("seats.outside", 400), "a"),
        (between("opened.first", gte="1859-01-01", lte="1859-12-31"), "b"),
        (between("opened.first", lt="0001-01-01"), "d"),
        (between("opened.last", gt="9999-12-31"), "b"),
        (term("codes.x", "A-1"), "a"),
        (term("codes.x.keyword_lowercase", "A-1"), "ab"),
        (term("codes.y.z", "B"), "ac"),
        ({"exists": {"field": "codes.x"}}, "ab"),
        # Rows of rows, each by itself.
        (nested("owners", match("owners.name", "oz")), "a"),
        (nested("owners", distance("owners.home", "10km", 51, 0)), "ab"),
        (nested("owners", term("owners.labels.k", "w")), "c"),
        (nested("owners", nested(inner, term(f"{inner}.grade", "high"), term(f"{inner}.points", 9.5))), ""),
        (nested("owners", nested(inner, term(f"{inner}.grade", "below"), term(f"{inner}.points", 9.5))), "ab"),
        (nested("owners", match("owners.name", "bob"), nested(inner, term(f"{inner}.grade", "low"))), ""),
        (term("ownerIds", 2), "ab"),
        (term("ownerIds", 9), "c"),
        (term("size", 3.5), "a"),
    ]
    library.check(expected)
    everything: Query = {"match_all": {}}
    by_distance = {"_geo_distance": {"at": {"lat": 51, "lon": 0}, "order": "asc", "unit": "km"}}
    assert library.found(everything, by_distance, "id") == "bacd"
    path = {"path": "owners", "nested": {"path": inner}}
    worst = {f"{inner}.grade.sort": {"order": "asc", "mode": "min", "nested": path}}
    # Rank by rank: low, below, and what is no variant; a place without owners last.
    assert library.found(everything, worst, "id") == "abcd"


def test_without_automatic_subfields_only_what_was_asked_for_is_searched(servers: Servers) -> None:
    fields: List[Dict[str, Json]] = SEARCHED["fields"]  # type: ignore[assignment]
    own = {"text": "own", "column": "title", "required": True, "options": {"fields": {"raw": {"type": "keyword"}}}}
    library = Library(servers, "articles", [*fields, own], _ARTICLES, "abcdef").built(auto_subfields=False)
    expected: List[Tuple[Query, str]] = [
        # OpenSearch's own analyzer folds no accents; an identifier keeps ours.
        (match("title", "creme"), ""),
        (match("title", "crème"), "a"),
        (match("english", "run"), "a"),
        (match("sku", "ab1234xy"), "a"),
        (match("sku", "ab"), "ac"),
        (term("title.keyword", "The cat ran home"), ""),
        (term("own.raw", "The cat ran home"), "b"),
        (term("state", "in review"), "c"),
        (match("state.text", "review"), ""),
        (term("state.keyword_lowercase", "live"), ""),
        (nested("comments", term("comments.author", "ann")), "ab"),
        (term("dynamic.size.w", 7), "a"),
    ]
    library.check(expected)
    assert library.found({"match_all": {}}, "state.sort", "id") == "bcaefd"


def test_deep_arrays_have_room_only_where_no_document_can_deepen_the_mapping() -> None:
    unread = {"json": "a", "required": False}
    growing: List[Dict[str, Json]] = [
        {"map": "b", "values": "long", "required": False},
        {"json": "b", "required": False, "options": {"dynamic": True}},
        {
            "custom": "b",
            "postgres": ["jsonb"],
            "opensearch": "object",
            "required": False,
            "options": {"dynamic": "true"},
        },
        {"object": "b", "fields": [{"map": "c", "values": "text", "required": False}]},
    ]

    def limits(*fields: Json) -> Json:
        plan, _ = parse_mapping({"version": 1, "table": "t", "primary_key": "id", "fields": list(fields)}, "t")
        return index_body(plan, OpenSearchSettings("http://nowhere"), {})["settings"]["index"].get("mapping", {})

    assert limits(unread)["depth"]["limit"] == 1000
    for field in growing:
        found = limits(unread, field)
        assert "depth" not in found and found["total_fields"]["limit"] > 5000, field


# -- the manual --------------------------------------------------------------------------------------------------------

#: Kind -> how its values stand in a document.
FORMS: Dict[str, str] = {
    "text": "string",
    "identifier": "string",
    "keyword": "string",
    "enum": "string; an ENUM's label",
    "uuid": "string, lower case with hyphens",
    "boolean": "`true`, `false`",
    "short": "number",
    "integer": "number",
    "long": "number, exact over 64 bits",
    "float": "number as Postgres prints it; NaN and infinities: null",
    "double": "number as Postgres prints it; NaN and infinities: null",
    "decimal": "number with all of its digits; NaN and infinities: null; money: a number",
    "date": '`"2024-01-02"`, `"-0043-03-15"`, `"+10000-01-01"`; infinite: null',
    "timestamp": '`"2024-01-02T03:04:05.123456+00:00"` (UTC), without zone `"2024-01-02T03:04:05"`, `"03:04:05"`; '
    "infinite: null",
    "binary": "base64 without line breaks",
    "json": "the value; of repeated keys the last",
    "map": "object",
    "geo": '`{"lat": 45, "lon": 7}`, or the column\'s value',
}

#: What OpenSearch's type alone does not say.
REMARKS: Dict[str, str] = {
    "keyword": f", found by its term up to {LONGEST_KEYWORD:,} UTF-16 units, beyond that by words of `.text`",
    "enum": ", with `variants` also `.sort`",
    "decimal": ", searched by the nearest double",
    "date": ", searched to the millisecond",
    "timestamp": ", searched to the millisecond",
    "binary": ", kept and not searched",
    "json": " that is kept and not searched, unless `options` say otherwise",
    "map": " with a property per key",
}


def kinds_table() -> str:
    rows = ["| kind | column types | in a document | in OpenSearch |", "|---|---|---|---|"]
    for kind in (*SCALAR_KINDS, "map", "geo"):
        names = ACCEPTED.get(kind, GEO_COLUMN)
        types = ", ".join(f"`{name}`" for name in sorted(names))
        if kind == "geo":
            types += "; `lat` and `lon`: " + ", ".join(f"`{name}`" for name in sorted(GEO_NUMBER))
        remark = REMARKS.get("keyword" if OPENSEARCH[kind] == "keyword" else kind, "")
        remark += REMARKS["enum"] if kind == "enum" else ""
        rows.append(f"| `{kind}` | {types} | {FORMS[kind]} | `{OPENSEARCH[kind]}`{remark} |")
    return "\n".join(rows)


def rejected_table() -> str:
    """Every reason once per kind, with the values that it was tried with."""
    found: Dict[Tuple[str, str], Tuple[Dict[str, None], Dict[str, None]]] = {}
    for case in every_case():
        for cell in case.cells.values():
            # Extremes and ids are rejected for what their kind is rejected for.
            if cell.reason and cell.kind not in ("min", "max", "ids"):
                types, values = found.setdefault((cell.kind, cell.reason), ({}, {}))
                type_ = re.sub(r"^domain over |(\[\])+$", "", cell.type)
                types[re.sub(r"^(jsonb?) of .*", r"\1", re.sub(r"^two .*", "two numbers", type_))] = None
                if cell.type == type_:
                    values[cell.value] = None
    rows = ["| kind | column types | values | why |", "|---|---|---|---|"]
    for (kind, reason), (types, values) in found.items():
        rows.append(f"| `{kind}` | {', '.join(sorted(types))} | {'; '.join(values)} | {reason} |")
    return "\n".join(rows)


def test_the_manual_has_the_tables_of_this_test() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    written = text
    for name, table in (("kinds", kinds_table()), ("rejected", rejected_table())):
        block = f"<!-- {name}: begin -->\n\n{table}\n\n<!-- {name}: end -->"
        pattern = re.compile(f"<!-- {name}: begin -->.*<!-- {name}: end -->", re.DOTALL)
        assert len(pattern.findall(text)) == 1
        written = pattern.sub(lambda _, block=block: block, written)  # type: ignore[misc]
    if os.environ.get("FLUSSO_WRITE_TYPES") == "1":
        MANUAL.write_text(written, encoding="utf-8")
        text = written
    assert text == written, "FLUSSO_WRITE_TYPES=1 writes the tables anew"


def test_every_accepted_column_type_and_every_kind_is_in_the_table() -> None:
    cells = [cell for case in every_case() for cell in case.cells.values()]
    tried = {(cell.kind, cell.type) for cell in cells}
    for kind, names in ACCEPTED.items():
        for name in names if kind != "map" else ():
            assert (kind, name) in tried
            assert name.endswith("serial") or {(kind, f"domain over {name}"), (kind, f"{name}[]")} <= tried
    assert {("map", f"{type_} of {kind}") for type_ in ACCEPTED["map"] for kind in MAP_VALUES} <= tried
    assert {("geo", name) for name in GEO_COLUMN} | {("geo", f"two {name}") for name in GEO_NUMBER} <= tried
    listed = {value for reasons in REJECTED.values() for value in reasons}
    assert listed <= {cell.value for cell in cells if cell.reason}

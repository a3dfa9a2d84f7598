"""One value as JSON text, one key as document id: SQL expressions by the column's own type, never by chance.

Pure text.  A *piece* is part of the JSON being put together: a :class:`Text` that is there already, or an SQL
expression that yields text and is never NULL.  The sessions that run these expressions have TimeZone UTC,
DateStyle ISO, extra_float_digits 1 and bytea_output hex.  Every function, operator and type is named with its schema,
so that no ``search_path`` can put another in its place.
"""

from __future__ import annotations

import json
import math
from typing import Any, Iterable, List, Optional, Sequence, Tuple, Union

from flusso_sync.postgres.catalog import Column, Type
from flusso_sync.postgres.quoting import literal

#: ``concat`` takes at most 100 arguments.
MAX_PIECES = 90

NULL = "'null'"

#: Types that are a day, with or without a time.
_MOMENTS = frozenset({"date", "timestamp", "timestamptz"})

#: Types whose equal values always render to equal text.  All others are compared once more as text.
_EXACT = frozenset(
    {
        *("int2", "int4", "int8", "oid", "numeric", "money", "uuid", "bool", "bytea"),
        *("date", "timestamp", "timestamptz", "time", "text", "varchar", "bpchar", "name", "char"),
    }
)

_INTEGERS = frozenset({"int2", "int4", "int8"})

#: Types whose rendering never has a ``:`` or ``%``, so that a part of a composite id needs no escaping.
_CLEAN = frozenset({"int2", "int4", "int8", "oid", "numeric", "money", "uuid", "bool", "bytea", "date"})

#: Types with min and max of their own, whose equal values print alike.
_EXTREMES = frozenset({"int2", "int4", "int8", "date", "timestamp", "timestamptz", "time", "text", "varchar"})

#: What Postgres' own array_to_json renders just as we do, element by element.
_SIMPLE_ELEMENTS = frozenset({"int2", "int4", "int8", "bool", "text", "varchar", "name", "uuid", "time", "jsonb"})

#: What it renders so after a cast.
_CAST_ELEMENTS = {"bpchar": "text", "char": "text", "money": "numeric", "json": "jsonb"}


class Text(str):
    """JSON text that stands in the statement as it is."""


Piece = Union[Text, str]


# -- operators and casts ------------------------------------------------------------------------------


def operator(symbol: str, schema: str = "pg_catalog") -> str:
    return f"OPERATOR({schema}.{symbol})"


def compare(left: str, symbol: str, right: str, schema: str = "pg_catalog") -> str:
    return f"({left} {operator(symbol, schema)} {right})"


def typed(text: str, type_: Type) -> str:
    """``text`` as a constant of a type."""
    return f"{literal(text)}::{type_.sql}"


# -- pieces -------------------------------------------------------------------------------------------


def joined(pieces: Iterable[Piece]) -> str:
    """One text expression out of pieces; neighbouring texts melt into one literal."""
    melted: List[Piece] = []
    for piece in pieces:
        if isinstance(piece, Text) and melted and isinstance(melted[-1], Text):
            melted[-1] = Text(melted[-1] + piece)
        else:
            melted.append(piece)
    return _concat([literal(piece) if isinstance(piece, Text) else piece for piece in melted])


def _concat(arguments: List[str]) -> str:
    if len(arguments) > MAX_PIECES:
        groups = [arguments[at : at + MAX_PIECES] for at in range(0, len(arguments), MAX_PIECES)]
        return _concat([_concat(group) for group in groups])
    return f"pg_catalog.concat({', '.join(arguments)})"


def member(name: str, value: Sequence[Piece]) -> List[Piece]:
    """One name of a JSON object with the pieces of its value."""
    return [Text(json.dumps(name, ensure_ascii=False) + ":"), *value]


def listed(parts: Iterable[Sequence[Piece]]) -> List[Piece]:
    """The parts with commas between them."""
    pieces: List[Piece] = []
    for part in parts:
        pieces.extend([Text(","), *part] if pieces else part)
    return pieces


def members(parts: Iterable[Sequence[Piece]]) -> List[Piece]:
    """A JSON object of its members."""
    return [Text("{"), *listed(parts), Text("}")]


def constant(value: Any) -> Text:
    """A constant as JSON with its own type; what JSON cannot carry becomes null, as in columns."""
    return Text(json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value


# -- values -------------------------------------------------------------------------------------------


def value(expression: str, column: Column, transforms: Sequence[str] = (), default: Optional[str] = None) -> str:
    """The JSON text of a column's value, after its transforms, else of its default, else ``null``."""
    type_ = column.type
    if transforms:
        text = as_text(expression, type_)
        for transform in transforms:
            text = f"pg_catalog.lower({text})" if transform == "lowercase" else f"pg_catalog.btrim({text}, ' ')"
        if default is not None:
            text = f"COALESCE({text}, {as_text(typed(default, type_), type_)})"
        return _or_null(_string(text))
    if default is not None:
        expression = f"COALESCE({expression}, {typed(default, type_)})"
    return json_of(expression, type_)


def json_of(expression: str, type_: Type) -> str:
    """The JSON text of any value; SQL NULL gives ``null``."""
    return _or_null(_array(expression, type_) if type_.is_array else _scalar(expression, type_))


def as_text(expression: str, type_: Type) -> str:
    """A value of the text family as text; char(n) loses its padding."""
    return expression if type_.is_builtin and type_.base == "text" else f"({expression})::pg_catalog.text"


def number(expression: str, type_: Type) -> str:
    """A number as text; NULL for NULL, NaN and infinities."""
    if type_.base in ("numeric", "float4", "float8"):
        # Postgres sorts NaN above infinity, so one comparison excludes both.
        bound = f"'Infinity'::pg_catalog.{type_.base}"
        lowest = f"'-Infinity'::pg_catalog.{type_.base}"
        finite = f"{compare(expression, '<', bound)} AND {compare(expression, '>', lowest)}"
        return f"CASE WHEN {finite} THEN ({expression})::pg_catalog.text END"
    if type_.base == "money":
        return f"({expression})::pg_catalog.numeric::pg_catalog.text"
    return f"({expression})::pg_catalog.text"


def _or_null(expression: str) -> str:
    return f"COALESCE({expression}, {NULL})"


def _string(expression: str) -> str:
    return f"pg_catalog.to_json({expression})::pg_catalog.text"


def _quoted(expression: str) -> str:
    """A text with nothing to escape, in quotes; NULL stays NULL."""
    return f"('\"' {operator('||')} {expression} {operator('||')} '\"')"


def _scalar(expression: str, type_: Type) -> str:
    """The JSON text of a value that is no array; NULL for NULL and for what JSON cannot carry."""
    base = type_.base
    if type_.is_enum or base == "citext":
        return _string(f"({expression})::pg_catalog.text")
    if not type_.is_builtin:
        return _other(expression)
    if base in ("text", "varchar"):
        return _string(expression)
    if base in ("bpchar", "char", "name"):
        return _string(f"({expression})::pg_catalog.text")
    if base in ("int2", "int4", "int8", "numeric", "float4", "float8", "money"):
        return number(expression, type_)
    if base == "bool":
        return f"CASE WHEN {expression} THEN 'true' WHEN NOT {expression} THEN 'false' END"
    if base in _MOMENTS:
        return _moment(expression, base, quote='"')
    if base in ("uuid", "time", "timetz"):
        return _quoted(_plain(expression, base))
    if base == "bytea":
        encoded = f"pg_catalog.encode({expression}, 'base64')"
        return _quoted(f"pg_catalog.translate({encoded}, E'\\n', '')")
    if base == "json":
        # Through jsonb: no raw line break, one value per key.
        return f"({expression})::pg_catalog.jsonb::pg_catalog.text"
    if base == "jsonb":
        return f"({expression})::pg_catalog.text"
    return _other(expression)


def _other(expression: str) -> str:
    """Any other type as Postgres puts it into JSON; a raw line break is never data there."""
    return f"pg_catalog.translate(pg_catalog.to_json({expression})::pg_catalog.text, E'\\n\\r', '')"


def _plain(expression: str, base: str) -> str:
    if base == "timetz":
        return f"pg_catalog.timezone('UTC', {expression})::pg_catalog.time::pg_catalog.text"
    return f"({expression})::pg_catalog.text"


def _moment(expression: str, base: str, quote: str = "") -> str:
    """ISO 8601: what Postgres' JSON prints, except that years outside 1..9999 are signed; infinite gives NULL."""
    zone = " 00:00:00+00" if base == "timestamptz" else ""
    first, beyond = (f"'{day}{zone}'::pg_catalog.{base}" for day in ("0001-01-01", "10000-01-01"))
    usual = f"{compare(expression, '>=', first)} AND {compare(expression, '<', beyond)}"
    string = f"pg_catalog.to_json({expression})::pg_catalog.text"
    bare = f"pg_catalog.btrim({string}, '\"')"
    # Postgres prints 44 BC for what ISO 8601 calls -0043: it has a year 0.
    # extract, not date_part: the latter makes a timestamp of a date, and there are later dates than timestamps.
    year = f"pg_catalog.\"extract\"('year', {expression})::pg_catalog.int4"
    iso = f"CASE WHEN {compare(year, '<', '0')} THEN {year} {operator('+')} 1 ELSE {year} END"
    digits = f"pg_catalog.abs({iso})::pg_catalog.text"
    signed = (
        f"(SELECT pg_catalog.concat('{quote}', "
        f"CASE WHEN {compare('iso.year', '<', '0')} THEN '-' WHEN {compare('iso.year', '>', '9999')} THEN '+' END, "
        f"pg_catalog.lpad(iso.digits, GREATEST(4, pg_catalog.length(iso.digits)), '0'), "
        f"pg_catalog.regexp_replace({bare}, E'^\\\\d+| BC$', '', 'g'), '{quote}') "
        f"FROM (SELECT {iso}, {digits}) AS iso(year, digits))"
    )
    return (
        f"CASE WHEN {usual} THEN {string if quote else bare} WHEN pg_catalog.isfinite({expression}) THEN {signed} END"
    )


# -- arrays -------------------------------------------------------------------------------------------


def _array(expression: str, type_: Type) -> str:
    """A JSON array, nested as the Postgres one is; NULL for NULL."""
    base = type_.base
    if type_.is_enum or (type_.is_builtin and base in _SIMPLE_ELEMENTS) or base == "citext":
        return f"pg_catalog.array_to_json({expression})::pg_catalog.text"
    if type_.is_builtin and base in ("numeric", "float4", "float8"):
        # Only NaN and infinities are in quotes.
        array = f"pg_catalog.array_to_json({expression})::pg_catalog.text"
        return f"pg_catalog.regexp_replace({array}, '\"[^\"]*\"', 'null', 'g')"
    if type_.is_builtin and base in _CAST_ELEMENTS:
        cast = f"({expression})::pg_catalog.{_CAST_ELEMENTS[base]}[]"
        return f"pg_catalog.array_to_json({cast})::pg_catalog.text"
    if type_.is_builtin and (base in _MOMENTS or base in ("timetz", "bytea")):
        return _elements(expression, _or_null(_scalar("part.value", Type(sql="", base=base))))
    return _other(expression)


def _elements(expression: str, element: str) -> str:
    """An array put together from its elements, of any number of dimensions (Postgres has up to six)."""
    unnested = f"pg_catalog.unnest({expression}) WITH ORDINALITY AS part(value, place)"
    listed = f"pg_catalog.string_agg({element}, ',' ORDER BY part.place)"
    flat = f"(SELECT pg_catalog.concat('[', {listed}, ']') FROM {unnested})"
    # A dimension opens and closes with every so many elements: its own and those of all dimensions inside it.
    size = f"pg_catalog.cardinality({expression})"
    sizes = [size]
    for dimension in range(2, 7):
        size = f"{size} {operator('/')} pg_catalog.array_length({expression}, {dimension - 1})"
        exists = f"pg_catalog.array_length({expression}, {dimension}) IS NOT NULL"
        sizes.append(f"CASE WHEN {exists} THEN {size} END")
    values = ", ".join(f"({size})" for size in sizes)

    def brackets(bracket: str, place: str) -> str:
        edge = compare(f"(({place}) {operator('%')} edge.size)", "=", "0")
        return f"(SELECT pg_catalog.string_agg('{bracket}', '') FROM (VALUES {values}) AS edge(size) WHERE {edge})"

    opening, closing = brackets("[", f"part.place {operator('-')} 1"), brackets("]", "part.place")
    nested = (
        f"(SELECT pg_catalog.string_agg(pg_catalog.concat({opening}, {element}, {closing}), ',' ORDER BY part.place) "
        f"FROM {unnested})"
    )
    return (
        f"CASE WHEN {compare(f'pg_catalog.array_ndims({expression})', '>', '1')} THEN {nested} "
        f"WHEN {expression} IS NOT NULL THEN {flat} END"
    )


# -- ids ----------------------------------------------------------------------------------------------


def key_text(expression: str, type_: Type) -> str:
    """One key column's value as it stands in an id."""
    if not type_.is_array and type_.is_builtin:
        if type_.base == "numeric":
            return f"pg_catalog.trim_scale({expression})::pg_catalog.text"
        if type_.base == "money":
            return f"({expression})::pg_catalog.numeric::pg_catalog.text"
        if type_.base in _MOMENTS:
            return f"COALESCE({_moment(expression, type_.base)}, ({expression})::pg_catalog.text)"
        if type_.base == "timetz":
            return _plain(expression, type_.base)
        if type_.base in ("inet", "cidr"):
            # Its cast to text adds a netmask that its output, and so the document, does not have.
            return f"pg_catalog.concat({expression})"
    return f"({expression})::pg_catalog.text"


def id_of(parts: Sequence[Tuple[str, Type]]) -> str:
    """The document id of a key: one value as it is, several joined by ``:`` with ``:`` and ``%`` escaped."""
    if len(parts) == 1:
        return key_text(*parts[0])
    texts: List[str] = []
    for expression, type_ in parts:
        text = key_text(expression, type_)
        if type_.is_array or not type_.is_builtin or type_.base not in _CLEAN:
            # Bytes are searched, whatever the column's collation: a nondeterministic one refuses to be searched.
            text = f"""pg_catalog.replace(pg_catalog.replace({text} COLLATE "C", '%', '%25'), ':', '%3A')"""
        texts.append(text)
    return "(" + f" {operator('||')} ':' {operator('||')} ".join(texts) + ")"


def is_exact(column: Column) -> bool:
    """Whether equal values of a key column always give the same id text."""
    if column.type.is_array or not column.deterministic:
        return False
    return column.type.is_enum or (column.type.is_builtin and column.type.base in _EXACT)


def prints_alike(one: Column, key: Column) -> bool:
    """Whether a value of ``one`` that is equal to one of a key column always gives the same id text."""
    if not is_exact(key) or not one.deterministic:
        return False
    return one.type.sql == key.type.sql or {one.type.base, key.type.base} <= _INTEGERS and one.type.is_builtin


def has_extremes(column: Column) -> bool:
    """Whether ``min`` and ``max`` of a column are what its first and last value by order print as."""
    if column.type.is_array or not column.deterministic or not column.type.is_builtin:
        return False
    # numeric(p, s) has one scale, so that 1.0 and 1.00 never meet.
    return column.type.base in _EXTREMES or (column.type.base == "numeric" and column.type_modifier >= 0)

"""Which Postgres types a field kind reads, and which OpenSearch type it becomes.

One table for the document SQL, the mapping and the checks; pure.  Type names are compared after
:func:`normalise`, so an array of an accepted type is accepted.  What a catalog says about a user's ENUM or
domain is the caller's to look up: an ENUM counts as ``text``, a domain as its base type.
"""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, Iterable, Mapping, Tuple

_TEXT = frozenset({"text", "character varying", "varchar", "character", "char", "bpchar", "citext", "name"})
_JSON = frozenset({"json", "jsonb"})
_TIME = frozenset(
    {
        "timestamp",
        "timestamptz",
        "timestamp with time zone",
        "timestamp without time zone",
        "time",
        "timetz",
        "time with time zone",
        "time without time zone",
    }
)

#: Kind -> column types it reads, normalised.  ``custom`` brings its own list, ``geo`` is below.
ACCEPTED: Mapping[str, FrozenSet[str]] = {
    "text": _TEXT,
    "identifier": _TEXT,
    "keyword": _TEXT,
    "enum": _TEXT,
    "uuid": frozenset({"uuid"}),
    "boolean": frozenset({"boolean", "bool"}),
    "short": frozenset({"smallint", "int2", "smallserial"}),
    "integer": frozenset({"integer", "int", "int4", "serial"}),
    "long": frozenset({"bigint", "int8", "bigserial"}),
    "float": frozenset({"real", "float4"}),
    "double": frozenset({"double precision", "float8"}),
    "decimal": frozenset({"numeric", "decimal", "money"}),
    "date": frozenset({"date"}),
    "timestamp": _TIME,
    "binary": frozenset({"bytea"}),
    "json": _JSON,
    "map": _JSON,
}

#: One-column geo: a GeoJSON-like value or a "lat,lon" text.
GEO_COLUMN: FrozenSet[str] = _JSON | _TEXT

#: Two-column geo: each a number.
GEO_NUMBER: FrozenSet[str] = frozenset().union(
    *(ACCEPTED[kind] for kind in ("double", "float", "decimal", "integer", "long", "short"))
)

#: Kind -> OpenSearch type of its property; ``custom`` names its own.
OPENSEARCH: Mapping[str, str] = {
    "text": "text",
    "identifier": "text",
    "keyword": "keyword",
    "enum": "keyword",
    "uuid": "keyword",
    "boolean": "boolean",
    "short": "short",
    "integer": "integer",
    "long": "long",
    "float": "float",
    "double": "double",
    "decimal": "double",
    "date": "date",
    "timestamp": "date",
    "binary": "binary",
    "json": "object",
    "map": "object",
    "geo": "geo_point",
}

#: The kinds whose type key takes a single column and nothing else of its own, plus ``enum``: what
#: ``value_type`` and ``element_type`` accept.
SCALAR_KINDS: Tuple[str, ...] = (
    "text",
    "identifier",
    "keyword",
    "enum",
    "uuid",
    "boolean",
    "short",
    "integer",
    "long",
    "float",
    "double",
    "decimal",
    "date",
    "timestamp",
    "binary",
    "json",
)

#: What ``values`` of a map accepts.
MAP_VALUES: Tuple[str, ...] = tuple(kind for kind in SCALAR_KINDS if kind not in ("boolean", "binary", "json"))

_WHOLE_NUMBERS = ("short", "integer", "long")

_DIRECT_TYPES: Tuple[Tuple[type, str], ...] = ((bool, "boolean"), (int, "long"), (float, "double"))


def normalise(type_name: str) -> str:
    """The catalog's spelling of a type without array brackets and modifiers, lowercased.

    ``numeric(10,2)[]`` → ``numeric``; ``timestamp(3) with time zone`` → ``timestamp``.
    """
    name = type_name.strip()
    while name.endswith("[]"):
        name = name[:-2].rstrip()
    return name.split("(", 1)[0].strip().lower()


def accepts(kind: str, type_name: str, postgres: Iterable[str] = ()) -> bool:
    """Whether a column of ``type_name`` can be read by ``kind``; ``postgres`` is a custom field's own list."""
    name = normalise(type_name)
    if kind == "custom":
        return name in {normalise(own) for own in postgres}
    return name in ACCEPTED.get(kind, frozenset())


def accepts_geo(type_name: str, *, pair: bool) -> bool:
    """Whether a column can be a geo field: one of ``lat`` and ``lon`` (``pair``), or the whole place."""
    return normalise(type_name) in (GEO_NUMBER if pair else GEO_COLUMN)


def accepts_aggregate(op: str, value_type: str, type_name: str) -> bool:
    """Whether ``value_type`` can hold ``op`` (sum, min, max, ids) over a column of ``type_name``.

    A sum of whole numbers is wider than its column: Postgres returns bigint, so ``integer`` and ``long`` both
    hold it, whatever the width of the column.
    """
    if accepts(value_type, type_name):
        return True
    if op != "sum" or value_type not in ("integer", "long"):
        return False
    return any(accepts(kind, type_name) for kind in _WHOLE_NUMBERS)


def opensearch_type(kind: str, custom: str = "") -> str:
    """The OpenSearch type of a kind; ``custom`` is what a custom field names."""
    return custom if kind == "custom" else OPENSEARCH[kind]


def constant_type(value: Any) -> str:
    """The OpenSearch type of a constant: a list is typed by its first element, an empty one is ``keyword``."""
    if isinstance(value, (list, tuple)):
        return constant_type(value[0]) if value else "keyword"
    if isinstance(value, dict):
        return "object"
    for python_type, name in _DIRECT_TYPES:
        if isinstance(value, python_type):
            return name
    return "keyword"


def describe(kind: str) -> str:
    """The accepted types of a kind, for a sentence: ``smallint, int2 or smallserial``."""
    names = sorted(ACCEPTED[kind])
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def kinds_of(type_name: str) -> Tuple[str, ...]:
    """Every kind that reads a column of ``type_name``, in the order of the manual."""
    found: Dict[str, None] = {kind: None for kind in ACCEPTED if accepts(kind, type_name)}
    return tuple(found)

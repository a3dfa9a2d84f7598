"""The JSON Schema of ``*.schema.yml``, made from the language's own tables, for editors.

Draft 7, which every editor's YAML support knows.  It holds whatever the shape of a file can tell; that two columns
are as many as two others, that names differ, that a name is short enough, is left to ``flussod check``.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from flusso_sync.schema import language, meanings, names
from flusso_sync.schema.types import MAP_VALUES, SCALAR_KINDS

Node = Dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"

_NULL: Node = {"type": "null"}
_IDENTIFIER: Node = {"type": "string", "pattern": names.IDENTIFIER_PATTERN}
_FIELD_NAME: Node = {"type": "string", "pattern": names.NAME_PATTERN}
_TABLE: Node = {"type": "string", "pattern": names.TABLE_PATTERN}
_SCALAR: Node = {"type": ["string", "number", "boolean"]}
_FLAG: Node = {"type": "boolean"}
_TEXT: Node = {"type": "string", "pattern": r"\S"}


def _ref(name: str) -> Node:
    return {"$ref": f"#/definitions/{name}"}


def _words(accepted: Any) -> Node:
    return {"type": "string", "enum": list(accepted)}


#: Key beside a type key -> what it takes, in every kind it belongs to but those below.
_SHAPES: Mapping[str, Node] = {
    "required": _FLAG,
    "column": _IDENTIFIER,
    "options": {"type": "object"},
    "transforms": {"type": "array", "items": _words(language.TRANSFORMS)},
    "default": _SCALAR,
    "variants": {"type": "array", "items": {**_TEXT, "not": {"pattern": "=>|\n"}}, "uniqueItems": True},
    "postgres": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    "opensearch": _TEXT,
    "lat": _IDENTIFIER,
    "lon": _IDENTIFIER,
    "values": _words(MAP_VALUES),
    "fields": _ref("fields"),
    "table": _TABLE,
    "primary_key": _ref("columns"),
    "foreign_key": _ref("columns"),
    "references": _ref("columns"),
    "through": _ref("through"),
    "filters": _ref("filters"),
    "order_by": _ref("order_by"),
    "limit": {"type": "integer", "minimum": 1, "maximum": language.MAX_LIMIT},
    "value_type": _words(SCALAR_KINDS),
    "element_type": _words(SCALAR_KINDS),
    "value": {},
}


def _shape(kind: str, key: str) -> Node:
    if kind == "belongs_to" and key == "column":
        return _ref("columns")
    if kind in ("count", "avg") and key == "value_type" or kind == "count" and key == "column":
        return {}  # without effect there, whatever it says
    return _SHAPES[key]


def _told(shape: Node, sentence: str, *, may_be_null: bool) -> Node:
    inner = {"anyOf": [shape, _NULL]} if may_be_null and shape else shape
    # Beside a $ref nothing else counts in draft 7.
    return {"description": sentence, **({"allOf": [inner]} if "$ref" in inner else inner)}


def _mapping(required: Any, optional: Any, shape: Callable[[str], Node], told: Mapping[str, str]) -> Node:
    """A mapping with these keys and no others; a null is "not there" where a key may be left out."""
    return {
        "type": "object",
        "properties": {
            key: _told(shape(key), told[key], may_be_null=key not in required) for key in [*required, *optional]
        },
        "required": list(required),
        "additionalProperties": False,
    }


def _there(*keys: str) -> Node:
    """Each of these keys is there and is no null."""
    return {"required": list(keys), "properties": {key: {"not": _NULL} for key in keys}}


def _field(kind: str, keys: language.Keys) -> Node:
    made = _mapping(keys.required, keys.optional, lambda key: _shape(kind, key), meanings.BESIDE)
    made["properties"] = {kind: _told(_FIELD_NAME, meanings.KINDS[kind], may_be_null=False), **made["properties"]}
    made["required"] = [kind, *made["required"]]
    made["title"] = kind
    if kind in language.AGGREGATE_OPS:
        # Exactly one of both; `references` goes with the first.
        made["oneOf"] = [_there("foreign_key"), {**_there("through"), "not": _there("references")}]
    if kind == "ids":
        one = {"properties": {"right_key": {"not": {"type": "array", "minItems": 2}}}}
        made["allOf"] = [{"properties": {"through": one}}]
    if kind == "geo":
        made["oneOf"] = [
            {**_there("lat", "lon"), "not": _there("column")},
            {"not": {"anyOf": [_there("lat"), _there("lon")]}},
        ]
    return made


def _filter(ops: Any, value: Node, *, required: bool = True) -> Node:
    def shape(key: str) -> Node:
        return {"column": _IDENTIFIER, "op": _words(ops), "value": value}[key]

    if required:
        return _mapping(("column", "op", "value"), (), shape, meanings.FILTER)
    return _mapping(("column", "op"), ("value",), shape, meanings.FILTER)


def index_schema() -> Dict[str, Any]:
    """The schema as plain values, its parts under ``definitions``."""
    top: Mapping[str, Node] = {
        "version": {"const": 1},
        "table": _TABLE,
        "schema": _IDENTIFIER,
        "primary_key": _ref("columns"),
        "doc_id": _ref("columns"),
        "soft_delete": _ref("soft_delete"),
        "filters": _ref("filters"),
        "fields": _ref("fields"),
    }
    required = ("version", "table", "fields")
    optional = [key for key in language.TOP_KEYS if key not in required]
    kinds = {kind: _field(kind, keys) for kind, keys in language.FIELD_KEYS.items()}
    soft_delete: Mapping[str, Node] = {"column": _IDENTIFIER, "field": _FIELD_NAME, "when": _ref("filters")}
    order: Mapping[str, Node] = {"column": _IDENTIFIER, "direction": _words(language.DIRECTIONS)}
    junction = language.THROUGH_KEYS
    return {
        "$schema": DRAFT,
        "title": "*.schema.yml",
        "description": "What the documents of one index look like",
        **_mapping(required, optional, lambda key: top[key], meanings.TOP),
        "definitions": {
            "fields": {"type": "array", "items": _ref("field")},
            # By its type key, not by trying every kind: fields nest, and kinds that have fields would be tried in each
            # other, with a power of their number.
            "field": {
                "type": "object",
                "properties": {kind: {"description": meanings.KINDS[kind]} for kind in kinds},
                "anyOf": [{"required": [kind]} for kind in kinds],
                "allOf": [{"if": {"required": [kind]}, "then": _ref(f"field_{kind}")} for kind in kinds],
            },
            "columns": {
                "anyOf": [
                    _IDENTIFIER,
                    {
                        "type": "array",
                        "items": _IDENTIFIER,
                        "minItems": 1,
                        "maxItems": language.MAX_KEY_COLUMNS,
                        "uniqueItems": True,
                    },
                ]
            },
            "through": _mapping(
                junction[:3],
                junction[3:],
                lambda key: _TABLE if key == "table" else _ref("columns"),
                meanings.THROUGH,
            ),
            "order_by": {
                "type": "array",
                "items": _mapping(("column",), language.ORDER_KEYS[1:], lambda key: order[key], meanings.ORDER),
            },
            "soft_delete": {
                **_mapping((), language.SOFT_DELETE_KEYS, lambda key: soft_delete[key], meanings.SOFT_DELETE),
                "oneOf": [_there("column"), _there("field")],
            },
            "filters": {"type": "array", "items": _ref("filter")},
            "filter": {
                "oneOf": [
                    _filter(language.SCALAR_OPS, _SCALAR),
                    _filter(language.LIST_OPS, {"type": "array", "items": _SCALAR, "minItems": 1}),
                    _filter(("between",), {"type": "array", "items": _SCALAR, "minItems": 2, "maxItems": 2}),
                    _filter(language.NULL_OPS, {}, required=False),
                    _mapping(
                        ("raw",),
                        ("volatile",),
                        lambda key: {"raw": _TEXT, "volatile": _FLAG}[key],
                        meanings.FILTER,
                    ),
                ]
            },
            **{f"field_{kind}": made for kind, made in kinds.items()},
        },
    }

"""A schema file as the oracle reads it: plain YAML and names, nothing more.

Reads with ``yaml.safe_load``, so schema files of the tests quote whatever YAML 1.1 would turn into a date, a
boolean or a base-60 number.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

import yaml

Names = Tuple[str, ...]
Node = Dict[str, Any]

SCALARS = {
    "text", "identifier", "keyword", "uuid", "boolean", "short", "integer", "long", "float", "double", "decimal",
    "date", "timestamp", "binary", "json", "enum", "custom", "map",
}  # fmt: skip
JOINS = {"belongs_to", "has_one", "has_many", "many_to_many"}
AGGREGATES = {"count", "sum", "avg", "min", "max", "ids"}
KINDS = SCALARS | JOINS | AGGREGATES | {"geo", "object", "constant"}

_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^".]*))\s*(\.|$)')


class TableName(NamedTuple):
    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Link(NamedTuple):
    """``table.columns`` hold values of ``target.target_columns`` (empty: the target's primary key)."""

    table: TableName
    columns: Names
    target: TableName
    target_columns: Names


@lru_cache(maxsize=None)
def split_name(written: str) -> Names:
    """The parts of a written identifier: a dot separates, quotes keep case and dots, anything else is lowercased."""
    parts: List[str] = []
    place = 0
    while True:
        match = _PART.match(written, place)
        if match is None:
            raise AssertionError(f"not an identifier: {written!r}")
        quoted, plain, end = match.groups()
        parts.append(quoted.replace('""', '"') if quoted is not None else plain.strip().lower())
        if not end:
            return tuple(parts)
        place = match.end()


def column(written: str) -> str:
    (name,) = split_name(written)
    return name


def columns(written: Union[None, str, List[str]]) -> Names:
    """One column or a list of them; none gives the empty tuple."""
    if written is None:
        return ()
    return tuple(column(name) for name in ([written] if isinstance(written, str) else written))


@lru_cache(maxsize=64)
def _load(text: str) -> Node:
    top: Node = yaml.safe_load(text)
    return top


class Schema:
    """One parsed ``*.schema.yml``."""

    def __init__(self, path: Union[str, Path]) -> None:
        with open(path, encoding="utf-8") as file:
            self.top = _load(file.read())
        assert self.top["version"] == 1
        self.default_schema = column(self.top.get("schema") or "public")
        self.root = self.table(self.top["table"])
        self.primary_key = columns(self.top.get("primary_key"))
        self.doc_id = columns(self.top.get("doc_id"))
        self.fields: List[Node] = self.top["fields"]

    def table(self, written: str) -> TableName:
        parts = split_name(written)
        return TableName(*parts) if len(parts) == 2 else TableName(self.default_schema, *parts)

    def tables(self) -> List[TableName]:
        """Every table the file names, in order of appearance."""
        found: Dict[TableName, None] = {self.root: None}
        for _, node in self.relations():
            if "through" in node:
                found[self.table(node["through"]["table"])] = None
            found[self.table(node["table"])] = None
        return list(found)

    def nodes(
        self, fields: Optional[List[Node]] = None, scope: Optional[TableName] = None
    ) -> Iterator[Tuple[TableName, Node]]:
        """Every field with the table of the row it starts from, depth first."""
        scope = scope or self.root
        for node in self.fields if fields is None else fields:
            yield scope, node
            if "fields" in node:
                inner = scope if kind_of(node) == "object" else self.table(node["table"])
                yield from self.nodes(node["fields"], inner)

    def relations(self) -> Iterator[Tuple[TableName, Node]]:
        """Every join and aggregate, likewise."""
        return ((scope, node) for scope, node in self.nodes() if kind_of(node) in JOINS | AGGREGATES)

    def delicate(self) -> Set[Tuple[TableName, str]]:
        """Columns that not every text fits in: those that name documents, and places written as text."""
        found = {(self.root, name) for name in self.doc_id}
        for scope, node in self.nodes():
            if kind_of(node) == "geo" and "lat" not in node:
                found.add((scope, column(node.get("column") or name_of(node))))
        return found

    def links(self) -> List[Link]:
        """Which columns of which table hold keys of which other table, according to the relations."""
        found: Dict[Link, None] = {}
        for scope, node in self.relations():
            table = self.table(node["table"])
            if kind_of(node) == "belongs_to":
                own = columns(node.get("column") or node["belongs_to"])
                found[Link(scope, own, table, columns(node.get("primary_key")))] = None
            elif "through" in node:
                through = node["through"]
                junction = self.table(through["table"])
                left, right = columns(through["left_key"]), columns(through["right_key"])
                found[Link(junction, left, scope, columns(through.get("left_references")))] = None
                found[Link(junction, right, table, columns(through.get("right_references")))] = None
            else:
                found[Link(table, columns(node["foreign_key"]), scope, columns(node.get("references")))] = None
        return list(found)

    def strings(self) -> Set[str]:
        """Every string scalar of the file: whatever an operand may be."""

        def walk(value: Any) -> Iterator[str]:
            if isinstance(value, str):
                yield value
            for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
                yield from walk(inner)

        return set(walk(self.top))


def kind_of(node: Node) -> str:
    """The type key of a field: the one whose value is the field's name."""
    found = [key for key in node if key in KINDS]
    assert len(found) == 1, f"not exactly one type key in {node}"
    return found[0]


def name_of(node: Node) -> str:
    name: str = node[kind_of(node)]
    return name.strip()


def operand(value: Any) -> str:
    """A filter operand or default as text, as the daemon reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise AssertionError(f"quote this in the schema file: {value!r}")

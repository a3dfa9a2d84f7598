"""Schemas made up at random over the test databases: whatever loads and binds gives the oracle's documents."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest

from flusso_sync.postgres.bind import bind
from flusso_sync.postgres.catalog import read_catalog
from flusso_sync.postgres.statements import compile_statements
from flusso_sync.schema.language import load_schema
from flusso_sync.schema.paths import tables
from tests.cases import CASES, Case
from tests.histories import WritableTable, read_tables
from tests.oracle import TableName, evaluate_all
from tests.oracle.values import TEXTS, Type
from tests.postgres_server import Database
from tests.test_documents_equal_oracle import Reader, check, reading_settings

Node = Dict[str, Any]

KIND_OF = {
    "int2": "short", "int4": "integer", "int8": "long", "float4": "float", "float8": "double", "numeric": "decimal",
    "money": "decimal", "bool": "boolean", "uuid": "uuid", "date": "date", "timestamp": "timestamp",
    "timestamptz": "timestamp", "time": "timestamp", "timetz": "timestamp", "bytea": "binary", "json": "json",
    "jsonb": "json",
}  # fmt: skip
NUMBERS = {"int2", "int4", "int8", "numeric", "float4", "float8", "money"}
ORDERED = NUMBERS | TEXTS | {"uuid", "date", "timestamp", "timestamptz", "time", "timetz", "bytea"}


def kind(type_: Type) -> Optional[str]:
    return "keyword" if type_.texts else KIND_OF.get(type_.name)


def quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def exact(table: WritableTable, name: str) -> bool:
    """Whether sums of the column do not depend on their order: floats of the fill may."""
    if table.types[name].name not in ("float4", "float8"):
        return True
    return (table.name.name, name) in {("measurement", "ratio"), ("measurement", "score"), ("Crate", "weight kg")}


class Author:
    """Writes schema files; every one of them is valid."""

    def __init__(self, all_tables: List[WritableTable], seed: int) -> None:
        self._tables = all_tables
        self._by_name = {table.name: table for table in all_tables}
        self._random = random.Random(seed)
        self._names = 0

    def schema(self) -> Node:
        table = self._random.choice(self._tables)
        top: Node = {"version": 1, "table": quoted(*table.name), "primary_key": list(map(quoted, table.key))}
        top["filters"] = self._filters(table, "root.", 0.2)
        if self._random.random() < 0.3:
            mark = self._random.choice(list(table.types))
            top["soft_delete"] = {"column": quoted(mark), "when": self._filters(table, "root.", 0.7)}
        top["fields"] = self._fields(table, 3)
        return top

    def _name(self) -> str:
        self._names += 1
        return f"f{self._names}"

    def _some(self, chance: float) -> bool:
        return self._random.random() < chance

    # -- fields ---------------------------------------------------------------------------------------

    def _fields(self, table: WritableTable, depth: int) -> List[Node]:
        fields = [self._scalar(table) for _ in range(self._random.randint(1, 5))]
        if depth:
            for _ in range(self._random.randint(0, 3)):
                fields.extend(self._relation(table, depth))
        if self._some(0.2):
            fields.append({"object": self._name(), "fields": self._fields(table, 0)})
        self._random.shuffle(fields)
        return fields

    def _scalar(self, table: WritableTable) -> Node:
        name = self._random.choice(list(table.types))
        type_ = table.types[name]
        found = kind(type_)
        node: Node = {"column": quoted(name), "required": False}
        if found is None:
            return {"custom": self._name(), "postgres": [type_.written], "opensearch": "keyword", **node}
        if type_.texts and not type_.array and self._some(0.4):
            node["transforms"] = self._random.sample(["trim", "lowercase"], self._random.randint(1, 2))
        defaults = [value for value in table.pools[name] if value is not None]
        if defaults and not type_.array and self._some(0.3):
            node["default"] = self._random.choice(defaults)
        return {found: self._name(), **node}

    def _relation(self, table: WritableTable, depth: int) -> List[Node]:
        """A join or aggregate of ``table``; none where nothing is linked to it."""
        ways: List[Tuple[str, WritableTable, Node]] = []
        for reference in table.references:
            target = self._by_name[reference.target]
            link = {"column": self._columns(reference.columns), "primary_key": self._columns(reference.target_columns)}
            ways.append(("belongs_to", target, link))
        for other in self._tables:
            for reference in other.references:
                if reference.target != table.name:
                    continue
                link = {"foreign_key": self._columns(reference.columns)}
                link["references"] = self._columns(reference.target_columns)
                ways.append(("has", other, link))
                for right in other.references:
                    if right.columns != reference.columns:
                        through = {
                            "table": quoted(*other.name),
                            "left_key": self._columns(reference.columns),
                            "left_references": self._columns(reference.target_columns),
                            "right_key": self._columns(right.columns),
                            "right_references": self._columns(right.target_columns),
                        }
                        ways.append(("through", self._by_name[right.target], {"through": through}))
        if not ways:
            return []
        way, related, link = self._random.choice(ways)
        node: Node = {"table": quoted(*related.name), **link, "filters": self._filters(related, "", 0.4)}
        if way != "belongs_to" and self._some(0.5):
            return self._aggregate(related, node)
        verb = {"belongs_to": "belongs_to", "through": "many_to_many"}.get(way) or self._random.choice(
            ["has_one", "has_many", "has_many"]
        )
        node.setdefault("primary_key", self._columns(related.key))
        if verb != "belongs_to":
            sortable = [name for name, type_ in related.types.items() if self._sortable(type_)]
            chosen = self._random.sample(sortable, min(len(sortable), self._random.randint(0, 2)))
            node["order_by"] = [
                {"column": quoted(name), "direction": self._random.choice(["asc", "desc"])} for name in chosen
            ]
        if verb in ("has_many", "many_to_many") and self._some(0.4):
            node["limit"] = self._random.randint(1, 4)
        return [{verb: self._name(), **node, "fields": self._fields(related, depth - 1)}]

    def _aggregate(self, related: WritableTable, node: Node) -> List[Node]:
        op = self._random.choice(["count", "sum", "avg", "min", "max", "ids"])
        wanted = NUMBERS if op in ("sum", "avg") else ORDERED - {"uuid", "bytea"}
        fitting = [name for name, type_ in related.types.items() if type_.name in wanted and not type_.array]
        fitting = [name for name in fitting if op not in ("sum", "avg") or exact(related, name)]
        if op == "ids":
            names = related.key
            if "through" in node:
                right = node["through"]["right_key"]
                junction = next(t for t in self._tables if quoted(*t.name) == node["through"]["table"])
                names, related = tuple(n for n in junction.types if quoted(n) in right), junction
            if len(names) != 1:
                return []
            return [{"ids": self._name(), "element_type": kind(related.types[names[0]]), **node}]
        if op == "count":
            return [{"count": self._name(), **node}]
        if not fitting:
            return []
        column = self._random.choice(fitting)
        if op != "avg":
            node["value_type"] = kind(related.types[column])
        return [{op: self._name(), "column": quoted(column), **node}]

    def _columns(self, names: Tuple[str, ...]) -> Any:
        return quoted(names[0]) if len(names) == 1 else [quoted(name) for name in names]

    def _sortable(self, type_: Type) -> bool:
        return not type_.array and (type_.name in ORDERED or type_.name == "bool" or bool(type_.labels))

    # -- filters --------------------------------------------------------------------------------------

    def _filters(self, table: WritableTable, alias: str, chance: float) -> List[Node]:
        found = []
        while self._some(chance):
            name = self._random.choice(list(table.types))
            found.append(self._filter(table, name, alias))
        return found

    def _filter(self, table: WritableTable, name: str, alias: str) -> Node:
        type_ = table.types[name]
        if self._some(0.15):
            return {"raw": f"{alias}{quoted(name)} IS NOT NULL OR {alias}{quoted(table.key[0])}::text < 'b' -- so"}
        values = [value for value in table.pools[name] if value is not None]
        if not values or not self._sortable(type_) or self._some(0.2):
            return {"column": quoted(name), "op": self._random.choice(["is_null", "is_not_null", "is_not_null"])}
        op = self._random.choice(["eq", "neq", "lt", "lte", "gt", "gte", "in", "not_in", "between", "like", "ilike"])
        first, second = self._random.choice(values), self._random.choice(values)
        node: Node = {"column": quoted(name), "op": op, "value": first}
        if op in ("in", "not_in", "between"):
            node["value"] = [first, second]
        elif op in ("like", "ilike"):
            if not type_.texts:
                return {"column": quoted(name), "op": "neq", "value": first}
            whole, start, end, rest = (part.replace("\\", "\\\\") for part in (first, first[:1], first[-1:], first[1:]))
            node["value"] = self._random.choice([whole, f"{start}%", f"%{end}", f"_{rest}", "%"])
        return node


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("seed", range(2))
def test_a_random_schema_gives_the_documents_of_the_oracle(
    database: Database, tmp_path: Path, case: Case, seed: int
) -> None:
    case.load(database.url)
    failures = []
    shown = 0
    with database.connect() as connection, database.connect() as reading:
        reading_settings(reading)
        author = Author(read_tables(connection, case), seed)
        for number in range(12):
            path = tmp_path / f"{number}.schema.yml"
            # JSON is YAML in any version of it.
            path.write_text(json.dumps(author.schema(), ensure_ascii=False), encoding="utf-8")
            plan, _ = load_schema(path, "made_up")
            bound = bind(plan, read_catalog(connection, tables(plan)))
            expected = evaluate_all(connection, {"made_up": path})["made_up"]
            shown += len(expected)
            try:
                check(Reader(reading, bound, compile_statements(bound), 1000), expected, set(), path.name)
            except Exception as error:
                failures.append(f"{error}\n{path.read_text(encoding='utf-8')}")
    assert not failures, "\n\n".join(failures)
    assert shown, "every document was filtered away"


def test_the_author_uses_every_part_of_the_language() -> None:
    table = WritableTable(
        TableName("public", "t"),
        {"id": Type("int4", "integer"), "t": Type("text", "text"), "n": Type("numeric", "numeric")},
        ("id",), {"t"}, set(), [], [("1",)], [], {"id": ["1"], "t": ["a"], "n": ["1"]},
    )  # fmt: skip
    used = {key for seed in range(40) for key in _keys(Author([table], seed).schema())}
    assert {"transforms", "default", "soft_delete", "when", "filters", "raw", "object", "op"} <= used


def _keys(value: Any) -> List[str]:
    if isinstance(value, dict):
        return [*value, *(key for inner in value.values() for key in _keys(inner))]
    return [key for inner in value for key in _keys(inner)] if isinstance(value, list) else []

"""What the documents of an index must be, evaluated row by row in plain Python.

Shares nothing with the package: neither its reading of schema files nor its plan nor its SQL.
"""

from __future__ import annotations

import json
import math
import struct
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

import psycopg

from tests.oracle.language import (
    AGGREGATES,
    JOINS,
    SCALARS,
    Names,
    Node,
    Schema,
    TableName,
    column,
    columns,
    kind_of,
    name_of,
    operand,
)
from tests.oracle.rows import Place, Row, Snapshot, TableRows, snapshot
from tests.oracle.values import (
    WHOLE,
    Json,
    Type,
    Unbuildable,
    document_id,
    id_part,
    like,
    link_value,
    number,
    render,
    sort_key,
)

MAX_ID_BYTES = 512


class Documents(Dict[str, Json]):
    """Documents by id; ``rejected``: ids whose row makes no acceptable document, with the reason.

    What an index holds under a rejected id is nobody's promise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rejected: Dict[str, str] = {}


class Link(NamedTuple):
    """The rows of ``table`` whose ``child`` columns equal the ``parent`` columns of the row in scope."""

    table: TableRows
    parent: Names
    child: Names


def evaluate(connection: psycopg.Connection[Any], schema_file: Union[str, Path]) -> Documents:
    """All documents of one schema file, from a snapshot of its own; ``connection`` must be idle."""
    schema = Schema(schema_file)
    with snapshot(connection, schema.strings()) as rows:
        return _Evaluation(schema, rows).documents()


def evaluate_all(connection: psycopg.Connection[Any], schema_files: Mapping[str, Path]) -> Dict[str, Documents]:
    """Documents by index name, all from one snapshot."""
    schemas = {index: Schema(path) for index, path in schema_files.items()}
    literals = {text for schema in schemas.values() for text in schema.strings()}
    with snapshot(connection, literals) as rows:
        return {index: _Evaluation(schema, rows).documents() for index, schema in schemas.items()}


class _Evaluation:
    def __init__(self, schema: Schema, rows: Snapshot) -> None:
        self._schema = schema
        self._rows = rows
        self._found: Dict[Tuple[TableName, Names, Tuple[bool, ...]], Dict[Tuple[Any, ...], List[Row]]] = {}
        self._raw: Dict[Tuple[TableName, str, Optional[str]], Set[Place]] = {}
        self._literals: Dict[Tuple[str, Type], str] = {}

    def documents(self) -> Documents:
        schema = self._schema
        root = self._rows.table(schema.root)
        id_columns = schema.doc_id or schema.primary_key or root.key
        documents = Documents()
        for row in root.rows:
            if not self._keeps(schema.top.get("filters"), root, row, "root") or self._deleted(root, row):
                continue
            id = document_id([id_part(root.types[name], row[name]) for name in id_columns])
            if not 0 < len(id.encode("utf-8")) <= MAX_ID_BYTES:
                documents.rejected[id] = "an empty or too long id"
                continue
            assert id not in documents, f"two rows of {root.name} have the id {id!r}"
            try:
                documents[id] = self._object(schema.fields, root, row)
            except Unbuildable as error:
                documents.rejected[id] = str(error)
        return documents

    def _deleted(self, root: TableRows, row: Row) -> bool:
        mark: Optional[Node] = self._schema.top.get("soft_delete")
        if mark is None:
            return False
        name = column(mark["column"]) if "column" in mark else self._column_of_field(mark["field"])
        value = row[name]
        if value is None or (root.types[name].name == "bool" and value == "f"):
            return False
        return self._keeps(mark.get("when"), root, row, "root")

    def _column_of_field(self, wanted: str) -> str:
        def search(fields: List[Node]) -> Optional[str]:
            for node in fields:
                if name_of(node) == wanted:
                    return column(node.get("column") or wanted)
                found = search(node.get("fields") or [])
                if found is not None:
                    return found
            return None

        found = search(self._schema.fields)
        assert found is not None, f"no field {wanted}"
        return found

    # -- fields ---------------------------------------------------------------------------------------

    def _object(self, fields: List[Node], table: TableRows, row: Row) -> Json:
        return {name_of(node): self._field(node, table, row) for node in fields}

    def _field(self, node: Node, table: TableRows, row: Row) -> Json:
        kind = kind_of(node)
        if kind in SCALARS:
            return self._scalar(node, table, row)
        if kind == "geo":
            return self._geo(node, table, row)
        if kind == "object":
            return self._object(node["fields"], table, row)
        if kind == "constant":
            return json.loads(json.dumps(node["value"]), parse_float=Decimal)
        if kind in JOINS:
            return self._join(kind, node, table, row)
        assert kind in AGGREGATES
        return self._aggregate(kind, node, table, row)

    def _scalar(self, node: Node, table: TableRows, row: Row) -> Json:
        name = column(node.get("column") or name_of(node))
        type_, value = table.types[name], row[name]
        for transform in node.get("transforms") or ():
            if value is not None:
                assert type_.texts and not type_.array
                value = value.rstrip(" ") if type_.name == "bpchar" else value
                value = value.strip(" ") if transform == "trim" else type_.collation.lower(value)
        if value is None and node.get("default") is not None:
            value = self._literal(operand(node["default"]), type_)
        return render(type_, value)

    def _geo(self, node: Node, table: TableRows, row: Row) -> Json:
        if "lat" not in node:
            name = column(node.get("column") or name_of(node))
            return render(table.types[name], row[name])
        place = {part: column(node[part]) for part in ("lat", "lon")}
        found = {part: render(table.types[name], row[name]) for part, name in place.items()}
        return None if None in found.values() else found

    # -- relations ------------------------------------------------------------------------------------

    def _parent_key(self, table: TableRows, written: Any) -> Names:
        """The parent's columns that a foreign key points at, unless the file says so."""
        if written is not None:
            return columns(written)
        if table.name == self._schema.root and self._schema.primary_key:
            return self._schema.primary_key
        return table.key

    def _related(self, node: Node, table: TableRows, row: Row) -> List[Row]:
        """The related rows before any order, once per junction row."""
        related = self._rows.table(self._schema.table(node["table"]))
        if kind_of(node) == "belongs_to":
            own = columns(node.get("column") or name_of(node))
            found = self._find(Link(related, own, columns(node.get("primary_key")) or related.key), table, row)
        elif "through" in node:
            junction, junction_rows = self._junction(node, table, row)
            through = node["through"]
            right = columns(through["right_key"])
            target = columns(through.get("right_references")) or related.key
            link = Link(related, right, target)
            found = [other for between in junction_rows for other in self._find(link, junction, between)]
        else:
            own = self._parent_key(table, node.get("references"))
            found = self._find(Link(related, own, columns(node["foreign_key"])), table, row)
        return [other for other in found if self._keeps(node.get("filters"), related, other, None)]

    def _junction(self, node: Node, table: TableRows, row: Row) -> Tuple[TableRows, List[Row]]:
        through = node["through"]
        junction = self._rows.table(self._schema.table(through["table"]))
        own = self._parent_key(table, through.get("left_references"))
        return junction, self._find(Link(junction, own, columns(through["left_key"])), table, row)

    def _find(self, link: Link, table: TableRows, row: Row) -> List[Row]:
        assert len(link.parent) == len(link.child)
        # Only citext = citext ignores case; beside any other text type it is compared as text.
        pairs = zip(link.parent, link.child)
        folds = tuple(table.types[a].name == link.table.types[b].name == "citext" for a, b in pairs)
        where = (link.table.name, link.child, folds)
        if where not in self._found:
            by_value = self._found[where] = {}
            for other in link.table.rows:
                value = _link_values(link.table, link.child, folds, other)
                if value is not None:
                    by_value.setdefault(value, []).append(other)
        wanted = _link_values(table, link.parent, folds, row)
        return [] if wanted is None else self._found[where].get(wanted, [])

    def _join(self, kind: str, node: Node, table: TableRows, row: Row) -> Json:
        related = self._rows.table(self._schema.table(node["table"]))
        found = self._related(node, table, row)
        # The last sort key first: each sort is stable.
        for name in reversed(related.key):
            found = _sorted(found, related, name, False)
        for item in reversed(node.get("order_by") or []):
            found = _sorted(found, related, column(item["column"]), item.get("direction") == "desc")
        if kind in ("belongs_to", "has_one"):
            return self._object(node["fields"], related, found[0]) if found else None
        found = found[: node.get("limit")]
        return [self._object(node["fields"], related, other) for other in found]

    def _aggregate(self, kind: str, node: Node, table: TableRows, row: Row) -> Json:
        if kind == "ids":
            return self._ids(node, table, row)
        found = self._related(node, table, row)
        if kind == "count":
            return len(found)
        related = self._rows.table(self._schema.table(node["table"]))
        name = column(node["column"])
        type_ = related.types[name]
        if kind in ("min", "max"):
            # Of values that are equal and print differently, that of the first key.
            for part in reversed(related.key):
                found = _sorted(found, related, part, False)
        values = [value for other in found for value in [other[name]] if value is not None]
        if not values:
            return None
        if kind in ("min", "max"):
            pick = min if kind == "min" else max
            return render(type_, pick(values, key=lambda value: sort_key(type_, value)))
        if type_.name in ("float4", "float8"):
            return _float_aggregate(kind, type_, values)
        assert type_.name in WHOLE or type_.name in ("numeric", "money"), f"no {kind} over {type_.name}"
        return _exact_aggregate(kind, [Decimal(value) for value in values])

    def _ids(self, node: Node, table: TableRows, row: Row) -> Json:
        related = self._rows.table(self._schema.table(node["table"]))
        if "through" in node:
            # Straight from the junction; the related rows matter only to filters.
            source, found = self._junction(node, table, row)
            names = columns(node["through"]["right_key"])
            if node.get("filters"):
                target = columns(node["through"].get("right_references")) or related.key
                link, filters = Link(related, names, target), node["filters"]
                found = [
                    between
                    for between in found
                    if any(self._keeps(filters, related, other, None) for other in self._find(link, source, between))
                ]
        else:
            source, found = related, self._related(node, table, row)
            names = related.key
        types = [source.types[name] for name in names]
        listed = []
        for other in found:
            values = [value for value in (other[name] for name in names) if value is not None]
            if len(values) == len(names):
                order = [sort_key(type_, value) for type_, value in zip(types, values)]
                if len(names) == 1:
                    listed.append((order, render(types[0], values[0])))
                else:
                    parts = [id_part(type_, value) for type_, value in zip(types, values)]
                    listed.append((order, document_id(parts)))
        return [shown for _, shown in sorted(listed, key=lambda pair: pair[0])]

    # -- filters --------------------------------------------------------------------------------------

    def _keeps(self, filters: Optional[List[Node]], table: TableRows, row: Row, alias: Optional[str]) -> bool:
        """Whether every filter is true: neither false nor unknown."""
        return all(self._holds(condition, table, row, alias) is True for condition in filters or ())

    def _holds(self, condition: Node, table: TableRows, row: Row, alias: Optional[str]) -> Optional[bool]:
        if "raw" in condition:
            raw = (table.name, condition["raw"].strip(), alias)
            if raw not in self._raw:
                self._raw[raw] = self._rows.kept(*raw)
            return row.place in self._raw[raw]
        name, op = column(condition["column"]), condition["op"]
        type_, value = table.types[name], row[name]
        if op in ("is_null", "is_not_null"):
            return bool((value is None) == (op == "is_null"))
        if value is None:
            return None
        written = condition["value"]
        if op in ("like", "ilike"):
            return self._like(op, type_, value, operand(written))
        operands = [operand(item) for item in (written if isinstance(written, list) else [written])]
        others = [_comparable(type_, self._literal(text, type_)) for text in operands]
        return _compare(op, _comparable(type_, value), others)

    def _like(self, op: str, type_: Type, value: str, pattern: str) -> bool:
        assert type_.texts and not type_.array, f"{op} over {type_.name}"
        value = value.rstrip(" ") if type_.name == "bpchar" else value
        if op == "ilike" or type_.name == "citext":
            value, pattern = type_.collation.lower(value), type_.collation.lower(pattern)
        return like(pattern).fullmatch(value) is not None

    def _literal(self, text: str, type_: Type) -> str:
        wanted = (text, type_)
        if wanted not in self._literals:
            self._literals[wanted] = self._rows.literal(text, type_)
        return self._literals[wanted]


def _link_values(table: TableRows, names: Names, folds: Sequence[bool], row: Row) -> Optional[Tuple[Any, ...]]:
    """The values of link columns, comparable between tables; None when one is null, which links nothing."""
    found = []
    for name, fold in zip(names, folds):
        value = row[name]
        if value is None:
            return None
        type_ = table.types[name]
        found.append(type_.collation.lower(value) if fold else link_value(type_, value))
    return tuple(found)


def _sorted(rows: Iterable[Row], table: TableRows, name: str, descending: bool) -> List[Row]:
    """Postgres' order: nulls last when ascending, first when descending."""
    type_ = table.types[name]

    def key(row: Row) -> Tuple[bool, Any]:
        value = row[name]
        return (True, None) if value is None else (False, sort_key(type_, value))

    nulls = [row for row in rows if row[name] is None]
    others = sorted((row for row in rows if row[name] is not None), key=key, reverse=descending)
    return nulls + others if descending else others + nulls


def _comparable(type_: Type, text: str) -> Any:
    """For filters: jsonb is only ever equal or not, so a text of it will do."""
    if type_.name == "jsonb":
        return json.dumps(render(type_, text), default=lambda value: str(value.normalize()))
    return sort_key(type_, text)


def _compare(op: str, value: Any, others: List[Any]) -> bool:
    if op == "in":
        return value in others
    if op == "not_in":
        return value not in others
    if op == "between":
        low, high = others
        return bool(low <= value <= high)
    (other,) = others
    results: Dict[str, Any] = {"eq": value == other, "neq": value != other}
    if op not in results:
        results.update(lt=value < other, lte=value <= other, gt=value > other, gte=value >= other)
    return bool(results[op])


# -- arithmetic -----------------------------------------------------------------------------------------


def _exact_aggregate(kind: str, values: List[Decimal]) -> Json:
    with localcontext(Context(prec=3000)):
        total = sum(values, Decimal(0))
        if kind == "sum" or not total.is_finite():
            return number(total)
        mean = _numeric_quotient(total, len(values))
        if not math.isfinite(float(mean)) or bool(mean) != bool(float(mean)):
            raise Unbuildable("a mean out of range for double precision")
        return number(Decimal(repr(float(mean))))


def _numeric_quotient(total: Decimal, count: int) -> Decimal:
    """total / count with as many digits as numeric division keeps (numeric.c, select_div_scale)."""

    def weight(value: Decimal) -> Tuple[int, int]:
        """The place and the value of the first base-10000 digit."""
        if not value:
            return 0, 0
        place = value.adjusted() // 4
        return place, int(abs(value).scaleb(-4 * place))

    (weight1, digit1), (weight2, digit2) = weight(total), weight(Decimal(count))
    quotient_weight = weight1 - weight2 - (1 if digit1 <= digit2 else 0)
    exponent = total.as_tuple().exponent
    assert isinstance(exponent, int)
    scale = min(max(16 - 4 * quotient_weight, -exponent, 0), 1000)
    return (total / count).quantize(Decimal(1).scaleb(-scale), rounding=ROUND_HALF_UP)


def _float_aggregate(kind: str, type_: Type, values: List[str]) -> Json:
    """Sums of floats depend on the order of addition: use values whose sums are exact."""
    floats = [float(value) for value in values]
    if type_.name == "float4":
        # Their text is the shortest that tells them apart, not all of their digits.
        floats = [struct.unpack("f", struct.pack("f", value))[0] for value in floats]
    try:
        total = math.fsum(floats) if all(map(math.isfinite, floats)) else sum(floats)
        if kind == "avg":
            return number(Decimal(repr(total / len(floats))))
        if type_.name == "float4":
            return number(Decimal(_shortest_float4(total)))
        return number(Decimal(repr(total)))
    except OverflowError as error:
        raise Unbuildable("Postgres refuses a sum of finite numbers that is none itself") from error


def _shortest_float4(value: float) -> str:
    (wide,) = struct.unpack("f", struct.pack("f", value))
    for digits in range(1, 10):
        text = f"{wide:.{digits}g}"
        if struct.unpack("f", struct.pack("f", float(text)))[0] == wide:
            return text
    return repr(wide)

"""The ``*.schema.yml`` language: one file read into one :class:`IndexPlan`.

Everything that can be known without a database is checked here, and all problems of a file are reported at
once, each with line, column and key path.  What only a catalog knows (keys, types, nullability) stays open in
the plan.  Pure, apart from reading the file it is asked to read.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

from flusso_sync.config import yaml12
from flusso_sync.config.sentences import (
    MAX_PROBLEMS,
    MORE_PROBLEMS,
    KeyPath,
    either,
    nearest,
    show,
    unknown_key,
    unknown_word,
)
from flusso_sync.errors import ConfigError, Problem
from flusso_sync.schema import names, raw
from flusso_sync.schema.canonical import canonical
from flusso_sync.schema.places import places_of
from flusso_sync.schema.plan import (
    PRIMARY_KEY,
    AggregateField,
    AnyField,
    AnyFilter,
    ChildLink,
    Columns,
    ConstantField,
    Filter,
    GeoField,
    IndexPlan,
    JoinField,
    Link,
    ObjectField,
    Order,
    RawFilter,
    ScalarField,
    SoftDelete,
    Table,
    TargetLink,
    ThroughLink,
)
from flusso_sync.schema.types import MAP_VALUES, SCALAR_KINDS

T = TypeVar("T")

TOP_KEYS: Tuple[str, ...] = (
    "version",
    "table",
    "schema",
    "primary_key",
    "doc_id",
    "soft_delete",
    "filters",
    "fields",
)

TRANSFORMS: Tuple[str, ...] = ("lowercase", "trim")


class Keys(NamedTuple):
    """What may stand beside a type key."""

    required: Tuple[str, ...]
    optional: Tuple[str, ...]


JOIN_VERBS: Tuple[str, ...] = ("belongs_to", "has_one", "has_many", "many_to_many")
AGGREGATE_OPS: Tuple[str, ...] = ("count", "sum", "avg", "min", "max", "ids")

_BY_KEY = ("foreign_key", "references", "through")

#: Type key -> its siblings; ``default_column`` kinds take the lowercased field name as column.
FIELD_KEYS: Mapping[str, Keys] = {
    **{kind: Keys(("required",), ("column", "options", "transforms", "default")) for kind in SCALAR_KINDS},
    "enum": Keys(("required",), ("column", "options", "transforms", "default", "variants")),
    "custom": Keys(("required", "postgres", "opensearch"), ("column", "options", "default")),
    "geo": Keys(("required",), ("lat", "lon", "column", "options")),
    "map": Keys(("required", "values"), ("column", "options")),
    "object": Keys(("fields",), ("options",)),
    "belongs_to": Keys(("table", "fields"), ("primary_key", "column", "required", "filters", "options")),
    "has_one": Keys(
        ("table", "foreign_key", "fields"),
        ("primary_key", "references", "required", "filters", "order_by", "options"),
    ),
    "has_many": Keys(
        ("table", "foreign_key", "fields"),
        ("primary_key", "references", "filters", "order_by", "limit", "options"),
    ),
    "many_to_many": Keys(("table", "through", "fields"), ("primary_key", "filters", "order_by", "limit", "options")),
    "count": Keys(("table",), (*_BY_KEY, "filters", "options", "column", "value_type")),
    "avg": Keys(("table", "column"), (*_BY_KEY, "filters", "options", "value_type")),
    "sum": Keys(("table", "column", "value_type"), (*_BY_KEY, "filters", "options")),
    "min": Keys(("table", "column", "value_type"), (*_BY_KEY, "filters", "options")),
    "max": Keys(("table", "column", "value_type"), (*_BY_KEY, "filters", "options")),
    "ids": Keys(("table", "element_type"), (*_BY_KEY, "filters", "options")),
    "constant": Keys(("value",), ()),
}

SCALAR_OPS: Tuple[str, ...] = ("eq", "neq", "lt", "lte", "gt", "gte", "like", "ilike")
LIST_OPS: Tuple[str, ...] = ("in", "not_in")
NULL_OPS: Tuple[str, ...] = ("is_null", "is_not_null")
FILTER_OPS: Tuple[str, ...] = (*SCALAR_OPS, *LIST_OPS, "between", *NULL_OPS)

THROUGH_KEYS: Tuple[str, ...] = ("table", "left_key", "right_key", "left_references", "right_references")
ORDER_KEYS: Tuple[str, ...] = ("column", "direction")
DIRECTIONS: Tuple[str, ...] = ("asc", "desc")
SOFT_DELETE_KEYS: Tuple[str, ...] = ("column", "field", "when")
FILTER_KEYS: Tuple[str, ...] = ("column", "op", "value", "raw", "volatile")

#: Most columns of an index or key in Postgres (INDEX_MAX_KEYS).
MAX_KEY_COLUMNS = 32

#: Postgres' bigint, which LIMIT takes.
MAX_LIMIT = 2**63 - 1

#: Stands where a name could not be read, so that the rest of the file is still checked.
_UNREADABLE = "?"


def load_schema(path: Union[str, Path], index: str) -> Tuple[IndexPlan, List[str]]:
    """Read a schema file; the plan and its warnings.  Raises ``ConfigError`` with every problem in it."""
    return parse_document(yaml12.load_file(path), index)


def parse_schema(text: str, index: str, file: Optional[str] = None) -> Tuple[IndexPlan, List[str]]:
    """Read the text of a schema file; ``file`` is the name messages use."""
    return parse_document(yaml12.load_text(text, file), index)


def parse_mapping(mapping: Mapping[str, Any], index: str) -> Tuple[IndexPlan, List[str]]:
    """Read a schema given as plain values, for a host program that writes none to disk."""
    return parse_document(yaml12.Document(plain(mapping)), index)


def plain(value: Any) -> Any:
    """Mappings and sequences of any kind as dicts and lists, the shapes a YAML file has."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def parse_document(document: yaml12.Document, index: str) -> Tuple[IndexPlan, List[str]]:
    """The plan of a parsed file; raises ``ConfigError`` with every problem in it."""
    parser = _Parser(document, index)
    try:
        plan = parser.index_plan()
    except _Enough:
        last = parser.problems[-1]
        raise ConfigError([*parser.problems, replace(last, message=MORE_PROBLEMS, path=None)]) from None
    if parser.problems:
        raise ConfigError(sorted(parser.problems, key=lambda p: (p.line or 0, p.column or 0)))
    return plan, parser.warnings


class _Enough(Exception):
    """So many problems that the rest of the file need not be read."""


class _Parser:
    """One pass over one document.

    Every method answers with a value that fits, and notes a problem where the file's did not, so that one
    mistake does not hide the next.
    """

    def __init__(self, document: yaml12.Document, index: str) -> None:
        self.document = document
        self.index = index
        self.schema = "public"
        self.problems: List[Problem] = []
        self.warnings: List[str] = []

    def refuse(self, path: KeyPath, message: str, *, key: bool = False) -> None:
        self.problems.append(self.document.problem(path, message, key=key, code="FL004"))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _Enough

    def warn(self, path: KeyPath, message: str) -> None:
        self.warnings.append(str(self.document.problem(path, message, key=True)))

    # -- the file ---------------------------------------------------------------------------------------

    def index_plan(self) -> IndexPlan:
        top = self.document.value
        if not isinstance(top, dict):
            self.refuse((), f"a schema file must be a mapping with the keys {', '.join(TOP_KEYS)}, got {show(top)}")
            return IndexPlan(self.index, Table("", ""), ())
        self._only(top, (), TOP_KEYS)
        version = top.get("version")
        if "version" not in top:
            self.refuse((), "`version` is missing; write `version: 1`")
        elif isinstance(version, bool) or version != 1:
            self.refuse(("version",), f"must be 1, got {show(version)}")
        if top.get("schema") is not None:
            self.schema = self._name(top, (), "schema", names.identifier)
        root = self._table(top, ())
        fields = self._fields(top, ())
        plan = IndexPlan(
            name=self.index,
            root=root,
            fields=fields,
            primary_key=self._columns(top, (), "primary_key"),
            doc_id=self._columns(top, (), "doc_id"),
            filters=self._filters(top, (), "filters"),
            soft_delete=self._soft_delete(top, fields),
        )
        if self.problems:
            return plan
        return replace(plan, canonical=canonical(plan), places=places_of(self.document, FIELD_KEYS))

    def _soft_delete(self, top: Dict[str, Any], fields: Sequence[AnyField]) -> Optional[SoftDelete]:
        value = top.get("soft_delete")
        if value is None:
            return None
        path: KeyPath = ("soft_delete",)
        if not isinstance(value, dict):
            self.refuse(path, f"must be a mapping with `column` or `field`, got {show(value)}")
            return None
        self._only(value, path, SOFT_DELETE_KEYS)
        when = self._filters(value, path, "when")
        marked, named = value.get("column") is not None, value.get("field") is not None
        if marked == named:
            self.refuse(path, "needs exactly one of `column` and `field`")
            return None
        if marked:
            return SoftDelete(self._name(value, path, "column", names.identifier), when)
        field_path = (*path, "field")
        name = self._name(value, path, "field", names.field_name)
        if name == _UNREADABLE:
            return None
        own, joined = _column_of(fields, name)
        if own is None and joined is None:
            known = [field.name for field in fields]
            guess = nearest(name, known)
            hint = f"; did you mean `{guess}`?" if guess else ""
            self.refuse(field_path, f"no field with a column is named {show(name)}{hint}")
            return None
        if own is None:
            self.warn(
                field_path,
                f"the field {show(name)} belongs to another table; its column `{joined}` is read from the root table",
            )
        return SoftDelete(own or joined or "", when)

    # -- fields -----------------------------------------------------------------------------------------

    def _fields(self, holder: Dict[str, Any], path: KeyPath) -> Tuple[AnyField, ...]:
        path = (*path, "fields")
        value = holder.get("fields")
        if value is None:
            if len(path) == 1:  # elsewhere the type key's own check has said so
                self.refuse(path, "`fields` is missing: a list of fields (`fields: []` for none)", key=True)
            return ()
        if not isinstance(value, list):
            self.refuse(path, f"must be a list of fields, got {show(value)}")
            return ()
        found: List[AnyField] = []
        seen: Dict[str, int] = {}
        for position, item in enumerate(value):
            field = self._field(item, (*path, position))
            if field is None:
                continue
            if field.name in seen and field.name != _UNREADABLE:
                other = self._place((*path, seen[field.name]))
                self.refuse((*path, position), f"the field name {show(field.name)} is taken by {other}")
            seen.setdefault(field.name, position)
            found.append(field)
        return tuple(found)

    def _field(self, item: Any, path: KeyPath) -> Optional[AnyField]:
        if not isinstance(item, dict):
            self.refuse(path, f"must be a mapping such as {{keyword: name, required: true}}, got {show(item)}")
            return None
        kinds = [key for key in item if key in FIELD_KEYS]
        if not kinds:
            guesses = [(key, nearest(key, FIELD_KEYS)) for key in item]
            near = [f"; did you mean `{guess}` instead of `{key}`?" for key, guess in guesses if guess]
            self.refuse(path, f"has no type key{near[0] if near else ';'} a field has one of {', '.join(FIELD_KEYS)}")
            return None
        if len(kinds) > 1:
            self.refuse(path, f"has {len(kinds)} type keys ({', '.join(kinds)}); a field has exactly one")
            return None
        kind = kinds[0]
        name = self._name(item, path, kind, names.field_name)
        allowed = FIELD_KEYS[kind]
        self._only(item, path, (kind, *allowed.required, *allowed.optional), f"the {kind} field {show(name)}")
        for key in allowed.required:
            if key not in item or (item[key] is None and key != "value"):
                self.refuse((*path, kind), f"`{key}` is missing; the {kind} field {show(name)} needs it", key=True)
        if kind == "constant":
            if not self._json(item.get("value"), (*path, "value")):
                return ConstantField(name)
            return ConstantField(name, item.get("value"))
        options = self._options(item, path)
        if kind == "object":
            return ObjectField(name, self._fields(item, path), options)
        if kind == "geo":
            return self._geo(item, path, name, options)
        if kind in JOIN_VERBS:
            return self._join(item, path, kind, name, options)
        if kind in AGGREGATE_OPS:
            return self._aggregate(item, path, kind, name, options)
        return self._scalar(item, path, kind, name, options)

    def _scalar(
        self, item: Dict[str, Any], path: KeyPath, kind: str, name: str, options: Dict[str, Any]
    ) -> ScalarField:
        default = item.get("default")
        default_text: Optional[str] = None
        if isinstance(default, (list, dict)):
            self.refuse((*path, "default"), f"must be text, a number, true or false, got {show(default)}")
        elif default is not None:
            default_text = self._literal(default, (*path, "default"))
        values: Optional[str] = None
        if kind == "map" and item.get("values") is not None:
            values = self._word(item, path, "values", MAP_VALUES)
        return ScalarField(
            name=name,
            kind=kind,
            column=self._column(item, path, name),
            required=self._flag(item, path, "required"),
            transforms=tuple(
                self._checked_word(text, at, TRANSFORMS) for text, at in self._texts(item, path, "transforms")
            ),
            default=default_text,
            variants=self._variants(item, path),
            values=values,
            postgres=self._postgres(item, path) if kind == "custom" else (),
            opensearch=self._text(item, path, "opensearch") if kind == "custom" else None,
            options=options,
        )

    def _variants(self, item: Dict[str, Any], path: KeyPath) -> Tuple[str, ...]:
        found: Dict[str, None] = {}
        for text, at in self._texts(item, path, "variants"):
            if not text.strip():
                self.refuse(at, "a variant must not be blank")
            elif "=>" in text or "\n" in text:
                self.refuse(at, f"a variant must not hold `=>` or a line break, got {show(text)}")
            elif text in found:
                self.refuse(at, f"the variant {show(text)} stands here a second time")
            found[text] = None
        return tuple(found)

    def _postgres(self, item: Dict[str, Any], path: KeyPath) -> Tuple[str, ...]:
        found = tuple(text for text, _ in self._texts(item, path, "postgres"))
        if item.get("postgres") == []:
            self.refuse((*path, "postgres"), "must name at least one Postgres type")
        return found

    def _geo(self, item: Dict[str, Any], path: KeyPath, name: str, options: Dict[str, Any]) -> GeoField:
        required = self._flag(item, path, "required")
        lat, lon, column = (item.get(key) is not None for key in ("lat", "lon", "column"))
        if (lat or lon) and column:
            self.refuse(path, f"the geo field {show(name)} takes `lat` and `lon`, or `column`, not both")
        elif lat != lon:
            self.refuse(path, f"the geo field {show(name)} needs `lat` and `lon` together")
        elif lat:
            return GeoField(
                name,
                lat=self._name(item, path, "lat", names.identifier),
                lon=self._name(item, path, "lon", names.identifier),
                required=required,
                options=options,
            )
        return GeoField(name, column=self._column(item, path, name), required=required, options=options)

    def _join(self, item: Dict[str, Any], path: KeyPath, verb: str, name: str, options: Dict[str, Any]) -> JoinField:
        table = self._table(item, path)
        declared = self._columns(item, path, "primary_key")
        link: Link
        if verb == "belongs_to":
            column = self._columns(item, path, "column") or (name.lower(),)
            self._same_length(path, "column", column, "primary_key", declared)
            link = TargetLink(column, declared)
        elif verb == "many_to_many":
            link = self._through(item, path)
        else:
            link = self._child_link(item, path)
        return JoinField(
            name=name,
            verb=verb,
            table=table,
            link=link,
            fields=self._fields(item, path),
            filters=self._filters(item, path, "filters"),
            order_by=self._order_by(item, path),
            limit=self._limit(item, path),
            required=self._flag(item, path, "required"),
            declared_key=declared,
            options=options,
        )

    def _aggregate(
        self, item: Dict[str, Any], path: KeyPath, op: str, name: str, options: Dict[str, Any]
    ) -> AggregateField:
        table = self._table(item, path)
        direct, through = item.get("foreign_key") is not None, item.get("through") is not None
        link: Link = ChildLink(PRIMARY_KEY)
        if direct == through:
            self.refuse(path, f"the {op} field {show(name)} needs exactly one of `foreign_key` and `through`")
        elif direct:
            link = self._child_link(item, path)
        else:
            link = self._through(item, path)
            if item.get("references") is not None:
                sentence = "goes with `foreign_key`; a junction has `left_references`"
                self.refuse((*path, "references"), sentence, key=True)
            if op == "ids" and isinstance(link, ThroughLink) and len(link.right_key) > 1:
                self.refuse((*path, "through", "right_key"), "must be one column: it holds the values of `ids`")
        column: Optional[str] = None
        if op == "count":
            for key in ("column", "value_type"):
                if item.get(key) is not None:
                    self.warn((*path, key), f"`{key}` has no effect on count and is ignored")
        elif item.get("column") is not None:
            column = self._name(item, path, "column", names.identifier)
        if op == "avg" and item.get("value_type") is not None:
            self.warn((*path, "value_type"), "`value_type` has no effect on avg, which is always a double")
        value_type: Optional[str] = None
        if op in ("sum", "min", "max") and item.get("value_type") is not None:
            value_type = self._word(item, path, "value_type", SCALAR_KINDS)
        elif op == "ids" and item.get("element_type") is not None:
            value_type = self._word(item, path, "element_type", SCALAR_KINDS)
        return AggregateField(
            name=name,
            op=op,
            table=table,
            link=link,
            column=column,
            value_type=value_type,
            filters=self._filters(item, path, "filters"),
            options=options,
        )

    # -- links ------------------------------------------------------------------------------------------

    def _child_link(self, item: Dict[str, Any], path: KeyPath) -> ChildLink:
        foreign_key = self._columns(item, path, "foreign_key")
        references = self._columns(item, path, "references")
        self._same_length(path, "references", references, "foreign_key", foreign_key)
        return ChildLink(foreign_key, references)

    def _through(self, item: Dict[str, Any], path: KeyPath) -> ThroughLink:
        path = (*path, "through")
        value = item.get("through")
        if not isinstance(value, dict):
            if value is not None:
                self.refuse(path, f"must be a mapping with table, left_key and right_key, got {show(value)}")
            return ThroughLink(Table("", ""), (), ())
        self._only(value, path, THROUGH_KEYS)
        for key in ("table", "left_key", "right_key"):
            if value.get(key) is None:
                self.refuse(path, f"`{key}` is missing; a junction needs table, left_key and right_key", key=True)
        sides = {key: self._columns(value, path, key) for key in THROUGH_KEYS[1:]}
        self._same_length(path, "left_references", sides["left_references"], "left_key", sides["left_key"])
        self._same_length(path, "right_references", sides["right_references"], "right_key", sides["right_key"])
        return ThroughLink(self._table(value, path), **sides)

    def _same_length(self, path: KeyPath, key: str, columns: Columns, other: str, others: Columns) -> None:
        if columns and others and len(columns) != len(others):
            self.refuse(
                (*path, key),
                f"`{key}` ({len(columns)}) and `{other}` ({len(others)}) must list the same number of columns",
            )

    def _order_by(self, item: Dict[str, Any], path: KeyPath) -> Tuple[Order, ...]:
        path = (*path, "order_by")
        found: List[Order] = []
        for position, entry in enumerate(self._list(item, path, "a list such as [{column: id, direction: desc}]")):
            at = (*path, position)
            if not isinstance(entry, dict):
                self.refuse(at, f"must be a mapping with `column` and `direction`, got {show(entry)}")
                continue
            self._only(entry, at, ORDER_KEYS)
            if entry.get("column") is None:
                self.refuse(at, "`column` is missing")
                continue
            direction = "asc"
            if entry.get("direction") is not None:
                direction = self._word(entry, at, "direction", DIRECTIONS)
            found.append(Order(self._name(entry, at, "column", names.identifier), direction == "desc"))
        return tuple(found)

    def _limit(self, item: Dict[str, Any], path: KeyPath) -> Optional[int]:
        value = item.get("limit")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT:
            self.refuse((*path, "limit"), f"must be a whole number from 1, got {show(value)}")
            return None
        return value

    # -- filters ----------------------------------------------------------------------------------------

    def _filters(self, holder: Dict[str, Any], path: KeyPath, key: str) -> Tuple[AnyFilter, ...]:
        path = (*path, key)
        found: List[AnyFilter] = []
        for position, entry in enumerate(self._list(holder, path, "a list of filters")):
            condition = self._filter(entry, (*path, position))
            if condition is not None:
                found.append(condition)
        return tuple(found)

    def _filter(self, entry: Any, path: KeyPath) -> Optional[AnyFilter]:
        if not isinstance(entry, dict):
            self.refuse(path, f"must be a mapping such as {{column: state, op: eq, value: live}}, got {show(entry)}")
            return None
        if "raw" in entry:
            return self._raw_filter(entry, path)
        self._only(entry, path, FILTER_KEYS)
        if "volatile" in entry:
            self.refuse((*path, "volatile"), "goes with `raw` only", key=True)
        missing = [key for key in ("column", "op") if entry.get(key) is None]
        for key in missing:
            self.refuse(path, f"`{key}` is missing; a filter has `column` and `op`, or `raw`")
        column = self._name(entry, path, "column", names.identifier) if "column" not in missing else _UNREADABLE
        if "op" in missing:
            return None
        op = self._word(entry, path, "op", FILTER_OPS)
        if op in NULL_OPS:
            if entry.get("value") is not None:
                self.warn((*path, "value"), f"`value` has no effect on {op} and is ignored")
            return Filter(column, op)
        if op not in FILTER_OPS:
            return None
        return Filter(column, op, self._operands(entry, path, op))

    def _operands(self, entry: Dict[str, Any], path: KeyPath, op: str) -> Tuple[str, ...]:
        at = (*path, "value")
        value = entry.get("value")
        if value is None:
            self.refuse(at, f"`{op}` needs a `value`; use is_null or is_not_null to ask for NULL", key=True)
            return ()
        if op in SCALAR_OPS:
            if isinstance(value, (list, dict)):
                self.refuse(at, f"`{op}` takes one text, number, true or false, got {show(value)}")
                return ()
            return (self._literal(value, at),)
        if not isinstance(value, list):
            self.refuse(at, f"`{op}` takes a list, got {show(value)}")
            return ()
        if op == "between" and len(value) != 2:
            self.refuse(at, f"`between` takes a list of two, got {len(value)}")
        if not value and op != "between":
            self.refuse(at, f"`{op}` takes a list that is not empty")
        found: List[str] = []
        for position, operand in enumerate(value):
            if operand is None or isinstance(operand, (list, dict)):
                self.refuse((*at, position), f"must be text, a number, true or false, got {show(operand)}")
            else:
                found.append(self._literal(operand, (*at, position)))
        return tuple(found)

    def _raw_filter(self, entry: Dict[str, Any], path: KeyPath) -> Optional[AnyFilter]:
        self._only(entry, path, ("raw", "volatile"))
        at = (*path, "raw")
        sql = entry["raw"]
        if not isinstance(sql, str) or not sql.strip() or "\0" in sql:
            self.refuse(at, f"must be a condition in SQL, got {show(sql)}")
            return None
        volatile = self._flag(entry, path, "volatile")
        try:
            culprit = raw.changes_by_itself(sql)
        except ValueError as error:
            self.refuse(at, str(error))
            return None
        if culprit and not volatile:
            self.refuse(
                at,
                f"{culprit} changes without any row changing, so documents would go stale unnoticed; "
                "write the condition over columns, or set `volatile: true` to accept that",
            )
        elif volatile:
            self.warn(at, "is marked volatile: documents follow it only when one of their rows changes")
        return RawFilter(sql.strip(), volatile)

    def _place(self, path: KeyPath) -> str:
        known = self.document.positions.get(path)
        return f"the one in line {known.line}" if known else f"number {int(path[-1]) + 1} of the list"

    # -- values -----------------------------------------------------------------------------------------

    def _only(self, value: Dict[str, Any], path: KeyPath, known: Sequence[str], of: str = "") -> None:
        for key in value:
            if key in known:
                continue
            verbs = [kind for kind, keys in FIELD_KEYS.items() if of and key in keys.required + keys.optional]
            sentence = unknown_key(key, known)
            if verbs:
                sentence = f"`{key}` is not a key of {of}; it belongs to {either(verbs)}"
            elif of:
                sentence = f"{of} has an {sentence}"
            self.refuse((*path, key), sentence, key=True)

    def _list(self, holder: Dict[str, Any], path: KeyPath, wanted: str) -> List[Any]:
        value = holder.get(str(path[-1]))
        if value is None:
            return []
        if not isinstance(value, list):
            self.refuse(path, f"must be {wanted}, got {show(value)}")
            return []
        return value

    def _text(self, holder: Dict[str, Any], path: KeyPath, key: str) -> str:
        value = holder.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if value is not None:
            self.refuse((*path, key), f"must be text, got {show(value)}")
        return _UNREADABLE

    def _texts(self, holder: Dict[str, Any], path: KeyPath, key: str) -> List[Tuple[str, KeyPath]]:
        path = (*path, key)
        found: List[Tuple[str, KeyPath]] = []
        for position, value in enumerate(self._list(holder, path, "a list of texts")):
            if isinstance(value, str):
                found.append((value, (*path, position)))
            else:
                self.refuse((*path, position), f"must be text, got {show(value)}{_quote_hint(value)}")
        return found

    def _word(self, holder: Dict[str, Any], path: KeyPath, key: str, accepted: Sequence[str]) -> str:
        return self._checked_word(holder.get(key), (*path, key), accepted)

    def _checked_word(self, value: Any, path: KeyPath, accepted: Sequence[str]) -> str:
        if isinstance(value, str) and value in accepted:
            return value
        self.refuse(path, unknown_word(value, accepted))
        return _UNREADABLE

    def _flag(self, holder: Dict[str, Any], path: KeyPath, key: str) -> bool:
        value = holder.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.refuse((*path, key), f"must be true or false, got {show(value)}")
        return False

    def _name(self, holder: Dict[str, Any], path: KeyPath, key: str, read: Callable[[str], str]) -> str:
        return self._read(holder.get(key), (*path, key), read, _UNREADABLE)

    def _read(self, value: Any, path: KeyPath, read: Callable[[str], T], otherwise: T) -> T:
        if not isinstance(value, str):
            self.refuse(path, f"must be a name, got {show(value)}{_quote_hint(value)}")
            return otherwise
        try:
            return read(value)
        except ValueError as error:
            self.refuse(path, str(error))
            return otherwise

    def _table(self, holder: Dict[str, Any], path: KeyPath) -> Table:
        nothing = Table("", "")
        if holder.get("table") is None:
            if not path:
                self.refuse((), "`table` is missing: the root table of the index")
            return nothing
        return self._read(holder["table"], (*path, "table"), lambda text: names.table(text, self.schema), nothing)

    def _column(self, item: Dict[str, Any], path: KeyPath, name: str) -> str:
        if item.get("column") is None:
            return name.lower()
        return self._name(item, path, "column", names.identifier)

    def _columns(self, holder: Dict[str, Any], path: KeyPath, key: str) -> Columns:
        """A column or a list of columns; nothing there is the empty tuple."""
        value = holder.get(key)
        path = (*path, key)
        if value is None:
            return ()
        if not isinstance(value, list):
            return (self._read(value, path, names.identifier, _UNREADABLE),)
        if not value:
            self.refuse(path, "must name at least one column")
        if len(value) > MAX_KEY_COLUMNS:
            self.refuse(path, f"must name at most {MAX_KEY_COLUMNS} columns, as keys in Postgres do, got {len(value)}")
            return ()
        found: List[str] = []
        for position, entry in enumerate(value):
            column = self._read(entry, (*path, position), names.identifier, _UNREADABLE)
            if column in found and column != _UNREADABLE:
                self.refuse((*path, position), f"the column {show(column)} stands here a second time")
            found.append(column)
        return tuple(found)

    def _literal(self, value: Any, path: KeyPath) -> str:
        """An operand or default as Postgres reads it: the text of the file, not of a float in between."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        if isinstance(value, float):
            if math.isnan(value):
                return "NaN"
            written = self.document.texts.get(path, repr(value))
            if written.lstrip("+-").lower() in (".inf", "inf"):
                return "-Infinity" if value < 0 else "Infinity"
            return written
        text = str(value)
        if "\0" in text:
            self.refuse(path, "must not hold a zero byte; Postgres cannot store one")
        return text

    def _options(self, item: Dict[str, Any], path: KeyPath) -> Dict[str, Any]:
        value = item.get("options")
        path = (*path, "options")
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(path, f"must be a mapping of OpenSearch property settings, got {show(value)}")
            return {}
        return value if self._json(value, path) else {}

    def _json(self, value: Any, path: KeyPath) -> bool:
        """Whether JSON can carry the value; notes a problem where it cannot."""
        if isinstance(value, float) and not math.isfinite(value):
            self.refuse(path, f"must be a number that JSON can carry, got {show(value)}")
            return False
        if value is None or isinstance(value, (str, bool, int, float)):
            return True
        steps: Iterable[Tuple[Union[str, int], Any]]
        if isinstance(value, dict):
            steps = value.items()
        elif isinstance(value, list):
            steps = enumerate(value)
        else:
            self.refuse(path, f"must be a value that JSON can carry, got {show(value)}")
            return False
        return all([self._json(inner, (*path, step)) for step, inner in steps])


def _quote_hint(value: Any) -> str:
    if value is None or isinstance(value, (list, dict)):
        return ""
    return "; put it in quotes if it is meant as text"


def _column_of(fields: Sequence[AnyField], name: str) -> Tuple[Optional[str], Optional[str]]:
    """The column of the first field of that name: on the root row itself, and within a join."""
    own: Optional[str] = None
    joined: Optional[str] = None
    for field in fields:
        if isinstance(field, (ScalarField, GeoField)) and field.name == name and field.column:
            own = own or field.column
        elif isinstance(field, ObjectField):
            inner, inner_joined = _column_of(field.fields, name)
            own, joined = own or inner, joined or inner_joined
        elif isinstance(field, JoinField):
            inner, inner_joined = _column_of(field.fields, name)
            joined = joined or inner or inner_joined
    return own, joined

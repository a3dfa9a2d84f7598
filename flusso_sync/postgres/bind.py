"""Joins a plan to the catalog: keys filled in, every name found, every mistake told at once.

Refused is only what could not run or would write wrong documents.  A column whose type its field kind does not list
still runs (values are rendered by the column's own type); it becomes an ``error`` among the findings, for ``check``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from flusso_sync.errors import EXIT_CONFIG, ConfigError, Problem, SourceRefused
from flusso_sync.findings import ERROR, WARNING, Finding
from flusso_sync.postgres.catalog import KINDS, Catalog, Column, Relation
from flusso_sync.postgres.quoting import identifier, table_name
from flusso_sync.schema.paths import reads_related, tables, with_keys
from flusso_sync.schema.places import problem
from flusso_sync.schema.plan import (
    AggregateField,
    AnyField,
    AnyFilter,
    ChildLink,
    Columns,
    Filter,
    GeoField,
    IndexPlan,
    JoinField,
    ObjectField,
    ScalarField,
    Table,
    TargetLink,
    ThroughLink,
)
from flusso_sync.schema.types import accepts, accepts_aggregate, accepts_geo, describe

#: Base types that sum and avg add up.
NUMBERS = frozenset({"int2", "int4", "int8", "numeric", "float4", "float8", "money"})

#: Base types that have no order and no equality.
UNORDERED = frozenset({"json", "xml", "point", "polygon", "line", "lseg", "path", "box", "circle"})

#: Base types that transforms and LIKE read as text.
TEXTS = frozenset({"text", "varchar", "bpchar", "char", "name", "citext"})


@dataclass(frozen=True)
class BoundIndex:
    """A plan whose every name is known to exist.

    ``lookup`` are the columns of the root that a document is found and named by: ``doc_id`` where that is
    declared, else the primary key.  ``walk`` are the same columns in the order of the index over them, in
    which a build walks through the table.
    """

    plan: IndexPlan
    catalog: Catalog
    lookup: Columns
    walk: Columns
    findings: Tuple[Finding, ...] = ()

    @property
    def root(self) -> Relation:
        return self.catalog.tables[self.plan.root]

    def columns(self, table: Table) -> Mapping[str, Column]:
        return self.catalog.tables[table].columns

    def key_of(self, table: Table) -> Columns:
        """What rows of a related table are told apart by: primary key or unique NOT NULL columns, else nothing."""
        return row_key(self.catalog.tables[table])


def row_key(relation: Relation) -> Columns:
    """The primary key, else the first unique index over NOT NULL columns; empty when there is neither."""
    if relation.primary_key:
        return relation.primary_key
    for index in relation.indexes:
        if index.columns is not None and relation.unique_over(index.columns, constraint=False) is index:
            return index.columns
    return ()


def keys_for(plan: IndexPlan, catalog: Catalog) -> Mapping[Table, Columns]:
    """For ``with_keys``: the primary keys; a root that has none is told apart by ``doc_id``."""
    keys = dict(catalog.primary_keys)
    if plan.root not in keys and plan.doc_id:
        keys[plan.root] = plan.doc_id
    return keys


def bind(plan: IndexPlan, catalog: Catalog) -> BoundIndex:
    """Check ``plan`` against ``catalog`` and fill in the keys that only the catalog knows.

    Raises ``ConfigError`` naming every mistake of the schema file; ``SourceRefused`` when the only trouble is that
    tables are views, foreign, unlogged or temporary.
    """
    check = _Check(plan, catalog)
    refused = check.tables()
    if check.problems:
        raise ConfigError(check.problems + refused)
    if refused:
        raise SourceRefused("\n".join(str(one) for one in refused), code="FL041")
    check.root()
    try:
        plan = with_keys(plan, keys_for(plan, catalog))
    except ConfigError as error:
        check.problems.extend(error.problems)
        raise ConfigError(check.problems) from None
    check.filters(plan.root, plan.filters, "filters")
    if plan.soft_delete is not None:
        check.columns(plan.root, (plan.soft_delete.column,), "soft_delete")
        check.filters(plan.root, plan.soft_delete.when, "soft_delete.when")
    check.fields(plan.root, plan.primary_key, plan.fields, "")
    if check.problems:
        raise ConfigError(check.problems)
    lookup = plan.doc_id or plan.primary_key
    index = catalog.tables[plan.root].unique_over(lookup, constraint=False)
    walk = index.columns if index is not None and index.columns is not None else lookup
    return BoundIndex(plan, catalog, lookup, walk, tuple(check.findings))


class _Check:
    """One pass over one plan; ``problems`` refuse it, ``findings`` do not."""

    def __init__(self, plan: IndexPlan, catalog: Catalog) -> None:
        self._plan = plan
        self._catalog = catalog
        self.problems: List[Problem] = []
        self.findings: List[Finding] = []

    def _refuse(self, code: str, path: str, message: str) -> None:
        self.problems.append(self._problem(code, path, message))

    def _problem(self, code: str, path: str, message: str, *, at: str = "") -> Problem:
        place = f"{path}: " if path else ""
        return problem(self._plan, path, f"index {self._plan.name}: {place}{message}", code, at=at)

    def _find(self, code: str, severity: str, path: str, message: str, remedy: str = "", **facts: Any) -> None:
        place = self._plan.place(path)
        file, line, column = place or (None, None, None)
        index, ends = self._plan.name, EXIT_CONFIG if severity == ERROR else 0
        self.findings.append(
            Finding(code, severity, message, remedy, index, path, file, line, column, exit_code=ends, facts=facts)
        )

    # -- tables ---------------------------------------------------------------------------------------

    def tables(self) -> List[Problem]:
        """Refuse missing tables; return what is to be said of objects that are no ordinary tables."""
        refused: List[Problem] = []
        named = dict(reversed(list(_naming(self._plan.fields, ""))))
        for table in tables(self._plan):
            at = named.get(table, "") if table != self._plan.root else ""
            relation = self._catalog.tables.get(table)
            if relation is None:
                absent = f"table {table} does not exist, or this role may not see its database schema"
                self.problems.append(self._problem("FL040", "", absent, at=at))
                continue
            for part in (relation, *relation.leaves):
                what = _refusal(part)
                if what is not None:
                    whose = "" if part is relation else f", a partition of {table},"
                    refused.append(
                        self._problem(
                            "FL041", "", f"{part.table}{whose} is {what}; its changes are not in the stream", at=at
                        )
                    )
        return refused

    def root(self) -> None:
        relation = self._catalog.tables[self._plan.root]
        for name, columns in (("primary_key", self._plan.primary_key), ("doc_id", self._plan.doc_id)):
            if not columns or not self.columns(relation.table, columns, name):
                continue
            if relation.unique_over(columns, constraint=True) is None:
                actual = ", ".join(relation.primary_key) or "none"
                self._refuse(
                    "FL043",
                    name,
                    f"{_listed(columns)} of table {relation.table} is neither its primary key ({actual}) nor a unique "
                    f"constraint over NOT NULL columns",
                )

    # -- columns --------------------------------------------------------------------------------------

    def columns(self, table: Table, names: Iterable[str], path: str) -> bool:
        """Whether all of ``names`` exist; refuses those that do not."""
        known = self._catalog.tables[table].columns
        missing = [name for name in names if name not in known]
        for name in missing:
            self._refuse("FL042", path, f"table {table} has no column {name}; it has {', '.join(sorted(known))}")
        return not missing

    def _column(self, table: Table, name: str, path: str) -> Optional[Column]:
        return self._catalog.tables[table].columns[name] if self.columns(table, (name,), path) else None

    def filters(self, table: Table, filters: Iterable[AnyFilter], path: str) -> None:
        for condition in filters:
            if not isinstance(condition, Filter):
                self._writable(condition.sql, path)
                continue
            for operand in condition.values:
                self._writable(operand, path)
            column = self._column(table, condition.column, path)
            if column is None or condition.op in ("is_null", "is_not_null"):
                continue
            if condition.op in ("like", "ilike"):
                if not _is_text(column):
                    self._refuse("FL047", path, f"{condition.op} needs a text column, {_named(table, column)}")
                elif not column.deterministic:
                    self._refuse(
                        "FL047", path, f"{condition.op} cannot search {table}.{column.name}: its collation is loose"
                    )
            elif not _is_ordered(column):
                self._refuse("FL047", path, f"{condition.op} cannot compare: {_named(table, column)}")

    def _writable(self, text: str, path: str) -> None:
        if "\x00" in text:
            self._refuse("FL047", path, "a zero character cannot stand in a Postgres text")

    # -- fields ---------------------------------------------------------------------------------------

    def fields(self, scope: Table, key: Columns, fields: Iterable[AnyField], prefix: str) -> None:
        for field in fields:
            path = prefix + field.name
            if isinstance(field, ScalarField):
                self._scalar(scope, key, field, path)
            elif isinstance(field, GeoField):
                self._geo(scope, field, path)
            elif isinstance(field, ObjectField):
                self.fields(scope, key, field.fields, path + ".")
            elif isinstance(field, JoinField):
                self._join(scope, field, path)
            elif isinstance(field, AggregateField):
                self._aggregate(scope, field, path)

    def _scalar(self, scope: Table, key: Columns, field: ScalarField, path: str) -> None:
        column = self._column(scope, field.column, path)
        if column is None:
            return
        self._accepted(scope, column, field.kind, field.postgres, path)
        self._writable(field.default or "", path)
        if field.transforms and (not _is_text(column) or column.type.is_array):
            self._refuse("FL054", path, f"transforms need a text column, {_named(scope, column)}")
        if field.required and not column.not_null and field.default is None and field.column not in key:
            self._find("FL046", WARNING, path, f"required, but {scope}.{column.name} may be null")

    def _accepted(self, table: Table, column: Column, kind: str, postgres: Sequence[str], path: str) -> None:
        if kind == "custom":
            if not any(accepts(kind, name, postgres) for name in column.type.names):
                self._find("FL045", ERROR, path, f"accepts {', '.join(postgres)}; {_named(table, column)}")
        elif not accepts(kind, column.type.looks_like):
            self._find("FL045", ERROR, path, f"{kind} accepts {describe(kind)}; {_named(table, column)}")

    def _geo(self, scope: Table, field: GeoField, path: str) -> None:
        pair = field.column is None
        for name in (field.lat, field.lon, field.column):
            column = self._column(scope, name, path) if name is not None else None
            if column is not None and (not accepts_geo(column.type.looks_like, pair=pair)):
                wanted = "a number" if pair else "json, jsonb or text"
                self._find("FL045", ERROR, path, f"geo accepts {wanted}; {_named(scope, column)}")
            if column is not None and pair and (column.type.base not in NUMBERS or column.type.is_array):
                self._refuse("FL049", path, f"lat and lon need numbers, {_named(scope, column)}")

    # -- relations ------------------------------------------------------------------------------------

    def _link(self, scope: Table, field: JoinField | AggregateField, path: str) -> bool:
        link = field.link
        if isinstance(link, ChildLink):
            ok = self.columns(scope, link.references, path) and self.columns(field.table, link.foreign_key, path)
            if ok:
                self._searched(field.table, link.foreign_key, path)
            return ok
        if isinstance(link, TargetLink):
            ok = self.columns(scope, link.column, path) and self.columns(field.table, link.target_key, path)
            if (
                ok
                and self._catalog.tables[field.table].unique_over(link.target_key, constraint=False, not_null=False)
                is None
            ):
                self._refuse(
                    "FL052",
                    path,
                    f"{_listed(link.target_key)} of table {field.table} is not unique: belongs_to needs the primary "
                    f"key or a unique constraint",
                )
            if ok:
                # Found from the other side when the target changes.
                self._searched(scope, link.column, path)
            return ok
        ok = self.columns(scope, link.left_references, path)
        ok = self.columns(link.junction, (*link.left_key, *link.right_key), path) and ok
        if reads_related(field):
            ok = self.columns(field.table, link.right_references, path) and ok
        if ok:
            self._searched(link.junction, link.left_key, path)
            if reads_related(field):
                self._searched(link.junction, link.right_key, path)
                self._searched(field.table, link.right_references, path)
        return ok

    def _searched(self, table: Table, columns: Columns, path: str) -> None:
        relation = self._catalog.tables[table]
        lacking = relation.lacking(columns)
        if not lacking:
            return
        named = ", ".join(identifier(column) for column in columns)
        statements = [f"CREATE INDEX CONCURRENTLY ON {table_name(each.table)} ({named})" for each in lacking]
        self._find(
            "FL057",
            WARNING,
            path,
            f"no index on {table}({', '.join(columns)}): every look-up reads the whole table",
            f"Run: {'; '.join(statements)}",
            tables=[[each.table.schema, each.table.name] for each in lacking],
            statements=statements,
        )

    def _join(self, scope: Table, field: JoinField, path: str) -> None:
        self._link(scope, field, path)
        self.columns(field.table, field.declared_key, path)
        self.filters(field.table, field.filters, path)
        for order in field.order_by:
            column = self._column(field.table, order.column, path)
            if column is not None and not _is_ordered(column):
                self._refuse("FL048", path, f"order_by cannot sort: {_named(field.table, column)}")
        self.fields(field.table, field.declared_key, field.fields, path + ".")

    def _aggregate(self, scope: Table, field: AggregateField, path: str) -> None:
        linked = self._link(scope, field, path)
        self.filters(field.table, field.filters, path)
        if field.op == "ids":
            if linked:
                self._ids(field, path)
            return
        if field.op == "count" or field.column is None:
            return
        column = self._column(field.table, field.column, path)
        if column is None:
            return
        if field.op in ("sum", "avg") and (column.type.base not in NUMBERS or column.type.is_array):
            self._refuse("FL049", path, f"{field.op} needs a number, {_named(field.table, column)}")
        elif field.op in ("min", "max") and not _is_ordered(column):
            self._refuse("FL048", path, f"{field.op} needs a type with an order, {_named(field.table, column)}")
        elif field.value_type is not None and field.op != "avg":
            if not accepts_aggregate(field.op, field.value_type, column.type.looks_like):
                what = f"{field.op} of {_named(field.table, column)}"
                self._find("FL050", ERROR, path, f"value_type {field.value_type} cannot hold {what}")

    def _ids(self, field: AggregateField, path: str) -> None:
        table, columns = ids_source(field, self._catalog)
        if not columns:
            self._refuse(
                "FL051", path, f"table {table} has neither a primary key nor unique NOT NULL columns to list as ids"
            )
            return
        if len(columns) == 1:
            column = self._catalog.tables[table].columns[columns[0]]
            if field.value_type is not None and not accepts(field.value_type, column.type.looks_like):
                self._find(
                    "FL051", ERROR, path, f"element_type {field.value_type} does not fit: {_named(table, column)}"
                )
        elif field.value_type not in ("keyword", "text", "identifier"):
            self._find("FL051", ERROR, path, f"ids of several columns ({', '.join(columns)}) are texts: use keyword")


def ids_source(field: AggregateField, catalog: Catalog) -> Tuple[Table, Columns]:
    """Where ``ids`` takes its values from: the junction's right key, or the key of the related table."""
    if isinstance(field.link, ThroughLink):
        return field.link.junction, field.link.right_key
    return field.table, row_key(catalog.tables[field.table])


def _naming(fields: Iterable[AnyField], prefix: str) -> Iterator[Tuple[Table, str]]:
    """Every table that a field names, with the field's path."""
    for field in fields:
        path = prefix + field.name
        if isinstance(field, (JoinField, AggregateField)):
            yield field.table, path
            if isinstance(field.link, ThroughLink):
                yield field.link.junction, path
        if isinstance(field, (JoinField, ObjectField)):
            yield from _naming(field.fields, path + ".")


def _refusal(relation: Relation) -> Optional[str]:
    if relation.kind not in ("r", "p"):
        return f"a {KINDS.get(relation.kind, 'relation of another kind')}"
    if relation.persistence != "p":
        return "an unlogged table" if relation.persistence == "u" else "a temporary table"
    return None


def _is_text(column: Column) -> bool:
    return (column.type.base in TEXTS or column.type.is_enum) and not column.type.is_array


def _is_ordered(column: Column) -> bool:
    return not (column.type.is_builtin and column.type.base in UNORDERED)


def _named(table: Table, column: Column) -> str:
    return f"{table}.{column.name} is {column.type_name}"


def _listed(columns: Columns) -> str:
    return columns[0] if len(columns) == 1 else f"({', '.join(columns)})"

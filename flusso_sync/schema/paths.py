"""How a changed row finds the documents that show it, and what each table must provide for that.

Pure functions over plans.  Every link kind is reduced to hops between two tables, so that tracing needs no
knowledge of joins, aggregates or junctions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Union

from flusso_sync.errors import ConfigError, Problem
from flusso_sync.schema.places import problem
from flusso_sync.schema.plan import (
    AggregateField,
    AnyField,
    AnyFilter,
    ChildLink,
    Columns,
    Filter,
    GeoField,
    Hop,
    IndexPlan,
    JoinField,
    Link,
    ObjectField,
    Path,
    RawFilter,
    ScalarField,
    SoftDelete,
    Table,
    TableUse,
    TargetLink,
    ThroughLink,
)

Relation = Union[JoinField, AggregateField]


def reads_related(field: Relation) -> bool:
    """Whether the related table itself is read.

    ``ids`` over a junction takes its values from the junction, and reaches further only to apply filters.
    """
    return not (
        isinstance(field, AggregateField)
        and field.op == "ids"
        and isinstance(field.link, ThroughLink)
        and not field.filters
    )


# -- keys -------------------------------------------------------------------------------------------


def with_keys(plan: IndexPlan, keys: Mapping[Table, Columns]) -> IndexPlan:
    """The plan with every ``PRIMARY_KEY`` replaced by the key columns of the table it stands for.

    ``keys`` holds the catalog's primary keys.  Raises ``ConfigError`` naming each place whose table has none:
    the file must then say the columns itself, and each pair of link columns of different length.  ``ids`` over
    a foreign key reads the related table's key, so that becomes its ``column``.
    """
    key = _Keys(plan, keys)
    root_key = plan.primary_key or key(plan.root, "primary_key", "name a unique constraint over NOT NULL columns")
    fields = _fill(plan.root, plan.fields, key, "")
    if key.problems:
        raise ConfigError(key.problems)
    return replace(plan, primary_key=root_key, fields=fields)


class _Keys:
    """The catalog's primary keys, asked for by place; what cannot be answered becomes a problem."""

    def __init__(self, plan: IndexPlan, keys: Mapping[Table, Columns]) -> None:
        self._plan = plan
        self._keys = keys
        self.problems: List[Problem] = []

    def refuse(self, where: str, message: str, code: str = "FL044") -> None:
        self.problems.append(problem(self._plan, where, f"index {self._plan.name}: {message}", code))

    def __call__(self, table: Table, where: str, remedy: str) -> Columns:
        found = tuple(self._keys.get(table, ()))
        if not found:
            self.refuse(where, f"table {table} has no primary key; {remedy}")
        return found

    def single(self, table: Table, where: str) -> Optional[str]:
        found = tuple(self._keys.get(table, ()))
        if len(found) != 1:
            self.refuse(
                where, f"ids needs a primary key of one column, and table {table} has {len(found) or 'none'}", "FL051"
            )
            return None
        return found[0]


def _fill(scope: Table, fields: Tuple[AnyField, ...], key: _Keys, prefix: str) -> Tuple[AnyField, ...]:
    filled: List[AnyField] = []
    for field in fields:
        where = prefix + field.name
        if isinstance(field, ObjectField):
            filled.append(replace(field, fields=_fill(scope, field.fields, key, where + ".")))
        elif isinstance(field, JoinField):
            filled.append(
                replace(
                    field,
                    link=_fill_link(scope, field, key, where),
                    fields=_fill(field.table, field.fields, key, where + "."),
                )
            )
        elif isinstance(field, AggregateField):
            column = field.column
            if field.op == "ids" and isinstance(field.link, ChildLink) and column is None:
                column = key.single(field.table, where)
            filled.append(replace(field, link=_fill_link(scope, field, key, where), column=column))
        else:
            filled.append(field)
    return tuple(filled)


def _fill_link(scope: Table, field: Relation, key: _Keys, where: str) -> Link:
    link = field.link
    if isinstance(link, ChildLink):
        references = link.references or key(scope, where, "name the columns it points at in references")
        _match(key, where, "foreign_key", link.foreign_key, references)
        return replace(link, references=references)
    if isinstance(link, TargetLink):
        target = link.target_key or key(field.table, where, "name the referenced column in primary_key")
        _match(key, where, "column", link.column, target)
        return replace(link, target_key=target)
    left = link.left_references or key(scope, where, "name the referenced columns in left_references")
    _match(key, where, "left_key", link.left_key, left)
    right = link.right_references
    if reads_related(field):
        right = right or key(field.table, where, "name the referenced columns in right_references")
        _match(key, where, "right_key", link.right_key, right)
    return replace(link, left_references=left, right_references=right)


def _match(key: _Keys, where: str, name: str, columns: Columns, referenced: Columns) -> None:
    if columns and referenced and len(columns) != len(referenced):
        key.refuse(
            where,
            f"{name} ({', '.join(columns)}) and the key it points at ({', '.join(referenced)}) differ in length",
        )


# -- paths ------------------------------------------------------------------------------------------


def hops(scope: Table, field: Relation) -> Tuple[Hop, ...]:
    """The steps from a row of ``scope`` to the rows of a relation: two over a junction, else one."""
    link = field.link
    if isinstance(link, ChildLink):
        return (Hop(scope, link.references, field.table, link.foreign_key),)
    if isinstance(link, TargetLink):
        return (Hop(scope, link.column, field.table, link.target_key),)
    to_junction = Hop(scope, link.left_references, link.junction, link.left_key)
    if not reads_related(field):
        return (to_junction,)
    return (to_junction, Hop(link.junction, link.right_key, field.table, link.right_references))


def relation_paths(plan: IndexPlan) -> Tuple[Path, ...]:
    """Every way from the root to a related or junction table, without repeats, in field order.

    A relation over a junction gives two paths: one that ends at the junction and one at the related table.
    """
    found: Dict[Path, None] = {}
    for trail, _ in _relations(plan.root, plan.fields, ()):
        found[Path(plan.name, trail)] = None
    return tuple(found)


def _relations(
    scope: Table, fields: Iterable[AnyField], trail: Tuple[Hop, ...]
) -> Iterator[Tuple[Tuple[Hop, ...], Relation]]:
    for field in fields:
        if isinstance(field, ObjectField):
            yield from _relations(scope, field.fields, trail)
        elif isinstance(field, (JoinField, AggregateField)):
            reached = trail
            for hop in hops(scope, field):
                reached = (*reached, hop)
                yield reached, field
            if isinstance(field, JoinField):
                yield from _relations(field.table, field.fields, reached)


def tables(plan: IndexPlan) -> Tuple[Table, ...]:
    """All tables a document of the plan is read from, junctions included, sorted."""
    found = {plan.root}
    for path in relation_paths(plan):
        found.add(path.table)
    return tuple(sorted(found))


# -- what is read of each table -----------------------------------------------------------------------


class _Use:
    """What one pass over the plans collects about a table."""

    def __init__(self) -> None:
        self.columns: Set[str] = set()
        self.keys: Set[str] = set()
        self.links: Set[str] = set()
        self.indexes: Set[str] = set()
        self.raw = False


def table_uses(
    plans: Sequence[IndexPlan],
    keys: Optional[Mapping[Table, Columns]] = None,
    sources: Optional[Mapping[Table, Mapping[str, Columns]]] = None,
) -> Mapping[Table, TableUse]:
    """What the plans need of each table, in table order.

    ``keys`` are the catalog's primary keys: each is added to its table's columns and keys.  Without them only a
    root's own key is known.  ``sources``, of generated columns, are the columns they are computed from: the stream
    tells those alone, so they stand in a generated link's or key's place.

    A raw filter may name any column of its own table, of the junction beside it and of the rows around it, so
    all of these count as read in full.
    """
    known: Dict[Table, Columns] = {plan.root: plan.primary_key for plan in plans if plan.primary_key}
    known.update(keys or {})
    uses: Dict[Table, _Use] = {}
    for plan in plans:
        _collect(plan, uses)
    result: Dict[Table, TableUse] = {}
    for table in sorted(uses):
        use = uses[table]
        key = set(known.get(table, ()))
        computed = (sources or {}).get(table, {})
        told = _told(use.keys | key, computed)
        result[table] = TableUse(
            table=table,
            columns=None if use.raw else tuple(sorted(use.columns | key | told)),
            keys=tuple(sorted(told)),
            links=tuple(sorted(_told(use.links, computed))),
            indexes=tuple(sorted(use.indexes)),
        )
    return result


def _told(columns: Iterable[str], computed: Mapping[str, Columns]) -> Set[str]:
    """The columns of a tuple that tell the values of ``columns``."""
    return {told for column in columns for told in computed.get(column, (column,))}


def _collect(plan: IndexPlan, uses: Dict[Table, _Use]) -> None:
    def use_of(table: Table) -> _Use:
        use = uses.setdefault(table, _Use())
        use.indexes.add(plan.name)
        return use

    root = use_of(plan.root)
    for columns in (plan.primary_key, plan.doc_id):
        root.columns.update(columns)
        root.keys.update(columns)
        root.links.update(columns)
    if plan.soft_delete is not None:
        root.columns.add(plan.soft_delete.column)
    _filters(_conditions(plan.filters, plan.soft_delete), root, (root,))

    def walk(scope: Table, fields: Iterable[AnyField], around: Tuple[_Use, ...]) -> None:
        own = around[-1]
        for field in fields:
            if isinstance(field, ScalarField):
                own.columns.add(field.column)
            elif isinstance(field, GeoField):
                own.columns.update(name for name in (field.lat, field.lon, field.column) if name is not None)
            elif isinstance(field, ObjectField):
                walk(scope, field.fields, around)
            elif isinstance(field, (JoinField, AggregateField)):
                chain = around
                for hop in hops(scope, field):
                    parent, child = use_of(hop.parent), use_of(hop.child)
                    # A row is traced by its own link columns; those it is referenced by are looked up.
                    parent.columns.update(hop.parent_columns)
                    child.columns.update(hop.child_columns)
                    child.keys.update(hop.child_columns)
                    child.links.update(hop.child_columns)
                    chain = (*chain, child)
                if isinstance(field.link, ThroughLink):
                    # The values of ids: also read where the related table is not.
                    chain[len(around)].columns.update(field.link.right_key)
                _filters(field.filters, chain[-1], chain)
                if isinstance(field, JoinField):
                    chain[-1].columns.update(order.column for order in field.order_by)
                    walk(field.table, field.fields, chain)
                elif field.column is not None and field.op != "count":
                    chain[-1].columns.add(field.column)

    walk(plan.root, plan.fields, (root,))


def _conditions(filters: Tuple[AnyFilter, ...], soft_delete: Optional[SoftDelete]) -> Tuple[AnyFilter, ...]:
    return filters + soft_delete.when if soft_delete is not None else filters


def _filters(filters: Iterable[AnyFilter], own: _Use, around: Iterable[_Use]) -> None:
    for condition in filters:
        if isinstance(condition, Filter):
            own.columns.add(condition.column)
        elif isinstance(condition, RawFilter):
            for use in around:
                use.raw = True

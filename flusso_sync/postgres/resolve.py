"""From changed rows to the documents that show them (design section 4 and promise 7).

Pure but for the statements it names.  For each relation path that ends at a changed table, the values of the
path's last link, old and new, are gathered from the tuples; a direct child of the root names its documents
with no query at all, any other path takes one statement for a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from flusso_sync.postgres.bind import BoundIndex
from flusso_sync.postgres.catalog import Derived
from flusso_sync.postgres.pgoutput import ABSENT, INSERT, TRUNCATE, Change, Shape, Values
from flusso_sync.postgres.quoting import identifier, table_name
from flusso_sync.postgres.render import prints_alike
from flusso_sync.schema.paths import relation_paths
from flusso_sync.schema.plan import Columns, Hop, IndexPlan, Path, Table

#: A link's or key's values as text; holds no null, for a null points at nothing, but where a link is computed from it.
Link = Tuple[Optional[str], ...]

TypeOf = Callable[[Table, str], str]

#: Generated columns by table: the stream tells what they are computed from.
Computed = Mapping[Table, Mapping[str, Derived]]


@dataclass(frozen=True)
class Trace:
    """How changes of ``table`` reach the documents of ``index``.

    ``columns``: the link columns of the changed row, or what generated ones are ``computed`` from.  ``statement`` maps
    arrays of their values ($1.. as text[], one per column) to root keys; None when the values are root keys already.
    ``by_key`` maps arrays of the changed row's own key (``key`` columns) to root keys: used when the stream does not
    tell a link's value.
    """

    index: str
    table: Table
    columns: Columns
    statement: Optional[str]
    key: Columns
    by_key: Optional[str]
    computed: bool = False


def traces_of(bound: BoundIndex) -> List[Trace]:
    """The traces of an index whose tables are known: that of its root, then one for each of its relation paths."""
    catalog = bound.catalog

    def type_of(table: Table, column: str) -> str:
        return catalog.tables[table].columns[column].type.sql

    def alike(table: Table, columns: Columns) -> bool:
        return len(columns) == len(bound.lookup) and all(
            prints_alike(catalog.tables[table].columns[column], bound.root.columns[key])
            for column, key in zip(columns, bound.lookup)
        )

    paths = relation_paths(bound.plan)
    return compile_traces(bound.plan, paths, bound.lookup, catalog.primary_keys, type_of, catalog.derived, alike)


def compile_traces(
    plan: IndexPlan,
    paths: Sequence[Path],
    lookup: Columns,
    keys: Mapping[Table, Columns],
    type_of: TypeOf,
    computed: Optional[Computed] = None,
    alike: Callable[[Table, Columns], bool] = lambda table, columns: True,
) -> List[Trace]:
    """The traces of one index.

    ``lookup`` are the root columns documents are looked up by, ``keys`` the primary keys by table, ``type_of`` gives a
    column's type as SQL text.  ``alike``: whether values of those columns of a child, equal to the key of the root, are
    also the text of it; where 'abc' is equal to 'ABC', only the root's row tells how its key is written.
    """
    root = _Given(plan.root, lookup, type_of, computed)
    own = None
    if root.computed:
        texts = ", ".join(f"{value}::text" for value in root.values)
        own = f"select {texts} from {root.source} where {' and '.join(f'{value} is not null' for value in root.values)}"
    traces = [Trace(plan.name, plan.root, root.columns, own, (), None, root.computed)]
    for path in paths:
        last = path.hops[-1]
        link = _Given(path.table, last.child_columns, type_of, computed)
        direct = (
            len(path.hops) == 1
            and last.parent_columns == lookup
            and not link.computed
            and alike(path.table, last.child_columns)
        )
        key = keys.get(path.table, ())
        traces.append(
            Trace(
                plan.name,
                path.table,
                link.columns,
                None if direct else _chain(path.hops, lookup, link, by_key=False),
                key,
                _chain(path.hops, lookup, _Given(path.table, key, type_of), by_key=True) if key else None,
                link.computed,
            )
        )
    return traces


class _Given:
    """Values of ``wanted`` columns, given as arrays of texts.

    ``columns`` are those the arrays hold: the wanted ones, or what they are computed from.  ``source`` is an item of a
    FROM list that has the wanted ``values``.
    """

    def __init__(self, table: Table, wanted: Columns, type_of: TypeOf, computed: Optional[Computed] = None) -> None:
        derived = (computed or {}).get(table, {})
        collations: Dict[str, Optional[str]] = {}
        for column in wanted:
            if column in derived:
                collations.update(zip(derived[column].sources, derived[column].collations))
            else:
                collations.setdefault(column, None)
        self.wanted = wanted
        self.computed = any(column in derived for column in wanted)
        self.columns: Columns = tuple(collations)
        self.values = [f"k.v{i}" for i in range(1, len(wanted) + 1)]
        arrays = ", ".join(f"${i}::text[]::{type_of(table, name)}[]" for i, name in enumerate(self.columns, start=1))
        names = ", ".join(f"v{i}" for i in range(1, len(self.columns) + 1))
        # OFFSET 0 keeps the planner from flattening the keys away: they are few and always come first.
        if not self.computed:
            self.source = f"(select distinct * from unnest({arrays}) as k({names}) offset 0) k"
            return
        # What the expressions call a column is what is given for it, with that column's collation.
        told = ", ".join(
            f"v{i}{f' collate {collation}' if collation else ''} as {identifier(name)}"
            for i, (name, collation) in enumerate(collations.items(), start=1)
        )
        each = ", ".join(
            f"({derived[column].expression if column in derived else identifier(column)}) as v{i}"
            for i, column in enumerate(wanted, start=1)
        )
        self.source = (
            f"(select distinct {each} from (select {told} from unnest({arrays}) as g({names})) as given offset 0) k"
        )


def _chain(hops: Sequence[Hop], lookup: Columns, given: _Given, *, by_key: bool) -> str:
    """Select the root keys that ``given`` values of the last table lead to, walking the hops backwards."""
    table = hops[-1].child
    joins = [given.source]
    values = given.values
    if by_key:
        joins.append(f"{table_name(table)} t on {_equal('t', given.wanted, values)}")
        values = [f"t.{identifier(column)}" for column in hops[-1].child_columns]
    alias = ""
    for step, hop in enumerate(reversed(hops)):
        alias = f"p{step}"
        joins.append(f"{table_name(hop.parent)} {alias} on {_equal(alias, hop.parent_columns, values)}")
        values = [f"{alias}.{identifier(column)}" for column in _up(hops, len(hops) - 1 - step)]
    chosen = ", ".join(f"{alias}.{identifier(column)}::text" for column in lookup)
    return f"select distinct {chosen} from " + " join ".join(joins)


def _up(hops: Sequence[Hop], position: int) -> Columns:
    """The columns by which the parent of hop ``position`` is itself a child."""
    return hops[position - 1].child_columns if position else ()


def _equal(alias: str, columns: Columns, values: Sequence[str]) -> str:
    return " and ".join(f"{alias}.{identifier(column)} = {value}" for column, value in zip(columns, values))


@dataclass(frozen=True)
class Lookup:
    """One statement still to run: its text, and one list of texts per parameter."""

    index: str
    statement: str
    parameters: List[List[Optional[str]]]


class Touched(NamedTuple):
    """What the tuples alone tell, and what is left to ask the tables."""

    keys: Dict[str, Set[Link]]
    lookups: List[Lookup]
    truncated: Set[Table]
    untraceable: Dict[Table, int]
    #: Changes that named nothing that another one of the batch had not named before, summed over the traces.
    repeated: int


def touched(changes: Iterable[Change], traces: Mapping[Table, Sequence[Trace]]) -> Touched:
    """Gather a batch: everything that needs no query, and one lookup per path for the rest."""
    by_shape: Dict[int, Tuple[Shape, List[Change]]] = {}
    truncated: Set[Table] = set()
    for change in changes:
        if change.kind == TRUNCATE:
            truncated.add(change.shape.table)
            continue
        group = by_shape.get(id(change.shape))
        if group is None:
            by_shape[id(change.shape)] = (change.shape, [change])
        else:
            group[1].append(change)
    keys: Dict[str, Set[Link]] = {}
    links: Dict[Tuple[str, str], Set[Link]] = {}
    unknown: Dict[Table, int] = {}
    repeated = 0
    for shape, group_changes in by_shape.values():
        lost = 0
        for trace in traces.get(shape.table, ()):
            found: Set[Link] = set()
            rows: Set[Link] = set()
            gathered = _gather(shape, trace, group_changes, found, rows)
            lost = max(lost, gathered.lost)
            repeated += gathered.repeated
            if trace.statement is None:
                keys.setdefault(trace.index, set()).update(found)
            elif found:
                links.setdefault((trace.index, trace.statement), set()).update(found)
            if rows and trace.by_key is not None:
                links.setdefault((trace.index, trace.by_key), set()).update(rows)
        if lost:
            unknown[shape.table] = unknown.get(shape.table, 0) + lost
    lookups = [
        Lookup(index, statement, [list(column) for column in zip(*sorted(values, key=_nulls_first))])
        for (index, statement), values in links.items()
    ]
    return Touched(keys, lookups, truncated, unknown, repeated)


def _nulls_first(link: Link) -> Tuple[Tuple[bool, str], ...]:
    return tuple((value is not None, value or "") for value in link)


class _Gathered(NamedTuple):
    lost: int
    repeated: int


def _gather(shape: Shape, trace: Trace, changes: Sequence[Change], found: Set[Link], rows: Set[Link]) -> _Gathered:
    """Collect the link values of ``changes``; returns how many old links nobody can tell any more, and how many changes
    name only what was named before.

    A current value that the stream leaves out is asked for by the row's key, into ``rows``.
    """
    columns = shape.columns
    own = _positions(columns, trace.key)
    positions = _positions(columns, trace.columns)
    if positions is None:
        # A generated column is in no tuple, and this one is computed from more than those are told of.
        if own is None:
            return _Gathered(len(changes), 0)
        for change in changes:
            if change.new is not None:
                _add(change.new, own, rows, nulls=False)
        return _Gathered(sum(1 for change in changes if change.kind != INSERT), 0)
    # Without an old tuple the identity did not change: columns inside it are as they were.
    outside = [i for i in positions if not shape.key[i]]
    lost = repeated = 0
    for change in changes:
        new, old = change.new, change.old
        named = _NULL
        if new is not None:
            named = _add(new, positions, found, trace.computed)
            if named == _UNTOLD:
                named = _UNTOLD if own is None else _add(new, own, rows, nulls=False)
                lost += named == _UNTOLD
        if old is not None:
            before = _add(old, positions, found, trace.computed)
            named = max(named, before)
            if before == _UNTOLD and not _unchanged(new, old, positions):
                lost += 1
        elif new is not None and change.kind != INSERT and not _unchanged(new, None, outside):
            lost += 1
        repeated += named == _AGAIN
    return _Gathered(lost, repeated)


def _unchanged(new: Optional[Values], old: Optional[Values], positions: Sequence[int]) -> bool:
    """Whether the new tuple says of each value that ``old`` lacks that it is as it was (an unchanged TOAST value)."""
    return new is not None and all(new[i] is ABSENT for i in positions if old is None or old[i] is ABSENT)


def _positions(columns: Sequence[str], wanted: Columns) -> Optional[Tuple[int, ...]]:
    if not wanted or any(column not in columns for column in wanted):
        return None
    return tuple(columns.index(column) for column in wanted)


#: What became of a link: a part of it is not told, it points at nothing, it was there already, or it is new.
_UNTOLD, _NULL, _AGAIN, _NEW = range(4)


def _add(values: Values, positions: Sequence[int], found: Set[Link], nulls: bool) -> int:
    """Add the link unless a part of it is null and ``nulls`` are not computed with."""
    link = tuple(values[i] for i in positions)
    if ABSENT in link:
        return _UNTOLD
    if not nulls and None in link:
        return _NULL
    if link in found:
        return _AGAIN
    found.add(link)  # type: ignore[arg-type]
    return _NEW


def by_table(traces: Iterable[Trace]) -> Dict[Table, List[Trace]]:
    """Traces by the table whose changes they follow, without repeats."""
    found: Dict[Table, Dict[Any, Trace]] = {}
    for trace in traces:
        found.setdefault(trace.table, {})[(trace.index, trace.columns, trace.statement)] = trace
    return {table: list(unique.values()) for table, unique in found.items()}

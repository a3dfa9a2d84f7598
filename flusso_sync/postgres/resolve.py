"""From changed rows to the documents that show them (design section 4 and promise 7).

Pure but for the statements it names.  For each relation path that ends at a changed table, the values of the
path's last link, old and new, are gathered from the tuples; a direct child of the root names its documents
with no query at all, any other path takes one statement for a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from flusso_sync.postgres.pgoutput import ABSENT, DELETE, INSERT, TRUNCATE, Change, Shape, Values
from flusso_sync.postgres.quoting import identifier, table_name
from flusso_sync.schema.plan import Columns, Hop, IndexPlan, Path, Table

#: A link's or key's values as text; never holds a null, for a null points at nothing.
Link = Tuple[str, ...]

TypeOf = Callable[[Table, str], str]


@dataclass(frozen=True)
class Trace:
    """How changes of ``table`` reach the documents of ``index``.

    ``columns``: the link columns of the changed row.  ``statement`` maps arrays of their values ($1.. as text[],
    one per column) to root keys; None when the values are root keys already.  ``by_key`` maps arrays of the
    changed row's own key (``key`` columns) to root keys: used when the stream does not tell a link's value.
    """

    index: str
    table: Table
    columns: Columns
    statement: Optional[str]
    key: Columns
    by_key: Optional[str]


def compile_traces(
    plan: IndexPlan, paths: Sequence[Path], lookup: Columns, keys: Mapping[Table, Columns], type_of: TypeOf
) -> List[Trace]:
    """The traces of one index.

    ``lookup`` are the root columns documents are looked up by, ``keys`` the primary keys by table, ``type_of`` gives a
    column's type as SQL text.
    """
    traces = [Trace(plan.name, plan.root, lookup, None, (), None)]
    for path in paths:
        last = path.hops[-1]
        direct = len(path.hops) == 1 and last.parent_columns == lookup
        key = keys.get(path.table, ())
        traces.append(
            Trace(
                plan.name,
                path.table,
                last.child_columns,
                None if direct else _chain(path.hops, lookup, last.child_columns, type_of, by_key=False),
                key,
                _chain(path.hops, lookup, key, type_of, by_key=True) if key else None,
            )
        )
    return traces


def _chain(hops: Sequence[Hop], lookup: Columns, given: Columns, type_of: TypeOf, *, by_key: bool) -> str:
    """Select the root keys that ``given`` values of the last table lead to, walking the hops backwards."""
    table = hops[-1].child
    arrays = ", ".join(f"${i}::text[]::{type_of(table, column)}[]" for i, column in enumerate(given, start=1))
    names = ", ".join(f"v{i}" for i in range(1, len(given) + 1))
    # OFFSET 0 keeps the planner from flattening the keys away: they are few and always come first.
    joins = [f"(select distinct * from unnest({arrays}) as k({names}) offset 0) k"]
    values = [f"k.v{i}" for i in range(1, len(given) + 1)]
    if by_key:
        joins.append(f"{table_name(table)} t on {_equal('t', given, values)}")
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
    parameters: List[List[str]]


class Touched(NamedTuple):
    """What the tuples alone tell, and what is left to ask the tables."""

    keys: Dict[str, Set[Link]]
    lookups: List[Lookup]
    truncated: Set[Table]
    untraceable: Dict[Table, int]


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
    for shape, group_changes in by_shape.values():
        lost = 0
        for trace in traces.get(shape.table, ()):
            found: Set[Link] = set()
            rows: Set[Link] = set()
            lost = max(lost, _gather(shape, trace, group_changes, found, rows))
            if trace.statement is None:
                keys.setdefault(trace.index, set()).update(found)
            elif found:
                links.setdefault((trace.index, trace.statement), set()).update(found)
            if rows and trace.by_key is not None:
                links.setdefault((trace.index, trace.by_key), set()).update(rows)
        if lost:
            unknown[shape.table] = unknown.get(shape.table, 0) + lost
    lookups = [
        Lookup(index, statement, [list(column) for column in zip(*sorted(values))])
        for (index, statement), values in links.items()
    ]
    return Touched(keys, lookups, truncated, unknown)


def _gather(shape: Shape, trace: Trace, changes: Sequence[Change], found: Set[Link], rows: Set[Link]) -> int:
    """Collect the link values of ``changes``; returns how many old links nobody can tell any more.

    A current value that the stream leaves out is asked for by the row's key, into ``rows``.
    """
    columns = shape.columns
    if any(column not in columns for column in trace.columns):
        # A stored generated column is never in a tuple.
        own = _positions(columns, trace.key)
        if own is None:
            return len(changes)
        for change in changes:
            if change.new is not None:
                _add(change.new, own, rows)
        return sum(1 for change in changes if change.kind != INSERT)
    positions = _positions(columns, trace.columns) or ()
    # Without an old tuple the identity did not change: columns inside it are as they were.
    settled = all(shape.key[i] for i in positions)
    own = _positions(columns, trace.key)
    lost = 0
    for change in changes:
        new, old = change.new, change.old
        if new is not None and not _add(new, positions, found) and own is not None:
            _add(new, own, rows)
        if old is not None:
            if not _add(old, positions, found):
                lost += 1
        elif change.kind == DELETE or (change.kind != INSERT and not settled):
            lost += 1
    return lost


def _positions(columns: Sequence[str], wanted: Columns) -> Optional[Tuple[int, ...]]:
    if not wanted or any(column not in columns for column in wanted):
        return None
    return tuple(columns.index(column) for column in wanted)


def _add(values: Values, positions: Sequence[int], found: Set[Link]) -> bool:
    """Add the link unless a part of it is null (it points at nothing); False when a part is not told."""
    link: List[str] = []
    null = False
    for i in positions:
        value = values[i]
        if value is ABSENT:
            return False
        if value is None:
            null = True
        else:
            link.append(value)  # type: ignore[arg-type]
    if not null:
        found.add(tuple(link))
    return True


def by_table(traces: Iterable[Trace]) -> Dict[Table, List[Trace]]:
    """Traces by the table whose changes they follow, without repeats."""
    found: Dict[Table, Dict[Any, Trace]] = {}
    for trace in traces:
        found.setdefault(trace.table, {})[(trace.index, trace.columns, trace.statement)] = trace
    return {table: list(unique.values()) for table, unique in found.items()}

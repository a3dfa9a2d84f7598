"""What a change of a row leads to: which documents are built anew, along which relations, found by which statements.

The statements are those that the engine runs for a change in the stream (``resolve.py``), tried here on one row as it
is now; nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import psycopg

from flusso_sync.errors import EXIT_USAGE, FlussoError, SourceRefused
from flusso_sync.postgres.bind import BoundIndex, bind
from flusso_sync.postgres.catalog import Catalog, read_catalog
from flusso_sync.postgres.connection import READ_ONLY, SourceAccess, connect, translating
from flusso_sync.postgres.quoting import array_literal, id_parts, identifier, table_name
from flusso_sync.postgres.resolve import Trace, traces_of
from flusso_sync.postgres.statements import compile_statements
from flusso_sync.schema.paths import hops, relation_paths, tables
from flusso_sync.schema.plan import AggregateField, AnyField, Columns, Hop, IndexPlan, JoinField, ObjectField, Table

#: Document ids that are listed of one path.
MOST_LISTED = 1000


class UnknownRow(SourceRefused):
    """A table that no index uses, or a key that cannot be one: wrong usage, not a fault of the source."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Way:
    """One way from a row of the table to documents of ``index``.

    ``fields``: those that show it (empty: the row is the document's own).  ``hops``: from the root outwards, for
    people.  ``statement`` finds the documents from the link's values in the change; None where those are document keys
    already.  ``by_key`` finds them from the row's own key.  ``documents``: ids, where a row was named; ``more`` when
    there are more than are listed.
    """

    index: str
    fields: Tuple[str, ...]
    hops: Tuple[str, ...]
    columns: Columns
    statement: Optional[str]
    by_key: Optional[str]
    documents: Optional[Tuple[str, ...]] = None
    more: bool = False

    def to_json(self) -> Dict[str, Any]:
        return {
            "index": self.index,
            "fields": list(self.fields),
            "hops": list(self.hops),
            "columns": list(self.columns),
            "statement": self.statement,
            "by_key": self.by_key,
            "documents": None if self.documents is None else list(self.documents),
            "more": self.more,
        }


class Explanation(NamedTuple):
    """``there``: whether the row that was named exists; None when none was.  ``broken``: index -> why it does not fit
    its tables, so that nothing is known of it."""

    table: Table
    key: Columns
    there: Optional[bool]
    ways: List[Way]
    broken: Mapping[str, str]


def explain(access: SourceAccess, plans: Sequence[IndexPlan], table: Table, key: Optional[str]) -> Explanation:
    """Explain a change of ``table``, or of its row with ``key`` (written as in ids: parts joined by a colon).

    Raises ``UnknownRow``, or ``SourceError`` and its kin.
    """
    with connect(access, settings=READ_ONLY) as connection, translating(f"looking at {table}"):
        catalog = read_catalog(connection, {each for plan in plans for each in tables(plan)})
        table = _whole(catalog, table)
        if not any(table in tables(plan) for plan in plans):
            named = ", ".join(sorted({str(each) for plan in plans for each in tables(plan)})) or "none"
            raise UnknownRow(f"no index uses table {table}", hint=f"These are used: {named}")
        own = catalog.tables[table].primary_key if table in catalog.tables else ()
        parts = None if key is None else _parts(table, own, key)
        there = None if parts is None else _exists(connection, catalog, table, own, parts)
        ways: List[Way] = []
        broken: Dict[str, str] = {}
        for plan in plans:
            if table not in tables(plan):
                continue
            try:
                bound = bind(plan, catalog)
            except FlussoError as error:
                broken[plan.name] = error.message
                continue
            for way, trace in _ways(bound, table):
                ways.append(way if parts is None else _followed(connection, bound, way, trace, own, parts))
        return Explanation(table, own, there, ways, broken)


def _whole(catalog: Catalog, table: Table) -> Table:
    """A partition counts as the table it is a part of."""
    if table not in catalog.tables:
        for whole, relation in catalog.tables.items():
            if any(leaf.table == table for leaf in relation.leaves):
                return whole
    return table


def _parts(table: Table, own: Columns, key: str) -> Tuple[str, ...]:
    if not own:
        raise UnknownRow(f"table {table} has no primary key, so no row of it can be named", hint="Leave KEY out")
    parts = id_parts(key, len(own))
    if parts is None:
        raise UnknownRow(
            f"{key!r} is no key of {table}: its primary key is ({', '.join(own)})", hint="Join parts by a colon"
        )
    return parts


def _exists(
    connection: "psycopg.Connection[Any]", catalog: Catalog, table: Table, own: Columns, parts: Sequence[str]
) -> bool:
    columns = catalog.tables[table].columns
    tests = " AND ".join(f"{identifier(name)} = ${n}::text::{columns[name].sql_type}" for n, name in enumerate(own, 1))
    with psycopg.RawCursor(connection) as cursor:
        try:
            return cursor.execute(f"SELECT 1 FROM {table_name(table)} WHERE {tests}", parts).fetchone() is not None
        except psycopg.DataError as error:
            raise UnknownRow(f"that is no key of {table}: {error.diag.message_primary}") from None


def _ways(bound: BoundIndex, table: Table) -> Iterator[Tuple[Way, Trace]]:
    """Every way from ``table`` to documents of one index, in field order, the root's own first."""
    plan = bound.plan
    own, *traces = traces_of(bound)
    if table == plan.root:
        yield Way(plan.name, (), (), own.columns, own.statement, None), own
    named = _fields_by_path(plan)
    for path, trace in zip(relation_paths(plan), traces):
        if path.table == table:
            told = tuple(
                f"{hop.parent}({', '.join(hop.parent_columns)}) = {hop.child}({', '.join(hop.child_columns)})"
                for hop in path.hops
            )
            fields = tuple(named.get(path.hops, ()))
            yield Way(plan.name, fields, told, trace.columns, trace.statement, trace.by_key), trace


def _fields_by_path(plan: IndexPlan) -> Dict[Tuple[Hop, ...], List[str]]:
    """The fields that show what lies at the end of each path, or on the way there."""
    found: Dict[Tuple[Hop, ...], List[str]] = {}

    def walk(scope: Table, fields: Iterable[AnyField], trail: Tuple[Hop, ...], prefix: str) -> None:
        for field in fields:
            if isinstance(field, ObjectField):
                walk(scope, field.fields, trail, f"{prefix}{field.name}.")
            elif isinstance(field, (JoinField, AggregateField)):
                reached = trail
                for hop in hops(scope, field):
                    reached = (*reached, hop)
                    found.setdefault(reached, []).append(prefix + field.name)
                if isinstance(field, JoinField):
                    walk(field.table, field.fields, reached, f"{prefix}{field.name}.")

    walk(plan.root, plan.fields, (), "")
    return found


def _followed(
    connection: "psycopg.Connection[Any]",
    bound: BoundIndex,
    way: Way,
    trace: Trace,
    own: Columns,
    parts: Sequence[str],
) -> Way:
    """The way with the documents that one row leads to."""
    statement = trace.by_key
    if not way.hops:
        columns = bound.columns(bound.plan.root)
        tests = " AND ".join(
            f"{identifier(name)} = ANY (${n}::text[]::{columns[name].sql_type}[])" for n, name in enumerate(own, 1)
        )
        chosen = ", ".join(f"{identifier(name)}::text" for name in bound.lookup)
        statement = f"SELECT {chosen} FROM {table_name(bound.plan.root)} WHERE {tests}"
    if statement is None:
        return way
    with psycopg.RawCursor(connection) as cursor:
        limited = f"SELECT * FROM ({statement}) found LIMIT {MOST_LISTED + 1}"
        keys = [row for row in cursor.execute(limited, [array_literal([part]) for part in parts]) if None not in row]
        listed: List[str] = []
        if keys:
            arrays = [array_literal(list(column)) for column in zip(*keys[:MOST_LISTED])]
            listed = [id for (id,) in cursor.execute(compile_statements(bound).ids, arrays)]
    return replace(way, documents=tuple(listed), more=len(keys) > MOST_LISTED)

"""Lets Postgres judge what only Postgres can: operands and defaults as values of a type, raw filters and what they
call, comparable links.

Without this, a filter's operand that is no number would fail every document, one by one, as if the rows were bad.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Tuple

import psycopg

from flusso_sync.errors import ConfigError, Problem, SourceRefused
from flusso_sync.postgres.bind import BoundIndex
from flusso_sync.postgres.catalog import Column
from flusso_sync.postgres.quoting import identifier
from flusso_sync.postgres.render import typed
from flusso_sync.postgres.statements import IndexStatements
from flusso_sync.schema.paths import relation_paths
from flusso_sync.schema.places import problem
from flusso_sync.schema.plan import (
    AggregateField,
    AnyField,
    AnyFilter,
    Filter,
    IndexPlan,
    JoinField,
    ObjectField,
    RawFilter,
    ScalarField,
    Table,
)
from flusso_sync.schema.raw import called_names

#: How much of a refused statement a message shows on either side of the fault.
SHOWN_CHARACTERS = 40

Constant = Tuple[str, str, Column]


def try_out(connection: psycopg.Connection[Any], bound: BoundIndex, statements: IndexStatements) -> None:
    """Have every constant cast and every statement parsed; nothing is read.

    ``connection`` is in autocommit and has the reading settings.  Raises ``ConfigError`` with every refusal,
    ``SourceRefused`` where the role may not read everything.
    """
    index = bound.plan.name
    problems: List[Problem] = []
    with psycopg.RawCursor(connection) as cursor:
        for path, text, column in constants(bound):
            try:
                cursor.execute(f"SELECT {typed(text, column.type)}")
            except psycopg.DataError as error:
                said = error.diag.message_primary
                what = f"index {index}: {path}: {text!r} is no {column.type_name}: {said}"
                problems.append(problem(bound.plan, path, what, "FL047"))
        problems += _volatile(cursor, bound.plan)
        if problems:
            raise ConfigError(problems)
        for statement in (statements.chunk_first, statements.lookup):
            prefix = "PREPARE flusso_trial AS "
            try:
                cursor.execute(prefix + statement)
            except psycopg.errors.InsufficientPrivilege as error:
                # Also a policy that would hide rows: row_security is off.
                raise SourceRefused(
                    f"index {index}: {error.diag.message_primary}",
                    hint="A hidden row would be taken for deleted: grant the role of the connection URL what is "
                    "missing, for policies with ALTER ROLE … BYPASSRLS",
                    code="FL030",
                ) from None
            except psycopg.ProgrammingError as error:
                pairs = incomparable(cursor, bound)
                if pairs:
                    raise ConfigError(
                        [
                            problem(bound.plan, "", f"index {index}: {pair} cannot be compared", "FL053", at="fields")
                            for pair in pairs
                        ]
                    ) from None
                place = int(error.diag.statement_position or 1) - 1
                shown = (prefix + statement)[max(len(prefix), place - SHOWN_CHARACTERS) : place + SHOWN_CHARACTERS]
                near = " ".join(shown.split())
                raise ConfigError(
                    [
                        problem(
                            bound.plan,
                            "",
                            f"index {index}: Postgres refuses its filters or links: {error.diag.message_primary}",
                            "FL056",
                        )
                    ],
                    hint=f"Near: {near}",
                ) from None
            cursor.execute("DEALLOCATE flusso_trial")


def _volatile(cursor: psycopg.RawCursor[Any], plan: IndexPlan) -> List[Problem]:
    """Raw filters that call what Postgres only knows as VOLATILE (settled.md section 1); one marked so may."""
    problems: List[Problem] = []
    for path, item in raw_filters(plan):
        called = () if item.volatile else called_names(item.sql)
        if not called:
            continue
        # A name with any other overload passes: which of them is called only the types of its arguments tell.
        cursor.execute(
            "SELECT proname::text FROM pg_catalog.pg_proc WHERE proname = ANY ($1::text[])"
            " GROUP BY proname HAVING bool_and(provolatile = 'v')",
            [list(called)],
        )
        found = {name for (name,) in cursor.fetchall()}
        problems += [
            problem(
                plan,
                path,
                f"index {plan.name}: {path}: {name}() is VOLATILE: it may change without any row changing, so "
                "documents would go stale unnoticed; write the condition over columns, or set `volatile: true` to "
                "accept that",
                "FL055",
            )
            for name in called
            if name in found
        ]
    return problems


def incomparable(cursor: psycopg.RawCursor[Any], bound: BoundIndex) -> List[str]:
    """The pairs of link columns, with their types, that Postgres has no equality for."""
    found: Dict[str, None] = {}
    for path in relation_paths(bound.plan):
        for hop in path.hops:
            for one, other in zip(hop.parent_columns, hop.child_columns):
                parent, child = bound.columns(hop.parent)[one], bound.columns(hop.child)[other]
                try:
                    cursor.execute(
                        f"SELECT NULL::{parent.sql_type} OPERATOR({identifier(parent.type.operators)}.=)"
                        f" NULL::{child.sql_type}"
                    )
                except psycopg.ProgrammingError:
                    sides = [
                        f"{table}.{column.name} ({column.type_name})"
                        for table, column in ((hop.child, child), (hop.parent, parent))
                    ]
                    found[" and ".join(sides)] = None
    return list(found)


def raw_filters(plan: IndexPlan) -> Iterator[Tuple[str, RawFilter]]:
    """Every raw filter of the plan with its path."""

    def among(filters: Iterable[AnyFilter], path: str) -> Iterator[Tuple[str, RawFilter]]:
        return ((path, item) for item in filters if isinstance(item, RawFilter))

    def inside(fields: Iterable[AnyField], prefix: str) -> Iterator[Tuple[str, RawFilter]]:
        for field in fields:
            path = prefix + field.name
            if isinstance(field, (JoinField, AggregateField)):
                yield from among(field.filters, path)
            if isinstance(field, (JoinField, ObjectField)):
                yield from inside(field.fields, path + ".")

    yield from among(plan.filters, "filters")
    if plan.soft_delete is not None:
        yield from among(plan.soft_delete.when, "soft_delete.when")
    yield from inside(plan.fields, "")


def constants(bound: BoundIndex) -> Iterator[Constant]:
    """Every text of the plan that becomes a value of a column's type, with its path and that column."""
    plan = bound.plan
    yield from _operands(bound, plan.root, plan.filters, "filters")
    if plan.soft_delete is not None:
        yield from _operands(bound, plan.root, plan.soft_delete.when, "soft_delete.when")
    yield from _in_fields(bound, plan.root, plan.fields, "")


def _in_fields(bound: BoundIndex, scope: Table, fields: Iterable[AnyField], prefix: str) -> Iterator[Constant]:
    for field in fields:
        path = prefix + field.name
        if isinstance(field, ScalarField) and field.default is not None:
            yield path, field.default, bound.columns(scope)[field.column]
        elif isinstance(field, ObjectField):
            yield from _in_fields(bound, scope, field.fields, path + ".")
        elif isinstance(field, (JoinField, AggregateField)):
            yield from _operands(bound, field.table, field.filters, path)
            if isinstance(field, JoinField):
                yield from _in_fields(bound, field.table, field.fields, path + ".")


def _operands(bound: BoundIndex, table: Table, filters: Iterable[AnyFilter], path: str) -> Iterator[Constant]:
    for item in filters:
        if isinstance(item, Filter) and item.op not in ("like", "ilike"):
            for operand in item.values:
                yield path, operand, bound.columns(table)[item.column]

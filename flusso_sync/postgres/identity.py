"""Replica identities: what the stream tells of a row that went or moved.

Under the default identity a DELETE, or an UPDATE that moves a child, does not say whose child the row was.  The plan
knows which columns are needed; this module sets the least identity that has them.  It only ever strengthens
DEFAULT, never replaces somebody's choice, and never queues a lock in front of an application (design
section 4 and promise 12).
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Callable, Iterable, NamedTuple, Optional, Sequence, Set

import psycopg

from flusso_sync.backoff import Backoff
from flusso_sync.errors import SourceError
from flusso_sync.postgres.catalog import Index, Relation
from flusso_sync.postgres.connection import translate
from flusso_sync.postgres.quoting import identifier, table_name
from flusso_sync.schema.plan import Columns, Table, TableUse

log = logging.getLogger(__name__)

#: How long the lock for one ALTER is tried for; one long reader can hold it off for ever (settled.md section 4).
LOCK_BUDGET_SECONDS = 60.0


class Identity(NamedTuple):
    """What one table (or leaf) tells of a row that went, and what it should tell.

    ``remedy``: the DDL that provides what is missing, None when nothing is.  ``mute``: published as it is, the
    application's UPDATE and DELETE would be refused.  ``former``: what it is now, as DDL says it.  ``obstacle``: why
    the remedy is not ours to run, None when it is.  ``untold``: generated link columns that no identity can tell.
    """

    table: Table
    use: TableUse
    remedy: Optional[str]
    mute: bool
    former: str
    obstacle: Optional[str] = None
    untold: Columns = ()

    @property
    def undo(self) -> str:
        return undo(self.table, self.former)


def undo(table: Table, former: str) -> str:
    """The DDL that gives ``table`` the identity back that it had."""
    return f"ALTER TABLE {table_name(table)} REPLICA IDENTITY {former}"


def untold_sentence(found: Identity) -> str:
    """Why old parents stay unknown although the identity suffices."""
    return (
        f"old parents of {found.table} cannot be traced: {', '.join(found.untold)} is generated from more than"
        " the columns of its row, or in another way in a partition"
    )


def refused_kinds(server_version: int, publishes_generated: bool) -> str:
    """The kinds of generated column (pg_attribute.attgenerated) that no published identity may hold.

    Postgres 18 refuses the application's UPDATE and DELETE where one does: a virtual one always, a stored one unless
    the publication sends those.
    """
    if server_version < 180000:
        return ""
    return "v" if publishes_generated else "sv"


def identity_of(relation: Relation, use: TableUse, refused: str = "") -> Identity:
    """What ``relation`` has and, for ``use``, needs; ``refused`` as ``refused_kinds`` has it."""

    def harms(columns: Iterable[str]) -> bool:
        # Of a column that is not generated the kind is empty.
        return any(relation.columns[name].generated in tuple(refused) for name in columns)

    generated = {name for name, column in relation.columns.items() if column.generated}
    links = [name for name in use.links if name not in generated]
    untold = tuple(name for name in use.links if name in generated)
    told = relation.identity_columns
    # NOTHING, DEFAULT without a key, and USING INDEX after the index was dropped all tell nothing.
    mute = told == () or harms(relation.columns if told is None else told)
    lost = relation.replica_identity == "i" and relation.identity_index is None
    former = {"d": "DEFAULT", "n": "NOTHING", "f": "FULL"}.get(relation.replica_identity, "DEFAULT")
    if relation.identity_index is not None and relation.replica_identity == "i":
        former = f"USING INDEX {identifier(relation.identity_index.name)}"
    # The stream has no generated columns, also not those of an identity.
    if not mute and (told is None or set(links) <= set(told) - generated):
        return Identity(relation.table, use, None, mute, former, untold=untold)
    table = table_name(relation.table)
    obstacle = None
    if relation.replica_identity != "d" and not lost:
        obstacle = "its replica identity was chosen by somebody else"
    index = _covering(relation, links, generated)
    if index is not None:
        remedy = f"ALTER TABLE {table} REPLICA IDENTITY USING INDEX {identifier(index.name)}"
    elif not harms(relation.columns):
        remedy = f"ALTER TABLE {table} REPLICA IDENTITY FULL"
    else:
        columns = ", ".join(identifier(name) for name in links)
        remedy = f"ALTER TABLE {table} ADD UNIQUE ({columns}, ...) over columns that are NOT NULL"
        obstacle = (
            "with FULL, Postgres would refuse the application's UPDATE and DELETE for its generated columns, which the"
            " publication does not send"
        )
    return Identity(relation.table, use, remedy, mute, former, obstacle, untold)


def _covering(relation: Relation, links: Sequence[str], generated: Set[str]) -> Optional[Index]:
    """The smallest index that may be a replica identity, covers ``links``, has no ``generated`` column and backs a
    constraint, so that nobody drops it in passing."""
    fit = [
        index
        for index in relation.indexes
        if index.unique
        and index.constraint
        and index.immediate
        and not index.partial
        and index.columns is not None
        and set(links) <= set(index.columns)
        and not generated & set(index.columns)
        and all(relation.columns[name].not_null for name in index.columns)
    ]
    return min(fit, key=lambda index: (len(index.columns or ()), index.name), default=None)


def strengthen(
    connection: "psycopg.Connection[Any]",
    identity: Identity,
    stop: threading.Event,
    *,
    budget_seconds: Optional[float] = None,
    waiting: Callable[[str], None] = lambda what: None,
) -> bool:
    """Run the remedy of ``identity`` without ever waiting in a lock queue; False when the lock was not to be had.

    Tries for :data:`LOCK_BUDGET_SECONDS` unless told otherwise, and once in any case; ``waiting`` is told.  Raises
    ``Stopped`` at stop and ``SourceRefused`` without the right.
    """
    deadline = time.monotonic() + (LOCK_BUDGET_SECONDS if budget_seconds is None else budget_seconds)
    backoff = Backoff(first=0.02, most=1.0)
    quoted = table_name(identity.table)
    while True:
        try:
            with connection.transaction():
                connection.execute(f"LOCK TABLE ONLY {quoted} IN ACCESS EXCLUSIVE MODE NOWAIT")
                connection.execute(str(identity.remedy))
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() >= deadline:
                return False
            waiting(f"setting the replica identity of {identity.table} waits for a moment in which nobody uses it")
            backoff.wait(stop)
        except psycopg.Error as error:
            failure: SourceError = translate(error, f"setting the replica identity of {identity.table}")
            raise failure from error
        else:
            log.info(
                "replica identity of %s set so that deletes and moves name their old parents; to undo: %s",
                identity.table,
                identity.undo,
            )
            return True

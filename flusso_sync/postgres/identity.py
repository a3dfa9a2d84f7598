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
from typing import Any, Callable, NamedTuple, Optional, Sequence

import psycopg

from flusso_sync.backoff import Backoff
from flusso_sync.errors import SourceError
from flusso_sync.postgres.catalog import Index, Relation
from flusso_sync.postgres.connection import translate
from flusso_sync.postgres.quoting import identifier, table_name
from flusso_sync.schema.plan import Table, TableUse

log = logging.getLogger(__name__)

#: How long the lock for one ALTER is tried for; one long reader can hold it off for ever (settled.md section 4).
LOCK_BUDGET_SECONDS = 60.0


class Identity(NamedTuple):
    """What one table (or leaf) tells of a row that went, and what it should tell.

    ``remedy``: the DDL that provides what is missing, None when nothing is.  ``mute``: published as it is, the
    application's UPDATE and DELETE would be refused.  ``ours_to_change``: nobody chose it.
    """

    table: Table
    use: TableUse
    remedy: Optional[str]
    mute: bool
    ours_to_change: bool

    @property
    def undo(self) -> str:
        return f"ALTER TABLE {table_name(self.table)} REPLICA IDENTITY DEFAULT"


def identity_of(relation: Relation, use: TableUse) -> Identity:
    """What ``relation`` has and, for ``use``, needs."""
    told = relation.identity_columns
    # NOTHING, DEFAULT without a key, and USING INDEX after the index was dropped all tell nothing.
    mute = told == ()
    remedy = None
    if told is not None and (mute or not set(use.links) <= set(told)):
        index = _covering(relation, use.links)
        choice = "FULL" if index is None else f"USING INDEX {identifier(index.name)}"
        remedy = f"ALTER TABLE {table_name(relation.table)} REPLICA IDENTITY {choice}"
    return Identity(relation.table, use, remedy, mute, relation.replica_identity == "d")


def _covering(relation: Relation, links: Sequence[str]) -> Optional[Index]:
    """The smallest index that may be a replica identity, covers ``links`` and backs a constraint, so that nobody drops
    it in passing."""
    fit = [
        index
        for index in relation.indexes
        if index.unique
        and index.constraint
        and index.immediate
        and not index.partial
        and index.columns is not None
        and set(links) <= set(index.columns)
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

"""Whether the server still lives the history in which a record was written.

Positions and versions mean something within one history only.  A server that was set back (a backup put back, a standby
promoted that had not received everything) lives another one from there on, under the same system identifier; so does a
copy at another address.  What was written of the old one may be shown by documents and be in no row.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, NamedTuple, Optional

import psycopg

from flusso_sync.engine.source import Record
from flusso_sync.postgres.connection import SourceAccess, connect, rows
from flusso_sync.postgres.replication import format_lsn, parse_lsn, timeline_history
from flusso_sync.postgres.slot import SlotState

_STANDING = """
select pg_is_in_recovery(),
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end::text,
       -- The control file learns of a promotion only with the next checkpoint.
       case when pg_is_in_recovery() then null else left(pg_walfile_name(pg_current_wal_flush_lsn()), 8) end,
       (pg_control_checkpoint()).timeline_id,
       pg_snapshot_xmax(pg_current_snapshot())::text::int8
"""


class Standing(NamedTuple):
    """Where a server is: the end of its WAL, its timeline, and the first transaction id that is not given out."""

    recovering: bool
    position: int
    timeline: int
    next_transaction: int


def standing(connection: "psycopg.Connection[Any]") -> Standing:
    recovering, position, file, timeline, following = rows(connection, _STANDING)[0]
    return Standing(recovering, parse_lsn(position or "0/0"), int(file, 16) if file else timeline, following)


def ancestors(history: str) -> Dict[int, int]:
    """The text of a timeline history file: parent timeline -> the position at which it was left.

    Lines are "timeline, position, reason" (PostgreSQL manual, "Timelines").
    """
    left: Dict[int, int] = {}
    for line in history.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].isdigit():
            left[int(words[0])] = parse_lsn(words[1])
    return left


def describe_break(
    record: Record, now: Standing, address: str, slot: Optional[SlotState], history: Callable[[], str]
) -> Optional[str]:
    """A sentence when the source may not be the continuation of what ``record`` tells, else None.

    ``history`` is asked, for the history of the server's timeline, only where that is another one than the record's.
    """
    behind = "the source is behind {}: it was set back"
    # An id given out for the first time makes a version beyond every one of a snapshot before it.
    if record.version and ((now.next_transaction + 1) << 16) <= record.version:
        return behind.format("the versions already written")
    if now.recovering:
        # A standby that starts is behind for a moment, and leaves a timeline with its primary.
        return None
    if now.position < record.confirmed:
        return behind.format(f"our record {format_lsn(record.confirmed)}, it ends at {format_lsn(now.position)}")
    if record.timeline not in (0, now.timeline):
        left = ancestors(history()).get(record.timeline) if now.timeline > record.timeline else None
        if left is None or left < record.confirmed:
            where = "is not a continuation of it" if left is None else f"left it at {format_lsn(left)}"
            return (
                f"our record {format_lsn(record.confirmed)} is of timeline {record.timeline},"
                f" and timeline {now.timeline} of the source {where}"
            )
    if record.address and record.address != address and slot is not None and slot.confirmed != record.confirmed:
        # The same server under another name has got our last feedback, unless we were killed; a copy has not.
        return (
            f"the source was at {record.address} and is at {address} now, where slot {record.slot} stands at "
            f"{format_lsn(slot.confirmed)} and not at our record {format_lsn(record.confirmed)}: it may be a copy"
        )
    return None


def history_of(access: SourceAccess, timeline: int) -> str:
    """The history of a timeline of the server, empty where it has none."""
    with contextlib.closing(connect(access, replication=True)) as connection:
        return timeline_history(connection, timeline)

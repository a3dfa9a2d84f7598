"""The replication slot: its birth, its state, and whether it still continues what we recorded."""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Tuple

import psycopg

from flusso_sync.backoff import Stopped
from flusso_sync.errors import EXIT_OWNER, SlotInUse, SourceError, SourceRefused, SourceUnavailable
from flusso_sync.postgres.connection import READ_ONLY, SourceAccess, cancelled_by, connect, rows, translate, translating
from flusso_sync.postgres.quoting import identifier
from flusso_sync.postgres.replication import format_lsn, parse_lsn

log = logging.getLogger(__name__)

#: One attempt at creating a slot; it waits for every open writing transaction.
CREATE_ATTEMPT_MILLISECONDS = 5000

#: How often, a tenth of a second apart, a slot is tried to be dropped whose walsender was told to end.
GIVE_UP_ATTEMPTS = 50

#: How long the end of a session that was just closed is waited for.
GUARD_WAIT_MILLISECONDS = 1000

_SLOT = """
select s.plugin::text, s.slot_type, s.database::text, s.active_pid, s.confirmed_flush_lsn::text, s.wal_status,
       s.safe_wal_size::int8,
       case when pg_is_in_recovery() then pg_wal_lsn_diff(pg_last_wal_replay_lsn(), s.restart_lsn)
            else pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) end::int8,
       current_database()::text,
       -- Postgres 17 and later say why.
       coalesce(to_jsonb(s) ->> 'invalidation_reason', '')
  from pg_replication_slots s where s.slot_name = %s
"""

_WRITERS = """
select who, extract(epoch from now() - since)::int8, name
  from (select 'pid ' || pid, xact_start, coalesce(nullif(application_name, ''), 'unnamed')
               || case when datname = current_database() then '' else ' in database ' || datname end
          from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
         union all
        select 'prepared transaction ' || gid, prepared, 'in database ' || database from pg_prepared_xacts
       ) w(who, since, name)
 order by since limit 5
"""


#: WAL page of every build that is not made with another ``--with-wal-blocksize``, its header, and that of the first
#: page of a segment; segments are a multiple of a megabyte.
WAL_PAGE_BYTES = 8192
PAGE_HEADER_BYTES = 24
SEGMENT_HEADER_BYTES = 40
SMALLEST_SEGMENT_BYTES = 1024 * 1024


def page_start(position: int) -> int:
    """A position just behind a page's header as the start of that page.

    ``pg_current_wal_insert_lsn()`` and its like count the header of a page as soon as it is begun, the stream only when
    something is on it: with nothing more to come, nobody would ever confirm the header (design section 4).
    """
    if position % WAL_PAGE_BYTES == PAGE_HEADER_BYTES:
        return position - PAGE_HEADER_BYTES
    if position % SMALLEST_SEGMENT_BYTES == SEGMENT_HEADER_BYTES:
        return position - SEGMENT_HEADER_BYTES
    return position


class SlotState(NamedTuple):
    """A slot as ``pg_replication_slots`` shows it; positions as integers, sizes in bytes."""

    confirmed: int
    active_pid: Optional[int]
    wal_status: str
    safe_wal_bytes: Optional[int]
    retained_bytes: Optional[int]
    invalidation_reason: str = ""


def find_slot(connection: "psycopg.Connection[Any]", slot: str) -> Optional[SlotState]:
    """The slot's state, None when there is none.  Raises ``SourceRefused`` when it is not one of ours."""
    found = rows(connection, _SLOT, (slot,))
    if not found:
        return None
    plugin, kind, database, pid, confirmed, wal_status, safe, retained, here, reason = found[0]
    if kind != "logical" or plugin != "pgoutput":
        raise SourceRefused(
            f"replication slot {slot} is a {kind} slot with plugin {plugin or 'none'}; pgoutput is needed",
            hint="Drop it, or name another slot in source.slot",
            code="FL019",
        )
    if database != here:
        raise SourceRefused(
            f"replication slot {slot} belongs to database {database}, not to {here}",
            hint="Name another slot in source.slot",
            code="FL019",
        )
    return SlotState(parse_lsn(confirmed) if confirmed else 0, pid, wal_status or "", safe, retained, reason)


def open_writers(connection: "psycopg.Connection[Any]") -> List[Tuple[str, Optional[int], str]]:
    """The transactions that a new slot has to wait for, oldest first: who, since how many seconds (None when that is
    hidden from us, without pg_read_all_stats), and under which name.  Whoever writes in another database of the server
    is among them."""
    return [(who, age, name) for who, age, name in rows(connection, _WRITERS)]


def _writers(connection: "psycopg.Connection[Any]") -> str:
    """Who holds us up."""
    found = open_writers(connection)
    told = [(who, "open" if age is None else f"open for {age} s", name) for who, age, name in found]
    return "; ".join(", ".join(each) for each in told) or "just ended"


def create_slot(
    connection: "psycopg.Connection[Any]",
    slot: str,
    stop: threading.Event,
    waiting: Callable[[str], None],
    *,
    failover: bool = False,
) -> int:
    """Create the slot and return the position it starts from; ``failover``: a standby may take it over (17 and later).

    Waits for every open writing transaction to end; ``waiting`` is told whom for.  Raises ``Stopped`` soon after stop.
    """
    more = ", failover => true" if failover else ""
    while not stop.is_set():
        try:
            with connection.transaction(), cancelled_by(connection, stop):
                # It waits for transactions, not for tables: nobody queues behind it, so the short limit of those that
                # lock tables must not end it before it was told whom for.
                connection.execute("SET LOCAL lock_timeout = 0")
                connection.execute(f"SET LOCAL statement_timeout = {CREATE_ATTEMPT_MILLISECONDS}")
                row = connection.execute(
                    f"select lsn::text from pg_create_logical_replication_slot(%s, 'pgoutput'{more})", (slot,)
                ).fetchone()
        except psycopg.errors.QueryCanceled:
            if stop.is_set():
                break
            waiting(f"creating slot {slot} waits for open transactions: {_writers(connection)}")
            continue
        except psycopg.Error as error:
            raise translate(error, f"creating replication slot {slot}") from error
        assert row is not None
        return parse_lsn(row[0])
    raise Stopped


def guard_slot(connection: "psycopg.Connection[Any]", slot: str) -> None:
    """Take the advisory lock named after the slot for the life of ``connection``.

    Raises ``SlotInUse`` naming the holder's pid while another daemon has it.  A session that was closed, also our own
    of a moment ago, keeps its locks until its backend has ended, so the lock is waited for a little.
    """
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {GUARD_WAIT_MILLISECONDS}")
            connection.execute("select pg_advisory_lock(hashtext('flusso_sync'), hashtext(%s))", (slot,))
        return
    except psycopg.errors.LockNotAvailable:
        pass
    except psycopg.Error as error:
        raise translate(error, f"taking the lock of slot {slot}") from error
    holder = rows(
        connection,
        "select pid from pg_locks where locktype = 'advisory' and granted and objsubid = 2"
        " and classid::int8 = (hashtext('flusso_sync')::int8 & 4294967295)"
        " and objid::int8 = (hashtext(%s)::int8 & 4294967295)",
        (slot,),
    )
    whom = f" (backend pid {holder[0][0]})" if holder else ""
    raise SlotInUse(
        f"another daemon holds slot {slot}{whom}",
        hint="It is waited for; this one takes over when it is gone",
        slot=slot,
    )


def wait_for_older(
    connection: "psycopg.Connection[Any]", stop: threading.Event, waiting: Callable[[str], None]
) -> None:
    """Wait until every transaction that is open now has ended (promise 1: a table added to a live publication)."""
    # An id of our own is newer than every open transaction; a snapshot ends at the last completed one, and a standby,
    # which has no ids of its own, knows nothing newer.
    limit = int(
        rows(
            connection,
            "select case when pg_is_in_recovery() then pg_snapshot_xmax(pg_current_snapshot())"
            " else pg_current_xact_id() end::text",
        )[0][0]
    )
    while int(rows(connection, "select pg_snapshot_xmin(pg_current_snapshot())::text")[0][0]) < limit:
        waiting(f"copying a newly published table waits for open transactions: {_writers(connection)}")
        if stop.wait(0.2):
            raise Stopped


def check_server(connection: "psycopg.Connection[Any]", *, failover: bool = False) -> None:
    """Raise ``SourceRefused`` unless this server can stream logical changes to this role, and has what is asked for."""
    for refusal in server_refusals(connection, failover=failover):
        raise refusal


def server_refusals(connection: "psycopg.Connection[Any]", *, failover: bool = False) -> Iterator[SourceRefused]:
    """Everything about server and role that a run would be refused for."""
    version = connection.info.server_version
    if version < 140000:
        yield SourceRefused(f"Postgres {version // 10000} is too old; 14 or newer is needed", code="FL012")
    if failover and version < 170000:
        yield SourceRefused(
            f"Postgres {version // 10000} has no failover slots; 17 or newer is needed",
            hint="Remove source.failover_slot",
            code="FL018",
        )
    level, replicates, role = rows(
        connection,
        "select current_setting('wal_level'),"
        " (select rolreplication or rolsuper from pg_roles where rolname = current_user), quote_ident(current_user)",
    )[0]
    if level != "logical":
        yield SourceRefused(
            f"wal_level is {level}; logical is needed",
            hint="Set wal_level = logical and restart Postgres",
            code="FL014",
        )
    if not replicates:
        yield SourceRefused(
            f"role {role} may not replicate",
            hint=f"Let a superuser run: ALTER ROLE {role} REPLICATION",
            code="FL015",
        )


def describe_gap(slot: str, state: Optional[SlotState], recorded: Optional[int]) -> Optional[str]:
    """A sentence when changes between what we recorded and the slot are lost, else None."""
    if recorded is None:
        return None
    if state is None:
        return f"replication slot {slot} is gone; changes after {format_lsn(recorded)} are lost"
    if state.wal_status == "lost":
        # Before Postgres 16, removed WAL is the only reason there is.
        why = (
            f"the server removed WAL that slot {slot} still needed"
            if state.invalidation_reason in ("", "wal_removed")
            else f"the server invalidated slot {slot} ({state.invalidation_reason})"
        )
        return f"{why}; changes after {format_lsn(recorded)} are lost"
    if state.confirmed > recorded:
        return (
            f"slot {slot} stands at {format_lsn(state.confirmed)}, beyond our record {format_lsn(recorded)};"
            " changes in between are lost"
        )
    return None


def check_failover(connection: "psycopg.Connection[Any]", slot: str) -> None:
    """Name a slot that was made without ``failover_slot`` and so stays behind when a standby is promoted."""
    (failover,) = rows(connection, "select failover from pg_replication_slots where slot_name = %s", (slot,))[0]
    if not failover:
        log.warning(
            "slot %s was created without failover, so no standby has it; over a replication connection, while this"
            " daemon is stopped, run: ALTER_REPLICATION_SLOT %s (FAILOVER true)",
            slot,
            identifier(slot),
        )


def give_up(connection: "psycopg.Connection[Any]", slot: str) -> None:
    """Drop a slot, ending whoever streams from it; raises ``SlotInUse`` when somebody comes again and again."""
    for attempt in range(GIVE_UP_ATTEMPTS):
        connection.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s"
            " and active_pid is not null",
            (slot,),
        )
        try:
            return drop_slot(connection, slot)
        except SlotInUse:
            if attempt + 1 == GIVE_UP_ATTEMPTS:
                raise
            connection.execute("select pg_sleep(0.1)")


class SlotHeld(SourceError):
    """The slot is a running daemon's, or some other process streams from it."""

    exit_code = EXIT_OWNER


def look_at_slot(access: SourceAccess, slot: str) -> Optional[SlotState]:
    """The slot as it is now, for a person; raises ``SourceError`` and its kin."""
    with connect(access, settings=READ_ONLY) as connection, translating(f"looking at replication slot {slot}"):
        return find_slot(connection, slot)


def remove_slot(access: SourceAccess, slot: str) -> Optional[SlotState]:
    """Drop the slot for good, as somebody asked; returns how it was, None when there was none.

    Raises ``SlotHeld`` while a daemon runs, also one that just waits, and while anybody streams from it.
    """
    with connect(access) as connection, translating(f"dropping replication slot {slot}"):
        try:
            # For as long as we look and drop, no daemon begins either.
            guard_slot(connection, slot)
        except SlotInUse as error:
            raise SlotHeld(error.message, hint="Stop the daemon first", slot=slot) from error
        state = find_slot(connection, slot)
        if state is None:
            return None
        if state.active_pid is not None:
            raise SlotHeld(
                f"replication slot {slot} is in use by backend pid {state.active_pid}",
                hint="Stop whoever streams from it first",
                slot=slot,
            )
        try:
            connection.execute("select pg_drop_replication_slot(%s)", (slot,))
        except psycopg.errors.ObjectInUse as error:
            raise SlotHeld(
                f"replication slot {slot} was taken into use just now",
                hint="Stop whoever streams from it first",
                slot=slot,
            ) from error
        return state


def drop_slot(connection: "psycopg.Connection[Any]", slot: str) -> None:
    """Drop a slot that can no longer be used; one that another process still holds raises ``SlotInUse``."""
    try:
        connection.execute("select pg_drop_replication_slot(%s)", (slot,))
    except psycopg.errors.UndefinedObject:
        return
    except psycopg.Error as error:
        failure = translate(error, f"dropping replication slot {slot}")
        raise failure if failure.transient else SourceUnavailable(failure.message) from error

"""Capture: from the slot to runs of changes, in commit order.

``prepare`` keeps the order of birth (promise 1); ``stream`` runs on the capture thread, which owns the replication
connection and reconnects it by itself; feedback goes out on its own clock, also while the queue is full.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import psycopg

from flusso_sync.backoff import Backoff, Outage, Stopped
from flusso_sync.engine.source import Capture, ChangeRun, Emit, Prepared, Record, SourceIdentity
from flusso_sync.errors import (
    BlindTable,
    ConfigError,
    Gap,
    PublicationMissing,
    SlotMissing,
    SourceChanged,
    SourceError,
    SourceRefused,
    SourceUnavailable,
)
from flusso_sync.postgres import history, identity, publication, slot
from flusso_sync.postgres.bind import keys_for
from flusso_sync.postgres.catalog import Catalog, Relation, read_catalog
from flusso_sync.postgres.connection import SourceAccess, connect, rows, translating
from flusso_sync.postgres.pgoutput import Begin, Change, Commit, Decoder, Wanted
from flusso_sync.postgres.replication import Keepalive, ReplicationStream, parse_lsn
from flusso_sync.schema.paths import table_uses, tables, with_keys
from flusso_sync.schema.plan import IndexPlan, Table, TableUse
from flusso_sync.status import Status

log = logging.getLogger(__name__)

#: A run of one transaction is handed on when it holds this many changes, or when the transaction ends.
RUN_CHANGES = 256

#: Feedback at least this often, in seconds; well under any sensible ``wal_sender_timeout``.
FEEDBACK_SECONDS = 0.5

#: Ask for a sign of life after this much silence, and give the connection up after that much.
SILENCE_ASK_SECONDS = 10.0
SILENCE_LIMIT_SECONDS = 30.0

#: The session that holds the slot's advisory lock is looked after by the watch, every 15 s at the least; one that
#: nobody can reach any more must give the lock up, although a proxy may still answer for it (faults A6).
GUARD_SETTINGS = {"idle_session_timeout": "20000"}

#: What the record notes beside the coverage by table: "identity before schema.table", and the DDL that restores it.
FORMER = "identity before"

#: The server removes WAL that a slot needs beyond ``max_slot_wal_keep_size``; told when less than this share is left.
SMALL_HEADROOM = 0.25

#: Messages decoded between two looks at the clock.
MESSAGES_PER_LOOK = 256


@dataclass(frozen=True)
class CaptureSettings:
    slot: str = "flusso"
    publication: str = "flusso"
    manage_publication: bool = True
    manage_replica_identity: bool = True
    on_gap: str = "rebuild"
    on_blind_table: str = "stop"
    failover: bool = False
    #: WAL that the slot may make the server keep, in bytes (None: any amount), and whether it is given up beyond that.
    max_retained_wal_bytes: Optional[int] = None
    give_up: bool = False


class Leaf(NamedTuple):
    """A table that holds rows itself (an ordinary table, or a partition of ``use.table``), and what is needed of it."""

    relation: Relation
    use: TableUse

    @property
    def wanted(self) -> Wanted:
        """What the decoder reads of it, under the name of the plan's table."""
        columns = self.use.columns
        generated = any(
            self.relation.columns[name].generated for name in columns or () if name in self.relation.columns
        )
        # A used generated column changes without being in the tuple, so there every update counts (design section 4).
        return Wanted(self.use.table, self.use.keys, None if generated else columns)


def leaves_of(catalog: Catalog, uses: Mapping[Table, TableUse]) -> List[Leaf]:
    """The leaves of every used table, in table order; a partitioned parent itself holds no rows."""
    leaves: List[Leaf] = []
    for use in uses.values():
        whole = catalog.tables.get(use.table)
        if whole is not None:
            # A table that others merely inherit from holds rows of its own beside theirs.
            leaves.extend(Leaf(relation, use) for relation in (whole, *whole.leaves) if relation.kind == "r")
    return leaves


class Survey(NamedTuple):
    """The leaves of every used table, and by used table and OID of a leaf what is told of it: its entry in the
    publication, whether its identity (``identities``, by leaf) suffices, when it was attached, how its generated
    columns are computed.
    ``told``: OIDs of the leaves that the publication has.  ``shown_by``: the indexes of each used table, which may have
    lost its last leaf."""

    leaves: List[Leaf]
    marks: Dict[str, Dict[int, str]]
    identities: Dict[Table, identity.Identity]
    told: Set[int]
    shown_by: Dict[str, Sequence[str]]

    @property
    def coverage(self) -> Dict[str, str]:
        """By used table a mark that changes with what is told of it."""
        return {table: _covered(marks) for table, marks in self.marks.items()}

    def grown(self, table: str, known: str, unused: Set[int]) -> bool:
        """Whether ``table`` is as it was when its mark was ``known``, but for leaves of ``unused`` that came later."""
        last = known.partition(":")[0]
        if not last.isdigit():
            return False
        return known == _covered(
            {oid: mark for oid, mark in self.marks[table].items() if oid <= int(last) or oid not in unused}
        )


def _covered(marks: Mapping[int, str]) -> str:
    """The highest OID, so that leaves which came later are known from those that were there, and a digest of all."""
    told = "\n".join(mark for _, mark in sorted(marks.items()))
    return f"{max(marks, default=0)}:{sha256(told.encode()).hexdigest()[:16]}"


def survey(
    connection: "psycopg.Connection[Any]",
    plans: Sequence[IndexPlan],
    publication_name: str,
    left_out: Collection[str] = (),
) -> Survey:
    """What the source tells of every table of ``plans``, where those of ``left_out`` need nothing."""
    catalog = read_catalog(connection, {table for plan in plans for table in tables(plan)})
    bound: List[IndexPlan] = []
    for plan in plans:
        if plan.name not in left_out:
            # One whose keys are gone is about to be found drifted.
            with contextlib.suppress(ConfigError):
                bound.append(with_keys(plan, keys_for(plan, catalog)))
    told = publication.told(connection, publication_name)
    uses = dict(table_uses(bound, catalog.primary_keys, catalog.sources))
    for table in catalog.tables.keys() - uses.keys():
        # Nobody reads it now, but published it must not refuse its application's UPDATE and DELETE (promise 12).
        uses[table] = TableUse(table, None, keys=(), links=(), indexes=())
    leaves = [leaf for leaf in leaves_of(catalog, uses) if leaf.use.indexes or leaf.relation.table in told]
    refused = identity.refused_kinds(
        connection.info.server_version, publication.publishes_generated(connection, publication_name)
    )
    # Whatever was read while a leaf was detached lacks its rows, and nothing tells of those when it is attached again.
    attached = publication.attached(
        connection, [leaf.relation.oid for leaf in leaves if leaf.relation.table != leaf.use.table]
    )
    # A table without any leaf has a mark, too: the first one may come with rows.
    marks: Dict[str, Dict[int, str]] = {str(use.table): {} for use in uses.values()}
    identities: Dict[Table, identity.Identity] = {}
    for leaf in leaves:
        found = identities[leaf.relation.table] = identity.identity_of(leaf.relation, leaf.use, refused)
        suffices = "" if found.remedy is None else "mute" if found.mute else "weak"
        oid = leaf.relation.oid
        mark = f"{leaf.relation.table} {oid} {told.get(leaf.relation.table, '')} {suffices} {attached.get(oid, '')}"
        computed = "\0".join(column.expression for column in leaf.relation.columns.values() if column.expression)
        marks[str(leaf.use.table)][oid] = f"{mark}\0{computed}" if computed else mark
    oids = {leaf.relation.oid for leaf in leaves if leaf.relation.table in told}
    return Survey(leaves, marks, identities, oids, {str(use.table): use.indexes for use in uses.values()})


def source_identity(
    connection: "psycopg.Connection[Any]", slot_name: str, address: str, timeline: int = 0
) -> SourceIdentity:
    """What tells this source from every other, and who owns a sink."""
    system, database = rows(
        connection,
        "select (pg_control_system()).system_identifier::text,"
        " (select oid::text from pg_database where datname = current_database())",
    )[0]
    return SourceIdentity(system, database, slot_name, address, timeline)


class PostgresCapture(Capture):
    """The change stream of one database, for the tables that ``plans`` read."""

    def __init__(
        self,
        access: SourceAccess,
        plans: Sequence[IndexPlan],
        settings: CaptureSettings,
    ) -> None:
        self._access = access
        self._plans = tuple(plans)
        self._left_out: Set[str] = set()
        self._settings = settings
        self._status = Status()
        self._heartbeat: Callable[[], None] = lambda: None
        self._stream: Optional[ReplicationStream] = None
        self._guard: Optional[psycopg.Connection[Any]] = None
        self._lag_connection: Optional[psycopg.Connection[Any]] = None
        self._confirmed = 0
        self._received = 0
        #: The furthest position the server named, in the stream or to the lag poller.
        self._heard = 0
        self._wanted: Dict[Table, Wanted] = {}
        self._wanted_by_oid: Dict[int, Wanted] = {}
        self._rebuild: Dict[str, str] = {}
        #: Leaves that were altered while the slot was there, by OID: their indexes must be rebuilt for this reason
        #: if rows of theirs may have been missed.
        self._altered: Dict[int, Tuple[Sequence[str], str]] = {}
        self._coverage: Dict[str, str] = {}
        #: Weak identities that may be ours to mend once nobody uses the table for a moment.
        self._locked_out: List[identity.Identity] = []
        #: For each identity that we altered, ever, the DDL that undoes it; kept with the record.
        self._former: Dict[str, str] = {}
        self._system = ""
        self._timeline: Optional[str] = None
        self._origin: Optional[Tuple[str, str]] = None
        #: Why the slot was given up; from then on nothing is streamed.
        self._given_up = ""
        self._closed = False

    def report_to(self, status: Status, heartbeat: Callable[[], None]) -> None:
        self._status = status
        self._heartbeat = heartbeat

    # -- before the stream --------------------------------------------------------------------------

    def connect(self, stop: threading.Event) -> SourceIdentity:
        """Connect, check that the server can stream, and take the slot's advisory lock.

        Raises ``SourceUnavailable`` or ``SlotInUse`` where waiting helps, else ``SourceRefused``.
        """
        self.close()
        self._closed = False
        connection = self._guarded()
        slot.check_server(connection, failover=self._settings.failover)
        now = history.standing(connection)
        found = source_identity(connection, self._settings.slot, self._access.address, now.timeline)
        self._system = found.system_identifier
        # A standby changes its timeline with its primary, and notes that late.
        self._timeline = None if now.recovering else str(now.timeline)
        return found

    def leave_out(self, indexes: Sequence[str]) -> None:
        self._left_out.update(indexes)

    def prepare(self, record: Optional[Record], stop: threading.Event) -> Prepared:
        """Replica identities, then publication, then slot (promise 1)."""
        connection = self._guarded()
        with translating("preparing the source"):
            if record is not None:
                self._former.update({key: undo for key, undo in record.coverage.items() if key.startswith(FORMER)})
            existing = slot.find_slot(connection, self._settings.slot)
            unreadable = self._unreadable(connection, existing)
            survey, blind = self._listen(connection, existing, stop)
            used = [leaf for leaf in survey.leaves if leaf.use.indexes]
            self._wanted = {leaf.relation.table: leaf.wanted for leaf in used}
            self._wanted_by_oid = {leaf.relation.oid: leaf.wanted for leaf in used}
            self._coverage = survey.coverage
            self._status.set_fact(
                "replica_identities_set",
                {k[len(FORMER) + 1 :]: f"to undo: {undo}" for k, undo in self._former.items()} or None,
            )
            # Kept over attempts: what one of them has altered looks right to the next.
            rebuild = self._rebuild
            rebuild.update(self._missed(connection, survey, record))
            # A table that the record does not know may have been published by hand, or by a start that ended before its
            # wait did; and whatever is not built yet is copied at once.
            unknown = record is None or not record.coverage.keys() >= survey.marks.keys()
            if rebuild or (existing is not None and unknown):
                slot.wait_for_older(connection, stop, self._waiting)
                self._status.clear_trouble("source transactions")
            for plan in self._plans:
                self._status.set_blind(plan.name, blind.get(plan.name, ()))
            return self._slot(connection, existing, record, rebuild, unreadable, stop)

    def _listen(
        self, connection: "psycopg.Connection[Any]", existing: Optional[slot.SlotState], stop: threading.Event
    ) -> Tuple[Survey, Dict[str, List[str]]]:
        """Have every leaf told of as well as may be; returns what is so now, and what indexes do not hear, and why."""
        while True:
            survey = self._survey(connection)
            blind: Dict[str, List[str]] = {}
            changed, mute = self._identities(connection, survey, stop, blind)
            # Never a mute one: published, it would refuse its application's UPDATE and DELETE (promise 12).
            heard = [leaf for leaf in survey.leaves if leaf not in mute and leaf.use.indexes]
            added = self._publish(connection, heard, blind)
            if existing is not None:
                for leaf in changed:
                    reason = f"the replica identity of {leaf.relation.table} was strengthened"
                    self._altered.setdefault(leaf.relation.oid, (leaf.use.indexes, reason))
                for leaf in added:
                    reason = f"table {leaf.relation.table} was added to the publication"
                    self._altered.setdefault(leaf.relation.oid, (leaf.use.indexes, reason))
            now = self._survey(connection)
            if {leaf.relation.oid for leaf in now.leaves} <= {leaf.relation.oid for leaf in survey.leaves}:
                return now, blind
            # A leaf came meanwhile: nobody would ever look at it again.
            if stop.is_set():
                raise Stopped

    def _missed(
        self, connection: "psycopg.Connection[Any]", survey: Survey, record: Optional[Record]
    ) -> Dict[str, str]:
        """Index -> why it must be rebuilt: what is told of a table was altered, so rows may have changed unheard.

        Not for a leaf that is told of and never held a row: a row from before would have left its mark, so whatever
        comes into it comes after its entry into the publication.
        """
        known = {} if record is None else {table: record.coverage.get(table, "") for table in survey.marks}
        altered = {table for table, mark in known.items() if mark not in ("", self._coverage[table])}
        candidates = {oid for table in altered for oid in survey.marks[table]}.union(self._altered)
        unused = publication.never_held_rows(connection, survey.told.intersection(candidates))
        rebuild: Dict[str, str] = {}
        for oid, (indexes, reason) in self._altered.items():
            for index in () if oid in unused else indexes:
                rebuild.setdefault(index, reason)
        for table in sorted(altered):
            if not survey.grown(table, known[table], unused):
                for index in survey.shown_by[table]:
                    rebuild.setdefault(index, f"what the source tells of table {table} was altered")
        if unused and not rebuild:
            names = ", ".join(str(leaf.relation.table) for leaf in survey.leaves if leaf.relation.oid in unused)
            log.info("%s never held a row, so nothing is rebuilt for it", names)
        return rebuild

    def _survey(self, connection: "psycopg.Connection[Any]") -> Survey:
        return survey(connection, self._plans, self._settings.publication, self._left_out)

    def _identities(
        self,
        connection: "psycopg.Connection[Any]",
        survey: Survey,
        stop: threading.Event,
        blind: Dict[str, List[str]],
    ) -> Tuple[List[Leaf], List[Leaf]]:
        """Strengthen what is too weak; returns what was changed, and what stays mute.  Names what cannot be mended."""
        changed: List[Leaf] = []
        mute: List[Leaf] = []
        self._locked_out = []
        for leaf in survey.leaves:
            found = survey.identities[leaf.relation.table]
            self._name_untold(found)
            if found.remedy is None:
                self._status.clear_trouble(f"identity {found.table}")
                continue
            if not leaf.relation.columns.keys() >= set(leaf.use.links):
                # Of a link whose column is gone no identity tells: the index is about to be found drifted.
                continue
            done = False
            reason = found.obstacle
            if reason is None and self._settings.manage_replica_identity:
                try:
                    done = identity.strengthen(connection, found, stop, waiting=self._waiting)
                    reason = "no moment was found in which nobody used the table"
                    if not done:
                        self._locked_out.append(found)
                    self._status.clear_trouble("source transactions")
                except SourceRefused as error:
                    reason = error.message
            elif reason is None:
                reason = "source.manage_replica_identity is false"
            key = f"identity {found.table}"
            if done:
                changed.append(leaf)
                self._former[f"{FORMER} {found.table}"] = found.undo
                self._status.clear_trouble(key)
            elif not leaf.use.indexes:
                continue
            elif found.mute:
                mute.append(leaf)
                what = f"table {found.table} has no usable replica identity: {reason}"
                self._blind([leaf], what, found.remedy, blind, "FL026")
            else:
                what = f"old parents of {found.table} cannot be traced: {reason}"
                self._status.trouble(key, what, f"Run: {found.remedy}", blocking=False)
        return changed, mute

    def _name_untold(self, found: identity.Identity) -> None:
        if found.untold:
            self._status.trouble(
                f"untold {found.table}",
                identity.untold_sentence(found),
                "Link by a column that is not generated",
                blocking=False,
            )

    def _unreadable(self, connection: "psycopg.Connection[Any]", existing: Optional[slot.SlotState]) -> Optional[str]:
        """A sentence when the slot is older than the publication: decoding looks the publication up as of each
        position, and finds none (faults B3)."""
        name = self._settings.publication
        if existing is None or rows(connection, "select from pg_publication where pubname = %s", (name,)):
            return None
        return f"publication {name} does not exist, so what slot {self._settings.slot} still holds cannot be read"

    def _publish(
        self, connection: "psycopg.Connection[Any]", leaves: Sequence[Leaf], blind: Dict[str, List[str]]
    ) -> List[Leaf]:
        """Make the publication tell of every leaf; returns those that were added."""
        found = publication.coverage(connection, self._settings.publication, [leaf.relation.table for leaf in leaves])
        if not found.missing:
            return []
        missing = ", ".join(map(str, found.missing))
        if self._settings.manage_publication:
            try:
                publication.extend(connection, found)
                log.info("publication %s now tells of %s", self._settings.publication, missing)
                return [leaf for leaf in leaves if leaf.relation.table in found.missing]
            except SourceRefused as error:
                reason = error.message
        else:
            reason = "source.manage_publication is false"
        if not found.exists:
            raise BlindTable(
                f"publication {self._settings.publication} does not exist and cannot be created: {reason}",
                hint=f"Run: {found.statement}",
                code="FL023",
            )
        unheard = [leaf for leaf in leaves if leaf.relation.table in found.missing]
        what = f"changes of {missing} are not published: {reason}"
        self._blind(unheard, what, str(found.statement), blind, "FL024")
        return []

    def _blind(self, leaves: Sequence[Leaf], what: str, remedy: str, blind: Dict[str, List[str]], code: str) -> None:
        """Raise ``BlindTable``, or note in ``blind`` what the indexes of ``leaves`` do not hear."""
        if self._settings.on_blind_table == "stop":
            raise BlindTable(what, hint=f"Run: {remedy}; or set source.on_blind_table: warn", code=code)
        for index in sorted({index for leaf in leaves for index in leaf.use.indexes}):
            blind.setdefault(index, []).append(what)
        tables_unheard = ", ".join(str(leaf.relation.table) for leaf in leaves)
        self._status.trouble(f"blind {tables_unheard}", what, f"Run: {remedy}", blocking=False)

    def _slot(
        self,
        connection: "psycopg.Connection[Any]",
        existing: Optional[slot.SlotState],
        record: Optional[Record],
        rebuild: Mapping[str, str],
        unreadable: Optional[str],
        stop: threading.Event,
    ) -> Prepared:
        name = self._settings.slot
        recorded = record.confirmed if record is not None and record.confirmed else None
        gap = slot.describe_gap(name, existing, recorded) or self._broken(connection, existing, record)
        if gap is None and unreadable is not None and recorded is not None:
            gap = unreadable
        if gap is not None:
            if self._settings.on_gap == "stop":
                raise Gap(gap, hint="Rebuild the indexes (on_gap: rebuild) or restore the slot", slot=name)
            log.error("gap: %s; every index is rebuilt while readers keep the old one", gap)
            if existing is not None:
                slot.drop_slot(connection, name)
                existing = None
        if existing is not None and (existing.wal_status == "lost" or unreadable is not None):
            slot.drop_slot(connection, name)
            existing = None
        failover = self._settings.failover
        if existing is None:
            position = slot.create_slot(connection, name, stop, self._waiting, failover=failover)
            self._status.clear_trouble("source transactions")
            log.info("replication slot %s created", name)
        else:
            # The record is durable wherever documents are, so what lies before it need not be streamed again.
            position = max(existing.confirmed, recorded or 0)
            if failover:
                slot.check_failover(connection, name)
        self._confirmed = self._received = position
        # The next sample of the lag may be long in coming.
        self._status.clear_trouble("slot")
        return Prepared(position, gap=gap, rebuild=dict(rebuild), coverage={**self._coverage, **self._former})

    def _broken(
        self, connection: "psycopg.Connection[Any]", existing: Optional[slot.SlotState], record: Optional[Record]
    ) -> Optional[str]:
        """A sentence when the source lives another history than the record's: restored, lossily failed over, copied."""
        if record is None:
            return None
        now = history.standing(connection)
        return history.describe_break(
            record, now, self._access.address, existing, lambda: history.history_of(self._access, now.timeline)
        )

    def _waiting(self, what: str) -> None:
        self._heartbeat()
        self._status.trouble("source transactions", what, "End them if they should not be open", blocking=True)

    # -- too much WAL -----------------------------------------------------------------------------------

    def relieve(self) -> None:
        """Give the slot up where it makes the server keep more WAL than it may (promise 12).

        Whoever streams from it is ended first; a new slot is made, and every index built anew, once changes flow again.
        """
        limit, name = self._settings.max_retained_wal_bytes, self._settings.slot
        if limit is None or not self._settings.give_up:
            return
        connection = self._guarded()
        with translating("looking at the slot"):
            found = slot.find_slot(connection, name)
        if found is None or (found.retained_bytes or 0) <= limit:
            return
        what = (
            f"slot {name} made the server keep {found.retained_bytes} bytes of WAL, more than "
            f"source.max_retained_wal_bytes allows ({limit}), and was given up"
        )
        self._given_up = what
        with translating("giving the slot up"):
            slot.give_up(connection, name)
        log.error("%s; every index is built anew once changes flow again", what)
        self._status.trouble("slot", what, "Every index is built anew once changes flow again", blocking=True)

    # -- the stream -----------------------------------------------------------------------------------

    def stream(self, emit: Emit, stop: threading.Event) -> None:
        """Stream until stop; a broken connection is opened again, from the last transaction handed on."""
        backoff = Backoff()
        outage = Outage(self._status, "source stream")

        def works() -> None:
            backoff.reset()
            outage.over()

        while not stop.is_set():
            try:
                try:
                    self._stream_once(emit, stop, works)
                except PublicationMissing:
                    self._drop_unreadable()
                    raise
            except SourceError as error:
                if not error.transient:
                    raise
                self._heartbeat()
                with contextlib.suppress(Stopped):
                    outage.sit_out(error, backoff, stop)

    def _drop_unreadable(self) -> None:
        """The publication was missing where the slot stands.  One that exists now was made later, and no slot gets past
        the WAL in between: without the slot, the next look finds the gap."""
        with contextlib.closing(connect(self._access)) as connection:
            if rows(connection, "select from pg_publication where pubname = %s", (self._settings.publication,)):
                slot.drop_slot(connection, self._settings.slot)

    def _stream_once(self, emit: Emit, stop: threading.Event, works: Callable[[], None]) -> None:
        if self._given_up:
            raise SlotMissing(self._given_up, slot=self._settings.slot)
        stream = ReplicationStream(self._access, self._settings.slot, self._settings.publication, self._received)
        try:
            self._compare_origin(stream.origin)
            self._compare_slot(self._received)
            self._pump(stream, emit, stop, works)
        except Stopped:
            pass
        except BaseException:
            stream.close()
            raise
        # Left open: ``close`` sends the last feedback, once what was in flight is durable.
        self._stream = stream

    def _compare_slot(self, start: int) -> None:
        """Raise ``SlotMissing`` when the slot that is streamed now begins beyond ``start``.

        The stream looked before it began, and a slot may be dropped and made anew in between.  Now nobody can: the
        stream holds it.
        """
        with contextlib.closing(connect(self._access)) as connection:
            found = slot.find_slot(connection, self._settings.slot)
        if found is None or found.confirmed > start:
            raise SlotMissing(f"replication slot {self._settings.slot} was made anew", slot=self._settings.slot)

    def _compare_origin(self, origin: Tuple[str, str]) -> None:
        """Raise ``SourceChanged`` when this is another server, or another history, than before: then the whole order of
        birth is gone through again, which finds out whether anything is lost."""
        expected = self._origin or (self._system, self._timeline or origin[1])
        if origin != expected:
            raise SourceChanged(
                f"the server is another one now: system {origin[0]}, timeline {origin[1]}",
                hint="It is looked at anew",
            )
        self._origin = origin

    def _pump(self, stream: ReplicationStream, emit: Emit, stop: threading.Event, works: Callable[[], None]) -> None:
        decoder = Decoder(self._wanted.get, self._wanted_by_oid)
        changes: List[Change] = []
        xid: Optional[int] = None
        idle = 0
        feedback_at = 0.0
        healthy = False

        def beat() -> None:
            nonlocal feedback_at
            now = time.monotonic()
            if self._access.shutting_down.is_set():
                self._access.shutting_down.clear()
                raise SourceUnavailable("the server is shutting down, so the stream is let go")
            if now >= feedback_at:
                silence = now - stream.last_message_at
                if silence > SILENCE_LIMIT_SECONDS:
                    raise SourceUnavailable(
                        f"the replication stream was silent for {silence:.0f} s (walsender pid {stream.backend_pid})"
                    )
                stream.feedback(self._confirmed, reply=silence > SILENCE_ASK_SECONDS)
                feedback_at = now + FEEDBACK_SECONDS
                self._heartbeat()

        def hand_on(run: ChangeRun) -> None:
            while not emit(run, FEEDBACK_SECONDS / 2):
                if stop.is_set():
                    raise Stopped
                # While we wait for space the stream rests by our own will, not by the server's silence.
                stream.last_message_at = time.monotonic()
                beat()
            if run.commit is not None:
                self._received = max(self._received, run.commit)

        while not stop.is_set():
            beat()
            if decoder.skipped:
                self._status.ignored(decoder.skipped)
                decoder.skipped = 0
            if idle:
                # Also while messages keep coming: those of other tables alone must not hold WAL until there is a pause.
                hand_on(ChangeRun((), idle))
                idle = 0
            for _ in range(MESSAGES_PER_LOOK):
                message = stream.receive()
                if message is None:
                    if idle:
                        hand_on(ChangeRun((), idle))
                        idle = 0
                    stream.wait(max(0.0, min(feedback_at - time.monotonic(), FEEDBACK_SECONDS)))
                    break
                if not healthy:
                    healthy = True
                    works()
                if isinstance(message, Keepalive):
                    self._heard = max(self._heard, message.end)
                    if xid is None:
                        idle = max(idle, message.end)
                    if message.reply:
                        feedback_at = 0.0
                    continue
                decoded = decoder.decode(message)
                if decoded is None:
                    continue
                if isinstance(decoded, Change):
                    changes.append(decoded)
                    if len(changes) >= RUN_CHANGES:
                        hand_on(ChangeRun(changes, None, xid))
                        changes = []
                elif isinstance(decoded, Begin):
                    xid = decoded.xid
                elif isinstance(decoded, Commit):
                    # An empty tail closes a transaction whose changes went on before.
                    if changes:
                        hand_on(ChangeRun(changes, decoded.end_lsn, xid))
                        idle = 0
                    else:
                        idle = max(idle, decoded.end_lsn)
                    changes = []
                    xid = None
                else:
                    changes.extend(decoded)

    def confirm(self, position: int) -> None:
        self._confirmed = max(self._confirmed, position)

    # -- beside the stream ------------------------------------------------------------------------------

    def lag(self) -> Optional[int]:
        """Bytes from the slot's confirmed position to the server's write position; on a connection of its own."""
        try:
            if self._lag_connection is None or self._lag_connection.closed:
                self._lag_connection = connect(self._access)
            if self._closed:
                # Closed meanwhile by the thread that stops us: nobody else would close this one.
                self._lag_connection.close()
                return None
            found = slot.find_slot(self._lag_connection, self._settings.slot)
            if found is None:
                return None
            self._status.set_fact(
                "slot",
                {
                    "name": self._settings.slot,
                    "wal_status": found.wal_status,
                    "retained_bytes": found.retained_bytes,
                    "safe_wal_bytes": found.safe_wal_bytes,
                    "active_pid": found.active_pid,
                },
            )
            self._tell_headroom(found)
            end = parse_lsn(
                rows(
                    self._lag_connection,
                    "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()"
                    " else pg_current_wal_lsn() end)::text",
                )[0][0]
            )
            self._heard = max(self._heard, end)
            return max(0, end - found.confirmed)
        except SourceError:
            if self._lag_connection is not None:
                self._lag_connection.close()
                self._lag_connection = None
            raise

    def _tell_headroom(self, found: slot.SlotState) -> None:
        """Name a slot that the server is about to invalidate, or has invalidated (faults B1)."""
        name, safe, kept = self._settings.slot, found.safe_wal_bytes, found.retained_bytes or 0
        limit = self._settings.max_retained_wal_bytes
        todo = "Let the sinks keep up, or raise max_slot_wal_keep_size"
        lost = found.wal_status == "lost"
        if lost:
            what = f"slot {name} was invalidated by the server"
        elif found.wal_status == "unreserved":
            what = f"slot {name} is about to be invalidated: the next checkpoint may remove WAL that it needs"
        elif safe is not None and safe < SMALL_HEADROOM * (safe + kept):
            what = f"slot {name} is invalidated when {safe} bytes more are written: it holds {kept} bytes back"
        elif limit is not None and kept > limit:
            what = (
                f"slot {name} makes the server keep {kept} bytes of WAL, more than source.max_retained_wal_bytes "
                f"({limit})"
            )
            todo = "Let the sinks keep up, and end transactions that have been open for long; mind the server's disk"
        else:
            self._status.clear_trouble("slot")
            return
        self._status.trouble(
            "slot",
            what,
            "The indexes are rebuilt (source.on_gap)" if lost else todo,
            blocking=lost,
        )

    def position(self) -> int:
        """What is flushed to disk: beyond that, not even a commit that was answered may have got."""
        connection = connect(self._access)
        try:
            return parse_lsn(
                rows(
                    connection,
                    "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()"
                    " else pg_current_wal_flush_lsn() end)::text",
                )[0][0]
            )
        finally:
            connection.close()

    def commit_position(self, position: int) -> int:
        return slot.page_start(position)

    def heard(self) -> Optional[int]:
        return max(self._heard, self._received)

    def behind(self) -> Optional[int]:
        return max(0, max(self._heard, self._received) - self._confirmed)

    def watch(self) -> Mapping[str, str]:
        """Keep the session alive that holds the slot's advisory lock, and see whether every change is still told.

        Raises ``SourceChanged`` when somebody altered the publication, an identity or the leaves of a table: then the
        order of birth is gone through again, which mends it or names it, and rebuilds what may have missed changes.
        """
        try:
            self.relieve()
            self._look(self._guarded())
        except SourceUnavailable:
            self._look(self._guarded())
        return {}

    def _look(self, connection: "psycopg.Connection[Any]") -> None:
        with translating("watching the source"):
            for found in list(self._locked_out):
                with contextlib.suppress(SourceRefused):
                    if not identity.strengthen(connection, found, threading.Event(), budget_seconds=0):
                        continue
                    self._former[f"{FORMER} {found.table}"] = found.undo
                self._locked_out.remove(found)
            coverage = self._survey(connection).coverage
        altered = sorted(
            table for table in {*coverage, *self._coverage} if coverage.get(table) != self._coverage.get(table)
        )
        if altered:
            raise SourceChanged(
                f"what the source tells of {', '.join(altered)} was altered", hint="It is looked at anew"
            )

    def _guarded(self) -> "psycopg.Connection[Any]":
        """The session that holds the slot's advisory lock; another one is opened when it broke."""
        guard = self._guard
        if guard is not None and not guard.closed:
            return guard
        connection = connect(self._access, settings=GUARD_SETTINGS)
        try:
            slot.guard_slot(connection, self._settings.slot)
        except BaseException:
            connection.close()
            raise
        self._guard = connection
        if self._closed:
            # Closed meanwhile by the thread that stops us: nobody else would give the lock back.
            connection.close()
            raise Stopped
        return connection

    def close(self) -> None:
        self._closed = True
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(SourceError):
                stream.feedback(self._confirmed)
            stream.end()
        for connection in (self._guard, self._lag_connection):
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()
        self._guard = self._lag_connection = None

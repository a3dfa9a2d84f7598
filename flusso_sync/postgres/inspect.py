"""What ``flussod check`` says of the source: everything a run would be refused for, wait for, or do; nothing is done.

The rules are the run's own (``slot``, ``publication``, ``identity``, ``bind``, ``trial``, ``capture.survey``); here
they are asked all at once, and what a run would try is foretold by looking at the rights for it.  The session is
read-only.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set

import psycopg

from flusso_sync.engine.source import Record, SourceIdentity, furthest_record
from flusso_sync.errors import EXIT_GAP, EXIT_SOURCE, FlussoError, PublicationMismatch
from flusso_sync.findings import ERROR, INFO, WARNING, Finding, of_error
from flusso_sync.postgres import history, identity, publication, slot
from flusso_sync.postgres.bind import BoundIndex, bind
from flusso_sync.postgres.capture import CaptureSettings, Leaf, source_identity, survey
from flusso_sync.postgres.catalog import Catalog, read_catalog
from flusso_sync.postgres.connection import READ_ONLY, SourceAccess, connect, rows, translating
from flusso_sync.postgres.documents import UNFIT, try_index
from flusso_sync.postgres.trial import raw_filters
from flusso_sync.schema.paths import tables
from flusso_sync.schema.plan import IndexPlan, Table

#: The newest major version that is tested.
NEWEST = 18

#: A transaction open for longer is named: a new slot waits for it.
LONG_SECONDS = 10

#: Connections of a run besides those of builds: stream, guard, engine, lag, watch.
CONNECTIONS = 5

_PLACES = """
select (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::int,
       (select count(*) from pg_stat_replication), current_setting('max_wal_senders')::int,
       (select count(*) from pg_stat_activity where backend_type in ('client backend', 'walsender')),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
       current_setting('max_slot_wal_keep_size'), pg_is_in_recovery()
"""

_RIGHTS = """
select (select rolsuper from pg_roles where rolname = current_user),
       has_database_privilege(current_database(), 'CREATE'),
       (select pg_has_role(current_user, pubowner, 'USAGE') from pg_publication where pubname = %s),
       quote_ident(current_user), quote_ident(current_database())
"""

_OWNED = """
select c.oid::int8 from pg_class c
 where c.oid = any(%s::oid[]) and pg_has_role(current_user, c.relowner, 'USAGE')
"""

_SIZES = """
select n.nspname::text, c.relname::text, greatest(c.reltuples, 0)::int8, pg_relation_size(c.oid)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where (n.nspname::text, c.relname::text) in (select * from unnest(%s::text[], %s::text[]))
"""


class Coverage(NamedTuple):
    """operations.md section 1: whether the publication tells of every table, and who may mend it."""

    satisfied: bool
    manageable: bool
    will_manage: bool
    present: List[str]
    missing: List[str]
    blockers: List[str]
    remediation: List[str]

    def to_json(self) -> Dict[str, Any]:
        return self._asdict()


class SourceInspection:
    """One look at the source, in three steps, each of which adds to ``findings``; ``close`` ends it."""

    def __init__(
        self, access: SourceAccess, plans: Sequence[IndexPlan], settings: CaptureSettings, workers: int = 1
    ) -> None:
        self._access = access
        self._plans = tuple(plans)
        self._settings = settings
        self._workers = workers
        self._connection: Optional[psycopg.Connection[Any]] = None
        self._refused: Set[str] = set()
        self._standby = False
        self.findings: List[Finding] = []
        self.coverage: Optional[Coverage] = None
        #: The indexes that fit their tables.
        self.bound: Dict[str, BoundIndex] = {}

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _say(self, code: str, severity: str, message: str, remedy: str = "", **more: Any) -> None:
        ends = {"exit_code": EXIT_SOURCE if severity == ERROR else 0, **more}
        self.findings.append(Finding(code, severity, message, remedy, **ends))

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """What is raised inside becomes a finding."""
        try:
            with translating("looking at the source"):
                yield
        except FlussoError as error:
            self.findings += of_error(error)

    # -- the server and the role -----------------------------------------------------------------------

    def connect(self) -> Optional[SourceIdentity]:
        """Connect, and look at the server; None when there is no connection."""
        try:
            self._connection = connect(self._access, settings=READ_ONLY)
        except FlussoError as error:
            self.findings += of_error(error)
            return None
        found: Optional[SourceIdentity] = None
        with self._noting():
            self._server(self._connection)
        if not {"FL012", "FL014", "FL015", "FL017"} & {finding.code for finding in self.findings}:
            self._try_replication()
        with self._noting():
            found = source_identity(self._connection, self._settings.slot, self._access.address)
        return found

    def _try_replication(self) -> None:
        """Poolers refuse what the stream is read over, and limits count it."""
        try:
            connect(self._access, replication=True).close()
        except FlussoError as error:
            self.findings += [replace(finding, code="FL035") for finding in of_error(error)]

    def _server(self, connection: "psycopg.Connection[Any]") -> None:
        for refusal in slot.server_refusals(connection, failover=self._settings.failover):
            self.findings += of_error(refusal)
        major = connection.info.server_version // 10000
        if major > NEWEST:
            self._say("FL013", WARNING, f"Postgres {major} is not tested; 14 to {NEWEST} are")
        slots, most_slots, senders, most_senders, used, most, keep, self._standby = rows(connection, _PLACES)[0]
        state = None
        with self._noting():
            state = slot.find_slot(connection, self._settings.slot)
        if state is None and not any(finding.code == "FL019" for finding in self.findings) and slots >= most_slots:
            self._say(
                "FL016",
                ERROR,
                f"all {most_slots} replication slots are taken, and slot {self._settings.slot} does not exist yet",
                "Drop one that nobody uses, or raise max_replication_slots and restart Postgres",
            )
        if state is not None and state.active_pid is not None:
            self._say(
                "FL020",
                INFO,
                f"slot {self._settings.slot} is in use by backend pid {state.active_pid}: a second daemon would wait",
            )
        elif senders >= most_senders:
            self._say(
                "FL017",
                ERROR,
                f"all {most_senders} WAL senders are taken",
                "End one that nobody uses, or raise max_wal_senders and restart Postgres",
            )
        limit, kept = self._settings.max_retained_wal_bytes, 0 if state is None else state.retained_bytes or 0
        if limit is not None and kept > limit:
            gives_up = self._settings.give_up
            self._say(
                "FL036",
                WARNING,
                f"slot {self._settings.slot} makes the server keep {_bytes(kept)} of WAL, more than "
                f"source.max_retained_wal_bytes ({_bytes(limit)})"
                + ("; a run gives it up and builds every index anew" if gives_up else ""),
                "Raise the limit first, if the slot is to be gone on with" if gives_up else "Mind the server's disk",
            )
        wanted = CONNECTIONS + self._workers
        if (state is None or state.active_pid is None) and most - used < wanted:
            self._say(
                "FL034",
                WARNING,
                f"{max(0, most - used)} of {most} connections are free, and a run uses {wanted} while it builds",
                "Raise max_connections, or lower backfill.workers",
            )
        if keep == "-1":
            self._say(
                "FL031",
                INFO,
                "max_slot_wal_keep_size is not set: while no daemon reads the slot, the server keeps WAL for it until "
                "its disk is full",
                "Set max_slot_wal_keep_size, or watch the disk; drop the slot when you are done for good",
            )
        if self._standby:
            self._say(
                "FL032",
                WARNING,
                "the server is a standby: the publication and replica identities must be made on its primary",
            )
        if state is None:
            for who, age, name in slot.open_writers(connection):
                if age is not None and age >= LONG_SECONDS:
                    self._say(
                        "FL033",
                        WARNING,
                        f"{who} ({name}) has been writing for {age} s: the creation of the slot waits for its end",
                        "End it, if it should not be open",
                    )

    # -- schema files against the tables ----------------------------------------------------------------

    def schemas(self) -> None:
        """Bind every plan, have Postgres judge its statements, weigh what it lacks."""
        connection = self._connection
        if connection is None:
            return
        with self._noting():
            catalog = read_catalog(connection, {table for plan in self._plans for table in tables(plan)})
            for plan in self._plans:
                self._schema(connection, plan, catalog)
        self._tell_costs(connection)

    def _schema(self, connection: "psycopg.Connection[Any]", plan: IndexPlan, catalog: Catalog) -> None:
        try:
            bound = bind(plan, catalog)
            # One missing index troubles many fields; it is named once.
            told = {finding.message for finding in self.findings}
            for found in bound.findings:
                if found.code != "FL057" or found.message not in told:
                    self.findings.append(found)
                told.add(found.message)
            try_index(connection, bound)
        except UNFIT as error:
            self._refused.add(plan.name)
            self.findings += [_about(plan, finding) for finding in of_error(error)]
            return
        self.bound[plan.name] = bound
        for path, item in raw_filters(plan):
            if item.volatile:
                self.findings.append(
                    _about(plan, Finding("FL058", INFO, f"outside the promises: {path}: {item.sql}", path=path))
                )

    def _tell_costs(self, connection: "psycopg.Connection[Any]") -> None:
        """Say of each missing index how much is read for want of it."""
        lacking = {Table(*name) for finding in self.findings for name in finding.facts.get("tables", ())}
        if not lacking:
            return
        with self._noting():
            wanted = [table.schema for table in lacking], [table.name for table in lacking]
            sizes = {Table(s, n): (count, size) for s, n, count, size in rows(connection, _SIZES, wanted)}
            self.findings = [_costed(finding, sizes) for finding in self.findings]

    # -- identities, publication, slot --------------------------------------------------------------------

    def stream(self, records: Sequence[Record]) -> None:
        """What a run would do about identities, publication and slot, given what the sinks remember."""
        connection = self._connection
        if connection is None or not self._plans:
            return
        with self._noting():
            found = survey(connection, self._plans, self._settings.publication, self._refused)
            used = [leaf for leaf in found.leaves if leaf.use.indexes]
            owned = {oid for (oid,) in rows(connection, _OWNED, ([leaf.relation.oid for leaf in used],))}
            mute = [leaf for leaf in used if self._identity(leaf, found.identities[leaf.relation.table], owned)]
            self._publication(connection, [leaf for leaf in used if leaf not in mute], owned)
        with self._noting():
            self._gap(connection, records)

    @property
    def _blind_severity(self) -> str:
        return ERROR if self._settings.on_blind_table == "stop" else WARNING

    def _identity(self, leaf: Leaf, found: identity.Identity, owned: Set[int]) -> bool:
        """Look at one table; returns whether a run could not publish it."""
        if found.untold:
            self._say("FL029", WARNING, identity.untold_sentence(found), "Link by a column that is not generated")
        if found.remedy is None or not leaf.relation.columns.keys() >= set(leaf.use.links):
            return False
        reason = found.obstacle
        if reason is None and not self._settings.manage_replica_identity:
            reason = "source.manage_replica_identity is false"
        elif reason is None and self._standby:
            reason = "the server is a standby"
        elif reason is None and leaf.relation.oid not in owned:
            reason = "this role does not own the table"
        if reason is None:
            self._say(
                "FL028",
                INFO,
                f"a run will set the replica identity of {found.table}, so that deletes and moves name their old "
                f"parents: {found.remedy}",
                f"To undo it later: {found.undo}",
                facts={"statement": found.remedy, "undo": found.undo},
            )
            return False
        facts = {"statement": found.remedy}
        if found.mute:
            what = f"table {found.table} has no usable replica identity: {reason}"
            self._say("FL026", self._blind_severity, what, f"Run: {found.remedy}", facts=facts)
            return True
        what = f"old parents of {found.table} cannot be traced: {reason}"
        self._say("FL027", WARNING, what, f"Run: {found.remedy}", facts=facts)
        return False

    def _publication(self, connection: "psycopg.Connection[Any]", leaves: Sequence[Leaf], owned: Set[int]) -> None:
        name = self._settings.publication
        needed = [leaf.relation.table for leaf in leaves]
        try:
            found = publication.coverage(connection, name, needed)
        except PublicationMismatch as error:
            self.findings += of_error(error)
            self.coverage = Coverage(False, False, False, [], [], [error.message], [error.hint or ""])
            return
        missing = [str(table) for table in found.missing]
        present = [str(table) for table in needed if table not in found.missing]
        if not found.missing and (found.exists or not needed):
            self.coverage = Coverage(True, True, False, present, [], [], [])
            return
        oids = {leaf.relation.table: leaf.relation.oid for leaf in leaves}
        foreign = [table for table in found.missing if oids[table] not in owned]
        blockers = self._blockers(connection, found.exists, foreign)
        manages = self._settings.manage_publication
        statement = str(found.statement)
        self.coverage = Coverage(
            False, not blockers, manages and not blockers, present, missing, blockers, [f"{statement};"]
        )
        if manages and not blockers:
            what = f"add {', '.join(missing)} to publication {name}" if found.exists else f"create publication {name}"
            self._say("FL025", INFO, f"a run will {what}: {statement}", facts={"statement": statement})
            return
        reason = "; ".join(blockers) if manages else "source.manage_publication is false"
        if not found.exists:
            what = f"publication {name} does not exist and cannot be created: {reason}"
            self._say("FL023", ERROR, what, f"Run: {statement}", facts={"statement": statement})
            return
        what = f"changes of {', '.join(missing)} are not published: {reason}"
        self._say("FL024", self._blind_severity, what, f"Run: {statement}", facts={"statement": statement})

    def _blockers(self, connection: "psycopg.Connection[Any]", exists: bool, foreign: Sequence[Table]) -> List[str]:
        """Why this role may not create or extend the publication; empty when it may."""
        superuser, creates, owns, role, database = rows(connection, _RIGHTS, (self._settings.publication,))[0]
        if self._standby:
            return ["the server is a standby"]
        if superuser:
            return []
        found = []
        if exists and not owns:
            found.append(f"role {role} does not own the publication")
        if not exists and not creates:
            found.append(f"role {role} may not create in the database (GRANT CREATE ON DATABASE {database} TO {role})")
        if foreign:
            found.append(f"role {role} does not own {', '.join(map(str, foreign))}")
        return found

    def _gap(self, connection: "psycopg.Connection[Any]", records: Sequence[Record]) -> None:
        record = furthest_record([record for record in records if record.confirmed])
        if record is None:
            return
        state = slot.find_slot(connection, self._settings.slot)
        now = history.standing(connection)
        gap = slot.describe_gap(self._settings.slot, state, record.confirmed) or history.describe_break(
            record, now, self._access.address, state, lambda: history.history_of(self._access, now.timeline)
        )
        if gap is None:
            return
        if self._settings.on_gap == "stop":
            self._say(
                "FL021", ERROR, gap, "Rebuild the indexes (on_gap: rebuild) or restore the slot", exit_code=EXIT_GAP
            )
        else:
            self._say("FL021", WARNING, f"{gap}; a run builds every index anew beside the one that is read")


def _about(plan: IndexPlan, finding: Finding) -> Finding:
    """The finding as one about ``plan``, at its place, without saying twice where that is."""
    message = finding.message
    for start in (f"index {plan.name}: ", f"{finding.path}: "):
        if message.startswith(start):
            message = message[len(start) :]
    place = plan.place(finding.path) if finding.file is None else None
    file, line, column = place or (finding.file, finding.line, finding.column)
    return replace(finding, message=message, index=plan.name, file=file, line=line, column=column)


def _costed(finding: Finding, sizes: Mapping[Table, Any]) -> Finding:
    known = [sizes[Table(*name)] for name in finding.facts.get("tables", ()) if Table(*name) in sizes]
    if not known:
        return finding
    count, size = sum(each[0] for each in known), sum(each[1] for each in known)
    cost = f"about {count:,} rows ({_bytes(size)}) for each change that is traced" if count else f"{_bytes(size)} now"
    facts = {**finding.facts, "rows": count, "bytes": size}
    return replace(finding, message=f"{finding.message}, {cost}", facts=facts)


def _bytes(size: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 10_000:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GB"

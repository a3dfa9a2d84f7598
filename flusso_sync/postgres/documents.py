"""Reading documents: one short transaction per batch, in which nothing can look missing that is not (promise 8).

Every snapshot is begun the same way: lock all tables of the plans in ACCESS SHARE mode, then take the snapshot, then
compare the catalog with the plan, then make sure that every transaction of the batch is visible (promise 3).
All of that is one round trip; building is another.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import psycopg
from psycopg.rows import tuple_row
from psycopg.types.string import ByteaBinaryLoader

from flusso_sync.backoff import Stopped
from flusso_sync.engine.source import (
    ChangeRun,
    Chunk,
    Document,
    Documents,
    Key,
    Resolution,
    Snapshot,
    Spread,
    Spreading,
)
from flusso_sync.errors import ConfigError, FlussoError, SchemaDrift, SourceError, SourceRefused, SourceUnavailable
from flusso_sync.postgres.bind import BoundIndex, bind
from flusso_sync.postgres.catalog import Catalog, Relation, Shape, Type, lock_statement, read_catalog, shape_of
from flusso_sync.postgres.connection import SourceAccess, connect, translate, translating
from flusso_sync.postgres.quoting import array_literal, id_parts, identifier, table_name
from flusso_sync.postgres.replication import parse_lsn
from flusso_sync.postgres.resolve import Lookup, Trace, by_table, touched, traces_of
from flusso_sync.postgres.statements import IndexStatements, compile_statements
from flusso_sync.postgres.trial import raw_filters, try_out
from flusso_sync.schema.paths import table_uses, tables
from flusso_sync.schema.plan import IndexPlan, Table, TableUse
from flusso_sync.schema.raw import called_names
from flusso_sync.status import Status

log = logging.getLogger(__name__)

#: Keys of one build statement until the size of the documents is known, and at most.
FIRST_KEYS = 500
MOST_KEYS = 8192

#: Documents of one chunk of a build, about: each worker holds one several times over (the answer of Postgres, the
#: bodies, the request), and larger ones are not faster.
CHUNK_BYTES = 4 * 1024 * 1024

#: How the SQLSTATE begins of what a row makes of its statement that cannot be rendered: bad data (21 to 23), a document
#: over 1 GB (54), and whatever a function of a raw filter raises (P, 20, 2F, 38, 39).
UNRENDERABLE = ("20", "21", "22", "23", "2F", "38", "39", "54", "P")

#: OpenSearch refuses a whole request for an id longer than this (settled.md section 6).
MOST_ID_BYTES = 512

#: The snapshot, and on a standby how far it has replayed.
_SNAPSHOT = """SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text,
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text END"""

_DATES = frozenset({"date", "timestamp", "timestamptz"})
_FAR_YEAR = re.compile(r"(-|\+|(?=0000))([0-9]{4,7})(?=-)")

_POSITION = """SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
    ELSE pg_catalog.pg_current_wal_insert_lsn() END)::pg_catalog.text"""

_ADVANCE = "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_xact_id() END"

#: https://doxygen.postgresql.org/xlog__internal_8h.html: pages of the WAL, and the headers of most and of the first.
WAL_PAGE_BYTES = 8192
WAL_HEADER_BYTES = (24, 40)

#: Between two looks at whether a transaction has become visible, growing to the second.
VISIBLE_FIRST_SECONDS = 0.0005
VISIBLE_LONGEST_SECONDS = 0.1

#: A batch of many changed values may list this many documents for each of them, whatever ``fan_out_documents`` says.
VALUES_DOCUMENTS = 4

#: Where the source could not list the documents of changed values in time, they are listed bit by bit for so long.
SLOW_SECONDS = 3600.0

#: How long the end waits for statements to be cancelled.
CANCEL_SECONDS = 0.5

#: Waiting for a lock or for visibility this long is told.
PATIENCE_SECONDS = 2.0

#: What a plan that does not fit its tables raises.
UNFIT = (ConfigError, SourceRefused)


@dataclass(frozen=True)
class DocumentSettings:
    """Bounds in bytes of what one statement returns and of one document, and how many documents one change may show in
    before it becomes a job of its own."""

    batch_bytes: int = 32 * 1024 * 1024
    max_document_bytes: int = 20 * 1024 * 1024
    fan_out_documents: int = 10_000


class _Unrenderable(Exception):
    """A statement failed because of what a row holds; ``reason`` is what Postgres said."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(error)
        self.reason = error.diag.message_primary or type(error).__name__


def _is_of_a_row(error: psycopg.Error) -> bool:
    """Whether ``error`` comes of what a row holds.  A code that no class of Postgres has, a user's function made up."""
    return (error.sqlstate or "").startswith(UNRENDERABLE) or type(error) is psycopg.DatabaseError


class _Place(NamedTuple):
    """Where a chunk lies: after ``lower`` (None: from the start) up to and including ``upper`` of what ``statements``
    read; ``keys`` of its documents."""

    statements: IndexStatements
    lower: Optional[Key]
    upper: Key
    keys: Sequence[Key]


class SnapshotFacts(NamedTuple):
    """``pg_current_snapshot()``, taken apart; transaction ids are 64 bits wide."""

    xmin: int
    xmax: int
    running: FrozenSet[int]

    @classmethod
    def parse(cls, text: str) -> "SnapshotFacts":
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))

    @property
    def version(self) -> int:
        """Never decreases from one snapshot to a later one on a primary (design section 4, write protocol c)."""
        return (self.xmax << 16) | (65535 - min(len(self.running), 65535))

    def sees(self, xid: int) -> bool:
        """Whether the committed transaction with the 32-bit id ``xid`` is visible."""
        # The stream has the low half of the id; the high half is that of the nearest one around xmax.
        full = (self.xmax & ~0xFFFFFFFF) | xid
        if full - self.xmax > 0x7FFFFFFF:
            full -= 1 << 32
        elif self.xmax - full > 0x7FFFFFFF:
            full += 1 << 32
        return full < self.xmin or (full < self.xmax and full not in self.running)


class PostgresDocuments(Documents):
    """Documents of the plans' indexes.  Each calling thread has a connection of its own."""

    def __init__(self, access: SourceAccess, settings: DocumentSettings) -> None:
        self._access = access
        self._settings = settings
        self._status = Status()
        self._local = threading.local()
        self._connections: Dict[threading.Thread, psycopg.Connection[Any]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._bound: Dict[str, BoundIndex] = {}
        self._statements: Dict[str, IndexStatements] = {}
        self._traces: Dict[Table, List[Trace]] = {}
        self._uses: Dict[Table, List[str]] = {}
        self._plans: Tuple[IndexPlan, ...] = ()
        self._unreadable: Dict[str, FlussoError] = {}
        #: Table (with None) or column, by OID and number -> the indexes that are made of it.
        self._users: Dict[Tuple[int, Optional[int]], List[str]] = {}
        self._lock_statement = ""
        #: (index, name of a path) -> the statement that lists the documents, and what it is called.
        self._spread_paths: Dict[Tuple[str, str], Tuple[str, str]] = {}
        self._shape: Optional[Shape] = None
        #: Index -> what its documents are made of (``_note``).
        self._shapes: Dict[str, str] = {}
        self._sizes: Dict[str, float] = {}
        #: Index -> the leaf that is read now, and its statements.
        self._of_leaf: Dict[str, Tuple[int, IndexStatements]] = {}
        #: Keys of one statement at most, where one took too long.
        self._most: Dict[str, int] = {}
        #: (index, statement) of lookups that took too long -> until when they are not tried.
        self._slow: Dict[Tuple[str, str], float] = {}
        self._told_to_wait = False
        self._ending = threading.Event()

    def report_to(self, status: Status) -> None:
        self._status = status
        status.set_figures("connections", self._count_connections)

    def _count_connections(self) -> Dict[str, int]:
        with self._lock:
            return {"documents": sum(not connection.closed for connection in self._connections.values())}

    def open(self, plans: Sequence[IndexPlan], stop: threading.Event) -> None:
        """Read the catalog, bind the plans to it, compile their statements; ``unreadable`` names those that do not fit.

        Raises ``SourceUnavailable`` where waiting helps.
        """
        with self._lock:
            self._closed = False
        self._ending.clear()
        self._plans = tuple(plans)
        traces: List[Trace] = []
        told: Set[str] = set()
        self._bound, self._statements, self._shapes, self._unreadable = {}, {}, {}, {}
        self._uses, self._users, self._slow = {}, {}, {}
        with contextlib.closing(connect(self._access)) as connection, translating("reading the catalog"):
            catalog = self._catalog(connection)
            for plan in plans:
                try:
                    bound = bind(plan, catalog)
                    statements = try_index(connection, bound)
                except UNFIT as error:
                    self._unreadable[plan.name] = error
                    continue
                self._bound[plan.name] = bound
                self._of_leaf.pop(plan.name, None)
                self._statements[plan.name] = statements
                self._shapes[plan.name] = _note(bound)
                for place in shape_of(catalog, _uses(bound)).names:
                    self._users.setdefault(place, []).append(plan.name)
                traces.extend(traces_of(bound))
                for finding in bound.findings:
                    # One missing index troubles many fields; it is named once.
                    if finding.message not in told:
                        told.add(finding.message)
                        log.warning("%s", finding, extra={"index": plan.name})
                for table in tables(plan):
                    self._uses.setdefault(table, []).append(plan.name)
        outside = {
            plan.name: [f"{path}: {item.sql}" for path, item in raw_filters(plan) if item.volatile] for plan in plans
        }
        self._status.set_fact("volatile_filters", {index: named for index, named in outside.items() if named} or None)
        # What they read nobody tells us; that they are altered, the watch sees.
        functions = {plan.name: sorted(_called(plan).intersection(catalog.functions)) for plan in plans}
        self._status.set_fact("filter_functions", {index: named for index, named in functions.items() if named} or None)
        self._traces = by_table(traces)
        # The tables of an index that drifted are none of our locks: they may not even exist.
        self._lock_statement = lock_statement(self._uses) + " NOWAIT" if self._uses else "SELECT"
        self._spread_paths = {
            (trace.index, _path_name(statement)): (statement, f"a change of {trace.table}")
            for trace in traces
            for statement in (trace.statement, trace.by_key)
            if statement is not None
        }
        bound_plans = [bound.plan for bound in self._bound.values()]
        self._shape = shape_of(catalog, table_uses(bound_plans, catalog.primary_keys, catalog.sources).values())

    def unreadable(self) -> Mapping[str, FlussoError]:
        return dict(self._unreadable)

    def shape(self, index: str) -> str:
        return self._shapes[index]

    def is_still(self, index: str, former: str) -> bool:
        return _is_still(self._bound[index], former)

    def watch(self) -> None:
        with translating("watching the tables"):
            drift = self._drift(self._connection())
        if drift is not None:
            raise drift

    def _catalog(self, connection: "psycopg.Connection[Any]") -> Catalog:
        return read_catalog(
            connection,
            {table for plan in self._plans for table in tables(plan)},
            {name for plan in self._plans for name in _called(plan)},
        )

    def _drift(self, connection: "psycopg.Connection[Any]", *, refused: bool = False) -> Optional[SchemaDrift]:
        """What became of the plans: those that do not fit any more, are made of something else, or fit again.

        ``refused``: a statement was; so those that seem to fit are tried out, too.  psycopg's errors pass through.
        """
        catalog = self._catalog(connection)
        reasons: Dict[str, str] = {}
        for plan in self._plans:
            known = self._shapes.get(plan.name)
            try:
                bound = bind(plan, catalog)
                if refused or known is None:
                    try_index(connection, bound)
            except UNFIT as error:
                if known is not None:
                    reasons[plan.name] = error.message
                continue
            if known is None:
                reasons[plan.name] = f"index {plan.name} fits its tables again"
            elif not _is_still(bound, known):
                reasons[plan.name] = f"index {plan.name}: its tables are not as planned any more"
            elif refused and _leaf_oids(bound.root) != _leaf_oids(self._bound[plan.name].root):
                # A build reads leaf by leaf, and one may be dropped before the watch has seen it go.
                reasons[plan.name] = (
                    f"index {plan.name}: {bound.root.table} has other partitions than when it was planned"
                )
        if not reasons:
            return None
        return SchemaDrift("; ".join(reasons.values()), hint="The plan is made again", changed=sorted(reasons))

    def _refusal(self, error: psycopg.Error, doing: str) -> SourceError:
        """What ``error`` means; when Postgres refuses a statement because of DDL, that names the indexes concerned."""
        self._access.heard(error)
        if (error.sqlstate or "").startswith("42"):
            with contextlib.suppress(psycopg.Error, FlussoError):
                drift = self._drift(self._connection(), refused=True)
                if drift is not None:
                    return drift
        return translate(error, doing)

    # -- connections ----------------------------------------------------------------------------------

    def _connection(self) -> "psycopg.Connection[Any]":
        """The calling thread's connection, made when it has none or a broken one."""
        connection: Optional[psycopg.Connection[Any]] = getattr(self._local, "connection", None)
        if connection is not None and not connection.closed:
            return connection
        connection = connect(self._access)
        # Text in binary format is its bytes as they are: documents are never decoded.
        connection.adapters.register_loader("text", ByteaBinaryLoader)
        connection.cursor_factory = psycopg.RawCursor
        with self._lock:
            if self._closed:
                connection.close()
                raise Stopped
            # Those of threads that ended (of a build, say) are nobody's: a source has few connections to spare.
            left = [held for thread, held in self._connections.items() if not thread.is_alive()]
            self._connections = {t: c for t, c in self._connections.items() if t.is_alive() and not c.closed}
            self._connections[threading.current_thread()] = connection
        for gone in left:
            gone.close()
        self._local.connection = connection
        return connection

    def cancel(self) -> None:
        with self._lock:
            self._closed = True
            connections = list(self._connections.values())
        self._ending.set()

        def cancel_all() -> None:
            for connection in connections:
                with contextlib.suppress(psycopg.Error):
                    connection.cancel()

        # libpq cancels over a connection of its own, without any timeout: a server that is away must not hold us up.
        thread = threading.Thread(target=cancel_all, name="cancel", daemon=True)
        thread.start()
        thread.join(CANCEL_SECONDS)

    def close(self) -> None:
        self._ending.set()
        with self._lock:
            self._closed = True
            connections, self._connections = list(self._connections.values()), {}
        self._status.set_figures("connections", None)
        for connection in connections:
            with contextlib.suppress(Exception):
                connection.close()

    # -- snapshots --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def snapshot(self, runs: Sequence[ChangeRun], stop: threading.Event) -> Iterator[Snapshot]:
        """A transaction as described above; it ends with the block.

        Raises ``SourceUnavailable`` when the connection breaks, ``SchemaDrift`` when a table no longer has the shape
        it was planned with, ``Stopped`` at stop.
        """
        xids = {run.transaction for run in runs if run.transaction is not None}
        connection = self._begin(xids, runs, stop)
        try:
            yield _PostgresSnapshot(self, connection, self._facts)
        except psycopg.Error as error:
            self._abandon(connection)
            raise self._refusal(error, "reading documents") from error
        except BaseException:
            self._abandon(connection)
            raise
        try:
            connection.execute("COMMIT")
        except psycopg.Error as error:
            self._abandon(connection)
            self._access.heard(error)
            raise translate(error, "reading documents") from error

    @property
    def _facts(self) -> SnapshotFacts:
        facts: SnapshotFacts = self._local.facts
        return facts

    def _abandon(self, connection: "psycopg.Connection[Any]") -> None:
        """Roll back; a connection that cannot is closed, and the next use makes another."""
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            with contextlib.suppress(Exception):
                connection.close()

    def _begin(self, xids: Set[int], runs: Sequence[ChangeRun], stop: threading.Event) -> "psycopg.Connection[Any]":
        started = time.monotonic()
        pause = VISIBLE_FIRST_SECONDS
        while True:
            connection = self._connection()
            waits = self._try_begin(connection, xids, runs)
            waited = time.monotonic() - started
            if waits is None:
                if pause > VISIBLE_FIRST_SECONDS:
                    self._status.waited_for_visibility(waited)
                if self._told_to_wait:
                    self._told_to_wait = False
                    self._status.clear_trouble("source visibility")
                return connection
            if waited >= PATIENCE_SECONDS:
                self._told_to_wait = True
                self._status.trouble("source visibility", f"{waits} (for {waited:.0f} s)", blocking=True)
            if stop.wait(pause):
                raise Stopped
            pause = min(pause * 2, VISIBLE_LONGEST_SECONDS)

    def _try_begin(
        self, connection: "psycopg.Connection[Any]", xids: Set[int], runs: Sequence[ChangeRun]
    ) -> Optional[str]:
        """Begin, lock, take the snapshot, compare; None when all is well, else what has to be waited for."""
        shape = self._shape
        if shape is None:
            raise AssertionError("a snapshot before the plans were opened")
        try:
            with connection.pipeline():
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                # Before the snapshot: one older than a table rewrite would read no rows at all.
                connection.execute(self._lock_statement)
                taken = connection.execute(_SNAPSHOT, binary=True)
                compared = connection.execute(shape.statement, shape.parameters)
                row = taken.fetchone()
                changed = compared.fetchall()
        except psycopg.errors.LockNotAvailable:
            self._abandon(connection)
            return "a table of the indexes is locked by somebody's DDL"
        except psycopg.Error as error:
            self._abandon(connection)
            refusal = self._refusal(error, "beginning to read documents")
            if isinstance(error, psycopg.errors.UndefinedTable) and not refusal.relay:
                # It is there again, and the same: renamed for a moment.
                return "a table of the indexes is away"
            raise refusal from error
        if changed:
            self._abandon(connection)
            raise SchemaDrift(
                f"no longer as planned: {', '.join(shape.differences(changed))}",
                hint="The plan is made again, and what is read from there is rebuilt",
                changed=sorted({index for row in changed for index in self._users[row[0], row[1]]}),
            )
        if row is None:
            raise AssertionError("a snapshot was not told")
        facts = SnapshotFacts.parse(row[0].decode())
        waits = waits_for(facts, xids, None if row[1] is None else parse_lsn(row[1].decode()), runs)
        if waits is not None:
            self._abandon(connection)
            return waits
        self._local.facts = facts
        return None

    # -- traces -------------------------------------------------------------------------------------------

    def _resolve(self, connection: "psycopg.Connection[Any]", runs: Sequence[ChangeRun]) -> Resolution:
        found = touched((change for run in runs for change in run.changes), self._traces)
        slow = {place for place, until in self._slow.items() if time.monotonic() < until}
        spread = [self._spread_of(lookup) for lookup in found.lookups if (lookup.index, lookup.statement) in slow]
        cursors: List[Tuple[Lookup, int, Any]] = []
        try:
            with connection.pipeline():
                for lookup in found.lookups:
                    if (lookup.index, lookup.statement) in slow:
                        continue
                    most = self._most_listed(len(lookup.parameters[0]))
                    parameters = [*(array_literal(p) for p in lookup.parameters), most + 1]
                    cursors.append((lookup, most, connection.execute(_probe(lookup), parameters, binary=True)))
                for lookup, most, cursor in cursors:
                    rows = cursor.fetchall()
                    if len(rows) > most:
                        spread.append(self._spread_of(lookup))
                        continue
                    found.keys.setdefault(lookup.index, set()).update(
                        tuple(str(value, "utf-8") for value in row) for row in rows
                    )
        except psycopg.errors.QueryCanceled:
            self._remember_slow([lookup for lookup, _, cursor in cursors if cursor.pgresult is None])
            raise
        if found.repeated:
            self._status.deduplicated(found.repeated)
        if found.untraceable:
            self._status.untraceable({str(table): count for table, count in found.untraceable.items()})
        rebuild = {
            index: f"table {table} was truncated" for table in found.truncated for index in self._uses.get(table, ())
        }
        return Resolution({index: sorted(keys) for index, keys in found.keys.items()}, rebuild, spread)

    def _remember_slow(self, unanswered: Sequence[Lookup]) -> None:
        """The first of ``unanswered`` took too long, and would again: all indexes would stand still for ever."""
        for lookup in unanswered[:1]:
            self._slow[lookup.index, lookup.statement] = time.monotonic() + SLOW_SECONDS
            log.warning(
                "index %s: the documents of %s could not be listed within source.statement_timeout_secs, so they are"
                " listed bit by bit from now on; `flussod check` names links that lack an index",
                lookup.index,
                self._spread_of(lookup).label,
                extra={"index": lookup.index},
            )

    # -- changes that show in very many documents -----------------------------------------------------------

    def _most_listed(self, values: int) -> int:
        """Documents that ``values`` changed values may show in and still be built in their batch."""
        return max(self._settings.fan_out_documents, VALUES_DOCUMENTS * values)

    def _spread_of(self, lookup: Lookup) -> Spread:
        path = _path_name(lookup.statement)
        label = self._spread_paths[lookup.index, path][1]
        return Spread(lookup.index, path, label, list(zip(*lookup.parameters)))

    def spread(
        self, index: str, path: str, values: Sequence[Sequence[Optional[str]]], after: Any, most: int
    ) -> Optional[Sequence[Spreading]]:
        """In the order of the keys' texts, byte by byte: any order does, and every type has this one.

        None also when the source cannot list them within the statement timeout: a build walks the table in small steps.
        """
        known = self._spread_paths.get((index, path))
        if known is None:
            return None
        width = self._statements[index].width
        given = len(values[0])
        names = [f"k.key{place}" for place in range(1, width + 1)]
        ordered = ", ".join(f'{name} COLLATE "C"' for name in names)
        behind = ", ".join(f"${given + place}::pg_catalog.text" for place in range(1, width + 1))
        where = f"WHERE ROW({ordered}) > ROW({behind})" if after is not None else ""
        limit = given + 1 + (width if after is not None else 0)
        statement = (
            f"SELECT {', '.join(names)} FROM ({known[0]}) AS k({', '.join(name[2:] for name in names)}) {where} "
            f"ORDER BY {ordered} LIMIT ${limit}::pg_catalog.int8"
        )
        arrays = [array_literal(column) for column in zip(*values)]
        try:
            with self.snapshot((), self._ending) as snapshot:
                connection: psycopg.Connection[Any] = snapshot.connection  # type: ignore[attr-defined]
                rows = connection.execute(statement, [*arrays, *(after or ()), most], binary=True).fetchall()
                keys = [tuple(str(part, "utf-8") for part in row) for row in rows]
                if not keys:
                    return []
                columns = [array_literal(column) for column in zip(*keys)]
                ids = connection.execute(self._statements[index].ids, columns, binary=True).fetchall()
        except SourceUnavailable as error:
            if _timed_out(error):
                return None
            raise
        return [Spreading(key, str(id, "utf-8"), list(key)) for key, (id,) in zip(keys, ids)]

    def count_spread(self, index: str, path: str, values: Sequence[Sequence[Optional[str]]]) -> Optional[int]:
        known = self._spread_paths.get((index, path))
        if known is None:
            return None
        arrays = [array_literal(column) for column in zip(*values)]
        try:
            with self.snapshot((), self._ending) as snapshot:
                connection: psycopg.Connection[Any] = snapshot.connection  # type: ignore[attr-defined]
                row = connection.execute(f"SELECT pg_catalog.count(*) FROM ({known[0]}) AS k", arrays).fetchone()
        except SourceUnavailable as error:
            if _timed_out(error):
                return None
            raise
        return None if row is None else int(row[0])

    # -- documents ------------------------------------------------------------------------------------------

    def _build(
        self, connection: "psycopg.Connection[Any]", index: str, keys: Sequence[Key]
    ) -> Tuple[List[Document], Sequence[Key]]:
        settings = self._settings
        # As many keys as should fit, by the size of the documents seen lately.
        most = int(settings.batch_bytes / self._sizes[index]) if index in self._sizes else FIRST_KEYS
        most = max(1, min(most, self._most.get(index, MOST_KEYS)))
        asked, rest = keys[:most], keys[most:]
        statement = self._statements[index].lookup
        try:
            rows = self._guarded(connection, statement, self._parameters(asked))
        except _Unrenderable as error:
            return self._bisect(connection, index, asked, error), rest
        except psycopg.errors.QueryCanceled:
            # The same statement would take too long again.
            self._most[index] = max(1, len(asked) // 2)
            raise
        if index in self._most and len(asked) == self._most[index]:
            self._most[index] = min(MOST_KEYS, 2 * self._most[index])
        documents: List[Document] = []
        later: List[Key] = []
        for ordinal, id, size, body in rows:
            if body is None and size is not None and size <= settings.max_document_bytes:
                later.append(asked[ordinal - 1])
            else:
                documents.append(self._document(str(id, "utf-8"), size, body))
        self._learn(index, documents)
        return documents, [*later, *rest] if later else rest

    def _parameters(self, keys: Sequence[Key]) -> List[Any]:
        columns = [array_literal(column) for column in zip(*keys)]
        return [*columns, self._settings.batch_bytes, self._settings.max_document_bytes]

    def _guarded(self, connection: "psycopg.Connection[Any]", statement: str, parameters: Sequence[Any]) -> List[Any]:
        """Run a build so that a row it cannot render leaves the transaction usable; that raises ``_Unrenderable``."""
        try:
            with connection.pipeline():
                connection.execute("SAVEPOINT build")
                cursor = connection.execute(statement, parameters, binary=True)
                connection.execute("RELEASE SAVEPOINT build")
                return cursor.fetchall()
        except psycopg.Error as error:
            if not _is_of_a_row(error):
                raise
            connection.execute("ROLLBACK TO SAVEPOINT build")
            raise _Unrenderable(error) from error

    def _bisect(
        self, connection: "psycopg.Connection[Any]", index: str, keys: Sequence[Key], error: _Unrenderable
    ) -> List[Document]:
        """Find the rows that cannot be rendered: they are rejected, their neighbours are built (faults C8)."""
        if len(keys) == 1:
            reason = f"the row cannot be rendered: {error.reason}"
            return [Document(self._id(connection, index, keys[0]), None, reason)]
        half = len(keys) // 2
        documents: List[Document] = []
        for part in (keys[:half], keys[half:]):
            left: Sequence[Key] = part
            while left:
                try:
                    rows = self._guarded(connection, self._statements[index].lookup, self._parameters(left))
                except _Unrenderable as deeper:
                    documents.extend(self._bisect(connection, index, left, deeper))
                    break
                later = []
                for ordinal, id, size, body in rows:
                    if body is None and size is not None and size <= self._settings.max_document_bytes:
                        later.append(left[ordinal - 1])
                    else:
                        documents.append(self._document(str(id, "utf-8"), size, body))
                left = later
        return documents

    def _id(self, connection: "psycopg.Connection[Any]", index: str, key: Key) -> str:
        cursor = connection.execute(self._statements[index].ids, [array_literal([part]) for part in key], binary=True)
        row = cursor.fetchone()
        if row is None:
            raise AssertionError("an id was asked for and not told")
        return str(row[0].decode())

    def keys_of(self, index: str, ids: Sequence[str]) -> Mapping[str, Any]:
        """Take ids apart and have Postgres make them again: only what comes back the same is a key."""
        with self.snapshot((), self._ending) as snapshot:
            return self._keys_in(snapshot.connection, index, ids)  # type: ignore[attr-defined]

    def _keys_in(self, connection: "psycopg.Connection[Any]", index: str, ids: Sequence[str]) -> Dict[str, Key]:
        bound = self._bound[index]
        if any(bound.root.columns[name].type.base == "timetz" for name in bound.lookup):
            # In ids it is moved to UTC, and what zone the key has is not known any more.
            asked = array_literal([id for id in ids if "\0" not in id])
            rows = self._guarded(connection, self._statements[index].by_id, [asked])
            return {str(row[0], "utf-8"): tuple(str(part, "utf-8") for part in row[1:]) for row in rows}
        return self._made_again(connection, index, self._keys_of(index, ids))

    def _keys_of(self, index: str, ids: Sequence[str]) -> List[Tuple[str, Key]]:
        """Each id with the key that it must come from, if from any.  Postgres knows no text with a NUL."""
        bound = self._bound[index]
        types = [bound.root.columns[name].type for name in bound.lookup]
        width = len(types)
        found: List[Tuple[str, Key]] = []
        for id in ids:
            parts = id_parts(id, width)
            if parts is not None:
                found.append((id, tuple(_as_input(text, type_) for text, type_ in zip(parts, types))))
        return found

    def _made_again(
        self, connection: "psycopg.Connection[Any]", index: str, keys: Sequence[Tuple[str, Key]]
    ) -> Dict[str, Key]:
        if not keys:
            return {}
        parameters = [array_literal(column) for column in zip(*(key for _, key in keys))]
        try:
            rows = self._guarded(connection, self._statements[index].ids, parameters)
        except _Unrenderable:
            if len(keys) == 1:
                return {}
            half = len(keys) // 2
            return {
                **self._made_again(connection, index, keys[:half]),
                **self._made_again(connection, index, keys[half:]),
            }
        return {id: key for (id, key), row in zip(keys, rows) if str(row[0], "utf-8") == id}

    def existing(self, index: str, ids: Sequence[str]) -> Set[str]:
        """As many at once as one statement may take; those that took too long are made fewer, as documents are."""
        left = list(ids)
        found: Set[str] = set()
        while left:
            asked = left[: self._most.get(index, len(left))]
            with self.snapshot((), self._ending) as snapshot:
                connection = snapshot.connection  # type: ignore[attr-defined]
                try:
                    found |= self._existing(connection, index, list(self._keys_in(connection, index, asked).items()))
                except psycopg.errors.QueryCanceled:
                    self._most[index] = max(1, len(asked) // 2)
                    raise
            left = left[len(asked) :]
        return found

    def _existing(self, connection: "psycopg.Connection[Any]", index: str, keys: Sequence[Tuple[str, Key]]) -> Set[str]:
        if not keys:
            return set()
        parameters = [array_literal(column) for column in zip(*(key for _, key in keys))]
        try:
            rows = self._guarded(connection, self._statements[index].existing, parameters)
        except _Unrenderable:
            if len(keys) == 1:
                return {keys[0][0]}
            half = len(keys) // 2
            return self._existing(connection, index, keys[:half]) | self._existing(connection, index, keys[half:])
        return {keys[row[0] - 1][0] for row in rows}

    def position(self) -> Optional[int]:
        """The end of the WAL as it is inserted: what is visible may not be flushed yet (synchronous_commit = off)."""
        try:
            row = self._connection().execute(_POSITION, binary=True).fetchone()
        except psycopg.Error as error:
            raise translate(error, "asking for the position") from error
        if row is None or row[0] is None:
            return None
        return before_page_header(parse_lsn(row[0].decode()))

    def advance(self) -> None:
        """Use up a transaction id; a standby cannot."""
        try:
            self._connection().execute(_ADVANCE)
        except psycopg.Error as error:
            raise translate(error, "using up a transaction id") from error

    def _document(self, id: str, size: Optional[int], body: Optional[bytes]) -> Document:
        if not id:
            return Document(id, None, "the id is empty")
        if len(id) * 4 > MOST_ID_BYTES and len(id.encode()) > MOST_ID_BYTES:
            return Document(id, None, f"the id is longer than {MOST_ID_BYTES} bytes")
        if body is None and size is not None:
            most = self._settings.max_document_bytes
            return Document(id, None, f"the document has {size} bytes, more than engine.max_document_bytes ({most})")
        return Document(id, body)

    def _learn(self, index: str, documents: Sequence[Document]) -> None:
        bodies = [len(document.body) for document in documents if document.body is not None]
        if bodies:
            mean = sum(bodies) / len(bodies) + 64
            self._sizes[index] = max(mean, (self._sizes.get(index, mean) + mean) / 2)

    # -- chunks -----------------------------------------------------------------------------------------------

    def estimate(self, index: str) -> Optional[int]:
        """Root rows by the planner's statistics; None when the table was never analysed."""
        try:
            row = self._connection().execute(self._statements[index].estimate).fetchone()
        except psycopg.Error as error:
            raise translate(error, "estimating the size of a table") from error
        return None if row is None or row[0] is None or int(row[0]) < 0 else int(row[0])

    def order(self, index: str) -> str:
        """The table and the columns, with types and collations, in whose order the marks of ``index`` are places; and a
        digest of all that its documents are made of, for what was built of other columns is not gone on with."""
        bound = self._bound[index]
        columns = [bound.root.columns[name] for name in bound.walk]
        kind = "leaves" if bound.root.kind == "p" else "rows"
        by = ", ".join(f"{identifier(c.name)} {c.type.sql} {c.collation or ''}".rstrip() for c in columns)
        return f"{kind} of {bound.root.oid} by {by}, shape {_digest(bound)}"

    def next_chunk(self, index: str, after: Any, until: Any, rows: int) -> Optional[Chunk]:
        """As many rows as should make ``CHUNK_BYTES`` of documents, by those seen lately, and no more than ``rows``.

        A mark is the key of the last row, as texts; before it stands the OID of the leaf, where the root has leaves.

        The keys are read in a snapshot like any other: "no more rows" must mean just that.
        """
        rows = max(1, min(rows, int(CHUNK_BYTES / self._sizes[index]) if index in self._sizes else FIRST_KEYS))
        if self._bound[index].root.kind != "p":
            return self._next_chunk(index, self._statements[index], (), after, until, rows)
        for leaf in self._leaves(index):
            number = str(leaf.oid)
            if after is not None and leaf.oid < int(after[0]):
                continue
            if until is not None and leaf.oid > int(until[0]):
                break
            lower = after[1:] if after is not None and after[0] == number else None
            upper = until[1:] if until is not None and until[0] == number else None
            chunk = self._next_chunk(index, self._leaf_statements(index, leaf), (number,), lower, upper, rows)
            if chunk is not None:
                return chunk
        return None

    def _leaves(self, index: str) -> List[Relation]:
        """The partitions of an index's root that hold rows, in the order in which a build walks them."""
        return sorted((leaf for leaf in self._bound[index].root.leaves if leaf.kind == "r"), key=lambda leaf: leaf.oid)

    def _leaf_statements(self, index: str, leaf: Relation) -> IndexStatements:
        """A table may have thousands of leaves, so their statements are made when they are needed, and not kept."""
        with self._lock:
            kept = self._of_leaf.get(index)
        if kept is None or kept[0] != leaf.oid:
            kept = (leaf.oid, compile_statements(self._bound[index], leaf))
            with self._lock:
                self._of_leaf[index] = kept
        return kept[1]

    def _next_chunk(
        self,
        index: str,
        statements: IndexStatements,
        leaf: Tuple[str, ...],
        after: Optional[Sequence[str]],
        until: Optional[Sequence[str]],
        rows: int,
    ) -> Optional[Chunk]:
        with self.snapshot((), self._ending) as snapshot:
            found = snapshot.chunk_rows(statements, after, until, rows)  # type: ignore[attr-defined]
        if not found:
            return None
        keys = [tuple(str(part, "utf-8") for part in row[3:]) for row in found]
        shown = [position for position, row in enumerate(found) if row[0]]
        count = found[-1][1]
        upper = tuple(until) if until is not None and count < rows else keys[-1]
        return Chunk(
            index,
            [str(found[position][2], "utf-8") for position in shown],
            _Place(statements, None if after is None else tuple(after), upper, [keys[position] for position in shown]),
            count,
            [*leaf, *upper],
        )

    def _build_chunk(self, connection: "psycopg.Connection[Any]", chunk: Chunk) -> Tuple[List[Document], Sequence[Key]]:
        place: _Place = chunk.place
        if not chunk.ids:
            return [], ()
        if chunk.index in self._most and self._most[chunk.index] < len(place.keys):
            return self._shown(self._build(connection, chunk.index, place.keys))
        budget = [self._settings.batch_bytes, self._settings.max_document_bytes]
        statement = place.statements.range_first if place.lower is None else place.statements.range_after
        bounds = [*(place.lower or ()), *place.upper]
        try:
            rows = self._guarded(connection, statement, [*bounds, *budget])
        except _Unrenderable:
            # One row cannot be rendered: by key, the others can.
            return self._shown(self._build(connection, chunk.index, place.keys))
        except psycopg.errors.QueryCanceled:
            self._most[chunk.index] = max(1, len(place.keys) // 2)
            raise
        documents = []
        later: List[Key] = []
        for row in rows:
            id, size, body = row[:3]
            if body is None and size <= self._settings.max_document_bytes:
                later.append(tuple(str(part, "utf-8") for part in row[3:]))
            else:
                documents.append(self._document(str(id, "utf-8"), size, body))
        self._learn(chunk.index, documents)
        return documents, later

    def _shown(self, built: Tuple[List[Document], Sequence[Key]]) -> Tuple[List[Document], Sequence[Key]]:
        """Of a chunk built by key: rows that are no documents any more are simply absent."""
        documents, rest = built
        return [document for document in documents if document.body is not None or document.error], rest


def _as_input(text: str, type_: Type) -> str:
    """A part of an id as Postgres reads it: years before Christ and beyond 9999 stand in ids in ISO form."""
    year = _FAR_YEAR.match(text) if type_.base in _DATES else None
    if year is None:
        return text
    rest = text[year.end() :]
    # In ISO form there is a year 0.
    return f"{year.group(2)}{rest}" if year.group(1) == "+" else f"{int(year.group(2)) + 1:04}{rest} BC"


def _called(plan: IndexPlan) -> Set[str]:
    """What its raw filters call by name."""
    return {name for _, item in raw_filters(plan) for name in called_names(item.sql)}


def _uses(bound: BoundIndex) -> Iterable[TableUse]:
    """The tables and columns that documents of the index are made of."""
    return table_uses([bound.plan], bound.catalog.primary_keys, bound.catalog.sources).values()


def _digest(bound: BoundIndex, newest_label: Optional[int] = None) -> str:
    """Everything of the catalog that decides what the documents of the index look like.

    Behind the digest stands the newest label of any ENUM: one later than ``newest_label`` was no row's value then, and
    is left out.
    """
    uses = list(_uses(bound))
    parts = list(shape_of(bound.catalog, uses).parameters)
    labels: Dict[int, str] = {}
    for use in uses:
        columns = bound.columns(use.table)
        named = sorted(columns if use.columns is None else use.columns)
        parts.append(f"{use.table} {bound.key_of(use.table)}")
        for name in named:
            column = columns[name]
            # Order and equality follow the collation; a generated column is not in the stream.
            parts.append(f"{name} {column.collation} {column.generated} {column.expression}")
            parts.extend(column.type.made_of)
            labels.update(column.type.labels)
    parts.append(f"{bound.lookup}")
    functions = bound.catalog.functions
    parts.extend(f"{name}() {functions[name]}" for name in sorted(_called(bound.plan).intersection(functions)))
    newest = max(labels, default=0) if newest_label is None else newest_label
    parts.extend(f"{number} {label}" for number, label in sorted(labels.items()) if number <= newest)
    digest = sha256("\0".join(parts).encode()).hexdigest()[:16]
    return f"{digest}:{newest}" if newest else digest


def _note(bound: BoundIndex) -> str:
    """What the record says of the index: its digest, then what was rewritten when."""
    digest, _, newest = _digest(bound).partition(":")
    return f"{digest}:{newest}:{','.join(_rewrites(bound))}"


def _rewrites(bound: BoundIndex) -> List[str]:
    """By table a mark of the files of its rows, and one that changes when a used column is altered.

    ``ALTER TABLE … ALTER … TYPE … USING`` may leave the type as it was and change all values, of which the stream tells
    nothing: it changes both.  VACUUM FULL, say, or a new partition changes the first alone, SET STATISTICS the second.
    """
    marks = []
    for use in sorted(_uses(bound), key=lambda use: use.table):
        relation = bound.catalog.tables[use.table]
        files = sorted((leaf.oid, leaf.file) for leaf in (relation, *relation.leaves))
        columns = bound.columns(use.table)
        altered = [columns[name].altered for name in sorted(columns if use.columns is None else use.columns)]
        marks.append("-".join(sha256(f"{part}".encode()).hexdigest()[:8] for part in (files, altered)))
    return marks


def _is_still(bound: BoundIndex, former: str) -> bool:
    """Whether documents made when the note was ``former`` are still as the index would make them."""
    digest, newest, rewrites = [*former.split(":"), "", ""][:3]
    if _digest(bound, int(newest) if newest.isdigit() else None) != (f"{digest}:{newest}" if newest else digest):
        return False
    # An earlier version noted no rewrites.
    return not any(
        all(one != other for one, other in zip(before.split("-"), now.split("-")))
        for before, now in zip(rewrites.split(",") if rewrites else (), _rewrites(bound))
    )


def try_index(connection: "psycopg.Connection[Any]", bound: BoundIndex) -> IndexStatements:
    """Compile the statements of ``bound`` and have Postgres judge them; raises ``ConfigError`` or ``SourceRefused``."""
    _check_rights(connection, bound)
    statements = compile_statements(bound)
    try_out(connection, bound, statements)
    return statements


def _check_rights(connection: "psycopg.Connection[Any]", bound: BoundIndex) -> None:
    """Raise ``SourceRefused`` with the GRANT when the role may not read a table: before a slot holds WAL for it."""
    by_oid = {bound.catalog.tables[table].oid: table for table in tables(bound.plan)}
    with psycopg.RawCursor(connection, row_factory=tuple_row) as cursor:
        denied = cursor.execute(
            "select o::int8, quote_ident(current_user) from unnest($1::oid[]) o"
            " where not has_table_privilege(o, 'SELECT')",
            (list(by_oid),),
        ).fetchall()
    if denied:
        tables_denied = sorted(by_oid[oid] for oid, _ in denied)
        role = denied[0][1]
        schemas = ", ".join(identifier(schema) for schema in sorted({table.schema for table in tables_denied}))
        names = ", ".join(table_name(table) for table in tables_denied)
        raise SourceRefused(
            f"index {bound.plan.name}: role {role} may not read {', '.join(map(str, tables_denied))}",
            hint=f"Run: GRANT USAGE ON SCHEMA {schemas} TO {role}; GRANT SELECT ON {names} TO {role}",
            code="FL030",
        )


def _path_name(statement: str) -> str:
    """A name for the path that ``statement`` walks; another schema file, or version of ours, makes another one."""
    return sha256(statement.encode()).hexdigest()[:16]


def _probe(lookup: Lookup) -> str:
    """The statement of ``lookup``, ending early where there is too much: repeats are left in, for to find them all rows
    would have to be read."""
    statement = lookup.statement.replace("select distinct ", "select ", 1)
    return f"{statement} limit ${len(lookup.parameters) + 1}::pg_catalog.int8"


def _leaf_oids(root: Relation) -> Set[int]:
    return {leaf.oid for leaf in root.leaves}


def _timed_out(error: SourceUnavailable) -> bool:
    return error.facts.get("sqlstate") == "57014"


class _PostgresSnapshot(Snapshot):
    """A snapshot in progress; see ``PostgresDocuments``, whose thread-bound connection it uses."""

    def __init__(
        self, documents: PostgresDocuments, connection: "psycopg.Connection[Any]", facts: SnapshotFacts
    ) -> None:
        self._documents = documents
        self.connection = connection
        self.version = facts.version

    def chunk_rows(
        self, statements: IndexStatements, lower: Optional[Sequence[str]], upper: Optional[Sequence[str]], rows: int
    ) -> List[Any]:
        """The next root rows after ``lower`` and up to ``upper``, as ``IndexStatements`` describes them."""
        if upper is None:
            statement = statements.chunk_first if lower is None else statements.chunk_after
        else:
            statement = statements.chunk_until if lower is None else statements.chunk_between
        parameters = [*(lower or ()), *(upper or ()), rows]
        try:
            return self._documents._guarded(self.connection, statement, parameters)
        except _Unrenderable:
            # A filter cannot judge one of the rows: all of them are built, and that one is found to be the one.
            unjudged = statement.replace(statements.shown, "true", 1)
            return self.connection.execute(unjudged, parameters, binary=True).fetchall()

    def resolve(self, runs: Sequence[ChangeRun]) -> Resolution:
        return self._documents._resolve(self.connection, runs)

    def build(self, index: str, keys: Sequence[Any]) -> Tuple[List[Document], Sequence[Any]]:
        return self._documents._build(self.connection, index, keys)

    def build_chunk(self, chunk: Chunk) -> Tuple[List[Document], Sequence[Any]]:
        return self._documents._build_chunk(self.connection, chunk)


def before_page_header(position: int) -> int:
    """``position``, or where its page starts when nothing but the page's header lies in between: so much may stand in
    the buffers while everything is flushed (design section 4)."""
    place = position % WAL_PAGE_BYTES
    return position - place if place in WAL_HEADER_BYTES else position


def waits_for(
    facts: SnapshotFacts, xids: Iterable[int], replayed: Optional[int], runs: Sequence[ChangeRun]
) -> Optional[str]:
    """What a snapshot lacks of the batch it is for, as a sentence; None when it sees everything.

    A commit reaches the stream before other sessions can see it (promise 3).  A standby lists no running
    transactions, so there the replayed position decides.
    """
    if replayed is not None:
        last = max((run.commit for run in runs if run.commit is not None), default=0)
        return "the standby has not replayed the batch yet" if replayed < last else None
    unseen = sorted(xid for xid in xids if not facts.sees(xid))
    if not unseen:
        return None
    return f"{len(unseen)} committed transaction(s) are not visible yet, the first is {unseen[0]}"

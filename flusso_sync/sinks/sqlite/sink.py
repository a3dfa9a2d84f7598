"""The SQLite sink: generations built beside the one that is read, and switched when they are complete.

A generation is a table, what readers use is a view, and both move in one transaction, together with what is said
about them.  One request is one transaction, durable when it returns.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from flusso_sync.engine.source import SourceIdentity
from flusso_sync.errors import FlussoError, IndexMissing, SinkError, SinkRefused, SinkUnavailable
from flusso_sync.findings import Finding, of_error
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import (
    Failure,
    FailureKind,
    Found,
    GenerationReport,
    IndexReport,
    RolledBack,
    Write,
)
from flusso_sync.sinks.hash import shape_hash
from flusso_sync.sinks.sqlite.batch import Batch
from flusso_sync.sinks.sqlite.file import File
from flusso_sync.sinks.sqlite.generations import State, Table, count, drop, show, state_of, tables_of
from flusso_sync.sinks.sqlite.meta import Quarantine, SqliteMeta, stored_state
from flusso_sync.sinks.sqlite.names import Names, quoted
from flusso_sync.sinks.sqlite.reader import Reader
from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.words import lacks
from flusso_sync.sinks.stateful import StatefulSink

log = logging.getLogger(__name__)

#: The version of a deleted document is remembered this long; no write of ours is late by so much.
TOMBSTONE_SECONDS = 24 * 3600

#: Ids longer than this, in bytes, are refused, as OpenSearch refuses them.
LONGEST_ID_BYTES = 512

#: Most rows that keeping watch removes at once: live writes wait for it.
_MOST_TOMBSTONES = 10_000


@dataclass
class _Index:
    """One logical index, as this run writes it; changed under the sink's lock alone."""

    plan: IndexPlan
    hash: str
    state: State
    read: Optional[Table] = None
    building: Optional[Table] = None
    #: The one being built was made by ``ensure`` and no build has claimed it.
    unclaimed: bool = False

    @property
    def name(self) -> str:
        return self.plan.name

    def targets(self, write: Write) -> List[Table]:
        """Where ``write`` goes: nowhere for one of a build that is over."""
        if not write.build:
            return [one for one in (self.read, self.building) if one is not None]
        building = self.building
        wanted = building is not None and write.generation in (None, building.number)
        return [building] if building is not None and wanted else []


class SqliteSink(StatefulSink):
    """See the protocol; whatever is written waits for its turn, whichever thread it comes from."""

    #: SQLite has one writer at a time.
    concurrency = 1
    max_actions = 1000
    max_bytes = 10 * 1024 * 1024

    def __init__(self, name: str, settings: SqliteSettings) -> None:
        self._settings = settings
        self._names = Names(settings.prefix)
        self._file = File(settings.path, name)
        self._meta = SqliteMeta(self._file, self._names)
        self._quarantine = Quarantine(self._file, self._names, settings.quarantine_limit)
        super().__init__(name, self._meta, self._quarantine, elsewhere="another file or another prefix")
        self._reader = Reader(self._file, self._meta, self._names, name)
        #: Held over a transaction and what is remembered of it here.
        self._lock = threading.RLock()
        self._indexes: Dict[str, _Index] = {}
        self._closed = False

    # -- opening --------------------------------------------------------------------------------------------

    def open(self, identity: SourceIdentity, *, adopt: bool = False) -> None:
        self._check_library()
        self._file.open([*self._meta.tables, *self._quarantine.tables])
        self._take_over(identity, adopt=adopt)

    def inspect(self, plans: Sequence[IndexPlan], identity: Optional[SourceIdentity]) -> List[Finding]:
        try:
            self._check_library()
            self._file.check()
            with self._file.reading() as connection:
                tables = {} if connection is None else tables_of(connection)
        except SinkUnavailable as error:
            return of_error(error)
        except FlussoError as error:
            return of_error(error, default="FL079")
        found: List[Finding] = []
        for plan in plans:
            try:
                self._refuse_taken_name(plan.name, tables)
            except SinkRefused as error:
                found += of_error(error, default="FL076")
        try:
            return found + self._inspect_owner(identity)
        except FlussoError as error:
            return found + of_error(error)

    def _check_library(self) -> None:
        if not self._settings.search:
            return
        memory = sqlite3.connect(":memory:")
        try:
            lacking = lacks(memory)
        finally:
            memory.close()
        if lacking is not None:
            raise SinkRefused(
                f"sink {self.name}: this Python's SQLite ({sqlite3.sqlite_version}) was built without {lacking}",
                hint="Use a Python with a fuller one, or set search: false",
            )

    # -- generations ----------------------------------------------------------------------------------------

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        self.renew()
        return [self._ensure(plan, skip_build) for plan in plans]

    def _ensure(self, plan: IndexPlan, skip_build: bool) -> IndexReport:
        with self._lock, self._file.change() as connection:
            self._lease.check()
            tables = tables_of(connection)
            self._refuse_taken_name(plan.name, tables)
            state = stored_state(self._meta, connection, plan.name)
            index = _Index(plan, shape_hash(plan, {"search": self._settings.search}), state)
            self._forget_gone(index, state, tables)
            fits = state.read is not None and state.hashes.get(state.read) == index.hash
            if state.read is not None and not fits:
                # Another schema: it is read on, and stands still, until the new one is complete.
                state.retire(self._position)
                state.seeded = False
            unfinished = state.building is not None and state.progress is not None
            if state.seeded or skip_build or not unfinished or state.hashes.get(state.building or 0) != index.hash:
                state.building = state.progress = None
            if not state.seeded and state.building is None:
                if not skip_build:
                    state.building, index.unclaimed = self._create(connection, index, state), True
                elif not fits:
                    # Readers get it at once because the user asked for it.
                    state.read = state.shown = self._create(connection, index, state)
            self._sweep(connection, state, tables)
            # Also where it stands already: a view that somebody dropped is back, one of an older release is new.
            show(connection, self._names, plan.name, state.shown)
            self._save(connection, state)
            self._reach(index)
        with self._lock:
            self._indexes[plan.name] = index
        current = state.read or state.building
        return IndexReport(
            plan.name,
            state.seeded,
            current or 0,
            readable=state.shown is not None,
            progress=state.progress,
        )

    def begin_build(self, index: str) -> int:
        with self._lock:
            one = self._index(index)
            if one.building is not None and one.unclaimed:
                one.unclaimed = False
                return one.building.number
            self._lease.check()
            with self._changed(one) as (connection, state):
                self._begin(connection, one, state)
            one.unclaimed = False
            return _number(one.building)

    def _begin(self, connection: sqlite3.Connection, index: _Index, state: State) -> None:
        tables = tables_of(connection)
        self._forget_gone(index, state, tables)
        state.seeded, state.progress = False, None
        state.building = self._create(connection, index, state)
        self._sweep(connection, state, tables)
        show(connection, self._names, index.name, state.shown)

    def resume_build(self, index: str) -> int:
        with self._lock:
            one = self._index(index)
            if one.building is None or one.state.progress is None:
                raise SinkRefused(f"sink {self.name} keeps no unfinished build of index {index}", index=index)
            one.state.progress = None
            return one.building.number

    def save_progress(self, index: str, progress: Mapping[str, Any]) -> None:
        self._lease.check()
        with self._lock:
            building = self._index(index).building
            if building is None:
                return
            document = {"index": index, "generation": building.number, "progress": progress}
            with self._file.change() as connection:
                self._meta.write_in(connection, _build_id(index), document)

    def complete_build(self, index: str) -> None:
        with self._lock:
            one = self._index(index)
            built = one.building
            if built is None:
                return
            self._lease.check()
            with self._changed(one) as (connection, state):
                if not built.is_whole(set(tables_of(connection))):
                    raise IndexMissing(f"table {built.name} vanished while it was built", index=index)
                state.retire(self._position)
                state.read = state.shown = built.number
                state.building = state.progress = None
                state.seeded = True
                state.kept = state.kept[: max(0, self._settings.keep_generations.get(index, 0))]
                show(connection, self._names, index, built.number)
        log.info("sink %s: index %s is complete in %s", self.name, index, built.name, extra={"index": index})
        # By itself: what is large takes its time to go, and readers need not wait for it.
        with self._file.change() as connection:
            self._sweep(connection, one.state, tables_of(connection))

    def rollback(self, index: str) -> RolledBack:
        with self._lock:
            one = self._index(index)
            self._lease.check()
            with self._changed(one) as (connection, state):
                self._forget_gone(one, state, tables_of(connection))
                older = max((number for number in state.kept if number < (state.shown or 0)), default=None)
                if older is None:
                    raise SinkRefused(
                        f"sink {self.name} keeps no former generation of index {index}",
                        hint="index[].keep_generations says how many are kept",
                        index=index,
                    )
                state.retire(self._position)
                state.show_former(older)
                self._begin(connection, one, state)
            one.unclaimed = False
            return RolledBack(older, _number(one.building))

    def generations(self) -> Mapping[str, Sequence[GenerationReport]]:
        with self._file.reading() as connection:
            if connection is None:
                return {}
            states = [state_of(source) for _, source in self._meta.every_in(connection, "index")]
            return {state.index: self._reports(connection, state) for state in states}

    def _reports(self, connection: sqlite3.Connection, state: State) -> List[GenerationReport]:
        reports: List[GenerationReport] = []
        tables = tables_of(connection)
        for number in sorted(state.wanted, reverse=True):
            name = self._names.documents(state.index, number)
            if number == state.read:
                says = "read"
            elif number == state.building:
                says = "building"
            else:
                says = "rolled back to" if number == state.shown else "kept"
            held = count(connection, self._names, state.index, number) if name in tables else None
            reports.append(GenerationReport(number, says, name, held, state.frozen.get(number)))
        return reports

    def _refuse_taken_name(self, index: str, tables: Mapping[str, str]) -> None:
        view = self._names.view(index)
        if tables.get(view) == "table":
            raise SinkRefused(
                f"index {index}: the file holds a table {view} that is not ours",
                hint="Rename or drop it, or set a prefix",
                index=index,
            )

    def _forget_gone(self, index: _Index, state: State, tables: Mapping[str, str]) -> None:
        """Let go of generations whose tables somebody dropped."""
        gone: Set[int] = set()
        for number in state.wanted:
            ours = state.hashes.get(number) == index.hash
            table = Table(self._names, index.plan, number, search=ours and self._settings.search)
            if not table.is_whole(set(tables)):
                gone.add(number)
                log.warning(
                    "sink %s: table %s is gone or not whole any more",
                    self.name,
                    table.name,
                    extra={"index": index.name},
                )
        state.forget(gone)

    def _create(self, connection: sqlite3.Connection, index: _Index, state: State) -> int:
        """Make the next generation; returns its number."""
        there = [self._names.parse(index.name, table) or 0 for table in tables_of(connection)]
        state.last = max([state.last, *there]) + 1
        state.hashes[state.last] = index.hash
        self._table(index, state.last).create(connection)
        return state.last

    def _sweep(self, connection: sqlite3.Connection, state: State, tables: Mapping[str, str]) -> None:
        """Drop what is no longer needed of the tables that are there."""
        for table in tables:
            number = self._names.parse(state.index, table)
            if number is not None and number not in state.wanted:
                log.info(
                    "sink %s: table %s is no longer needed and is dropped",
                    self.name,
                    table,
                    extra={"index": state.index},
                )
                drop(connection, self._names, state.index, number)

    def _save(self, connection: sqlite3.Connection, state: State) -> None:
        state.trim()
        self._meta.write_in(connection, _document_id(state.index), state.document())
        if state.progress is None:
            self._meta.delete_in(connection, _build_id(state.index))

    @contextlib.contextmanager
    def _changed(self, index: _Index) -> Iterator[Tuple[sqlite3.Connection, State]]:
        """A transaction over a copy of the index's state, which counts once it is stored; under the lock."""
        state = copy.deepcopy(index.state)
        with self._file.change() as connection:
            yield connection, state
            self._save(connection, state)
        index.state = state
        self._reach(index)

    def _reach(self, index: _Index) -> None:
        """Let writes go where the state says."""
        state = index.state
        index.read = None if state.read is None else self._table(index, state.read)
        index.building = None if state.building is None else self._table(index, state.building)

    def _table(self, index: _Index, number: int) -> Table:
        return Table(self._names, index.plan, number, search=self._settings.search)

    # -- writing --------------------------------------------------------------------------------------------

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        """Whatever is written is found at once, with or without ``refresh``."""
        self._lease.check()
        failures: List[Failure] = []
        now = int(time.time())
        with self._lock:
            batches: Dict[str, Batch] = {}
            for position, write in enumerate(writes):
                targets = self._index(write.index).targets(write)
                if not targets and not write.build:
                    raise IndexMissing(f"index {write.index} has no generation to write to", index=write.index)
                id, body = write.id, write.body
                if not id or len(id) * 4 > LONGEST_ID_BYTES and len(id.encode("utf-8", "replace")) > LONGEST_ID_BYTES:
                    reason = f"its id is empty or longer than {LONGEST_ID_BYTES} bytes"
                    failures.append(Failure(position, FailureKind.REJECTED, reason, 400))
                    continue
                for table in targets:
                    batch = batches.get(table.name)
                    if batch is None:
                        batch = batches[table.name] = Batch(table)
                    batch.positions.append(position)
                    batch.rows.append((id, write.version, body, now if body is None else None))
            if not batches:
                return failures
            with self._file.change() as connection:
                for batch in batches.values():
                    failures.extend(batch.put(connection))
        # A write that failed in two generations failed once.
        return list({failure.position: failure for failure in failures}.values())

    def refresh(self, indexes: Sequence[str]) -> None:
        """Whatever is written is found at once."""

    # -- keeping watch ----------------------------------------------------------------------------------------

    def watch(self) -> List[str]:
        lost: List[str] = []
        with self._lock, self._file.change() as connection:
            tables = tables_of(connection)
            for index in self._indexes.values():
                if not self._is_whole(index, set(tables)):
                    lost.append(index.name)
                    continue
                if index.state.shown is not None and self._names.view(index.name) not in tables:
                    log.warning(
                        "sink %s: the view of index %s was gone and is put back",
                        self.name,
                        index.name,
                        extra={"index": index.name},
                    )
                    show(connection, self._names, index.name, index.state.shown)
                self._forget_deleted(connection, index)
        return lost

    def _is_whole(self, index: _Index, tables: Set[str]) -> bool:
        shown = index.state.shown
        if shown is not None and self._names.documents(index.name, shown) not in tables:
            return False
        held = [one for one in (index.read, index.building) if one is not None]
        return bool(held) and all(one.is_whole(tables) for one in held)

    def _forget_deleted(self, connection: sqlite3.Connection, index: _Index) -> None:
        """Remove what has been remembered of deleted documents for long enough."""
        if index.building is not None or index.read is None:
            return
        table = quoted(index.read.name)
        connection.execute(
            f"DELETE FROM {table} WHERE number IN"
            f" (SELECT number FROM {table} WHERE body IS NULL AND gone_at < ? LIMIT {_MOST_TOMBSTONES})",
            (int(time.time()) - TOMBSTONE_SECONDS,),
        )

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._give_back()
        self._file.close()

    # -- reading ----------------------------------------------------------------------------------------------

    def get(self, index: str, id: str) -> Optional[bytes]:
        return self._reader.get(index, id)

    def count(self, index: str) -> int:
        return self._reader.count(index)

    def search(self, index: str, words: str, limit: int = 10) -> List[Tuple[str, Any]]:
        return self._reader.search(index, words, limit)

    def scan(self, index: str) -> Iterator[Tuple[str, Any]]:
        return self._reader.scan(index)

    def get_many(self, index: str, ids: Sequence[str]) -> Dict[str, Found]:
        return self._reader.get_many(index, ids)

    # -- small things -------------------------------------------------------------------------------------------

    def _index(self, name: str) -> _Index:
        try:
            return self._indexes[name]
        except KeyError:
            raise SinkError(f"sink {self.name}: index {name} is written to before it was ensured", index=name) from None


def _document_id(index: str) -> str:
    return f"index:{index}"


def _build_id(index: str) -> str:
    return f"build:{index}"


def _number(table: Optional[Table]) -> int:
    return 0 if table is None else table.number

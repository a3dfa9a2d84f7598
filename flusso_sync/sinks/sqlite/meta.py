"""The meta store in SQLite (see ``sinks/meta.py``): two tables in the same file, so it cannot be lost by itself.

Documents: ``owner`` (with the lease), ``record``, ``index:L`` per logical index, ``build:L`` per unfinished build,
``mailbox`` for requests, ``job:…`` per change that is worked off by itself.  The quarantine has a table of its own.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from flusso_sync.errors import DocumentRejected
from flusso_sync.sinks.base import Parked, Rejected, park, quarantine_full
from flusso_sync.sinks.meta import Json, MetaConflict, MetaMissing, Stored
from flusso_sync.sinks.sqlite.file import File
from flusso_sync.sinks.sqlite.generations import State, state_of
from flusso_sync.sinks.sqlite.names import Names, quoted


class SqliteMeta:
    """Reads and writes documents; those with a connection are part of the caller's transaction."""

    def __init__(self, file: File, names: Names) -> None:
        self._file = file
        self._table = quoted(names.meta)
        #: To be created with the file.
        self.tables = (
            f"CREATE TABLE IF NOT EXISTS {self._table}"
            " (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, document TEXT NOT NULL) WITHOUT ROWID",
        )

    def read(self, id: str) -> Optional[Stored]:
        with self._file.reading() as connection:
            return None if connection is None else self.read_in(connection, id)

    def write(self, id: str, source: Json, *, after: Optional[Stored] = None, create: bool = False) -> Stored:
        with self._file.visit() as connection:
            if connection is None:
                raise MetaMissing(self._file.path)
            found = self.read_in(connection, id)
            there = None if found is None else found.revision
            if (create and there is not None) or (after is not None and there != after.revision):
                raise MetaConflict(id)
            revision = 1 if found is None else found.revision[0] + 1
            self._put(connection, id, source, revision)
        return Stored(source, (revision,))

    def delete(self, id: str) -> None:
        with self._file.change() as connection:
            self.delete_in(connection, id)

    def every(self, kind: str) -> Iterator[Tuple[str, Json]]:
        with self._file.reading() as connection:
            return iter([] if connection is None else self.every_in(connection, kind))

    def read_in(self, connection: sqlite3.Connection, id: str) -> Optional[Stored]:
        row = connection.execute(f"SELECT document, revision FROM {self._table} WHERE id = ?", (id,)).fetchone()
        return None if row is None else Stored(json.loads(row[0]), (row[1],))

    def write_in(self, connection: sqlite3.Connection, id: str, source: Json) -> None:
        """Replace what is there, whatever that is."""
        found = self.read_in(connection, id)
        self._put(connection, id, source, 1 if found is None else found.revision[0] + 1)

    def delete_in(self, connection: sqlite3.Connection, id: str) -> None:
        connection.execute(f"DELETE FROM {self._table} WHERE id = ?", (id,))

    def every_in(self, connection: sqlite3.Connection, kind: str) -> List[Tuple[str, Json]]:
        """Id and document of all of a kind, by id."""
        query = f"SELECT id, document FROM {self._table} WHERE substr(id, 1, ?) = ? ORDER BY id"
        start = f"{kind}:"
        return [(id, json.loads(document)) for id, document in connection.execute(query, (len(start), start))]

    def _put(self, connection: sqlite3.Connection, id: str, source: Json, revision: int) -> None:
        connection.execute(
            f"INSERT OR REPLACE INTO {self._table} (id, revision, document) VALUES (?, ?, ?)",
            (id, revision, json.dumps(source)),
        )


def stored_state(meta: SqliteMeta, connection: sqlite3.Connection, index: str) -> State:
    """What stands there of an index, with the progress of its build."""
    stored = meta.read_in(connection, f"index:{index}")
    if stored is None:
        return State(index)
    build = meta.read_in(connection, f"build:{index}")
    return state_of(stored.source, None if build is None else build.source)


class Quarantine:
    """Rejected documents: what they were, why they were refused, and nothing of their content."""

    def __init__(self, file: File, names: Names, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._table = quoted(names.parked)
        self.tables = (
            f"CREATE TABLE IF NOT EXISTS {self._table} (index_name TEXT NOT NULL, id TEXT NOT NULL,"
            " reason TEXT NOT NULL, lsn TEXT NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL,"
            " tries INTEGER NOT NULL, deletes INTEGER NOT NULL, PRIMARY KEY (index_name, id)) WITHOUT ROWID",
        )

    def park(self, documents: Sequence[Rejected]) -> None:
        """Store ``documents``; where an index's place is full, raises ``DocumentRejected`` once the rest is stored."""
        full: Optional[DocumentRejected] = None
        with self._file.change() as connection:
            for document in documents:
                where = "index_name = ? AND id = ?"
                before = next(self._select(connection, where, (document.index, document.id)), None)
                if before is None and self._is_full(connection, document.index):
                    full = full or quarantine_full(self._limit, document)
                    continue
                one = park(before, document)
                connection.execute(
                    f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (one.index, one.id, one.reason, str(one.lsn), one.first, one.last, one.tries, int(one.delete)),
                )
        if full is not None:
            raise full

    def _is_full(self, connection: sqlite3.Connection, index: str) -> bool:
        (count,) = connection.execute(f"SELECT count(*) FROM {self._table} WHERE index_name = ?", (index,)).fetchone()
        return bool(count >= self._limit)

    def release(self, index: str, ids: Sequence[str]) -> None:
        if ids:
            with self._file.change() as connection:
                query = f"DELETE FROM {self._table} WHERE index_name = ? AND id = ?"
                connection.executemany(query, [(index, id) for id in ids])

    def ids(self) -> Dict[str, List[str]]:
        found: Dict[str, List[str]] = {}
        for entry in self.entries():
            found.setdefault(entry.index, []).append(entry.id)
        return found

    def entries(self, index: Optional[str] = None) -> Iterator[Parked]:
        """Everything parked, as of now."""
        with self._file.reading() as connection:
            if connection is not None:
                yield from self._select(connection, "? IN ('', index_name)", (index or "",))

    def _select(self, connection: sqlite3.Connection, where: str, values: Sequence[str]) -> Iterator[Parked]:
        query = (
            "SELECT index_name, id, reason, lsn, first, last, tries, deletes"
            f" FROM {self._table} WHERE {where} ORDER BY index_name, id"
        )
        for name, id, reason, lsn, first, last, tries, deletes in connection.execute(query, values):
            yield Parked(name, id, reason, int(lsn), first, last, tries, bool(deletes))

"""Documents as readers find them: for people, tests and the verifier; needs neither lease nor anything ensured."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from flusso_sync.errors import SinkRefused
from flusso_sync.sinks.base import Found, exact
from flusso_sync.sinks.sqlite.file import File
from flusso_sync.sinks.sqlite.generations import count, tables_of
from flusso_sync.sinks.sqlite.meta import SqliteMeta, stored_state
from flusso_sync.sinks.sqlite.names import Names, quoted
from flusso_sync.sinks.sqlite.words import query_of


class Reader:
    """Each question sees one state of the file, whoever writes meanwhile."""

    def __init__(self, file: File, meta: SqliteMeta, names: Names, sink: str) -> None:
        self._file = file
        self._meta = meta
        self._names = names
        self._sink = sink

    def get(self, index: str, id: str) -> Optional[bytes]:
        """The document as it was written; None when there is none."""
        with self._file.reading() as connection:
            if connection is None or not self._is_shown(connection, index):
                return None
            query = f"SELECT CAST(body AS BLOB) FROM {quoted(self._names.view(index))} WHERE id = ?"
            row = connection.execute(query, (id,)).fetchone()
            return None if row is None else bytes(row[0])

    def count(self, index: str) -> int:
        with self._file.reading() as connection:
            if connection is None or not self._is_shown(connection, index):
                return 0
            shown = stored_state(self._meta, connection, index).shown
            return 0 if shown is None else count(connection, self._names, index, shown)

    def search(self, index: str, words: str, limit: int = 10) -> List[Tuple[str, Any]]:
        """The best matches for plain words over all fields that hold words: (id, document).

        Raises ``SinkRefused`` where no full-text index is kept.
        """
        query = query_of(words)
        with self._file.reading() as connection:
            if connection is None or not self._is_shown(connection, index):
                return []
            shown = stored_state(self._meta, connection, index).shown or 0
            text, table = self._names.words(index, shown), quoted(self._names.documents(index, shown))
            if text not in tables_of(connection):
                raise SinkRefused(
                    f"sink {self._sink} keeps no full-text index of {index}",
                    hint="Set search: true, and wait until the index is built anew",
                    index=index,
                )
            if not query:
                return []
            found = connection.execute(
                f"SELECT d.id, d.body FROM {quoted(text)} w JOIN {table} d ON d.number = w.rowid"
                f" WHERE w.{quoted(text)} MATCH ? ORDER BY w.rank, w.rowid LIMIT ?",
                (query, limit),
            )
            return [(id, exact(body)) for id, body in found]

    def scan(self, index: str) -> Iterator[Tuple[str, Any]]:
        """Every document that is read, as of now: (id, document), numbers with all their digits."""
        with self._file.reading() as connection:
            if connection is not None and self._is_shown(connection, index):
                for id, body in connection.execute(f"SELECT id, body FROM {quoted(self._names.view(index))}"):
                    yield id, exact(body)

    def get_many(self, index: str, ids: Sequence[str]) -> Dict[str, Found]:
        with self._file.reading() as connection:
            if connection is None or not self._is_shown(connection, index):
                raise SinkRefused(
                    f"readers find no index {index} in sink {self._sink}",
                    hint="It is there once its first build is complete",
                    index=index,
                )
            table = quoted(self._names.documents(index, stored_state(self._meta, connection, index).shown or 0))
            query = f"SELECT id, body, version FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
            rows = connection.execute(f"{query} AND body IS NOT NULL", (json.dumps(list(ids)),))
            return {id: Found(exact(body), version) for id, body, version in rows}

    def _is_shown(self, connection: sqlite3.Connection, index: str) -> bool:
        """Whether readers find a generation; not while somebody has deleted it by hand."""
        tables = tables_of(connection)
        shown = stored_state(self._meta, connection, index).shown
        return (
            shown is not None
            and self._names.documents(index, shown) in tables
            and tables.get(self._names.view(index)) == "view"
        )

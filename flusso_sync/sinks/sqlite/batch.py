"""What one request puts into one generation: all of it at once, or what can be."""

from __future__ import annotations

import json
import sqlite3
from typing import List, Optional, Sequence, Tuple

from flusso_sync.sinks.base import Failure, FailureKind
from flusso_sync.sinks.sqlite.generations import Table

#: What a row of a generation is put from: id, version, body, when it was deleted.
Row = Tuple[str, int, Optional[bytes], Optional[int]]


class Batch:
    """What goes to one generation within one request."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows: List[Row] = []
        #: Of each row, in the request.
        self.positions: List[int] = []

    def put(self, connection: sqlite3.Connection) -> List[Failure]:
        """Put all rows that may be put; the others are named."""
        if self._try(connection, self.rows) is None:
            return []
        # Seldom: some are older than what is there, or cannot be read.  Which ones shows one by one.
        failures: List[Failure] = []
        for position, row in zip(self.positions, self.rows):
            failure = self._try(connection, [row])
            if failure is not None:
                failures.append(failure._replace(position=position))
        return failures

    def _try(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> Optional[Failure]:
        """Put all of ``rows`` or none; why not, then."""
        connection.execute("SAVEPOINT batch")
        failure: Optional[Failure] = None
        try:
            if self._all(connection, rows) < len(rows):
                failure = Failure(0, FailureKind.CONFLICT, "a newer version is there", 409)
        except sqlite3.OperationalError as error:
            if "malformed JSON" not in str(error):
                raise
            reason = "SQLite cannot read it: its JSON is nested too deeply"
            failure = Failure(0, FailureKind.REJECTED, reason, 400)
        if failure is not None:
            connection.execute("ROLLBACK TO batch")
        connection.execute("RELEASE batch")
        return failure

    def _all(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
        """Put ``rows``; returns how many were new enough."""
        table = self.table
        if table.forget is None or table.remember is None:
            return connection.executemany(table.put, rows).rowcount
        ids = json.dumps([row[0] for row in rows])
        connection.execute(table.forget, (ids,))
        put = connection.executemany(table.put, rows).rowcount
        connection.execute(table.remember, (ids,))
        return put

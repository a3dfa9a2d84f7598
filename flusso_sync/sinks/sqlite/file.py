"""The database file: opened, recognised as ours, written one transaction at a time, read by anybody.

One connection writes, under a lock, whoever asks; each read has a read-only connection and a snapshot of its own, so
that neither waits for the other (https://www.sqlite.org/wal.html).  Here alone sqlite3's errors become ours.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from typing import Iterator, Optional, Sequence, Tuple, Type
from urllib.parse import quote

from flusso_sync.errors import (
    FlussoError,
    IndexMissing,
    PayloadTooLarge,
    SinkBlocked,
    SinkError,
    SinkRefused,
    SinkUnavailable,
)

#: ``flus``: what tells a file of ours from anybody else's (https://www.sqlite.org/fileformat.html#application_id).
APPLICATION_ID = 0x666C7573

#: Version of the layout of the tables that are ours.
LAYOUT = 1

#: How long somebody else's transaction is waited for in place; then the caller hears of it.
BUSY_SECONDS = 5.0

#: A write-ahead log that a long read made grow is cut back to this.
WAL_BYTES = 64 * 1024 * 1024

#: Page cache of the connection that writes.
CACHE_BYTES = 16 * 1024 * 1024

#: Somebody else is at it.
_BUSY = ("locked", "locking protocol")

#: Errors of a file that may be well again; the connection is made anew.
_PASSING = ("disk I/O error", "unable to open database file", "attempt to write a readonly database")


class File:
    """One database file, seen from one sink; every method may be called by any thread."""

    def __init__(self, path: str, sink: str) -> None:
        self.path = path
        self._sink = sink
        #: Held while something is written; reentrant, so that several writes may be made one.
        self.lock = threading.RLock()
        self._connection: Optional[sqlite3.Connection] = None
        self._identity: Optional[Tuple[int, int]] = None

    # -- opening ------------------------------------------------------------------------------------------

    def open(self, tables: Sequence[str]) -> None:
        """Create the file where it is missing, and ``tables`` (DDL) in it; safe to repeat.

        Raises ``SinkRefused`` for a file that is not ours or cannot be written, ``SinkUnavailable`` for one that is
        in use or for which there is no room.
        """
        self._check_place()
        with self.lock:
            self._drop_connection()
            try:
                self._connection = self._prepare(tables)
                self._identity = self._identity_now()
            except sqlite3.Error as error:
                if _says(error, *_BUSY, "disk is full", "disk I/O error"):
                    raise self._translated(error) from error
                raise self._refused(
                    f"cannot be used: {error}", "See whether it is a SQLite database, and whether we may write there"
                ) from error

    def check(self) -> None:
        """What ``open`` would refuse, as far as it can be told without making or changing anything."""
        folder = self._check_place()
        for path in (folder, self.path):
            if os.path.exists(path) and not os.access(path, os.W_OK):
                raise self._refused("cannot be used: unable to write", f"Give this user the right to write to {path}")
        with self.reading():
            pass

    def _check_place(self) -> str:
        """Returns the folder of the file."""
        folder = os.path.dirname(os.path.abspath(self.path))
        if os.path.isdir(self.path):
            raise self._refused("is a folder, and should be a file")
        if not os.path.isdir(folder):
            raise self._refused("cannot be made: its folder does not exist", f"Create {folder}")
        return folder

    def _prepare(self, tables: Sequence[str]) -> sqlite3.Connection:
        connection = self._connect("rwc")
        try:
            self._check_ours(connection)
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise self._refused(
                    "cannot keep a write-ahead log, without which nobody could read while we write",
                    "Put it on a local disk",
                )
            connection.execute("BEGIN IMMEDIATE")
            # Somebody may have been faster than the first look.
            self._check_ours(connection)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {LAYOUT}")
            for table in tables:
                connection.execute(table)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        """A connection without sqlite3's own transactions; ``mode`` as in URIs of SQLite."""
        connection = sqlite3.connect(
            f"file:{quote(os.path.abspath(self.path))}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            connection.execute(f"PRAGMA cache_size = -{CACHE_BYTES // 1024}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_ours(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is ours (else it is empty); refuses anybody else's."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if application == APPLICATION_ID:
            if layout > LAYOUT:
                raise self._refused("was written by a newer flusso-sync", "Use that one, or name another file")
            return True
        (held,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application or layout or held:
            raise self._refused("is a database of another program", "Name another file")
        return False

    # -- writing ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, durable when the block has ended; undone whole by whatever escapes from it.

        Raises ``SinkUnavailable`` (in doubt only where the disk failed), ``IndexMissing`` when a table or the file
        itself is gone, ``PayloadTooLarge`` for a value beyond SQLite's limit.
        """
        with self.lock:
            try:
                connection = self._connected()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    self._undo(connection)
                    raise
            except sqlite3.Error as error:
                if _says(error, *_PASSING):
                    self._drop_connection()
                raise self._translated(error) from error

    def _connected(self) -> sqlite3.Connection:
        if self._identity is None:
            raise SinkUnavailable(f"sink {self._sink}: {self.path} is not open", in_doubt=False)
        if self._identity_now() != self._identity:
            # What is written to a file without a name is found by nobody.
            raise IndexMissing(
                f"sink {self._sink}: {self.path} was deleted or replaced while we run",
                hint="What it should hold is built again",
            )
        if self._connection is None:
            self._connection = self._connect("rw")
        return self._connection

    def _undo(self, connection: sqlite3.Connection) -> None:
        # Some errors end the transaction by themselves.
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error:
                # Closing undoes it, too.
                self._drop_connection()

    def _identity_now(self) -> Optional[Tuple[int, int]]:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SinkUnavailable(f"sink {self._sink}: {self.path}: {error.strerror}", in_doubt=False) from error
        return found.st_dev, found.st_ino

    # -- for those who hold no lease ------------------------------------------------------------------------

    @contextlib.contextmanager
    def visit(self) -> Iterator[Optional[sqlite3.Connection]]:
        """A transaction in a file that somebody else keeps open, or nobody; None where there is none of ours."""
        if self._identity is not None:
            with self.change() as connection:
                yield connection
            return
        with self._visitor("rw", "BEGIN IMMEDIATE") as found:
            yield found
            if found is not None:
                found.execute("COMMIT")

    @contextlib.contextmanager
    def reading(self) -> Iterator[Optional[sqlite3.Connection]]:
        """A read-only connection and one snapshot of the file; None where there is none of ours."""
        with self._visitor("ro", "BEGIN") as found:
            yield found

    @contextlib.contextmanager
    def _visitor(self, mode: str, begin: str) -> Iterator[Optional[sqlite3.Connection]]:
        if not os.path.exists(self.path):
            yield None
            return
        try:
            with contextlib.closing(self._connect(mode)) as connection:
                connection.execute(begin)
                yield connection if self._check_ours(connection) else None
        except sqlite3.Error as error:
            if _says(error, "not a database", "unable to open", "readonly"):
                raise self._refused(f"cannot be read: {error}") from error
            raise self._translated(error) from error

    def close(self) -> None:
        """Safe to call twice."""
        with self.lock:
            self._identity = None
            self._drop_connection()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- errors -------------------------------------------------------------------------------------------

    def _refused(self, what: str, hint: Optional[str] = None) -> SinkRefused:
        return SinkRefused(f"sink {self._sink}: {self.path} {what}", hint=hint)

    def _translated(self, error: sqlite3.Error) -> FlussoError:
        """By its message: Pythons before 3.11 do not tell the code (https://www.sqlite.org/rescode.html)."""
        where = f"sink {self._sink}: {self.path}"
        text = str(error)
        if _says(error, "disk is full"):
            return SinkBlocked(f"{where}: there is no room left", hint="Free some; what waits is then written")
        if _says(error, *_BUSY):
            return SinkUnavailable(
                f"{where}: another process has been writing for {BUSY_SECONDS:g} seconds", in_doubt=False
            )
        if _says(error, "no such table"):
            return IndexMissing(f"{where}: {text}", hint="It is built again")
        if _says(error, "too big"):
            return PayloadTooLarge(f"{where}: {text}")
        if _says(error, *_PASSING):
            return SinkUnavailable(f"{where}: {text}", hint="See the disk and the rights of the file")
        kind: Type[SinkError] = SinkError if isinstance(error, sqlite3.ProgrammingError) else SinkRefused
        return kind(f"{where}: {text}", hint="A damaged file can be deleted; it is built again")


def _says(error: sqlite3.Error, *texts: str) -> bool:
    return any(text in str(error) for text in texts)

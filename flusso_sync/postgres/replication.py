"""The replication protocol on libpq: START_REPLICATION, copy data in, feedback out.

psycopg has no replication API (psycopg#71), so this module drives COPY BOTH on ``psycopg.pq`` itself.  Message
formats: PostgreSQL manual, "Streaming Replication Protocol".  One thread owns a stream.
"""

from __future__ import annotations

import contextlib
import select
import struct
import time
from typing import Any, List, NamedTuple, Tuple, Union

import psycopg
from psycopg import pq

from flusso_sync.errors import (
    PublicationMissing,
    SlotInUse,
    SlotLost,
    SlotMissing,
    SourceChanged,
    SourceError,
    SourceUnavailable,
)
from flusso_sync.postgres.connection import SourceAccess, connect, translate
from flusso_sync.postgres.quoting import identifier

#: Postgres counts microseconds from 2000-01-01 UTC.
POSTGRES_EPOCH_SECONDS = 946_684_800

#: Under TLS a message may be here already although the socket is silent, so nobody waits longer than this.
TLS_WAIT_SECONDS = 0.05

#: A command of the replication protocol is answered at once, except that a slot in use may be waited for a little.
ANSWER_SECONDS = 30.0

#: Of a message with data: its kind, the start and the end of the WAL it tells of, and when it was sent.
DATA_HEAD_BYTES = 1 + 8 + 8 + 8

_keepalive = struct.Struct(">QqB").unpack_from
_feedback = struct.Struct(">cQQQqB").pack


class Keepalive(NamedTuple):
    """The server has sent everything up to ``end``; it wants an answer at once if ``reply``."""

    end: int
    reply: bool


def format_lsn(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def timeline_history(connection: "psycopg.Connection[Any]", timeline: int) -> str:
    """The text of a timeline's history file, empty where there is none; ``connection`` is one of replication."""
    try:
        row = connection.execute(b"TIMELINE_HISTORY %d" % timeline).fetchone()
    except psycopg.errors.UndefinedFile:
        # The first one has none, and somebody may have removed another's.
        return ""
    except psycopg.Error as error:
        raise translate(error, "reading the history of the timeline") from error
    # A text, or in older servers a text that is called bytea.
    content = "" if row is None else row[1]
    return content if isinstance(content, str) else bytes(content).decode("utf-8", "replace")


def quote_option(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


class ReplicationStream:
    """One open stream from a slot.  ``receive`` never blocks; ``wait`` does, for as long as it is told."""

    def __init__(self, access: SourceAccess, slot: str, publication: str, start: int) -> None:
        self._slot = slot
        self._connection = connect(access, replication=True)
        self._pg = self._connection.pgconn
        #: System identifier and timeline of the server at the other end.
        self.origin: Tuple[str, str] = ("", "")
        try:
            self._start(publication, start)
        except BaseException:
            self.close()
            raise
        self.last_message_at = time.monotonic()

    @property
    def backend_pid(self) -> int:
        return self._pg.backend_pid

    def _start(self, publication: str, start: int) -> None:
        self._check_continuity(start)
        options = f"proto_version '1', publication_names {quote_option(identifier(publication))}"
        command = f"START_REPLICATION SLOT {identifier(self._slot)} LOGICAL {format_lsn(start)} ({options})"
        result = self._run(command)
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise self._refusal(result)

    def _check_continuity(self, start: int) -> None:
        """The slot must still be the one that was read up to ``start``: a newer one of its name would silently begin
        where it stands, and what lies before would be lost.  So must the server: one that ends before ``start`` was set
        back, and what it writes up to there again would be passed over."""
        identity = self._ask("IDENTIFY_SYSTEM")
        found = self._ask(
            "select confirmed_flush_lsn::text, pg_catalog.pg_is_in_recovery()::text"
            f" from pg_catalog.pg_replication_slots where slot_name = {quote_option(self._slot)}"
        )
        if not found:
            raise SlotMissing(f"replication slot {self._slot} is gone", slot=self._slot)
        if found[0][0] and parse_lsn(found[0][0]) > start:
            raise SlotMissing(
                f"replication slot {self._slot} stands at {found[0][0]}, beyond {format_lsn(start)}, where we are",
                slot=self._slot,
            )
        if found[0][1] == "false" and parse_lsn(identity[0][2]) < start:
            # A standby that starts may be behind for a moment.
            raise SourceChanged(
                f"the server ends at {identity[0][2]}, before {format_lsn(start)}, where we are: it was set back",
                hint="It is looked at anew",
            )
        self.origin = (identity[0][0], identity[0][1])

    def _ask(self, query: str) -> List[List[str]]:
        """Rows of texts; a null is an empty text."""
        result = self._run(query)
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise self._refusal(result)
        return [
            [(result.get_value(row, column) or b"").decode() for column in range(result.nfields)]
            for row in range(result.ntuples)
        ]

    def _run(self, command: str) -> "pq.abc.PGresult":
        """Carry out one command of the replication protocol; libpq's own way of doing so waits for ever."""
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            self._pg.send_query(command.encode())
            self._pg.flush()
            while self._pg.is_busy():
                if time.monotonic() > deadline:
                    raise SourceUnavailable(f"the server did not answer {command.split()[0]} in {ANSWER_SECONDS:.0f} s")
                self.wait(0.1)
            result = self._pg.get_result()
            # Of a query, the end is a result of its own; after START_REPLICATION there is none until the stream ends.
            while result is not None and result.status != pq.ExecStatus.COPY_BOTH:
                if self._pg.get_result() is None:
                    break
        except psycopg.Error as error:
            raise SourceUnavailable(f"the replication connection broke: {error}") from error
        if result is None:
            raise SourceUnavailable("the server ended the replication connection")
        return result

    def _refusal(self, result: "pq.abc.PGresult") -> SourceError:
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode(
            "utf-8", "replace"
        )
        if state == "55006":
            return SlotInUse(text, slot=self._slot, hint="The other process is waited for; end it if it is not wanted")
        if state == "42704" and "replication slot" in text:
            return SlotMissing(text, slot=self._slot)
        if state == "42704" and "publication" in text:
            return PublicationMissing(f"the stream cannot go on: {text}", slot=self._slot)
        detail = (result.error_field(pq.DiagnosticField.MESSAGE_DETAIL) or b"").decode("utf-8", "replace")
        # Servers word it differently: "cannot read from", "can no longer get changes from", "can no longer access".
        if state == "55000" and ("invalidated" in text + detail or "can no longer" in text):
            return SlotLost(f"{text} {detail}".strip(), slot=self._slot)
        if state[:2] in ("57", "53", "08", "") or state == "58P01":
            return SourceUnavailable(f"the stream cannot start: {text}")
        return SourceError(f"the stream cannot start: {text}", slot=self._slot)

    def receive(self) -> Union[bytes, Keepalive, None]:
        """What the output plugin sent in the next message that is already here, or the server's sign of life; None when
        the socket has to be waited for.

        Raises ``SourceUnavailable`` when the server ended the stream.
        """
        while True:
            try:
                length, data = self._pg.get_copy_data(1)
            except psycopg.Error as error:
                raise SourceUnavailable(f"the replication connection broke: {error}") from error
            if length == 0:
                return None
            if length < 0:
                raise self._ended()
            self.last_message_at = time.monotonic()
            kind = data[0]
            if kind == 0x77:  # w: start, end, time, payload
                return bytes(data[DATA_HEAD_BYTES:])
            if kind == 0x6B:  # k: end, time, reply wanted
                end, _, reply = _keepalive(data, 1)
                return Keepalive(end, bool(reply))
            raise SourceError(f"the server sent a replication message of unknown kind {bytes(data[:1])!r}")

    def _ended(self) -> SourceError:
        with contextlib.suppress(psycopg.Error):
            result = self._pg.get_result()
            if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                return self._refusal(result)
        return SourceUnavailable("the server ended the replication stream")

    def wait(self, timeout: float) -> None:
        """Wait until the server sends something or ``timeout`` seconds have passed."""
        poll = select.poll()
        try:
            if self._pg.ssl_in_use:
                # What TLS has decrypted and libpq has not taken yet makes no socket readable.
                timeout = min(timeout, TLS_WAIT_SECONDS)
            poll.register(self._pg.socket, select.POLLIN)
            poll.poll(max(0.0, timeout) * 1000)
            self._pg.consume_input()
        except (psycopg.Error, OSError, ValueError) as error:
            raise SourceUnavailable(f"the replication connection broke: {error}") from error

    def feedback(self, confirmed: int, *, reply: bool = False) -> None:
        """Standby status update: written, flushed and applied up to ``confirmed``.

        ``reply`` asks the server for a sign of life.
        """
        now = int((time.time() - POSTGRES_EPOCH_SECONDS) * 1_000_000)
        message = _feedback(b"r", confirmed, confirmed, confirmed, now, 1 if reply else 0)
        try:
            self._pg.put_copy_data(message)
            self._pg.flush()
        except psycopg.Error as error:
            raise SourceUnavailable(f"the replication connection broke: {error}") from error

    def end(self) -> None:
        """End the stream in order, so that the server has seen the last feedback; then close."""
        with contextlib.suppress(psycopg.Error, OSError):
            self._pg.put_copy_end()
            self._pg.flush()
        self.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.close()

"""Connections to the source: how each is made, what every session is set to, and what its errors mean.

The connection string is asked for anew at every connect, so that a rotated password is picked up.  SQL and
replication sessions get the same settings: the stream and the tables must print a value alike (design
section 4).
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Generator, Iterator, Optional, Sequence

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flusso_sync.errors import (
    ConfigError,
    FlussoError,
    SchemaDrift,
    SlotInUse,
    SourceError,
    SourceRefused,
    SourceUnauthorized,
    SourceUnavailable,
)
from flusso_sync.postgres.statements import READING_SETTINGS

#: Settings that decide how values are printed; the same on both kinds of session.
PRINT_SETTINGS: Dict[str, str] = {
    name: READING_SETTINGS[name]
    for name in ("TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output")
}

#: For sessions that only look: nothing may be written, whatever their statements say.
READ_ONLY: Dict[str, str] = {"default_transaction_read_only": "on"}

#: libpq parameters that notice a dead peer; whatever the user's own connection string says wins.
LIVENESS: Dict[str, str] = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

#: A server that said nothing for this much longer than twice a statement's time is not there any more, although its
#: socket is: something in between may answer for it, so that no keepalive ever fails (faults A4).  Twice, since the
#: answers of a pipeline come together.
SILENCE_SECONDS = 10.0

#: SQLSTATE classes and codes that waiting heals.
TRANSIENT_CLASSES = ("08", "53", "57", "40")
TRANSIENT_CODES = ("55P03", "0A000", "26000", "25006", "25P02", "25P03", "55006", "58000")

#: What a server says at connect when waiting will not help.  libpq keeps no SQLSTATE for a failed connect.
REFUSALS = (
    "password authentication failed",
    "no pg_hba.conf entry",
    "authentication failed",
    "no password supplied",
    "is not permitted to log in",
    "role",
    "database",
    "invalid connection option",
    "invalid integer value",
    "invalid port number",
    "must be superuser or replication role",
    "permission denied to start WAL sender",
)

#: How every FATAL begins that waiting heals at a server that is up: it starts, shuts down, or recovers (SQLSTATE 57P03,
#: CAC_* in postmaster.c; "is not yet accepting connections" and "is in recovery mode" among them).
NOT_YET = "the database system is"


@dataclass(frozen=True)
class SourceAccess:
    """How to reach the source.

    ``conninfo`` returns a libpq connection string, read anew at each call; ``address`` is host, port and
    database as the configuration names them, without secrets.
    """

    conninfo: Callable[[], str]
    address: str
    application_name: str = "flusso_sync"
    statement_timeout_seconds: float = 60.0
    lock_timeout_seconds: float = 2.0
    prepare: bool = True
    #: Set by the first connection that was let in: a refusal after that may heal (faults A7).
    reached: threading.Event = field(default_factory=threading.Event, compare=False)
    #: Set by whoever hears that the server shuts down: the stream then lets go of it (faults A2).
    shutting_down: threading.Event = field(default_factory=threading.Event, compare=False)

    def heard(self, error: psycopg.Error) -> None:
        """Look whether ``error`` says that the server shuts down.

        A shutdown waits until the stream has confirmed everything, but confirming takes reads that a server going
        down refuses: neither would ever end.
        """
        if error.sqlstate in ("57P01", "57P02") or "shutting down" in str(error):
            self.shutting_down.set()


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which no wait for the server is endless; one that got no answer is closed."""

    silence_seconds = float("inf")

    def wait(self, gen: Any, *args: Any, **keywords: Any) -> Any:
        """As psycopg's, but raises ``OperationalError`` after ``silence_seconds`` without a sign of life."""
        return super().wait(self._bounded(gen), *args, **keywords)

    def _bounded(self, gen: Any) -> Generator[Any, Any, Any]:
        """Pass ``gen`` on.  Whoever drives it says at every interval that nothing has come."""
        until = time.monotonic() + self.silence_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    until = time.monotonic() + self.silence_seconds
                elif time.monotonic() > until:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server did not answer within {self.silence_seconds:.0f} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def connect(
    access: SourceAccess,
    *,
    replication: bool = False,
    settings: Optional[Dict[str, str]] = None,
) -> "psycopg.Connection[Any]":
    """Open an autocommit connection with the session settings above.

    Blocks up to the connect timeout.  Raises ``SourceUnavailable`` where waiting may help, else
    ``SourceRefused``, or ``ConfigError`` where a secret cannot be read and never could.
    """
    wanted = dict(PRINT_SETTINGS)
    if not replication:
        wanted.update(READING_SETTINGS)
        wanted["statement_timeout"] = str(int(access.statement_timeout_seconds * 1000))
        wanted["lock_timeout"] = str(int(access.lock_timeout_seconds * 1000))
    wanted.update(settings or {})
    try:
        given = _parameters(access)
        options = " ".join(f"-c {name}={_option(value)}" for name, value in wanted.items())
        keywords: Dict[str, Any] = {name: value for name, value in LIVENESS.items() if name not in given}
        keywords.update(
            options=f"{given.get('options') or ''} {options}".strip(),
            client_encoding="UTF8",
            application_name=access.application_name,
        )
        if replication:
            keywords["replication"] = "database"
        connection = BoundedConnection.connect(make_conninfo("", **{**given, **keywords}), autocommit=True)
    except FlussoError:
        raise
    except psycopg.Error as error:
        access.heard(error)
        raise connect_failure(error, access) from None
    access.reached.set()
    connection.silence_seconds = 2 * access.statement_timeout_seconds + SILENCE_SECONDS
    connection.prepare_threshold = 0 if access.prepare and not replication else None
    return connection


def _parameters(access: SourceAccess) -> Dict[str, Any]:
    """The connection string taken apart, or ``SourceRefused``: what libpq cannot read gets no better by waiting.

    libpq's sentence ends with the text it stumbled over, which may be a password; it is not passed on.
    """
    try:
        conninfo = access.conninfo()
    except ConfigError as error:
        if not access.reached.is_set():
            raise
        # It could be read before: somebody replaces it, and may have missed its owner or its mode.
        raise SourceUnauthorized(f"the connection to the database cannot be read: {error.problems[0]}") from error
    try:
        return dict(conninfo_to_dict(conninfo))
    except psycopg.Error as error:
        reason = re.split(r":\s", " ".join(str(error).split()))[0]
    kind = SourceUnauthorized if access.reached.is_set() else SourceRefused
    raise kind(
        f"the connection to the database cannot be read: {reason}",
        hint="A URL has %40 for @, %2F for /, %3F for ? and %25 for % in user and password",
    )


def _option(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def connect_failure(error: psycopg.Error, access: SourceAccess) -> SourceError:
    """What a failed connect means, at first and after a success; names the address and never the connection string."""
    text = " ".join(str(error).split())
    _, _, fatal = text.partition("FATAL:")
    fatal = fatal.strip() or text
    if any(word in fatal for word in REFUSALS) and not fatal.startswith(NOT_YET):
        if "does not exist" in fatal or not fatal.startswith(("role", "database")):
            kind = SourceUnauthorized if access.reached.is_set() else SourceRefused
            return kind(
                f"the database at {access.address} refuses the connection: {fatal}",
                hint="Check user, password, database and pg_hba.conf",
            )
    return SourceUnavailable(
        f"the database at {access.address} cannot be reached: {fatal}", hint="It is tried again until it answers"
    )


def translate(error: psycopg.Error, doing: str) -> SourceError:
    """The error of ours that ``error`` means, seen while ``doing`` something."""
    state = error.sqlstate
    text = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    message = f"{doing}: {text}"
    if state is None:
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            return SourceUnavailable(message, hint="It is tried again until it works")
        return SourceError(message)
    if state == "55006" and "replication slot" in text:
        return SlotInUse(message, hint="Another process streams from this slot; it is waited for")
    if state[:2] in TRANSIENT_CLASSES or state in TRANSIENT_CODES:
        return SourceUnavailable(message, hint="It is tried again until it works", sqlstate=state)
    if state == "42501":
        return SourceRefused(message, hint="Grant the right to the role of the connection URL", sqlstate=state)
    if state in ("42P01", "42703", "42883", "42704", "3F000"):
        return SchemaDrift(message, hint="A table changed its shape; mend the schema file or the table", sqlstate=state)
    return SourceError(message, sqlstate=state)


@contextlib.contextmanager
def translating(doing: str) -> Iterator[None]:
    """Raise what psycopg raises inside as errors of ours."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, doing) from error


@contextlib.contextmanager
def cancelled_by(connection: "psycopg.Connection[Any]", stop: threading.Event) -> Iterator[None]:
    """Within, ``stop`` cancels whatever statement runs, which raises ``psycopg.errors.QueryCanceled``."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if stop.is_set():
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=1.0)
                return

    watcher = threading.Thread(target=watch, name="flusso-cancel", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        # libpq before 17 cancels without any timeout: a server that is away must not hold us up.
        watcher.join(1.0)


def rows(connection: "psycopg.Connection[Any]", query: "str | sql.Composable", parameters: Sequence[Any] = ()) -> Any:
    """Run one statement and return all rows; psycopg's errors are translated."""
    with translating("a catalog query failed"):
        cursor = connection.execute(query, parameters)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description is not None else []

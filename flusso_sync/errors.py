"""Every error flusso-sync raises on purpose, with the exit code it ends in.

An error carries facts as attributes (slot, index, document id, LSN), whether waiting can heal it
(``transient``), and a ``hint``: one sentence saying what to do.  No message holds a password or a row.
Third-party exceptions are translated once, by the module that talks to that party.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence

#: Process exit codes (settled.md section 7): one table for code, ``--help`` and manual.
EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_CONFIG = 3
EXIT_SOURCE = 4
EXIT_SINK = 5
EXIT_REJECTED = 6
EXIT_GAP = 7
EXIT_OWNER = 8
EXIT_DIFFERENCES = 9

EXIT_CODES: Dict[int, str] = {
    EXIT_OK: "stopped as asked",
    EXIT_INTERNAL: "an error of flusso-sync itself (stack trace in the log)",
    EXIT_USAGE: "wrong usage of the command line",
    EXIT_CONFIG: "configuration or schema refused",
    EXIT_SOURCE: "source refused or unusable",
    EXIT_SINK: "sink refused or unusable",
    EXIT_REJECTED: "documents rejected under on_error: stop",
    EXIT_GAP: "gap in the change stream under on_gap: stop",
    EXIT_OWNER: "another owner, lease or daemon holds the target",
    EXIT_DIFFERENCES: "verify found differences",
}


class FlussoError(Exception):
    """Base of all errors raised on purpose.

    ``hint`` is a sentence telling the operator what to do; keyword facts become attributes of the
    instance and land in the structured log.
    """

    exit_code: int = EXIT_INTERNAL
    #: Waiting and calling again may heal it.
    transient: bool = False
    #: The finding of ``check`` that foretells it (``findings.py``); empty where none is its own.
    code: str = ""
    #: Laying the whole pipeline anew may heal it: what was found at its start is no longer true.
    relay: bool = False

    def __init__(self, message: str, *, hint: Optional[str] = None, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


# -- configuration ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file a user wrote; line and column count from 1, ``code`` is that of ``findings.py``."""

    message: str
    file: Optional[str] = None
    line: Optional[int] = None
    column: Optional[int] = None
    path: Optional[str] = None
    code: str = ""

    def __str__(self) -> str:
        place = ":".join(str(p) for p in (self.file, self.line, self.column) if p is not None)
        parts = [p for p in (place, self.path) if p]
        return ": ".join([*parts, self.message])


class ConfigError(FlussoError):
    """The configuration or a schema file is refused; holds *all* problems found, in file order."""

    exit_code = EXIT_CONFIG

    def __init__(self, problems: Sequence[Problem], *, hint: Optional[str] = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems), hint=hint)


# -- source -------------------------------------------------------------------------------------


class SourceError(FlussoError):
    """Something about the database; permanent unless a subclass says otherwise."""

    exit_code = EXIT_SOURCE


class SourceUnavailable(SourceError):
    """The database cannot be reached or is starting up; waiting heals it."""

    transient = True


class SourceUnauthorized(SourceUnavailable):
    """The database refuses a connection after a first success: retried slowly, reading secrets again."""


class SourceChanged(SourceError):
    """The source is not what the stream began on: another server or history, or other changes are told."""

    relay = True


class SourceRefused(SourceError):
    """The database answers, but refuses us (credentials, rights, settings, unsupported objects)."""


class SlotMissing(SourceError):
    """The replication slot we recorded is gone: a gap."""

    relay = True


class SlotLost(SourceError):
    """The slot's WAL was removed by the server (``wal_status`` lost): a gap."""

    relay = True


class SlotInUse(SourceError):
    """Another process streams from the slot; the holder may go away."""

    transient = True


class PublicationMissing(SourceError):
    """The publication did not exist where the stream stands, so nothing can be read there."""

    relay = True


class PublicationMismatch(SourceError):
    """A publication exists but would hide changes from us."""


class BlindTable(SourceError):
    """A table the indexes read whose changes we cannot hear."""


class SchemaDrift(SourceError):
    """A table no longer has the shape its index was planned with.

    ``indexes``, where known, are those that must be planned and built anew.
    """

    @property
    def indexes(self) -> Sequence[str]:
        return tuple(self.facts.get("changed", ()))

    @property
    def relay(self) -> bool:  # type: ignore[override]
        return bool(self.indexes)


class Gap(SourceError):
    """Changes were lost between the record and the slot, and ``on_gap`` is ``stop``."""

    exit_code = EXIT_GAP


# -- sinks --------------------------------------------------------------------------------------


class SinkError(FlussoError):
    """Something about a sink; permanent unless a subclass says otherwise."""

    exit_code = EXIT_SINK


class SinkUnavailable(SinkError):
    """Connection refused, cut or timed out, 502/503/504: the fate of the request may be unknown.

    ``in_doubt`` is true when the request may have been carried out.
    """

    transient = True

    def __init__(self, message: str, *, in_doubt: bool = True, **kw: Any) -> None:
        super().__init__(message, **kw)
        self.in_doubt = in_doubt


class SinkOverloaded(SinkUnavailable):
    """The sink asks us to slow down (429); ``retry_after_seconds`` is its wish, if it gave one."""

    def __init__(self, message: str, *, retry_after_seconds: Optional[float] = None, **kw: Any) -> None:
        super().__init__(message, in_doubt=False, **kw)
        self.retry_after_seconds = retry_after_seconds


class SinkBlocked(SinkUnavailable):
    """A block is set on the index or cluster (read-only, disk watermark); we wait, never clear it."""

    def __init__(self, message: str, **kw: Any) -> None:
        super().__init__(message, in_doubt=False, **kw)


class SinkUnauthorized(SinkUnavailable):
    """401/403 after a first success: retried slowly, reading secrets again."""

    def __init__(self, message: str, **kw: Any) -> None:
        super().__init__(message, in_doubt=False, **kw)


class PayloadTooLarge(SinkError):
    """413, or a connection reset while sending: the writer halves the request."""


class SinkRefused(SinkError):
    """The sink answers and will keep refusing: wrong credentials at first connect, bad request."""


class IndexMissing(SinkError):
    """An index or alias we write to is gone or is not ours; it must be rebuilt.

    ``index`` is the logical name.
    """

    relay = True


class DocumentRejected(SinkError):
    """Documents were refused and the policy is to stop."""

    exit_code = EXIT_REJECTED


class OwnerConflict(SinkError):
    """The sink's meta store belongs to another source, or a live daemon holds its lease."""

    exit_code = EXIT_OWNER


# -- commands -----------------------------------------------------------------------------------


class DaemonUnreachable(FlussoError):
    """A command reached no daemon, or one that does not let it in or gives no answer."""


# -- the daemon ---------------------------------------------------------------------------------


class SyncStopped(FlussoError):
    """``RunningDaemon.run`` ended because a thread failed; the cause is ``__cause__``.

    The exit code is that of the cause.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__("sync engine stopped")
        self.cause = cause
        self.exit_code = cause.exit_code if isinstance(cause, FlussoError) else EXIT_INTERNAL

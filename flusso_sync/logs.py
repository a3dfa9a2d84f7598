"""Logging to standard error, in text or JSON lines, that can neither block nor break what it reports on.

A record is formatted where it is made and put into a bounded queue; one thread writes the queue to the
descriptor.  A full or closed pipe costs lines, never time: dropped lines are counted and the count is
written as soon as the pipe takes lines again.  Passwords in URLs and connection strings are starred out
of every line, whoever logged them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import threading
from collections import deque
from datetime import datetime, timezone
from importlib.util import find_spec
from time import monotonic
from typing import Any, Deque, Dict, List, Mapping, Optional, Sequence, Tuple

#: Lines that wait for a slow reader of standard error.
QUEUE_LINES = 10_000

#: The same message of another package is written once in so long; so many different ones are remembered.
REPEAT_SECONDS = 60.0
REPEATS_KEPT = 1000

#: How long closing waits for the reader of standard error, unless told otherwise.
CLOSE_SECONDS = 0.5

#: How long another file waits for the line that is being written.
LINE_SECONDS = 1.0

PACKAGE = "flusso_sync"

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 10,
}

#: What a LogRecord has anyway; everything else on it came as ``extra`` and is printed as ``key=value``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "plain"}

_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@'\"]*):[^\s/'\"]*@")
_KEY_PASSWORD = re.compile(
    r"\b(password|passwd|pwd|sslpassword)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s'\"&,)]+)", re.IGNORECASE
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_COLOURS = {"DEBUG": "\x1b[34m", "INFO": "\x1b[32m", "WARN": "\x1b[33m", "ERROR": "\x1b[31m"}


def redact(text: str) -> str:
    """The text with the passwords of URLs and connection strings starred out."""
    return _KEY_PASSWORD.sub(r"\1\2***", _URL_PASSWORD.sub(r"\1:***@", text))


def _one_line(text: str) -> str:
    """Control characters escaped, so that no value can start a line of its own."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


# -- levels ---------------------------------------------------------------------------------------


def parse_levels(spec: str) -> Tuple[int, Dict[str, int], List[str]]:
    """``info,engine=debug`` as (default level, level per logger name, words that mean nothing).

    A target is one of our modules without the package's name (``engine``, ``sinks.opensearch``), or any
    other logger by its full name.
    """
    default = logging.INFO
    targets: Dict[str, int] = {}
    unknown: List[str] = []
    for word in spec.replace("::", ".").split(","):
        word = word.strip()
        if not word:
            continue
        target, equals, level = word.partition("=")
        if not equals and target.lower() in LEVELS:
            default = LEVELS[target.lower()]
        elif not equals:
            targets[_logger_name(target)] = logging.DEBUG
        elif level.strip().lower() in LEVELS and target.strip():
            targets[_logger_name(target.strip())] = LEVELS[level.strip().lower()]
        else:
            unknown.append(word)
    return default, targets, unknown


def _logger_name(target: str) -> str:
    if target == PACKAGE or target.startswith(PACKAGE + "."):
        return target
    first = target.partition(".")[0]
    if first.isidentifier() and find_spec(f"{PACKAGE}.{first}") is not None:
        return f"{PACKAGE}.{target}"
    return target


def _short_name(name: str) -> str:
    return name[len(PACKAGE) + 1 :] if name.startswith(PACKAGE + ".") else name


# -- formats --------------------------------------------------------------------------------------


def _extras(record: logging.LogRecord) -> Dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _level(record: logging.LogRecord) -> str:
    if record.levelno >= logging.ERROR:
        return "ERROR"
    if record.levelno >= logging.WARNING:
        return "WARN"
    return "INFO" if record.levelno >= logging.INFO else "DEBUG"


class TextFormatter(logging.Formatter):
    """``timestamp level [thread] logger: message key=value``, a traceback below it.

    A record with ``extra={"plain": True}`` speaks to a person at the start or the end: its lines alone.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, "plain", False):
            return redact("\n".join(_one_line(line) for line in record.getMessage().split("\n")))
        level = _level(record)
        shown = f"{level:>5}"
        if self._colour:
            shown = f"{_COLOURS[level]}{shown}\x1b[0m"
        extras = "".join(f" {name}={self._value(value)}" for name, value in _extras(record).items())
        line = (
            f"{_timestamp(record)} {shown} [{record.threadName}] {_short_name(record.name)}: "
            f"{_one_line(record.getMessage())}{extras}"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            line += "\n" + self.formatStack(record.stack_info)
        return redact(line)

    @staticmethod
    def _value(value: Any) -> str:
        text = _one_line(str(value))
        return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


class JsonFormatter(logging.Formatter):
    """One object per line: ``timestamp``, ``level``, ``fields`` (with ``message``), ``target``, ``thread``."""

    def format(self, record: logging.LogRecord) -> str:
        fields: Dict[str, Any] = {"message": redact(record.getMessage())}
        for name, value in _extras(record).items():
            fields[name] = value if value is None or isinstance(value, (bool, int, float)) else redact(str(value))
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(
            {
                "timestamp": _timestamp(record),
                "level": _level(record),
                "fields": fields,
                "target": _short_name(record.name),
                "thread": record.threadName,
            },
            ensure_ascii=False,
        )


class Repeats(logging.Filter):
    """Lets one warning of another package through per ``REPEAT_SECONDS``, with the count of those left out.

    Exporters and servers log the same failure at every attempt.  Ours have a register for that
    (``Status.trouble``) and are never held back.
    """

    def __init__(self) -> None:
        super().__init__()
        # Filters run before the handler's lock is taken.
        self._lock = threading.Lock()
        self._seen: Dict[Tuple[str, int, str], Tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.name == PACKAGE or record.name.startswith(PACKAGE + ".")
        if ours or record.levelno < logging.WARNING:
            return True
        key = (record.name, record.levelno, str(record.msg)[:200])
        now = monotonic()
        with self._lock:
            since, left_out = self._seen.get(key, (now - REPEAT_SECONDS, 0))
            if now - since < REPEAT_SECONDS:
                self._seen[key] = (since, left_out + 1)
                return False
            if len(self._seen) >= REPEATS_KEPT:
                self._seen.clear()
            self._seen[key] = (now, 0)
        if left_out:
            record.left_out = left_out
        return True


# -- the way out ----------------------------------------------------------------------------------


class QueuedHandler(logging.Handler):
    """Hands formatted lines to a thread that writes them to a descriptor; ``emit`` never waits.

    ``descriptor`` None means that there is nowhere to write: every line is dropped and counted.  The
    descriptor is written to directly: a thread stuck in a buffered stream would hold that stream's lock,
    which ends the interpreter with a fatal error at exit.
    """

    def __init__(self, descriptor: Optional[int], *, capacity: int = QUEUE_LINES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._capacity = capacity
        self._lines: Deque[bytes] = deque()
        self._waiting = threading.Condition()
        self._closing = False
        self._writing = False
        self._dropped = 0
        self._unreported = 0
        self._deadline: Optional[float] = None
        #: Held while a line is written, so that none is torn between two files.
        self._in_line = threading.Lock()
        #: Lines below everything else, as wanted, and as they stand on the terminal now.
        self._footer: Tuple[str, ...] = ()
        self._shown: Tuple[str, ...] = ()
        # A daemon thread: it may hang in a write to a pipe that nobody reads.
        self._thread = threading.Thread(target=self._loop, name="flusso-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        with self._waiting:
            return self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:
            # A message whose arguments do not fit, or a value whose str() raises: the call site is at
            # fault, but what it reports on must go on.
            line = f"log record of {record.name} cannot be formatted: {record.msg!r}\n".encode("utf-8", "replace")
        with self._waiting:
            if self._closing or self._descriptor is None or len(self._lines) >= self._capacity:
                self._dropped += 1
                self._unreported += 1
                return
            self._lines.append(line)
            self._waiting.notify()

    def show(self, lines: Sequence[str]) -> None:
        """Keep ``lines`` below everything written, in place of the former ones; for a terminal, and never waits.

        None may be as wide as the terminal.  They go when there are none, or at the end.
        """
        with self._waiting:
            if not self._closing:
                self._footer = tuple(lines)
                self._waiting.notify()

    def flush_lines(self, timeout: float) -> bool:
        """Wait until everything queued is written; False when that took longer than ``timeout`` seconds."""
        with self._waiting:
            return self._waiting.wait_for(lambda: not self._lines and not self._writing, timeout)

    def go_on_in(self, descriptor: int) -> None:
        """Write the lines to come to the file that ``descriptor`` has open, under the number of the former one."""
        if self._descriptor is None:
            return
        between_lines = self._in_line.acquire(timeout=LINE_SECONDS)
        try:
            os.dup2(descriptor, self._descriptor)
        finally:
            if between_lines:
                self._in_line.release()

    def shut_down(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Write what is queued for at most ``timeout`` seconds and end the thread; False when lines were left."""
        with self._waiting:
            self._closing = True
            self._deadline = monotonic() + timeout
            self._waiting.notify_all()
        self._thread.join(timeout + 0.1)
        return not self._thread.is_alive() and not self._lines

    def _loop(self) -> None:
        while True:
            with self._waiting:
                self._writing = False
                self._waiting.notify_all()
                while not self._lines and not self._closing and self._footer == self._shown:
                    self._waiting.wait()
                footer = self._footer = () if self._closing else self._footer
                if self._out_of_time() or not self._lines and footer == self._shown:
                    return
                line = self._lines.popleft() if self._lines else b""
                self._writing = True
                unreported = 0
                if line:
                    unreported, self._unreported = self._unreported, 0
            if unreported:
                line = f"({unreported} log lines were dropped)\n".encode() + line
            with self._in_line:
                written = self._write(_taken_away(self._shown) + line + _lines(footer))
            # Also where it failed: whoever stopped the terminal from taking it changed what stands there.
            self._shown = footer
            if line and not written:
                with self._waiting:
                    self._dropped += 1
                    self._unreported += unreported + 1

    def _out_of_time(self) -> bool:
        return self._deadline is not None and monotonic() >= self._deadline

    def _write(self, line: bytes) -> bool:
        descriptor = self._descriptor
        if descriptor is None:
            return False
        while line:
            try:
                # Asking first keeps a blocking pipe from holding this thread in a write it cannot leave: up to
                # PIPE_BUF bytes fit once it is writable.
                _, writable, _ = select.select([], [descriptor], [], 0.1)
                if not writable:
                    if self._out_of_time():
                        return False
                    continue
                line = line[os.write(descriptor, line[: select.PIPE_BUF]) :]
            except BlockingIOError:
                continue
            except (OSError, ValueError):
                return False
        return True


def _taken_away(footer: Sequence[str]) -> bytes:
    """What makes a terminal forget the lines it shows last; the cursor stands below them."""
    return f"\r\x1b[{len(footer)}A\x1b[J".encode() if footer else b""


def _lines(footer: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in footer).encode("utf-8", "backslashreplace")


# -- set-up ---------------------------------------------------------------------------------------


class Logs:
    """Logging as set up by :func:`configure`; ``close`` writes what is queued and takes the handler away."""

    def __init__(self, handler: QueuedHandler, levels: Mapping[str, int]) -> None:
        self._handler = handler
        self._levels = levels

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._handler.dropped

    def show(self, lines: Sequence[str]) -> None:
        """Keep ``lines`` below the log on a terminal, in place of the former ones; see :class:`QueuedHandler`."""
        self._handler.show(lines)

    def go_on_in(self, descriptor: int) -> None:
        """Write the lines to come to another file; the caller's descriptor stays its own."""
        self._handler.go_on_in(descriptor)

    def flush(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Wait, bounded, until everything logged so far is written."""
        return self._handler.flush_lines(timeout)

    def close(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Write what is queued for at most ``timeout`` seconds; False when lines were left.  Safe to call twice."""
        logging.getLogger().removeHandler(self._handler)
        for name in self._levels:
            logging.getLogger(name).setLevel(logging.NOTSET if name else logging.WARNING)
        logging.captureWarnings(False)
        return self._handler.shut_down(timeout)


def standard_error() -> Optional[int]:
    """The descriptor of standard error, None when the process was started without one.

    Without one, descriptor 2 may be anything by now, a database connection for instance.
    """
    if sys.__stderr__ is None:
        return None
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def configure(
    environ: Mapping[str, str] = os.environ, *, descriptor: Optional[int] = None, discard: bool = False
) -> Logs:
    """Send all logging to ``descriptor`` (default: standard error) as the environment asks.

    ``FLUSSO_LOG``: levels in the manner of RUST_LOG, ``FLUSSO_LOG_FORMAT``: text or json, ``NO_COLOR``.
    Other packages log from warnings up unless they are named.
    """
    if descriptor is None and not discard:
        descriptor = standard_error()
    form = environ.get("FLUSSO_LOG_FORMAT", "").strip().lower()
    handler = QueuedHandler(descriptor)
    handler.addFilter(Repeats())
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        colour = descriptor is not None and os.isatty(descriptor) and not environ.get("NO_COLOR")
        handler.setFormatter(TextFormatter(colour=colour))
    default, targets, unknown = parse_levels(environ.get("FLUSSO_LOG", ""))
    levels = {
        "": max(default, logging.WARNING),
        PACKAGE: default,
        # One line per waiting request; the surfaces have limits of their own.
        "waitress.queue": logging.ERROR,
        **targets,
    }
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    root = logging.getLogger()
    for other in [other for other in root.handlers if isinstance(other, QueuedHandler)]:
        root.removeHandler(other)
    root.addHandler(handler)
    logger = logging.getLogger(__name__)
    for word in unknown:
        logger.warning("FLUSSO_LOG: %r is not understood; expected a level or target=level", word)
    if form not in ("", "text", "json"):
        logger.warning("FLUSSO_LOG_FORMAT: %r is not understood; expected text or json", form)
    return Logs(handler, levels)

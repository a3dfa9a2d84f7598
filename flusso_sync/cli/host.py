"""The place of a run on its host: log file, pid file, a session of its own, another user; and what its starter is told.

Everything that takes the rights of the starter is opened first, then the process forks, and last it becomes the user
it is to run as.  No thread is started before that.  An init script believes the exit code it sees, so the process that
was started ends only when the daemon runs, or with the daemon's own code and sentence.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import click

from flusso_sync.cli.account import Account
from flusso_sync.cli.notify import notify
from flusso_sync.cli.pidfile import PidFile
from flusso_sync.errors import EXIT_CONFIG, EXIT_INTERNAL, EXIT_OK, FlussoError

if TYPE_CHECKING:
    from flusso_sync.logs import Logs
    from flusso_sync.status import Status

logger = logging.getLogger("flusso_sync.cli.host")

#: The process as ``ps``, ``pgrep`` and start-stop-daemon name it.
PROCESS_NAME = "flussod"

#: Signals that mean something to a daemon alone, and would end any other process.
DAEMON_SIGNALS = (signal.SIGHUP, signal.SIGUSR1)

#: A daemon that has connected nowhere, is refused nowhere and waits for nothing after so long counts as running.
SETTLE_SECONDS = 10.0

#: How often a service manager is told what the daemon does now, if that is another thing.
TOLD_SECONDS = 1.0

#: What a terminal or pipe is given to take a last sentence.
TELL_SECONDS = 1.0


class UserCannotRead(FlussoError):
    """The user to run as may not read the program."""

    exit_code = EXIT_CONFIG


class LogFileUnusable(FlussoError):
    """The log file cannot be opened."""

    exit_code = EXIT_CONFIG


@dataclass(frozen=True)
class HostOptions:
    """What the command line says of the place; paths are absolute."""

    daemonize: bool = False
    pidfile: Optional[str] = None
    log_file: Optional[str] = None
    user: Optional[Account] = None


class Host:
    """Entered once, before any thread is started; left at the end of the process that goes on."""

    def __init__(self, options: HostOptions) -> None:
        self._options = options
        self._pidfile = None if options.pidfile is None else PidFile(options.pidfile)
        self._telling = threading.Lock()
        #: Where the starter waits for a word, in a process of its own session.
        self._word: Optional[int] = None
        #: Standard error as it was, where the log has taken its number.
        self._console: Optional[int] = None

    # -- entering -----------------------------------------------------------------------------------

    def enter(self) -> Optional[int]:
        """Take the place.  None in the process that goes on; in the one that was started an exit code to end with.

        Raises ``PidFileHeld``, ``PidFileUnusable`` and ``LogFileUnusable`` before it forks, ``UserCannotRead`` after.
        """
        options = self._options
        log = None if options.log_file is None else self._open_log(options.log_file)
        if self._pidfile is not None:
            self._pidfile.take()
        # Once the file names us, scripts may send them: they are held back until somebody handles them (``Signals``),
        # and mean nothing after that.
        signal.pthread_sigmask(signal.SIG_BLOCK, DAEMON_SIGNALS)
        for number in DAEMON_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if options.daemonize:
            code = self._detach()
            if code is not None:
                return code
        elif log is not None:
            self._console = _kept(2)
        try:
            if options.daemonize:
                self._leave_the_terminal()
            if log is not None:
                os.dup2(log, 2)
                os.close(log)
            _name_process()
            if self._pidfile is not None:
                self._pidfile.write()
            if options.user is not None:
                options.user.become()
                _check_readable(options.user)
        except BaseException as error:
            code = error.exit_code if isinstance(error, FlussoError) else EXIT_INTERNAL
            self.failed(code, f"error: {error}")
            self.leave(code)
            raise
        return None

    @property
    def in_background(self) -> bool:
        """Whether standard output and the terminal were left behind."""
        return self._options.daemonize

    @property
    def log_descriptor(self) -> Optional[int]:
        """Where the log goes: standard error has become the log file.  None without one."""
        return None if self._options.log_file is None else 2

    def say_what_was_found(self) -> None:
        """What the log should know of the entering, now that there is one."""
        if self._pidfile is not None and self._pidfile.stale:
            logger.warning(
                "the pid file %s was left behind by process %s, which holds it no more",
                self._pidfile.path,
                self._pidfile.stale,
            )

    def _open_log(self, path: str) -> int:
        """The log file, opened to append; made when missing, for the user it is to be written by."""
        # Never waits for the reader of a pipe.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        user = self._options.user
        lent = user is not None and not user.is_ours
        if lent:
            # With the rights of root, in a folder that may be the user's: a link there could point anywhere.
            flags |= os.O_NOFOLLOW
        try:
            with suppress(FileExistsError):
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
                if user is not None and lent:
                    os.fchown(descriptor, user.uid, user.gid)
                return descriptor
            return os.open(path, flags)
        except OSError as error:
            reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise LogFileUnusable(
                f"the log file {path} cannot be written: {reason}",
                hint="Name one in a folder that this user may write to (--log-file)",
            ) from error

    def _detach(self) -> Optional[int]:
        """Go on in a process of a session of its own; the one that was started waits there for a word."""
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child:
            os.close(writer)
            os.waitpid(child, 0)
            if self._pidfile is not None:
                self._pidfile.close()
            return self._wait_for_word(reader)
        os.setsid()
        # No leader of the session: a terminal that is opened later does not become ours.
        if os.fork():
            os._exit(EXIT_OK)
        os.close(reader)
        self._word = writer
        return None

    def _wait_for_word(self, reader: int) -> int:
        with os.fdopen(reader, "rb") as stream:
            word = stream.read()
        if not word:
            click.echo(f"error: flussod ended before it was running; see {self._options.log_file}", err=True)
            return EXIT_INTERNAL
        said = json.loads(word)
        if said["text"]:
            click.echo(said["text"], err=True)
        return int(said["code"])

    def _leave_the_terminal(self) -> None:
        # No folder is held that somebody may want to unmount.
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(null, descriptor)
        os.close(null)

    # -- telling ------------------------------------------------------------------------------------

    def await_running(self, status: Status) -> threading.Thread:
        """Tell the starter, from a thread, once the daemon runs; it has until then to be refused.

        A service manager is told from then on what the daemon does, or waits for.
        """
        thread = threading.Thread(target=self._await_running, args=(status,), name="flusso-starting", daemon=True)
        thread.start()
        return thread

    def _await_running(self, status: Status) -> None:
        from flusso_sync.status import Phase

        status.wait_for(lambda: status.phase is not Phase.STARTING or bool(status.troubles()), SETTLE_SECONDS)
        if status.phase is Phase.STOPPED:
            # It ended; whoever ends the process says how.
            return
        waiting = _waits_for(status)
        told = waiting or status.phase.value
        heard = notify("READY=1", f"STATUS={told}")
        self._tell(EXIT_OK, f"flussod runs, and waits: {waiting}" if waiting else "")
        if heard:
            _go_on_telling(status, told)

    def failed(self, code: int, sentence: str) -> None:
        """The run ends with ``code``: the starter is told, where it waits or where its standard error still is."""
        notify(f"STATUS={sentence}")
        if not self._tell(code, sentence) and self._console is not None:
            _write(self._console, sentence + "\n")

    def _tell(self, code: int, text: str) -> bool:
        """Tell the starter once; False when none waits."""
        with self._telling:
            word, self._word = self._word, None
        if word is None:
            return False
        with suppress(OSError):
            # It may be gone.
            os.write(word, json.dumps({"code": code, "text": text}).encode())
        os.close(word)
        return True

    def stopping(self) -> None:
        """The daemon serves no more; the process is about to end."""
        notify("STOPPING=1")

    # -- the log file -------------------------------------------------------------------------------

    def reopen_log(self, logs: Logs) -> None:
        """Go on in a new file under the same name, after somebody moved the former one; never raises."""
        path = self._options.log_file
        if path is None:
            logger.info("SIGUSR1 is ignored: the log goes to standard error (--log-file)")
            return
        try:
            descriptor = self._open_log(path)
        except LogFileUnusable as error:
            logger.error("%s; the log goes on in the former file", error.message)
            return
        logger.info("SIGUSR1: the log goes on in a new file")
        logs.go_on_in(descriptor)
        os.close(descriptor)

    # -- leaving ------------------------------------------------------------------------------------

    def leave(self, code: int) -> None:
        """The process ends with ``code``: pid file removed, the starter told if it still waits.  Safe to call twice."""
        if self._pidfile is not None:
            self._pidfile.release()
        self._tell(code, "" if code == EXIT_OK else f"error: flussod ended at once; see {self._options.log_file}")


def _go_on_telling(status: Status, told: str) -> None:
    """Tell the service manager whenever the daemon does, or waits for, another thing than ``told``; until it ends."""
    from flusso_sync.status import Phase

    while True:
        # Not woken by each change of the status, of which there are thousands in a second.
        time.sleep(TOLD_SECONDS)
        waiting, phase = _waits_for(status), status.phase
        if phase is Phase.STOPPED:
            return
        if (waiting or phase.value) != told:
            told = waiting or phase.value
            notify(f"STATUS={told}")


def _waits_for(status: Status) -> str:
    """What changes wait for, if they do."""
    return next((trouble.what for trouble in status.troubles() if trouble.blocking), "")


def _kept(descriptor: int) -> Optional[int]:
    """Another descriptor of the same file, None when it is closed."""
    try:
        return os.dup(descriptor)
    except OSError:
        return None


def _check_readable(user: Account) -> None:
    """Raise ``UserCannotRead`` when the modules still to be imported are out of reach."""
    import flusso_sync

    for file in (flusso_sync.__file__, os.__file__):
        folder = os.path.dirname(os.path.abspath(file))
        if not os.access(folder, os.R_OK | os.X_OK):
            raise UserCannotRead(
                f"the user {user.name} cannot read {folder}",
                hint="Install flusso-sync, and its Python, where every user may read them, such as /opt",
            )


def _name_process() -> None:
    """Be found as flussod where the kernel has names for processes (Linux)."""
    with suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write(PROCESS_NAME)


def _write(descriptor: int, text: str) -> None:
    """A last sentence for a person; one that nobody takes in time is left out."""
    with suppress(OSError, ValueError):
        if select.select([], [descriptor], [], TELL_SECONDS)[1]:
            os.write(descriptor, text.encode("utf-8", "backslashreplace"))

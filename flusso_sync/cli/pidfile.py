"""The file that names the process of a daemon, locked for as long as that process lives.

The lock is what counts, the number in it is for scripts: who died without removing the file left one that is not
locked, whoever has its number by now.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import Optional

from flusso_sync.errors import EXIT_CONFIG, EXIT_OWNER, FlussoError

#: More than this is no process id.
_LONGEST = 32


class PidFileHeld(FlussoError):
    """Another daemon runs under the same pid file."""

    exit_code = EXIT_OWNER


class PidFileUnusable(FlussoError):
    """The pid file cannot be written, or holds something that is not ours to replace."""

    exit_code = EXIT_CONFIG


class PidFile:
    """One pid file; :meth:`take` it before forking, :meth:`write` it in the process it names.

    The lock belongs to the open file, so it passes to the child with it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        #: Who left the file behind without removing it, as :meth:`take` found it.
        self.stale: Optional[str] = None
        self._descriptor: Optional[int] = None
        self._written = False

    def take(self) -> None:
        """Lock the file, made when missing; raises ``PidFileHeld`` while another process has it, and waits for none."""
        while True:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self._is_at_path(descriptor):
                    # Who had it removed it between our opening and our locking.
                    os.close(descriptor)
                    continue
                content = self._read(descriptor)
                if content and not content.isdigit():
                    raise PidFileUnusable(
                        f"{self.path} holds something else than a process id, and is left as it is",
                        hint="Name another --pidfile, or remove that file",
                    )
            except BlockingIOError:
                holder = self._read(descriptor)
                os.close(descriptor)
                who = f"process {holder}" if holder.isdigit() else "another process"
                raise PidFileHeld(
                    f"a daemon runs already: {who} holds {self.path}",
                    hint="Stop it first, or give this deployment a --pidfile of its own",
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
            self.stale = content or None
            self._descriptor = descriptor
            return

    def write(self) -> None:
        """Name this process; the file is kept open, so that it can be emptied without the right to remove it."""
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise self._unusable(error) from error
        self._written = True

    def close(self) -> None:
        """Forget the file in a process that it does not name; the lock stays with the one that has it open."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def release(self) -> None:
        """Empty the file, remove it where its folder lets us, and unlock it.  Safe to call twice."""
        descriptor = self._descriptor
        if descriptor is not None and self._written:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
            if self._is_at_path(descriptor):
                with suppress(OSError):
                    # Before it is unlocked: whoever comes next makes a file of its own.
                    os.unlink(self.path)
        self.close()

    def _open(self) -> int:
        # Never through a link: it is written with the rights of the starter, in a folder that may be another's.
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> PidFileUnusable:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        return PidFileUnusable(
            f"the pid file {self.path} cannot be written: {reason}",
            hint="Name one in a folder that the starter may write to (--pidfile)",
        )

    @staticmethod
    def _read(descriptor: int) -> str:
        return os.pread(descriptor, _LONGEST, 0).decode("ascii", "replace").strip()

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        ours = os.fstat(descriptor)
        return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)

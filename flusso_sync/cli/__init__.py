"""The command line, ``flussod``.  Importing it costs little; each command imports what it needs when it runs."""

from __future__ import annotations

import os
import signal
from typing import NoReturn, Optional, Sequence


def main(arguments: Optional[Sequence[str]] = None) -> NoReturn:
    """Run ``flussod`` with ``arguments`` (default: the process's own); ends in SystemExit with the exit code."""
    # Until somebody handles it, Ctrl-C ends the process as any signal does, not with a stack trace.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _occupy_standard_descriptors()
    from flusso_sync.cli.commands import flussod

    flussod.main(args=None if arguments is None else list(arguments), prog_name="flussod")


def _occupy_standard_descriptors() -> None:
    """Open whichever of stdin, stdout and stderr is closed on the null device.

    Otherwise the next socket would get that number, and whatever a library prints would go to the peer.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

"""Signals become an event; the handlers themselves do nothing.

Setting a ``threading.Event`` inside a handler can deadlock: the main thread may hold the event's own lock
at that moment.  So the interpreter writes each signal's number to a socket (``signal.set_wakeup_fd``, done
in C, also while the main thread is inside a library) and a thread of ours reads it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from time import monotonic
from types import FrameType
from typing import Any, Callable, Dict, Mapping, Optional, Type

from flusso_sync.errors import EXIT_OK

logger = logging.getLogger("flusso_sync.cli.signals")

#: After being asked to stop, the process is gone within this long, whatever hangs.
STOP_SECONDS = 4.7

#: Two signals this close are one request: a terminal's Ctrl-C reaches a wrapper and its child, and the wrapper
#: passes it on.
SAME_REQUEST_SECONDS = 0.2

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def _ignore(number: int, frame: Optional[FrameType]) -> None:
    """Python needs a handler to be installed; the work is done by the thread."""


class Signals:
    """While entered: the first SIGTERM or SIGINT sets ``shutdown``, a second one ends the process at once.

    ``actions`` are carried out, each on the thread that listens, when their signals come; they must be quick and raise
    nothing.  ``before_exit`` is told the exit code before the process is ended by force, which happens on the second
    signal (128 + its number) and ``stop_seconds`` after the first one (0: whatever was not finished comes again at the
    next start).  Must be entered in the main thread.
    """

    def __init__(
        self,
        shutdown: threading.Event,
        *,
        before_exit: Callable[[int], Any],
        actions: Optional[Mapping[signal.Signals, Callable[[], Any]]] = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self._shutdown = shutdown
        self._actions: Dict[int, Callable[[], Any]] = {int(number): act for number, act in (actions or {}).items()}
        self._before_exit = before_exit
        self._stop_seconds = stop_seconds
        self._former: Dict[int, Any] = {}
        self._former_wakeup = -1

    def __enter__(self) -> Signals:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._thread = threading.Thread(target=self._listen, name="flusso-signals", daemon=True)
        self._thread.start()
        self._former_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*_STOPPING, *self._actions):
            self._former[number] = signal.signal(number, _ignore)
        # What came while nobody could act on it was held back, and comes now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._actions)
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Any) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_wakeup)
        self._writer.close()
        self._thread.join(1.0)
        self._reader.close()

    def _listen(self) -> None:
        deadline: Optional[float] = None
        first = 0.0
        while True:
            self._reader.settimeout(None if deadline is None else max(0.01, deadline - monotonic()))
            try:
                received = self._reader.recv(1)
            except socket.timeout:
                self._give_up()
            if not received:
                return
            number = received[0]
            if number in self._actions:
                self._actions[number]()
                continue
            if number not in _STOPPING:
                continue
            name = signal.Signals(number).name
            if deadline is None:
                logger.info("%s: stopping; a second signal ends the process at once", name)
                first = monotonic()
                deadline = first + self._stop_seconds
                self._shutdown.set()
            elif monotonic() - first > SAME_REQUEST_SECONDS:
                logger.warning("%s again: ending at once; what was not confirmed comes again", name)
                self._end(128 + number)

    def _give_up(self) -> None:
        running = ", ".join(sorted(t.name for t in threading.enumerate() if t.name.startswith("flusso-")))
        logger.warning(
            "not stopped after %.1f s; ending by force, what was not confirmed comes again (threads: %s)",
            self._stop_seconds,
            running,
        )
        self._end(EXIT_OK)

    def _end(self, code: int) -> None:
        self._before_exit(code)
        os._exit(code)

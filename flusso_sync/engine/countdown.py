"""Counts what is still waited for, and says once when nothing is left."""

from __future__ import annotations

import threading
from typing import Callable

from flusso_sync.observer import Stage


class Countdown:
    """A token of the writers, held once by whoever made it.

    ``done`` is called once, by whichever thread ends the last hold.
    """

    __slots__ = ("_done", "_lock", "_remaining")

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self._lock = threading.Lock()
        self._remaining = 1

    def hold(self, count: int = 1) -> None:
        with self._lock:
            self._remaining += count

    def note(self, stage: Stage) -> None:
        """What is waited for here is no batch: nobody asks for its stages."""

    def release(self, count: int = 1) -> None:
        with self._lock:
            self._remaining -= count
            if self._remaining:
                return
        self._done()

"""The one policy for waiting: delays that grow, jitter, and end with the stop event.

Every wait of the daemon on something outside goes through :func:`wait_out`, so that what is waited for
stands in one register (``Status.trouble``) that ``/status``, the log and ``/readyz`` read.
"""

from __future__ import annotations

import random
import threading
from typing import Callable, Optional, TypeVar

from flusso_sync.errors import FlussoError, SinkOverloaded, SinkUnauthorized, SourceUnauthorized
from flusso_sync.status import Status

T = TypeVar("T")

#: First and longest delay between attempts at something that is away.
FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 5.0
#: Refused credentials are tried slowly, lest an account be locked.
UNAUTHORIZED_DELAY_SECONDS = 10.0


class Stopped(Exception):
    """The stop event ended a wait; control flow, never a failure."""


class Backoff:
    """Delays in seconds: doubling from ``first`` to ``most``, each shortened at random by up to a quarter."""

    def __init__(self, first: float = FIRST_DELAY_SECONDS, most: float = LONGEST_DELAY_SECONDS) -> None:
        self._first = first
        self._most = most
        self._next = first

    def delay(self) -> float:
        now, self._next = self._next, min(self._next * 2, self._most)
        return now * random.uniform(0.75, 1.0)

    def reset(self) -> None:
        self._next = self._first

    def wait(self, stop: threading.Event, seconds: Optional[float] = None) -> None:
        """Wait the next delay (or ``seconds``); raises ``Stopped`` as soon as ``stop`` is set."""
        if stop.wait(self.delay() if seconds is None else seconds):
            raise Stopped


def delay_wish(error: FlussoError) -> Optional[float]:
    """The delay in seconds that ``error`` itself asks for, None when the usual one is right."""
    if isinstance(error, SinkOverloaded):
        return error.retry_after_seconds
    if isinstance(error, (SinkUnauthorized, SourceUnauthorized)):
        return UNAUTHORIZED_DELAY_SECONDS
    return None


def wait_out(action: Callable[[], T], stop: threading.Event, status: Status, key: str, *, blocking: bool = True) -> T:
    """Call ``action`` until it does not raise a transient error, and return its result.

    Meanwhile the trouble ``key`` stands in the register.  Raises ``Stopped`` when ``stop`` ends the wait and
    every permanent error at once.
    """
    backoff = Backoff()
    troubled = False
    while True:
        try:
            result = action()
        except FlussoError as error:
            if not error.transient:
                raise
            troubled = True
            status.trouble(key, error.message, error.hint or "", blocking=blocking)
            backoff.wait(stop, delay_wish(error))
        else:
            if troubled:
                status.clear_trouble(key)
            return result

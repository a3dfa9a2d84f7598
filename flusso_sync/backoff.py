"""The one policy for waiting: delays that grow, jitter, and end with the stop event.

Every wait of the daemon on something outside goes through :func:`wait_out`, or, where a loop of its own has to look
at each failure, through the :class:`Outage` and :class:`Backoff` it is made of.  So what is waited for stands in one
register (``Status.trouble``) that ``/status``, the log and ``/readyz`` read.
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


class Outage:
    """The entry ``key`` of something waited for in the register; shared by the threads that wait for it.

    Whichever of them succeeds first ends it: the trouble belongs to the thing, not to the request that met it.
    """

    def __init__(self, status: Status, key: str, *, blocking: bool = True) -> None:
        self._status = status
        self._key = key
        self._blocking = blocking
        self._lock = threading.Lock()
        self._lasts = False

    def goes_on(self, what: str, todo: str = "") -> None:
        """It is there, or still there."""
        with self._lock:
            self._lasts = True
        self._status.trouble(self._key, what, todo, blocking=self._blocking)

    def sit_out(self, error: FlussoError, backoff: Backoff, stop: threading.Event) -> None:
        """Register ``error`` and wait as long as it wishes, else the next delay; raises ``Stopped`` at stop."""
        self.goes_on(error.message, error.hint or "")
        backoff.wait(stop, delay_wish(error))

    def over(self) -> None:
        """It works (again)."""
        with self._lock:
            lasted, self._lasts = self._lasts, False
        if lasted:
            self._status.clear_trouble(self._key)


def wait_out(action: Callable[[], T], stop: threading.Event, status: Status, key: str, *, blocking: bool = True) -> T:
    """Call ``action`` until it does not raise a transient error, and return its result.

    Meanwhile the trouble ``key`` stands in the register.  Raises ``Stopped`` when ``stop`` ends the wait and
    every permanent error at once.
    """
    backoff = Backoff()
    outage = Outage(status, key, blocking=blocking)
    while True:
        try:
            result = action()
        except FlussoError as error:
            if not error.transient:
                raise
            outage.sit_out(error, backoff, stop)
        else:
            outage.over()
            return result

"""Waiting for conditions, never for a time."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

T = TypeVar("T")

PAUSE_SECONDS = 0.01


def wait_for(condition: Callable[[], T], timeout: float = 15.0, message: str = "", pause: float = PAUSE_SECONDS) -> T:
    """The first true answer of ``condition()``; fails the test when there is none within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {message or condition}; last answer: {answer!r}")
        time.sleep(pause)

"""The bounded queue between capture and engine: it holds runs, and is bounded in changes."""

from __future__ import annotations

import queue
import time
from collections import deque
from typing import TYPE_CHECKING, Deque, List, Optional

from flusso_sync.engine.source import ChangeRun

if TYPE_CHECKING:
    _Queue = queue.Queue[ChangeRun]
else:
    _Queue = queue.Queue


class ChangeQueue(_Queue):
    """A ``queue.Queue`` of runs whose size is the number of changes held (settled.md section 7).

    A put waits while the bound is reached, so at most one run too many is ever held.
    """

    def __init__(self, capacity: int) -> None:
        self._held = 0
        self._rung = False
        super().__init__(capacity)

    def _init(self, maxsize: int) -> None:
        self.queue: Deque[ChangeRun] = deque()

    def _qsize(self) -> int:
        return self._held

    def _put(self, item: ChangeRun) -> None:
        self.queue.append(item)
        # A run without changes still has to be carried, so it counts as one.
        self._held += len(item.changes) or 1

    def _get(self) -> ChangeRun:
        run = self.queue.popleft()
        self._held -= len(run.changes) or 1
        return run

    def offer(self, run: ChangeRun, timeout: Optional[float]) -> bool:
        """Put ``run``; False when there was no space for ``timeout`` seconds (None waits for ever).

        An idle position never waits: it replaces an idle position at the tail, and is dropped when the queue is
        full, for then it is not true any more.
        """
        if not run.changes and run.transaction is None:
            with self.mutex:
                if self.queue:
                    last = self.queue[-1]
                    if not last.changes and last.transaction is None:
                        self.queue[-1] = run
                        return True
                if self._held < self.maxsize:
                    self._put(run)
                    self.unfinished_tasks += 1
                    self.not_empty.notify()
            return True
        try:
            self.put(run, timeout=timeout)
        except queue.Full:
            return False
        return True

    def ring(self) -> None:
        """Wake a waiting ``take`` although there is nothing to take."""
        with self.mutex:
            self._rung = True
            self.not_empty.notify_all()

    def take(self, most: int, timeout: float) -> List[ChangeRun]:
        """Runs in order holding about ``most`` changes at the most; empty after ``timeout`` seconds or a ring."""
        deadline = time.monotonic() + timeout
        with self.not_empty:
            while not self.queue and not self._rung:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return []
                self.not_empty.wait(remaining)
            self._rung = False
            taken: List[ChangeRun] = []
            count = 0
            while self.queue and (not taken or count + len(self.queue[0].changes) <= most):
                run = self._get()
                count += len(run.changes) or 1
                taken.append(run)
            self.not_full.notify_all()
            return taken

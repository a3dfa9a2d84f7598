"""The ledger of promise 2: a position is confirmed only when everything up to it is durable.

Pure bookkeeping behind one lock; knows neither a source nor a sink.  Entries are opened in stream order; each
counts the writes it waits for.  The confirmed position is that of the longest prefix of finished entries.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, List, Optional

from flusso_sync.observer import STAGES_KEPT, Stage


class Entry:
    """One batch of the stream, and what it still waits for.

    ``position`` is the last commit position among its runs; None when it ends inside a transaction that no
    earlier run of it closed.  It starts held once, by whoever opened it; ``release`` ends that.
    """

    __slots__ = ("position", "changes", "documents", "started", "stages", "_remaining", "_ledger")

    def __init__(self, ledger: "Ledger", position: Optional[int], changes: int) -> None:
        self.position = position
        self.changes = changes
        self.documents: Dict[str, int] = {}
        self.started = time.monotonic()
        self.stages: List[Stage] = []
        self._remaining = 1
        self._ledger = ledger

    def hold(self, count: int = 1) -> None:
        with self._ledger.changed:
            self._remaining += count

    def note(self, stage: Stage) -> None:
        """The batch went through this.  May be called from any thread, before the release that belongs to it."""
        if len(self.stages) < STAGES_KEPT:
            self.stages.append(stage)

    def release(self, count: int = 1) -> None:
        """``count`` of the things waited for are durable.  May be called from any thread."""
        self._ledger._release(self, count)

    @property
    def finished(self) -> bool:
        return self._remaining == 0


class Ledger:
    """Entries in stream order and the position up to which all of them are durable.

    ``on_finished`` is called outside the lock with each entry once, in the order of the stream.
    """

    def __init__(self, confirmed: int = 0, on_finished: Optional[Callable[[Entry], None]] = None) -> None:
        self.changed = threading.Condition()
        self._entries: Deque[Entry] = deque()
        self._confirmed = confirmed
        self._worked = confirmed
        self._woken = False
        self._on_finished = on_finished

    @property
    def confirmed(self) -> int:
        with self.changed:
            return self._confirmed

    @property
    def open_entries(self) -> int:
        with self.changed:
            return len(self._entries)

    def open(self, position: Optional[int], changes: int) -> Entry:
        """Append an entry; called by one thread, in stream order."""
        entry = Entry(self, position, changes)
        with self.changed:
            self._entries.append(entry)
        return entry

    def _release(self, entry: Entry, count: int) -> None:
        finished: List[Entry] = []
        with self.changed:
            entry._remaining -= count
            if entry._remaining < 0:
                raise AssertionError("a ledger entry was released more often than it was held")
            while self._entries and self._entries[0]._remaining == 0:
                done = self._entries.popleft()
                finished.append(done)
                if done.position is not None and done.position > self._confirmed:
                    self._confirmed = done.position
                    if done.changes:
                        self._worked = done.position
            if finished:
                self.changed.notify_all()
        if self._on_finished is not None:
            for done in finished:
                self._on_finished(done)

    def wake(self) -> None:
        """End every wait below at once: the daemon stops."""
        with self.changed:
            self._woken = True
            self.changed.notify_all()

    def wait_beyond(self, position: int, timeout: float) -> int:
        """The confirmed position, as soon as it is beyond ``position`` or after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while self._confirmed <= position and not self._woken:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self.changed.wait(remaining)
            return self._confirmed

    def worked_beyond(self, position: int) -> bool:
        """Whether anything but idle positions was confirmed after ``position``."""
        with self.changed:
            return self._worked > position

    def wait_room(self, most: int, timeout: float) -> bool:
        """True once fewer than ``most`` entries are open; False after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while len(self._entries) >= most:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self.changed.wait(remaining)
            return True

    def wait_drained(self, timeout: float) -> bool:
        """True once no entry is open; False after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while self._entries:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self.changed.wait(remaining)
            return True

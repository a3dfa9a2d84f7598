"""How fast builds may go: never above a set rate, not at all while live changes are far behind, and in small steps."""

from __future__ import annotations

import threading
import time
from typing import Callable, Optional

from flusso_sync.backoff import Stopped
from flusso_sync.status import Status

#: One snapshot of a build should take about this long; the source keeps dead rows for as long as it is open.
STEP_SECONDS = 0.5
#: Fewest rows of a step, however slow their documents are to build.
FEWEST_ROWS = 50
#: How often a build that waits looks again.
LOOK_SECONDS = 0.2


class Pace:
    """One for all builds and their workers.

    ``most_rows_per_second`` is None for no limit.  ``behind`` tells how many bytes live changes are behind (None:
    unknown); beyond ``most_lag_bytes`` nothing is read until they are at half of that.
    """

    def __init__(
        self,
        *,
        most_rows_per_second: Optional[int],
        most_lag_bytes: Optional[int],
        behind: Callable[[], Optional[int]],
        status: Status,
        stop: threading.Event,
    ) -> None:
        self._rate = most_rows_per_second
        self._most_lag_bytes = most_lag_bytes
        self._behind = behind
        self._status = status
        self._stop = stop
        self._lock = threading.Lock()
        self._free_at = 0.0

    def rows(self, wanted: int) -> int:
        """At most ``wanted`` rows, and no more than one second's worth of the rate."""
        return wanted if self._rate is None else max(1, min(wanted, self._rate))

    def wait(self, rows: int) -> None:
        """Wait until ``rows`` more may be read; raises ``Stopped`` at stop."""
        self._wait_for_live()
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + rows / self._rate
        if self._stop.wait(start - now):
            raise Stopped

    def _wait_for_live(self) -> None:
        if self._most_lag_bytes is None:
            return
        behind = self._behind()
        if behind is None or behind <= self._most_lag_bytes:
            return
        while behind is not None and behind > self._most_lag_bytes // 2:
            self._status.trouble(
                "builds",
                f"builds wait: live changes are {behind} bytes behind (backfill.max_lag_bytes: {self._most_lag_bytes})",
                "They go on by themselves; a sink or a source that is slow is the cause",
                blocking=False,
            )
            if self._stop.wait(LOOK_SECONDS):
                raise Stopped
            behind = self._behind()
        self._status.clear_trouble("builds")


class Stride:
    """How many rows the next step of one build takes: as many as take about ``STEP_SECONDS``, at most ``most``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = min(most, max(FEWEST_ROWS, most // 4))

    def took(self, rows: int, seconds: float) -> None:
        """A step of ``rows`` rows held its snapshot for ``seconds``."""
        if seconds > STEP_SECONDS:
            self.rows = max(min(FEWEST_ROWS, self._most), min(self.rows, int(rows * STEP_SECONDS / seconds)))
        elif seconds < STEP_SECONDS / 2 and rows >= self.rows:
            self.rows = min(self._most, self.rows * 2)

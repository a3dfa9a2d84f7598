"""How fast builds may go: never above a set rate, hardly at all while live changes are far behind, in small steps."""

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
#: While live changes are far behind, one step of all builds together in so long: else a daemon that is always behind
#: would never complete one.
CRAWL_SECONDS = 5.0


class Pace:
    """One for all builds and their workers.

    ``most_rows_per_second`` is None for no limit.  ``behind`` tells how many bytes live changes are behind (None:
    unknown); beyond ``most_lag_bytes`` builds crawl until they are at half of that.
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
        #: Live changes are far behind; when the next step may be taken all the same.
        self._lagging = False
        self._crawl_at = 0.0

    def change(self, *, most_rows_per_second: Optional[int], most_lag_bytes: Optional[int]) -> None:
        """Hold other limits from the next step on; for any thread."""
        with self._lock:
            self._rate = most_rows_per_second
            self._most_lag_bytes = most_lag_bytes
            # What was booked at the former rate is forgotten.
            self._free_at = 0.0

    def rows(self, wanted: int) -> int:
        """At most ``wanted`` rows, and no more than one second's worth of the rate."""
        rate = self._rate
        return wanted if rate is None else max(1, min(wanted, rate))

    def wait(self, rows: int) -> None:
        """Wait until ``rows`` more may be read; raises ``Stopped`` at stop."""
        self._wait_for_live()
        with self._lock:
            if self._rate is None:
                return
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + rows / self._rate
        if self._stop.wait(start - now):
            raise Stopped

    def over(self) -> None:
        """No build is left that could wait for live changes."""
        with self._lock:
            self._lagging = False
            self._status.clear_trouble("builds")

    def _wait_for_live(self) -> None:
        while not self._may_go_on():
            if self._stop.wait(LOOK_SECONDS):
                raise Stopped

    def _may_go_on(self) -> bool:
        """Whether live changes are not far behind, or it is time for a step all the same."""
        most = self._most_lag_bytes
        if most is None:
            return True
        behind = self._behind()
        now = time.monotonic()
        with self._lock:
            was = self._lagging
            # Not before they are at half of it, or a build would start and stop with every batch.
            self._lagging = behind is not None and behind > (most // 2 if was else most)
            if not self._lagging:
                if was:
                    self._status.clear_trouble("builds")
                return True
            self._status.trouble(
                "builds",
                f"builds wait, but for a step every {CRAWL_SECONDS:g} s: live changes are {behind} bytes behind "
                f"(backfill.max_lag_bytes: {most})",
                "They go on by themselves; a sink or a source that is slow is the cause",
                blocking=False,
            )
            if was and now < self._crawl_at:
                return False
            self._crawl_at = now + CRAWL_SECONDS
            return was


class Stride:
    """How large the next step is: as many rows (or writes) as take about ``seconds``, at most ``most``."""

    def __init__(self, most: int, seconds: float = STEP_SECONDS, fewest: int = FEWEST_ROWS) -> None:
        self._most = most
        self._seconds = seconds
        self._fewest = fewest
        self.rows = min(most, max(fewest, most // 4))

    def took(self, rows: int, seconds: float) -> None:
        """A step of ``rows`` rows took ``seconds``."""
        if seconds > self._seconds:
            fitting = int(rows * self._seconds / seconds)
            self.rows = max(min(self._fewest, self._most), min(self.rows, fitting))
        elif seconds < self._seconds / 2 and rows >= self.rows:
            self.rows = min(self._most, self.rows * 2)

"""What happened lately: rates over some seconds, the last hour in points, and the last events.

Pure bookkeeping for :class:`~flusso_sync.status.Status`, under whose lock all of it is used; times are the caller's
monotonic clock.  Nothing here grows with what it counts.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timezone
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Tuple

#: Rates are measured over so long: short enough to follow, long enough to stand still while one reads them.
RATE_SECONDS = 10.0

#: The last hour, a point for each of so many seconds.
POINT_SECONDS = 10.0
POINTS = 360

EVENTS = 100

#: Changes that came within so long of each other are waited for as one; at most so many such groups are told apart.
GROUP_SECONDS = 0.02
GROUPS = 2000


def utc_now() -> str:
    """The time of day as people read it in logs and in ``/status``."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Rate:
    """How fast a running total grows, per second, over the last ``RATE_SECONDS``."""

    def __init__(self, now: float) -> None:
        self._since = now
        #: (when, the total before it grew then), oldest first.
        self._steps: Deque[Tuple[float, int]] = deque()

    def grows(self, total: int, now: float) -> None:
        """The total is about to grow beyond ``total``."""
        if not self._steps or now - self._steps[-1][0] >= RATE_SECONDS / 20:
            self._steps.append((now, total))
            self._forget(now)

    def per_second(self, total: int, now: float) -> float:
        self._forget(now)
        if not self._steps:
            return 0.0
        return (total - self._steps[0][1]) / max(1.0, min(RATE_SECONDS, now - self._since))

    def _forget(self, now: float) -> None:
        while self._steps and now - self._steps[0][0] > RATE_SECONDS:
            self._steps.popleft()


class Waiting:
    """How long the oldest change that is not durable yet has been waited for; counts in the order of the stream."""

    def __init__(self) -> None:
        self._arrived = 0
        self._settled = 0
        #: (how many had arrived with this group, when its first did), oldest first.
        self._groups: Deque[Tuple[int, float]] = deque()

    def arrive(self, n: int, now: float) -> None:
        self._arrived += n
        if self._groups and now - self._groups[-1][1] < GROUP_SECONDS:
            self._groups[-1] = (self._arrived, self._groups[-1][1])
            return
        self._groups.append((self._arrived, now))
        if len(self._groups) > GROUPS:
            # Two become one that is as old as the older of them: never younger than the truth.
            groups = list(self._groups)
            pairs = [(later[0], earlier[1]) for earlier, later in zip(groups[::2], groups[1::2])]
            self._groups = deque([*pairs, *groups[len(pairs) * 2 :]])

    def settle(self, n: int) -> None:
        self._settled = min(self._arrived, self._settled + n)
        while self._groups and self._groups[0][0] <= self._settled:
            self._groups.popleft()

    def oldest(self, now: float) -> float:
        """Seconds; 0 when nothing is waited for."""
        return now - self._groups[0][1] if self._groups else 0.0

    def forget(self) -> None:
        self._settled = self._arrived
        self._groups.clear()


class Point(NamedTuple):
    """``POINT_SECONDS`` of the past, ending at ``at`` (Unix time); None where nobody knew."""

    at: int
    lag_seconds: Optional[float]
    lag_bytes: Optional[int]
    changes_per_second: float
    documents_per_second: float


class History:
    """The last hour; the worst lag of each stretch is kept, not the one that happened to be sampled."""

    def __init__(self, now: float) -> None:
        self._points: Deque[Point] = deque(maxlen=POINTS)
        self._began = now
        self._changes = 0
        self._documents = 0
        self._lag_seconds: Optional[float] = None
        self._lag_bytes: Optional[int] = None

    def lag(self, seconds: Optional[float], bytes: Optional[int]) -> None:
        """Both as they are now."""
        if seconds is not None:
            self._lag_seconds = max(seconds, self._lag_seconds or 0.0)
        if bytes is not None:
            self._lag_bytes = max(bytes, self._lag_bytes or 0)

    def turn(self, changes: int, documents: int, now: float) -> bool:
        """Close the stretch that is over, if it is; the running totals are those of now."""
        seconds = now - self._began
        if seconds < POINT_SECONDS:
            return False
        self._points.append(
            Point(
                int(datetime.now(timezone.utc).timestamp()),
                None if self._lag_seconds is None else round(self._lag_seconds, 3),
                self._lag_bytes,
                round((changes - self._changes) / seconds, 2),
                round((documents - self._documents) / seconds, 2),
            )
        )
        self._began, self._changes, self._documents = now, changes, documents
        self._lag_seconds = self._lag_bytes = None
        return True

    def points(self) -> Tuple[Point, ...]:
        return tuple(self._points)


class Event(NamedTuple):
    """Something worth knowing afterwards.  ``kind``: phase, index, trouble, over, gap, quarantine, error."""

    at: str
    kind: str
    text: str

    def to_json(self) -> Dict[str, Any]:
        return {"at": self.at, "kind": self.kind, "text": self.text}


class Events:
    """The last ``EVENTS`` of them; no secrets, no rows and no ids, for everybody may read them."""

    def __init__(self) -> None:
        self._events: Deque[Event] = deque(maxlen=EVENTS)
        #: (index, how many so far) while nothing else happened since.
        self._parked: Optional[Tuple[str, int]] = None

    def add(self, kind: str, text: str) -> None:
        self._parked = None
        self._events.append(Event(utc_now(), kind, " ".join(text.split())))

    def parked(self, index: str, n: int) -> None:
        """So many documents were parked; what follows one upon the other is one event."""
        before = 0
        if self._parked is not None and self._parked[0] == index:
            before = self._parked[1]
            self._events.pop()
        total = before + n
        self.add("quarantine", f"{total} document{'' if total == 1 else 's'} of index {index} parked")
        self._parked = (index, total)

    def newest(self, most: int) -> List[Event]:
        """Newest first."""
        return list(self._events)[: -most - 1 : -1]

"""How far a build is: which stretches of an index are read and durable, which are under way, which are to come.

Pure bookkeeping.  A build walks an index in the source's own order and hands out one stretch after another; they
become durable in any order.  What is stored is the end of the last stretch handed out and the few before it that are
not durable yet, so a build that goes on after a crash repeats at most what was in flight.

A *mark* is the source's name for a place in its order: any JSON value, opaque here.
"""

from __future__ import annotations

import secrets
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

#: A place between two rows in the source's order.
Mark = Any


class Stretch(NamedTuple):
    """Rows after ``lower`` (None: from the start) up to and including ``upper`` (None: as far as it goes)."""

    lower: Optional[Mark]
    upper: Optional[Mark]


class Frontier:
    """The stretches of one build.  Not locked: its owner is.

    ``order`` says what the marks mean; a stored frontier of another order is worthless, and of another ``build`` too.
    """

    def __init__(self, order: str) -> None:
        self.build = secrets.token_hex(8)
        self.order = order
        self.rows = 0
        self._sequence = 0
        self._next: Optional[Mark] = None
        self._exhausted = False
        #: Left open by an earlier life; read again before anything new.
        self._again: List[Stretch] = []
        self._open: List[Stretch] = []

    @classmethod
    def resumed(cls, stored: Mapping[str, Any]) -> "Frontier":
        """The frontier that ``stored`` describes; what was under way then is to be read again."""
        frontier = cls(str(stored["order"]))
        frontier.build = str(stored["build"])
        frontier.rows = int(stored["rows"])
        frontier._sequence = int(stored["sequence"])
        frontier._next = stored["next"]
        frontier._exhausted = bool(stored["exhausted"])
        frontier._again = [Stretch(lower, upper) for lower, upper in stored["open"]]
        return frontier

    def to_json(self) -> Dict[str, Any]:
        """What :meth:`resumed` takes.  Each call counts, so that of two of one build the later is known."""
        self._sequence += 1
        return {
            "build": self.build,
            "sequence": self._sequence,
            "order": self.order,
            "next": self._next,
            "exhausted": self._exhausted,
            "open": [list(stretch) for stretch in (*self._again, *self._open)],
            "rows": self.rows,
        }

    def wanted(self) -> Optional[Stretch]:
        """Where to read next; None when everything was handed out."""
        if self._again:
            return self._again[0]
        return None if self._exhausted else Stretch(self._next, None)

    def nothing(self) -> None:
        """There were no rows in what :meth:`wanted` named."""
        if self._again:
            self._again.pop(0)
        else:
            self._exhausted = True

    def handed_out(self, upper: Mark) -> Stretch:
        """Rows up to ``upper`` of what :meth:`wanted` named were read; returns the stretch that ``durable`` takes."""
        wanted = self.wanted()
        if wanted is None:
            raise AssertionError("a stretch was handed out after the last one")
        stretch = Stretch(wanted.lower, upper)
        if not self._again:
            self._next = upper
        elif wanted.upper == upper:
            self._again.pop(0)
        else:
            self._again[0] = Stretch(upper, wanted.upper)
        self._open.append(stretch)
        return stretch

    def durable(self, stretch: Stretch, rows: int) -> None:
        """Every document of ``stretch`` is durable; it held ``rows`` rows."""
        self._open.remove(stretch)
        self.rows += rows

    @property
    def under_way(self) -> int:
        """Stretches that were handed out and are not durable yet."""
        return len(self._open)

    @property
    def exhausted(self) -> bool:
        """Nothing is left to hand out."""
        return self._exhausted and not self._again

    @property
    def complete(self) -> bool:
        """Everything was handed out and is durable."""
        return self.exhausted and not self._open


def furthest_behind(stored: Sequence[Optional[Mapping[str, Any]]]) -> Optional[Mapping[str, Any]]:
    """The one that all of ``stored`` (one per sink) agree to go on from; None when they do not belong together."""
    found = [one for one in stored if one is not None]
    if not found or len(found) < len(stored) or len({one.get("build") for one in found}) > 1:
        return None
    # What is durable only grows, so the earliest is true for all.
    return min(found, key=lambda one: int(one["sequence"]))

"""``python -m tests.bench.model``: the model of docs/scale.md beside every build that ``history.jsonl`` holds.

One document costs each of the three processes so many microseconds of a processor.  Where they share a machine, a build
takes the sum of them divided by the processors; where each has a machine of its own, the slowest of them decides.
"""

from __future__ import annotations

import sys
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple

from tests.bench import history
from tests.bench.rig import table

#: Seconds of the daemon's processor time that are its start and its end, whatever it builds.
START_SECONDS = 0.9

BUILDS = ("users", "products", "orders", "all")


class Cost(NamedTuple):
    """Microseconds of a processor for one document."""

    daemon: float
    postgres: float
    opensearch: float


class Point(NamedTuple):
    """One build that was measured, and what the model makes of it."""

    users: int
    run: str
    documents: int
    cost: Cost
    processors: int
    seconds: float

    @property
    def predicted_seconds(self) -> float:
        return START_SECONDS + self.documents * sum(self.cost) / 1e6 / self.processors

    @property
    def apart_per_second(self) -> float:
        """Documents a second where OpenSearch is no limit: the daemon is one process of one processor, and Postgres has
        one of its own for each of two workers."""
        return 1e6 / max(self.cost.daemon, self.cost.postgres / 2)


def points(runs: List[Dict[str, Any]]) -> Iterator[Point]:
    """Every build of every run that was kept."""
    for kept in runs:
        for run in BUILDS:
            if run in kept["runs"]:
                yield point(kept["users"], run, kept["runs"][run], kept["machine"]["processors"])


def point(users: int, run: str, built: Mapping[str, Any], processors: int) -> Point:
    used, documents = built["cpu_seconds"], built["documents"]
    daemon = max(0.0, used["daemon"] - START_SECONDS)
    cost = Cost(*(1e6 * seconds / documents for seconds in (daemon, used["postgres"], used["opensearch"])))
    return Point(users, run, documents, cost, processors, built["seconds"])


def report(found: List[Point]) -> str:
    """The points for people."""
    rows = [["users", "build", "documents", "daemon", "Postgres", "OpenSearch", "model", "measured", "apart"]]
    for one in found:
        rows.append(
            [
                f"{one.users:,}",
                one.run,
                f"{one.documents:,}",
                *(f"{cost:.0f} µs" for cost in one.cost),
                f"{one.predicted_seconds:.1f} s",
                f"{one.seconds:.1f} s",
                f"{one.apart_per_second:,.0f}/s",
            ]
        )
    return table(rows)


if __name__ == "__main__":
    print(report(list(points(history.read()))))
    sys.exit(0)

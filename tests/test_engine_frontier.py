"""A build that goes on after a crash reads every row that was not durable, and little that was."""

from __future__ import annotations

import json
import threading
from typing import List, Set, Tuple

from hypothesis import given
from hypothesis import strategies as st

from flusso_sync.engine.frontier import Frontier, Stretch, furthest_behind
from flusso_sync.engine.seeding import Build
from flusso_sync.status import Status
from tests.third_party import PlainDocuments, Rows


def read(frontier: Frontier, table: List[int], most: int) -> "Tuple[Stretch, List[int]] | None":
    """What a worker does: read the next stretch of ``table``; None when there is none."""
    while True:
        wanted = frontier.wanted()
        if wanted is None:
            return None
        rows = [
            row
            for row in table
            if (wanted.lower is None or row > wanted.lower) and (wanted.upper is None or row <= wanted.upper)
        ][:most]
        if rows:
            return frontier.handed_out(rows[-1] if len(rows) == most or wanted.upper is None else wanted.upper), rows
        frontier.nothing()


@given(
    rows=st.sets(st.integers(0, 60), max_size=40),
    most=st.integers(1, 7),
    steps=st.lists(st.tuples(st.sampled_from("rdksn"), st.integers(0, 60)), max_size=60),
)
def test_whatever_happens_every_row_is_durable_before_a_build_is_complete(
    rows: Set[int], most: int, steps: List[Tuple[str, int]]
) -> None:
    table = sorted(rows)
    frontier = Frontier("by id")
    stored = json.dumps(frontier.to_json())
    in_flight: List[Tuple[Stretch, List[int]]] = []
    durable: Set[int] = set()
    fresh: Set[int] = set()

    def finish(place: int) -> None:
        stretch, read_rows = in_flight.pop(place % len(in_flight))
        durable.update(read_rows)
        frontier.durable(stretch, len(read_rows))

    for step, number in steps:
        if step == "r":
            found = read(frontier, table, most)
            if found is not None:
                in_flight.append(found)
        elif step == "d" and in_flight:
            finish(number)
        elif step == "s":
            stored = json.dumps(frontier.to_json())
        elif step == "n" and number not in table:
            # A new row anywhere: the live stream brings it, so the build need not.
            table = sorted([*table, number])
            fresh.add(number)
        elif step == "k":
            # A crash: whatever was in flight may or may not have arrived.
            frontier, in_flight = Frontier.resumed(json.loads(stored)), []
    while True:
        found = read(frontier, table, most)
        if found is None:
            break
        in_flight.append(found)
    assert frontier.complete is not bool(in_flight)
    while in_flight:
        assert not frontier.complete
        finish(0)
    assert frontier.complete
    assert rows - fresh <= durable


def test_what_is_repeated_is_what_was_in_flight() -> None:
    table = list(range(100))
    frontier = Frontier("by id")
    stretches = [read(frontier, table, 10) for _ in range(6)]
    for done in (0, 1, 3, 4):
        stretch = stretches[done]
        assert stretch is not None
        frontier.durable(stretch[0], 10)
    again = Frontier.resumed(json.loads(json.dumps(frontier.to_json())))
    repeated = []
    while True:
        found = read(again, table, 10)
        if found is None:
            break
        repeated.extend(found[1])
    assert repeated == [*range(20, 30), *range(50, 60), *range(60, 100)]
    assert again.rows == 40


def test_sinks_go_on_from_the_one_that_is_furthest_behind() -> None:
    frontier = Frontier("by id")
    first, second = frontier.to_json(), frontier.to_json()
    assert furthest_behind([second, first]) == first
    assert furthest_behind([second]) == second
    assert furthest_behind([]) is None
    assert furthest_behind([second, None]) is None
    assert furthest_behind([second, Frontier("by id").to_json()]) is None


def test_a_build_reads_no_more_than_its_chunks_under_way_until_they_are_durable_and_stored() -> None:
    rows = Rows({f"k{number:02}": "v" for number in range(20)})
    build = Build("things", {}, Frontier(""), None, 2, most_open=2)
    taken = []
    while build.claim():
        chunk = build.next_chunk(PlainDocuments(rows), 2)
        assert chunk is not None
        taken.append(chunk)
    assert len(taken) == 2
    with build.lock:
        build.durable(taken[0])
    # What is stored does not say so yet: a crash now would read it again.
    assert not build.claim()
    build.save(threading.Event(), Status())
    assert build.claim() and not build.claim()

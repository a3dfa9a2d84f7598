"""What happened lately: rates follow the last seconds, the worst lag is kept, and nothing grows with what it counts."""

from __future__ import annotations

from typing import List

import pytest

from flusso_sync import history as module
from flusso_sync.history import Events, History, Rate, Waiting


def test_a_rate_follows_the_last_seconds_and_ends_at_nothing() -> None:
    rate = Rate(0.0)
    total = 0
    for step in range(1000):
        rate.grows(total, step / 10)
        total += 5
    assert rate.per_second(total, 100.0) == pytest.approx(50, rel=0.06)
    assert rate.per_second(total, 105.0) == pytest.approx(25, rel=0.12)
    assert rate.per_second(total, 120.0) == 0
    assert len(rate._steps) == 0


def test_a_young_rate_is_not_measured_over_seconds_that_were_not() -> None:
    rate = Rate(0.0)
    rate.grows(0, 1.0)
    assert rate.per_second(100, 2.0) == 50
    assert rate.per_second(100, 0.1) == 100, "a burst at the very start is no endless rate"


def test_the_oldest_change_is_waited_for_until_as_many_as_came_before_it_are_durable() -> None:
    waiting = Waiting()
    assert waiting.oldest(5.0) == 0
    waiting.arrive(2, 1.0)
    waiting.arrive(3, 2.0)
    assert waiting.oldest(4.0) == 3
    waiting.settle(1)
    assert waiting.oldest(4.0) == 3, "one of the first two still waits"
    waiting.settle(1)
    assert waiting.oldest(4.0) == 2
    waiting.settle(3)
    assert waiting.oldest(9.0) == 0
    waiting.arrive(1, 10.0)
    waiting.forget()
    assert waiting.oldest(12.0) == 0
    waiting.arrive(1, 13.0)
    assert waiting.oldest(14.0) == 1


def test_an_endless_backlog_is_remembered_in_bounds_and_never_younger_than_it_is() -> None:
    waiting = Waiting()
    arrived: List[float] = [n / 10 for n in range(50_000)]
    for when in arrived:
        waiting.arrive(1, when)
    assert len(waiting._groups) <= module.GROUPS
    assert waiting.oldest(6000.0) == 6000.0
    for settled in range(1, len(arrived)):
        waiting.settle(1)
        if settled % 997 == 0:
            assert waiting.oldest(6000.0) >= 6000.0 - arrived[settled]
    waiting.settle(1)
    assert waiting.oldest(6000.0) == 0


def test_a_point_keeps_the_worst_lag_of_its_stretch_and_the_rates_over_all_of_it() -> None:
    history = History(0.0)
    for seconds, bytes in ((0.2, None), (7.5, 900), (None, 100)):
        history.lag(seconds, bytes)
    assert not history.turn(50, 20, 5.0)
    assert history.turn(100, 40, 20.0)
    assert not history.turn(100, 40, 29.0)
    assert history.turn(100, 40, 31.0)
    first, second = history.points()
    assert first[1:] == (7.5, 900, 5.0, 2.0)
    assert second[1:] == (None, None, 0.0, 0.0), "nobody knew"
    for turn in range(2 * module.POINTS):
        history.turn(0, 0, 100.0 + turn * module.POINT_SECONDS)
    assert len(history.points()) == module.POINTS


def test_events_are_newest_first_bounded_and_on_one_line() -> None:
    events = Events()
    for number in range(3 * module.EVENTS):
        events.add("phase", f"number\n {number}")
    assert [event.text for event in events.newest(2)] == ["number 299", "number 298"]
    assert len(events.newest(10_000)) == module.EVENTS


def test_documents_parked_one_after_the_other_are_one_event() -> None:
    events = Events()
    for _ in range(500):
        events.parked("users", 2)
    events.parked("orders", 1)
    events.parked("users", 1)
    events.add("phase", "phase is stopped")
    events.parked("users", 1)
    assert [event.text for event in events.newest(10)] == [
        "1 document of index users parked",
        "phase is stopped",
        "1 document of index users parked",
        "1 document of index orders parked",
        "1000 documents of index users parked",
    ]

"""The queue holds runs, is bounded in changes, and never lets an idle position wait or overtake."""

from __future__ import annotations

import threading
import time

from flusso_sync.engine.queue import ChangeQueue
from flusso_sync.engine.source import ChangeRun


def run(changes: int, commit: int = 0) -> ChangeRun:
    return ChangeRun([object()] * changes, commit or None, 1)


def test_the_bound_is_counted_in_changes() -> None:
    queue = ChangeQueue(10)
    assert queue.offer(run(6), 0) and queue.offer(run(6), 0)
    assert not queue.offer(run(1), 0.01)
    assert [len(r.changes) for r in queue.take(6, 0)] == [6]
    assert queue.offer(run(1), 0)


def test_a_take_gathers_runs_up_to_its_limit_and_always_one() -> None:
    queue = ChangeQueue(1000)
    for size in (3, 3, 3, 200):
        queue.offer(run(size), 0)
    assert [len(r.changes) for r in queue.take(7, 0)] == [3, 3]
    assert [len(r.changes) for r in queue.take(7, 0)] == [3]
    assert [len(r.changes) for r in queue.take(7, 0)] == [200]
    assert queue.take(7, 0) == []


def test_an_idle_position_replaces_the_one_before_it_and_follows_all_work() -> None:
    queue = ChangeQueue(10)
    queue.offer(run(1, 5), 0)
    queue.offer(ChangeRun((), 6), 0)
    queue.offer(ChangeRun((), 9), 0)
    assert [r.commit for r in queue.take(100, 0)] == [5, 9]
    assert queue.empty()


def test_an_idle_position_is_dropped_when_the_queue_is_full() -> None:
    queue = ChangeQueue(2)
    queue.offer(run(2, 5), 0)
    assert queue.offer(ChangeRun((), 9), None)
    assert [r.commit for r in queue.take(100, 0)] == [5]


def test_a_waiting_put_goes_on_when_space_is_made() -> None:
    queue = ChangeQueue(1)
    queue.offer(run(1), 0)
    done = threading.Event()
    thread = threading.Thread(target=lambda: queue.offer(run(1), 10) and done.set())
    thread.start()
    assert not done.is_set()
    queue.take(1, 0)
    assert done.wait(10)
    thread.join()


def test_a_ring_wakes_an_empty_take_once() -> None:
    queue = ChangeQueue(1)
    threading.Timer(0.01, queue.ring).start()
    started = time.monotonic()
    assert queue.take(1, 10) == []
    assert time.monotonic() - started < 5
    assert queue.take(1, 0.01) == []

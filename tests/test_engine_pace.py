"""Builds never read faster than allowed, wait while live changes are far behind, and keep their snapshots short."""

from __future__ import annotations

import threading
import time
from typing import List, Optional

import pytest

from flusso_sync.backoff import Stopped
from flusso_sync.engine import pace as module
from flusso_sync.engine.pace import FEWEST_ROWS, STEP_SECONDS, Pace, Stride
from flusso_sync.status import Status
from tests.waiting import wait_for


def pace(
    rate: Optional[int] = None,
    lag: Optional[int] = None,
    behind: Optional[List[int]] = None,
    status: Optional[Status] = None,
) -> Pace:
    return Pace(
        most_rows_per_second=rate,
        most_lag_bytes=lag,
        behind=lambda: behind[0] if behind else None,
        status=status or Status(),
        stop=threading.Event(),
    )


def test_workers_together_read_no_more_than_the_rate() -> None:
    one = pace(rate=100)
    assert one.rows(5000) == 100
    started = time.monotonic()
    threads = [threading.Thread(target=lambda: [one.wait(10) for _ in range(3)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    # 60 rows at 100 a second, of which the first ten need not wait.
    assert time.monotonic() - started >= 0.5


def test_builds_wait_while_live_changes_are_far_behind_and_say_so() -> None:
    status = Status()
    behind = [1001]
    one = pace(lag=1000, behind=behind, status=status)
    passed = threading.Event()
    thread = threading.Thread(target=lambda: (one.wait(1), passed.set()))
    thread.start()
    wait_for(
        lambda: [trouble for trouble in status.snapshot().to_json()["trouble"] if "builds wait" in trouble["what"]]
    )
    # Not before they are at half of it, or a build would start and stop with every batch.
    behind[0] = 600
    assert not passed.wait(0.5)
    behind[0] = 500
    assert passed.wait(5)
    thread.join(5)
    assert not status.snapshot().to_json()["trouble"]


def test_builds_crawl_however_far_live_changes_are_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CRAWL_SECONDS", 0.3)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    status = Status()
    one = pace(lag=1000, behind=[1_000_000], status=status)
    started = time.monotonic()
    threads = [threading.Thread(target=lambda: [one.wait(1) for _ in range(2)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    # Four steps, each of which waited for its turn.
    assert time.monotonic() - started >= 4 * 0.3
    assert "builds wait" in status.snapshot().to_json()["trouble"][0]["what"]
    one.over()
    assert not status.snapshot().to_json()["trouble"]


def test_a_stop_ends_every_wait() -> None:
    stop = threading.Event()
    stop.set()
    for one in (
        Pace(most_rows_per_second=1, most_lag_bytes=None, behind=lambda: None, status=Status(), stop=stop),
        Pace(most_rows_per_second=None, most_lag_bytes=1, behind=lambda: 2, status=Status(), stop=stop),
    ):
        with pytest.raises(Stopped):
            one.wait(1)


@pytest.mark.parametrize("seconds_per_row", [0.01, 0.001, 0.00001])
def test_a_step_takes_about_as_long_as_it_should(seconds_per_row: float) -> None:
    stride = Stride(5000)
    for _ in range(20):
        stride.took(stride.rows, stride.rows * seconds_per_row)
    assert stride.rows * seconds_per_row <= STEP_SECONDS or stride.rows == FEWEST_ROWS
    assert stride.rows == 5000 or stride.rows * seconds_per_row >= STEP_SECONDS / 4 or stride.rows == FEWEST_ROWS


def test_a_step_is_never_larger_than_a_chunk() -> None:
    stride = Stride(7)
    for seconds in (100.0, 0.0, 0.0):
        stride.took(stride.rows, seconds)
        assert stride.rows == 7

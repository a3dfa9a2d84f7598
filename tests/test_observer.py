"""Observers hear everything in order and can neither stop nor slow whoever reports."""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import Any, List, Sequence, Tuple

import pytest

from flusso_sync.errors import SourceError
from flusso_sync.observer import BatchStats, Detached, FanOut, Observer, Stage, StatusObserver
from flusso_sync.status import IndexState, Phase, Status
from tests.waiting import wait_for

HOOKS: Sequence[Tuple[str, Tuple[Any, ...]]] = (
    ("on_indexes_ensured", (("users", "orders"),)),
    ("on_backfill_started", (("users",),)),
    ("on_index_seeded", ("users",)),
    ("on_backfill_completed", ()),
    ("on_live_started", ()),
    ("on_changes_captured", (3,)),
    ("on_batch_committed", (BatchStats(changes=3, documents=2, documents_by_index={"users": 2}),)),
    ("on_stage", (Stage("build", 1.0, 0.5, 3),)),
    ("on_slot_lag", (512,)),
    ("on_document_quarantined", ("users", "7", "too large")),
    ("on_error", (RuntimeError("over"),)),
)


def tell_all(observer: Observer) -> None:
    for hook, args in HOOKS:
        getattr(observer, hook)(*args)


class Recorder(Observer):
    def __init__(self) -> None:
        self.heard: List[Tuple[str, Tuple[Any, ...]]] = []
        self.threads: List[str] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def hear(*args: Any) -> None:
            self.heard.append((name, args))
            self.threads.append(threading.current_thread().name)

        return hear


class Inline(Recorder):
    inline = True


class Failing(Observer):
    def on_changes_captured(self, n: int) -> None:
        raise SystemExit("a stranger's mistake")


class FailingInline(Observer):
    inline = True

    def on_changes_captured(self, n: int) -> None:
        raise ValueError("our own mistake")


class Hanging(Observer):
    def __init__(self) -> None:
        self.release = threading.Event()
        self.entered = threading.Event()

    def on_changes_captured(self, n: int) -> None:
        self.entered.set()
        self.release.wait(30)


def test_the_base_class_has_exactly_the_hooks_and_they_do_nothing() -> None:
    assert {name for name in vars(Observer) if name.startswith("on_")} == {hook for hook, _ in HOOKS}
    tell_all(Observer())


def test_fan_out_tells_inline_ones_here_and_others_on_their_own_thread_in_order() -> None:
    ours, theirs = Inline(), Recorder()
    fan = FanOut([ours, theirs])
    fan.start()
    tell_all(fan)
    fan.stop(5)
    assert ours.heard == theirs.heard == list(HOOKS)
    assert set(ours.threads) == {threading.current_thread().name}
    assert len(set(theirs.threads)) == 1 and theirs.threads[0].startswith("flusso-observer-")


def test_events_before_start_are_delivered_and_after_stop_ignored() -> None:
    theirs = Recorder()
    detached = Detached(theirs)
    detached.on_live_started()
    detached.start()
    assert detached.stop(5)
    detached.on_live_started()
    assert theirs.heard == [("on_live_started", ())]
    assert detached.dropped == 0


def test_a_detached_observer_that_was_never_started_can_be_stopped() -> None:
    detached = Detached(Recorder())
    assert detached.stop(5)


def test_a_slow_observer_loses_events_and_never_holds_up_the_reporter(caplog: pytest.LogCaptureFixture) -> None:
    dropped: List[int] = []
    slow = Hanging()
    detached = Detached(slow, capacity=10, on_drop=dropped.append)
    detached.start()
    detached.on_changes_captured(1)
    assert slow.entered.wait(5)
    begin = monotonic()
    for _ in range(1000):
        detached.on_changes_captured(1)
    assert monotonic() - begin < 5
    assert detached.dropped == 990 == sum(dropped)
    assert len([r for r in caplog.records if "too slow" in r.getMessage()]) == 1
    assert not detached.stop(0.05), "it hangs, and stop says so in bounded time"
    slow.release.set()
    wait_for(lambda: not detached._thread.is_alive())


def test_what_a_detached_observer_raises_is_logged_once_and_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Both(Failing):
        live = 0

        def on_live_started(self) -> None:
            self.live += 1

    both = Both()
    detached = Detached(both)
    detached.start()
    for _ in range(3):
        detached.on_changes_captured(1)
        detached.on_live_started()
    assert detached.stop(5)
    assert both.live == 3
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


def test_an_inline_observer_that_raises_stops_nobody_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    after = Inline()
    fan = FanOut([FailingInline(), after])
    fan.on_changes_captured(1)
    fan.on_changes_captured(2)
    assert [args for _, args in after.heard] == [(1,), (2,)]
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


def test_the_stop_of_many_hanging_observers_shares_one_budget() -> None:
    hanging = [Hanging() for _ in range(5)]
    fan = FanOut(hanging)
    fan.start()
    fan.on_changes_captured(1)
    for observer in hanging:
        assert observer.entered.wait(5)
    begin = monotonic()
    fan.stop(1.5)
    assert monotonic() - begin < 6
    for observer in hanging:
        observer.release.set()


def test_the_status_observer_keeps_the_status() -> None:
    status = Status(["users", "orders"])
    tell_all(FanOut([StatusObserver(status)]))
    snapshot = status.snapshot()
    assert snapshot.phase is Phase.LIVE
    assert snapshot.indexes_ensured == 2
    assert snapshot.indexes["users"].state is IndexState.SEEDED
    assert snapshot.indexes["orders"].state is IndexState.PENDING, "live says nothing about an index nobody built"
    assert (snapshot.changes_captured, snapshot.changes_committed, snapshot.documents_built) == (3, 3, 2)
    assert (snapshot.slot_lag_bytes, snapshot.documents_quarantined) == (512, 1)
    assert (snapshot.errors, snapshot.last_error) == (1, "RuntimeError: over")


def test_errors_of_ours_are_shown_with_their_hint_on_one_line() -> None:
    status = Status()
    StatusObserver(status).on_error(SourceError("the slot\nis gone", hint="Make a new one"))
    assert status.snapshot().last_error == "the slot is gone. Make a new one"


def test_a_rebuild_while_live_changes_the_index_and_not_the_phase() -> None:
    status = Status(["users"])
    observer = StatusObserver(status)
    observer.on_backfill_started(["users"])
    assert (status.phase, status.index_state("users")) == (Phase.BACKFILLING, IndexState.BACKFILLING)
    observer.on_index_seeded("users")
    observer.on_live_started()
    observer.on_backfill_started(["users"])
    assert (status.phase, status.index_state("users")) == (Phase.LIVE, IndexState.REBUILDING)


def test_an_index_that_was_complete_is_rebuilt_while_others_wait_for_their_first_build() -> None:
    status = Status(["users", "orders"])
    observer = StatusObserver(status)
    observer.on_backfill_started(["users", "orders"])
    observer.on_index_seeded("users")
    observer.on_backfill_started(["users"])
    assert status.index_state("users") is IndexState.REBUILDING
    assert (status.phase, status.index_state("orders")) == (Phase.BACKFILLING, IndexState.BACKFILLING)

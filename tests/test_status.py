"""Status: one place for what is known, immutable answers, readiness that means progress."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any, Iterator, List

import pytest

from flusso_sync import status as module
from flusso_sync.observer import BatchStats
from flusso_sync.status import IndexState, Phase, Status, format_lsn


class Clock:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    yield clock


def live(status: Status) -> Status:
    status.set_phase(Phase.LIVE)
    return status


def test_json_begins_with_flussos_keys_in_their_order() -> None:
    status = live(Status(["users"]))
    status.set_index_state("users", IndexState.SEEDED)
    status.captured(7)
    status.committed(BatchStats(changes=5, documents=4, documents_by_index={"users": 4}, flush_seconds=0.000812))
    status.lag(11056)
    answer = status.snapshot().to_json()
    flusso = (
        '{"phase":"live","uptime_seconds":0,"indexes":{"users":"seeded"},"changes_captured":7,'
        '"changes_committed":5,"changes_in_flight":2,"documents_built":4,"documents_quarantined":0,'
        '"batches":1,"last_flush_micros":812,"slot_lag_bytes":11056,"errors":0,"last_error":null'
    )
    assert json.dumps(answer, separators=(",", ":")).startswith(flusso + ",")


def test_details_facts_and_positions_are_shown() -> None:
    status = Status()
    status.set_index_state("users", IndexState.DRIFTED, generation=3, reason="column gone")
    status.set_fact("slot.wal_status", "reserved")
    status.set_fact("addresses.public", "127.0.0.1:9464")
    status.set_fact("postgres", "15.4")
    status.set_confirmed(0x16B374D848)
    status.set_gap("the slot is gone")
    answer = status.snapshot().to_json()
    details = answer["index_details"]["users"]
    assert (details["state"], details["generation"], details["reason"]) == ("drifted", 3, "column gone")
    assert answer["slot"] == {"wal_status": "reserved"}
    assert answer["addresses"] == {"public": "127.0.0.1:9464"}
    assert answer["facts"] == {"postgres": "15.4"}
    assert answer["confirmed_lsn"] == "16/B374D848"
    assert answer["gap"] == "the slot is gone"
    status.set_fact("postgres", None)
    status.set_gap(None)
    assert (status.snapshot().to_json()["facts"], status.snapshot().gap) == ({}, None)


def test_a_snapshot_does_not_change_afterwards() -> None:
    status = Status(["users"])
    before = status.snapshot()
    status.captured(3)
    status.set_index_state("users", IndexState.SEEDED, generation=2)
    status.trouble("sink", "away")
    assert before.changes_captured == 0
    assert before.indexes["users"].state is IndexState.PENDING
    assert not before.troubles
    with pytest.raises(AttributeError):
        before.phase = Phase.LIVE  # type: ignore[misc]


def test_a_new_state_forgets_the_reason_and_the_progress_of_the_old_one() -> None:
    status = Status(["users"])
    status.set_index_state("users", IndexState.BACKFILLING, reason="new", generation=1)
    status.set_build_progress("users", 10, 100)
    status.set_index_state("users", IndexState.SEEDED)
    index = status.snapshot().indexes["users"]
    assert index.build is None
    assert index.details == {"generation": 1}


def test_build_rate_and_eta_follow_the_last_seconds(clock: Clock) -> None:
    status = Status(["users"])
    for second in range(100):
        clock.now = 1000.0 + second
        status.set_build_progress("users", second * (10 if second < 50 else 100), 20_000)
    build = status.snapshot().indexes["users"].build
    assert build is not None
    assert build.rate == pytest.approx(100, rel=0.05)
    assert build.eta_seconds == pytest.approx((20_000 - 9_900) / 100, rel=0.05)
    clock.now += 1000
    stalled = status.snapshot().indexes["users"].build
    assert stalled is not None and stalled.rate < 5


def test_a_build_without_an_estimate_has_no_eta() -> None:
    status = Status(["users"])
    status.set_build_progress("users", 10, None)
    build = status.snapshot().indexes["users"].build
    assert build is not None and build.total is None and build.eta_seconds is None


@pytest.mark.parametrize(
    ("phase", "expected"),
    [(Phase.STARTING, False), (Phase.BACKFILLING, True), (Phase.LIVE, True), (Phase.STOPPED, False)],
)
def test_ready_only_while_changes_can_flow(phase: Phase, expected: bool) -> None:
    status = Status()
    status.set_phase(phase)
    ready, reason = status.ready()
    assert ready is expected
    assert reason == "ok" if expected else phase.value in reason


def test_a_blocking_trouble_is_unready_and_a_mere_one_is_not() -> None:
    status = live(Status())
    status.trouble("headroom", "little WAL is left for the slot")
    assert status.ready() == (True, "ok")
    status.trouble("sink", "primary is\naway", "Start it", blocking=True)
    assert status.ready() == (False, "primary is away")
    assert status.clear_trouble("sink")
    assert status.ready() == (True, "ok")
    assert not status.clear_trouble("sink")


def test_while_starting_the_reason_names_what_is_waited_for() -> None:
    status = Status()
    status.trouble("source", "the database is starting up", blocking=True)
    assert status.ready() == (False, "starting: the database is starting up")


def test_a_silent_thread_is_unready_until_it_speaks_again(clock: Clock) -> None:
    status = live(Status())
    status.expect_heartbeat("flusso-engine", 5)
    clock.now += 4
    assert status.ready() == (True, "ok")
    clock.now += 3
    assert status.ready() == (False, "thread flusso-engine has been silent for 7 s")
    status.heartbeat("flusso-engine")
    assert status.ready() == (True, "ok")
    clock.now += 60
    status.forget_threads()
    assert status.ready() == (True, "ok")


def test_a_backlog_that_does_not_move_is_unready_and_idleness_is_not(clock: Clock) -> None:
    status = live(Status(stall_seconds=30))
    clock.now += 3600
    assert status.ready() == (True, "ok"), "idle"
    status.captured(10)
    assert status.ready() == (True, "ok"), "the backlog has only begun"
    clock.now += 31
    assert status.ready() == (False, "10 changes have been waiting for 31 s without progress")
    status.committed(BatchStats(changes=1, documents=1))
    assert status.ready() == (True, "ok"), "it moves"
    clock.now += 31
    assert not status.ready()[0]
    status.progressed()
    assert status.ready() == (True, "ok")


def test_captured_changes_alone_are_no_progress(clock: Clock) -> None:
    status = live(Status(stall_seconds=30))
    for _ in range(40):
        status.captured(1)
        clock.now += 1
    assert not status.ready()[0]


def test_trouble_counts_and_keeps_its_first_time(clock: Clock) -> None:
    status = Status()
    for _ in range(3):
        status.trouble("sink", "away", "Start it")
        clock.now += 2
    (trouble,) = status.troubles()
    assert (trouble.key, trouble.count, trouble.todo, trouble.seconds) == ("sink", 3, "Start it", 6)


def test_trouble_is_logged_first_then_at_doubling_intervals_then_once_when_over(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flusso_sync.status")
    status = Status()
    said: List[float] = []
    for _ in range(1000):
        before = len(caplog.records)
        status.trouble("sink", "primary is away", "Start it")
        if len(caplog.records) > before:
            said.append(clock.now - 1000.0)
        clock.now += 1
    assert said == [0, 10, 30, 70, 150, 310, 630]
    assert caplog.records[0].getMessage() == "primary is away. Start it"
    assert "631 times in 630 s" in caplog.records[-1].getMessage()
    caplog.clear()
    status.clear_trouble("sink")
    status.clear_trouble("sink")
    assert [record.getMessage() for record in caplog.records] == ["over: primary is away (1000 times in 1000 s)"]


def test_a_flapping_trouble_is_logged_at_doubling_intervals_too(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flusso_sync.status")
    status = Status()
    for _ in range(1000):
        status.trouble("sink", "asks to wait")
        clock.now += 0.5
        status.clear_trouble("sink")
        clock.now += 0.5
        assert not status.troubles()
    records = [record for record in caplog.records if record.name == module.logger.name]
    said = [record.getMessage() for record in records if record.levelno == logging.WARNING]
    assert len(said) == 7
    assert said[1] == "asks to wait (came back 10 times)"
    assert len(records) == 14, "each that was said is also said to be over"
    caplog.clear()
    clock.now += 100
    status.trouble("sink", "asks to wait")
    assert [record.getMessage() for record in caplog.records if record.name == module.logger.name] == ["asks to wait"]


def test_another_run_keeps_counters_and_forgets_threads_and_changes_in_flight(clock: Clock) -> None:
    status = live(Status(["users"]))
    status.captured(10)
    status.committed(BatchStats(changes=4, documents=4))
    status.expect_heartbeat("flusso-engine", 5)
    status.error("the database went away")
    clock.now += 100
    status.reset_for_run()
    snapshot = status.snapshot()
    assert (snapshot.phase, snapshot.changes_captured, snapshot.changes_committed) == (Phase.STARTING, 10, 4)
    assert (snapshot.changes_in_flight, snapshot.uptime_seconds, snapshot.errors) == (0, 100, 1)
    assert snapshot.threads == ()
    status.set_phase(Phase.LIVE)
    assert status.ready() == (True, "ok")


def test_troubles_of_an_earlier_run_end_when_the_next_one_flows_unless_said_again(clock: Clock) -> None:
    status = live(Status())
    status.trouble("source", "cut off", blocking=True)
    status.trouble("blind", "a table cannot be heard")
    clock.now += 1
    status.reset_for_run()
    clock.now += 1
    status.trouble("blind", "a table cannot be heard")
    status.set_phase(Phase.LIVE)
    assert [trouble.key for trouble in status.troubles()] == ["blind"]
    assert status.troubles()[0].count == 2


def test_untraceable_changes_are_counted_by_table() -> None:
    status = Status()
    status.untraceable({"public.notes": 1})
    before = status.snapshot()
    status.untraceable({"public.items": 2, "public.notes": 1})
    assert status.snapshot().facts["untraceable_changes"] == {"public.items": 2, "public.notes": 2}
    assert before.facts["untraceable_changes"] == {"public.notes": 1}


def test_quarantine_counts_what_came_and_shows_what_is_there() -> None:
    status = Status(["users"])
    status.quarantined("users")
    status.quarantined("users", 2)
    status.set_quarantined("users", 1)
    snapshot = status.snapshot()
    assert snapshot.documents_quarantined == 3
    assert snapshot.indexes["users"].quarantined == 1


def test_wait_for_wakes_on_a_change_and_ends_at_its_deadline() -> None:
    status = Status()
    reached = threading.Event()

    def wait() -> None:
        if status.wait_for(lambda: status.phase is Phase.LIVE, 10):
            reached.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    status.set_phase(Phase.LIVE)
    waiter.join(5)
    assert reached.is_set()
    assert not status.wait_for(lambda: (status.confirmed or 0) > 0, 0.01)


def test_lag_is_never_negative_and_unknown_is_none() -> None:
    status = Status()
    assert status.snapshot().slot_lag_bytes is None
    status.lag(-24)
    assert status.snapshot().slot_lag_bytes == 0
    status.lag(None)
    assert status.snapshot().slot_lag_bytes is None


def test_readers_and_writers_meet_without_losing_counts() -> None:
    status = live(Status())
    stop = threading.Event()
    failures: List[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                status.snapshot().to_json()
                status.ready()
        except BaseException as error:
            failures.append(error)

    def write(name: str) -> None:
        for n in range(500):
            status.captured(1)
            status.heartbeat(f"{name}-{n}")
            status.committed(BatchStats(changes=1, documents=1))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(str(n),)) for n in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    snapshot: Any = status.snapshot()
    assert (snapshot.changes_captured, snapshot.changes_committed, snapshot.changes_in_flight) == (2000, 2000, 0)
    assert not failures


def test_lsn_text_is_postgres_form() -> None:
    assert format_lsn(0) == "0/0"
    assert format_lsn((1 << 32) | 0xABC) == "1/ABC"


def test_a_sentence_is_closed_once_before_what_to_do(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    status = Status()
    status.trouble("one", "Is the server running?", "It is tried again")
    status.trouble("two", "away", "It is tried again")
    said = [record.getMessage() for record in caplog.records if record.name == module.logger.name]
    assert said == ["Is the server running? It is tried again", "away. It is tried again"]


def test_lag_is_the_age_of_the_oldest_change_that_is_not_durable(clock: Clock) -> None:
    status = Status(["users", "orders"])
    status.captured(1)
    assert status.snapshot().lag_seconds is None, "nothing flows yet"
    live(status)
    status.set_index_state("users", IndexState.SEEDED)
    clock.now += 3
    status.captured(1)
    clock.now += 2
    snapshot = status.snapshot()
    assert snapshot.lag_seconds == 5
    assert snapshot.indexes["users"].lag_seconds == 5
    assert snapshot.indexes["orders"].lag_seconds is None, "readers see nothing of it"
    status.committed(BatchStats(changes=1, documents=1))
    assert status.snapshot().lag_seconds == 2
    status.committed(BatchStats(changes=1, documents=1))
    assert status.snapshot().lag_seconds == 0
    status.trouble("source stream", "the server is away", blocking=True)
    clock.now += 7
    assert status.snapshot().lag_seconds == 7, "what happens there is heard of later"
    status.set_index_state("users", IndexState.DRIFTED)
    clock.now += 60
    assert status.snapshot().indexes["users"].lag_seconds == 60


def test_rates_stages_and_what_sinks_hold_are_shown(clock: Clock) -> None:
    status = live(Status(["users"]))
    clock.now += 100
    status.captured(50)
    status.committed(BatchStats(changes=50, documents=30, documents_by_index={"users": 30}))
    status.stage("build", 0.25)
    status.stage("build", 0.5)
    status.waited_for_visibility(0.125)
    status.set_index_state("users", IndexState.SEEDED, generation=1)
    status.set_index_sinks("users", "silent", {"generation": None, "documents": None, "kept": 0})
    status.set_index_sinks("users", "search", {"generation": 4, "documents": 12_000, "kept": 1})
    answer = status.snapshot().to_json()
    assert answer["rates"] == {"changes_per_second": 5, "documents_per_second": 3}
    assert answer["stages"] == {"build": {"count": 2, "seconds": 0.75, "last_seconds": 0.5}}
    assert answer["visibility"] == {"waits": 1, "seconds": 0.125}
    users = answer["index_details"]["users"]
    assert (users["documents"], users["generation"], users["documents_per_second"]) == (12_000, 4, 3)
    assert users["sinks"]["search"]["kept"] == 1


def test_figures_are_asked_for_when_somebody_looks_and_may_fail() -> None:
    status = Status()

    def broken() -> Any:
        raise RuntimeError("about to end")

    def queue() -> Any:
        # Another thread may hold this part's lock while it tells the status something: so ours must be free here.
        told = threading.Thread(target=lambda: status.captured(1))
        told.start()
        told.join(10)
        return {"changes": 3, "capacity": 10, "free": not told.is_alive()}

    status.set_figures("queue", queue)
    status.set_figures("sinks", broken)
    answer = status.snapshot().to_json()
    assert answer["queue"] == {"changes": 3, "capacity": 10, "free": True}
    assert answer["sinks"] == {}
    status.set_figures("queue", None)
    assert status.snapshot().to_json()["queue"] == {}


def test_what_happened_is_told_newest_first_without_repeating_itself(clock: Clock) -> None:
    status = live(Status(["users"]))
    status.set_index_state("users", IndexState.BACKFILLING)
    status.set_index_state("users", IndexState.SEEDED)
    status.quarantined("users", 2)
    for _ in range(5):
        status.trouble("sink search", "search is away", blocking=True)
        clock.now += 20
    status.clear_trouble("sink search")
    status.set_gap("the slot is gone")
    status.set_gap("the slot is gone")
    status.error("lost\nit")
    events = [(event["kind"], event["text"]) for event in status.snapshot().to_json()["events"]]
    assert events == [
        ("error", "lost it"),
        ("gap", "the slot is gone"),
        ("over", "over: search is away"),
        ("trouble", "search is away"),
        ("quarantine", "2 documents of index users parked"),
        ("index", "index users is seeded"),
        ("index", "index users is backfilling"),
        ("phase", "phase is live"),
    ]
    for number in range(200):
        status.trouble(f"sink {number}", "away")
    assert len(status.snapshot().to_json()["events"]) == module.EVENTS_SHOWN

"""The slot: whom its birth waits for, who may use it, and when it does not continue what was recorded."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any, Iterator, List

import psycopg
import pytest

from flusso_sync.backoff import Stopped
from flusso_sync.errors import SlotInUse, SlotLost, SourceRefused
from flusso_sync.postgres import slot as module
from flusso_sync.postgres.connection import SourceAccess
from flusso_sync.postgres.replication import ReplicationStream
from flusso_sync.postgres.slot import (
    SlotState,
    create_slot,
    describe_gap,
    drop_slot,
    find_slot,
    guard_slot,
    wait_for_older,
)
from tests.postgres_server import Database, PostgresServer
from tests.waiting import wait_for


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    database.execute("CREATE TABLE things (id int)")
    with closing(database.connect()) as connection:
        yield connection


@pytest.fixture
def name(database: Database) -> str:
    return f"slot_{database.name}"[:60]


def test_a_slot_is_created_found_and_dropped(connection: psycopg.Connection[Any], name: str) -> None:
    assert find_slot(connection, name) is None
    position = create_slot(connection, name, threading.Event(), lambda what: None)
    found = find_slot(connection, name)
    assert found is not None and found.confirmed == position > 0
    assert found.wal_status == "reserved" and found.active_pid is None
    drop_slot(connection, name)
    drop_slot(connection, name)
    assert find_slot(connection, name) is None


def test_the_birth_of_a_slot_names_the_writers_it_waits_for_also_in_other_databases(
    connection: psycopg.Connection[Any],
    database: Database,
    postgres: PostgresServer,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CREATE_ATTEMPT_MILLISECONDS", 200)
    # As on the daemon's connections: a table lock is never waited for longer than this.
    connection.execute("SET lock_timeout = '50ms'")
    told: List[str] = []
    born: List[int] = []
    with database.connect(autocommit=False) as here, postgres.connect(autocommit=False) as there:
        here.execute("INSERT INTO things VALUES (1)")
        there.execute("SELECT pg_current_xact_id()")
        pids = [held.info.backend_pid for held in (here, there)]
        thread = threading.Thread(
            target=lambda: born.append(create_slot(connection, name, threading.Event(), told.append))
        )
        thread.start()
        wait_for(lambda: told and all(f"pid {pid}, open for" in told[-1] for pid in pids))
        here.rollback()
        wait_for(lambda: f"pid {pids[0]}," not in told[-1])
        assert f"pid {pids[1]}," in told[-1] and "in database postgres" in told[-1]
        there.rollback()
    thread.join(20)
    assert born and born[0] > 0


def test_a_stop_ends_the_wait_for_writers(
    connection: psycopg.Connection[Any], database: Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CREATE_ATTEMPT_MILLISECONDS", 100)
    stop = threading.Event()
    with database.connect(autocommit=False) as writer:
        writer.execute("INSERT INTO things VALUES (1)")
        with pytest.raises(Stopped):
            create_slot(connection, name, stop, lambda what: stop.set())
        with pytest.raises(Stopped):
            wait_for_older(connection, stop, lambda what: None)
    assert find_slot(connection, name) is None


def test_a_stop_ends_an_attempt_that_has_long_to_go(
    connection: psycopg.Connection[Any], database: Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CREATE_ATTEMPT_MILLISECONDS", 60_000)
    stop = threading.Event()
    told: List[str] = []
    ended: List[BaseException] = []

    def create() -> None:
        try:
            create_slot(connection, name, stop, told.append)
        except BaseException as error:
            ended.append(error)

    with database.connect(autocommit=False) as writer:
        writer.execute("INSERT INTO things VALUES (1)")
        thread = threading.Thread(target=create)
        thread.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        wait_for(lambda: database.execute(waits, [connection.info.backend_pid]))
        stop.set()
        thread.join(15)
        assert not thread.is_alive() and isinstance(ended[0], Stopped) and told == []
    assert find_slot(connection, name) is None


def test_older_transactions_are_waited_for_and_named(connection: psycopg.Connection[Any], database: Database) -> None:
    told: List[str] = []
    done = threading.Event()

    def wait() -> None:
        wait_for_older(connection, threading.Event(), told.append)
        done.set()

    with database.connect(autocommit=False) as older:
        older.execute("INSERT INTO things VALUES (1)")
        thread = threading.Thread(target=wait)
        thread.start()
        wait_for(lambda: told and f"pid {older.info.backend_pid}," in told[-1])
        # One that began later is not waited for.
        with database.connect(autocommit=False) as later:
            later.execute("INSERT INTO things VALUES (2)")
            assert not done.is_set()
            older.rollback()
            assert done.wait(10)
    thread.join(10)


def test_another_daemon_is_named_and_gone_when_its_session_is(
    connection: psycopg.Connection[Any], database: Database, name: str
) -> None:
    with closing(database.connect()) as first:
        guard_slot(first, name)
        with pytest.raises(SlotInUse, match=f"backend pid {first.info.backend_pid}") as caught:
            guard_slot(connection, name)
        assert caught.value.transient
        guard_slot(connection, name + "2")
    wait_for(lambda: _guarded(connection, name))


def test_the_lock_of_a_session_that_is_just_ending_is_waited_for(
    connection: psycopg.Connection[Any], database: Database, name: str
) -> None:
    """A backend gives its locks back when it has ended, which is later than the client's close."""
    first = database.connect()
    guard_slot(first, name)
    ending = threading.Timer(0.2, first.close)
    ending.start()
    guard_slot(connection, name)
    ending.join()
    # For the session, not for the transaction; and the limit of the wait is gone.
    with closing(database.connect()) as other, pytest.raises(SlotInUse):
        guard_slot(other, name)
    assert connection.execute("SHOW lock_timeout").fetchall() == database.execute("SHOW lock_timeout")


def _guarded(connection: psycopg.Connection[Any], name: str) -> bool:
    try:
        guard_slot(connection, name)
    except SlotInUse:
        return False
    return True


def test_slots_that_are_not_ours_are_refused(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute("SELECT pg_create_physical_replication_slot(%s)", [name])
    try:
        with pytest.raises(SourceRefused, match="physical slot"):
            find_slot(connection, name)
    finally:
        connection.execute("SELECT pg_drop_replication_slot(%s)", [name])


def state(confirmed: int, wal_status: str = "reserved") -> SlotState:
    return SlotState(confirmed, None, wal_status, None, 0)


def test_a_gap_is_whatever_lies_between_the_record_and_the_slot() -> None:
    assert describe_gap("s", None, None) is None
    assert describe_gap("s", state(10), None) is None
    assert describe_gap("s", state(10), 10) is None
    assert describe_gap("s", state(9), 10) is None
    assert "is gone" in (describe_gap("s", None, 10) or "")
    assert "removed WAL" in (describe_gap("s", state(9, "lost"), 10) or "")
    for why, told in (("", "removed WAL"), ("wal_removed", "removed WAL"), ("idle_timeout", "(idle_timeout)")):
        assert told in (describe_gap("s", state(9, "lost")._replace(invalidation_reason=why), 10) or "")
    assert "beyond our record 0/A" in (describe_gap("s", state(11), 10) or "")


def test_a_slot_whose_wal_was_removed_is_a_gap_and_not_the_end(
    connection: psycopg.Connection[Any], database: Database, postgres: PostgresServer, name: str
) -> None:
    # Given a slot that the server gave up because it held too much
    position = create_slot(connection, name, threading.Event(), lambda what: None)
    connection.execute("CREATE PUBLICATION p FOR TABLE things")
    postgres.set(max_slot_wal_keep_size="1MB")
    try:

        def lost() -> bool:
            connection.execute("INSERT INTO things SELECT generate_series(1, 50000)")
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")
            found = find_slot(connection, name)
            return found is not None and found.wal_status == "lost"

        wait_for(lost, 60)
        # Then the stream is refused with an error that lays the pipeline anew, which finds the gap
        with pytest.raises(SlotLost) as caught:
            ReplicationStream(SourceAccess(lambda: database.url, "here"), name, "p", position)
        assert caught.value.relay
    finally:
        postgres.set(max_slot_wal_keep_size=None)
        drop_slot(connection, name)

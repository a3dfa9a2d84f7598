"""Writers: the same seed gives the same history, every kind of step happens, and what fails does no harm."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest
from psycopg import sql

from tests.cases import CASES, SHOP, THIRTY
from tests.histories import History, Step, Transaction, Writer, carry_out, read_tables
from tests.oracle import compare, evaluate_all
from tests.postgres_server import Database
from tests.waiting import wait_for

KINDS = {"insert", "upsert", "update", "update many", "touch", "move", "change key", "delete", "replace"}


def first(history: History, count: int) -> List[Transaction]:
    return list(itertools.islice(history, count))


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_the_same_seed_gives_the_same_history(database: Database, case: Any) -> None:
    case.load(database.url)
    with database.connect() as connection:
        tables = read_tables(connection, case)
        again = read_tables(connection, case)
    assert first(History(tables, 7), 300) == first(History(again, 7), 300)
    assert first(History(tables, 7), 300) != first(History(tables, 8), 300)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_every_kind_of_step_changes_rows_and_failures_change_nothing(database: Database, case: Any) -> None:
    case.load(database.url)
    counts = Writer(database.url, 3, case, limit=1500).start().join(60)
    assert KINDS | {"transactions", "rolled back", "failed"} <= counts.keys()
    assert counts["transactions"] > counts["failed"] + counts["rolled back"] and "disconnected" not in counts
    with database.connect() as connection:
        documents = evaluate_all(connection, case.indexes)
        full = sum(bool(found) for found in documents.values())
        assert full * 10 >= len(documents) * 9, "a history must not empty the tables"
        undone = [t for t in first(History(read_tables(connection, case), 4), 500) if t.rolled_back]
        assert undone
        for transaction in undone:
            carry_out(connection, transaction)
        after = evaluate_all(connection, case.indexes)
    assert all(compare(documents[index], after[index]) == [] for index in after)


def test_an_undone_subtransaction_leaves_no_trace_and_the_rest_stays(database: Database) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    insert = sql.SQL("INSERT INTO {} VALUES (%s::int)").format(sql.Identifier("t"))
    steps = tuple(Step("insert", insert, (str(n),), savepoint) for n, savepoint in enumerate((0, 1, 1, 2, 3)))
    with database.connect() as connection:
        assert carry_out(connection, Transaction(steps, frozenset({1, 3}))) == {"insert": 2, "transactions": 1}
        assert database.execute("SELECT id FROM t ORDER BY id") == [(0,), (3,)]
        assert carry_out(connection, Transaction(steps)) == {"failed": 1}
        assert carry_out(connection, Transaction(steps[1:3], rolled_back=True)) == {"rolled back": 1}
    assert database.execute("SELECT id FROM t ORDER BY id") == [(0,), (3,)]


def test_two_writers_work_side_by_side_until_they_are_stopped(database: Database) -> None:
    THIRTY.load(database.url)
    with Writer(database.url, 1, THIRTY, limit=200) as one, Writer(database.url, 2, THIRTY, limit=200) as two:
        one.join(60)
        two.join(60)
    for writer in (one, two):
        counts = writer.counts
        assert counts["transactions"] + counts["rolled back"] + counts["failed"] == 200


def test_a_writer_survives_its_connection_and_stops_when_told(database: Database) -> None:
    SHOP.load(database.url)
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'writer-5'"
    with Writer(database.url, 5, SHOP) as writer:
        wait_for(lambda: writer.counts["transactions"])
        assert database.execute(terminate) == [(True,)]
        wait_for(lambda: writer.counts["disconnected"])
        before = writer.counts["transactions"]
        wait_for(lambda: writer.counts["transactions"] > before)
        counts = writer.stop()
    assert counts["disconnected"] >= 1


def test_what_ends_a_writer_early_is_raised_by_stop(database: Database) -> None:
    writer = Writer(database.url, 1, SHOP).start()  # The tables are not there.
    with pytest.raises(Exception, match="does not exist"):
        writer.stop()


def test_a_writer_runs_as_a_program_until_sigterm(database: Database) -> None:
    SHOP.load(database.url)
    command = [sys.executable, "-m", "tests.histories", database.url, "shop", "9"]
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGTERM)
        assert isinstance(json.loads(process.stdout.read()), dict)
        assert process.wait(30) == 0

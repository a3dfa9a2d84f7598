"""``flusso_sync.testing``: other people's tests get a Postgres, a daemon in memory and a question that can say no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator, Optional

import pytest

from flusso_sync.errors import SinkUnavailable
from flusso_sync.sinks.base import Write
from flusso_sync.sinks.memory import Refusal
from flusso_sync.testing import InMemory, assert_in_sync, configuration, run_in_memory
from tests.postgres_server import Database

CHECKOUT = Path(__file__).resolve().parent.parent

SCHEMA = {
    "version": 1,
    "table": "users",
    "primary_key": "id",
    "fields": [{"integer": "id", "required": True}, {"text": "name", "required": False}],
}
TABLE = "CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'ada'), (2, 'bob')"

CONFTEST = 'pytest_plugins = ["flusso_sync.testing.plugin"]\n'
THEIR_TESTS = f"""
import json
import pytest
from flusso_sync.sinks.base import Write
from flusso_sync.testing import assert_in_sync


@pytest.fixture
def users(flusso_database, flusso_in_memory, tmp_path):
    flusso_database.execute({TABLE!r})
    (tmp_path / "users.schema.yml").write_text(json.dumps({SCHEMA!r}))
    return flusso_in_memory({{"users": tmp_path / "users.schema.yml"}}, engine={{"batch_changes": 10}})


def test_right(users, flusso_database):
    flusso_database.execute("UPDATE users SET name = 'eve' WHERE id = 2; INSERT INTO users VALUES (3, NULL)")
    assert_in_sync(users)
    assert users.get("users", "2") == {{"id": 2, "name": "eve"}}
    assert set(users.all("users")) == {{"1", "2", "3"}}


def test_wrong(users):
    users.sink.write([Write("users", "1", None, 2**62)])
    assert_in_sync(users)
"""


@pytest.mark.pg
@pytest.mark.slow
def test_an_outsiders_tests_use_the_plugin_and_can_fail(tmp_path: Path, database: Database) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_theirs.py").write_text(THEIR_TESTS)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    said = ran.stdout.decode()
    assert "1 failed, 1 passed" in said, said
    assert "memory: users/1 is missing" in said
    assert "FAILED" in said and "::test_wrong" in said


@pytest.fixture
def users(database: Database, tmp_path: Path) -> Iterator[InMemory]:
    database.execute(TABLE)
    path = tmp_path / "users.schema.yml"
    path.write_text(json.dumps(SCHEMA))
    with run_in_memory(configuration(database.url, {"users": path})) as documents:
        yield documents


@pytest.mark.parametrize(
    "id, body, said",
    [
        ("1", None, "users/1 is missing"),
        ("2", b'{"id":2,"name":"bert"}', 'users/2 is different at name: the rows say "bob", the index "bert"'),
        ("9", b'{"id":9,"name":null}', "users/9 is extra"),
    ],
)
def test_what_is_not_as_its_row_says_is_named(users: InMemory, id: str, body: Optional[bytes], said: str) -> None:
    assert_in_sync(users)
    users.sink.write([Write("users", id, body, 2**62)])
    with pytest.raises(AssertionError, match="1 documents are not as their rows say") as caught:
        assert_in_sync(users)
    assert said in str(caught.value)


def test_rows_that_change_meanwhile_are_no_differences(users: InMemory, database: Database) -> None:
    stop = threading.Event()

    def write() -> None:
        with database.connect() as connection:
            number = 0
            while not stop.is_set():
                number += 1
                connection.execute("UPDATE users SET name = %s WHERE id = 1", [str(number)])
                connection.execute("INSERT INTO users VALUES (%s)", [number + 10])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            assert_in_sync(users)
    finally:
        stop.set()
        writer.join()
    assert_in_sync(users)
    assert len(users.all("users")) > 2


def test_a_daemon_of_ones_own_is_compared_by_its_configuration(users: InMemory) -> None:
    assert_in_sync(users.running, users.config)
    with pytest.raises(ValueError, match="by its configuration"):
        assert_in_sync(users.running)


def test_a_sink_that_is_away_fails_the_assertion_in_time_and_heals(users: InMemory, database: Database) -> None:
    away = Refusal(SinkUnavailable("sink memory: away"))
    users.sink.faults = lambda method, writes: away if method == "write" else None
    database.execute("INSERT INTO users VALUES (7)")
    with pytest.raises(AssertionError, match="is not found in time"):
        assert_in_sync(users, timeout=1.0)
    users.sink.faults = None
    assert_in_sync(users)


@pytest.mark.parametrize("place", ["shop-7", "shop-7?host=/run/postgresql"])
def test_slot_and_publication_are_named_after_the_database(tmp_path: Path, place: str) -> None:
    (tmp_path / "users.schema.yml").write_text(json.dumps(SCHEMA))
    config = configuration(f"postgresql://me@localhost/{place}", {"users": tmp_path / "users.schema.yml"})
    assert (config.source.slot, config.source.publication) == ("shop_7", "shop_7")

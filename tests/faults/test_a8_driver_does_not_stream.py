"""Fault A8: the driver has no replication API, so COPY BOTH is ours: nothing unknown is parsed, nothing cut is taken
for whole, with the oldest and the newest driver."""

from __future__ import annotations

import subprocess
from typing import List, Tuple

import pytest

from flusso_sync.errors import SourceError, SourceUnavailable
from flusso_sync.postgres.connection import SourceAccess
from flusso_sync.postgres.pgoutput import Decoder, MalformedMessage, Wanted
from flusso_sync.postgres.replication import ReplicationStream
from flusso_sync.schema.plan import Table
from tests.fix_daemon import CHECKOUT, clean_environment
from tests.postgres_server import Database
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.fault]

#: Streams a transaction and prints how many messages came; run under other Pythons, too.
SCRIPT = """
import sys
import psycopg
from flusso_sync.postgres.connection import SourceAccess
from flusso_sync.postgres.replication import Keepalive, ReplicationStream
import threading
stream = ReplicationStream(SourceAccess(lambda: sys.argv[1], "here"), "s", "p", int(sys.argv[2]))
found = 0
while found < 5:
    message = stream.receive()
    if message is None:
        stream.wait(1)
    elif not isinstance(message, Keepalive):
        found += 1
stream.feedback(0)
stream.end()
print(psycopg.__version__, found)
"""


@pytest.fixture
def slot(database: Database) -> Database:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION p FOR TABLE t")
    database.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    database.execute("BEGIN; INSERT INTO t VALUES (1, 'é☃'); UPDATE t SET id = 2; DELETE FROM t; COMMIT")
    return database


def stream_of(database: Database) -> ReplicationStream:
    return ReplicationStream(SourceAccess(lambda: database.url, "here"), "s", "p", start_of(database))


def start_of(database: Database) -> int:
    return int(
        database.execute("SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE slot_name = 's'")[
            0
        ][0]
    )


def test_every_real_message_cut_anywhere_is_refused(slot: Database) -> None:
    stream = stream_of(slot)
    messages: List[bytes] = []

    def received() -> bool:
        stream.wait(0.1)
        message = stream.receive()
        if isinstance(message, bytes):
            messages.append(message)
        return len(messages) == 6

    wait_for(received, 20, "begin, relation, three changes, commit")
    stream.end()
    # All of it is read: of a tuple, what lies behind the last column that is needed is not even looked at.
    wanted = {Table("public", "t"): Wanted(Table("public", "t"), ("id", "v"), None)}
    for number, message in enumerate(messages):
        for length in range(len(message)):
            decoder = Decoder(wanted.get)
            for whole in messages[:number]:
                decoder.decode(whole)
            with pytest.raises(MalformedMessage):
                decoder.decode(message[:length])


@pytest.mark.parametrize("kind", [b"X", b"\x00", b"z"])
def test_messages_of_unknown_kind_are_errors(slot: Database, kind: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MalformedMessage):
        Decoder({}.get).decode(kind + b"\x00" * 16)
    stream = stream_of(slot)

    class Strange:
        def get_copy_data(self, wait: int) -> Tuple[int, memoryview]:
            return 17, memoryview(kind + b"\x00" * 16)

    monkeypatch.setattr(stream, "_pg", Strange())
    with pytest.raises(SourceError, match="unknown kind") as caught:
        stream.receive()
    assert not isinstance(caught.value, SourceUnavailable)
    stream.close()


def pythons() -> List[str]:
    """Every environment that bin/test made: the newest Python with the newest driver, the oldest with the oldest."""
    return sorted(str(path) for path in CHECKOUT.glob(".venv*/bin/python"))


@pytest.mark.parametrize("python", pythons())
def test_the_stream_runs_with_the_driver_of_each_environment(slot: Database, python: str) -> None:
    env = clean_environment(PYTHONPATH=str(CHECKOUT))
    run = subprocess.run(
        [python, "-c", SCRIPT, slot.url, str(start_of(slot))], env=env, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[1] == "5"

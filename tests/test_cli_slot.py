"""``flussod slot``: shown and dropped on a real Postgres, and never taken from a daemon."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import psycopg
import pytest

from tests.fix_daemon import FLUSSOD, clean_environment, write_yaml
from tests.postgres_server import Database

Ran = Tuple[int, str, str]


class Given:
    """A database with a slot, as a daemon that is stopped leaves it, and a configuration that names it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.slot = f"flusso_{database.name}"[:60]
        self.config = folder / "flusso.yaml"
        source: Dict[str, Any] = {"type": "postgres", "connection_url": database.url, "slot": self.slot}
        write_yaml(self.config, {"source": source})
        database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self.slot])

    def run(self, *arguments: str) -> Ran:
        done = subprocess.run(
            [str(FLUSSOD), "slot", *arguments, "-c", str(self.config)],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    @property
    def there(self) -> bool:
        return bool(self.database.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [self.slot]))


@pytest.fixture
def given(database: Database, tmp_path: Path) -> Iterator[Given]:
    yield Given(database, tmp_path)


def test_it_is_shown_with_what_it_retains_and_dropped_for_good(given: Given) -> None:
    given.database.execute("CREATE TABLE filler AS SELECT repeat('x', 500) FROM generate_series(1, 20000)")
    code, output, _ = given.run("show", "--format", "json")
    shown = json.loads(output)
    assert (code, shown["slot"], shown["active_pid"], shown["wal_status"]) == (0, given.slot, None, "reserved")
    assert shown["retained_bytes"] > 5_000_000
    code, output, _ = given.run("show")
    assert code == 0 and given.slot in output and "MB" in output

    code, _, errors = given.run("drop")
    assert code == 2 and "--yes" in errors and given.there
    code, output, _ = given.run("drop", "--yes")
    assert code == 0 and "is dropped; the server may free" in output and "MB of WAL" in output
    assert not given.there

    assert given.run("drop", "--yes")[:2] == (0, f"there is no replication slot {given.slot}\n")
    assert given.run("show")[:2] == (1, f"there is no replication slot {given.slot}\n")
    assert given.run("show", "--format", "json")[:2] == (1, "null\n")


@pytest.mark.parametrize(("answer", "code", "stays"), [("n", 1, True), ("y", 0, False)])
def test_on_a_terminal_it_asks_first(given: Given, answer: str, code: int, stays: bool) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [str(FLUSSOD), "slot", "drop", "-c", str(given.config)],
            env=clean_environment(),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, given.there) == (code, stays), done.stdout
    assert f"Drop replication slot {given.slot}, which retains" in done.stdout


def test_a_daemon_that_merely_waits_keeps_it(given: Given) -> None:
    with psycopg.connect(given.database.url, autocommit=True) as daemon:
        daemon.execute("select pg_advisory_lock(hashtext('flusso_sync'), hashtext(%s))", [given.slot])
        pid = daemon.info.backend_pid
        code, _, errors = given.run("drop", "--yes")
        assert code == 8 and f"another daemon holds slot {given.slot} (backend pid {pid})" in errors
        assert "Stop the daemon first" in errors
    assert given.there
    assert given.run("drop", "--yes")[0] == 0


def test_whoever_streams_from_it_keeps_it(given: Given) -> None:
    given.database.execute("CREATE PUBLICATION anything")
    script = (
        "import sys, psycopg\n"
        "c = psycopg.pq.PGconn.connect(sys.argv[1].encode())\n"
        "r = c.exec_(sys.argv[2].encode())\n"
        "print(r.status, c.error_message, flush=True)\n"
        "sys.stdin.read()\n"
    )
    start = f"START_REPLICATION SLOT {given.slot} LOGICAL 0/0 (proto_version '1', publication_names 'anything')"
    with subprocess.Popen(
        [sys.executable, "-c", script, given.database.url + "?replication=database", start],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline()
            (row,) = given.database.execute(
                "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [given.slot]
            )
            assert row[0]
            code, _, errors = given.run("drop", "--yes")
            assert code == 8 and f"in use by backend pid {row[0]}" in errors
            assert given.there
        finally:
            reader.kill()


def test_a_slot_of_another_kind_is_not_touched(given: Given) -> None:
    given.database.execute("SELECT pg_drop_replication_slot(%s)", [given.slot])
    given.database.execute("SELECT pg_create_physical_replication_slot(%s)", [given.slot])
    try:
        for action in (("show",), ("drop", "--yes")):
            code, _, errors = given.run(*action)
            assert code == 4 and "physical slot" in errors
        assert given.there
    finally:
        given.database.execute("SELECT pg_drop_replication_slot(%s)", [given.slot])

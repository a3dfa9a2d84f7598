"""What a newcomer meets in the first hour, provoked: each says what is wrong and what to do next."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import psycopg
import pytest
import yaml

from flusso_sync.testing.postgres import PostgresServer, start_postgres
from tests.fix_daemon import FLUSSOD, MakeDaemon, clean_environment
from tests.postgres_server import Database

SCHEMA = "version: 1\ntable: notes\nfields:\n  - {long: id, required: true}\n  - {text: body, required: true}\n"
TABLE = "CREATE TABLE notes (id bigint PRIMARY KEY, body text NOT NULL)"


class Said(NamedTuple):
    code: int
    text: str


def flussod(*arguments: str, **env: str) -> Said:
    done = subprocess.run(
        [str(FLUSSOD), *arguments],
        env=clean_environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return Said(done.returncode, " ".join(done.stdout.split()))


def write(folder: Path, schema: str = SCHEMA, **sections: Any) -> str:
    settings: Dict[str, Any] = {
        "source": {"type": "postgres", "connection_url": {"env": "DATABASE_URL"}},
        "sinks": {"file": {"type": "sqlite", "path": "out.sqlite"}},
        "server": {"public_address": "127.0.0.1:0", "private_address": "127.0.0.1:0"},
        "index": [{"name": "notes", "schema": str(folder / "notes.schema.yml")}],
        **sections,
    }
    (folder / "notes.schema.yml").write_text(schema)
    (folder / "flusso.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return str(folder / "flusso.yaml")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# -- files -------------------------------------------------------------------------------------------------------------


def test_no_configuration(tmp_path: Path) -> None:
    said = flussod("run", "-c", str(tmp_path / "flusso.yaml"))
    assert said.code == 3 and "cannot be read" in said.text and "flusso.yaml" in said.text


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        (SCHEMA.replace("text: body", "txt: body"), "txt"),
        (SCHEMA.replace("required: true}\n  - {text", "requird: true}\n  - {text"), "requird"),
        (SCHEMA.replace("version: 1\n", ""), "version"),
        (SCHEMA.replace("fields:", "fields"), "notes.schema.yml:3:1: is not valid YAML: a key without its colon"),
    ],
)
def test_a_typo_in_the_schema_is_named_with_its_line(tmp_path: Path, schema: str, sentence: str) -> None:
    path = write(tmp_path, schema)
    for command in (["check", "--offline"], ["run"]):
        said = flussod(*command, "-c", path, DATABASE_URL="postgresql://nobody@127.0.0.1:1/x")
        assert said.code == 3 and "notes.schema.yml:" in said.text and sentence in said.text, said.text


def test_no_url(tmp_path: Path) -> None:
    for command in ("check", "run"):
        said = flussod(command, "-c", write(tmp_path))
        assert said.code == 3 and "DATABASE_URL" in said.text and "set" in said.text.lower(), said.text


# -- Postgres ----------------------------------------------------------------------------------------------------------


def test_nobody_listens_where_the_database_should_be(tmp_path: Path, make_daemon: MakeDaemon) -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/shop"
    said = flussod("check", "-c", write(tmp_path), DATABASE_URL=url)
    assert said.code == 4 and "FL010" in said.text and "mend its address" in said.text, said.text
    said = flussod("init", url, "--yes", "--output", str(tmp_path / "new"))
    assert said.code == 4 and "127.0.0.1" in said.text and "mend its address or the network" in said.text, said.text
    # A run waits for it, and says so.
    daemon = make_daemon(yaml.safe_load(Path(write(tmp_path)).read_text()), None, env={"DATABASE_URL": url})
    status = daemon.wait_for_status(lambda s: s["trouble"], 30, "it says so")
    assert "127.0.0.1" in status["trouble"][0]["what"] and status["trouble"][0]["todo"]
    assert daemon.get("/readyz")[0] == 503


@pytest.mark.pg
def test_a_wrong_password_and_a_database_that_is_not_there(tmp_path: Path) -> None:
    with start_postgres(password="right") as server:
        path = write(tmp_path)
        wrong = server.url("postgres").replace(":right@", ":wrong@")
        missing = server.url("shopp")
        for url, sentence in ((wrong, "password authentication failed"), (missing, '"shopp" does not exist')):
            checked = flussod("check", "-c", path, DATABASE_URL=url)
            ran = flussod("run", "-c", path, DATABASE_URL=url)
            first = flussod("init", url, "--yes", "--output", str(tmp_path / "new"))
            for said in (checked, ran, first):
                assert said.code == 4 and sentence in said.text, said.text
                assert "Check user, password, database and pg_hba.conf" in said.text, said.text
                assert "wrong@" not in said.text and "right" not in said.text
            assert "FL011" in checked.text


@pytest.fixture(scope="module")
def strangers() -> Iterator[PostgresServer]:
    """A server as the packages install it: not made for logical replication."""
    with start_postgres(wal_level="replica") as server:
        yield server


@pytest.mark.pg
def test_wal_level_is_not_logical(strangers: PostgresServer, tmp_path: Path) -> None:
    name = strangers.create_database()
    with strangers.connect(name) as connection:
        connection.execute(TABLE)
    said = flussod("check", "-c", write(tmp_path), DATABASE_URL=strangers.url(name))
    assert said.code == 4 and "FL014" in said.text and "wal_level = logical" in said.text and "restart" in said.text
    said = flussod("run", "-c", write(tmp_path), DATABASE_URL=strangers.url(name))
    assert said.code == 4 and "wal_level = logical" in said.text and "restart" in said.text, said.text


@pytest.mark.pg
@pytest.mark.parametrize(
    ("setting", "code", "holds", "remedy"),
    [
        (
            "max_replication_slots",
            "FL016",
            "SELECT pg_create_logical_replication_slot('somebody', 'pgoutput')",
            "max_replication_slots",
        ),
        ("max_wal_senders", "FL017", None, "max_wal_senders"),
    ],
)
def test_every_slot_or_sender_is_taken(
    tmp_path: Path, setting: str, code: str, holds: Optional[str], remedy: str
) -> None:
    with start_postgres(**{setting: 1}) as server:
        name = server.create_database()
        with server.connect(name) as connection:
            connection.execute(TABLE)
            if holds is not None:
                connection.execute(holds)
        open_streams: List[Any] = []
        if holds is None:
            # A session of replication is a WAL sender, whatever it does.
            open_streams.append(psycopg.connect(f"{server.url(name)}?replication=database", autocommit=True))
        said = flussod("check", "-c", write(tmp_path), DATABASE_URL=server.url(name))
        for one in open_streams:
            one.close()
        assert said.code == 4 and code in said.text and remedy in said.text, said.text


@pytest.mark.pg
def test_a_role_without_rights_is_told_the_grants(database: Database, tmp_path: Path) -> None:
    database.execute(TABLE)
    role = f"poor_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN")
    try:
        place = database.url.split("@", 1)[1]
        said = flussod("check", "-c", write(tmp_path), DATABASE_URL=f"postgresql://{role}@{place}")
        assert said.code == 4 and f"ALTER ROLE {role} REPLICATION" in said.text, said.text
        assert "FL030" in said.text and f"TO {role}" in said.text, said.text
        said = flussod("run", "-c", write(tmp_path), DATABASE_URL=f"postgresql://{role}@{place}")
        assert said.code == 4 and f"Let a superuser run: ALTER ROLE {role} REPLICATION" in said.text, said.text
    finally:
        database.execute(f"DROP ROLE {role}")


# -- sinks and ports ---------------------------------------------------------------------------------------------------


@pytest.mark.pg
def test_opensearch_is_not_there(database: Database, tmp_path: Path) -> None:
    database.execute(TABLE)
    sink = {"type": "opensearch", "url": f"http://127.0.0.1:{free_port()}", "timeout_secs": 2}
    said = flussod("check", "-c", write(tmp_path, sinks={"search": sink}), DATABASE_URL=database.url)
    assert said.code == 5 and "FL070" in said.text and "mend its url" in said.text, said.text


@pytest.mark.pg
def test_a_port_is_taken(database: Database, tmp_path: Path) -> None:
    database.execute(TABLE)
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        address = {"public_address": f"127.0.0.1:{port}", "private_address": "127.0.0.1:0"}
        said = flussod("run", "-c", write(tmp_path, server=address), DATABASE_URL=database.url)
    assert said.code != 0 and str(port) in said.text, said.text
    assert "Set server.public_address (or --public-address) to a free address" in said.text, said.text

"""What is in examples/ runs: the Flask application, the script, the observer; and the sink keeps its contract."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping

import pytest

from examples.file_source import Backends as FileBackends
from examples.flask_shop import create_app
from examples.folder_sink import Backends as FolderBackends
from examples.folder_sink import FolderSink
from examples.observer import Tally
from flusso_sync.config.load import load_config
from flusso_sync.daemon import Daemon
from flusso_sync.errors import EXIT_CONFIG, IndexMissing, SinkUnavailable
from flusso_sync.sinks.base import Sink
from flusso_sync.testing.sinks import ME, MakeSink, SinkContract, plan, put
from tests.postgres_server import Database
from tests.test_daemon import changes, config
from tests.third_party import ThirdParty
from tests.waiting import wait_for

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Path:
    """The configuration of a shop with one index, written to a SQLite file."""
    database.execute((EXAMPLES / "shop.sql").read_text(encoding="utf-8"))
    given = {
        "source": {
            "type": "postgres",
            "connection_url": database.url,
            "slot": database.name,
            "publication": database.name,
        },
        "sinks": {"file": {"type": "sqlite", "path": str(tmp_path / "shop.sqlite")}},
        "index": [{"name": "products", "schema": str(EXAMPLES.parent / "etc" / "schemas" / "products.schema.yml")}],
    }
    path = tmp_path / "flusso.yaml"
    # JSON is YAML in any version of it.
    path.write_text(json.dumps(given), encoding="utf-8")
    return path


# -- flask_shop.py -----------------------------------------------------------------------------------------------------


def test_a_flask_application_waits_for_its_own_writes(
    shop: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    app = create_app(str(shop))
    try:
        client = app.test_client()
        wait_for(lambda: client.get("/healthz").status_code == 200, 60, "the daemon is live")
        ((id,),) = database.execute("SELECT min(id) FROM products")
        for name in ("Violet unicycle", "Crimson unicycle"):
            answer = client.post(f"/products/{id}", data={"name": name})
            assert (answer.status_code, answer.json) == (200, {"found_by_search": True})
            assert client.get("/search?q=unicycle").json == {"products": [name]}
    finally:
        app.extensions["flusso"].close()
    assert client.get("/healthz").status_code == 503


# -- blocking.py -------------------------------------------------------------------------------------------------------


def started(*arguments: str) -> "subprocess.Popen[str]":
    """An example as its own program."""
    command = [sys.executable, str(EXAMPLES / arguments[0]), *arguments[1:]]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def products(path: Path) -> int:
    """How many documents readers of the file find."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as reader:
            found: int = reader.execute("SELECT count(*) FROM products").fetchone()[0]
            return found
    except sqlite3.OperationalError:
        return 0


def test_a_blocking_script_ends_by_a_signal(shop: Path, database: Database) -> None:
    ((rows,),) = database.execute("SELECT count(*) FROM products")
    program = started("blocking.py", str(shop))
    try:
        wait_for(lambda: products(shop.parent / "shop.sqlite") == rows > 0, 60, "the file is filled")
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0
    finally:
        program.kill()
        program.communicate()


def test_a_blocking_script_says_what_is_wrong_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "flusso.yaml").write_text("source: {type: postgres}\nindxe: []\n")
    program = started("blocking.py", str(tmp_path / "flusso.yaml"))
    said = program.communicate(timeout=60)[1]
    assert program.returncode == EXIT_CONFIG and "indxe" in said and "Traceback" not in said


# -- observer.py -------------------------------------------------------------------------------------------------------


def test_an_observer_counts_what_is_written(shop: Path, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    with Daemon(load_config(str(shop))).with_observer(tally).background(60) as running:
        assert tally.live.wait(60)
        before = tally.documents["products"]
        database.execute("UPDATE products SET stock = stock + 1")
        assert running.synced(running.position(), 60)
        ((rows,),) = database.execute("SELECT count(*) FROM products")
        wait_for(lambda: tally.documents["products"] == before + rows, 60, "the observer has heard of every document")
    assert before == rows and tally.slowest_flush_seconds > 0
    assert f"{rows} changes, {rows} documents in " in capsys.readouterr().out


# -- folder_sink.py ----------------------------------------------------------------------------------------------------


def read(folder: Path, index: str) -> Dict[str, Any]:
    """What a reader finds behind the link: id -> document."""
    documents = [json.loads(path.read_bytes()) for path in (folder / index).glob("*.json")]
    return {found["id"]: found["document"] for found in documents}


class TestContract(SinkContract):
    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> Iterator[MakeSink]:
        self.folder = tmp_path / "documents"
        yield lambda: FolderSink("folder", str(self.folder))

    def read(self, sink: Sink, index: str) -> Dict[str, Any]:
        return read(self.folder, index)


def test_former_generations_go_and_readers_find_one_all_the_time(tmp_path: Path) -> None:
    sink = FolderSink("folder", str(tmp_path))
    sink.open(ME)
    sink.ensure([plan()])
    for round in range(3):
        number = sink.begin_build("users")
        sink.write([put("1", f"round{round}", build=True)])
        if round:
            assert read(tmp_path, "users")["1"]["name"] == f"round{round - 1}"
        sink.complete_build("users")
        assert read(tmp_path, "users")["1"]["name"] == f"round{round}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["users", f"users.{number}"]


def test_its_errors_are_those_of_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkUnavailable, match="sink folder"):
        FolderSink("folder", str(tmp_path / "file" / "below")).open(ME)
    sink = FolderSink("folder", str(tmp_path / "documents"))
    sink.open(ME)
    sink.ensure([plan()])
    sink.complete_build("users")
    (tmp_path / "documents" / "users.1").rmdir()
    assert sink.watch() == ["users"]
    with pytest.raises(IndexMissing):
        sink.write([put("1")])


def test_a_daemon_fills_it_and_keeps_it_right(tmp_path: Path) -> None:
    class Backends(ThirdParty):
        def sinks(self, config: Any, options: Any) -> Mapping[str, Sink]:
            return {"folder": FolderSink("folder", str(tmp_path))}

    backends = Backends({f"k{number}": "first" for number in range(300)}, changes(200))
    Daemon(config(), backends).start().run(threading.Event())
    assert read(tmp_path, "things") == backends.expected


def test_it_stands_in_for_the_sinks_of_a_configuration(shop: Path, database: Database, tmp_path: Path) -> None:
    ((id,),) = database.execute("SELECT min(id) FROM products")
    with Daemon(load_config(str(shop)), FolderBackends(str(tmp_path / "documents"))).background(60) as running:
        assert running.wait_until_live(60)
        database.execute("UPDATE products SET name = 'Violet unicycle' WHERE id = %s", [id])
        assert running.synced(running.position(), 60)
        assert read(tmp_path / "documents", "products")[str(id)]["name"] == "Violet unicycle"
    assert not (tmp_path / "shop.sqlite").exists()


# -- file_source.py ----------------------------------------------------------------------------------------------------


def append(log: Path, *changes: Any) -> None:
    """A line for each id and document."""
    with log.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": id, "document": document}) + "\n" for id, document in changes)


def test_a_file_in_place_of_postgres_is_followed_over_restarts_and_when_it_was_cut(tmp_path: Path) -> None:
    log, sqlite = tmp_path / "changes.jsonl", tmp_path / "out.sqlite"
    (tmp_path / "products.schema.yml").write_text(
        "version: 1\ntable: products\nfields: [{keyword: name, required: true}]\n"
    )
    given = {
        "source": {"type": "postgres"},
        "sinks": {"file": {"type": "sqlite", "path": str(sqlite)}},
        "index": [{"name": "products", "schema": "products.schema.yml"}],
    }
    (tmp_path / "flusso.yaml").write_text(json.dumps(given))
    configuration = load_config(str(tmp_path / "flusso.yaml"))

    def found() -> Dict[str, str]:
        with contextlib.closing(sqlite3.connect(sqlite)) as connection:
            return {id: json.loads(body)["name"] for id, body in connection.execute("SELECT id, body FROM products")}

    def run_until(expected: Dict[str, str], *changes: Any) -> None:
        with Daemon(configuration, FileBackends(str(log))).background(30) as running:
            assert running.wait_until_live(30)
            append(log, *changes)
            wait_for(lambda: found() == expected, 30)

    append(log, *((f"{number:03}", {"name": "first"}) for number in range(300)), ("000", None))
    expected = {f"{number:03}": "first" for number in range(1, 300)}
    run_until({**expected, "001": "second"}, ("001", {"name": "second"}))
    # What came meanwhile, and a line that is not complete yet
    append(log, ("001", None), ("new", {"name": "third"}))
    with log.open("a") as file:
        file.write('{"id": "002", "docu')
    del expected["001"]
    run_until({**expected, "new": "third"})
    # A file that was set back is a gap: everything is built anew.
    log.write_text("")
    append(log, ("only", {"name": "fourth"}))
    run_until({"only": "fourth", "another": "fifth"}, ("another", {"name": "fifth"}))

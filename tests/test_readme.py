"""The README keeps its word: what it shows is run as it stands there."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml

from flusso_sync import Config
from flusso_sync.errors import EXIT_CODES
from flusso_sync.schema.language import parse_schema
from tests.fix_daemon import DaemonProcess, clean_environment
from tests.postgres_server import Database

CHECKOUT = Path(__file__).resolve().parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
PORTS = {"FLUSSO_PUBLIC_ADDRESS": "127.0.0.1:0"}


def blocks(language: str) -> List[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(program: str) -> List[List[str]]:
    lines = "\n".join(blocks("sh")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.split()[:1] == [program]]


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute((CHECKOUT / "examples" / "shop.sql").read_text(encoding="utf-8"))
    return database


def test_the_schema_of_the_first_screen_is_a_schema() -> None:
    schema = blocks("yaml")[0]
    plan, warnings = parse_schema(schema, "orders")
    assert [field.name for field in plan.fields] == ["id", "status", "customer", "itemCount"]
    assert not warnings
    shown = json.loads(" ".join(re.findall(r"# +([{\"].*)$", schema, re.MULTILINE)))
    assert list(shown) == [field.name for field in plan.fields]


def test_the_sink_it_shows_is_one() -> None:
    given: Dict[str, Any] = {"source": {"type": "postgres"}, **yaml.safe_load(blocks("yaml")[1])}
    assert [sink.type for sink in Config.from_mapping(given).sinks.values()] == ["opensearch"]


def test_exit_codes_are_those_of_the_program() -> None:
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", README, re.MULTILINE))
    assert table == {str(code): meaning for code, meaning in EXIT_CODES.items()}


def test_what_is_named_as_missing_is_missing() -> None:
    from flusso_sync.cli.commands import COMMANDS

    missing = README.partition("## Not there yet")[2].partition("\n## ")[0]
    for name in COMMANDS:
        assert f"`{name}`" not in missing, f"{name} is there by now"


def test_five_minutes_to_a_database(shop: Database, tmp_path: Path) -> None:
    env = clean_environment(**PORTS)
    # As in a checkout whose folder we may write to, and with our database in place of the reader's.
    init, check, run, search, verify = (
        [{"mine": str(tmp_path / "mine")}.get(word, word).replace("mine/", f"{tmp_path}/mine/") for word in command]
        for command in commands("bin/flussod")
    )
    assert init[1] == "init" and init[2].startswith("postgresql://")
    init[2] = shop.url

    def program(*command: str) -> str:
        done = subprocess.run(
            command, cwd=CHECKOUT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=120
        )
        assert done.returncode == 0, done
        return done.stdout.decode()

    program(*init)
    assert "check passed" in program(*check)
    daemon = DaemonProcess(tmp_path, [], env, ())
    daemon.command = [str(CHECKOUT / run[0])]
    assert run[1] == "run"
    daemon.arguments = run[2:]
    daemon.start().wait_until_live()
    try:
        assert "Green desk lamp" in program(*search)
        shop.execute("UPDATE products SET name = 'Blue desk lamp' WHERE sku = 'LAMP-1'")
        with urllib.request.urlopen(f"{daemon.url}/synced?lsn=now&timeout=30", timeout=60) as answer:
            assert answer.status == 200
        assert "Blue desk lamp" in program(*search)
        assert "no difference" in program(*verify)
    finally:
        assert daemon.stop() == 0
    view = re.findall(r'sqlite3 mine/documents.sqlite\s+"(.*?)"', README, re.DOTALL)[0]
    with contextlib.closing(sqlite3.connect(tmp_path / "mine" / "documents.sqlite")) as file:
        assert len(file.execute(view).fetchall()) == 3, "the orders of examples/shop.sql"
    for statement in blocks("sql")[0].split(";"):
        if statement.strip():
            shop.execute(statement)
    assert shop.execute("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == []


def test_the_embedding_example_runs(shop: Database, tmp_path: Path) -> None:
    (example,) = blocks("python")
    # Its documents lie beside the configuration.
    shutil.copytree(CHECKOUT / "etc", tmp_path / "etc", ignore=shutil.ignore_patterns("*.sqlite*"))
    env = clean_environment(DATABASE_URL=shop.url, PYTHONPATH=str(CHECKOUT))
    ran = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    with contextlib.closing(sqlite3.connect(tmp_path / "etc" / "flusso.sqlite")) as file:
        assert "Blue desk lamp" in str(file.execute("SELECT body FROM products WHERE id = '1'").fetchall())

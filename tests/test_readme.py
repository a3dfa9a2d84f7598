"""The README keeps its word: what it shows is run as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
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
    check, run = commands("bin/flussod")
    env = clean_environment(DATABASE_URL=shop.url, **PORTS)
    checked = subprocess.run(check, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, timeout=60)
    assert checked.returncode == 0 and "check passed" in checked.stdout.decode()

    daemon = DaemonProcess(tmp_path, [], env, ())
    daemon.command = [str(CHECKOUT / run[0])]
    assert run[1] == "-c"
    daemon.arguments = ["-c", str(CHECKOUT / run[2])]
    daemon.start().wait_until_live()
    try:
        first = len(daemon.output)
        assert first == 3 + 2 + 3, "users, products and orders of examples/shop.sql"
        shop.execute("UPDATE products SET name = 'Blue desk lamp' WHERE sku = 'LAMP-1'")
        daemon.wait_for(lambda: len(daemon.output) >= first + 3, message="the product and the two orders that show it")
        assert "Blue desk lamp" in json.dumps(daemon.output[first:])
    finally:
        assert daemon.stop() == 0
    for statement in blocks("sql")[0].split(";"):
        if statement.strip():
            shop.execute(statement)
    assert shop.execute("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == []


def test_the_embedding_example_runs(shop: Database) -> None:
    (example,) = blocks("python")
    env = clean_environment(DATABASE_URL=shop.url, PYTHONPATH=str(CHECKOUT))
    ran = subprocess.run(
        [sys.executable, "-c", example],
        cwd=CHECKOUT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    assert "Blue desk lamp" in ran.stdout.decode()

"""``flussod init`` on four databases nobody described: what it writes passes check, runs, and makes right documents."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import jsonschema
import psycopg
import pytest
import yaml
from click.testing import CliRunner, Result

from flusso_sync.cli.commands import flussod
from flusso_sync.cli.init import _has_secret
from flusso_sync.config import yaml12
from flusso_sync.config.load import load_config
from flusso_sync.postgres.draft import _text
from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.sink import SqliteSink
from tests.fix_daemon import CHECKOUT, FLUSSOD
from tests.oracle.compare import compare, explain
from tests.oracle.documents import evaluate_all
from tests.postgres_server import Database, PostgresServer
from tests.waiting import wait_for

SAMPLES = CHECKOUT / "tests" / "data" / "init"

#: What a reader would look for in the files of each sample: index -> (line, how it must stand there).
EXPECTED: Dict[str, Dict[str, List[str]]] = {
    "film_rental": {
        "film": [
            '  - {enum: rating, required: false, variants: [G, PG, "PG-13", R, "NC-17"]}',
            "  - belongs_to: language",
            "  - belongs_to: original_language",
            "  - many_to_many: actor",
            "    through: {table: film_actor, left_key: film_id, right_key: actor_id}",
            "  - many_to_many: category",
            "  - has_many: inventory",
            "  # - {custom: fulltext, required: false, postgres: [tsvector], opensearch: keyword}"
            "   # a column of type tsvector",
        ],
        "store": ["  - belongs_to: manager_staff", "  - has_many: customer"],
        "customer": ["  - {keyword: email, required: false}", "  - has_many: payment", "  - has_many: rental"],
        "staff": ["  # - {binary: picture, required: false}   # bytes are seldom searched, and make documents large"],
    },
    "classic_orders": {
        "orders": [
            "table: '\"Orders\"'",
            "  - belongs_to: Customer",
            "  - has_many: Order_Details",
            "  - {text: Ship_Name, column: '\"Ship Name\"', required: false}",
        ],
        "employees": [
            "  - belongs_to: ReportsTo_Employees",
            "  - has_many: Employees_by_ReportsTo",
            "  - many_to_many: Territories",
        ],
        "customers": ["  - many_to_many: CustomerDemographics", "  - has_many: Orders"],
    },
    "wiki": {
        "wiki_pages": [
            "table: wiki.pages",
            "  - belongs_to: namespace_namespaces",
            "  - many_to_many: categories",
            "  - many_to_many: pages_by_to_page",
            "  - many_to_many: pages_by_from_page",
            "    references: [namespace, title]",
            "# soft_delete: {column: deleted_at}   # a row that is marked so is no document",
        ],
        "wiki_revisions": [
            "  - has_one: texts",
            "  - {custom: client, required: false, postgres: [inet], opensearch: keyword}",
        ],
        "wiki_users": ["  - has_many: watches", "    references: user_name"],
    },
    "tenants": {
        "tickets": [
            "primary_key: [tenant_id, project_id, number]",
            "  - belongs_to: assignee_members",
            "  - belongs_to: reporter_members",
            "    column: [tenant_id, assignee]",
            "    through: {table: ticket_labels, left_key: [tenant_id, project_id, number], "
            "right_key: [tenant_id, label_id]}",
            '  - {enum: state, required: true, variants: [open, "waiting for us", closed]}',
            '  - {text: "null", required: false}',
        ],
        "tenants": ["  - has_many: members", "  - has_many: projects", "  - has_many: labels"],
    },
}


def init(folder: Path, *arguments: str, **more: Any) -> Result:
    return CliRunner().invoke(flussod, ["init", *arguments, "-o", str(folder)], **more)


def load(database: Database, sample: str) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute((SAMPLES / f"{sample}.sql").read_bytes())
        connection.execute("ANALYZE")


@pytest.fixture
def sample(database: Database, request: pytest.FixtureRequest) -> str:
    load(database, request.param)
    return str(request.param)


@pytest.mark.parametrize("sample", sorted(EXPECTED), indirect=True)
def test_from_a_url_to_right_documents(database: Database, tmp_path: Path, sample: str) -> None:
    answer = init(tmp_path, database.url, "--yes")
    assert answer.exit_code == 0, answer.output
    for index, lines in EXPECTED[sample].items():
        written = (tmp_path / "schemas" / f"{index}.schema.yml").read_text().splitlines()
        missing = [line for line in lines if line.replace("'\"", '"\\"').replace("\"'", '\\""') not in written]
        assert not missing, "\n".join([*missing, "---", *written])
    valid_for_an_editor(tmp_path)
    config = yaml.safe_load((tmp_path / "flusso.yaml").read_text())
    # Each test has a slot of its own: the server is shared.
    slot = f"init_{database.name}"[:60]
    config["source"].update(slot=slot, publication=slot)
    config["server"] = {"public_address": "127.0.0.1:0", "private_address": "127.0.0.1:0"}
    (tmp_path / "flusso.yaml").write_text(yaml.safe_dump(config))

    # check
    checked = CliRunner().invoke(flussod, ["check", "-c", str(tmp_path / "flusso.yaml"), "--format", "json"])
    assert checked.exit_code == 0, checked.output
    report = yaml.safe_load(checked.output)
    told = [one for one in report["diagnostics"] if one["severity"] != "info" and one["code"] != "FL034"]
    assert not told, told

    # run
    log = open(tmp_path / "log", "wb")
    process = subprocess.Popen([str(FLUSSOD), "run", "-c", str(tmp_path / "flusso.yaml")], stderr=log)
    try:
        plans = load_config(tmp_path / "flusso.yaml").indexes
        sink = SqliteSink("reader", SqliteSettings(str(tmp_path / "documents.sqlite")))
        wait_for(
            lambda: process.poll() is not None or all(_is_read(sink, name) for name in plans),
            120,
            "every index is read",
        )
        assert process.poll() is None, (tmp_path / "log").read_text()

        # The documents are what the rows say, by the oracle and by verify.
        files = {name: tmp_path / "schemas" / f"{name}.schema.yml" for name in plans}
        with psycopg.connect(database.url, autocommit=True) as connection:
            expected = dict(evaluate_all(connection, files))
        for name, documents in expected.items():
            differences = compare(documents, dict(sink.scan(name)), key_order=True)
            assert not differences, explain(differences, name)
        assert all(expected.values()), {name: len(found) for name, found in expected.items()}
        verified = subprocess.run(
            [str(FLUSSOD), "verify", "-c", str(tmp_path / "flusso.yaml")], capture_output=True, text=True, timeout=120
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def valid_for_an_editor(folder: Path) -> None:
    """Each file names its JSON Schema as the YAML language server wants it, from its own folder, and keeps to it."""
    written = [folder / "flusso.yaml", *(folder / "schemas").iterdir()]
    for path in written:
        text = path.read_text()
        prefix, _, named = text.splitlines()[0].partition("$schema=")
        assert prefix == "# yaml-language-server: ", path
        schema = json.loads((path.parent / named).read_text())
        assert schema["title"] == ("flusso.yaml" if path.name == "flusso.yaml" else "*.schema.yml")
        problems = list(jsonschema.Draft7Validator(schema).iter_errors(yaml12.load_text(text).value))
        assert not problems, (path, problems[0])
    assert len(written) > 3


def _is_read(sink: SqliteSink, index: str) -> bool:
    try:
        return any(report.state == "read" for report in sink.generations().get(index, ()))
    except Exception:
        return False


# -- which tables, and which files ---------------------------------------------------------------------------


def test_nothing_is_overwritten(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "notes.schema.yml").write_text("mine")
    answer = init(tmp_path, database.url, "--yes")
    assert answer.exit_code == 2 and "notes.schema.yml is there already" in answer.output
    assert not (tmp_path / "flusso.yaml").exists()
    (tmp_path / "schemas" / "notes.schema.yml").unlink()
    assert init(tmp_path, database.url, "--yes").exit_code == 0
    before = (tmp_path / "flusso.yaml").read_text()
    answer = init(tmp_path, database.url, "--yes")
    assert answer.exit_code == 2 and (tmp_path / "flusso.yaml").read_text() == before


def test_tables_can_be_named_and_a_wrong_name_gets_a_guess(database: Database, tmp_path: Path) -> None:
    load(database, "tenants")
    answer = init(tmp_path, database.url, "--table", "tickets", "--table", "public.members")
    assert answer.exit_code == 0, answer.output
    assert sorted(path.name for path in (tmp_path / "schemas").iterdir()) == [
        "members.schema.yml",
        "tickets.schema.yml",
    ]
    answer = init(tmp_path / "other", database.url, "--table", "tikets")
    assert answer.exit_code == 2 and "did you mean tickets?" in answer.output


def test_a_terminal_is_asked(database: Database, tmp_path: Path) -> None:
    """By a real one: a pseudo-terminal that answers a wrong number first."""
    import pty

    load(database, "tenants")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [str(FLUSSOD), "init", database.url, "-o", str(tmp_path)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    told = b""
    answers = [b"99\n", b"1, tickets\n"]
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:
            break
        if not part:
            break
        told += part
        if answers and told.count(b"[all]:") > 2 - len(answers):
            os.write(leader, answers.pop(0))
    os.close(leader)
    assert process.wait(60) == 0, told.decode()
    assert b"there is no number 99" in told and b"Junctions are shown inside them: public.ticket_labels" in told
    names = sorted(path.name for path in (tmp_path / "schemas").iterdir())
    assert names == ["comments.schema.yml", "tickets.schema.yml"]


def test_a_password_stands_in_a_file_of_its_own(postgres: PostgresServer, database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE notes (id int PRIMARY KEY)")
    url = database.url.replace("@", ":canary@", 1)
    answer = init(tmp_path, url, "--yes", "--sink", "http://app:canary@127.0.0.1:9200")
    assert answer.exit_code == 0, answer.output
    assert "canary" not in answer.output + (tmp_path / "flusso.yaml").read_text()
    for name in ("database.url", "search.url"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert "canary" in (tmp_path / name).read_text()
    config = load_config(tmp_path / "flusso.yaml")
    assert config.sinks["documents"].type == "opensearch"


def test_without_a_url_the_variable_is_meant(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("CREATE TABLE notes (id int PRIMARY KEY)")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert init(tmp_path, "--yes").exit_code == 2
    monkeypatch.setenv("DATABASE_URL", database.url)
    assert init(tmp_path, "--yes", "--sink", "stdout").exit_code == 0
    assert "connection_url: {env: DATABASE_URL}" in (tmp_path / "flusso.yaml").read_text()


def test_a_slot_that_is_taken_is_not_named(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE notes (id int PRIMARY KEY)")
    taken = not database.execute("SELECT FROM pg_replication_slots WHERE slot_name = 'flusso'")
    if taken:
        database.execute("SELECT pg_create_logical_replication_slot('flusso', 'pgoutput')")
    try:
        assert init(tmp_path, database.url, "--yes").exit_code == 0
    finally:
        if taken:
            database.execute("SELECT pg_drop_replication_slot('flusso')")
    assert load_config(tmp_path / "flusso.yaml").source.slot == f"flusso_{database.name}"


def test_what_cannot_be_described_is_a_sentence(database: Database, tmp_path: Path) -> None:
    answer = init(tmp_path, database.url, "--yes")
    assert answer.exit_code == 4 and "has no table" in answer.output
    database.execute("CREATE TABLE keyless (a int)")
    assert init(tmp_path, database.url, "--yes").exit_code == 4
    assert init(tmp_path, "postgresql://nobody@127.0.0.1:1/x", "--yes").exit_code == 4
    assert init(tmp_path, "mysql://nobody@127.0.0.1:1/x", "--yes").exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_names_that_nobody_would_choose(database: Database, tmp_path: Path) -> None:
    """Quotes, dots, blanks, words of YAML and of SQL: everything is quoted where it must be."""
    database.execute(
        'CREATE TABLE "se""le.ct" ("1st" int PRIMARY KEY, "true" text, "a: b" int, "ü" text, "# x" text, "A" int,'
        ' "a" int,'
        ' "{}" jsonb, "from" date, "e\nf" int)'
    )
    database.execute('CREATE TABLE "null" ("se le" int PRIMARY KEY REFERENCES "se""le.ct", "x\'y" text)')
    answer = init(tmp_path, database.url, "--yes")
    assert answer.exit_code == 0, answer.output
    checked = CliRunner().invoke(flussod, ["check", "-c", str(tmp_path / "flusso.yaml")])
    assert checked.exit_code == 0, checked.output
    assert "FL04" not in checked.output and "has_one" in checked.output


def test_a_crowd_of_children_is_counted(database: Database, tmp_path: Path) -> None:
    database.execute(
        "CREATE TABLE shops (id int PRIMARY KEY); "
        "CREATE TABLE sales (id int PRIMARY KEY, shop_id int REFERENCES shops);"
        " CREATE INDEX ON sales (shop_id); INSERT INTO shops VALUES (1), (2);"
        " INSERT INTO sales SELECT g, 1 + g % 2 FROM generate_series(1, 500) g; ANALYZE"
    )
    assert init(tmp_path, database.url, "--yes").exit_code == 0
    text = (tmp_path / "schemas" / "shops.schema.yml").read_text()
    assert "# About 250 rows each" in text and "- {count: sales_count, table: sales, foreign_key: shop_id}" in text


@pytest.mark.parametrize(
    ("text", "written"),
    [("plain", "plain"), ("null", '"null"'), ("a b", '"a b"'), ('"Q"', '"\\"Q\\""'), ("a\x85b", '"a\\u0085b"')],
)
def test_texts_are_yaml(text: str, written: str) -> None:
    assert _text(text) == written
    assert yaml.safe_load(written) == text


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://app:x@h/d", True),
        ("postgresql://app@h/d", False),
        ("postgresql://h:5432/d", False),
        ("postgresql://app@h/d?password=x", True),
    ],
)
def test_a_password_in_a_url_is_seen(url: str, secret: bool) -> None:
    assert _has_secret(url) is secret


def test_help_has_an_example() -> None:
    shown = subprocess.run([str(FLUSSOD), "init", "--help"], capture_output=True, text=True)
    assert "flussod init postgresql://" in shown.stdout

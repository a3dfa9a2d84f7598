"""``flussod check`` against real servers: what a run would stumble over is found, placed, and named as the run does.

Two tables of cases: schema files that do not fit their tables, and databases, roles and sinks that do not let a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import pytest
import yaml
from click.testing import CliRunner

from flusso_sync import findings
from flusso_sync.cli.commands import flussod
from flusso_sync.sinks.meta import RECORD, record_document
from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.sink import SqliteSink
from tests.fix_daemon import CHECKOUT, FLUSSOD
from tests.postgres_server import Database, PostgresServer
from tests.test_sinks_opensearch_client import Answer, Double, Request, double

__all__ = ["double"]

MARK = "§"

DDL = """
CREATE TABLE people (id int PRIMARY KEY, name text, email text NOT NULL UNIQUE, born date, doc json);
CREATE TABLE articles (
    id int PRIMARY KEY, title text NOT NULL, subtitle text, state text NOT NULL, author_id int REFERENCES people,
    published timestamptz, views bigint NOT NULL, price numeric, doc json, code uuid, lat float8, lon text, gone bool);
CREATE INDEX ON articles (author_id);
CREATE TABLE comments (id int PRIMARY KEY, article_id int NOT NULL, article_code uuid, body text, doc json);
CREATE INDEX ON comments (article_id);
CREATE TABLE votes (article_id int NOT NULL, stars int, note text);
CREATE INDEX ON votes (article_id);
CREATE TABLE tags (id int PRIMARY KEY, label text);
CREATE TABLE article_tags (article_id int, tag_id int, PRIMARY KEY (article_id, tag_id));
CREATE INDEX ON article_tags (tag_id);
CREATE TABLE pairs (a int, b int, note text, PRIMARY KEY (a, b));
CREATE TABLE visits (id int PRIMARY KEY, article_id int NOT NULL);
INSERT INTO visits SELECT g, g FROM generate_series(1, 5000) g;
CREATE TABLE shards (id int, article_id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE shards_1 PARTITION OF shards FOR VALUES FROM (0) TO (10);
CREATE TABLE shards_2 PARTITION OF shards FOR VALUES FROM (10) TO (20);
CREATE VIEW popular AS SELECT id, title FROM articles;
CREATE UNLOGGED TABLE drafts (id int PRIMARY KEY, title text);
CREATE FUNCTION roll() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
ANALYZE;
"""

ARTICLES = """\
version: 1
table: articles
primary_key: id
"""

FIELDS = "fields:\n  - {integer: id, required: true}\n"


class Case(NamedTuple):
    """A schema with the mark in front of what a reader would point at; ``exit_code`` is also that of a run."""

    title: str
    schema: str
    code: str
    sentence: str
    exit_code: int = 3
    path: str = ""
    severity: str = findings.ERROR
    remedy: str = ""


def field(text: str, code: str, sentence: str, exit_code: int = 3, path: str = "x", **more: Any) -> Case:
    return Case(
        f"{code} {text.replace(MARK, '')}"[:90],
        f"{ARTICLES}{FIELDS}  - {text}\n",
        code,
        sentence,
        exit_code,
        path,
        **more,
    )


def top(text: str, code: str, sentence: str, exit_code: int = 3, path: str = "", **more: Any) -> Case:
    return Case(f"{code} {text.replace(MARK, '')}"[:90], text, code, sentence, exit_code, path, **more)


BODY = "fields: [{text: body, required: false}]"
WARNING, INFO = findings.WARNING, findings.INFO

CASES: List[Case] = [
    # tables
    top(f"version: 1\n{MARK}table: artikles\n{FIELDS}", "FL040", "table public.artikles does not exist"),
    top(f"version: 1\n{MARK}table: nowhere.articles\n{FIELDS}", "FL040", "table nowhere.articles does not exist"),
    top(f"version: 1\n{MARK}table: popular\nprimary_key: id\n{FIELDS}", "FL041", "public.popular is a view", 4),
    top(f"version: 1\n{MARK}table: drafts\n{FIELDS}", "FL041", "public.drafts is an unlogged table", 4),
    # keys
    top(
        f"version: 1\ntable: articles\n{MARK}primary_key: title\n{FIELDS}",
        "FL043",
        "neither its primary key",
        path="primary_key",
    ),
    top(
        f"version: 1\ntable: articles\n{MARK}doc_id: author_id\n{FIELDS}",
        "FL043",
        "nor a unique constraint",
        path="doc_id",
    ),
    top(f"version: 1\ntable: articles\n{MARK}primary_key: nr\n{FIELDS}", "FL042", "no column nr", path="primary_key"),
    top(
        f"version: 1\n{MARK}table: votes\nfields:\n  - {{integer: stars, required: false}}\n",
        "FL044",
        "table public.votes has no primary key",
        path="primary_key",
    ),
    field(
        f"{{{MARK}ids: x, table: votes, element_type: integer, foreign_key: article_id}}",
        "FL051",
        "needs a primary key of one column",
    ),
    field(
        f"{{{MARK}has_many: x, table: comments, foreign_key: [article_id, id], {BODY}}}",
        "FL044",
        "differ in length",
    ),
    # columns and their types
    field(f"{{{MARK}text: x, column: titel, required: true}}", "FL042", "no column titel"),
    field(f"{{{MARK}integer: x, column: views, required: true}}", "FL045", "public.articles.views is bigint"),
    field(
        f"{{{MARK}custom: x, column: views, required: true, postgres: [numeric], opensearch: long}}",
        "FL045",
        "accepts numeric",
    ),
    field(f"{{{MARK}geo: x, lat: lat, lon: nowhere, required: false}}", "FL042", "no column nowhere"),
    field(f"{{{MARK}geo: x, lat: lat, lon: lon, required: false}}", "FL049", "lat and lon need numbers"),
    field(f"{{{MARK}geo: x, column: published, required: false}}", "FL045", "geo accepts json"),
    field(f"{{{MARK}map: x, column: title, values: text, required: false}}", "FL045", "map accepts"),
    field(f"{{{MARK}text: x, column: subtitle, required: true}}", "FL046", "may be null", 0, severity=WARNING),
    field(f"{{{MARK}text: x, column: subtitle, required: true, default: none}}", "", "", 0),
    field(f"{{{MARK}long: x, column: views, required: true, default: many}}", "FL047", "'many' is no bigint"),
    field(
        f"{{{MARK}long: x, column: views, required: true, transforms: [trim]}}",
        "FL054",
        "transforms need a text column",
    ),
    # filters, order, soft delete
    top(
        f"{ARTICLES}{MARK}filters:\n  - {{column: stat, op: eq, value: live}}\n{FIELDS}",
        "FL042",
        "no column stat",
        path="filters",
    ),
    top(
        f"{ARTICLES}{MARK}filters:\n  - {{column: views, op: like, value: '1%'}}\n{FIELDS}",
        "FL047",
        "like needs a text column",
        path="filters",
    ),
    top(
        f"{ARTICLES}{MARK}filters:\n  - {{column: doc, op: eq, value: '1'}}\n{FIELDS}",
        "FL047",
        "eq cannot compare",
        path="filters",
    ),
    top(
        f"{ARTICLES}{MARK}filters:\n  - {{column: views, op: gt, value: many}}\n{FIELDS}",
        "FL047",
        "'many' is no bigint",
        path="filters",
    ),
    top(
        f"{ARTICLES}{MARK}filters:\n  - {{raw: 'roll() = 1'}}\n{FIELDS}", "FL055", "roll() is VOLATILE", path="filters"
    ),
    top(
        f"{ARTICLES}{MARK}filters:\n  - {{raw: 'roll() = 1', volatile: true}}\n{FIELDS}",
        "FL058",
        "roll() = 1",
        0,
        path="filters",
        severity=INFO,
    ),
    top(
        f"version: 1\n{MARK}table: articles\nfilters:\n  - {{raw: 'titel = 1'}}\n{FIELDS}",
        "FL056",
        "Postgres refuses",
        remedy="titel",
    ),
    top(
        f"{ARTICLES}{MARK}soft_delete: {{column: removed}}\n{FIELDS}", "FL042", "no column removed", path="soft_delete"
    ),
    top(
        f"{ARTICLES}soft_delete:\n  column: gone\n  {MARK}when: [{{column: hold, op: is_null}}]\n{FIELDS}",
        "FL042",
        "no column hold",
        path="soft_delete.when",
    ),
    field(
        f"{{{MARK}has_many: x, table: comments, foreign_key: article_id, order_by: [{{column: at}}], {BODY}}}",
        "FL042",
        "no column at",
    ),
    field(
        f"{{{MARK}has_many: x, table: comments, foreign_key: article_id, order_by: [{{column: doc}}], {BODY}}}",
        "FL048",
        "order_by cannot sort",
    ),
    # relations
    field(
        f"{{{MARK}belongs_to: x, column: writer_id, table: people, fields: [{{text: name, required: false}}]}}",
        "FL042",
        "no column writer_id",
    ),
    field(
        f"{{{MARK}belongs_to: x, column: author_id, table: peeple, fields: [{{text: name, required: false}}]}}",
        "FL040",
        "public.peeple",
        path="",
    ),
    field(
        f"{{{MARK}belongs_to: x, column: title, table: people, primary_key: name, "
        "fields: [{text: name, required: false}]}",
        "FL052",
        "name of table public.people is not unique",
    ),
    field(
        "{belongs_to: x, column: author_id, table: people, fields: [{" + MARK + "text: nick, required: false}]}",
        "FL042",
        "no column nick",
        path="x.nick",
    ),
    field(
        f"{{{MARK}has_many: x, table: comments, foreign_key: text_id, fields: [{{text: body, required: false}}]}}",
        "FL042",
        "no column text_id",
    ),
    field(
        f"{{{MARK}many_to_many: x, table: tags, through: {{table: article_tags, left_key: text_id, "
        "right_key: tag_id}, "
        "fields: [{text: label, required: false}]}",
        "FL042",
        "no column text_id",
    ),
    field(
        f"{{{MARK}many_to_many: x, table: tags, through: {{table: articles_tags, left_key: article_id, "
        "right_key: tag_id}, "
        "fields: [{text: label, required: false}]}",
        "FL040",
        "public.articles_tags",
        path="",
    ),
    top(
        f"{ARTICLES}{MARK}fields:\n  - {{integer: id, required: true}}\n"
        "  - {has_many: x, table: comments, foreign_key: article_code, fields: [{text: body, required: false}]}\n",
        "FL053",
        "cannot be compared",
    ),
    # aggregates
    field(f"{{{MARK}avg: x, table: votes, column: star, foreign_key: article_id}}", "FL042", "no column star"),
    field(f"{{{MARK}avg: x, table: votes, column: note, foreign_key: article_id}}", "FL049", "avg needs a number"),
    field(
        f"{{{MARK}max: x, table: comments, column: doc, value_type: json, foreign_key: article_id}}",
        "FL048",
        "needs a type with an order",
    ),
    field(
        f"{{{MARK}max: x, table: votes, column: stars, value_type: date, foreign_key: article_id}}",
        "FL050",
        "value_type date cannot hold",
    ),
    field(
        f"{{{MARK}ids: x, table: comments, element_type: date, foreign_key: article_id}}",
        "FL051",
        "element_type date does not fit",
    ),
    # missing indexes
    field(
        f"{{{MARK}count: x, table: visits, foreign_key: article_id}}",
        "FL057",
        "about 5,000 rows",
        0,
        severity=WARNING,
        remedy='CREATE INDEX CONCURRENTLY ON "public"."visits" ("article_id")',
    ),
    field(
        f"{{{MARK}count: x, table: shards, foreign_key: article_id}}",
        "FL057",
        "no index on public.shards(article_id)",
        0,
        severity=WARNING,
        remedy='CREATE INDEX CONCURRENTLY ON "public"."shards_2" ("article_id")',
    ),
]


@pytest.fixture(scope="module")
def library(postgres: PostgresServer) -> Iterator[Database]:
    """One database with every table of the cases; nothing writes to it."""
    name = postgres.create_database()
    found = Database(postgres, name)
    found.execute(DDL)
    yield found
    postgres.drop_database(name)


def write(folder: Path, url: str, schema: str, **config: Any) -> Path:
    (folder / "articles.schema.yml").write_text(schema.replace(MARK, ""))
    settings: Dict[str, Any] = {
        "source": {"type": "postgres", "connection_url": url, **config.pop("source", {})},
        "server": {"public_address": "127.0.0.1:0", "private_address": "127.0.0.1:0"},
        "index": [{"name": "articles", "schema": "articles.schema.yml"}],
        **config,
    }
    (folder / "flusso.yaml").write_text(yaml.safe_dump(settings))
    return folder / "flusso.yaml"


class Report(NamedTuple):
    exit_code: int
    json: Dict[str, Any]

    def only(self, code: str) -> Dict[str, Any]:
        (found,) = self.all(code)
        return found

    def all(self, code: str) -> List[Dict[str, Any]]:
        return [one for one in self.json["diagnostics"] if one["code"] == code]

    @property
    def codes(self) -> List[str]:
        return [one["code"] for one in self.json["diagnostics"]]


def check(config: Path, *arguments: str) -> Report:
    answer = CliRunner().invoke(flussod, ["check", "-c", str(config), "--format", "json", *arguments])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    assert "Traceback" not in answer.output
    report = json.loads(answer.stdout)
    for one in report["diagnostics"] or ():
        known = findings.CODES[one["code"]]
        assert one["severity"] == "error" or known.severity != "info" or one["severity"] == "info", one
        assert one["file"] and one["line"], one
    return Report(answer.exit_code, report)


def position(marked: str) -> Sequence[int]:
    before = marked[: marked.index(MARK)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_a_schema_that_does_not_fit_its_tables(library: Database, tmp_path: Path, case: Case) -> None:
    report = check(write(tmp_path, library.url, case.schema))
    assert report.exit_code == case.exit_code == report.json["exit_code"], report.json["diagnostics"]
    if not case.code:
        assert not [one for one in report.json["diagnostics"] if one["index"] == "articles"]
        return
    found = report.only(case.code)
    assert case.sentence in found["message"], found
    assert (found["severity"], found["index"], found["field"] or "") == (case.severity, "articles", case.path)
    assert case.remedy in (found["remedy"] or ""), found
    assert found["file"] == str(tmp_path / "articles.schema.yml")
    assert [found["line"], found["column"]] == list(position(case.schema)), found


RUNS = [case for case in CASES if case.exit_code and case.code not in ("FL045", "FL049", "FL050")][::5]


@pytest.mark.parametrize("case", RUNS, ids=[case.title for case in RUNS])
def test_a_run_tells_the_same_story(library: Database, tmp_path: Path, case: Case) -> None:
    ended = run(write(tmp_path, library.url, case.schema))
    assert ended.returncode == case.exit_code, ended.stderr
    assert case.sentence in ended.stderr and f"[{case.code}]" in ended.stderr, ended.stderr


def run(config: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(FLUSSOD), "run", "-c", str(config)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **env},
    )


def test_several_mistakes_come_at_once_and_a_link_is_named_once(library: Database, tmp_path: Path) -> None:
    visits = "table: visits, foreign_key: article_id"
    schema = f"{ARTICLES}{FIELDS}" + "".join(
        f"  - {{{text}}}\n"
        for text in (
            f"count: a, {visits}",
            f"ids: b, element_type: integer, {visits}",
            "integer: c, column: views, required: true",
            "keyword: d, column: views, required: true",
        )
    )
    report = check(write(tmp_path, library.url, schema))
    assert [one["field"] for one in report.all("FL057")] == ["a"]
    assert [one["field"] for one in report.all("FL045")] == ["c", "d"]


def test_an_index_on_every_partition_is_enough(database: Database, tmp_path: Path) -> None:
    database.execute(DDL)
    schema = f"{ARTICLES}{FIELDS}  - {{count: x, table: shards, foreign_key: article_id}}\n"
    config = write(tmp_path, database.url, schema)
    for statement in check(config).only("FL057")["facts"]["statements"]:
        database.execute(statement)
    assert "FL057" not in check(config).codes


# -- databases, roles and servers ---------------------------------------------------------------------------

PLAIN = f"{ARTICLES}{FIELDS}  - {{count: votes, table: votes, foreign_key: article_id}}\n"

#: What each case adds: SQL run as superuser in a database of its own.
ROLE = "checked_role"
MEMBER = "checked_owner"


class Place(NamedTuple):
    title: str
    sql: str
    code: str
    sentence: str
    exit_code: int
    severity: str = findings.ERROR
    source: Optional[Dict[str, Any]] = None
    superuser: bool = True
    remedy: str = ""


PLACES = [
    Place("a run will create the publication", "", "FL025", "a run will create publication", 0, INFO, remedy=""),
    Place(
        "identities will be set",
        "",
        "FL028",
        'ALTER TABLE "public"."votes" REPLICA IDENTITY FULL',
        0,
        INFO,
        remedy="REPLICA IDENTITY DEFAULT",
    ),
    Place(
        "a publication without an operation",
        "CREATE PUBLICATION pub FOR TABLE articles, votes WITH (publish = 'insert')",
        "FL022",
        "does not publish update",
        4,
        remedy="SET (publish",
    ),
    Place(
        "a publication with a row filter",
        "CREATE PUBLICATION pub FOR TABLE articles WHERE (id > 1), votes",
        "FL022",
        "a row filter",
        4,
        remedy="DROP TABLE",
    ),
    Place(
        "a publication via roots",
        "CREATE PUBLICATION pub FOR TABLE articles, votes WITH (publish_via_partition_root)",
        "FL022",
        "root table",
        4,
    ),
    Place(
        "a publication that somebody else manages and that is not there",
        "",
        "FL023",
        "does not exist and cannot be created",
        4,
        source={"manage_publication": False},
        remedy="CREATE PUBLICATION",
    ),
    Place(
        "a table that is not published, and nobody may publish",
        "CREATE PUBLICATION pub FOR TABLE articles",
        "FL024",
        "changes of public.votes are not published",
        4,
        source={"manage_publication": False, "on_blind_table": "stop"},
        remedy="ALTER PUBLICATION",
    ),
    Place(
        "the same, but only warned of",
        "CREATE PUBLICATION pub FOR TABLE articles",
        "FL024",
        "public.votes",
        0,
        WARNING,
        source={"manage_publication": False},
    ),
    Place(
        "an identity of NOTHING", "ALTER TABLE votes REPLICA IDENTITY NOTHING", "FL026", "chosen by somebody else", 4
    ),
    Place(
        "no identity and no wish",
        "",
        "FL026",
        "manage_replica_identity is false",
        4,
        source={"manage_replica_identity": False},
        remedy="REPLICA IDENTITY FULL",
    ),
    Place(
        "a weak identity that was chosen",
        "ALTER TABLE votes ADD id int UNIQUE NOT NULL; ALTER TABLE votes REPLICA IDENTITY USING INDEX votes_id_key",
        "FL027",
        "old parents of public.votes cannot be traced",
        0,
        WARNING,
    ),
    Place(
        "a slot of another plugin",
        "SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')",
        "FL019",
        "plugin test_decoding",
        4,
    ),
    Place("a physical slot", "SELECT pg_create_physical_replication_slot('{slot}')", "FL019", "physical", 4),
    Place("nothing bounds the WAL", "", "FL031", "max_slot_wal_keep_size", 0, INFO),
    Place("failover slots on an old server", "", "FL018", "no failover slots", 4, source={"failover_slot": True}),
    Place(
        "a role that may not replicate",
        "ALTER ROLE {role} NOREPLICATION",
        "FL015",
        "may not replicate",
        4,
        superuser=False,
        remedy="ALTER ROLE",
    ),
    Place("a role that may not read", "", "FL030", "may not read", 4, superuser=False, remedy="GRANT SELECT ON"),
    Place(
        "a role that owns nothing",
        "GRANT SELECT ON articles, votes TO {role}",
        "FL023",
        "does not own",
        4,
        superuser=False,
    ),
    Place(
        "a role that may not create",
        "GRANT {owner} TO {role}",
        "FL023",
        "may not create in the database",
        4,
        superuser=False,
        remedy="CREATE PUBLICATION",
    ),
    Place(
        "a role that cannot set an identity",
        "GRANT SELECT ON articles, votes TO {role}",
        "FL026",
        "does not own the table",
        4,
        superuser=False,
    ),
    Place(
        "policies that hide rows",
        "ALTER TABLE articles ENABLE ROW LEVEL SECURITY; ALTER TABLE articles FORCE ROW LEVEL SECURITY;"
        " GRANT {owner} TO {role};"
        " GRANT CREATE ON DATABASE {database} TO {role}",
        "FL030",
        "row-level security",
        4,
        superuser=False,
        remedy="BYPASSRLS",
    ),
]


@pytest.fixture
def role(postgres: PostgresServer) -> Iterator[str]:
    with postgres.connect() as connection:
        connection.execute(f"CREATE ROLE {ROLE} LOGIN REPLICATION; CREATE ROLE {MEMBER}")
        yield ROLE


@pytest.fixture
def place(role: str, postgres: PostgresServer) -> Iterator[Database]:
    """A database whose tables belong to a role, dropped before its roles are."""
    name = postgres.create_database()
    database = Database(postgres, name)
    database.execute(
        "CREATE TABLE articles (id int PRIMARY KEY); CREATE TABLE votes (article_id int);"
        f" CREATE INDEX ON votes (article_id); ALTER TABLE articles OWNER TO {MEMBER};"
        f" ALTER TABLE votes OWNER TO {MEMBER}"
    )
    yield database
    postgres.drop_database(name)
    with postgres.connect() as connection:
        connection.execute(f"DROP ROLE {ROLE}; DROP ROLE {MEMBER}")


def version(database: Database) -> int:
    return int(database.execute("SHOW server_version_num")[0][0])


def settled(case: Place, database: Database, folder: Path) -> Path:
    """The database as the case has it, and its configuration."""
    slot = f"checked_{database.name}"[:60]
    if case.sql:
        database.execute(case.sql.format(slot=slot, role=ROLE, owner=MEMBER, database=database.name))
    url = database.url if case.superuser else f"postgresql://{ROLE}@{database.url.split('@', 1)[1]}"
    return write(folder, url, PLAIN, source={"slot": slot, "publication": "pub", **(case.source or {})})


@pytest.mark.parametrize("case", PLACES, ids=[case.title for case in PLACES])
def test_a_database_that_does_not_let_a_run(place: Database, tmp_path: Path, case: Place) -> None:
    if case.code == "FL018" and version(place) >= 170000:
        pytest.skip("this server has failover slots")
    if "WHERE" in case.sql and version(place) < 150000:
        pytest.skip("row filters came with Postgres 15")
    config = settled(case, place, tmp_path)
    report = check(config)
    found = report.all(case.code)
    assert any(case.sentence in one["message"] for one in found), report.json["diagnostics"]
    assert {one["severity"] for one in found} == {case.severity}
    assert any(case.remedy in (one["remedy"] or "") for one in found), found
    assert report.exit_code == case.exit_code, report.json["diagnostics"]
    if case.exit_code and case.code in ("FL015", "FL019", "FL022", "FL030"):
        ended = run(config)
        assert ended.returncode == case.exit_code, ended.stderr
        assert case.sentence in ended.stderr


def test_coverage_is_told_with_flussos_keys(place: Database, tmp_path: Path) -> None:
    place.execute("CREATE PUBLICATION pub FOR TABLE articles")
    config = write(tmp_path, place.url, PLAIN, source={"publication": "pub", "slot": "covered"})
    coverage = check(config).json["coverage"]
    assert coverage == {
        "satisfied": False,
        "manageable": True,
        "will_manage": True,
        "present": ["public.articles"],
        "missing": ["public.votes"],
        "blockers": [],
        "remediation": ['ALTER PUBLICATION "pub" ADD TABLE ONLY "public"."votes";'],
    }
    assert check(config, "--manage-publication", "false").json["coverage"]["will_manage"] is False
    place.execute(coverage["remediation"][0])
    assert check(config).json["coverage"]["satisfied"] is True


def test_nothing_is_written(place: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything() -> List[Any]:
        return [
            place.execute(sql)
            for sql in (
                "SELECT pubname FROM pg_publication",
                "SELECT slot_name FROM pg_replication_slots",
                "SELECT relname, relreplident FROM pg_class WHERE relkind = 'r' ORDER BY 1",
            )
        ]

    before = everything()
    sinks = {"file": {"type": "sqlite", "path": "out.sqlite"}}
    config = write(tmp_path, place.url, PLAIN, sinks=sinks, source={"slot": "unwritten", "publication": "pub"})
    report = check(config)
    assert {"FL025", "FL028"} <= set(report.codes)
    monkeypatch.setenv("FLUSSO_MANAGE_REPLICA_IDENTITY", "false")
    told = check(config)
    assert "a run will set" not in str(told) and told.codes != report.codes, "what a run with that variable would do"
    assert everything() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["articles.schema.yml", "flusso.yaml"]


def test_a_server_that_is_not_there_and_one_that_refuses(postgres: PostgresServer, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    report = check(write(tmp_path, f"postgresql://app:canary@127.0.0.1:{port}/shop", PLAIN))
    assert report.exit_code == 4 and report.only("FL010")["severity"] == "error"
    assert "canary" not in json.dumps(report.json)
    report = check(write(tmp_path, postgres.url("no_such_database"), PLAIN))
    assert report.exit_code == 4 and "does not exist" in report.only("FL011")["message"]


class Pooler:
    """Passes everything on to a server but connections for replication, as poolers do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            (length,) = struct.unpack("!i", client.recv(4, socket.MSG_WAITALL))
            startup = client.recv(length - 4, socket.MSG_WAITALL)
            if b"\0replication\0" in startup:
                told = b"SFATAL\0C08P01\0Munsupported startup parameter: replication\0\0"
                client.sendall(b"E" + struct.pack("!i", len(told) + 4) + told)
                return
            server.sendall(struct.pack("!i", length) + startup)
            back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
            back.start()
            self._pass(client, server)
            back.join(10)

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    break
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


def test_a_pooler_that_lets_no_stream_through(library: Database, tmp_path: Path) -> None:
    pooler = Pooler(library.server.port)
    url = f"{library.url.replace(f':{library.server.port}/', f':{pooler.port}/')}?sslmode=disable&gssencmode=disable"
    try:
        report = check(write(tmp_path, url, ARTICLES + FIELDS))
    finally:
        pooler.close()
    assert report.exit_code == 4
    assert "unsupported startup parameter: replication" in report.only("FL035")["message"]


def test_a_variable_that_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    config = write(tmp_path, "", PLAIN, source={"connection_url": {"env": "NO_SUCH_VARIABLE"}})
    report = check(config)
    assert report.exit_code == 3 and "NO_SUCH_VARIABLE" in report.only("FL006")["message"]


def test_a_slot_that_lies_beyond_the_record_is_a_gap(place: Database, tmp_path: Path) -> None:
    sinks = {"file": {"type": "sqlite", "path": "out.sqlite"}}
    source = {"slot": "gapped", "publication": "pub"}
    config = write(tmp_path, place.url, PLAIN, sinks=sinks, source=source)
    process = subprocess.Popen([str(FLUSSOD), "run", "-c", str(config)], stderr=subprocess.PIPE, text=True)
    try:
        from tests.waiting import wait_for

        wait_for(lambda: (tmp_path / "out.sqlite").exists() and _read(tmp_path, config), 60, "the index is read")
        busy = check(config)
        assert {"FL020", "FL078"} <= set(busy.codes) and busy.exit_code == 0
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert "FL021" not in check(config).codes
    # A record of another history than the server's: versions it has not come to yet, as after a backup was put back.
    with contextlib.closing(SqliteSink("file", SqliteSettings(str(tmp_path / "out.sqlite")))) as sink:
        record = sink.read_record()
        assert record is not None
        sink._documents.write(RECORD, record_document(replace(record, version=record.version + (1000 << 16))))
        told = check(config).only("FL021")
        assert told["severity"] == "warning" and "it was set back" in told["message"]
        sink._documents.write(RECORD, record_document(record))
    assert "FL021" not in check(config).codes
    place.execute("SELECT pg_drop_replication_slot('gapped')")
    assert check(config).only("FL021")["severity"] == "warning"
    stopping = write(tmp_path, place.url, PLAIN, sinks=sinks, source={**source, "on_gap": "stop"})
    report = check(stopping)
    assert report.exit_code == 7 and report.only("FL021")["severity"] == "error"
    ended = run(stopping)
    assert ended.returncode == 7 and report.only("FL021")["message"] in ended.stderr
    # Another slot is another owner of the sink.
    foreign = check(write(tmp_path, place.url, PLAIN, sinks=sinks, source={**source, "slot": "another"}))
    assert foreign.exit_code == 8 and "belongs to slot gapped" in foreign.only("FL077")["message"]


def _read(folder: Path, config: Path) -> bool:
    answer = CliRunner().invoke(flussod, ["indexes", "-c", str(config), "--format", "json"])
    return answer.exit_code == 0 and '"read"' in answer.output


# -- sinks -----------------------------------------------------------------------------------------------------


def sqlite_case(folder: Path, what: str) -> str:
    if what == "no folder":
        return "nowhere/out.sqlite"
    if what == "a folder":
        (folder / "out.sqlite").mkdir()
    if what == "of another program":
        import sqlite3

        other = sqlite3.connect(folder / "out.sqlite")
        other.execute("CREATE TABLE theirs (a)")
        other.commit()
        other.close()
    if what == "no database":
        (folder / "out.sqlite").write_bytes(b"something else entirely, " * 50)
    return "out.sqlite"


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("no folder", "its folder does not exist"),
        ("a folder", "is a folder"),
        ("of another program", "is a database of another program"),
        ("no database", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_the_sink(library: Database, tmp_path: Path, what: str, sentence: str) -> None:
    sinks = {"file": {"type": "sqlite", "path": sqlite_case(tmp_path, what)}}
    report = check(write(tmp_path, library.url, ARTICLES + FIELDS, sinks=sinks))
    assert report.exit_code == 5 and sentence in report.only("FL079")["message"]


def cluster(
    version: str = "2.19.1", distribution: str = "opensearch", nodes: int = 1, **answers: Any
) -> Dict[str, Any]:
    return {
        "/": {"version": {"number": version, "distribution": distribution}},
        "/_cluster/health": {"number_of_data_nodes": nodes},
        "/_cluster/settings": {"persistent": {}, "transient": {}},
        "/_cat/nodes": [{"name": f"node{number}"} for number in range(nodes)],
        "/_cat/plugins": [],
        **answers,
    }


def answering(known: Dict[str, Any]) -> Any:
    def reply(request: Request) -> Answer:
        path = request.path.partition("?")[0]
        assert request.method == "GET", request
        if path not in known:
            return (
                404,
                {},
                b'{"error": {"type": "index_not_found_exception", "reason": "no such index"}, "status": 404}',
            )
        answer = known[path]
        return answer if isinstance(answer, tuple) else (200, {}, json.dumps(answer).encode())

    return reply


SINKS = [
    ("an old server", {}, cluster(version="1.3.0"), "FL072", "opensearch 1.3.0 is not tested", 0),
    ("another program", {}, cluster(version="8.1.0", distribution=""), "FL072", "a server other than OpenSearch", 0),
    ("no pipeline", {"pipeline": "mine"}, cluster(), "FL074", "no ingest pipeline mine", 5),
    ("no plugin", {"text_analysis": "icu"}, cluster(nodes=2), "FL073", "node0, node1", 5),
    ("too many replicas", {"number_of_replicas": 2}, cluster(nodes=2), "FL080", "2 data nodes", 0),
    (
        "a blocked cluster",
        {},
        cluster(**{"/_cluster/settings": {"transient": {"cluster.blocks.read_only": "true"}}}),
        "FL081",
        "cluster.blocks.read_only",
        0,
    ),
    ("a wrong password", {}, cluster(**{"/": (401, {}, b"{}")}), "FL071", "answers 401", 5),
    ("no right to read", {}, cluster(**{"/flusso_sync_meta/_doc/owner": (403, {}, b"{}")}), "FL071", "answers 403", 5),
    ("a server that is busy", {}, cluster(**{"/": (503, {}, b"{}")}), "FL070", "answers 503", 5),
    (
        "a user whose rights cannot be tried",
        {"username": "app", "password": "canary"},
        cluster(),
        "FL075",
        "without writing",
        0,
    ),
    ("a name that is taken", {}, cluster(**{"/articles,NAMES": None}), "FL076", "articles is an index", 0),
]


@pytest.mark.parametrize(
    ("options", "known", "code", "sentence", "exit_code"), [case[1:] for case in SINKS], ids=[case[0] for case in SINKS]
)
def test_a_cluster_that_does_not_let_a_run(
    library: Database,
    tmp_path: Path,
    double: Double,
    options: Dict[str, Any],
    known: Dict[str, Any],
    code: str,
    sentence: str,
    exit_code: int,
) -> None:
    known = dict(known)
    reply = answering(known)
    if "/articles,NAMES" in known:
        taken = {"articles": {"aliases": {}, "mappings": {}, "settings": {"index": {"uuid": "u"}}}}

        def reply(request: Request) -> Answer:  # type: ignore[misc]
            if re.match(r"/articles,articles_[0-9a-f]{16}\?", request.path):
                return 200, {}, json.dumps(taken).encode()
            return answering(known)(request)

    double.reply = reply
    sinks = {"search": {"type": "opensearch", "url": double.url, "number_of_replicas": 0, **options}}
    report = check(write(tmp_path, library.url, ARTICLES + FIELDS, sinks=sinks))
    assert sentence in report.only(code)["message"], report.json["diagnostics"]
    assert report.exit_code == exit_code
    assert "canary" not in json.dumps(report.json)


def test_a_prefix_and_a_name_that_are_too_long_together(library: Database, tmp_path: Path, double: Double) -> None:
    double.reply = answering(cluster())
    config = write(
        tmp_path,
        library.url,
        ARTICLES + FIELDS,
        sinks={"search": {"type": "opensearch", "url": double.url, "number_of_replicas": 0}},
    )
    assert check(config, "--index-prefix", "p" * 50).exit_code == 0
    assert check(config, "--index-prefix", "p" * 51).exit_code == 3


def test_a_real_cluster_has_nothing_to_say_and_is_left_as_it_was(
    library: Database, tmp_path: Path, opensearch_prefix: Any
) -> None:
    import urllib.request

    def indexes() -> str:
        with urllib.request.urlopen(f"{opensearch_prefix.url}/_cat/indices?h=index&expand_wildcards=all") as answer:
            return "".join(sorted(answer.read().decode().splitlines()))

    before = indexes()
    sinks = {"search": {"type": "opensearch", "url": opensearch_prefix.url, "number_of_replicas": 0}}
    config = write(tmp_path, library.url, ARTICLES + FIELDS, sinks=sinks, prefix=opensearch_prefix.prefix)
    report = check(config)
    assert report.exit_code == 0
    assert not [code for code in report.codes if code >= "FL070"], report.json["diagnostics"]
    assert indexes() == before
    sinks["search"].update(number_of_replicas=1, text_analysis="icu", pipeline="none_such")
    report = check(write(tmp_path, library.url, ARTICLES + FIELDS, sinks=sinks, prefix=opensearch_prefix.prefix))
    assert [code for code in report.codes if code >= "FL070"] == ["FL074", "FL073", "FL080"]
    assert report.exit_code == 5


# -- forms -----------------------------------------------------------------------------------------------------


def test_an_address_in_use_is_warned_of(library: Database, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = write(tmp_path, library.url, ARTICLES + FIELDS, server={"public_address": address})
        report = check(config)
    assert address in report.only("FL007")["message"] and report.exit_code == 0


def test_the_form_for_people_ends_with_a_verdict(library: Database, tmp_path: Path) -> None:
    bad = write(tmp_path, library.url, f"{ARTICLES}{FIELDS}  - {{integer: views, required: true}}\n")
    answer = CliRunner().invoke(flussod, ["check", "-c", str(bad)])
    assert answer.exit_code == 3
    place = f"{tmp_path / 'articles.schema.yml'}:6:6"
    assert f"  error    FL045  {place}: index articles: views: integer accepts" in answer.output
    assert answer.output.rstrip().splitlines()[-1].startswith("[failed] 1 error; code 3: configuration")
    good = write(tmp_path, library.url, ARTICLES + FIELDS)
    answer = CliRunner().invoke(flussod, ["check", "-c", str(good)])
    assert answer.exit_code == 0 and answer.output.rstrip().splitlines()[-1] == "✓ check passed"
    assert "0 of 1 tables are published" in answer.output


def test_the_form_for_github_is_one_annotation_a_finding(library: Database, tmp_path: Path) -> None:
    config = write(
        tmp_path, library.url, f"{ARTICLES}{FIELDS}  - {{count: x, table: visits, foreign_key: article_id}}\n"
    )
    answer = CliRunner().invoke(flussod, ["check", "-c", str(config), "--format", "github"])
    assert answer.exit_code == 0
    file = str(tmp_path / "articles.schema.yml")
    (line,) = [line for line in answer.output.splitlines() if "FL057" in line]
    assert line.startswith(f"::warning file={file},line=6,col=6,title=FL057::index articles: x: no index on")
    (tmp_path / "flusso.yaml").write_text("source: {type: mysql}\n")
    answer = CliRunner().invoke(flussod, ["check", "-c", str(config), "--format", "github"])
    assert answer.exit_code == 3 and answer.output.startswith(f"::error file={config},line=1,col=16,title=FL003::")


# -- the codes -------------------------------------------------------------------------------------------------


def test_the_manual_is_the_table() -> None:
    assert (CHECKOUT / "docs" / "findings.md").read_text(encoding="utf-8") == findings.manual()


def test_every_code_is_used_and_every_use_is_a_code() -> None:
    used = set()
    for path in (CHECKOUT / "flusso_sync").rglob("*.py"):
        if path.name != "findings.py":
            used.update(re.findall(r"\bFL\d{3}\b", path.read_text(encoding="utf-8")))
    families = {code for _, code in findings._FAMILIES}
    assert used | families == set(findings.CODES)


def test_there_are_sixty_cases() -> None:
    assert len(CASES) + len(PLACES) + len(SINKS) >= 60

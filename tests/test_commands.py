"""The commands as programs, over a daemon on a real Postgres and OpenSearch; docs/commands.md is run as it stands."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shlex
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import pytest
import yaml

from flusso_sync.backends import DefaultBackends
from flusso_sync.config.load import load_config
from flusso_sync.daemon import DaemonOptions
from flusso_sync.sinks.base import Request, Sink
from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.sink import SqliteSink
from tests.deployment import lsn_number
from tests.fix_daemon import CHECKOUT, FLUSSOD, DaemonProcess, MakeDaemon, clean_environment, write_yaml
from tests.fix_deployment import OWNER, as_role, give_to_owner
from tests.fix_opensearch import Prefix
from tests.postgres_server import Database

PAGE = (CHECKOUT / "docs" / "commands.md").read_text(encoding="utf-8")
PASSWORD = "canary"

EXAMPLES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


class Ran:
    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code, self.output, self.errors = code, output, errors

    def __repr__(self) -> str:
        return f"code {self.code}\n{self.output}\n{self.errors}"

    @property
    def json(self) -> Any:
        return json.loads(self.output)


class Shop:
    """The database of examples/shop.sql, the indexes of etc/, OpenSearch; the daemon is started by the test."""

    def __init__(
        self,
        database: Database,
        prefix: Prefix,
        make_daemon: MakeDaemon,
        schemas: Optional[Mapping[str, Path]] = None,
        keep: Optional[Mapping[str, int]] = None,
        **settings: Any,
    ) -> None:
        self.database = database
        self.prefix = prefix
        give_to_owner(database)
        owned = "SET ROLE " + OWNER + ";" + (CHECKOUT / "examples" / "shop.sql").read_text(encoding="utf-8")
        database.execute(owned)
        shipped = yaml.safe_load((CHECKOUT / "etc" / "flusso.yaml").read_text(encoding="utf-8"))
        files = schemas or {one["name"]: CHECKOUT / "etc" / one["schema"] for one in shipped["index"]}
        index = [
            {"name": name, "schema": str(file), "keep_generations": (keep or {}).get(name, 1)}
            for name, file in files.items()
        ]
        self.config: Dict[str, Any] = {
            "prefix": prefix.prefix,
            "source": {
                "type": "postgres",
                "connection_url": as_role(database.url, OWNER),
                "slot": f"flusso_{database.name}"[:60],
                "publication": "shop",
            },
            "sinks": {"search": {"type": "opensearch", "url": prefix.url, "number_of_replicas": 0}},
            "index": index,
            "on_error": "skip",
            "server": {"public_address": "127.0.0.1:0"},
            **settings,
        }
        self.daemon: DaemonProcess = make_daemon(
            self.config, None, env={"FLUSSO_ADMIN_PASSWORD": PASSWORD}, start=False
        )
        self.env = clean_environment(FLUSSO_CONFIG=str(self.daemon.folder / "flusso.yaml"))

    def run(self, *arguments: str, **environ: str) -> Ran:
        """``bin/flussod`` with the deployment's configuration."""
        done = subprocess.run(
            [str(FLUSSOD), *arguments],
            cwd=self.daemon.folder,
            env={**self.env, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=180,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    @property
    def file(self) -> Path:
        """Of a SQLite sink."""
        return self.daemon.folder / "shop.sqlite"

    def restart(self, **settings: Any) -> None:
        """Stop, if it runs, and start with ``settings`` as further root keys."""
        if self.daemon.running:
            assert self.daemon.stop() == 0
        self.config.update(settings)
        write_yaml(self.daemon.folder / "flusso.yaml", self.config)
        self.daemon.start().wait_until_live()

    def private(self) -> str:
        address: str = self.daemon.wait_for_status(lambda status: "private" in status["addresses"])["addresses"][
            "private"
        ]
        return address

    def ask(self, method: str, path: str) -> Tuple[int, str]:
        request = urllib.request.Request(f"http://{self.private()}{path}", method=method)
        request.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def rebuilt(self, index: str, generation: int) -> None:
        """Wait until readers have that generation."""
        self.daemon.wait_for_status(
            lambda status: status["indexes"][index] == "seeded" and self.generations(index).get(generation) == "read",
            message=f"generation {generation} of {index} is read",
        )

    def generations(self, index: str) -> Mapping[int, str]:
        with self.sink() as sink:
            return {one.number: one.state for one in sink.generations()[index]}

    @contextlib.contextmanager
    def sink(self) -> Iterator[Sink]:
        """The one sink that there is, as a command has it, in much less time."""
        config = load_config(str(self.daemon.folder / "flusso.yaml"))
        (sink,) = DefaultBackends().sinks(config, DaemonOptions()).values()
        with contextlib.closing(sink):
            yield sink

    def aliases(self, index: str) -> Dict[str, str]:
        """What readers use of an index in OpenSearch, and what writers use, -> the index behind it."""
        return {
            alias: name
            for alias, name in self.prefix.aliases()
            if name.startswith(f"{self.prefix.prefix}{index}_") and name != alias
        }


@pytest.fixture
def shop(database: Database, owner: str, opensearch_prefix: Prefix, make_daemon: MakeDaemon) -> Shop:
    return Shop(database, opensearch_prefix, make_daemon)


def test_every_example_of_the_page_runs_as_it_stands(shop: Shop) -> None:
    assert len(EXAMPLES) >= 15
    shop.daemon.start().wait_until_live()
    address = shop.private()
    public = shop.daemon.status()["addresses"]["public"]
    ran: Dict[str, Ran] = {}
    for example in EXAMPLES:
        program, *arguments = shlex.split(example)
        assert program == "flussod"
        arguments = [
            argument.replace("127.0.0.1:9465", address).replace("127.0.0.1:9464", public) for argument in arguments
        ]
        if arguments[0] == "status":
            # The page's own configuration has a fixed address, this one any free port.
            arguments += [] if "--server" in arguments else ["--server", public]
        url = shop.config["source"]["connection_url"]
        ran[example] = answer = shop.run(*arguments, FLUSSO_ADMIN_PASSWORD=PASSWORD, DATABASE_URL=url)
        assert answer.code == 0, (example, answer)
        if arguments[:1] == ["reindex"]:
            shop.daemon.wait_for_status(lambda status: status["indexes"]["users"] == "seeded")
    for command in (
        "run",
        "check",
        "build",
        "init",
        "schema",
        "preview",
        "explain",
        "indexes",
        "reindex",
        "rollback",
        "quarantine",
        "slot",
        "search",
        "get",
    ):
        assert any(example.split()[1] == command for example in EXAMPLES), command
    assert json.loads(ran["flussod get users 1"].output) == json.loads(ran["flussod get users 1 --pretty"].output)
    assert ran["flussod get users 1"].output.count("\n") == 1
    found = [
        json.loads(line)
        for line in ran["flussod search products desk lamp --limit 3 --format json"].output.splitlines()
    ]
    assert found and "lamp" in json.dumps(found[0]["document"]).lower()
    assert ran["flussod search users ada"].output.startswith("1  {")


def test_requests_over_the_meta_store(shop: Shop) -> None:
    shop.daemon.start().wait_until_live()
    answer = shop.run("reindex", "users")
    assert (answer.code, answer.output) == (0, "index users is built anew beside the one that is read\n"), answer
    shop.rebuilt("users", 2)
    shown = shop.run("indexes").output.splitlines()
    assert re.match(r"^users +- +search +2 +read +[1-9]\d* *$", shown[1]), shown
    assert re.match(r"^ +search +1 +kept +[1-9]\d* +[0-9A-F]+/[0-9A-F]+$", shown[2]), shown
    answer = shop.run("rollback", "users")
    assert answer.code == 0 and "back on generation 1 in sink search" in answer.output, answer
    shop.rebuilt("users", 3)
    answer = shop.run("reindex", "user")
    assert answer.code == 2 and "did you mean users?" in answer.errors, answer

    # Nobody holds the lease: said at once, and carried out by the next start.
    assert shop.daemon.stop() == 0
    answer = shop.run("reindex", "products")
    assert answer.code == 0 and "no daemon holds sink search now: the request is kept" in answer.output, answer
    shop.daemon.start().wait_until_live()
    shop.rebuilt("products", 2)
    # The same of one that was killed, on the same host.
    shop.daemon.kill()
    answer = shop.run("reindex", "orders")
    assert answer.code == 0 and "the request is kept" in answer.output, answer


def test_requests_over_http(shop: Shop) -> None:
    shop.daemon.start().wait_until_live()
    address = shop.private()

    def run(*arguments: str, password: str = PASSWORD) -> Ran:
        return shop.run(*arguments, FLUSSO_SERVER=address, FLUSSO_ADMIN_PASSWORD=password, FLUSSO_CONFIG="/nowhere")

    answer = run("rollback", "users")
    assert answer.code == 5 and "keeps no former generation of index users" in answer.errors, answer
    assert run("reindex", "users").output == "reindex of users queued\n"
    shop.rebuilt("users", 2)
    assert "back on generation 1" in run("rollback", "users").output
    shop.rebuilt("users", 3)
    listed = run("indexes").output.splitlines()
    assert re.match(r"^orders +seeded +search +1 +read +[1-9]\d* *$", listed[1]) or "orders" in "".join(listed)
    assert run("reindex", "nobody").code == 2
    answer = run("indexes", password="wrong")
    assert answer.code == 1 and "server returned 401: unauthorized" in answer.errors and PASSWORD not in repr(answer)
    assert shop.ask("GET", "/indexes") == (200, '{"users":"seeded","orders":"seeded","products":"seeded"}')
    assert shop.ask("POST", "/rollback?index=orders")[0] == 409
    assert shop.ask("POST", "/reindex?index=nothing") == (404, "unknown index nothing\n")
    assert shop.daemon.stop() == 0
    answer = run("indexes")
    assert answer.code == 1 and f"no daemon answers at http://{address}" in answer.errors, answer


@pytest.fixture
def hours(database: Database, owner: str, opensearch_prefix: Prefix, make_daemon: MakeDaemon, tmp_path: Path) -> Shop:
    """Users with a time of day; at 24:00 OpenSearch refuses the document (docs/types.md)."""
    schema = tmp_path / "hours.schema.yml"
    schema.write_text(
        "version: 1\ntable: users\nprimary_key: id\n"
        "fields:\n  - {text: name, required: true}\n  - {timestamp: opens, column: opens, required: false}\n"
    )
    shop = Shop(database, opensearch_prefix, make_daemon, {"users": schema}, quarantine={"limit": 1})
    database.execute("ALTER TABLE users ADD opens time")
    return shop


#: A file in place of the cluster.
FILE: Dict[str, Any] = {"file": {"type": "sqlite", "path": "shop.sqlite"}}

#: The sinks that keep generations: what the configuration says instead of its own.
SINKS: Dict[str, Any] = {"opensearch": None, "sqlite": FILE}


#: Builds of five hundred rows take most of a minute; a restart without it ends the wait.
SLOW = {"max_rows_per_second": 10, "chunk_rows": 10, "workers": 1}


@pytest.mark.parametrize("kind", SINKS)
def test_generations_are_kept_listed_and_gone_back_to(
    database: Database, owner: str, opensearch_prefix: Prefix, make_daemon: MakeDaemon, kind: str
) -> None:
    keep = {"users": 2, "orders": 1, "products": 0}
    settings = {} if SINKS[kind] is None else {"sinks": SINKS[kind]}
    shop = Shop(database, opensearch_prefix, make_daemon, keep=keep, **settings)
    database.execute("INSERT INTO users (email, name) SELECT 'u' || n, 'U' FROM generate_series(1, 500) n")
    shop.daemon.start().wait_until_live()

    def name() -> str:
        with shop.sink() as sink:
            return str(json.loads(sink.get("users", "1") or b"{}").get("name"))

    def renamed(to: str) -> None:
        database.execute(f"UPDATE users SET name = '{to}' WHERE id = 1")
        shop.daemon.wait_for(lambda: name() == to, message=f"{to} arrived")

    # Given three reindexes of each, and a change before each of them
    for number in (2, 3, 4):
        renamed(f"before {number}")
        for index in keep:
            assert shop.ask("POST", f"/reindex?index={index}")[0] == 202
        for index in keep:
            shop.rebuilt(index, number)
    # Then as many are kept as each is to keep, and each shows where it stands still
    shown = shop.run("indexes", "--format", "json").json
    for index, kept in keep.items():
        (generations,) = shown[index]["sinks"].values()
        listed = {one["number"]: one for one in generations}
        assert [one["state"] for one in listed.values()] == ["read", *["kept"] * kept], (index, listed)
        assert list(listed) == list(range(4, 3 - kept, -1))
        positions = [lsn_number(one["frozen_lsn"]) for number, one in listed.items() if number != 4]
        assert listed[4]["frozen_lsn"] is None and positions == sorted(positions, reverse=True) and all(positions)
    # When the last change turns out to be a mistake, and builds are so slow that one is met
    renamed("after 4")
    shop.restart(backfill=SLOW)
    before = shop.aliases("users") if kind == "opensearch" else {}
    answer = shop.run("rollback", "users")
    assert answer.code == 0 and "back on generation 3 in sink" in answer.output, answer
    # Then readers have the former one at once, with what it held when it was replaced
    assert name() == "before 4"
    states = shop.generations("users")
    assert states == {5: "building", 4: "kept", 3: "rolled back to", 2: "kept"}, states
    assert "readers of index users are back on generation 3" in shop.daemon.log
    if kind == "opensearch":
        during = shop.aliases("users")
        (hash_alias,) = [alias for alias in before if re.search(r"/?users_[0-9a-f]{16}$", alias)]
        convenience = f"{opensearch_prefix.prefix}users"
        assert during[hash_alias] == during[convenience] == f"{hash_alias}_3"
        assert f"{hash_alias}_5" in [index for alias, index in during.items() if alias.endswith("_5")]
    # And a second request goes further back, the build begins again, and what readers had last is kept in the end
    answer = shop.run("rollback", "users")
    assert answer.code == 0 and "back on generation 2 in sink" in answer.output, answer
    assert name() == "before 3"
    answer = shop.run("rollback", "users")
    assert answer.code == 5 and "keeps no former generation of index users" in answer.errors, answer
    answer = shop.run("rollback", "products")
    assert answer.code == 5 and "keep_generations says how many are kept" in answer.errors, answer
    shop.restart(backfill={})
    shop.daemon.wait_for(lambda: name() == "after 4", 60, "the fresh one is complete")
    newest = max(shop.generations("users"))
    assert shop.generations("users") == {newest: "read", 3: "kept", 2: "kept"}
    if kind == "opensearch":
        after = shop.aliases("users")
        assert after[hash_alias] == after[convenience] == f"{hash_alias}_{newest}"
    renamed("and on")


def test_a_second_reindex_joins_the_first_and_what_is_disabled_or_unknown_is_refused(
    database: Database, owner: str, opensearch_prefix: Prefix, make_daemon: MakeDaemon
) -> None:
    shop = Shop(database, opensearch_prefix, make_daemon, sinks=FILE)
    database.execute("INSERT INTO users (email, name) SELECT 'u' || n, 'U' FROM generate_series(1, 500) n")
    shop.config["index"][1]["enabled"] = False
    disabled = shop.config["index"][1]["name"]
    shop.restart()
    shop.restart(backfill=SLOW)
    # A second request while one runs: over the meta store and over HTTP
    assert "is built anew beside" in shop.run("reindex", "users").output
    answer = shop.run("reindex", "users")
    assert (answer.code, "index users is being built already" in answer.output) == (0, True), answer
    assert shop.ask("POST", "/reindex?index=users") == (202, "reindex of users queued\n")
    shop.restart(backfill={})
    shop.rebuilt("users", 2)
    assert set(shop.generations("users")) == {2, 1}, "there was one build"
    # What no daemon builds: by the configuration, over HTTP, and by a request that came past both
    server = {"FLUSSO_SERVER": shop.private(), "FLUSSO_ADMIN_PASSWORD": PASSWORD}
    for index, sentence in ((disabled, f"index {disabled} is disabled"), ("nobody", "unknown index nobody")):
        for environ in ({}, server):
            started = time.monotonic()
            answer = shop.run("reindex", index, **environ)
            assert (answer.code, sentence in answer.errors) == (2, True), answer
            assert time.monotonic() - started < 20, "at once"
        assert shop.ask("POST", f"/reindex?index={index}") == (404, f"{sentence}\n")
    there = SqliteSettings(str(shop.file), prefix=opensearch_prefix.prefix)
    with contextlib.closing(SqliteSink("asker", there)) as asker:
        asker.post(Request("1", "reindex", disabled))
        said = shop.daemon.wait_for(lambda: asker.answer_to("1"), message="it is answered")
    assert not said.accepted and f"no index {disabled} is enabled in the running daemon" in said.text
    assert shop.daemon.status()["indexes"][disabled] == "disabled"
    shown = [line.split() for line in shop.run("indexes").output.splitlines()]
    assert [disabled, "disabled", "-", "-", "-", "-"] in shown, shown


def test_every_command_over_a_file(
    database: Database, owner: str, opensearch_prefix: Prefix, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    """As over OpenSearch: the meta store is the file, which the daemon writes meanwhile."""
    schema = tmp_path / "users.schema.yml"
    schema.write_text(
        "version: 1\ntable: users\nprimary_key: id\n"
        "fields:\n  - {text: name, required: true}\n  - {json: deep, required: false}\n"
    )
    products = CHECKOUT / "etc" / "schemas" / "products.schema.yml"
    files = {"users": schema, "products": products}
    shop = Shop(database, opensearch_prefix, make_daemon, files, sinks=FILE)
    database.execute("ALTER TABLE users ADD deep jsonb")
    # Before there is a file, nothing can be asked for and nothing is found.
    answer = shop.run("reindex", "users")
    assert answer.code == 5 and "there is no meta store to leave the request in" in answer.errors, answer
    assert shop.run("get", "users", "1").code == 1
    shop.daemon.start().wait_until_live()
    # indexes, reindex, rollback
    assert shop.run("reindex", "users").output == "index users is built anew beside the one that is read\n"
    shop.rebuilt("users", 2)
    shown = [line.split() for line in shop.run("indexes").output.splitlines()]
    assert shown[1][:5] == ["users", "-", "file", "2", "read"] and shown[2][:3] == ["file", "1", "kept"], shown
    answer = shop.run("rollback", "users")
    assert answer.code == 0 and "back on generation 1 in sink file" in answer.output, answer
    shop.rebuilt("users", 3)
    # search, get
    assert shop.run("search", "users", "ada").output.startswith("1  {")
    found = shop.run("search", "products", "desk", "lamp", "--limit", "1", "--format", "json")
    assert "lamp" in json.dumps(found.json["document"]).lower()
    assert shop.run("get", "users", "1", "--pretty").json == shop.run("get", "users", "1").json
    assert shop.run("get", "users", "999").code == 1
    # quarantine: deeper than SQLite's JSON functions go
    database.execute("UPDATE users SET deep = (repeat('[', 2500) || repeat(']', 2500))::jsonb WHERE id = 1")
    shop.daemon.wait_for_status(lambda status: status["index_details"]["users"]["quarantined"] == 1)
    (one,) = shop.run("quarantine", "list", "users", "--format", "json").json["documents"]
    assert (one["id"], one["sink"]) == ("1", "file") and "nested too deeply" in one["reason"]
    assert "0 of 1 parked" in shop.run("quarantine", "retry", "users").output
    database.execute("UPDATE users SET deep = '[]' WHERE id = 1")
    shop.daemon.wait_for_status(lambda status: status["index_details"]["users"]["quarantined"] == 0)
    assert shop.run("quarantine", "list").output == "nothing is in quarantine\n"
    # verify
    assert shop.run("verify").code == 0
    table = f"{opensearch_prefix.prefix}users.{max(shop.generations('users'))}"
    with contextlib.closing(sqlite3.connect(shop.file, isolation_level=None)) as file:
        assert file.execute(f"DELETE FROM \"{table}\" WHERE id = '2'").rowcount == 1
    answer = shop.run("verify", "users", "--format", "json")
    (compared,) = answer.json["indexes"]
    assert answer.code == 9 and [one["id"] for one in compared["differences"]] == ["2"], answer
    answer = shop.run("verify", "users", "--repair")
    assert answer.code == 0 and "1 difference found and repaired" in answer.output, answer
    assert shop.run("get", "users", "2").code == 0
    # Nobody there: the request stands in the file.
    assert shop.daemon.stop() == 0
    answer = shop.run("reindex", "products", "--keep", "600")
    assert answer.code == 0 and "no daemon holds sink file now: the request is kept until" in answer.output, answer
    answer = shop.run("verify", "users", "--repair")
    assert answer.code == 5 and "no daemon runs for sink file" in answer.errors, answer
    shop.daemon.start().wait_until_live()
    shop.rebuilt("products", 2)


def refused_id(shop: Shop) -> str:
    insert = "INSERT INTO users (email, name, opens) VALUES ('x@y.z', 'Ada Secret', '24:00') RETURNING id::text"
    (row,) = shop.database.execute(insert)
    return str(row[0])


def test_parked_documents_are_listed_retried_and_gone_and_a_full_quarantine_names_the_commands(hours: Shop) -> None:
    hours.daemon.start().wait_until_live()
    id = refused_id(hours)
    hours.daemon.wait_for_status(
        lambda status: status["index_details"]["users"]["quarantined"] == 1, message="the document is parked"
    )
    assert "Ada Secret" not in json.dumps(hours.daemon.status()), "no row data on the public surface"
    (one,) = hours.run("quarantine", "list", "users", "--format", "json").json["documents"]
    assert (one["index"], one["id"], one["sink"], one["tries"]) == ("users", id, "search", 1)
    assert re.match(r"[0-9A-F]+/[0-9A-F]+$", one["lsn"]) and one["first"] == one["last"]
    assert json.loads(hours.ask("GET", "/quarantine")[1])["counts"] == {"users": 1}
    answer = hours.run("quarantine", "retry", "users", id)
    assert answer.output == "0 of 1 parked documents of index users are right now\n", answer
    shown = hours.run("quarantine", "list").output.splitlines()
    assert len(shown) == 2 and shown[1].split()[:4] == ["users", id, "search", "2"], shown
    assert hours.run("get", "users", id).code == 1
    hours.database.execute(f"UPDATE users SET opens = '12:00' WHERE id = {id}")
    hours.daemon.wait_for_status(lambda status: status["index_details"]["users"]["quarantined"] == 0)
    assert hours.run("quarantine", "list").output == "nothing is in quarantine\n"
    assert hours.run("get", "users", id).code == 0

    hours.database.execute("INSERT INTO users (email, name, opens) SELECT n, n, '24:00' FROM unnest('{a,b}'::text[]) n")
    assert hours.daemon.wait(60) == 6
    log = hours.daemon.log
    assert "holds its limit of 1 documents" in log
    assert "`flussod quarantine list users`" in log and "`flussod quarantine retry users`" in log


def test_a_sink_that_is_away_ends_a_command_with_5(shop: Shop) -> None:
    shop.config["sinks"]["search"]["url"] = "http://127.0.0.1:1"
    away = shop.daemon.folder / "away.yaml"
    away.write_text(json.dumps(shop.config))
    commands = "get users 1", "search users x", "reindex users", "quarantine list", "verify", "preview users 1"
    for command in (line.split() for line in commands):
        answer = shop.run(*command, FLUSSO_CONFIG=str(away))
        assert answer.code == 5 and "cannot be reached" in answer.errors and "Traceback" not in answer.errors, answer
        assert "It is tried again" not in answer.errors, "a command does not wait"


def test_a_source_that_is_away_ends_a_command_with_4(shop: Shop) -> None:
    for command in ("verify", "preview users 1", "explain users", "slot show"):
        answer = shop.run(*command.split(), DATABASE_URL="postgresql://app@127.0.0.1:1/shop")
        assert answer.code == 4 and "cannot be reached" in answer.errors and "Traceback" not in answer.errors, answer
        assert "It is tried again" not in answer.errors, "a command does not wait"


def test_builds_tell_how_far_they_are(
    database: Database, owner: str, opensearch_prefix: Prefix, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    """12 s of a throttled build: the log line, /status and the metrics say the same; no total is ever passed."""
    shop = Shop(
        database, opensearch_prefix, make_daemon, backfill={"max_rows_per_second": 500, "chunk_rows": 100, "workers": 2}
    )
    database.execute(
        "INSERT INTO users (email, name) SELECT 'u' || n || '@example.com', 'U ' || n FROM generate_series(1, 7000) n"
    )
    database.execute("ANALYZE users")
    shop.daemon.start()
    seen: List[Tuple[int, Optional[int]]] = []

    def told(status: Dict[str, Any]) -> bool:
        build = status["index_details"]["users"]["build"]
        if build is not None:
            seen.append((build["done"], build["total"]))
        return build is not None and 1000 < build["done"] < 6000 and build["workers"] == 2 and build["eta_seconds"]

    status = shop.daemon.wait_for_status(told, 60, "the build is under way")
    code, metrics = shop.daemon.get("/metrics")
    rows = {
        name: float(value) for name, value in re.findall(r'^(flusso_build_\w+)\{index="users"\} (\S+)$', metrics, re.M)
    }
    assert rows["flusso_build_rows"] >= status["index_details"]["users"]["build"]["done"]
    assert 7000 <= rows["flusso_build_rows_expected"] <= 7200
    assert 0 < rows["flusso_build_rows_per_second"] < 2000 and rows["flusso_build_remaining_seconds"] > 0
    line = r"index users: [\d,]+ of about 7,0\d\d rows \(\d+ %\), [\d,]+ rows/s, about \d+ s left"
    shop.daemon.wait_for(lambda: re.search(line, shop.daemon.log), 60, "the log tells")
    shop.daemon.wait_for_status(lambda status: told(status) or status["phase"] == "live", 60)
    shop.daemon.wait_until_live(90)
    assert all(total is None or done <= total for done, total in seen)
    assert "\x1b[" not in shop.daemon.log
    assert "flusso_build_rows{" not in shop.daemon.get("/metrics")[1]

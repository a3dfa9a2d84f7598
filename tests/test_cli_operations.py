"""The commands that look at indexes and ask the daemon for something: in memory, over the meta store and over HTTP."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from click.testing import CliRunner, Result

from flusso_sync.cli.commands import flussod
from flusso_sync.cli.table import table
from flusso_sync.daemon import Daemon, RunningDaemon
from flusso_sync.errors import SinkUnavailable
from flusso_sync.sinks.base import FailureKind, Request, Sink, exact, exact_text
from flusso_sync.sinks.memory import ItemFault, MemorySink, MemoryStore, Refusal
from flusso_sync.sinks.stdout import StdoutSink
from flusso_sync.status import IndexState
from flusso_sync.web.private import private_app
from flusso_sync.web.public import public_app
from flusso_sync.web.server import Surface
from tests.test_daemon import SCHEMA, config
from tests.test_pipeline import Lives
from tests.waiting import wait_for

PASSWORD = "canary"

Flussod = Callable[..., Result]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def sinks(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Dict[str, Sink]:
    """The sinks that commands find in the configuration."""
    found: Dict[str, Sink] = {"one": MemorySink("one", store=store, stateful=True)}
    monkeypatch.setattr("flusso_sync.backends.DefaultBackends.sinks", lambda self, config, options: found)
    return found


@pytest.fixture
def run(tmp_path: Path, sinks: Dict[str, Sink]) -> Flussod:
    """``run(*arguments, **environ)``: a command with the configuration of an index ``things`` and a disabled one."""
    (tmp_path / "things.yml").write_text(json.dumps(SCHEMA))
    write_config(tmp_path)

    def run(*arguments: str, **environ: str) -> Result:
        given = {"FLUSSO_CONFIG": str(tmp_path / "flusso.yaml"), **environ}
        return CliRunner().invoke(flussod, list(arguments), env=given)

    return run


def write_config(folder: Path, **settings: Any) -> None:
    index = [
        {"name": "things", "schema": "things.yml"},
        {"name": "asleep", "schema": "things.yml", "enabled": False},
    ]
    settings.setdefault("server", {"public_address": "127.0.0.1:0"})
    written = {"source": {"type": "postgres"}, "index": index, **settings}
    (folder / "flusso.yaml").write_text(json.dumps(written))


@pytest.fixture
def lives(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Lives:
    monkeypatch.setattr("flusso_sync.pipeline.WATCH_SECONDS", 0.05)
    lives = Lives({"a": "red lamp", "b": "blue lamp"})
    lives.stores = {"one": store}
    return lives


@contextlib.contextmanager
def daemon(lives: Lives, **settings: Any) -> Iterator[RunningDaemon]:
    with Daemon(config(**settings), lives).background() as running:
        assert running.wait_until_live(20)
        yield running


@contextlib.contextmanager
def surfaces(running: RunningDaemon) -> Iterator[Dict[str, Surface]]:
    """Both surfaces of a daemon, on free ports."""
    private = private_app(running.status, lambda: ("admin", PASSWORD), running)
    made = {
        "public": Surface("public", public_app(running.status), "127.0.0.1", 0),
        "private": Surface("private", private, "127.0.0.1", 0),
    }
    for surface in made.values():
        surface.start()
    try:
        yield made
    finally:
        for surface in made.values():
            assert surface.stop()


def seeded(running: RunningDaemon) -> None:
    wait_for(lambda: running.status.index_state("things") is IndexState.SEEDED, 20)


# -- over the meta store ------------------------------------------------------------------------------


def test_a_reindex_is_left_in_the_meta_store_and_carried_out(run: Flussod, lives: Lives, store: MemoryStore) -> None:
    with daemon(lives) as running:
        answer = run("reindex", " Things ")
        assert (answer.exit_code, answer.output) == (0, "index things is built anew beside the one that is read\n")
        seeded(running)
        assert store.indexes["things"].read is not None and store.indexes["things"].read.number == 2


def test_without_a_daemon_the_request_is_kept_and_said_to_be(run: Flussod, lives: Lives, store: MemoryStore) -> None:
    with daemon(lives):
        pass
    answer = run("reindex", "things")
    assert answer.exit_code == 0 and "no daemon holds sink one now: the request is kept" in answer.output
    (request,) = store.requests.values()
    until = datetime.strptime(request.at, "%Y-%m-%dT%H:%M:%SZ") + timedelta(hours=1)
    assert f"until {until:%Y-%m-%dT%H:%M:%SZ}, and the first one that starts by then" in answer.output
    assert (request.command, request.index, request.ids) == ("reindex", "things", ())
    with daemon(lives) as running:
        wait_for(lambda: store.answers, 20)
        seeded(running)
        assert store.indexes["things"].last == 2


def test_a_request_that_found_no_daemon_in_its_time_is_refused_by_the_next_and_not_done(
    run: Flussod, lives: Lives, store: MemoryStore
) -> None:
    with daemon(lives):
        pass
    assert run("reindex", "things", "--keep", "7200").exit_code == 0
    (fresh,) = store.requests.values()
    assert fresh.lasts_seconds == 7200.0
    # Given one that was left two hours and two minutes ago, and one that was left as long ago and stands for longer
    then = (datetime.now(timezone.utc) - timedelta(seconds=7320)).strftime("%Y-%m-%dT%H:%M:%SZ")
    late, patient = replace(fresh, id="late", at=then), replace(fresh, id="patient", at=then, lasts_seconds=8000)
    store.requests = {"late": late}
    with daemon(lives):
        wait_for(lambda: store.answers, 20)
    assert not store.answers["late"].accepted and store.indexes["things"].last == 1
    told = f"the reindex of index things that was asked for at {then} stood for 7200 s, in which no daemon took it"
    assert told in store.answers["late"].text
    store.requests["patient"] = patient
    with daemon(lives):
        wait_for(lambda: "patient" in store.answers, 20)
    assert store.answers["patient"].accepted and store.indexes["things"].last == 2


def test_a_daemon_that_gives_no_answer_is_named_after_the_timeout(run: Flussod, store: MemoryStore) -> None:
    store.holder = MemorySink("elsewhere", store=store, stateful=True)
    answer = run("reindex", "things", "--timeout", "0.3")
    assert answer.exit_code == 1
    assert "sink elsewhere holds sink one and has not answered within 0.3 s; the request is kept" in answer.output
    assert len(store.requests) == 1


@pytest.mark.parametrize("command", [["reindex"], ["rollback"], ["quarantine", "retry"]])
@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ("thinsg", "unknown index thinsg (did you mean things?); there is asleep, things"),
        ("orders", "unknown index orders; there is asleep, things"),
        ("asleep", "index asleep is disabled in the configuration, so no daemon builds it"),
        ("a-b", "the index must be a name"),
    ],
)
def test_an_unknown_or_disabled_index_is_refused_before_anything_is_sent(
    run: Flussod, store: MemoryStore, command: List[str], index: str, sentence: str
) -> None:
    answer = run(*command, index)
    assert answer.exit_code == 2 and sentence in " ".join(answer.output.split())
    assert not store.requests


def test_a_rollback_of_nothing_is_refused_with_5_and_one_of_something_is_told(run: Flussod, lives: Lives) -> None:
    lives.keep = 1
    with daemon(lives) as running:
        answer = run("rollback", "things")
        assert answer.exit_code == 5
        assert answer.output.startswith("error: sink one keeps no former generation of index things")
        running.reindex("things")
        seeded(running)
        answer = run("rollback", "things")
        assert answer.exit_code == 0 and "back on generation 1 in sink one" in answer.output


def test_the_quarantine_is_listed_and_retried(run: Flussod, lives: Lives) -> None:
    bad = {"a", "b"}
    lives.faults = lambda method, writes: (
        ItemFault(FailureKind.REJECTED, "too odd\x1b[2J", 400, bad) if writes else None
    )
    assert run("quarantine", "list").output == "nothing is in quarantine\n"
    with daemon(lives, on_error="skip"):
        lines = run("quarantine", "list", "things").output.splitlines()
        assert lines[0].split() == ["index", "id", "sink", "tries", "first", "last", "position", "reason"]
        assert len(lines) == 3 and "\x1b" not in "".join(lines)
        assert run("quarantine", "list", "--limit", "1").output.splitlines()[-1] == "and 1 more (--limit)"
        listed = json.loads(run("quarantine", "list", "--format", "json").output)
        assert listed["counts"] == {"things": 2}
        assert {one["id"] for one in listed["documents"]} == bad
        assert listed["documents"][0]["tries"] == 1 and listed["documents"][0]["first"].endswith("Z")
        bad.discard("b")
        answer = run("quarantine", "retry", "things", "b")
        assert answer.output == "1 of 1 parked documents of index things are right now\n", answer.output
        bad.clear()
        answer = run("quarantine", "retry", "things")
        assert answer.output == "1 of 1 parked documents of index things are right now\n", answer.output
    assert run("quarantine", "list", "asleep").output == "nothing of index asleep is in quarantine\n"


def test_indexes_are_shown_with_their_generations_and_the_state_if_a_daemon_tells(
    run: Flussod, lives: Lives, tmp_path: Path
) -> None:
    lives.keep = 1
    with daemon(lives) as running:
        running.reindex("things")
        seeded(running)
        answer = run("indexes")
        assert answer.exit_code == 0
        lines = answer.output.splitlines()
        assert lines[0].split() == ["index", "state", "sink", "generation", "is", "documents", "up", "to"]
        assert lines[1].split() == ["things", "-", "one", "2", "read", "2"]
        assert lines[2].split() == ["one", "1", "kept", "2", "0/0"]
        assert lines[3].split() == ["asleep", "disabled", "-", "-", "-", "-"]
        assert "states are not known" in lines[4]
        # Where the daemon is heard, and where one of another deployment is.
        status = running.status
        with surfaces(running) as made:
            write_config(tmp_path, server={"public_address": made["public"].address})
            assert "another deployment's" in run("indexes").output
            status.add_index("asleep")
            found = json.loads(run("indexes", "--format", "json").output)
        assert found["things"]["state"] == "seeded"
        assert [one["state"] for one in found["things"]["sinks"]["one"]] == ["read", "kept"]


def test_a_form_that_only_another_command_has_leaves_this_one_at_its_default(run: Flussod) -> None:
    told = run("indexes")
    assert told.exit_code == 0 and told.stdout.startswith("index ")
    assert run("indexes", FLUSSO_FORMAT="github").stdout == told.stdout
    assert "no index nothing is enabled" in run("verify", "nothing", FLUSSO_FORMAT="github").output
    # Behind it may stand what went to standard error.
    assert json.JSONDecoder().raw_decode(run("indexes", FLUSSO_FORMAT="json").stdout)
    for wrong in (run("indexes", FLUSSO_FORMAT="yaml"), run("indexes", "--format", "github")):
        assert wrong.exit_code == 2 and "--format" in wrong.output


def test_what_only_looks_takes_no_option_of_a_request(run: Flussod) -> None:
    for command in (["indexes"], ["quarantine", "list"]):
        for option in ("--keep", "--timeout"):
            answer = run(*command, option, "1")
            assert answer.exit_code == 2 and "No such option" in answer.output and option in answer.output


def test_a_sink_that_is_away_costs_its_own_rows_and_no_other_command_waits(
    run: Flussod, sinks: Dict[str, Sink], store: MemoryStore
) -> None:
    away = Refusal(SinkUnavailable("OpenSearch cannot be reached", hint="It is tried again until it answers"))
    sinks["two"] = MemorySink("two", store=MemoryStore(), stateful=True, faults=lambda method, writes: away)
    answer = run("indexes")
    assert answer.exit_code == 0 and "not readable now" in answer.output
    assert "sink two: OpenSearch cannot be reached" in answer.output
    # The other one takes requests, too.
    assert "is kept" in run("reindex", "things").output and len(store.requests) == 1
    sinks["one"] = sinks["two"]
    for command in (["reindex", "things"], ["rollback", "things"], ["quarantine", "list"]):
        answer = run(*command)
        assert (answer.exit_code, answer.output) == (5, "error: OpenSearch cannot be reached\n"), command


# -- documents ------------------------------------------------------------------------------------------


def test_get_prints_the_bytes_as_they_are_and_a_missing_document_is_1(run: Flussod, lives: Lives) -> None:
    with daemon(lives):
        answer = run("get", "things", "a")
        assert (answer.exit_code, answer.output) == (0, '{"key": "a", "value": "red lamp"}\n')
        answer = run("get", "things", "a", "--pretty", "--sink", "one")
        assert answer.output == '{\n  "key": "a",\n  "value": "red lamp"\n}\n'
        for index, id in (("things", "-1"), ("asleep", "a")):
            answer = run("get", index, id)
            assert answer.exit_code == 1 and answer.output == f"index {index} has no document {id!r} in sink one\n"
    assert run("get", "thing", "a").exit_code == 2
    answer = run("get", "things", "a", "--sink", "tow")
    assert answer.exit_code == 2 and "no sink tow" in answer.output


def test_search_prints_id_and_document(run: Flussod, lives: Lives) -> None:
    with daemon(lives):
        answer = run("search", "things", "red", "lamp")
        assert answer.output.splitlines() == [
            'a  {"key":"a","value":"red lamp"}',
            'b  {"key":"b","value":"blue lamp"}',
        ]
        answer = run("search", "things", "lamp", "--limit", "1", "--format", "json")
        assert [json.loads(line) for line in answer.output.splitlines()] == [
            {"id": "a", "document": {"key": "a", "value": "red lamp"}}
        ]
        answer = run("search", "things", "nothing of that kind")
        assert (answer.exit_code, answer.output) == (0, "")


def test_sinks_that_cannot_be_read_are_refused_with_5(run: Flussod, sinks: Dict[str, Sink]) -> None:
    sinks.clear()
    sinks["print"] = StdoutSink("print")
    assert run("get", "things", "a").exit_code == 5
    answer = run("search", "things", "a", "--sink", "print")
    assert answer.exit_code == 5 and "sink print cannot be read" in answer.output


def test_json_keeps_every_digit_and_key_order() -> None:
    text = '{"b":1.10,"a":[12345678901234567890.123456789,{"x":null}],"ö":"\\u0000é","e":{},"f":[]}'
    assert exact_text(exact(text)) == text
    assert json.loads(exact_text(exact(text), 2)) == json.loads(text)
    assert exact_text(exact('{"a":[1,{"b":2}]}'), 2) == json.dumps({"a": [1, {"b": 2}]}, indent=2)
    # Python reads no int of so many digits; a numeric may have them.
    assert exact_text(exact(f'{{"n":{"7" * 5000}}}')) == f'{{"n":{"7" * 5000}}}'


def test_tables_are_aligned_and_obey_no_cell() -> None:
    rows = [["漢", 5, None], ["e\u0301", 12345, "a\nb\x9b"]]
    assert list(table(("name", "n", "what"), rows, right=("n",))) == [
        "name      n  what",
        "漢        5  -",
        "e\u0301     12345  a\\nb\\x9b",
    ]


# -- over HTTP ------------------------------------------------------------------------------------------


def test_with_a_server_no_configuration_is_read(run: Flussod, lives: Lives) -> None:
    lives.keep = 1
    bad = {"b"}
    lives.faults = lambda method, writes: ItemFault(FailureKind.REJECTED, "too odd", 400, bad) if writes else None
    with daemon(lives, on_error="skip") as running, surfaces(running) as made:
        address = made["private"].address

        def ask(*arguments: str, **environ: str) -> Result:
            environ = {"FLUSSO_SERVER": address, "FLUSSO_ADMIN_PASSWORD": PASSWORD, **environ}
            return run(*arguments, FLUSSO_CONFIG="/nowhere.yaml", http_proxy="http://127.0.0.1:1", **environ)

        answer = ask("reindex", "things")
        assert (answer.exit_code, answer.output) == (0, "reindex of things queued\n")
        seeded(running)
        lines = ask("indexes").output.splitlines()
        assert lines[1].split() == ["things", "seeded", "one", "2", "read", "1"]
        assert json.loads(ask("quarantine", "list", "--format", "json").output)["counts"] == {"things": 1}
        assert "too odd" in ask("quarantine", "list", "things").output
        bad.clear()
        answer = ask("quarantine", "retry", "things", "b", FLUSSO_SERVER=f"http://{address}/")
        assert answer.output == "1 of 1 parked documents of index things are right now\n"
        answer = ask("rollback", "things")
        assert answer.exit_code == 0 and "back on generation 1" in answer.output
        seeded(running)
        answer = ask("rollback", "thinsg")
        assert answer.exit_code == 2 and "unknown index thinsg (did you mean things?)" in answer.output
        running.status.set_index_state("asleep", IndexState.DISABLED)
        answer = ask("reindex", "asleep")
        assert answer.exit_code == 2 and "index asleep is disabled" in answer.output
        answer = ask("reindex", "things", FLUSSO_ADMIN_PASSWORD="wrong")
        assert answer.exit_code == 1 and "server returned 401: unauthorized. Give --admin-user" in answer.output
        assert PASSWORD not in answer.output
    answer = run("reindex", "things", "--server", address, "--admin-password", PASSWORD)
    assert answer.exit_code == 1 and f"no daemon answers at http://{address}: " in answer.output
    answer = run("reindex", "things", "--server", address)
    assert answer.exit_code == 2 and "needs --admin-password" in answer.output
    for strange in ("http://[", "ftp:/x", "a b:1"):
        answer = run("indexes", "--server", strange, "--admin-password", PASSWORD)
        assert answer.exit_code == 1 and "no daemon answers" in answer.output, answer.output


class LoginPage(http.server.BaseHTTPRequestHandler):
    """A proxy in front that knows nobody: it shows its own page, or sends everybody to it."""

    asked: List[str] = []

    def _answer(self) -> None:
        self.asked.append(f"{self.command} {self.path.partition('?')[0]}")
        body = b"<html>Please log in</html>"
        self.send_response(302 if self.path.startswith("/reindex") else 200)
        self.send_header("Location", "/login")
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *_: Any) -> None:
        pass


def test_the_page_of_somebody_else_is_no_answer(run: Flussod) -> None:
    LoginPage.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), LoginPage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        given = ("--server", f"127.0.0.1:{server.server_port}", "--admin-password", PASSWORD)
        for command in (["indexes"], ["quarantine", "list"], ["quarantine", "retry", "things"]):
            answer = run(*command, *given)
            assert answer.exit_code == 1 and "is no daemon of flusso-sync" in answer.output, (command, answer.output)
        answer = run("reindex", "things", *given)
        assert answer.exit_code == 1 and "server returned 302" in answer.output
        assert "GET /login" not in LoginPage.asked
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_a_rollback_that_is_refused_is_5_over_http_too(run: Flussod, lives: Lives) -> None:
    with daemon(lives) as running, surfaces(running) as made:
        answer = run("rollback", "things", "--server", made["private"].address, "--admin-password", PASSWORD)
    assert answer.exit_code == 5 and "keeps no former generation" in answer.output


def test_without_a_sink_that_remembers_the_surface_of_the_configuration_is_asked(
    run: Flussod, lives: Lives, sinks: Dict[str, Sink], tmp_path: Path
) -> None:
    sinks.clear()
    sinks["print"] = StdoutSink("print")
    answer = run("indexes")
    assert answer.exit_code == 5 and "Set server.admin_password" in answer.output
    with daemon(lives) as running, surfaces(running) as made:
        write_config(tmp_path, server={"private_address": made["private"].address, "admin_password": PASSWORD})
        answer = run("reindex", "things")
        assert (answer.exit_code, answer.output) == (0, "reindex of things queued\n")
        seeded(running)


def test_commands_never_speak_for_the_surface_of_somebody_else(
    run: Flussod, lives: Lives, store: MemoryStore, tmp_path: Path
) -> None:
    """Where a sink remembers, it decides: whoever listens at the configured address may be another deployment."""
    other = Lives({"x": "1"})
    with daemon(other) as running, surfaces(running) as made:
        server = {"private_address": made["private"].address, "admin_password": PASSWORD}
        write_config(tmp_path, server={**server, "public_address": "127.0.0.1:0"})
        answer = run("reindex", "things")
        assert "no daemon holds sink one" in answer.output
        assert other.stores["one"].indexes["things"].last == 1 and len(store.requests) == 1


def test_a_request_of_an_older_time_is_told_by_its_age(store: MemoryStore, run: Flussod) -> None:
    run("quarantine", "retry", "things", "7", "--", "-1")
    (request,) = store.requests.values()
    assert isinstance(request, Request) and request.ids == ("7", "-1") and request.at.endswith("Z")


def test_every_command_has_an_example_and_names_its_exit_codes() -> None:
    for command in (["indexes"], ["reindex"], ["rollback"], ["quarantine", "list"], ["quarantine", "retry"]):
        text = CliRunner().invoke(flussod, [*command, "--help"]).output
        assert f"  flussod {' '.join(command)}" in text and "Exit codes" in text and "FLUSSO_SERVER" in text
    for name in ("get", "search"):
        text = CliRunner().invoke(flussod, [name, "--help"]).output
        assert f"  flussod {name} " in text and "FLUSSO_CONFIG" in text

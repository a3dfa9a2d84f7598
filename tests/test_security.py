"""Section F of the faults, over a whole daemon: secrets stay where they were written, hostile clients cost no change.

Parts are tried alone elsewhere: limits of a surface (test_web_server), guessing and other sites' pages
(test_web_private), any name Postgres takes (test_extensions), YAML bombs and large files (test_config_yaml12).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from flusso_sync.cli.commands import flussod
from flusso_sync.status import Status
from flusso_sync.web import private as private_module
from flusso_sync.web.private import private_app
from tests.fix_daemon import FLUSSOD, DaemonProcess, MakeDaemon, clean_environment, write_yaml
from tests.postgres_server import Database
from tests.test_telemetry import Collector, collector
from tests.test_web_private import RIGHT, Operator, basic
from tests.waiting import wait_for

__all__ = ["collector"]

#: Looked for wherever something is told.
CANARY = "cAnArY-7f3a"

SCHEMA = "version: 1\ntable: notes\nfields: [{long: id, required: true}, {text: body, required: true}]\n"
TABLE = "CREATE TABLE notes (id bigint PRIMARY KEY, body text NOT NULL); INSERT INTO notes VALUES (1, 'one');"


# -- guessing -------------------------------------------------------------------------------------------------


def test_ten_thousand_wrong_passwords_are_refused_at_once_and_for_longer_and_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: List[Tuple[str, str]] = []

    def credentials() -> Tuple[str, str]:
        asked.append(("admin", "pässword: with colon"))
        return asked[-1]

    client: FlaskClient = private_app(Status(), credentials, Operator()).test_client()
    now = [1000.0]
    monkeypatch.setattr(private_module, "monotonic", lambda: now[0])
    began = time.monotonic()
    codes: Dict[int, int] = {}
    longest = 0
    for n in range(10_000):
        now[0] += 0.01
        answer = client.get("/indexes", headers=basic("admin", f"guess {n}"))
        codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
        longest = max(longest, int(answer.headers.get("Retry-After", 0)))
    # 100 s of guessing: passwords are looked at a handful of times, and no thread has slept.
    assert set(codes) == {401, 429} and codes[401] == len(asked) <= 12, codes
    assert longest > 30 and time.monotonic() - began < 60
    assert client.get("/indexes", headers=RIGHT).status_code == 429, "nor does the right one help while it waits"
    now[0] += 61
    assert client.get("/indexes", headers=RIGHT).status_code == 200


def test_passwords_are_compared_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every guess, however near, goes through one comparison of two digests of one length."""
    compared: List[Tuple[int, int]] = []
    genuine = private_module.hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return bool(genuine(one, other))

    monkeypatch.setattr(private_module.hmac, "compare_digest", noted)
    for guess in ("", "s", "secre", "secret ", "x" * 5000):
        client = private_app(Status(), lambda: ("admin", "secret"), Operator()).test_client()
        assert client.get("/indexes", headers=basic("admin", guess)).status_code == 401
    assert compared == [(32, 32)] * 5


# -- hostile clients ----------------------------------------------------------------------------------------------


@pytest.fixture
def notes(database: Database, make_daemon: MakeDaemon, tmp_path: Path) -> DaemonProcess:
    database.execute(TABLE)
    (tmp_path / "notes.schema.yml").write_text(SCHEMA)
    name = database.name[:60]
    return make_daemon(
        {
            "source": {"type": "postgres", "connection_url": database.url, "slot": name, "publication": name},
            "sinks": {"file": {"type": "sqlite", "path": str(tmp_path / "notes.sqlite")}},
            "index": [{"name": "notes", "schema": str(tmp_path / "notes.schema.yml")}],
            "server": {"admin_password": CANARY},
        },
        None,
        start=False,
    )


def _idle(address: str, count: int, stack: contextlib.ExitStack) -> None:
    host, port = address.rsplit(":", 1)
    for n in range(count):
        client = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
        if n % 2:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")


def _huge(address: str, chunked: bool) -> Tuple[int, bytes]:
    """How many bytes of a 1 GB body were taken before the answer, and the answer."""
    host, port = address.rsplit(":", 1)
    header = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 1073741824"
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n" if chunked else b"x" * 65536
    sent, answer = 0, b""
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(b"POST /reindex?index=notes HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent < 2**30:
                client.sendall(piece)
                sent += len(piece)
        with contextlib.suppress(OSError):
            answer = client.recv(65536)
    return sent, answer


def _memory(pid: int) -> int:
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.pg
@pytest.mark.fault
def test_live_changes_flow_beside_hostile_clients(notes: DaemonProcess, database: Database) -> None:
    notes.start().wait_until_live()
    addresses = notes.wait_for_status(lambda status: "private" in status["addresses"])["addresses"]
    guessing = threading.Event()
    guesses: Dict[int, int] = {}

    def guess() -> None:
        token = base64.b64encode(b"admin:wrong").decode()
        request = urllib.request.Request(
            f"http://{addresses['private']}/indexes", headers={"Authorization": f"Basic {token}"}
        )
        while not guessing.is_set():
            try:
                urllib.request.urlopen(request, timeout=30).close()
            except urllib.error.HTTPError as error:
                guesses[error.code] = guesses.get(error.code, 0) + 1
                error.close()

    before = _memory(notes.pid)
    with contextlib.ExitStack() as stack:
        for address in (addresses["public"], addresses["private"]):
            _idle(address, 250, stack)
        guesser = threading.Thread(target=guess)
        guesser.start()
        stack.callback(guesser.join)
        stack.callback(guessing.set)
        for chunked in (False, True):
            for address in (addresses["public"], addresses["private"]):
                sent, answer = _huge(address, chunked)
                assert sent < 64 * 2**20, f"{sent} bytes were taken"
                assert not answer or b" 413 " in answer or b" 401 " in answer or b" 405 " in answer, answer[:200]
        seconds = []
        for n in range(20):
            database.execute("UPDATE notes SET body = %s", [f"change {n}"])
            began = time.monotonic()
            with urllib.request.urlopen(f"http://{addresses['public']}/synced?lsn=now&timeout=20", timeout=30) as done:
                assert done.status == 200
            seconds.append(time.monotonic() - began)
        assert notes.get("/healthz")[0] == 200 and notes.get("/readyz")[0] == 200
    # A busy machine takes its time; what would wait for an idle client would take its thirty seconds.
    assert statistics.median(seconds) < 3, seconds
    assert set(guesses) == {401, 429} and guesses[429] > guesses[401]
    assert _memory(notes.pid) - before < 64 * 2**20
    assert notes.stop() == 0 and "Traceback" not in notes.log


# -- secrets --------------------------------------------------------------------------------------------------------


def _told(daemon: DaemonProcess) -> str:
    """Everything that the running daemon tells anybody, and what others see of its process."""
    parts = [daemon.log]
    for path in ("/status", "/metrics", "/history", "/readyz", "/"):
        with contextlib.suppress(OSError, AssertionError):
            parts.append(daemon.get(path)[1])
    parts.append(Path(f"/proc/{daemon.pid}/cmdline").read_bytes().decode(errors="replace"))
    return "\n".join(parts)


def _places(folder: Path, url: str) -> Iterator[Tuple[str, Dict[str, Any], Dict[str, str]]]:
    """Where a password may stand: its name, the configuration's part, variables."""
    secret = folder / "secret"
    secret.write_text(f"{CANARY}\n")
    whole = folder / "whole"
    whole.write_text(url + "\n")
    host, port = url.split("@")[1].split("/")[0].split(":")
    parts = {"host": host, "port": int(port), "user": "canary", "database": url.rsplit("/", 1)[1]}
    yield "url", {"connection_url": url}, {}
    yield "url in a variable", {"connection_url": {"env": "APP_URL"}}, {"APP_URL": url}
    yield "DATABASE_URL", {}, {"DATABASE_URL": url}
    yield "url in a file", {"connection_url": {"file": str(whole)}}, {}
    yield "parts", {"connection_url": {**parts, "password": CANARY}}, {}
    yield "parts, file", {"connection_url": {**parts, "password": {"file": str(secret)}}}, {}
    yield "parts, variable", {"connection_url": {**parts, "password": {"env": "PW"}}}, {"PW": CANARY}
    yield "a broken url", {"connection_url": f"postgresql://canary:{CANARY}@[::1/x?sslmode=\u00fc"}, {}
    yield "a wrong escape", {"connection_url": url.replace(CANARY, f"{CANARY}%zz")}, {}
    yield "an unescaped ?", {"connection_url": url.replace(CANARY, f"x?{CANARY}")}, {}
    yield "no url", {"connection_url": f"canary:{CANARY} at home"}, {}
    yield "a url without its host", {"connection_url": f"postgresql://canary:{CANARY}"}, {}
    yield "keywords", {"connection_url": f"host=db user=canary password={CANARY}"}, {}
    yield "a wrong parameter", {"connection_url": f"{url}?password={CANARY}&nonsense=1"}, {}


#: What else connects by a configuration: to the source, to the sink, to both.
COMMANDS: List[List[str]] = [
    ["check", "--format", "json"],
    ["slot", "show"],
    ["get", "notes", "1"],
]


def _hold(folder: Path, given: Set[Path]) -> List[Path]:
    """The files below ``folder`` that hold the canary, without those the operator wrote."""
    files = [file for file in folder.rglob("*") if file.is_file() and file not in given]
    return [file for file in files if CANARY.encode() in file.read_bytes()]


@pytest.mark.pg
@pytest.mark.fault
def test_a_secret_shows_nowhere_whatever_fails(
    database: Database, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The role does not exist, the sink is away: each place of a password, through run and whatever else connects."""
    url = f"postgresql://canary:{CANARY}@{database.url.split('@', 1)[1]}"
    (tmp_path / "notes.schema.yml").write_text(SCHEMA)
    database.execute(TABLE)
    search = {"type": "opensearch", "url": f"http://canary:{CANARY}@127.0.0.1:1", "username": "u", "password": CANARY}
    given = {tmp_path / "secret", tmp_path / "whole"}
    runs = []
    for number, (what, source, variables) in enumerate(_places(tmp_path, url)):
        path, log = tmp_path / f"{number}.yaml", tmp_path / f"{number}.log"
        config = {
            "source": {"type": "postgres", **source},
            "sinks": {"search": search},
            "index": [{"name": "notes", "schema": str(tmp_path / "notes.schema.yml")}],
            "server": {"admin_password": CANARY, "public_address": "127.0.0.1:0", "private_address": "127.0.0.1:0"},
        }
        write_yaml(path, config)
        given.add(path)
        env = clean_environment(FLUSSO_LOG="debug", SEARCH_OPENSEARCH_PASSWORD=CANARY, **variables)
        run = [str(FLUSSOD), "run", "-c", str(path), "--pidfile", str(tmp_path / f"{number}.pid")]
        with open(tmp_path / f"{number}.out", "wb") as output:
            process = subprocess.Popen(
                [*run, "--log-file", str(log)], env=env, stdout=output, stderr=subprocess.STDOUT, cwd=str(tmp_path)
            )
        # One that does not end by itself fails the test, and ends with it.
        request.addfinalizer(process.kill)
        runs.append((what, process, log))
        # In this process, which spares most of their time.
        lock = ["build", "-c", str(path), "-o", str(tmp_path / f"{number}.lock")]
        answer = CliRunner().invoke(flussod, lock)
        assert answer.exit_code == 0 and CANARY not in answer.output, (what, answer.output)
        for words in COMMANDS:
            answer = CliRunner().invoke(flussod, [*words, "-c", str(path)], env={"DATABASE_URL": None, **variables})
            assert answer.exception is None or isinstance(answer.exception, SystemExit), (what, words)
            assert CANARY not in answer.output, (what, words)
            assert answer.exit_code, (what, words)
    for what, process, log in runs:
        assert process.wait(timeout=120) in (3, 4), (what, log.read_text())
        assert "refused" in log.read_text() or "password" in log.read_text() or "role" in log.read_text(), what
        assert "Traceback" not in log.read_text(), what
    assert not _hold(tmp_path, given)


@pytest.mark.pg
@pytest.mark.fault
def test_a_running_daemon_tells_no_secret_and_its_files_and_process_hold_none(
    notes: DaemonProcess, database: Database, tmp_path: Path, collector: Collector
) -> None:
    # Given a daemon whose every password is the canary (the server trusts anybody), with all it has to say
    path = notes.folder / "flusso.yaml"
    config = json.loads(path.read_text())
    user, _, place = config["source"].pop("connection_url").partition("@")
    write_yaml(path, config)
    url = f"{user}:{CANARY}@{place}"
    notes.env.update(FLUSSO_LOG="debug", DATABASE_URL=url, FLUSSO_ADMIN_PASSWORD=CANARY)
    notes.env.update(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="200")
    pidfile = notes.folder / "flussod.pid"
    notes.start("--pidfile", str(pidfile), "--log-file", str(notes.log_file)).wait_until_live()
    assert pidfile.read_text().strip() == str(notes.pid)
    database.execute("UPDATE notes SET body = 'two'")
    # When its sessions are cut, its table is taken away, and somebody guesses
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'flusso_sync%%'"
        " AND datname = current_database()"
    )
    database.execute("ALTER TABLE notes RENAME TO gone")
    wait_for(lambda: "gone" in notes.log or "notes" in notes.log, 60, "it is told")
    address = notes.wait_for_status(lambda status: "private" in status["addresses"])["addresses"]["private"]
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://{address}/indexes", timeout=30)
    # Then nobody is told
    assert CANARY not in _told(notes)
    assert not _hold(tmp_path, {path})
    assert notes.stop() == 0 and CANARY not in notes.log
    # Nor are those who collect traces and metrics.
    assert collector.spans() and "flusso.troubles" in collector.metrics()
    assert not [path for path, body in collector.posted if CANARY.encode() in body]


def test_the_process_list_shows_no_variable_of_ours(tmp_path: Path) -> None:
    """Whoever passes a password by its variable keeps it out of what everybody may read."""
    env = clean_environment(FLUSSO_ADMIN_PASSWORD=CANARY)
    with subprocess.Popen(
        [str(FLUSSOD), "status", "--watch", "--server", "127.0.0.1:1"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_for(lambda: os.path.exists(f"/proc/{process.pid}/cmdline"), 10, "it runs")
            assert CANARY.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            process.kill()

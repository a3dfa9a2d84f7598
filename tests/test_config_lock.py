"""The lock: what was built is what runs, wherever it lies; no password is in it; what is no lock is refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from click.testing import CliRunner

from flusso_sync.cli.commands import flussod
from flusso_sync.config.connection import sink_settings, source_conninfo
from flusso_sync.config.load import load_config
from flusso_sync.config.lock import build_lock, load_lock
from flusso_sync.config.models import OpenSearchSink, SqliteSink
from flusso_sync.errors import ConfigError
from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.sink import SqliteSink as SqliteFile
from tests.fix_daemon import CHECKOUT, FLUSSOD, DaemonProcess, MakeDaemon, clean_environment, write_yaml
from tests.postgres_server import Database

CANARY = "cAnArY-7f3a"

SCHEMA = """\
version: 1
table: notes
filters:
  - {column: total, op: gt, value: 0.10}
  - {column: weight, op: lt, value: 123456789.1234567890123456789}
fields:
  - {long: id, required: true}
  - {constant: origin, value: {b: 1, a: [yes, 010, 1e2]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration in ``etc/`` with its schema beside it."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "notes.schema.yml").write_text(SCHEMA)
    return tmp_path


def write(folder: Path, **keys: Any) -> Path:
    path = folder / "etc" / "flusso.yaml"
    write_yaml(path, {"source": {"type": "postgres"}, "index": [{"name": "n", "schema": "notes.schema.yml"}], **keys})
    return path


@pytest.mark.parametrize("place", ["flusso.lock", "etc/flusso.lock", "elsewhere/deep/flusso.lock"])
def test_a_lock_says_what_its_files_said(folder: Path, tmp_path_factory: pytest.TempPathFactory, place: str) -> None:
    # Given the shipped configuration, built into some folder
    shutil.copytree(CHECKOUT / "etc", folder / "etc", dirs_exist_ok=True)
    lock = folder / place
    lock.parent.mkdir(parents=True, exist_ok=True)
    written = load_config(folder / "etc" / "flusso.yaml")
    assert build_lock(folder / "etc" / "flusso.yaml", lock).withheld == ()
    # When all of it is moved elsewhere and the YAML files are gone
    moved = tmp_path_factory.mktemp("moved") / "all"
    os.rename(folder, moved)
    for file in [*(moved / "etc").rglob("*.yaml"), *(moved / "etc").rglob("*.yml")]:
        file.unlink()
    # Then the same indexes are built into the same file
    locked = load_lock(moved / place)
    assert locked.indexes == written.indexes and list(locked.indexes) == list(written.indexes)
    assert [plan.canonical for plan in locked.plans] == [plan.canonical for plan in written.plans]
    sink = locked.sinks["file"]
    assert isinstance(sink, SqliteSink) and os.path.realpath(sink.path) == str(moved / "etc" / "flusso.sqlite")
    for part in ("source", "server", "engine", "backfill", "quarantine", "prefix", "on_error"):
        assert getattr(locked, part) == getattr(written, part)


def test_numbers_keep_their_digits_and_constants_their_order(folder: Path) -> None:
    path = write(folder)
    build_lock(path, folder / "flusso.lock")
    written, locked = load_config(path).plans[0], load_lock(folder / "flusso.lock").plans[0]
    assert "0.10" in written.canonical and "123456789.1234567890123456789" in written.canonical
    assert locked == written and locked.canonical == written.canonical


def test_the_same_files_make_the_same_bytes(folder: Path) -> None:
    path = write(folder)
    for name in ("one", "two"):
        build_lock(path, folder / name)
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()


def test_a_refused_configuration_leaves_the_former_lock_and_nothing_else(folder: Path) -> None:
    build_lock(write(folder), folder / "flusso.lock")
    before = (folder / "flusso.lock").read_bytes()
    with pytest.raises(ConfigError, match="nonsense"):
        build_lock(write(folder, nonsense=1), folder / "flusso.lock")
    assert (folder / "flusso.lock").read_bytes() == before
    assert sorted(one.name for one in folder.iterdir()) == ["etc", "flusso.lock"]


def test_a_lock_that_cannot_be_written_is_named(folder: Path) -> None:
    (folder / "taken").mkdir()
    for place in (folder / "nowhere" / "flusso.lock", folder / "taken"):
        with pytest.raises(ConfigError, match=f"{place}: cannot be written"):
            build_lock(write(folder), place)
    assert sorted(one.name for one in folder.iterdir()) == ["etc", "taken"]


# -- secrets ------------------------------------------------------------------------------------------------------

SOURCE = f"postgresql://canary:{CANARY}@db/shop"

#: Where a password stands, and the variable that a locked run takes it from.
PLACES: List[Tuple[str, Dict[str, Any], str]] = [
    ("url", {"source": {"type": "postgres", "connection_url": SOURCE}}, "DATABASE_URL"),
    (
        "parameter",
        {"source": {"type": "postgres", "connection_url": f"{SOURCE[:17]}?password={CANARY}"}},
        "DATABASE_URL",
    ),
    (
        "parts",
        {"source": {"type": "postgres", "connection_url": {"database": "shop", "password": CANARY}}},
        "DATABASE_URL",
    ),
    ("no url", {"source": {"type": "postgres", "connection_url": f"host=db password={CANARY}"}}, "DATABASE_URL"),
    (
        "sink url",
        {"sinks": {"Search": {"type": "opensearch", "url": f"http://u:{CANARY}@search"}}},
        "SEARCH_OPENSEARCH_URL",
    ),
    (
        "sink password",
        {"sinks": {"search": {"type": "opensearch", "url": "http://search", "username": "u", "password": CANARY}}},
        "SEARCH_OPENSEARCH_PASSWORD",
    ),
    ("admin", {"server": {"admin_password": CANARY}}, "FLUSSO_ADMIN_PASSWORD"),
]


@pytest.mark.parametrize(("keys", "variable"), [one[1:] for one in PLACES], ids=[one[0] for one in PLACES])
def test_a_password_is_not_in_the_lock_and_its_variable_is_asked_for(
    folder: Path, keys: Dict[str, Any], variable: str
) -> None:
    path = write(folder, **keys)
    built = build_lock(path, folder / "flusso.lock")
    assert CANARY not in (folder / "flusso.lock").read_text()
    (sentence,) = built.withheld
    assert variable in sentence and CANARY not in sentence and sentence.startswith(f"{path}:")
    # A locked run without the variable is told its name, with it takes the value
    config = load_lock(folder / "flusso.lock")

    def ask(environ: Dict[str, str]) -> str:
        if "source" in keys:
            return source_conninfo(config, environ)
        if "server" in keys:
            assert config.server.admin_password is not None
            return config.server.admin_password.resolve(environ)
        sink = config.sinks["search"]
        assert isinstance(sink, OpenSearchSink)
        settings = sink_settings("search", sink, environ)
        return f"{settings.url} {settings.password}"

    with pytest.raises(ConfigError, match=variable):
        ask({})
    value = {"DATABASE_URL": "postgresql://a:rotated@b/c", "SEARCH_OPENSEARCH_URL": "http://u:rotated@search"}
    assert "rotated" in ask({variable: value.get(variable, "rotated")})


def test_references_and_urls_without_a_password_stay(folder: Path) -> None:
    path = write(
        folder,
        source={"type": "postgres", "connection_url": "postgresql://app@db/shop"},
        sinks={
            "search": {"type": "opensearch", "url": "http://search", "username": "u", "password": {"file": "secret"}}
        },
        server={"admin_password": {"env": "ADMIN"}},
    )
    (folder / "etc" / "secret").write_text("from the file\n")
    assert build_lock(path, folder / "flusso.lock").withheld == ()
    config = load_lock(folder / "flusso.lock")
    assert source_conninfo(config, {}) == "postgresql://app@db/shop"
    sink = config.sinks["search"]
    assert isinstance(sink, OpenSearchSink) and sink_settings("search", sink, {}).password == "from the file"
    assert str(config.server.admin_password) == "${ADMIN}"


# -- what is no lock ------------------------------------------------------------------------------------------------


def broken(**changed: Any) -> str:
    lock = {"format_version": 1, "flusso_version": "0", "folder": ".", "config": {"source": {"type": "postgres"}}}
    return json.dumps({**lock, **changed})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no lock"),
        ("\udcff", "is no lock"),
        ("[]", "is no lock"),
        ("[" * 100_000, "is no lock"),
        ("source: {type: postgres}", "is no lock"),
        (broken(format_version=2), "is a lock of the format 2, and this flussod reads 1"),
        (broken(format_version=True), "is a lock of the format True"),
        (broken(folder=None), "is no lock"),
        (broken(config=[]), "is no lock"),
        (broken(config={"source": {"type": "postgres"}, "index": [{"name": "n", "schema": "x"}]}), "is no lock"),
        (broken(config={"source": {"type": "postgres"}, "index": {"name": "n"}}), "must be a list"),
        (broken(config={"source": {"type": "postgres"}, "newer": 1}), "newer"),
        (
            broken(
                config={
                    "source": {"type": "postgres"},
                    "index": [{"name": "n", "schema": {"file": "n.yml", "value": {"version": 1}, "numbers": []}}],
                }
            ),
            "table",
        ),
    ],
)
def test_what_is_no_lock_is_refused_with_its_name(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "flusso.lock"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as refused:
        load_lock(path)
    assert sentence in str(refused.value)
    assert "flusso.lock" in str(refused.value) or "n.yml" in str(refused.value) or "index.0" in str(refused.value)


def test_a_missing_lock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_lock(tmp_path / "flusso.lock")


# -- the commands ---------------------------------------------------------------------------------------------------


def test_build_needs_no_database_and_says_what_it_wrote(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, source={"type": "postgres", "connection_url": {"env": "NO_SUCH_VARIABLE"}})
    monkeypatch.chdir(folder)
    answer = CliRunner().invoke(flussod, ["build", "-c", str(path)], env={"FLUSSO_OUT": None})
    assert answer.exit_code == 0 and answer.output == "✓ compiled 1 index(es) → flusso.lock\n"
    answer = CliRunner().invoke(flussod, ["build", "-c", str(path)], env={"FLUSSO_OUT": "etc/other.lock"})
    assert answer.exit_code == 0 and answer.output == "✓ compiled 1 index(es) → etc/other.lock\n"
    assert load_lock("flusso.lock").indexes == load_lock("etc/other.lock").indexes
    answer = CliRunner().invoke(flussod, ["build", "-c", "nowhere.yaml"])
    assert answer.exit_code == 3 and "nowhere.yaml: cannot be read" in answer.output


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "said"),
    [
        (["--locked"], {}, 3, "flusso.lock: cannot be read"),
        (["--locked", "--lock", "other"], {}, 3, "other: cannot be read"),
        (["--locked", "--daemonize", "--log-file", "log"], {}, 3, "/etc/flusso.lock: cannot be read"),
        ([], {"FLUSSO_LOCKED": "true", "FLUSSO_LOCK": "third"}, 3, "third: cannot be read"),
        ([], {"FLUSSO_LOCKED": "1"}, 2, "must be true or false"),
        ([], {}, 3, "flusso.yaml: cannot be read"),
        (["-c", "nowhere.yaml"], {}, 3, "nowhere.yaml: cannot be read"),
    ],
)
def test_a_locked_run_never_falls_back_on_other_files(
    folder: Path, arguments: List[str], environ: Dict[str, str], code: int, said: str
) -> None:
    write(folder)
    done = subprocess.run(
        [str(FLUSSOD), "run", *arguments],
        cwd=folder / ("etc" if "--locked" in arguments else "."),
        env=clean_environment(**environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == code and said in done.stderr, done.stderr


def test_every_command_takes_a_lock_in_the_place_of_a_configuration(folder: Path) -> None:
    lock = folder / "release.lock"
    build_lock(write(folder), lock)
    shutil.rmtree(folder / "etc")
    assert load_config(lock).indexes == load_lock(lock).indexes
    for named in ({"FLUSSO_CONFIG": str(lock)}, {}):
        # As the init script has it looked at before a restart.
        arguments = ["check", "--offline", *([] if named else ["-c", str(lock)])]
        answer = CliRunner().invoke(flussod, arguments, env={"FLUSSO_CONFIG": None, **named})
        assert answer.exit_code == 0 and "public.notes" in answer.output, answer.output
    lock.write_text("source: {type: postgres}")
    answer = CliRunner().invoke(flussod, ["check", "--offline", "-c", str(lock)])
    assert answer.exit_code == 3 and "release.lock: is no lock" in answer.output


NOTES = "CREATE TABLE notes (id bigint PRIMARY KEY, body text NOT NULL); INSERT INTO notes VALUES (1, 'one');"
NOTES_SCHEMA = "version: 1\ntable: notes\nfields: [{long: id, required: true}, {text: body, required: true}]\n"


def _one(daemon: DaemonProcess) -> Any:
    answer = CliRunner().invoke(flussod, ["get", "notes", "1", "-c", str(daemon.folder / "reader.yaml")])
    return json.loads(answer.output) if answer.exit_code == 0 else answer.output


@pytest.mark.pg
def test_a_locked_run_goes_on_where_the_one_by_its_files_stopped(database: Database, make_daemon: MakeDaemon) -> None:
    database.execute(NOTES)
    name = database.name[:60]
    config = {
        "source": {"type": "postgres", "connection_url": database.url, "slot": name, "publication": name},
        "sinks": {"file": {"type": "sqlite", "path": "notes.sqlite"}},
        "index": [{"name": "notes", "schema": "notes.schema.yml"}],
    }
    daemon = make_daemon(config, {"notes.schema.yml": NOTES_SCHEMA}, start=False)
    daemon.start().wait_until_live()
    assert daemon.stop() == 0
    answer = CliRunner().invoke(
        flussod, ["build", "-c", str(daemon.folder / "flusso.yaml"), "-o", str(daemon.folder / "flusso.lock")]
    )
    assert answer.exit_code == 0, answer.output
    # When its files would be refused by now, and a row has changed
    (daemon.folder / "flusso.yaml").rename(daemon.folder / "reader.yaml")
    (daemon.folder / "flusso.yaml").write_text("nonsense: 1\n")
    database.execute("UPDATE notes SET body = 'two'")
    # Then it runs by the lock, rebuilds nothing, and SIGHUP reads the lock anew
    daemon.env["DATABASE_URL"] = database.url
    daemon.start("--locked").wait_until_live()
    daemon.wait_for(lambda: _one(daemon) == {"id": 1, "body": "two"}, message="the change is there")
    with contextlib.closing(SqliteFile("reader", SqliteSettings(str(daemon.folder / "notes.sqlite")))) as reader:
        assert [one.number for one in reader.generations()["notes"]] == [1]
    daemon.signal(signal.SIGHUP)
    daemon.wait_for(lambda: "SIGHUP: the configuration is read anew" in daemon.log, message="it is read anew")
    assert daemon.stop() == 0
    # And, where no configuration is named and none is there, without being told
    (daemon.folder / "flusso.yaml").unlink()
    daemon.arguments.clear()
    daemon.start("--public-address", "127.0.0.1:0").wait_until_live()
    assert "flusso.lock" in daemon.log
    assert daemon.stop() == 0

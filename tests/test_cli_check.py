"""``flussod check`` says what the files mean or everything that is wrong, and never a secret."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from flusso_sync.cli.commands import flussod


def check(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(flussod, ["check", "-c", str(folder / "flusso.yaml"), *arguments])


@pytest.fixture
def shop() -> Path:
    return Path(__file__).resolve().parent.parent / "etc"


def test_the_report_names_source_sinks_indexes_and_fields(shop: Path) -> None:
    answer = check(shop, "--offline")
    assert answer.exit_code == 0, answer.output
    for part in ("is valid", "Source", "slot flusso", "Sinks", "Indexes", "public.users  pk id", "belongs_to"):
        assert part in answer.output, part
    assert answer.output.rstrip().endswith("✓ check passed")


def test_it_takes_every_flag_and_variable_of_a_run(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = click.Context(flussod)
    names = {name: {one.name for one in flussod.get_command(context, name).params} for name in ("run", "check")}  # type: ignore[union-attr]
    assert names["run"] - names["check"] == {
        *("locked", "lock_path"),
        *("daemonize", "pidfile", "log_file", "user"),
    }, "but for those of the lock and of the host"
    monkeypatch.setenv("FLUSSO_SKIP_BACKFILL", "perhaps")
    answer = check(shop, "--offline")
    assert answer.exit_code == 2 and "FLUSSO_SKIP_BACKFILL" in answer.output


def test_it_says_that_the_database_was_not_asked(shop: Path) -> None:
    assert "[offline]" in check(shop, "--offline").output


def test_json_is_one_document_with_flussos_keys(shop: Path) -> None:
    answer = check(shop, "--offline", "--format", "json")
    report = json.loads(answer.output)
    assert {"config", "mappings", "diagnostics", "coverage"} <= set(report)
    assert report["diagnostics"] is None and report["coverage"] is None
    assert [mapping["index"] for mapping in report["mappings"]] == ["users", "orders", "products"]
    assert report["mappings"][0]["fields"][0] == {"name": "id", "type": "long", "required": True}


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("form", ["human", "json", "github"])
def test_no_secret_is_printed(tmp_path: Path, form: str, asked: bool) -> None:
    (tmp_path / "flusso.yaml").write_text(
        "source:\n"
        "  type: postgres\n"
        "  connection_url: postgresql://app:canary@127.0.0.1:1/shop?sslpassword=canary\n"
        "sinks:\n"
        "  primary: {type: opensearch, url: 'https://app:canary@search:9200', timeout_secs: 2,\n"
        "    username: app, password: canary}\n"
        "server: {admin_password: canary}\n"
    )
    answer = check(tmp_path, "--format", form, *([] if asked else ["--offline"]))
    # Nothing listens there.
    assert answer.exit_code == (4 if asked else 0), answer.output
    assert form == "github" or "search:9200" in answer.output
    assert "canary" not in answer.output


def test_everything_wrong_is_listed_with_its_place_and_code_3(tmp_path: Path) -> None:
    (tmp_path / "flusso.yaml").write_text("source: {type: postgres, slotty: x}\non_error: maybe\n")
    answer = check(tmp_path)
    assert answer.exit_code == 3
    assert "2 problems" in answer.output and "flusso.yaml:1:" in answer.output and "flusso.yaml:2:" in answer.output
    answer = check(tmp_path, "--format", "json")
    assert answer.exit_code == 3
    diagnostics = json.loads(answer.output)["diagnostics"]
    assert [(d["severity"], d["line"]) for d in diagnostics] == [("error", 1), ("error", 2)]


def test_a_file_that_is_not_there_is_3(tmp_path: Path) -> None:
    answer = check(tmp_path)
    assert answer.exit_code == 3
    assert "flusso.yaml" in answer.output and "Traceback" not in answer.output

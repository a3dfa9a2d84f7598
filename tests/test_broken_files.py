"""Every mistake gives its sentence with file, line, column and key path, exit code 3, and never a stack trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Optional

import pytest
from click.testing import CliRunner

from flusso_sync.cli.commands import flussod
from flusso_sync.errors import EXIT_CONFIG
from tests.broken_files import CONFIG, GOOD, SCHEMA, Broken, broken_files

ROOT = Path(__file__).resolve().parent.parent

CASES = broken_files()


def write(folder: Path, case: Broken) -> Path:
    for name, content in case.files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder / CONFIG


def expected_line(folder: Path, case: Broken) -> str:
    place = ":".join(str(part) for part in (folder / case.file, case.line, case.column) if part is not None)
    return f"  {place}: " + (f"{case.path}: " if case.path else "")


def judge(output: str, folder: Path, case: Broken) -> Optional[str]:
    """What is wrong with the answer to a case; None: nothing."""
    plural = "" if case.problems == 1 else "s"
    head, *lines = output.rstrip("\n").split("\n")
    if head != f"configuration refused, {case.problems} problem{plural}:" or len(lines) != case.problems:
        return f"not {case.problems} problem{plural}:\n{output}"
    beginning = expected_line(folder, case)
    if not any(line.startswith(beginning) and case.sentence in line[len(beginning) :] for line in lines):
        return f"expected {beginning}…{case.sentence}…, got\n{output}"
    return None


def test_the_files_without_a_mistake_are_good(tmp_path: Path) -> None:
    for name, text in GOOD.items():
        (tmp_path / name).write_text(text)
    answer = CliRunner().invoke(flussod, ["check", "--offline", "-c", str(tmp_path / CONFIG)])
    assert answer.exit_code == 0, answer.output
    assert "Warnings" not in answer.output


def test_there_are_hundreds_of_them_and_every_rule_has_some() -> None:
    assert len(CASES) >= 200
    rules = {case.rule for case in CASES}
    assert {f"config §{number}" for number in (1, 2, 3, 4, 5, 6, 7, 9)} <= rules
    assert {f"schema §{number}" for number in (1, 2, 3, 7, 8)} <= rules
    assert {f"settled §{number}" for number in (1, 2, 3)} <= rules


@pytest.mark.parametrize("case", CASES, ids=[case.title[:80] for case in CASES])
def test_it_is_named_with_its_place_and_code_3(tmp_path: Path, case: Broken) -> None:
    path = write(tmp_path, case)
    answer = CliRunner().invoke(flussod, ["check", "-c", str(path)])
    assert answer.exit_code == EXIT_CONFIG, (answer.output, answer.exception)
    assert isinstance(answer.exception, SystemExit), answer.exception
    assert "Traceback" not in answer.output
    told = judge(answer.output, tmp_path, case)
    assert told is None, told


def test_json_tells_the_same_places(tmp_path: Path) -> None:
    for number, case in enumerate(CASES[::7]):
        folder = tmp_path / str(number)
        folder.mkdir()
        answer = CliRunner().invoke(flussod, ["check", "--format", "json", "-c", str(write(folder, case))])
        assert answer.exit_code == EXIT_CONFIG
        told = json.loads(answer.output)["diagnostics"]
        assert len(told) == case.problems
        place = (str(folder / case.file), case.line, case.column, case.path)
        found = [one for one in told if (one["file"], one["line"], one["column"], one["path"]) == place]
        assert any(case.sentence in one["message"] for one in found), (case, told)


def run(arguments: List[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "bin" / "flussod"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


@pytest.mark.parametrize("command", ["check", "run"])
def test_the_command_itself_says_so_on_standard_error(tmp_path: Path, command: str) -> None:
    for number, case in enumerate(CASES[:: len(CASES) // 6]):
        folder = tmp_path / str(number)
        folder.mkdir()
        answer = run([command, "-c", str(write(folder, case))])
        assert answer.returncode == EXIT_CONFIG, answer.stderr
        assert answer.stdout == ""
        told = judge(answer.stderr, folder, case)
        assert told is None, told


# -- what no generator makes ------------------------------------------------------------------------------------


def test_a_folder_and_a_config_nobody_may_read_are_sentences(tmp_path: Path) -> None:
    answer = CliRunner().invoke(flussod, ["check", "-c", str(tmp_path)])
    assert (answer.exit_code, answer.output) == (
        EXIT_CONFIG,
        f"configuration refused, 1 problem:\n  {tmp_path}: cannot be read: Is a directory [FL001]\n",
    )
    path = tmp_path / CONFIG
    path.write_text(GOOD[CONFIG])
    path.chmod(0)
    before = os.geteuid()
    if not before:
        # Root may read anything.
        os.seteuid(65534)
    try:
        answer = CliRunner().invoke(flussod, ["check", "-c", str(path)])
    finally:
        if not before:
            os.seteuid(0)
    assert answer.exit_code == EXIT_CONFIG
    assert "cannot be read: Permission denied" in answer.output and "Traceback" not in answer.output


def test_a_schema_file_nobody_may_read_is_told_where_it_is_named(tmp_path: Path) -> None:
    for name, text in GOOD.items():
        (tmp_path / name).write_text(text)
    (tmp_path / SCHEMA).unlink()
    (tmp_path / SCHEMA).symlink_to(SCHEMA)  # a circle, which root cannot read either
    answer = CliRunner().invoke(flussod, ["check", "-c", str(tmp_path / CONFIG)])
    assert answer.exit_code == EXIT_CONFIG
    line = GOOD[CONFIG].split("\n").index(f"    schema: {SCHEMA}") + 1
    assert f"{tmp_path / CONFIG}:{line}:13: index[0].schema: the schema file " in answer.output
    assert "cannot be read: Too many levels of symbolic links" in answer.output


def test_a_name_of_no_encoding_is_told_in_both_forms(tmp_path: Path) -> None:
    odd = os.path.join(os.fsencode(tmp_path), b"\xff.yaml")
    Path(os.fsdecode(odd)).write_text("source: {type: mysql}\n")
    for form in ("human", "json"):
        answer = subprocess.run(
            [sys.executable, str(ROOT / "bin" / "flussod"), "check", "--format", form, "-c", odd],
            capture_output=True,
            timeout=60,
        )
        assert answer.returncode == EXIT_CONFIG, answer.stderr
        assert b"must be postgres" in answer.stdout + answer.stderr


def test_a_terminal_without_unicode_is_answered_too(tmp_path: Path) -> None:
    for name, text in GOOD.items():
        (tmp_path / name).write_text(text)
    answer = run(["check", "--offline", "-c", str(tmp_path / CONFIG)], env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert answer.returncode == 0, answer.stderr
    assert "check passed" in answer.stdout

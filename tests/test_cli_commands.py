"""``flussod`` itself: run is what it does unless told otherwise, help explains, and neither costs much."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List

import click
import pytest
from click.testing import CliRunner

import flusso_sync
from flusso_sync.cli.commands import COMMANDS, flussod
from flusso_sync.errors import EXIT_CODES, ConfigError, Problem, SinkError, SourceRefused, SyncStopped

HEAVY = ("flask", "werkzeug", "waitress", "psycopg", "opensearchpy", "urllib3", "opentelemetry", "pydantic", "yaml")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_shows_commands_examples_and_every_exit_code(arguments: List[str]) -> None:
    answer = CliRunner().invoke(flussod, arguments)
    assert answer.exit_code == 0
    for name in COMMANDS:
        assert f"  {name} " in answer.output
    assert "flussod -c etc/flusso.yaml" in answer.output
    for code, meaning in EXIT_CODES.items():
        assert f"{code}  {meaning}" in answer.output


def every_command() -> Iterator[List[str]]:
    """The words of each command, and of each below one."""
    for name in COMMANDS:
        yield [name]
        command = flussod.get_command(click.Context(flussod), name)
        if isinstance(command, click.Group):
            yield from ([name, below] for below in command.commands)


@pytest.mark.parametrize("words", list(every_command()), ids=" ".join)
def test_help_of_every_command_has_an_example(words: List[str]) -> None:
    answer = CliRunner().invoke(flussod, [*words, "--help"])
    assert answer.exit_code == 0
    examples = answer.output.partition("  Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples and all(" ".join(["flussod", *words]) in line for line in examples), examples


def test_help_of_run_names_every_flag_with_its_variable() -> None:
    answer = CliRunner().invoke(flussod, ["run", "--help"])
    text = " ".join(answer.output.split())
    for flag in (
        "config slot publication manage-publication manage-replica-identity on-gap on-blind-table skip-backfill pretty "
        "queue-capacity backfill-workers lag-poll-secs index-prefix public-address private-address admin-user "
        "admin-password"
    ).split():
        assert f"--{flag}" in text, flag
        assert "FLUSSO_" + flag.upper().replace("-", "_") in text, flag


@pytest.mark.parametrize("arguments", [["-c", "missing.yaml"], ["run", "-c", "missing.yaml"], []])
def test_without_a_command_it_is_run(tmp_path: Path, arguments: List[str]) -> None:
    program = [sys.executable, "-c", "import sys; from flusso_sync.cli import main; main(sys.argv[1:])", *arguments]
    root = str(Path(__file__).resolve().parent.parent)
    answer = subprocess.run(program, cwd=str(tmp_path), env={"PYTHONPATH": root}, stderr=subprocess.PIPE, timeout=60)
    assert answer.returncode == 3
    assert (b"missing.yaml" if arguments else b"flusso.yaml") in answer.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["check", "--nonsense"]])
def test_wrong_usage_is_2(arguments: List[str]) -> None:
    assert CliRunner().invoke(flussod, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["flussod", "ch"], ["check"]),
        (["flussod", ""], sorted(COMMANDS)),
        (["flussod", "quarantine", ""], ["list", "retry"]),
        (["flussod", "run", "--loc"], ["--lock", "--locked"]),
        (["flussod", "-c", "x.yaml", "--slo"], ["--slot"]),
    ],
)
def test_a_shell_completes(words: List[str], offered: List[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", "from flusso_sync.cli import main; main()"],
        env={
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
            "_FLUSSOD_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        },
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert sorted(line.partition(",")[2] for line in answer.stdout.decode().splitlines()) == offered


def test_version_is_that_of_the_package() -> None:
    answer = CliRunner().invoke(flussod, ["--version"])
    assert answer.exit_code == 0 and answer.output.split()[1] == flusso_sync.__version__


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: List[str]) -> None:
    program = (
        "import sys\n"
        "from flusso_sync.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit:\n"
        f"    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert answer.stderr.decode().strip() == "[]"


def test_explanations_name_the_cause_and_never_a_password() -> None:
    from flusso_sync.cli.exit import exit_code, explain

    refused = SourceRefused("cannot log in to postgresql://app:canary@db/x", hint="Mend the password")
    assert explain(SyncStopped(refused)) == "error: cannot log in to postgresql://app:***@db/x. Mend the password"
    assert (exit_code(SyncStopped(refused)), exit_code(SinkError("x")), exit_code(ValueError("x"))) == (4, 5, 1)
    problems = ConfigError([Problem("one", file="a.yaml", line=1, column=2), Problem("two")], hint="Mend them")
    assert explain(problems).splitlines() == [
        "configuration refused, 2 problems:",
        "  a.yaml:1:2: one",
        "  two",
        "Mend them",
    ]
    assert explain(KeyError("x")) == "error: KeyError: 'x'"


def test_ctrl_c_before_anybody_listens_ends_without_a_stack_trace() -> None:
    # In the middle of the slowest imports, which a module that interrupts itself stands for.
    program = (
        "import os, signal, sys, time\n"
        "from flusso_sync.cli import main\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'flusso_sync.cli.commands':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "            time.sleep(10)\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "main(['check'])\n"
    )
    root = str(Path(__file__).resolve().parent.parent)
    answer = subprocess.run([sys.executable, "-c", program], cwd=root, stderr=subprocess.PIPE, timeout=60)
    assert (answer.returncode, answer.stderr) == (-signal.SIGINT, b"")

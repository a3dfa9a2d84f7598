"""``bin/setup`` and ``bin/demo`` on bare machines: which Python they take, when .venv is made anew, what is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

import pytest

from tests.fix_pg import unavailable

CHECKOUT = Path(__file__).resolve().parent.parent
TOOLS = "bash sh env readlink dirname sed mkdir cksum tr sort comm paste rm cat cp id flock touch".split()

#: Says it is Python 3.{minor}; its environments are copies of it, and its pip writes down what it was to install.
STAND_IN = """#!/bin/sh
beside=${{0%/*}}
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip")
        [ ! -e "$beside/no-pip" ] || exit 1
        [ "$3" != install ] || {{ echo "3.{minor} $*" >>"{log}"; [ ! -e "{offline}" ]; }} ;;
    "-c "*wheel_binaries*) ;;
    "-c "*find_binaries*) exit 1 ;;
    *) exec "{python}" -c 'import sys; sys.version_info = (3, {minor}, 0); exec(sys.argv[1])' "$2" ;;
esac
"""


class Machine:
    """A checkout on a machine that has nothing but a shell and the Pythons put there."""

    def __init__(self, place: Path) -> None:
        self.checkout = place / "check out"
        self.path = place / "path"
        self.log = place / "pip.log"
        self.offline = place / "offline"
        self.venv = self.checkout / ".venv"
        (self.checkout / "bin").mkdir(parents=True)
        self.path.mkdir()
        for name in ("setup", "demo"):
            shutil.copy(CHECKOUT / "bin" / name, self.checkout / "bin" / name)
        shutil.copy(CHECKOUT / "setup.cfg", self.checkout)
        for tool in TOOLS:
            found = shutil.which(tool)
            if found:
                (self.path / tool).symlink_to(found)

    def add_python(self, minor: int) -> Path:
        program = self.path / f"python3.{minor}"
        program.write_text(
            STAND_IN.format(minor=minor, log=self.log, offline=self.offline, python=os.path.realpath(sys.executable))
        )
        program.chmod(0o755)
        return program

    def run(self, *command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        program = [str(self.checkout / "bin" / command[0]), *command[1:]]
        env: Dict[str, str] = {"PATH": str(self.path), "HOME": str(self.path), **environ}
        return subprocess.run(
            program, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, universal_newlines=True
        )

    def setup(self, *arguments: str, **environ: str) -> str:
        """What it says; it must end well."""
        done = self.run("setup", *arguments, **environ)
        assert done.returncode == 0, done.stdout
        return done.stdout

    @property
    def installed(self) -> List[str]:
        """For each install: which Python's pip, and which extras."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [f"{line.split()[0]} {line.rpartition('[')[2].rstrip(']')}" for line in lines]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_second_run_installs_nothing_and_a_wish_for_more_installs_all(machine: Machine) -> None:
    machine.add_python(12)
    assert "with Python 3.12.0" in machine.setup()
    assert machine.setup() == ""
    machine.setup("--demo")
    assert machine.setup() == machine.setup("--demo") == ""
    assert machine.installed == ["3.12 binary,opensearch,rich", "3.12 binary,demo,opensearch,rich"]


@pytest.mark.parametrize(
    ("there", "newest", "oldest"),
    [([9, 11, 13, 14], 13, 9), ([10, 14], 10, 10), ([9, 14], 14, 9), ([14], 14, 14), ([9], 9, 9)],
)
def test_the_newest_that_is_tested_is_taken(machine: Machine, there: List[int], newest: int, oldest: int) -> None:
    pythons = {minor: machine.add_python(minor) for minor in there}
    assert machine.setup("--which", "newest").strip() == str(pythons[newest])
    assert machine.setup("--which", "oldest").strip() == str(pythons[oldest])
    for minor in (9, 11):
        done = machine.run("setup", "--which", f"3.{minor}")
        assert done.returncode == (0 if minor in there else 1)


def test_a_half_made_environment_is_made_anew(machine: Machine) -> None:
    machine.add_python(13)
    machine.setup()
    (machine.venv / "flusso.stamp").unlink()
    (machine.venv / "bin" / "no-pip").touch()
    assert "making .venv with Python 3.13.0" in machine.setup()
    assert not (machine.venv / "bin" / "no-pip").exists()
    assert machine.setup() == ""


def test_another_python_that_is_named_makes_the_environment_anew(machine: Machine) -> None:
    machine.add_python(13)
    machine.setup("--demo")
    older = machine.add_python(10)
    said = machine.setup(FLUSSO_PYTHON=str(older))
    assert ".venv has Python 3.13, and Python 3.10 is named: making it anew" in said
    assert machine.setup(FLUSSO_PYTHON=str(older)) == machine.setup() == ""
    assert machine.installed[-1] == "3.10 binary,demo,opensearch,rich", "what it had is there again"
    done = machine.run("setup", FLUSSO_PYTHON=str(machine.path / "cat"))
    assert done.returncode == 1 and "cat is not a Python 3.9 or newer" in done.stdout


def test_the_demo_wants_a_newer_python_than_3_9_and_takes_it_once_it_is_there(machine: Machine) -> None:
    machine.add_python(9)
    machine.setup()
    done = machine.run("demo")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        "bin/demo: Python 3.10 or newer, or a Postgres 14 or newer, is needed; install one, then run bin/demo again"
    )
    machine.add_python(11)
    assert machine.setup() == "", "what bin/flussod needs is there"
    assert ".venv has Python 3.9, and Python 3.11 is needed: making it anew" in machine.setup("--demo")
    assert machine.installed[-1] == "3.11 binary,demo,opensearch,rich"


def test_an_older_environment_that_is_asked_for_stays(machine: Machine) -> None:
    oldest = str(machine.add_python(9))
    machine.add_python(13)
    for _ in range(2):
        machine.setup("--dev", "--python", oldest, "--venv", ".venv-3.9")
    assert machine.installed == ["3.9 binary,demo,dev,opensearch,otlp,rich"]


def test_without_a_network_it_says_so_and_keeps_what_is_there(machine: Machine) -> None:
    machine.add_python(13)
    machine.offline.touch()
    told = "check the network, or the proxy settings of pip, then run it again"
    done = machine.run("setup")
    assert done.returncode == 1 and done.stdout.rstrip().endswith(told)
    machine.offline.unlink()
    machine.setup()
    machine.offline.touch()
    done = machine.run("setup", "--demo")
    assert done.returncode == 1 and done.stdout.rstrip().endswith(told)
    assert machine.setup() == ""


def test_without_any_python_it_names_the_variable(machine: Machine) -> None:
    done = machine.run("setup")
    assert done.returncode == 1 and "FLUSSO_PYTHON=" in done.stdout


@pytest.mark.slow
def test_from_nothing_under_a_path_with_spaces_and_then_at_once(tmp_path: Path) -> None:
    checkout = tmp_path / "new try" / "check out"
    files = ("bin", "flusso_sync", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in files:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, checkout / name, ignore=ignored)
        else:
            shutil.copy(CHECKOUT / name, checkout / name)

    def program(*command: str) -> "subprocess.CompletedProcess[str]":
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FLUSSO_", "PYTHON"))}
        command = (str(checkout / command[0]), *command[1:])
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            universal_newlines=True,
        )

    made = program("bin/setup")
    if "could not download" in made.stdout:
        unavailable(made.stdout)
    assert made.returncode == 0, made.stdout
    assert program("bin/flussod", "--version").stdout.startswith("flussod ")
    begun = time.monotonic()
    again = program("bin/setup")
    assert (again.returncode, again.stdout) == (0, "")
    assert time.monotonic() - begun < 5

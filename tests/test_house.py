"""The house keeps its own rules: import directions, no asyncio, commands that run, a README that tells the truth."""

from __future__ import annotations

import ast
import configparser
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Tuple

import pytest

import flusso_sync

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "flusso_sync"

#: Rooms that anybody may look into: values and files, no I/O beyond those.
PURE = frozenset({"errors", "findings", "schema", "config"})
#: How threads are run and what they tell the outside; below every room that has threads.
MACHINERY = frozenset({"worker", "backoff", "status", "history", "observer"})
#: The two protocols with their values: ``engine/source.py`` and ``sinks/base.py``.
PROTOCOLS = frozenset({"engine.source", "sinks.base"})

#: Room -> what it may import of ours, besides itself (design section 2).  A room is a folder or a file of the package.
ALLOWED: Dict[str, FrozenSet[str]] = {
    "errors": frozenset(),
    "findings": frozenset({"errors"}),
    # YAML with the place of every value is config's, and schema files are YAML, too.
    "schema": frozenset({"errors", "config.yaml12", "config.sentences"}),
    "config": frozenset({"errors", "schema"}),
    "worker": MACHINERY | {"errors"},
    "backoff": MACHINERY | {"errors"},
    "status": MACHINERY | {"errors"},
    "history": frozenset(),
    "observer": MACHINERY | {"errors"},
    "logs": frozenset({"errors"}),
    "telemetry": PURE | MACHINERY,
    "engine": PURE | MACHINERY | PROTOCOLS,
    "postgres": PURE | MACHINERY | PROTOCOLS,
    "sinks": PURE | MACHINERY | PROTOCOLS,
    # DaemonOptions; the daemon itself imports the default backends only when it is given none.
    "backends": PURE | MACHINERY | PROTOCOLS | {"postgres", "sinks", "daemon"},
    "daemon": PURE | MACHINERY | PROTOCOLS | {"engine", "backends", "pipeline", "operations"},
    # The daemon's threads of one run, made and ended together; and its stories that are told apart.
    "pipeline": PURE | MACHINERY | PROTOCOLS | {"engine", "backends", "drift", "builds", "operations", "comparing"},
    "drift": PURE | MACHINERY | PROTOCOLS,
    "builds": PURE | MACHINERY | PROTOCOLS | {"engine"},
    "operations": PURE | MACHINERY | PROTOCOLS | {"engine", "drift", "builds", "comparing"},
    "comparing": PURE | MACHINERY | PROTOCOLS | {"verify"},
    "verify": PURE | MACHINERY | PROTOCOLS,
    # For other people's tests; nothing else of ours imports it.
    "testing": PURE | MACHINERY | PROTOCOLS | {"backends", "daemon", "verify", "sinks.memory"},
    # The private surface lists what sinks report.
    "web": PURE | MACHINERY | PROTOCOLS,
    "cli": PURE | MACHINERY | PROTOCOLS | {"web", "backends", "daemon", "verify", "logs", "telemetry", "__init__"},
    # The embedding API: a table of contents.
    "__init__": PURE | MACHINERY | PROTOCOLS | {"backends", "daemon", "engine.policies"},
}

#: Third parties and the only rooms that may import them.
OUTSIDERS: Dict[str, FrozenSet[str]] = {
    "psycopg": frozenset({"postgres", "testing"}),
    "pytest": frozenset({"testing"}),
    "psycopg_pool": frozenset({"postgres"}),
    "opensearchpy": frozenset({"sinks"}),
    "urllib3": frozenset({"sinks"}),
    "sqlite3": frozenset({"sinks"}),
    "flask": frozenset({"web"}),
    "werkzeug": frozenset({"web"}),
    "waitress": frozenset({"web"}),
    "click": frozenset({"cli"}),
    "rich": frozenset({"cli"}),
    "opentelemetry": frozenset({"telemetry"}),
    "prometheus_client": frozenset({"telemetry"}),
    "yaml": frozenset({"config", "schema"}),
    "pydantic": frozenset({"config", "schema"}),
}

#: Never, anywhere: one kind of concurrency is enough.
FORBIDDEN = frozenset({"asyncio", "trio", "anyio", "gevent", "eventlet", "multiprocessing"})


class Import(NamedTuple):
    module: str  #: the importing module, without the package's name ("postgres.capture")
    line: int
    target: str  #: the imported module, absolute
    at_once: bool  #: whether importing the module carries it out


def modules(package: Path) -> Iterator[Tuple[str, Path]]:
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        yield (name[: -len(".__init__")] if name.endswith(".__init__") else name), path


@functools.lru_cache(maxsize=None)
def imports(package: Path) -> Tuple[Import, ...]:
    return tuple(_imports(package))


def _imports(package: Path) -> Iterator[Import]:
    for module, path in modules(package):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        late = _late_lines(tree)
        parts = [] if module == "__init__" else module.split(".")
        folder = parts if path.name == "__init__.py" else parts[:-1]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    up = ["flusso_sync", *folder][: len(folder) + 2 - node.level]
                    base = ".".join([*up, *([node.module] if node.module else [])])
                targets = [f"{base}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                yield Import(module, node.lineno, target, node.lineno not in late)


def _late_lines(tree: ast.Module) -> FrozenSet[int]:
    """Lines that importing the module does not carry out: inside functions, and for type checkers alone."""
    lines: List[int] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) or isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            lines.extend(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return frozenset(lines)


def room(module: str) -> str:
    return module.split(".")[0]


def wrong_directions(package: Path) -> List[str]:
    wrong = []
    for found in imports(package):
        if found.target.split(".")[0] != "flusso_sync" or found.target == "flusso_sync.__version__":
            continue
        inside = found.target.split(".")[1:] or ["__init__"]
        mine = room(found.module)
        there = room(inside[0])
        if there not in ALLOWED:
            # ``from flusso_sync import __version__``: a name of the package itself.
            there = "__init__"
        allowed = ALLOWED[mine]
        if there != mine and there not in allowed and ".".join(inside[:2]) not in allowed:
            wrong.append(f"{found.module}:{found.line} imports {found.target}; {mine} may use {sorted(allowed)}")
    return wrong


def misplaced_outsiders(package: Path) -> List[str]:
    wrong = []
    for found in imports(package):
        outsider = found.target.split(".")[0]
        if outsider in FORBIDDEN or room(found.module) not in OUTSIDERS.get(outsider, frozenset({room(found.module)})):
            wrong.append(f"{found.module}:{found.line} imports {found.target}")
    return wrong


# -- the package --------------------------------------------------------------------------------------


def test_every_room_has_a_rule() -> None:
    assert {room(module) for module, _ in modules(PACKAGE)} <= set(ALLOWED)


def test_imports_point_one_way() -> None:
    assert wrong_directions(PACKAGE) == []


def test_third_parties_stay_in_their_rooms_and_there_is_no_asyncio() -> None:
    assert misplaced_outsiders(PACKAGE) == []
    assert [str(path) for _, path in modules(PACKAGE) if re.search(r"\basync def\b|\bawait\b", path.read_text())] == []


def test_the_rules_find_what_they_forbid(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "a.py").write_text(
        "from flusso_sync.sinks.base import Sink\n"
        "from flusso_sync.sinks.memory import MemorySink\n"
        "def f():\n    from ..engine import ledger\n    from ..engine import source\n"
        "import asyncio, psycopg\nfrom flask import Flask\n"
    )
    (tmp_path / "schema.py").write_text(
        "import flusso_sync.config.models\nfrom flusso_sync import errors\nfrom flusso_sync.config import yaml12\n"
    )
    assert [w.split(";")[0] for w in wrong_directions(tmp_path)] == [
        "postgres.a:2 imports flusso_sync.sinks.memory.MemorySink",
        "postgres.a:4 imports flusso_sync.engine.ledger",
        "schema:1 imports flusso_sync.config.models",
    ]
    assert misplaced_outsiders(tmp_path) == ["postgres.a:6 imports asyncio", "postgres.a:7 imports flask.Flask"]


def test_embedding_needs_neither_psycopg_nor_flask() -> None:
    script = (
        "import sys\n"
        "for name in ('psycopg', 'psycopg_pool', 'flask', 'waitress', 'opensearchpy', 'click'):\n"
        "    sys.modules[name] = None\n"
        "import flusso_sync, flusso_sync.engine.engine, flusso_sync.engine.writer\n"
        "for name in getattr(flusso_sync, '__all__', ()):\n"
        "    getattr(flusso_sync, name)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, check=True)


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    setup = _setup()
    assert "py.typed" in setup["options.package_data"]["flusso_sync"]


def test_every_third_party_is_declared() -> None:
    """What the package imports is in install_requires or in an extra, so that ``pip install .`` is enough."""
    setup = _setup()
    lines = setup["options"]["install_requires"] + "".join(setup["options.extras_require"].values())
    declared = {re.split(r"[^A-Za-z0-9-]", line.strip())[0].lower() for line in lines.splitlines() if line.strip()}
    known = {"yaml": "pyyaml", "opensearchpy": "opensearch-py", "psycopg_pool": "psycopg-pool", "werkzeug": "flask"}
    known["pydantic_core"] = "pydantic"
    known.update(opentelemetry="opentelemetry-sdk", prometheus_client="opentelemetry-exporter-prometheus")
    standard = sys.stdlib_module_names if sys.version_info >= (3, 10) else frozenset()
    for found in imports(PACKAGE):
        name = found.target.split(".")[0]
        if name in standard or name in ("flusso_sync", "__future__") or not standard:
            continue
        assert known.get(name, name).lower() in declared, f"{found.module}:{found.line} imports {found.target}"


def test_a_log_line_about_an_index_carries_it_as_a_field() -> None:
    silent: List[str] = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            logs = isinstance(node.func.value, ast.Name) and node.func.value.id in ("log", "logger")
            says = node.args[0] if logs and node.args else None
            if isinstance(says, ast.Constant) and "index %s" in str(says.value):
                if not any(word.arg == "extra" for word in node.keywords):
                    silent.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    assert silent == []


def test_no_line_is_left_for_later() -> None:
    for path in [*PACKAGE.rglob("*.py"), *(p for p in (CHECKOUT / "tests").rglob("*.py") if p != Path(__file__))]:
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text(encoding="utf-8")), path


# -- the commands ---------------------------------------------------------------------------------------

COMMANDS = ["bin/setup", "bin/flussod", "bin/test", "bin/demo", "bin/bench", "bin/release", ".ci/run"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_executable_and_whole(command: str) -> None:
    path = CHECKOUT / command
    assert os.access(path, os.X_OK)
    text = path.read_text()
    shell = {"#!/bin/sh": "sh", "#!/usr/bin/env bash": "bash"}[text.splitlines()[0]]
    script, quotes, _ = text.partition("\n'''\n")
    subprocess.run([shell, "-n"], input=script.encode(), check=True)
    if quotes:
        compile(text, str(path), "exec")


@pytest.mark.parametrize("command", ["bin/setup", "bin/test", "bin/demo", "bin/bench", "bin/release"])
def test_commands_explain_themselves(command: str, tmp_path: Path) -> None:
    shown = subprocess.run([str(CHECKOUT / command), "--help"], cwd=tmp_path, check=True, stdout=subprocess.PIPE)
    assert command.encode() in shown.stdout


def test_flussod_runs_from_any_folder_through_a_link_under_a_path_with_spaces(tmp_path: Path) -> None:
    """The checkout's package is found by where the file really is, and nothing is taken from the current folder."""
    checkout = tmp_path / "a check out"
    (checkout / "bin").mkdir(parents=True)
    (checkout / "flusso_sync" / "cli").mkdir(parents=True)
    (checkout / "bin" / "flussod").write_bytes((CHECKOUT / "bin" / "flussod").read_bytes())
    (checkout / "bin" / "flussod").chmod(0o755)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nFROM_VENV=yes exec "{sys.executable}" "$@"\n')
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    (checkout / "flusso_sync" / "__init__.py").write_text("")
    (checkout / "flusso_sync" / "cli" / "__init__.py").write_text(
        "import os, sys\ndef main():\n    print(__file__, sys.argv, os.environ.get('FROM_VENV'))\n    return 9\n"
    )
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "flusso_sync.py").write_text("raise SystemExit('taken from the current folder')")
    link = elsewhere / "my flussod"
    link.symlink_to(checkout / "bin" / "flussod")

    ran = subprocess.run([str(link), "run", "-c", "a b.yaml"], cwd=elsewhere, stdout=subprocess.PIPE)

    cli = checkout.resolve() / "flusso_sync" / "cli" / "__init__.py"
    assert ran.stdout.decode().strip() == f"{cli} {['flussod', 'run', '-c', 'a b.yaml']} yes"
    assert ran.returncode == 9


def test_flussod_without_its_packages_names_the_command_and_installs_nothing(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "flussod").write_bytes((CHECKOUT / "bin" / "flussod").read_bytes())
    (tmp_path / "bin" / "flussod").chmod(0o755)
    (tmp_path / "path").mkdir()
    for name, target in (("python3", Path(sys.executable)), ("readlink", Path("/usr/bin/readlink"))):
        # -S: an interpreter without site-packages is a machine without our wheels.
        (tmp_path / "path" / name).write_text(f'#!/bin/sh\nexec "{target}" {"-S" if name == "python3" else ""} "$@"\n')
        (tmp_path / "path" / name).chmod(0o755)
    environment = {"PATH": str(tmp_path / "path")}

    ran = subprocess.run([str(tmp_path / "bin" / "flussod")], env=environment, stderr=subprocess.PIPE)

    assert ran.returncode == 1
    assert "lacks" in ran.stderr.decode() and f"{tmp_path.resolve()}/bin/setup" in ran.stderr.decode()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "path"]


def test_ci_calls_bin_test_and_needs_nothing_else() -> None:
    lines = [line for line in (CHECKOUT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail" and lines[-1].endswith(" bin/test")


# -- the pages ------------------------------------------------------------------------------------------


def test_readme_names_its_two_commands_on_the_first_screen_and_nothing_that_is_not_there() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    first_screen = "\n".join(readme.splitlines()[:45])
    assert "bin/demo" in first_screen and "bin/test" in first_screen
    for command in set(re.findall(r"\bbin/[a-z]+\b", readme)):
        assert os.access(CHECKOUT / command, os.X_OK), command
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (CHECKOUT / link).exists(), link


@pytest.mark.parametrize("page", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_other_pages_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (CHECKOUT / page).read_text())
    assert links and [link for link in links if not (CHECKOUT / link).exists()] == []


def test_what_a_report_is_asked_for_can_be_had() -> None:
    asked = (CHECKOUT / ".github" / "ISSUE_TEMPLATE" / "bug.md").read_text()
    commands = set(re.findall(r"^flussod ([a-z]+)", asked, re.MULTILINE))
    assert commands >= {"check", "status", "verify"}
    assert [name for name in commands if not (PACKAGE / "cli" / f"{name}.py").exists()] == []


def test_version_is_the_same_everywhere_and_the_newest_of_the_changelog() -> None:
    # One source: the others read it.
    assert _setup()["metadata"]["version"] == "attr: flusso_sync.__version__"
    versions = re.findall(r"^## \[?([0-9][^\]\s]*)", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == flusso_sync.__version__


def test_contributing_fits_on_one_screen() -> None:
    assert len((CHECKOUT / "CONTRIBUTING.md").read_text().splitlines()) <= 50


def _setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    return setup

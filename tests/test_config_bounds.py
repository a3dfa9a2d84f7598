"""Files made to be too much for a reader are refused in seconds, in little memory and in few words.

Each is read by the command in a process of its own.  With a bound switched off the same file must be too much for it,
else the test would prove nothing.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import pytest

from flusso_sync.config import yaml12
from flusso_sync.errors import EXIT_CONFIG, EXIT_OK

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

#: Generous: an idle machine needs two seconds and 120 MB for the worst of these.
SECONDS = 60
BYTES = 500_000_000
OUTPUT_BYTES = 1_000_000

CONFIG = "source: {type: postgres}\nindex: [{name: a, schema: a.schema.yml}]\n"
HEAD = "version: 1\ntable: t\n"
SCHEMA = HEAD + "fields: []\n"


class Answer(NamedTuple):
    code: int
    output: str
    peak_bytes: int


def check(folder: Path, config: str, schema: str, guards: str = "") -> Answer:
    (folder / "flusso.yaml").write_text(config)
    if not (folder / "a.schema.yml").exists():
        (folder / "a.schema.yml").write_text(schema)
    with open(folder / "output", "w+b") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.launch", guards, "check", "--offline", "-c", str(folder / "flusso.yaml")],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 * BYTES, 2 * BYTES)),
        )
        patience = threading.Timer(SECONDS, process.kill)
        patience.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            patience.cancel()
            patience.join()
        process.returncode = -signal.SIGKILL if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        output.seek(0)
        return Answer(process.returncode, output.read(OUTPUT_BYTES + 1).decode(), usage.ru_maxrss * 1024)


def bomb(tens: int) -> str:
    return "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, tens)
    )


def many(item: Callable[[int], str], count: int) -> str:
    return "".join(map(item, range(count)))


#: What is too much -> (config, schema, sentence, guard without which it is too much).
TOO_MUCH: Dict[str, Tuple[str, str, str, Optional[str]]] = {
    "a config that is an alias bomb": (bomb(10), SCHEMA, "holds more than 100,000 values", "values_without_end"),
    "a schema that is an alias bomb": (CONFIG, bomb(10), "holds more than 100,000 values", "values_without_end"),
    "ten megabytes of values": (
        CONFIG,
        "fields: [" + "x," * 4_900_000 + "]\n",
        "holds more than 100,000 values",
        "values_without_end",
    ),
    "30,000 lists in each other": ("- " * 30_000 + "x\n", SCHEMA, "is nested deeper than 200", None),
    "30,000 lists in a schema": (CONFIG, "- " * 30_000 + "x\n", "is nested deeper than 200", None),
    "480 objects in each other": (
        CONFIG,
        HEAD + "fields: [" + "{object: o, fields: [" * 480 + "]}" * 480 + "]\n",
        "is nested deeper than 200",
        "depth_without_end",
    ),
    "a list that is opened 30,000 times": ("x: " + "[" * 30_000, SCHEMA, "is nested deeper than 200", None),
    "90,000 keys nobody knows": (
        CONFIG + many(lambda n: f"{'k' * 50}{n}: 1\n", 90_000),
        SCHEMA,
        "only the first 1,000 problems of this file are listed",
        "problems_without_end",
    ),
    "90,000 fields nobody knows": (
        CONFIG,
        HEAD + "fields:\n" + many(lambda n: f"- keywrd{n}: a\n", 45_000),
        "only the first 1,000 problems of this file are listed",
        "problems_without_end",
    ),
    "a key that stands there 90,000 times": (
        CONFIG + "x: 1\n" * 90_000,
        SCHEMA,
        "only the first 1,000 problems of this file are listed",
        "problems_without_end",
    ),
    "a primary key of 90,000 columns": (
        CONFIG,
        SCHEMA + f"primary_key: [{many(lambda n: f'c{n},', 90_000)}]\n",
        "must name at most 32 columns",
        None,
    ),
    "quotations in dollar signs that none closes": (
        CONFIG,
        SCHEMA + f"filters: [{{raw: '{many(lambda n: f'$a{n}$ ', 100_000)}'}}]\n",
        "a quotation in dollar signs is not closed",
        None,
    ),
    "nine megabytes in one value": (CONFIG + "prefix: " + "x" * 9_000_000, SCHEMA, "must be at most 50 bytes", None),
    "nine megabytes in one key": (CONFIG + "? " + "x" * 9_000_000 + "\n: 1\n", SCHEMA, "unknown key", None),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_too_much_is_refused_in_seconds(tmp_path: Path, name: str) -> None:
    config, schema, sentence, _ = TOO_MUCH[name]
    answer = check(tmp_path, config, schema)
    assert answer.code == EXIT_CONFIG, answer.output[-2000:]
    assert sentence in answer.output and "Traceback" not in answer.output
    assert answer.peak_bytes < BYTES
    assert len(answer.output) < OUTPUT_BYTES


@pytest.mark.parametrize("name", [name for name, row in TOO_MUCH.items() if row[3]])
def test_it_is_too_much_without_its_bound(tmp_path: Path, name: str) -> None:
    config, schema, _, guard = TOO_MUCH[name]
    answer = check(tmp_path, config, schema, guard or "")
    assert answer.code != EXIT_CONFIG or answer.peak_bytes >= BYTES or len(answer.output) >= OUTPUT_BYTES


@pytest.mark.parametrize("guard", ["", "files_without_end"])
def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path, guard: str) -> None:
    with open(tmp_path / "a.schema.yml", "wb") as stream:
        stream.truncate(3_000_000_000)
    answer = check(tmp_path, CONFIG, "", guard)
    refused = answer.code == EXIT_CONFIG and "is larger than 10,000,000 bytes" in answer.output
    assert refused == (not guard), answer.output[-2000:]
    assert guard or answer.peak_bytes < BYTES


def test_much_that_is_good_loads(tmp_path: Path) -> None:
    """The bounds stand far beyond what people write: 90,000 labels, 12,000 fields, nine megabytes of comment."""
    variants = many(lambda n: f"v{n},", 90_000)
    labels = check(tmp_path, CONFIG, HEAD + f"fields: [{{enum: a, required: true, variants: [{variants}]}}]\n")
    assert labels.code == EXIT_OK, labels.output[-2000:]
    (tmp_path / "a.schema.yml").unlink()
    fields = many(lambda n: f"  - {{object: o{n}, fields: [{{text: t, required: true}}]}}\n", 12_000)
    comment = "# " + "a comment of one line\n# " * 400_000
    wide = check(tmp_path, CONFIG + comment, HEAD + "fields:\n" + fields)
    assert wide.code == EXIT_OK, wide.output[-2000:]
    assert max(labels.peak_bytes, wide.peak_bytes) < BYTES


def test_both_parsers_of_pyyaml_give_the_same_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where PyYAML was built without libyaml its own parser reads; what it cannot take must still be a sentence."""
    from tests.broken_files import broken_files
    from tests.test_broken_files import expected_line, write

    monkeypatch.setattr(yaml12, "_LOADER", yaml12.yaml.SafeLoader)
    from click.testing import CliRunner

    from flusso_sync.cli.commands import flussod

    for number, case in enumerate(broken_files()):
        if case.rule != "settled §2" and number % 9:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        answer = CliRunner().invoke(flussod, ["check", "-c", str(write(folder, case))])
        assert answer.exit_code == EXIT_CONFIG and isinstance(answer.exception, SystemExit), (case, answer.exception)
        lines = answer.output.split("\n")
        where = expected_line(folder, case)
        if "is not valid YAML" in case.sentence or "scanning" in case.sentence:
            where, lines = where.rpartition(":")[0].rpartition(":")[0], [line for line in lines if "YAML" in line]
        assert any(line.startswith(where) for line in lines), (where, answer.output)
    for text in ('x: "\\Uffffffff"\n', 'x: "\\ud800"\n', "x: \x01\n"):
        (tmp_path / "flusso.yaml").write_text(CONFIG + text)
        answer = CliRunner().invoke(flussod, ["check", "-c", str(tmp_path / "flusso.yaml")])
        assert answer.exit_code == EXIT_CONFIG and "Traceback" not in answer.output
        assert isinstance(answer.exception, SystemExit), answer.exception

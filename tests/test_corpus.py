"""Files in flusso's style: those it loads and runs sensibly load here, with the warnings they deserve; those of
settled.md section 1 are refused with their sentence.

A file of ``tests/data/corpus`` says itself what it expects: ``# warns: …`` once per warning, ``# refused: …`` with
``# here`` at the end of the line that must be named.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple

import pytest
import yaml
from click.testing import CliRunner

from flusso_sync.cli.commands import flussod
from flusso_sync.config.load import load_config
from flusso_sync.errors import ConfigError
from flusso_sync.schema.language import load_schema
from tests.broken_files import GOOD_KEYS, SCALARS

CORPUS = Path(__file__).resolve().parent / "data" / "corpus"
SCHEMAS = sorted(CORPUS.glob("schemas/*.schema.yml"))
CONFIGS = sorted(CORPUS.glob("configs/*.flusso.yaml"))
REFUSED = sorted(CORPUS.glob("refused/*.schema.yml"))

_EXPECTED = re.compile(r"^# (warns|refused): (.+)$", re.MULTILINE)


def name_of(path: Path) -> str:
    return path.name.split(".")[0]


def expected(path: Path) -> List[str]:
    return [text for _, text in _EXPECTED.findall(path.read_text(encoding="utf-8"))]


def fits(warnings: List[str], path: Path) -> None:
    fragments = expected(path)
    assert len(warnings) == len(fragments), warnings
    for fragment in fragments:
        (found,) = [warning for warning in warnings if fragment in warning]
        assert re.match(rf"{re.escape(str(path))}:\d+:\d+: ", found), found


@pytest.mark.parametrize("path", SCHEMAS, ids=name_of)
def test_a_schema_file_loads_with_the_warnings_it_deserves(path: Path) -> None:
    plan, warnings = load_schema(path, "corpus")
    fits(warnings, path)
    assert plan.canonical and plan.root.name


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_a_configuration_loads_with_the_warnings_it_deserves(path: Path) -> None:
    config = load_config(path)
    fits(list(config.warnings), path)
    answer = CliRunner().invoke(flussod, ["check", "--offline", "-c", str(path)])
    assert answer.exit_code == 0, answer.output
    assert all(fragment in answer.output for fragment in expected(path))
    assert ("Warnings" in answer.output) == bool(expected(path))


@pytest.mark.parametrize("path", REFUSED, ids=name_of)
def test_what_we_refuse_although_flusso_loads_it_is_told_at_its_line(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    (here,) = [number for number, line in enumerate(lines, 1) if line.endswith("# here")]
    with pytest.raises(ConfigError) as caught:
        load_schema(path, "corpus")
    (problem,) = caught.value.problems
    (sentence,) = expected(path)
    assert (problem.file, problem.line) == (str(path), here)
    assert problem.column and problem.path and sentence in problem.message


def test_one_check_of_the_whole_corpus_lists_every_index(tmp_path: Path) -> None:
    index = "".join(f"  - {{name: {name_of(path)}, schema: {path}, enabled: true}}\n" for path in SCHEMAS)
    (tmp_path / "flusso.yaml").write_text(f"source: {{type: postgres}}\nindex:\n{index}")
    answer = CliRunner().invoke(flussod, ["check", "--offline", "-c", str(tmp_path / "flusso.yaml")])
    assert answer.exit_code == 0, answer.output
    for path in SCHEMAS:
        assert f"\n{name_of(path)}\n" in answer.output
        assert all(fragment in answer.output for fragment in expected(path))


# -- what the corpus holds ------------------------------------------------------------------------------------

#: Type key -> the keys that flusso takes beside it (schema.md section 2).
SIBLINGS: Dict[str, str] = {
    **{kind: "required column options transforms default" for kind in SCALARS},
    "enum": "required column options transforms default variants",
    "custom": "required postgres opensearch column options default",
    "geo": "required lat lon column options",
    "map": "required values column options",
    "object": "fields options",
    "belongs_to": "table primary_key fields column required filters options",
    "has_one": "table primary_key foreign_key fields required filters order_by options",
    "has_many": "table primary_key foreign_key fields filters order_by limit options",
    "many_to_many": "table primary_key through fields filters order_by limit options",
    "count": "table foreign_key through filters options column value_type",
    "avg": "table foreign_key through column filters options value_type",
    "sum": "table foreign_key through column value_type filters options",
    "min": "table foreign_key through column value_type filters options",
    "max": "table foreign_key through column value_type filters options",
    "ids": "table foreign_key through element_type filters options",
    "constant": "value",
}
OPS = "eq neq lt lte gt gte like ilike in not_in between is_null is_not_null".split()
MAP_VALUES = "text identifier keyword enum uuid short integer long float double decimal date timestamp".split()


def walk(value: Any) -> Iterator[Dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def test_the_corpus_holds_every_key_of_every_kind_every_op_and_every_type() -> None:
    assert set(SIBLINGS) == set(GOOD_KEYS)
    seen: Set[Tuple[str, str]] = set()
    for path in SCHEMAS:
        top = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
        seen |= {("top", key) for key in top}
        for node in walk(top):
            # A type key's value is a name; of several candidates the first is it.
            kinds = [key for key in node if key in SIBLINGS and isinstance(node[key], str)]
            seen |= {(kinds[0], key) for key in node} if kinds else set()
            seen |= {("op", node["op"])} if "op" in node else set()
            seen |= {("values", node["values"])} if "map" in node and "values" in node else set()
            seen |= {("value_type", node["value_type"])} if "max" in node else set()
            seen |= {("direction", node["direction"])} if "direction" in node else set()
            seen |= {("filter", "raw")} if "raw" in node else set()
            seen |= {("soft_delete", key) for key in node["soft_delete"]} if "soft_delete" in node else set()
    wanted = {(kind, key) for kind, keys in SIBLINGS.items() for key in keys.split()}
    wanted |= {("op", op) for op in OPS} | {("values", kind) for kind in MAP_VALUES}
    wanted |= {("value_type", kind) for kind in [*SCALARS, "enum"]} | {("direction", "asc"), ("direction", "desc")}
    wanted |= {("top", key) for key in "version table schema primary_key soft_delete filters fields".split()}
    wanted |= {("soft_delete", key) for key in ("column", "field", "when")} | {("filter", "raw")}
    assert wanted <= seen, sorted(wanted - seen)


def test_the_corpus_is_large() -> None:
    assert len(SCHEMAS) + len(CONFIGS) >= 50 and len(REFUSED) >= 20

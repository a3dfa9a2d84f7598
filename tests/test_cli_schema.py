"""``flussod schema``: editors are told the loader's own rules.

Held by a validator of somebody else's: whatever loads is valid, and of the files that are refused (``broken_files``)
only those are valid whose mistake no JSON Schema can tell, listed here one kind each.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Set, Tuple

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flusso_sync.cli.commands import flussod
from flusso_sync.cli.schema import schema_text
from flusso_sync.config import yaml12
from flusso_sync.config.load import load_config
from flusso_sync.config.models import SINK_TYPES, ConnectionParts, Deployment
from flusso_sync.errors import ConfigError
from flusso_sync.schema import language, meanings
from flusso_sync.schema.language import load_schema
from tests.broken_files import CONFIG, GOOD, Broken, broken_files
from tests.generated import worlds

CHECKOUT = Path(__file__).resolve().parent.parent
FILES = [
    path
    for folder in ("etc", "tests/data")
    for path in sorted((CHECKOUT / folder).rglob("*"))
    if path.name.endswith((".schema.yml", "flusso.yaml"))
]

VALIDATORS = {what: jsonschema.Draft7Validator(json.loads(schema_text(what))) for what in ("config", "index")}

#: What is refused and still valid: it takes more than the shape of one file.
BEYOND = [
    r".*(\\0|\0)",  # zero bytes
    r"no schema file|.*schema: (\.|'\*|a{70})",  # what other files there are
    r".*(\.nan|\.inf)",  # JSON has no such numbers
    r".*\{file: ''\}",
    r".*Primary: |.*name: Articles|.*\{text: id, |.*\{text: x, ",  # names that are the same once lowercased
    r".*max_retained_wal_bytes: '9|.*:65536|.*ü{3}",  # what a number in a text comes to, bytes in a character
    r".*(column|references|left_references): \[x(, y)?\]",  # as many columns as another key has
    r".*filters: \[\{raw: ['\"][a-zA-Z(]",  # SQL
    r".*soft_delete: \{field: ",  # the name of another field
]


def validator(file: str) -> jsonschema.Draft7Validator:
    return VALIDATORS["config" if file.endswith("flusso.yaml") else "index"]


def errors(file: str, value: Any) -> List[str]:
    return [f"{list(error.absolute_path)}: {error.message}" for error in validator(file).iter_errors(value)]


@pytest.mark.parametrize("what", ["config", "index"])
def test_it_is_printed_and_a_json_schema(what: str) -> None:
    answer = CliRunner().invoke(flussod, ["schema", what])
    assert answer.exit_code == 0, answer.output
    made = json.loads(answer.output)
    jsonschema.Draft7Validator.check_schema(made)
    assert made["$schema"] == "http://json-schema.org/draft-07/schema#"
    undescribed = [key for mapping in _mappings(made) for key, one in mapping.items() if not one.get("description")]
    assert undescribed == []


def _mappings(node: Any) -> Iterator[Dict[str, Any]]:
    """The ``properties`` of every mapping that says what its keys are."""
    if isinstance(node, dict):
        if node.get("additionalProperties") is False and {"env"} != set(node["properties"]) != {"file"}:
            yield node["properties"]
        for one in node.values():
            yield from _mappings(one)
    elif isinstance(node, list):
        for one in node:
            yield from _mappings(one)


def test_another_word_is_wrong_usage() -> None:
    assert CliRunner().invoke(flussod, ["schema", "both"]).exit_code == 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_what_loads_is_valid(path: Path) -> None:
    try:
        if path.name.endswith(".schema.yml"):
            load_schema(path, "index")
        else:
            load_config(path)
    except ConfigError:
        assert "refused" in path.parts, path
        return
    assert errors(path.name, yaml12.load_file(path).value) == []


def test_enough_files_were_tried() -> None:
    assert len(FILES) > 70


def _read(case: Broken) -> Any:
    try:
        return yaml12.load_text((case.files[case.file] or b"").decode()).value
    except (ConfigError, UnicodeDecodeError):
        return None  # not YAML at all, which is no matter of JSON Schema


CASES = [case for case in broken_files() if case.files.get(case.file) is not None and _read(case) is not None]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title[:60])
def test_what_is_refused_is_invalid_as_far_as_a_shape_can_tell(case: Broken) -> None:
    beyond = [pattern for pattern in BEYOND if re.match(pattern, case.title, re.DOTALL)]
    found = errors("flusso.yaml" if case.file == CONFIG else "x.schema.yml", _read(case))
    assert bool(found) != bool(beyond), (found, beyond)


def test_the_good_files_beside_them_are_valid() -> None:
    for name, text in GOOD.items():
        assert errors(name, yaml12.load_text(text).value) == [], name


def test_deep_files_are_judged_at_once() -> None:
    field: Dict[str, Any] = {"keyword": "a", "required": True}
    for _ in range(20):
        field = {"object": "o", "fields": [field]}
    value = {"version": 1, "table": "t", "fields": [field]}
    started = time.monotonic()
    assert errors("x.schema.yml", value) == []
    assert time.monotonic() - started < 5


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_made_up_schemas_are_valid(data: st.DataObject) -> None:
    world = data.draw(worlds())
    for schema in world.schemas:
        assert errors("x.schema.yml", json.loads(json.dumps(schema))) == []


# -- one source ---------------------------------------------------------------------------------------------


def test_every_word_of_the_language_has_its_sentence_and_no_other() -> None:
    beside = {key for keys in language.FIELD_KEYS.values() for key in (*keys.required, *keys.optional)}
    pairs: List[Tuple[Mapping[str, str], Set[str]]] = [
        (meanings.KINDS, set(language.FIELD_KEYS)),
        (meanings.TOP, set(language.TOP_KEYS)),
        (meanings.BESIDE, beside),
        (meanings.THROUGH, set(language.THROUGH_KEYS)),
        (meanings.ORDER, set(language.ORDER_KEYS)),
        (meanings.SOFT_DELETE, set(language.SOFT_DELETE_KEYS)),
        (meanings.FILTER, set(language.FILTER_KEYS)),
    ]
    for told, keys in pairs:
        assert set(told) == keys


def test_every_key_of_the_models_is_in_it() -> None:
    made = json.loads(schema_text("config"))
    for model in (Deployment, ConnectionParts, *SINK_TYPES.values()):
        part = made if model is Deployment else made["definitions"][model.__name__]
        assert set(part["properties"]) == {info.alias or name for name, info in model.model_fields.items()}

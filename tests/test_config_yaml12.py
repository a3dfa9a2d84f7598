"""YAML 1.2 scalars, places of values, and everything a file may not do."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flusso_sync.config import yaml12
from flusso_sync.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("010", "010"),
        ("-010", "-010"),
        ("1:20", "1:20"),
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("<<", "<<"),
        ("=", "="),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("+12", 12),
        ("-0", 0),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("'true'", "true"),
        ('"12"', "12"),
        ("!!str 12", "12"),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert yaml12.load_text(f"key: {text}\n").value == {"key": value}


def test_not_a_number_is_read() -> None:
    assert math.isnan(yaml12.load_text("a: .nan").value["a"])


def test_every_value_and_key_has_a_place() -> None:
    document = yaml12.load_text("a:\n  - b: 1\n    c: [x, 2.50]\n")
    assert document.positions[("a", 0, "c", 1)] == (3, 12)
    assert document.keys[("a", 0, "c")] == (3, 5)
    assert document.texts[("a", 0, "c", 1)] == "2.50"


def test_a_problem_is_placed_at_the_nearest_known_ancestor() -> None:
    document = yaml12.load_text("a:\n  b: 1\n", "f.yaml")
    assert str(document.problem(("a", "b", "c"), "no")) == "f.yaml:2:6: a.b.c: no"
    assert str(document.problem(("a", "b"), "no", key=True)) == "f.yaml:2:3: a.b: no"


def test_the_order_of_keys_is_kept() -> None:
    assert list(yaml12.load_text("z: 1\na: 2\nm: 3\n").value) == ["z", "a", "m"]


def test_an_alias_is_its_anchors_value_at_its_own_place() -> None:
    document = yaml12.load_text("a: &x {k: 1}\nb: *x\n")
    assert document.value == {"a": {"k": 1}, "b": {"k": 1}}
    assert document.value["a"] is not document.value["b"]


def test_every_duplicate_key_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        yaml12.load_text("a: 1\nb: {c: 1, c: 2}\na: 2\n", "f.yaml")
    assert [(p.line, p.column) for p in caught.value.problems] == [(2, 11), (3, 1)]
    assert "the first is in line 1" in caught.value.problems[1].message


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "line", "fragment"),
    [
        ("a: [1\nb: 2\n", 2, "not valid YAML"),
        ("a: b: c\n", 1, "not valid YAML"),
        ("a:\n  - b\n c: d\n", 3, "not valid YAML"),
        ("a: \t- b\n", 1, "not valid YAML"),
        ("a: \x01\n", 1, "not valid YAML"),
        ("a: 'open\n", 2, "not valid YAML"),
        ("a: *nobody\n", 1, "alias"),
        ("a: &x [*x]\n", 1, "inside its own anchor"),
        ("a: 1\n---\nb: 2\n", 2, "second YAML document"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "tag"),
        ("a: !secret x\n", 1, "tag"),
        ("? [a]\n: b\n", 1, "key must be plain text"),
        ("a: " + "[" * 5000, 1, "nested deeper"),
        ("- " * 5000, 1, "nested deeper"),
        ("a: " + "9" * 5000, 1, "more than 1000 characters"),
        (BOMB, 5, "holds more than 100,000 values"),
    ],
)
def test_what_a_file_may_not_do_is_a_sentence_with_a_line(text: str, line: int, fragment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        yaml12.load_text(text, "f.yaml")
    (problem,) = caught.value.problems
    assert problem.line == line
    assert problem.column is not None
    assert fragment in problem.message


def test_a_missing_file_a_folder_and_a_wrong_encoding_are_sentences(tmp_path) -> None:  # type: ignore[no-untyped-def]
    broken = tmp_path / "latin1.yaml"
    broken.write_bytes(b"a: 1\nb: caf\xe9\n")
    for path, fragment in [
        (tmp_path / "missing.yaml", "No such file"),
        (tmp_path, "cannot be read"),
        (broken, "not UTF-8"),
        ("a\0b", "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=fragment):
            yaml12.load_file(path)
    with pytest.raises(ConfigError) as caught:
        yaml12.load_file(broken)
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (2, 7)


def test_a_file_too_large_is_refused_without_being_parsed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    large = tmp_path / "large.yaml"
    with open(large, "wb") as stream:
        stream.truncate(yaml12.MAX_FILE_BYTES + 1)
    with pytest.raises(ConfigError, match="larger than 10,000,000 bytes"):
        yaml12.load_file(large)


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert yaml12.load_file(file).value == {"a": 1}


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_", max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_json_is_yaml(value: object) -> None:
    assert yaml12.load_text(json.dumps({"": value}, ensure_ascii=False)).value == {"": value}


@given(st.text(st.characters(), max_size=60))
def test_no_text_gives_anything_but_a_value_or_a_sentence(text: str) -> None:
    try:
        yaml12.load_text(text)
    except ConfigError as error:
        assert all(problem.line and problem.column for problem in error.problems)


def test_a_tab_for_indentation_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        yaml12.load_text("source:\n\ttype: postgres\n", "f.yaml")
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (2, 1)
    assert problem.message == "is not valid YAML: a tab; YAML is indented with spaces alone"

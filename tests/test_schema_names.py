"""Names: lowercased unless quoted, dots outside quotes separate, limits in bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flusso_sync.schema import names
from flusso_sync.schema.plan import Table


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" Users ", "users"),
        ("_a1", "_a1"),
        ('"Mixed.Name"', "Mixed.Name"),
        ('"a""b"', 'a"b'),
        ('"ä b"', "ä b"),
        ("a" * 63, "a" * 63),
    ],
)
def test_an_identifier_is_spelled_as_the_catalog_spells_it(text: str, name: str) -> None:
    assert names.identifier(text) == name


@pytest.mark.parametrize(
    "text",
    ["", " ", "1a", "a-b", "a b", "a.b", "ä", '""', '"a', '"a"b"', "a" * 64, '"' + "ä" * 32 + '"', "a\n"[::-1] + "!"],
)
def test_what_is_no_identifier_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        names.identifier(text)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("users", Table("public", "users")),
        ("Sales.Users", Table("sales", "users")),
        ('"a.b"', Table("public", "a.b")),
        ('"a.b"."C.d"', Table("a.b", "C.d")),
        ('sales."C"', Table("sales", "C")),
    ],
)
def test_a_dot_outside_quotes_separates_the_schema(text: str, table: Table) -> None:
    assert names.table(text, "public") == table


@pytest.mark.parametrize("text", ["a.b.c", ".a", "a.", "", '"a', "a..b"])
def test_what_is_no_table_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        names.table(text, "public")


def test_field_names_keep_their_case() -> None:
    assert names.field_name(" createdAt ") == "createdAt"
    for text in ("a.b", "a-b", "1a", "", "ä", "a" * 64):
        with pytest.raises(ValueError, match="must"):
            names.field_name(text)


def test_names_of_ours_take_no_quotes() -> None:
    assert names.plain_identifier("Users") == "users"
    with pytest.raises(ValueError, match="must be a name"):
        names.plain_identifier('"Users"')


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15))
def test_a_name_as_a_file_would_spell_it_is_read_back(name: str) -> None:
    assert names.identifier(names.spell(name)) == name
    assert names.table(f"{names.spell(name)}.{names.spell(name)}", "x") == Table(name, name)

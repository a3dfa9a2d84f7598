"""The type tables: what a kind reads and what it becomes."""

from __future__ import annotations

import pytest

from flusso_sync.schema.language import FIELD_KEYS
from flusso_sync.schema.types import (
    ACCEPTED,
    MAP_VALUES,
    OPENSEARCH,
    SCALAR_KINDS,
    accepts,
    accepts_aggregate,
    accepts_geo,
    constant_type,
    describe,
    kinds_of,
    normalise,
    opensearch_type,
)


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("numeric(10,2)", "numeric"),
        ("numeric(10,2)[]", "numeric"),
        ("text[][]", "text"),
        ("Character Varying(20)", "character varying"),
        ("timestamp(3) with time zone", "timestamp"),
        ("timestamp with time zone", "timestamp with time zone"),
    ],
)
def test_a_type_is_compared_without_modifiers(name: str, normal: str) -> None:
    assert normalise(name) == normal


@pytest.mark.parametrize(
    ("kind", "name", "accepted"),
    [
        ("text", "citext", True),
        ("keyword", "character varying(20)[]", True),
        ("long", "bigint", True),
        ("long", "integer", False),
        ("integer", "bigint", False),
        ("timestamp", "timetz", True),
        ("timestamp", "date", False),
        ("decimal", "money", True),
        ("map", "jsonb", True),
        ("text", "inet", False),
        ("nonsense", "text", False),
    ],
)
def test_widths_are_exact_and_families_are_not_mixed(kind: str, name: str, accepted: bool) -> None:
    assert accepts(kind, name) is accepted


def test_a_custom_field_brings_its_own_types() -> None:
    assert accepts("custom", "numeric(3)", ["NUMERIC", "money"])
    assert not accepts("custom", "inet", ["cidr"])
    assert opensearch_type("custom", "ip") == "ip"


def test_geo_reads_numbers_in_pairs_and_a_place_in_one_column() -> None:
    assert accepts_geo("double precision", pair=True) and accepts_geo("numeric(9,6)", pair=True)
    assert accepts_geo("jsonb", pair=False) and accepts_geo("text", pair=False)
    assert not accepts_geo("text", pair=True) and not accepts_geo("real", pair=False)


@pytest.mark.parametrize(
    ("op", "value_type", "name", "accepted"),
    [
        ("sum", "integer", "integer", True),
        ("sum", "long", "integer", True),
        ("sum", "long", "smallint", True),
        ("sum", "long", "bigint", True),
        ("sum", "integer", "numeric", False),
        ("sum", "decimal", "numeric(10,2)", True),
        ("min", "long", "integer", False),
        ("max", "timestamp", "timestamptz", True),
        ("ids", "long", "bigint", True),
    ],
)
def test_a_sum_of_whole_numbers_may_be_wider_than_its_column(
    op: str, value_type: str, name: str, accepted: bool
) -> None:
    assert accepts_aggregate(op, value_type, name) is accepted


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "boolean"),
        (1, "long"),
        (1.5, "double"),
        ("x", "keyword"),
        (None, "keyword"),
        ([], "keyword"),
        ([1], "long"),
        ({}, "object"),
    ],
)
def test_a_constant_is_typed_by_its_value(value: object, name: str) -> None:
    assert constant_type(value) == name


def test_the_tables_cover_every_kind() -> None:
    assert set(ACCEPTED) == {*SCALAR_KINDS, "map"}
    assert set(OPENSEARCH) == {*ACCEPTED, "geo"}
    assert len(SCALAR_KINDS) == 16 and len(MAP_VALUES) == 13
    assert all(kind in FIELD_KEYS for kind in OPENSEARCH)


def test_sentences_about_types() -> None:
    assert describe("long") == "bigint, bigserial or int8"
    assert describe("uuid") == "uuid"
    assert kinds_of("varchar(3)") == ("text", "identifier", "keyword", "enum")
    assert kinds_of("inet") == ()

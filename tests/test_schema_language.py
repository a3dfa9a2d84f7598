"""The schema language: every kind of field, every refusal with its place, one text per meaning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flusso_sync.errors import ConfigError
from flusso_sync.schema.language import (
    FIELD_KEYS,
    FILTER_OPS,
    load_schema,
    parse_mapping,
    parse_schema,
)
from flusso_sync.schema.names import spell
from flusso_sync.schema.plan import (
    AggregateField,
    AnyField,
    AnyFilter,
    ChildLink,
    ConstantField,
    Filter,
    GeoField,
    IndexPlan,
    JoinField,
    ObjectField,
    Order,
    RawFilter,
    ScalarField,
    SoftDelete,
    Table,
    TargetLink,
    ThroughLink,
)
from flusso_sync.schema.types import MAP_VALUES, SCALAR_KINDS

ARTICLES = Path(__file__).parent / "data" / "articles.schema.yml"

HEAD = "version: 1\ntable: t\n"


def parse(text: str) -> IndexPlan:
    plan, warnings = parse_schema(text, "i")
    assert warnings == []
    return plan


def field(text: str) -> AnyField:
    (parsed,) = parse(f"{HEAD}fields:\n  - {text}\n").fields
    return parsed


def public(name: str) -> Table:
    return Table("public", name)


# -- the reference example ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def articles() -> IndexPlan:
    plan, warnings = load_schema(ARTICLES, "articles")
    assert warnings == []
    return plan


def by_name(plan: IndexPlan) -> Dict[str, Any]:
    return {field.name: field for field in plan.fields}


def test_the_example_with_every_kind_loads(articles: IndexPlan) -> None:
    assert (articles.name, articles.root, articles.primary_key) == ("articles", public("articles"), ("id",))
    assert articles.soft_delete == SoftDelete("removed_at", (Filter("legal_hold", "eq", ("false",)),))
    assert articles.filters == (
        Filter("state", "in", ("draft", "live")),
        Filter("site_id", "is_not_null"),
        RawFilter("length(title) > 0"),
    )
    assert [f.name for f in articles.fields] == (
        "id title sku lang state extId createdAt price fee extra names place area kind seo author cover comments tags "
        "commentCount rating paid lastComment tagIds"
    ).split()


def test_the_example_has_the_expected_fields(articles: IndexPlan) -> None:
    fields = by_name(articles)
    assert fields["lang"] == ScalarField("lang", "keyword", "lang", transforms=("trim", "lowercase"), default="en")
    assert fields["state"] == ScalarField("state", "enum", "state", True, variants=("draft", "live", "gone"))
    assert fields["fee"] == ScalarField(
        "fee", "custom", "fee", postgres=("numeric",), opensearch="scaled_float", options={"scaling_factor": 100}
    )
    assert fields["names"] == ScalarField("names", "map", "names", values="text")
    assert fields["place"] == GeoField("place", lat="latitude", lon="longitude")
    assert fields["area"] == GeoField("area", column="area_json")
    assert fields["kind"] == ConstantField("kind", "article")
    assert fields["seo"] == ObjectField("seo", (ScalarField("description", "text", "seo_description"),))
    assert fields["author"] == JoinField(
        "author",
        "belongs_to",
        public("people"),
        TargetLink(("author_id",), ("id",)),
        (ScalarField("name", "keyword", "name", True),),
        required=True,
        declared_key=("id",),
    )
    assert fields["comments"] == JoinField(
        "comments",
        "has_many",
        public("comments"),
        ChildLink(("article_id",)),
        (ScalarField("id", "integer", "id", True), ScalarField("body", "text", "body", True)),
        filters=(Filter("spam", "eq", ("false",)),),
        order_by=(Order("id"),),
        limit=20,
        declared_key=("id",),
    )
    junction = ThroughLink(public("article_tags"), ("article_id",), ("tag_id",))
    assert fields["tags"].link == junction
    assert fields["commentCount"] == AggregateField(
        "commentCount", "count", public("comments"), ChildLink(("article_id",))
    )
    assert fields["rating"] == AggregateField(
        "rating", "avg", public("votes"), ChildLink(("article_id",)), column="stars"
    )
    assert fields["paid"].filters == (Filter("at", "between", ("2024-01-01", "2024-12-31")),)
    assert fields["tagIds"] == AggregateField("tagIds", "ids", public("tags"), junction, value_type="long")


# -- defaults and forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCALAR_KINDS)
def test_a_scalar_reads_the_column_of_its_name(kind: str) -> None:
    assert field(f"{{{kind}: someName, required: false}}") == ScalarField("someName", kind, "somename")


@pytest.mark.parametrize(
    ("default", "text"),
    [
        ("en", "en"),
        ("12", "12"),
        ("1.50", "1.50"),
        ("0.12345678901234567890", "0.12345678901234567890"),
        ("true", "true"),
        ("yes", "yes"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "16"),
        (".inf", "Infinity"),
        ("''", ""),
        ("null", None),
    ],
)
def test_a_default_is_the_text_of_the_file(default: str, text: str) -> None:
    parsed = field(f"{{keyword: a, required: true, default: {default}}}")
    assert isinstance(parsed, ScalarField)
    assert parsed.default == text


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("{z: 1, a: []}", {"z": 1, "a": []}),
    ],
)
def test_a_constant_keeps_its_json_type(value: str, held: object) -> None:
    parsed = field(f"{{constant: a, value: {value}}}")
    assert isinstance(parsed, ConstantField)
    assert parsed.value == held
    assert type(parsed.value) is type(held)


@pytest.mark.parametrize("values", MAP_VALUES)
def test_a_map_names_the_kind_of_its_values(values: str) -> None:
    parsed = field(f"{{map: a, required: true, values: {values}}}")
    assert isinstance(parsed, ScalarField)
    assert parsed.values == values


def test_geo_reads_the_column_of_its_name_by_default() -> None:
    assert field("{geo: Place, required: true}") == GeoField("Place", column="place", required=True)


def test_names_are_lowercased_unless_quoted() -> None:
    plan = parse(
        """
version: 1
table: '"My.Table"'
schema: Sales
primary_key: ID
fields:
  - {text: Title, required: true, column: '"Mixed Case"'}
  - {text: Other, required: true, column: UPPER}
  - {count: n, table: CRM.People, foreign_key: '"a""b"'}
  - {count: m, table: '"X y"."Z.z"', foreign_key: a}
  - {count: o, table: things, foreign_key: a}
"""
    )
    assert plan.root == Table("sales", "My.Table")
    assert plan.primary_key == ("id",)
    title, other, n, m, o = plan.fields
    assert (title.column, other.column) == ("Mixed Case", "upper")  # type: ignore[union-attr]
    assert n == AggregateField("n", "count", Table("crm", "people"), ChildLink(('a"b',)))
    assert m.table == Table("X y", "Z.z")  # type: ignore[union-attr]
    assert o.table == Table("sales", "things")  # type: ignore[union-attr]


def test_a_list_of_columns_may_stand_wherever_one_does() -> None:
    plan = parse(
        """
version: 1
table: t
primary_key: [a, b]
doc_id: [b, a]
fields:
  - {has_many: c, table: c, foreign_key: [x, y], references: [a, b], primary_key: [p, q], fields: []}
  - {belongs_to: d, table: d, column: [x, y], primary_key: [p, q], fields: []}
  - many_to_many: e
    table: e
    fields: []
    through: {table: s.j, left_key: [l1, l2], right_key: [r1, r2], left_references: [a, b], right_references: [p, q]}
"""
    )
    assert (plan.primary_key, plan.doc_id) == (("a", "b"), ("b", "a"))
    c, d, e = plan.fields
    assert c.link == ChildLink(("x", "y"), ("a", "b"))  # type: ignore[union-attr]
    assert c.declared_key == ("p", "q")  # type: ignore[union-attr]
    assert d.link == TargetLink(("x", "y"), ("p", "q"))  # type: ignore[union-attr]
    assert e.link == ThroughLink(  # type: ignore[union-attr]
        Table("s", "j"), ("l1", "l2"), ("r1", "r2"), ("a", "b"), ("p", "q")
    )


def test_keys_that_only_the_catalog_knows_stay_open() -> None:
    plan = parse(
        f"""{HEAD}fields:
  - {{has_one: c, table: c, foreign_key: x, fields: []}}
  - {{belongs_to: Boss, table: t, fields: []}}
"""
    )
    child, boss = plan.fields
    assert plan.primary_key == ()
    assert child.link == ChildLink(("x",), ())  # type: ignore[union-attr]
    assert boss.link == TargetLink(("boss",), ())  # type: ignore[union-attr]


@pytest.mark.parametrize("op", FILTER_OPS)
def test_every_filter_op_is_read(op: str) -> None:
    value = {"in": "[1, x]", "not_in": "[2.50]", "between": "[1, 2]", "is_null": None, "is_not_null": None}.get(
        op, "true"
    )
    text = f"{{column: A, op: {op}{f', value: {value}' if value else ''}}}"
    (condition,) = parse(f"{HEAD}fields: []\nfilters: [{text}]\n").filters
    expected = {"[1, x]": ("1", "x"), "[2.50]": ("2.50",), "[1, 2]": ("1", "2"), "true": ("true",), None: ()}[value]
    assert condition == Filter("a", op, expected)


def test_an_operand_reaches_postgres_with_all_its_digits() -> None:
    plan = parse(
        HEAD + "fields: []\nfilters: [{column: a, op: eq, value: 12345678901234567890.12345678901234567890}]\n"
    )
    assert plan.filters == (Filter("a", "eq", ("12345678901234567890.12345678901234567890",)),)


def test_fields_nest_to_any_sensible_depth() -> None:
    text = "{text: leaf, required: true}"
    for level in range(60):
        text = f"{{object: o{level}, fields: [{text}]}}"
    parsed = field(text)
    for _ in range(60):
        assert isinstance(parsed, ObjectField)
        (parsed,) = parsed.fields
    assert parsed == ScalarField("leaf", "text", "leaf", True)


def test_names_repeat_freely_on_different_levels() -> None:
    parse(f"{HEAD}fields:\n  - {{text: a, required: true}}\n  - {{object: b, fields: [{{text: a, required: true}}]}}\n")


# -- soft delete ------------------------------------------------------------------------------------------


def test_a_soft_delete_field_gives_its_column() -> None:
    text = """
version: 1
table: t
soft_delete: {field: gone}
fields:
  - object: o
    fields: [{boolean: gone, column: is_gone, required: true}]
"""
    assert parse(text).soft_delete == SoftDelete("is_gone")


def test_a_soft_delete_field_of_the_row_itself_comes_before_one_of_a_join() -> None:
    text = """
version: 1
table: t
soft_delete: {field: gone}
fields:
  - {belongs_to: b, table: b, fields: [{boolean: gone, column: other, required: true}]}
  - {boolean: gone, column: own, required: true}
"""
    assert parse(text).soft_delete == SoftDelete("own")


def test_a_soft_delete_field_of_another_table_is_a_warning() -> None:
    text = """
version: 1
table: t
soft_delete: {field: gone}
fields:
  - {belongs_to: b, table: b, fields: [{boolean: gone, column: other, required: true}]}
"""
    plan, warnings = parse_schema(text, "i", "f.yml")
    assert plan.soft_delete == SoftDelete("other")
    assert warnings[0].startswith("f.yml:4:15: soft_delete.field: ")


# -- warnings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("fields: [{count: n, table: c, foreign_key: a, column: x}]", "`column` has no effect on count"),
        ("fields: [{count: n, table: c, foreign_key: a, value_type: 3}]", "`value_type` has no effect on count"),
        (
            "fields: [{avg: n, table: c, foreign_key: a, column: x, value_type: long}]",
            "`value_type` has no effect on avg",
        ),
        ("fields: []\nfilters: [{column: a, op: is_null, value: 3}]", "`value` has no effect on is_null"),
        ("fields: []\nfilters: [{raw: 'a > now()', volatile: true}]", "is marked volatile"),
    ],
)
def test_what_flusso_ignores_loads_with_a_warning(text: str, warning: str) -> None:
    _, warnings = parse_schema(HEAD + text, "i")
    assert len(warnings) == 1
    assert warning in warnings[0]


# -- refusals ---------------------------------------------------------------------------------------------

#: (text after HEAD, line, column, beginning of "path: message"); line 3 is the first after HEAD.
BROKEN: List[Tuple[str, int, int, str]] = [
    ("", 1, 1, "fields: `fields` is missing"),
    ("fields:\n", 3, 1, "fields: `fields` is missing"),
    ("fields: {}\n", 3, 9, "fields: must be a list of fields, got a mapping"),
    ("fields: [x]\n", 3, 10, "fields[0]: must be a mapping such as"),
    ("fields: [{}]\n", 3, 10, "fields[0]: has no type key"),
    ("fields: [{field: x, required: true}]\n", 3, 10, "fields[0]: has no type key"),
    ("fields: [{keywrod: x, required: true}]\n", 3, 10, "fields[0]: has no type key; did you mean `keyword` instead"),
    ("fields: [{int: x, required: true}]\n", 3, 10, "fields[0]: has no type key; did you mean `integer` instead"),
    ("fields: [{text: x, keyword: y, required: true}]\n", 3, 10, "fields[0]: has 2 type keys (text, keyword)"),
    ("fields: [{text: x}]\n", 3, 11, 'fields[0].text: `required` is missing; the text field "x" needs it'),
    ("fields: [{text: x, required: yes}]\n", 3, 30, 'fields[0].required: must be true or false, got "yes"'),
    ("fields: [{text: true, required: true}]\n", 3, 17, "fields[0].text: must be a name, got true; put it in quotes"),
    ("fields: [{text: a-b, required: true}]\n", 3, 17, "fields[0].text: must be a field name (letters"),
    ("fields: [{text: " + "a" * 64 + ", required: true}]\n", 3, 17, "fields[0].text: must be at most 63 bytes"),
    ("fields: [{text: a, required: true, column: a b}]\n", 3, 44, "fields[0].column: must be a name"),
    ("fields: [{text: a, requierd: true}]\n", 3, 20, 'fields[0].requierd: the text field "a" has an unknown key'),
    (
        "fields: [{text: a, required: true, variants: [x]}]\n",
        3,
        36,
        "fields[0].variants: `variants` is not a key of the text",
    ),
    (
        "fields: [{text: a, required: true, transforms: upper}]\n",
        3,
        48,
        "fields[0].transforms: must be a list of texts",
    ),
    (
        "fields: [{text: a, required: true, transforms: [uppercase]}]\n",
        3,
        49,
        "fields[0].transforms[0]: must be lowercase or",
    ),
    (
        "fields: [{text: a, required: true, transforms: [trimm]}]\n",
        3,
        49,
        "fields[0].transforms[0]: must be lowercase or trim",
    ),
    (
        "fields: [{text: a, required: true, default: [1]}]\n",
        3,
        45,
        "fields[0].default: must be text, a number, true or false",
    ),
    ("fields: [{text: a, required: true, options: x}]\n", 3, 45, "fields[0].options: must be a mapping"),
    (
        "fields: [{text: a, required: true, options: {boost: .nan}}]\n",
        3,
        53,
        "fields[0].options.boost: must be a number that",
    ),
    (
        "fields: [{enum: a, required: true, variants: [x, ' ']}]\n",
        3,
        50,
        "fields[0].variants[1]: a variant must not be blank",
    ),
    ("fields: [{enum: a, required: true, variants: [x, x]}]\n", 3, 50, 'fields[0].variants[1]: the variant "x" stands'),
    (
        "fields: [{enum: a, required: true, variants: ['x=>y']}]\n",
        3,
        47,
        "fields[0].variants[0]: a variant must not hold",
    ),
    (
        'fields: [{enum: a, required: true, variants: ["x\\ny"]}]\n',
        3,
        47,
        "fields[0].variants[0]: a variant must not hold",
    ),
    (
        "fields: [{enum: a, required: true, variants: [1]}]\n",
        3,
        47,
        "fields[0].variants[0]: must be text, got 1; put it in",
    ),
    ("fields: [{custom: a, required: true}]\n", 3, 11, "fields[0].custom: `postgres` is missing"),
    ("fields: [{custom: a, required: true, postgres: [], opensearch: x}]\n", 3, 48, "fields[0].postgres: must name at"),
    (
        "fields: [{custom: a, required: true, postgres: [x], opensearch: 1}]\n",
        3,
        65,
        "fields[0].opensearch: must be text",
    ),
    (
        "fields: [{custom: a, required: true, postgres: [x], opensearch: y, transforms: [trim]}]\n",
        3,
        68,
        "fields[0].trans",
    ),
    ("fields: [{map: a, required: true}]\n", 3, 11, "fields[0].map: `values` is missing"),
    (
        "fields: [{map: a, required: true, values: json}]\n",
        3,
        43,
        "fields[0].values: must be text, identifier, keyword",
    ),
    (
        "fields: [{map: a, required: true, values: text, default: x}]\n",
        3,
        49,
        "fields[0].default: `default` is not a key of",
    ),
    (
        "fields: [{geo: a, required: true, lat: x}]\n",
        3,
        10,
        'fields[0]: the geo field "a" needs `lat` and `lon` together',
    ),
    (
        "fields: [{geo: a, required: true, lat: x, lon: y, column: z}]\n",
        3,
        10,
        'fields[0]: the geo field "a" takes `lat`',
    ),
    ("fields: [{object: a}]\n", 3, 11, "fields[0].object: `fields` is missing"),
    (
        "fields: [{object: a, fields: [], required: true}]\n",
        3,
        34,
        "fields[0].required: `required` is not a key of the obj",
    ),
    ("fields: [{constant: a}]\n", 3, 11, "fields[0].constant: `value` is missing"),
    ("fields: [{constant: a, value: [.inf]}]\n", 3, 32, "fields[0].value[0]: must be a number that JSON can carry"),
    ("fields: [{belongs_to: a, fields: []}]\n", 3, 11, "fields[0].belongs_to: `table` is missing"),
    ("fields: [{belongs_to: a, table: b}]\n", 3, 11, "fields[0].belongs_to: `fields` is missing"),
    (
        "fields: [{belongs_to: a, table: b, fields: [], order_by: []}]\n",
        3,
        48,
        "fields[0].order_by: `order_by` is not a key",
    ),
    ("fields: [{belongs_to: a, table: b, fields: [], limit: 1}]\n", 3, 48, "fields[0].limit: `limit` is not a key of"),
    (
        "fields: [{belongs_to: a, table: b, fields: [], foreign_key: x}]\n",
        3,
        48,
        "fields[0].foreign_key: `foreign_key` is",
    ),
    (
        "fields: [{belongs_to: a, table: b, fields: [], column: [x, y], primary_key: z}]\n",
        3,
        56,
        "fields[0].column: `column`",
    ),
    ("fields: [{has_one: a, table: b, fields: []}]\n", 3, 11, "fields[0].has_one: `foreign_key` is missing"),
    (
        "fields: [{has_one: a, table: b, fields: [], foreign_key: x, limit: 1}]\n",
        3,
        61,
        "fields[0].limit: `limit` is not",
    ),
    (
        "fields: [{has_many: a, table: b, fields: [], foreign_key: x, limit: 0}]\n",
        3,
        69,
        "fields[0].limit: must be a whole",
    ),
    (
        "fields: [{has_many: a, table: b, fields: [], foreign_key: x, limit: true}]\n",
        3,
        69,
        "fields[0].limit: must be a",
    ),
    (
        "fields: [{has_many: a, table: b, fields: [], foreign_key: x, required: false}]\n",
        3,
        62,
        "fields[0].required: `req",
    ),
    (
        "fields: [{has_many: a, table: b, fields: [], foreign_key: []}]\n",
        3,
        59,
        "fields[0].foreign_key: must name at least",
    ),
    (
        "fields: [{has_many: a, table: b, fields: [], foreign_key: [x, x]}]\n",
        3,
        63,
        'fields[0].foreign_key[1]: the column "x"',
    ),
    (
        "fields: [{has_many: a, table: b, fields: [], foreign_key: x, references: [y, z]}]\n",
        3,
        74,
        "fields[0].references: `",
    ),
    (
        "fields: [{has_many: a, table: b.c.d, fields: [], foreign_key: x}]\n",
        3,
        31,
        "fields[0].table: must be a table or",
    ),
    (
        "fields: [{has_many: a, table: [b], fields: [], foreign_key: x}]\n",
        3,
        31,
        "fields[0].table: must be a name, got a",
    ),
    (
        "fields: [{has_many: a, table: b, fields: [], foreign_key: x, order_by: [id]}]\n",
        3,
        73,
        "fields[0].order_by[0]: must",
    ),
    (
        "fields: [{has_many: a, table: b, fields: [], foreign_key: x, order_by: [{}]}]\n",
        3,
        73,
        "fields[0].order_by[0]: `col",
    ),
    (
        "fields: [{has_many: a, table: b, fields: [], foreign_key: x, order_by: [{column: c, direction: down}]}]\n",
        3,
        96,
        "fields[0].order_by[0].direction: must be asc or desc",
    ),
    ("fields: [{many_to_many: a, table: b, fields: []}]\n", 3, 11, "fields[0].many_to_many: `through` is missing"),
    (
        "fields: [{many_to_many: a, table: b, fields: [], through: j}]\n",
        3,
        59,
        "fields[0].through: must be a mapping with",
    ),
    (
        "fields: [{many_to_many: a, table: b, fields: [], through: {table: j}}]\n",
        3,
        50,
        "fields[0].through: `left_key` is",
    ),
    (
        "fields: [{many_to_many: a, table: b, fields: [], through: {table: j, left_key: l, right_key: r, lft: x}}]\n",
        3,
        97,
        'fields[0].through.lft: unknown key "lft"',
    ),
    (
        "fields: [{count: a, table: b}]\n",
        3,
        10,
        'fields[0]: the count field "a" needs exactly one of `foreign_key` and',
    ),
    (
        "fields: [{count: a, table: b, foreign_key: x, through: {table: j, left_key: l, right_key: r}}]\n",
        3,
        10,
        'fields[0]: the count field "a" needs exactly one of `foreign_key` and `through`',
    ),
    ("fields: [{sum: a, table: b, foreign_key: x, value_type: long}]\n", 3, 11, "fields[0].sum: `column` is missing"),
    ("fields: [{avg: a, table: b, foreign_key: x}]\n", 3, 11, "fields[0].avg: `column` is missing"),
    ("fields: [{max: a, table: b, foreign_key: x, column: c}]\n", 3, 11, "fields[0].max: `value_type` is missing"),
    (
        "fields: [{min: a, table: b, foreign_key: x, column: c, value_type: geo_point}]\n",
        3,
        68,
        "fields[0].value_type: must",
    ),
    (
        "fields: [{min: a, table: b, foreign_key: x, column: c, value_type: custom}]\n",
        3,
        68,
        "fields[0].value_type: must be",
    ),
    (
        "fields: [{sum: a, table: b, foreign_key: x, column: c, element_type: long}]\n",
        3,
        56,
        "fields[0].element_type: `element",
    ),
    ("fields: [{ids: a, table: b, foreign_key: x}]\n", 3, 11, "fields[0].ids: `element_type` is missing"),
    (
        "fields: [{ids: a, table: b, foreign_key: x, element_type: long, column: c}]\n",
        3,
        65,
        "fields[0].column: `column` is",
    ),
    (
        "fields: [{ids: a, table: b, foreign_key: x, element_type: long, value_type: long}]\n",
        3,
        65,
        "fields[0].value_type: `v",
    ),
    (
        "fields: [{ids: a, table: b, element_type: long, through: {table: j, left_key: l, right_key: [r, s]}}]\n",
        3,
        93,
        "fields[0].through.right_key: must be one column",
    ),
    (
        "fields:\n  - {text: a, required: true}\n  - {text: a, required: false}\n",
        5,
        5,
        'fields[1]: the field name "a" is taken by the one in line 4',
    ),
    (
        "fields:\n  - object: o\n    fields:\n      - {text: a}\n",
        6,
        10,
        "fields[0].fields[0].text: `required` is missing",
    ),
    ("fields: []\nfilters: {}\n", 4, 10, "filters: must be a list of filters"),
    ("fields: []\nfilters: [x]\n", 4, 11, "filters[0]: must be a mapping such as"),
    ("fields: []\nfilters: [{column: a}]\n", 4, 11, "filters[0]: `op` is missing"),
    ("fields: []\nfilters: [{op: eq, value: 1}]\n", 4, 11, "filters[0]: `column` is missing"),
    ("fields: []\nfilters: [{column: a, op: equals, value: 1}]\n", 4, 27, "filters[0].op: must be eq, neq"),
    ("fields: []\nfilters: [{column: a, op: eq}]\n", 4, 11, "filters[0].value: `eq` needs a `value`"),
    ("fields: []\nfilters: [{column: a, op: eq, value: null}]\n", 4, 31, "filters[0].value: `eq` needs a `value`"),
    ("fields: []\nfilters: [{column: a, op: eq, value: [1]}]\n", 4, 38, "filters[0].value: `eq` takes one text"),
    ("fields: []\nfilters: [{column: a, op: lt, value: {a: 1}}]\n", 4, 38, "filters[0].value: `lt` takes one text"),
    ("fields: []\nfilters: [{column: a, op: in, value: x}]\n", 4, 38, "filters[0].value: `in` takes a list"),
    (
        "fields: []\nfilters: [{column: a, op: in, value: []}]\n",
        4,
        38,
        "filters[0].value: `in` takes a list that is not",
    ),
    (
        "fields: []\nfilters: [{column: a, op: not_in, value: []}]\n",
        4,
        42,
        "filters[0].value: `not_in` takes a list that",
    ),
    (
        "fields: []\nfilters: [{column: a, op: in, value: [1, [2]]}]\n",
        4,
        42,
        "filters[0].value[1]: must be text, a number",
    ),
    ("fields: []\nfilters: [{column: a, op: in, value: [~]}]\n", 4, 39, "filters[0].value[0]: must be text, a number"),
    ("fields: []\nfilters: [{column: a, op: between, value: 3}]\n", 4, 43, "filters[0].value: `between` takes a list"),
    (
        "fields: []\nfilters: [{column: a, op: between, value: [1]}]\n",
        4,
        43,
        "filters[0].value: `between` takes a list of two",
    ),
    (
        'fields: []\nfilters: [{column: a, op: eq, value: "\\0"}]\n',
        4,
        38,
        "filters[0].value: must not hold a zero byte",
    ),
    ("fields: []\nfilters: [{raw: ''}]\n", 4, 17, "filters[0].raw: must be a condition in SQL"),
    ("fields: []\nfilters: [{raw: 5}]\n", 4, 17, "filters[0].raw: must be a condition in SQL"),
    ("fields: []\nfilters: [{raw: a, column: b}]\n", 4, 20, 'filters[0].column: unknown key "column"'),
    ("fields: []\nfilters: [{raw: a > now()}]\n", 4, 17, "filters[0].raw: now() changes without any row changing"),
    ("fields: []\nfilters: [{raw: a, volatile: 1}]\n", 4, 30, "filters[0].volatile: must be true or false"),
    ("fields: []\nfilters: [{raw: (a}]\n", 4, 17, "filters[0].raw: its parentheses do not match"),
    (
        "fields: []\nfilters: [{column: a, op: is_null, volatile: true}]\n",
        4,
        36,
        "filters[0].volatile: goes with `raw` only",
    ),
    ("fields: []\nsoft_delete: a\n", 4, 14, "soft_delete: must be a mapping"),
    ("fields: []\nsoft_delete: {}\n", 4, 14, "soft_delete: needs exactly one of"),
    ("fields: []\nsoft_delete: {column: a, field: b}\n", 4, 14, "soft_delete: needs exactly one of"),
    ("fields: []\nsoft_delete: {field: b}\n", 4, 22, 'soft_delete.field: no field with a column is named "b"'),
    (
        "fields: [{constant: b, value: 1}]\nsoft_delete: {field: b}\n",
        4,
        22,
        "soft_delete.field: no field with a column",
    ),
    ("fields: []\nsoft_delete: {column: a, when: x}\n", 4, 32, "soft_delete.when: must be a list of filters"),
    (
        "fields: []\nsoft_delete: {column: a, wenn: []}\n",
        4,
        26,
        'soft_delete.wenn: unknown key "wenn"; did you mean `when`',
    ),
    ("fields: []\ndoc_id: []\n", 4, 9, "doc_id: must name at least one column"),
    ("fields: []\nprimary_key: 5\n", 4, 14, "primary_key: must be a name, got 5"),
    ("fields: []\nprimarykey: id\n", 4, 1, 'primarykey: unknown key "primarykey"; did you mean `primary_key`?'),
    ("fields: []\nschema: a.b\n", 4, 9, "schema: must be a name"),
    ("fields: []\nfields: []\n", 4, 1, 'None: the key "fields" stands here a second time; the first is in line 3'),
    ("fields: [\n", 4, 1, "None: is not valid YAML"),
]


@pytest.mark.parametrize(("text", "line", "column", "sentence"), BROKEN)
def test_a_broken_file_gives_a_sentence_with_line_and_column(text: str, line: int, column: int, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_schema(HEAD + text, "i", "f.yml")
    found = [(p.file, p.line, p.column, f"{p.path}: {p.message}") for p in caught.value.problems]
    assert any(f[:3] == ("f.yml", line, column) and f[3].startswith(sentence) for f in found), found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a schema file must be a mapping"),
        ("[]", "a schema file must be a mapping"),
        ("table: t\nfields: []\n", "`version` is missing"),
        ("version: 2\ntable: t\nfields: []\n", "version: must be 1, got 2"),
        ("version: true\ntable: t\nfields: []\n", "version: must be 1, got true"),
        ("version: '1'\ntable: t\nfields: []\n", 'version: must be 1, got "1"'),
        ("version: 1\nfields: []\n", "`table` is missing"),
        ("version: 1\ntable: 1st\nfields: []\n", "table: must be a name"),
    ],
)
def test_a_broken_head_gives_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_schema(text, "i", "f.yml")
    assert sentence in str(caught.value)
    assert all(problem.line for problem in caught.value.problems)


def test_all_problems_come_at_once_in_file_order() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_schema("version: 3\ntable: 1\nfields:\n  - {txt: a}\n  - {text: b}\nfilters: [{column: x}]\n", "i")
    assert [problem.line for problem in caught.value.problems] == [1, 2, 4, 5, 6]


LINES = ARTICLES.read_text().splitlines()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_file_parses_or_says_where_it_is_damaged(data: st.DataObject) -> None:
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        word = data.draw(st.sampled_from(["[1]", "{a: b}", "-3", "yes", "null", "'", "*x", "{", "1.5", '"\\0"']))
        damage = data.draw(st.sampled_from(["drop", "twice", "indent", "value", "cut", "inside"]))
        if damage == "drop":
            del lines[at]
        elif damage == "twice":
            lines.insert(at, lines[at])
        elif damage == "indent":
            lines[at] = "  " + lines[at]
        elif damage == "cut":
            lines[at] = lines[at][: len(lines[at]) // 2]
        elif damage == "value":
            lines[at] = lines[at].rpartition(":")[0] + ": " + word
        else:
            pieces = lines[at].split(", ")
            place = data.draw(st.integers(0, len(pieces) - 1))
            pieces[place] = pieces[place].partition(":")[0] + ": " + word
            lines[at] = ", ".join(pieces)
    try:
        plan, _ = parse_schema("\n".join(lines), "i", "f.yml")
    except ConfigError as error:
        assert error.problems
        assert all(problem.file and problem.line and problem.column for problem in error.problems)
    else:
        assert plan.canonical


# -- canonical text ---------------------------------------------------------------------------------------


def test_comments_formatting_and_key_order_do_not_change_the_canonical_text() -> None:
    one = parse(HEAD + "fields:\n  - {text: a, required: true, options: {x: 1, y: 2}}\n")
    other = parse(
        "# hello\nfields: [{options: {y: 2, x: 1}, required: true, column: A, text: a}]\ntable: T\nversion: 1\n"
    )
    assert one.canonical == other.canonical


def test_the_name_of_the_index_is_not_part_of_the_canonical_text() -> None:
    assert parse_schema(HEAD + "fields: []", "a")[0].canonical == parse_schema(HEAD + "fields: []", "b")[0].canonical


@pytest.mark.parametrize(
    "other",
    [
        "fields: [{text: b, required: true}, {text: a, required: true}]",
        "fields: [{text: a, required: true}, {keyword: b, required: true}]",
        "fields: [{text: a, required: true}, {text: b, required: true, column: c}]",
        "fields: [{text: a, required: true}, {text: b, required: true, options: {x: 1}}]",
        "fields: [{text: a, required: true}, {text: b, required: true, default: ''}]",
        "fields: [{text: a, required: true}, {text: b, required: true}]\nschema: s",
        "fields: [{text: a, required: true}, {text: b, required: true}]\nprimary_key: id",
        "fields: [{text: a, required: true}, {text: b, required: true}]\nfilters: [{column: a, op: is_null}]",
        "fields: [{text: a, required: true}, {text: b, required: true}]\nsoft_delete: {column: x}",
    ],
)
def test_what_changes_a_document_changes_the_canonical_text(other: str) -> None:
    same = parse(HEAD + "fields: [{text: a, required: true}, {text: b, required: true}]")
    assert parse(HEAD + other).canonical != same.canonical


def test_constants_of_different_json_types_differ() -> None:
    texts = {
        parse(f"{HEAD}fields: [{{constant: a, value: {v}}}]").canonical
        for v in ("1", "1.0", "'1'", "true", "{a: 1, b: 2}", "{b: 2, a: 1}")
    }
    assert len(texts) == 6


def test_marking_a_filter_volatile_does_not_rebuild_the_index() -> None:
    plain, marked = (
        parse_schema(f"{HEAD}fields: []\nfilters: [{{raw: a > 1{m}}}]", "i")[0] for m in ("", ", volatile: true")
    )
    assert plain.canonical == marked.canonical
    assert plain.filters != marked.filters


# -- round trip -------------------------------------------------------------------------------------------

NAMES = st.text("abcdefgh_", min_size=1, max_size=6)
COLUMN = st.one_of(NAMES, st.sampled_from(["Mixed", "a b", 'q"q', "x.y", "ä", "select"]))
COLUMNS = st.lists(COLUMN, min_size=1, max_size=2, unique=True).map(tuple)
TABLES = st.builds(Table, COLUMN, COLUMN)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8)
OPTIONS = st.dictionaries(NAMES, st.integers() | TEXT | st.booleans(), max_size=2)
FILTERS: st.SearchStrategy[AnyFilter] = st.one_of(
    st.builds(Filter, COLUMN, st.sampled_from(FILTER_OPS[:8]), st.tuples(TEXT)),
    st.builds(Filter, COLUMN, st.sampled_from(["in", "not_in"]), st.lists(TEXT, min_size=1, max_size=3).map(tuple)),
    st.builds(Filter, COLUMN, st.just("between"), st.tuples(TEXT, TEXT)),
    st.builds(Filter, COLUMN, st.sampled_from(["is_null", "is_not_null"])),
    st.builds(RawFilter, st.sampled_from(["a > 1", "length(b) > 0", "c = 'now()'"]), st.booleans()),
)
FILTER_LISTS = st.lists(FILTERS, max_size=2).map(tuple)
ORDERS = st.lists(st.builds(Order, COLUMN, st.booleans()), max_size=2).map(tuple)


@st.composite
def links(draw: st.DrawFn, through: bool) -> Any:
    left = draw(COLUMNS)
    other = draw(st.just(()) | COLUMNS.filter(lambda columns: len(columns) == len(left)))
    if not through:
        return ChildLink(left, other)
    return ThroughLink(draw(TABLES), left, (draw(COLUMN),), other, draw(st.just(()) | st.tuples(COLUMN)))


@st.composite
def field_lists(draw: st.DrawFn, depth: int) -> Tuple[AnyField, ...]:
    found: List[AnyField] = []
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        kinds = ["scalar", "enum", "custom", "map", "geo", "geo2", "constant", "aggregate"]
        shape = draw(st.sampled_from(kinds + (["object", "join"] if depth else [])))
        required, options, column = draw(st.booleans()), draw(OPTIONS), draw(COLUMN)
        plain: Dict[str, Any] = {"required": required, "options": options}
        if shape == "scalar":
            transforms = tuple(draw(st.lists(st.sampled_from(["trim", "lowercase"]), max_size=2)))
            kind = draw(st.sampled_from(SCALAR_KINDS))
            default = draw(st.none() | TEXT)
            found.append(ScalarField(name, kind, column, transforms=transforms, default=default, **plain))
        elif shape == "enum":
            found.append(ScalarField(name, "enum", column, variants=("low", "high"), **plain))
        elif shape == "custom":
            found.append(ScalarField(name, "custom", column, postgres=("inet",), opensearch="ip", **plain))
        elif shape == "map":
            found.append(ScalarField(name, "map", column, values=draw(st.sampled_from(MAP_VALUES)), **plain))
        elif shape == "geo":
            found.append(GeoField(name, column=column, **plain))
        elif shape == "geo2":
            found.append(GeoField(name, lat=column, lon=draw(COLUMN), **plain))
        elif shape == "constant":
            found.append(ConstantField(name, draw(st.none() | TEXT | st.integers() | st.lists(TEXT | st.booleans()))))
        elif shape == "object":
            found.append(ObjectField(name, draw(field_lists(depth - 1)), options))
        elif shape == "aggregate":
            op = draw(st.sampled_from(["count", "sum", "avg", "min", "max", "ids"]))
            typed = op in ("sum", "min", "max", "ids")
            found.append(
                AggregateField(
                    name,
                    op,
                    draw(TABLES),
                    draw(links(draw(st.booleans()))),
                    column=column if op not in ("count", "ids") else None,
                    value_type=draw(st.sampled_from(SCALAR_KINDS)) if typed else None,
                    filters=draw(FILTER_LISTS),
                    options=options,
                )
            )
        else:
            found.append(draw(joins(name, depth)))
    return tuple(found)


@st.composite
def joins(draw: st.DrawFn, name: str, depth: int) -> JoinField:
    verb = draw(st.sampled_from(["belongs_to", "has_one", "has_many", "many_to_many"]))
    key = draw(st.just(()) | COLUMNS)
    if verb == "belongs_to":
        link: Any = TargetLink(draw(COLUMNS.filter(lambda columns: not key or len(columns) == len(key))), key)
    else:
        link = draw(links(verb == "many_to_many"))
    many = verb in ("has_many", "many_to_many")
    return JoinField(
        name,
        verb,
        draw(TABLES),
        link,
        draw(field_lists(depth - 1)),
        filters=draw(FILTER_LISTS),
        order_by=draw(ORDERS) if verb != "belongs_to" else (),
        limit=draw(st.none() | st.integers(1, 100)) if many else None,
        required=False if many else draw(st.booleans()),
        declared_key=key,
        options=draw(OPTIONS),
    )


@st.composite
def plans(draw: st.DrawFn) -> IndexPlan:
    return IndexPlan(
        "i",
        draw(TABLES),
        draw(field_lists(2)),
        primary_key=draw(st.just(()) | COLUMNS),
        doc_id=draw(st.just(()) | COLUMNS),
        filters=draw(FILTER_LISTS),
        soft_delete=draw(st.none() | st.builds(SoftDelete, COLUMN, FILTER_LISTS)),
    )


def written(plan: IndexPlan) -> Dict[str, Any]:
    """The plan as a file would say it."""

    def table(value: Table) -> str:
        return f"{spell(value.schema)}.{spell(value.name)}"

    def key(columns: Tuple[str, ...]) -> Any:
        return spell(columns[0]) if len(columns) == 1 else [spell(column) for column in columns] or None

    def condition(value: AnyFilter) -> Dict[str, Any]:
        if isinstance(value, RawFilter):
            return {"raw": value.sql, **({"volatile": True} if value.volatile else {})}
        entry: Dict[str, Any] = {"column": spell(value.column), "op": value.op}
        if value.op in ("in", "not_in", "between"):
            entry["value"] = list(value.values)
        elif value.values:
            entry["value"] = value.values[0]
        return entry

    def link(value: Any) -> Dict[str, Any]:
        if isinstance(value, ChildLink):
            return {"foreign_key": key(value.foreign_key), "references": key(value.references)}
        if isinstance(value, TargetLink):
            return {"column": key(value.column)}
        return {
            "through": {
                "table": table(value.junction),
                "left_key": key(value.left_key),
                "right_key": key(value.right_key),
                "left_references": key(value.left_references),
                "right_references": key(value.right_references),
            }
        }

    def entry(field: Any) -> Dict[str, Any]:
        if isinstance(field, ConstantField):
            return {"constant": field.name, "value": field.value}
        found: Dict[str, Any] = {"options": dict(field.options) or None}
        if isinstance(field, ObjectField):
            return {**found, "object": field.name, "fields": [entry(inner) for inner in field.fields]}
        if isinstance(field, GeoField):
            for side in ("lat", "lon", "column"):
                name = getattr(field, side)
                found[side] = spell(name) if name else None
            return {**found, "geo": field.name, "required": field.required}
        if isinstance(field, ScalarField):
            found.update(required=field.required, column=spell(field.column), default=field.default)
            found.update(transforms=list(field.transforms), variants=list(field.variants))
            found.update(values=field.values, postgres=list(field.postgres), opensearch=field.opensearch)
            return {field.kind: field.name, **found}
        found.update(table=table(field.table), filters=[condition(f) for f in field.filters], **link(field.link))
        if isinstance(field, AggregateField):
            found["element_type" if field.op == "ids" else "value_type"] = field.value_type
            found["column"] = spell(field.column) if field.column else None
            return {field.op: field.name, **found}
        found["fields"] = [entry(inner) for inner in field.fields]
        found["primary_key"] = key(field.declared_key)
        found["order_by"] = [
            {"column": spell(o.column), "direction": "desc" if o.descending else "asc"} for o in field.order_by
        ]
        found["limit"] = field.limit
        found["required"] = field.required or None
        return {field.verb: field.name, **found}

    def lean(value: Any, within_constant: bool = False) -> Any:
        """Without keys that say nothing; what a constant or an option says is kept."""
        if isinstance(value, dict):
            return {
                k: v if k in ("value", "options", "fields") and not isinstance(v, list) else lean(v)
                for k, v in value.items()
                if v not in (None, []) or k in ("value", "fields")
            }
        return [lean(item) for item in value] if isinstance(value, list) else value

    return {
        "version": 1,
        "table": table(plan.root),
        "fields": [
            lean(entry(field)) if not isinstance(field, ConstantField) else entry(field) for field in plan.fields
        ],
        **({"primary_key": key(plan.primary_key)} if plan.primary_key else {}),
        **({"doc_id": key(plan.doc_id)} if plan.doc_id else {}),
        "filters": [condition(f) for f in plan.filters],
        **(
            {
                "soft_delete": {
                    "column": spell(plan.soft_delete.column),
                    "when": [condition(f) for f in plan.soft_delete.when],
                }
            }
            if plan.soft_delete
            else {}
        ),
    }


@settings(max_examples=150, deadline=None)
@given(plans())
def test_a_plan_written_as_a_file_is_read_back(plan: IndexPlan) -> None:
    mapping = written(plan)
    read, _ = parse_schema(json.dumps(mapping, ensure_ascii=False), "i")
    assert replace(read, canonical="") == plan
    in_code, _ = parse_mapping(mapping, "i")
    assert in_code == read


def test_every_type_key_is_in_the_example(articles: IndexPlan) -> None:
    text = ARTICLES.read_text()
    shown = {kind for kind in FIELD_KEYS if f"{{{kind}: " in text or f"- {kind}: " in text}
    # One kind stands for those that differ in their type only.
    assert set(FIELD_KEYS) - shown == {"boolean", "short", "long", "float", "double", "date", "binary", "min"}

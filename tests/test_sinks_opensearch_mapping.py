"""The mapping from the plan, and the rule behind it on a real node: what a kind accepts from Postgres is accepted."""

from __future__ import annotations

import base64
import json
import urllib.request
from dataclasses import replace
from typing import Any, Dict, List, Tuple

import pytest

from flusso_sync.schema.plan import (
    AggregateField,
    AnyField,
    ChildLink,
    ConstantField,
    GeoField,
    IndexPlan,
    JoinField,
    ObjectField,
    ScalarField,
    Table,
    TargetLink,
)
from flusso_sync.schema.types import MAP_VALUES, SCALAR_KINDS
from flusso_sync.sinks.opensearch.hash import index_hash
from flusso_sync.sinks.opensearch.mapping import LONGEST_KEYWORD, index_body
from flusso_sync.sinks.opensearch.names import Generation, Names
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings
from tests.fix_opensearch import Prefix

SETTINGS = OpenSearchSettings(url="http://nowhere")
T = Table("public", "t")


def plan(*fields: AnyField) -> IndexPlan:
    return IndexPlan("users", T, fields, canonical="1")


def body(*fields: AnyField, **settings: Any) -> Dict[str, Any]:
    return index_body(plan(*fields), replace(SETTINGS, **settings), {"flusso_sync": {"index": "users"}})


def properties(*fields: AnyField, **settings: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = body(*fields, **settings)["mappings"]["properties"]
    return found


def scalar(kind: str, **more: Any) -> ScalarField:
    return ScalarField("f", kind, "f", **more)


EXACT = {"type": "keyword", "ignore_above": 256}
FOLDED = {"type": "keyword", "normalizer": "flusso_lowercase", "ignore_above": 256}


def test_text_kinds_carry_their_automatic_subfields() -> None:
    assert properties(scalar("text"))["f"] == {
        "type": "text",
        "analyzer": "flusso_text",
        "fields": {"keyword": EXACT, "keyword_lowercase": FOLDED},
    }
    assert properties(scalar("identifier"))["f"]["analyzer"] == "flusso_code"
    for kind in ("keyword", "uuid", "enum"):
        assert properties(scalar(kind))["f"] == {
            "type": "keyword",
            "ignore_above": LONGEST_KEYWORD,
            "fields": {"text": {"type": "text", "analyzer": "flusso_code"}, "keyword_lowercase": FOLDED},
        }


def test_without_auto_subfields_only_what_was_asked_for_is_left() -> None:
    assert properties(scalar("text"), auto_subfields=False)["f"] == {"type": "text"}
    assert properties(scalar("identifier"), auto_subfields=False)["f"] == {"type": "text", "analyzer": "flusso_code"}
    found = properties(scalar("enum", variants=("a", "b")), auto_subfields=False)["f"]
    assert list(found["fields"]) == ["sort"]


def test_options_win_over_everything_derived() -> None:
    found = properties(scalar("text", options={"analyzer": "english", "fields": {}, "boost": 2}))["f"]
    assert found == {"type": "text", "analyzer": "english", "fields": {}, "boost": 2}
    assert properties(scalar("long", options={"type": "unsigned_long"}))["f"] == {"type": "unsigned_long"}
    assert properties(scalar("enum", variants=("a",), options={"fields": {}}))["f"]["fields"] == {}


def test_a_json_field_is_stored_unread_unless_options_shape_it() -> None:
    assert properties(scalar("json"))["f"] == {"type": "object", "enabled": False}
    assert properties(scalar("json", options={"dynamic": True}))["f"] == {"type": "object", "dynamic": True}
    assert properties(scalar("json", options={"type": "flat_object"}))["f"] == {"type": "flat_object"}


def test_nesting_follows_the_plan() -> None:
    link = ChildLink(("t_id",))
    found = properties(
        ObjectField("o", (scalar("long"),)),
        JoinField("one", "has_one", T, link, (scalar("long"),)),
        JoinField("up", "belongs_to", T, TargetLink(("u",)), ()),
        JoinField("many", "has_many", T, link, (scalar("long"), ObjectField("deep", (scalar("date"),)))),
        AggregateField("n", "count", T, link),
        AggregateField("a", "avg", T, link, column="c"),
        AggregateField("s", "sum", T, link, column="c", value_type="decimal"),
        AggregateField("ids", "ids", T, link, value_type="long"),
    )
    assert found["o"] == found["one"] == {"type": "object", "properties": {"f": {"type": "long"}}}
    assert found["up"] == {"type": "object"}
    assert found["many"]["type"] == "nested"
    assert found["many"]["properties"]["deep"]["properties"]["f"]["type"] == "date"
    assert [found[name]["type"] for name in ("n", "a", "s", "ids")] == ["long", "double", "double", "long"]


@pytest.mark.parametrize(
    "value, type",
    [
        (True, "boolean"),
        (7, "long"),
        (2**63, "double"),
        (1.5, "double"),
        ("x", "keyword"),
        (None, "keyword"),
        ([], "keyword"),
        ([1, 2.5], "double"),
        ([[1], [2]], "long"),
        ([1, "x"], "keyword"),
        ({"a": 1}, "object"),
    ],
)
def test_constants_are_typed_by_their_json_type(value: Any, type: str) -> None:
    assert properties(ConstantField("f", value))["f"]["type"] == type


def test_analysis_names_are_unique_per_path() -> None:
    dotted = ObjectField("a", (ScalarField("b", "enum", "b", variants=("x", "y")),))
    found = body(dotted, ScalarField("a_b", "enum", "a_b", variants=("y", "x")))
    mapped = found["mappings"]["properties"]
    names = [
        mapped["a"]["properties"]["b"]["fields"]["sort"]["normalizer"],
        mapped["a_b"]["fields"]["sort"]["normalizer"],
    ]
    assert len(set(names)) == 2 and set(names) <= set(found["settings"]["analysis"]["normalizer"])


def test_an_index_that_needs_more_fields_than_opensearch_allows_gets_them() -> None:
    assert "mapping" not in body(scalar("long"))["settings"]["index"]
    many = [ScalarField(f"f{n}", "text", "f") for n in range(400)]
    assert body(*many)["settings"]["index"]["mapping"]["total_fields"]["limit"] >= 1200


def test_names_are_taken_apart_as_they_were_put_together() -> None:
    names = Names("dev_")
    generation = Generation("users_archive", "0123456789abcdef", 12)
    assert names.parse("users_archive", names.concrete(generation)) == generation
    assert names.parse_writes("users_archive", names.writes(generation)) == generation
    for other in ("dev_users_archive_0123456789abcdef_012", "dev_users_archive_0123456789abcdef", "dev_users_x_1"):
        assert names.parse("users_archive", other) is None
    assert names.parse("users", names.concrete(generation)) is None


def test_the_hash_follows_the_schema_and_the_shaping_options_alone() -> None:
    base = index_hash(plan(), SETTINGS)
    assert len(base) == 16 and base == index_hash(plan(), SETTINGS)
    for changed in ({"text_analysis": "icu"}, {"auto_subfields": False}, {"number_of_shards": 2}):
        assert index_hash(plan(), replace(SETTINGS, **changed)) != base
    assert index_hash(replace(plan(), canonical="2"), SETTINGS) != base
    for same in ({"refresh_interval": "1s"}, {"number_of_replicas": 0}, {"batch_size": 5}, {"prefix": "p_"}):
        assert index_hash(plan(), replace(SETTINGS, **same)) == base


# -- on a real node ------------------------------------------------------------------------------------------------


class Index:
    """A real index with the mapping under test."""

    def __init__(self, node: Prefix, *fields: AnyField, **settings: Any) -> None:
        self._node = node
        node.call("PUT", "/{p}x", body(*fields, **settings))

    def accepts(self, *documents: Any) -> List[Tuple[Any, str]]:
        """The documents that are refused, with the reason."""
        refused = []
        for document in documents:
            lines = json.dumps({"index": {}}) + "\n" + json.dumps(document) + "\n"
            answer = self._bulk(lines.encode())
            if "error" in answer:
                refused.append((document, json.dumps(answer["error"])))
        return refused

    def _bulk(self, data: bytes) -> Dict[str, Any]:
        url = f"{self._node.url}/{self._node.prefix}x/_bulk"
        request = urllib.request.Request(url, data, {"content-type": "application/x-ndjson"}, method="POST")
        with urllib.request.urlopen(request, timeout=30) as response:
            item: Dict[str, Any] = json.loads(response.read())["items"][0]["index"]
        return item

    def analyze(self, normalizer: str, text: str) -> str:
        found = self._node.call("POST", "/{p}x/_analyze", {"normalizer": normalizer, "text": text})
        return str(found["tokens"][0]["token"])


TIMES = [
    "2024-01-02T03:04:05",
    "2024-01-02T03:04:05.1",
    "2024-01-02T03:04:05.123456+00:00",
    "-0043-03-15T00:00:00",
    "-4712-01-01T00:00:00+00:00",
    "+10000-01-01T00:00:00",
    "+294276-12-31T23:59:59.999999+00:00",
    "0001-01-01T00:00:00",
    "00:00:00",
    "23:59:59",
    "03:04:05.1",
    "03:04:05.123456",
]
DATES = ["2024-01-02", "0001-01-01", "-0043-03-15", "-4712-01-01", "+10000-01-01", "+5874897-12-31"]
STRINGS = ["", "x", "a b", "\u0000", "ä\U0001f600", "x" * 300, "word " * 20_000, "x" * 40_000, "€" * 20_000]

#: Kind -> what Postgres can hand us for it (design section 5 says how it is rendered).
VALUES: Dict[str, List[Any]] = {
    "text": STRINGS,
    "identifier": STRINGS,
    "keyword": [*STRINGS, "\U0001f600" * 20_000],
    "enum": STRINGS,
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "boolean": [True, False],
    "short": [-(2**15), 2**15 - 1],
    "integer": [-(2**31), 2**31 - 1],
    "long": [-(2**63), 2**63 - 1],
    "float": [3.4028235e38, -1e-45, 0.1],
    "double": [1.7976931348623157e308, 5e-324, -0.1],
    "decimal": [0, 2, 123456789012345678901234567890, 0.1234567890123456789, -12.34],
    "date": DATES,
    "timestamp": TIMES,
    "binary": ["", base64.b64encode(b"\x00\xff" * 50_000).decode()],
    "json": [{}, [], 1, 1.5, "x", True, {"": 1}, {"a.b": 1}, {"a..b": {".": 1}}, [1, "x", {"y": []}], [[1], [[]]]],
}


def test_every_scalar_kind_has_its_values_here() -> None:
    assert set(VALUES) == set(SCALAR_KINDS)


@pytest.mark.parametrize("auto", [True, False])
@pytest.mark.parametrize("kind", SCALAR_KINDS)
def test_whatever_a_kind_accepts_from_postgres_its_mapping_accepts(
    opensearch_prefix: Prefix, kind: str, auto: bool
) -> None:
    variants = ("x", "a b", "0") if kind == "enum" else ()
    index = Index(opensearch_prefix, scalar(kind, variants=variants), auto_subfields=auto)
    values = VALUES[kind]
    # Single values, null, and arrays of the type with nulls among them.
    assert index.accepts(*({"f": value} for value in [*values, None, [], [None], [*values, None]])) == []


@pytest.mark.parametrize("kind", MAP_VALUES)
def test_every_value_of_a_map_has_the_declared_type_whatever_came_first(opensearch_prefix: Prefix, kind: str) -> None:
    index = Index(opensearch_prefix, ObjectField("o", (ScalarField("m", "map", "m", values=kind),)))
    # Dates first: guessing would make the key a date, and refuse what is none.
    first = ["2024-01-01"] if kind in ("text", "identifier", "keyword", "enum", "uuid") else []
    documents = [{"o": {"m": {"en": value, "x": value}}} for value in [*first, *VALUES[kind]]]
    assert index.accepts(*documents, {"o": {"m": None}}, {"o": {"m": {}}}) == []


def test_geo_points_in_every_written_form(opensearch_prefix: Prefix) -> None:
    index = Index(opensearch_prefix, GeoField("f", column="f"))
    pair = {"lat": 45.123456789012345, "lon": -180}
    assert index.accepts({"f": pair}, {"f": "45.1,7"}, {"f": [7.5, 45]}, {"f": None}, {"f": [pair, pair]}) == []
    assert index.accepts({"f": {"type": "Point", "coordinates": [7.5, 45]}}) == []
    assert len(index.accepts({"f": {"lat": 95, "lon": 0}})) == 1


@pytest.mark.parametrize(
    "value",
    [
        True,
        7,
        2**63,
        1.5,
        "2024-01-01",
        None,
        "x" * 40_000,
        [],
        [1, 2.5],
        [1, "x", True],
        [None, 1],
        {},
        {"a": {"b": [1, {"c": 2}]}},
        [{"a": 1}, {"a": 2.5, "b": "x"}],
        [{"a": 1}, "x"],
        {"": 1, "a.b": 2},
        {"a": [{}, 1]},
    ],
    ids=lambda value: repr(value)[:30],
)
def test_any_constant_is_accepted_by_its_own_mapping(opensearch_prefix: Prefix, value: Any) -> None:
    index = Index(opensearch_prefix, ConstantField("f", value))
    assert index.accepts({"f": value}) == []


def test_what_the_mapping_cannot_hold_is_a_rejected_document(opensearch_prefix: Prefix) -> None:
    """The list of the manual: each of these is refused, and nothing else that Postgres has."""
    index = Index(
        opensearch_prefix,
        ScalarField("time", "timestamp", "c"),
        ScalarField("sum", "long", "c"),
        ScalarField("decimal", "decimal", "c"),
        ScalarField("map", "map", "c", values="long"),
        GeoField("geo", column="c"),
    )
    documents: List[Dict[str, Any]] = [
        {"time": "24:00:00"},
        {"sum": 2**63},
        {"decimal": 10**400},
        {"map": {"": 1}},
        {"map": "not an object"},
        {"geo": {"lat": 95, "lon": 0}},
        {"geo": "nowhere"},
    ]
    assert [document for document, _ in index.accepts(*documents)] == documents
    # A value below a key is the same as a value under a key with a dot.
    assert index.accepts({"map": {"a": {"b": 1}, "c.d": 2}}) == []


def test_a_keyword_too_long_for_lucene_is_stored_and_not_searchable(opensearch_prefix: Prefix) -> None:
    index = Index(opensearch_prefix, scalar("keyword"))
    assert index.accepts({"f": "€" * LONGEST_KEYWORD}, {"f": "€" * (LONGEST_KEYWORD + 1)}) == []
    opensearch_prefix.call("POST", "/{p}x/_refresh")

    def found(length: int) -> int:
        query = {"query": {"term": {"f": "€" * length}}}
        return int(opensearch_prefix.call("POST", "/{p}x/_search", query)["hits"]["total"]["value"])

    assert (found(LONGEST_KEYWORD), found(LONGEST_KEYWORD + 1)) == (1, 0)


def test_variants_sort_by_rank_and_only_as_a_whole(opensearch_prefix: Prefix) -> None:
    variants = ("low", "2", "1", "0", "a.b*", "ä ö", "\\Q(x)\\E", "$0", *(f"v{n}" for n in range(4)))
    index = Index(opensearch_prefix, scalar("enum", variants=variants))
    name = "flusso_enumsort__f"
    ranks = {variant: index.analyze(name, variant) for variant in variants}
    assert ranks == {variant: f"{rank:02d}" for rank, variant in enumerate(variants)}
    for other in ("below", "low\n", " low", "axb*", "v", "Low", "00"):
        assert index.analyze(name, other) == other


def test_codes_are_found_by_their_parts_and_texts_without_accents(opensearch_prefix: Prefix) -> None:
    index = Index(opensearch_prefix, ScalarField("code", "identifier", "c"), ScalarField("text", "text", "c"))
    assert index.accepts({"code": "AB-1234/x", "text": "Crème Brûlée"}) == []
    opensearch_prefix.call("POST", "/{p}x/_refresh")
    for field, words in [("code", "1234"), ("code", "ab1234x"), ("code", "AB-1234/x"), ("text", "creme brulee")]:
        query = {"query": {"match": {field: {"query": words, "operator": "and"}}}}
        assert opensearch_prefix.call("POST", "/{p}x/_search", query)["hits"]["total"]["value"] == 1, words
    exact = {"query": {"term": {"text.keyword_lowercase": "creme brulee"}}}
    assert opensearch_prefix.call("POST", "/{p}x/_search", exact)["hits"]["total"]["value"] == 1

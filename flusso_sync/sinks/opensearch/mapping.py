"""The body of a new index: settings, analysis and mapping, from the plan; pure.

The rule (design section 5): whatever a kind accepts from Postgres, its mapping accepts in OpenSearch.  What cannot
be held (a long beyond 64 bits, ``24:00:00``, a latitude of 95, a map's key that is empty or a path) makes a rejected
document.  A keyword longer than Lucene's longest term stays in the document and is not searchable.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set

from flusso_sync.schema.plan import (
    AggregateField,
    AnyField,
    ConstantField,
    GeoField,
    IndexPlan,
    JoinField,
    ObjectField,
    ScalarField,
)
from flusso_sync.schema.types import opensearch_type
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings

Json = Dict[str, Any]

#: Lucene's longest term is 32,766 bytes; ``ignore_above`` counts UTF-16 units, each at most 3 bytes of UTF-8.
LONGEST_KEYWORD = 32_766 // 3

#: Signed and far years included; without ``epoch_millis``, which would take any number for a date.
DATE_FORMAT = "strict_date_optional_time"
TIMESTAMP_FORMAT = "strict_date_optional_time||HH:mm:ss||strict_hour_minute_second_fraction"

#: OpenSearch's own limits; an index that needs more gets more.
TOTAL_FIELDS = 1000
NESTED_FIELDS = 50
DEPTH = 20

#: Arrays inside each other in a json field that is stored unread: OpenSearch walks through them by recursion.
JSON_DEPTH = 1000

#: Room for the keys of maps and dynamic objects.
DYNAMIC_FIELDS = 5000

#: Marks a value as one of the variants while its rank is looked up (a character of the private use area).
_MARK = "\ue000"

#: Options of a json field that say it shall be searchable.
_JSON_SHAPING = frozenset({"enabled", "dynamic", "properties", "type"})

_FORMATS = {"date": DATE_FORMAT, "timestamp": TIMESTAMP_FORMAT}


def index_body(plan: IndexPlan, settings: OpenSearchSettings, meta: Mapping[str, Any]) -> Json:
    """The body of ``PUT /{index}`` for a generation about to be built: no refresh, no replicas."""
    build = _Mapping(settings)
    properties = build.properties(plan.fields, ())
    mappings: Json = {"dynamic": "strict", "date_detection": False, "_meta": dict(meta), "properties": properties}
    if build.templates:
        mappings["dynamic_templates"] = build.templates
    index: Json = {
        "refresh_interval": "-1",
        "number_of_shards": max(1, settings.number_of_shards),
        "number_of_replicas": 0,
        # Tombstones must outlive every request of ours (design section 4, write protocol c).
        "gc_deletes": "10m",
        "translog": {"durability": "request"},
    }
    # A deep object must not become a deep mapping: where documents add properties, OpenSearch's own limit stays.
    limits = _limits(properties, build.open_ended, build.unread and not build.open_ended)
    if limits:
        index["mapping"] = limits
    return {"settings": {"index": index, "analysis": build.analysis()}, "mappings": mappings}


class _Mapping:
    """One walk over the fields; collects the analysis and the templates they need."""

    def __init__(self, settings: OpenSearchSettings) -> None:
        self._icu = settings.text_analysis == "icu"
        self._auto = settings.auto_subfields
        self._names: Set[str] = set()
        self._char_filters: Json = {}
        self._normalizers: Json = {}
        self.templates: List[Json] = []
        self.open_ended = False
        self.unread = False

    def properties(self, fields: Sequence[AnyField], path: Sequence[str]) -> Json:
        return {f.name: self._field(f, (*path, f.name)) for f in fields}

    def _field(self, field: AnyField, path: Sequence[str]) -> Json:
        if isinstance(field, ConstantField):
            return self._constant([field.value])
        if isinstance(field, GeoField):
            return self._with_options({"type": "geo_point"}, field.options)
        if isinstance(field, ObjectField):
            return self._with_options(self._object("object", field.fields, path), field.options)
        if isinstance(field, JoinField):
            many = field.verb in ("has_many", "many_to_many")
            return self._with_options(self._object("nested" if many else "object", field.fields, path), field.options)
        if isinstance(field, AggregateField):
            kind = {"count": "long", "avg": "double"}.get(field.op) or field.value_type or "keyword"
            if field.op == "sum" and kind in ("short", "integer"):
                # Postgres' sum of whole numbers is wider than what it adds up.
                kind = "long"
            return self._scalar(kind, field.options, path)
        return self._scalar(field.kind, field.options, path, field)

    def _object(self, type: str, fields: Sequence[AnyField], path: Sequence[str]) -> Json:
        properties = self.properties(fields, path)
        return {"type": type, "properties": properties} if properties else {"type": type}

    def _scalar(
        self, kind: str, options: Mapping[str, Any], path: Sequence[str], field: Optional[ScalarField] = None
    ) -> Json:
        if kind == "custom" and field is not None:
            prop: Json = {"type": opensearch_type(kind, field.opensearch or "keyword")}
        else:
            prop = {"type": opensearch_type(kind)}
        if kind in _FORMATS:
            prop["format"] = _FORMATS[kind]
        elif kind == "json":
            if _JSON_SHAPING.isdisjoint(options):
                prop["enabled"] = False
                self.unread = True
            else:
                self.open_ended = True
        elif kind == "map":
            prop["dynamic"] = True
            if field is not None and field.values:
                # Whatever the first value looks like, every value gets the declared type; but what a dot in a key
                # makes is an object.
                mapping = self._scalar(field.values, {}, path)
                for looks_like in ("string", "long", "double", "boolean"):
                    template = {
                        "path_match": ".".join(path) + ".*",
                        "match_mapping_type": looks_like,
                        "mapping": mapping,
                    }
                    self.templates.append({self._unique("flusso_map", path): template})
        self._analyse(prop, kind)
        if field is not None and field.variants:
            prop.setdefault("fields", {})["sort"] = {
                "type": "keyword",
                "normalizer": self._ranks(field.variants, path),
                "ignore_above": 256,
            }
        return self._with_options(prop, options)

    def _analyse(self, prop: Json, kind: str) -> None:
        """Analyzer and automatic subfields of a property that is text or keyword."""
        exact = {"type": "keyword", "ignore_above": 256}
        folded = {"type": "keyword", "normalizer": "flusso_lowercase", "ignore_above": 256}
        if prop["type"] == "text":
            if kind == "identifier":
                prop["analyzer"] = "flusso_code"
            elif self._auto:
                prop["analyzer"] = "flusso_text"
            if self._auto:
                prop["fields"] = {"keyword": exact, "keyword_lowercase": folded}
        elif prop["type"] == "keyword":
            prop["ignore_above"] = LONGEST_KEYWORD
            if self._auto:
                prop["fields"] = {"text": {"type": "text", "analyzer": "flusso_code"}, "keyword_lowercase": folded}

    def _with_options(self, prop: Json, options: Mapping[str, Any]) -> Json:
        prop.update(options)
        if prop.get("dynamic") in (True, "true"):
            self.open_ended = True
        return prop

    def _constant(self, values: Sequence[Any]) -> Json:
        """The property that takes every one of ``values`` (a list counts by its elements)."""
        flat = [v for v in _flatten(values) if v is not None]
        if flat and all(isinstance(v, dict) for v in flat):
            keys = list(dict.fromkeys(key for v in flat for key in v))
            if any(not key.strip() or "." in key for key in keys):
                return {"type": "object", "enabled": False}
            if not keys:
                return {"type": "object"}
            held = {key: self._constant([v[key] for v in flat if key in v]) for key in keys}
            return {"type": "object", "properties": held}
        if any(isinstance(v, dict) for v in flat):
            return {"type": "object", "enabled": False}
        prop: Json = {"type": _constant_type(flat)}
        self._analyse(prop, prop["type"])
        return prop

    def _unique(self, start: str, path: Sequence[str]) -> str:
        """A name for ``path`` that no other path of this index has (``a.b`` and ``a_b`` look alike)."""
        base = name = f"{start}__" + re.sub(r"[^A-Za-z0-9]", "_", ".".join(path))
        count = 1
        while name in self._names:
            count += 1
            name = f"{base}__{count}"
        self._names.add(name)
        return name

    def _ranks(self, variants: Sequence[str], path: Sequence[str]) -> str:
        """A normalizer that turns each variant into its rank and leaves every other value as it is.

        The first filter marks a value that is a variant, the others replace a marked one: without the mark, the
        rank ``0`` of one variant would be taken for a variant called ``0``.
        """
        name = self._unique("flusso_enumsort", path)
        width = len(str(len(variants) - 1))
        any_variant = "|".join(_literal(v) for v in variants)
        filters = [{"type": "pattern_replace", "pattern": rf"\A(?:{any_variant})\z", "replacement": _MARK + "$0"}]
        for rank, variant in enumerate(variants):
            pattern = rf"\A{_MARK}{_literal(variant)}\z"
            filters.append({"type": "pattern_replace", "pattern": pattern, "replacement": f"{rank:0{width}d}"})
        names = [f"{name}__{i}" for i in range(len(filters))]
        self._char_filters.update(zip(names, filters))
        self._normalizers[name] = {"type": "custom", "char_filter": names, "filter": []}
        return name

    def analysis(self) -> Json:
        fold = ["lowercase", "asciifolding"]
        code = ["flusso_word_delimiter", "flatten_graph", "lowercase", "icu_folding" if self._icu else "asciifolding"]
        text = (
            {"type": "custom", "tokenizer": "icu_tokenizer", "filter": ["icu_normalizer", "icu_folding"]}
            if self._icu
            else {"type": "custom", "tokenizer": "standard", "filter": fold}
        )
        lowercase = {"type": "custom", "filter": ["icu_normalizer"] if self._icu else fold}
        analysis: Json = {
            "filter": {
                "flusso_word_delimiter": {
                    "type": "word_delimiter_graph",
                    "catenate_all": True,
                    "preserve_original": True,
                }
            },
            "analyzer": {
                "flusso_code": {"type": "custom", "tokenizer": "whitespace", "filter": code},
                "flusso_text": text,
            },
            "normalizer": {"flusso_lowercase": lowercase, **self._normalizers},
        }
        if self._char_filters:
            analysis["char_filter"] = self._char_filters
        return analysis


def _constant_type(values: Sequence[Any]) -> str:
    """One type for scalars: mixed numbers are doubles, any other mixture is read as text."""
    if not values:
        return "keyword"
    if all(isinstance(v, bool) for v in values):
        return "boolean"
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        return "keyword"
    whole = all(isinstance(v, int) and -(2**63) <= v < 2**63 for v in values)
    return "long" if whole else "double"


def _flatten(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flatten(value)
        else:
            yield value


def _literal(text: str) -> str:
    """``text`` as a Java pattern that matches it alone."""
    return re.sub(r"([^A-Za-z0-9\u0080-\U0010ffff])", r"\\\1", text)


def _limits(properties: Mapping[str, Any], open_ended: bool, unread: bool) -> Json:
    fields, nested, depth = _measure(properties, 1)
    limits: Json = {}
    wanted = fields + (DYNAMIC_FIELDS if open_ended else 0)
    if wanted > TOTAL_FIELDS:
        limits["total_fields"] = {"limit": wanted}
    if nested > NESTED_FIELDS:
        limits["nested_fields"] = {"limit": nested}
    if unread or depth > DEPTH:
        # It binds the arrays of a document as well, also those that nobody maps.
        limits["depth"] = {"limit": max(depth, JSON_DEPTH if unread else 0)}
    return limits


def _measure(properties: Mapping[str, Any], level: int) -> "tuple[int, int, int]":
    fields = nested = 0
    deepest = level
    for prop in properties.values():
        fields += 1 + len(prop.get("fields", ()))
        nested += prop.get("type") == "nested"
        below = prop.get("properties")
        if below:
            f, n, d = _measure(below, level + 1)
            fields, nested, deepest = fields + f, nested + n, max(deepest, d)
    return fields, nested, deepest

"""Where in its file each part of a plan was written."""

from __future__ import annotations

from flusso_sync.schema.language import parse_mapping, parse_schema
from flusso_sync.schema.places import problem

SCHEMA = """\
version: 1
table: orders
primary_key: id
filters:
  - {column: total, op: gt, value: 1}
soft_delete:
  column: gone
  when: [{column: hold, op: is_null}]
fields:
  - {integer: id, required: true}
  - object: address
    fields:
      - {text: city, required: true}
  - has_many: items
    table: items
    foreign_key: order_id
    fields:
      - required: false
        text: name
"""


def test_every_part_is_found_by_the_name_the_checks_give_it() -> None:
    plan, _ = parse_schema(SCHEMA, "orders", "o.yml")
    lines = SCHEMA.splitlines()
    for path, begins in {
        "": "table: orders",
        "primary_key": "primary_key:",
        "filters": "filters:",
        "soft_delete": "soft_delete:",
        "soft_delete.when": "when:",
        "id": "integer: id",
        "address": "object: address",
        "address.city": "text: city",
        "items": "has_many: items",
        "items.name": "text: name",
    }.items():
        place = plan.place(path)
        assert place is not None and place.file == "o.yml"
        assert lines[place.line - 1][place.column - 1 :].startswith(begins), (path, place)


def test_what_is_not_written_stands_in_what_is_around_it() -> None:
    plan, _ = parse_schema(SCHEMA, "orders", "o.yml")
    assert plan.place("items.price") == plan.place("items")
    assert plan.place("doc_id") == plan.place("")
    found = problem(plan, "", "is wrong", "FL040", at="items")
    assert (found.line, found.path, found.code) == (14, None, "FL040")


def test_a_plan_of_no_file_has_no_places_and_is_the_same_plan() -> None:
    import yaml

    plan, _ = parse_schema(SCHEMA, "orders", "o.yml")
    given, _ = parse_mapping(yaml.safe_load(SCHEMA), "orders")
    assert given == plan and given.place("items") is None
    assert str(problem(given, "items", "is wrong")) == "items: is wrong"

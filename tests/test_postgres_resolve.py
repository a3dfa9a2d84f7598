"""Tracing: which documents a changed row names by itself, and what must be asked of the tables."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

from flusso_sync.postgres.catalog import Derived
from flusso_sync.postgres.pgoutput import ABSENT, Change, Shape, Value, Wanted
from flusso_sync.postgres.resolve import Touched, Trace, by_table, compile_traces, touched
from flusso_sync.schema.paths import relation_paths
from flusso_sync.schema.plan import (
    AggregateField,
    ChildLink,
    Columns,
    IndexPlan,
    JoinField,
    ScalarField,
    Table,
    TargetLink,
    ThroughLink,
)

ORDERS, ITEMS, PRODUCTS = Table("public", "orders"), Table("public", "items"), Table("public", "products")
TAGS, TAGGED, EMP = Table("public", "tags"), Table("public", "order_tags"), Table("public", "emp")
ID: Columns = ("id",)
KEYS: Dict[Table, Columns] = {ORDERS: ID, ITEMS: ID, PRODUCTS: ID, TAGS: ID, TAGGED: ("order_id", "tag_id"), EMP: ID}

NAME = ScalarField("name", "text", "name")
PLAN = IndexPlan(
    "orders",
    ORDERS,
    (
        NAME,
        JoinField(
            "items",
            "has_many",
            ITEMS,
            ChildLink(("order_id",), ID),
            (JoinField("product", "belongs_to", PRODUCTS, TargetLink(("product_id",), ID), (NAME,)),),
        ),
        JoinField("tags", "many_to_many", TAGS, ThroughLink(TAGGED, ("order_id",), ("tag_id",), ID, ID), (NAME,)),
        AggregateField("count", "count", ITEMS, ChildLink(("order_id",), ID)),
    ),
    primary_key=ID,
)


def traces(plan: IndexPlan = PLAN) -> Dict[Table, List[Trace]]:
    return by_table(compile_traces(plan, relation_paths(plan), ID, KEYS, lambda table, column: "int8"))


def shape(table: Table, columns: Sequence[str], identity: str = "d", key: Columns = ID) -> Shape:
    wanted = Wanted(table, tuple(columns), tuple(columns))
    return Shape(wanted, table, identity, [(name, identity == "f" or name in key) for name in columns])


Row = Optional[Tuple[Value, ...]]


def trace(made: Shape, *changes: Tuple[str, Row, Row], plan: IndexPlan = PLAN) -> Touched:
    return touched([Change(made, kind, old, new) for kind, old, new in changes], traces(plan))


def test_a_root_row_names_its_document_before_and_after() -> None:
    found = trace(shape(ORDERS, ["id"]), ("I", None, ("1",)), ("U", ("2",), ("3",)), ("D", ("4",), None))
    assert found.keys == {"orders": {("1",), ("2",), ("3",), ("4",)}}
    assert not found.lookups and not found.untraceable


def test_a_direct_child_names_old_and_new_parent_without_a_query() -> None:
    made = shape(ITEMS, ["id", "order_id"], "f")
    found = trace(made, ("U", ("7", "1"), ("7", "2")), ("D", ("8", "3"), None), ("I", None, ("9", None)))
    assert found.keys == {"orders": {("1",), ("2",), ("3",)}}
    assert not found.lookups and not found.untraceable


def test_a_delete_whose_old_parent_is_not_told_is_counted() -> None:
    found = trace(shape(ITEMS, ["id", "order_id"]), ("D", ("8", ABSENT), None), ("U", None, ("7", "2")))
    assert found.keys == {"orders": {("2",)}}
    assert found.untraceable == {ITEMS: 2}


def test_a_current_parent_that_the_stream_leaves_out_is_asked_for_by_key() -> None:
    found = trace(shape(ITEMS, ["id", "order_id"], "f"), ("U", ("7", "1"), ("7", ABSENT)))
    assert found.keys == {"orders": {("1",)}}
    assert [lookup.parameters for lookup in found.lookups] == [[["7"]]]
    assert 'join "public"."items" t on t."id" = k.v1' in found.lookups[0].statement


def test_a_far_table_takes_one_lookup_per_path_for_the_whole_batch() -> None:
    made = shape(PRODUCTS, ["id"])
    found = trace(made, *[("U", None, (str(i),)) for i in range(100)], ("D", ("5",), None))
    assert found.keys == {}
    assert len(found.lookups) == 1
    assert len(found.lookups[0].parameters[0]) == 100
    assert 'join "public"."items" p0 on p0."product_id" = k.v1' in found.lookups[0].statement
    assert 'join "public"."orders" p1 on p1."id" = p0."order_id"' in found.lookups[0].statement


def test_a_junction_row_names_its_parent_from_its_own_key() -> None:
    made = shape(TAGGED, ["order_id", "tag_id"], key=("order_id", "tag_id"))
    found = trace(made, ("D", ("1", "9"), None), ("U", ("2", "9"), ("3", "9")))
    assert found.keys == {"orders": {("1",), ("2",), ("3",)}}
    assert not found.untraceable


def test_a_self_relation_rebuilds_the_row_and_those_that_show_it() -> None:
    boss = JoinField("boss", "belongs_to", EMP, TargetLink(("boss_id",), ID), (NAME,))
    plan = IndexPlan("emp", EMP, (NAME, boss), primary_key=ID)
    found = trace(shape(EMP, ["id"]), ("U", None, ("1",)), plan=plan)
    assert found.keys == {"emp": {("1",)}}
    assert [lookup.parameters for lookup in found.lookups] == [[["1"]]]


def test_a_generated_link_is_computed_from_the_old_tuple_nulls_included() -> None:
    derived = {ITEMS: {"order_id": Derived("COALESCE(code, 7)", ("code",), ('"pg_catalog"."C"',))}}
    compiled = by_table(compile_traces(PLAN, relation_paths(PLAN), ID, KEYS, lambda table, column: "text", derived))
    made = shape(ITEMS, ["id", "code"], "f")
    found = touched([Change(made, "U", ("1", "a"), ("1", "b")), Change(made, "D", ("2", None), None)], compiled)
    (lookup,) = found.lookups
    assert lookup.parameters == [[None, "a", "b"]] and not found.untraceable
    assert '(COALESCE(code, 7)) as v1 from (select v1 collate "pg_catalog"."C" as "code"' in lookup.statement


def test_a_change_that_names_nothing_new_is_counted_as_repeated() -> None:
    made = shape(ITEMS, ["id", "order_id"], "f")
    found = trace(made, *[("U", ("7", "1"), ("7", "1"))] * 3, ("U", ("7", "1"), ("7", None)), ("I", None, ("9", None)))
    assert found.keys == {"orders": {("1",)}} and found.repeated == 3


def test_an_unchanged_toast_value_is_no_move() -> None:
    found = trace(shape(ITEMS, ["id", "order_id"]), ("U", None, ("7", ABSENT)))
    assert not found.untraceable and len(found.lookups) == 1


def test_a_truncate_names_its_table() -> None:
    assert trace(shape(ITEMS, ["id"]), ("T", None, None)).truncated == {ITEMS}


def test_an_update_inside_a_settled_key_needs_no_old_tuple() -> None:
    made = shape(TAGGED, ["order_id", "tag_id"], key=("order_id", "tag_id"))
    found = trace(made, ("U", None, ("1", "2")))
    assert found.keys == {"orders": {("1",)}} and not found.untraceable

"""Keys filled in, ways from the root to every table, and what each table must provide."""

from __future__ import annotations

from pathlib import Path as File
from typing import Any, Dict, List, Tuple

import pytest

from flusso_sync.errors import ConfigError
from flusso_sync.schema.language import load_schema, parse_schema
from flusso_sync.schema.paths import relation_paths, table_uses, tables, with_keys
from flusso_sync.schema.plan import ChildLink, Columns, Hop, IndexPlan, Table, TargetLink, ThroughLink

ARTICLES = File(__file__).parent / "data" / "articles.schema.yml"


def public(name: str) -> Table:
    return Table("public", name)


def plan(fields: str, head: str = "", table: str = "t") -> IndexPlan:
    return parse_schema(f"version: 1\ntable: {table}\n{head}\nfields:\n{fields}\n", "i")[0]


def routes(parsed: IndexPlan) -> List[str]:
    """Each path as ``t.id=c.t_id c.x=d.id``."""

    def hop(step: Hop) -> str:
        def side(table: Table, columns: Columns) -> str:
            return f"{table.name}.{'+'.join(columns) or '?'}"

        return f"{side(step.parent, step.parent_columns)}={side(step.child, step.child_columns)}"

    return [" ".join(hop(step) for step in path.hops) for path in relation_paths(parsed)]


IDS: Dict[Table, Columns] = {public(name): ("id",) for name in "t a b c d e j people".split()}


# -- with_keys ------------------------------------------------------------------------------------------


def test_every_open_key_is_filled_from_the_catalog() -> None:
    filled = with_keys(
        plan(
            """
  - object: o
    fields:
      - {has_many: a, table: a, foreign_key: t_id, fields: [{belongs_to: b, table: b, fields: []}]}
  - {many_to_many: c, table: c, through: {table: j, left_key: t_id, right_key: c_id}, fields: []}
  - {count: n, table: d, foreign_key: t_id}
  - {ids: m, table: d, foreign_key: t_id, element_type: long}
"""
        ),
        {**IDS, public("b"): ("code",), public("d"): ("uid",)},
    )
    o, c, n, m = filled.fields
    a = o.fields[0]  # type: ignore[union-attr]
    assert filled.primary_key == ("id",)
    assert a.link == ChildLink(("t_id",), ("id",))  # type: ignore[union-attr]
    assert a.fields[0].link == TargetLink(("b",), ("code",))  # type: ignore[union-attr]
    assert c.link == ThroughLink(public("j"), ("t_id",), ("c_id",), ("id",), ("id",))  # type: ignore[union-attr]
    assert n.link == ChildLink(("t_id",), ("id",))  # type: ignore[union-attr]
    assert (n.column, m.column) == (None, "uid")  # type: ignore[union-attr]


def test_a_key_the_file_names_is_left_alone() -> None:
    parsed = plan("  - {has_many: a, table: a, foreign_key: code, references: code, fields: []}", "primary_key: code")
    filled = with_keys(parsed, IDS)
    assert filled.primary_key == ("code",)
    assert filled.fields[0].link == ChildLink(("code",), ("code",))  # type: ignore[union-attr]


def test_filling_twice_changes_nothing() -> None:
    parsed, _ = load_schema(ARTICLES, "articles")
    keys = {table: ("id",) for table in tables(parsed)}
    once = with_keys(parsed, keys)
    assert with_keys(once, {}) == once


@pytest.mark.parametrize(
    ("fields", "keys", "path", "sentence"),
    [
        ("  []", {}, "primary_key", "table public.t has no primary key; name a unique constraint"),
        (
            "  - {has_many: a, table: a, foreign_key: x, fields: [{count: n, table: b, foreign_key: y}]}",
            {public("t"): ("id",)},
            "a.n",
            "table public.a has no primary key; name the columns it points at in references",
        ),
        (
            "  - {has_many: a, table: a, foreign_key: x, fields: []}",
            {public("t"): ("id", "part")},
            "a",
            "foreign_key (x) and the key it points at (id, part) differ in length",
        ),
        (
            "  - {belongs_to: a, table: a, fields: []}",
            {public("t"): ("id",)},
            "a",
            "table public.a has no primary key; name the referenced column in primary_key",
        ),
        (
            "  - {many_to_many: a, table: a, through: {table: j, left_key: l, right_key: [r, s]}, fields: []}",
            {public("t"): ("id",), public("a"): ("id",)},
            "a",
            "right_key (r, s) and the key it points at (id) differ in length",
        ),
        (
            "  - {ids: a, table: a, foreign_key: x, element_type: long}",
            {public("t"): ("id",), public("a"): ("x", "y")},
            "a",
            "ids needs a primary key of one column, and table public.a has 2",
        ),
    ],
)
def test_a_key_that_cannot_be_found_is_a_sentence(
    fields: str, keys: Dict[Table, Columns], path: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        with_keys(plan(fields), keys)
    assert [(p.path, p.message.startswith(f"index i: {sentence}")) for p in caught.value.problems] == [(path, True)]


def test_ids_over_a_junction_needs_no_key_of_the_table_behind_it() -> None:
    fields = "  - {ids: a, table: keyless, element_type: long, through: {table: j, left_key: l, right_key: r}}"
    assert with_keys(plan(fields), {public("t"): ("id",)}).primary_key == ("id",)


# -- relation_paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("  []", []),
        ("  - {has_many: a, table: a, foreign_key: t_id, fields: []}", ["t.id=a.t_id"]),
        ("  - {belongs_to: a, table: a, column: a_id, fields: []}", ["t.a_id=a.id"]),
        (
            "  - {many_to_many: a, table: a, through: {table: j, left_key: l, right_key: r}, fields: []}",
            ["t.id=j.l", "t.id=j.l j.r=a.id"],
        ),
        ("  - {count: a, table: a, through: {table: j, left_key: l, right_key: r}}", ["t.id=j.l", "t.id=j.l j.r=a.id"]),
        ("  - {ids: a, table: a, element_type: long, through: {table: j, left_key: l, right_key: r}}", ["t.id=j.l"]),
        (
            "  - {ids: a, table: a, element_type: long, through: {table: j, left_key: l, right_key: r},"
            " filters: [{column: x, op: is_null}]}",
            ["t.id=j.l", "t.id=j.l j.r=a.id"],
        ),
        (
            "  - {object: o, fields: [{has_one: a, table: a, foreign_key: x, fields: [{object: p, fields: "
            "[{belongs_to: b, table: b, fields: [{count: s, table: c, foreign_key: y}]}]}]}]}",
            ["t.id=a.x", "t.id=a.x a.b=b.id", "t.id=a.x a.b=b.id b.id=c.y"],
        ),
        (
            "  - {belongs_to: boss, table: t, column: boss_id, fields: [{count: n, table: t, foreign_key: boss_id}]}",
            ["t.boss_id=t.id", "t.boss_id=t.id t.id=t.boss_id"],
        ),
        (
            "  - {has_many: a, table: a, foreign_key: x, fields: []}\n  - {count: n, table: a, foreign_key: x}\n"
            "  - {sum: s, table: a, foreign_key: y, column: v, value_type: long}",
            ["t.id=a.x", "t.id=a.y"],
        ),
    ],
)
def test_every_way_from_the_root_is_found_once(fields: str, expected: List[str]) -> None:
    assert routes(with_keys(plan(fields), IDS)) == expected


def test_composite_keys_make_composite_hops() -> None:
    parsed = plan("  - {has_many: a, table: a, foreign_key: [x, y], fields: []}", "primary_key: [p, q]")
    assert routes(with_keys(parsed, {public("t"): ("p", "q")})) == ["t.p+q=a.x+y"]


def test_paths_carry_the_index_and_end_at_the_table() -> None:
    (path,) = relation_paths(plan("  - {count: a, table: a, foreign_key: x}"))
    assert (path.index, path.table) == ("i", public("a"))


def test_tables_are_sorted_and_include_junctions() -> None:
    parsed = plan(
        "  - {count: b, table: s.b, through: {table: j, left_key: l, right_key: r}}\n"
        "  - {count: a, table: a, foreign_key: x}"
    )
    assert tables(parsed) == (public("a"), public("j"), public("t"), Table("s", "b"))


# -- table_uses -----------------------------------------------------------------------------------------


def use(parsed: IndexPlan, name: str, keys: Any = None) -> Tuple[Any, ...]:
    found = table_uses([with_keys(parsed, IDS)], keys)[public(name)]
    return (found.columns, found.keys, found.links)


def test_a_table_is_used_with_every_column_that_is_read() -> None:
    parsed = plan(
        """
  - {text: x, column: c1, required: true}
  - {geo: g, lat: c2, lon: c3, required: true}
  - {object: o, fields: [{geo: h, column: c4, required: true}]}
  - has_many: a
    table: a
    foreign_key: t_code
    references: code
    filters: [{column: f, op: is_null}]
    order_by: [{column: ord}]
    fields: [{text: v, required: true}, {belongs_to: b, table: b, column: b_id, fields: []}]
  - {max: m, table: a, column: top, value_type: long, foreign_key: t2}
""",
        "filters: [{column: live, op: eq, value: 1}]\ndoc_id: slug\n"
        "soft_delete: {column: gone, when: [{column: hold, op: is_null}]}",
    )
    assert use(parsed, "t") == (
        ("c1", "c2", "c3", "c4", "code", "gone", "hold", "id", "live", "slug"),
        ("id", "slug"),
        ("id", "slug"),
    )
    assert use(parsed, "a") == (("b_id", "f", "ord", "t2", "t_code", "top", "v"), ("t2", "t_code"), ("t2", "t_code"))
    assert use(parsed, "b", IDS) == (("id",), ("id",), ("id",))


def test_a_known_key_is_decoded_beside_the_links() -> None:
    parsed = plan("  - {count: n, table: a, foreign_key: t_id}\n  - {belongs_to: b, table: b, fields: []}")
    assert use(parsed, "t") == (("b", "id"), ("id",), ("id",))
    assert use(parsed, "b") == (("id",), ("id",), ("id",))
    assert use(parsed, "b", IDS) == (("id",), ("id",), ("id",))
    assert use(parsed, "a", IDS) == (("id", "t_id"), ("id", "t_id"), ("t_id",))
    assert use(parsed, "a", {public("a"): ("t_id", "no")}) == (("no", "t_id"), ("no", "t_id"), ("t_id",))


def test_what_a_generated_link_is_computed_from_stands_for_it() -> None:
    parsed = plan("  - {count: n, table: a, foreign_key: t_id}")
    found = table_uses([with_keys(parsed, IDS)], IDS, {public("a"): {"t_id": ("data", "kind")}})[public("a")]
    assert found.links == ("data", "kind")
    assert found.keys == ("data", "id", "kind")
    assert found.columns == ("data", "id", "kind", "t_id")


def test_a_target_found_by_another_column_needs_it_in_its_identity() -> None:
    parsed = plan("  - {belongs_to: b, table: b, column: b_code, primary_key: code, fields: []}")
    assert use(parsed, "b", IDS) == (("code", "id"), ("code", "id"), ("code",))


def test_a_root_keyed_by_another_unique_column_needs_it_in_its_identity() -> None:
    parsed = plan("  []", "primary_key: code")
    assert use(parsed, "t", IDS) == (("code", "id"), ("code", "id"), ("code",))


def test_a_junction_is_traced_by_its_left_side() -> None:
    parsed = plan("  - {ids: a, table: a, element_type: long, through: {table: j, left_key: l, right_key: r}}")
    assert use(parsed, "j") == (("l", "r"), ("l",), ("l",))
    assert public("a") not in table_uses([parsed])


def test_a_raw_filter_may_read_any_column_around_it() -> None:
    parsed = plan(
        """
  - many_to_many: a
    table: a
    through: {table: j, left_key: l, right_key: r}
    filters: [{raw: "x > root.y"}]
    fields: []
  - {count: b, table: b, foreign_key: t_id}
"""
    )
    assert [use(parsed, name)[0] for name in ("t", "j", "a", "b")] == [None, None, None, ("t_id",)]


def test_a_raw_condition_of_soft_delete_is_the_roots() -> None:
    parsed = plan("  - {count: b, table: b, foreign_key: t_id}", "soft_delete: {column: x, when: [{raw: a > 1}]}")
    assert [use(parsed, name)[0] for name in ("t", "b")] == [None, ("t_id",)]


def test_uses_of_several_indexes_are_joined() -> None:
    one, _ = parse_schema("version: 1\ntable: t\nfields: [{text: x, required: true}]", "one")
    two, _ = parse_schema(
        "version: 1\ntable: a\nfields: [{belongs_to: t, table: t, fields: [{text: y, required: true}]}]", "two"
    )
    uses = table_uses([with_keys(one, IDS), with_keys(two, IDS)])
    assert list(uses) == [public("a"), public("t")]
    assert uses[public("t")].columns == ("id", "x", "y")
    assert uses[public("t")].indexes == ("one", "two")
    assert uses[public("a")].indexes == ("two",)

"""The oracle is right: against hand-written expectations, and against Postgres where Postgres has the last word."""

from __future__ import annotations

import ast
import json
import random
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from tests.cases import CASES, THIRTY
from tests.oracle import (
    Difference,
    Documents,
    Schema,
    TableName,
    assert_same,
    compare,
    evaluate,
    evaluate_all,
    explain,
    fold_stdout,
    parse,
    read_opensearch,
)
from tests.oracle.language import KINDS, kind_of, split_name
from tests.oracle.rows import snapshot
from tests.oracle.values import (
    Type,
    Unbuildable,
    document_id,
    id_part,
    like,
    parse_array,
    parse_json,
    render,
    sort_key,
)
from tests.postgres_server import Database


def one(type_name: str, text: str) -> Any:
    return render(Type(type_name, type_name), text)


def test_the_oracle_imports_nothing_of_the_package() -> None:
    for path in (Path(__file__).parent / "oracle").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] == "flusso_sync" for name in names), f"{path}: {names}"


# -- values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "type_name, text, value",
    [
        ("int8", "9007199254740993", 9007199254740993),
        ("numeric", "123456789012345678901234567890.5", Decimal("123456789012345678901234567890.5")),
        ("numeric", "NaN", None),
        ("float4", "0.1", Decimal("0.1")),
        ("float8", "1e+22", Decimal(10) ** 22),
        ("float8", "-Infinity", None),
        ("money", "12.34", Decimal("12.34")),
        ("bool", "t", True),
        ("bool", "f", False),
        ("bpchar", "ab   ", "ab"),
        ("text", " ab ", " ab "),
        ("uuid", "0000000a-0000-4000-8000-000000000000", "0000000a-0000-4000-8000-000000000000"),
        ("bytea", "\\xdead", "3q0="),
        ("bytea", "\\x", ""),
        ("date", "2024-01-02", "2024-01-02"),
        ("date", "infinity", None),
        ("date", "0044-03-15 BC", "-0043-03-15"),
        ("date", "10000-01-01", "+10000-01-01"),
        ("timestamptz", "2024-01-02 01:04:05.123456+00", "2024-01-02T01:04:05.123456+00:00"),
        ("timestamptz", "0001-12-31 00:00:00+00 BC", "0000-12-31T00:00:00+00:00"),
        ("timestamp", "2024-01-02 03:04:05.5", "2024-01-02T03:04:05.5"),
        ("timestamp", "-infinity", None),
        ("time", "03:04:05.250", "03:04:05.250"),
        ("timetz", "03:04:05+02", "01:04:05"),
        ("timetz", "00:30:00.5+05:30", "19:00:00.5"),
        ("timetz", "23:30:00-05:30:15", "05:00:15"),
        ("jsonb", '{"a": 0.12345678901234567890}', {"a": Decimal("0.12345678901234567890")}),
        ("json", '{"b": 1, "b": 2}', {"b": 2}),
        ("json", "null", None),
        ("inet", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_value_is_rendered_as_the_design_says(type_name: str, text: str, value: Any) -> None:
    found = one(type_name, text)
    assert found == value and isinstance(found, type(value))


def test_arrays_are_rendered_element_by_element() -> None:
    text = '{a,"b c",NULL,"NULL","q\\"\\\\,{}",""}'
    assert parse_array(text) == ["a", "b c", None, "NULL", 'q"\\,{}', ""]
    assert parse_array("[0:1]={5,6}") == ["5", "6"]
    assert parse_array("{}") == []
    assert render(Type("int4", "integer[]", array=True), "{{1,2},{3,NULL}}") == [[1, 2], [3, None]]
    stamps = Type("timestamp", "timestamp[]", array=True)
    assert render(stamps, '{"2024-01-02 03:04:05",infinity}') == ["2024-01-02T03:04:05", None]


def test_json_that_jsonb_refuses_makes_the_document_unbuildable() -> None:
    for text in ('{"a": "\\u0000"}', '["\\ud800"]', '{"\\ud800": 1}'):
        with pytest.raises(Unbuildable):
            parse_json(text)
    assert list(parse_json('{"bb": 1, "a": {"y": 1, "x": 2}}')) == ["a", "bb"]


@pytest.mark.parametrize(
    "type_name, text, part",
    [
        ("int2", "-7", "-7"),
        ("text", " a:b%c ", " a:b%c "),
        ("bpchar", "ab  ", "ab"),
        ("bool", "t", "true"),
        ("bytea", "\\xdead", "\\xdead"),
        ("numeric", "10.500", "10.5"),
        ("numeric", "100", "100"),
        ("numeric", "100.00", "100"),
        ("date", "2024-01-02", "2024-01-02"),
        ("timestamptz", "2024-01-02 01:04:05+00", "2024-01-02T01:04:05+00:00"),
        ("timetz", "03:04:05+02", "01:04:05"),
    ],
)
def test_an_id_is_the_key_by_type(type_name: str, text: str, part: str) -> None:
    assert id_part(Type(type_name, type_name), text) == part


def test_parts_of_a_composite_id_are_escaped_and_a_single_one_is_not() -> None:
    assert document_id(["a:b%"]) == "a:b%"
    assert document_id(["a:b%", "7"]) == "a%3Ab%25:7"
    assert document_id(["a", "b:7"]) != document_id(["a:b", "7"])


def test_like_patterns() -> None:
    assert like("a_c%").fullmatch("abc\nd")
    assert not like("a_c").fullmatch("abbc")
    assert like(r"100\%").fullmatch("100%") and not like(r"100\%").fullmatch("100x")
    assert like("a.c").fullmatch("a.c") and not like("a.c").fullmatch("abc")


# -- the schema language --------------------------------------------------------------------------------


def test_identifiers_are_lowercased_unless_quoted() -> None:
    assert split_name(" Orders ") == ("orders",)
    assert split_name('Shop."Or.d""ers"') == ("shop", 'Or.d"ers')


def test_links_of_a_schema_name_both_ends() -> None:
    links = Schema(THIRTY.indexes["collectors"]).links()
    collector, membership = TableName("public", "collector"), TableName("public", "membership")
    assert (membership, ("collector_id",), collector, ()) in links
    assert (collector, ("mentor_id",), collector, ("id",)) in links
    assert (TableName("public", "specimen_tag"), ("tag_id",), TableName("public", "tag"), ()) in links


def test_the_thirty_case_uses_every_kind_of_field_every_op_and_thirty_changes() -> None:
    kinds, operators, aggregates = set(), set(), set()

    def walk(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, dict):
            if KINDS & value.keys():
                kinds.add(kind_of(value))
                aggregates.add((kind_of(value), "through" in value))
            operators.add(value.get("op") or ("raw" if "raw" in value else None))
            for item in value.values():
                walk(item)

    for path in THIRTY.indexes.values():
        walk(Schema(path).top)
    assert kinds == KINDS
    assert operators == {
        None, "raw", "eq", "neq", "lt", "lte", "gt", "gte", "like", "ilike", "in", "not_in", "between", "is_null",
        "is_not_null",
    }  # fmt: skip
    assert {(op, way) for op in ("count", "sum", "avg", "min", "max", "ids") for way in (True, False)} <= aggregates
    titles = [change.title for change in THIRTY.changes]
    assert len(THIRTY.indexes) >= 3 and len(set(titles)) == len(titles) >= 30


# -- comparing ------------------------------------------------------------------------------------------

DOCUMENT = {"n": 1, "f": Decimal("2.50"), "t": "x", "b": True, "list": [{"k": "a"}, {"k": "b"}], "o": {"x": None}}


@pytest.mark.parametrize(
    "change, path",
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"n": "1"}, "n"),
        ({"f": Decimal("2.500000001")}, "f"),
        ({"t": "X"}, "t"),
        ({"b": 1}, "b"),
        ({"b": None}, "b"),
        ({"list": [{"k": "a"}, {"k": "c"}]}, "list[1].k"),
        ({"list": [{"k": "b"}, {"k": "a"}]}, "list[0].k"),
        ({"list": [{"k": "a"}]}, "list (length)"),
        ({"list": {}}, "list"),
        ({"o": {}}, "o (keys)"),
        ({"o": {"x": None, "y": None}}, "o (keys)"),
        ({"extra": None}, "(keys)"),
    ],
)
def test_compare_finds_every_difference_and_names_its_path(change: Dict[str, Any], path: str) -> None:
    (difference,) = compare({"1": DOCUMENT}, {"1": {**DOCUMENT, **change}})
    assert (difference.id, difference.what, difference.path) == ("1", "different", path)


def test_compare_finds_missing_and_extra_documents() -> None:
    found = compare({"1": DOCUMENT, "2": DOCUMENT}, {"2": DOCUMENT, "3": DOCUMENT})
    assert found == [Difference("1", "missing"), Difference("3", "extra")]
    assert explain(found, "users").startswith("users: 1 missing, 1 extra, 0 different\n  '1': missing")


def test_compare_takes_numbers_by_value_and_key_order_only_when_asked() -> None:
    other = {**DOCUMENT, "f": Decimal("2.5"), "n": Decimal("1.0")}
    assert compare({"1": DOCUMENT}, {"1": other}) == []
    reordered = dict(reversed(list(DOCUMENT.items())))
    assert compare({"1": DOCUMENT}, {"1": reordered}) == []
    assert [d.path for d in compare({"1": DOCUMENT}, {"1": reordered}, key_order=True)] == ["(keys)"]


def test_compare_leaves_rejected_ids_alone() -> None:
    expected = Documents()
    expected.rejected["9"] = "too long"
    assert compare(expected, {"9": {}}) == []
    assert [d.what for d in compare(expected, {"8": {}})] == ["extra"]


def test_assert_same_lists_the_first_differences() -> None:
    with pytest.raises(AssertionError, match=r"0 missing, 12 extra, 0 different(.|\n)*and 2 more"):
        assert_same({}, {str(n): {} for n in range(12)})
    assert_same({"1": DOCUMENT}, {"1": dict(DOCUMENT)})


# -- reading sinks --------------------------------------------------------------------------------------


def envelope(seq: int, op: str, id: str, document: Any = None, index: str = "users") -> str:
    fields: Dict[str, Any] = {"id": id, "index": index, "op": op, "seq": seq}
    fields.update(sink="stdout", ts="t", version="1")
    if op == "upsert":
        fields["document"] = document
        fields["meta"] = {"bytes": len(json.dumps(document)), "fields": len(document)}
    return json.dumps(fields)


def test_stdout_lines_fold_to_the_last_state_of_each_index() -> None:
    lines = [
        envelope(1, "upsert", "1", {"a": 1}),
        envelope(2, "upsert", "1", {"a": 1.10}),
        envelope(3, "upsert", "2", {"a": 2}),
        envelope(4, "delete", "2"),
        envelope(1, "delete", "9", index="orders"),
        "",
    ]
    assert fold_stdout(lines) == {"users": {"1": {"a": Decimal("1.1")}}, "orders": {}}


WRONG_META = envelope(2, "upsert", "1", {}).replace('"fields": 0', '"fields": 1')


@pytest.mark.parametrize("second", [envelope(3, "delete", "1"), WRONG_META])
def test_stdout_lines_with_a_lost_number_or_wrong_meta_are_refused(second: str) -> None:
    with pytest.raises(AssertionError):
        fold_stdout([envelope(1, "upsert", "1", {"a": 1}), second])


@pytest.fixture
def scrolling() -> Iterator[Tuple[str, List[str]]]:
    """An HTTP double that answers a refresh, two pages of a scroll and its end."""
    asked: List[str] = []
    pages = [[("1", '{"n": 0.10}'), ("2", '{"n": 2}')], [("3", '{"n": 12345678901234567890}')], []]

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path.split("?")[0])
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = "{}"
            if "missing" in self.path:
                self.send_response(404)
            else:
                self.send_response(200)
                if "scroll" in self.path and self.command == "POST":
                    hits = ",".join(f'{{"_id": "{id}", "_source": {source}}}' for id, source in pages.pop(0))
                    body = f'{{"_scroll_id": "s", "hits": {{"hits": [{hits}]}}}}'
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_DELETE = do_POST

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_index_is_refreshed_and_then_read_page_by_page(scrolling: Tuple[str, List[str]]) -> None:
    url, asked = scrolling
    found = read_opensearch(url + "/", "a users")
    assert found == {"1": {"n": Decimal("0.1")}, "2": {"n": 2}, "3": {"n": 12345678901234567890}}
    assert asked[0] == "/a%20users/_refresh" and asked[-1] == "/_search/scroll"


def test_a_missing_index_is_a_lookup_error(scrolling: Tuple[str, List[str]]) -> None:
    with pytest.raises(LookupError):
        read_opensearch(scrolling[0], "missing")


# -- documents, by hand ---------------------------------------------------------------------------------


def documents_of(database: Database, folder: Path, ddl: str, schema: str) -> Documents:
    database.execute(ddl)
    path = folder / "index.schema.yml"
    path.write_text(schema, encoding="utf-8")
    with database.connect() as connection:
        return evaluate(connection, path)


def plain(documents: Documents) -> Any:
    """With numbers as JSON has them, to compare with literals."""
    return json.loads(json.dumps(documents, default=float))


def test_the_reference_document(database: Database, tmp_path: Path) -> None:
    found = documents_of(
        database,
        tmp_path,
        """
        CREATE TABLE r (id int PRIMARY KEY, x int);
        CREATE TABLE c (id int PRIMARY KEY, r_id int, k text, v numeric);
        INSERT INTO r VALUES (1, 1), (2, 2);
        INSERT INTO c VALUES (10, 1, 'a', 1.5), (11, 1, 'b', 2.0);
        """,
        """
version: 1
table: r
primary_key: id
fields:
  - {avg: a_c, table: c, column: v, foreign_key: r_id}
  - has_one: c1
    table: c
    primary_key: id
    foreign_key: r_id
    order_by: [{column: v}]
    fields: [{keyword: k, required: true}]
  - has_many: cs
    table: c
    primary_key: id
    foreign_key: r_id
    order_by: [{column: v, direction: desc}]
    fields: [{integer: id, required: true}, {decimal: v, required: true}]
  - {ids: ids_c, table: c, element_type: integer, foreign_key: r_id}
  - {count: n_c, table: c, foreign_key: r_id}
  - {object: o, fields: [{integer: x, required: true}]}
  - {sum: s_c, table: c, column: v, value_type: decimal, foreign_key: r_id}
""",
    )
    assert found == parse(
        """{"1": {"a_c":1.75,"c1":{"k":"a"},"cs":[{"id":11,"v":2.0},{"id":10,"v":1.5}],"ids_c":[10,11],"n_c":2,
                  "o":{"x":1},"s_c":3.5},
            "2": {"a_c":null,"c1":null,"cs":[],"ids_c":[],"n_c":0,"o":{"x":2},"s_c":null}}"""
    )
    assert list(found["1"]) == ["a_c", "c1", "cs", "ids_c", "n_c", "o", "s_c"]


def test_transforms_run_in_order_and_the_default_replaces_only_sql_null(database: Database, tmp_path: Path) -> None:
    found = documents_of(
        database,
        tmp_path,
        """
        CREATE TABLE t (id int PRIMARY KEY, a text, j json, d date);
        INSERT INTO t VALUES (1, E'  ÄB\\t ', 'null', NULL), (2, NULL, NULL, '2024-01-01'), (3, '', '1', 'infinity');
        """,
        """
version: 1
table: t
primary_key: id
fields:
  - {keyword: a, required: false, transforms: [trim, lowercase], default: none}
  - {json: j, required: false, default: "[7]"}
  - {date: d, required: false, default: "1999-01-02"}
""",
    )
    lowered = database.execute("SELECT lower('ÄB')")[0][0]
    assert plain(found) == {
        "1": {"a": lowered + "\t", "j": None, "d": "1999-01-02"},
        "2": {"a": "none", "j": [7], "d": "2024-01-01"},
        "3": {"a": "", "j": 1, "d": None},
    }


def test_nulls_sort_last_ascending_and_first_descending_and_ties_go_by_key(database: Database, tmp_path: Path) -> None:
    found = documents_of(
        database,
        tmp_path,
        """
        CREATE TABLE p (id int PRIMARY KEY);
        CREATE TABLE c (id int PRIMARY KEY, p_id int, a int);
        INSERT INTO p VALUES (1);
        INSERT INTO c VALUES (5, 1, 2), (4, 1, NULL), (3, 1, 1), (2, 1, 2), (1, 1, NULL), (0, NULL, 1);
        """,
        """
version: 1
table: p
primary_key: id
fields:
  - {has_many: none, table: c, primary_key: id, foreign_key: p_id, fields: &id [{integer: id, required: true}]}
  - {has_many: up, table: c, primary_key: id, foreign_key: p_id, order_by: [{column: a}], fields: *id}
  - has_many: down
    table: c
    primary_key: id
    foreign_key: p_id
    order_by: [{column: a, direction: desc}]
    limit: 3
    fields: *id
  - {has_one: first, table: c, primary_key: id, foreign_key: p_id, fields: *id}
""",
    )
    ids = {name: [child["id"] for child in children] for name, children in found["1"].items() if name != "first"}
    assert ids == {"none": [1, 2, 3, 4, 5], "up": [3, 2, 5, 1, 4], "down": [1, 4, 2]}
    assert found["1"]["first"] == {"id": 1}


def test_junctions_count_each_row_and_ids_look_no_further(database: Database, tmp_path: Path) -> None:
    found = documents_of(
        database,
        tmp_path,
        """
        CREATE TABLE p (id int PRIMARY KEY);
        CREATE TABLE j (id int PRIMARY KEY, p_id int, t_id int);
        CREATE TABLE t (id int PRIMARY KEY, w int);
        INSERT INTO p VALUES (1), (2);
        INSERT INTO t VALUES (1, 10), (2, 20);
        INSERT INTO j VALUES (1, 1, 2), (2, 1, 1), (3, 1, 2), (4, 1, 99), (5, 1, NULL), (6, NULL, 1);
        """,
        """
version: 1
table: p
primary_key: id
fields:
  - many_to_many: ts
    table: t
    primary_key: id
    through: &j {table: j, left_key: p_id, right_key: t_id}
    fields: [{integer: id, required: true}]
  - {count: n, table: t, through: *j}
  - {sum: w, table: t, column: w, value_type: long, through: *j}
  - {ids: ids, table: t, element_type: integer, through: *j}
  - {ids: big, table: t, element_type: integer, through: *j, filters: [{column: w, op: gt, value: 15}]}
""",
    )
    assert plain(found)["1"] == {
        "ts": [{"id": 1}, {"id": 2}, {"id": 2}],
        "n": 3,
        "w": 50,
        "ids": [1, 2, 2, 99],
        "big": [2, 2],
    }
    assert plain(found)["2"] == {"ts": [], "n": 0, "w": None, "ids": [], "big": []}


FILTERS = [
    ("{column: a, op: eq, value: 2}", [2]),
    ("{column: a, op: neq, value: 2}", [1, 10]),
    ("{column: a, op: lt, value: 10}", [1, 2]),
    ("{column: a, op: lte, value: 2}", [1, 2]),
    ("{column: a, op: gt, value: 2}", [10]),
    ("{column: a, op: gte, value: 2}", [2, 10]),
    ("{column: a, op: in, value: [1, 10, 77]}", [1, 10]),
    ("{column: a, op: not_in, value: [1]}", [2, 10]),
    ("{column: a, op: between, value: [2, 10]}", [2, 10]),
    ("{column: a, op: between, value: [10, 2]}", []),
    ("{column: a, op: is_null}", [0]),
    ("{column: a, op: is_not_null}", [1, 2, 10]),
    ("{column: s, op: like, value: 'x\\_%'}", [1]),
    ("{column: s, op: ilike, value: 'X%'}", [1, 2]),
    ("{column: s, op: gt, value: X}", [1, 2]),
    ("{column: e, op: lt, value: low}", [1]),
    ("{column: d, op: gte, value: '2024-01-01 01:00:00+01'}", [1, 10]),
    ("{column: b, op: eq, value: true}", [1]),
    ("{column: b, op: neq, value: true}", [2]),
    ("{column: n, op: eq, value: 1.50}", [1]),
    ("{column: u, op: eq, value: 'A0000000-0000-4000-8000-000000000000'}", [1]),
    ("{raw: 'root.a > 1 AND s IS NOT NULL'}", [2]),
]


def test_filters_are_typed_and_follow_the_null_rules(database: Database, tmp_path: Path) -> None:
    database.execute(
        """
        CREATE TYPE level AS ENUM ('high', 'low');
        CREATE TABLE t (id int PRIMARY KEY, a int, s text, e level, d timestamptz, b bool, n numeric, u uuid);
        INSERT INTO t VALUES
            (0, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
            (1, 1, 'x_1', 'high', '2024-01-01 00:00:00+00', true, 1.5, 'a0000000-0000-4000-8000-000000000000'),
            (2, 2, 'xa1', 'low', '2023-12-31 23:59:59+00', false, 2, NULL),
            (10, 10, NULL, 'low', 'infinity', NULL, 'NaN', NULL);
        """
    )
    path = tmp_path / "t.schema.yml"
    with database.connect() as connection:
        for condition, ids in FILTERS:
            path.write_text(f"{{version: 1, table: t, primary_key: id, filters: [{condition}], fields: []}}")
            assert list(evaluate(connection, path)) == [str(id) for id in ids], condition


def test_soft_delete_needs_the_mark_and_every_condition(database: Database, tmp_path: Path) -> None:
    database.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY, gone bool, gone_at date, hold bool);
        INSERT INTO t VALUES (1, true, '2024-01-01', false), (2, false, NULL, false), (3, NULL, '2024-01-01', true),
            (4, true, '-infinity', NULL);
        """
    )
    path = tmp_path / "t.schema.yml"
    expectations = [
        ("{column: gone}", ["2", "3"]),
        ("{column: gone_at}", ["2"]),
        ("{field: away}", ["2"]),
        ("{column: gone, when: [{column: hold, op: eq, value: false}]}", ["2", "3", "4"]),
    ]
    with database.connect() as connection:
        for mark, ids in expectations:
            fields = "[{object: o, fields: [{date: away, column: gone_at, required: false}]}]"
            path.write_text(
                f"{{version: 1, table: t, primary_key: id, soft_delete: {mark}, fields: {fields}}}", encoding="utf-8"
            )
            assert list(evaluate(connection, path)) == ids, mark


def test_composite_keys_doc_id_quoted_names_other_schemas_and_partitions(database: Database, tmp_path: Path) -> None:
    found = documents_of(
        database,
        tmp_path,
        """
        CREATE SCHEMA "Other";
        CREATE TABLE "Other"."Boxes" (a text, "B" int, note text NOT NULL, PRIMARY KEY (a, "B")) PARTITION BY LIST (a);
        CREATE TABLE "Other".b1 PARTITION OF "Other"."Boxes" FOR VALUES IN ('x:');
        CREATE TABLE "Other".b2 PARTITION OF "Other"."Boxes" DEFAULT;
        CREATE TABLE thing (id int PRIMARY KEY, box_a text, box_b int);
        INSERT INTO "Other"."Boxes" VALUES ('x:', 1, 'n1'), ('y%', 2, 'n2');
        INSERT INTO thing VALUES (1, 'x:', 1), (2, 'x:', NULL), (3, 'y%', 1);
        """,
        """
version: 1
schema: '"Other"'
table: '"Boxes"'
fields:
  - {text: note, required: true}
  - {ids: things, table: public.thing, element_type: integer, foreign_key: [box_a, box_b]}
""",
    )
    assert found == {"x%3A:1": {"note": "n1", "things": [1]}, "y%25:2": {"note": "n2", "things": []}}
    by_note = documents_of(
        database, tmp_path, "SELECT 1", '{version: 1, table: \'"Other"."Boxes"\', doc_id: note, fields: []}'
    )
    assert list(by_note) == ["n1", "n2"]


def test_a_foreign_key_may_point_at_other_columns_than_the_key(database: Database, tmp_path: Path) -> None:
    found = documents_of(
        database,
        tmp_path,
        """
        CREATE TABLE p (id int PRIMARY KEY, code text UNIQUE NOT NULL);
        CREATE TABLE c (id int PRIMARY KEY, p_code varchar(9));
        INSERT INTO p VALUES (1, 'one'), (2, 'two');
        INSERT INTO c VALUES (1, 'two'), (2, 'two'), (3, NULL);
        """,
        "{version: 1, table: p, primary_key: id, fields: "
        "[{count: n, table: c, foreign_key: p_code, references: code}]}",
    )
    assert found == {"1": {"n": 0}, "2": {"n": 2}}


def test_ids_that_no_index_takes_and_json_that_jsonb_refuses_are_rejected(database: Database, tmp_path: Path) -> None:
    found = documents_of(
        database,
        tmp_path,
        """
        CREATE TABLE t (id text PRIMARY KEY, j json);
        INSERT INTO t VALUES ('', '1'), (repeat('é', 257), '1'), (repeat('é', 256), '1'), ('bad', '"\\u0000"');
        """,
        "{version: 1, table: t, primary_key: id, fields: [{json: j, required: false}]}",
    )
    assert list(found) == ["é" * 256]
    assert set(found.rejected) == {"", "é" * 257, "bad"}


# -- where Postgres has the last word ---------------------------------------------------------------------


def test_averages_are_those_of_postgres_to_the_last_digit(database: Database, tmp_path: Path) -> None:
    generator = random.Random(7)
    rows: List[str] = []
    for parent in range(150):
        exponent = generator.randint(-30, 30)
        for _ in range(generator.randint(1, 7)):
            value = Decimal(generator.randint(-(10**9), 10**9)).scaleb(exponent - generator.randint(0, 12))
            rows.append(f"({len(rows)}, {parent}, {value:f}, {generator.randint(-(2**31), 2**31 - 1)})")
    found = documents_of(
        database,
        tmp_path,
        "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p SELECT generate_series(0, 149);"
        "CREATE TABLE c (id int PRIMARY KEY, p int, v numeric, i int);"
        f"INSERT INTO c VALUES {', '.join(rows)};",
        """
version: 1
table: p
primary_key: id
fields:
  - {avg: v, table: c, column: v, foreign_key: p}
  - {avg: i, table: c, column: i, foreign_key: p}
  - {sum: s, table: c, column: v, value_type: decimal, foreign_key: p}
""",
    )
    expected = database.execute("SELECT p, avg(v)::float8::text, avg(i)::float8::text, sum(v)::text FROM c GROUP BY p")
    assert len(expected) == 150
    for parent, v, i, s in expected:
        assert found[str(parent)] == {"v": Decimal(v), "i": Decimal(i), "s": Decimal(s)}


ORDERED = [
    ("numeric", ["NaN", "0", "-0.5", "10", "9.99", "1e40"]),
    ("float8", ["NaN", "Infinity", "-Infinity", "0", "1e-300", "-2"]),
    ("bool", ["true", "false"]),
    ("text", ["a", "B", "é", "Z", "", " ", "_", "日", "😀", "a b", "ab"]),
    ("char(4)", ["ab", "a", "b", ""]),
    ("uuid", ["f0000000-0000-4000-8000-000000000000", "0f000000-0000-4000-8000-000000000000"]),
    ("bytea", [r"\x00", r"\xff", r"\x", r"\x00ff"]),
    ("date", ["infinity", "-infinity", "2024-01-01", "0044-03-15 BC", "0043-03-15 BC", "10000-01-01", "9999-12-31"]),
    ("timestamptz", ["2024-01-01 00:00:00.5+00", "2024-01-01 00:00+00", "2024-01-01 00:00+14", "infinity"]),
    ("time", ["24:00", "00:00", "23:59:59.999999", "00:00:00.000001"]),
    ("timetz", ["00:00+02", "00:00-02", "12:00+00", "11:00-01", "13:00+01"]),
    ("weekday", ["sun", "mon", "tue"]),
]


def test_every_type_sorts_as_in_postgres(database: Database) -> None:
    database.execute("CREATE TYPE weekday AS ENUM ('tue', 'sun', 'mon')")
    for number, (type_name, values) in enumerate(ORDERED):
        table = TableName("public", f"t{number}")
        database.execute(f"CREATE TABLE {table} (v {type_name})")
        for value in values:
            database.execute(f"INSERT INTO {table} VALUES (%s::text::{type_name})", [value])
        with database.connect() as connection, snapshot(connection) as rows:
            type_ = rows.table(table).types["v"]
            held = [row["v"] or "" for row in rows.table(table).rows]
            expected = [row[0] for row in rows.text_rows(f"SELECT v FROM {table} ORDER BY v")]
            assert sorted(held, key=lambda value: sort_key(type_, value)) == expected, type_name


def test_texts_sort_by_the_collation_of_their_column(database: Database) -> None:
    found = database.execute("SELECT collname FROM pg_collation WHERE collname = 'en-x-icu'")
    if not found:
        pytest.skip("this Postgres was built without ICU")
    database.execute(
        """CREATE TABLE t (v text COLLATE "en-x-icu");
        INSERT INTO t VALUES ('b'), ('a'), ('B'), ('A'), ('é'), ('f'), ('_')"""
    )
    table = TableName("public", "t")
    with database.connect() as connection, snapshot(connection, ["literal"]) as rows:
        type_ = rows.table(table).types["v"]
        held = [row["v"] or "" for row in rows.table(table).rows]
        expected = [row[0] for row in rows.text_rows("SELECT v FROM t ORDER BY v")]
        assert sorted(held, key=lambda value: sort_key(type_, value)) == expected != sorted(held)
        assert sort_key(type_, "literal") > sort_key(type_, "f")


# -- the cases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_each_listed_change_runs_and_most_are_seen_in_some_document(database: Database, case: Any) -> None:
    case.load(database.url)
    unseen = []
    with database.connect() as connection:
        before = evaluate_all(connection, case.indexes)
        assert all(before.values())
        for change in case.changes:
            case.apply(connection, change)
            after = evaluate_all(connection, case.indexes)
            if not any(compare(before[index], after[index]) for index in after):
                unseen.append(change.title)
            assert not any(documents.rejected for documents in after.values()), change.title
            before = after
    invisible = {
        "insert a root row that a filter hides",
        "update a column that no index reads",
        "update without any difference",
        "insert and delete a row in one transaction",
        "insert a child before its parent",
        "a transaction that is rolled back",
        "roll back",
        "a row of a table of the same name in another schema",
    }
    assert set(unseen) <= invisible


def test_every_table_of_a_case_has_a_primary_key(database: Database) -> None:
    for case in CASES:
        with database.connect() as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            case.create(connection)
            with snapshot(connection) as rows:
                for path in case.indexes.values():
                    assert all(rows.table(name).key for name in Schema(path).tables())

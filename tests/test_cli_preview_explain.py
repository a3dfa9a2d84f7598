"""``flussod preview`` and ``flussod explain``: a document beside the indexed one, and where a change of a row leads."""

from __future__ import annotations

import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
import yaml
from click.testing import CliRunner, Result

from flusso_sync.cli.commands import flussod
from flusso_sync.cli.preview import differences
from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.sink import SqliteSink
from tests.fix_daemon import FLUSSOD
from tests.postgres_server import Database, PostgresServer
from tests.waiting import wait_for

DDL = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customers, note text);
CREATE TABLE products (sku text PRIMARY KEY, name text NOT NULL);
CREATE TABLE items (
    order_id int NOT NULL REFERENCES orders, line int NOT NULL, sku text REFERENCES products, price numeric,
    PRIMARY KEY (order_id, line));
CREATE TABLE log (id int PRIMARY KEY);
CREATE TABLE parts (id int PRIMARY KEY, order_id int) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
INSERT INTO customers VALUES (1, 'Ada'), (2, 'Grace');
INSERT INTO orders VALUES (10, 1, NULL), (11, 1, 'two'), (12, 2, NULL);
INSERT INTO products VALUES ('A:1', 'Lamp'), ('B', 'Desk');
INSERT INTO items VALUES (10, 1, 'A:1', 1.50), (10, 2, 'B', 2), (11, 1, 'A:1', 3), (12, 1, 'B', 4);
INSERT INTO parts VALUES (1, 10);
"""

ORDERS = """\
version: 1
table: orders
primary_key: id
fields:
  - {integer: id, required: true}
  - {text: note, required: false}
  - belongs_to: customer
    column: customer_id
    table: customers
    primary_key: id
    fields: [{text: name, required: true}]
  - has_many: items
    table: items
    primary_key: [order_id, line]
    foreign_key: order_id
    order_by: [{column: line}]
    fields:
      - {decimal: price, required: false}
      - belongs_to: product
        column: sku
        table: products
        primary_key: sku
        fields: [{text: name, required: true}]
  - {count: itemCount, table: items, foreign_key: order_id}
  - {count: parts, table: parts, foreign_key: order_id}
"""

CUSTOMERS = """\
version: 1
table: customers
primary_key: id
fields:
  - {text: name, required: true}
"""


@pytest.fixture(scope="module")
def shop(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The folder of a deployment whose indexes were built once, and its database."""
    name = postgres.create_database()
    database = Database(postgres, name)
    database.execute(DDL)
    folder = tmp_path_factory.mktemp("shop")
    for index, text in (("orders", ORDERS), ("customers", CUSTOMERS)):
        (folder / f"{index}.schema.yml").write_text(text)
    slot = f"shown_{name}"[:60]
    config: Dict[str, Any] = {
        "source": {"type": "postgres", "connection_url": database.url, "slot": slot, "publication": slot},
        "server": {"public_address": "127.0.0.1:0"},
        "sinks": {"file": {"type": "sqlite", "path": "out.sqlite"}},
        "index": [{"name": index, "schema": f"{index}.schema.yml"} for index in ("orders", "customers")],
    }
    (folder / "flusso.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen([str(FLUSSOD), "run", "-c", str(folder / "flusso.yaml")], stderr=subprocess.DEVNULL)
    sink = SqliteSink("reader", SqliteSettings(str(folder / "out.sqlite")))

    def read() -> bool:
        if not (folder / "out.sqlite").exists():
            return False
        found = sink.generations()
        return all(any(one.state == "read" for one in found.get(index, ())) for index in ("orders", "customers"))

    try:
        wait_for(read, 90, "both indexes are read")
    finally:
        process.terminate()
        process.wait(60)
    # What the stopped daemon has not heard of.
    database.execute(
        "UPDATE items SET price = 1.75 WHERE order_id = 10 AND line = 1; DELETE FROM items WHERE order_id = 12;"
        " DELETE FROM orders WHERE id = 12; INSERT INTO orders VALUES (13, NULL, E'new\\nline')"
    )
    yield folder, database
    postgres.drop_database(name)


def command(shop: Any, *arguments: str) -> Result:
    folder: Path = shop[0]
    answer = CliRunner().invoke(flussod, [arguments[0], "-c", str(folder / "flusso.yaml"), *arguments[1:]])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer


def in_json(shop: Any, *arguments: str) -> Dict[str, Any]:
    answer = command(shop, *arguments, "--format", "json")
    found: Dict[str, Any] = json.loads(answer.stdout, parse_float=Decimal)
    return found


# -- preview ---------------------------------------------------------------------------------------------------


def test_the_same_document_is_said_to_be_the_same(shop: Any) -> None:
    answer = command(shop, "preview", "orders", "11")
    assert answer.exit_code == 0 and "✓ sink file has the same" in answer.output
    assert '"name": "Lamp"' in answer.output
    report = in_json(shop, "preview", "orders", "11")
    assert report["same"] is True and report["differences"] == [] and report["built"] == report["indexed"]


def test_what_differs_is_named_with_both_values(shop: Any) -> None:
    report = in_json(shop, "preview", "orders", "10")
    assert report["differences"] == [{"path": "items[0].price", "built": "1.75", "indexed": "1.50"}]
    assert report["built"]["items"][0]["price"] == Decimal("1.75") and report["same"] is False
    answer = command(shop, "preview", "orders", "10")
    lines = answer.output.splitlines()
    assert "✗ sink file has another" in answer.output
    assert '-      "price": 1.50,' in lines and '+      "price": 1.75,' in lines


def test_only_the_rows_or_only_the_index_has_it(shop: Any) -> None:
    new = in_json(shop, "preview", "orders", "13")
    assert new["indexed"] is None and new["built"]["note"] == "new\nline"
    assert "sink file has no such document" in command(shop, "preview", "orders", "13").output
    gone = in_json(shop, "preview", "orders", "12")
    assert gone["built"] is None and gone["indexed"]["id"] == 12
    assert "the rows make no document" in command(shop, "preview", "orders", "12").output


def test_neither_has_it(shop: Any) -> None:
    for id in ("99", "no number", "-1"):
        answer = command(shop, "preview", "orders", "--", id)
        assert answer.exit_code == 1 and "has none" in answer.output, answer.output
    assert command(shop, "preview", "ordres", "1").exit_code == 2


@pytest.mark.parametrize(
    ("built", "indexed", "paths"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a[1]"]),
        ({"a": None}, {}, ["a"]),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 2}]}}, ["a.b[0].c"]),
        ({"a": 1}, {"z": 1}, ["a", "z"]),
    ],
)
def test_differences_are_paths(built: Any, indexed: Any, paths: List[str]) -> None:
    assert [one.path for one in differences(built, indexed)] == paths


# -- explain ---------------------------------------------------------------------------------------------------


def ways(report: Dict[str, Any]) -> Dict[Any, Any]:
    return {(way["index"], *way["fields"]): way for way in report["ways"]}


def test_a_row_that_is_shown_in_several_indexes(shop: Any) -> None:
    found = ways(in_json(shop, "explain", "customers", "1"))
    assert found["customers",]["documents"] == ["1"]
    shown = found["orders", "customer"]
    assert sorted(shown["documents"]) == ["10", "11"] and shown["hops"] == [
        "public.orders(customer_id) = public.customers(id)"
    ]


def test_a_child_with_a_key_of_two_columns(shop: Any) -> None:
    report = in_json(shop, "explain", "items", "10:1")
    (way,) = report["ways"]
    assert (report["primary_key"], report["exists"]) == (["order_id", "line"], True)
    assert way["fields"] == ["items", "itemCount"] and way["documents"] == ["10"]
    # The foreign key is the document's key: no query is needed.
    assert way["statement"] is None and way["columns"] == ["order_id"]
    assert "found without a query" in command(shop, "explain", "items", "10:1").output


def test_two_steps_away_the_statement_is_shown_and_does_what_it_says(shop: Any) -> None:
    report = in_json(shop, "explain", "products", "A:1")
    (way,) = report["ways"]
    assert sorted(way["documents"]) == ["10", "11"] and way["fields"] == ["items.product"]
    database: Database = shop[1]
    statement = way["statement"].replace("$1", "ARRAY['A:1']")
    assert sorted(database.execute(statement)) == [("10",), ("11",)]
    assert way["statement"] in command(shop, "explain", "products", "A:1").output


def test_a_partition_is_a_part_of_its_table(shop: Any) -> None:
    report = in_json(shop, "explain", "parts_1", "1")
    assert report["table"] == "public.parts" and ways(report)["orders", "parts"]["documents"] == ["10"]


def test_without_a_key_no_row_is_read(shop: Any) -> None:
    report = in_json(shop, "explain", "public.products")
    assert report["exists"] is None and [way["documents"] for way in report["ways"]] == [None]


def test_rows_and_tables_that_are_not_there(shop: Any) -> None:
    assert in_json(shop, "explain", "customers", "77")["exists"] is False
    for arguments, sentence in [
        (("log", "1"), "no index uses table public.log"),
        (("customers", "x"), "is no key of"),
        (("items", "1"), "its primary key is (order_id, line)"),
    ]:
        answer = command(shop, "explain", *arguments)
        assert answer.exit_code == 2 and sentence in answer.output, answer.output
    assert command(shop, "explain", "no table").exit_code == 2

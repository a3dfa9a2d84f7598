"""``bin/bench`` measures what it says, and refuses to time what is wrong."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.bench import shop
from tests.fix_daemon import CHECKOUT, clean_environment
from tests.postgres_server import Database


def test_shop_has_the_same_rows_everywhere_and_its_links_are_indexed(database: Database) -> None:
    with database.connect() as connection:
        rows = shop.fill(connection, 100)
    assert rows == shop.Size(users=100, products=40, orders=300, items=600)
    sums = {
        table: database.execute(f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY id)) FROM {table} t")[0]
        for table in ("products", "items")
    }
    assert sums == {
        "products": (40, "02b00a24c6e744258b4bac7b4bfced14"),
        "items": (600, "06435556ee115ee19d9d83cb3df93859"),
    }
    indexed = database.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
        " WHERE i.indrelid IN ('orders'::regclass, 'items'::regclass) AND NOT i.indisprimary ORDER BY 1"
    )
    assert indexed == [("order_id",), ("product_id",), ("user_id",)]
    insert = "INSERT INTO users (email, name, country, plan) VALUES ('a', 'b', 'AT', 'pro') RETURNING id"
    assert database.execute(insert) == [(101,)]


@pytest.mark.opensearch
@pytest.mark.slow
def test_a_small_run_gives_ratios_side_by_side(opensearch: str) -> None:
    command = [str(CHECKOUT / "bin" / "bench"), "--users", "300", "--only", "orders,all", "--json"]
    command += ["--node", opensearch]
    ran = subprocess.run(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    assert ran.returncode == 0, ran.stderr.decode()
    runs = json.loads(ran.stdout)["runs"]
    assert {name: figures["documents"] for name, figures in runs.items()} == {"orders": 900, "all": 1320}
    for figures in runs.values():
        lower = min(figures["copy_per_second"], figures["bulk_per_second"])
        assert figures["of_lower_ceiling"] == pytest.approx(figures["documents_per_second"] / lower, rel=0.05)

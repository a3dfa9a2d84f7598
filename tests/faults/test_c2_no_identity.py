"""Fault C2: a table without an identity.  Published as it is, it would refuse its application's UPDATE and DELETE; that
never happens, whoever prepared what."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.rig import OwnCase
from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

TABLES = """
    CREATE TABLE shops (id integer PRIMARY KEY, name text);
    CREATE TABLE visits (shop_id integer, who text);                        -- no key at all
    CREATE TABLE sales (shop_id integer, day date NOT NULL, amount integer) PARTITION BY RANGE (day);
    CREATE TABLE sales_2024 PARTITION OF sales FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE sales_rest PARTITION OF sales DEFAULT;
    CREATE INDEX ON visits (shop_id); CREATE INDEX ON sales (shop_id);
    INSERT INTO shops SELECT n, 'shop ' || n FROM generate_series(1, 20) n;
    INSERT INTO visits SELECT n % 20 + 1, 'guest ' || n FROM generate_series(1, 100) n;
    INSERT INTO sales SELECT n % 20 + 1, date '2024-06-01' + n * 7, n FROM generate_series(1, 100) n;
"""
SCHEMA = {
    "version": 1,
    "table": "shops",
    "primary_key": "id",
    "fields": [
        {"integer": "id", "required": True},
        {"text": "name", "required": False},
        {"count": "visits", "table": "visits", "foreign_key": "shop_id"},
        {"sum": "sold", "table": "sales", "column": "amount", "value_type": "long", "foreign_key": "shop_id"},
    ],
}
CHANGES = """
    UPDATE visits SET shop_id = shop_id % 20 + 1 WHERE who LIKE '%3';
    DELETE FROM visits WHERE who LIKE '%7';
    UPDATE sales SET shop_id = shop_id % 20 + 1, amount = amount + 1 WHERE amount % 3 = 0;
    UPDATE sales SET day = day + 400 WHERE amount % 5 = 0;
    DELETE FROM sales WHERE amount % 7 = 0;
"""


def test_tables_without_a_key_are_given_an_identity_before_they_are_published(
    deploy: MakeDeployment, tmp_path: Path
) -> None:
    deployment = deploy(OwnCase(tmp_path, TABLES, {"shops": SCHEMA}))
    deployment.start()
    deployment.database.execute(CHANGES)
    deployment.settle()
    deployment.database.execute(CHANGES)
    deployment.settle()
    deployment.assert_right()
    found = dict(
        deployment.database.execute(
            "SELECT relname, relreplident FROM pg_class"
            " WHERE relname IN ('visits', 'sales', 'sales_2024', 'sales_rest')"
        )
    )
    # Leaves are published one by one, so the parent's own identity stays as it was.
    assert found == {"visits": "f", "sales": "d", "sales_2024": "f", "sales_rest": "f"}


@pytest.mark.parametrize("nothing", ["visits", "sales_2024"])
def test_an_identity_of_nothing_that_somebody_chose_is_named_and_never_published(
    deploy: MakeDeployment, tmp_path: Path, nothing: str
) -> None:
    deployment = deploy(OwnCase(tmp_path, TABLES, {"shops": SCHEMA}))
    deployment.database.execute(f"ALTER TABLE {nothing} REPLICA IDENTITY NOTHING")
    daemon = deployment.start()
    assert daemon.wait(60) == 4
    assert f'ALTER TABLE "public"."{nothing}" REPLICA IDENTITY FULL' in daemon.log
    assert not deployment.database.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot])
    deployment.database.execute(CHANGES)
    # Whoever accepts that it is not heard runs without it, and its application is never refused.
    deployment.config["source"]["on_blind_table"] = "warn"
    daemon = deployment.restart_anew()
    deployment.settle()
    status = daemon.status()
    assert status["indexes"] == {"shops": "blind"}
    assert f"public.{nothing}" in status["index_details"]["shops"]["blind"][0]
    deployment.database.execute(CHANGES)
    members = {
        name for (name,) in deployment.database.execute("SELECT prrelid::regclass::text FROM pg_publication_rel")
    }
    assert members == {"shops", "visits", "sales_2024", "sales_rest"} - {nothing}
    # Once it tells, what was not heard is built anew.
    deployment.database.execute(f"ALTER TABLE {nothing} REPLICA IDENTITY FULL")
    daemon.wait_for_status(lambda s: s["indexes"] == {"shops": "seeded"} and s["phase"] == "live", 90)
    deployment.settle()
    deployment.assert_right()

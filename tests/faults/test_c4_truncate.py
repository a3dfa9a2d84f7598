"""Fault C4: TRUNCATE of every kind, of one table or many, with rows after it in its transaction, during a build."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest

from tests.cases import BEYOND
from tests.deployment import Deployment, wait_for_file
from tests.faults.conftest import Heals
from tests.fix_deployment import MakeDeployment
from tests.test_promises import block, expect

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

KEEP = """
    CREATE SCHEMA kept;
    CREATE TABLE kept.users AS TABLE users; CREATE TABLE kept.orders AS TABLE orders;
    CREATE TABLE kept.items AS TABLE items; CREATE TABLE kept.products AS TABLE products;
"""

REFILL = """
    INSERT INTO users TABLE kept.users ON CONFLICT DO NOTHING;
    INSERT INTO products TABLE kept.products ON CONFLICT DO NOTHING;
    INSERT INTO orders TABLE kept.orders ON CONFLICT DO NOTHING;
    INSERT INTO items TABLE kept.items ON CONFLICT DO NOTHING;
"""

#: In this order, each with the rows put back after it.
TRUNCATES = {
    "a root": "TRUNCATE products",
    "a child that is a junction, too": "TRUNCATE items",
    "a table and what hangs on it": "TRUNCATE users CASCADE",
    "several at once": "TRUNCATE orders, items, products",
    "rows before and after it in one transaction": """
        BEGIN;
        INSERT INTO items SELECT id + 500000, order_id, product_id, 77, price FROM items;
        UPDATE orders SET status = 'sent';
        TRUNCATE orders, items;
        INSERT INTO orders SELECT id, user_id, 'new', placed_at FROM kept.orders WHERE id % 2 = 0;
        INSERT INTO items SELECT id, order_id, product_id, 5, price FROM kept.items WHERE order_id % 2 = 0;
        DELETE FROM items WHERE id % 3 = 0;
        COMMIT
    """,
    "the same table twice": """
        BEGIN; TRUNCATE items; INSERT INTO items TABLE kept.items; TRUNCATE items;
        INSERT INTO items SELECT * FROM kept.items WHERE id % 4 = 0; COMMIT
    """,
    "one that is rolled back": "BEGIN; TRUNCATE users CASCADE; ROLLBACK",
}


def arrive(deployment: Deployment) -> None:
    """What was truncated is confirmed once the next generation is begun; it is right once that is complete."""
    deployment.settle()
    deployment.daemon.wait_for_status(
        lambda s: set(s["indexes"].values()) == {"seeded"} and s["phase"] == "live", 90, "built anew"
    )


def test_every_way_to_truncate_leaves_no_document_of_a_row_that_went(deploy: MakeDeployment, heals: Heals) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    deployment.database.execute(KEEP)
    for title, statement in TRUNCATES.items():
        built = daemon.log.count("building index")
        deployment.database.execute(statement)
        with heals(title):
            arrive(deployment)
        found = deployment.differences()
        assert not found, (title, found)
        if "rolled back" in title:
            assert daemon.log.count("building index") == built
        deployment.database.execute(REFILL)
    arrive(deployment)
    deployment.assert_right()
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_truncate_is_a_change_of_every_row(deploy: MakeDeployment, guarded: bool) -> None:
    deployment = deploy()
    deployment.start([] if guarded else ["truncates_ignored"])
    deployment.settle()
    deployment.database.execute("TRUNCATE items; UPDATE users SET name = name || '!' WHERE id = 1")
    arrive(deployment)
    expect(deployment, guarded)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_what_was_read_before_a_truncate_does_not_reach_the_generation_after_it(
    deploy: MakeDeployment, guarded: bool
) -> None:
    # Given documents that were read, and cannot be written for now
    deployment = deploy()
    daemon = deployment.start([] if guarded else ["truncates_do_not_wait"])
    deployment.settle()
    block(deployment, True)
    deployment.database.execute("UPDATE users SET name = name || ' at last' WHERE id % 2 = 0")
    daemon.wait_for_status(lambda status: bool(status["trouble"]), message="the block is told")
    # When their rows are truncated, and (with the guard off) the next generation begins
    captured = daemon.status()["changes_captured"]
    deployment.database.execute("TRUNCATE users CASCADE; INSERT INTO users VALUES (1, 'a@b', 'one', true, now())")
    daemon.wait_for_status(lambda status: status["changes_captured"] > captured, message="the TRUNCATE arrived")
    if not guarded:
        daemon.wait_for(lambda: daemon.log.count("building index users:") == 2, message="the next generation")
    # Then they are written to the former one alone
    block(deployment, False)
    arrive(deployment)
    expect(deployment, guarded)


@pytest.mark.parametrize(
    "statement", ["TRUNCATE users CASCADE", TRUNCATES["rows before and after it in one transaction"]]
)
def test_a_truncate_during_a_build_begins_it_anew(deploy: MakeDeployment, tmp_path: Path, statement: str) -> None:
    deployment = deploy()
    deployment.database.execute(KEEP)
    gate = tmp_path / "gate.open"
    daemon = deployment.start(["pause_finished_chunks"], gate)
    wait_for_file(gate.with_suffix(".reached"))
    deployment.database.execute(statement)
    position = deployment.position()
    daemon.wait_for(lambda: deployment.confirmed() >= position, 60, "live changes flow while chunks wait")
    gate.touch()
    arrive(deployment)
    deployment.assert_right()
    assert "was truncated" in daemon.log


def test_one_partition_truncated_alone_is_heard(deploy: MakeDeployment) -> None:
    deployment = deploy(BEYOND)
    daemon = deployment.start()
    deployment.settle()
    before: List[str] = []
    for leaf in ("visit_2023", "visit_2024", "visit_other"):
        assert deployment.database.execute(f"SELECT 1 FROM {leaf} LIMIT 1"), leaf
        deployment.database.execute(f"TRUNCATE {leaf}")
        arrive(deployment)
        deployment.assert_right()
        before.append(leaf)
    assert daemon.log.count("table public.visit was truncated") >= len(before)

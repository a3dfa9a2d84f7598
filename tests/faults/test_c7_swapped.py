"""Fault C7: a table swapped by rename, or rewritten as a whole: all of it changed, and no row was in the stream."""

from __future__ import annotations

import pytest

from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.faults.rig import finish, went_on, writing
from tests.fix_deployment import OWNER, MakeDeployment
from tests.test_promises import expect

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

STAGE = """
    CREATE TABLE staged (LIKE products INCLUDING ALL);
    INSERT INTO staged SELECT id, 'new ' || sku, title, price + 1, NULL FROM products WHERE id % 3 > 0;
    INSERT INTO staged VALUES (900001, 'x1', 'never seen before', 3, NULL);
"""
OWN = f"ALTER TABLE staged OWNER TO {OWNER};"
SWAPS = {
    "renamed away": "BEGIN; ALTER TABLE products RENAME TO former; ALTER TABLE staged RENAME TO products; COMMIT",
    "dropped": "BEGIN; DROP TABLE products; ALTER TABLE staged RENAME TO products; COMMIT",
}


def swapped(deployment: Deployment) -> None:
    deployment.daemon.wait_for(
        lambda: deployment.daemon.log.count("building index products:") == 2, 60, "the swap is noticed"
    )
    deployment.daemon.wait_for_status(
        lambda s: set(s["indexes"].values()) == {"seeded"} and s["phase"] == "live", 90, "built anew"
    )
    deployment.settle()


@pytest.mark.parametrize("swap", list(SWAPS))
def test_a_table_swapped_while_live_is_read_anew_and_heard_from_then_on(
    deploy: MakeDeployment, heals: Heals, swap: str
) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    deployment.database.execute(STAGE + OWN)
    deployment.database.execute(SWAPS[swap])
    # Nobody listens to the new table yet.
    deployment.database.execute("UPDATE products SET title = title || ' unheard' WHERE id % 2 = 0")
    with heals(f"swapped, {swap}"):
        swapped(deployment)
    deployment.assert_right()
    deployment.database.execute("UPDATE products SET title = title || ' heard'; DELETE FROM products WHERE id % 5 = 0")
    deployment.settle()
    deployment.assert_right()
    assert daemon.log.count("building index users:") == 1 and "Traceback" not in daemon.log


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_table_swapped_while_stopped_is_found_by_its_oid(deploy: MakeDeployment, guarded: bool) -> None:
    deployment = deploy()
    # Somebody's publication of all tables tells of the new one, too: nothing but its OID says that it is another.
    deployment.database.execute(f"CREATE PUBLICATION {deployment.slot} FOR ALL TABLES")
    guards = [] if guarded else ["shapes_forgotten", "partitions_forgotten"]
    daemon = deployment.start(guards)
    deployment.settle()
    assert daemon.stop() == 0
    deployment.database.execute(STAGE + OWN)
    deployment.database.execute(SWAPS["dropped"])
    deployment.start(guards)
    daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"} and s["phase"] == "live", 90)
    deployment.settle()
    expect(deployment, guarded)


def test_a_table_that_was_swapped_in_and_may_not_be_read_stops_its_indexes_alone(deploy: MakeDeployment) -> None:
    deployment = deploy()
    daemon = deployment.start(["frequent_watch"])
    deployment.settle()
    before = deployment.documents("products")
    deployment.database.execute(STAGE)
    deployment.database.execute(SWAPS["renamed away"])
    daemon.wait_for_status(
        lambda s: s["indexes"] == {"orders": "drifted", "products": "drifted", "users": "seeded"}, 60
    )
    assert "GRANT SELECT ON" in daemon.status()["index_details"]["products"]["todo"]
    deployment.database.execute("UPDATE users SET name = name || '!'")
    deployment.settle()
    deployment.assert_right("users")
    assert deployment.documents("products") == before
    # Who may read it may not yet publish it: with the table given to our role, it is.
    deployment.database.execute(f"ALTER TABLE products OWNER TO {OWNER}")
    swapped(deployment)
    deployment.assert_right()


def test_rewrites_under_load_take_no_row_for_missing(deploy: MakeDeployment, heals: Heals) -> None:
    deployment = deploy(scale=3)
    daemon = deployment.start()
    deployment.settle()
    fewest = {name: len(deployment.documents(name)) for name in ("orders", "products", "users")}
    with writing(deployment, 70, 0.02) as writer:
        for statement in (
            "VACUUM FULL items",
            "CLUSTER orders USING orders_pkey",
            "ALTER TABLE items ALTER quantity TYPE bigint",
            "VACUUM FULL users",
            "ALTER TABLE users ADD COLUMN filler double precision DEFAULT random()",
            "ALTER TABLE items ALTER quantity TYPE integer",
            "VACUUM FULL products",
        ):
            deployment.database.execute(statement)
            went_on(writer)
            for name, fewest_before in fewest.items():
                # The writer deletes some; a read that came back empty would take them all.
                assert len(deployment.documents(name)) > fewest_before // 2, (statement, name)
        with heals("rewrites under load"):
            daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"} and s["phase"] == "live", 120)
        finish(deployment, writer)
    assert not any(state == "drifted" for state in daemon.status()["indexes"].values())

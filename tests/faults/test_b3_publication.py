"""Fault B3: a publication that came late, or lacks a table, an operation or rows: mended, named, or refused."""

from __future__ import annotations

import pytest

from tests.cases import BEYOND
from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.faults.rig import finish, writing
from tests.fix_deployment import OWNER, MakeDeployment
from tests.postgres_server import Database

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def rebuilt(deployment: Deployment, state: str = "seeded") -> None:
    deployment.daemon.wait_for_status(
        lambda s: s["gap"] is None and s["phase"] == "live" and set(s["indexes"].values()) == {state}, 90, "rebuilt"
    )


def test_a_table_dropped_from_the_publication_while_live_comes_back_and_nothing_is_missed(
    deploy: MakeDeployment, heals: Heals
) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    with writing(deployment, 20) as writer:
        deployment.database.execute(f"ALTER PUBLICATION {deployment.slot} DROP TABLE orders, items")
        # What nobody hears: the old parents of these are traced by nothing.
        deployment.database.execute("DELETE FROM items WHERE id % 5 = 0; DELETE FROM orders WHERE id % 7 = 0")
        with heals("a table dropped"):
            daemon.wait_for(lambda: "was altered" in daemon.log, 30, "the watch notices")
            deployment.settle()
            rebuilt(deployment)
        finish(deployment, writer)


@pytest.mark.parametrize("altered", ["while it runs", "while it is stopped"])
def test_a_publication_without_deletes_is_refused_and_once_mended_nothing_is_missing(
    deploy: MakeDeployment, heals: Heals, altered: str
) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    if altered == "while it is stopped":
        assert daemon.stop() == 0
    with writing(deployment, 21) as writer:
        deployment.database.execute(f"ALTER PUBLICATION {deployment.slot} SET (publish = 'insert, update')")
        deployment.database.execute("DELETE FROM items WHERE id % 5 = 0")
        if altered == "while it is stopped":
            deployment.start()
        assert daemon.wait(60) == 4
        mend = "publish = 'insert, update, delete, truncate'"
        assert mend in daemon.log and "Traceback" not in daemon.log
        # Deletes in between were never told; it is known from the record that something may be missing.
        deployment.database.execute(f"ALTER PUBLICATION {deployment.slot} SET ({mend})")
        deployment.start()
        with heals("no deletes"):
            deployment.settle()
            rebuilt(deployment)
        finish(deployment, writer)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        (
            "CREATE PUBLICATION {p} FOR ALL TABLES WITH (publish_via_partition_root)",
            "publish_via_partition_root = false",
        ),
        ("CREATE PUBLICATION {p} FOR TABLE users WHERE (id > 3)", "ADD TABLE"),
        ("CREATE PUBLICATION {p} FOR TABLE users (id)", "ADD TABLE"),
    ],
    ids=["via root", "row filter", "column list"],
)
def test_somebody_elses_publication_that_hides_rows_is_refused_with_what_mends_it(
    deploy: MakeDeployment, statement: str, complaint: str
) -> None:
    deployment = deploy()
    deployment.database.execute(statement.format(p=deployment.slot))
    daemon = deployment.start()
    assert daemon.wait() == 4
    assert complaint in daemon.log and "Traceback" not in daemon.log
    assert not deployment.database.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot])


def test_a_slot_older_than_the_publication_is_replaced(deploy: MakeDeployment) -> None:
    deployment = deploy()
    deployment.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [deployment.slot])
    deployment.database.execute("UPDATE users SET name = name || ' unread'")
    daemon = deployment.start()
    with writing(deployment, 22) as writer:
        deployment.settle()
        finish(deployment, writer)
    assert daemon.status()["gap"] is None


@pytest.mark.parametrize("dropped", ["while it runs", "while it is stopped"])
def test_a_publication_dropped_and_made_again_is_a_gap(deploy: MakeDeployment, heals: Heals, dropped: str) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    if dropped == "while it is stopped":
        assert daemon.stop() == 0
    with writing(deployment, 23) as writer:
        name = deployment.slot
        deployment.database.execute(f"DROP PUBLICATION {name}")
        # Decoding looks it up as of this position, and will find none, however late it is asked.
        deployment.database.execute("DELETE FROM items WHERE id % 5 = 0")
        if dropped == "while it is stopped":
            deployment.database.execute(f"CREATE PUBLICATION {name} FOR TABLE users, orders, items, products")
            deployment.database.execute(f"ALTER PUBLICATION {name} OWNER TO {OWNER}")
            deployment.start()
        with heals("publication dropped"):
            daemon.wait_for(lambda: "gap:" in daemon.log or "was altered" in daemon.log, 60, "it is noticed")
            deployment.settle()
            rebuilt(deployment)
        finish(deployment, writer)


def test_a_partition_attached_and_detached_while_live_is_heard(deploy: MakeDeployment, heals: Heals) -> None:
    deployment = deploy(BEYOND)
    daemon = deployment.start()
    deployment.settle()
    database: Database = deployment.database
    with writing(deployment, 24, 0.02) as writer:
        (row,) = database.execute("SELECT count(*) FROM visit_2023")
        database.execute("ALTER TABLE visit DETACH PARTITION visit_2023")
        with heals("partition detached"):
            daemon.wait_for(lambda: "was altered" in daemon.log, 30, "the watch notices")
            deployment.settle()
            rebuilt(deployment)
        told = daemon.log.count("was altered")
        database.execute(
            "BEGIN; LOCK TABLE visit; DELETE FROM visit_other WHERE day >= '2023-01-01' AND day < '2024-01-01';"
            " ALTER TABLE visit ATTACH PARTITION visit_2023 FOR VALUES FROM ('2023-01-01') TO ('2024-01-01'); COMMIT"
        )
        with heals("partition attached"):
            daemon.wait_for(lambda: daemon.log.count("was altered") > told, 30, "the watch notices")
            deployment.settle()
            rebuilt(deployment)
        members = database.execute("SELECT prrelid::regclass::text FROM pg_publication_rel ORDER BY 1")
        assert ("visit_2023",) in members and ("visit",) not in members
        finish(deployment, writer)


def test_without_the_right_to_publish_the_index_is_blind_everywhere_or_the_run_ends(deploy: MakeDeployment) -> None:
    deployment = deploy()
    name = deployment.slot
    deployment.database.execute(f"CREATE PUBLICATION {name} FOR TABLE users, products, items")
    deployment.database.execute(
        "ALTER TABLE items REPLICA IDENTITY FULL; ALTER TABLE orders REPLICA IDENTITY FULL;"
        "ALTER TABLE users REPLICA IDENTITY FULL; ALTER TABLE products REPLICA IDENTITY FULL"
    )
    # Under stop, the DDL is printed and nothing has happened.
    deployment.config["source"].update(manage_publication=False, on_blind_table="stop")
    daemon = deployment.start()
    assert daemon.wait() == 4
    assert (
        f'ALTER PUBLICATION "{name}" ADD TABLE ONLY "public"."orders"' in daemon.log and "Traceback" not in daemon.log
    )
    # The default of manage_publication: false is to run, and to say what is not heard.
    del deployment.config["source"]["on_blind_table"]
    daemon = deployment.restart_anew()
    deployment.settle()
    status = daemon.status()
    assert "blind" in status["indexes"].values()
    assert any("changes of public.orders are not published" in t["what"] for t in status["trouble"])
    blind = [index for index, state in status["indexes"].items() if state == "blind"]
    for index in blind:
        assert "public.orders" in status["index_details"][index]["blind"][0]
        assert f'flusso_index_state{{index="{index}",state="blind"}} 1' in daemon.get("/metrics")[1].replace(".0", "")
    assert daemon.get("/readyz")[0] == 200
    # Once it is mended by hand, what was not heard is built anew.
    deployment.database.execute("DELETE FROM orders WHERE id % 3 = 0")
    deployment.database.execute(f"ALTER PUBLICATION {name} ADD TABLE orders")
    rebuilt(deployment)
    deployment.settle()
    deployment.assert_right()

"""What is away is waited for, what is wrong is named with its exit code, what is refused is parked or stops."""

from __future__ import annotations

import re
from typing import Any, Callable, Iterator

import psycopg
import pytest

from tests.cases import SHOP
from tests.deployment import Deployment
from tests.fix_daemon import MakeDaemon
from tests.fix_deployment import OWNER, MakeDeployment, as_role, give_to_owner
from tests.fix_proxy import Proxy
from tests.histories import Writer
from tests.oracle.compare import read_opensearch
from tests.postgres_server import Database, PostgresServer, free_port

pytestmark = [pytest.mark.pg, pytest.mark.opensearch]


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/")[0])


def test_opensearch_away_at_the_start_and_later_is_waited_for_and_told_once(
    deploy: MakeDeployment, opensearch_prefix: Any, make_proxy: Callable[[int], Proxy]
) -> None:
    proxy = make_proxy(port_of(opensearch_prefix.url))
    deployment = deploy()
    deployment.config["sinks"]["search"]["url"] = f"http://127.0.0.1:{proxy.port}"
    deployment.config["sinks"]["search"]["timeout_secs"] = 2
    proxy.set("refuse")
    daemon = deployment.start()
    daemon.wait_for_status(lambda s: s["trouble"] and s["phase"] == "starting", message="trouble is told")
    assert daemon.get("/readyz")[0] == 503 and daemon.get("/healthz")[0] == 200
    proxy.set("pass")
    deployment.settle()
    deployment.assert_right()
    for mode in ("refuse", "blackhole"):
        proxy.set(mode)
        if mode == "refuse":
            proxy.drop()
        deployment.database.execute("UPDATE users SET name = name || '~'")
        daemon.wait_for(lambda: daemon.get("/readyz")[0] == 503, 30, "unready")
        proxy.set("pass")
        deployment.settle()
        daemon.wait_for(lambda: daemon.get("/readyz")[0] == 200, 10, "ready again")
        deployment.assert_right()
    assert daemon.log.count("Traceback") == 0
    assert "over:" in daemon.log


def test_postgres_away_at_the_start_is_waited_for(deploy: MakeDeployment, postgres: PostgresServer) -> None:
    deployment = deploy()
    postgres.stop()
    try:
        daemon = deployment.start()
        daemon.wait_for_status(lambda s: s["trouble"] and s["phase"] == "starting", message="trouble is told")
        assert daemon.get("/readyz")[0] == 503
    finally:
        postgres.start()
    deployment.settle()
    deployment.assert_right()
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("mode", ["cut", "blackhole"])
def test_the_connections_to_postgres_come_back(
    deploy: MakeDeployment, database: Database, make_proxy: Callable[[int], Proxy], mode: str
) -> None:
    proxy = make_proxy(port_of(database.url))
    deployment = deploy(source_port=proxy.port)
    deployment.start()
    deployment.settle()
    if mode == "cut":
        proxy.drop()
    else:
        proxy.set("blackhole")
    deployment.database.execute("UPDATE orders SET status = 'late'")
    if mode == "blackhole":
        proxy.set("pass")
    deployment.settle(120)
    deployment.assert_right()


def test_a_missing_database_ends_with_the_sources_exit_code(deploy: MakeDeployment, database: Database) -> None:
    deployment = deploy(source_url=database.url.replace(database.name, "no_such_database"))
    daemon = deployment.start()
    assert daemon.wait() == 4
    assert "no_such_database" in daemon.log and "Traceback" not in daemon.log


def test_a_foreign_owner_is_refused_with_its_exit_code(
    deploy: MakeDeployment, postgres: PostgresServer, make_daemon: MakeDaemon
) -> None:
    deployment = deploy()
    deployment.start()
    deployment.settle()
    assert deployment.daemon.stop() == 0
    # A copy of the configuration over another database, with the same prefix: production's indexes must stay.
    other = Database(postgres, postgres.create_database())
    try:
        give_to_owner(other)
        url = as_role(other.url, OWNER)
        SHOP.load(url)
        staging = Deployment(other, deployment.opensearch, deployment.prefix, SHOP, make_daemon, source_url=url)
        daemon = staging.start()
        assert daemon.wait() == 8
        assert "Traceback" not in daemon.log and "--adopt" in daemon.log
    finally:
        postgres.drop_database(other.name)
    deployment.assert_right()


BAD = "UPDATE users SET email = repeat('x', 600) WHERE id = 3"


def keyed_by_email(deployment: Deployment, folder: Any) -> None:
    """An index whose ids can become too long."""
    path = folder / "mails.schema.yml"
    path.write_text(
        "version: 1\ntable: users\ndoc_id: email\nprimary_key: id\n"
        "fields:\n  - {integer: id, required: true}\n  - {keyword: name, required: false}\n"
    )
    deployment.config["index"] = [{"name": "mails", "schema": str(path)}]
    deployment.database.execute("ALTER TABLE users ALTER email SET NOT NULL")
    deployment.database.execute("ALTER TABLE users ADD CONSTRAINT mail_key UNIQUE (email)")


def test_a_rejected_document_stops_the_daemon_and_nothing_of_its_batch_is_confirmed(
    deploy: MakeDeployment, tmp_path: Any
) -> None:
    deployment = deploy(on_error="stop")
    keyed_by_email(deployment, tmp_path)
    daemon = deployment.start()
    deployment.settle()
    deployment.database.execute(BAD)
    position = deployment.position()
    assert daemon.wait() == 6
    assert "512" in daemon.log and "Traceback" not in daemon.log
    assert deployment.confirmed() < position


def test_a_rejected_document_is_parked_under_skip_and_freed_by_its_row(deploy: MakeDeployment, tmp_path: Any) -> None:
    deployment = deploy(on_error="skip")
    keyed_by_email(deployment, tmp_path)
    daemon = deployment.start()
    deployment.settle()
    deployment.database.execute(BAD)
    deployment.database.execute("UPDATE users SET name = 'the others go on' WHERE id <> 3")
    deployment.settle()
    status = daemon.status()
    assert status["documents_quarantined"] == 1
    found = read_opensearch(deployment.opensearch, deployment.prefix + "mails")
    names = {document["name"] for document in found.values()}
    assert names == {"the others go on"}


def test_a_port_in_use_is_refused_with_a_sentence(deploy: MakeDeployment, make_proxy: Callable[[int], Proxy]) -> None:
    taken = make_proxy(free_port())
    deployment = deploy()
    daemon = deployment.start()
    daemon.stop()
    daemon.arguments += ["--public-address", f"127.0.0.1:{taken.port}"]
    daemon.start()
    assert daemon.wait() == 3
    assert str(taken.port) in daemon.log and "Traceback" not in daemon.log


def test_wrong_credentials_end_with_the_sources_exit_code_and_no_secret_is_told(
    deploy: MakeDeployment, postgres: PostgresServer, database: Database
) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE flusso_wrong LOGIN REPLICATION PASSWORD 'right'")
    postgres.hba("host all flusso_wrong 127.0.0.1/32 scram-sha-256")
    try:
        place = database.url.split("@", 1)[1]
        deployment = deploy(source_url=f"postgresql://flusso_wrong:canary-secret@{place}")
        daemon = deployment.start()
        assert daemon.wait() == 4
        assert "password" in daemon.log
        assert "canary-secret" not in daemon.log and "Traceback" not in daemon.log
    finally:
        postgres.hba()
        database.execute("DROP ROLE flusso_wrong")


def test_a_role_that_may_not_read_is_told_the_grant_before_a_slot_holds_wal(
    deploy: MakeDeployment, database: Database
) -> None:
    role = f"blind_{database.name}"
    deployment = deploy(source_url=database.url.replace("postgres@", f"{role}@"))
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION")
    try:
        daemon = deployment.start()
        assert daemon.wait() == 4
        assert "GRANT SELECT ON" in daemon.log and role in daemon.log and "Traceback" not in daemon.log
        assert not database.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot])
    finally:
        database.execute(f"DROP ROLE {role}")


@pytest.fixture
def reader(database: Database) -> Iterator[str]:
    """A role that may replicate and owns nothing; what it may read is the test's to grant."""
    role = f"reader_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION")
    yield role
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
        [role],
    )
    database.execute(f"DROP OWNED BY {role}")
    database.execute(f"DROP ROLE {role}")


UNMANAGED = {"manage_publication": False, "manage_replica_identity": False}

PUBLISHED = "CREATE PUBLICATION {p} FOR TABLE users, orders, items, products"

MOVES = """
UPDATE items SET order_id = (SELECT min(id) FROM orders) WHERE id % 3 = 0;
DELETE FROM items WHERE id % 5 = 0;
UPDATE orders SET user_id = 1 WHERE id % 4 = 0;
"""


def test_a_role_that_owns_nothing_runs_on_what_others_prepared(deploy: MakeDeployment, reader: str) -> None:
    deployment = deploy(role=reader)
    deployment.config["source"].update(UNMANAGED)
    database = deployment.database
    database.execute(PUBLISHED.format(p=deployment.slot))
    for table in ("users", "orders", "items", "products"):
        database.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL; GRANT SELECT ON {table} TO {reader}")
    daemon = deployment.start()
    deployment.settle()
    with Writer(database.url, 70, SHOP, pause_seconds=0.005) as writer:
        database.execute(MOVES)
        writer.stop()
    deployment.settle()
    deployment.assert_right()
    status = daemon.status()
    assert set(status["indexes"].values()) == {"seeded"} and not status["trouble"], status
    assert daemon.stop() == 0


def test_untraceable_changes_of_a_weak_identity_are_named_and_counted_and_stop_nothing(
    deploy: MakeDeployment, reader: str
) -> None:
    deployment = deploy(role=reader)
    deployment.config["source"].update(UNMANAGED)
    database = deployment.database
    database.execute(PUBLISHED.format(p=deployment.slot))
    database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")
    daemon = deployment.start()
    deployment.settle()
    told = [t for t in daemon.status()["trouble"] if t["what"].startswith("old parents of public.items")]
    assert told and "ALTER TABLE" in told[0]["todo"] and not told[0]["blocking"]
    database.execute("DELETE FROM items WHERE id % 5 = 0")
    deployment.settle()
    status = daemon.wait_for_status(lambda s: s["facts"].get("untraceable_changes"), 20, "they are counted")
    assert status["facts"]["untraceable_changes"]["public.items"] > 0
    metrics = daemon.get("/metrics")[1]
    assert re.search(r"^flusso_untraceable_changes_total [1-9]", metrics, re.MULTILINE)
    assert 'flusso_trouble{key="identity public.items"} 1' in metrics
    assert daemon.get("/readyz")[0] == 200 and set(status["indexes"].values()) == {"seeded"}
    # Mended by hand, it is noticed, and what could not be traced is built anew.
    for table in ("users", "orders", "items", "products"):
        database.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
    daemon.wait_for_status(lambda s: s["phase"] == "live" and not s["trouble"], 60, "nothing is wrong any more")
    deployment.settle()
    daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"}, 60, "rebuilt")
    deployment.settle()
    deployment.assert_right()

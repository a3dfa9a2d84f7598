"""Fault A7: passwords are rotated under a running daemon: read again at each connect, tried slowly."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.faults.conftest import Heals
from tests.faults.front import Asked, Front, failure, wants_password
from tests.faults.rig import backends, finish, terminate, wait_unready, writing
from tests.fix_deployment import OWNER, MakeDeployment
from tests.postgres_server import Database, PostgresServer
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def test_a_password_of_the_source_is_read_again(
    deploy: MakeDeployment, postgres: PostgresServer, database: Database, tmp_path: Path, heals: Heals
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary-first")
    role = f"rotating_{database.name}"
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'canary-first' IN ROLE {OWNER}")
    postgres.hba(f"host all,replication {role} 127.0.0.1/32 scram-sha-256")
    try:
        deployment = deploy()
        deployment.config["source"]["connection_url"] = {
            "host": "127.0.0.1",
            "port": database.server.port,
            "user": role,
            "password": {"file": str(secret)},
            "database": database.name,
        }
        daemon = deployment.start()
        deployment.settle()
        with writing(deployment, 9) as writer:
            database.execute(f"ALTER ROLE {role} PASSWORD 'canary-second'")
            terminate(deployment, backends(deployment))
            wait_unready(daemon)
            refusals = postgres.log.read_text(errors="replace").count(f'failed for user "{role}"')
            # Whoever replaces the file may take it away first, or leave it with an owner that we are not.
            secret.unlink()
            terminate(deployment, backends(deployment))
            wait_unready(daemon, "cannot be read")
            secret.write_text("canary-second")
            with heals("source"):
                deployment.settle(120)
            finish(deployment, writer)
        # Never a tight loop that would lock the account: each connection tries, and then waits.
        assert refusals < 20, refusals
        assert "canary" not in daemon.log
        assert daemon.stop() == 0
    finally:
        postgres.hba()
        wait_for(lambda: not database.execute("SELECT 1 FROM pg_stat_activity WHERE usename = %s", [role]), 10)
        database.execute(f"DROP OWNED BY {role}")
        database.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_of_the_sink_are_read_again(
    deploy: MakeDeployment, front: Front, tmp_path: Path, heals: Heals, status: int
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary-first")
    right = ["canary-first"]
    refused = [0]
    inner = wants_password(lambda: right[0])

    def look(asked: Asked):  # type: ignore[no-untyped-def]
        if inner(asked) is None:
            return None
        refused[0] += 1
        return failure(status, "security_exception")

    front.intercept = look
    deployment = deploy(sink_port=front.port, on_error="skip")
    deployment.config["sinks"]["search"].update(username="flusso", password={"file": str(secret)})
    daemon = deployment.start()
    deployment.settle()
    with writing(deployment, 10, 0.02) as writer:
        right[0] = "canary-second"
        wait_unready(daemon, str(status))
        secret.unlink()
        wait_unready(daemon, "cannot be read")
        secret.write_text("canary-second")
        with heals(f"sink, {status}"):
            deployment.settle(120)
        finish(deployment, writer)
    assert daemon.status()["documents_quarantined"] == 0
    assert 0 < refused[0] < 40, refused
    assert "canary" not in daemon.log

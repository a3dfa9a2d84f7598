"""Faults A1 to A7: the connection to Postgres breaks, hangs, is refused or taken; writers run meanwhile."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Callable, List

import psycopg
import pytest

from tests.cases import SHOP
from tests.deployment import Deployment
from tests.fix_daemon import MakeDaemon
from tests.fix_deployment import MakeDeployment
from tests.fix_proxy import Proxy
from tests.histories import Writer
from tests.postgres_server import Database, PostgresServer
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/")[0])


def through(database: Database, proxy: Proxy) -> str:
    return database.url.replace(f":{port_of(database.url)}/", f":{proxy.port}/")


def backends(deployment: Deployment) -> List[int]:
    rows = deployment.database.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'flusso_sync%' AND datname = current_database()"
    )
    return [row[0] for row in rows]


def test_a1_each_backend_may_be_terminated(deploy: MakeDeployment) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    with Writer(deployment.database.url, 1, SHOP, pause_seconds=0.005) as writer:
        for _ in range(3):
            for pid in backends(deployment):
                deployment.database.execute("SELECT pg_terminate_backend(%s)", [pid])
                daemon.wait_for(lambda: daemon.get("/readyz")[0] == 200, 30, "ready again")
        writer.stop()
    deployment.settle()
    deployment.assert_right()
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a1_a_restart_mid_stream_heals(deploy: MakeDeployment, postgres: PostgresServer, mode: str) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    with Writer(deployment.database.url, 2, SHOP, pause_seconds=0.002) as writer:
        daemon.wait_for_status(lambda s: s["changes_committed"] > 20)
        postgres.restart(mode)
        writer.stop()
    deployment.settle()
    deployment.assert_right()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a2_a_fast_shutdown_is_not_held_up_by_us(deploy: MakeDeployment, postgres: PostgresServer, busy: bool) -> None:
    deployment = deploy()
    deployment.start()
    deployment.settle()
    if busy:
        deployment.database.execute("UPDATE items SET quantity = quantity + 1")
    started = time.monotonic()
    postgres.stop("fast")
    seconds = time.monotonic() - started
    postgres.start()
    assert seconds < 10
    deployment.settle()
    deployment.assert_right()


def test_a4_a_stopped_walsender_makes_unready_and_heals(deploy: MakeDeployment) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    (row,) = deployment.database.execute(
        "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot]
    )
    os.kill(row[0], signal.SIGSTOP)
    try:
        deployment.database.execute("UPDATE users SET name = name || ' while it slept'")
        daemon.wait_for(lambda: daemon.get("/readyz")[0] == 503, 60, "unready while the walsender sleeps")
        daemon.wait_for(lambda: str(row[0]) in daemon.get("/readyz")[1], 60, "its pid is named")
    finally:
        os.kill(row[0], signal.SIGCONT)
    deployment.settle(120)
    deployment.assert_right()


def test_a5_a_slow_sink_does_not_cut_the_stream(
    deploy: MakeDeployment, postgres: PostgresServer, opensearch_prefix: Any, make_proxy: Callable[[int], Proxy]
) -> None:
    proxy = make_proxy(port_of(opensearch_prefix.url))
    deployment = deploy(sink_url=f"http://127.0.0.1:{proxy.port}", engine={"queue_capacity": 50, "batch_changes": 20})
    postgres.set(wal_sender_timeout="2s")
    try:
        daemon = deployment.start()
        deployment.settle()
        pid = deployment.database.execute(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot]
        )[0][0]
        proxy.set("blackhole")
        for _ in range(20):
            deployment.database.execute("UPDATE items SET quantity = quantity + 1")
        stalled_until = time.monotonic() + 8
        # A stall is a length of time: four times what the server allows.
        wait_for(lambda: time.monotonic() > stalled_until, 20)
        again = deployment.database.execute(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot]
        )[0][0]
        assert again == pid, "the walsender was cut off although we were only slow"
        proxy.set("pass")
        deployment.settle(120)
        assert "replication timeout" not in daemon.log
        deployment.assert_right()
    finally:
        postgres.set(wal_sender_timeout="60s")


def test_a6_the_holder_behind_a_black_hole_is_replaced(
    deploy: MakeDeployment,
    postgres: PostgresServer,
    make_daemon: MakeDaemon,
    make_proxy: Callable[[int], Proxy],
    database: Database,
) -> None:
    postgres.set(wal_sender_timeout="5s")
    proxy = make_proxy(port_of(database.url))
    deployment = deploy(source_url=through(database, proxy))
    first = deployment.start()
    deployment.settle()
    proxy.set("blackhole")
    direct = {**deployment.config, "source": {**deployment.config["source"], "connection_url": database.url}}
    # It reaches the same database at another address, which counts as another owner unless it is told.
    second = make_daemon(direct, None, "--adopt", name="second")
    second.wait_for_status(lambda s: s["trouble"], message="it says whom it waits for")
    first.kill()
    deployment.database.execute("DELETE FROM orders WHERE id % 6 = 0")
    deployment._daemon = second
    try:
        deployment.settle(120)
        deployment.assert_right()
    finally:
        postgres.set(wal_sender_timeout="60s")


def test_a7_rotated_credentials_are_read_again(
    deploy: MakeDeployment, postgres: PostgresServer, database: Database, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("first")
    role = f"rotating_{database.name}"
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'first'")
    postgres.hba(f"host all,replication {role} 127.0.0.1/32 scram-sha-256")
    try:
        deployment = deploy()
        deployment.config["source"]["connection_url"] = {
            "host": "127.0.0.1",
            "port": port_of(database.url),
            "user": role,
            "password": {"file": str(secret)},
            "database": database.name,
        }
        daemon = deployment.start()
        deployment.settle()
        deployment.database.execute(f"ALTER ROLE {role} PASSWORD 'second'")
        for pid in backends(deployment):
            deployment.database.execute("SELECT pg_terminate_backend(%s)", [pid])
        daemon.wait_for(lambda: daemon.get("/readyz")[0] == 503, 30, "unready with the old password")
        deployment.database.execute("UPDATE users SET name = name || '?'")
        secret.write_text("second")
        deployment.settle(120)
        deployment.assert_right()
        assert daemon.stop() == 0
    finally:
        postgres.hba()
        wait_for(lambda: not database.execute("SELECT 1 FROM pg_stat_activity WHERE usename = %s", [role]), 10)
        database.execute(f"DROP OWNED BY {role}")
        database.execute(f"DROP ROLE {role}")

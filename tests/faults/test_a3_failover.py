"""Fault A3: a standby is promoted in place of the primary, with our slot on it or without."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from pathlib import Path
from typing import Any, Iterator, Tuple

import pytest

from tests.cases import SHOP
from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.faults.rig import wait_ready, went_on, writing
from tests.fix_daemon import MakeDaemon
from tests.fix_deployment import OWNER, as_role, create_owner, give_to_owner
from tests.fix_proxy import Proxy
from tests.postgres_server import (
    BIN_VARIABLE,
    Database,
    PostgresServer,
    make_folder,
    start_postgres,
    version_of,
    wheel_binaries,
)
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

STANDBY = "standby"


def newest_binaries() -> Path:
    """The newest Postgres at hand, the wheel's included: failover slots came with 17."""
    found = [Path(folder) for folder in glob.glob("/usr/lib/postgresql/*/bin")]
    wheel = wheel_binaries()
    if wheel is not None:
        found.append(wheel)
    whole = [folder for folder in found if (folder / "pg_basebackup").exists() and (folder / "initdb").exists()]
    return max(whole, key=version_of, default=Path("/nowhere"))


@contextlib.contextmanager
def standby_of(primary: PostgresServer, failover: bool) -> Iterator[PostgresServer]:
    """A streaming standby of ``primary``, started."""
    folder = make_folder("flusso-standby-")
    standby = PostgresServer(folder, primary._binaries, primary._owner)
    try:
        if primary._owner is not None:
            os.chown(folder, primary._owner.pw_uid, primary._owner.pw_gid)
        place = f"{primary.conninfo()}"
        command = [str(primary._binaries / "pg_basebackup"), "-D", str(standby.data), "-d", place]
        command += ["-R", "-X", "stream", "-c", "fast", "--no-sync", "-C", "-S", STANDBY]
        with open(folder / "backup.log", "wb") as log:
            process = standby._popen(command, log)
            assert process.wait(120) == 0, (folder / "backup.log").read_text()
        if failover:
            settings = {"sync_replication_slots": "on", "hot_standby_feedback": "on", "primary_conninfo": place}
            lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
            with open(standby.data / "postgresql.auto.conf", "a") as file:
                file.write(lines)
        standby.choose_port()
        standby.start()
        yield standby
    finally:
        standby.stop("fast")
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replicated(failover: bool) -> Iterator[Tuple[PostgresServer, PostgresServer]]:
    settings = {"synchronized_standby_slots": STANDBY} if failover else {}
    with start_postgres() as primary:
        with standby_of(primary, failover) as standby:
            if failover:
                # Only now: without that standby nothing would be streamed at all.
                primary.set(**settings)
            yield primary, standby


@pytest.mark.parametrize("failover", [True, False], ids=["synced slot", "no slot"])
def test_a_promoted_standby_goes_on_with_its_slot_and_is_a_gap_without(
    opensearch_prefix: Any, make_daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch, heals: Heals, failover: bool
) -> None:
    if failover:
        binaries = newest_binaries()
        monkeypatch.setenv(BIN_VARIABLE, str(binaries))
    with replicated(failover) as (primary, standby), Proxy(primary.port) as proxy:
        if failover and primary._one("SELECT current_setting('server_version_num')::int") < 170000:
            pytest.skip("failover slots came with Postgres 17")
        create_owner(primary)
        database = Database(primary, primary.create_database())
        give_to_owner(database)
        SHOP.load(as_role(database.url, OWNER))
        proxied = database.url.replace(f":{primary.port}/", f":{proxy.port}/")
        deployment = Deployment(
            database,
            opensearch_prefix.url,
            opensearch_prefix.prefix,
            SHOP,
            make_daemon,
            source_url=as_role(proxied, OWNER),
        )
        deployment.config["source"]["failover_slot"] = failover
        daemon = deployment.start()
        deployment.settle()
        with writing(deployment, 3, url=proxied) as writer:
            if failover:
                synced = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND synced AND NOT temporary"
                with standby.connect() as connection:
                    wait_for(lambda: connection.execute(synced, [deployment.slot]).fetchall(), 90, "the slot is synced")
            # When the primary crashes and the standby takes its place
            primary.stop("immediate")
            standby._one("SELECT pg_promote()")
            proxy.target = ("127.0.0.1", standby.port)
            proxy.drop()
            deployment.database = Database(standby, database.name)
            with heals():
                went_on(writer)
                daemon.wait_for_status(lambda s: s["phase"] == "live", 90)
                deployment.settle()
                wait_ready(daemon)
            counts = writer.stop()
            assert counts["disconnected"] and counts["transactions"]
        # Then nothing is missing; and without the slot it is said that something was, and everything is built anew
        daemon.wait_for_status(lambda s: s["gap"] is None and set(s["indexes"].values()) == {"seeded"}, 90, "built")
        deployment.settle()
        deployment.assert_right()
        assert ("gap:" in daemon.log) is not failover
        assert "Traceback" not in daemon.log
        assert daemon.stop() == 0

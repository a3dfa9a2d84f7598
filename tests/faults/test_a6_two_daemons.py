"""Fault A6: two daemons on one slot: the second one does nothing but wait, and takes over when the first is gone."""

from __future__ import annotations

from typing import Callable

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import finish, status_of, writing
from tests.fix_daemon import MakeDaemon
from tests.fix_deployment import OWNER, MakeDeployment, as_role
from tests.fix_proxy import Proxy
from tests.postgres_server import Database, PostgresServer

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def test_the_second_takes_over_when_the_first_is_killed(
    deploy: MakeDeployment, make_daemon: MakeDaemon, heals: Heals
) -> None:
    deployment = deploy()
    first = deployment.start()
    deployment.settle()
    second = make_daemon(deployment.config, None, name="second")
    with writing(deployment, 7) as writer:
        second.wait_for_status(lambda s: "another daemon holds slot" in str(s["trouble"]), message="it says for whom")
        assert status_of(second) == 503 and status_of(first) == 200
        assert second.status()["documents_built"] == 0
        first.kill()
        deployment._daemon = second
        with heals("kill -9"):
            deployment.settle()
        finish(deployment, writer)


def test_the_second_takes_over_when_the_first_is_behind_a_black_hole(
    deploy: MakeDeployment,
    impatient_server: PostgresServer,
    make_daemon: MakeDaemon,
    make_proxy: Callable[[int], Proxy],
    database: Database,
    heals: Heals,
) -> None:
    proxy = make_proxy(database.server.port)
    deployment = deploy(source_port=proxy.port)
    first = deployment.start()
    deployment.settle()
    with writing(deployment, 8, 0.02) as writer:
        # A proxy still answers TCP keepalives for it.
        proxy.set("blackhole")
        direct = {"connection_url": as_role(database.url, OWNER)}
        config = {**deployment.config, "source": {**deployment.config["source"], **direct}}
        # It reaches the same database at another address, which counts as another owner unless it is told.
        second = make_daemon(config, None, "--adopt", name="second")
        second.wait_for_status(lambda s: s["trouble"], message="it says whom it waits for")
        # The first one holds the sink's lease for as long as it lives; so it dies, and its sessions do not.
        first.kill()
        deployment._daemon = second
        with heals("black hole"):
            deployment.settle(120)
        finish(deployment, writer)

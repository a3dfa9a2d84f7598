"""Fault A1: Postgres restarts mid-stream, or ends one of our sessions; each of them comes back by itself."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import backends, finish, terminate, wait_ready, writing
from tests.fix_deployment import MakeDeployment
from tests.postgres_server import PostgresServer

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def test_restarts_and_ended_sessions_heal(deploy: MakeDeployment, postgres: PostgresServer, heals: Heals) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    with writing(deployment, 1) as writer:
        for pid in backends(deployment):
            terminate(deployment, [pid])
            with heals("one session"):
                wait_ready(daemon)
                deployment.settle()
        for mode in ("fast", "immediate"):
            postgres.restart(mode)
            with heals(f"restart -m {mode}"):
                deployment.settle()
                wait_ready(daemon)
        finish(deployment, writer)
    # "starting up" and "shutting down" are nothing to end for, nor is a lost session.
    assert daemon.status()["errors"] == 0

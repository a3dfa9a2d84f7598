"""Fault A2: a fast shutdown waits until the stream has confirmed everything; we do not hold it up."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import writing
from tests.fix_deployment import MakeDeployment
from tests.postgres_server import PostgresServer

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def test_a_fast_shutdown_ends_within_seconds_idle_and_busy(
    deploy: MakeDeployment, postgres: PostgresServer, heals: Heals
) -> None:
    deployment = deploy()
    deployment.start()
    deployment.settle()
    for what in ("idle", "busy"):
        with writing(deployment, 2, 0.001) as writer:
            if what == "idle":
                writer.stop()
                deployment.settle()
            else:
                deployment.database.execute("UPDATE items SET quantity = quantity + 1")
            started = time.monotonic()
            postgres.stop("fast")
            seconds = time.monotonic() - started
            postgres.start()
            assert seconds < 10, f"{what}: it took {seconds:.1f} s"
            with heals(what):
                deployment.settle()
            writer.stop()
    deployment.settle()
    deployment.assert_right()

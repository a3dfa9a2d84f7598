"""Fault A5: being slow is no reason to be cut off: feedback has a clock of its own."""

from __future__ import annotations

import time
from typing import Callable

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import LONG, finish, port_of, walsender, writing
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.fix_proxy import Proxy
from tests.postgres_server import PostgresServer
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

STALL_SECONDS = 60.0 if LONG else 6.0


def test_a_stalled_sink_and_a_full_queue_do_not_end_the_stream(
    deploy: MakeDeployment,
    postgres: PostgresServer,
    opensearch_prefix: Prefix,
    make_proxy: Callable[[int], Proxy],
    heals: Heals,
) -> None:
    proxy = make_proxy(port_of(opensearch_prefix.url))
    deployment = deploy(sink_port=proxy.port, engine={"queue_capacity": 50, "batch_changes": 20})
    postgres.set(wal_sender_timeout="2s")
    try:
        daemon = deployment.start()
        deployment.settle()
        with writing(deployment, 6) as writer:
            pid = walsender(deployment)
            proxy.set("blackhole")
            for _ in range(10):
                # The other writer must not be in the middle of its rows, or one of both would be a deadlock's victim.
                deployment.database.execute(
                    "BEGIN; LOCK TABLE items IN EXCLUSIVE MODE; UPDATE items SET quantity = quantity + 1; COMMIT"
                )
            # A stall is a length of time: some times what the server allows.
            until = time.monotonic() + STALL_SECONDS
            wait_for(lambda: time.monotonic() > until, STALL_SECONDS + 10)
            assert walsender(deployment) == pid, "the walsender was cut off although we were only slow"
            proxy.set("pass")
            with heals(f"{STALL_SECONDS:.0f} s of stall"):
                deployment.settle(180)
            finish(deployment, writer)
        assert "replication timeout" not in daemon.log
    finally:
        postgres.set(wal_sender_timeout="60s")

"""Fault A4: connections that are open and dead, and that something in between keeps answering for."""

from __future__ import annotations

import os
import signal
from typing import Callable

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import LONG, finish, is_query, is_stream, wait_ready, wait_unready, walsender, went_on, writing
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.fix_proxy import Proxy
from tests.postgres_server import PostgresServer

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

#: By default the silences after which something counts as dead are shorter than those of the package.
QUICK = [] if LONG else ["short_silences"]

#: The stream gives up after 30 s of silence, and the server keeps the slot for its dead walsender up to 60 s; SQL gives
#: up after twice statement_timeout_secs and 10 s, HTTP after timeout_secs.
BOUNDS = {"stream": 60.0 if LONG else 6.0, "query": 2 * 2 + (10.0 if LONG else 2.0), "sink": 3.0}


@pytest.mark.parametrize("which", list(BOUNDS))
def test_a_dead_connection_is_given_up_within_its_bound(
    deploy: MakeDeployment,
    make_proxy: Callable[[int], Proxy],
    opensearch_prefix: Prefix,
    impatient_server: PostgresServer,
    heals: Heals,
    which: str,
) -> None:
    source = make_proxy(impatient_server.port)
    sink = make_proxy(int(opensearch_prefix.url.rsplit(":", 1)[1]))
    deployment = deploy(source_port=source.port, sink_port=sink.port)
    deployment.config["source"]["statement_timeout_secs"] = 2
    deployment.config["sinks"]["search"]["timeout_secs"] = 3
    daemon = deployment.start(QUICK)
    deployment.settle()
    with writing(deployment, 4) as writer:
        # Every connection there will be is there.
        daemon.wait_for_status(lambda s: s["changes_committed"] > 20, 60)
        if which == "sink":
            frozen = sink.freeze()
        else:
            frozen = source.freeze(is_stream if which == "stream" else is_query)
        assert frozen
        went_on(writer)
        with heals(f"{which}, bound {BOUNDS[which]:.0f} s"):
            # Whoever noticed at once was not behind the black hole.
            deployment.settle(BOUNDS[which] + 45)
            wait_ready(daemon)
        finish(deployment, writer)


def test_a_stopped_walsender_makes_unready_and_heals(deploy: MakeDeployment, heals: Heals) -> None:
    deployment = deploy()
    daemon = deployment.start(QUICK)
    deployment.settle()
    with writing(deployment, 5, 0.02) as writer:
        pid = walsender(deployment)
        os.kill(pid, signal.SIGSTOP)
        try:
            # It keeps the slot, even when it is terminated: so it must be named.
            wait_unready(daemon, str(pid), 90)
        finally:
            os.kill(pid, signal.SIGCONT)
        with heals("walsender stopped"):
            deployment.settle()
            wait_ready(daemon)
        finish(deployment, writer)

"""Fault E4: TERM, INT, TERM twice and HUP in each phase: the end comes in time, with its code, and leaves nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Callable

import pytest

from tests.deployment import Deployment, wait_for_file
from tests.faults.conftest import Heals
from tests.faults.rig import backends, finish, port_of, writing
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.fix_proxy import Proxy
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

PHASES = ["starting", "backfilling", "live", "sink away"]

#: The promise is five seconds; a loaded machine has its own idea of them.
END_SECONDS = 20.0


def begin(deployment: Deployment, proxy: Proxy, phase: str, gate: Path) -> None:
    """Start the daemon and bring it to where it cannot leave ``phase`` by itself."""
    proxy.set("refuse" if phase == "starting" else "pass")
    gate.unlink(missing_ok=True)
    gate.with_suffix(".reached").unlink(missing_ok=True)
    if phase == "backfilling":
        deployment.start(["pause_finished_chunks"], gate)
        wait_for_file(gate.with_suffix(".reached"))
        return
    deployment.start()
    if phase == "starting":
        deployment.daemon.wait_for_status(lambda s: s["trouble"] and s["phase"] == "starting")
        return
    deployment.settle()
    if phase == "sink away":
        proxy.set("blackhole")
        deployment.database.execute("UPDATE users SET name = name || '!'")
        deployment.daemon.wait_for_status(lambda s: s["changes_in_flight"], message="a change is on its way")


@pytest.mark.parametrize("phase", PHASES)
def test_every_signal_ends_it_in_time_and_leaves_no_session(
    deploy: MakeDeployment,
    opensearch_prefix: Prefix,
    make_proxy: Callable[[int], Proxy],
    tmp_path: Path,
    heals: Heals,
    phase: str,
) -> None:
    proxy = make_proxy(port_of(opensearch_prefix.url))
    deployment = deploy(sink_port=proxy.port)
    gate = tmp_path / "gate.open"
    with writing(deployment, 43, 0.02) as writer:
        for signals, code in (("TERM", 0), ("INT", 0), ("TERM TERM", None)):
            begin(deployment, proxy, phase, gate)
            daemon = deployment.daemon
            # Not fatal in any phase.
            daemon.signal(signal.SIGHUP)
            daemon.wait_for(lambda d=daemon: "SIGHUP: the configuration is read anew" in d.log, 20)
            first, *second = signals.split()
            daemon.signal(getattr(signal, f"SIG{first}"))
            for name in second:
                # Later than a terminal's echo of the first, which counts as the same request.
                again = time.monotonic() + 0.4
                wait_for(lambda t=again: time.monotonic() > t)
                daemon.signal(getattr(signal, f"SIG{name}"))
            ended = daemon.wait(END_SECONDS)
            if code is None:
                # Whichever was quicker: the orderly end, the second signal, or that one at the very end.
                assert ended in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
            else:
                assert ended == code
            assert "Traceback" not in daemon.log
            wait_for(lambda: not backends(deployment), 10, "no session is left")
            if phase == "backfilling":
                assert opensearch_prefix.status("GET", "/{p}users") == 404, "a partial copy is served"
        proxy.set("pass")
        deployment.start()
        with heals(phase):
            deployment.settle()
        finish(deployment, writer)


def test_a_second_signal_skips_the_drain(
    deploy: MakeDeployment, opensearch_prefix: Prefix, make_proxy: Callable[[int], Proxy], tmp_path: Path
) -> None:
    proxy = make_proxy(port_of(opensearch_prefix.url))
    deployment = deploy(sink_port=proxy.port)
    begin(deployment, proxy, "sink away", tmp_path / "gate.open")
    daemon = deployment.daemon
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: "SIGTERM: stopping" in daemon.log, 5)
    again = time.monotonic() + 0.3
    wait_for(lambda: time.monotonic() > again)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(3) == 128 + signal.SIGTERM
    proxy.set("pass")
    deployment.start()
    deployment.settle()
    deployment.assert_right()

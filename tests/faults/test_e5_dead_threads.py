"""Fault E5: a dead thread is a dead daemon, a hanging one makes it unready; nothing answers 200 over a corpse."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

import pytest

from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.faults.rig import finish, status_of, wait_unready, went_on, writing
from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

THREADS = ["capture", "engine", "writer", "confirm", "watch", "sink_watch"]


def harmed(deployment: Deployment, thread: str, harm: str, gate: Path) -> None:
    deployment.start(["short_silences", f"harm_{thread}"], gate, FLUSSO_TEST_HARM=harm)


def test_whatever_escapes_a_thread_ends_the_daemon(deploy: MakeDeployment, tmp_path: Path, heals: Heals) -> None:
    deployment = deploy()
    gate = tmp_path / "gate.open"
    with writing(deployment, 44, 0.01) as writer:
        for number, thread in enumerate([*THREADS, "surface"]):
            for harm in ("exception", "memory") if number < 1 else ("memory" if number % 2 else "exception",):
                gate.unlink(missing_ok=True)
                harmed(deployment, thread, harm, gate)
                deployment.settle()
                gate.touch()
                assert deployment.daemon.wait(30) == 1, thread
                assert "on purpose" in deployment.daemon.log
        deployment.start()
        with heals("six threads and the surface died"):
            deployment.settle()
        finish(deployment, writer)


def test_a_worker_of_a_build_that_dies_ends_the_daemon_and_no_half_index_is_read(
    deploy: MakeDeployment, tmp_path: Path, heals: Heals
) -> None:
    deployment = deploy()
    gate = tmp_path / "gate.open"
    gate.touch()
    harmed(deployment, "backfill", "exception", gate)
    assert deployment.daemon.wait(30) == 1
    with writing(deployment, 45) as writer:
        deployment.start()
        with heals("a builder died"):
            deployment.settle()
        finish(deployment, writer)


def test_what_only_samples_the_lag_may_fail(deploy: MakeDeployment, tmp_path: Path) -> None:
    deployment = deploy()
    gate = tmp_path / "gate.open"
    gate.touch()
    deployment.start(["harm_lag"], gate, FLUSSO_TEST_HARM="memory")
    with writing(deployment, 46) as writer:
        deployment.settle()
        assert status_of(deployment.daemon) == 200
        assert deployment.daemon.status()["slot_lag_bytes"] is None
        finish(deployment, writer)


@pytest.mark.parametrize("thread", THREADS)
def test_a_hanging_thread_makes_unready_and_can_be_ended(
    deploy: MakeDeployment, tmp_path: Path, heals: Heals, thread: str
) -> None:
    deployment = deploy()
    gate = tmp_path / "gate.open"
    harmed(deployment, thread, "hang", gate)
    deployment.settle()
    daemon = deployment.daemon
    named: Dict[str, str] = {"watch": "flusso-watch", "sink_watch": "flusso-watch-search", "confirm": "flusso-confirm"}
    with writing(deployment, 47, 0.02) as writer:
        gate.touch()
        wait_unready(daemon, named.get(thread, ""), 60)
        went_on(writer, 3)
        assert daemon.get("/healthz")[0] == 200
        assert daemon.stop(10) == 0
        deployment.start()
        with heals(f"{thread} hung"):
            deployment.settle()
        finish(deployment, writer)

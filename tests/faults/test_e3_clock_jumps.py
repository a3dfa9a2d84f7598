"""Fault E3: the wall clock steps an hour each way: nothing is decided by it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import finish, status_of, went_on, writing
from tests.fix_daemon import CHECKOUT, MakeDaemon
from tests.fix_deployment import MakeDeployment
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

HOUR = 3600


def test_a_clock_that_steps_changes_nothing(
    deploy: MakeDeployment, make_daemon: MakeDaemon, tmp_path: Path, heals: Heals
) -> None:
    deployment = deploy()
    clock = tmp_path / "clock"
    clock.write_text("0")
    daemon = deployment.start(["stepping_clock", "short_silences"], clock)
    deployment.settle()
    with writing(deployment, 42) as writer:
        for offset in (HOUR, -HOUR, 24 * HOUR, 0):
            clock.write_text(str(offset))
            with heals(f"{offset / HOUR:+.0f} h"):
                went_on(writer, 20)
                deployment.settle(30)
            # Long enough for every watch and lease to have looked at it.
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                assert status_of(daemon) == 200, daemon.get("/readyz")
                status = daemon.status()
                assert (status["slot_lag_bytes"] or 0) >= 0
                assert all(thread["seconds_ago"] >= 0 for thread in status["threads"])
                assert not status["trouble"], status["trouble"]
                wait_for(lambda: True)
        # A second one whose clock is a day ahead does not believe that the lease has run out.
        ahead = tmp_path / "ahead"
        ahead.write_text(str(24 * HOUR))
        second = make_daemon(
            deployment.config,
            None,
            env={"PYTHONPATH": str(CHECKOUT), "FLUSSO_TEST_GATE": str(ahead)},
            command=[*deployment.daemon.command[:-1], "stepping_clock"],
            name="second",
        )
        second.wait_for_status(lambda s: "another daemon holds slot" in str(s["trouble"]), 60)
        assert status_of(second) == 503
        assert second.stop() == 0
        finish(deployment, writer)
    assert daemon.status()["errors"] == 0

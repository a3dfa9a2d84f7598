"""Fault E1: ``kill -9`` at every step of a batch's way, and at random: whatever was not confirmed comes again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import LONG, finish, writing
from tests.fix_deployment import MakeDeployment
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

STEPS = ["queued", "built", "flushed", "in_the_ledger", "recorded", "fed_back"]

KILLS = 200 if LONG else 8


def test_killed_at_each_step_it_goes_on(deploy: MakeDeployment, tmp_path: Path, heals: Heals) -> None:
    deployment = deploy()
    deployment.start()
    deployment.settle()
    deployment.daemon.kill()
    with writing(deployment, 40) as writer:
        former = "idle"
        for step in STEPS:
            # The start that heals one kill is the one that meets the next.
            gate = tmp_path / f"{step}.open"
            daemon = deployment.start([f"killed_when_{step}"], gate)
            with heals(f"killed when {former}"):
                deployment.settle()
            gate.touch()
            assert daemon.wait(30) == -9, step
            former = step.replace("_", " ")
        deployment.start()
        with heals(f"killed when {former}"):
            deployment.settle()
        finish(deployment, writer)


def test_killed_at_random_it_goes_on(deploy: MakeDeployment, heals: Heals) -> None:
    chance = random.Random(41)
    deployment = deploy(scale=2, backfill={"chunk_rows": 50})
    with writing(deployment, 41, 0.002) as writer:
        for _ in range(KILLS):
            daemon = deployment.start()
            if chance.random() < 0.7:
                daemon.wait_for_status(lambda s: s["phase"] in ("backfilling", "live"), 60)
            pause = chance.uniform(0, 1.5)
            before = writer.counts["transactions"]
            # Some of the writer's transactions long, which is as good as a time.
            wait_for(lambda n=before + pause * 100: writer.counts["transactions"] >= n, 60)
            daemon.kill()
        deployment.start()
        with heals(f"{KILLS} kills"):
            deployment.settle()
        finish(deployment, writer)

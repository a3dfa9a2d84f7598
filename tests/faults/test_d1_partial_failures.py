"""Fault D1: HTTP 200 with failed items inside, 429 and 503: only what failed is sent again, and nothing is lost."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import Heals
from tests.faults.front import Flaky, Front
from tests.faults.rig import LONG, finish, writing
from tests.fix_deployment import MakeDeployment
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

SECONDS = 3600.0 if LONG else 8.0


def test_items_that_fail_once_at_random_are_sent_again(deploy: MakeDeployment, front: Front, heals: Heals) -> None:
    flaky = front.intercept = Flaky(front, seed=1)
    deployment = deploy(sink_port=front.port, on_error="skip")
    # The first build meets it, too.
    daemon = deployment.start()
    deployment.settle()
    with writing(deployment, 30, 0.002) as writer:
        until = time.monotonic() + SECONDS
        wait_for(lambda: time.monotonic() > until, SECONDS + 60)
        front.intercept = lambda asked: None
        with heals():
            deployment.settle()
        finish(deployment, writer)
    assert flaky.failed.get(429, 0) > 20 and flaky.failed.get(503, 0) > 20 and flaky.requests_refused, flaky.failed
    assert daemon.status()["documents_quarantined"] == 0

"""One row in very many documents, on real servers: stored as a job, worked off beside live changes, over kill -9."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from tests.cases import SHOP
from tests.fix_deployment import MakeDeployment
from tests.histories import Writer

pytestmark = [pytest.mark.pg, pytest.mark.opensearch]

#: Low enough for the rows of a test, and two documents at a time.
SMALL: Dict[str, Any] = {"engine": {"fan_out_documents": 20}}


def test_a_row_in_many_documents_becomes_a_job_and_every_document_is_right(deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP, 5, **SMALL)
    daemon = deployment.start()
    deployment.settle()
    before = daemon.status()["documents_built"]
    # Every product shows its name in many orders.
    deployment.database.execute("UPDATE products SET title = title || ' (new)' WHERE id <= 3")
    deployment.settle()
    daemon.wait_for_status(lambda s: s["documents_built"] > before and "fan_out" not in s["facts"])
    deployment.assert_right()
    assert "are right again" in daemon.log


def test_jobs_survive_a_kill_and_writers_and_end_right(deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP, 5, **SMALL)
    daemon = deployment.start(["slow_spreading"])
    deployment.settle()
    with Writer(deployment.database.url, 11, SHOP, pause_seconds=0.01) as writer:
        for _ in range(4):
            deployment.database.execute("UPDATE products SET title = title || '!'")
            daemon.wait_for_status(lambda s: any(j["done"] for j in s["facts"].get("fan_out", {}).get("jobs") or ()))
            daemon.kill()
            daemon = deployment.start(["slow_spreading"])
            daemon.wait_until_live()
            assert "go on" in daemon.log
        writer.stop()
    deployment.settle()
    daemon.wait_for_status(lambda s: "fan_out" not in s["facts"], 120)
    deployment.assert_right()


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard off"])
def test_a_job_that_is_not_stored_is_lost_in_a_kill(deploy: MakeDeployment, guarded: bool) -> None:
    deployment = deploy(SHOP, 5, **SMALL)
    guards = ["slow_spreading"] + ([] if guarded else ["jobs_are_not_stored"])
    daemon = deployment.start(guards)
    deployment.settle()
    deployment.database.execute("UPDATE products SET title = title || '!'")
    deployment.settle()
    assert daemon.status()["facts"]["fan_out"]["jobs"], "confirmed, and not yet worked off"
    daemon.kill()
    daemon = deployment.start()
    deployment.settle()
    daemon.wait_for_status(lambda s: "fan_out" not in s["facts"], 120)
    assert bool(deployment.differences()) is not guarded

"""Fault D6: a block is set because a disk is full: it looks like a refusal and is waited out, never cleared by us."""

from __future__ import annotations

from typing import Optional

import pytest

from tests.faults.conftest import Heals
from tests.faults.front import Answer, Asked, Front, failure
from tests.faults.rig import finish, wait_unready, went_on, writing
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def test_blocks_are_waited_out_and_nothing_is_parked(
    deploy: MakeDeployment, opensearch_prefix: Prefix, heals: Heals
) -> None:
    deployment = deploy(on_error="skip")
    daemon = deployment.start()
    deployment.settle()
    with writing(deployment, 33) as writer:
        for block in ("index.blocks.write", "index.blocks.read_only_allow_delete"):
            opensearch_prefix.call("PUT", "/{p}users/_settings", {block: True})
            deployment.database.execute("UPDATE users SET name = name || ' blocked'")
            wait_unready(daemon, "block")
            went_on(writer, 50)
            settings = opensearch_prefix.call("GET", "/{p}users/_settings?flat_settings=true")
            assert all(one["settings"][block] == "true" for one in settings.values()), "not ours to clear"
            opensearch_prefix.call("PUT", "/{p}users/_settings", {block: None})
            with heals(block):
                deployment.settle()
        finish(deployment, writer)
    assert daemon.status()["documents_quarantined"] == 0
    assert "over:" in daemon.log


@pytest.mark.parametrize("status", [403, 429])
def test_indexes_that_may_not_be_created_are_waited_for(
    deploy: MakeDeployment, front: Front, heals: Heals, status: int
) -> None:
    def blocked(asked: Asked) -> Optional[Answer]:
        creates = asked.method == "PUT" and "_doc" not in asked.path
        return failure(status, "cluster_block_exception") if creates else None

    front.intercept = blocked
    deployment = deploy(sink_port=front.port)
    daemon = deployment.start()
    daemon.wait_for_status(lambda s: "block" in str(s["trouble"]), 60, "it is told")
    with writing(deployment, 34) as writer:
        front.intercept = lambda asked: None
        with heals(f"creation, {status}"):
            deployment.settle()
        finish(deployment, writer)

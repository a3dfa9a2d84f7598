"""Fault D5: an index is closed, or has no primary shard: the sink is waited for, nothing is dropped."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import finish, wait_unready, went_on, writing
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

NOWHERE = "index.routing.allocation.require._name"


@pytest.mark.parametrize("state", ["closed", "red"])
def test_an_index_that_takes_no_writes_is_waited_for(
    deploy: MakeDeployment, opensearch_prefix: Prefix, heals: Heals, state: str
) -> None:
    deployment = deploy(on_error="skip")
    deployment.config["sinks"]["search"]["timeout_secs"] = 4
    daemon = deployment.start()
    deployment.settle()
    (index,) = [name for name in opensearch_prefix.indexes() if "_users_" in name]
    with writing(deployment, 32) as writer:
        opensearch_prefix.call("POST", f"/{index}/_close")
        if state == "red":
            opensearch_prefix.call("PUT", f"/{index}/_settings", {NOWHERE: "no such node"})
            opensearch_prefix.call("POST", f"/{index}/_open?wait_for_active_shards=0")
        deployment.database.execute("UPDATE users SET name = name || ' waiting'")
        wait_unready(daemon)
        went_on(writer, 50)
        # Others see how far behind we are.
        daemon.wait_for(lambda: deployment.confirmed() < deployment.position(), 10, "the slot holds the rest")
        if state == "red":
            opensearch_prefix.call("PUT", f"/{index}/_settings", {NOWHERE: None})
        else:
            opensearch_prefix.call("POST", f"/{index}/_open")
        with heals(state):
            deployment.settle(120)
        finish(deployment, writer)
    assert daemon.status()["documents_quarantined"] == 0

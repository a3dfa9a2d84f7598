"""Faults D1, D2, D5, D6, D7: OpenSearch throttles, is cut, closed, blocked, or finds a request too large."""

from __future__ import annotations

import time
from typing import Callable

import pytest

from tests.cases import SHOP
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.fix_proxy import Proxy
from tests.histories import Writer
from tests.oracle.compare import read_opensearch

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/")[0])


def test_d2_a_cut_after_the_body_and_before_the_answer_loses_nothing(
    deploy: MakeDeployment, opensearch_prefix: Prefix, make_proxy: Callable[[int], Proxy]
) -> None:
    proxy = make_proxy(port_of(opensearch_prefix.url))
    deployment = deploy(sink_url=f"http://127.0.0.1:{proxy.port}", scale=3, backfill={"chunk_rows": 100})
    daemon = deployment.start()
    with Writer(deployment.database.url, 3, SHOP, pause_seconds=0.002) as writer:
        for number in range(25):
            # The answer is cut in its first bytes; the request was carried out.
            proxy.cut_after(20 + 97 * number % 700, "down")
            time.sleep(0.1)
        writer.stop()
    proxy.set("pass")
    deployment.settle(120)
    deployment.assert_right()
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("block", ["index.blocks.write", "index.blocks.read_only_allow_delete"])
def test_d6_a_block_is_waited_out_and_nothing_is_parked(
    deploy: MakeDeployment, opensearch_prefix: Prefix, block: str
) -> None:
    deployment = deploy(on_error="skip")
    daemon = deployment.start()
    deployment.settle()
    opensearch_prefix.call("PUT", "/{p}users/_settings", {block: True})
    deployment.database.execute("UPDATE users SET name = name || ' blocked'")
    daemon.wait_for(lambda: daemon.get("/readyz")[0] == 503, 30, "unready")
    opensearch_prefix.call("PUT", "/{p}users/_settings", {block: None})
    deployment.settle()
    deployment.assert_right()
    assert daemon.status()["documents_quarantined"] == 0
    assert "over:" in daemon.log


def test_d5_a_closed_index_is_waited_for(deploy: MakeDeployment, opensearch_prefix: Prefix) -> None:
    deployment = deploy(on_error="skip")
    daemon = deployment.start()
    deployment.settle()
    (index,) = [name for name in opensearch_prefix.indexes() if "_users_" in name]
    opensearch_prefix.call("POST", f"/{index}/_close")
    deployment.database.execute("UPDATE users SET name = name || ' closed'")
    daemon.wait_for(lambda: daemon.get("/readyz")[0] == 503, 30, "unready")
    opensearch_prefix.call("POST", f"/{index}/_open")
    deployment.settle(120)
    deployment.assert_right()
    assert daemon.status()["documents_quarantined"] == 0


def test_d7_a_document_too_large_is_parked_and_its_neighbours_arrive(
    deploy: MakeDeployment, opensearch_prefix: Prefix
) -> None:
    deployment = deploy(on_error="skip", engine={"max_document_bytes": "1MB"})
    daemon = deployment.start()
    deployment.settle()
    deployment.database.execute("UPDATE users SET name = repeat('y', 2000000) WHERE id = 3")
    deployment.database.execute("UPDATE users SET name = 'fine' WHERE id <> 3")
    deployment.settle()
    found = read_opensearch(deployment.opensearch, deployment.prefix + "users")
    assert {document["name"] for id, document in found.items() if id != "3"} == {"fine"}
    assert daemon.status()["documents_quarantined"] >= 1
    deployment.database.execute("UPDATE users SET name = 'small again' WHERE id = 3")
    deployment.settle()
    deployment.assert_right()
    daemon.wait_for_status(lambda s: all(i["quarantined"] == 0 for i in s["index_details"].values()), 20, "none left")

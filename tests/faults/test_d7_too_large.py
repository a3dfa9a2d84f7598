"""Fault D7: a request too large is answered by 413, or by a reset: it is halved, and a single document parked."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Heals
from tests.faults.front import Front
from tests.faults.rig import finish, writing
from tests.fix_deployment import MakeDeployment
from tests.oracle.compare import read_opensearch

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

#: Of OpenSearch services: 10 MB.
LIMIT = 10 * 1024 * 1024
LARGE = 12_000_000

#: A row that the writers do not know.
ROW = "INSERT INTO users (id, name, email, created_at) VALUES (777777, {name}, 'large@example.org', now())"


@pytest.mark.parametrize("answer", ["413", "reset"])
def test_a_document_of_12_mb_is_parked_and_its_neighbours_arrive(
    deploy: MakeDeployment, front: Front, heals: Heals, answer: str
) -> None:
    front.limit, front.resets = LIMIT, answer == "reset"
    deployment = deploy(sink_port=front.port, on_error="skip")
    # So that it shares a request with its neighbours.
    deployment.config["sinks"]["search"]["max_bytes"] = 4 * LIMIT
    daemon = deployment.start()
    deployment.settle()
    with writing(deployment, 35) as writer:
        # In one transaction with all its neighbours
        deployment.database.execute(
            f"{ROW.format(name=f'repeat(chr(120), {LARGE})')}; UPDATE users SET name = name || '.' WHERE id <> 777777"
        )
        with heals(answer):
            daemon.wait_for_status(lambda s: s["documents_quarantined"] == 1, 60, "parked")
            deployment.settle()
        found = read_opensearch(deployment.opensearch, deployment.prefix + "users")
        assert "777777" not in found and front.over_limit >= 2
        # Small again, it is free again.
        deployment.database.execute("UPDATE users SET name = 'small again' WHERE id = 777777")
        finish(deployment, writer)
    daemon.wait_for_status(lambda s: all(i["quarantined"] == 0 for i in s["index_details"].values()), 20, "none left")
    assert read_opensearch(deployment.opensearch, deployment.prefix + "users")["777777"]["name"] == "small again"


def test_beyond_max_document_bytes_a_document_is_parked_before_it_crosses_the_wire(
    deploy: MakeDeployment, heals: Heals
) -> None:
    deployment = deploy(on_error="skip", engine={"max_document_bytes": "1MB"})
    daemon = deployment.start()
    deployment.settle()
    with writing(deployment, 36) as writer:
        deployment.database.execute(ROW.format(name="repeat('x', 2000000)"))
        with heals("max_document_bytes"):
            daemon.wait_for_status(lambda s: s["documents_quarantined"] == 1, 60, "parked")
            deployment.settle()
        deployment.database.execute("UPDATE users SET name = 'small again' WHERE id = 777777")
        finish(deployment, writer)

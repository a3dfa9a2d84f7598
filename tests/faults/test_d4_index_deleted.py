"""Fault D4: an index or alias deleted by hand is built anew, never guessed into being by a write."""

from __future__ import annotations

import pytest

from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


@pytest.mark.parametrize("statement", ["UPDATE users SET name = name || '.'", "DELETE FROM users WHERE id = 4"])
def test_d4_an_index_deleted_live_is_rebuilt(deploy: MakeDeployment, opensearch_prefix: Prefix, statement: str) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    (index,) = [name for name in opensearch_prefix.indexes() if "_users_" in name]
    opensearch_prefix.call("DELETE", f"/{index}")
    deployment.database.execute("DELETE FROM orders WHERE user_id = 4")
    deployment.database.execute(statement)
    daemon.wait_for(lambda: opensearch_prefix.status("GET", "/{p}users") == 200, 60, "readers have an index again")
    deployment.settle()
    daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"}, 60, "rebuilt")
    deployment.assert_right()
    mapping = opensearch_prefix.call("GET", "/{p}users/_mapping")
    assert all(body["mappings"]["dynamic"] == "strict" for body in mapping.values())
    assert "Traceback" not in daemon.log


def test_d4_an_index_deleted_while_stopped_is_rebuilt(deploy: MakeDeployment, opensearch_prefix: Prefix) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    (index,) = [name for name in opensearch_prefix.indexes() if "_orders_" in name]
    opensearch_prefix.call("DELETE", f"/{index}")
    deployment.start()
    deployment.settle()
    deployment.assert_right()


def test_d4_a_deleted_alias_comes_back(deploy: MakeDeployment, opensearch_prefix: Prefix) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    for alias, index in opensearch_prefix.aliases():
        if "orders" in alias:
            opensearch_prefix.call("DELETE", f"/{index}/_alias/{alias}")
    deployment.database.execute("UPDATE orders SET status = 'without an alias'")
    daemon.wait_for(lambda: opensearch_prefix.status("GET", "/{p}orders") == 200, 60, "the alias is back")
    deployment.settle()
    daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"}, 60, "rebuilt")
    deployment.assert_right()

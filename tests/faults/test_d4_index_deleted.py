"""Fault D4: an index or alias deleted by hand is built anew, never guessed into being by a write."""

from __future__ import annotations

import urllib.parse
from typing import Set

import pytest

from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def harm(prefix: Prefix) -> None:
    """Delete the index of users, the aliases that readers of orders have, and the one that products are written to."""
    for alias, index in prefix.aliases():
        writes = alias.startswith(f"{prefix.prefix}w.")
        if ("_orders_" in index and not writes) or ("_products_" in index and writes):
            prefix.call("DELETE", f"/{index}/_alias/{urllib.parse.quote(alias)}")
    (users,) = [name for name in prefix.indexes() if "_users_" in name]
    prefix.call("DELETE", f"/{users}")


def roles(prefix: Prefix) -> Set[str]:
    """The aliases of all indexes, without what is another one in each generation."""
    return {alias for alias, _ in prefix.aliases() if "." not in alias} | {
        f"writes to {alias.split('.')[1].split('_')[0]}" for alias, _ in prefix.aliases() if "." in alias
    }


def whole(deployment: Deployment, prefix: Prefix, before: Set[str]) -> None:
    daemon = deployment.daemon
    daemon.wait_for(lambda: roles(prefix) == before, 60, "every index and alias is back")
    deployment.settle()
    deployment.wait_until_built()
    deployment.assert_right()
    mapping = prefix.call("GET", "/{p}users,{p}orders,{p}products/_mapping".replace("{p}", prefix.prefix))
    assert len(mapping) == 3 and all(body["mappings"]["dynamic"] == "strict" for body in mapping.values())
    assert "Traceback" not in daemon.log


CHANGES = (
    "DELETE FROM orders WHERE user_id = 4; UPDATE orders SET status = 'changed';"
    " UPDATE products SET title = title || ' changed'; UPDATE users SET name = name || '.'"
)


@pytest.mark.parametrize("guard", [None, "missing_indexes_taken_for_whole"])
def test_d4_an_index_and_aliases_deleted_live_come_back(
    deploy: MakeDeployment, opensearch_prefix: Prefix, heals: Heals, guard: str
) -> None:
    deployment = deploy()
    daemon = deployment.start(["frequent_watch", *([guard] if guard else [])])
    deployment.settle()
    before = roles(opensearch_prefix)
    harm(opensearch_prefix)
    deployment.database.execute(CHANGES)
    if guard:
        position = deployment.position()
        daemon.wait_for(lambda: deployment.confirmed() >= position, 60, "all is written somewhere")
        assert deployment.differences("products") and roles(opensearch_prefix) != before
        return
    with heals():
        whole(deployment, opensearch_prefix, before)


def test_d4_a_delete_does_not_bring_a_deleted_index_into_being(
    deploy: MakeDeployment, opensearch_prefix: Prefix, heals: Heals
) -> None:
    """With an external version it would, whatever ``require_alias`` says (settled.md section 5)."""
    deployment = deploy()
    deployment.start(["frequent_watch"])
    deployment.settle()
    before = roles(opensearch_prefix)
    harm(opensearch_prefix)
    deployment.database.execute("DELETE FROM users WHERE id = 4; DELETE FROM products WHERE id = 4")
    with heals():
        whole(deployment, opensearch_prefix, before)
    assert not [name for name in opensearch_prefix.indexes() if "." in name], "born of a write"


def test_d4_an_index_and_aliases_deleted_while_stopped_come_back(
    deploy: MakeDeployment, opensearch_prefix: Prefix, heals: Heals
) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    before = roles(opensearch_prefix)
    harm(opensearch_prefix)
    deployment.database.execute(CHANGES)
    deployment.start()
    with heals():
        whole(deployment, opensearch_prefix, before)

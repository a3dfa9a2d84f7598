"""Fault B7: positions of others are confirmed only while nothing of ours is on its way."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Heals
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_keepalives_confirm_nothing_while_a_change_is_on_its_way(
    deploy: MakeDeployment, opensearch_prefix: Prefix, heals: Heals, guarded: bool
) -> None:
    deployment = deploy()
    # Unguarded: an entry counts as durable as soon as it is enqueued.
    daemon = deployment.start([] if guarded else ["confirm_before_durable"])
    deployment.settle()
    database = deployment.database
    database.execute("CREATE TABLE elsewhere (t text)")
    # When the index stalls with changes on their way (the meta store does not), and others keep the WAL moving
    opensearch_prefix.call("PUT", "/{p}users/_settings", {"index.blocks.write": True})
    database.execute("UPDATE users SET name = name || ' on its way'")
    (row,) = database.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8")
    for _ in range(20):
        database.execute("INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 300)")
        database.execute("SELECT pg_switch_wal()")
    daemon.wait_for_status(lambda s: s["changes_in_flight"] or not guarded, 30, "it is on its way")
    if not guarded:
        daemon.wait_for(lambda: deployment.confirmed() >= row[0], 30, "the guard is off and it is confirmed")
    daemon.kill()
    # Then the change comes again, unless it was confirmed
    assert (deployment.confirmed() < row[0]) is guarded
    opensearch_prefix.call("PUT", "/{p}users/_settings", {"index.blocks.write": None})
    deployment.start()
    with heals("guarded" if guarded else "unguarded"):
        deployment.settle()
    assert bool(deployment.differences()) is not guarded

"""Fault B6: our tables are quiet and others are busy: the slot follows, and holds no WAL back."""

from __future__ import annotations

import pytest

from tests.faults.rig import LONG
from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

MEGABYTES = 1024 if LONG else 60


def test_wal_of_others_is_not_retained(deploy: MakeDeployment) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    database = deployment.database
    database.execute("CREATE TABLE elsewhere (t text)")

    def retained() -> int:
        rows = database.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 FROM pg_replication_slots"
            " WHERE slot_name = %s",
            [deployment.slot],
        )
        return int(rows[0][0])

    for _ in range(MEGABYTES // 10):
        database.execute("INSERT INTO elsewhere SELECT repeat(md5(n::text), 32) FROM generate_series(1, 9000) n")
        position = deployment.position()
        daemon.wait_for(lambda p=position: deployment.confirmed() >= p, 30, "the slot follows")
        # Decoding needs what came since the last running-transactions record (every 15 s), never all of it.
        assert retained() < 256 * 2**20
    for statement in ("SELECT pg_switch_wal()", "CHECKPOINT"):
        database.execute(statement)
        position = deployment.position()
        daemon.wait_for(lambda p=position: deployment.confirmed() >= p, 30, f"the slot follows {statement}")
    daemon.wait_for(lambda: retained() < 20 * 2**20, 60, "next to nothing is retained")
    deployment.assert_right()

"""Fault C5: one transaction far larger than any queue.  It is worked off in pieces, within bounds of memory, while the
server hears from us all the time; confirmed is it only as a whole."""

from __future__ import annotations

from typing import List

import pytest

from tests.cases import SHOP
from tests.faults.conftest import Heals
from tests.faults.rig import LONG, walsender
from tests.fix_deployment import MakeDeployment
from tests.postgres_server import PostgresServer
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

#: Times that every one of 9,000 items is updated in the transaction.
ROUNDS = 220 if LONG else 8

#: What a transaction may add to the daemon's memory, whatever its size: batches and writes under way (promise 11).
MOST_BYTES = 96 * 2**20


def test_a_huge_transaction_is_worked_off_in_pieces_within_bounds_and_over_a_kill(
    deploy: MakeDeployment, impatient_server: PostgresServer, heals: Heals
) -> None:
    # A small queue: the transaction is many times larger than all that is under way.
    deployment = deploy(SHOP, 30, engine={"queue_capacity": 2048, "batch_changes": 1024})
    daemon = deployment.start()
    deployment.settle(180)
    before = daemon.resident_bytes()
    recorded = deployment.confirmed()
    updates = "; ".join(f"UPDATE items SET quantity = quantity + {n % 3}, price = price + 1" for n in range(ROUNDS))
    deployment.database.execute(f"BEGIN; {updates}; DELETE FROM items WHERE id % 10 = 0; COMMIT")
    position = deployment.position()
    # In the middle of it, pieces are durable already, and nothing of it is confirmed.
    daemon.wait_for_status(lambda s: s["changes_committed"] > 5000, 120, "pieces are durable")
    assert deployment.confirmed() < position
    daemon.kill()
    assert recorded <= deployment.confirmed() < position
    deployment.start()
    wait_for(lambda: walsender(deployment), 60, "it streams again")
    pid = walsender(deployment)
    held: List[int] = []
    silent: List[float] = []

    def over() -> bool:
        held.append(daemon.resident_bytes())
        rows = deployment.database.execute(
            "SELECT extract(epoch FROM now() - reply_time)::float FROM pg_stat_replication WHERE pid = %s", [pid]
        )
        silent.extend(seconds for (seconds,) in rows if seconds is not None)
        return deployment.confirmed() >= position

    with heals(f"{ROUNDS * 9000} changes"):
        daemon.wait_for(over, 1800 if LONG else 300, "all of it is confirmed")
    deployment.settle()
    deployment.assert_right()
    # The server, which gives a silent client up after 4 s, never had to.
    assert walsender(deployment) == pid and max(silent) < 4, max(silent)
    assert max(held) < before + MOST_BYTES, (before, max(held))
    print(f"resident bytes: {before} idle, at most {max(held)}; longest silence {max(silent):.2f} s")

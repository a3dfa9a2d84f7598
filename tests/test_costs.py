"""What a change and a build cost in statements and requests: counts, since times are noisy (issue 8).

The bounds leave room for the periodic looks of a daemon and for another way of batching, not for a query or a request
per row where there was one per batch.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, Dict, Iterator

import pytest

from tests.fix_deployment import OWNER, MakeDeployment
from tests.fix_opensearch import Prefix
from tests.postgres_server import PostgresServer

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.slow]

#: Changes of one row each, one after the other; what is periodic spreads over them.
CHANGES = 40

#: For each of them: a batch of one is a snapshot (begin, locks, what it sees, the end), a look-up per path to another
#: table, a build per index, and what a new position costs.
STATEMENTS_PER_CHANGE = 25
REQUESTS_PER_CHANGE = 6

#: For one statement that changes every order.
STATEMENTS_PER_BURST = 100
REQUESTS_PER_BURST = 30

_STATEMENT = re.compile(r"^\S+ \S+ \S+ \[\d+\] flusso_sync\S* \S+ LOG: +(?:statement|execute [^:]*):")


class Costs:
    """What the daemon asked of its servers from one moment to another."""

    def __init__(self, server: PostgresServer, prefix: Prefix) -> None:
        self._server, self._prefix = server, prefix
        self.statements = 0
        self.requests = 0

    def _requests(self) -> int:
        """Tasks of the pool that carries out bulk requests, one for each shard of one."""
        nodes: Dict[str, Any] = self._prefix.call("GET", "/_nodes/stats/thread_pool")["nodes"]
        return sum(int(node["thread_pool"]["write"]["completed"]) for node in nodes.values())

    @contextlib.contextmanager
    def counted(self) -> Iterator[Costs]:
        begin, before = self._server.log.stat().st_size, self._requests()
        yield self
        with open(self._server.log, "rb") as log:
            log.seek(begin)
            lines = log.read().decode(errors="replace").splitlines()
        self.statements = sum(1 for line in lines if _STATEMENT.match(line))
        self.requests = self._requests() - before


@pytest.fixture
def logged(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """Every statement of the daemons' role is in the server's log."""
    with postgres.connect() as connection:
        connection.execute(f"ALTER ROLE {OWNER} SET log_statement = 'all'")
        yield postgres
        connection.execute(f"ALTER ROLE {OWNER} RESET log_statement")


def test_costs_grow_with_batches_and_not_with_rows(
    deploy: MakeDeployment, logged: PostgresServer, opensearch_prefix: Prefix
) -> None:
    deployment = deploy(scale=10)
    costs = Costs(logged, opensearch_prefix)
    deployment.start()
    deployment.settle(120)
    with costs.counted():
        for number in range(CHANGES):
            deployment.database.execute(f"UPDATE orders SET status = 'changed {number}' WHERE id = 1")
            deployment.settle()
    print(f"one change: {costs.statements / CHANGES:.1f} statements, {costs.requests / CHANGES:.1f} requests")
    assert CHANGES < costs.statements <= CHANGES * STATEMENTS_PER_CHANGE
    assert CHANGES <= costs.requests <= CHANGES * REQUESTS_PER_CHANGE
    with costs.counted():
        deployment.database.execute("UPDATE orders SET status = status || '.'")
        deployment.settle(120)
    (orders,) = deployment.database.execute("SELECT count(*) FROM orders")[0]
    print(f"{orders} changes at once: {costs.statements} statements, {costs.requests} requests")
    assert orders > 10 * STATEMENTS_PER_BURST
    assert costs.statements <= STATEMENTS_PER_BURST and costs.requests <= REQUESTS_PER_BURST
    deployment.assert_right()

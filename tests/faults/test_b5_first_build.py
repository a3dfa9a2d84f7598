"""Fault B5: rows change while the first copy of them is made, whose connections and whose daemon do not live to its
end."""

from __future__ import annotations

import pytest

from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.faults.rig import LONG, backends, finish, terminate, writing
from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

#: 50 users, 150 orders and 20 products each.
SCALE = 200 if LONG else 20


def under_way(deployment: Deployment, rows: int) -> None:
    """Wait until some of the build is done, and not all of it."""

    def some(status: object) -> bool:
        details = status["index_details"].values()  # type: ignore[index]
        return bool(sum(one["build"]["done"] for one in details if one["build"]) >= rows)

    status = deployment.daemon.wait_for_status(some, 60, f"{rows} rows are copied")
    assert status["phase"] == "backfilling", "the build was over before it could be disturbed"


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_writers_at_full_speed_during_the_first_build_are_not_missed(
    deploy: MakeDeployment, heals: Heals, guarded: bool
) -> None:
    # Given writers, who also insert and delete at once, and change keys
    deployment = deploy(scale=SCALE, backfill={"workers": 2, "chunk_rows": 50, "max_rows_per_second": SCALE * 100})
    with writing(deployment, 5, 0.0) as writer, writing(deployment, 6, 0.0) as other:
        daemon = deployment.start([] if guarded else ["slot_after_the_first_read"])
        if not guarded:
            daemon.wait_until_live(120)
            other.stop()
            writer.stop()
            deployment.settle(120)
            assert deployment.differences(), "the guard is off and no difference was found: the test proves nothing"
            return
        # When every connection of the daemon is cut in the middle, and it is killed a little later
        under_way(deployment, SCALE * 20)
        for key in range(3):
            deployment.database.execute(
                f"INSERT INTO users (id, email, name, created_at) VALUES ({900_000 + key}, 'now', 'born', now());"
                f" DELETE FROM users WHERE id = {900_000 + key};"
                f" UPDATE orders SET id = -id WHERE id = (SELECT max(id) FROM orders)"
            )
        terminate(deployment, backends(deployment))
        under_way(deployment, SCALE * 60)
        daemon.kill()
        deployment.start()
        # Then it goes on, and at its end the documents equal the rows
        daemon.wait_until_live(120)
        other.stop()
        with heals("guarded"):
            finish(deployment, writer)
        assert {"insert", "delete"} <= {kind.split()[0] for kind in writer.counts}, writer.counts

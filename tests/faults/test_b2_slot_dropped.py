"""Fault B2: the slot vanishes or is made anew: a gap, told and closed, or an end."""

from __future__ import annotations

import pytest

from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_b2_a_dropped_slot_is_a_gap_and_leaves_no_document_of_a_deleted_row(
    deploy: MakeDeployment, running: bool
) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    if not running:
        assert daemon.stop() == 0
    else:
        deployment.database.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot]
        )
    for _ in range(200):
        try:
            deployment.database.execute("SELECT pg_drop_replication_slot(%s)", [deployment.slot])
            break
        except Exception:
            # The daemon may have been quicker to stream again.
            deployment.database.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
                [deployment.slot],
            )
    deployment.database.execute("DELETE FROM orders WHERE id % 3 = 0")
    deployment.database.execute("UPDATE products SET title = 'changed in the gap'")
    if not running:
        daemon = deployment.start()
    daemon.wait_for(lambda: "gap:" in daemon.log, 60, "the gap is told")
    # Live again at once; the rebuilds go on behind the old generations.
    deployment.settle()
    daemon.wait_for_status(lambda s: s["gap"] is None and set(s["indexes"].values()) == {"seeded"}, 60, "rebuilt")
    deployment.assert_right()


def test_b2_a_gap_under_stop_ends_with_its_exit_code(deploy: MakeDeployment) -> None:
    deployment = deploy()
    deployment.config["source"]["on_gap"] = "stop"
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    deployment.database.execute("SELECT pg_drop_replication_slot(%s)", [deployment.slot])
    deployment.start()
    assert daemon.wait() == 7
    assert deployment.slot in daemon.log and "Traceback" not in daemon.log

"""Faults B2, B3, B6, B7: the slot vanishes, the publication changes, the database is busy elsewhere."""

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


@pytest.mark.parametrize(
    "break_it, mend",
    [
        ("ALTER PUBLICATION {p} SET (publish = 'insert, update')", "publish = 'insert, update, delete, truncate'"),
        ("ALTER PUBLICATION {p} SET (publish_via_partition_root = true)", "publish_via_partition_root = false"),
    ],
)
def test_b3_a_publication_that_hides_changes_is_refused_with_what_mends_it(
    deploy: MakeDeployment, break_it: str, mend: str
) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    deployment.database.execute(break_it.format(p=deployment.slot))
    deployment.start()
    assert daemon.wait() == 4
    assert mend in daemon.log and "Traceback" not in daemon.log


def test_b6_wal_of_other_tables_is_not_retained(deploy: MakeDeployment) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    deployment.database.execute("CREATE TABLE elsewhere (t text)")
    for _ in range(5):
        deployment.database.execute("INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
        position = deployment.position()
        daemon.wait_for(lambda p=position: deployment.confirmed() >= p, 20, "the slot follows")
    deployment.database.execute("SELECT pg_switch_wal()")
    deployment.database.execute("CHECKPOINT")
    position = deployment.position()
    daemon.wait_for(lambda: deployment.confirmed() >= position, 20, "the slot follows an empty segment")

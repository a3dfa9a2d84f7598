"""Fault B2: the slot vanishes or is made anew: a gap, told and closed, or an end."""

from __future__ import annotations

import contextlib

import pytest

from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.faults.rig import drop_slot, frozen
from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def lose(deployment: Deployment, made_anew: bool) -> None:
    """Drop the slot, change rows that nobody hears of, and perhaps make a slot of the same name by hand."""
    drop_slot(deployment)
    deployment.database.execute("DELETE FROM orders WHERE id % 3 = 0")
    deployment.database.execute("UPDATE products SET title = 'changed in the gap'")
    if made_anew:
        deployment.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [deployment.slot])


@pytest.mark.parametrize("made_anew", [False, True], ids=["dropped", "made anew"])
@pytest.mark.parametrize(
    "running, guard",
    [(False, None), (True, None), (False, "gaps_papered_over"), (True, "gaps_papered_over")],
    ids=["stopped", "running", "stopped-unguarded", "running-unguarded"],
)
def test_b2_a_slot_dropped_or_made_anew_is_a_gap_and_leaves_no_document_of_a_deleted_row(
    deploy: MakeDeployment, heals: Heals, running: bool, guard: str, made_anew: bool
) -> None:
    deployment = deploy()
    guards = [guard] if guard else []
    daemon = deployment.start(guards)
    deployment.settle()
    if running:
        with frozen(daemon):
            lose(deployment, made_anew)
    else:
        assert daemon.stop() == 0
        lose(deployment, made_anew)
        deployment.start(guards)
    if guard:
        if running:
            daemon.wait_for(lambda: "is laid anew" in daemon.log, 60, "the stream is lost")
        deployment.settle()
        assert deployment.differences(), "the guard is off and no difference was found: the test proves nothing"
        return
    with heals():
        daemon.wait_for(lambda: "gap:" in daemon.log, 60, "the gap is told")
        # Live again at once; the rebuilds go on behind the old generations.
        deployment.settle()
        deployment.wait_until_built()
    deployment.assert_right()
    assert deployment.slot in daemon.log and "Traceback" not in daemon.log


@pytest.mark.parametrize("made_anew", [False, True], ids=["dropped", "made anew"])
def test_b2_a_gap_under_stop_ends_with_its_exit_code(deploy: MakeDeployment, made_anew: bool) -> None:
    deployment = deploy()
    deployment.config["source"]["on_gap"] = "stop"
    daemon = deployment.start()
    deployment.settle()
    with contextlib.ExitStack() as stack:
        if made_anew:
            stack.enter_context(frozen(daemon))
        else:
            assert daemon.stop() == 0
        lose(deployment, made_anew)
    if not made_anew:
        deployment.start()
    assert daemon.wait(60) == 7
    assert deployment.slot in daemon.log and "Traceback" not in daemon.log

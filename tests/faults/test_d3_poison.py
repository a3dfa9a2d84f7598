"""Fault D3: documents that the sink refuses: one stops nobody, all of them stop the run, and none is forgotten."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Dict, Set

import pytest

from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.faults.rig import OwnCase
from tests.fix_daemon import FLUSSOD, clean_environment
from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

#: At 24:00 OpenSearch refuses the document (docs/types.md).
BAD = "24:00"

ROWS = 1000

TABLES = f"""
    CREATE TABLE shops (id int PRIMARY KEY, name text, opens time);
    INSERT INTO shops SELECT n, 'shop ' || n, '08:00' FROM generate_series(1, {ROWS}) n;
"""

SCHEMA: Dict[str, Any] = {
    "version": 1,
    "table": "shops",
    "primary_key": "id",
    "fields": [
        {"integer": "id", "required": True},
        {"text": "name", "required": False},
        {"timestamp": "opens", "required": False},
    ],
}


def refused(deployment: Deployment) -> Set[str]:
    """Ids whose rows are bad now."""
    return {str(id) for (id,) in deployment.database.execute(f"SELECT id FROM shops WHERE opens = '{BAD}'")}


def wrong(deployment: Deployment) -> Set[str]:
    """Ids of documents that are missing, too many or different."""
    return {one.id for one in deployment.differences().get("shops", [])}


def parked(deployment: Deployment, count: int) -> None:
    deployment.daemon.wait_for_status(
        lambda s: s["index_details"]["shops"]["quarantined"] == count, 60, f"{count} are parked"
    )


def flussod(deployment: Deployment, *arguments: str) -> str:
    """``bin/flussod`` with the configuration of the deployment."""
    folder = deployment.daemon.folder
    command = [str(FLUSSOD), *arguments, "-c", str(folder / "flusso.yaml")]
    done = subprocess.run(command, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert done.returncode == 0, done
    return done.stdout.decode()


@pytest.mark.parametrize("guard", [None, "rejected_and_forgotten"])
def test_one_bad_document_of_a_thousand_is_parked_alone_until_its_row_is_mended(
    deploy: MakeDeployment, tmp_path: Path, heals: Heals, guard: str
) -> None:
    deployment = deploy(OwnCase(tmp_path, TABLES, {"shops": SCHEMA}), on_error="skip")
    deployment.database.execute(f"UPDATE shops SET opens = '{BAD}' WHERE id = 500")
    daemon = deployment.start([guard] if guard else [])
    # In the first build, and live among all the others
    deployment.settle()
    deployment.database.execute(
        f"UPDATE shops SET name = name || '.', opens = CASE id % {ROWS} WHEN 0 THEN '{BAD}' ELSE opens END"
    )
    deployment.settle()
    assert wrong(deployment) == {"500", str(ROWS)}
    if guard:
        assert daemon.status()["index_details"]["shops"]["quarantined"] == 0, "the guard is off and they are told of"
        return
    parked(deployment, 2)
    told = flussod(deployment, "quarantine", "list", "shops")
    assert "500" in told and "parse" in told and "shop 500" not in told
    # One leaves because its row is mended, the other because it goes.
    deployment.database.execute(f"UPDATE shops SET opens = '09:00' WHERE id = 500; DELETE FROM shops WHERE id = {ROWS}")
    with heals("mended"):
        parked(deployment, 0)
        deployment.settle()
    deployment.assert_right()
    assert "Traceback" not in daemon.log


def test_a_batch_mostly_refused_is_a_fault_of_the_mapping_and_ends_the_run_until_it_is_mended(
    deploy: MakeDeployment, tmp_path: Path, heals: Heals
) -> None:
    deployment = deploy(OwnCase(tmp_path, TABLES, {"shops": SCHEMA}), on_error="skip")
    daemon = deployment.start()
    deployment.settle()
    deployment.database.execute(f"UPDATE shops SET opens = '{BAD}'")
    for _ in range(2):
        # And so does the next start: nothing of it was confirmed.
        assert daemon.wait(60) == 6
        assert "index shops" in daemon.log and "fault of the mapping" in daemon.log and "Traceback" not in daemon.log
        deployment.start()
    assert daemon.wait(60) == 6
    deployment.database.execute("UPDATE shops SET opens = '10:00'")
    deployment.start()
    with heals("mended"):
        deployment.settle()
    deployment.assert_right()


def test_a_full_quarantine_ends_the_run_and_once_mended_a_retry_makes_room_for_the_next(
    deploy: MakeDeployment, tmp_path: Path, heals: Heals
) -> None:
    limit = 80
    deployment = deploy(OwnCase(tmp_path, TABLES, {"shops": SCHEMA}), on_error="skip", quarantine={"limit": limit})
    daemon = deployment.start()
    deployment.settle()
    # Given as many bad ones as may be, in transactions of a few
    for start in range(0, limit, 40):
        deployment.database.execute(f"UPDATE shops SET opens = '{BAD}' WHERE id > {start} AND id <= {start + 40}")
        deployment.settle()
    parked(deployment, limit)
    # A retry of so many that are still bad is no fault of the mapping.
    assert flussod(deployment, "quarantine", "retry", "shops").startswith(f"0 of {limit} parked")
    # When there is one more
    deployment.database.execute(f"UPDATE shops SET opens = '{BAD}' WHERE id = 700")
    assert daemon.wait(60) == 6
    assert f"holds its limit of {limit} documents; the next would be '700'" in daemon.log
    # Then it ends whenever it starts, for as long as nothing is mended
    deployment.start()
    assert daemon.wait(60) == 6 and "Traceback" not in daemon.log
    # And once some are, and a retry was asked for in between, it makes room and goes on.
    deployment.database.execute("UPDATE shops SET opens = '08:30' WHERE id <= 40")
    asked = flussod(deployment, "quarantine", "retry", "shops", "1", "2")
    assert "kept" in asked or "stands" in asked, asked
    deployment.start()
    with heals("retry"):
        deployment.settle()
    assert "request retry of index shops: 2 of 2 parked documents of index shops are right now" in daemon.log
    parked(deployment, limit - 40 + 1)
    assert wrong(deployment) == refused(deployment) and len(refused(deployment)) == limit - 40 + 1
    # Whoever mends the others sees them come.
    deployment.database.execute("UPDATE shops SET opens = '11:00'")
    parked(deployment, 0)
    deployment.settle()
    deployment.assert_right()

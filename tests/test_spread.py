"""One row in very many documents, on real servers: stored as a job, worked off beside live changes, over kill -9."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import pytest

from flusso_sync.engine import spread
from flusso_sync.sinks.base import Write
from tests.cases import SHOP
from tests.fix_deployment import MakeDeployment
from tests.histories import Writer
from tests.in_process import in_process, write_schemas
from tests.postgres_server import Database
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch]

#: Low enough for the rows of a test, and two documents at a time.
SMALL: Dict[str, Any] = {"engine": {"fan_out_documents": 20}}


def test_a_row_in_many_documents_becomes_a_job_and_every_document_is_right(deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP, 5, **SMALL)
    daemon = deployment.start()
    deployment.settle()
    before = daemon.status()["documents_built"]
    # Every product shows its name in many orders.
    deployment.database.execute("UPDATE products SET title = title || ' (new)' WHERE id <= 3")
    deployment.settle()
    daemon.wait_for_status(lambda s: s["documents_built"] > before and "fan_out" not in s["facts"])
    deployment.assert_right()
    assert "are right again" in daemon.log


def test_jobs_survive_a_kill_and_writers_and_end_right(deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP, 5, **SMALL)
    daemon = deployment.start(["slow_spreading"])
    deployment.settle()
    with Writer(deployment.database.url, 11, SHOP, pause_seconds=0.01) as writer:
        for _ in range(4):
            deployment.database.execute("UPDATE products SET title = title || '!'")
            daemon.wait_for_status(lambda s: any(j["done"] for j in s["facts"].get("fan_out", {}).get("jobs") or ()))
            daemon.kill()
            daemon = deployment.start(["slow_spreading"])
            daemon.wait_until_live()
            assert "go on" in daemon.log
        writer.stop()
    deployment.settle()
    daemon.wait_for_status(lambda s: "fan_out" not in s["facts"], 120)
    deployment.assert_right()


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard off"])
def test_a_job_that_is_not_stored_is_lost_in_a_kill(deploy: MakeDeployment, guarded: bool) -> None:
    deployment = deploy(SHOP, 5, **SMALL)
    guards = ["slow_spreading"] + ([] if guarded else ["jobs_are_not_stored"])
    daemon = deployment.start(guards)
    deployment.settle()
    deployment.database.execute("UPDATE products SET title = title || '!'")
    deployment.settle()
    assert daemon.status()["facts"]["fan_out"]["jobs"], "confirmed, and not yet worked off"
    daemon.kill()
    daemon = deployment.start()
    deployment.settle()
    daemon.wait_for_status(lambda s: "fan_out" not in s["facts"], 120)
    assert bool(deployment.differences()) is not guarded


CITIES = {
    "people": {
        "version": 1,
        "table": "people",
        "primary_key": "id",
        "fields": [
            {
                "belongs_to": "city",
                "table": "cities",
                "column": "city_id",
                "primary_key": "id",
                "fields": [{"text": "name", "required": False}],
            }
        ],
    },
    "notes": {
        "version": 1,
        "table": "notes",
        "primary_key": "id",
        "fields": [{"text": "text", "required": False}],
    },
}
PEOPLE, STEP = 3000, 50
TOWN = f"""
CREATE TABLE cities (id int PRIMARY KEY, name text);
CREATE TABLE people (id int PRIMARY KEY, city_id int);
CREATE INDEX ON people (city_id);
CREATE TABLE notes (id int PRIMARY KEY, text text);
INSERT INTO cities VALUES (1, 'Ur');
INSERT INTO people SELECT n, 1 FROM generate_series(1, {PEOPLE}) n;
"""


@pytest.mark.parametrize("guarded", [True, False], ids=["a job", "in one batch"])
def test_commits_pass_by_a_job_that_is_worked_off(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """Counted, not timed: how many documents of the job are written between a commit and its own document.  What it
    costs in time, ``bin/bench --only fanout`` measures."""
    monkeypatch.setattr(spread, "STEP_DOCUMENTS", STEP)
    database.execute(TOWN)
    # Without jobs, everything that shows the row is built in the batch of its change.
    engine = {"fan_out_documents": 100 if guarded else 10 * PEOPLE}
    written: List[Tuple[str, str]] = []

    def slowly(method: str, writes: Sequence[Write]) -> None:
        # Every request takes its time, so that the job lasts.
        time.sleep(0.02)
        written.extend((write.index, write.id) for write in writes)

    with in_process(database.url, database.name, write_schemas(tmp_path, CITIES), engine=engine) as daemon:
        daemon.settle()
        daemon.sink.faults = slowly
        daemon.sink.max_actions = STEP
        with database.connect() as connection:
            connection.execute("UPDATE cities SET name = 'Uruk'")
            wait_for(lambda: any(index == "people" for index, _ in written), 60, "the people are being written")
            passed_by: List[int] = []
            for number in range(5):
                before = len(written)
                connection.execute("INSERT INTO notes VALUES (%s, 'x')", [number])
                wait_for(lambda: ("notes", str(number)) in written, 60, "the note is written")  # noqa: B023 - awaited
                place = written.index(("notes", str(number)))
                passed_by.append(sum(index == "people" for index, _ in written[before:place]))
        job_lasts = len([1 for index, _ in written if index == "people"]) < PEOPLE
        daemon.right()
    if guarded:
        assert job_lasts, "the job was over too soon to be passed by"
        # What was being written, what was ready to be, and what was being built.
        assert max(passed_by) <= 4 * STEP, passed_by
    else:
        assert max(passed_by) > 10 * STEP, passed_by

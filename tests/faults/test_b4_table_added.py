"""Fault B4: a table is added to the publication while a transaction that wrote to it is open: it is heard of neither in
the stream nor in a copy made too early."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import OwnCase
from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

TABLES = """
    CREATE TABLE first (id int PRIMARY KEY, name text);
    CREATE TABLE second (id int PRIMARY KEY, name text);
    INSERT INTO first SELECT n, 'first' FROM generate_series(1, 20) n;
    INSERT INTO second SELECT n, 'second' FROM generate_series(1, 20) n;
"""


def schema(table: str) -> "dict[str, object]":
    return {
        "version": 1,
        "table": table,
        "primary_key": "id",
        "fields": [{"integer": "id", "required": True}, {"text": "name", "required": False}],
    }


@pytest.mark.parametrize(("guard", "killed"), [(None, False), (None, True), ("older_transactions_forgotten", False)])
def test_what_an_open_transaction_wrote_to_a_table_before_it_was_added_is_copied(
    deploy: MakeDeployment, tmp_path: Path, heals: Heals, guard: str, killed: bool
) -> None:
    # Given a live deployment of one table
    case = OwnCase(tmp_path, TABLES, {name: schema(name) for name in ("first", "second")})
    deployment = deploy(case)
    both = deployment.config["index"]
    deployment.config["index"] = [entry for entry in both if entry["name"] == "first"]
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    # When another is added while somebody is writing to it
    with deployment.database.connect(autocommit=False) as writer:
        writer.execute("UPDATE second SET name = 'written before' WHERE id <= 5; DELETE FROM second WHERE id = 6")
        writer.execute("INSERT INTO second VALUES (21, 'written before')")
        deployment.config["index"] = both
        deployment.restart_anew([guard] if guard else [])
        if guard:
            deployment.settle()
        else:

            def waits() -> None:
                daemon.wait_for_status(
                    lambda s: any(
                        "waits for open transactions" in trouble["what"]
                        and f"pid {writer.info.backend_pid}," in trouble["what"]
                        for trouble in s["trouble"]
                    ),
                    60,
                    "it says whom it waits for",
                )

            waits()
            if killed:
                # The next start finds the table in the publication.
                daemon.kill()
                deployment.start()
                waits()
            told = deployment.database.execute("SELECT tablename::text FROM pg_publication_tables ORDER BY 1")
            assert told == [("first",), ("second",)], "the publication is there before the copy"
            writer.execute("INSERT INTO second VALUES (22, 'written after')")
        writer.commit()
    with heals("guarded" if guard is None else "unguarded"):
        deployment.settle()
    # Then nothing of it is missing
    if guard:
        assert deployment.differences("second"), "the guard is off and no difference was found"
    else:
        deployment.assert_right()
        assert "Traceback" not in daemon.log

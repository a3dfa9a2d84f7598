"""Fault C8: awkward values.  Each has its written form or makes a rejected document; the neighbours arrive."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.rig import OwnCase
from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

TABLES = r"""
    CREATE TABLE oddities (id text PRIMARY KEY, f double precision, n numeric, l bigint, d date, t timestamptz, j json,
        k text, s text);
    INSERT INTO oddities (id, s) SELECT 'neighbour ' || i, 'fine' FROM generate_series(1, 60) i;
"""
#: Ids of rows that have a written form, and of those whose documents have no place.
HELD = r"""
    INSERT INTO oddities (id, f) VALUES ('nan', 'NaN'), ('infinite', 'Infinity'), ('minus infinite', '-Infinity'),
        ('tiny', 5e-324), ('minus zero', '-0');
    INSERT INTO oddities (id, n) VALUES ('numeric nan', 'NaN'),
        ('long digits', 0.1234567890123456789012345678901234567890);
    INSERT INTO oddities (id, l) VALUES ('longest', 9223372036854775807), ('shortest', -9223372036854775808);
    INSERT INTO oddities (id, d, t) VALUES ('endless', 'infinity', '-infinity'),
        ('long ago', '0044-03-15 BC', '0044-03-15 BC');
    INSERT INTO oddities (id, j) VALUES ('doubles', '{"a": 1, "a": 2}'), ('spaces', E'{ "a" :\n [1, 2 ] }'),
        ('scalar', '7');
    INSERT INTO oddities (id, s) VALUES ('quotes', E'"\\\u2028\u2029\t\x01'), ('astral', '😀'), ('empty', '');
    INSERT INTO oddities (id, k) VALUES ('more bytes than a term has', repeat('é', 20000));
    INSERT INTO oddities (id, s) VALUES (' odd:id%/?#"\', 'an id with everything'),
        (repeat('i', 512), 'as long as ids are');
"""
REFUSED = r"""
    INSERT INTO oddities (id, j) VALUES ('zero in json', '{"a": "\u0000"}'), ('lone surrogate', '{"a": "\ud800"}');
    INSERT INTO oddities (id, s) VALUES (repeat('i', 513), 'an id too long'),
        (repeat('é', 300), 'in bytes, not characters'),
        ('', 'no id');
"""
SCHEMA = {
    "version": 1,
    "table": "oddities",
    "primary_key": "id",
    "fields": [
        {"keyword": "id", "required": True},
        {"double": "f", "required": False},
        {"decimal": "n", "required": False},
        {"long": "l", "required": False},
        {"date": "d", "required": False},
        {"timestamp": "t", "required": False},
        {"json": "j", "required": False},
        {"keyword": "k", "required": False},
        {"text": "s", "required": False},
    ],
}


@pytest.mark.parametrize("moment", ["built", "live"])
def test_each_awkward_value_is_held_or_refused_and_its_neighbours_arrive(
    deploy: MakeDeployment, tmp_path: Path, moment: str
) -> None:
    deployment = deploy(OwnCase(tmp_path, TABLES, {"values": SCHEMA}), on_error="skip")
    if moment == "built":
        deployment.database.execute(HELD + REFUSED)
        daemon = deployment.start()
    else:
        daemon = deployment.start()
        deployment.settle()
        # In one transaction, so that they are in batches with the others.
        deployment.database.execute("UPDATE oddities SET s = 'still fine';" + HELD + REFUSED)
    deployment.settle()
    status = daemon.status()
    assert status["index_details"]["values"]["quarantined"] == 5, daemon.log_tail()
    rows = deployment.database.execute(
        "SELECT id FROM oddities WHERE j::text ~ '.u0000|.ud800' OR octet_length(id) > 512 OR id = ''"
    )
    refused = {name for (name,) in rows}
    documents = deployment.documents("values")
    assert not refused & documents.keys() and len(refused) == 5
    # Everybody else is there, and right.
    found = [one for one in deployment.differences().get("values", []) if one.id not in refused]
    assert not found, found
    # A row that is mended is no longer parked.
    deployment.database.execute("UPDATE oddities SET j = '{}' WHERE id IN ('zero in json', 'lone surrogate')")
    daemon.wait_for_status(lambda s: s["index_details"]["values"]["quarantined"] == 3, 60, "three are left")
    assert {"zero in json", "lone surrogate"} <= deployment.documents("values").keys()


JUDGED = """
    CREATE FUNCTION judge(name text) RETURNS boolean LANGUAGE plpgsql STABLE AS
        $$ BEGIN IF name = 'raise' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN name <> 'hide'; END $$;
    CREATE TABLE judged (id int PRIMARY KEY, name text);
    INSERT INTO judged SELECT i, 'fine' FROM generate_series(1, 60) i;
"""
JUDGED_SCHEMA = {
    "version": 1,
    "table": "judged",
    "primary_key": "id",
    "filters": [{"raw": "judge(name)"}],
    "fields": [{"integer": "id", "required": True}, {"keyword": "name", "required": False}],
}


@pytest.mark.parametrize("moment", ["built", "live"])
def test_a_row_for_which_a_raw_filter_raises_is_parked_and_stops_nobody(
    deploy: MakeDeployment, tmp_path: Path, moment: str
) -> None:
    deployment = deploy(OwnCase(tmp_path, JUDGED, {"judged": JUDGED_SCHEMA}), on_error="skip")
    awkward = "UPDATE judged SET name = CASE WHEN id = 7 THEN 'raise' ELSE 'hide' END WHERE id IN (7, 8)"
    if moment == "built":
        deployment.database.execute(awkward)
        daemon = deployment.start()
    else:
        daemon = deployment.start()
        deployment.settle()
        deployment.database.execute(f"UPDATE judged SET name = 'still fine'; {awkward}")
    deployment.settle()
    assert daemon.status()["index_details"]["judged"]["quarantined"] == 1, daemon.log_tail()
    # What is parked stays as it was.
    held = {str(n) for n in range(1, 61)} - {"8"}
    assert deployment.documents("judged").keys() == (held - {"7"} if moment == "built" else held)
    deployment.database.execute("UPDATE judged SET name = 'mended' WHERE id IN (7, 8)")
    daemon.wait_for_status(lambda s: s["index_details"]["judged"]["quarantined"] == 0, 60, "none is left")
    deployment.settle()
    assert len(deployment.documents("judged")) == 60

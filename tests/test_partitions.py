"""Partitions that come and go: none of it is in the stream, and the application is never refused anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases import BEYOND
from tests.deployment import Deployment, wait_for_file
from tests.fix_deployment import OWNER, MakeDeployment
from tests.places import PLACE
from tests.test_promises import expect

pytestmark = [pytest.mark.pg, pytest.mark.opensearch]

#: What happens to the tree of ``visit``, in turn; rows of the day range of a new leaf leave the DEFAULT one first.
STEPS = {
    "a leaf is created and used at once": f"""
        DELETE FROM visit_other WHERE day >= '2025-01-01' AND day < '2026-01-01';
        CREATE TABLE visit_2025 PARTITION OF visit FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
        ALTER TABLE visit_2025 OWNER TO {OWNER};
    """,
    "a leaf is created below a partition": f"""
        DELETE FROM visit WHERE day >= '2024-01-01' AND day < '2025-01-01' AND nr IN (4, 5);
        CREATE TABLE visit_2024_second PARTITION OF visit_2024 FOR VALUES IN (4, 5);
        ALTER TABLE visit_2024_second OWNER TO {OWNER};
    """,
    "a whole branch is attached": f"""
        DELETE FROM visit_other WHERE day >= '2026-01-01' AND day < '2027-01-01';
        CREATE TABLE visit_2026 (LIKE visit INCLUDING ALL) PARTITION BY LIST (nr);
        CREATE TABLE visit_2026_odd PARTITION OF visit_2026 FOR VALUES IN (1, 3, 5);
        CREATE TABLE visit_2026_rest PARTITION OF visit_2026 DEFAULT;
        INSERT INTO visit_2026 SELECT date '2026-03-01', n, NULL, NULL, 'attached ' || n FROM generate_series(1, 40) n;
        ALTER TABLE visit_2026 OWNER TO {OWNER}; ALTER TABLE visit_2026_odd OWNER TO {OWNER};
        ALTER TABLE visit_2026_rest OWNER TO {OWNER};
        ALTER TABLE visit ATTACH PARTITION visit_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    """,
    "a leaf is detached": "ALTER TABLE visit DETACH PARTITION visit_2023",
    "a branch is detached": "ALTER TABLE visit DETACH PARTITION visit_2024",
    "the DEFAULT leaf is dropped": "DROP TABLE visit_other",
    "one is attached as DEFAULT": "ALTER TABLE visit ATTACH PARTITION visit_2023 DEFAULT",
}

#: Rows of the new leaf come in no statement of ours: nothing that anybody could have missed.
BARE = "a leaf is created below a partition"

#: None of these may ever be refused, whoever noticed what by then.
USE = """
    INSERT INTO visit SELECT d, n, NULL, NULL, 'used ' || n FROM generate_series(901, 904) n,
        unnest(ARRAY[date '2025-02-02', date '2026-02-02']) d
        WHERE EXISTS (SELECT 1 FROM pg_class WHERE relname = 'visit_2025') AND (d < '2026-01-01' OR
            EXISTS (SELECT 1 FROM pg_class WHERE relname = 'visit_2026')) ON CONFLICT DO NOTHING;
    UPDATE visit SET visitor = visitor || '!' WHERE nr % 2 = 0;
    UPDATE visit SET room = (SELECT min(room) FROM depot.shelf), place = (SELECT min(place) FROM depot.shelf)
        WHERE nr = 901;
    DELETE FROM visit WHERE nr IN (903, 4);
"""


def noticed(deployment: Deployment, built: int) -> None:
    daemon = deployment.daemon
    daemon.wait_for(lambda: daemon.log.count("building index visits:") > built, 60, "it is noticed")
    daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"} and s["phase"] == "live", 90)
    deployment.settle()


def heard(deployment: Deployment, built: int) -> None:
    """What is there by now is told of, and nothing was built for that."""
    daemon = deployment.daemon
    daemon.wait_for(lambda: leaves(deployment) <= published(deployment), 60, "it is published")
    daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"} and s["phase"] == "live", 90)
    deployment.settle()
    assert daemon.log.count("building index visits:") == built, daemon.log_tail()


def leaves(deployment: Deployment) -> "set[str]":
    return {
        name
        for (name,) in deployment.database.execute(
            "SELECT relid::text FROM pg_partition_tree('visit') WHERE isleaf ORDER BY 1"
        )
    }


def published(deployment: Deployment) -> "set[str]":
    return {name for (name,) in deployment.database.execute("SELECT prrelid::regclass::text FROM pg_publication_rel")}


@pytest.mark.parametrize("moment", ["live", "while stopped"])
def test_what_becomes_of_partitions_is_noticed_and_nothing_is_refused_meanwhile(
    deploy: MakeDeployment, moment: str
) -> None:
    deployment = deploy(BEYOND)
    daemon = deployment.start()
    deployment.settle()
    for title, statement in STEPS.items():
        built = daemon.log.count("building index visits:")
        if moment != "live":
            assert daemon.stop() == 0
            built = 0
        deployment.database.execute(statement)
        # Right now, before anybody can have noticed: a leaf under a published parent would refuse these.
        deployment.database.execute(USE)
        if moment != "live":
            deployment.start()
        if title == BARE:
            heard(deployment, built)
        else:
            noticed(deployment, built)
        found = deployment.differences()
        assert not found, (title, found)
        assert leaves(deployment) <= published(deployment) and "visit" not in published(deployment), title
        # From now on, everything in the new leaves is told, with the parents of what goes.
        deployment.database.execute("UPDATE visit SET room = NULL WHERE nr % 3 = 0; DELETE FROM visit WHERE nr = 902")
        deployment.settle()
        found = deployment.differences()
        assert not found, (title, found)
        identities = deployment.database.execute(
            "SELECT relname, relreplident FROM pg_class WHERE oid IN (SELECT relid FROM pg_partition_tree('visit')"
            " WHERE isleaf) AND relreplident IN ('d', 'n')"
        )
        assert not identities, (title, identities)
    assert "Traceback" not in daemon.log


#: Leaves come and go; what was read of them may be in flight or written, and what was not read never will be.
TURNED_OVER = [
    "a leaf is created and used at once",
    "a whole branch is attached",
    "a leaf is detached",
    "the DEFAULT leaf is dropped",
    "one is attached as DEFAULT",
]


def test_leaves_that_come_and_go_during_a_build_leave_it_right(deploy: MakeDeployment, tmp_path: Path) -> None:
    # Given a first build whose chunks were read, and wait
    deployment = deploy(BEYOND, backfill={"chunk_rows": 5})
    gate = tmp_path / "gate.open"
    daemon = deployment.start(["pause_finished_chunks", "frequent_watch"], gate)
    wait_for_file(gate.with_suffix(".reached"))
    # When leaves are attached, detached and dropped, some of it noticed before the build goes on and some after
    for number, title in enumerate(TURNED_OVER):
        deployment.database.execute(STEPS[title])
        deployment.database.execute(USE)
        if number == 2:
            daemon.wait_for(lambda: daemon.log.count("building index visits:") > 1, 60, "it is noticed")
    gate.touch()
    # Then it ends right
    deployment.settle()
    deployment.wait_until_built()
    daemon.wait_for(lambda: not deployment.differences("visits"), 60, "the last of it is noticed")
    deployment.assert_right()
    assert leaves(deployment) <= published(deployment)


def test_leaves_that_come_and_go_between_the_lives_of_a_build_leave_it_right(deploy: MakeDeployment) -> None:
    # Given a build that was cut off
    deployment = deploy(BEYOND, backfill={"chunk_rows": 5})
    deployment.config["sinks"]["search"]["batch_size"] = 5
    daemon = deployment.start(["die_at_a_place"], **{PLACE: "progress written"})
    assert daemon.wait(120) == -9
    # When the tree is another one by the time it is gone on with
    for title in TURNED_OVER:
        deployment.database.execute(STEPS[title])
        deployment.database.execute(USE)
    deployment.start()
    deployment.settle()
    deployment.wait_until_built()
    deployment.assert_right()
    assert leaves(deployment) <= published(deployment)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_partition_that_goes_takes_its_rows_along(deploy: MakeDeployment, guarded: bool) -> None:
    deployment = deploy(BEYOND)
    guards = ["frequent_watch"] + ([] if guarded else ["partitions_forgotten"])
    daemon = deployment.start(guards)
    deployment.settle()
    deployment.database.execute("ALTER TABLE visit DETACH PARTITION visit_2023")
    if guarded:
        noticed(deployment, 1)
    else:
        deployment.settle()
        assert daemon.log.count("building index visits:") == 1
    expect(deployment, guarded)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_the_last_partition_takes_its_rows_along_too(deploy: MakeDeployment, guarded: bool) -> None:
    deployment = deploy(BEYOND)
    daemon = deployment.start(["frequent_watch"] + ([] if guarded else ["partitions_forgotten"]))
    deployment.settle()
    children = deployment.database.execute(
        "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'visit'::regclass"
    )
    for (child,) in children:
        deployment.database.execute(f"ALTER TABLE visit DETACH PARTITION {child}")
    if guarded:
        noticed(deployment, 1)
        daemon.wait_for(lambda: not deployment.differences("visits"), 60, "the last of it is noticed")
    expect(deployment, guarded)


def test_what_was_read_while_a_partition_was_detached_is_read_again_once_it_is_attached(deploy: MakeDeployment) -> None:
    # Given documents that were built while a leaf was detached, too short a time for the watch
    deployment = deploy(BEYOND)
    daemon = deployment.start()
    deployment.settle()
    database = deployment.database
    before = database.execute("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'visit_2023'")
    database.execute("ALTER TABLE visit DETACH PARTITION visit_2023")
    database.execute("UPDATE depot.shelf SET barcode = barcode || ' meanwhile'")
    deployment.settle()
    # When it is attached again just as it was
    database.execute(f"ALTER TABLE visit ATTACH PARTITION visit_2023 {before[0][0]}")
    # Then that is noticed
    daemon.wait_for(lambda: not deployment.differences(), 60, "it is noticed")
    deployment.assert_right()


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_leaf_made_for_days_to_come_has_nothing_rebuilt_and_one_in_use_has(
    deploy: MakeDeployment, guarded: bool
) -> None:
    deployment = deploy(BEYOND)
    guards = ["frequent_watch"] + ([] if guarded else ["partitions_taken_for_empty"])
    daemon = deployment.start(guards)
    deployment.settle()
    deployment.database.execute(STEPS["a leaf is created and used at once"])
    heard(deployment, 1)
    # Its rows are heard from the first to the last.
    deployment.database.execute(
        "INSERT INTO visit SELECT date '2025-05-05', n, NULL, NULL, 'early ' || n FROM generate_series(1, 40) n"
    )
    deployment.database.execute("UPDATE visit_2025 SET visitor = 'x' WHERE nr = 3; DELETE FROM visit_2025 WHERE nr = 5")
    deployment.settle()
    deployment.assert_right()
    # Rows that came before anybody listened are another matter.
    deployment.database.execute(
        f"""
        DELETE FROM visit_other WHERE day >= '2027-01-01' AND day < '2028-01-01';
        CREATE TABLE visit_2027 PARTITION OF visit FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
        ALTER TABLE visit_2027 OWNER TO {OWNER};
        INSERT INTO visit SELECT date '2027-05-05', n, NULL, NULL, 'first ' || n FROM generate_series(1, 40) n;
        """
    )
    if guarded:
        noticed(deployment, 1)
    else:
        heard(deployment, 1)
    assert "Traceback" not in daemon.log
    expect(deployment, guarded)

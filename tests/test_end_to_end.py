"""``bin/flussod`` over real servers: built, kept right while rows change, over kill -9 and restarts."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Dict

import psycopg
import pytest

from tests.cases import OTHERS, SHOP, THIRTY, Case
from tests.deployment import Deployment, lsn_number
from tests.fix_daemon import DaemonProcess
from tests.fix_deployment import MakeDeployment
from tests.histories import Writer
from tests.oracle.compare import assert_same, fold_stdout, read_opensearch
from tests.oracle.documents import evaluate_all
from tests.oracle.language import Schema
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch]

LONG = os.environ.get("FLUSSO_LONG") == "1"


def stdout_is_right(daemon: DaemonProcess, expected: Dict[str, Any]) -> None:
    found = fold_stdout(daemon.output_file.read_bytes().splitlines())
    for name, documents in expected.items():
        assert_same(documents, found[name], name, key_order=True)


def test_thirty_kinds_of_field_and_of_change_are_right_in_opensearch_and_on_stdout(deploy: MakeDeployment) -> None:
    deployment = deploy(THIRTY)
    deployment.config["sinks"]["log"] = {"type": "stdout"}
    daemon = deployment.start()
    deployment.settle()
    deployment.assert_right()
    stdout_is_right(daemon, deployment.expected())
    with psycopg.connect(deployment.database.url, autocommit=True) as connection:
        for change in THIRTY.changes:
            THIRTY.apply(connection, change)
    deployment.settle()
    deployment.assert_right()
    stdout_is_right(daemon, deployment.expected())
    status = daemon.status()
    assert status["documents_quarantined"] == 0 and status["errors"] == 0
    assert daemon.stop() == 0


@pytest.mark.parametrize("case", OTHERS, ids=repr)
def test_schema_sets_of_other_peoples_style_go_live_and_stay_right(deploy: MakeDeployment, case: Case) -> None:
    """Through ``bin/flussod``: nothing rejected, right after the listed changes, and right after two random writers."""
    deployment = deploy(case, backfill={"chunk_rows": 7})
    daemon = deployment.start(program=True)
    deployment.settle()
    deployment.assert_right()
    with psycopg.connect(deployment.database.url, autocommit=True) as connection:
        for change in case.changes:
            case.apply(connection, change)
    deployment.settle()
    deployment.assert_right()
    url = deployment.database.url
    with Writer(url, 11, case, limit=300) as first, Writer(url, 12, case, limit=300) as second:
        counts = [first.join(60), second.join(60)]
    assert all(count["transactions"] > 100 for count in counts), counts
    deployment.settle()
    deployment.assert_right()
    status = daemon.status()
    assert status["documents_quarantined"] == 0 and status["errors"] == 0
    assert daemon.stop() == 0
    assert daemon.log.count("Traceback") == 0


@pytest.mark.parametrize("case", OTHERS, ids=repr)
def test_rows_that_come_after_the_first_build_are_all_in_the_stream(deploy: MakeDeployment, case: Case) -> None:
    """The indexes are built of empty tables, so that every document is one of live changes."""
    deployment = deploy(case)
    names = {name for path in case.indexes.values() for name in Schema(path).tables()}
    tables = ", ".join(f'"{name.schema}"."{name.name}"' for name in sorted(names))
    deployment.database.execute(f"TRUNCATE {tables} CASCADE")
    daemon = deployment.start(program=True)
    deployment.settle()
    assert not any(deployment.expected().values())
    deployment.assert_right()
    with psycopg.connect(deployment.database.url, autocommit=True) as connection:
        case.fill(connection)
    deployment.settle()
    assert all(deployment.expected().values())
    deployment.assert_right()
    status = daemon.status()
    assert status["documents_quarantined"] == 0 and status["errors"] == 0
    assert set(status["indexes"].values()) == {"seeded"}


def test_each_single_change_is_right_by_itself(deploy: MakeDeployment) -> None:
    """After every one of the listed changes, not only after all of them, which could hide one behind another."""
    deployment = deploy(THIRTY)
    daemon = deployment.start()
    deployment.settle()
    with psycopg.connect(deployment.database.url, autocommit=True) as connection:
        for change in THIRTY.changes:
            THIRTY.apply(connection, change)
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            assert row is not None
            position = lsn_number(row[0])
            daemon.wait_for_status(
                lambda status, p=position: lsn_number(status["confirmed_lsn"]) >= p, message=change.title
            )
            for name, documents in evaluate_all(connection, THIRTY.indexes).items():
                actual = read_opensearch(deployment.opensearch, deployment.prefix + name)
                assert_same(documents, actual, f"{name} after {change.title}")


def test_a_kill_in_the_middle_of_a_large_transaction_loses_none_of_it(deploy: MakeDeployment) -> None:
    # Given a live deployment
    deployment = deploy(SHOP, 20)
    daemon = deployment.start()
    deployment.settle()
    # When one transaction changes 100,000 rows and the daemon dies while part of them is written
    before = daemon.status()["changes_committed"]
    with psycopg.connect(deployment.database.url) as connection:
        (items,) = connection.execute("SELECT count(*) FROM items").fetchone() or (0,)
        for _ in range(-(-100_000 // items)):
            connection.execute("UPDATE items SET quantity = quantity + 1")
        connection.commit()
    position = deployment.position()
    daemon.wait_for_status(lambda s: before < s["changes_committed"] < before + 100_000, message="part is written")
    daemon.kill()
    assert deployment.confirmed() < position
    # Then the next run writes the rest
    deployment.start()
    deployment.settle()
    deployment.assert_right()


@pytest.mark.parametrize("seed", range(20 if LONG else 6))
def test_writers_at_full_speed_during_the_whole_first_build(deploy: MakeDeployment, seed: int) -> None:
    case = SHOP if seed % 2 else THIRTY
    deployment = deploy(case, 20 if case is SHOP else 10, backfill={"chunk_rows": 40})
    url = deployment.database.url
    with Writer(url, seed, case) as first, Writer(url, 1000 + seed, case) as second:
        daemon = deployment.start()
        daemon.wait_for_status(lambda status: status["phase"] != "starting", 240, "the build began")
        before = first.counts + second.counts
        daemon.wait_until_live(240)
        meanwhile = first.counts + second.counts - before
        first.stop()
        second.stop()
    assert all(meanwhile[kind] for kind in ("insert", "delete", "move", "change key")), meanwhile
    deployment.settle(240)
    deployment.assert_right()


def test_kill_and_restart_at_random_under_load_ends_right(deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP, 5, backfill={"chunk_rows": 40})
    with Writer(deployment.database.url, 7, SHOP) as writer:
        for round in range(30 if LONG else 6):
            daemon = deployment.start()
            enough = 20 + 40 * (round % 4)
            daemon.wait_for_status(lambda s, n=enough: s["changes_committed"] >= n, message="some progress")
            daemon.kill()
        writer.stop()
    deployment.start()
    deployment.settle()
    deployment.assert_right()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_in_five_seconds_with_everything_confirmed_and_no_backend_left(
    deploy: MakeDeployment, number: int
) -> None:
    deployment = deploy(SHOP)
    daemon = deployment.start()
    deployment.settle()
    deployment.database.execute("UPDATE users SET name = name || ' last'")
    started = time.monotonic()
    daemon.signal(number)
    assert daemon.wait(10) == 0
    assert time.monotonic() - started < 5
    wait_for(lambda: not backends(deployment), 5, "no backend of the daemon is left")
    deployment.start()
    deployment.settle()
    deployment.assert_right()


def backends(deployment: Deployment) -> Any:
    return deployment.database.execute(
        "SELECT pid, query FROM pg_stat_activity WHERE application_name LIKE 'flusso_sync%'"
        " AND datname = current_database()"
    )


def test_a_change_made_while_the_daemon_was_down_arrives_without_a_new_build(deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP)
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    deployment.database.execute("DELETE FROM orders WHERE id % 7 = 0")
    deployment.database.execute("UPDATE products SET title = 'renamed' WHERE id % 3 = 0")
    daemon = deployment.start()
    deployment.settle()
    deployment.assert_right()
    assert daemon.status()["documents_built"] < sum(len(d) for d in deployment.expected().values())


def test_a_truncate_empties_what_showed_the_rows(deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP)
    daemon = deployment.start()
    deployment.settle()
    deployment.database.execute("TRUNCATE items")
    position = deployment.position()
    daemon.wait_for(lambda: deployment.confirmed() >= position, message="the truncate is confirmed")
    daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"}, message="every index is rebuilt")
    deployment.assert_right()


def test_an_outage_of_the_source_heals_by_itself(postgres: Any, deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP)
    daemon = deployment.start()
    deployment.settle()
    for mode in ("fast", "immediate"):
        postgres.stop(mode)
        daemon.wait_for(lambda: daemon.get("/readyz")[0] == 503, 20, "unready while Postgres is away")
        postgres.start()
        deployment.database.execute("UPDATE users SET name = name || '!'")
        daemon.wait_for(lambda: daemon.get("/readyz")[0] == 200, 40, "ready again")
        deployment.settle()
        deployment.assert_right()
    assert daemon.log.count("Traceback") == 0


def test_a_schema_change_builds_beside_the_old_index_which_readers_keep(deploy: MakeDeployment, tmp_path: Any) -> None:
    deployment = deploy(SHOP)
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    path = tmp_path / "users.schema.yml"
    text = SHOP.indexes["users"].read_text()
    path.write_text(text + "\n  - {constant: added, value: 7}\n")
    (entry,) = [entry for entry in deployment.config["index"] if entry["name"] == "users"]
    entry["schema"] = str(path)
    from tests.fix_daemon import write_yaml

    write_yaml(daemon.folder / "flusso.yaml", deployment.config)
    daemon = deployment.start()
    alias = deployment.prefix + "users"
    seen = []
    # Live from the start: what was built before is read on while this one is rebuilt.
    while daemon.status()["indexes"]["users"] != "seeded":
        seen.append(len(read_opensearch(deployment.opensearch, alias)))
    deployment.settle()
    found = read_opensearch(deployment.opensearch, alias)
    assert all(document["added"] == 7 for document in found.values())
    assert set(seen) <= {len(found)}


def test_a_commit_is_found_by_search_once_synced_says_so(deploy: MakeDeployment) -> None:
    # A refresh interval that no test outlives: only our own refresh makes anything searchable.
    deployment = deploy(SHOP, 1)
    deployment.config["sinks"]["search"]["refresh_interval"] = "-1"
    daemon = deployment.start()
    deployment.settle()
    marked = 0
    with Writer(deployment.database.url, 5, SHOP, pause_seconds=0.005) as writer:
        for number in range(20):
            with deployment.database.connect() as connection:
                connection.execute(f"UPDATE users SET name = 'marked{number}' WHERE id = (SELECT min(id) FROM users)")
                (row,) = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchall()
            code, answer = daemon.get(f"/synced?lsn={row[0]}&timeout=30", timeout=40)
            assert code == 200, answer
            found = deployment.found("users", f"marked{number}")
            # Unless a writer came in between.
            rows = deployment.database.execute("SELECT 1 FROM users WHERE name = %s", [f"marked{number}"])
            assert found == 1 or not rows
            marked += found
        writer.stop()
    assert marked >= 10
    assert daemon.get("/synced?lsn=now&timeout=30", timeout=40)[0] == 200
    assert daemon.get("/synced?lsn=FFFFFFFF/0&timeout=0.2")[0] == 504

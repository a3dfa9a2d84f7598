"""Fault B1: the server removes WAL that the slot still needs: a gap, named and closed, while readers keep what they
have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator, List, Sequence

import pytest

from tests.deployment import Deployment, wait_for_file
from tests.faults.conftest import Heals
from tests.faults.rig import frozen
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.postgres_server import PostgresServer
from tests.readers import of_alias
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

#: Users that nobody touches.
KNOWN = 30


@pytest.fixture
def little_wal(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The server of the session, which keeps 1 MB of WAL for a slot."""
    postgres.set(max_slot_wal_keep_size="1MB")
    yield postgres
    postgres.set(max_slot_wal_keep_size=None)


def invalidate(deployment: Deployment) -> None:
    """Write WAL until the server gives the slot up."""
    database = deployment.database

    def lost() -> bool:
        for _ in range(2):
            database.execute("SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()")
        database.execute("CHECKPOINT")
        rows = database.execute("SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot])
        return rows == [("lost",)]

    wait_for(lost, 60, "the slot is lost")


def change_in_the_gap(deployment: Deployment) -> None:
    deployment.database.execute(
        "DELETE FROM orders WHERE id % 3 = 0; UPDATE products SET title = title || ' in the gap';"
        " UPDATE users SET name = 'in the gap' WHERE id <= 50; DELETE FROM users WHERE id IN (2, 3)"
    )


def stall(prefix: Prefix, stalled: bool) -> None:
    """Let the indexes take writes, or not; the meta store always does."""
    names = ",".join(name for name in prefix.indexes() if "meta" not in name)
    prefix.call("PUT", f"/{names}/_settings", {"index.blocks.write": True if stalled else None})


def close(gate: Path) -> None:
    """From now on what is read for a build waits."""
    gate.unlink()
    gate.with_suffix(".reached").unlink(missing_ok=True)


def answer_the_gap(
    deployment: Deployment, gate: Path, guarded: bool, former: Sequence[str], prefix: Prefix, heals: Heals
) -> None:
    """The gap is named; then builds go on; then all is right, in new indexes."""
    daemon = deployment.daemon
    if not guarded:
        gate.touch()
        deployment.settle()
        deployment.wait_until_built()
        assert deployment.differences(), "the guard is off and no difference was found: the test proves nothing"
        return
    status = daemon.wait_for_status(lambda s: s["gap"], 60, "the gap is named")
    assert deployment.slot in status["gap"] and "removed WAL" in status["gap"]
    assert f"gap: {status['gap']}" in daemon.log
    gate.touch()
    with heals():
        deployment.settle()
        deployment.wait_until_built()
    deployment.assert_right()
    assert not set(indexes(prefix)) & set(former), "every index is a new one"
    assert "Traceback" not in daemon.log


def indexes(prefix: Prefix) -> List[str]:
    return [name for name in prefix.indexes() if "meta" not in name]


@pytest.mark.parametrize(
    "moment, guarded",
    [("stopped", True), ("stalled", True), ("rebuild", True), ("stopped", False), ("stalled", False)],
    ids=["stopped", "stalled", "rebuild", "stopped-unguarded", "stalled-unguarded"],
)
def test_a_slot_lost_is_a_gap_that_readers_do_not_notice(
    deploy: MakeDeployment,
    little_wal: PostgresServer,
    opensearch_prefix: Prefix,
    tmp_path: Path,
    heals: Heals,
    moment: str,
    guarded: bool,
) -> None:
    # Given a live deployment
    deployment = deploy(backfill={"workers": 1}, server={"admin_password": "secret"})
    deployment.database.execute(
        "INSERT INTO users (id, email, name, created_at)"
        f" SELECT 1000 + n, 'known' || n, 'known', now() FROM generate_series(1, {KNOWN}) n"
    )
    gate = tmp_path / "gate.open"
    gate.touch()
    guards = ["pause_finished_chunks", *([] if guarded else ["gaps_papered_over"])]
    daemon = deployment.start(guards, gate)
    deployment.settle()
    alias = f"{opensearch_prefix.prefix}users"
    opensearch_prefix.call("POST", f"/{alias}/_refresh")
    former = indexes(opensearch_prefix)
    close(gate)
    with of_alias(opensearch_prefix.url, alias, "email", "known", KNOWN) as reader:
        # When its slot is lost
        if moment == "stopped":
            assert daemon.stop() == 0
            change_in_the_gap(deployment)
            invalidate(deployment)
            deployment.start(guards, gate)
        elif moment == "stalled":
            stall(opensearch_prefix, True)
            change_in_the_gap(deployment)
            daemon.wait_for_status(lambda s: s["changes_in_flight"], 30, "changes wait for the sink")
            invalidate(deployment)
            daemon.wait_for(lambda: "is laid anew" in daemon.log, 60, "the stream is lost")
            stall(opensearch_prefix, False)
        else:
            deployment.reindex("users")
            wait_for_file(gate.with_suffix(".reached"))
            with frozen(daemon):
                invalidate(deployment)
                change_in_the_gap(deployment)
        # Then it is told, and closed behind the readers' backs
        answer_the_gap(deployment, gate, guarded, former, opensearch_prefix, heals)
        asked = reader.asked
        wait_for(lambda: reader.asked >= asked + 5, 30, "the reader asks")
        assert not reader.wrong, f"{len(reader.wrong)} of {reader.asked}: {reader.wrong[:3]}"


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_slot_lost_during_the_first_build_has_it_begin_again(
    deploy: MakeDeployment,
    little_wal: PostgresServer,
    opensearch_prefix: Prefix,
    tmp_path: Path,
    heals: Heals,
    guarded: bool,
) -> None:
    # Given a first build of which something is read, written and remembered
    deployment = deploy(backfill={"workers": 1, "chunk_rows": 10})
    gate = tmp_path / "gate.open"
    daemon = deployment.start(["pause_later_chunks", *([] if guarded else ["gaps_papered_over"])], gate)
    wait_for_file(gate.with_suffix(".reached"))

    def remembered() -> bool:
        place = "/{p}flusso_sync_meta/_doc/build:users"
        if opensearch_prefix.status("GET", place) != 200:
            return False
        progress = json.loads(opensearch_prefix.call("GET", place)["_source"]["progress"])
        return bool(progress["rows"])

    daemon.wait_for(remembered, 30, "progress is stored")
    former = indexes(opensearch_prefix)
    # When the slot is lost, and rows that were read change unheard
    with frozen(daemon):
        invalidate(deployment)
        change_in_the_gap(deployment)
    answer_the_gap(deployment, gate, guarded, former, opensearch_prefix, heals)


def test_under_stop_a_lost_slot_ends_the_run_with_its_exit_code(
    deploy: MakeDeployment, little_wal: PostgresServer
) -> None:
    deployment = deploy()
    deployment.config["source"]["on_gap"] = "stop"
    daemon = deployment.start()
    deployment.settle()
    with frozen(daemon):
        invalidate(deployment)
    assert daemon.wait(60) == 7
    assert f"slot {deployment.slot} still needed" in daemon.log and "Traceback" not in daemon.log
    # And so does every further start, until somebody decides.
    deployment.start()
    assert daemon.wait(60) == 7

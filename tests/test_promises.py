"""Promises 1 to 4 and 8 of the design: each test runs with its guard on and finds no difference, and with the guard
switched off it must find one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

from tests.deployment import Deployment, wait_for_file
from tests.fix_deployment import MakeDeployment
from tests.postgres_server import Database, PostgresServer
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch]


def expect(deployment: Deployment, guarded: bool) -> None:
    """With its guard every promise holds; without, the oracle must see that it was needed."""
    if guarded:
        deployment.assert_right()
    else:
        assert deployment.differences(), "the guard is off and no difference was found: the test proves nothing"


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_nothing_committed_while_an_index_is_built_is_missed(
    deploy: MakeDeployment, tmp_path: Path, guarded: bool
) -> None:
    # Given a build whose finished chunks wait at a gate
    deployment = deploy()
    gate = tmp_path / "gate.open"
    guards = ["pause_finished_chunks"] + ([] if guarded else ["slot_after_the_first_read"])
    deployment.start(guards, gate)
    wait_for_file(gate.with_suffix(".reached"))
    # When rows that were read already change, and the build goes on
    deployment.database.execute("UPDATE users SET name = name || ' the second'")
    deployment.database.execute("DELETE FROM items WHERE id % 3 = 0")
    gate.touch()
    # Then the documents show it, if the slot was born before the first read
    deployment.settle()
    expect(deployment, guarded)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_an_unconfirmed_batch_is_sent_again_after_kill(deploy: MakeDeployment, guarded: bool) -> None:
    # Given a live deployment whose index refuses writes for now
    deployment = deploy()
    deployment.start([] if guarded else ["confirm_before_durable"])
    deployment.settle()
    block(deployment, True)
    # When a change is captured, cannot be written, and the daemon is killed
    deployment.database.execute("UPDATE users SET name = name || ' again'")
    position = deployment.position()
    deployment.daemon.wait_for_status(lambda status: bool(status["trouble"]), message="the block is told")
    if not guarded:
        deployment.daemon.wait_for(lambda: deployment.confirmed() >= position, message="confirmed too early")
    deployment.daemon.kill()
    assert (deployment.confirmed() >= position) is not guarded
    # Then the next run writes it, if it was not confirmed before it was durable
    block(deployment, False)
    deployment.start()
    deployment.settle()
    expect(deployment, guarded)


def block(deployment: Deployment, on: bool) -> None:
    from tests.oracle.compare import _request

    for name in deployment.case.indexes:
        _request(
            "PUT",
            f"{deployment.opensearch}/{deployment.prefix}{name}/_settings",
            {"index.blocks.write": True if on else None},
        )


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_no_document_is_built_before_its_cause_is_visible(
    postgres: PostgresServer, deploy: MakeDeployment, guarded: bool
) -> None:
    # Given a synchronous standby that is away: a commit is in the WAL, and so in the stream, but in no snapshot
    deployment = deploy()
    deployment.start([] if guarded else ["build_before_visible"])
    deployment.settle()
    postgres.set(synchronous_standby_names="nobody")
    try:
        built = deployment.daemon.status()["changes_committed"]
        writer = in_background(
            lambda: deployment.database.execute("UPDATE users SET name = 'unseen' WHERE id IN (1, 2, 3)")
        )
        # When the daemon has had the change for as long as it takes to build it, or to say that it waits
        deployment.daemon.wait_for_status(
            lambda status: (
                status["changes_committed"] > built
                or any("not visible" in trouble["what"] for trouble in status["trouble"])
            ),
            message="built, or waiting for visibility",
        )
    finally:
        # Then the standby is not waited for any more, and the commit becomes visible
        postgres.set(synchronous_standby_names="")
    writer.join(30)
    assert not writer.is_alive()
    deployment.settle()
    expect(deployment, guarded)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_no_old_read_overwrites_a_newer_document(deploy: MakeDeployment, tmp_path: Path, guarded: bool) -> None:
    # Given chunks that were read, and wait
    deployment = deploy()
    gate = tmp_path / "gate.open"
    deployment.start(["pause_finished_chunks"] + ([] if guarded else ["old_reads_win"]), gate)
    wait_for_file(gate.with_suffix(".reached"))
    # When their rows change and the live documents are durable before the chunks go on
    deployment.database.execute("UPDATE orders SET status = 'newer'")
    deployment.database.execute("DELETE FROM items WHERE id % 5 = 0")
    position = deployment.position()
    deployment.daemon.wait_for(lambda: deployment.confirmed() >= position, message="live changes are durable")
    gate.touch()
    # Then the live documents stay
    deployment.settle()
    expect(deployment, guarded)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_no_row_is_not_the_same_as_no_answer(deploy: MakeDeployment, tmp_path: Path, guarded: bool) -> None:
    # Given a live batch between its snapshot and its first read
    deployment = deploy()
    deployment.start()
    deployment.settle()
    assert deployment.daemon.stop() == 0
    deployment.database.execute("UPDATE products SET title = title || ' new' WHERE id <= 5")
    gate = tmp_path / "gate.open"
    deployment.start(["pause_inside_snapshots"] + ([] if guarded else ["no_lock_before_the_snapshot"]), gate)
    wait_for_file(gate.with_suffix(".reached"))
    # When somebody rewrites the table: a snapshot from before sees no row in it
    rewrite = "ALTER TABLE products ADD COLUMN filler double precision DEFAULT random()"
    alter = in_background(lambda: deployment.database.execute(rewrite))
    wait_for(
        lambda: not alter.is_alive() or waits_for_lock(deployment.database),
        message="the rewrite is done, or waits for the reader's lock",
    )
    gate.touch()
    alter.join(30)
    # Then no document is taken for deleted
    deployment.settle()
    expect(deployment, guarded)


def waits_for_lock(database: Database) -> bool:
    rows = database.execute(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE products%'"
    )
    return bool(rows)


def in_background(action: Callable[[], Any]) -> threading.Thread:
    failures: List[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread

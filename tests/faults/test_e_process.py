"""Faults E3, E5, E6: threads that die or hang, a clock that jumps, edges that nobody supervises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


@pytest.mark.parametrize("thread", ["capture", "engine", "writer", "watch", "confirm"])
def test_e5_a_dead_thread_is_a_dead_daemon(deploy: MakeDeployment, tmp_path: Path, thread: str) -> None:
    deployment = deploy()
    gate = tmp_path / "gate.open"
    daemon = deployment.start([f"{thread}_dies"], gate)
    deployment.settle()
    gate.touch()
    deployment.database.execute("UPDATE users SET name = name || '.'")
    assert daemon.wait(30) == 1
    assert "on purpose" in daemon.log
    deployment.start()
    deployment.settle()
    deployment.assert_right()


@pytest.mark.parametrize("thread", ["capture", "engine", "writer"])
def test_e5_a_hanging_thread_makes_unready_and_can_be_ended(
    deploy: MakeDeployment, tmp_path: Path, thread: str
) -> None:
    deployment = deploy()
    gate = tmp_path / "gate.open"
    daemon = deployment.start([f"{thread}_hangs"], gate)
    deployment.settle()
    gate.touch()
    deployment.database.execute("UPDATE users SET name = name || '.'")
    daemon.wait_for(lambda: daemon.get("/readyz")[0] == 503, 60, "unready")
    assert daemon.get("/healthz")[0] == 200
    assert daemon.stop(10) == 0
    deployment.start()
    deployment.settle()
    deployment.assert_right()


def test_e6_reconnects_leak_neither_descriptors_nor_threads(deploy: MakeDeployment) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()

    def held() -> "tuple[int, int]":
        place = Path(f"/proc/{daemon.pid}")
        return len(os.listdir(place / "fd")), len(os.listdir(place / "task"))

    def reconnect() -> None:
        deployment.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'flusso_sync%%'"
            " AND datname = current_database()"
        )
        deployment.database.execute("UPDATE users SET name = name || '.' WHERE id = 1")
        deployment.settle()

    reconnect()
    before = held()
    for _ in range(15):
        reconnect()
    after = held()
    assert after[0] <= before[0] + 2 and after[1] <= before[1]
    deployment.assert_right()

"""Fault E2: no room on the disk of a SQLite sink: said, waited out, nothing unsaved confirmed, healed by itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from tests.cases import SHOP
from tests.deployment import Deployment
from tests.faults.rig import status_of
from tests.fix_daemon import MakeDaemon
from tests.fix_deployment import OWNER, as_role, give_to_owner
from tests.postgres_server import Database
from tests.test_sqlite_end_to_end import assert_file_right, reader

pytestmark = [pytest.mark.pg, pytest.mark.fault]

#: Enough for the documents of the test, and soon full.
SIZE_BYTES = 4 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "flusso-test", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("a small tmpfs needs root and the right to mount; tests/test_sinks_sqlite.py has a stand-in")
    try:
        yield mount
    finally:
        # Lazily: the daemon of the test ends after this fixture.
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_is_waited_out_and_nothing_unsaved_is_confirmed(
    database: Database, owner: str, make_daemon: MakeDaemon, small_disk: Path
) -> None:
    # Given a live daemon over a file on a small disk
    give_to_owner(database)
    url = as_role(database.url, OWNER)
    SHOP.load(url)
    deployment = Deployment(database, "", "", SHOP, make_daemon, source_url=url)
    deployment.config["sinks"] = {"file": {"type": "sqlite", "path": str(small_disk / "documents.sqlite")}}
    daemon = deployment.start(program=True)
    deployment.settle()
    # When the disk is full and rows go on to change
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(b"x" * (free.f_bavail * free.f_frsize))
    before = deployment.confirmed()
    for number in range(3):
        database.execute("UPDATE users SET name = repeat(md5(id::text || %s), 40)", [str(number)])
    position = deployment.position()
    status = daemon.wait_for_status(lambda s: "no room left" in str(s["trouble"]), message="it says what is wrong")
    # Then it waits, unready, confirms nothing of it, and readers find what was saved
    assert status["phase"] == "live"
    daemon.wait_for(lambda: status_of(daemon) == 503, message="unready while changes cannot flow")
    assert before <= deployment.confirmed() < position
    assert reader(deployment).count("users") == len(deployment.expected()["users"])
    # It is not the same daemon that must heal it
    daemon.kill()
    daemon = deployment.start(program=True)
    daemon.wait_for_status(lambda s: s["trouble"], message="a start waits for room as well")
    assert deployment.confirmed() < position
    # and when there is room again, everything arrives by itself
    ballast.unlink()
    deployment.settle()
    assert_file_right(deployment)
    daemon.wait_for(lambda: status_of(daemon) == 200, message="ready again")
    assert "Traceback" not in daemon.log

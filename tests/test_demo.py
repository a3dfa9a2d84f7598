"""``bin/demo`` shows documents that follow their rows, and leaves nothing behind, however it is ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Dict, Iterator, Set

import pytest

from tests.fix_daemon import CHECKOUT, clean_environment
from tests.fix_pg import unavailable
from tests.postgres_server import NoPostgres, find_binaries
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.slow]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where this demo, and nobody else, keeps its files: a temporary folder with a space in its name."""
    try:
        find_binaries()
    except NoPostgres as error:
        unavailable(str(error))
    # Open all the way down, since as root its server runs as another user, who must not end up elsewhere.
    folder = Path("/tmp") / f"flusso demo {os.getpid()}"
    folder.mkdir()
    folder.chmod(0o777)
    yield folder
    folder.rmdir()


def descendants(pid: int) -> Set[int]:
    parents: Dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    found: Set[int] = set()
    todo = {pid}
    while todo:
        todo = {child for child, parent in parents.items() if parent in todo}
        found |= todo
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_shows_changes_and_leaves_nothing(place: Path, tmp_path: Path, number: int) -> None:
    output = tmp_path / "output"
    with open(output, "wb") as sink:
        demo = subprocess.Popen(
            [str(CHECKOUT / "bin" / "demo"), "--users", "50"],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=clean_environment(TMPDIR=str(place)),
            start_new_session=True,
        )
    children: Set[int] = set()
    try:
        # Two documents that arrived after the first build, among them one we can name.
        def arrived() -> bool:
            assert demo.poll() is None, output.read_text()
            changed = output.read_text().partition("now every change arrives by itself")[2]
            return len(re.findall(r"^  (users|orders|products)/\d+  {", changed, re.MULTILINE)) >= 2

        wait_for(arrived, 90, "documents on the screen")
        children = descendants(demo.pid)
        assert len(children) >= 3
        demo.send_signal(number)
        assert demo.wait(30) == 0, output.read_text()
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    assert "nothing is left behind" in output.read_text()
    assert [pid for pid in children if alive(pid)] == []
    assert list(place.iterdir()) == []

"""What holds for every test: fixtures of the servers, markers that follow from them, no thread left behind."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from importlib.util import find_spec
from typing import Any, Dict, Iterator, List

import pytest
from hypothesis import settings

SERVERS = [
    "flusso_sync.testing.plugin",
    "tests.fix_pg",
    "tests.fix_opensearch",
    "tests.fix_proxy",
    "tests.fix_daemon",
    "tests.fix_deployment",
    "tests.fix_browser",
]
pytest_plugins = [name for name in SERVERS if find_spec(name) is not None]

#: A fixture that needs a real server gives its test that server's marker.
MARKERS = {"postgres": "pg", "database": "pg", "opensearch": "opensearch", "browser": "browser"}

#: From cheap to dear.
COSTS = ("browser", "pg", "opensearch", "fault", "slow")

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKERS:
                item.add_marker(MARKERS[fixture])
    # What needs no server answers first; the order inside each group stays.
    items.sort(key=lambda item: max((place for place, name in enumerate(COSTS, 1) if name in item.keywords), default=0))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of links, counted: its cells by shape of tables and replica identity."""
    cells = "test_links.py::test_cell["
    counted: Dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            place, found, cell = getattr(report, "nodeid", "").partition(cells)
            if found:
                counted.setdefault("-".join(cell.split("-")[:2]), Counter())[outcome] += 1
    if not counted:
        return
    terminalreporter.section("links: relation kinds x changes, by shape of tables and replica identity")
    counted["all"] = sum(counted.values(), Counter())
    for world, outcomes in counted.items():
        said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        terminalreporter.write_line(f"{world:20} {said}")


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail the test that leaves a thread of ours running (exceptions in threads fail it by the warning filter)."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while True:
        left = [t for t in threading.enumerate() if t not in before and t.name.startswith("flusso-") and t.is_alive()]
        if not left:
            return
        if time.monotonic() > deadline:
            pytest.fail("threads left running: " + ", ".join(sorted(t.name for t in left)))
        left[0].join(0.1)

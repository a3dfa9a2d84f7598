"""The fault table: which fault was tested how, and how long it took to heal; printed when the run ends."""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any, Callable, ContextManager, Iterator, List, NamedTuple

import pytest

from tests.faults.front import Front
from tests.faults.rig import LONG
from tests.postgres_server import PostgresServer


class Healed(NamedTuple):
    fault: str
    test: str
    seconds: float


#: ``with heals():`` or ``with heals("what"):`` around the wait that begins when a fault is over.
Heals = Callable[..., ContextManager[None]]

HEALED: List[Healed] = []

_FAULT = re.compile(r"test_([a-e]\d)_")


@pytest.fixture
def heals(request: pytest.FixtureRequest) -> Heals:
    """Measures from the end of the fault until the block ends, and puts that into the fault table."""
    found = _FAULT.match(request.path.name)
    fault = found.group(1).upper() if found else request.path.stem
    test = re.sub(r"^test_", "", request.node.name)

    @contextlib.contextmanager
    def measured(what: str = "") -> Iterator[None]:
        began = time.monotonic()
        yield
        HEALED.append(Healed(fault, f"{test}: {what}" if what else test, time.monotonic() - began))

    return measured


@pytest.fixture
def impatient_server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The server of the session, which gives a walsender without a client up after some seconds, not after 60."""
    postgres.set(wal_sender_timeout="60s" if LONG else "4s")
    yield postgres
    postgres.start()
    postgres.set(wal_sender_timeout="60s")


@pytest.fixture
def front(opensearch_prefix: Any) -> Iterator[Front]:
    """An HTTP server before the node of the session."""
    server = Front(opensearch_prefix.url)
    yield server
    server.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not HEALED:
        return
    terminalreporter.section("faults, and seconds from the end of each until everything was durable and ready again")
    for healed in sorted(HEALED):
        terminalreporter.write_line(f"{healed.fault:4} {healed.seconds:6.1f}  {healed.test}")

"""Random faults on all three connections (stream, queries, sink) under a steady writer: no difference, no restart, and
descriptors, threads and memory stay flat.  ``FLUSSO_LONG=1``: half an hour."""

from __future__ import annotations

import random
import time
from typing import Callable, List, NamedTuple

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import LONG, finish, held_by, is_query, is_stream, port_of, wait_ready, writing
from tests.fix_daemon import DaemonProcess
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.fix_proxy import Proxy
from tests.postgres_server import PostgresServer
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault, pytest.mark.slow]

#: The oracle is asked after each round.
ROUNDS, ROUND_SECONDS = (6, 300.0) if LONG else (2, 18.0)


class Held(NamedTuple):
    descriptors: int
    threads: int
    resident_bytes: int


def held(daemon: DaemonProcess) -> Held:
    return Held(*held_by(daemon), daemon.resident_bytes())


def pass_time(seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until, seconds + 60)


def break_something(chance: random.Random, source: Proxy, sink: Proxy) -> str:
    """One fault, begun and ended; returns its name."""

    def lasting(proxy: Proxy, mode: str, **more: float) -> None:
        proxy.set(mode, **more)  # type: ignore[arg-type]
        pass_time(chance.uniform(0.2, 4.0))
        proxy.set("pass")

    faults = {
        "stream reset": lambda: source.drop(is_stream),
        "stream dead": lambda: source.freeze(is_stream),
        "queries reset": lambda: source.drop(is_query),
        "queries dead": lambda: source.freeze(is_query),
        "source refuses": lambda: lasting(source, "refuse"),
        "source silent": lambda: lasting(source, "blackhole"),
        "source slow": lambda: lasting(source, "slow", rate=20_000.0),
        "source cut": lambda: source.cut_after(chance.randint(1, 5000), chance.choice(["up", "down"])),
        "sink reset": lambda: sink.drop(),
        "sink dead": lambda: sink.freeze(),
        "sink refuses": lambda: lasting(sink, "refuse"),
        "sink silent": lambda: lasting(sink, "blackhole"),
        "sink slow": lambda: lasting(sink, "slow", rate=50_000.0),
        "sink cut": lambda: sink.cut_after(chance.randint(1, 5000), chance.choice(["up", "down"])),
    }
    name = chance.choice(sorted(faults))
    faults[name]()
    return name


def test_random_faults_on_every_connection_leave_no_difference_and_nothing_behind(
    deploy: MakeDeployment,
    opensearch_prefix: Prefix,
    make_proxy: Callable[[int], Proxy],
    impatient_server: PostgresServer,
    heals: Heals,
) -> None:
    chance = random.Random(60)
    source, sink = make_proxy(impatient_server.port), make_proxy(port_of(opensearch_prefix.url))
    deployment = deploy(source_port=source.port, sink_port=sink.port, scale=2, on_error="skip")
    deployment.config["source"]["statement_timeout_secs"] = 3
    deployment.config["sinks"]["search"]["timeout_secs"] = 3
    daemon = deployment.start([] if LONG else ["short_silences"])
    deployment.settle()
    pid = daemon.pid
    broken: List[str] = []
    samples: List[Held] = []
    for number in range(ROUNDS):
        with writing(deployment, 60 + number, 0.02) as writer:
            until = time.monotonic() + ROUND_SECONDS
            while time.monotonic() < until:
                broken.append(break_something(chance, source, sink))
                pass_time(chance.uniform(0.1, 3.0))
                assert daemon.running, daemon.log_tail()
            for proxy in (source, sink):
                proxy.set("pass")
            with heals(f"round {number + 1} of {ROUNDS}, {len(broken)} faults so far"):
                deployment.settle(180)
                wait_ready(daemon, 120)
            finish(deployment, writer, 180)
        # Dead connections are given up in their own time.
        pass_time(3.0)
        samples.append(held(daemon))
    print(f"{len(broken)} faults; descriptors, threads, resident bytes after each round: {samples}")
    assert daemon.pid == pid and daemon.running
    assert daemon.status()["documents_quarantined"] == 0
    first, last = samples[0], samples[-1]
    assert last.descriptors <= first.descriptors + 6, samples
    assert last.threads <= first.threads + 2, samples
    assert last.resident_bytes <= first.resident_bytes * 1.1 + 10 * 2**20, samples
    assert daemon.stop() == 0

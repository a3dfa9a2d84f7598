"""Fault E6: edges that nobody supervises: a dead collector, a log nobody reads, reconnects without end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import LONG, backends, finish, held_by, status_of, terminate, went_on, writing
from tests.fix_daemon import CHECKOUT, clean_environment
from tests.fix_deployment import MakeDeployment
from tests.fix_proxy import Proxy
from tests.postgres_server import free_port
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

RECONNECTS = 1000 if LONG else 15


def test_reconnects_leak_neither_descriptors_nor_threads(deploy: MakeDeployment, heals: Heals) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()

    def reconnect() -> None:
        terminate(deployment, backends(deployment))
        went_on(writer)
        deployment.settle()

    with writing(deployment, 48) as writer:
        for _ in range(3):
            reconnect()
        before = held_by(daemon)
        with heals(f"{RECONNECTS} reconnects"):
            for _ in range(RECONNECTS):
                reconnect()
        wait_for(lambda: held_by(daemon)[0] <= before[0] + 2, 20, f"as few descriptors as before: {before[0]}")
        wait_for(lambda: held_by(daemon)[1] <= before[1] + 1, 20, f"as few threads as before: {before[1]}")
        finish(deployment, writer)


@pytest.mark.parametrize("collector", ["refuses", "black hole"])
def test_a_dead_collector_holds_up_nothing(deploy: MakeDeployment, heals: Heals, collector: str) -> None:
    deployment = deploy()
    with Proxy(free_port()) as proxy:
        proxy.set("refuse" if collector == "refuses" else "blackhole")
        daemon = deployment.start(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{proxy.port}",
            OTEL_METRIC_EXPORT_INTERVAL="200",
            OTEL_BSP_SCHEDULE_DELAY="200",
        )
        deployment.settle()
        with writing(deployment, 49) as writer:
            wait_for(lambda: proxy.accepted or collector == "refuses", 30, "it exports")
            with heals(collector):
                went_on(writer, 50)
                deployment.settle()
            assert status_of(daemon) == 200
            finish(deployment, writer)
        assert daemon.stop(8) == 0


@pytest.mark.parametrize("stderr", ["closed", "never read"])
def test_a_log_that_nobody_takes_holds_up_nothing(deploy: MakeDeployment, heals: Heals, stderr: str) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    port = free_port()
    arguments = [*daemon.arguments, "--public-address", f"127.0.0.1:{port}"]
    reader, writer_end = os.pipe()
    if stderr == "never read":
        # Full from the start: the first line finds no room.
        os.set_blocking(writer_end, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer_end, b"x" * 4096)
        os.set_blocking(writer_end, True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.launch", "", "run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writer_end,
        # Every line there is.
        env=clean_environment(PYTHONPATH=str(CHECKOUT), FLUSSO_LOG="debug"),
        cwd=str(daemon.folder),
    )
    os.close(writer_end)
    if stderr == "closed":
        os.close(reader)
    # The rest of the rig asks this one: its address is known, its log is not.
    daemon.process = process
    daemon._address = lambda: f"127.0.0.1:{port}"  # type: ignore[method-assign]
    try:
        with writing(deployment, 50) as writer:
            wait_for(lambda: status_of(daemon) == 200, 60, "ready")
            with heals(stderr):
                went_on(writer, 50)
                deployment.settle()
            writer.stop()
            deployment.settle()
            deployment.assert_right()
        assert status_of(daemon) == 200
        assert daemon.stop(10) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if stderr == "never read":
            os.close(reader)

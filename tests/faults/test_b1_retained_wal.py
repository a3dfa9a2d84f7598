"""Fault B1, on our side: a slot that makes the server keep more WAL than it may is named, or given up in time."""

from __future__ import annotations

from typing import Any, Callable, Tuple

import pytest

from tests.deployment import Deployment
from tests.faults.rig import port_of
from tests.fix_deployment import MakeDeployment
from tests.fix_proxy import Proxy
from tests.test_check_live import check
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

LIMIT = "40MB"


def slots(deployment: Deployment) -> Any:
    return deployment.database.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [deployment.slot]
    )


def fill(deployment: Deployment) -> None:
    """60 MB of WAL, after a change that waits for the sink."""
    database = deployment.database
    database.execute("UPDATE users SET name = name || '!' WHERE id < 20; DELETE FROM orders WHERE id % 5 = 0")
    database.execute("CREATE TABLE IF NOT EXISTS elsewhere (t text)")
    database.execute("INSERT INTO elsewhere SELECT repeat(md5(n::text), 32) FROM generate_series(1, 54000) n")


def away(deploy: MakeDeployment, make_proxy: Callable[[int], Proxy], url: str, **source: Any) -> Tuple[Deployment, Any]:
    """A live deployment whose sink has just gone away."""
    proxy = make_proxy(port_of(url))
    deployment = deploy(sink_port=proxy.port)
    deployment.config["source"].update(max_retained_wal_bytes=LIMIT, **source)
    deployment.start(FLUSSO_LAG_POLL_SECS="1")
    deployment.settle()
    assert not [one for one in deployment.daemon.status()["trouble"] if "retained" in one["what"]]
    proxy.set("refuse")
    proxy.drop()
    return deployment, proxy


def test_a_slot_over_its_limit_is_named_and_kept(
    deploy: MakeDeployment, make_proxy: Callable[[int], Proxy], opensearch_prefix: Any
) -> None:
    deployment, proxy = away(deploy, make_proxy, opensearch_prefix.url)
    fill(deployment)

    def named(status: Any) -> bool:
        return any("source.max_retained_wal_bytes" in one["what"] for one in status["trouble"])

    deployment.daemon.wait_for_status(named, 60, "it is named")
    assert slots(deployment), "warn gives nothing up"
    told = check(deployment.daemon.folder / "flusso.yaml").only("FL036")
    assert told["severity"] == "warning" and "more than source.max_retained_wal_bytes" in told["message"]
    proxy.set("pass")
    deployment.settle()
    deployment.daemon.wait_for_status(lambda status: not named(status), 60, "it is over")
    deployment.assert_right()
    assert deployment.daemon.status()["gap"] is None


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "started-while-the-sink-is-away"])
def test_a_slot_over_its_limit_is_given_up_while_the_sink_is_away_and_all_is_right_afterwards(
    deploy: MakeDeployment, make_proxy: Callable[[int], Proxy], opensearch_prefix: Any, restarted: bool
) -> None:
    deployment, proxy = away(deploy, make_proxy, opensearch_prefix.url, on_retained_wal="give_up")
    daemon = deployment.daemon
    if restarted:
        daemon.stop()
        deployment.start(FLUSSO_LAG_POLL_SECS="1")
        daemon.wait_for(lambda: "sink search" in str(daemon.status()["trouble"]), 60, "the sink is waited for")
        assert slots(deployment)
    fill(deployment)
    # The WAL is let go although the sink is still away.
    wait_for(lambda: not slots(deployment), 60, "the slot is gone")
    daemon.wait_for(lambda: "was given up" in daemon.log, 30, "the log says so")
    deployment.database.execute("UPDATE products SET title = title || ' unheard'; DELETE FROM users WHERE id = 3")
    proxy.set("pass")
    deployment.settle(120)
    deployment.wait_until_built()
    assert "gap: " in daemon.log and slots(deployment)
    deployment.assert_right()
    assert "Traceback" not in daemon.log


def test_under_on_gap_stop_it_ends_with_its_exit_code(
    deploy: MakeDeployment, make_proxy: Callable[[int], Proxy], opensearch_prefix: Any
) -> None:
    deployment, proxy = away(deploy, make_proxy, opensearch_prefix.url, on_retained_wal="give_up", on_gap="stop")
    fill(deployment)
    wait_for(lambda: not slots(deployment), 60, "the slot is gone")
    proxy.set("pass")
    assert deployment.daemon.wait(60) == 7

"""docs/runbooks.md followed on provoked cases: the trouble stands under one name in ``/status``, on the page and in the
log, a metric shows it, and what the page says to do ends it."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional

import psycopg
import pytest

from tests.faults.front import Answer, Asked, Front, failure
from tests.faults.rig import OwnCase
from tests.faults.test_d3_poison import BAD, SCHEMA, TABLES, flussod
from tests.fix_daemon import CHECKOUT, DaemonProcess
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.browser, pytest.mark.fault]

RUNBOOKS = CHECKOUT / "docs" / "runbooks.md"
ALERTS = CHECKOUT / "docs" / "operations.md"

#: What the lag poller is told, so that a slot is looked at every second.
OFTEN = {"FLUSSO_LAG_POLL_SECS": "1"}


@pytest.fixture
def page(browser: Any) -> Iterator[Callable[[DaemonProcess], Any]]:
    context = browser.new_context()

    def open_page(daemon: DaemonProcess) -> Any:
        opened = context.new_page()
        opened.goto(f"http://{daemon.status()['addresses']['public']}/")
        return opened

    yield open_page
    context.close()


def metric(daemon: DaemonProcess, name: str, labels: str = r"[^}]*") -> float:
    """The value of the only series of ``name`` with these labels, or any; 0 when there is none."""
    _, text = daemon.get("/metrics")
    found = re.search(rf"^{name}(?:\{{{labels}\}})? ([0-9.e+]+)$", text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def told(daemon: DaemonProcess, page: Any, what: str, section: str) -> Dict[str, Any]:
    """The trouble that says ``what``, once it stands everywhere under that name, which this section of the page has."""
    status = daemon.wait_for_status(lambda s: any(what in one["what"] for one in s["trouble"]), 60, what)
    (trouble,) = [one for one in status["trouble"] if what in one["what"]]
    assert trouble["todo"], "and what to do"
    page.locator("#troubles > li", has_text=what).wait_for(timeout=30_000)
    key = re.escape(trouble["key"])
    assert metric(daemon, "flusso_trouble", f'key="{key}"') == 1
    kind = trouble["key"].partition(" ")[0]
    assert re.search(rf"`{kind}( …)?`", section_of(section)), f"the page names {trouble['key']}"
    # The log says it now and then, and in the words of that moment.
    named = re.compile(rf'trouble="?{key}"?(\s|$)', re.MULTILINE)
    wait_for(lambda: named.search(daemon.log), 30, "the log names it")
    assert daemon.get("/readyz")[0] == (503 if trouble["blocking"] else 200)
    found: Dict[str, Any] = trouble
    return found


def over(daemon: DaemonProcess, page: Any, what: str) -> None:
    daemon.wait_for_status(lambda s: not any(what in one["what"] for one in s["trouble"]), 60, f"{what}: it is over")
    page.locator("#troubles > li", has_text=what).wait_for(state="detached", timeout=30_000)


def section_of(heading: str, page: Path = RUNBOOKS) -> str:
    """The text below ``heading``, up to the next one."""
    return re.split(r"^##", page.read_text().partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def sql_of(heading: str, page: Path = RUNBOOKS) -> str:
    """The one block of SQL in a section of the page."""
    (block,) = re.findall(r"```sql\n(.*?)```", section_of(heading, page), re.DOTALL)
    return str(block)


def test_the_slot_grows_because_of_a_transaction_that_the_pages_query_finds(
    deploy: MakeDeployment, page: Callable[[DaemonProcess], Any]
) -> None:
    deployment = deploy()
    deployment.config["source"]["max_retained_wal_bytes"] = "20MB"
    daemon = deployment.start(**OFTEN)
    deployment.settle()
    shown = page(daemon)
    database = deployment.database
    database.execute("CREATE TABLE elsewhere (t text)")
    with contextlib.closing(psycopg.connect(database.url, application_name="forgotten")) as forgotten:
        # A transaction with an id holds the slot's restart position, whoever waits for it.
        forgotten.execute("INSERT INTO elsewhere VALUES ('never committed')")
        database.execute("INSERT INTO elsewhere SELECT repeat(md5(n::text), 32) FROM generate_series(1, 36000) n")
        database.execute("CHECKPOINT")
        told(daemon, shown, f"slot {deployment.slot} makes the server keep", "The slot grows")
        assert metric(daemon, "flusso_slot_retained_bytes") > 20 * 2**20
        pid = forgotten.info.backend_pid
        for query in (sql_of("The slot grows"), sql_of("FlussoSlotKeepsWal", ALERTS)):
            assert database.execute(query)[0][0] == pid, "the oldest stands first"
        database.execute("SELECT pg_terminate_backend(%s)", [pid])
    # The server moves the slot on with the next changes.
    database.execute("UPDATE users SET name = name || '!'; CHECKPOINT")
    deployment.settle()
    over(daemon, shown, "makes the server keep")
    deployment.assert_right()


def test_lag_shows_at_the_sink_that_has_too_much_to_do(
    deploy: MakeDeployment, front: Front, page: Callable[[DaemonProcess], Any]
) -> None:
    deployment = deploy(sink_port=front.port)
    daemon = deployment.start()
    deployment.settle()
    shown = page(daemon)

    def overloaded(asked: Asked) -> Optional[Answer]:
        return failure(429, "rejected_execution_exception") if "_bulk" in asked.path else None

    front.intercept = overloaded
    deployment.database.execute("UPDATE users SET name = name || '!'")
    told(daemon, shown, "asks to slow down", "Lag")
    shown.locator("#sinks > li[data-blocked]", has_text="search").wait_for(timeout=30_000)
    wait_for(lambda: metric(daemon, "flusso_sink_retries_total") > 0, 30)
    wait_for(lambda: metric(daemon, "flusso_lag_seconds") > 1, 30)
    front.intercept = lambda asked: None
    over(daemon, shown, "asks to slow down")
    deployment.settle()
    deployment.assert_right()


def test_the_quarantine_fills_and_is_emptied_by_mending_and_retrying(
    deploy: MakeDeployment, tmp_path: Path, page: Callable[[DaemonProcess], Any]
) -> None:
    deployment = deploy(OwnCase(tmp_path, TABLES, {"shops": SCHEMA}), on_error="skip", quarantine={"limit": 2})
    daemon = deployment.start()
    deployment.settle()
    shown = page(daemon)
    database = deployment.database
    database.execute(f"UPDATE shops SET opens = '{BAD}' WHERE id IN (7, 8)")
    daemon.wait_for_status(lambda s: s["index_details"]["shops"]["quarantined"] == 2, 60, "both are parked")
    shown.locator("#rows td.parked", has_text="2").wait_for(timeout=30_000)
    wait_for(lambda: metric(daemon, "flusso_quarantine_documents") == 2, 30)
    assert "shops/7" in daemon.log or "'7'" in daemon.log
    listed = json.loads(flussod(deployment, "quarantine", "list", "--format", "json"))
    assert {"7", "8"} == {one["id"] for one in listed["documents"]}
    # Full: it ends, and says so at every start, until something is mended.
    database.execute(f"UPDATE shops SET opens = '{BAD}' WHERE id = 9")
    assert daemon.wait(60) == 6
    database.execute("UPDATE shops SET opens = '09:00' WHERE id IN (7, 8, 9)")
    daemon = deployment.start()
    deployment.settle()
    daemon.wait_for_status(lambda s: s["index_details"]["shops"]["quarantined"] == 0, 60, "all have left")
    deployment.assert_right()


def test_a_gap_waits_for_a_decision_under_stop(deploy: MakeDeployment, page: Callable[[DaemonProcess], Any]) -> None:
    deployment = deploy()
    deployment.config["source"]["on_gap"] = "stop"
    daemon = deployment.start()
    deployment.settle()
    daemon.stop()
    deployment.database.execute("DELETE FROM users WHERE id % 3 = 0")
    deployment.database.execute("SELECT pg_drop_replication_slot(%s)", [deployment.slot])
    deployment.start()
    assert daemon.wait(60) == 7
    assert "on_gap" in daemon.log
    # Decided, once, by the variable of the page's flag.
    daemon = deployment.start(FLUSSO_ON_GAP="rebuild")
    shown = page(daemon)
    deployment.wait_until_built()
    assert f"slot {deployment.slot}" in daemon.log
    deployment.settle()
    shown.locator("#rows .chip", has_text="seeded").first.wait_for(timeout=30_000)
    deployment.assert_right()


def test_a_full_disk_of_opensearch_is_waited_out_and_the_pages_request_clears_its_block(
    deploy: MakeDeployment, opensearch_prefix: Prefix, page: Callable[[DaemonProcess], Any]
) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    shown = page(daemon)
    # As the node does it above its flood stage.
    opensearch_prefix.call("PUT", "/{p}users/_settings", {"index.blocks.read_only_allow_delete": True})
    deployment.database.execute("UPDATE users SET name = name || '!'")
    told(daemon, shown, "blocks writing", "A full disk")
    (request,) = re.findall(r"`PUT (/_all/_settings) (\{.*?\})`", RUNBOOKS.read_text())
    # Of this test's indexes alone: others share the node.
    opensearch_prefix.call("PUT", request[0].replace("_all", "{p}*"), json.loads(request[1]))
    over(daemon, shown, "blocks writing")
    deployment.settle()
    deployment.assert_right()


def test_moving_hosts_the_second_waits_and_takes_over(
    deploy: MakeDeployment, make_daemon: Any, page: Callable[[DaemonProcess], Any]
) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    second = make_daemon(deployment.config, None, env={"PYTHONPATH": str(CHECKOUT)})
    second.wait_for_status(lambda s: not s["ready"] and s["trouble"], 60, "it waits")
    (trouble,) = second.status()["trouble"]
    told(second, page(second), trouble["what"], "Moving hosts")
    daemon.stop()
    second.wait_for_status(lambda s: s["ready"] and s["phase"] == "live", 90, "it has taken over")
    deployment.database.execute("UPDATE users SET name = name || '!'")
    position = deployment.database.execute("SELECT pg_current_wal_lsn()::text")[0][0]
    assert second.get(f"/synced?lsn={position}&timeout=30", 40)[0] == 200
    deployment.assert_right()

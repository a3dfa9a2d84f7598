"""Alert rules, board and their page speak of metrics that exist, and the real tool takes the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest
import yaml

from flusso_sync.observer import BatchStats, Stage
from flusso_sync.status import IndexState
from flusso_sync.telemetry import Telemetry
from tests.fix_pg import unavailable
from tests.scenes import building

CHECKOUT = Path(__file__).resolve().parent.parent
RULES = CHECKOUT / "etc" / "prometheus" / "flusso.rules.yml"
BOARD = CHECKOUT / "etc" / "grafana" / "flusso.json"
PAGE = (CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8")

METRIC = re.compile(r"\b(flusso_[a-z_]+|target_info)\b")


@pytest.fixture(scope="module")
def families() -> Set[str]:
    """Every name that is ever scraped, samples of histograms included."""
    status = building()
    status.trouble("source", "it is away")
    telemetry = Telemetry(status, {})
    observer = telemetry.observer()
    observer.on_index_seeded("users")
    observer.on_batch_committed(BatchStats(1, 1, {"users": 1}, 0.1))
    observer.on_document_quarantined("users", "1", "x")
    observer.on_stage(Stage("build", 0.0, 1.0))
    text = telemetry.scrape()
    telemetry.shutdown(5)
    assert text is not None
    return set(re.findall(r"^# TYPE (\S+)", text.decode(), re.MULTILINE))


def known(name: str, families: Set[str]) -> bool:
    return name in families or re.sub(r"_(bucket|sum|count)$", "", name) in families


def alerts() -> List[Dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_the_page_lists_every_metric_and_no_other(families: Set[str]) -> None:
    table = PAGE.partition("\n## Metrics\n")[2].partition("\n## Logs\n")[0]
    listed = {name for line in table.splitlines() if line.startswith("| `") for name in METRIC.findall(line)}
    assert listed == families


def test_alerts_speak_of_metrics_and_states_that_exist(families: Set[str]) -> None:
    for alert in alerts():
        names = METRIC.findall(alert["expr"])
        assert names or "up{" in alert["expr"], alert["alert"]
        assert [name for name in names if not known(name, families)] == [], alert["alert"]
        for states in re.findall(r'state=~?"([^"]+)"', alert["expr"]):
            assert set(states.split("|")) <= {state.value for state in IndexState}, alert["alert"]


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    chapters = {heading.lower(): heading for heading in re.findall(r"^### (.+)$", PAGE, re.MULTILINE)}
    assert [alert["annotations"]["runbook"] for alert in alerts()] == [
        f"docs/operations.md#{alert['alert'].lower()}" for alert in alerts()
    ]
    assert sorted(chapters.values()) == sorted(alert["alert"] for alert in alerts())
    for alert in alerts():
        assert {"summary", "description"} <= set(alert["annotations"]), alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning")


def test_the_board_shows_metrics_that_exist_and_nothing_overlaps(families: Set[str]) -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    taken: Dict[Any, str] = {}
    for panel in board["panels"]:
        for target in panel["targets"]:
            names = METRIC.findall(target["expr"])
            assert names and all(known(name, families) for name in names), panel["title"]
            assert target["expr"].count("(") == target["expr"].count(")")
            assert 'instance=~"$instance"' in target["expr"], panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for column in range(place["x"], place["x"] + place["w"]):
            for row in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((column, row), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_promtool_takes_the_rules() -> None:
    unpacked = CHECKOUT / ".cache" / "prometheus" / "usr" / "bin" / "promtool"
    promtool = shutil.which("promtool") or (str(unpacked) if unpacked.exists() else None)
    if promtool is None:
        unavailable("no promtool (Debian: apt-get install prometheus)")
        raise AssertionError
    ran = subprocess.run([promtool, "check", "rules", str(RULES)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout.decode()
    assert f"SUCCESS: {len(alerts())} rules found" in ran.stdout.decode()

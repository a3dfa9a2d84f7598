"""``bin/bench`` measures what it says, and refuses to time what is wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Dict, List
from xml.etree import ElementTree

import pytest

from tests.bench import (
    builds,
    burst,
    capture,
    chart,
    fanout,
    history,
    idle,
    latency,
    memory,
    shapes,
    share,
    shop,
    sinks,
    sustained,
    twins,
)
from tests.bench.rig import quantile, rig
from tests.fix_daemon import CHECKOUT, clean_environment
from tests.postgres_server import Database


def test_shop_has_the_same_rows_everywhere_and_its_links_are_indexed(database: Database) -> None:
    with database.connect() as connection:
        rows = shop.fill(connection, 100)
    assert rows == shop.Size(users=100, products=40, orders=300, items=600)
    sums = {
        table: database.execute(f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY id)) FROM {table} t")[0]
        for table in ("products", "items")
    }
    assert sums == {
        "products": (40, "02b00a24c6e744258b4bac7b4bfced14"),
        "items": (600, "06435556ee115ee19d9d83cb3df93859"),
    }
    indexed = database.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
        " WHERE i.indrelid IN ('orders'::regclass, 'items'::regclass) AND NOT i.indisprimary ORDER BY 1"
    )
    assert indexed == [("order_id",), ("product_id",), ("user_id",)]
    insert = "INSERT INTO users (email, name, country, plan) VALUES ('a', 'b', 'AT', 'pro') RETURNING id"
    assert database.execute(insert) == [(101,)]


@pytest.mark.opensearch
@pytest.mark.slow
def test_a_small_run_gives_ratios_side_by_side(opensearch: str) -> None:
    command = [str(CHECKOUT / "bin" / "bench"), "--users", "300", "--only", "orders,all", "--json"]
    command += ["--node", opensearch]
    ran = subprocess.run(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    assert ran.returncode == 0, ran.stderr.decode()
    runs = json.loads(ran.stdout)["runs"]
    assert {name: figures["documents"] for name, figures in runs.items()} == {"orders": 900, "all": 1320}
    for figures in runs.values():
        lower = min(figures["copy_per_second"], figures["bulk_per_second"])
        assert figures["of_lower_ceiling"] == pytest.approx(figures["documents_per_second"] / lower, rel=0.05)


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([5.0], 0.95) == 5.0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(1, 101)], 0.95) == 95.0
    assert quantile([float(n) for n in range(1, 11)], 0.95) == 10.0


def test_beside_a_build_twice_the_idle_latency_is_allowed_or_25_ms_more() -> None:
    assert latency.bound_ms(10.0) == 35.0
    assert latency.bound_ms(25.0) == 50.0
    assert latency.bound_ms(40.0) == 80.0


def _latency(readable: float, searchable: float = 50.0) -> Dict[str, Any]:
    return latency.Latencies([readable], [searchable]).figures()


def test_latencies_beside_a_rebuild_are_judged_by_those_of_the_idle_daemon() -> None:
    figures = latency.judged(
        {
            "rows": 9,
            "idle": _latency(8.0),
            "by_hand": _latency(7.0),
            "rebuild": _latency(33.0),
            "guard_off": _latency(33.1),
        }
    )
    assert figures["bound_ms"] == 33.0
    assert (figures["rebuild"]["within"], figures["guard_off"]["within"]) == (True, False)
    said = latency.report({**figures, "oldest_transaction_seconds": 0.5})
    assert "is within the bound of 33.0 ms" in said and "guard off it is BEYOND it" in said
    assert figures["idle"] == {
        "samples": 1,
        "readable_p50_ms": 8.0,
        "readable_p95_ms": 8.0,
        "readable_p99_ms": 8.0,
        "searchable_p50_ms": 50.0,
        "searchable_p95_ms": 50.0,
        "searchable_p99_ms": 50.0,
    }


def test_latencies_beside_a_job_are_judged_by_those_of_the_idle_daemon() -> None:
    runs = {"idle": _latency(8.0), "job": _latency(33.0), "guard_off": _latency(33.1)}
    figures = fanout.judged({"rows": 9, **runs})
    assert (figures["job"]["within"], figures["guard_off"]["within"]) == (True, False)
    assert "beside a job is within the bound of 33.0 ms" in fanout.report(figures)


def test_the_memory_of_a_large_build_is_compared_with_that_of_a_small_one() -> None:
    assert memory.more(100, 114) == pytest.approx(0.14)
    assert memory.more(100, 90) == pytest.approx(-0.1)
    one = {"rows": 1, "seconds": 1.0, "oldest_transaction_seconds": 0.0}
    for large, said in ((114, "within"), (115, "BEYOND")):
        figures = memory.judged({"small": {**one, "memory_bytes": 100}, "large": {**one, "memory_bytes": large}})
        assert f"{said} the bound of 15%" in memory.report(figures)


def test_what_a_build_gets_beside_live_changes_stands_beside_what_it_gets_alone() -> None:
    one = {"build_alone": 8000, "build_beside": 2000, "live_alone": 50_000, "live_beside": 45_000}
    other = {"build_alone": 10_000, "build_beside": 0, "live_alone": 50_000, "live_beside": 50_000}
    _, first, second = share.report({"rows": 9, "1": one, "2": other}).splitlines()
    assert first.split()[4:] == ["8,000", "2,000", "0.25", "50,000", "45,000", "0.90"]
    assert second.split()[4:] == ["10,000", "0", "0.00", "50,000", "50,000", "1.00"]


def test_of_several_rounds_the_middle_one_is_shown() -> None:
    rounds = [{"of_lower_ceiling": share, "documents": n} for n, share in enumerate((0.7, 0.4, 0.6))]
    middle = builds.median(rounds)
    assert (middle["documents"], middle["of_lower_ceiling_of_each_round"]) == (2, [0.7, 0.4, 0.6])


@pytest.mark.pg
@pytest.mark.opensearch
@pytest.mark.slow
def test_small_runs_of_other_shapes_and_other_sinks_are_right_and_give_every_figure(
    opensearch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "ITEMS", 100)
    said: List[str] = []
    with rig(opensearch) as servers:
        shaped = shapes.measure(servers, 2000, said.append)
        sunk = sinks.measure(servers, 300, said.append)
    assert {name: one["documents"] for name, one in shaped.items()} == {
        "small": 2000,
        "wide": 100,
        "deep": 100,
        "many": 40,
    }
    assert {name: one["documents"] for name, one in sunk.items()} == {"stdout": 300, "sqlite": 300}
    assert shapes.report(shaped) and sinks.report(sunk)


@pytest.mark.pg
@pytest.mark.opensearch
@pytest.mark.slow
def test_small_runs_beside_live_changes_give_every_figure(opensearch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "IDLE_SAMPLES", 5)
    monkeypatch.setattr(latency, "WARM_UP_SAMPLES", 2)
    said: List[str] = []
    with rig(opensearch) as servers:
        live = latency.measure(servers, 3000, said.append)
        built = memory.measure(servers, 3000, said.append)
    assert live["rows"] == 3000 and live["idle"]["samples"] >= 5
    assert live["by_hand"]["samples"] >= 5
    for run in ("rebuild", "guard_off"):
        assert live[run]["within"] == (live[run]["readable_p95_ms"] <= live["bound_ms"])
    assert (built["small"]["rows"], built["large"]["rows"]) == (300, 3000)
    assert built["small"]["memory_bytes"] > 20_000_000
    assert latency.report(live) and memory.report(built)


@pytest.mark.pg
@pytest.mark.opensearch
@pytest.mark.slow
def test_what_full_identities_save_is_counted(opensearch: str) -> None:
    said: List[str] = []
    with rig(opensearch) as servers:
        figures = twins.measure(servers, 200, said.append)
    assert {name: figures[name]["unshown_ignored"] for name in twins.TWINS} == {
        "default": 0,
        "full": 80,
        "weak": 0,
        "unprepared": 0,
    }
    assert figures["full"]["wal_bytes_per_row"] >= figures["weak"]["wal_bytes_per_row"]
    assert twins.report(figures)


def test_a_burst_is_judged_by_the_medians_of_its_rounds() -> None:
    hand = [{"resolve": 0.1, "copy": 0.4, "bulk": second} for second in (0.5, 1.5, 9.5)]
    figures = burst.judged(9, {"orders": 8}, [2.6, 50.0, 2.5], hand)
    assert (figures["daemon_seconds"], figures["by_hand_seconds"], figures["of_by_hand"]) == (2.6, 2.0, 1.3)
    assert figures["within"] and figures["by_hand_parts"] == {"resolve": 0.1, "copy": 0.4, "bulk": 1.5}
    assert not burst.judged(9, {"orders": 8}, [2.7], [{"resolve": 2.0}])["within"]
    assert "BEYOND the bound of 1.3" in burst.report({**figures, "within": False})


def test_a_capture_is_judged_by_what_pg_recvlogical_does_with_the_same() -> None:
    figures = capture.judged(900, ours=[10.0, 1.0, 1.0], theirs=[0.9, 0.9, 5.0])
    assert figures == {
        "changes_per_second": 900,
        "pg_recvlogical_per_second": 1000,
        "of_pg_recvlogical": 0.9,
        "within": True,
    }
    assert not capture.judged(900, [1.0], [0.8])["within"]


def test_writers_are_held_to_what_was_carried_when_they_were_too_fast() -> None:
    assert sustained.carried(sustained.Written(100.0, 20.0, 60.0), 60) == 50.0
    assert sustained.Written(1.0, middle=0.1, end=1.9).flat
    assert not sustained.Written(1.0, middle=0.1, end=2.2).flat
    assert not sustained.Written(1.0, middle=60.0, end=59.0).flat, "the lag is that of a backlog"
    figures = sustained.judged(100, 50.0, sustained.Written(20.0, 0.1, 0.1), 20.0)
    assert (figures["rows_per_second"], figures["of_alone"], figures["held_back"]) == (2000, 0.4, True)


def test_an_idle_daemon_and_its_start_are_judged_apart() -> None:
    figures = idle.judged({"of_one_core": 0.0051, "start_seconds": 1.5})
    assert (figures["idle_within"], figures["start_within"]) == (False, True)


@pytest.mark.pg
@pytest.mark.opensearch
@pytest.mark.slow
def test_a_small_run_of_a_change_of_very_many_documents_gives_every_figure(
    opensearch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "IDLE_SAMPLES", 5)
    monkeypatch.setattr(fanout, "WARM_UP_SAMPLES", 2)
    with rig(opensearch) as servers:
        found = fanout.measure(servers, 3000, lambda text: None)
    assert (found["job"]["jobs"], found["guard_off"]["jobs"]) == (1, 0)
    for run in ("job", "guard_off"):
        assert found[run]["within"] == (found[run]["readable_p95_ms"] <= found["bound_ms"])
    assert fanout.report(found)


def test_a_run_is_kept_and_its_newest_full_one_drawn(tmp_path: Path) -> None:
    built = {"documents": 220_000, "of_lower_ceiling": 0.7}
    latencies = {"readable_p50_ms": 4.0, "searchable_p50_ms": 10.0}
    run = {
        "date": "2026-01-02",
        "version": "1.2.3",
        "machine": {
            "processors": 2,
            "memory_bytes": 3 * 2**30,
            "postgres": "15.1",
            "opensearch": "2.19.1",
            "python": "3.13.0",
        },
        "runs": {
            "all": built,
            "burst": {"rows": 20_000, "of_by_hand": 0.8},
            "latency": {"idle": {**latencies, "readable_p50_ms": 5.0}, "by_hand": latencies},
        },
    }
    file = tmp_path / "history.jsonl"
    assert history.read(file) == []
    history.append({"runs": {}}, file)
    history.append(run, file)
    assert history.read(file)[-1] == run
    picture = ElementTree.fromstring(chart.draw(run))
    said = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    # The others' shares stand beside ours; a burst faster than by hand is more than 1.
    assert {"0.70  flusso-sync", "1.25  flusso-sync", "0.80  flusso-sync", "0.10  pgsync 7.3.0"} <= set(said)
    assert any("2 processors, 3 GiB, Postgres 15.1" in str(text) for text in said)

"""Metrics: the exact names that dashboards rely on, and exporters that can neither block nor break the sync."""

from __future__ import annotations

import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import monotonic, sleep
from typing import Dict, Iterator, List, Set, Tuple

import pytest

from flusso_sync import telemetry as module
from flusso_sync.observer import BatchStats, FanOut, Stage, StatusObserver
from flusso_sync.status import IndexState, Phase, Status
from flusso_sync.telemetry import Telemetry
from tests.scenes import calm
from tests.waiting import wait_for

#: operations.md section 3.
FLUSSO = {
    "flusso_changes_captured_total": "counter",
    "flusso_changes_committed_total": "counter",
    "flusso_documents_built_total": "counter",
    "flusso_batches_total": "counter",
    "flusso_indexes_seeded_total": "counter",
    "flusso_documents_quarantined_total": "counter",
    "flusso_errors_total": "counter",
    "flusso_flush_duration_seconds": "histogram",
    "flusso_replication_slot_lag_bytes": "gauge",
    "flusso_indexes": "gauge",
    "flusso_changes_in_flight": "gauge",
    "target_info": "gauge",
}


@pytest.fixture
def told() -> Iterator[Tuple[Status, Telemetry]]:
    status = Status(["users"])
    telemetry = Telemetry(status, {})
    fan = FanOut([StatusObserver(status), telemetry.observer()])
    fan.on_indexes_ensured(["users"])
    fan.on_backfill_started(["users"])
    fan.on_index_seeded("users")
    fan.on_live_started()
    fan.on_changes_captured(7)
    status.ignored(3)
    status.deduplicated(2)
    status.untraceable({"public.items": 2})
    status.untraceable({"public.items": 1, "public.notes": 2})
    fan.on_batch_committed(BatchStats(5, 4, {"users": 4}, flush_seconds=0.02))
    fan.on_document_quarantined("users", "7", "too large")
    fan.on_slot_lag(11056)
    fan.on_error(RuntimeError("over"))
    yield status, telemetry
    assert telemetry.shutdown(5)


def scraped(telemetry: Telemetry) -> str:
    text = telemetry.scrape()
    assert text is not None
    return text.decode()


def samples(text: str) -> Dict[str, float]:
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    }


def test_names_and_types_are_flussos(told: Tuple[Status, Telemetry]) -> None:
    text = scraped(told[1])
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert {name: types.get(name) for name in FLUSSO} == FLUSSO


def test_values_are_those_of_the_status_and_carry_no_other_labels(told: Tuple[Status, Telemetry]) -> None:
    found = samples(scraped(told[1]))
    assert {name: found[name] for name in found if name.startswith("flusso_") and "bucket" not in name} == {
        "flusso_changes_captured_total": 7,
        "flusso_changes_committed_total": 5,
        "flusso_changes_ignored_total": 3,
        "flusso_untraceable_changes_total": 5,
        "flusso_documents_deduplicated_total": 2,
        "flusso_changes_in_flight": 2,
        'flusso_documents_built_total{index="users"}': 4,
        "flusso_batches_total": 1,
        'flusso_indexes_seeded_total{index="users"}': 1,
        'flusso_documents_quarantined_total{index="users"}': 1,
        'flusso_quarantine_documents{index="users"}': 1,
        "flusso_errors_total": 1,
        "flusso_flush_duration_seconds_count": 1,
        "flusso_flush_duration_seconds_sum": 0.02,
        "flusso_replication_slot_lag_bytes": 11056,
        "flusso_indexes": 1,
        'flusso_index_state{index="users",state="seeded"}': 1,
        "flusso_ready": 1,
        "flusso_gap": 0,
        "flusso_troubles": 0,
        "flusso_observer_events_dropped_total": 0,
        "flusso_lag_seconds": found["flusso_lag_seconds"],
        "flusso_visibility_waits_total": 0,
        "flusso_visibility_wait_seconds_total": 0,
        "flusso_fan_out_jobs": 0,
        "flusso_batch_changes_count": 1,
        "flusso_batch_changes_sum": 5,
        "flusso_batch_documents_count": 1,
        "flusso_batch_documents_sum": 4,
    }
    assert 0 <= found["flusso_lag_seconds"] < 60


def test_buckets_are_flussos_and_cumulative(told: Tuple[Status, Telemetry]) -> None:
    found = re.findall(r'^flusso_flush_duration_seconds_bucket\{le="([^"]+)"\} (\S+)$', scraped(told[1]), re.MULTILINE)
    bounds = ["0.001", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]
    assert [bound for bound, _ in found] == bounds
    assert [float(count) for _, count in found] == [0, 0, 0] + [1] * 10


def test_target_info_names_the_service(told: Tuple[Status, Telemetry]) -> None:
    (line,) = [line for line in scraped(told[1]).splitlines() if line.startswith("target_info{")]
    assert 'service_name="flusso"' in line
    assert 'telemetry_sdk_language="python"' in line


def test_a_lag_nobody_knows_is_no_series_and_a_build_shows_its_rows() -> None:
    status = Status(["users"])
    telemetry = Telemetry(status, {})
    status.set_build_progress("users", 10, 100)
    found = samples(scraped(telemetry))
    assert "flusso_replication_slot_lag_bytes" not in found
    assert found['flusso_build_rows{index="users"}'] == 10
    assert found['flusso_build_rows_expected{index="users"}'] == 100
    assert found['flusso_build_rows_per_second{index="users"}'] == 0
    assert 'flusso_build_remaining_seconds{index="users"}' not in found, "nobody knows at a rate of nothing"
    sleep(0.01)
    status.set_build_progress("users", 60, 100, exact=True)
    found = samples(scraped(telemetry))
    rate = found['flusso_build_rows_per_second{index="users"}']
    assert rate > 0 and found['flusso_build_remaining_seconds{index="users"}'] == pytest.approx(40 / rate, rel=0.5)
    status.set_index_state("users", IndexState.SEEDED)
    assert not any(name.startswith("flusso_build_") for name in samples(scraped(telemetry))), "the build is over"
    assert found["flusso_ready"] == 0
    status.set_phase(Phase.LIVE)
    status.set_gap("the slot is gone")
    status.trouble("sink", "away", blocking=True)
    found = samples(scraped(telemetry))
    assert (found["flusso_gap"], found["flusso_troubles"], found["flusso_ready"]) == (1, 1, 0)
    assert found['flusso_trouble{key="sink"}'] == 1, "under the name it has in /status and in the log"
    status.clear_trouble("sink")
    assert not any(name.startswith("flusso_trouble{") for name in samples(scraped(telemetry))), "it is over"
    telemetry.shutdown(5)


def test_what_parts_of_the_pipeline_say_is_measured_by_sink_and_stage() -> None:
    status = calm()
    telemetry = Telemetry(status, {})
    for name, seconds in (("snapshot", 0.0004), ("resolve", 0.002), ("build", 0.02), ("bulk", 0.02), ("bulk", 99)):
        telemetry.observer().on_stage(Stage(name, 0.0, seconds))
    found = samples(scraped(telemetry))
    assert found['flusso_stage_duration_seconds_count{stage="bulk"}'] == 2
    assert found['flusso_stage_duration_seconds_bucket{le="0.025",stage="build"}'] == 1
    assert found['flusso_stage_duration_seconds_bucket{le="0.01",stage="build"}'] == 0
    assert (found["flusso_queue_changes"], found["flusso_queue_capacity"]) == (10, 16_384)
    assert found['flusso_sink_waiting{sink="search"}'] == 3
    assert found['flusso_sink_waiting_size_bytes{sink="search"}'] == 8000
    assert found['flusso_sink_requests_in_flight{sink="search"}'] == 1
    assert found['flusso_sink_concurrency{sink="search"}'] == 2
    assert found['flusso_sink_retries_total{sink="search"}'] == 12
    assert found['flusso_sink_written_total{sink="search"}'] == 431_000
    assert found['flusso_index_documents{index="orders"}'] == 150_000
    assert found["flusso_slot_retained_bytes"] == 48 * 1024**2
    assert found["flusso_slot_safe_bytes"] == 9 * 1024**3
    assert (found["flusso_source_connections"], found["flusso_visibility_waits_total"]) == (3, 1)
    for part in ("queue", "sinks", "connections"):
        status.set_figures(part, None)
    gone = samples(scraped(telemetry))
    assert not [name for name in gone if name.startswith(("flusso_queue", "flusso_sink", "flusso_source"))]
    telemetry.shutdown(5)


def test_labels_come_from_the_configuration_alone(told: Tuple[Status, Telemetry]) -> None:
    """So there are as many series as indexes, sinks and stages, whatever documents and errors there are; of troubles no
    more than the oldest have one.
    """
    before = set(samples(scraped(told[1])))
    for number in range(200):
        told[1].observer().on_document_quarantined("users", f"id {number}", f"reason {number}")
        told[1].observer().on_batch_committed(BatchStats(number, 1, {"users": 1}, number, number))
        told[0].trouble(f"trouble {number}", f"what {number}")
        told[0].error(f"error {number}")
    named = {f'flusso_trouble{{key="trouble {number}"}}' for number in range(module.TROUBLES_NAMED)}
    assert set(samples(scraped(told[1]))) == before | named
    ours = [series for series in before if not series.startswith("target_info")]
    labels = {label for series in ours for label in re.findall(r'[{,]([a-z_]+)="', series)}
    assert labels <= {"index", "state", "le", "sink", "stage"}


def test_a_batch_is_a_span_with_its_stages_inside() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    telemetry = Telemetry(Status(), {})
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    telemetry._tracer = provider.get_tracer("flusso")
    began = monotonic() - 1.0
    stages = [
        Stage("snapshot", began, 0.1, 7),
        Stage("resolve", began + 0.1, 0.2, 7),
        Stage("build", began + 0.3, 0.3, 3),
        Stage("bulk", began + 0.6, 0.4, 3, "search"),
    ]
    telemetry.trace_batch(BatchStats(7, 3, {"users": 3}, 1.0, 0x16B374D848, stages))
    telemetry.trace_batch(BatchStats(0, 3, {"users": 3}, 1.0))
    *inside, batch, chunk = kept.get_finished_spans()
    assert [span.name for span in inside] == ["snapshot", "resolve", "build", "bulk"]
    assert (batch.name, chunk.name, batch.parent, chunk.parent) == ("batch", "chunk", None, None)
    assert dict(batch.attributes or {}) == {"changes": 7, "documents": 3, "lsn": "16/B374D848"}
    assert dict(inside[3].attributes or {}) == {"items": 3, "sink": "search"}
    for span, stage in zip(inside, stages):
        assert span.parent is not None and span.parent.span_id == batch.context.span_id
        assert span.start_time is not None and span.end_time is not None and batch.start_time is not None
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(stage.seconds, abs=0.001)
        assert (span.start_time - batch.start_time) / 1e9 == pytest.approx(stage.began - began, abs=0.2)
    telemetry.shutdown(5)


def test_two_telemetries_of_one_process_do_not_meet() -> None:
    first, second = Status(), Status()
    first.captured(1)
    second.captured(2)
    telemetries = Telemetry(first, {}), Telemetry(second, {})
    assert [samples(scraped(t))["flusso_changes_captured_total"] for t in telemetries] == [1, 2]
    for telemetry in telemetries:
        telemetry.shutdown(5)


def test_a_scrape_that_hangs_does_not_hold_the_next_one_for_ever(
    told: Tuple[Status, Telemetry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCRAPE_WAIT_SECONDS", 0.05)
    with told[1]._scraping:
        assert told[1].scrape() is None
    assert told[1].scrape() is not None


def test_scrapes_at_once_are_each_complete(told: Tuple[Status, Telemetry]) -> None:
    texts: List[str] = []
    threads = [threading.Thread(target=lambda: texts.append(scraped(told[1]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8
    assert len({tuple(sorted(samples(text))) for text in texts}) == 1


def test_nothing_of_otlp_is_imported_unless_asked_for(told: Tuple[Status, Telemetry]) -> None:
    import subprocess

    program = (
        "import sys; from flusso_sync.status import Status; from flusso_sync.telemetry import Telemetry; "
        "Telemetry(Status(), {}).scrape(); "
        "print([m for m in sys.modules if 'otlp' in m or m.startswith('grpc') or m.endswith('sdk.trace.export')])"
    )
    answer = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, timeout=60)
    assert answer.stdout.decode().strip() == "[]"


# -- OTLP ---------------------------------------------------------------------------------------------


class Collector:
    """An OTLP collector over HTTP that remembers what was posted to which paths."""

    def __init__(self) -> None:
        posted: List[Tuple[str, bytes]] = []
        self.posted = posted

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                posted.append((self.path, self.rfile.read(size)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def spans(self) -> List[str]:
        """Names of all spans, read by OTLP's own definition of them."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        names = []
        for path, body in list(self.posted):
            if path == "/v1/traces":
                request = ExportTraceServiceRequest.FromString(body)
                names += [s.name for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
        return names

    def metrics(self) -> Set[str]:
        """Names of all metrics, read the same way."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        names = set()
        for path, body in list(self.posted):
            if path == "/v1/metrics":
                request = ExportMetricsServiceRequest.FromString(body)
                names |= {m.name for r in request.resource_metrics for scope in r.scope_metrics for m in scope.metrics}
        return names


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def exporting(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Telemetry:
    """The exporters read the process's own environment for themselves."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return Telemetry(Status(), environ)


def test_one_endpoint_exports_metrics_and_traces_at_the_latest_on_shutdown(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    telemetry = exporting(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    telemetry.observer().on_batch_committed(BatchStats(1, 1, {"users": 1}, 0.01))
    assert telemetry.shutdown(10)
    assert {path for path, _ in collector.posted} == {"/v1/metrics", "/v1/traces"}
    assert "batch" in collector.spans() and "flusso.batches" in collector.metrics()


def test_a_signals_own_endpoint_turns_on_that_signal_alone(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    telemetry = exporting(monkeypatch, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=collector.url + "/mine")
    telemetry.observer().on_batch_committed(BatchStats(1, 1, {"users": 1}, 0.01))
    assert telemetry.shutdown(10)
    assert {path for path, _ in collector.posted} == {"/mine"}


def test_a_collector_that_never_answers_delays_neither_batches_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(5)
        telemetry = exporting(
            monkeypatch,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{deaf.getsockname()[1]}",
            OTEL_EXPORTER_OTLP_TIMEOUT="6",
        )
        observer = telemetry.observer()
        begin = monotonic()
        for _ in range(5000):
            observer.on_batch_committed(BatchStats(1, 1, {"users": 1}, 0.01))
        assert monotonic() - begin < 5
        begin = monotonic()
        assert not telemetry.shutdown(0.3)
        assert monotonic() - begin < 5
    wait_for(lambda: "flusso-telemetry-stop" not in [t.name for t in threading.enumerate()], 60)


def test_an_unknown_protocol_warns_and_falls_back(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    telemetry = exporting(
        monkeypatch, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=collector.url, OTEL_EXPORTER_OTLP_PROTOCOL="carrier-pigeon"
    )
    assert telemetry.shutdown(10)
    assert collector.posted
    assert any("carrier-pigeon" in record.getMessage() for record in caplog.records)


def test_an_exporter_that_cannot_be_set_up_only_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    telemetry = exporting(
        monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
    )
    warnings = [record.getMessage() for record in caplog.records if record.name == module.logger.name]
    assert [text.split(":")[0] for text in warnings] == ["metrics are not pushed", "traces are not exported"]
    assert all("otlp-grpc" in text for text in warnings)
    assert samples(scraped(telemetry))["flusso_changes_captured_total"] == 0
    assert telemetry.shutdown(5)

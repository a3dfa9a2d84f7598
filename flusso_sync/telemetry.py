"""Metrics for Prometheus, and export over OTLP when the environment asks for it.

Nothing here blocks or raises into the path: instruments are updated from memory, exporters run on threads
and queues of their own, set-up errors disable an export with a warning, and shutting down is bounded.
The providers are private; OpenTelemetry's globals stay untouched, so a host program keeps its own.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading
import time
from importlib import import_module
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import set_span_in_context
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from flusso_sync.observer import BatchStats, Observer, Stage
from flusso_sync.status import Status, StatusSnapshot, format_lsn

logger = logging.getLogger("flusso_sync.telemetry")

FLUSH_BUCKETS_SECONDS: Sequence[float] = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

#: Sizes of batches, in changes and in documents.
SIZE_BUCKETS: Sequence[float] = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)

#: Figures of each sink: instrument -> (key of its figures, unit, description).
_SINK_GAUGES: Mapping[str, "tuple[str, str, str]"] = {
    "flusso.sink.waiting": ("waiting", "", "documents that wait to be written"),
    "flusso.sink.waiting_size": ("waiting_bytes", "By", "what the waiting documents weigh"),
    "flusso.sink.requests_in_flight": ("requests_in_flight", "", "requests under way now"),
    "flusso.sink.concurrency": ("concurrency", "", "requests that may be under way at once"),
}
_SINK_COUNTERS: Mapping[str, "tuple[str, str]"] = {
    "flusso.sink.requests": ("requests", "requests sent"),
    "flusso.sink.written": ("written", "documents that are durable, deletes included"),
    "flusso.sink.retries": ("retries", "documents that had to be sent again"),
}

#: Troubles that have a series of their own: of very many at once, the oldest.
TROUBLES_NAMED = 20

#: How often metrics are pushed over OTLP.
PUSH_INTERVAL_MILLIS = 10_000

#: A scrape waits so long for another one that is running.
SCRAPE_WAIT_SECONDS = 2.0

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_METRIC_EXPORTER = ("metric_exporter", "OTLPMetricExporter")


class MetricsObserver(Observer):
    """Feeds the instruments that the Status has no running total for."""

    inline = True

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def on_index_seeded(self, index: str) -> None:
        self._telemetry.seeded.add(1, {"index": index})

    def on_batch_committed(self, stats: BatchStats) -> None:
        for index, documents in stats.documents_by_index.items():
            self._telemetry.documents.add(documents, {"index": index})
        self._telemetry.flushes.record(stats.flush_seconds)
        if stats.changes:
            self._telemetry.batch_changes.record(stats.changes)
            self._telemetry.batch_documents.record(stats.documents)
        self._telemetry.trace_batch(stats)

    def on_stage(self, stage: Stage) -> None:
        self._telemetry.stages.record(stage.seconds, {"stage": stage.name})

    def on_document_quarantined(self, index: str, id: str, reason: str) -> None:
        self._telemetry.quarantined.add(1, {"index": index})


class Telemetry:
    """The meter of one process, read from ``status`` and fed by :meth:`observer`.

    OTLP exporters are imported and started only when ``environ`` names an endpoint.
    """

    def __init__(self, status: Status, environ: Mapping[str, str] = os.environ) -> None:
        self._status = status
        self._scraping = threading.Lock()
        self._registry = CollectorRegistry()
        self._tracer_provider: Any = None
        self._tracer: Any = None
        readers: List[MetricReader] = [_prometheus_reader(self._registry)]
        pushing = _metrics_push(environ)
        if pushing is not None:
            readers.append(pushing)
        self._meter_provider = MeterProvider(
            metric_readers=readers,
            resource=Resource.create({"service.name": "flusso"}),
            views=[
                View(
                    instrument_name="flusso.flush.duration",
                    aggregation=ExplicitBucketHistogramAggregation(FLUSH_BUCKETS_SECONDS),
                ),
                View(
                    instrument_name="flusso.stage.duration",
                    aggregation=ExplicitBucketHistogramAggregation(FLUSH_BUCKETS_SECONDS),
                ),
                View(instrument_name="flusso.batch.*", aggregation=ExplicitBucketHistogramAggregation(SIZE_BUCKETS)),
                # Some versions of the SDK measure themselves.
                View(instrument_name="otel.*", aggregation=DropAggregation()),
            ],
            # At exit it would wait for a collector that is not there; shutdown() is bounded.
            shutdown_on_exit=False,
        )
        meter = self._meter_provider.get_meter("flusso")
        self.documents = meter.create_counter(
            "flusso.documents.built", description="documents assembled and written, deletes included"
        )
        self.seeded = meter.create_counter("flusso.indexes.seeded", description="backfills completed")
        self.quarantined = meter.create_counter("flusso.documents.quarantined", description="rejected and skipped")
        self.flushes = meter.create_histogram("flusso.flush.duration", unit="s", description="sink flush time")
        self.stages = meter.create_histogram(
            "flusso.stage.duration",
            unit="s",
            description="time of a stage of the way of a batch",
        )
        self.batch_changes = meter.create_histogram("flusso.batch.changes", description="changes of a live batch")
        self.batch_documents = meter.create_histogram("flusso.batch.documents", description="documents of a live batch")
        counters: Dict[str, tuple[str, Callable[[StatusSnapshot], float]]] = {
            "flusso.changes.captured": ("changes pulled from the source", lambda s: s.changes_captured),
            "flusso.changes.committed": ("changes flushed and confirmed", lambda s: s.changes_committed),
            "flusso.changes.ignored": ("updates of columns that no index uses", lambda s: s.changes_ignored),
            "flusso.documents.deduplicated": (
                "builds spared because the same batch asked for the document before",
                lambda s: s.documents_deduplicated,
            ),
            "flusso.untraceable_changes": (
                "changes that did not tell which documents had shown the row before",
                lambda s: sum(s.facts.get("untraceable_changes", {}).values()),
            ),
            "flusso.batches": ("flushed batches", lambda s: s.batches),
            "flusso.errors": ("errors that stopped the pipeline", lambda s: s.errors),
            "flusso.observer.events_dropped": (
                "events that a slow observer did not get",
                lambda s: s.observer_events_dropped,
            ),
            "flusso.visibility.waits": (
                "snapshots that did not show their batch at once",
                lambda s: s.visibility_waits,
            ),
            "flusso.visibility.wait_seconds": (
                "time that snapshots were waited for, in seconds",
                lambda s: s.visibility_wait_seconds,
            ),
        }
        for name, (description, total) in counters.items():
            meter.create_observable_counter(name, [self._watch(_plain(total))], description=description)
        gauges: Dict[str, tuple[str, str, Callable[[StatusSnapshot], Iterable[Observation]]]] = {
            "flusso.replication.slot_lag": (
                "server WAL position minus confirmed position",
                "By",
                lambda s: [] if s.slot_lag_bytes is None else [Observation(s.slot_lag_bytes)],
            ),
            "flusso.lag": (
                "age of the oldest change that is not durable yet",
                "s",
                lambda s: [] if s.lag_seconds is None else [Observation(s.lag_seconds)],
            ),
            "flusso.slot.retained": ("WAL that the slot makes the server keep", "By", _fact("slot", "retained_bytes")),
            "flusso.slot.safe": ("WAL until the server gives the slot up", "By", _fact("slot", "safe_wal_bytes")),
            "flusso.queue.changes": ("changes between capture and engine", "", _figure("queue", "changes")),
            "flusso.queue.capacity": ("changes that have room there", "", _figure("queue", "capacity")),
            "flusso.source.connections": ("connections that read documents", "", _figure("connections", "documents")),
            "flusso.fan_out.jobs": (
                "changes of rows shown in very many documents, not worked off yet",
                "",
                _plain(lambda s: s.facts.get("fan_out.waiting", 0)),
            ),
            "flusso.index.documents": (
                "documents that readers find",
                "",
                lambda s: [
                    Observation(index.documents, {"index": name})
                    for name, index in s.indexes.items()
                    if index.documents is not None
                ],
            ),
            "flusso.indexes": ("indexes ensured at the sink", "", _plain(lambda s: s.indexes_ensured)),
            "flusso.changes.in_flight": ("captured minus committed", "", _plain(lambda s: s.changes_in_flight)),
            "flusso.ready": ("1 while changes flow or are proven idle", "", _plain(lambda s: int(s.ready))),
            "flusso.gap": ("1 while changes were lost and indexes are rebuilt", "", _plain(lambda s: int(bool(s.gap)))),
            "flusso.troubles": ("things that are wrong now", "", _plain(lambda s: len(s.troubles))),
            "flusso.trouble": (
                "1 for each thing that is wrong now",
                "",
                lambda s: [Observation(1, {"key": trouble.key}) for trouble in s.troubles[:TROUBLES_NAMED]],
            ),
            "flusso.index.state": (
                "1 for the state each index is in",
                "",
                lambda s: [
                    Observation(1, {"index": name, "state": index.state.value}) for name, index in s.indexes.items()
                ],
            ),
            "flusso.quarantine.documents": (
                "documents in quarantine now",
                "",
                lambda s: [Observation(index.quarantined, {"index": name}) for name, index in s.indexes.items()],
            ),
            "flusso.build.rows": (
                "rows of the current build that are done",
                "",
                lambda s: [
                    Observation(index.build.done, {"index": name}) for name, index in s.indexes.items() if index.build
                ],
            ),
            "flusso.build.rows_expected": (
                "rows the current build has to do, about",
                "",
                lambda s: [
                    Observation(index.build.total, {"index": name})
                    for name, index in s.indexes.items()
                    if index.build and index.build.total is not None
                ],
            ),
            "flusso.build.rows_per_second": (
                "rows that the current build does a second now",
                "",
                lambda s: [
                    Observation(index.build.rate, {"index": name}) for name, index in s.indexes.items() if index.build
                ],
            ),
            "flusso.build.remaining": (
                "time the current build still takes, about",
                "s",
                lambda s: [
                    Observation(index.build.eta_seconds, {"index": name})
                    for name, index in s.indexes.items()
                    if index.build and index.build.eta_seconds is not None
                ],
            ),
        }
        for name, (description, unit, values) in gauges.items():
            meter.create_observable_gauge(name, [self._watch(values)], unit=unit, description=description)
        for name, (key, unit, description) in _SINK_GAUGES.items():
            meter.create_observable_gauge(name, [self._watch(_by_sink(key))], unit=unit, description=description)
        for name, (key, description) in _SINK_COUNTERS.items():
            meter.create_observable_counter(name, [self._watch(_by_sink(key))], description=description)
        self._start_tracing(environ)

    def observer(self) -> MetricsObserver:
        """The observer to hand to a daemon."""
        return MetricsObserver(self)

    def scrape(self) -> Optional[bytes]:
        """The Prometheus text; None when another scrape holds it up for too long."""
        if not self._scraping.acquire(timeout=SCRAPE_WAIT_SECONDS):
            return None
        try:
            return generate_latest(self._registry)
        finally:
            self._scraping.release()

    def trace_batch(self, stats: BatchStats) -> None:
        """Record a batch as a span that ends now, with its stages inside, if traces are exported."""
        if self._tracer is None:
            return
        end, now = time.time_ns(), time.monotonic()
        attributes: Dict[str, Any] = {"changes": stats.changes, "documents": stats.documents}
        if stats.position is not None:
            attributes["lsn"] = format_lsn(stats.position)
        began = end - int(stats.flush_seconds * 1e9)
        batch = self._tracer.start_span(
            "batch" if stats.changes else "chunk", context=Context(), start_time=began, attributes=attributes
        )
        inside = set_span_in_context(batch, Context())
        for stage in stats.stages:
            attributes = {"items": stage.items}
            if stage.sink is not None:
                attributes["sink"] = stage.sink
            since = end - int((now - stage.began) * 1e9)
            span = self._tracer.start_span(stage.name, context=inside, start_time=since, attributes=attributes)
            span.end(since + int(stage.seconds * 1e9))
        batch.end(end)

    def shutdown(self, timeout: float = 1.0) -> bool:
        """Send what is collected and stop the exporters; False when they did not end within ``timeout`` seconds."""
        # Exporters retry inside their own shutdown; a daemon thread bounds that.
        closing = threading.Thread(target=self._shutdown, name="flusso-telemetry-stop", daemon=True)
        closing.start()
        closing.join(timeout)
        if closing.is_alive():
            logger.warning("metrics and traces were not flushed within %.1f s", timeout)
        return not closing.is_alive()

    def _shutdown(self) -> None:
        for provider in (self._tracer_provider, self._meter_provider):
            if provider is None:
                continue
            try:
                provider.shutdown()
            except Exception:
                logger.warning("an exporter failed while shutting down", exc_info=True)

    def _watch(
        self, values: Callable[[StatusSnapshot], Iterable[Observation]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda options: values(self._status.snapshot())

    def _start_tracing(self, environ: Mapping[str, str]) -> None:
        if not (environ.get(_ENDPOINT) or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
            return
        try:
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            exporter = _exporter("TRACES", environ)
            provider = TracerProvider(resource=Resource.create({"service.name": "flusso-cli"}), shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(exporter))
        except Exception as error:
            logger.warning("traces are not exported: %s", error)
            return
        self._tracer_provider = provider
        self._tracer = provider.get_tracer("flusso")


def _fact(group: str, key: str) -> Callable[[StatusSnapshot], Iterable[Observation]]:
    """A number of a group of facts, while it is known."""

    def values(snapshot: StatusSnapshot) -> Iterable[Observation]:
        value = (snapshot.facts.get(group) or {}).get(key)
        return [] if value is None else [Observation(value)]

    return values


def _figure(part: str, key: str) -> Callable[[StatusSnapshot], Iterable[Observation]]:
    """A number that a part of the pipeline tells of itself, while it runs."""

    def values(snapshot: StatusSnapshot) -> Iterable[Observation]:
        value = snapshot.figures.get(part, {}).get(key)
        return [] if value is None else [Observation(value)]

    return values


def _by_sink(key: str) -> Callable[[StatusSnapshot], Iterable[Observation]]:
    return lambda snapshot: [
        Observation(figures[key], {"sink": name})
        for name, figures in snapshot.figures.get("sinks", {}).items()
        if key in figures
    ]


def _plain(value: Callable[[StatusSnapshot], float]) -> Callable[[StatusSnapshot], Iterable[Observation]]:
    return lambda snapshot: [Observation(value(snapshot))]


def _prometheus_reader(registry: CollectorRegistry) -> PrometheusMetricReader:
    """A reader registered with ``registry`` only, without labels for the scope."""
    accepted = inspect.signature(PrometheusMetricReader).parameters
    options: Dict[str, Any] = {}
    if "scope_info_enabled" in accepted:
        options["scope_info_enabled"] = False
    if "registry" in accepted:
        return PrometheusMetricReader(registry=registry, **options)
    # Older exporters know the global registry only.
    reader = PrometheusMetricReader(**options)
    REGISTRY.unregister(reader._collector)
    registry.register(reader._collector)
    reader.shutdown = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return reader


def _metrics_push(environ: Mapping[str, str]) -> Optional[MetricReader]:
    if not (environ.get(_ENDPOINT) or environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")):
        return None
    try:
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        return PeriodicExportingMetricReader(_exporter("METRICS", environ), export_interval_millis=PUSH_INTERVAL_MILLIS)
    except Exception as error:
        logger.warning("metrics are not pushed: %s", error)
        return None


def _exporter(signal: str, environ: Mapping[str, str]) -> Any:
    """The OTLP exporter of ``TRACES`` or ``METRICS``; endpoint, headers and time limits come from the environment."""
    wanted = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or environ.get(_PROTOCOL) or "http/protobuf"
    protocol = wanted.strip()
    if protocol not in ("http/protobuf", "grpc"):
        logger.warning("OTLP protocol %r is not understood; using http/protobuf for %s", wanted, signal.lower())
        protocol = "http/protobuf"
    kind = "http" if protocol == "http/protobuf" else "grpc"
    module, name = ("trace_exporter", "OTLPSpanExporter") if signal == "TRACES" else _METRIC_EXPORTER
    try:
        # Imported only when asked for: gRPC alone weighs more than the rest of the daemon.
        return getattr(import_module(f"opentelemetry.exporter.otlp.proto.{kind}.{module}"), name)()
    except ImportError as error:
        extra = "otlp-grpc" if protocol == "grpc" else "otlp"
        raise RuntimeError(f"the exporter is not installed (pip install 'flusso-sync[{extra}]')") from error

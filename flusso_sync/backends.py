"""The default backends: Postgres behind the source protocols, and a sink per entry of the configuration.

Everything of ``postgres/`` and ``sinks/`` is imported only when it is used, so that a deployment without
OpenSearch needs none of its client, and injected backends need nothing of ours.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, Optional, Sequence

from flusso_sync.daemon import DaemonOptions
from flusso_sync.engine.source import SourceParts
from flusso_sync.sinks.base import Sink

if TYPE_CHECKING:
    from flusso_sync.config.load import Config
    from flusso_sync.config.models import OpenSearchSink, SqliteSink
    from flusso_sync.postgres.capture import CaptureSettings
    from flusso_sync.postgres.connection import SourceAccess

    # For those of the command line, too, who may not look into postgres/.
    from flusso_sync.postgres.draft import Database as Database
    from flusso_sync.postgres.draft import Draft as Draft
    from flusso_sync.postgres.explain import Explanation as Explanation
    from flusso_sync.postgres.explain import Way as Way
    from flusso_sync.postgres.inspect import SourceInspection
    from flusso_sync.postgres.slot import SlotState as SlotState
    from flusso_sync.schema.plan import Table

#: The sink that takes the documents when the configuration names none.
FALLBACK_SINK = "stdout"


class DefaultBackends:
    """What the command line uses; secrets are resolved at each connect, not here."""

    def __init__(self) -> None:
        #: Outlives each pipeline: a password that was right once may be rotated, and is waited for.
        self._source_reached = threading.Event()
        #: Where credentials are taken from at each connect, once a configuration was read anew.
        self._renewed: "Optional[Config]" = None

    def renew(self, config: "Config") -> None:
        """Take the credentials of source and sinks from ``config`` at every connect from now on; for any thread.

        It names the same source and the same sinks (``config.reload.reloaded``).
        """
        self._renewed = config

    def source(self, config: "Config", options: DaemonOptions) -> SourceParts:
        from flusso_sync.postgres.capture import PostgresCapture
        from flusso_sync.postgres.documents import DocumentSettings, PostgresDocuments

        access = self._access(config, options)
        capture = PostgresCapture(access, config.plans, _capture_settings(config, options))
        documents = PostgresDocuments(
            access,
            DocumentSettings(
                batch_bytes=config.engine.batch_bytes,
                max_document_bytes=config.engine.max_document_bytes,
                fan_out_documents=config.engine.fan_out_documents,
            ),
        )
        return SourceParts(capture, documents)

    def inspection(self, config: "Config", options: DaemonOptions) -> "SourceInspection":
        """A look at the source that changes nothing."""
        from flusso_sync.postgres.inspect import SourceInspection

        access = self._access(config, options)
        workers = config.backfill.workers or 1
        return SourceInspection(access, config.plans, _capture_settings(config, options), workers)

    def database(self, config: "Config", options: DaemonOptions) -> "Database":
        """What there is to describe at the source, for first schema files (``postgres/draft.py``)."""
        from flusso_sync.postgres.draft import survey_database

        return survey_database(self._access(config, options))

    def explain(self, config: "Config", options: DaemonOptions, table: "Table", key: "Optional[str]") -> "Explanation":
        """What a change of ``table`` leads to (``postgres/explain.py``)."""
        from flusso_sync.postgres.explain import explain

        return explain(self._access(config, options), config.plans, table, key)

    def slot(self, config: "Config", options: DaemonOptions, *, drop: bool = False) -> "Optional[SlotState]":
        """The replication slot of the deployment, None when there is none; with ``drop``, as it was before that."""
        from flusso_sync.postgres.slot import look_at_slot, remove_slot

        access = self._access(config, options)
        return (remove_slot if drop else look_at_slot)(access, options.slot or config.source.slot)

    def _access(self, config: "Config", options: DaemonOptions) -> "SourceAccess":
        from flusso_sync.config.connection import source_address, source_conninfo
        from flusso_sync.postgres.connection import SourceAccess

        source = config.source
        return SourceAccess(
            conninfo=lambda: source_conninfo(self._renewed or config),
            address=source_address(config),
            application_name=f"flusso_sync {options.slot or source.slot}",
            statement_timeout_seconds=source.statement_timeout_secs,
            lock_timeout_seconds=source.lock_timeout_secs,
            prepare=source.prepare,
            reached=self._source_reached,
        )

    def _sink(self, name: str, config: "Config") -> "OpenSearchSink":
        """The entry of an OpenSearch sink as it is now."""
        from flusso_sync.config.models import OpenSearchSink

        entry = (self._renewed or config).sinks[name]
        assert isinstance(entry, OpenSearchSink)
        return entry

    def sinks(self, config: "Config", options: DaemonOptions) -> Mapping[str, Sink]:
        from flusso_sync.config.models import OpenSearchSink, SqliteSink

        made: Dict[str, Sink] = {}
        for name, entry in sorted(config.sinks.items()):
            if isinstance(entry, OpenSearchSink):
                made[name] = _opensearch(name, entry, config, lambda n=name: self._sink(n, config))  # type: ignore[misc]
            elif isinstance(entry, SqliteSink):
                made[name] = _sqlite(name, entry, config)
            else:
                from flusso_sync.sinks.stdout import StdoutSink as Stdout

                made[name] = Stdout(name, pretty=entry.pretty)
        if not made:
            from flusso_sync.sinks.stdout import StdoutSink as Stdout

            made[FALLBACK_SINK] = Stdout(FALLBACK_SINK, pretty=bool(options.pretty))
        return made


def drafts(database: "Database", roots: "Sequence[Table]") -> "List[Draft]":
    """A schema file for each of ``roots``."""
    from flusso_sync.postgres.draft import draft

    return draft(database, roots)


def _capture_settings(config: "Config", options: DaemonOptions) -> "CaptureSettings":
    from flusso_sync.postgres.capture import CaptureSettings

    source = config.source
    manage = source.manage_publication if options.manage_publication is None else options.manage_publication
    return CaptureSettings(
        slot=options.slot or source.slot,
        publication=options.publication or source.publication,
        manage_publication=manage,
        manage_replica_identity=source.manage_replica_identity,
        on_gap=source.on_gap,
        on_blind_table=source.on_blind_table,
        failover=source.failover_slot,
        max_retained_wal_bytes=source.max_retained_wal_bytes,
        give_up=source.on_retained_wal == "give_up",
    )


def _opensearch(name: str, entry: "OpenSearchSink", config: "Config", current: "Callable[[], OpenSearchSink]") -> Sink:
    """``current`` is asked for the entry whenever the cluster is connected to; only its credentials may differ."""
    from flusso_sync.config.connection import sink_settings
    from flusso_sync.sinks.opensearch.settings import OpenSearchSettings
    from flusso_sync.sinks.opensearch.sink import OpenSearchSink as OpenSearch

    def username() -> str:
        return sink_settings(name, current()).username or ""

    def password() -> str:
        return sink_settings(name, current()).password or ""

    return OpenSearch(
        name,
        OpenSearchSettings(
            url=lambda: sink_settings(name, current()).url,
            username=username,
            password=password,
            tls_verify=entry.tls_verify,
            ca_file=entry.ca_file,
            client_cert=entry.client_cert,
            client_key=entry.client_key,
            batch_size=entry.batch_size,
            max_bytes=entry.max_bytes,
            timeout_secs=entry.timeout_secs,
            max_retries=entry.max_retries,
            pipeline=entry.pipeline,
            number_of_shards=entry.number_of_shards,
            number_of_replicas=entry.number_of_replicas,
            refresh_interval=entry.refresh_interval,
            text_analysis=entry.text_analysis,
            auto_subfields=entry.auto_subfields,
            concurrency=entry.concurrency,
            prefix=config.prefix,
            quarantine_limit=config.quarantine.limit,
            keep_generations={index: item.keep_generations for index, item in config.indexes.items()},
        ),
    )


def _sqlite(name: str, entry: "SqliteSink", config: "Config") -> Sink:
    from flusso_sync.sinks.sqlite.settings import SqliteSettings
    from flusso_sync.sinks.sqlite.sink import SqliteSink as Sqlite

    return Sqlite(
        name,
        SqliteSettings(
            path=entry.path,
            search=entry.search,
            prefix=config.prefix,
            quarantine_limit=config.quarantine.limit,
            keep_generations={index: item.keep_generations for index, item in config.indexes.items()},
        ),
    )

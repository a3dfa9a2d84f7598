"""The OpenSearch sink: documents as bulk requests, to the generations that there are.

What readers see is an alias; what we write to is an alias of each generation's own.  What becomes of generations is
told in ``generations.py``.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlencode

from flusso_sync.engine.source import SourceIdentity
from flusso_sync.errors import IndexMissing, SinkError, SinkRefused, SinkUnavailable
from flusso_sync.findings import Finding
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import (
    Failure,
    Found,
    GenerationReport,
    IndexReport,
    RolledBack,
    Write,
)
from flusso_sync.sinks.meta import MetaMissing
from flusso_sync.sinks.opensearch import bulk
from flusso_sync.sinks.opensearch.client import Client, Unreadable, segment
from flusso_sync.sinks.opensearch.generations import Generations
from flusso_sync.sinks.opensearch.inspect import Inspection, untested_version
from flusso_sync.sinks.opensearch.meta import Meta, Quarantine
from flusso_sync.sinks.opensearch.names import Names
from flusso_sync.sinks.opensearch.reader import Reader
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings
from flusso_sync.sinks.stateful import StatefulSink

log = logging.getLogger(__name__)


class OpenSearchSink(StatefulSink):
    """See the protocol; ``write`` and ``refresh`` may be called from several threads at once."""

    def __init__(self, name: str, settings: OpenSearchSettings) -> None:
        self.concurrency = max(1, settings.concurrency)
        self.max_actions = max(1, settings.batch_size)
        self.max_bytes = max(1, settings.max_bytes)
        self._settings = settings
        self._names = Names(settings.prefix)
        self._client = Client(settings)
        self._meta = Meta(self._client, self._names)
        self._quarantine = Quarantine(self._meta, settings.quarantine_limit)
        super().__init__(name, self._meta, self._quarantine, elsewhere="another prefix or another cluster")
        self._closed = threading.Event()
        self._generations = Generations(
            name,
            settings,
            self._client,
            self._meta,
            self._lease,
            self._names,
            position=lambda: self._position,
            closed=self._closed,
        )
        self._indexes = self._generations.indexes
        self._reader = Reader(self._client, self._names, name)
        self._final_lock = threading.Lock()
        self._final_answers = 0
        # The server gives up on an unavailable shard before we give up on the server, so its answer is known.
        patience = max(1, int(self._client.timeout_seconds / 2))
        query: Dict[str, Any] = {"require_alias": "true", "filter_path": bulk.FILTER_PATH, "timeout": f"{patience}s"}
        if settings.pipeline:
            query["pipeline"] = settings.pipeline
        self._bulk_path = "/_bulk?" + urlencode(query, safe=",*.")

    # -- opening and closing --------------------------------------------------------------------------

    def open(self, identity: SourceIdentity, *, adopt: bool = False) -> None:
        about = self._client.get("/").json()
        version = about.get("version", {}) if isinstance(about, dict) else {}
        untested = untested_version(self.name, version)
        if untested is not None:
            log.warning("%s", untested)
        self._check_pipeline()
        self._meta.prepare()
        self._generations.first_owner = self._take_over(identity, adopt=adopt)
        self._generations.adopted = adopt
        self._quarantine.load()

    def inspect(self, plans: Sequence[IndexPlan], identity: Optional[SourceIdentity]) -> List[Finding]:
        return Inspection(self._client, self._names, self._settings, self.name).findings(
            plans, lambda: self._inspect_owner(identity), self._check_pipeline
        )

    def _check_pipeline(self) -> None:
        pipeline = self._settings.pipeline
        if pipeline and self._client.get(f"/_ingest/pipeline/{segment(pipeline)}", missing=True).status == 404:
            raise SinkRefused(
                f"sink {self.name}: OpenSearch has no ingest pipeline {pipeline}",
                hint="Create it, or remove the key pipeline",
                code="FL074",
            )

    def _meta_missing(self, error: MetaMissing) -> None:
        """Make a meta store that was deleted under us anew from what we hold; the quarantine is lost with it."""
        log.error("sink %s: the meta store was deleted; it is made anew, its quarantine is lost", self.name)
        self._meta.prepare()
        self._lease.restore()
        if self._record is not None:
            self.write_record(self._record)
        self._generations.save_all()
        self._save_jobs()
        self._quarantine.load()

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._give_back()
        self._client.close()

    # -- generations ------------------------------------------------------------------------------------

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        self.renew()
        return self._generations.ensure(plans, skip_build=skip_build)

    def begin_build(self, index: str) -> int:
        return self._generations.begin_build(index)

    def resume_build(self, index: str) -> int:
        return self._generations.resume_build(index)

    def save_progress(self, index: str, progress: Mapping[str, Any]) -> None:
        self._generations.save_progress(index, progress)

    def complete_build(self, index: str) -> None:
        self._generations.complete_build(index)

    def rollback(self, index: str) -> RolledBack:
        return self._generations.rollback(index)

    def generations(self) -> Mapping[str, Sequence[GenerationReport]]:
        return self._generations.reports()

    def watch(self) -> List[str]:
        return self._generations.watch()

    def forgotten(self) -> Sequence[str]:
        return self._generations.forgotten()

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        self._lease.check()
        indexes = self._indexes
        targets: List[Tuple[bulk.Target, ...]] = []
        for write in writes:
            index = indexes.get(write.index) or self._generations.index(write.index)
            to = index.build_of(write.generation) if write.build else index.live
            if not to and not write.build:
                raise IndexMissing(f"index {write.index} has no generation to write to", index=write.index)
            # A build write without a build belongs to one that is over.
            targets.append(to)
        body = bulk.body_of(writes, targets)
        if not body.items:
            return body.unsendable
        # Never refresh what is being built: its segments would be many and small.
        names = {write.index for write in writes}
        at_once = refresh and not any(indexes[name].building for name in names)
        path = self._bulk_path + "&refresh=true" if at_once else self._bulk_path
        try:
            answer = self._client.request("POST", path, body.data, content_type="application/x-ndjson")
            judgement = bulk.judge(answer.data, body.items, writes, self._settings.max_retries)
        except Unreadable as error:
            raise self._perhaps_final(error) from error
        if self._final_answers:
            with self._final_lock:
                self._final_answers = 0
        if judgement.missing or judgement.strange:
            self._answer_missing(judgement)
        if refresh and not at_once:
            self.refresh(sorted(names))
        return [*body.unsendable, *judgement.failures]

    def _perhaps_final(self, error: Unreadable) -> SinkError:
        """The same again, until so many came in a row that it is believed."""
        with self._final_lock:
            self._final_answers += 1
            count = self._final_answers
        if count > max(0, self._settings.max_retries):
            return SinkError(
                f"sink {self.name}: {error.message} ({count} times in a row)",
                hint="See the cluster's log, or raise max_retries",
            )
        return SinkUnavailable(error.message, hint=f"It is tried again, {self._settings.max_retries} times at most")

    def _answer_missing(self, judgement: bulk.Judgement) -> None:
        """Raise ``IndexMissing`` for a generation that should be there; remove what a write gave birth to."""
        for name in [name for name, meant in judgement.strange if name == meant.alias]:
            self._generations.delete_born(name)
        redirected = [(name, meant) for name, meant in judgement.strange if name != meant.alias]
        if redirected and self._settings.pipeline:
            name, meant = redirected[0]
            raise SinkRefused(
                f"sink {self.name}: pipeline {self._settings.pipeline} sends documents of {meant.concrete} to {name}",
                hint="A pipeline must leave _index alone",
            )
        for target in (*judgement.missing, *(meant for _, meant in judgement.strange)):
            for index in self._indexes.values():
                # A generation that was replaced while the request was under way may be gone.
                if index.current(target):
                    raise IndexMissing(
                        f"index {target.concrete} or its write alias is gone",
                        hint="It is rebuilt",
                        index=index.name,
                    )

    def refresh(self, indexes: Sequence[str]) -> None:
        read = [self._generations.index(index).read for index in indexes]
        names = [segment(one.concrete) for one in read if one is not None]
        if names:
            self._client.send("POST", f"/{','.join(names)}/_refresh", query={"ignore_unavailable": True})

    # -- reading ------------------------------------------------------------------------------------------

    def get(self, index: str, id: str) -> Optional[bytes]:
        return self._reader.get(index, id)

    def count(self, index: str) -> int:
        return self._reader.count(index)

    def search(self, index: str, words: str, limit: int = 10) -> List[Tuple[str, Any]]:
        return self._reader.search(index, words, limit)

    def scan(self, index: str, size: int = 1000) -> Iterator[Tuple[str, Any]]:
        return self._reader.scan(index, size)

    def scan_ids(self, index: str, size: int = 1000) -> Iterator[List[str]]:
        return self._reader.scan_ids(index, size)

    def get_many(self, index: str, ids: Sequence[str]) -> Dict[str, Found]:
        return self._reader.get_many(index, ids)

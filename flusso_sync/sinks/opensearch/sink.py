"""The OpenSearch sink: generations built beside the one that is read, and switched when they are complete.

What readers see is an alias; what we write to is an alias of each generation's own.  A generation is one index,
born with its mapping, its hash and its owner in ``_meta``, and recognised by its UUID ever after.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple
from urllib.parse import urlencode

from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.errors import (
    FlussoError,
    IndexMissing,
    OwnerConflict,
    SinkError,
    SinkRefused,
    SinkUnauthorized,
    SinkUnavailable,
)
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import (
    Answer,
    Failure,
    Found,
    GenerationReport,
    IndexReport,
    Parked,
    Rejected,
    Request,
    RolledBack,
    Sink,
    SinkReport,
    Write,
    exact,
)
from flusso_sync.sinks.hash import RENDERER
from flusso_sync.sinks.lease import Lease, owner_of, same_history, same_owner
from flusso_sync.sinks.mailbox import Mailbox
from flusso_sync.sinks.meta import RECORD, MetaMissing, record_document, stored_int, stored_record
from flusso_sync.sinks.opensearch import bulk
from flusso_sync.sinks.opensearch.client import INDEX_MISSING, Client, Refused, Unreadable, segment
from flusso_sync.sinks.opensearch.hash import index_hash
from flusso_sync.sinks.opensearch.mapping import index_body
from flusso_sync.sinks.opensearch.meta import Meta, Quarantine
from flusso_sync.sinks.opensearch.names import Generation, Names
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings

log = logging.getLogger(__name__)

#: The lease is written this often, however often it is asked for.
RENEW_SECONDS = 10.0

#: Major versions that are tested; anything else warns.
SUPPORTED = (2, 3)

#: What is asked of an index to know whether it is ours.
_FACTS = (
    "*.mappings._meta.flusso_sync,*.aliases,*.settings.index.uuid,"
    "*.settings.index.refresh_interval,*.settings.index.number_of_replicas"
)

#: What tells one running engine of a shard from the next: its tombstones live there alone (settled.md section 5).  A
#: shard that is closed and opened keeps its allocation, but begins a primary term.
_ENGINES = (
    "nodes.*.ephemeral_id,metadata.indices.*.primary_terms,"
    "routing_table.indices.*.shards.*.primary,routing_table.indices.*.shards.*.node,"
    "routing_table.indices.*.shards.*.allocation_id"
)

#: A page of a scan is asked for within this time of the one before it.
SCROLL_KEPT = "5m"

#: Documents of one request for many.
MOST_READ = 1000

#: Delay between looks at replicas that are being copied.
_LOOK_SECONDS = 0.25


class _Built(NamedTuple):
    """A generation that exists."""

    generation: Generation
    target: bulk.Target
    uuid: str

    @property
    def concrete(self) -> str:
        return self.target.concrete


class _Found(NamedTuple):
    """An index as the cluster describes it."""

    name: str
    uuid: str
    aliases: Set[str]
    meta: Mapping[str, Any]
    refresh_interval: str
    number_of_replicas: str


@dataclass
class _Index:
    """One logical index.  ``lock`` is held while generations change; writers read ``live`` and ``build`` without."""

    plan: IndexPlan
    hash: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    read: Optional[_Built] = None
    building: Optional[_Built] = None
    #: The one being built was made by ``ensure`` and no build has claimed it.
    unclaimed: bool = False
    seeded: bool = False
    skipped: bool = False
    #: The aliases are being moved to ``read``.
    switching: bool = False
    #: Indexes that were read before, newest first, and are kept; each stands still.
    former: Tuple[str, ...] = ()
    #: Former index -> everything up to this position is in it.
    frozen: Dict[str, int] = field(default_factory=dict)
    #: What ``ensure`` found stored of an unfinished build that can be gone on with.
    progress: Optional[Mapping[str, Any]] = None
    #: The highest number a generation ever had, of any hash.
    last: int = 0
    live: Tuple[bulk.Target, ...] = ()

    @property
    def name(self) -> str:
        return self.plan.name

    def publish(self) -> None:
        """Let writers see which generations there are."""
        self.live = tuple(one.target for one in (self.read, self.building) if one is not None)

    def build_of(self, generation: Optional[int]) -> Tuple[bulk.Target, ...]:
        """Where writes of a build go: nowhere once another generation is built, or none."""
        building = self.building
        if building is None or generation not in (None, building.generation.number):
            return ()
        return (building.target,)

    def current(self, target: bulk.Target) -> bool:
        return any(one is not None and one.target == target for one in (self.read, self.building))


class OpenSearchSink(Sink):
    """See the protocol; ``write`` and ``refresh`` may be called from several threads at once."""

    stateful = True

    def __init__(self, name: str, settings: OpenSearchSettings) -> None:
        self.name = name
        self.concurrency = max(1, settings.concurrency)
        self.max_actions = max(1, settings.batch_size)
        self.max_bytes = max(1, settings.max_bytes)
        self._settings = settings
        self._names = Names(settings.prefix)
        self._client = Client(settings)
        self._meta = Meta(self._client, self._names)
        self._lease = Lease(self._meta, elsewhere="another prefix or another cluster")
        self._quarantine = Quarantine(self._meta, settings.quarantine_limit)
        self._mailbox = Mailbox(self._meta)
        self._indexes: Dict[str, _Index] = {}
        #: Generation -> the engines of its primary shards, as they were seen last.
        self._engines: Dict[str, str] = {}
        self._record: Optional[Record] = None
        self._renewed_at = float("-inf")
        self._first_owner = False
        self._adopted = False
        self._version = ""
        self._closed = threading.Event()
        self._final_lock = threading.Lock()
        self._final_answers = 0
        # The server gives up on an unavailable shard before we give up on the server, so its answer is known.
        patience = max(1, int(self._client.timeout_seconds / 2))
        query: Dict[str, Any] = {"require_alias": "true", "filter_path": bulk.FILTER_PATH, "timeout": f"{patience}s"}
        if settings.pipeline:
            query["pipeline"] = settings.pipeline
        self._bulk_path = "/_bulk?" + urlencode(query, safe=",*.")

    # -- opening --------------------------------------------------------------------------------------

    def open(self, identity: SourceIdentity, *, adopt: bool = False) -> None:
        about = self._client.get("/").json()
        version = about.get("version", {}) if isinstance(about, dict) else {}
        self._version = str(version.get("number", ""))
        self._warn_of_version(str(version.get("distribution", "")))
        self._check_pipeline()
        self._meta.prepare()
        before = self._lease.take(identity, adopt=adopt)
        self._renewed_at = time.monotonic()
        self._first_owner = before is None
        self._adopted = adopt
        if before is not None and not same_owner(before, identity):
            log.warning("sink %s: taken over from slot %s of %s", self.name, before.get("slot"), before.get("address"))
        if self._lease.starts_over:
            self._start_over()
            self._lease.started_over()
        self._quarantine.load()

    def _warn_of_version(self, distribution: str) -> None:
        major = self._version.partition(".")[0]
        if distribution != "opensearch" or major not in {str(number) for number in SUPPORTED}:
            log.warning(
                "sink %s: %s %s is not tested; OpenSearch %s is",
                self.name,
                distribution or "a server other than OpenSearch",
                self._version,
                " and ".join(map(str, SUPPORTED)),
            )

    def _check_pipeline(self) -> None:
        pipeline = self._settings.pipeline
        if pipeline and self._client.get(f"/_ingest/pipeline/{segment(pipeline)}", missing=True).status == 404:
            raise SinkRefused(
                f"sink {self.name}: OpenSearch has no ingest pipeline {pipeline}",
                hint="Create it, or remove the key pipeline",
            )

    def _start_over(self) -> None:
        """Forget what another source's history means: its positions, and that indexes are complete."""
        self._meta.delete(RECORD)
        for kind in ("build", "job"):
            for document in list(self._meta.every(kind)):
                self._meta.delete(document["key"])
        for document in list(self._meta.every("index")):
            self._meta.write(document["key"], {**document, "seeded": False})

    def read_record(self) -> Optional[Record]:
        stored = self._meta.read(RECORD)
        if stored is None:
            return None
        self._record = stored_record(stored.source)
        return self._record

    def write_record(self, record: Record) -> None:
        self._lease.check()
        self._record = record
        self._meta.write(RECORD, record_document(record))

    # -- generations ------------------------------------------------------------------------------------

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        self.renew()
        reports = [self._ensure(plan, skip_build) for plan in plans]
        # Whatever these engines forgot before, nothing was deleted in this life.
        self._engines = self._look_at_engines()
        return reports

    def _ensure(self, plan: IndexPlan, skip_build: bool) -> IndexReport:
        name = plan.name
        index = _Index(plan, index_hash(plan, self._settings))
        found = self._find(self._names.every(name))
        if self._names.hash_alias(name, index.hash) in found:
            raise SinkRefused(
                f"index {name}: {self._names.hash_alias(name, index.hash)} is an index, and should be an alias",
                hint="Rename or delete it",
                index=name,
            )
        stored = self._meta.read(_document_id(name))
        before: Mapping[str, Any] = stored.source if stored is not None else {}
        ours = self._generations(name, found)
        if stored is None:
            self._refuse_foreign(name, ours)
        numbers = [generation.number for generation in ours]
        index.last = max([*numbers, stored_int(before, "last")])
        index.former = tuple(former for former in before.get("former", ()) if former in found)
        index.frozen = {former: int(lsn) for former, lsn in (before.get("frozen") or {}).items()}
        if before.get("generation"):
            generation = Generation(name, str(before.get("hash")), stored_int(before, "generation"))
            held = ours.get(generation)
            if held is None or held.uuid != before.get("uuid") or held.meta.get("hash") != generation.hash:
                gone = self._names.concrete(generation)
                log.warning("sink %s: index %s is gone or not ours any more", self.name, gone)
            elif generation.hash == index.hash:
                index.read = self._built(generation, held.uuid)
            else:
                # Another schema: it is read on, and stands still, until the new one is complete.
                self._freeze(index, held.name)
        index.seeded = index.read is not None and bool(before.get("seeded"))
        index.skipped = index.read is not None and bool(before.get("skipped"))
        index.switching = index.read is not None and bool(before.get("switching"))
        detail = ""
        if index.read is not None:
            self._restore(index, found[index.read.concrete], found)
        if not index.seeded and not skip_build:
            self._find_unfinished(index, ours)
        kept = {one.concrete for one in (index.read, index.building) if one is not None}.union(index.former)
        self._delete(name, [one for one in ours.values() if one.name not in kept])
        if not index.seeded:
            detail = "interrupted" if index.read is not None else "unknown" if stored is None else "gone or changed"
            if index.building is not None:
                detail = "unfinished"
            elif not skip_build:
                index.building, index.unclaimed = self._create(index), True
            elif index.read is None:
                # Readers get it at once because the user asked for it.
                index.read, index.skipped, index.switching = self._create(index), True, True
                self._settle(index.read)
                self._save(index)
                self._switch(index, index.read)
                index.switching = False
                self._save(index)
            if skip_build:
                detail = "skipped"
        index.publish()
        self._indexes[name] = index
        current = index.read or index.building
        return IndexReport(
            name,
            index.seeded,
            current.generation.number if current else 0,
            detail,
            readable=index.read is not None or bool(index.former),
            progress=index.progress,
        )

    def _find_unfinished(self, index: _Index, ours: Mapping[Generation, _Found]) -> None:
        """Take up the generation that an earlier life was building, if it is still the one that is wanted."""
        stored = self._meta.read(_build_id(index.name))
        if stored is None or stored.source.get("hash") != index.hash:
            return
        generation = Generation(index.name, index.hash, stored_int(stored.source, "generation"))
        held = ours.get(generation)
        if held is None or held.uuid != stored.source.get("uuid") or held.meta.get("hash") != index.hash:
            return
        if index.read is not None and index.read.generation == generation:
            return
        index.building = self._built(generation, held.uuid)
        index.progress = json.loads(stored.source["progress"])
        self._restore_write_alias(index.building, held)

    def _refuse_foreign(self, name: str, ours: Mapping[Generation, _Found]) -> None:
        """A meta store that knows nothing of indexes that are there was deleted, or is not theirs."""
        if not self._first_owner or self._adopted:
            return
        for one in ours.values():
            owner = one.meta.get("owner")
            if isinstance(owner, dict) and not same_owner(owner, self._lease.identity):
                raise OwnerConflict(
                    f"index {one.name} belongs to slot {owner.get('slot')} of {owner.get('address')}",
                    hint="Give this deployment another prefix or another cluster, or run once with --adopt",
                    index=name,
                )

    def begin_build(self, index: str) -> int:
        one = self._index(index)
        with one.lock:
            if one.building is not None and one.unclaimed:
                one.unclaimed = False
                return one.building.generation.number
            return self._begin(one).generation.number

    def _begin(self, index: _Index) -> _Built:
        found = self._find(self._names.every(index.name))
        if index.read is not None:
            held = found.get(index.read.concrete)
            if held is None or held.uuid != index.read.uuid:
                index.read = None
                index.publish()
            else:
                self._restore(index, held, found)
        index.seeded = False
        begun = self._create(index)
        index.building, index.unclaimed, index.progress = begun, False, None
        # From here on live writes go to it; only then does the one it replaces disappear.
        index.publish()
        kept = {one.concrete for one in (index.read, begun) if one is not None}.union(index.former)
        ours = self._generations(index.name, found)
        self._delete(index.name, [other for other in ours.values() if other.name not in kept])
        return begun

    def resume_build(self, index: str) -> int:
        one = self._index(index)
        with one.lock:
            if one.building is None or one.progress is None:
                raise SinkRefused(f"sink {self.name} keeps no unfinished build of index {index}", index=index)
            one.progress = None
            return one.building.generation.number

    def save_progress(self, index: str, progress: Mapping[str, Any]) -> None:
        self._lease.check()
        building = self._index(index).building
        if building is None:
            return
        self._meta.write(
            _build_id(index),
            {
                "kind": "build",
                "key": _build_id(index),
                "index": index,
                "hash": building.generation.hash,
                "generation": str(building.generation.number),
                "uuid": building.uuid,
                # As text: the keys in it are nothing to search.
                "progress": json.dumps(progress),
            },
        )

    def rollback(self, index: str) -> RolledBack:
        one = self._index(index)
        with one.lock:
            target = self._older(one, self._find(self._names.every(index)))
            if target is None:
                raise SinkRefused(
                    f"sink {self.name} keeps no former generation of index {index}",
                    hint="index[].keep_generations says how many are kept",
                    index=index,
                )
            # First the one that live writes go to from now on, then what they no longer go to.
            begun = self._begin(one)
            back = self._names.concrete(target)
            if one.read is not None:
                self._freeze(one, one.read.concrete)
                one.read, one.skipped = None, False
            one.former = (back, *(name for name in one.former if name != back))
            one.publish()
            self._save(one)
            # What was written last before it stood still may not have been searchable yet.
            self._client.send("POST", f"/{segment(back)}/_refresh")
            self._move_aliases(one, back, target.hash)
            return RolledBack(target.number, begun.generation.number)

    def _older(self, index: _Index, found: Mapping[str, _Found]) -> Optional[Generation]:
        """The newest kept generation that is older than the one that readers have."""
        alias = self._names.convenience(index.name)
        shown = [
            generation.number
            for generation, held in self._generations(index.name, found).items()
            if alias in held.aliases
        ]
        kept = [self._names.parse(index.name, name) for name in index.former if name in found]
        older = [one for one in kept if one is not None and (not shown or one.number < max(shown))]
        return max(older, key=lambda one: one.number, default=None)

    def _freeze(self, index: _Index, name: str) -> None:
        """An index that was current until now stands still, and is one of the former."""
        index.former = (name, *(former for former in index.former if former != name))
        index.frozen[name] = self._record.confirmed if self._record is not None else 0

    def generations(self) -> Mapping[str, Sequence[GenerationReport]]:
        return {stored["index"]: self._reports(stored) for stored in list(self._meta.every("index"))}

    def _reports(self, stored: Mapping[str, Any]) -> List[GenerationReport]:
        name = stored["index"]
        alias = self._names.convenience(name)
        counts = self._counts(name)
        frozen = stored.get("frozen") or {}
        reports: List[GenerationReport] = []
        for generation, held in self._generations(name, self._find(self._names.every(name))).items():
            if held.uuid == stored.get("uuid"):
                state = "read"
            elif held.name in stored.get("former", ()):
                state = "rolled back to" if alias in held.aliases else "kept"
            else:
                state = "building" if generation.number == stored_int(stored, "last") else "left over"
            lsn = frozen.get(held.name)
            reports.append(
                GenerationReport(
                    generation.number, state, held.name, counts.get(held.name), None if lsn is None else int(lsn)
                )
            )
        return sorted(reports, key=lambda report: -report.number)

    def _counts(self, index: str) -> Dict[str, int]:
        """Index -> documents that a search finds in it."""
        path = f"/_cat/indices/{self._names.every(index)}"
        query = {"h": "index,docs.count", "format": "json", "expand_wildcards": "all"}
        answer = self._client.get(path, query, missing=True)
        if answer.status == 404:
            return {}
        return {row["index"]: int(row["docs.count"]) for row in answer.json() if row.get("docs.count")}

    def complete_build(self, index: str) -> None:
        one = self._index(index)
        with one.lock:
            built = one.building
            if built is None:
                if one.switching and one.read is not None:
                    self._save(one)
                    self._finish_switch(one, one.read)
                return
            held = self._find(built.concrete).get(built.concrete)
            if held is None or held.uuid != built.uuid:
                raise IndexMissing(f"index {built.concrete} vanished while it was built", index=index)
            if built.target.alias not in held.aliases:
                raise IndexMissing(f"index {built.concrete} lost its write alias while it was built", index=index)
            self._client.send("POST", f"/{segment(built.concrete)}/_refresh")
            self._settle(built)
            self._wait_copies(built)
            # The mark before the aliases: whoever finds ``switching`` at a start moves them.  The other way round, a
            # crash in between would leave readers on a generation that nobody keeps current.
            if one.read is not None:
                self._freeze(one, one.read.concrete)
            one.read, one.building, one.progress = built, None, None
            one.seeded, one.skipped, one.switching = True, False, True
            self._save(one)
            self._finish_switch(one, built)

    def _finish_switch(self, index: _Index, built: _Built) -> None:
        self._switch(index, built)
        # Writers go to both until readers have moved.
        index.publish()
        keep = max(0, self._settings.keep_generations.get(index.name, 0))
        index.former = index.former[:keep]
        index.frozen = {name: lsn for name, lsn in index.frozen.items() if name in index.former}
        index.switching = False
        self._save(index)
        self._meta.delete(_build_id(index.name))
        found = self._find(self._names.every(index.name))
        kept = {built.concrete, *index.former}
        ours = self._generations(index.name, found)
        self._delete(index.name, [other for other in ours.values() if other.name not in kept])
        log.info("sink %s: index %s is complete in %s", self.name, index.name, built.concrete)

    def _create(self, index: _Index) -> _Built:
        """Make the next generation, with its write alias and no other."""
        # The number is spent before the index is there: a creation whose answer is lost is never met again.
        index.last += 1
        self._save(index)
        generation = Generation(index.name, index.hash, index.last)
        concrete, alias = self._names.concrete(generation), self._names.writes(generation)
        meta = {
            "flusso_sync": {
                "index": index.name,
                "hash": index.hash,
                "generation": index.last,
                "renderer": RENDERER,
                "owner": owner_of(self._lease.identity),
            }
        }
        body = {**index_body(index.plan, self._settings, meta), "aliases": {alias: {}}}
        try:
            self._client.send("PUT", f"/{segment(concrete)}", body, {"wait_for_active_shards": 1})
        except Refused as error:
            icu = self._settings.text_analysis == "icu" and "icu" in error.message
            raise SinkRefused(
                f"sink {self.name}: index {index.name} cannot be created: {error.message}",
                hint="Install the analysis-icu plugin on every node, or set text_analysis: builtin"
                if icu
                else "See the options of its fields and the limits of the cluster",
                index=index.name,
            ) from error
        found = self._find(concrete).get(concrete)
        if found is None:
            raise IndexMissing(f"index {concrete} vanished right after it was created", index=index.name)
        return self._built(generation, found.uuid)

    def _built(self, generation: Generation, uuid: str) -> _Built:
        return _Built(generation, bulk.target(self._names.writes(generation), self._names.concrete(generation)), uuid)

    def _settle(self, built: _Built) -> None:
        """From building to serving: refresh and replicas as configured."""
        self._client.send(
            "PUT",
            f"/{segment(built.concrete)}/_settings",
            {
                "index": {
                    "refresh_interval": self._settings.refresh_interval,
                    "number_of_replicas": max(0, self._settings.number_of_replicas),
                }
            },
        )

    def _wait_copies(self, built: _Built) -> None:
        """Wait, for a bounded time, until as many copies are there as the cluster can hold."""
        nodes = self._client.get("/_cluster/health", {"filter_path": "number_of_data_nodes"}).json()
        copies = min(max(0, self._settings.number_of_replicas), int(nodes["number_of_data_nodes"]) - 1)
        wanted = max(1, self._settings.number_of_shards) * (1 + copies)
        deadline = time.monotonic() + self._settings.copies_wait_secs
        path = f"/_cluster/health/{segment(built.concrete)}"
        while int(self._client.get(path, {"filter_path": "active_shards"}).json()["active_shards"]) < wanted:
            if time.monotonic() > deadline:
                log.warning(
                    "sink %s: %s has fewer than %d copies per shard after %g s; readers move to it all the same",
                    self.name,
                    built.concrete,
                    1 + copies,
                    self._settings.copies_wait_secs,
                )
                return
            if self._closed.wait(_LOOK_SECONDS):
                raise SinkUnavailable(f"sink {self.name} was closed", in_doubt=False)

    # -- aliases ------------------------------------------------------------------------------------------

    def _switch(self, index: _Index, to: _Built) -> None:
        """Move the hash alias and the convenience alias to one generation, in one request."""
        self._move_aliases(index, to.concrete, index.hash)

    def _move_aliases(self, index: _Index, to: str, hash: str) -> None:
        hash_alias = self._names.hash_alias(index.name, hash)
        convenience = self._names.convenience(index.name)
        holders = self._find(f"{hash_alias},{convenience}")
        aliases = [hash_alias, convenience]
        if convenience in holders:
            log.warning("sink %s: %s is an index, so it cannot be an alias of %s", self.name, convenience, to)
            aliases.remove(convenience)
        actions: List[Dict[str, Any]] = [
            {"remove": {"index": holder.name, "alias": alias}}
            for holder in holders.values()
            for alias in aliases
            if alias in holder.aliases and holder.name != to
        ]
        held = holders[to].aliases if to in holders else set()
        actions.extend({"add": {"index": to, "alias": alias}} for alias in aliases if alias not in held)
        if actions:
            self._client.send("POST", "/_aliases", {"actions": actions})

    def _restore(self, index: _Index, held: _Found, found: Mapping[str, _Found]) -> None:
        """Give the generation that is read what it lost: its write alias, aliases nobody holds, its settings."""
        built = index.read
        assert built is not None
        self._restore_write_alias(built, held)
        if index.switching:
            self._switch(index, built)
            index.switching = False
            self._save(index)
        elif self._names.hash_alias(index.name, index.hash) not in held.aliases:
            self._restore_read_aliases(index, built)
        wanted = (self._settings.refresh_interval, str(max(0, self._settings.number_of_replicas)))
        if (held.refresh_interval, held.number_of_replicas) != wanted:
            self._settle(built)

    def _restore_write_alias(self, built: _Built, held: _Found) -> None:
        if built.target.alias not in held.aliases:
            self._client.send(
                "POST", "/_aliases", {"actions": [{"add": {"index": built.concrete, "alias": built.target.alias}}]}
            )

    def _restore_read_aliases(self, index: _Index, built: _Built) -> None:
        """Put back what nobody holds.  An alias that was moved by hand (to a former generation, say) stays there."""
        hash_alias = self._names.hash_alias(index.name, index.hash)
        convenience = self._names.convenience(index.name)
        holders = self._find(f"{hash_alias},{convenience}")
        taken = {alias for holder in holders.values() for alias in (*holder.aliases, holder.name)}
        adds = [
            {"add": {"index": built.concrete, "alias": alias}}
            for alias in (hash_alias, convenience)
            if alias not in taken
        ]
        if adds:
            log.warning("sink %s: aliases of %s were gone and are put back", self.name, built.concrete)
            self._client.send("POST", "/_aliases", {"actions": adds})

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        self._lease.check()
        indexes = self._indexes
        targets: List[Tuple[bulk.Target, ...]] = []
        for write in writes:
            index = indexes.get(write.index) or self._index(write.index)
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
            self._delete_born(name)
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
        read = [self._index(index).read for index in indexes]
        names = [segment(one.concrete) for one in read if one is not None]
        if names:
            self._client.send("POST", f"/{','.join(names)}/_refresh", query={"ignore_unavailable": True})

    # -- quarantine -----------------------------------------------------------------------------------------

    def quarantine(self, documents: Sequence[Rejected]) -> None:
        self._lease.check()
        self._quarantine.park(documents)

    def release(self, index: str, ids: Sequence[str]) -> None:
        self._quarantine.release(index, ids)

    def quarantined(self) -> Dict[str, List[str]]:
        return self._quarantine.ids()

    def parked(self, index: Optional[str] = None) -> Iterator[Parked]:
        return self._quarantine.entries(index)

    # -- requests -------------------------------------------------------------------------------------------

    def post(self, request: Request) -> None:
        self._mailbox.post(request)

    def holder(self) -> Optional[str]:
        return self._lease.holder()

    def requests(self) -> Sequence[Request]:
        return self._mailbox.requests()

    def answer(self, id: str, answer: Answer) -> None:
        self._mailbox.answer(id, answer)

    def answer_to(self, id: str) -> Optional[Answer]:
        return self._mailbox.answer_to(id)

    def write_job(self, id: str, job: Optional[Mapping[str, Any]]) -> None:
        self._lease.check()
        key = f"job:{id}"
        if job is None:
            self._meta.delete(key)
        else:
            self._meta.write(key, {"kind": "job", "key": key, "id": id, "job": json.dumps(job)})

    def jobs(self) -> Mapping[str, Mapping[str, Any]]:
        return {stored["id"]: json.loads(stored["job"]) for stored in self._meta.every("job")}

    # -- keeping watch --------------------------------------------------------------------------------------

    def renew(self) -> None:
        if time.monotonic() < self._renewed_at + RENEW_SECONDS:
            return
        started = time.monotonic()
        try:
            self._lease.renew()
        except MetaMissing:
            self._remake_meta()
        self._renewed_at = started

    def _remake_meta(self) -> None:
        """Make a meta store that was deleted under us anew from what we hold; the quarantine is lost with it."""
        log.error("sink %s: the meta store was deleted; it is made anew, its quarantine is lost", self.name)
        self._meta.prepare()
        self._lease.restore()
        if self._record is not None:
            self.write_record(self._record)
        for index in self._indexes.values():
            with index.lock:
                self._save(index)
        self._quarantine.load()

    def watch(self) -> List[str]:
        lost: List[str] = []
        # One request names every index with a write alias of ours, and every index that is called like one.
        found = self._find(self._names.every_write_alias)
        for index in list(self._indexes.values()):
            # A build that is being completed may hold the lock for a minute, and the lease must be renewed meanwhile.
            if index.lock.acquire(blocking=False):
                try:
                    if not self._is_whole(index, found):
                        lost.append(index.name)
                finally:
                    index.lock.release()
        for name in found:
            if any(self._names.parse_writes(index, name) for index in self._indexes):
                self._delete_born(name)
        return lost

    def forgotten(self) -> Sequence[str]:
        before, found = self._engines, self._look_at_engines()
        # One that does not answer for all of it yet is looked at again.
        self._engines = {**before, **found}
        changed = {name for name, engines in found.items() if before.get(name, engines) != engines}
        return [
            index.name
            for index in list(self._indexes.values())
            if any(one is not None and one.concrete in changed for one in (index.read, index.building))
        ]

    def _look_at_engines(self) -> Dict[str, str]:
        """Generation -> a text that is another one whenever an engine of its primary shards is."""
        names = [
            one.concrete
            for index in list(self._indexes.values())
            for one in (index.read, index.building)
            if one is not None
        ]
        if not names:
            return {}
        path = "/_cluster/state/metadata,nodes,routing_table/" + ",".join(segment(name) for name in names)
        try:
            query: Dict[str, Any] = {"filter_path": _ENGINES, "ignore_unavailable": True}
            state = self._client.get(path, query, missing=True).json()
        except (Refused, SinkUnauthorized) as error:
            # A user without the right to see the cluster's state; versions and tombstones guard all the same.
            log.debug("sink %s: the state of the cluster cannot be seen: %s", self.name, error)
            return {}
        nodes = {id: node.get("ephemeral_id") for id, node in state.get("nodes", {}).items()}
        terms = state.get("metadata", {}).get("indices", {})
        marks: Dict[str, str] = {}
        for name, entry in state.get("routing_table", {}).get("indices", {}).items():
            engines: List[Any] = []
            for shard, copies in sorted(entry.get("shards", {}).items()):
                for copy in copies:
                    if copy.get("primary"):
                        node, allocation = nodes.get(copy.get("node")), copy.get("allocation_id")
                        engines.append([shard, node, allocation])
            if engines and all(node is not None for _, node, _ in engines):
                marks[name] = json.dumps([engines, terms.get(name)], sort_keys=True)
        return marks

    def _delete_born(self, name: str) -> None:
        """Delete an index that a write gave birth to where its alias should have been."""
        log.warning("sink %s: index %s was born of a write and is deleted", self.name, name)
        try:
            self._client.send("DELETE", f"/{segment(name)}", missing=True)
        except Refused as error:
            # An alias again meanwhile, which is what it should be.
            log.info("sink %s: index %s was not deleted: %s", self.name, name, error)

    def _is_whole(self, index: _Index, found: Mapping[str, _Found]) -> bool:
        """Whether the generations of ``index`` are the ones we made; puts back aliases that are gone."""
        for built in (index.read, index.building):
            if built is None:
                continue
            held = found.get(built.concrete)
            if held is None:
                # Without its write alias it is not in the list.
                held = self._find(built.concrete).get(built.concrete)
            if held is None or held.uuid != built.uuid or held.meta.get("hash") != index.hash:
                return False
            if built.target.alias not in held.aliases:
                if built.target.alias in found:
                    # An index stands where the alias was; it is deleted, and what went there is built again.
                    return False
                self._restore_write_alias(built, held)
            if built is index.read and not index.switching:
                hash_alias = self._names.hash_alias(index.name, index.hash)
                if not {hash_alias, self._names.convenience(index.name)} <= held.aliases:
                    self._restore_read_aliases(index, built)
        return index.read is not None or index.building is not None

    def report(self) -> SinkReport:
        facts = {"prefix": self._settings.prefix} if self._settings.prefix else {}
        try:
            facts["address"] = self._client.address()
        except FlussoError:
            # Closed, or its address cannot be read; the rest is known all the same.
            pass
        for index in list(self._indexes.values()):
            if index.read is not None:
                facts[f"index {index.name}"] = index.read.concrete
            if index.building is not None:
                facts[f"index {index.name} being built"] = index.building.concrete
        return SinkReport(self.name, "opensearch", self._version, facts)

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            self._lease.give_back()
        except FlussoError as error:
            log.info("sink %s: the lease was not given back and ends by itself: %s", self.name, error)
        self._client.close()

    # -- reading: for people, tests and the verifier; needs neither lease nor ensure ----------------------------

    def get(self, index: str, id: str) -> Optional[bytes]:
        """The document as it was written, in real time; None when there is none."""
        path = f"/{segment(self._names.convenience(index))}/_source/{segment(id)}"
        answer = self._client.get(path, missing=True)
        return answer.data if answer.status == 200 else None

    def count(self, index: str) -> int:
        """How many documents a search finds."""
        answer = self._client.get(f"/{segment(self._names.convenience(index))}/_count", missing=True)
        return int(answer.json()["count"]) if answer.status == 200 else 0

    def search(self, index: str, words: str, limit: int = 10) -> List[Tuple[str, Any]]:
        """The best matches for plain words over all fields: (id, document)."""
        body = {"size": limit, "query": {"simple_query_string": {"query": words, "lenient": True}}}
        path = f"/{segment(self._names.convenience(index))}/_search"
        answer = self._client.send("POST", path, body)
        hits = _exact(answer.data).get("hits", {}).get("hits", [])
        return [(hit["_id"], hit.get("_source")) for hit in hits]

    def scan(self, index: str, size: int = 1000) -> Iterator[Tuple[str, Any]]:
        """Every document that is read, as of now: (id, document), numbers with all their digits."""
        for hits in self._scroll(index, {"size": size}):
            for hit in hits:
                yield hit["_id"], hit.get("_source")

    def scan_ids(self, index: str, size: int = 1000) -> Iterator[List[str]]:
        for hits in self._scroll(index, {"size": size, "_source": False}):
            yield [hit["_id"] for hit in hits]

    def _scroll(self, index: str, body: Mapping[str, Any]) -> Iterator[List[Dict[str, Any]]]:
        """Pages of hits as of now; whoever takes them may be slow.

        Without any filter_path, which would send documents through a parser that rounds their numbers.
        """
        name = segment(self._names.convenience(index))
        self._client.send("POST", f"/{name}/_refresh")
        answer = self._client.send("POST", f"/{name}/_search", {**body, "sort": ["_doc"]}, {"scroll": SCROLL_KEPT})
        page = _exact(answer.data)
        held = page["_scroll_id"]
        try:
            while True:
                if answer.status == 404:
                    raise SinkUnavailable(f"index {index} was replaced while it was read", in_doubt=False)
                if page.get("_shards", {}).get("failed"):
                    raise SinkUnavailable(f"index {index} can be read in part only", in_doubt=False)
                hits = page.get("hits", {}).get("hits", [])
                if not hits:
                    return
                yield hits
                held = page["_scroll_id"]
                scroll = {"scroll": SCROLL_KEPT, "scroll_id": held}
                answer = self._client.send("POST", "/_search/scroll", scroll, missing=True)
                page = _exact(answer.data)
        finally:
            self._client.send("DELETE", "/_search/scroll", {"scroll_id": held}, missing=True)

    def get_many(self, index: str, ids: Sequence[str]) -> Dict[str, Found]:
        path = f"/{segment(self._names.convenience(index))}/_mget"
        found: Dict[str, Found] = {}
        # OpenSearch refuses a whole request for an empty id, which no document can have.
        wanted = [id for id in ids if id]
        for start in range(0, len(wanted), MOST_READ):
            # No filter_path here: it would send the documents through a parser that rounds their numbers.
            answer = self._client.send("POST", path, {"ids": wanted[start : start + MOST_READ]})
            for one in _exact(answer.data).get("docs", ()):
                error = one.get("error")
                if error is not None and error.get("type") == INDEX_MISSING:
                    raise SinkRefused(
                        f"readers find no index {self._names.convenience(index)} in sink {self.name}",
                        hint="It is there once its first build is complete",
                        index=index,
                    )
                if error is not None:
                    raise SinkUnavailable(f"index {index} cannot be read: {error.get('reason')}", in_doubt=False)
                if one.get("found"):
                    found[one["_id"]] = Found(one.get("_source"), int(one.get("_version", 0)))
        return found

    # -- small things -------------------------------------------------------------------------------------------

    def _index(self, name: str) -> _Index:
        try:
            return self._indexes[name]
        except KeyError:
            raise SinkError(f"sink {self.name}: index {name} is written to before it was ensured", index=name) from None

    def _find(self, pattern: str) -> Dict[str, _Found]:
        """Every index behind a pattern, names or aliases: index name -> what it is."""
        path = "/" + ",".join(segment(part) if "*" not in part else part for part in pattern.split(","))
        query: Dict[str, Any] = {"expand_wildcards": "all", "ignore_unavailable": True, "filter_path": _FACTS}
        answer = self._client.get(path, query, missing=True)
        if answer.status == 404:
            return {}
        found: Dict[str, _Found] = {}
        for name, entry in answer.json().items():
            settings = entry.get("settings", {}).get("index", {})
            found[name] = _Found(
                name,
                str(settings.get("uuid", "")),
                set(entry.get("aliases", {})),
                entry.get("mappings", {}).get("_meta", {}).get("flusso_sync", {}),
                str(settings.get("refresh_interval", "")),
                str(settings.get("number_of_replicas", "")),
            )
        return found

    def _generations(self, name: str, found: Mapping[str, _Found]) -> Dict[Generation, _Found]:
        parsed = {self._names.parse(name, one): held for one, held in found.items()}
        return {generation: held for generation, held in parsed.items() if generation is not None}

    def _delete(self, name: str, unwanted: Sequence[_Found]) -> None:
        """Delete generations; never one that says it is another deployment's."""
        for one in unwanted:
            owner = one.meta.get("owner")
            if isinstance(owner, dict) and not same_history(owner, self._lease.identity) and not self._adopted:
                continue
            log.info("sink %s: index %s is no longer needed and is deleted", self.name, one.name)
            self._client.send("DELETE", f"/{segment(one.name)}", missing=True)

    def _save(self, index: _Index) -> None:
        self._meta.write(
            _document_id(index.name),
            {
                "kind": "index",
                "key": _document_id(index.name),
                "index": index.name,
                "hash": index.hash if index.read is None else index.read.generation.hash,
                "generation": str(index.read.generation.number) if index.read is not None else None,
                "uuid": index.read.uuid if index.read is not None else None,
                "seeded": index.seeded,
                "skipped": index.skipped,
                "switching": index.switching,
                "former": list(index.former),
                "frozen": {name: str(lsn) for name, lsn in index.frozen.items()},
                "last": str(index.last),
            },
        )


def _document_id(name: str) -> str:
    return f"index:{name}"


def _build_id(name: str) -> str:
    return f"build:{name}"


def _exact(data: bytes) -> Dict[str, Any]:
    """An answer with every digit of every document kept."""
    result: Dict[str, Any] = exact(data)
    return result

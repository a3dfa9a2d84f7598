"""Generations: built beside the one that is read, and switched when they are complete.

A generation is one index, born with its mapping, its hash and its owner in ``_meta``, and recognised by its UUID ever
after.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from flusso_sync.errors import IndexMissing, OwnerConflict, SinkError, SinkRefused, SinkUnavailable
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import GenerationReport, IndexReport, RolledBack
from flusso_sync.sinks.hash import RENDERER
from flusso_sync.sinks.lease import Lease, owner_of, same_history, same_owner
from flusso_sync.sinks.meta import stored_int
from flusso_sync.sinks.opensearch import bulk
from flusso_sync.sinks.opensearch.aliases import Aliases
from flusso_sync.sinks.opensearch.client import Client, Refused, segment
from flusso_sync.sinks.opensearch.cluster import Cluster, Held
from flusso_sync.sinks.opensearch.hash import index_hash
from flusso_sync.sinks.opensearch.index import Built, Index
from flusso_sync.sinks.opensearch.mapping import index_body
from flusso_sync.sinks.opensearch.meta import Meta
from flusso_sync.sinks.opensearch.names import Generation, Names
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings

log = logging.getLogger(__name__)

#: Delay between looks at replicas that are being copied.
_LOOK_SECONDS = 0.25


class Generations:
    """Those of all indexes of a sink; the methods without a sentence are the sink protocol's.

    ``position`` tells up to where everything has been written; ``closed`` ends what waits here.
    """

    def __init__(
        self,
        sink: str,
        settings: OpenSearchSettings,
        client: Client,
        meta: Meta,
        lease: Lease,
        names: Names,
        *,
        position: Callable[[], int],
        closed: threading.Event,
    ) -> None:
        self._sink = sink
        self._settings = settings
        self._client = client
        self._cluster = Cluster(client, sink)
        self._aliases = Aliases(client, self._cluster, names, sink)
        self._meta = meta
        self._lease = lease
        self._names = names
        self._position = position
        self._closed = closed
        #: By name, of all that ``ensure`` was asked for.
        self.indexes: Dict[str, Index] = {}
        #: Generation -> the engines of its primary shards, as they were seen last.
        self._engines: Dict[str, str] = {}
        #: The meta store knew no owner before us.
        self.first_owner = False
        self.adopted = False

    # -- at the start ---------------------------------------------------------------------------------------

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        reports = [self._ensure(plan, skip_build) for plan in plans]
        # Whatever these engines forgot before, nothing was deleted in this life.
        self._engines = self._look_at_engines()
        return reports

    def _ensure(self, plan: IndexPlan, skip_build: bool) -> IndexReport:
        name = plan.name
        index = Index(plan, index_hash(plan, self._settings))
        found = self._cluster.find(self._names.every(name))
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
                log.warning("sink %s: index %s is gone or not ours any more", self._sink, gone, extra={"index": name})
            elif generation.hash == index.hash:
                index.read = self._built(generation, held.uuid)
            else:
                # Another schema: it is read on, and stands still, until the new one is complete.
                self._freeze(index, held.name)
        index.seeded = index.read is not None and bool(before.get("seeded"))
        index.skipped = index.read is not None and bool(before.get("skipped"))
        index.switching = index.read is not None and bool(before.get("switching"))
        if index.read is not None:
            self._restore(index, found[index.read.concrete], found)
        if not index.seeded and not skip_build:
            self._find_unfinished(index, ours)
        kept = {one.concrete for one in (index.read, index.building) if one is not None}.union(index.former)
        self._delete(name, [one for one in ours.values() if one.name not in kept])
        if not index.seeded and index.building is None:
            if not skip_build:
                index.building, index.unclaimed = self._create(index), True
            elif index.read is None:
                # Readers get it at once because the user asked for it.
                index.read, index.skipped, index.switching = self._create(index), True, True
                self._settle(index.read)
                self._save(index)
                self._switch(index, index.read)
                index.switching = False
                self._save(index)
        index.publish()
        self.indexes[name] = index
        current = index.read or index.building
        return IndexReport(
            name,
            index.seeded,
            current.generation.number if current else 0,
            readable=index.read is not None or bool(index.former),
            progress=index.progress,
        )

    def _find_unfinished(self, index: Index, ours: Mapping[Generation, Held]) -> None:
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
        self._aliases.restore_writes(index.building, held)

    def _refuse_foreign(self, name: str, ours: Mapping[Generation, Held]) -> None:
        """A meta store that knows nothing of indexes that are there was deleted, or is not theirs."""
        if not self.first_owner or self.adopted:
            return
        for one in ours.values():
            owner = one.meta.get("owner")
            if isinstance(owner, dict) and not same_owner(owner, self._lease.identity):
                raise OwnerConflict(
                    f"index {one.name} belongs to slot {owner.get('slot')} of {owner.get('address')}",
                    hint="Give this deployment another prefix or another cluster, or run once with --adopt",
                    index=name,
                )

    # -- one build ------------------------------------------------------------------------------------------

    def begin_build(self, index: str) -> int:
        one = self.index(index)
        with one.lock:
            if one.building is not None and one.unclaimed:
                one.unclaimed = False
                return one.building.generation.number
            return self._begin(one).generation.number

    def _begin(self, index: Index) -> Built:
        found = self._cluster.find(self._names.every(index.name))
        if index.read is not None:
            held = found.get(index.read.concrete)
            if held is None or held.uuid != index.read.uuid:
                index.read = None
                index.publish()
            else:
                self._restore(index, held, found)
        index.seeded = False
        begun = self._create(index)
        index.building, index.unclaimed, index.progress, index.going_back = begun, False, None, None
        # From here on live writes go to it; only then does the one it replaces disappear.
        index.publish()
        kept = {one.concrete for one in (index.read, begun) if one is not None}.union(index.former)
        ours = self._generations(index.name, found)
        self._delete(index.name, [other for other in ours.values() if other.name not in kept])
        return begun

    def resume_build(self, index: str) -> int:
        one = self.index(index)
        with one.lock:
            if one.building is None or one.progress is None:
                raise SinkRefused(f"sink {self._sink} keeps no unfinished build of index {index}", index=index)
            one.progress = None
            return one.building.generation.number

    def save_progress(self, index: str, progress: Mapping[str, Any]) -> None:
        self._lease.check()
        building = self.index(index).building
        if building is None:
            return
        self._meta.write(
            _build_id(index),
            {
                "index": index,
                "hash": building.generation.hash,
                "generation": str(building.generation.number),
                "uuid": building.uuid,
                # As text: the keys in it are nothing to search.
                "progress": json.dumps(progress),
            },
        )

    # -- back to a former one -------------------------------------------------------------------------------

    def rollback(self, index: str) -> RolledBack:
        one = self.index(index)
        with one.lock:
            # Repeated after an outage it goes on where it was: the answer to the move of the aliases may be all that
            # was lost, and the next older generation is not what was asked for.
            target = one.going_back or self._older(one, self._cluster.find(self._names.every(index)))
            if target is None:
                raise SinkRefused(
                    f"sink {self._sink} keeps no former generation of index {index}",
                    hint="index[].keep_generations says how many are kept",
                    index=index,
                )
            back = self._names.concrete(target)
            if one.going_back is None:
                # First the one that live writes go to from now on, then what they no longer go to.
                self._begin(one)
                one.going_back = target
                if one.read is not None:
                    self._freeze(one, one.read.concrete)
                    one.read, one.skipped = None, False
                one.former = (back, *(name for name in one.former if name != back))
                one.publish()
            assert one.building is not None
            self._save(one)
            # What was written last before it stood still may not have been searchable yet.
            self._client.send("POST", f"/{segment(back)}/_refresh")
            self._aliases.move(one, back, target.hash)
            one.going_back = None
            return RolledBack(target.number, one.building.generation.number)

    def _older(self, index: Index, found: Mapping[str, Held]) -> Optional[Generation]:
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

    def _freeze(self, index: Index, name: str) -> None:
        """An index that was current until now stands still, and is one of the former."""
        index.former = (name, *(former for former in index.former if former != name))
        index.frozen[name] = self._position()

    # -- the switch -----------------------------------------------------------------------------------------

    def complete_build(self, index: str) -> None:
        one = self.index(index)
        with one.lock:
            built = one.building
            if built is None:
                if one.switching and one.read is not None:
                    self._save(one)
                    self._finish_switch(one, one.read)
                return
            held = self._cluster.find(built.concrete).get(built.concrete)
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
            one.read, one.building, one.progress, one.going_back = built, None, None, None
            one.seeded, one.skipped, one.switching = True, False, True
            self._save(one)
            self._finish_switch(one, built)

    def _finish_switch(self, index: Index, built: Built) -> None:
        self._switch(index, built)
        # Writers go to both until readers have moved.
        index.publish()
        keep = max(0, self._settings.keep_generations.get(index.name, 0))
        index.former = index.former[:keep]
        index.frozen = {name: lsn for name, lsn in index.frozen.items() if name in index.former}
        index.switching = False
        self._save(index)
        self._meta.delete(_build_id(index.name))
        found = self._cluster.find(self._names.every(index.name))
        kept = {built.concrete, *index.former}
        ours = self._generations(index.name, found)
        self._delete(index.name, [other for other in ours.values() if other.name not in kept])
        log.info(
            "sink %s: index %s is complete in %s", self._sink, index.name, built.concrete, extra={"index": index.name}
        )

    def _create(self, index: Index) -> Built:
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
                f"sink {self._sink}: index {index.name} cannot be created: {error.message}",
                hint="Install the analysis-icu plugin on every node, or set text_analysis: builtin"
                if icu
                else "See the options of its fields and the limits of the cluster",
                index=index.name,
            ) from error
        found = self._cluster.find(concrete).get(concrete)
        if found is None:
            raise IndexMissing(f"index {concrete} vanished right after it was created", index=index.name)
        return self._built(generation, found.uuid)

    def _built(self, generation: Generation, uuid: str) -> Built:
        return Built(generation, bulk.target(self._names.writes(generation), self._names.concrete(generation)), uuid)

    def _settle(self, built: Built) -> None:
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

    def _wait_copies(self, built: Built) -> None:
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
                    self._sink,
                    built.concrete,
                    1 + copies,
                    self._settings.copies_wait_secs,
                    extra={"index": built.generation.index},
                )
                return
            if self._closed.wait(_LOOK_SECONDS):
                raise SinkUnavailable(f"sink {self._sink} was closed", in_doubt=False)

    def _switch(self, index: Index, to: Built) -> None:
        """Move the hash alias and the convenience alias to one generation, in one request."""
        self._aliases.move(index, to.concrete, index.hash)

    def _restore(self, index: Index, held: Held, found: Mapping[str, Held]) -> None:
        """Give the generation that is read what it lost: its write alias, aliases nobody holds, its settings."""
        built = index.read
        assert built is not None
        self._aliases.restore_writes(built, held)
        if index.switching:
            self._switch(index, built)
            index.switching = False
            self._save(index)
        elif self._names.hash_alias(index.name, index.hash) not in held.aliases:
            self._aliases.restore_reads(index, built)
        wanted = (self._settings.refresh_interval, str(max(0, self._settings.number_of_replicas)))
        if (held.refresh_interval, held.number_of_replicas) != wanted:
            self._settle(built)

    # -- looking at them ------------------------------------------------------------------------------------

    def reports(self) -> Mapping[str, Sequence[GenerationReport]]:
        return {stored["index"]: self._reports(stored) for _, stored in list(self._meta.every("index"))}

    def _reports(self, stored: Mapping[str, Any]) -> List[GenerationReport]:
        name = stored["index"]
        alias = self._names.convenience(name)
        counts = self._cluster.counts(self._names.every(name))
        frozen = stored.get("frozen") or {}
        reports: List[GenerationReport] = []
        for generation, held in self._generations(name, self._cluster.find(self._names.every(name))).items():
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

    def watch(self) -> List[str]:
        """Names of indexes whose generations are not the ones we made; puts back aliases that are gone."""
        lost: List[str] = []
        # One request names every index with a write alias of ours, and every index that is called like one.
        found = self._cluster.find(self._names.every_write_alias)
        for index in list(self.indexes.values()):
            # A build that is being completed may hold the lock for a minute, and the lease must be renewed meanwhile.
            if index.lock.acquire(blocking=False):
                try:
                    if not self._is_whole(index, found):
                        lost.append(index.name)
                finally:
                    index.lock.release()
        for name in found:
            if any(self._names.parse_writes(index, name) for index in self.indexes):
                self.delete_born(name)
        return lost

    def forgotten(self) -> List[str]:
        """Names of indexes of which an engine is another one since this was asked last."""
        before, found = self._engines, self._look_at_engines()
        # One that does not answer for all of it yet is looked at again.
        self._engines = {**before, **found}
        changed = {name for name, engines in found.items() if before.get(name, engines) != engines}
        return [
            index.name
            for index in list(self.indexes.values())
            if any(one is not None and one.concrete in changed for one in (index.read, index.building))
        ]

    def _look_at_engines(self) -> Dict[str, str]:
        return self._cluster.engines(
            [
                one.concrete
                for index in list(self.indexes.values())
                for one in (index.read, index.building)
                if one is not None
            ]
        )

    def delete_born(self, name: str) -> None:
        """Delete an index that a write gave birth to where its alias should have been."""
        whose = {"index": next((one for one in self.indexes if self._names.parse_writes(one, name)), None)}
        log.warning("sink %s: index %s was born of a write and is deleted", self._sink, name, extra=whose)
        try:
            self._client.send("DELETE", f"/{segment(name)}", missing=True)
        except Refused as error:
            # An alias again meanwhile, which is what it should be.
            log.info("sink %s: index %s was not deleted: %s", self._sink, name, error, extra=whose)

    def _is_whole(self, index: Index, found: Mapping[str, Held]) -> bool:
        """Whether the generations of ``index`` are the ones we made; puts back aliases that are gone."""
        for built in (index.read, index.building):
            if built is None:
                continue
            held = found.get(built.concrete)
            if held is None:
                # Without its write alias it is not in the list.
                held = self._cluster.find(built.concrete).get(built.concrete)
            if held is None or held.uuid != built.uuid or held.meta.get("hash") != index.hash:
                return False
            if built.target.alias not in held.aliases:
                if built.target.alias in found:
                    # An index stands where the alias was; it is deleted, and what went there is built again.
                    return False
                self._aliases.restore_writes(built, held)
            if built is index.read and not index.switching:
                hash_alias = self._names.hash_alias(index.name, index.hash)
                if not {hash_alias, self._names.convenience(index.name)} <= held.aliases:
                    self._aliases.restore_reads(index, built)
        return index.read is not None or index.building is not None

    # -- small things -------------------------------------------------------------------------------------------

    def index(self, name: str) -> Index:
        """What ``ensure`` was asked for; raises ``SinkError`` for anything else."""
        try:
            return self.indexes[name]
        except KeyError:
            raise SinkError(
                f"sink {self._sink}: index {name} is written to before it was ensured", index=name
            ) from None

    def save_all(self) -> None:
        """Store everything that is known, in a meta store made anew."""
        for index in self.indexes.values():
            with index.lock:
                self._save(index)

    def _save(self, index: Index) -> None:
        self._meta.write(_document_id(index.name), index.document())

    def _generations(self, name: str, found: Mapping[str, Held]) -> Dict[Generation, Held]:
        parsed = {self._names.parse(name, one): held for one, held in found.items()}
        return {generation: held for generation, held in parsed.items() if generation is not None}

    def _delete(self, name: str, unwanted: Sequence[Held]) -> None:
        """Delete generations; never one that says it is another deployment's."""
        for one in unwanted:
            owner = one.meta.get("owner")
            if isinstance(owner, dict) and not same_history(owner, self._lease.identity) and not self.adopted:
                continue
            log.info(
                "sink %s: index %s is no longer needed and is deleted", self._sink, one.name, extra={"index": name}
            )
            self._client.send("DELETE", f"/{segment(one.name)}", missing=True)


def _document_id(name: str) -> str:
    return f"index:{name}"


def _build_id(name: str) -> str:
    return f"build:{name}"

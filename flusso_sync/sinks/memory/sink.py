"""The sink in memory.

It keeps the rules of a real search engine: generations and aliases, external versions, rejected documents, and it
fails in every way a real one does when ``faults`` tells it to.  By default it is stateless; with ``stateful`` it
keeps an owner, a lease, the record and the quarantine in a ``MemoryStore``, which outlives the sink as a cluster does.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.errors import (
    DocumentRejected,
    FlussoError,
    IndexMissing,
    OwnerConflict,
    SinkError,
    SinkRefused,
    SinkUnavailable,
)
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import (
    Answer,
    Failure,
    FailureKind,
    Found,
    GenerationReport,
    IndexReport,
    Parked,
    Rejected,
    Request,
    RolledBack,
    Sink,
    Write,
    exact,
    park,
    quarantine_full,
)
from flusso_sync.sinks.memory.faults import Faults, ItemFault, Refusal
from flusso_sync.sinks.memory.store import Generation, MemoryStore, StoredIndex


class MemorySink(Sink):
    """See the module; every method may be called from any thread."""

    def __init__(
        self,
        name: str = "memory",
        *,
        store: Optional[MemoryStore] = None,
        stateful: bool = False,
        faults: Optional[Faults] = None,
        concurrency: int = 2,
        max_actions: int = 1000,
        max_bytes: int = 10 * 1024 * 1024,
        quarantine_limit: int = 10_000,
        keep_generations: int = 0,
    ) -> None:
        self.name = name
        self.stateful = stateful
        self.concurrency = concurrency
        self.max_actions = max_actions
        self.max_bytes = max_bytes
        self.store = MemoryStore() if store is None else store
        self.faults = faults
        self._quarantine_limit = quarantine_limit
        self._keep_generations = keep_generations
        self._plans: Dict[str, IndexPlan] = {}

    # -- what readers see -----------------------------------------------------------------------------------

    def get(self, index: str, id: str) -> Optional[bytes]:
        """The document that readers find; None when there is none, or no complete generation."""
        return self.documents(index).get(id)

    def count(self, index: str) -> int:
        return len(self.documents(index))

    def search(self, index: str, words: str, limit: int = 10) -> List[Tuple[str, Any]]:
        """Those that hold most of the words, in any case and anywhere."""
        wanted = words.lower().split()
        scored = []
        for id, body in self.documents(index).items():
            text = body.decode().lower()
            count = sum(word in text for word in wanted)
            if count:
                scored.append((-count, id, json.loads(body)))
        return [(id, document) for _, id, document in sorted(scored, key=lambda one: one[:2])[:limit]]

    def scan(self, index: str) -> Iterator[Tuple[str, Any]]:
        return iter([(id, exact(body)) for id, body in self.documents(index).items()])

    def get_many(self, index: str, ids: Sequence[str]) -> Dict[str, Found]:
        with self.store.lock:
            held = self.store.indexes.get(index)
            if held is None or held.shown is None:
                raise SinkRefused(f"readers find no index {index} in sink {self.name}", index=index)
            stored = [(id, held.shown.documents.get(id)) for id in ids]
        return {
            id: Found(exact(one.body), one.version) for id, one in stored if one is not None and one.body is not None
        }

    def documents(self, index: str) -> Dict[str, bytes]:
        """Every document that readers find."""
        with self.store.lock:
            held = self.store.indexes.get(index)
            return held.shown.bodies if held is not None and held.shown is not None else {}

    # -- the protocol ---------------------------------------------------------------------------------------

    def open(self, identity: SourceIdentity, *, adopt: bool = False) -> None:
        with self._request("open"):
            if not self.stateful:
                return
            store = self.store
            if store.holder is not None and store.holder is not self:
                raise SinkUnavailable(f"sink {self.name} is held by sink {store.holder.name}", in_doubt=False)
            if store.owner is not None and _who(store.owner) != _who(identity):
                if not adopt:
                    raise OwnerConflict(
                        f"sink {self.name} belongs to slot {store.owner.slot} of {store.owner.address}",
                        hint="Run once with --adopt to take it over",
                    )
                if _who(store.owner)[:3] != _who(identity)[:3]:
                    store.record = None
                    for held in store.indexes.values():
                        held.seeded, held.progress = False, None
            store.owner, store.holder = identity, self

    def read_record(self) -> Optional[Record]:
        with self._request("read_record"):
            return self.store.record if self.stateful else None

    def write_record(self, record: Record) -> None:
        with self._request("write_record"):
            if self.stateful:
                self._check_lease()
                self.store.record = record

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        with self._request("ensure"):
            return [self._ensure(plan, skip_build) for plan in plans]

    def _ensure(self, plan: IndexPlan, skip_build: bool) -> IndexReport:
        self._plans[plan.name] = plan
        held = self.store.indexes.setdefault(plan.name, StoredIndex())
        fits = held.read is not None and held.read.shape == plan.canonical
        if held.read is not None and not fits:
            # Another schema: it is read on, and stands still.
            held.retire(self.store.position)
        seeded = self.stateful and held.seeded and fits
        unfinished = held.building
        if seeded or unfinished is None or unfinished.shape != plan.canonical or not self.stateful:
            held.forget_build()
        if not seeded:
            held.seeded = False
            if skip_build:
                held.forget_build()
                if not fits:
                    held.read = held.shown = held.create(plan.canonical)
            elif held.building is None:
                held.building = held.create(plan.canonical)
        current = held.read or held.building
        return IndexReport(
            plan.name,
            seeded,
            current.number if current else 0,
            readable=self.stateful and held.shown is not None,
            progress=held.progress,
        )

    def begin_build(self, index: str) -> int:
        with self._request("begin_build"):
            return self._held(index).begin(self._plans[index].canonical).number

    def resume_build(self, index: str) -> int:
        with self._request("resume_build"):
            held = self._held(index)
            if held.building is None or held.progress is None:
                raise SinkRefused(f"sink {self.name} keeps no unfinished build of index {index}", index=index)
            return held.building.number

    def save_progress(self, index: str, progress: Mapping[str, Any]) -> None:
        with self._request("save_progress"):
            held = self._held(index)
            if self.stateful and held.building is not None:
                self._check_lease()
                held.progress = json.loads(json.dumps(progress))

    def complete_build(self, index: str) -> None:
        with self._request("complete_build"):
            self._held(index).complete(self.store.position, self._keep_generations)

    def rollback(self, index: str) -> RolledBack:
        with self._request("rollback"):
            held = self._held(index)
            older = held.older
            if older is None:
                raise SinkRefused(f"sink {self.name} keeps no former generation of index {index}", index=index)
            building = held.begin(self._plans[index].canonical)
            held.retire(self.store.position)
            held.show_former(older)
            return RolledBack(older.number, building.number)

    def generations(self) -> Mapping[str, Sequence[GenerationReport]]:
        with self._request("generations"):
            return {index: held.reports(self.name) for index, held in self.store.indexes.items()}

    def refresh(self, indexes: Sequence[str]) -> None:
        """Writes are seen at once."""
        with self._request("refresh"):
            pass

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        fault = self.faults("write", writes) if self.faults is not None else None
        with self.store.lock:
            self._check_lease()
            if isinstance(fault, Refusal):
                if fault.applied:
                    self._apply(writes, None)
                raise fault.error
            return self._apply(writes, fault)

    def _apply(self, writes: Sequence[Write], fault: Optional[ItemFault]) -> List[Failure]:
        failures: List[Failure] = []
        for position, write in enumerate(writes):
            held = self._held(write.index)
            if fault is not None and fault.hits(write):
                failures.append(Failure(position, fault.kind, fault.reason, fault.status, fault.retry_after_seconds))
                continue
            if not write.id or len(write.id.encode("utf-8", "replace")) > 512:
                failures.append(Failure(position, FailureKind.REJECTED, "its id is empty or too long", 400))
                continue
            if write.build:
                building = held.building
                wanted = building is not None and write.generation in (None, building.number)
                targets = [building] if building is not None and wanted else []
            else:
                targets = [one for one in self._live(write.index, held) if one is not None]
                if not targets:
                    raise IndexMissing(f"index {write.index} has no generation to write to", index=write.index)
            # Both are tried, whatever becomes of the first.
            if not all([target.write(write) for target in targets]):
                failures.append(Failure(position, FailureKind.CONFLICT, "a newer version is there", 409))
        return failures

    def _live(self, index: str, held: StoredIndex) -> Tuple[Optional[Generation], ...]:
        """What live writes go to: a generation of another shape is read on, and stands still."""
        read = held.read if held.read is not None and held.read.shape == self._plans[index].canonical else None
        return read, held.building

    def quarantine(self, documents: Sequence[Rejected]) -> None:
        with self._request("quarantine"):
            if not self.stateful:
                return
            self._check_lease()
            parked = dict(self.store.parked)
            counts = Counter(index for index, _ in parked)
            full: Optional[DocumentRejected] = None
            for document in documents:
                key = (document.index, document.id)
                if key not in parked and counts[document.index] >= self._quarantine_limit:
                    full = full or quarantine_full(self._quarantine_limit, document)
                    continue
                counts[document.index] += key not in parked
                parked[key] = park(parked.get(key), document)
            self.store.parked = parked
            if full is not None:
                raise full

    def release(self, index: str, ids: Sequence[str]) -> None:
        with self._request("release"):
            for id in ids:
                self.store.parked.pop((index, id), None)

    def quarantined(self) -> Dict[str, List[str]]:
        with self._request("quarantined"):
            found: Dict[str, List[str]] = {}
            for index, id in sorted(self.store.parked):
                found.setdefault(index, []).append(id)
            return found

    def parked(self, index: Optional[str] = None) -> Iterator[Parked]:
        with self._request("parked"):
            return iter([one for _, one in sorted(self.store.parked.items()) if index in (None, one.index)])

    def post(self, request: Request) -> None:
        with self._request("post"):
            if not self.stateful:
                raise SinkRefused(f"sink {self.name} has no place to leave requests in")
            self.store.requests[request.id] = request

    def holder(self) -> Optional[str]:
        with self._request("holder"):
            return None if self.store.holder is None else f"sink {self.store.holder.name}"

    def requests(self) -> Sequence[Request]:
        with self._request("requests"):
            return [one for id, one in self.store.requests.items() if id not in self.store.answers]

    def answer(self, id: str, answer: Answer) -> None:
        with self._request("answer"):
            self.store.answers[id] = answer

    def answer_to(self, id: str) -> Optional[Answer]:
        with self._request("answer_to"):
            return self.store.answers.get(id)

    def write_job(self, id: str, job: Optional[Mapping[str, Any]]) -> None:
        with self._request("write_job"):
            self._check_lease()
            if job is None:
                self.store.jobs.pop(id, None)
            else:
                self.store.jobs[id] = json.loads(json.dumps(job))

    def jobs(self) -> Mapping[str, Mapping[str, Any]]:
        with self._request("jobs"):
            return dict(self.store.jobs)

    def renew(self) -> None:
        with self._request("renew"):
            self._check_lease()

    def watch(self) -> List[str]:
        with self._request("watch"):
            lost = []
            for name in self._plans:
                held = self._held(name)
                if held.building is None and held.read is None:
                    lost.append(name)
            return lost

    def close(self) -> None:
        with self.store.lock:
            if self.store.holder is self:
                self.store.holder = None

    # -- small things ---------------------------------------------------------------------------------------

    def _request(self, method: str) -> "_Request":
        return _Request(self, method)

    def _held(self, index: str) -> StoredIndex:
        held = self.store.indexes.get(index)
        if held is None or index not in self._plans:
            raise SinkError(f"sink {self.name}: index {index} is written to before it was ensured", index=index)
        return held

    def _check_lease(self) -> None:
        if self.stateful and self.store.holder is not self:
            raise OwnerConflict(f"sink {self.name}: the lease was taken over", hint="Run one daemon per slot and sink")


class _Request:
    """One call under the store's lock, after whatever fault it is to suffer."""

    def __init__(self, sink: MemorySink, method: str) -> None:
        self._sink = sink
        self._fault = sink.faults(method, ()) if sink.faults is not None else None
        self._after: Optional[FlussoError] = None

    def __enter__(self) -> None:
        if isinstance(self._fault, Refusal):
            if not self._fault.applied:
                raise self._fault.error
            self._after = self._fault.error
        self._sink.store.lock.acquire()

    def __exit__(self, kind: Any, *rest: object) -> None:
        self._sink.store.lock.release()
        if self._after is not None and kind is None:
            raise self._after


def _who(identity: SourceIdentity) -> Tuple[str, str, str, str]:
    return identity.system_identifier, identity.database, identity.slot, identity.address

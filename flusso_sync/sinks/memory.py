"""A sink in memory, for tests and for programs that embed the daemon.

It keeps the rules of a real search engine: generations and aliases, external versions, rejected documents, and it
fails in every way a real one does when ``faults`` tells it to.  By default it is stateless; with ``stateful`` it
keeps an owner, a lease, the record and the quarantine in a ``MemoryStore``, which outlives the sink as a cluster does.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.errors import (
    DocumentRejected,
    FlussoError,
    IndexMissing,
    OwnerConflict,
    SinkError,
    SinkUnavailable,
)
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import Failure, FailureKind, IndexReport, Rejected, Sink, SinkReport, Write


@dataclass(frozen=True)
class Refusal:
    """The whole request fails with ``error``; ``applied`` tells whether it was carried out all the same."""

    error: FlussoError
    applied: bool = False


@dataclass(frozen=True)
class ItemFault:
    """Single writes fail: those of ``ids`` (None: every one), in the way ``kind`` says."""

    kind: FailureKind
    reason: str
    status: int
    ids: Optional[Set[str]] = None
    retry_after_seconds: Optional[float] = None

    def hits(self, write: Write) -> bool:
        return self.ids is None or write.id in self.ids


Fault = Union[Refusal, ItemFault]

#: Asked before each request with the method's name and its writes (empty for all but ``write``); None lets it pass.
Faults = Callable[[str, Sequence[Write]], Optional[Fault]]


class Held(NamedTuple):
    """What is stored under an id; ``body`` is None for a tombstone, whose version still counts."""

    body: Optional[bytes]
    version: int


@dataclass
class Generation:
    """One index."""

    number: int
    shape: str
    documents: Dict[str, Held] = field(default_factory=dict)

    def write(self, write: Write) -> bool:
        """Store unless something newer is there; equal versions win, as external_gte has it."""
        held = self.documents.get(write.id)
        if held is not None and write.version and held.version > write.version:
            return False
        self.documents[write.id] = Held(write.body, write.version)
        return True

    @property
    def bodies(self) -> Dict[str, bytes]:
        return {id: held.body for id, held in self.documents.items() if held.body is not None}


@dataclass
class StoredIndex:
    """The generations of one logical index; readers see ``read`` alone."""

    last: int = 0
    read: Optional[Generation] = None
    building: Optional[Generation] = None
    seeded: bool = False


class MemoryStore:
    """What a cluster would hold; give one to several sinks, one after another, to play restarts."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.indexes: Dict[str, StoredIndex] = {}
        self.owner: Optional[SourceIdentity] = None
        self.holder: Optional["MemorySink"] = None
        self.record: Optional[Record] = None
        self.parked: Dict[Tuple[str, str], Rejected] = {}

    def delete_index(self, index: str) -> None:
        """What somebody does by hand: every generation is gone, the marks stay."""
        with self.lock:
            held = self.indexes[index]
            held.read = held.building = None


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
    ) -> None:
        self.name = name
        self.stateful = stateful
        self.concurrency = concurrency
        self.max_actions = max_actions
        self.max_bytes = max_bytes
        self.store = MemoryStore() if store is None else store
        self.faults = faults
        self._quarantine_limit = quarantine_limit
        self._plans: Dict[str, IndexPlan] = {}

    # -- what readers see -----------------------------------------------------------------------------------

    def get(self, index: str, id: str) -> Optional[bytes]:
        """The document that readers find; None when there is none, or no complete generation."""
        return self.documents(index).get(id)

    def count(self, index: str) -> int:
        return len(self.documents(index))

    def documents(self, index: str) -> Dict[str, bytes]:
        """Every document that readers find."""
        with self.store.lock:
            held = self.store.indexes.get(index)
            return held.read.bodies if held is not None and held.read is not None else {}

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
                        held.seeded = False
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
        seeded = self.stateful and held.seeded and fits
        held.building = None
        if not seeded:
            held.seeded = False
            if not skip_build:
                held.building = self._create(held, plan)
            elif not fits:
                held.read = self._create(held, plan)
        current = held.read or held.building
        return IndexReport(plan.name, seeded, current.number if current else 0, "skipped" if skip_build else "")

    def _create(self, held: StoredIndex, plan: IndexPlan) -> Generation:
        held.last += 1
        return Generation(held.last, plan.canonical)

    def begin_build(self, index: str) -> int:
        with self._request("begin_build"):
            held = self._held(index)
            held.seeded = False
            if held.building is None or held.building.documents:
                held.building = self._create(held, self._plans[index])
            return held.building.number

    def complete_build(self, index: str) -> None:
        with self._request("complete_build"):
            held = self._held(index)
            if held.building is not None:
                held.read, held.building, held.seeded = held.building, None, True

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
                targets = [held.building] if held.building is not None else []
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
            parked = {**self.store.parked, **{(d.index, d.id): d for d in documents}}
            for index in {document.index for document in documents}:
                if sum(1 for key in parked if key[0] == index) > self._quarantine_limit:
                    raise DocumentRejected(f"the quarantine of index {index} is full", index=index)
            self.store.parked = parked

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

    def renew(self) -> None:
        with self._request("renew"):
            self._check_lease()

    def watch(self) -> List[str]:
        with self._request("watch"):
            lost = []
            for name in self._plans:
                held = self._held(name)
                if held.building is None and (held.read is None or held.read.shape != self._plans[name].canonical):
                    lost.append(name)
            return lost

    def report(self) -> SinkReport:
        return SinkReport(self.name, "memory")

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

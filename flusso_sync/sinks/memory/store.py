"""What a cluster would hold: generations and aliases, an owner, a lease, the record, what is parked and asked for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.sinks.base import Answer, GenerationReport, Parked, Request, Write

if TYPE_CHECKING:
    from flusso_sync.sinks.memory.sink import MemorySink


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
    #: Everything up to here is in it; None while it gets changes.
    frozen: Optional[int] = None

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
    """The generations of one logical index; readers see ``shown`` alone.

    ``read`` is the one that is kept current, ``shown`` the same or a former one, ``kept`` are former ones, those
    that readers had last first.
    """

    last: int = 0
    read: Optional[Generation] = None
    shown: Optional[Generation] = None
    building: Optional[Generation] = None
    kept: List[Generation] = field(default_factory=list)
    seeded: bool = False
    progress: Optional[Mapping[str, Any]] = None

    def create(self, shape: str) -> Generation:
        self.last += 1
        return Generation(self.last, shape)

    def retire(self, position: int) -> None:
        """What is kept current stands still from now on; everything up to ``position`` is in it."""
        if self.read is not None:
            self.read.frozen = position
            self.kept.insert(0, self.read)
            self.read = None

    def forget_build(self) -> None:
        self.building, self.progress = None, None

    def begin(self, shape: str) -> Generation:
        """The generation that is built from now on: a new one, unless the last one is as new."""
        self.seeded = False
        if self.building is None or self.building.documents or self.progress is not None:
            self.building, self.progress = self.create(shape), None
        return self.building

    def complete(self, position: int, keep: int) -> None:
        """Let readers find what was built, and keep ``keep`` former generations."""
        if self.building is not None:
            self.retire(position)
            self.read = self.shown = self.building
            self.forget_build()
            self.seeded = True
            self.kept = self.kept[:keep]

    @property
    def older(self) -> Optional[Generation]:
        """The newest kept one that is older than what readers find."""
        shown = self.shown.number if self.shown is not None else 0
        older = [one for one in self.kept if one.number < shown]
        return max(older, key=lambda one: one.number, default=None)

    def show_former(self, former: Generation) -> None:
        """Let readers have a kept one; what they had last is the first to be kept."""
        self.shown = former
        self.kept = [former, *(one for one in self.kept if one is not former)]

    def reports(self, sink: str) -> List[GenerationReport]:
        """Newest first."""
        found = [(one, "rolled back to" if one is self.shown else "kept") for one in self.kept]
        found += [(self.read, "read")] if self.read is not None else []
        found += [(self.building, "building")] if self.building is not None else []
        return [
            GenerationReport(one.number, state, f"{sink}:{one.number}", len(one.bodies), one.frozen)
            for one, state in sorted(found, key=lambda pair: -pair[0].number)
        ]


class MemoryStore:
    """What a cluster would hold; give one to several sinks, one after another, to play restarts."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.indexes: Dict[str, StoredIndex] = {}
        self.owner: Optional[SourceIdentity] = None
        self.holder: Optional["MemorySink"] = None
        self.record: Optional[Record] = None
        self.parked: Dict[Tuple[str, str], Parked] = {}
        self.requests: Dict[str, Request] = {}
        self.answers: Dict[str, Answer] = {}
        self.jobs: Dict[str, Mapping[str, Any]] = {}

    def delete_index(self, index: str) -> None:
        """What somebody does by hand: every generation is gone, the marks stay."""
        with self.lock:
            held = self.indexes[index]
            held.read = held.shown = held.building = None
            held.kept = []

    @property
    def position(self) -> int:
        return self.record.confirmed if self.record is not None else 0

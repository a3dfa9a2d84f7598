"""One logical index: the generations it has now, and what is stored about them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.meta import Json
from flusso_sync.sinks.opensearch.bulk import Target
from flusso_sync.sinks.opensearch.names import Generation


class Built(NamedTuple):
    """A generation that exists."""

    generation: Generation
    target: Target
    uuid: str

    @property
    def concrete(self) -> str:
        return self.target.concrete


@dataclass
class Index:
    """One logical index.  ``lock`` is held while generations change; writers read ``live`` and ``build`` without."""

    plan: IndexPlan
    hash: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    read: Optional[Built] = None
    building: Optional[Built] = None
    #: The one being built was made by ``ensure`` and no build has claimed it.
    unclaimed: bool = False
    seeded: bool = False
    skipped: bool = False
    #: The aliases are being moved to ``read``.
    switching: bool = False
    #: Indexes that were read before, the last one first, and are kept; each stands still.
    former: Tuple[str, ...] = ()
    #: The former one that a rollback has chosen, until readers have it.
    going_back: Optional[Generation] = None
    #: Former index -> everything up to this position is in it.
    frozen: Dict[str, int] = field(default_factory=dict)
    #: What ``ensure`` found stored of an unfinished build that can be gone on with.
    progress: Optional[Mapping[str, Any]] = None
    #: The highest number a generation ever had, of any hash.
    last: int = 0
    live: Tuple[Target, ...] = ()

    @property
    def name(self) -> str:
        return self.plan.name

    def publish(self) -> None:
        """Let writers see which generations there are."""
        self.live = tuple(one.target for one in (self.read, self.building) if one is not None)

    def build_of(self, generation: Optional[int]) -> Tuple[Target, ...]:
        """Where writes of a build go: nowhere once another generation is built, or none."""
        building = self.building
        if building is None or generation not in (None, building.generation.number):
            return ()
        return (building.target,)

    def current(self, target: Target) -> bool:
        return any(one is not None and one.target == target for one in (self.read, self.building))

    def document(self) -> Json:
        """What is stored of it."""
        read = self.read
        return {
            "index": self.name,
            "hash": self.hash if read is None else read.generation.hash,
            "generation": str(read.generation.number) if read is not None else None,
            "uuid": read.uuid if read is not None else None,
            "seeded": self.seeded,
            "skipped": self.skipped,
            "switching": self.switching,
            "former": list(self.former),
            "frozen": {name: str(lsn) for name, lsn in self.frozen.items()},
            "last": str(self.last),
        }

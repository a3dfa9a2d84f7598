"""The sink protocol: where documents go.

A sink carries out single requests; it owns no queue, no retry and no thread.  Order, lanes, waiting,
halving and the judgement of policies are the writer's (``engine/writer.py``), the same for every sink.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Dict, List, NamedTuple, Optional, Protocol, Sequence

from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.schema.plan import IndexPlan


class Write:
    """One document operation: ``body`` is finished JSON bytes, None deletes.

    ``version`` orders writes of one id (larger or equal wins; 0: the sink decides by order alone).
    ``build`` marks a write that goes only to the generation being built; a live write goes to every
    generation that is kept current.
    """

    __slots__ = ("index", "id", "body", "version", "build", "lsn", "state", "tokens", "tries", "doubt")

    def __init__(
        self, index: str, id: str, body: Optional[bytes], version: int = 0, build: bool = False, lsn: int = 0
    ) -> None:
        self.index = index
        self.id = id
        self.body = body
        self.version = version
        self.build = build
        self.lsn = lsn
        # The four below belong to the writer.
        self.state = 0
        self.tokens: List[object] = []
        self.tries = 0
        self.doubt = False

    def __repr__(self) -> str:
        what = "delete" if self.body is None else f"{len(self.body)} bytes"
        return f"<Write {self.index}/{self.id} {what} v{self.version}{' build' if self.build else ''}>"


class FailureKind(enum.Enum):
    RETRY = "retry"  #: not now (429, 503, block): the same write again later
    REJECTED = "rejected"  #: never: the document itself is refused
    CONFLICT = "conflict"  #: the sink holds a newer version


class Failure(NamedTuple):
    """Why one write of a request did not happen; ``position`` counts into the request's writes."""

    position: int
    kind: FailureKind
    reason: str
    status: int = 0
    retry_after_seconds: Optional[float] = None


@dataclass(frozen=True)
class Rejected:
    """A document parked in the quarantine."""

    index: str
    id: str
    reason: str
    lsn: int
    delete: bool = False


@dataclass(frozen=True)
class IndexReport:
    """How ``ensure`` found an index.  ``seeded``: complete and readable, no build needed."""

    index: str
    seeded: bool
    generation: int = 0
    detail: str = ""


@dataclass
class SinkReport:
    """Facts for ``/status`` and the log."""

    name: str
    kind: str
    version: str = ""
    facts: Dict[str, str] = field(default_factory=dict)


class Sink(Protocol):
    """Called by: the daemon (``open`` .. ``ensure``, ``close``), writer threads (``write``, concurrently),
    build threads (``begin_build``, ``complete_build``), the confirm thread (``write_record``), the watch
    thread (``renew``, ``watch``).  Every method may raise ``SinkUnavailable`` (or a subclass): the caller waits
    and calls again.
    """

    name: str
    #: Holds an owner, a lease, the record and seeded marks.  Stateless sinks have no vote.
    stateful: bool
    #: Requests that may be in flight at once.
    concurrency: int
    #: Most writes, and most body bytes, of one ``write`` call.
    max_actions: int
    max_bytes: int

    def open(self, identity: SourceIdentity, *, adopt: bool = False) -> None:
        """Reach the sink, check its version, take ownership and the lease.

        Raises ``OwnerConflict`` for a foreign owner; for a live lease of the same owner raises
        ``SinkUnavailable`` naming the holder, so that the caller waits.
        """

    def read_record(self) -> Optional[Record]:
        """What ``write_record`` stored last; None when never."""

    def write_record(self, record: Record) -> None: ...

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        """Make sure each index can be written; says which must be built."""

    def begin_build(self, index: str) -> int:
        """Create the next generation beside the one that is read; from now on live writes go to both.

        Returns its number.  An unfinished generation left by an earlier run is removed.
        """

    def refresh(self, indexes: Sequence[str]) -> None:
        """Make everything written to the readable generations of ``indexes`` found by search now.

        Called when no more writes are on their way; a sink whose writes are seen at once does nothing.
        """

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        """Carry out one request.  Writes not named in the answer are durable.

        Raises ``PayloadTooLarge`` (the writer halves), ``SinkUnavailable`` and subclasses (the writer waits and
        sends again), ``IndexMissing`` (the index must be rebuilt), other ``SinkError`` (fatal).
        """

    def complete_build(self, index: str) -> None:
        """The generation being built is complete and durable: refresh, restore settings, switch the
        aliases in one request, mark seeded, remove what is no longer kept.  Safe to repeat."""

    def quarantine(self, documents: Sequence[Rejected]) -> None:
        """Store rejected documents durably, replacing older entries of the same ids."""

    def release(self, index: str, ids: Sequence[str]) -> None:
        """Forget quarantined ids (they were written, or their row is gone)."""

    def quarantined(self) -> Dict[str, List[str]]:
        """Index -> ids in quarantine."""

    def renew(self) -> None:
        """Renew the lease; raises ``OwnerConflict`` when it was lost."""

    def watch(self) -> List[str]:
        """Check that indexes are still ours; returns logical names that must be rebuilt."""

    def report(self) -> SinkReport: ...

    def close(self) -> None:
        """Give the lease back and close connections; safe to call twice."""

"""What the engine asks of a source: two protocols and the values that pass between them.

The engine knows no Postgres.  A change is opaque to it: it counts changes, keeps their order and hands
them back to the source that made them.  A third party's ``Backends`` implements these protocols without
psycopg being importable.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Callable,
    ContextManager,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
)

from flusso_sync.errors import FlussoError
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.status import Status

#: A root row's key as the stream and the tables both print it: one text per key column.
Key = Tuple[str, ...]


class ChangeRun(NamedTuple):
    """Changes of one transaction, in order; a large transaction arrives in several runs.

    ``commit`` is the position (LSN) that may be confirmed once this run and all before it are durable;
    None while its transaction goes on.  A run without changes carries an idle position.  ``transaction`` is
    the source's transaction id (Postgres: 32-bit xid), None when there is none.
    """

    changes: Sequence[Any]
    commit: Optional[int] = None
    transaction: Optional[int] = None


class Document(NamedTuple):
    """One document to write: finished JSON bytes, None for a delete, or ``error``: why it cannot be built."""

    id: str
    body: Optional[bytes]
    error: Optional[str] = None


@dataclass(frozen=True)
class Chunk:
    """A stretch of root rows: their document ids, the source's own note of where it lies, and how many rows it has.

    ``upper`` is the mark of its end, a JSON value that names the place in the source's order for good.
    """

    index: str
    ids: Sequence[str]
    place: Any
    rows: int
    upper: Any


@dataclass(frozen=True)
class SourceIdentity:
    """Who the source is: whatever must be the same for positions and versions to be comparable."""

    system_identifier: str
    database: str
    slot: str
    address: str
    timeline: int = 0


@dataclass(frozen=True)
class Record:
    """What the sinks remember of the source: written before the feedback that confirms the position.

    ``coverage`` is the source's own note, by table, of how completely its changes are told.  ``shapes`` says, by index,
    of what its documents were made up to this position, and ``drifted`` in place of that of one that stands still; see
    ``Drift``, which compares it at the next start.  ``timeline`` and ``address`` are those of the source that told
    the position.
    """

    confirmed: int
    version: int = 0
    timeline: int = 0
    slot: str = ""
    address: str = ""
    coverage: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, str] = field(default_factory=dict)


def furthest_record(records: Sequence[Record]) -> Optional[Record]:
    """What several sinks remember, as one: the sink that is furthest behind decides what must be streamed again."""
    if not records:
        return None
    record = min(records, key=lambda one: one.confirmed)
    return record if len(records) == 1 else replace(record, version=max(one.version for one in records))


@dataclass(frozen=True)
class Prepared:
    """The source is ready to stream from ``position``.

    ``gap``: a sentence when changes between the record and now are lost (every index must be rebuilt).
    ``rebuild``: indexes that must be rebuilt for a smaller reason, with that reason.
    ``coverage``: what every record from now on says (see ``Record``).
    """

    position: int
    gap: Optional[str] = None
    rebuild: Mapping[str, str] = field(default_factory=dict)
    coverage: Mapping[str, str] = field(default_factory=dict)


class Emit(Protocol):
    """Puts a run into the queue; False when there was no space for ``timeout`` seconds, or the daemon stops.

    None waits for ever: fine for a source that owes nobody a sign of life while it waits.
    """

    def __call__(self, run: ChangeRun, timeout: Optional[float] = None) -> bool: ...


@dataclass(frozen=True)
class Spread:
    """Changed values that show in too many documents of ``index`` to list them: ``path`` is the source's name for how
    they show, the same over restarts; ``label`` says it to people, without row data.
    """

    index: str
    path: str
    label: str
    values: Sequence[Sequence[Optional[str]]]


class Spreading(NamedTuple):
    """A document that shows spread values: the key to build it by, its id, and its place (a JSON value) among them."""

    key: Any
    id: str
    mark: Any


class Resolution(NamedTuple):
    """What a batch of changes touches.

    ``keys``: index -> distinct keys of every document that shows a changed row, before or after.
    ``rebuild``: index -> reason, for changes whose documents cannot be listed (TRUNCATE).
    ``spread``: what shows in so many documents that they are listed later, bit by bit.
    """

    keys: Mapping[str, List[Any]]
    rebuild: Mapping[str, str]
    spread: Sequence[Spread] = ()


class Capture(Protocol):
    """The change stream.  The daemon calls ``report_to`` .. ``prepare`` in this order, the capture thread calls
    ``stream``; ``confirm``, ``lag`` and ``watch`` may be called from any thread.

    Subclass it to inherit what a simple source need not care about.
    """

    def report_to(self, status: Status, heartbeat: Callable[[], None]) -> None:
        """Where trouble and facts go; ``heartbeat`` is called while the source waits for something."""
        return

    def connect(self, stop: threading.Event) -> SourceIdentity:
        """Reach the source and say who it is.  A transient error makes the daemon call again."""
        raise NotImplementedError

    def leave_out(self, indexes: Sequence[str]) -> None:
        """Called before ``prepare``: these indexes do not fit their tables now, so nothing is owed to them."""
        return

    def prepare(self, record: Optional[Record], stop: threading.Event) -> Prepared:
        """Order of birth: identities, publication, slot.  Nothing committed afterwards is missed."""
        return Prepared(0)

    def stream(self, emit: Emit, stop: threading.Event) -> None:
        """Emit runs in commit order until ``stop`` is set or a finite source ends (then return)."""
        raise NotImplementedError

    def confirm(self, position: int) -> None:
        """Everything up to ``position`` is durable and recorded; never blocks."""

    def lag(self) -> Optional[int]:
        """Bytes between the source's write position and the confirmed one; None when unknown."""
        return None

    def position(self) -> int:
        """The end of what was committed so far, as ``synced`` takes it; asks the source, from any thread."""
        return 0

    def commit_position(self, position: int) -> int:
        """The position of the last commit that ``position`` can mean; the same, unless the source counts otherwise."""
        return position

    def heard(self) -> Optional[int]:
        """What was last told of the write position: while it stays, nothing was written, nor altered.

        Asks nobody; None when unknown.
        """
        return None

    def behind(self) -> Optional[int]:
        """Bytes between what the stream last told of the write position and the confirmed one; asks nobody."""
        return None

    def relieve(self) -> None:
        """Called while a sink is waited for at the start: let the source keep no more for us than it may."""
        return

    def watch(self) -> Mapping[str, str]:
        """Look after what the source must keep; index -> reason for each index to be rebuilt."""
        return {}

    def close(self) -> None:
        """Tell the source the last confirmed position and release every connection; safe to call twice."""
        return


class Snapshot(Protocol):
    """One consistent view.  ``version`` never decreases from one snapshot to a later one."""

    version: int

    def resolve(self, runs: Sequence[ChangeRun]) -> Resolution:
        """Trace changes back to the documents that show them."""
        raise NotImplementedError

    def build(self, index: str, keys: Sequence[Any]) -> Tuple[List[Document], Sequence[Any]]:
        """The documents of the first of ``keys``, bounded in bytes, and the keys left for a later snapshot.

        A key without a row gives a delete.  At least one key is worked off by each call.
        """
        raise NotImplementedError

    def build_chunk(self, chunk: Chunk) -> Tuple[List[Document], Sequence[Any]]:
        """The same for a chunk; rows that are no documents are simply absent."""
        raise NotImplementedError


class Documents(Protocol):
    """Reads documents.  Each calling thread has its own connection; ``close`` ends them all."""

    def report_to(self, status: Status) -> None:
        """Where trouble goes."""
        return

    def open(self, plans: Sequence[IndexPlan], stop: threading.Event) -> None:
        """Connect and check the plans against the catalog.  A transient error makes the daemon call again.

        A plan that does not fit its tables is no error here: ``unreadable`` names it.
        """
        raise NotImplementedError

    def unreadable(self) -> Mapping[str, FlussoError]:
        """After ``open``: index -> why it cannot be read as its tables are now.  It is asked for nothing else."""
        return {}

    def shape(self, index: str) -> str:
        """A digest of what the documents of ``index`` are made of; what was written under another one may be wrong."""
        return ""

    def is_still(self, index: str, former: str) -> bool:
        """Whether what was written when ``shape`` was ``former`` is right as far as that goes."""
        return former == self.shape(index)

    def watch(self) -> None:
        """Look at the tables every few seconds, changes or not.

        Raises ``SchemaDrift`` naming the indexes (``changed``) that are made of something else now, or that can be read
        again.
        """
        return

    def snapshot(self, runs: Sequence[ChangeRun], stop: threading.Event) -> ContextManager[Snapshot]:
        """A snapshot in which every transaction of ``runs`` is visible; waits for that."""
        raise NotImplementedError

    def estimate(self, index: str) -> Optional[int]:
        """About how many root rows there are, without reading them."""
        return None

    def next_chunk(self, index: str, after: Any, until: Any, rows: int) -> Optional[Chunk]:
        """The chunk of at most about ``rows`` root rows behind the mark ``after`` (None: the first), up to the mark
        ``until`` (None: as far as it goes); None when there are no rows in between.

        Its ids are read when it is asked for.  A chunk may hold no document at all.
        """
        raise NotImplementedError

    def order(self, index: str) -> str:
        """What the marks of ``index`` mean; marks of another order are worthless."""
        return ""

    def keys_of(self, index: str, ids: Sequence[str]) -> Mapping[str, Any]:
        """Id -> key, to be built by, of documents known by their ids alone; ids that can be nobody's are absent."""
        return {id: id for id in ids}

    def spread(
        self, index: str, path: str, values: Sequence[Sequence[Optional[str]]], after: Any, most: int
    ) -> Optional[Sequence[Spreading]]:
        """The next ``most`` documents that show ``values`` of a ``Spread``, behind the mark ``after`` (None: from the
        first), in an order that only has to stay the same; None when they cannot be listed in time, or the path is not
        known any more.
        """
        return None

    def count_spread(self, index: str, path: str, values: Sequence[Sequence[Optional[str]]]) -> Optional[int]:
        """How many documents show ``values``; None when nobody knows."""
        return None

    def existing(self, index: str, ids: Sequence[str]) -> Set[str]:
        """Those of ``ids`` that are documents now; one whose row cannot be judged counts as one."""
        left: Sequence[Any] = list(self.keys_of(index, ids).values())
        found: Set[str] = set()
        while left:
            with self.snapshot((), threading.Event()) as snapshot:
                documents, left = snapshot.build(index, left)
            found.update(document.id for document in documents if document.body is not None or document.error)
        return found.intersection(ids)

    def position(self) -> Optional[int]:
        """A position of the stream behind which lies whatever a snapshot saw before now; None when nobody can tell."""
        return None

    def advance(self) -> None:
        """Give the next snapshot a higher version than any before it, where the source can do so.

        Somebody who writes into a sink by hand raises the version of a document beyond that of its row.
        """
        return

    def cancel(self) -> None:
        """End whatever statement is running, from another thread: the daemon stops."""
        return

    def close(self) -> None:
        """Release every connection; safe to call twice."""
        return


@dataclass
class SourceParts:
    """What ``Backends.source`` returns."""

    capture: Capture
    documents: Documents

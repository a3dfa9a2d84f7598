"""The sink protocol: where documents go.

A sink carries out single requests; it owns no queue, no retry and no thread.  Order, lanes, waiting,
halving and the judgement of policies are the writer's (``engine/writer.py``), the same for every sink.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Tuple, Union

from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.errors import DocumentRejected, SinkRefused
from flusso_sync.findings import Finding
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.status import format_lsn

#: Clocks of two hosts that work may differ by so much.
CLOCK_DOUBT_SECONDS = 60.0


class Write:
    """One document operation: ``body`` is finished JSON bytes, None deletes.

    ``version`` orders writes of one id (larger or equal wins; 0: the sink decides by order alone).
    ``build`` marks a write that goes only to the generation being built, and only while that is ``generation`` (None:
    whichever it is); a live write goes to every generation that is kept current.
    """

    __slots__ = (
        "index",
        "id",
        "body",
        "version",
        "build",
        "lsn",
        "generation",
        "patient",
        "order",
        "state",
        "tokens",
        "tries",
        "doubt",
    )

    def __init__(
        self,
        index: str,
        id: str,
        body: Optional[bytes],
        version: int = 0,
        build: bool = False,
        lsn: int = 0,
        generation: Optional[int] = None,
    ) -> None:
        self.index = index
        self.id = id
        self.body = body
        self.version = version
        self.build = build
        self.lsn = lsn
        self.generation = generation
        #: Live writes go before it: a build, or a change that shows in very many documents.
        self.patient = build
        # The five below belong to the writer.
        self.order = 0
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
    """How ``ensure`` found an index.

    ``seeded``: complete and kept current, no build needed.  ``readable``: readers find a complete generation, if an old
    one.  ``progress``: what ``save_progress`` stored last of an unfinished build that ``resume_build`` can go on with.
    """

    index: str
    seeded: bool
    generation: int = 0
    readable: bool = False
    progress: Optional[Mapping[str, Any]] = None


@dataclass(frozen=True)
class Parked:
    """A document in quarantine; times are UTC in ISO form, ``tries`` counts how often it was refused."""

    index: str
    id: str
    reason: str
    lsn: int
    first: str = ""
    last: str = ""
    tries: int = 1
    delete: bool = False

    def to_json(self) -> Dict[str, Any]:
        """As it is listed; the position as text, which no JSON reader rounds."""
        return {**asdict(self), "lsn": format_lsn(self.lsn)}


def park(before: Optional[Parked], document: Rejected) -> Parked:
    """The entry of a document that was refused now, and perhaps ``before``."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Parked(
        document.index,
        document.id,
        document.reason,
        document.lsn,
        first=now if before is None else before.first,
        last=now,
        tries=1 if before is None else before.tries + 1,
        delete=document.delete,
    )


def quarantine_full(limit: int, document: Rejected) -> DocumentRejected:
    """The error of ``Sink.quarantine`` when ``limit`` documents are parked and ``document`` is one more."""
    index = document.index
    return DocumentRejected(
        f"the quarantine of index {index} holds its limit of {limit} documents; the next would be {document.id!r}: "
        f"{document.reason}",
        hint=f"See them with `flussod quarantine list {index}`; mend what refuses them, or raise quarantine.limit, and "
        f"start again: what is parked is read again first, as `flussod quarantine retry {index}` does in between",
        index=index,
    )


@dataclass(frozen=True)
class GenerationReport:
    """One generation of an index.

    ``state``: ``read``, ``building``, ``kept`` or ``rolled back to``.  ``documents``: None when it cannot be counted.
    ``frozen_lsn``: a generation that gets no more changes shows everything up to there; None while it gets them.
    """

    number: int
    state: str
    name: str
    documents: Optional[int] = None
    frozen_lsn: Optional[int] = None

    def to_json(self) -> Dict[str, Any]:
        """As it is listed; the position as text."""
        return {**asdict(self), "frozen_lsn": None if self.frozen_lsn is None else format_lsn(self.frozen_lsn)}


class RolledBack(NamedTuple):
    """The numbers of the generations that are read and built after a rollback."""

    read: int
    building: int


@dataclass(frozen=True)
class Request:
    """What somebody asks of the running daemon.

    ``command`` is ``reindex``, ``rollback``, ``retry`` (of parked documents, all of the index or ``ids`` alone) or
    ``repair`` (of ``ids``, whatever the sink holds under them).  ``at`` is the asker's UTC in ISO form, and
    ``lasts_seconds`` says for how long from then on the request stands; None: for ever.
    """

    id: str
    command: str
    index: str
    ids: Tuple[str, ...] = ()
    at: str = ""
    lasts_seconds: Optional[float] = None

    def overdue(self, now: datetime) -> bool:
        """Whether it stood for longer than it was to, and for longer than clocks of two hosts differ."""
        if self.lasts_seconds is None or not self.at:
            return False
        asked = datetime.strptime(self.at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        return (now - asked).total_seconds() > self.lasts_seconds + CLOCK_DOUBT_SECONDS


@dataclass(frozen=True)
class Answer:
    """``accepted`` false: it was refused, and ``text`` says why."""

    accepted: bool
    text: str


class Found(NamedTuple):
    """A document that readers find, parsed by :func:`exact`; ``version`` is that of its write, 0 where none is kept."""

    document: Any
    version: int = 0


def exact(data: Union[str, bytes]) -> Any:
    """JSON with every digit of every number kept."""
    return json.loads(data, parse_float=Decimal, parse_int=_whole)


def _whole(digits: str) -> Union[int, Decimal]:
    # Python refuses to read an int of more than 4300 digits; a numeric may have 131,072.
    return int(digits) if len(digits) <= 4000 else Decimal(digits)


def exact_text(value: Any, indent: int = 0, depth: int = 1) -> str:
    """What :func:`exact` parsed, as JSON: compact, or indented by ``indent`` blanks a level; keys as they come."""
    if isinstance(value, Decimal):
        return str(value)
    if not isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    brackets = "{}" if isinstance(value, dict) else "[]"
    colon = ": " if indent else ":"
    parts = (
        [json.dumps(key, ensure_ascii=False) + colon + exact_text(one, indent, depth + 1) for key, one in value.items()]
        if isinstance(value, dict)
        else [exact_text(one, indent, depth + 1) for one in value]
    )
    if not indent or not parts:
        return brackets[0] + ",".join(parts) + brackets[1]
    line = "\n" + " " * (indent * depth)
    return brackets[0] + line + f",{line}".join(parts) + line[:-indent] + brackets[1]


class Sink(Protocol):
    """Called by: the daemon (``open`` .. ``ensure``, ``close``), writer threads (``write``, concurrently),
    build threads (``begin_build``, ``complete_build``), the confirm thread (``write_record``), the watch
    thread (``renew``, ``watch``).  Every method may raise ``SinkUnavailable`` (or a subclass): the caller waits
    and calls again.
    """

    #: The same as in what ``Backends.sinks`` returns.
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

    def resume_build(self, index: str) -> int:
        """Go on with the unfinished generation whose ``progress`` the last ``ensure`` reported; returns its number.

        Called instead of ``begin_build``, and only for such an index.
        """
        raise SinkRefused(f"sink {self.name} keeps no unfinished build of index {index}", index=index)

    def save_progress(self, index: str, progress: Mapping[str, Any]) -> None:
        """Store durably how far the generation being built is, replacing what was stored; a JSON object.

        A sink that does not keep it has its builds begun anew after a restart.
        """
        return

    def refresh(self, indexes: Sequence[str]) -> None:
        """Make everything written to the readable generations of ``indexes`` found by search now.

        Called when no more writes are on their way; a sink whose writes are seen at once does nothing.
        """
        return

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

    # What follows has a default that fits a sink without memory.

    def forgotten(self) -> Sequence[str]:
        """Indexes of which the sink, since this was asked last, may have forgotten the versions of what was deleted.

        An older write that arrives late would bring such a document back, so what was deleted lately is read again.
        Asked by the watch thread, after ``watch``.
        """
        return ()

    def rollback(self, index: str) -> RolledBack:
        """Let readers have the newest kept generation older than theirs, at once, and begin a build beside it.

        The generation that is read from now on stands still; the one that was read until now is kept until the build is
        complete.  Raises ``SinkRefused``, and changes nothing, when no older generation is kept.
        """
        raise SinkRefused(f"sink {self.name} keeps no former generation of index {index}", index=index)

    def generations(self) -> Mapping[str, Sequence[GenerationReport]]:
        """Index -> its generations, newest first, for people; needs neither ``open`` nor a lease."""
        return {}

    def parked(self, index: Optional[str] = None) -> Iterator[Parked]:
        """Everything in quarantine, for people; needs neither ``open`` nor a lease."""
        return iter(())

    def post(self, request: Request) -> None:
        """Leave a request for the daemon that holds the lease; needs neither ``open`` nor a lease.

        Raises ``SinkRefused`` where a sink has no place for that.
        """
        raise SinkRefused(f"sink {self.name} has no place to leave requests in")

    def holder(self) -> Optional[str]:
        """The process that holds the lease now, for people; None when none does, as far as can be known.

        Needs neither ``open`` nor a lease.
        """
        return None

    def requests(self) -> Sequence[Request]:
        """Requests that nobody has answered yet, oldest first."""
        return ()

    def answer(self, id: str, answer: Answer) -> None:
        """Answer a request; the answer is kept for its asker for a while."""
        return

    def answer_to(self, id: str) -> Optional[Answer]:
        """The answer to a request, None while there is none; needs neither ``open`` nor a lease."""
        return None

    def write_job(self, id: str, job: Optional[Mapping[str, Any]]) -> None:
        """Store durably, or with None forget, a change that is being worked off; a JSON object.

        Only a sink that is ``stateful`` is asked to.
        """
        return

    def jobs(self) -> Mapping[str, Mapping[str, Any]]:
        """Id -> job, of all that ``write_job`` stored and that were not forgotten."""
        return {}

    def inspect(self, plans: Sequence[IndexPlan], identity: Optional[SourceIdentity]) -> List[Finding]:
        """What a run for ``plans`` would be refused for or wait for here, without changing anything.

        ``identity``: the source the run would have, where it is known.  Needs neither ``open`` nor a lease.
        """
        return []

    # What follows reads documents, for people, tests and the verifier; it needs neither ``open`` nor a lease.

    def get(self, index: str, id: str) -> Optional[bytes]:
        """The document that readers find under ``id``."""
        raise SinkRefused(f"sink {self.name} cannot be read")

    def count(self, index: str) -> int:
        """How many documents readers find."""
        raise SinkRefused(f"sink {self.name} cannot be read")

    def search(self, index: str, words: str, limit: int = 10) -> List[Tuple[str, Any]]:
        """The best matches for plain words over all fields: (id, parsed document)."""
        raise SinkRefused(f"sink {self.name} cannot be read")

    def scan(self, index: str) -> Iterator[Tuple[str, Any]]:
        """Every document that readers find, as of now: (id, parsed document, numbers with all their digits)."""
        raise SinkRefused(f"sink {self.name} cannot be read")

    def get_many(self, index: str, ids: Sequence[str]) -> Dict[str, Found]:
        """The documents that readers find under ``ids``, whatever is written already, refreshed or not.

        Raises ``SinkRefused`` where readers find no index at all.
        """
        bodies = {id: self.get(index, id) for id in ids}
        return {id: Found(exact(body)) for id, body in bodies.items() if body is not None}

    def scan_ids(self, index: str, size: int = 1000) -> Iterator[List[str]]:
        """The ids of every document that readers find, as of now, ``size`` at a time and in no order.

        Raises ``SinkUnavailable`` when it cannot go on: the next scan begins anew.
        """
        page: List[str] = []
        for id, _ in self.scan(index):
            page.append(id)
            if len(page) == size:
                yield page
                page = []
        if page:
            yield page

    def close(self) -> None:
        """Give the lease back and close connections; safe to call twice."""

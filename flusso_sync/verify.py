"""The proof: what readers find in a sink, compared with the rows, while both change.

Two walks over an index.  The first goes through the rows in key order, chunk by chunk, each built in one short
snapshot as the daemon builds it, and reads the same ids from the sink: what is missing or different.  The second goes
through the ids of the sink, a page at a time, and asks which of them have a row: what is there in vain.  Neither holds
more than a chunk or a page, so memory does not depend on the index.

Whatever differs at first sight is only suspected.  A suspect is read from the sink, built from its rows, and read from
the sink again once the daemon has made durable everything that could be seen in the rows.  If the sink holds the same
write before and after, that write should show what the rows said in between: it differs, or it does not, and nothing on
its way has a part in it.  A document that was written meanwhile is looked at again.

Reads only; needs neither the slot nor a lease.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, TypeVar

from flusso_sync.backoff import wait_out
from flusso_sync.engine.source import Chunk, Document, Documents
from flusso_sync.errors import SinkUnavailable
from flusso_sync.sinks.base import Answer, Found, Sink, exact
from flusso_sync.status import Status

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Root rows of a chunk when chunks are drawn by lot: a small table must have some, too.
SAMPLE_ROWS = 500

#: Ids of one page of the second walk.
PAGE_IDS = 1000

#: Suspects looked at together: as many, or as many bytes of documents.
MOST_SUSPECTS = 500
SUSPECT_BYTES = 16 * 1024 * 1024

#: Looks at a suspect that is written all the time, before it is left open.
MOST_LOOKS = 12

#: Looks at which a document without a version, or one that is not there at all, must be the same: it may have been
#: deleted and written in between.
SAME_LOOKS = 4

#: Between two looks at how far the daemon is, and at whether there is one.
RECORD_SECONDS = 0.1
HOLDER_SECONDS = 1.0

#: Differences of an index that are described one by one; the others are counted.
MOST_LISTED = 10_000

#: Characters of a value that is shown.
SHOWN = 200

#: A walk through ids that was cut off, by a new generation for example, is begun this often.
MOST_WALKS = 5

ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """``kind``: ``missing``, ``extra`` or ``different``; of the last, the first path at which rows and index part, and
    both values there, shortened; None where there is no such key."""

    id: str
    kind: str
    path: str = ""
    expected: Optional[str] = None
    found: Optional[str] = None
    repaired: bool = False


@dataclass
class Result:
    """What was seen of one index in one sink.

    ``rows`` and ``ids`` count what was walked through, ``compared`` the documents built from rows.  ``parked``: they
    differ and stand in the quarantine; ``rejected``: their rows make no document that could be written; ``unsettled``:
    they were written at every look.  None of these is a difference.  ``settled`` false: it could not be waited for what
    was on its way, so it may be among the differences.
    """

    index: str
    sink: str
    rows: int = 0
    compared: int = 0
    ids: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    repaired: int = 0
    parked: int = 0
    rejected: int = 0
    unsettled: int = 0
    settled: bool = True
    sample_percent: Optional[float] = None
    seconds: float = 0.0
    notes: List[str] = field(default_factory=list)
    differences: List[Difference] = field(default_factory=list)

    @property
    def found(self) -> int:
        return self.missing + self.extra + self.different

    @property
    def left(self) -> int:
        """Differences that are still there."""
        return self.found - self.repaired

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def to_json(self) -> Dict[str, Any]:
        return {
            "index": self.index,
            "sink": self.sink,
            "rows": self.rows,
            "compared": self.compared,
            "ids": self.ids,
            "missing": self.missing,
            "extra": self.extra,
            "different": self.different,
            "repaired": self.repaired,
            "left": self.left,
            "parked": self.parked,
            "rejected": self.rejected,
            "unsettled": self.unsettled,
            "settled": self.settled,
            "sample_percent": self.sample_percent,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "listed": len(self.differences),
            "differences": [vars(difference) for difference in self.differences],
        }


@dataclass(frozen=True)
class Options:
    """``wait_seconds``: how long the daemon may take until it has caught up with what was seen.  ``sample_percent``:
    of chunks and pages, drawn by lot; None: all."""

    chunk_rows: int = 5000
    max_rows_per_second: Optional[float] = None
    sample_percent: Optional[float] = None
    wait_seconds: float = 60.0


#: Has ids of an index written anew by the running daemon; waits for the answer.
Repair = Callable[[str, Sequence[str]], Answer]

#: Told now and then: rows and ids seen so far, about how many there are, differences so far.
Progress = Callable[[int, Optional[int], int], None]


class Throttle:
    """Lets ``per_second`` things pass in each second, by waiting after them; None: any number."""

    def __init__(self, per_second: Optional[float], stop: threading.Event) -> None:
        self._per_second = per_second
        self._stop = stop
        self._due = time.monotonic()

    def passed(self, count: int) -> None:
        if self._per_second is None:
            return
        now = time.monotonic()
        # What was slower than allowed is not made up for.
        self._due = max(self._due, now) + count / self._per_second
        self._stop.wait(self._due - now)


class Verifier:
    """Compares indexes of one sink, whose record tells how far the daemon is; ``documents`` is open."""

    def __init__(
        self,
        documents: Documents,
        sink: Sink,
        options: Options,
        *,
        repair: Optional[Repair] = None,
        progress: Progress = lambda done, total, found: None,
        stop: Optional[threading.Event] = None,
        status: Optional[Status] = None,
        lot: Optional[random.Random] = None,
    ) -> None:
        self._documents = documents
        self._sink = sink
        self._options = options
        self._repair = repair
        self._progress = progress
        self._stop = stop or threading.Event()
        self._status = status or Status()
        self._lot = lot or random.Random()
        rate = options.max_rows_per_second
        self._chunk_rows = options.chunk_rows if options.sample_percent is None else SAMPLE_ROWS
        self._page_ids = PAGE_IDS
        if rate is not None:
            # A chunk a second, so that the pauses are short and a scroll does not run out.
            self._chunk_rows = max(1, min(self._chunk_rows, int(rate)))
            self._page_ids = max(1, min(self._page_ids, int(rate)))
        self._throttle = Throttle(rate, self._stop)
        self._suspects: Dict[str, None] = {}
        self._suspect_bytes = 0
        self._total: Optional[int] = None
        self._caught_up = True
        self._result = Result("", sink.name)

    def verify(self, index: str) -> Result:
        """Compare ``index`` with its rows; blocks as long as that takes, and while a server is away."""
        started = time.monotonic()
        result = self._result = Result(index, self._sink.name, sample_percent=self._options.sample_percent)
        self._suspects, self._suspect_bytes, self._caught_up = {}, 0, True
        estimate = self._patiently(lambda: self._documents.estimate(index))
        count = self._patiently(lambda: self._sink.count(index))
        self._total = None if estimate is None else estimate + count
        self._note_generations()
        self._walk_rows()
        self._settle()
        self._walk_ids()
        if not result.settled:
            result.note("what was on its way could not be waited for, and may be among the differences")
        result.seconds = time.monotonic() - started
        return result

    def _note_generations(self) -> None:
        index = self._result.index
        for one in self._patiently(lambda: self._sink.generations()).get(index, ()):
            if one.state == "rolled back to":
                self._result.note(f"readers are on generation {one.number}, which was rolled back to and stands still")
            elif one.state == "building":
                self._result.note(f"generation {one.number} is being built; what readers find may be older until then")

    def _patiently(self, action: Callable[[], T]) -> T:
        # Whoever compares waits; changes flow meanwhile.
        what = f"verify of index {self._result.index}"
        return wait_out(action, self._stop, self._status, what, blocking=False)

    # -- rows -----------------------------------------------------------------------------------------

    def _walk_rows(self) -> None:
        index = self._result.index
        after: Any = None
        last: Optional[Chunk] = None
        drawn = False
        while True:
            chunk = self._patiently(lambda at=after: self._documents.next_chunk(index, at, None, self._chunk_rows))  # type: ignore[misc]
            if chunk is None:
                break
            after, last = chunk.upper, chunk
            self._result.rows += chunk.rows
            if self._is_drawn():
                drawn = True
                self._compare(chunk)
            self._tell()
            self._throttle.passed(chunk.rows)
        if last is not None and not drawn:
            # By bad luck none; a sample is one chunk at least.
            self._compare(last)

    def _is_drawn(self) -> bool:
        percent = self._options.sample_percent
        return percent is None or self._lot.uniform(0, 100) < percent

    def _compare(self, chunk: Chunk) -> None:
        """Compare one chunk: a short snapshot for as much of it as is built at once, and no transaction meanwhile."""
        unseen = set(chunk.ids)
        left: Sequence[Any] = ()
        first = True
        while first or left:
            if first:
                documents, left = self._patiently(lambda: self._build_chunk(chunk))
            else:
                documents, left = self._patiently(lambda keys=left: self._build(keys))  # type: ignore[misc]
            first = False
            unseen.difference_update(document.id for document in documents)
            self._compare_documents(documents)
        # Rows that went between two snapshots.
        for id in unseen:
            self._suspect(id)

    def _build_chunk(self, chunk: Chunk) -> Tuple[List[Document], Sequence[Any]]:
        with self._documents.snapshot((), self._stop) as snapshot:
            return snapshot.build_chunk(chunk)

    def _build(self, keys: Sequence[Any]) -> Tuple[List[Document], Sequence[Any]]:
        with self._documents.snapshot((), self._stop) as snapshot:
            return snapshot.build(self._result.index, keys)

    def _compare_documents(self, documents: Sequence[Document]) -> None:
        self._result.rejected += sum(document.error is not None for document in documents)
        built = [document for document in documents if document.error is None]
        found = self._get_many([document.id for document in built])
        self._result.compared += len(built)
        for document in built:
            if _parting(document.body, found.get(document.id)) is not None:
                self._suspect(document.id, len(document.body or b""))

    def _get_many(self, ids: Sequence[str]) -> Mapping[str, Found]:
        return self._patiently(lambda: self._sink.get_many(self._result.index, ids)) if ids else {}

    # -- ids ------------------------------------------------------------------------------------------

    def _walk_ids(self) -> None:
        result = self._result
        for walk in range(1, MOST_WALKS + 1):
            extra, listed = result.extra, len(result.differences)
            try:
                for page in self._pages():
                    result.ids += len(page)
                    existing = self._patiently(lambda ids=page: self._documents.existing(result.index, ids))  # type: ignore[misc]
                    for id in page:
                        if id not in existing:
                            self._suspect(id)
                    self._tell()
                    self._throttle.passed(len(page))
                self._settle()
                return
            except SinkUnavailable:
                if walk == MOST_WALKS:
                    raise
                log.info("index %s: the walk through its ids begins anew", result.index, extra={"index": result.index})
                self._patiently(lambda: self._sink.count(result.index))
                self._stop.wait(walk)
                self._suspects.clear()
                result.ids = 0
                if self._repair is None:
                    # They will be found again.
                    result.extra = extra
                    del result.differences[listed:]

    def _pages(self) -> Iterator[List[str]]:
        for page in self._sink.scan_ids(self._result.index, self._page_ids):
            if self._is_drawn():
                yield page

    # -- suspects -------------------------------------------------------------------------------------

    def _suspect(self, id: str, size: int = 0) -> None:
        self._suspects[id] = None
        self._suspect_bytes += size
        if len(self._suspects) >= MOST_SUSPECTS or self._suspect_bytes >= SUSPECT_BYTES:
            self._settle()

    def _settle(self) -> None:
        """Find out which suspects really differ, count them, and have them repaired if that is wished."""
        suspects = list(self._suspects)
        self._suspects, self._suspect_bytes = {}, 0
        differing = self._differing(suspects)
        if not differing:
            return
        parked = {one.id for one in self._patiently(lambda: list(self._sink.parked(self._result.index)))}
        self._result.parked += len(parked.intersection(differing))
        differing = {id: one for id, one in differing.items() if id not in parked}
        left: Set[str] = set(differing)
        if self._repair is not None and differing:
            answer = self._repair(self._result.index, sorted(differing))
            if not answer.accepted:
                self._result.note(f"the daemon did not repair: {answer.text}")
            left.intersection_update(self._differing(sorted(differing)))
        for id, one in differing.items():
            self._report(one, repaired=id not in left)

    def _report(self, one: Difference, repaired: bool) -> None:
        result = self._result
        result.missing += one.kind == "missing"
        result.extra += one.kind == "extra"
        result.different += one.kind == "different"
        result.repaired += repaired
        if len(result.differences) < MOST_LISTED:
            result.differences.append(Difference(one.id, one.kind, one.path, one.expected, one.found, repaired))
        self._tell()

    def _differing(self, suspects: Sequence[str]) -> Dict[str, Difference]:
        """Those of ``suspects`` that differ although nothing is on its way to them; see the module."""
        differing: Dict[str, Difference] = {}
        same = dict.fromkeys(suspects, 0)
        left = list(suspects)
        for _ in range(MOST_LOOKS):
            if not left:
                return differing
            before = self._get_many(left)
            built = self._built(left)
            settled = self._wait_until_durable()
            after = self._get_many(left)
            again: List[str] = []
            for id in left:
                document = built.get(id, Document(id, None))
                if document.error is not None:
                    continue
                first, second = before.get(id), after.get(id)
                parting = _parting(document.body, second)
                if parting is None or _parting(document.body, first) is None:
                    continue
                same[id] = same[id] + 1 if first == second else 0
                known = first is not None and first.version != 0
                if not settled or same[id] >= (1 if known else SAME_LOOKS):
                    differing[id] = _describe(id, parting)
                else:
                    again.append(id)
            left = again
        self._result.unsettled += len(left)
        return differing

    def _built(self, ids: Sequence[str]) -> Dict[str, Document]:
        """What the rows say of ``ids`` now; an id that no key gives is absent."""
        index = self._result.index
        keys: Sequence[Any] = list(self._patiently(lambda: self._documents.keys_of(index, ids)).values())
        built: Dict[str, Document] = {}
        while keys:
            documents, keys = self._patiently(lambda left=keys: self._build(left))  # type: ignore[misc]
            built.update((document.id, document) for document in documents)
        return built

    def _wait_until_durable(self) -> bool:
        """Wait until everything that could be seen by now is in the sink; False when that cannot be known."""
        if not self._catches_up():
            self._result.settled = False
            return False
        return True

    def _catches_up(self) -> bool:
        position = self._patiently(self._documents.position)
        if position is None or not self._sink.stateful:
            return False
        # Whoever was waited for in vain is not waited for at every suspect.
        deadline = time.monotonic() + (self._options.wait_seconds if self._caught_up else HOLDER_SECONDS)
        look_for_holder = 0.0
        passed = False
        jobs: Optional[Set[str]] = None
        while True:
            if not passed:
                record = self._patiently(self._sink.read_record)
                passed = record is not None and record.confirmed >= position
            if passed:
                # A change that shows in very many documents is durable as a job, and they are written later.
                at_work = self._jobs()
                jobs = at_work if jobs is None else jobs & at_work
                if not jobs:
                    self._caught_up = True
                    return True
            now = time.monotonic()
            if now >= look_for_holder:
                look_for_holder = now + HOLDER_SECONDS
                if self._patiently(self._sink.holder) is None:
                    self._result.note(f"no daemon runs for sink {self._sink.name}")
                    return False
            if now >= deadline or self._stop.wait(RECORD_SECONDS):
                self._caught_up = False
                seconds = self._options.wait_seconds
                self._result.note(f"the daemon did not catch up with what was seen within {seconds:g} s")
                return False

    def _jobs(self) -> Set[str]:
        """Changes of this index that are still being worked off, by id."""
        found = self._patiently(self._sink.jobs)
        return {id for id, job in found.items() if job.get("index") == self._result.index}

    def _tell(self) -> None:
        self._progress(self._result.rows + self._result.ids, self._total, self._result.found)


# -- comparing ------------------------------------------------------------------------------------------


def _parting(body: Optional[bytes], found: Optional[Found]) -> Optional[Tuple[str, Any, Any]]:
    """The first path at which they part, and both values there; None when they are the same."""
    expected = ABSENT if body is None else exact(body)
    return parting(expected, ABSENT if found is None else found.document)


def parting(expected: Any, found: Any) -> Optional[Tuple[str, Any, Any]]:
    """The first of ``partings``; None when the documents are the same."""
    return next(iter(partings(expected, found, 1)), None)


def partings(expected: Any, found: Any, most: Optional[int] = None) -> List[Tuple[str, Any, Any]]:
    """The first ``most`` paths (None: all) at which two parsed documents part, in the order of ``expected``, and both
    values there, ``ABSENT`` where there is none.

    Numbers are the same when their values are, to the last digit; the order of keys means nothing.
    """
    parted: List[Tuple[str, Any, Any]] = []
    _part(expected, found, "", parted, most)
    return parted


def _part(expected: Any, found: Any, path: str, parted: List[Tuple[str, Any, Any]], most: Optional[int]) -> None:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in _keys(expected, found):
            inside = f"{path}.{key}" if path else key
            _part(expected.get(key, ABSENT), found.get(key, ABSENT), inside, parted, most)
            if len(parted) == most:
                return
    elif isinstance(expected, list) and isinstance(found, list):
        for place in range(max(len(expected), len(found))):
            one = expected[place] if place < len(expected) else ABSENT
            other = found[place] if place < len(found) else ABSENT
            _part(one, other, f"{path}[{place}]", parted, most)
            if len(parted) == most:
                return
    elif _kind(expected) != _kind(found) or expected != found:
        parted.append((path, expected, found))


def _keys(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterable[str]:
    yield from expected
    yield from (key for key in found if key not in expected)


def _kind(value: Any) -> type:
    """Python's true equals 1; JSON's does not."""
    return Decimal if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else type(value)


def _describe(id: str, parted: Tuple[str, Any, Any]) -> Difference:
    path, expected, found = parted
    if path == "" and expected is ABSENT:
        return Difference(id, "extra")
    if path == "" and found is ABSENT:
        return Difference(id, "missing")
    return Difference(id, "different", path, shown(expected), shown(found))


def shown(value: Any) -> Optional[str]:
    """A value as short JSON text; None for what is not there."""
    if value is ABSENT:
        return None
    if isinstance(value, Decimal):
        text = str(value)
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"

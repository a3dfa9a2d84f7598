"""What sinks with a meta store have in common: an owner and its lease, the record, the quarantine, requests, jobs.

Such a sink tells the story of its generations and its writes; the rest is here, over small documents and nothing else.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Protocol, Sequence

from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.errors import FlussoError
from flusso_sync.findings import INFO, Finding, of_error
from flusso_sync.sinks.base import Answer, Parked, Rejected, Request, Sink
from flusso_sync.sinks.lease import Lease, same_owner
from flusso_sync.sinks.mailbox import Mailbox
from flusso_sync.sinks.meta import RECORD, Meta, MetaMissing, record_document, stored_record

log = logging.getLogger(__name__)

#: The lease is written this often, however often it is asked for.
RENEW_SECONDS = 10.0


class Quarantine(Protocol):
    """Where rejected documents are parked: what they were, why they were refused, and nothing of their content."""

    def park(self, documents: Sequence[Rejected]) -> None:
        """Store ``documents``; where an index's place is full, raises ``DocumentRejected`` once the rest is stored."""

    def release(self, index: str, ids: Sequence[str]) -> None: ...

    def ids(self) -> Dict[str, List[str]]: ...

    def entries(self, index: Optional[str] = None) -> Iterator[Parked]:
        """Everything parked, as the store has it."""


class StatefulSink(Sink):
    """A sink over a meta store; see the protocol for what each method promises.

    ``elsewhere`` says what another deployment should be given instead of this place.
    """

    stateful = True

    def __init__(self, name: str, meta: Meta, quarantine: Quarantine, *, elsewhere: str) -> None:
        self.name = name
        self._lease = Lease(meta, elsewhere=elsewhere)
        self._documents = meta
        self._parking = quarantine
        self._mailbox = Mailbox(meta)
        #: As it was read or written last.
        self._record: Optional[Record] = None
        #: Id -> text, as they were read or written last.
        self._jobs: Dict[str, str] = {}
        self._renewed_at = float("-inf")

    # -- owner and lease --------------------------------------------------------------------------------

    def _take_over(self, identity: SourceIdentity, *, adopt: bool) -> bool:
        """Take ownership and the lease; returns whether the meta store knew no owner.

        Raises as ``open`` does.
        """
        before = self._lease.take(identity, adopt=adopt)
        self._renewed_at = time.monotonic()
        if before is not None and not same_owner(before, identity):
            log.warning("sink %s: taken over from slot %s of %s", self.name, before.get("slot"), before.get("address"))
        if self._lease.starts_over:
            self._start_over()
            self._lease.started_over()
        self.read_record()
        return before is None

    def _start_over(self) -> None:
        """Forget what another source's history means: its positions, and that indexes are complete."""
        self._documents.delete(RECORD)
        for kind in ("build", "job"):
            for id, _ in list(self._documents.every(kind)):
                self._documents.delete(id)
        for id, index in list(self._documents.every("index")):
            self._documents.write(id, {**index, "seeded": False})

    def renew(self) -> None:
        if time.monotonic() < self._renewed_at + RENEW_SECONDS:
            return
        started = time.monotonic()
        try:
            self._lease.renew()
        except MetaMissing as error:
            self._meta_missing(error)
        self._renewed_at = started

    def _meta_missing(self, error: MetaMissing) -> None:
        """The meta store was deleted under us."""
        raise error

    def holder(self) -> Optional[str]:
        return self._lease.holder()

    def _inspect_owner(self, identity: Optional[SourceIdentity]) -> List[Finding]:
        """Whether another source owns the sink, or another process holds it now."""
        conflict = self._lease.conflict(identity) if identity is not None else None
        if conflict is not None:
            return of_error(conflict)
        holder = self.holder()
        if holder is None:
            return []
        return [Finding("FL078", INFO, f"sink {self.name} is held by {holder}: a second daemon would wait")]

    def _give_back(self) -> None:
        """Let the next one in at once, if the sink can still be told."""
        try:
            self._lease.give_back()
        except FlussoError as error:
            log.info("sink %s: the lease was not given back and ends by itself: %s", self.name, error)

    # -- the record -------------------------------------------------------------------------------------

    def read_record(self) -> Optional[Record]:
        stored = self._documents.read(RECORD)
        self._record = None if stored is None else stored_record(stored.source)
        return self._record

    def write_record(self, record: Record) -> None:
        self._lease.check()
        self._record = record
        self._documents.write(RECORD, record_document(record))

    @property
    def _position(self) -> int:
        """Everything up to here has been written."""
        return self._record.confirmed if self._record is not None else 0

    # -- quarantine -------------------------------------------------------------------------------------

    def quarantine(self, documents: Sequence[Rejected]) -> None:
        self._lease.check()
        self._parking.park(documents)

    def release(self, index: str, ids: Sequence[str]) -> None:
        self._parking.release(index, ids)

    def quarantined(self) -> Dict[str, List[str]]:
        return self._parking.ids()

    def parked(self, index: Optional[str] = None) -> Iterator[Parked]:
        return self._parking.entries(index)

    # -- requests and jobs ------------------------------------------------------------------------------

    def post(self, request: Request) -> None:
        self._mailbox.post(request)

    def requests(self) -> Sequence[Request]:
        return self._mailbox.requests()

    def answer(self, id: str, answer: Answer) -> None:
        self._mailbox.answer(id, answer)

    def answer_to(self, id: str) -> Optional[Answer]:
        return self._mailbox.answer_to(id)

    def write_job(self, id: str, job: Optional[Mapping[str, Any]]) -> None:
        self._lease.check()
        if job is None:
            self._documents.delete(f"job:{id}")
            self._jobs.pop(id, None)
        else:
            # As text: what is in it is nothing to search.
            self._jobs[id] = json.dumps(job)
            self._documents.write(f"job:{id}", {"id": id, "job": self._jobs[id]})

    def jobs(self) -> Mapping[str, Mapping[str, Any]]:
        self._jobs = {stored["id"]: stored["job"] for _, stored in self._documents.every("job")}
        return {id: json.loads(job) for id, job in self._jobs.items()}

    def _save_jobs(self) -> None:
        """Write them again into a meta store that was made anew: their changes are confirmed, and come no more."""
        for id, job in list(self._jobs.items()):
            self._documents.write(f"job:{id}", {"id": id, "job": job})

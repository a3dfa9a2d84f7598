"""The meta store of a stateful sink: all our state beside the slot, as small JSON documents under ids.

What every such sink keeps in the same way (owner and lease, the record, the mailbox, jobs) is written over the protocol
here (``sinks/stateful.py``); the rest is each sink's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterator, Mapping, Optional, Protocol, Tuple

from flusso_sync.engine.source import Record
from flusso_sync.errors import SinkError, SinkUnavailable

Json = Dict[str, Any]

RECORD = "record"


class MetaMissing(SinkUnavailable):
    """The meta store is gone; the next renewal of the lease makes it anew from what we know."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the meta store {name} was deleted while we run",
            in_doubt=False,
            hint="It is made anew at the next renewal of the lease",
        )


class MetaConflict(Exception):
    """Somebody else wrote the document since we read it."""


@dataclass(frozen=True)
class Stored:
    """A document of the meta store, with the revision that its next write can insist on."""

    source: Mapping[str, Any]
    revision: Tuple[int, ...]


class Meta(Protocol):
    """Documents by id, of which the part before the first colon is the kind.  May raise ``SinkUnavailable``."""

    def read(self, id: str) -> Optional[Stored]: ...

    def write(self, id: str, source: Json, *, after: Optional[Stored] = None, create: bool = False) -> Stored:
        """Store a document durably.

        ``after``: only if it is still that one; ``create``: only if there is none; else raises ``MetaConflict``.
        Raises ``MetaMissing`` when the whole store is not there.
        """

    def delete(self, id: str) -> None:
        """Forget a document, if it is there."""

    def every(self, kind: str) -> Iterator[Tuple[str, Json]]:
        """Id and document of all of a kind that were written before the call."""


def record_document(record: Record) -> Json:
    """What is stored of a record.  Positions and versions as text: beyond 2^53 a JSON reader may round them."""
    return {
        "confirmed": str(record.confirmed),
        "version": str(record.version),
        "timeline": str(record.timeline),
        "slot": record.slot,
        "address": record.address,
        "coverage": dict(record.coverage),
        "shapes": dict(record.shapes),
    }


def stored_record(source: Mapping[str, Any]) -> Record:
    return Record(
        confirmed=stored_int(source, "confirmed"),
        version=stored_int(source, "version"),
        timeline=stored_int(source, "timeline"),
        slot=str(source.get("slot") or ""),
        address=str(source.get("address") or ""),
        coverage=dict(source.get("coverage") or {}),
        shapes=dict(source.get("shapes") or {}),
    )


def stored_int(source: Mapping[str, Any], key: str) -> int:
    """A number that JSON readers elsewhere might round, stored as text."""
    try:
        return int(source.get(key) or 0)
    except (TypeError, ValueError) as error:
        raise SinkError(f"the meta store holds no number in {key}") from error

"""What a sink in memory may be told to suffer: every way in which a real one fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Sequence, Set, Union

from flusso_sync.errors import FlussoError
from flusso_sync.sinks.base import FailureKind, Write


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

"""What to do with a document that a sink, or the source, refuses."""

from __future__ import annotations

import enum
from typing import Dict


class OnError(enum.Enum):
    STOP = "stop"
    SKIP = "skip"


class FailurePolicies:
    """One default and an override per index (``on_error`` in the configuration)."""

    def __init__(self, default: OnError = OnError.STOP) -> None:
        self._default = OnError(default)
        self._overrides: Dict[str, OnError] = {}

    def with_override(self, index: str, policy: OnError) -> "FailurePolicies":
        changed = FailurePolicies(self._default)
        changed._overrides = {**self._overrides, index: OnError(policy)}
        return changed

    def of(self, index: str) -> OnError:
        return self._overrides.get(index, self._default)


#: A request holding at least this many documents of one index ...
MOSTLY_REJECTED_DOCUMENTS = 50


def mostly_rejected(sent: int, rejected: int) -> bool:
    """... of which more than half are rejected shows a mapping fault, not bad documents (settled.md section 5)."""
    return sent >= MOSTLY_REJECTED_DOCUMENTS and rejected * 2 > sent

"""What to do with a document that a sink, or the source, refuses."""

from __future__ import annotations

import enum
from typing import Dict, Tuple


class OnError(enum.Enum):
    STOP = "stop"
    SKIP = "skip"


class FailurePolicies:
    """One default and an override per index (``on_error`` in the configuration)."""

    def __init__(self, default: OnError = OnError.STOP) -> None:
        #: The default and the overrides; replaced as a whole, so that readers need no lock.
        self._rules: Tuple[OnError, Dict[str, OnError]] = (OnError(default), {})

    def with_override(self, index: str, policy: OnError) -> "FailurePolicies":
        default, overrides = self._rules
        changed = FailurePolicies(default)
        changed._rules = (default, {**overrides, index: OnError(policy)})
        return changed

    def follow(self, other: "FailurePolicies") -> None:
        """Judge as ``other`` does from now on; for any thread."""
        self._rules = other._rules

    def of(self, index: str) -> OnError:
        default, overrides = self._rules
        return overrides.get(index, default)


#: A request holding at least this many documents of one index ...
MOSTLY_REJECTED_DOCUMENTS = 50


def mostly_rejected(sent: int, rejected: int) -> bool:
    """... of which more than half are rejected shows a mapping fault, not bad documents (settled.md section 5)."""
    return sent >= MOSTLY_REJECTED_DOCUMENTS and rejected * 2 > sent

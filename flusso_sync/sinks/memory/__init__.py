"""A sink in memory, for tests and for programs that embed the daemon."""

from __future__ import annotations

from flusso_sync.sinks.memory.faults import Fault, Faults, ItemFault, Refusal
from flusso_sync.sinks.memory.sink import MemorySink
from flusso_sync.sinks.memory.store import Generation, Held, MemoryStore, StoredIndex

__all__ = [
    "Fault",
    "Faults",
    "Generation",
    "Held",
    "ItemFault",
    "MemorySink",
    "MemoryStore",
    "Refusal",
    "StoredIndex",
]

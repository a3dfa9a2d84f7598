"""An observer of one's own: how many documents of each index were written, and how slow the slowest flush was.

Runs on a thread of its own behind a bounded queue, so that it can neither stop nor slow the daemon; what it raises is
logged once.  ``python examples/observer.py etc/flusso.yaml`` prints a line for each batch.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter

from flusso_sync import BatchStats, Daemon, Observer, load_config


class Tally(Observer):
    """Counts; read it from any thread, the numbers are whole."""

    def __init__(self) -> None:
        self.live = threading.Event()
        self.documents: "Counter[str]" = Counter()
        self.slowest_flush_seconds = 0.0

    def on_live_started(self) -> None:
        self.live.set()

    def on_batch_committed(self, stats: BatchStats) -> None:
        self.documents.update(stats.documents_by_index)
        self.slowest_flush_seconds = max(self.slowest_flush_seconds, stats.flush_seconds)
        print(f"{stats.changes} changes, {stats.documents} documents in {stats.flush_seconds:.3f} s", flush=True)

    def on_document_quarantined(self, index: str, id: str, reason: str) -> None:
        print(f"refused: {index}/{id}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    Daemon(load_config(sys.argv[1])).with_observer(Tally()).start().run(threading.Event())

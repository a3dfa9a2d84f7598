"""A client of the source: one connection, on which statements are carried out one after another by a thread.

A statement that waits for a lock of the other client keeps nobody else waiting.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from typing import Any, Optional, Sequence, Tuple

import psycopg

#: So that what waits for the other client for good fails soon: deadlocks, and locks of a transaction left open.
OPTIONS = "-c lock_timeout=1500ms -c deadlock_timeout=50ms -c client_min_messages=error"
PATIENCE_SECONDS = 60.0

_Order = Optional[Tuple[str, Sequence[Optional[str]]]]


class Client:
    """Statements by :meth:`run`, in order; what fails is counted and forgotten, as an application would.

    A connection that breaks takes its transaction with it; the next statement makes a new one.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self._url = url
        self._orders: queue.Queue[_Order] = queue.Queue()
        self._pending = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, statement: str, parameters: Sequence[Optional[str]] = (), wait_seconds: float = 0.0) -> None:
        """Have ``statement`` carried out; wait at most so long for its end."""
        with self._changed:
            self._pending += 1
        self._orders.put((statement, parameters))
        self.wait_idle(wait_seconds)

    def wait_idle(self, seconds: float) -> bool:
        """Whether everything is carried out, within ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, seconds)

    def close(self) -> None:
        """Commit what is open, and end; raises when a statement never ends."""
        self.run("COMMIT")
        self._orders.put(None)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), f"{self.name} still waits for its statement"

    def _work(self) -> None:
        connection: Optional[psycopg.Connection[Any]] = None
        while True:
            order = self._orders.get()
            if order is None:
                break
            try:
                if connection is None or connection.closed:
                    connection = self._connect()
                connection.execute(order[0].encode(), order[1])
                self.counts["carried out"] += 1
            except psycopg.Error as error:
                self.counts[f"failed: {type(error).__name__}"] += 1
            finally:
                with self._changed:
                    self._pending -= 1
                    self._changed.notify_all()
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return psycopg.connect(
                    self._url,
                    autocommit=True,
                    options=OPTIONS,
                    cursor_factory=psycopg.RawCursor,
                    prepare_threshold=None,
                )
            except psycopg.OperationalError:
                # The server is being restarted.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

"""Changes made on the page, what each did to which documents, and how long that took; and the writer of many."""

from __future__ import annotations

import collections
import itertools
import queue
import random
import statistics
import threading
import time
from typing import Any, Deque, Dict, List, Mapping, Optional, Sequence

import psycopg

from demo.changes import Change, Unfit
from demo.documents import MOST_COMPARED, Documents, Name, differences
from demo.stopwatch import Daemon
from flusso_sync.errors import FlussoError

#: Changes that the page shows.
REMEMBERED = 30

#: Documents told of one change; the rest is counted.
MOST_TOLD = 6

STATEMENT_SECONDS = 10

WRITER_CHANGES_PER_SECOND = 200
#: How often one of the writer's changes is timed.
SAMPLE_SECONDS = 0.25
SAMPLES = 80

AGAIN_SECONDS = 0.3


class Away(Exception):
    """Postgres is not there."""


class Entry:
    """One change; filled in by the stopwatch's thread, read as :meth:`to_json` by others."""

    def __init__(self, number: int, change: Change) -> None:
        self.number = number
        self.change = change
        self.lsn = ""
        self.committed = 0.0
        self.rows = 0
        self.shown_before: Mapping[Name, Sequence[str]] = {}
        #: None when the index did not answer.
        self.before: Optional[Mapping[Name, Any]] = {}
        self.key: Optional[str] = change.key
        self.done = threading.Event()
        self._told: Dict[str, Any] = {"found_ms": None, "documents": [], "more": 0, "alike": 0}

    def tell(self, **facts: Any) -> None:
        # Replaced as a whole: a reader sees all of it or nothing.
        self._told = {**self._told, **facts}

    def to_json(self) -> Dict[str, Any]:
        waiting = 0.0 if self.done.is_set() else (time.monotonic() - self.committed) * 1000
        return {
            "number": self.number,
            "kind": self.change.kind,
            "title": self.change.what.title,
            "statement": self.change.text,
            "because": self.change.what.because,
            "rows": self.rows,
            "waiting_ms": round(waiting),
            **self._told,
        }


class Feed:
    """``make`` changes on any thread; a thread of ours times them, one after the other in the order of commits."""

    def __init__(self, url: str, documents: Documents, daemon: Daemon, stop: threading.Event) -> None:
        self._url = url
        self._documents = documents
        self._daemon = daemon
        self._stop = stop
        self._numbers = itertools.count(1)
        self._entries: Deque[Entry] = collections.deque(maxlen=REMEMBERED)
        self._waiting: "queue.Queue[Entry]" = queue.Queue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._measure, name="demo-stopwatch", daemon=True)
        self._thread.start()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def to_json(self) -> List[Dict[str, Any]]:
        """Newest first."""
        with self._lock:
            entries = list(self._entries)
        return [entry.to_json() for entry in reversed(entries)]

    def make(self, change: Change, patience_seconds: float) -> Entry:
        """Commit it, and wait at most ``patience_seconds`` until it is found; raises ``Unfit`` and ``Away``."""
        entry = Entry(next(self._numbers), change)
        table = change.what.table
        try:
            if change.key is not None:
                entry.shown_before = self._documents.touched(table, change.key)
                entry.before = self._documents.read(list(entry.shown_before)[:MOST_COMPARED])
            with connect(self._url) as connection:
                cursor = connection.execute(change.what.statement, dict(change.values))
                entry.committed = time.monotonic()
                entry.rows = max(0, cursor.rowcount)
                if change.inserts and (row := cursor.fetchone()) is not None:
                    entry.key = str(row[0])
                if change.what.key and not entry.rows:
                    raise Unfit("that row is gone meanwhile")
                entry.lsn = flushed(connection)
        except (psycopg.errors.DataError, psycopg.errors.IntegrityError) as error:
            raise Unfit(str(error.diag.message_primary)) from error
        except (psycopg.Error, FlussoError) as error:
            raise Away("Postgres does not answer now; it comes back by itself") from error
        with self._lock:
            self._entries.append(entry)
        self._waiting.put(entry)
        entry.done.wait(patience_seconds)
        return entry

    # -- on the stopwatch's thread --------------------------------------------------------------------

    def _measure(self) -> None:
        while not self._stop.is_set():
            try:
                entry = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            found = self._daemon.wait_until_found(entry.lsn, self._stop)
            if found is None:
                return
            self._compare(entry, (found - entry.committed) * 1000)
            entry.done.set()

    def _compare(self, entry: Entry, found_ms: float) -> None:
        """What became of the documents that showed the row before, and of those that show it now."""
        shows: Dict[Name, Sequence[str]] = dict(entry.shown_before)
        if entry.key is not None:
            try:
                shows.update(self._documents.touched(entry.change.what.table, entry.key))
            except FlussoError:
                # Postgres went away just now: what was known before is told.
                pass
        names = list(shows)[:MOST_COMPARED]
        after = self._documents.read(names)
        told: List[Dict[str, Any]] = []
        alike = 0
        for name in names:
            # One that shows the row only since now was not read before: all that is known is that it has it.
            is_new = name not in entry.shown_before
            changes: List[Dict[str, str]] = []
            if entry.before is not None and after is not None and not is_new:
                changes = differences(entry.before.get(name, {}), after.get(name, {}))
                if not changes:
                    alike += 1
                    continue
            is_gone = after is not None and name not in after
            state = "gone" if is_gone else "new" if is_new else "changed"
            told.append(
                {"index": name.index, "id": name.id, "fields": list(shows[name]), "state": state, "changes": changes}
            )
        more = len(shows) - alike - len(told[:MOST_TOLD])
        entry.tell(found_ms=round(found_ms, 1), documents=told[:MOST_TOLD], more=more, alike=alike)


class Writer:
    """Changes rows 200 times a second, one commit each, while it is switched on; times some of them."""

    def __init__(self, url: str, daemon: Daemon, stop: threading.Event) -> None:
        self._url = url
        self._daemon = daemon
        self._stop = stop
        self._on = threading.Event()
        self._made = 0
        self._moments: Deque[float] = collections.deque(maxlen=4 * WRITER_CHANGES_PER_SECOND)
        self._samples: Deque[float] = collections.deque(maxlen=SAMPLES)
        self._latest: Optional["tuple[str, float]"] = None
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("demo-writer", self._write), ("demo-samples", self._sample))
        ]
        for thread in self._threads:
            thread.start()

    def switch(self, on: bool) -> None:
        if on:
            self._samples.clear()
            self._on.set()
        else:
            self._on.clear()

    def join(self, timeout: float) -> None:
        for thread in self._threads:
            thread.join(timeout)

    def to_json(self) -> Dict[str, Any]:
        now = time.monotonic()
        recent = sum(1 for moment in list(self._moments) if now - moment <= 2.0)
        samples = sorted(self._samples)
        return {
            "on": self._on.is_set(),
            "made": self._made,
            "per_second": round(recent / 2),
            "median_ms": round(statistics.median(samples), 1) if samples else None,
            "worst_ms": round(samples[-1], 1) if samples else None,
        }

    def _write(self) -> None:
        dice = random.Random(4)
        while not self._stop.is_set():
            if not self._on.wait(0.2):
                continue
            try:
                with connect(self._url) as connection:
                    self._write_on(connection, dice)
            except psycopg.Error:
                self._stop.wait(AGAIN_SECONDS)

    def _write_on(self, connection: "psycopg.Connection[Any]", dice: random.Random) -> None:
        begun, made, sampled = time.monotonic(), 0, 0.0
        while self._on.is_set() and not self._stop.is_set():
            statement = dice.choice(WRITES)
            connection.execute(statement, {"low": dice.random(), "other": dice.random(), "n": dice.randrange(10_000)})
            now = time.monotonic()
            self._made += 1
            made += 1
            self._moments.append(now)
            if now - sampled >= SAMPLE_SECONDS and self._latest is None:
                sampled = now
                self._latest = (flushed(connection), now)
            # Not slower because something held it up: the rate is kept over a second, not made good for ever.
            ahead = begun + made / WRITER_CHANGES_PER_SECOND - now
            if ahead > 0:
                self._stop.wait(ahead)
            elif ahead < -1:
                begun, made = now, 0

    def _sample(self) -> None:
        while not self._stop.is_set():
            latest = self._latest
            if latest is None:
                self._stop.wait(0.01)
                continue
            lsn, committed = latest
            found = self._daemon.wait_until_found(lsn, self._stop)
            if found is not None and self._on.is_set():
                self._samples.append((found - committed) * 1000)
            self._latest = None


def _some(table: str, place: str = "low") -> str:
    """The id of a row drawn by lot, without reading the table."""
    return (
        f"(SELECT id FROM {table} WHERE id >= (SELECT (max(id) * %({place})s::float8)::bigint FROM {table})"
        " ORDER BY id LIMIT 1)"
    )


#: What happens in a shop; each leaves about as many rows as there were.
WRITES = [
    f"UPDATE products SET price = 1 + (price + 0.37) %% 300 WHERE id = {_some('products')}",
    f"UPDATE products SET stock = (stock + 7) %% 500 WHERE id = {_some('products')}",
    "UPDATE users SET city = (ARRAY['Oslo','Lyon','Turin','Lisbon','Berlin'])[1 + %(n)s %% 5] "
    f"WHERE id = {_some('users')}",
    "UPDATE orders SET status = (ARRAY['new','paid','shipped','delivered'])[1 + %(n)s %% 4]::order_status "
    f"WHERE id = {_some('orders')}",
    f"UPDATE orders SET user_id = {_some('users', 'other')} WHERE id = {_some('orders')}",
    f"UPDATE items SET quantity = 1 + %(n)s %% 5 WHERE id = {_some('items')}",
    f"UPDATE items SET order_id = {_some('orders', 'other')} WHERE id = {_some('items')}",
    f"DELETE FROM items WHERE id = {_some('items')}",
    "INSERT INTO items (order_id, product_id, quantity, price) "
    f"SELECT {_some('orders')}, id, 1 + %(n)s %% 3, price FROM products WHERE id = {_some('products', 'other')}",
]


def connect(url: str) -> "psycopg.Connection[Any]":
    """A connection of the shop's application, in autocommit."""
    return psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=5,
        application_name="the shop",
        options=f"-c statement_timeout={STATEMENT_SECONDS}s",
    )


def flushed(connection: "psycopg.Connection[Any]") -> str:
    """A position behind everything this connection has committed (docs/synced.md)."""
    row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])

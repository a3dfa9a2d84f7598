"""How fast builds go beside live changes, by counts: the daemon in the test, its sink in memory."""

from __future__ import annotations

import threading
import time
from typing import Any, List, NamedTuple, Sequence

import pytest

from flusso_sync.daemon import Daemon
from flusso_sync.engine import pace
from flusso_sync.engine.seeding import Build
from flusso_sync.engine.source import ChangeRun, Documents, Emit
from flusso_sync.pipeline import Pipeline
from flusso_sync.sinks.base import Failure, Write
from flusso_sync.status import IndexState
from tests.cases import SHOP
from tests.in_process import PATIENCE_SECONDS, InProcess, in_process
from tests.postgres_server import Database
from tests.test_daemon import config
from tests.third_party import DictSink, FiniteCapture, Rows, ThirdParty
from tests.waiting import wait_for


class Read(NamedTuple):
    """A chunk whose keys were read."""

    index: str
    rows: int
    at: float


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> List[Read]:
    """Every chunk that any build reads."""
    read: List[Read] = []
    next_chunk = Build.next_chunk

    def counted(self: Build, documents: Documents, rows: int) -> Any:
        taken = next_chunk(self, documents, rows)
        if taken is not None:
            read.append(Read(self.index, taken.chunk.rows, time.monotonic()))
        return taken

    monkeypatch.setattr(Build, "next_chunk", counted)
    return read


# -- backfill.max_rows_per_second -------------------------------------------------------------------------

RATE = 60


def too_fast(read: Sequence[Read], begun: float) -> bool:
    """Whether more was read at any time than :data:`RATE` allows since ``begun``, beyond the step that needs no wait.

    A machine that stalls makes builds slower, never this true.
    """
    rows = 0
    for number, one in enumerate(read):
        rows += one.rows if number else 0
        if rows > RATE * (one.at - begun):
            return True
    return False


@pytest.mark.parametrize("throttled", [True, False])
def test_a_throttled_build_is_as_slow_as_it_is_told(throttled: bool, chunks: List[Read]) -> None:
    backends = ThirdParty({f"k{number:04}": "first" for number in range(600)})
    backfill = {"chunk_rows": 20, "workers": 2, **({"max_rows_per_second": RATE} if throttled else {})}
    begun = time.monotonic()
    # A source that ends: so does the daemon, once the index is built
    Daemon(config(backfill=backfill), backends).start().run(threading.Event())
    assert backends.sink.documents == backends.expected
    assert sum(one.rows for one in chunks) == 600
    # Without the throttle the same measure fails
    assert too_fast(chunks, begun) is not throttled


# -- backfill.max_lag_bytes -----------------------------------------------------------------------------------


@pytest.mark.pg
def test_a_build_crawls_while_live_changes_are_far_behind_and_recovers(
    database: Database, chunks: List[Read], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a live daemon that stops recording what is durable, and falls behind
    monkeypatch.setattr(pace, "CRAWL_SECONDS", 1.5)
    held, record = threading.Event(), Pipeline._write_record

    def perhaps(self: Pipeline, position: int, stop: threading.Event) -> None:
        if not held.is_set():
            record(self, position, stop)

    monkeypatch.setattr(Pipeline, "_write_record", perhaps)
    SHOP.load(database.url, 4)
    backfill = {"chunk_rows": 50, "workers": 2, "max_lag_bytes": "1MB"}
    with in_process(database.url, database.name, SHOP.indexes, backfill=backfill) as live:
        held.set()
        chunks.clear()
        database.execute("CREATE TABLE ballast AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 5000) i")
        wait_for(lambda: (live.status["slot_lag_bytes"] or 0) > 3_000_000, PATIENCE_SECONDS, "the lag is seen")
        begun = time.monotonic()
        live.running.reindex("orders")
        # When it is rebuilt, then the build says why it is slow, and goes on by single steps
        wait_for(lambda: "builds wait" in said(live), PATIENCE_SECONDS, "the build says that it waits")
        wait_for(lambda: len(chunks) >= 2, PATIENCE_SECONDS, "the build goes on all the same")
        assert chunks[1].at - begun >= 2 * pace.CRAWL_SECONDS
        assert live.running.status.index_state("orders") is not IndexState.SEEDED
        # When what is durable is recorded again, then nothing holds the build back any more
        held.clear()
        wait_for(lambda: live.running.status.index_state("orders") is IndexState.SEEDED, PATIENCE_SECONDS)
        wait_for(lambda: not said(live), PATIENCE_SECONDS, "the trouble is over")
        assert sum(one.rows for one in chunks) == 600
        live.right()


def said(live: InProcess) -> str:
    return " ".join(trouble["what"] for trouble in live.status["trouble"])


# -- live writes that never end --------------------------------------------------------------------------------

#: Live requests that a build of ``ROWS`` rows may be overtaken by, at the very most.
ROWS, MOST_LIVE_REQUESTS = 2000, 1000


class EndlessCapture(FiniteCapture):
    """Changes half of the rows again and again, as fast as they are taken, until ``over``."""

    def __init__(self, rows: Rows, over: threading.Event) -> None:
        super().__init__(rows, (), None)
        self._over = over

    def stream(self, emit: Emit, stop: threading.Event) -> None:
        position = 0
        while not self._over.is_set() and not stop.is_set():
            position += 1
            key = f"k{position % 1000:04}"
            self._rows.apply(key, str(position))
            if not emit(ChangeRun([key], position, None)):
                return


class BusySink(DictSink):
    """Counts live requests, each of which takes so long that the next writes wait; sets ``over`` after the last."""

    def __init__(self, over: threading.Event) -> None:
        super().__init__("dict")
        self._over = over
        self.live_requests = 0

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        time.sleep(0.01)
        if not writes[0].build:
            self.live_requests += 1
            if self.live_requests == MOST_LIVE_REQUESTS:
                self._over.set()
        return super().write(writes, refresh=refresh)


def test_a_build_ends_although_live_writes_always_wait() -> None:
    over = threading.Event()
    backends = ThirdParty({f"k{number:04}": "first" for number in range(ROWS)})
    backends.capture = EndlessCapture(backends.rows, over)
    backends.sink = sink = BusySink(over)
    running = Daemon(config(backfill={"chunk_rows": 50, "workers": 2}), backends).start()
    thread = threading.Thread(target=running.run, args=[threading.Event()])
    thread.start()
    try:
        wait_for(lambda: over.is_set() or running.status.index_state("things") is IndexState.SEEDED, PATIENCE_SECONDS)
        needed = sink.live_requests
    finally:
        over.set()
        thread.join(PATIENCE_SECONDS)
    assert needed < MOST_LIVE_REQUESTS, "the build was overtaken for ever"
    assert needed > 10, "live writes had their share, too"
    assert sink.documents == backends.expected

"""The embedding API (settled.md section 8), driven with a third party's backends."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from typing import Any, List, Optional

import pytest

from flusso_sync.config.load import Config
from flusso_sync.daemon import Daemon, DaemonOptions
from flusso_sync.engine.source import Emit
from flusso_sync.errors import SyncStopped
from flusso_sync.observer import BatchStats, Observer
from flusso_sync.status import IndexState, Phase, Status
from tests.third_party import ThirdParty

SCHEMA = {
    "version": 1,
    "table": "things",
    "primary_key": "key",
    "fields": [{"keyword": "key", "required": True}, {"text": "value", "required": True}],
}


def config() -> Config:
    return Config.from_mapping(
        {"source": {"type": "postgres"}, "index": [{"name": "things", "schema": SCHEMA, "enabled": True}]}
    )


def changes(count: int) -> List[Any]:
    moves: List[Any] = [(f"k{i % 50}", None if i % 7 == 0 else f"v{i}") for i in range(count)]
    return moves


def test_a_finite_source_is_built_followed_and_ended() -> None:
    backends = ThirdParty({f"k{i}": "first" for i in range(300)}, changes(1000))
    running = Daemon(config(), backends).start()
    assert running.status.phase is Phase.STARTING
    running.run(threading.Event())
    assert backends.sink.documents == backends.expected
    assert backends.capture.confirmed == 1000
    assert running.status.phase is Phase.STOPPED
    assert running.status.index_state("things") is IndexState.SEEDED
    assert backends.sink.closed


def test_shutdown_returns_normally_with_everything_built_so_far_confirmed() -> None:
    backends = ThirdParty({}, changes(10), hold=threading.Event())
    running = Daemon(config(), backends).start()
    shutdown = threading.Event()
    thread = threading.Thread(target=running.run, args=(shutdown,))
    thread.start()
    assert running.wait_until_live(10)
    assert running.synced(10, 10)
    started = time.monotonic()
    shutdown.set()
    thread.join(10)
    assert not thread.is_alive() and time.monotonic() - started < 5
    assert backends.sink.documents == backends.expected
    assert backends.capture.confirmed == 10


def test_start_and_run_serve_once() -> None:
    daemon = Daemon(config(), ThirdParty({}))
    running = daemon.start()
    with pytest.raises(RuntimeError):
        daemon.start()
    running.run(threading.Event())
    with pytest.raises(RuntimeError):
        running.run(threading.Event())


def test_a_status_handed_in_keeps_its_counters_over_runs() -> None:
    status = Status()
    for _ in range(2):
        Daemon(config(), ThirdParty({"a": "1"}, changes(20))).with_status(status).start().run(threading.Event())
    snapshot = status.snapshot()
    assert snapshot.changes_captured == snapshot.changes_committed == 40
    assert snapshot.changes_in_flight == 0 and snapshot.phase is Phase.STOPPED


def test_a_failing_capture_stops_the_engine_with_its_cause() -> None:
    backends = ThirdParty({})

    def broken(emit: Emit, stop: threading.Event) -> None:
        raise ZeroDivisionError("no more")

    backends.capture.stream = broken  # type: ignore[method-assign]
    running = Daemon(config(), backends).start()
    with pytest.raises(SyncStopped, match="sync engine stopped") as caught:
        running.run(threading.Event())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.exit_code == 1
    assert running.status.phase is Phase.STOPPED
    assert running.status.snapshot().errors == 1


def test_a_sink_that_is_away_is_waited_for_unready() -> None:
    backends = ThirdParty({"a": "1"}, changes(5), hold=threading.Event())
    backends.sink.away.set()
    with Daemon(config(), backends).background() as running:
        assert running.status.wait_for(lambda: bool(running.status.troubles()), 10)
        assert not running.status.ready()[0]
        assert not running.synced(5, 0.2)
        backends.sink.away.clear()
        assert running.wait_until_live(20)
        assert running.synced(5, 10)
        assert running.status.wait_for(lambda: not running.status.troubles(), 10)
    assert backends.sink.documents == backends.expected


class Careless(Observer):
    """Raises in one hook, hangs in another."""

    def __init__(self) -> None:
        self.batches = 0
        self.hang = threading.Event()

    def on_changes_captured(self, n: int) -> None:
        raise ValueError("not my day")

    def on_batch_committed(self, stats: BatchStats) -> None:
        self.batches += 1
        self.hang.wait(30)


def test_an_observer_can_neither_stop_nor_slow_the_engine() -> None:
    careless = Careless()
    backends = ThirdParty({}, changes(2000))
    started = time.monotonic()
    try:
        Daemon(config(), backends, observers=[careless]).start().run(threading.Event())
        assert time.monotonic() - started < 20
        assert backends.sink.documents == backends.expected
    finally:
        careless.hang.set()


def test_the_lag_poller_ignores_failures_and_ends_with_the_run() -> None:
    backends = ThirdParty({}, changes(5), hold=threading.Event())
    asked: List[int] = []

    def lag() -> Optional[int]:
        asked.append(1)
        raise OSError("no lag today")

    backends.capture.lag = lag  # type: ignore[method-assign]
    with Daemon(config(), backends, options=DaemonOptions(lag_poll_interval=0.01)).background() as running:
        assert running.wait_until_live(10)
        deadline = time.monotonic() + 10
        while len(asked) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(asked) >= 3
    assert not [thread for thread in threading.enumerate() if thread.name == "flusso-lag"]


def test_a_reindex_rewrites_what_the_rows_say() -> None:
    backends = ThirdParty({f"k{i}": "v" for i in range(10)}, hold=threading.Event())
    with Daemon(config(), backends).background() as running:
        assert running.wait_until_live(10)
        backends.sink.documents["k3"] = "damaged"
        running.reindex("things")
        deadline = time.monotonic() + 10
        while backends.sink.documents != backends.expected and time.monotonic() < deadline:
            time.sleep(0.01)
        assert backends.sink.documents == backends.expected
        with pytest.raises(KeyError):
            running.reindex("nothing")


def test_neither_psycopg_nor_flask_is_needed_with_injected_backends() -> None:
    program = textwrap.dedent(
        """
        import sys, threading
        for name in ("psycopg", "psycopg_pool", "flask", "waitress", "opensearchpy", "opentelemetry", "urllib3"):
            sys.modules[name] = None
        from flusso_sync import Daemon
        from tests.third_party import ThirdParty
        from tests.test_daemon import config
        backends = ThirdParty({"a": "1"}, [("b", "2"), ("a", None)])
        Daemon(config(), backends).start().run(threading.Event())
        assert backends.sink.documents == backends.expected == {"b": {"key": "b", "value": "2"}}
        print("done")
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "done\n", done.stderr

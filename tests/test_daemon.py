"""The embedding API (settled.md section 8), driven with a third party's backends."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from typing import Any, List, Optional, Sequence

import pytest

from flusso_sync.config.load import Config
from flusso_sync.daemon import Daemon, DaemonOptions, RunningDaemon
from flusso_sync.engine.source import ChangeRun, Chunk, Emit, Resolution
from flusso_sync.errors import SinkUnavailable, SourceError, SyncStopped
from flusso_sync.observer import BatchStats, Observer
from flusso_sync.status import IndexState, Phase, Status
from tests.third_party import PlainDocuments, PlainSnapshot, ThirdParty

SCHEMA = {
    "version": 1,
    "table": "things",
    "primary_key": "key",
    "fields": [{"keyword": "key", "required": True}, {"text": "value", "required": True}],
}


def config(**settings: Any) -> Config:
    """One index; ``settings`` are further root keys."""
    index = [{"name": "things", "schema": SCHEMA, "enabled": True}]
    return Config.from_mapping({"source": {"type": "postgres"}, "index": index, **settings})


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


def test_an_index_that_is_switched_off_is_shown_as_such_until_it_is_switched_on() -> None:
    index = [{"name": name, "schema": SCHEMA, "enabled": name == "things"} for name in ("things", "asleep")]
    backends = ThirdParty({"a": "1"})
    daemon = Daemon(Config.from_mapping({"source": {"type": "postgres"}, "index": index}), backends)
    running = daemon.start()
    assert running.status.index_state("asleep") is IndexState.DISABLED
    running.run(threading.Event())
    assert running.status.snapshot().to_json()["indexes"] == {"things": "seeded", "asleep": "disabled"}
    with pytest.raises(KeyError):
        running.reindex("asleep")
    # When another run of the same Status has it enabled
    index[1]["enabled"] = True
    awake = Daemon(Config.from_mapping({"source": {"type": "postgres"}, "index": index}), ThirdParty({"a": "1"}))
    assert awake.with_status(running.status).start().status.index_state("asleep") is IndexState.PENDING


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


def test_a_sink_under_another_name_is_refused() -> None:
    backends = ThirdParty({"k": "never built"})
    backends.sink.name = "another"
    with pytest.raises(ValueError, match="as 'dict' a sink whose name is 'another'"):
        Daemon(config(), backends).start()


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


def test_many_may_wait_for_synced_within_the_program_and_none_asks_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surface has a limit of waiters, ``running.synced`` has none."""
    backends = ThirdParty({"a": "1"}, changes(5), hold=threading.Event())
    asked: List[str] = []
    with Daemon(config(), backends).background() as running:
        assert running.synced(5, 20)
        monkeypatch.setattr(type(backends.capture), "position", lambda self: asked.append("position"), raising=False)
        snapshot = PlainDocuments.snapshot

        def counted(self: Any, *arguments: Any) -> Any:
            asked.append("snapshot")
            return snapshot(self, *arguments)

        monkeypatch.setattr(PlainDocuments, "snapshot", counted)
        answers: List[bool] = []
        threads = [threading.Thread(target=lambda: answers.append(running.synced(6, 0.7))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert answers == [False] * 20 and asked == []


def test_synced_answers_after_the_end_too() -> None:
    running = Daemon(config(), ThirdParty({"a": "1"}, changes(20))).start()
    running.run(threading.Event())
    assert running.synced(20, 0)
    assert not running.synced(21, 5)


def test_synced_waits_for_the_first_build() -> None:
    backends = ThirdParty({"a": "1"}, hold=threading.Event())
    backends.sink.away.set()
    with Daemon(config(), backends).background() as running:
        assert not running.synced(0, 0.5), "no document of the rows is durable yet"
        backends.sink.away.clear()
        assert running.synced(0, 20)
        assert backends.sink.documents == backends.expected


def test_synced_waits_for_what_a_change_rebuilds_and_not_for_a_reindex(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = ThirdParty({"a": "1"}, changes(5), hold=threading.Event())
    truncate, build = threading.Event(), threading.Event()
    build.set()

    def next_chunk(self: Any, index: str, after: Any, until: Any, rows: int) -> Optional[Chunk]:
        build.wait(30)
        return read(self, index, after, until, rows)

    def resolve(self: Any, runs: Sequence[ChangeRun]) -> Resolution:
        return Resolution({}, {"things": "it was truncated"}) if truncate.is_set() else traced(self, runs)

    traced = PlainSnapshot.resolve
    monkeypatch.setattr(PlainSnapshot, "resolve", resolve)
    read = PlainDocuments.next_chunk
    monkeypatch.setattr(PlainDocuments, "next_chunk", next_chunk)
    stream = backends.capture.stream

    def then_truncate(emit: Emit, stop: threading.Event) -> None:
        stream(emit, stop)
        emit(ChangeRun(["a"], 6, None))
        while not stop.wait(0.01):
            pass

    backends.capture.stream = then_truncate  # type: ignore[method-assign]
    try:
        with Daemon(config(), backends).background() as running:
            assert running.synced(5, 20)
            # Given a rebuild that was asked for: what is read stays right.
            build.clear()
            running.reindex("things")
            assert running.status.wait_for(lambda: running.status.index_state("things") is IndexState.REBUILDING, 10)
            assert running.synced(5, 10)
            # When a change is shown by a new generation alone
            truncate.set()
            assert backends.capture._hold is not None
            backends.capture._hold.set()
            assert running.status.wait_for(lambda: (running.status.confirmed or 0) >= 6, 10)
            # Then it counts as arrived when that is complete.
            assert not running.synced(6, 0.5)
            build.set()
            assert running.synced(6, 20)
    finally:
        build.set()


def test_what_a_hosts_signal_handler_raises_closes_everything_and_goes_through() -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys, threading
        from flusso_sync import Daemon, Observer, Phase
        from tests.third_party import PlainDocuments, PlainSnapshot, ThirdParty
        from tests.test_daemon import config

        class Live(Observer):
            def on_live_started(self):
                os.kill(os.getpid(), NUMBER)

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        backends = ThirdParty({"a": "1"}, hold=threading.Event())
        running = Daemon(config(), backends, observers=[Live()]).start()
        try:
            running.run(threading.Event())
        except (KeyboardInterrupt, SystemExit) as error:
            assert backends.sink.closed == 1 and running.status.phase is Phase.STOPPED
            assert running.status.snapshot().errors == 0
            print(repr(error))
        """
    )
    for name, shown in (("SIGINT", "KeyboardInterrupt()"), ("SIGTERM", "SystemExit(7)")):
        text = program.replace("NUMBER", "signal." + name)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == shown + "\n", done.stderr


def test_what_a_thread_of_ours_raises_is_a_failure_whatever_it_is() -> None:
    backends = ThirdParty({})

    def leaving(emit: Emit, stop: threading.Event) -> None:
        raise SystemExit(3)

    backends.capture.stream = leaving  # type: ignore[method-assign]
    with pytest.raises(SyncStopped) as caught:
        Daemon(config(), backends).start().run(threading.Event())
    assert isinstance(caught.value.__cause__, SystemExit)


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


def test_a_reindex_that_waits_for_a_sink_ends_with_the_daemon() -> None:
    backends = ThirdParty({"a": "1"}, hold=threading.Event())
    raised: List[BaseException] = []

    def away(index: str) -> int:
        raise SinkUnavailable("sink dict is away")

    def ask(running: RunningDaemon) -> None:
        try:
            running.reindex("things")
        except BaseException as error:
            raised.append(error)

    with Daemon(config(), backends).background() as running:
        assert running.wait_until_live(10)
        backends.sink.begin_build = away  # type: ignore[method-assign]
        asking = threading.Thread(target=ask, args=(running,))
        asking.start()
        assert running.status.wait_for(lambda: bool(running.status.troubles()), 10)
    asking.join(10)
    assert not asking.is_alive() and [type(error) for error in raised] == [RuntimeError]


def test_a_failure_in_the_background_is_logged_also_when_the_block_fails_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backends = ThirdParty({})

    def broken(emit: Emit, stop: threading.Event) -> None:
        raise SourceError("the rows are gone", hint="Bring them back")

    backends.capture.stream = broken  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="of its own"):
        with Daemon(config(), backends).background() as running:
            assert not running.synced(1, 10)
            raise AssertionError("of its own")
    assert "the rows are gone. Bring them back" in caplog.text


def test_neither_psycopg_nor_flask_is_needed_with_injected_backends() -> None:
    program = textwrap.dedent(
        """
        import sys, threading
        for name in ("psycopg", "psycopg_pool", "flask", "waitress", "opensearchpy", "opentelemetry", "urllib3"):
            sys.modules[name] = None
        from flusso_sync import Daemon
        from tests.third_party import PlainDocuments, PlainSnapshot, ThirdParty
        from tests.test_daemon import config
        backends = ThirdParty({"a": "1"}, [("b", "2"), ("a", None)])
        Daemon(config(), backends).start().run(threading.Event())
        assert backends.sink.documents == backends.expected == {"b": {"key": "b", "value": "2"}}
        print("done")
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "done\n", done.stderr

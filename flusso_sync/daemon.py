"""The daemon: lays the pipeline from a configuration, runs it, and lays it anew after what may pass.

Transport is not its business: HTTP, signals, exporters belong to whoever embeds it, who reads the ``Status`` and sets
an event.  Backends are injected; this module names none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Dict, Iterator, Mapping, Optional, Protocol, Sequence, Set, Tuple

from flusso_sync.backoff import Backoff, Stopped
from flusso_sync.engine.policies import FailurePolicies, OnError
from flusso_sync.engine.source import SourceParts
from flusso_sync.errors import FlussoError, SchemaDrift, SyncStopped
from flusso_sync.observer import FanOut, Observer, StatusObserver
from flusso_sync.operations import Operations
from flusso_sync.pipeline import Pipeline, PipelineOptions
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import Sink
from flusso_sync.status import IndexState, Phase, Status

if TYPE_CHECKING:
    from flusso_sync.config.load import Config

log = logging.getLogger(__name__)

#: How often the slot's lag is sampled unless told otherwise.
LAG_POLL_SECONDS = 15.0


@dataclass(frozen=True)
class DaemonOptions:
    """How a run is parameterised; None means "as the configuration says, else the default".

    ``lag_poll_interval`` is in seconds, ``queue_capacity`` in changes.
    """

    slot: Optional[str] = None
    publication: Optional[str] = None
    manage_publication: Optional[bool] = None
    skip_backfill: Optional[bool] = None
    queue_capacity: Optional[int] = None
    pretty: Optional[bool] = None
    lag_poll_interval: Optional[float] = None
    adopt: bool = False


class Backends(Protocol):
    """Builds the concrete source and sinks that the daemon drives; asked again for each pipeline."""

    def source(self, config: "Config", options: DaemonOptions) -> SourceParts: ...

    def sinks(self, config: "Config", options: DaemonOptions) -> Mapping[str, Sink]: ...


class Daemon:
    """A configured daemon, not yet running.  Nothing touches the network before ``RunningDaemon.run``."""

    def __init__(
        self,
        config: "Config",
        backends: Optional[Backends] = None,
        *,
        options: Optional[DaemonOptions] = None,
        observers: Sequence[Observer] = (),
        status: Optional[Status] = None,
    ) -> None:
        self._config = config
        self._backends = backends
        self._options = options or DaemonOptions()
        self._observers: Tuple[Observer, ...] = tuple(observers)
        self._status = status
        self._used = False

    def with_options(self, options: DaemonOptions) -> "Daemon":
        """The same daemon with other options."""
        return Daemon(self._config, self._backends, options=options, observers=self._observers, status=self._status)

    def with_observer(self, observer: Observer) -> "Daemon":
        """The same daemon, telling one more observer."""
        return Daemon(
            self._config,
            self._backends,
            options=self._options,
            observers=(*self._observers, observer),
            status=self._status,
        )

    def with_status(self, status: Status) -> "Daemon":
        """The same daemon, keeping the caller's Status: its counters and uptime outlive the run."""
        return Daemon(self._config, self._backends, options=self._options, observers=self._observers, status=status)

    def start(self) -> "RunningDaemon":
        """Make the parts, start nothing on the network, and return the handle whose status can be served.

        Serves once; a second call raises ``RuntimeError``.
        """
        if self._used:
            raise RuntimeError("this daemon was started before; make another one")
        self._used = True
        backends = self._backends
        if backends is None:
            # Only here, so that injected backends need neither psycopg nor any sink's client.
            from flusso_sync.backends import DefaultBackends

            backends = DefaultBackends()
        plans = tuple(entry.plan for entry in self._config.indexes.values() if entry.enabled)
        status = self._status or Status()
        for name, entry in self._config.indexes.items():
            status.add_index(name)
            if not entry.enabled:
                status.set_index_state(name, IndexState.DISABLED)
            elif status.index_state(name) is IndexState.DISABLED:
                status.set_index_state(name, IndexState.PENDING)
        status.reset_for_run()
        running = RunningDaemon(self._config, backends, self._options, self._observers, status, plans)
        running._make_parts()
        return running

    @contextlib.contextmanager
    def background(self, timeout: float = 10.0) -> "Iterator[RunningDaemon]":
        """Run on a thread of its own inside a host program; stops, at most ``timeout`` seconds long, at the end.

        Raises ``SyncStopped`` at the end of the block when the daemon failed meanwhile.
        """
        running = self.start()
        shutdown = threading.Event()
        failure: Dict[str, BaseException] = {}

        def serve() -> None:
            try:
                running.run(shutdown)
            except BaseException as error:
                failure["error"] = error
                # Said at once: the block may end by an exception of its own, which then hides this one.
                log.error("%s: %s", error, error.__cause__)

        thread = threading.Thread(target=serve, name="flusso-main", daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.stop(timeout)
            thread.join(timeout)
        if "error" in failure:
            raise failure["error"]


class RunningDaemon:
    """A daemon whose parts are made.  ``run`` blocks; everything else may be called from any thread."""

    def __init__(
        self,
        config: "Config",
        backends: Backends,
        options: DaemonOptions,
        observers: Sequence[Observer],
        status: Status,
        plans: Sequence[IndexPlan],
    ) -> None:
        self._config = config
        self._backends = backends
        self._options = options
        self._status = status
        self._plans = tuple(plans)
        self._observer = FanOut([StatusObserver(status), *observers], on_drop=status.events_dropped)
        self._parts: Optional[Tuple[SourceParts, Mapping[str, Sink]]] = None
        self._pipeline: Optional[Pipeline] = None
        self._used = False
        #: Indexes that the next pipeline must build anew, with the reason.
        self._rebuild: Dict[str, str] = {}
        #: Indexes that fitted their tables once: should one no longer, it has drifted and the others go on.
        self._fitted: Set[str] = set()
        self._stop = threading.Event()
        self._ended = threading.Event()
        #: Held while a pipeline is made from the configuration, and while that changes.
        self._changing = threading.Lock()

    @property
    def status(self) -> Status:
        """The live status, for a transport to serve while the daemon runs."""
        return self._status

    def _make_parts(self) -> None:
        source = self._backends.source(self._config, self._options)
        sinks = self._backends.sinks(self._config, self._options)
        for name, sink in sinks.items():
            if sink.name != name:
                # A build finds its sinks by name: this one would be left out, and count as complete without a row.
                raise ValueError(f"Backends.sinks returns as {name!r} a sink whose name is {sink.name!r}")
        self._parts = (source, sinks)

    def run(self, shutdown: threading.Event) -> None:
        """Connect and run until ``shutdown`` is set or a finite source ends; blocks.

        A failure that may pass lays the whole pipeline anew.  Raises ``SyncStopped`` from its cause for any other;
        what a signal handler of the host raises here (``KeyboardInterrupt``, ``SystemExit``) closes everything and
        goes through.
        Serves once; a second call raises ``RuntimeError``.
        """
        if self._used:
            raise RuntimeError("this daemon ran before; start another one")
        self._used = True
        stop = _Either(shutdown, self._stop)
        self._observer.start()
        backoff = Backoff(first=0.2)
        try:
            while True:
                try:
                    self._run_once(stop)
                    return
                except FlussoError as error:
                    passing = error.transient or error.relay
                    if passing and stop.is_set():
                        # Stopped as asked; what was not confirmed comes again.
                        log.info("while stopping: %s", error)
                        return
                    self._observer.on_error(error)
                    if not passing:
                        raise SyncStopped(error) from error
                    self._status.reset_for_run()
                    self._status.trouble("pipeline", f"the pipeline is laid anew: {error.message}", error.hint or "")
                    if isinstance(error, SchemaDrift):
                        self._rebuild.update((index, error.message) for index in error.indexes)
                    try:
                        backoff.wait(stop)
                    except Stopped:
                        return
                except BaseException as error:
                    if isinstance(error, (KeyboardInterrupt, SystemExit)) and not self._failed_of(error):
                        # Ctrl-C, or a signal handler of the host program: its way of ending, no failure of ours.
                        raise
                    self._observer.on_error(error)
                    raise SyncStopped(error) from error
        finally:
            self._status.set_phase(Phase.STOPPED)
            self._observer.stop()
            self._ended.set()

    def _run_once(self, stop: threading.Event) -> None:
        if self._parts is None:
            self._make_parts()
        parts, self._parts = self._parts, None
        if parts is None:
            raise AssertionError("no parts were made")
        source, sinks = parts
        with self._changing:
            self._pipeline = Pipeline(
                self._plans,
                source,
                sinks,
                self._policies(),
                self._pipeline_options(),
                self._status,
                self._observer,
                rebuild=self._rebuild,
                fitted=self._fitted,
            )
        self._pipeline.run(stop)

    def _failed_of(self, error: BaseException) -> bool:
        return self._pipeline is not None and self._pipeline.failure is error

    def _policies(self) -> FailurePolicies:
        policies = FailurePolicies(OnError(self._config.on_error))
        for name, entry in self._config.indexes.items():
            if entry.on_error is not None:
                policies = policies.with_override(name, OnError(entry.on_error))
        return policies

    def _pipeline_options(self) -> PipelineOptions:
        config, options = self._config, self._options
        return PipelineOptions(
            queue_capacity=options.queue_capacity or config.engine.queue_capacity,
            batch_changes=config.engine.batch_changes,
            backfill_workers=config.backfill.workers or min(os.cpu_count() or 1, 4),
            chunk_rows=config.backfill.chunk_rows,
            lag_poll_seconds=LAG_POLL_SECONDS if options.lag_poll_interval is None else options.lag_poll_interval,
            skip_backfill=bool(options.skip_backfill),
            adopt=options.adopt,
            max_rows_per_second=config.backfill.max_rows_per_second,
            max_lag_bytes=config.backfill.max_lag_bytes,
            quarantine_limit=config.quarantine.limit,
        )

    def reload(self, config: "Config") -> None:
        """Go on by ``config``: the running one with what ``config.reload.reloaded`` took over.

        ``on_error`` and the limits of builds hold at once, workers from the next build on.
        """
        with self._changing:
            self._config = config
            if self._pipeline is not None:
                self._pipeline.change(self._pipeline_options(), self._policies())

    def stop(self, timeout: float = 10.0) -> bool:
        """Ask ``run`` to return; True when it did within ``timeout`` seconds."""
        self._stop.set()
        return self._ended.wait(timeout) if self._used else True

    def wait_until_live(self, timeout: Optional[float] = None) -> bool:
        """Block until every index has had its first build; False after ``timeout`` seconds or when stopped."""
        self._status.wait_for(
            lambda: self._status.phase is Phase.LIVE or self._ended.is_set() or self._status.phase is Phase.STOPPED,
            timeout,
        )
        return self._status.phase is Phase.LIVE

    def synced(self, lsn: int, timeout: float) -> bool:
        """Block until everything committed up to ``lsn`` is found by search in every sink, in the generations that are
        read.  ``pg_current_wal_flush_lsn()`` right after a commit is a position that covers it.

        False after ``timeout`` seconds, or when the run ended before.  A first build is waited for, and so is what a
        TRUNCATE rebuilds; a ``reindex`` is not, since the generation it replaces stays right meanwhile.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = self._ended.is_set()
            remaining = max(0.0, deadline - time.monotonic())
            # The pipeline may be laid anew meanwhile, so the question is asked again and again.
            pipeline = self._pipeline
            if pipeline is not None and pipeline.synced(lsn, 0.0 if ended else min(remaining, 0.5)):
                return True
            if ended or not remaining:
                return False
            # A pipeline that ended answers at once.
            self._ended.wait(0.02)

    def position(self) -> int:
        """The end of what is committed and flushed at the source now, for :meth:`synced`; asks the source.

        Raises ``RuntimeError`` while the daemon is not running, ``SourceError`` when the source cannot be asked.
        """
        pipeline = self._pipeline
        if pipeline is None or self._ended.is_set():
            raise RuntimeError("the daemon is not running")
        return pipeline.position()

    def reindex(self, name: str) -> str:
        """Build a new generation of an index while readers keep the old one; joins a build that is under way.

        Blocks while a sink is away.  Returns a sentence.  Raises ``KeyError`` for an unknown or disabled index,
        ``RuntimeError`` while the daemon is not running.
        """
        return self._ask(name, lambda operations: operations.reindex(name))

    def rollback(self, name: str) -> str:
        """Let readers have the newest kept generation of an index at once, while a fresh one is built.

        As :meth:`reindex`; raises ``SinkRefused`` where none is kept (``keep_generations``).
        """
        return self._ask(name, lambda operations: operations.rollback(name))

    def retry(self, name: str, ids: Sequence[str] = ()) -> str:
        """Read parked documents of an index again, ``ids`` or all of them, and write those that can be written.

        As :meth:`reindex`; waits some seconds for the outcome.
        """
        return self._ask(name, lambda operations: operations.retry(name, ids))

    def repair(self, name: str, ids: Sequence[str]) -> str:
        """Write the documents ``ids`` of an index as their rows say, whatever the sinks hold; those without a row are
        deleted.

        As :meth:`reindex`; waits some seconds for the outcome.
        """
        return self._ask(name, lambda operations: operations.repair(name, ids))

    def verify(self, name: str) -> str:
        """Compare an index with its rows while both change; returns at once, and the outcome stands in the
        status under ``verify`` (``flusso_sync.comparing.Comparisons``).

        As :meth:`reindex`; raises ``SinkRefused`` where no sink can be read back.
        """
        return self._ask(name, lambda operations: operations.verify(name))

    @property
    def sinks(self) -> Mapping[str, Sink]:
        """The sinks of the pipeline that runs now, for reading; empty while there is none."""
        pipeline = self._pipeline
        return {} if pipeline is None else pipeline.sinks

    def _ask(self, name: str, what: Callable[[Operations], str]) -> str:
        if name not in {plan.name for plan in self._plans}:
            raise KeyError(name)
        pipeline = self._pipeline
        if pipeline is None or self._ended.is_set():
            raise RuntimeError("the daemon is not running")
        try:
            return what(pipeline.operations)
        except Stopped:
            raise RuntimeError("the daemon stopped before it could be done") from None


class _Either(threading.Event):
    """Set when the caller's event or ours is; waits in short steps, so that it needs no thread of its own."""

    STEP_SECONDS = 0.5

    def __init__(self, shutdown: threading.Event, stop: threading.Event) -> None:
        super().__init__()
        self._shutdown = shutdown
        self._stop = stop

    def is_set(self) -> bool:
        return self._shutdown.is_set() or self._stop.is_set()

    def wait(self, timeout: Optional[float] = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = self.STEP_SECONDS if deadline is None else min(self.STEP_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return False
            self._shutdown.wait(left)
        return True

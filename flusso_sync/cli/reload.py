"""SIGHUP: the configuration is read anew, what may change at once does, and what takes a restart is named."""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable, Optional

from flusso_sync.cli.exit import explain
from flusso_sync.cli.notify import notify
from flusso_sync.config.reload import reloaded
from flusso_sync.errors import ConfigError, FlussoError
from flusso_sync.history import utc_now

if TYPE_CHECKING:
    from flusso_sync.config.load import Config
    from flusso_sync.status import Status

logger = logging.getLogger("flusso_sync.cli.reload")


class Reloader:
    """Reads again on a thread of its own whenever ``wanted`` is set, also if that was before it began.

    ``read`` loads the configuration with the flags over it and raises ``FlussoError``; ``apply`` hands the one that
    holds from now on to those that run by it.
    """

    def __init__(
        self,
        config: Config,
        status: Status,
        wanted: threading.Event,
        *,
        read: Callable[[], Config],
        apply: Callable[[Config], Any],
    ) -> None:
        #: What holds now: as it was at the start, with what was taken over since.
        self.config = config
        self._status = status
        self._wanted = wanted
        self._read = read
        self._apply = apply
        self._stopping = False
        self._thread: Optional[threading.Thread] = None
        status.set_fact("configuration.read_at", utc_now())
        status.set_fact("configuration.waits_for_restart", [])

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name="flusso-reload", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; safe to call twice, and without ``start``."""
        self._stopping = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(0.5)

    def _loop(self) -> None:
        while True:
            self._wanted.wait()
            if self._stopping:
                return
            # First, so that a request that comes while we read is not lost.
            self._wanted.clear()
            notify("RELOADING=1", f"MONOTONIC_USEC={int(monotonic() * 1_000_000)}")
            self._reload()
            notify("READY=1")

    def _reload(self) -> None:
        try:
            read = self._read()
            outcome = reloaded(self.config, read)
            self._apply(outcome.config)
        except FlussoError as error:
            self._refuse(error)
            return
        except Exception as error:
            # Whatever reading stumbles over: the daemon runs by the former one, and must go on hearing signals.
            logger.exception("SIGHUP: the configuration could not be read")
            self._refuse(error)
            return
        self.config = outcome.config
        for warning in read.warnings:
            logger.warning("%s", warning)
        if outcome.changed:
            logger.info("SIGHUP: the configuration is read anew; in force now: %s", ", ".join(outcome.changed))
        else:
            logger.info("SIGHUP: the configuration is read anew; nothing to change at once")
        if outcome.waiting:
            logger.warning("takes a restart: %s", ", ".join(outcome.waiting))
        status = self._status
        status.clear_trouble("configuration")
        status.set_fact("configuration.read_at", utc_now())
        status.set_fact("configuration.changed", list(outcome.changed))
        status.set_fact("configuration.waits_for_restart", list(outcome.waiting))

    def _refuse(self, error: BaseException) -> None:
        said = explain(error)
        logger.error("SIGHUP: nothing is changed: %s", said.partition("\n")[0])
        for line in said.splitlines()[1:]:
            logger.error("%s", line.strip())
        first, more = said, 0
        if isinstance(error, ConfigError):
            first, more = str(error.problems[0]), len(error.problems) - 1
        others = f" (and {more} more, see the log)" if more else ""
        self._status.trouble(
            "configuration",
            f"the configuration as it is now is refused, and the former one holds: {first}{others}",
            "Mend the file and send SIGHUP again; a restart would fail",
            blocking=False,
        )

"""The thread base: a name, a loop, and one place where an escaping error goes.

A worker never restarts itself and never ends the process; whoever owns it does (design section 1: the daemon
alone starts, watches and joins threads).
"""

from __future__ import annotations

import threading
from typing import Callable, Optional

from flusso_sync.backoff import Stopped

Failure = Callable[[str, BaseException], None]
Ended = Callable[[str], None]


class Worker(threading.Thread):
    """Runs ``loop`` once on a thread named ``name``.

    Whatever escapes is handed to ``failed`` (name, error); a loop that returns, or was ended by the stop
    event (``Stopped``), is told to ``ended``.
    """

    def __init__(self, name: str, loop: Callable[[], None], failed: Failure, ended: Optional[Ended] = None) -> None:
        super().__init__(name=name, daemon=True)
        self._loop = loop
        self._failed = failed
        self._ended = ended

    def run(self) -> None:
        try:
            self._loop()
        except Stopped:
            pass
        except BaseException as error:
            self._failed(self.name, error)
            return
        if self._ended is not None:
            self._ended(self.name)

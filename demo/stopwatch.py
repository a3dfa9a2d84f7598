"""From commit to found: asks the daemon's ``/synced`` when everything up to a commit is found by search."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any, Callable, Dict, Optional

#: One request waits so long at most; then another asks on.
REQUEST_SECONDS = 10.0

#: A daemon that is away, or not ready, is asked again after this.
AGAIN_SECONDS = 0.05

STATUS_SECONDS = 2.0


class Daemon:
    """The public surface of the daemon; ``address`` names it anew at each call, for it comes and goes."""

    def __init__(self, address: Callable[[], str]) -> None:
        self._address = address

    def get(self, path: str, timeout: float) -> Optional[Dict[str, Any]]:
        """The JSON of a 200; None for anything else."""
        connection = http.client.HTTPConnection(self._address(), timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            found: Dict[str, Any] = json.loads(body) if answer.status == 200 else {}
            return found or None
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def status(self) -> Optional[Dict[str, Any]]:
        return self.get("/status", STATUS_SECONDS)

    def wait_until_found(self, lsn: str, stop: threading.Event) -> Optional[float]:
        """Wait for it over any outage; returns the monotonic moment, or None when stopped."""
        while not stop.is_set():
            if self.get(f"/synced?lsn={lsn}&timeout={REQUEST_SECONDS:g}", REQUEST_SECONDS + 5) is not None:
                return time.monotonic()
            stop.wait(AGAIN_SECONDS)
        return None

"""``GET /synced``: read your writes.  Waits, in a few web threads at most, until a commit is found by search."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Optional, Protocol

from flask import Response, request

from flusso_sync.errors import SourceError
from flusso_sync.status import Status, format_lsn

#: Waiters at once; fewer than the surface has threads, so that ``/healthz`` always finds one.
WAITERS = 2

DEFAULT_TIMEOUT_SECONDS = 5.0
LONGEST_TIMEOUT_SECONDS = 60.0

#: Trouble that blocks changes for this long while somebody waits is told instead of waited out.
TROUBLE_SECONDS = 1.0

_STEP_SECONDS = 0.25
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")


class Syncing(Protocol):
    """What is asked of a ``RunningDaemon``."""

    def synced(self, lsn: int, timeout: float) -> bool: ...

    def position(self) -> int: ...


class Synced:
    """The view behind ``/synced``; ``attach`` gives it the daemon to ask, as soon as there is one."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._room = threading.BoundedSemaphore(WAITERS)
        self._daemon: Optional[Syncing] = None

    def attach(self, daemon: Syncing) -> None:
        """From now on ``daemon`` is asked."""
        self._daemon = daemon

    def __call__(self) -> Response:
        given = request.args.get("lsn", "")
        try:
            timeout = float(request.args.get("timeout", DEFAULT_TIMEOUT_SECONDS))
        except ValueError:
            timeout = -1.0
        if not 0 <= timeout <= LONGEST_TIMEOUT_SECONDS:
            return _answer(400, f"timeout is a number of seconds from 0 to {LONGEST_TIMEOUT_SECONDS:g}")
        found = _LSN.match(given)
        if found is None and given != "now":
            return _answer(400, "lsn is a position such as 0/16B3748, or now")
        if not self._room.acquire(blocking=False):
            response = _answer(429, f"{WAITERS} requests wait already")
            response.headers["Retry-After"] = "1"
            return response
        try:
            return self._wait(None if found is None else int(found[1], 16) << 32 | int(found[2], 16), timeout)
        finally:
            self._room.release()

    def _wait(self, position: Optional[int], timeout: float) -> Response:
        daemon = self._daemon
        if daemon is None:
            return _answer(503, "starting")
        deadline = time.monotonic() + timeout
        try:
            if position is None:
                position = daemon.position()
        except (SourceError, RuntimeError) as error:
            return _answer(503, getattr(error, "message", str(error)))
        blocked_since: Optional[float] = None
        while True:
            remaining = max(0.0, deadline - time.monotonic())
            if daemon.synced(position, min(remaining, _STEP_SECONDS)):
                return self._told(200, position, "ok")
            ready, reason = self._status.ready()
            now = time.monotonic()
            blocked_since = None if ready else blocked_since or now
            if blocked_since is not None and (now - blocked_since >= TROUBLE_SECONDS or now >= deadline):
                return self._told(503, position, reason)
            if now >= deadline:
                return self._told(504, position, f"not within {timeout:g} s")

    def _told(self, code: int, position: int, reason: str) -> Response:
        confirmed = self._status.confirmed
        return _answer(
            code, reason, lsn=format_lsn(position), confirmed_lsn=None if confirmed is None else format_lsn(confirmed)
        )


def _answer(code: int, reason: str, **facts: Optional[str]) -> Response:
    body = json.dumps({"synced": code == 200, "reason": reason, **facts}, ensure_ascii=False, separators=(",", ":"))
    return Response(body, code, content_type="application/json")

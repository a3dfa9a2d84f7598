"""Asking the running daemon for something in the meta store of a sink that it holds.

Whoever holds the lease looks there every few seconds.  A request that finds nobody stands for a while, and whichever
daemon starts by then carries it out; one that starts later refuses it.
"""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Optional, Sequence

from flusso_sync.errors import DaemonUnreachable, SinkError, SinkUnavailable

if TYPE_CHECKING:
    from flusso_sync.sinks.base import Answer, Request, Sink

#: How often an answer is looked for.
LOOK_SECONDS = 0.25

#: How long a request stands that no daemon takes: the length of an ordinary outage, and not until the day after.
KEEP_SECONDS = 3600.0


class NobodyThere(DaemonUnreachable):
    """No daemon holds the sink now, as far as can be known."""


def ask(
    sinks: Sequence[Sink],
    command: str,
    index: str,
    ids: Sequence[str] = (),
    *,
    timeout_seconds: float,
    keep_seconds: float = KEEP_SECONDS,
) -> Answer:
    """Leave a request in the first of ``sinks`` that can be reached, and wait for the daemon's answer.

    Raises ``DaemonUnreachable`` when there is none within ``timeout_seconds``, ``NobodyThere`` at once when no daemon
    could give one; the request stands for ``keep_seconds`` all the same.
    """
    from flusso_sync.sinks.base import Request

    now = datetime.now(timezone.utc)
    until = _text(now + timedelta(seconds=keep_seconds))
    request = Request(uuid.uuid4().hex, command, index, tuple(ids), _text(now), lasts_seconds=keep_seconds)
    deadline = time.monotonic() + timeout_seconds
    sink = _leave(sinks, request)
    while True:
        answer = sink.answer_to(request.id)
        if answer is not None:
            return answer
        if sink.holder() is None:
            raise NobodyThere(
                f"no daemon holds sink {sink.name} now: the request is kept until {until}, and the first one "
                f"that starts by then carries it out ({command} of index {index})"
            )
        left = deadline - time.monotonic()
        if left <= 0:
            raise DaemonUnreachable(
                f"{sink.holder() or 'the daemon'} holds sink {sink.name} and has not answered within "
                f"{timeout_seconds:g} s; the request is kept until {until}, and carried out should it look by then",
                hint="See its log; --timeout waits longer",
            )
        time.sleep(min(LOOK_SECONDS, left))


def _leave(sinks: Sequence[Sink], request: Request) -> Sink:
    """Any sink will do: one daemon holds them all."""
    failure: Optional[SinkUnavailable] = None
    for sink in sinks:
        try:
            sink.post(request)
            return sink
        except SinkUnavailable as error:
            failure = failure or error
    raise SinkError(failure.message if failure is not None else "no sink keeps requests") from failure


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")

"""The meta store of the sinks, from the side of a command: what stands there, and requests left there for the daemon.

Whoever holds the lease of a sink looks into it every few seconds.  So a command finds the right daemon by the
configuration alone, wherever it runs (``asking.py``).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

from flusso_sync.cli.asking import NobodyThere, ask
from flusso_sync.cli.deployment import Deployment
from flusso_sync.cli.surface import Surface
from flusso_sync.errors import DaemonUnreachable, SinkRefused, SinkUnavailable

if TYPE_CHECKING:
    from flusso_sync.sinks.base import Sink

#: The daemon's public surface answers from memory.
STATUS_SECONDS = 2.0


class MetaStore:
    """``sinks`` are those of ``deployment``, which nobody opened."""

    def __init__(
        self, deployment: Deployment, sinks: Mapping[str, Sink], timeout_seconds: float, keep_seconds: float
    ) -> None:
        self._deployment = deployment
        self._sinks = deployment.stateful(sinks)
        self._timeout_seconds = timeout_seconds
        self._keep_seconds = keep_seconds
        #: Why states are not known; empty while nobody asked, or when they are.
        self.unknown = ""

    @property
    def usable(self) -> bool:
        """Whether any sink remembers."""
        return bool(self._sinks)

    def listing(self) -> Dict[str, Any]:
        """Index -> enabled, state and build (None when no daemon tells), generations per sink."""
        status = self._status()
        details: Mapping[str, Any] = {} if status is None else status["index_details"]
        found: Dict[str, Any] = {}
        for name, entry in self._deployment.config.indexes.items():
            told = details.get(name, {})
            found[name] = {
                "enabled": entry.enabled,
                "state": told.get("state"),
                "build": told.get("build"),
                "sinks": {},
                "unreadable": {},
            }
        for sink in self._sinks:
            try:
                reports = sink.generations()
            except SinkUnavailable as error:
                for one in found.values():
                    one["unreadable"][sink.name] = error.message
                continue
            for name, generations in reports.items():
                if name in found:
                    found[name]["sinks"][sink.name] = [generation.to_json() for generation in generations]
        return found

    def parked(self, index: Optional[str], limit: int) -> Tuple[Dict[str, int], List[Dict[str, Any]]]:
        """Index -> number of parked documents, and the newest of them."""
        counts: Dict[str, int] = {}
        listed: List[Dict[str, Any]] = []
        for sink in self._sinks:
            for one in sink.parked(index):
                counts[one.index] = counts.get(one.index, 0) + 1
                listed.append({"sink": sink.name, **one.to_json()})
        listed.sort(key=lambda entry: str(entry["last"]), reverse=True)
        return counts, listed[:limit]

    def ask(self, command: str, index: str, ids: Sequence[str] = ()) -> str:
        """Leave a request, and wait for its answer; returns what the daemon says, or that there is none now."""
        try:
            answer = ask(
                self._sinks,
                command,
                index,
                ids,
                timeout_seconds=self._timeout_seconds,
                keep_seconds=self._keep_seconds,
            )
        except NobodyThere as nobody:
            return nobody.message
        if answer.accepted:
            return answer.text
        raise SinkRefused(answer.text)

    def _status(self) -> Optional[Dict[str, Any]]:
        """What the daemon of this configuration tells on its public surface; None when none answers there."""
        config = self._deployment.config
        address = config.server.public_address
        if not address.port:
            self.unknown = "states are not known here: server.public_address is any free port"
            return None
        surface = Surface(str(address), "", None, seconds=STATUS_SECONDS, hint="")
        url = f"{surface.url}/status"
        try:
            status: Dict[str, Any] = json.loads(surface.request("GET", "/status").text)
            named = set(status["index_details"])
        except (DaemonUnreachable, ValueError, KeyError, TypeError):
            self.unknown = f"states are not known: no daemon answers at {url}"
            return None
        slot = (status.get("slot") or status.get("facts", {}).get("slot") or {}).get("name")
        if named != set(config.indexes) or slot not in (None, config.source.slot):
            self.unknown = f"states are not known: the daemon at {url} is another deployment's"
            return None
        return status

"""The surfaces of a running daemon, from the side of a command."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import quote, urlencode

import click

from flusso_sync.cli.deployment import unknown_index
from flusso_sync.errors import DaemonUnreachable, SinkRefused

#: Beyond what the surface itself takes for its longest answer (25 s, web/private.py).
ANSWER_SECONDS = 35.0

#: Paths of the commands that ask for something.
_PATHS = {"reindex": "/reindex", "rollback": "/rollback", "retry": "/quarantine/retry"}

#: Of an answer that nobody foresaw, as much as a sentence needs.
_SHOWN_CHARACTERS = 300


class Answer(NamedTuple):
    code: int
    text: str


class Surface:
    """``server`` is ``host:port`` or a URL, by default of ``http``; ``hint`` is what to do where nobody answers.

    Requests carry Basic authentication where there is a password.
    """

    def __init__(self, server: str, user: str, password: Optional[str], *, seconds: float, hint: str) -> None:
        self.url = (server if "://" in server else f"http://{server}").rstrip("/")
        self._headers: Dict[str, str] = {}
        if password:
            self._headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._seconds = seconds
        self._hint = hint
        # An operator's surface is never behind the proxy that the environment may name for the rest of the world.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def request(self, method: str, path: str, body: Optional[bytes] = None) -> Answer:
        """Whatever is answered; raises ``DaemonUnreachable`` where nobody does."""
        try:
            request = urllib.request.Request(self.url + path, body, self._headers, method=method)
            with self._opener.open(request, timeout=self._seconds) as answer:
                return Answer(answer.status, answer.read().decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode("utf-8", "replace").strip())
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", None) or error
            raise DaemonUnreachable(f"no daemon answers at {self.url}: {cause}", hint=self._hint) from error


class PrivateSurface(Surface):
    """What an operator asks for."""

    def __init__(self, server: str, user: str, password: str) -> None:
        hint = "See --server (FLUSSO_SERVER); the daemon serves its private surface only with an admin password"
        super().__init__(server, user, password, seconds=ANSWER_SECONDS, hint=hint)

    def listing(self) -> Dict[str, Any]:
        """Index -> state, build, generations per sink, and what could not be read."""
        found: Dict[str, Any] = json.loads(self._get("/generations"))
        return found

    def parked(self, index: Optional[str], limit: int) -> Tuple[Dict[str, int], List[Dict[str, Any]]]:
        """Index -> number of parked documents, and the newest of them."""
        query = {"limit": str(limit), **({} if index is None else {"index": index})}
        found = json.loads(self._get(f"/quarantine?{urlencode(query)}", index))
        return found["counts"], found["documents"]

    def ask(self, command: str, index: str, ids: Sequence[str] = ()) -> str:
        """Ask for something; returns what the daemon says to it."""
        body = urlencode([("id", id) for id in ids]).encode()
        return self._send("POST", f"{_PATHS[command]}?index={quote(index)}", body, index).strip()

    def _get(self, path: str, index: Optional[str] = None) -> str:
        return self._send("GET", path, None, index)

    def _send(self, method: str, path: str, body: Optional[bytes], index: Optional[str]) -> str:
        answer = self.request(method, path, body)
        if answer.code < 300:
            return answer.text
        if answer.code == 404 and index is not None and answer.text.startswith("unknown index"):
            raise unknown_index(index, json.loads(self._send("GET", "/indexes", None, None)))
        if answer.code == 400 or answer.code == 404 and answer.text.endswith("is disabled"):
            raise click.UsageError(answer.text)
        if answer.code == 409:
            raise SinkRefused(answer.text)
        hints = {
            401: "Give --admin-user and --admin-password (FLUSSO_ADMIN_USER, FLUSSO_ADMIN_PASSWORD)",
            413: "Name fewer documents, or none for all of the index",
            429: "Too many wrong passwords came from here: wait a minute",
        }
        said = " ".join(answer.text.split())[:_SHOWN_CHARACTERS]
        raise DaemonUnreachable(f"server returned {answer.code}: {said}", hint=hints.get(answer.code))

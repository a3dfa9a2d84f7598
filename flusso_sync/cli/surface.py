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
    content_type: str = ""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """No surface sends anybody elsewhere, and a POST would become a GET there."""

    def redirect_request(self, *_: Any) -> None:
        return None


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
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)

    def request(self, method: str, path: str, body: Optional[bytes] = None) -> Answer:
        """Whatever is answered; raises ``DaemonUnreachable`` where nobody does."""
        try:
            request = urllib.request.Request(self.url + path, body, self._headers, method=method)
            with self._opener.open(request, timeout=self._seconds) as answer:
                kind = answer.headers.get_content_type()
                return Answer(answer.status, answer.read().decode("utf-8", "replace"), kind)
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
        return self._get("/generations")

    def parked(self, index: Optional[str], limit: int) -> Tuple[Dict[str, int], List[Dict[str, Any]]]:
        """Index -> number of parked documents, and the newest of them."""
        query = {"limit": str(limit), **({} if index is None else {"index": index})}
        found = self._get(f"/quarantine?{urlencode(query)}", index)
        if not {"counts", "documents"} <= set(found):
            raise self._no_daemon()
        return found["counts"], found["documents"]

    def ask(self, command: str, index: str, ids: Sequence[str] = ()) -> str:
        """Ask for something; returns what the daemon says to it."""
        body = urlencode([("id", id) for id in ids]).encode()
        answer = self._send("POST", f"{_PATHS[command]}?index={quote(index)}", body, index)
        if answer.content_type != "text/plain":
            raise self._no_daemon()
        return answer.text.strip()

    def _get(self, path: str, index: Optional[str] = None) -> Dict[str, Any]:
        answer = self._send("GET", path, None, index)
        try:
            found = json.loads(answer.text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._no_daemon()
        return found

    def _no_daemon(self) -> DaemonUnreachable:
        """Something else answers well: the login page of a proxy, say."""
        return DaemonUnreachable(f"what answers at {self.url} is no daemon of flusso-sync", hint=self._hint)

    def _send(self, method: str, path: str, body: Optional[bytes], index: Optional[str]) -> Answer:
        answer = self.request(method, path, body)
        if answer.code < 300:
            return answer
        if answer.code == 404 and index is not None and answer.text.startswith("unknown index"):
            raise unknown_index(index, self._get("/indexes"))
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

"""The private surface: what an operator may look up and ask for, behind HTTP Basic on every route.

It is served only when there is a password.  Guessing is slowed down per source address by refusing (429),
never by letting a thread sleep.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import threading
from collections import OrderedDict
from time import monotonic
from typing import Callable, Optional, Tuple

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from flusso_sync.errors import SinkRefused
from flusso_sync.schema import names
from flusso_sync.status import Status

logger = logging.getLogger("flusso_sync.web.private")

TEXT = "text/plain; charset=utf-8"

#: Wrong guesses of one address that cost nothing; each further one doubles the pause, up to the longest.
FREE_GUESSES = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0

#: Addresses remembered; the one that was quiet for longest is forgotten first.
ADDRESSES = 1000

Credentials = Callable[[], Tuple[str, str]]


class Guesses:
    """Wrong guesses per source address, and until when each has to wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wrong: "OrderedDict[str, Tuple[int, float]]" = OrderedDict()

    def pause(self, address: str) -> float:
        """Seconds this address has to wait now; 0 when it may ask."""
        with self._lock:
            _, until = self._wrong.get(address, (0, 0.0))
            return max(0.0, until - monotonic())

    def wrong(self, address: str) -> int:
        """Count a wrong guess; returns how many there were."""
        with self._lock:
            count = self._wrong.pop(address, (0, 0.0))[0] + 1
            pause = 0.0
            if count >= FREE_GUESSES:
                # The exponent is capped as well: a patient guesser must not overflow a float.
                pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(count - FREE_GUESSES, 30))
            self._wrong[address] = (count, monotonic() + pause)
            while len(self._wrong) > ADDRESSES:
                self._wrong.popitem(last=False)
            return count

    def right(self, address: str) -> None:
        """Forget the wrong guesses of an address."""
        with self._lock:
            self._wrong.pop(address, None)


def private_app(status: Status, credentials: Credentials, reindex: Callable[[str], object]) -> Flask:
    """The WSGI application of the private surface.

    ``credentials`` returns user and password, read anew for each request.  ``reindex`` queues a rebuild; it
    raises ``KeyError`` for an index it does not know, ``SinkRefused`` for one that cannot be built now and
    ``RuntimeError`` while nothing runs.
    """
    app = Flask("flusso_sync.web.private", static_folder=None)
    guesses = Guesses()

    @app.before_request
    def authenticate() -> Optional[Response]:
        address = request.remote_addr or "unknown"
        pause = guesses.pause(address)
        if pause > 0:
            response = Response("too many wrong passwords\n", 429, content_type=TEXT)
            response.headers["Retry-After"] = str(int(pause) + 1)
            return response
        if _authorized(request.headers.get("Authorization"), credentials):
            guesses.right(address)
            return None
        if "Authorization" in request.headers:
            count = guesses.wrong(address)
            logger.warning("wrong credentials from %s (%d times)", address, count)
        response = Response("unauthorized\n", 401, content_type=TEXT)
        response.headers["WWW-Authenticate"] = 'Basic realm="flusso", charset="UTF-8"'
        return response

    def indexes() -> Response:
        found = status.snapshot().to_json()["indexes"]
        return Response(json.dumps(found, ensure_ascii=False, separators=(",", ":")), content_type="application/json")

    def queue_reindex() -> Response:
        given = request.args.get("index")
        if given is None:
            return Response("missing query parameter ?index=<name>\n", 400, content_type=TEXT)
        try:
            name = names.plain_identifier(given)
        except ValueError:
            return Response(f'invalid index name "{given}"\n', 400, content_type=TEXT)
        try:
            reindex(name)
        except KeyError:
            return Response(f"unknown index {name}\n", 404, content_type=TEXT)
        except SinkRefused as error:
            return Response(f"{error}\n", 409, content_type=TEXT)
        except RuntimeError:
            return Response("reindex queue is full or closed\n", 503, content_type=TEXT)
        return Response(f"reindex of {name} queued\n", 202, content_type=TEXT)

    app.add_url_rule("/indexes", view_func=indexes, methods=["GET"], provide_automatic_options=False)
    app.add_url_rule("/reindex", view_func=queue_reindex, methods=["POST"], provide_automatic_options=False)

    @app.after_request
    def forbid_storing(response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.errorhandler(HTTPException)
    def empty(error: HTTPException) -> Response:
        response = Response("", error.code or 500, content_type=TEXT)
        for header, value in error.get_headers():
            if header == "Allow":
                response.headers[header] = value
        return response

    return app


def _authorized(header: Optional[str], credentials: Credentials) -> bool:
    """Whether the header names our user and password, compared together and in constant time."""
    if header is None:
        return False
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    user, password = credentials()
    # An empty password is no password, whatever the configuration came to hold meanwhile.
    return hmac.compare_digest(given, f"{user}:{password}".encode()) and bool(password)

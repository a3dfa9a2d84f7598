"""The private surface: what an operator may look up and ask for, behind HTTP Basic on every route.

It is served only when there is a password.  Guessing is slowed down per source address by refusing (429),
never by letting a thread sleep.  What changes something is a POST, and a browser may only send it from our own page.
What has to ask a sink is done on a thread of its own, which a request waits for only so long: then the answer is 202
(it goes on) or, for what was to be read, 503.

Sentences are text, as flusso's are; who accepts JSON gets them as ``{"code": 404, "error": "…"}`` or ``{"code": 202,
"message": "…"}``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import threading
from collections import OrderedDict
from time import monotonic
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Tuple
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from flusso_sync.errors import FlussoError, SinkRefused
from flusso_sync.schema import names
from flusso_sync.sinks.base import Parked, Sink
from flusso_sync.status import IndexState, Status
from flusso_sync.web.dashboard import add_dashboard, guard, json_answer

logger = logging.getLogger("flusso_sync.web.private")

TEXT = "text/plain; charset=utf-8"

#: Wrong guesses of one address that cost nothing; each further one doubles the pause, up to the longest.
FREE_GUESSES = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0

#: Addresses remembered; the one that was quiet for longest is forgotten first.
ADDRESSES = 1000

#: How long a request waits for what it asked for: the daemon gives a retry of parked documents 20 s (operations.py).
ACT_SECONDS = 10.0
RETRY_SECONDS = 25.0
READ_SECONDS = 10.0

#: Requests under way at once, as flusso has it, and as many that only read.
MOST_REQUESTS = 8

#: Parked documents listed unless the request asks for more or fewer, and at most.
LISTED = 100
MOST_LISTED = 100_000

Credentials = Callable[[], Tuple[str, str]]


class Operations(Protocol):
    """What the surface asks for: ``RunningDaemon``, as seen from here.

    The first four return a sentence; they raise ``KeyError`` for an unknown or disabled index, ``RuntimeError`` while
    nothing runs, and ``SinkRefused`` where something cannot be.
    """

    def reindex(self, name: str) -> object: ...

    def rollback(self, name: str) -> str: ...

    def retry(self, name: str, ids: Sequence[str] = ()) -> str: ...

    def verify(self, name: str) -> str: ...

    @property
    def sinks(self) -> Mapping[str, Sink]: ...


class Busy(Exception):
    """Too much is under way already."""


class StillAtIt(Exception):
    """It goes on, but not within the time that a request waits."""


class Desk:
    """Does what requests ask for on threads of its own, at most ``places`` at once."""

    def __init__(self, places: int) -> None:
        self._places = threading.BoundedSemaphore(places)

    def do(self, what: Callable[[], Any], seconds: float) -> Any:
        """The result of ``what``, or its error, within ``seconds``; raises ``Busy`` and ``StillAtIt``."""
        if not self._places.acquire(blocking=False):
            raise Busy
        done = threading.Event()
        result: Dict[str, Any] = {}

        def work() -> None:
            try:
                result["value"] = what()
            except BaseException as error:
                result["error"] = error
                if result.get("left"):
                    logger.warning("a request that nobody waits for any more failed: %s", error)
            finally:
                self._places.release()
                done.set()

        try:
            threading.Thread(target=work, name="flusso-web-request", daemon=True).start()
        except RuntimeError:
            # The system gives no more threads.
            self._places.release()
            raise Busy from None
        if not done.wait(seconds):
            result["left"] = True
            raise StillAtIt
        if "error" in result:
            raise result["error"]
        return result["value"]


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


class _Refused(Exception):
    """Ends a request with this answer."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def private_app(status: Status, credentials: Credentials, operations: Operations) -> Flask:
    """The WSGI application of the private surface.

    ``credentials`` returns user and password, read anew for each request.
    """
    app = Flask("flusso_sync.web.private", static_folder=None)
    guesses = Guesses()
    acting, reading = Desk(MOST_REQUESTS), Desk(MOST_REQUESTS)

    @app.before_request
    def authenticate() -> Optional[Response]:
        address = request.remote_addr or "unknown"
        pause = guesses.pause(address)
        if pause > 0:
            response = _sentence("too many wrong passwords", 429)
            response.headers["Retry-After"] = str(int(pause) + 1)
            return response
        try:
            right = _authorized(request.headers.get("Authorization"), credentials)
        except FlussoError as error:
            logger.error("nobody is let in: %s", error)
            return _sentence("the password of this surface cannot be read now; its log says why", 503)
        if right:
            guesses.right(address)
            return None if _from_our_page() else _sentence("another site asks; use the page of this surface", 403)
        if "Authorization" in request.headers:
            count = guesses.wrong(address)
            logger.warning("wrong credentials from %s (%d times)", address, count)
        response = _sentence("unauthorized", 401)
        response.headers["WWW-Authenticate"] = 'Basic realm="flusso", charset="UTF-8"'
        return response

    def indexes() -> Response:
        return json_answer(status.snapshot().to_json()["indexes"])

    def known(name: str) -> str:
        """An index the daemon has heard of, enabled or not."""
        if status.index_state(name) is None:
            raise _Refused(404, f"unknown index {name}")
        return name

    def wanted() -> Optional[str]:
        """The index that is asked for by the query, None when it names none."""
        given = request.args.get("index")
        if given is None:
            return None
        try:
            return names.plain_identifier(given)
        except ValueError:
            raise _Refused(400, f'invalid index name "{given}"') from None

    def act(command: str, what: Callable[[str], object], seconds: float) -> Tuple[str, Optional[str]]:
        """The index, and the sentence that came within ``seconds``."""
        name = wanted()
        if name is None:
            raise _Refused(400, "missing query parameter ?index=<name>")
        try:
            return name, str(acting.do(lambda: what(name), seconds))
        except StillAtIt:
            return name, None
        except KeyError:
            state = status.index_state(name)
            if state not in (None, IndexState.DISABLED):
                # Nobody asked for something unknown: a fault of ours.
                raise
            raise _Refused(404, f"unknown index {name}" if state is None else f"index {name} is disabled") from None
        except Busy:
            raise _Refused(503, f"{command} queue is full or closed") from None
        except RuntimeError as error:
            logger.warning("%s of index %s: %s", command, name, error, extra={"index": name})
            raise _Refused(503, f"{command} queue is full or closed") from None

    def read(what: Callable[[], Any]) -> Response:
        try:
            found = reading.do(what, READ_SECONDS)
        except (Busy, StillAtIt):
            raise _Refused(503, "the sinks do not answer now") from None
        return json_answer(found)

    def queue_reindex() -> Response:
        name, _ = act("reindex", operations.reindex, ACT_SECONDS)
        return _sentence(f"reindex of {name} queued", 202)

    def roll_back() -> Response:
        name, sentence = act("rollback", operations.rollback, ACT_SECONDS)
        return _sentence(f"rollback of {name} queued", 202) if sentence is None else _sentence(sentence)

    def retry() -> Response:
        ids = request.args.getlist("id") + request.form.getlist("id")
        name, sentence = act("retry", lambda index: operations.retry(index, ids), RETRY_SECONDS)
        return _sentence(f"retry of {name} queued", 202) if sentence is None else _sentence(sentence)

    def verify() -> Response:
        name, sentence = act("verify", operations.verify, ACT_SECONDS)
        return _sentence(f"comparison of {name} queued" if sentence is None else sentence, 202)

    def generations() -> Response:
        only = wanted()
        if only is not None:
            known(only)
        return read(lambda: _generations(status, operations.sinks, only))

    def quarantine() -> Response:
        only = wanted()
        if only is not None:
            known(only)
        limit = request.args.get("limit", default=str(LISTED))
        if not limit.isdecimal() or not limit.isascii() or int(limit[:9]) > MOST_LISTED:
            raise _Refused(400, f"limit must be a number up to {MOST_LISTED}")
        return read(lambda: _quarantine(operations.sinks, only, int(limit)))

    for method, path, view in (
        ("GET", "/indexes", indexes),
        ("POST", "/reindex", queue_reindex),
        ("POST", "/rollback", roll_back),
        ("GET", "/generations", generations),
        ("GET", "/quarantine", quarantine),
        ("POST", "/quarantine/retry", retry),
        ("POST", "/verify", verify),
    ):
        app.add_url_rule(path, view_func=view, methods=[method], provide_automatic_options=False)

    add_dashboard(app, status, surface="private")
    app.after_request(guard)

    @app.errorhandler(_Refused)
    def refused(error: _Refused) -> Response:
        return _sentence(str(error), error.code)

    @app.errorhandler(FlussoError)
    def failed(error: FlussoError) -> Response:
        # A refusal leaves all as it was; anything else may pass.
        return _sentence(str(error), 409 if isinstance(error, SinkRefused) else 503)

    @app.errorhandler(HTTPException)
    def empty(error: HTTPException) -> Response:
        code = error.code or 500
        response = _sentence(error.name, code) if _wants_json() else Response("", code, content_type=TEXT)
        for header, value in error.get_headers():
            if header == "Allow":
                response.headers[header] = value
        return response

    return app


class _Listed(NamedTuple):
    """Parked documents of a sink."""

    sink: str
    parked: Parked


def _generations(status: Status, sinks: Mapping[str, Sink], only: Optional[str]) -> Dict[str, Any]:
    """Index -> its state, its build, and its generations in each sink that has any; a sink that is away is named."""
    snapshot = status.snapshot()
    found: Dict[str, Any] = {
        name: {
            "state": index.state.value,
            "build": None if index.build is None else index.build.to_json(),
            "sinks": {},
            "unreadable": {},
        }
        for name, index in snapshot.indexes.items()
        if only in (None, name)
    }
    for sink_name, sink in sinks.items():
        try:
            reports = sink.generations()
        except FlussoError as error:
            for entry in found.values():
                entry["unreadable"][sink_name] = error.message
            continue
        for name, generations in reports.items():
            if name in found:
                found[name]["sinks"][sink_name] = [one.to_json() for one in generations]
    return found


def _quarantine(sinks: Mapping[str, Sink], only: Optional[str], limit: int) -> Dict[str, Any]:
    """How many documents each index has parked, and the newest of them."""
    counts: Dict[str, int] = {}
    listed: List[_Listed] = []
    for sink_name, sink in sinks.items():
        for one in sink.parked(only):
            counts[one.index] = counts.get(one.index, 0) + 1
            listed.append(_Listed(sink_name, one))
    listed.sort(key=lambda entry: (entry.parked.last, entry.parked.lsn), reverse=True)
    return {"counts": counts, "documents": [{"sink": name, **one.to_json()} for name, one in listed[:limit]]}


def _sentence(sentence: str, code: int = 200) -> Response:
    """A sentence, as text or as JSON."""
    if _wants_json():
        return json_answer({"code": code, "error" if code >= 400 else "message": sentence}, code)
    return Response(sentence + "\n", code, content_type=TEXT)


def _wants_json() -> bool:
    return request.accept_mimetypes.best == "application/json"


def _from_our_page() -> bool:
    """Whether nothing tells that a browser sends this POST for another site; programs send none of these headers."""
    if request.method in ("GET", "HEAD"):
        return True
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    # Not the scheme: a proxy in front of us may speak TLS.
    return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()


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
    # Digests have one length, which tells nothing of the password's.
    wanted = hashlib.sha256(f"{user}:{password}".encode()).digest()
    return hmac.compare_digest(hashlib.sha256(given).digest(), wanted) and bool(password)

"""The page and what it asks for.

Only for the machine itself: requests that name another host are refused (a name that was made to point at 127.0.0.1 is
no friend), and so is whatever a browser sends for another site.  Answers carry the dashboard's headers.
"""

from __future__ import annotations

import threading
from importlib import resources
from pathlib import Path
from typing import AbstractSet, Any, Callable, Dict, List, Mapping, Optional, Tuple

import psycopg
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from demo.changes import Unfit, change
from demo.documents import Documents, Name, shown
from demo.feed import Away, Feed, Writer, connect
from demo.proof import Proof
from demo.rows import QUERIES, neighbours, rows_of
from demo.services import Flussod, Postgres
from demo.stopwatch import Daemon
from flusso_sync.errors import FlussoError, SinkUnavailable
from flusso_sync.web.dashboard import guard, json_answer

STATIC = Path(__file__).resolve().parent / "static"

#: Path -> (file, content type); the dashboard's look and sign are the package's own.
FILES: Mapping[str, Tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/demo.css": ("demo.css", "text/css; charset=utf-8"),
    "/demo.js": ("demo.js", "text/javascript; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

#: Documents shown of each index, when all are searched and when one is.
MOST_OF_EACH = 4
MOST_OF_ONE = 10

#: How long a change waits to be found before it is answered; later it is told by ``/state``.
PATIENCE_SECONDS = 0.5

#: Longest query, in characters.
LONGEST_QUERY = 200


class Watch:
    """The daemon's ``/status``, asked by one thread for all who look."""

    def __init__(self, daemon: Daemon, stop: threading.Event, seconds: float = 0.4) -> None:
        self._daemon = daemon
        self._stop = stop
        self._seconds = seconds
        self._last: Optional[Dict[str, Any]] = None
        self._thread = threading.Thread(target=self._look, name="demo-watch", daemon=True)
        self._thread.start()

    @property
    def status(self) -> Optional[Dict[str, Any]]:
        """None while the daemon does not answer."""
        return self._last

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _look(self) -> None:
        while not self._stop.is_set():
            self._last = self._daemon.status()
            self._stop.wait(self._seconds)


class Behind:
    """Everything that the page speaks to."""

    def __init__(
        self,
        url: str,
        postgres: Postgres,
        flussod: Flussod,
        documents: Documents,
        feed: Feed,
        writer: Writer,
        proof: Proof,
        watch: Watch,
    ) -> None:
        self.url = url
        self.postgres = postgres
        self.flussod = flussod
        self.documents = documents
        self.feed = feed
        self.writer = writer
        self.proof = proof
        self.watch = watch


def page_app(behind: Behind, hosts: AbstractSet[str]) -> Flask:
    """The WSGI application; ``hosts`` are the values of ``Host`` that mean us."""
    app = Flask("demo", static_folder=None)

    @app.before_request
    def from_here() -> Optional[Response]:
        if request.host.lower() not in hosts:
            return _no("this page is for the machine it runs on", 403)
        if request.method in ("GET", "HEAD"):
            return None
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{request.host.lower()}":
            return _no("another site asks", 403)
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            return _no("another site asks", 403)
        # What a form of another site can send is not JSON.
        return None if request.is_json else _no("send JSON", 415)

    def search() -> Response:
        words = request.args.get("q", "")[:LONGEST_QUERY]
        index = request.args.get("index", "")
        if index and index not in behind.documents.indexes:
            return _no("there is no such index", 404)
        found: List[Dict[str, Any]] = []
        away = False
        for name in [index] if index else behind.documents.indexes:
            try:
                hits = behind.documents.search(name, words, MOST_OF_ONE if index else MOST_OF_EACH)
            except SinkUnavailable:
                away = True
                break
            except FlussoError:
                # Its first build is not complete; the state says so.
                continue
            found += [{"index": name, "id": id, "document": shown(document)} for id, document in hits]
        return json_answer({"documents": found, "away": away})

    def one() -> Response:
        """A document and the rows behind it."""
        index, id = request.args.get("index", ""), request.args.get("id", "")
        if index not in QUERIES or not (id.isascii() and id.isdecimal() and len(id) < 16):
            return _no("there is no such document", 404)
        found = behind.documents.read([Name(index, id)])
        answer: Dict[str, Any] = {"index": index, "id": id, "away": found is None}
        answer["document"] = shown((found or {}).get(Name(index, id)))
        try:
            with connect(behind.url) as connection:
                answer["tables"] = rows_of(connection, index, int(id))
                answer["others"] = neighbours(connection, index, int(id))
        except psycopg.Error:
            answer["tables"] = None
            answer["others"] = {}
        return json_answer(answer)

    def counted(documents: Optional[int], index: str) -> Optional[int]:
        # The daemon asks its sinks now and then, and knows nothing before it did so once.
        return behind.documents.count(index) if documents is None else documents

    def state() -> Response:
        status = behind.watch.status
        daemon: Dict[str, Any] = {**behind.flussod.state(), "pid": behind.flussod.pid, "status": None}
        daemon["dashboard"] = f"http://{behind.flussod.address}/"
        if status is not None and daemon["running"]:
            daemon["status"] = {
                "phase": status["phase"],
                "ready": status["ready"],
                "reason": status["ready_reason"],
                "lag_seconds": status["lag_seconds"],
                "documents_per_second": status["rates"]["documents_per_second"],
                "indexes": {
                    name: {"state": index["state"], "documents": counted(index["documents"], name)}
                    for name, index in status["index_details"].items()
                },
            }
        return json_answer(
            {
                "daemon": daemon,
                "postgres": behind.postgres.state(),
                "writer": behind.writer.to_json(),
                "verify": behind.proof.to_json(),
                "feed": behind.feed.to_json(),
            }
        )

    def make_change() -> Response:
        try:
            entry = behind.feed.make(change(request.get_json(silent=True)), PATIENCE_SECONDS)
        except Unfit as error:
            return _no(str(error), 400)
        except Away as error:
            return _no(str(error), 503)
        return json_answer(entry.to_json())

    def switch() -> Response:
        given = request.get_json(silent=True)
        behind.writer.switch(isinstance(given, dict) and given.get("on") is True)
        return json_answer(behind.writer.to_json())

    def verify() -> Response:
        return json_answer({"begun": behind.proof.start()}, 202)

    def end() -> Response:
        given = request.get_json(silent=True)
        service = {"daemon": behind.flussod, "postgres": behind.postgres}.get(
            given.get("what", "") if isinstance(given, dict) else ""
        )
        if service is None:
            return _no("there is nothing of that name", 400)
        return json_answer({"asked": service.ask_to_end()}, 202)

    for path, (name, content_type) in FILES.items():
        app.add_url_rule(path, path, _file(name, content_type), methods=["GET"], provide_automatic_options=False)
    views: List[Tuple[str, str, Callable[[], Response]]] = [
        ("GET", "/search", search),
        ("GET", "/document", one),
        ("GET", "/state", state),
        ("POST", "/change", make_change),
        ("POST", "/writer", switch),
        ("POST", "/verify", verify),
        ("POST", "/end", end),
    ]
    for method, path, view in views:
        app.add_url_rule(path, view_func=view, methods=[method], provide_automatic_options=False)

    @app.errorhandler(HTTPException)
    def plain(error: HTTPException) -> Response:
        return _no(error.name, error.code or 500)

    app.after_request(guard)
    return app


def _no(sentence: str, code: int) -> Response:
    return json_answer({"error": sentence}, code)


def _file(name: str, content_type: str) -> Callable[[], Response]:
    own = STATIC / name
    content = own.read_bytes() if own.exists() else (resources.files("flusso_sync.web") / "static" / name).read_bytes()
    return lambda: Response(content, content_type=content_type)

"""The public surface: page, health, readiness, status, metrics, synced.  No auth, no row data, changes nothing."""

from __future__ import annotations

from typing import Callable, Optional

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from flusso_sync.status import Status
from flusso_sync.web.dashboard import add_dashboard, guard

TEXT = "text/plain; charset=utf-8"


def public_app(
    status: Status,
    metrics: Optional[Callable[[], Optional[bytes]]] = None,
    synced: Optional[Callable[[], Response]] = None,
) -> Flask:
    """The WSGI application of the public surface.

    ``metrics`` returns the Prometheus text, or None when it cannot be made now (answered with 503).  ``synced`` is the
    view of ``/synced``; without one there is no such route.
    """
    app = Flask("flusso_sync.web.public", static_folder=None)
    # An OPTIONS answered by Flask would be the one route nobody wrote.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    def healthz() -> Response:
        return Response("", content_type=TEXT)

    def readyz() -> Response:
        ready, reason = status.ready()
        return Response(reason + "\n", 200 if ready else 503, content_type=TEXT)

    def show_metrics() -> Response:
        text = metrics() if metrics is not None else None
        if text is None:
            return Response("", 503, content_type=TEXT)
        return Response(text, content_type=TEXT)

    routes = {"/healthz": healthz, "/readyz": readyz, "/metrics": show_metrics}
    if synced is not None:
        routes["/synced"] = synced
    for path, view in routes.items():
        app.add_url_rule(path, path, view, methods=["GET"], provide_automatic_options=False)
    add_dashboard(app, status, surface="public")
    app.after_request(guard)

    @app.errorhandler(HTTPException)
    def empty(error: HTTPException) -> Response:
        response = Response("", error.code or 500, content_type=TEXT)
        for name, value in error.get_headers():
            if name == "Allow":
                response.headers[name] = value
        return response

    return app

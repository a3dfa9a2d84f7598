"""The page: a few files of the package and the JSON they draw, the same on both surfaces.

Nothing is built, nothing comes from elsewhere, nothing in it is executed that does not stand in ``static/``.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Callable, Dict, Mapping, Tuple

from flask import Flask, Response

from flusso_sync.history import POINT_SECONDS, Point
from flusso_sync.status import Status

#: Path -> (file, content type).
FILES: Mapping[str, Tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

#: What a browser may do with the page: use its own files, ask its own surface.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # State of now, and files that the next version of the daemon brings along with it.
    "Cache-Control": "no-store",
}


def guard(response: Response) -> Response:
    """Every answer of a surface carries the headers above; for ``after_request``."""
    for name, value in HEADERS.items():
        response.headers[name] = value
    return response


def add_dashboard(app: Flask, status: Status, *, surface: str) -> None:
    """Serve the page, ``/status`` and ``/history``; ``surface``: ``public``, or ``private`` with its actions."""

    def show_status() -> Response:
        told = status.snapshot().to_json()
        return json_answer(told if surface == "private" else _without_ids(told))

    def show_history() -> Response:
        return json_answer(
            {
                "interval_seconds": POINT_SECONDS,
                "columns": list(Point._fields),
                "points": [list(point) for point in status.history()],
            }
        )

    views: Dict[str, Callable[[], Response]] = {"/status": show_status, "/history": show_history}
    for path, (name, content_type) in FILES.items():
        views[path] = _file(name, content_type, surface)
    for path, view in views.items():
        app.add_url_rule(path, path, view, methods=["GET"], provide_automatic_options=False)


def _without_ids(told: Dict[str, Any]) -> Dict[str, Any]:
    """What everybody may read: an id may be somebody's address."""
    found = {
        index: {**said, "differences": [{**one, "id": None} for one in said["differences"]]}
        if "differences" in said
        else said
        for index, said in told.get("verify", {}).items()
    }
    return {**told, "verify": found} if found else told


def json_answer(value: Any, code: int = 200) -> Response:
    """Not jsonify: it would sort the keys."""
    body = json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))
    return Response(body, code, content_type="application/json")


def _file(name: str, content_type: str, surface: str) -> Callable[[], Response]:
    content = (resources.files("flusso_sync.web") / "static" / name).read_bytes()
    if name == "index.html":
        content = content.replace(b'data-surface="public"', b'data-surface="%s"' % surface.encode())

    def show() -> Response:
        return Response(content, content_type=content_type)

    return show

"""A web application that keeps its own search index: the daemon runs in the background of the process, and a request
that writes answers only once its change is found by search.

    createdb shop && psql -d shop -f examples/shop.sql
    DATABASE_URL=postgresql:///shop flask --app "examples.flask_shop:create_app('etc/flusso.yaml')" run
    curl -X POST localhost:5000/products/1 -d name='Blue desk lamp'
    curl 'localhost:5000/search?q=blue'

One process, many threads: a second process would wait for the first one's lease.  Where there are several, run
``flussod`` beside them, and wait with its ``/synced``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from typing import Any

import psycopg
from flask import Flask, Response, request

from flusso_sync import Daemon, load_config

SYNC_SECONDS = 5.0


def create_app(config: str) -> Flask:
    """The application; its daemon has read the configuration when this returns, and ends with the process."""
    app = Flask(__name__)
    closing = contextlib.ExitStack()
    atexit.register(closing.close)
    running = closing.enter_context(Daemon(load_config(config)).background())
    app.extensions["flusso"] = closing

    @app.post("/products/<int:id>")
    def rename(id: int) -> Any:
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as shop:
            shop.execute("UPDATE products SET name = %s WHERE id = %s", [request.form["name"], id])
            # Read after the commit, so it covers it.
            (position,) = shop.execute("SELECT pg_current_wal_flush_lsn() - '0/0'").fetchone()
        found = running.synced(int(position), SYNC_SECONDS)
        return {"found_by_search": found}, 200 if found else 202

    @app.get("/search")
    def search() -> Any:
        (sink,) = running.sinks.values()
        return {"products": [document["name"] for _, document in sink.search("products", request.args["q"])]}

    @app.get("/healthz")
    def health() -> Response:
        # A daemon that failed has said so in the log; the application decides what that means for it.
        live = running.wait_until_live(0)
        return Response(running.status.phase.value, status=200 if live else 503)

    return app

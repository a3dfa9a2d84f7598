"""An HTTP server in front of a real OpenSearch node, which refuses, throttles or resets what a test tells it to."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import random
import socket
import struct
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from tests.faults.rig import port_of


class Asked(NamedTuple):
    method: str
    path: str
    headers: Dict[str, str]
    body: bytes


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Dict[str, str] = {}


def failure(status: int, type: str, **headers: str) -> Answer:
    body = {"error": {"type": type, "reason": "on purpose"}, "status": status}
    return Answer(status, json.dumps(body).encode(), {"content-type": "application/json", **headers})


class Front:
    """Forwards to ``node``.  ``intercept`` may answer in its place; ``limit`` is the most bytes of a body, beyond which
    it answers 413, or resets the connection while the body is sent if ``resets``."""

    def __init__(self, node: str) -> None:
        self.intercept: Callable[[Asked], Optional[Answer]] = lambda asked: None
        self.limit: Optional[int] = None
        self.resets = False
        self.over_limit = 0
        self._node = port_of(node)
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            node: Optional[http.client.HTTPConnection] = None

            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                too_large = front.limit is not None and length > front.limit
                if too_large:
                    front.over_limit += 1
                    if front.resets:
                        # Unread data at close: the kernel answers with a reset.
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        self.close_connection = True
                        return
                asked = Asked(
                    self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, self.rfile.read(length)
                )
                try:
                    answer = failure(413, "") if too_large else front.intercept(asked) or self.forward(asked)
                except (OSError, http.client.HTTPException):
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in {**answer.headers, "content-length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def forward(self, asked: Asked) -> Answer:
                if self.node is None:
                    self.node = http.client.HTTPConnection("127.0.0.1", front._node, timeout=60)
                own = ("host", "connection", "content-length", "accept-encoding", "authorization")
                headers = {name: value for name, value in asked.headers.items() if name not in own}
                self.node.request(asked.method, asked.path, asked.body or None, headers)
                reply = self.node.getresponse()
                return Answer(reply.status, reply.read(), {"content-type": "application/json"})

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                """Clients come and go; that is what the tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class Flaky:
    """An ``intercept`` under which a bulk item fails once, at random, and is not carried out; whole requests as well.

    ``failed`` counts items by what they were told.
    """

    def __init__(self, front: Front, seed: int, share: float = 0.4) -> None:
        self._node = front._node
        self._random = random.Random(seed)
        self._share = share
        self._seen: Set[Tuple[Any, ...]] = set()
        self._lock = threading.Lock()
        self.failed: Dict[int, int] = {}
        self.requests_refused = 0

    def __call__(self, asked: Asked) -> Optional[Answer]:
        if not asked.path.startswith("/_bulk"):
            return None
        with self._lock:
            if self._random.random() < 0.05:
                self.requests_refused += 1
                return self._random.choice(
                    [
                        failure(429, "es_rejected_execution_exception", **{"retry-after": "1"}),
                        failure(503, "unavailable_shards_exception"),
                    ]
                )
            actions, refused = self._choose(asked.body)
        if not refused:
            return None
        items: List[Any] = []
        kept = b"".join(text for place, (_, _, text) in enumerate(actions) if place not in refused)
        if kept:
            node = http.client.HTTPConnection("127.0.0.1", self._node, timeout=60)
            headers = {"content-type": asked.headers["content-type"]}
            node.request("POST", asked.path, kept, headers)
            reply = node.getresponse()
            data = reply.read()
            node.close()
            if reply.status != 200:
                return Answer(reply.status, data, {"content-type": "application/json"})
            items = json.loads(data)["items"]
        items.reverse()
        answers = []
        for place, (action, index, _) in enumerate(actions):
            if place in refused:
                error = {"type": "es_rejected_execution_exception", "reason": "on purpose"}
                answers.append({action: {"_index": index, "status": refused[place], "error": error}})
            else:
                answers.append(items.pop())
        body = json.dumps({"errors": True, "items": answers}).encode()
        return Answer(200, body, {"content-type": "application/json"})

    def _choose(self, body: bytes) -> Tuple[List[Tuple[str, str, bytes]], Dict[int, int]]:
        actions: List[Tuple[str, str, bytes]] = []
        refused: Dict[int, int] = {}
        lines = iter(body.split(b"\n")[:-1])
        for line in lines:
            ((action, facts),) = json.loads(line).items()
            text = line + b"\n" + (next(lines) + b"\n" if action == "index" else b"")
            key = (facts["_index"], facts["_id"], facts.get("version"), action)
            if key not in self._seen:
                self._seen.add(key)
                if self._random.random() < self._share:
                    status = refused[len(actions)] = self._random.choice([429, 503])
                    self.failed[status] = self.failed.get(status, 0) + 1
            actions.append((action, facts["_index"], text))
        return actions, refused


def wants_password(password: Callable[[], str]) -> Callable[[Asked], Optional[Answer]]:
    """An ``intercept`` that lets in user ``flusso`` with this password alone."""

    def look(asked: Asked) -> Optional[Answer]:
        right = "Basic " + base64.b64encode(f"flusso:{password()}".encode()).decode()
        return None if asked.headers.get("authorization") == right else failure(401, "security_exception")

    return look

"""Failures of HTTP become errors that say what may have happened.

A double stands in for shapes that a real node cannot be made to give.
"""

from __future__ import annotations

import base64
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest
import urllib3

from flusso_sync.errors import (
    PayloadTooLarge,
    SinkBlocked,
    SinkError,
    SinkOverloaded,
    SinkRefused,
    SinkUnauthorized,
    SinkUnavailable,
)
from flusso_sync.sinks.opensearch.client import LARGE_BYTES, Client, Refused, Unreadable
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings
from flusso_sync.sinks.opensearch.sink import OpenSearchSink
from flusso_sync.testing.sinks import ME, plan, put
from tests.fix_opensearch import Prefix

#: What a double answers: status, headers and body; or does instead with the connection, before answering.
Answer = Tuple[int, Dict[str, str], bytes]
Reply = Callable[["Request"], Optional[Answer]]


class Request(NamedTuple):
    method: str
    path: str
    headers: Dict[str, str]
    body: bytes
    connection: socket.socket


def error(status: int, type: str, reason: str = "why", **headers: str) -> Answer:
    body = {"error": {"type": type, "reason": reason}, "status": status}
    return status, headers, json.dumps(body).encode()


class Double:
    """An HTTP server that answers as ``reply`` says and keeps every request."""

    def __init__(self, tls: Optional[ssl.SSLContext] = None) -> None:
        self.requests: List[Request] = []
        self.reply: Reply = lambda request: (200, {}, b"{}")
        double = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {k.lower(): v for k, v in self.headers.items()}
                request = Request(self.command, self.path, headers, body, self.connection)
                double.requests.append(request)
                answer = double.reply(request)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                for name, value in {**answer[1], "content-length": str(len(answer[2]))}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(answer[2])

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"

    def answers(self, *answers: Optional[Answer]) -> None:
        """Give these in turn, the last one for ever."""
        left = list(answers)
        self.reply = lambda request: left.pop(0) if len(left) > 1 else left[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def double() -> Iterator[Double]:
    server = Double()
    yield server
    server.close()


@pytest.fixture
def make(double: Double) -> Iterator[Callable[..., Client]]:
    made: List[Client] = []

    def make(**settings: Any) -> Client:
        made.append(Client(OpenSearchSettings(**{"url": double.url, "timeout_secs": 5, **settings})))
        return made[-1]

    yield make
    for client in made:
        client.close()


Make = Callable[..., Client]


@pytest.mark.parametrize(
    "answer, expected, in_doubt",
    [
        (error(429, "opensearch_rejected_execution_exception", **{"retry-after": "7"}), SinkOverloaded, False),
        (error(429, "cluster_block_exception", "flood-stage"), SinkBlocked, False),
        (error(403, "cluster_block_exception", "read-only"), SinkBlocked, False),
        (error(503, "cluster_block_exception", "state not recovered"), SinkBlocked, False),
        ((502, {}, b"<html>Bad Gateway"), SinkUnavailable, True),
        (error(503, "unavailable_shards_exception"), SinkUnavailable, True),
        ((504, {}, b""), SinkUnavailable, True),
        (error(401, "security_exception"), SinkUnauthorized, False),
        (error(403, "security_exception"), SinkUnauthorized, False),
    ],
    ids=lambda value: f"{value[0]}" if isinstance(value, tuple) else "",
)
def test_what_passes_is_waited_for(make: Make, double: Double, answer: Answer, expected: type, in_doubt: bool) -> None:
    client = make()
    client.get("/")
    double.answers(answer)
    with pytest.raises(SinkUnavailable) as caught:
        client.get("/x")
    assert type(caught.value) is expected and caught.value.in_doubt is in_doubt
    assert caught.value.transient


@pytest.mark.parametrize("given, seconds", [("7", 7.0), ("0", 0.0), ("86400", 60.0), ("soon", None), (None, None)])
def test_the_wish_to_wait_is_read_from_the_headers(
    make: Make, double: Double, given: Optional[str], seconds: Optional[float]
) -> None:
    headers = {} if given is None else {"retry-after": given}
    double.answers(error(429, "x", **headers))
    with pytest.raises(SinkOverloaded) as caught:
        make().get("/")
    assert caught.value.retry_after_seconds == seconds


@pytest.mark.parametrize(
    "answer, expected",
    [
        ((413, {}, b""), PayloadTooLarge),
        (error(500, "null_pointer_exception"), Unreadable),
        (error(400, "parsing_exception"), Refused),
        (error(404, "index_not_found_exception"), Refused),
        (error(409, "conflict"), Refused),
    ],
    ids=lambda value: f"{value[0]}" if isinstance(value, tuple) else "",
)
def test_what_may_be_final_is_not_waited_for(make: Make, double: Double, answer: Answer, expected: type) -> None:
    double.answers(answer)
    with pytest.raises(SinkError) as caught:
        make().get("/")
    assert type(caught.value) is expected and not caught.value.transient


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_refused_at_the_first_connect_are_refused_for_good(make: Make, double: Double, status: int) -> None:
    double.answers(error(status, "security_exception"))
    with pytest.raises(SinkRefused):
        make().get("/")


def test_secrets_and_address_are_read_again_after_a_refusal(make: Make, double: Double) -> None:
    secret = ["old"]
    client = make(username="ada", password=lambda: secret[0])
    accepted = ["old"]

    def reply(request: Request) -> Answer:
        token = base64.b64decode(request.headers["authorization"].split()[1]).decode()
        return (200, {}, b"{}") if token == f"ada:{accepted[0]}" else error(401, "security_exception")

    double.reply = reply
    client.get("/")
    accepted[0] = "new"
    with pytest.raises(SinkUnauthorized) as caught:
        client.get("/")
    assert "old" not in str(caught.value)
    with pytest.raises(SinkUnauthorized):
        client.get("/")
    secret[0] = "new"
    client.get("/")


def test_credentials_in_the_url_are_used_and_never_shown(make: Make, double: Double) -> None:
    client = make(url=double.url.replace("//", "//ada:can%40ary@") + "/search/")
    client.get("/x")
    assert double.requests[0].path == "/search/x"
    assert base64.b64decode(double.requests[0].headers["authorization"].split()[1]) == b"ada:can@ary"
    assert "can" not in client.address()
    double.answers((500, {}, b"oops"))
    with pytest.raises(Unreadable) as caught:
        client.get("/x")
    assert "can@ary" not in str(caught.value)


def test_a_password_without_a_user_is_no_login(make: Make, double: Double) -> None:
    make(username="", password="x").get("/")
    assert "authorization" not in double.requests[0].headers


def test_nobody_listening_means_surely_not_carried_out(make: Make) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(SinkUnavailable, match="cannot be reached") as caught:
            make(url=url).get("/")
    assert not caught.value.in_doubt


def test_a_server_that_came_back_elsewhere_is_found(make: Make, double: Double) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = [f"http://127.0.0.1:{probe.getsockname()[1]}"]
        client = make(url=lambda: where[0])
        with pytest.raises(SinkUnavailable):
            client.get("/")
        where[0] = double.url
        client.get("/")


def test_no_answer_within_the_timeout_leaves_the_fate_unknown(make: Make, double: Double) -> None:
    held = threading.Event()
    double.reply = lambda request: None if held.wait(5) else None
    started = time.monotonic()
    with pytest.raises(SinkUnavailable, match="did not answer") as caught:
        make(timeout_secs=0.3).request("POST", "/_bulk", b"{}")
    held.set()
    assert caught.value.in_doubt and time.monotonic() - started < 3


def test_a_cut_after_sending_leaves_the_fate_unknown(make: Make, double: Double) -> None:
    double.answers(None)
    with pytest.raises(SinkUnavailable, match="cut") as caught:
        make().request("POST", "/_bulk", b"{}")
    assert caught.value.in_doubt


def test_nothing_is_sent_twice_by_the_client_itself(make: Make, double: Double) -> None:
    double.answers(None)
    with pytest.raises(SinkUnavailable):
        make().request("POST", "/_bulk", b"{}")
    double.answers((503, {"retry-after": "0"}, b""))
    with pytest.raises(SinkUnavailable):
        make().request("POST", "/_bulk", b"{}")
    double.answers((302, {"location": "/elsewhere"}, b""))
    with pytest.raises(SinkError):
        make().request("POST", "/_bulk", b"{}")
    assert len(double.requests) == 3


class Resetting:
    """A server that resets every request of more than ``limit`` bytes while it is being sent."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                length = int(lengths[0].split(b":")[1]) if lengths else 0
                if length > self._limit:
                    # Unread data at close: the kernel answers with a reset.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                    continue
                left = length - len(head.partition(b"\r\n\r\n")[2])
                while left > 0:
                    left -= len(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")

    def close(self) -> None:
        # A listener is not woken by closing it.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def resetting() -> Iterator[Resetting]:
    server = Resetting(4 * LARGE_BYTES)
    yield server
    server.close()


def test_a_server_that_resets_large_requests_finds_them_too_large(make: Make, resetting: Resetting) -> None:
    client = make(url=resetting.url)
    large = b"x" * (64 * LARGE_BYTES)
    # The first one may as well be a server going down.
    with pytest.raises(SinkUnavailable) as caught:
        client.request("POST", "/_bulk", large)
    assert not caught.value.in_doubt, "what was not sent in full was not carried out"
    for _ in range(2):
        with pytest.raises(PayloadTooLarge):
            client.request("POST", "/_bulk", large)
    client.request("POST", "/_bulk", large[: 2 * LARGE_BYTES])


def test_a_reset_explained_by_a_server_that_was_down_is_not_about_size(make: Make, resetting: Resetting) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = [resetting.url]
        client = make(url=lambda: where[0])
        large = b"x" * (64 * LARGE_BYTES)
        with pytest.raises(SinkUnavailable):
            client.request("POST", "/_bulk", large)
        where[0] = f"http://127.0.0.1:{probe.getsockname()[1]}"
        client._forget()
        with pytest.raises(SinkUnavailable):
            client.request("POST", "/_bulk", large)
        where[0] = resetting.url
        with pytest.raises(SinkUnavailable):
            client.request("POST", "/_bulk", large)


def test_a_closed_client_sends_nothing(make: Make, double: Double) -> None:
    client = make()
    client.get("/")
    client.close()
    client.close()
    with pytest.raises(SinkUnavailable, match="closed"):
        client.get("/")
    assert len(double.requests) == 1


@pytest.mark.parametrize("url", ["", "localhost:9200", "ftp://x", "http://", "http://x:99999"])
def test_a_url_that_is_none_is_refused_with_a_sentence(make: Make, url: str) -> None:
    with pytest.raises(SinkRefused, match="url"):
        make(url=url).get("/")


# -- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Tuple[str, str]:
    """A self-signed certificate for 127.0.0.1: (certificate file, key file)."""
    folder: Path = tmp_path_factory.mktemp("tls")
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl on the PATH to make a certificate")
    return certificate, key


@pytest.fixture
def secure(certificate: Tuple[str, str]) -> Iterator[Double]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    # A client's certificate is asked for, and checked where one is shown.
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_OPTIONAL
    server = Double(context)
    yield server
    server.close()


def test_an_unknown_authority_is_refused_and_a_named_one_trusted(
    make: Make, secure: Double, certificate: Tuple[str, str]
) -> None:
    with pytest.raises(SinkRefused, match="not trusted"):
        make(url=secure.url).get("/")
    assert secure.requests == []
    make(url=secure.url, ca_file=certificate[0]).get("/")
    make(url=secure.url, tls_verify=False).get("/")
    assert len(secure.requests) == 2


def test_a_certificate_for_another_host_is_refused(make: Make, secure: Double, certificate: Tuple[str, str]) -> None:
    with pytest.raises(SinkRefused, match="not trusted"):
        make(url=secure.url.replace("127.0.0.1", "localhost"), ca_file=certificate[0]).get("/")


def test_a_client_certificate_is_shown(make: Make, secure: Double, certificate: Tuple[str, str]) -> None:
    client = make(url=secure.url, ca_file=certificate[0], client_cert=certificate[0], client_key=certificate[1])
    client.get("/")
    connection = secure.requests[0].connection
    assert isinstance(connection, ssl.SSLSocket) and connection.getpeercert()


def test_a_file_that_is_no_certificate_is_named(make: Make, secure: Double, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(SinkRefused, match="missing.pem"):
        make(url=secure.url, ca_file=missing).get("/")


# -- the sink over a node whose answers are replaced -------------------------------------------------------------------


class Front(Double):
    """A double that passes everything on to a real node, unless ``bulk`` answers instead."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._pool = urllib3.PoolManager(retries=False)
        self._node = node
        self.bulk: Optional[Reply] = None
        self.reply = self._pass

    def _pass(self, request: Request) -> Optional[Answer]:
        if self.bulk is not None and request.path.startswith("/_bulk"):
            return self.bulk(request)
        return self.forward(request)

    def forward(self, request: Request) -> Answer:
        headers = {name: request.headers[name] for name in ("content-type",) if name in request.headers}
        answer = self._pool.request(request.method, self._node + request.path, body=request.body, headers=headers)
        return answer.status, {}, answer.data

    def close(self) -> None:
        super().close()
        self._pool.clear()


@pytest.fixture
def front(opensearch_prefix: Prefix) -> Iterator[Front]:
    server = Front(opensearch_prefix.url)
    yield server
    server.close()


@pytest.fixture
def sink(front: Front, opensearch_prefix: Prefix) -> Iterator[OpenSearchSink]:
    settings = OpenSearchSettings(
        url=front.url, prefix=opensearch_prefix.prefix, number_of_replicas=0, max_retries=2, timeout_secs=5
    )
    sink = OpenSearchSink("search", settings)
    sink.open(ME)
    sink.ensure([plan()])
    sink.begin_build("users")
    sink.complete_build("users")
    yield sink
    sink.close()


def test_an_unreadable_answer_is_believed_after_max_retries(sink: OpenSearchSink, front: Front) -> None:
    front.bulk = lambda request: (200, {}, b"<html>welcome</html>")
    for _ in range(2):
        with pytest.raises(SinkUnavailable) as caught:
            sink.write([put("1")])
        assert caught.value.in_doubt
    with pytest.raises(SinkError) as final:
        sink.write([put("1")])
    assert not final.value.transient and "3 times" in final.value.message


def test_a_readable_answer_in_between_starts_the_count_again(sink: OpenSearchSink, front: Front) -> None:
    for _ in range(3):
        front.bulk = lambda request: error(500, "null_pointer_exception")
        for _ in range(2):
            with pytest.raises(SinkUnavailable):
                sink.write([put("1")])
        front.bulk = None
        assert list(sink.write([put("1")])) == []


def test_an_answer_with_an_item_less_is_not_success(sink: OpenSearchSink, front: Front) -> None:
    def drop_one(request: Request) -> Answer:
        status, headers, data = front.forward(request)
        answer = json.loads(data)
        answer["items"].pop()
        return status, headers, json.dumps(answer, separators=(",", ":")).encode()

    front.bulk = drop_one
    with pytest.raises(SinkUnavailable, match="1 items"):
        sink.write([put("1"), put("2")])


def test_a_request_applied_whose_answer_was_lost_may_be_repeated(sink: OpenSearchSink, front: Front) -> None:
    def lose(request: Request) -> None:
        front.forward(request)

    front.bulk = lose
    with pytest.raises(SinkUnavailable) as caught:
        sink.write([put("1", "x", 5)])
    assert caught.value.in_doubt
    front.bulk = None
    assert list(sink.write([put("1", "x", 5)])) == []
    assert sink.get("users", "1") == b'{"id":1,"name":"x"}'


def test_a_413_reaches_the_writer_as_such(sink: OpenSearchSink, front: Front) -> None:
    front.bulk = lambda request: (413, {"connection": "close"}, b"")
    with pytest.raises(PayloadTooLarge):
        sink.write([put("1"), put("2")])


def test_a_pipeline_is_part_of_every_bulk_request_escaped(front: Front, opensearch_prefix: Prefix) -> None:
    settings = OpenSearchSettings(url=front.url, prefix=opensearch_prefix.prefix, pipeline="a b&c")
    sink = OpenSearchSink("search", settings)
    with pytest.raises(SinkRefused, match="a b&c"):
        sink.open(ME)
    assert any(request.path == "/_ingest/pipeline/a%20b%26c" for request in front.requests)
    assert "&pipeline=a+b%26c" in sink._bulk_path
    sink.close()

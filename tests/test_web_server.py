"""A surface binds first, bears hostile clients, and leaves nothing behind."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import threading
import urllib.request
from contextlib import ExitStack
from time import monotonic
from typing import Any, Callable, Iterable, Iterator, List

import pytest
from waitress.server import TcpWSGIServer  # type: ignore[import-untyped]

from flusso_sync.errors import EXIT_CONFIG
from flusso_sync.web import server as module
from flusso_sync.web.server import AddressUnusable, Surface
from tests.waiting import wait_for

StartResponse = Callable[..., Any]


class App:
    """Answers ``/`` at once and ``/slow`` when released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()

    def __call__(self, environ: "dict[str, Any]", start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            self.entered.set()
            self.release.wait(20)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def surface(app: App) -> Iterator[Surface]:
    surface = Surface("public", app, "127.0.0.1", 0)
    surface.bind()
    surface.start()
    yield surface
    app.release.set()
    surface.stop(2)


def get(surface: Surface, path: str = "/") -> bytes:
    with urllib.request.urlopen(f"http://{surface.address}{path}", timeout=10) as answer:
        body: bytes = answer.read()
        return body


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def waitress_threads() -> List[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("waitress-")]


def test_port_zero_becomes_the_port_that_serves(surface: Surface) -> None:
    assert surface.port != 0
    assert surface.address == f"127.0.0.1:{surface.port}"
    assert get(surface) == b"ok"


def test_a_busy_address_is_one_clear_error_before_anything_is_served(surface: Surface) -> None:
    second = Surface("public", App(), "127.0.0.1", surface.port)
    with pytest.raises(AddressUnusable) as caught:
        second.bind()
    assert surface.address in str(caught.value) and "server.public_address" in str(caught.value)
    assert caught.value.exit_code == EXIT_CONFIG
    assert second.stop()


def test_a_bound_surface_already_holds_its_address() -> None:
    first = Surface("public", App(), "127.0.0.1", 0)
    first.bind()
    with pytest.raises(AddressUnusable):
        Surface("public", App(), "127.0.0.1", first.port).bind()
    assert first.stop()
    again = Surface("public", App(), "127.0.0.1", first.port)
    again.bind()
    assert again.stop()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(AddressUnusable):
        Surface("public", App(), "192.0.2.1", 0).bind()


def test_ipv6_is_served_and_written_in_brackets() -> None:
    surface = Surface("public", App(), "::1", 0)
    try:
        surface.bind()
    except AddressUnusable:
        pytest.skip("this machine has no IPv6 loopback")
    surface.start()
    try:
        assert surface.address.startswith("[::1]:")
        assert get(surface) == b"ok"
    finally:
        surface.stop()


def test_start_and_stop_leave_no_thread_and_no_descriptor() -> None:
    before = descriptors()
    for _ in range(20):
        surface = Surface("public", App(), "127.0.0.1", 0)
        surface.start()
        assert get(surface) == b"ok"
        assert surface.stop(1)
        assert surface.stop(1), "twice is safe"
    wait_for(lambda: not waitress_threads())
    assert descriptors() <= before


def test_idle_keepalive_connections_do_not_delay_the_stop() -> None:
    surface = Surface("public", App(), "127.0.0.1", 0)
    surface.start()
    connections = [http.client.HTTPConnection("127.0.0.1", surface.port, timeout=5) for _ in range(20)]
    for connection in connections:
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
    begin = monotonic()
    assert surface.stop(30)
    assert monotonic() - begin < 10
    for connection in connections:
        connection.close()


def test_a_running_request_is_finished_before_the_stop(surface: Surface, app: App) -> None:
    answers: List[bytes] = []
    client = threading.Thread(target=lambda: answers.append(get(surface, "/slow")))
    client.start()
    assert app.entered.wait(5)
    stopper = threading.Thread(target=surface.stop, args=(4,))
    stopper.start()
    app.release.set()
    stopper.join(6)
    client.join(6)
    assert answers == [b"ok"]
    assert not stopper.is_alive()


def test_a_request_that_hangs_does_not_hold_the_stop_for_ever() -> None:
    app = App()
    surface = Surface("public", app, "127.0.0.1", 0)
    surface.start()
    connection = http.client.HTTPConnection("127.0.0.1", surface.port, timeout=5)
    connection.request("GET", "/slow")
    assert app.entered.wait(5)
    begin = monotonic()
    surface.stop(0.4)
    assert monotonic() - begin < 10
    app.release.set()
    connection.close()
    wait_for(lambda: not waitress_threads())


def test_a_thousand_idle_connections_do_not_keep_others_out(surface: Surface) -> None:
    with ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", surface.port), timeout=5))
        begin = monotonic()
        assert get(surface) == b"ok"
        assert monotonic() - begin < 10
    assert module.CONNECTION_LIMIT >= 1000


def test_a_huge_body_is_refused_without_being_read(surface: Surface) -> None:
    with socket.create_connection(("127.0.0.1", surface.port), timeout=10) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n" + b"x" * 100_000)
        assert b" 413 " in client.recv(65536)
    assert get(surface) == b"ok"


def test_endless_headers_are_refused(surface: Surface) -> None:
    with socket.create_connection(("127.0.0.1", surface.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100_000)
        assert b" 431 " in client.recv(65536)
    assert get(surface) == b"ok"


def test_slow_headers_hold_no_thread(surface: Surface) -> None:
    with ExitStack() as stack:
        for _ in range(4 * module.THREADS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", surface.port), timeout=5))
            client.sendall(b"GET / HTTP/1.1\r\nHost:")
        begin = monotonic()
        assert get(surface) == b"ok"
        assert monotonic() - begin < 10


def whole(client: socket.socket) -> bytes:
    """An answer of ``App``; headers and body may come one after the other."""
    answer = b""
    while not answer.endswith(b"\r\n\r\nok"):
        more = client.recv(65536)
        if not more:
            break
        answer += more
    return answer


def test_a_request_that_comes_byte_by_byte_is_cut_off_and_others_are_not(
    surface: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given limits of a second, and a connection that is never idle for as long
    monkeypatch.setattr(module, "REQUEST_SECONDS", 1.0)
    with ExitStack() as stack:
        slow, patient = (
            stack.enter_context(socket.create_connection(("127.0.0.1", surface.port), timeout=20)) for _ in range(2)
        )
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        slow.settimeout(0.2)
        patient.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in whole(patient)

        # When it goes on sending a byte now and then
        def cut_off() -> bool:
            try:
                slow.sendall(b"x")
                return slow.recv(100) == b""
            except socket.timeout:
                return False
            except ConnectionError:
                return True

        # Then it is closed, and one that asked before and keeps still is not
        wait_for(cut_off, 20)
        patient.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in whole(patient)


def test_garbage_is_answered_and_survived(surface: Surface) -> None:
    with socket.create_connection(("127.0.0.1", surface.port), timeout=10) as client:
        client.sendall(b"\x00\xff\r\n\r\n")
        client.recv(65536)
    assert get(surface) == b"ok"


def test_the_server_does_not_name_itself(surface: Surface) -> None:
    with urllib.request.urlopen(f"http://{surface.address}/", timeout=10) as answer:
        assert answer.headers.get("Server") is None


def test_off_loopback_warns_once_and_loopback_does_not(caplog: pytest.LogCaptureFixture) -> None:
    for host, warnings in (("0.0.0.0", 1), ("127.0.0.1", 0)):
        caplog.clear()
        surface = Surface("public", App(), host, 0)
        surface.start()
        surface.stop()
        said = [r for r in caplog.records if r.levelno == logging.WARNING and "listens on" in r.getMessage()]
        assert len(said) == warnings


def test_a_surface_whose_loop_dies_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: List[BaseException] = []
    surface = Surface("public", App(), "127.0.0.1", 0, failed=lambda name, error: deaths.append(error))
    surface.start()

    def broken(*args: object, **kwargs: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr("waitress.wasyncore.loop", broken)
    wait_for(lambda: deaths)
    assert isinstance(deaths[0], MemoryError)
    assert surface.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", surface.port), timeout=1)


def test_without_descriptors_accepting_rests_instead_of_spinning(
    surface: Surface, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: List[float] = []
    accept = TcpWSGIServer.accept

    def no_descriptor(server: Any) -> Any:
        calls.append(monotonic())
        if len(calls) <= 2:
            raise OSError(24, "Too many open files")
        return accept(server)

    monkeypatch.setattr(module, "ACCEPT_PAUSE_SECONDS", 0.3)
    monkeypatch.setattr(TcpWSGIServer, "accept", no_descriptor)
    assert get(surface) == b"ok"
    assert len(calls) >= 3
    assert calls[1] - calls[0] >= 0.3 and calls[2] - calls[1] >= 0.3


def test_a_surface_serves_once(surface: Surface) -> None:
    with pytest.raises(RuntimeError):
        surface.start()

"""The proxy does what its modes say, and nothing of it is left."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Callable, Iterator, List

import pytest

from tests.fix_proxy import BLACKHOLE, DOWN, PASS, REFUSE, SLOW, UP, Proxy
from tests.waiting import wait_for


class Echo:
    """A server that sends back what it gets and counts it."""

    def __init__(self) -> None:
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: List[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                self.received += len(data)
                connection.sendall(data)

    def close(self) -> None:
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo, make_proxy: Callable[[int], Proxy]) -> Proxy:
    return make_proxy(echo.port)


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def ask(connection: socket.socket, data: bytes) -> bytes:
    """Send ``data`` and read as much back."""
    threading.Thread(target=connection.sendall, args=(data,), daemon=True).start()
    answer = b""
    while len(answer) < len(data):
        part = connection.recv(65536)
        if not part:
            break
        answer += part
    return answer


def test_everything_passes_in_both_directions_and_is_counted(proxy: Proxy) -> None:
    data = bytes(range(256)) * 8192
    with dial(proxy) as connection:
        assert ask(connection, data) == data
        assert (proxy.accepted, proxy.open) == (1, 1)
    assert (proxy.bytes_up, proxy.bytes_down) == (len(data), len(data))
    wait_for(lambda: proxy.open == 0)


def test_the_end_of_a_stream_passes(proxy: Proxy) -> None:
    with dial(proxy) as connection:
        connection.sendall(b"last")
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").read() == b"last"


def test_refuse_resets_open_connections_and_new_ones_until_it_passes_again(proxy: Proxy) -> None:
    with dial(proxy) as connection:
        assert ask(connection, b"a") == b"a"
        proxy.set(REFUSE)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionError), dial(proxy) as refused:
        refused.sendall(b"x")
        assert refused.recv(1), "closed"
        raise AssertionError("answered")
    proxy.set(PASS)
    with dial(proxy) as connection:
        assert ask(connection, b"b") == b"b"


def test_blackhole_takes_everything_and_answers_nothing(proxy: Proxy, echo: Echo) -> None:
    with dial(proxy) as connection:
        assert ask(connection, b"a") == b"a"
        proxy.set(BLACKHOLE)
        connection.sendall(b"lost" * 500_000)
        connection.settimeout(0.2)
        with pytest.raises(socket.timeout):
            connection.recv(1)
        assert echo.received == 1


def test_blackhole_in_one_direction_lets_the_other_pass(proxy: Proxy, echo: Echo) -> None:
    proxy.set(BLACKHOLE, DOWN)
    with dial(proxy) as connection:
        connection.sendall(b"request")
        wait_for(lambda: echo.received == 7)
        connection.settimeout(0.2)
        with pytest.raises(socket.timeout):
            connection.recv(1)


def test_slow_keeps_its_rate(proxy: Proxy) -> None:
    proxy.set(SLOW, DOWN, rate=20_000)
    with dial(proxy) as connection:
        begin = time.monotonic()
        assert len(ask(connection, b"x" * 10_000)) == 10_000
        assert 0.35 < time.monotonic() - begin < 5


def test_cut_resets_the_connection_that_carries_the_byte_and_only_that(proxy: Proxy, echo: Echo) -> None:
    with dial(proxy) as other, dial(proxy) as connection:
        assert ask(other, b"a") == b"a"
        proxy.cut_after(1000, UP)
        with pytest.raises(ConnectionError):
            while True:
                assert ask(connection, b"y" * 300) == b"y" * 300, "closed"
        assert ask(other, b"b") == b"b"
        assert echo.received < 1002


def test_a_client_that_does_not_read_does_not_hold_up_the_end(echo: Echo) -> None:
    proxy = Proxy(echo.port)
    with dial(proxy) as connection:
        sender = threading.Thread(target=_send_all, args=(connection, b"z" * 50_000_000), daemon=True)
        sender.start()
        wait_for(lambda: proxy.bytes_up > 1_000_000)
        begin = time.monotonic()
        proxy.close()
        assert time.monotonic() - begin < 10
        sender.join(5)
    assert proxy.open == 0


def _send_all(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)

"""A TCP proxy between a client and a server, which can be told to misbehave while it runs."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Callable, Iterator, List, Optional, Type

import pytest

#: Forward everything.
PASS = "pass"
#: Connections are closed at once, as by a port that nobody listens on.
REFUSE = "refuse"
#: Sockets are open, bytes are taken and go nowhere: a dead network, a frozen server.
BLACKHOLE = "blackhole"
#: At most ``rate`` bytes per second and connection, in each direction.
SLOW = "slow"

#: As much of what a client says first as is kept.
OPENING_BYTES = 2048

UP = "up"  #: client to server
DOWN = "down"  #: server to client


class Proxy:
    """Listens on ``127.0.0.1:port`` and forwards to ``target``; every method may be called from any thread.

    ``accepted`` counts connections, ``bytes_up`` and ``bytes_down`` what was forwarded.
    """

    host = "127.0.0.1"

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self.target = (target_host, target_port)
        self.accepted = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._modes = {UP: PASS, DOWN: PASS}
        self._rate = 0.0
        self._cut: Optional[int] = None
        self._cut_direction = UP
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._pairs: List[_Pair] = []
        self._threads: List[threading.Thread] = []
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    # -- what a test says ---------------------------------------------------------------------------

    def set(self, mode: str, direction: Optional[str] = None, rate: float = 0.0) -> None:
        """From now on, for open and new connections: one of pass, refuse, blackhole, slow (``rate`` bytes/s).

        ``direction`` limits blackhole and slow to one way.  ``refuse`` also closes what is open.
        """
        with self._lock:
            for one in [direction] if direction else [UP, DOWN]:
                self._modes[one] = mode
            self._rate = rate
            self._cut = None
        if mode == REFUSE:
            self.drop()

    def cut_after(self, count: int, direction: str = UP) -> None:
        """Reset the connection that forwards the ``count``-th byte from now in ``direction``; once."""
        with self._lock:
            self._cut, self._cut_direction = count, direction

    def drop(self, only: Callable[[bytes], bool] = lambda opening: True, *, frozen: bool = False) -> None:
        """Reset every open connection that ``only`` chooses by the first bytes that the client sent.

        ``frozen``: only where it was frozen before.
        """
        with self._lock:
            pairs = [pair for pair in self._pairs if only(bytes(pair.opening)) and (pair.frozen or not frozen)]
        for pair in pairs:
            pair.gone = True

    def freeze(self, only: Callable[[bytes], bool] = lambda opening: True) -> int:
        """From now on nothing passes through the connections open now, in either direction, ever; returns how many.

        ``only`` chooses by the first bytes that the client sent.  Their peers are gone as after a power failure, while
        new connections are served.
        """
        with self._lock:
            chosen = [pair for pair in self._pairs if not pair.frozen and only(bytes(pair.opening))]
        for pair in chosen:
            pair.frozen = True
        return len(chosen)

    @property
    def open(self) -> int:
        """Connections open now."""
        with self._lock:
            return len(self._pairs)

    def close(self) -> None:
        self.drop()
        self._stopped.set()
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    # -- forwarding ---------------------------------------------------------------------------------

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"proxy-{self.port}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        # Polled: closing a listener does not wake a thread that waits in accept().
        self._listener.settimeout(0.05)
        while not self._stopped.is_set():
            try:
                client, _ = self._listener.accept()
            except socket.timeout:
                continue
            except OSError:
                return
            if self._mode(UP) == REFUSE:
                _reset(client)
                continue
            self.accepted += 1
            try:
                server = socket.create_connection(self.target, timeout=5)
            except OSError:
                _reset(client)
                continue
            for one in (client, server):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.append(pair)
            self._start(lambda pair=pair: self._forward(pair, UP))  # type: ignore[misc]
            self._start(lambda pair=pair: self._forward(pair, DOWN))  # type: ignore[misc]

    def _mode(self, direction: str) -> str:
        with self._lock:
            return self._modes[direction]

    def _forward(self, pair: _Pair, direction: str) -> None:
        source, sink = (pair.client, pair.server) if direction == UP else (pair.server, pair.client)
        try:
            while data := self._receive(pair, source, direction):
                # Held, not thrown away: TCP never loses the middle of a stream, so nothing may follow a hole.
                if direction == UP and len(pair.opening) < OPENING_BYTES:
                    pair.opening += data[:OPENING_BYTES]
                while self._holds(pair, direction):
                    self._stopped.wait(0.02)
                if self._cuts(len(data), direction):
                    pair.gone = True
                    return
                self._send(pair, sink, data)
                with self._lock:
                    if direction == UP:
                        self.bytes_up += len(data)
                    else:
                        self.bytes_down += len(data)
                if self._mode(direction) == SLOW:
                    self._stopped.wait(len(data) / self._rate)
            # The end of a stream does not pass a black hole either.
            while self._holds(pair, direction):
                self._stopped.wait(0.02)
            if not self._over(pair):
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pair.gone = True
        finally:
            if pair.finish(direction):
                with self._lock:
                    self._pairs.remove(pair)

    def _holds(self, pair: _Pair, direction: str) -> bool:
        return (pair.frozen or self._mode(direction) == BLACKHOLE) and not self._over(pair)

    def _over(self, pair: _Pair) -> bool:
        return pair.gone or self._stopped.is_set()

    def _receive(self, pair: _Pair, source: socket.socket, direction: str) -> bytes:
        """The next bytes; none at the end of the stream or of the pair."""
        while not self._over(pair):
            if _ready(source, select.POLLIN):
                slow = self._mode(direction) == SLOW
                return source.recv(max(1, int(self._rate / 20)) if slow else 65536)
        return b""

    def _send(self, pair: _Pair, sink: socket.socket, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._over(pair):
            if _ready(sink, select.POLLOUT):
                rest = rest[sink.send(rest) :]

    def _cuts(self, count: int, direction: str) -> bool:
        with self._lock:
            if self._cut is None or self._cut_direction != direction:
                return False
            self._cut -= count
            if self._cut > 0:
                return False
            self._cut = None
            return True


class _Pair:
    """The two sockets of one forwarded connection; ``gone`` asks its two threads to reset both."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.gone = False
        self.frozen = False
        #: What the client said first.
        self.opening = bytearray()
        self._done: List[str] = []
        self._lock = threading.Lock()

    def finish(self, direction: str) -> bool:
        """True for the second of the two directions, which closes the sockets."""
        with self._lock:
            self._done.append(direction)
            if len(self._done) < 2:
                return False
        for one in (self.client, self.server):
            if self.gone:
                _reset(one)
            else:
                one.close()
        return True


def _ready(one: socket.socket, event: int) -> bool:
    """Wait a moment for ``event``; never long, so that the proxy's own end is seen."""
    poll = select.poll()
    poll.register(one, event)
    return bool(poll.poll(20))


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


@pytest.fixture
def make_proxy() -> Iterator[Callable[[int], Proxy]]:
    """``make_proxy(target_port)``; closed at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda target_port: stack.enter_context(Proxy(target_port))

"""One HTTP listener on waitress, with limits, in a thread of its own.

The address is bound before anything else starts, so that a busy one fails the start.  The limits suppose
hostile clients: idle connections, slow headers and huge bodies must cost nothing that the sync needs.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from time import monotonic
from typing import Any, Callable, Dict, Optional

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.adjustments import Adjustments  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.server import TcpWSGIServer  # type: ignore[import-untyped]
from waitress.task import ThreadedTaskDispatcher  # type: ignore[import-untyped]

from flusso_sync.errors import EXIT_CONFIG, FlussoError
from flusso_sync.worker import Worker

logger = logging.getLogger("flusso_sync.web")

#: Connections held at once.  waitress's default of 100 lets idle connections starve the rest; more than
#: about 1,000 needs poll() instead of select(), which is why that is switched on as well.
CONNECTION_LIMIT = 1000

#: Our routes read no body worth mentioning, and a browser's headers stay far below this.
MAX_BODY_BYTES = 64 * 1024
MAX_HEADER_BYTES = 16 * 1024

#: A connection without a byte for this long is closed, looked for this often.
IDLE_SECONDS = 30
CLEANUP_SECONDS = 5

#: Every route answers from memory, so a few threads serve any number of clients.
THREADS = 4

#: With no descriptor left for a new connection, accepting rests for so long instead of spinning.
ACCEPT_PAUSE_SECONDS = 1.0

POLL_SECONDS = 1.0


class AddressUnusable(FlussoError):
    """A surface cannot listen where it was told to."""

    exit_code = EXIT_CONFIG


#: From its first byte on, a request must be here whole within this: else a byte now and then would hold a connection
#: for ever, and a thousand of them all of ours.
REQUEST_SECONDS = 30


class _Channel(HTTPChannel):  # type: ignore[misc]
    """waitress's connection, which knows since when it waits for the rest of a request."""

    began: Optional[float] = None

    def received(self, data: bytes) -> bool:
        going_on = bool(super().received(data))
        if self.request is None:
            self.began = None
        elif self.began is None:
            self.began = monotonic()
        return going_on


class _Server(TcpWSGIServer):  # type: ignore[misc]
    """waitress's server, which rests after a failed accept and cuts off requests that never end."""

    channel_class = _Channel
    paused_until = 0.0

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        for channel in self.active_channels.values():
            if channel.began is not None and monotonic() - channel.began > REQUEST_SECONDS:
                channel.will_close = True

    def readable(self) -> bool:
        ready = bool(super().readable())
        return ready and monotonic() >= self.paused_until

    def accept(self) -> Any:
        try:
            return super().accept()
        except OSError:
            self.paused_until = monotonic() + ACCEPT_PAUSE_SECONDS
            raise


class Surface:
    """A WSGI application behind one address.

    ``bind`` takes the address, ``start`` serves, ``stop`` lets running requests finish.  A surface serves
    once.  ``failed`` is called, from the surface's thread, when serving ends by itself.
    """

    def __init__(
        self,
        name: str,
        app: Callable[..., Any],
        host: str,
        port: int,
        *,
        threads: int = THREADS,
        failed: Optional[Callable[[str, BaseException], None]] = None,
    ) -> None:
        self.name = name
        self._app = app
        self._host = host
        self._port = port
        self._threads = threads
        self._failed = failed
        self._socket: Optional[socket.socket] = None
        self._server: Optional[_Server] = None
        self._map: Dict[int, Any] = {}
        self._thread: Optional[Worker] = None
        self._stop = threading.Event()
        self._drain_seconds = 0.0

    @property
    def address(self) -> str:
        """``host:port`` as bound; port 0 has become the port the system chose."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    @property
    def port(self) -> int:
        """The bound port."""
        return self._port

    def bind(self) -> None:
        """Take the address; raises ``AddressUnusable`` when that is not possible."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((self._host, self._port))
            # Listening at once: with SO_REUSEADDR two sockets may be bound to one address, but only one of
            # them may listen, and it is now that a second daemon has to hear of it.
            bound.listen(1024)
            bound.setblocking(False)
        except (OSError, OverflowError) as error:
            bound.close()
            raise AddressUnusable(
                f"cannot serve the {self.name} surface on {self.address}: {getattr(error, 'strerror', None) or error}",
                hint=f"Set server.{self.name}_address (or --{self.name}-address) to a free address; port 0 takes any",
            ) from error
        self._socket, self._port = bound, bound.getsockname()[1]

    def start(self) -> None:
        """Serve requests from now on; binds first if that was not done."""
        if self._thread is not None:
            raise RuntimeError("a surface serves once")
        if self._socket is None:
            self.bind()
        assert self._socket is not None
        adjustments = Adjustments(
            sockets=[self._socket],
            threads=self._threads,
            connection_limit=CONNECTION_LIMIT,
            asyncore_use_poll=True,
            max_request_body_size=MAX_BODY_BYTES,
            max_request_header_size=MAX_HEADER_BYTES,
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=CLEANUP_SECONDS,
            ident=None,
            expose_tracebacks=False,
            log_socket_errors=True,
            backlog=1024,
        )
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(self._threads)
        bound = self._socket
        self._server = _Server(
            self._app,
            map=self._map,
            _sock=bound,
            dispatcher=dispatcher,
            adj=adjustments,
            sockinfo=(bound.family, bound.type, bound.proto, bound.getsockname()),
            bind_socket=False,
        )
        self._thread = Worker(f"flusso-web-{self.name}", self._serve, self._ended_badly)
        self._thread.start()
        if not _is_loopback(bound.getsockname()[0]):
            logger.warning(
                "the %s surface listens on %s: whoever reaches it can use it; a loopback address or a proxy "
                "in front of it is safer",
                self.name,
                self.address,
            )

    def stop(self, timeout: float = 1.0) -> bool:
        """Stop accepting, let running requests finish for at most ``timeout`` seconds, close everything.

        False when the thread did not end in time.  Safe to call twice, and without ``start``.
        """
        self._drain_seconds = timeout / 2
        self._stop.set()
        if self._thread is None:
            if self._socket is not None:
                self._socket.close()
            return True
        server = self._server
        if server is not None and self._thread.is_alive():
            try:
                server.pull_trigger()
            except OSError:
                # The loop ended meanwhile and closed its trigger.
                logger.debug("the %s surface had ended already", self.name)
        self._thread.join(timeout + 0.5)
        return not self._thread.is_alive()

    # -- on the surface's thread --

    def _serve(self) -> None:
        server = self._server
        assert server is not None
        try:
            while not self._stop.is_set():
                wasyncore.loop(timeout=POLL_SECONDS, use_poll=True, map=self._map, count=1)
            server.accepting = False
            deadline = monotonic() + self._drain_seconds
            while monotonic() < deadline and self._busy(server):
                wasyncore.loop(timeout=0.02, use_poll=True, map=self._map, count=1)
        finally:
            server.task_dispatcher.shutdown(timeout=max(0.2, self._drain_seconds))
            # Channels first: closing the listener last keeps the address taken until nothing of ours uses it.
            for channel in list(server.active_channels.values()):
                channel.handle_close()
            server.close()
            wasyncore.close_all(self._map, ignore_all=True)

    @staticmethod
    def _busy(server: _Server) -> bool:
        return any(channel.requests or channel.total_outbufs_len for channel in server.active_channels.values())

    def _ended_badly(self, name: str, error: BaseException) -> None:
        logger.error("the %s surface died", self.name, exc_info=error)
        if self._failed is not None:
            self._failed(name, error)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback

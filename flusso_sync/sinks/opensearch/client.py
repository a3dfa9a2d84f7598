"""HTTP to one cluster: every failure becomes an error of ours that says whether the request may have happened.

urllib3 alone, for everything.  opensearch-py's errors carry no headers (no Retry-After), so bulk requests would need
a connection of our own in any case; with one transport there is one place for TLS, secrets and the judgement of
failures, and no client retries behind our back.

Secrets and the address are read when the first connection is made, and again after every failure that new ones
could mend.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import socket
import ssl
import threading
import time
from importlib.metadata import version
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union
from urllib.parse import quote, unquote, urlencode, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from flusso_sync.errors import (
    ConfigError,
    FlussoError,
    PayloadTooLarge,
    SinkBlocked,
    SinkError,
    SinkOverloaded,
    SinkRefused,
    SinkUnauthorized,
    SinkUnavailable,
)
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings, read

Query = Mapping[str, Union[str, int, bool]]

#: Establishing a connection takes no longer, however patient requests are.
CONNECT_SECONDS = 10.0

#: A reset while sending fewer bytes than this says nothing about size (nginx's default limit is 1 MB).
LARGE_BYTES = 512 * 1024

#: Error types that are blocks, whatever the status (D6: a disk block comes as 403 or 429).
BLOCKS = frozenset({"cluster_block_exception", "index_closed_exception", "snapshot_in_progress_exception"})

INDEX_MISSING = "index_not_found_exception"

#: The last for Python 3.9's opensearch-py.
_OLD_URLLIB3 = version("urllib3").startswith("1.")

#: Of an answer that is not JSON, as much as a sentence needs.
_REASON_CHARACTERS = 300


class Answer(NamedTuple):
    """An answer that is no failure; ``data`` is the body as it came."""

    status: int
    data: bytes

    def json(self) -> Any:
        """The body as JSON; raises ``Unreadable``."""
        try:
            return json.loads(self.data)
        except ValueError as error:
            raise Unreadable(f"OpenSearch answered {self.status} with a body that is not JSON") from error


class Unreadable(SinkError):
    """An answer that may be final: a body nobody can read, or a 5xx that is not known to pass."""


class Refused(SinkRefused):
    """A 4xx about the request itself, with the type OpenSearch gives."""

    status: int
    type: str


def segment(text: str) -> str:
    """``text`` as one segment of a URL's path."""
    return quote(text, safe="")


class _Progress(threading.local):
    """Whether the calling thread's request has left in full."""

    sent = False


_progress = _Progress()


class _Plain(HTTPConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        _progress.sent = False
        super().request(*args, **kwargs)
        _progress.sent = True


class _Secure(HTTPSConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        _progress.sent = False
        super().request(*args, **kwargs)
        _progress.sent = True


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure


class _Target(NamedTuple):
    """A pool of connections and what every request to it carries."""

    pool: urllib3.HTTPConnectionPool
    path: str
    headers: Mapping[str, str]
    shown: str


class Client:
    """Requests to one cluster, from any thread."""

    def __init__(self, settings: OpenSearchSettings) -> None:
        self._settings = settings
        self._timeout_seconds = max(0.1, float(settings.timeout_secs))
        self._lock = threading.Lock()
        self._target: Optional[_Target] = None
        self._closed = False
        #: An answer that needed the credentials has come.
        self._welcome = False
        self._reset_bytes: Optional[int] = None

    @property
    def timeout_seconds(self) -> float:
        return self._timeout_seconds

    def address(self) -> str:
        """Where the cluster is, without credentials."""
        return self._connect().shown

    def close(self) -> None:
        """Close idle connections and accept no further request; safe to call twice."""
        self._closed = True
        self._forget()

    def get(self, path: str, query: Optional[Query] = None, *, missing: bool = False) -> Answer:
        return self.request("GET", path, query=query, missing=missing)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Optional[Query] = None,
        *,
        missing: bool = False,
        conflict: bool = False,
    ) -> Answer:
        """A request with a JSON body."""
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        return self.request(method, path, data, query=query, missing=missing, conflict=conflict)

    def request(
        self,
        method: str,
        path: str,
        body: Optional[bytes] = None,
        *,
        query: Optional[Query] = None,
        content_type: str = "application/json",
        missing: bool = False,
        conflict: bool = False,
    ) -> Answer:
        """Carry out one request, within the timeout; ``missing`` and ``conflict`` let a 404 and a 409 pass.

        Raises ``SinkUnavailable`` and its subclasses, ``PayloadTooLarge``, ``Unreadable`` and ``SinkRefused``.
        """
        target = self._connect()
        headers = dict(target.headers)
        if body is not None:
            headers["content-type"] = content_type
        url = target.path + path
        if query:
            url += "?" + urlencode({k: _query_value(v) for k, v in query.items()}, safe=",*.")
        connect = min(CONNECT_SECONDS, self._timeout_seconds)
        started = time.monotonic()
        _progress.sent = False
        try:
            response = target.pool.urlopen(
                method,
                url,
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=self._timeout_seconds, connect=connect),
            )
            data = response.data
        except (HTTPError, OSError) as error:
            raise self._translate(target, method, path, error, len(body or b""), started) from error
        status = response.status
        if status < 300 or (missing and status == 404) or (conflict and status == 409):
            self._welcome = True
            if self._reset_bytes is not None and body is not None and len(body) >= self._reset_bytes:
                self._reset_bytes = None
            return Answer(status, data)
        raise self._judge(target, method, path, status, response.headers.get("retry-after"), data)

    # -- connecting -----------------------------------------------------------------------------------

    def _connect(self) -> _Target:
        with self._lock:
            if self._closed:
                raise SinkUnavailable("the connection to OpenSearch is closed", in_doubt=False)
            if self._target is None:
                try:
                    self._target = self._open()
                except ConfigError as error:
                    if not self._welcome:
                        raise
                    # It could be read before: somebody replaces it, and may have missed its owner or its mode.
                    raise SinkUnauthorized(
                        f"the credentials of the sink cannot be read: {error.problems[0]}"
                    ) from error
            return self._target

    def _forget(self) -> None:
        """Read address and secrets again at the next request."""
        with self._lock:
            target, self._target = self._target, None
        if target is not None:
            target.pool.close()

    def _open(self) -> _Target:
        settings = self._settings
        parts = urlsplit((read(settings.url) or "").strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SinkRefused("the sink's url must look like http(s)://host:port")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 9200)
        except ValueError as error:
            raise SinkRefused("the port in the sink's url is not a number up to 65535") from error
        username = read(settings.username) or None
        password = read(settings.password)
        if username is None and parts.username is not None:
            username, password = unquote(parts.username), unquote(parts.password or "")
        headers = {"accept": "application/json", "user-agent": "flusso-sync"}
        if username is not None:
            credentials = f"{username}:{password or ''}".encode()
            headers["authorization"] = "Basic " + base64.b64encode(credentials).decode()
        keepalive: List[Tuple[int, int, int]] = [
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ]
        size = max(1, settings.concurrency) + 3
        pool: urllib3.HTTPConnectionPool
        if parts.scheme == "https":
            pool = _SecurePool(
                parts.hostname,
                port,
                maxsize=size,
                socket_options=keepalive,
                ssl_context=self._tls(parts.hostname),
                assert_hostname=None if settings.tls_verify else False,
            )
        else:
            pool = _PlainPool(parts.hostname, port, maxsize=size, socket_options=keepalive)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        path = parts.path.rstrip("/")
        return _Target(pool, path, headers, f"{parts.scheme}://{host}:{port}{path}")

    def _tls(self, host: str) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.ca_file)
            if not settings.tls_verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                # Refused by name; urllib3 would say so again at every connection.
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
            elif _OLD_URLLIB3 and _is_ip_address(host):
                # It tells the TLS library no address to check, and checks by itself what the library leaves to it.
                context.check_hostname = False
            if settings.client_cert:
                context.load_cert_chain(settings.client_cert, settings.client_key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(f for f in (settings.ca_file, settings.client_cert, settings.client_key) if f)
            raise SinkRefused(f"the sink's certificates cannot be read ({files}): {error}") from error
        return context

    # -- failures -------------------------------------------------------------------------------------

    def _translate(
        self, target: _Target, method: str, path: str, error: Exception, size: int, started: float
    ) -> FlussoError:
        """The error for a request that got no answer."""
        causes = _causes(error)
        sent = _progress.sent
        waited = time.monotonic() - started
        if any(isinstance(c, (NewConnectionError, ConnectTimeoutError)) for c in causes):
            self._forget()
            # Something that is down explains an earlier reset.
            self._reset_bytes = None
            return SinkUnavailable(
                f"OpenSearch at {target.shown} cannot be reached: {_last(causes)}",
                in_doubt=False,
                hint="It is tried again until it answers",
            )
        unsafe = next((c for c in causes if isinstance(c, ssl.SSLCertVerificationError)), None)
        if unsafe is not None:
            self._forget()
            why = getattr(unsafe, "verify_message", None) or str(unsafe)
            sentence = f"the certificate of OpenSearch at {target.shown} is not trusted: {why}"
            hint = "Name its authority in ca_file"
            if self._welcome:
                return SinkUnauthorized(sentence, hint=hint)
            return SinkRefused(sentence, hint=hint)
        if any("WRONG_VERSION_NUMBER" in str(c) for c in causes):
            return SinkUnavailable(
                f"OpenSearch at {target.shown} does not speak TLS",
                in_doubt=False,
                hint="If it serves plain HTTP, write http:// in the sink's url",
            )
        if any(isinstance(c, (socket.timeout, urllib3.exceptions.TimeoutError)) for c in causes):
            return SinkUnavailable(
                f"OpenSearch at {target.shown} did not answer {method} {path} within {waited:.0f} s",
                in_doubt=sent,
                hint="It is tried again until it answers",
            )
        if not sent and size >= LARGE_BYTES:
            # A server that refuses the size may reset instead of answering 413; one that goes down does, too.  Twice
            # in a row with nothing refused in between, on fresh connections, is believed to be the size.
            before, self._reset_bytes = self._reset_bytes, size
            if before is not None:
                return PayloadTooLarge(f"OpenSearch at {target.shown} cuts requests of {size} bytes", bytes=size)
        return SinkUnavailable(
            f"the connection to OpenSearch at {target.shown} was cut: {_last(causes)}",
            in_doubt=sent,
            hint="It is tried again until it answers",
        )

    def _judge(
        self, target: _Target, method: str, path: str, status: int, retry_after: Optional[str], data: bytes
    ) -> FlussoError:
        """The error for a failure that was answered."""
        type_, reason = error_of(data)
        what = f"{method} {path}: {reason or type_ or 'no reason given'}"
        if type_ in BLOCKS:
            return SinkBlocked(
                f"OpenSearch blocks {what}", hint="Writing goes on by itself once the block is cleared", status=status
            )
        if status in (401, 403):
            self._forget()
            sentence = f"OpenSearch at {target.shown} answers {status} to {what}"
            hint = "See the sink's user, password and rights"
            if self._welcome:
                return SinkUnauthorized(sentence, hint=hint, status=status)
            return SinkRefused(sentence, hint=hint, status=status)
        if status == 413:
            return PayloadTooLarge(f"OpenSearch answers 413 to {what}", status=status)
        if status == 429:
            return SinkOverloaded(
                f"OpenSearch asks to slow down: {what}",
                retry_after_seconds=seconds(retry_after),
                status=status,
                hint="It is asked again, ever later; see what loads it, or lower sinks.NAME.concurrency",
            )
        if status in (408, 502, 503, 504):
            return SinkUnavailable(f"OpenSearch answers {status} to {what}", status=status)
        if status >= 500:
            return Unreadable(f"OpenSearch answers {status} to {what}", status=status)
        return Refused(f"OpenSearch refuses {what}", status=status, type=type_)


def error_of(data: bytes) -> Tuple[str, str]:
    """Type and reason in the body of a failure; both may be empty."""
    try:
        body = json.loads(data)
    except ValueError:
        return "", data[:_REASON_CHARACTERS].decode("utf-8", "replace").strip()
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return type_and_reason(error)
    return "", str(error or "")[:_REASON_CHARACTERS]


def type_and_reason(error: Mapping[str, Any]) -> Tuple[str, str]:
    """Type of an error object, and its reason with the one that caused it."""
    reason = str(error.get("reason") or "").rstrip(" ;")
    cause = error.get("caused_by")
    while isinstance(cause, dict):
        inner = str(cause.get("reason") or "")
        if inner and inner not in reason:
            reason = f"{reason}: {inner}" if reason else inner
        cause = cause.get("caused_by")
    return str(error.get("type") or ""), reason


def seconds(retry_after: Optional[str]) -> Optional[float]:
    """Retry-After in seconds, no more than a minute; a date counts as not given."""
    try:
        return min(60.0, max(0.0, float(retry_after or "")))
    except ValueError:
        return None


def _query_value(value: Union[str, int, bool]) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _causes(error: BaseException) -> Sequence[BaseException]:
    """The error and all it wraps, outermost first."""
    found: Dict[int, BaseException] = {}
    waiting: List[BaseException] = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in found:
            continue
        found[id(one)] = one
        inner = [a for a in one.args if isinstance(a, BaseException)]
        inner.extend(c for c in (getattr(one, "reason", None), one.__cause__) if isinstance(c, BaseException))
        waiting.extend(inner)
    return list(found.values())


def _last(causes: Sequence[BaseException]) -> str:
    """The innermost cause, for people."""
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return type(causes[-1]).__name__


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True

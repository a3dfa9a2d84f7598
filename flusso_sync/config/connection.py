"""Where to connect: the file, its references and the reserved variables, put together anew on each call.

Precedence per value, highest first: an explicit ``{env}`` or ``{file}``; the reserved variable
(``DATABASE_URL``, ``<SINK>_OPENSEARCH_URL`` …) when set; the literal or the parts; nothing.  Imports no
database driver: the answer is a libpq connection string, the same for SQL and for the stream, so that TLS and
every other parameter of the URL holds for both.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import unquote, urlsplit, urlunsplit

from flusso_sync.config.models import ConnectionParts, OpenSearchSink
from flusso_sync.config.values import Reference
from flusso_sync.errors import ConfigError, Problem

if TYPE_CHECKING:
    from flusso_sync.config.load import Config

_SOURCE_URL = re.compile(r"(postgresql|postgres)://\S+\Z")
_HTTP_URL = re.compile(r"https?://\S+\Z")
URL_EXAMPLE = "postgresql://user:password@host:5432/database"

#: Longest prefix, in bytes.
MAX_PREFIX_BYTES = 50

_PREFIX_FORBIDDEN = ' ,:"*+/\\|?#<>'

_SOURCE_KEY = "source.connection_url"


# -- source -------------------------------------------------------------------------------------------


def source_conninfo(config: Config, environ: Optional[Mapping[str, str]] = None) -> str:
    """The libpq connection string (URI or keywords) of the source, with its password; never log it.

    Reads variables and files at each call.  Raises ``ConfigError`` when nothing names the database.
    """
    connection = config.source.connection_url
    environ = os.environ if environ is None else environ
    if isinstance(connection, Reference) and connection.literal is None:
        return _source_url(connection.resolve(environ, key=_SOURCE_KEY), str(connection))
    override = environ.get("DATABASE_URL")
    if override is not None:
        return _source_url(override, "DATABASE_URL")
    if isinstance(connection, ConnectionParts):
        return _keywords(connection, environ)
    if connection is not None:
        return _source_url(connection.resolve(environ), "the text in the file")
    raise ConfigError(
        [Problem("names no database, and DATABASE_URL is not set", path=_SOURCE_KEY, code="FL006")],
        hint="Set DATABASE_URL or write source.connection_url",
    )


def source_address(config: Config, environ: Optional[Mapping[str, str]] = None) -> str:
    """``host:port/database`` as the connection names them; who owns a sink is told apart by it.

    No password and no parameters.  What the connection leaves out comes from where libpq takes it.
    """
    environ = os.environ if environ is None else environ
    conninfo = source_conninfo(config, environ)
    if _SOURCE_URL.match(conninfo):
        named = _url_parts(conninfo)
    else:
        parts = config.source.connection_url
        assert isinstance(parts, ConnectionParts)
        named = {"host": parts.host, "port": str(parts.port), "user": parts.user, "dbname": parts.database}
    hosts = (named.get("host") or environ.get("PGHOST") or "local").split(",")
    ports = (named.get("port") or environ.get("PGPORT") or "5432").split(",")
    user = named.get("user") or environ.get("PGUSER") or "postgres"
    database = named.get("dbname") or environ.get("PGDATABASE") or user
    places = []
    for position, host in enumerate(hosts):
        port = ports[position] if len(ports) == len(hosts) else ports[0]
        places.append(f"[{host}]:{port or 5432}" if ":" in host else f"{host}:{port or 5432}")
    return f"{','.join(places)}/{database}"


def is_source_url(text: str) -> bool:
    """Whether a text has the form of a URL that libpq takes."""
    url = text.strip()
    return bool(_SOURCE_URL.match(url)) and "\0" not in url


def is_http_url(text: str) -> bool:
    """Whether a text has the form of a URL of OpenSearch."""
    return bool(_HTTP_URL.match(text.strip()))


def _source_url(text: str, origin: str) -> str:
    url = text.strip()
    if not is_source_url(url):
        sentence = f"must be a postgresql:// URL such as {URL_EXAMPLE}; {origin} is not"
        raise ConfigError([Problem(sentence, path=_SOURCE_KEY, code="FL006")])
    if any(port and not port.isdecimal() for port in _url_parts(url)["port"].split(",")):
        # Most often a password whose host was left out: not shown, and told to nobody as an address.
        sentence = f"must be a postgresql:// URL such as {URL_EXAMPLE}; the port of {origin} is not a number"
        raise ConfigError([Problem(sentence, path=_SOURCE_KEY, code="FL006")])
    return url


def _keywords(parts: ConnectionParts, environ: Mapping[str, str]) -> str:
    values: Dict[str, Any] = {
        "host": parts.host,
        "port": parts.port,
        "user": parts.user,
        "dbname": parts.database,
    }
    if parts.password is not None:
        values["password"] = parts.password.resolve(environ, key=f"{_SOURCE_KEY}.password")
    return " ".join(f"{key}={_quoted(str(value))}" for key, value in values.items())


def _quoted(value: str) -> str:
    """As libpq reads it: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _url_parts(url: str) -> Dict[str, str]:
    """host, port, user and dbname of a libpq URI, taken apart the way libpq does."""
    rest = url.split("://", 1)[1]
    user = ""
    at = rest.find("@")
    slash = rest.find("/")
    if at >= 0 and (slash < 0 or at < slash):
        user, rest = rest[:at].partition(":")[0], rest[at + 1 :]
    # After the credentials: a ? in a password ends nothing.
    rest, _, query = rest.partition("?")
    places, _, database = rest.partition("/")
    hosts: List[str] = []
    ports: List[str] = []
    for place in places.split(",") if places else ():
        host, port = _host_and_port(place)
        hosts.append(unquote(host))
        ports.append(unquote(port))
    found = {"user": unquote(user), "dbname": unquote(database), "host": ",".join(hosts), "port": ",".join(ports)}
    if not any(ports):
        found["port"] = ""
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if unquote(key) in found:
            found[unquote(key)] = unquote(value)
    return found


def _host_and_port(place: str) -> Tuple[str, str]:
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, rest[1:]
    host, _, port = place.partition(":")
    return host, port


# -- sinks --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SinkSettings:
    """What an OpenSearch connection is made with; ``url`` has no trailing slash and no credentials."""

    url: str
    username: Optional[str] = None
    password: Optional[str] = field(default=None, repr=False)


def sink_settings(name: str, sink: OpenSearchSink, environ: Optional[Mapping[str, str]] = None) -> SinkSettings:
    """URL, user and password of a sink, read anew.  Raises ``ConfigError``.

    A user without password has an empty one; a password without user is not used.  Credentials inside the URL
    count when no others are given.
    """
    environ = os.environ if environ is None else environ
    prefix = f"{name.upper()}_OPENSEARCH_"

    def read(key: str, reference: Optional[Reference]) -> Optional[str]:
        path = f"sinks.{name}.{key}"
        if reference is not None and reference.literal is None:
            return reference.resolve(environ, key=path)
        override = environ.get(prefix + key.upper())
        if override is not None:
            return override
        return reference.resolve(environ, key=path) if reference is not None else None

    url = (read("url", sink.url) or "").strip()
    sentence = "must be an http:// or https:// URL"
    problem = ConfigError([Problem(sentence, path=f"sinks.{name}.url", code="FL006")])
    if not is_http_url(url):
        raise problem
    username, password = read("username", sink.username), read("password", sink.password)
    try:
        split = urlsplit(url)
        if not split.hostname:
            raise problem
        split.port  # noqa: B018  (raises when it is not a number)
    except ValueError:
        # Not chained: the parser's message holds the URL.
        raise problem from None
    if "@" in split.netloc:
        inside, _, place = split.netloc.rpartition("@")
        if username is None:
            given, _, secret = inside.partition(":")
            username, password = unquote(given), unquote(secret) if password is None else password
        split = split._replace(netloc=place)
    if username is None:
        password = None
    elif password is None:
        password = ""
    return SinkSettings(urlunsplit(split).rstrip("/"), username, password)


class Override(NamedTuple):
    """A reserved variable that replaces a value of the file."""

    variable: str
    key: str

    def __str__(self) -> str:
        return f"{self.variable} overrides {self.key}"


def overrides(config: Config, environ: Optional[Mapping[str, str]] = None) -> Tuple[Override, ...]:
    """Reserved variables in force, for the log at start."""
    environ = os.environ if environ is None else environ
    found: List[Override] = []
    connection = config.source.connection_url
    if "DATABASE_URL" in environ and not (isinstance(connection, Reference) and connection.literal is None):
        found.append(Override("DATABASE_URL", _SOURCE_KEY))
    for name, sink in config.sinks.items():
        if not isinstance(sink, OpenSearchSink):
            continue
        for key in ("url", "username", "password"):
            variable = f"{name.upper()}_OPENSEARCH_{key.upper()}"
            reference: Optional[Reference] = getattr(sink, key)
            if variable in environ and (reference is None or reference.literal is not None):
                found.append(Override(variable, f"sinks.{name}.{key}"))
    return tuple(found)


# -- prefix -------------------------------------------------------------------------------------------


def check_prefix(prefix: str) -> None:
    """Raises ``ConfigError`` when the prefix cannot stand in front of an index name."""
    sentence = prefix_problem(prefix)
    if sentence:
        raise ConfigError([Problem(sentence, path="prefix", code="FL003")])


def prefix_problem(prefix: str) -> Optional[str]:
    """What is wrong with a prefix, as a sentence; None for a good one."""
    if not prefix:
        return None
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        return f"must be at most {MAX_PREFIX_BYTES} bytes long, has {len(prefix.encode())}"
    for character in prefix:
        if character in _PREFIX_FORBIDDEN or not character.isprintable():
            return f"must not hold {'a blank' if character == ' ' else character!r}"
        if "A" <= character <= "Z":
            return f"must be lowercase, got {prefix!r}"
    if not (prefix[0].isascii() and prefix[0].isalnum()):
        return f"must start with a letter or digit, got {prefix!r}"
    return None

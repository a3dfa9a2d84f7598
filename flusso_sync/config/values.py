"""The small types of the configuration: sizes, addresses, values that may live elsewhere.

A literal never shows itself in a repr, a message or a dump; a reference shows its name and is read anew each
time it is resolved, so that a rotated password is found by the next connect.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional, Type, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from flusso_sync.config.sentences import show
from flusso_sync.errors import ConfigError, Problem

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|b|k|kb|kib|m|mb|mib|g|gb|gib|t|tb|tib)\Z", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

#: A secret file holds one secret; anything longer is the wrong file.
MAX_SECRET_BYTES = 1_000_000

R = TypeVar("R", bound="Reference")


def parse_size(value: Any) -> Any:
    """Bytes from ``10GB``, ``256MB`` or a number; units are powers of 1024, as in Postgres' settings."""
    if isinstance(value, str):
        match = _SIZE.match(value.strip())
        if not match:
            raise ValueError(f"must be a size such as 32MB, 10GB or a number of bytes, got {show(value)}")
        number = float(match.group(1)) * _UNITS[match.group(2)[:1].lower()]
        return int(min(number, 2.0**64))  # further bounds are the key's own; infinity has no whole number
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a size such as 32MB, 10GB or a number of bytes, got {show(value)}")
    return value


class Address(NamedTuple):
    """Where a surface listens: a literal IP and a port (0 takes a free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback


def parse_address(text: str) -> Address:
    """``127.0.0.1:9464`` or ``[::1]:9464``; raises ``ValueError`` with a sentence.  Host names are refused."""
    sentence = f"must be IP:port such as 127.0.0.1:9464 or [::1]:9464 (no host names), got {show(text)}"
    host, _, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(sentence) from None
    if bracketed != (address.version == 6):
        raise ValueError(sentence)
    if not re.match(r"[0-9]{1,5}\Z", port) or int(port) > 65535:
        raise ValueError(sentence)
    return Address(str(address), int(port))


class Reference:
    """A value in the file (``literal``), in an environment variable (``env``) or in a file (``file``).

    Exactly one of the three is set.
    """

    __slots__ = ("env", "file", "literal")

    literal: Optional[str]
    env: Optional[str]
    file: Optional[str]

    def __init__(self, literal: Optional[str] = None, *, env: Optional[str] = None, file: Optional[str] = None) -> None:
        for name, value in (("literal", literal), ("env", env), ("file", file)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reference) or type(self) is not type(other):
            return NotImplemented
        return (self.literal, self.env, self.file) == (other.literal, other.env, other.file)

    def __hash__(self) -> int:
        return hash((self.literal, self.env, self.file))

    def __str__(self) -> str:
        """What people may see of it."""
        if self.env is not None:
            return f"${{{self.env}}}"
        if self.file is not None:
            return f"file {self.file}"
        return self._masked()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def _masked(self) -> str:
        return "***"

    def resolve(self, environ: Optional[Mapping[str, str]] = None, *, key: Optional[str] = None) -> str:
        """The value now: the variable or file is read at each call.

        ``key`` is the key path that messages name.  Raises ``ConfigError`` when the variable is unset or the
        file cannot be read.  A file's trailing line breaks do not belong to the value.
        """
        if self.env is not None:
            found = (os.environ if environ is None else environ).get(self.env)
            if found is None:
                raise ConfigError([Problem(f"the environment variable {self.env} is not set", path=key, code="FL006")])
            return found
        if self.file is not None:
            return self._read(self.file, key)
        return self.literal or ""

    def _read(self, file: str, key: Optional[str]) -> str:
        try:
            with open(file, "rb") as stream:
                content = stream.read(MAX_SECRET_BYTES + 1)
            if len(content) > MAX_SECRET_BYTES:
                raise ConfigError([Problem(f"the file {file} is too large for a secret", path=key, code="FL006")])
            return content.decode("utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(
                [Problem(f"the file {file} cannot be read: {error.strerror}", path=key, code="FL006")]
            ) from error
        except UnicodeDecodeError:
            # Not chained: the decoder's message holds the bytes.
            raise ConfigError([Problem(f"the file {file} is not UTF-8 text", path=key, code="FL006")]) from None

    @classmethod
    def parse(cls: Type[R], value: Any, base: Path) -> R:
        """From a file's value; relative paths start at ``base``.  Raises ``ValueError`` with a sentence."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and len(value) == 1:
            kind, name = next(iter(value.items()))
            if kind in ("env", "file") and (not isinstance(name, str) or not name.strip()):
                raise ValueError(f"`{kind}` must name {'a variable' if kind == 'env' else 'a file'}")
            if kind == "env":
                return cls(env=name.strip())
            if kind == "file":
                if "\0" in name:
                    raise ValueError("`file` must name a file; no path holds a zero byte")
                return cls(file=str(base / name))
        seen = f"a mapping with the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else _kind(value)
        raise ValueError(f"must be text, {{env: VARIABLE}} or {{file: PATH}}, got {seen}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, info: core_schema.ValidationInfo) -> Any:
            return cls.parse(value, (info.context or {}).get("base", Path()))

        return core_schema.with_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Dict[str, Any]:
        def only(key: str) -> Dict[str, Any]:
            return {
                "type": "object",
                "properties": {key: {"type": "string"}},
                "required": [key],
                "additionalProperties": False,
            }

        return {"anyOf": [{"type": "string"}, only("env"), only("file")]}


class Secret(Reference):
    """A password: a literal is shown as stars."""

    __slots__ = ()


class Setting(Reference):
    """A URL or user name: a literal is shown, with the password inside a URL masked.

    What is neither may be anything, a connection string with its password among it, and shows nothing.
    """

    __slots__ = ()

    def _masked(self) -> str:
        text = (self.literal or "").strip()
        return mask_url(text) if _SCHEME.match(text) else text if _WORD.match(text) else "***"


_URL_PASSWORD = re.compile(r"^(\s*[a-zA-Z][a-zA-Z0-9+.-]*://[^:/@?#]*):.*@", re.DOTALL)
#: A URL that was meant to have a host: without one, what follows the user would be its port.
_NO_HOST = re.compile(r"^(\s*[a-zA-Z][a-zA-Z0-9+.-]*://[^:/@?#\[]*):(?![0-9]*(?:[/?#,]|\Z))[^@]*\Z")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_WORD = re.compile(r"[\w.@+-]*\Z")
_PARAMETER = re.compile(r"([?&](?:password|sslpassword|passfile)=)[^&#]*", re.IGNORECASE)


def mask_url(url: str) -> str:
    """The URL with its password as stars.

    An unescaped ``@``, ``/`` or ``?`` may stand in the password, so everything up to the last ``@`` counts as one.
    """
    return _PARAMETER.sub(r"\1***", _NO_HOST.sub(r"\1:***", _URL_PASSWORD.sub(r"\1:***@", url)))


def _kind(value: Any) -> str:
    """A value of the wrong kind, for a message, without showing it: it may be a secret."""
    if isinstance(value, bool):
        return "true or false"
    return "a number; put it in quotes" if isinstance(value, (int, float)) else show(value)

"""Names as users write them: identifiers, tables with or without a schema, document keys.

An unquoted name is lowercased, as flusso does and as Postgres folds it; a name in double quotes keeps case
and any character.  Every function raises ``ValueError`` with a sentence that needs no context but the key.
"""

from __future__ import annotations

import re
from typing import List, Tuple

from flusso_sync.config.sentences import show
from flusso_sync.schema.plan import Table

#: Postgres cuts names here (NAMEDATALEN - 1), in bytes.
MAX_NAME_BYTES = 63

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")
_FIELD = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"\Z')

#: The same rules as regular expressions of JSON Schema, which count characters where we count bytes.
_PLAIN_NAME = "[a-zA-Z_][a-zA-Z0-9_]{0,%d}" % (MAX_NAME_BYTES - 1)
NAME_PATTERN = rf"^\s*{_PLAIN_NAME}\s*$"
_NAME = rf'(?:{_PLAIN_NAME}|"(?:[^"]|"")+")'
IDENTIFIER_PATTERN = rf"^\s*{_NAME}\s*$"
TABLE_PATTERN = rf"^\s*{_NAME}(?:\s*\.\s*{_NAME})?\s*$"

_RULE = "letters, digits and _, not starting with a digit"


def identifier(text: str) -> str:
    """A table, column or database schema as the catalog spells it."""
    name = text.strip()
    quoted = _QUOTED.match(name)
    if quoted:
        inner = quoted.group(1).replace('""', '"')
        if not inner or "\0" in inner:
            raise ValueError("a quoted name must not be empty, nor hold a zero byte")
        return _short(inner, text)
    return plain_identifier(name, or_quoted=True)


def plain_identifier(text: str, *, or_quoted: bool = False) -> str:
    """A name of ours (index, sink): lowercased, letters, digits and ``_`` only."""
    name = text.strip()
    name = name.lower() if name.isascii() else name  # the sign of Kelvin is a k in lower case
    if not _PLAIN.match(name):
        quotes = ", or any name in double quotes" if or_quoted else ""
        raise ValueError(f"must be a name ({_RULE}{quotes}), got {show(text)}")
    return _short(name, text)


def field_name(text: str) -> str:
    """A document key: case is kept."""
    name = text.strip()
    if not _FIELD.match(name):
        raise ValueError(f"must be a field name ({_RULE}), got {show(text)}")
    return _short(name, text)


def table(text: str, schema: str) -> Table:
    """A table; a dot outside quotes separates its database schema, else it is ``schema``."""
    parts = _split(text)
    if len(parts) > 2:
        raise ValueError(f"must be a table or schema.table, got {show(text)}; quote a name that holds a dot")
    if len(parts) == 2:
        return Table(identifier(parts[0]), identifier(parts[1]))
    return Table(schema, identifier(parts[0]))


def spell(name: str) -> str:
    """The name as a file would write it: in quotes only where it needs them."""
    if _PLAIN.match(name):
        return name
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _split(text: str) -> Tuple[str, ...]:
    parts: List[str] = [""]
    inside = False
    for character in text.strip():
        if character == '"':
            inside = not inside
        if character == "." and not inside:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(parts)


def _short(name: str, text: str) -> str:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"must be at most {MAX_NAME_BYTES} bytes long, got {show(text)}")
    return name

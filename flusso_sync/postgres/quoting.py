"""Identifiers, literals and array texts for SQL: one function each, and nowhere else are quotes put."""

from __future__ import annotations

from typing import Iterable, Optional, Tuple
from urllib.parse import unquote

from flusso_sync.schema.plan import Table


def identifier(name: str) -> str:
    """``name`` as a quoted identifier, exactly as the catalog spells it."""
    if not name or "\x00" in name:
        raise ValueError(f"not an identifier: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str, name: str) -> str:
    return f"{identifier(schema)}.{identifier(name)}"


def table_name(table: Table) -> str:
    return qualified(table.schema, table.name)


def literal(text: str) -> str:
    """``text`` as a string literal that reads the same with ``standard_conforming_strings`` on and off.

    Postgres has no text with a zero character: ``ValueError``.
    """
    if "\x00" in text:
        raise ValueError("a zero character cannot stand in a Postgres text")
    quoted = "'" + text.replace("'", "''") + "'"
    # The space keeps E from running into a word before it.
    return " E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def id_parts(id: str, width: int) -> Optional[Tuple[str, ...]]:
    """An id of ``width`` key columns taken apart (design section 5); None where it cannot be one.

    Postgres has no text with a zero character.
    """
    parts = id.split(":") if width > 1 else [id]
    if len(parts) != width or "\0" in id:
        return None
    return tuple(map(unquote, parts)) if width > 1 else (id,)


def array_literal(values: Iterable[Optional[str]]) -> str:
    """``values`` as the text of a one-dimensional array: a parameter for ``$1::text[]``, not SQL."""
    return "{" + ",".join("NULL" if value is None else _element(value) for value in values) + "}"


def _element(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

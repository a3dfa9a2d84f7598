"""Test databases with their schema files: one folder each, holding create.sql, fill.sql, changes.sql, schemas/.

Every table has a primary key, so that every change can be traced.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import psycopg

FOLDER = Path(__file__).parent

_TITLE = re.compile(r"^-- change: (.+)$", re.MULTILINE)


class Change(NamedTuple):
    """``sql`` is one or more statements, sent at once: one transaction unless it says otherwise."""

    title: str
    sql: str


class Case:
    """A database and the indexes made of it.  ``connection`` is ``autocommit`` everywhere."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = FOLDER / name

    def __repr__(self) -> str:
        return self.name

    @property
    def indexes(self) -> Dict[str, Path]:
        """Index name -> schema file."""
        suffix = ".schema.yml"
        return {path.name[: -len(suffix)]: path for path in sorted(self.folder.glob("schemas/*" + suffix))}

    def create(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(self._read("create.sql").encode())

    def fill(self, connection: psycopg.Connection[Any], scale: int = 1) -> None:
        """Insert the rows; ``scale`` multiplies those of the tables that can grow."""
        connection.execute("SELECT set_config('flusso.scale', %s, false)", [str(scale)])
        connection.execute(self._read("fill.sql").encode())
        connection.execute("ANALYZE")

    def load(self, url: str, scale: int = 1) -> None:
        """Create and fill, on a connection of its own."""
        with psycopg.connect(url, autocommit=True) as connection:
            self.create(connection)
            self.fill(connection, scale)

    @property
    def changes(self) -> List[Change]:
        """The listed changes; each may rely on the ones before it."""
        _, *parts = _TITLE.split(self._read("changes.sql"))
        return [Change(title, sql.strip()) for title, sql in zip(parts[::2], parts[1::2])]

    def apply(self, connection: psycopg.Connection[Any], change: Change) -> None:
        connection.execute(change.sql.encode())

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


#: A small web shop, for quick tests; scales.
SHOP = Case("shop")
#: Thirty kinds of field and more of change, all within what flusso itself reads.
THIRTY = Case("thirty")
#: An index for every type a key may have.
KEYS = Case("keys")
#: What goes beyond flusso: composite keys, doc_id, quoted names, other schemas, partitions, references.
BEYOND = Case("beyond")
#: The examples of flusso's pages, made anew: articles, users, orders, products, categories.
PRESS = Case("press")
#: Many tenants: composite keys and links everywhere, numbers that repeat in every tenant, partitions by tenant.
TENANTS = Case("tenants")
#: An old database: names that need quotes, two schemas with tables of one name, ENUMs, domains, char(n), odd types.
LEGACY = Case("legacy")
#: Schema sets as others write them.
OTHERS = [PRESS, TENANTS, LEGACY]
CASES = [SHOP, THIRTY, KEYS, BEYOND, *OTHERS]

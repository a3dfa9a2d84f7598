"""Generations of an index: what is stored about them, and the tables they are."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Set

from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.meta import Json
from flusso_sync.sinks.sqlite.names import Names, quoted
from flusso_sync.sinks.sqlite.words import TOKENIZER, words_of


@dataclass
class State:
    """One logical index as the file has it.

    ``read`` is the generation that is kept current, ``shown`` the one that readers find: the same, or a former one.
    ``kept`` are former ones, those that readers had last first; each stands still.
    """

    index: str
    last: int = 0
    read: Optional[int] = None
    shown: Optional[int] = None
    building: Optional[int] = None
    kept: List[int] = field(default_factory=list)
    #: Generation -> what it was built from.
    hashes: Dict[int, str] = field(default_factory=dict)
    #: Former generation -> everything up to this position is in it.
    frozen: Dict[int, int] = field(default_factory=dict)
    seeded: bool = False
    #: Of the build, as ``save_progress`` stored it.
    progress: Optional[Json] = None

    @property
    def wanted(self) -> Set[int]:
        """The generations that must stay."""
        return {one for one in (self.read, self.shown, self.building, *self.kept) if one is not None}

    def retire(self, position: int) -> None:
        """What is kept current stands still from now on."""
        if self.read is not None:
            self.kept = [self.read, *(one for one in self.kept if one != self.read)]
            self.frozen[self.read] = position
            self.read = None

    def show_former(self, number: int) -> None:
        """Let readers have a kept generation; what they had last is the first to be kept."""
        self.shown = number
        self.kept = [number, *(one for one in self.kept if one != number)]

    def forget(self, gone: Set[int]) -> None:
        """Generations that somebody deleted."""
        self.kept = [one for one in self.kept if one not in gone]
        if self.building in gone:
            self.building = self.progress = None
        if self.read in gone:
            self.read, self.seeded = None, False
        if self.shown in gone:
            self.shown = self.read

    def trim(self) -> None:
        """Forget what is said of generations that are gone for good."""
        self.hashes = {one: hash for one, hash in self.hashes.items() if one in self.wanted}
        self.frozen = {one: lsn for one, lsn in self.frozen.items() if one in self.kept}

    def document(self) -> Json:
        """Without the progress, which is stored by itself."""
        return {
            "index": self.index,
            "last": self.last,
            "read": self.read,
            "shown": self.shown,
            "building": self.building,
            "kept": self.kept,
            "hashes": {str(one): hash for one, hash in self.hashes.items()},
            "frozen": {str(one): str(lsn) for one, lsn in self.frozen.items()},
            "seeded": self.seeded,
        }


def state_of(source: Mapping[str, Any], build: Optional[Mapping[str, Any]] = None) -> State:
    """What ``document`` stored, with the progress of ``build`` if that is of the generation being built."""
    state = State(
        index=source["index"],
        last=source["last"],
        read=source["read"],
        shown=source["shown"],
        building=source["building"],
        kept=list(source["kept"]),
        hashes={int(one): hash for one, hash in source["hashes"].items()},
        frozen={int(one): int(lsn) for one, lsn in source["frozen"].items()},
        seeded=source["seeded"],
    )
    if build is not None and state.building is not None and build["generation"] == state.building:
        state.progress = build["progress"]
    return state


class Table:
    """The documents of one generation, and the statements that write them.

    Deleted ones leave a row without a body, whose version still counts.
    """

    def __init__(self, names: Names, plan: IndexPlan, number: int, *, search: bool) -> None:
        self.number = number
        self.name = names.documents(plan.name, number)
        self.words = names.words(plan.name, number) if search else None
        self._gone = f"{self.name}.gone"
        table = quoted(self.name)
        # An equal version wins, as external_gte has it; version 0 leaves it to the order.  The body is JSON text, for
        # SQLite's JSON functions; it comes and goes as bytes.
        self.put = (
            f"INSERT INTO {table} (id, version, body, gone_at) VALUES (?, ?, CAST(? AS TEXT), ?)"
            " ON CONFLICT (id) DO UPDATE SET version = excluded.version, body = excluded.body,"
            " gone_at = excluded.gone_at WHERE excluded.version >= version OR excluded.version = 0"
        )
        self.forget = self.remember = None
        words = words_of(plan, "body") if self.words else None
        if self.words and words is not None:
            text = quoted(self.words)
            found = f"number, {words} FROM {table} WHERE id IN (SELECT value FROM json_each(?)) AND body IS NOT NULL"
            #: Take a JSON list of ids, before and after the documents are put.
            self.forget = f"INSERT INTO {text} ({text}, rowid, words) SELECT 'delete', {found}"
            self.remember = f"INSERT INTO {text} (rowid, words) SELECT {found}"

    def create(self, connection: sqlite3.Connection) -> None:
        table = quoted(self.name)
        connection.execute(
            f"CREATE TABLE {table} (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL,"
            " body TEXT, gone_at INTEGER)"
        )
        # For counting what is there, and for forgetting at last what was deleted.
        connection.execute(f"CREATE INDEX {quoted(self._gone)} ON {table} (gone_at) WHERE body IS NULL")
        if self.words:
            # Contentless: the words stand in the documents already.
            connection.execute(
                f"CREATE VIRTUAL TABLE {quoted(self.words)} USING fts5(words, content = '', tokenize = '{TOKENIZER}')"
            )

    def is_whole(self, tables: Set[str]) -> bool:
        """Whether it is among the tables that exist."""
        return self.name in tables and (self.words is None or self.words in tables)


def tables_of(connection: sqlite3.Connection) -> Dict[str, str]:
    """Every table and view: name -> which of the two."""
    return dict(connection.execute("SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view')"))


def drop(connection: sqlite3.Connection, names: Names, index: str, number: int) -> None:
    for table in (names.words(index, number), names.documents(index, number)):
        connection.execute(f"DROP TABLE IF EXISTS {quoted(table)}")


def show(connection: sqlite3.Connection, names: Names, index: str, number: Optional[int]) -> None:
    """Let readers find that generation; none with None."""
    view = quoted(names.view(index))
    connection.execute(f"DROP VIEW IF EXISTS {view}")
    if number is not None:
        table = quoted(names.documents(index, number))
        connection.execute(f"CREATE VIEW {view} AS SELECT id, body FROM {table} WHERE body IS NOT NULL")


def count(connection: sqlite3.Connection, names: Names, index: str, number: int) -> int:
    """How many documents the generation holds; both numbers come from indexes, no document is read."""
    table = quoted(names.documents(index, number))
    query = f"SELECT (SELECT count(*) FROM {table}) - (SELECT count(*) FROM {table} WHERE body IS NULL)"
    (found,) = connection.execute(query).fetchone()
    return int(found)

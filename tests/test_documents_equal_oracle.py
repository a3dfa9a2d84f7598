"""Documents as Postgres builds them equal the oracle's: every case, first filled and then after each listed change."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import psycopg
import pytest

from flusso_sync.postgres.bind import BoundIndex, bind
from flusso_sync.postgres.catalog import read_catalog
from flusso_sync.postgres.statements import READING_SETTINGS, IndexStatements, compile_statements
from flusso_sync.schema.language import load_schema
from flusso_sync.schema.paths import tables
from tests.cases import CASES, Case, Change
from tests.histories import Writer
from tests.oracle import Documents, assert_same, evaluate_all, parse
from tests.postgres_server import Database

Key = Tuple[str, ...]

MOST_BYTES = 20_000_000


class Reader(NamedTuple):
    """Runs an index's statements as a daemon would, with bounds so small that every one of them bites."""

    connection: psycopg.Connection[Any]
    bound: BoundIndex
    statements: IndexStatements
    batch_bytes: int

    def _rows(self, statement: str, *parameters: Any) -> List[Tuple[Any, ...]]:
        return self.connection.execute(statement, parameters).fetchall()

    def look_up(self, keys: Sequence[Key]) -> Dict[str, Optional[str]]:
        """id -> document, None where there is no such row."""
        found: Dict[str, Optional[str]] = {}
        left = list(keys)
        while left:
            arrays = [list(part) for part in zip(*left)]
            rows = self._rows(self.statements.lookup, *arrays, self.batch_bytes, MOST_BYTES)
            assert [row[0] for row in rows] == list(range(1, len(left) + 1))
            later = []
            for (_, id, size, document), key in zip(rows, left):
                if size is not None and document is None:
                    later.append(key)
                else:
                    assert document is None or len(document.encode()) == size
                    found[id] = document
            assert len(later) < len(left), "a look-up must get on"
            left = later
        return found

    def walk(self, chunk_rows: int) -> Tuple[Dict[str, str], Set[str]]:
        """All documents by ranges, and the ids that the walk along the key promised."""
        documents: Dict[str, str] = {}
        promised: Set[str] = set()
        lower: Key = ()
        while True:
            statement = self.statements.chunk_after if lower else self.statements.chunk_first
            rows = self._rows(statement, *lower, chunk_rows)
            if not rows:
                return documents, promised
            assert len(rows) <= chunk_rows
            promised |= {row[2] for row in rows if row[0]}
            upper: Key = rows[-1][3:]
            self._range(lower, upper, documents)
            lower = upper

    def _range(self, lower: Key, upper: Key, documents: Dict[str, str]) -> None:
        statement = self.statements.range_after if lower else self.statements.range_first
        later: List[Key] = []
        for id, size, document, *key in self._rows(statement, *lower, *upper, self.batch_bytes, MOST_BYTES):
            if document is None:
                later.append(tuple(key))
            else:
                assert len(document.encode()) == size and set(key) == {None}
                documents[id] = document
        documents.update((id, document) for id, document in self.look_up(later).items() if document is not None)


def reading_settings(connection: psycopg.Connection[Any]) -> None:
    """Make a connection one that runs compiled statements."""
    for name, value in READING_SETTINGS.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    connection.cursor_factory = psycopg.RawCursor


def readers(connection: psycopg.Connection[Any], case: Case, batch_bytes: int = 4000) -> Dict[str, Reader]:
    plans = {index: load_schema(path, index)[0] for index, path in case.indexes.items()}
    bound = {index: bind(plan, read_catalog(connection, tables(plan))) for index, plan in plans.items()}
    reading_settings(connection)
    return {index: Reader(connection, b, compile_statements(b), batch_bytes) for index, b in bound.items()}


def check(reader: Reader, expected: Documents, keys: Set[Key], name: str) -> None:
    """Both ways of reading give the oracle's documents; ``keys`` grows, so that deleted rows are asked for, too."""
    documents, promised = reader.walk(chunk_rows=7)
    assert all("\n" not in document and "\r" not in document for document in documents.values())
    assert_same(expected, {id: parse(document) for id, document in documents.items()}, f"{name}, by range", True)
    assert promised == set(expected), name
    root = reader.bound.plan.root
    columns = ", ".join(f'"{column}"::text' for column in reader.bound.lookup)
    keys |= {tuple(row) for row in reader.connection.execute(f'SELECT {columns} FROM "{root.schema}"."{root.name}"')}
    found = reader.look_up(sorted(keys))
    assert len(found) == len(keys)
    looked_up = {id: parse(document) for id, document in found.items() if document is not None}
    assert_same(expected, looked_up, f"{name}, by key", True)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_documents_equal_the_oracle_before_and_after_every_change(database: Database, case: Case) -> None:
    case.load(database.url)
    keys: Dict[str, Set[Key]] = {index: set() for index in case.indexes}
    failures = []
    with database.connect() as connection, database.connect() as reading:
        reader = readers(reading, case)
        for change in [Change("first filled", ""), *case.changes]:
            case.apply(connection, change)
            expected = evaluate_all(connection, case.indexes)
            for index in case.indexes:
                try:
                    check(reader[index], expected[index], keys[index], f"{index} after: {change.title}")
                except (AssertionError, psycopg.Error) as error:
                    failures.append(str(error))
    assert not failures, f"{len(failures)} failures\n" + "\n".join(failures[:10])


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("seed", [1, 2])
def test_documents_equal_the_oracle_after_a_random_history(database: Database, case: Case, seed: int) -> None:
    case.load(database.url)
    Writer(database.url, seed, case, limit=800).start().join(60)
    with database.connect() as connection, database.connect() as reading:
        expected = evaluate_all(connection, case.indexes)
        for index, reader in readers(reading, case, batch_bytes=1).items():
            check(reader, expected[index], set(), index)

"""The finished documents of a configuration, read as the daemon reads them, for whoever measures or compares."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Iterator, Mapping, Optional, Sequence, Tuple, Type

import psycopg
from psycopg import sql

from flusso_sync.backends import DefaultBackends
from flusso_sync.config.load import load_config
from flusso_sync.daemon import DaemonOptions
from flusso_sync.engine.source import Document
from flusso_sync.postgres.bind import bind
from flusso_sync.postgres.catalog import read_catalog
from flusso_sync.postgres.statements import READING_SETTINGS, compile_statements
from flusso_sync.schema.paths import tables
from flusso_sync.schema.plan import IndexPlan

CHUNK_ROWS = 5000
UNBOUNDED = 1 << 60


class Source:
    """The source of one configuration file; a context that closes its connections."""

    def __init__(self, config: Path, url: str) -> None:
        self.url = url
        self._config = load_config(str(config))
        self._plans = {plan.name: plan for plan in self._config.plans}
        self._documents = DefaultBackends().source(self._config, DaemonOptions()).documents
        self._stop = threading.Event()

    def __enter__(self) -> Source:
        self._documents.open(list(self._plans.values()), self._stop)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._documents.close()

    def documents(self, index: str) -> Iterator[Tuple[str, bytes]]:
        """Id and JSON of every document of ``index``, in key order."""
        chunk = self._documents.next_chunk(index, None, None, CHUNK_ROWS)
        while chunk is not None:
            with self._documents.snapshot([], self._stop) as snapshot:
                documents, rest = snapshot.build_chunk(chunk)
                yield from self._finished(index, documents)
                while rest:
                    documents, rest = snapshot.build(index, rest)
                    yield from self._finished(index, documents)
            chunk = self._documents.next_chunk(index, chunk.upper, None, CHUNK_ROWS)

    def some(self, index: str, keys: Sequence[Any]) -> Iterator[Tuple[str, bytes]]:
        """Id and JSON of the documents of ``keys``, as texts."""
        rest: Sequence[Any] = [(key,) for key in keys]
        with self._documents.snapshot([], self._stop) as snapshot:
            while rest:
                documents, rest = snapshot.build(index, rest)
                yield from self._finished(index, documents)

    def plan(self, index: str) -> IndexPlan:
        return self._plans[index]

    @staticmethod
    def _finished(index: str, documents: Sequence[Document]) -> Iterator[Tuple[str, bytes]]:
        for document in documents:
            if document.body is None:
                raise RuntimeError(f"{index}/{document.id} cannot be built: {document.error}")
            yield document.id, document.body

    def query(self, index: str) -> str:
        """One statement without parameters for all documents of ``index``: that of a chunk, without an end."""
        plan = self._plans[index]
        with psycopg.connect(self.url, autocommit=True) as connection:
            bound = bind(plan, read_catalog(connection, sorted(tables(plan))))
            statement = compile_statements(bound).range_first
            last = connection.execute(
                sql.SQL("SELECT max(id)::text FROM {}").format(sql.Identifier(plan.root.schema, plan.root.name))
            ).fetchone()
            assert last is not None
            for number, value in ((1, last[0]), (2, UNBOUNDED), (3, UNBOUNDED)):
                statement = statement.replace(f"${number}::", sql.Literal(str(value)).as_string(connection) + "::")
        return f"SELECT r.document FROM ({statement}) AS r(id, size, document)"

    def lookup(self, index: str, keys: str) -> str:
        """Id and document of ``keys``, an SQL expression of type text[]: the daemon's own statement, without bounds."""
        plan = self._plans[index]
        with psycopg.connect(self.url, autocommit=True) as connection:
            statement = compile_statements(bind(plan, read_catalog(connection, sorted(tables(plan))))).lookup
        for number, value in ((1, keys), (2, f"'{UNBOUNDED}'"), (3, f"'{UNBOUNDED}'")):
            statement = statement.replace(f"${number}::", f"{value}::")
        return f"SELECT r.id, r.document FROM ({statement}) AS r(ordinal, id, size, document)"


def settings(wanted: Mapping[str, str] = READING_SETTINGS) -> str:
    """The statements that make a session have these settings: by default it reads as the daemon's do."""
    return "; ".join(f"SET {name} = '{value}'" for name, value in wanted.items())

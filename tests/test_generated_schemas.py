"""Schemas, rows and changes made up by Hypothesis, built by the daemon, equal to the oracle (promise 9).

A world is a few tables with rows, one to three schema files over them, and transactions to come; every example is some
worlds under one daemon, over a real Postgres with the sink in memory.  ``FLUSSO_EXAMPLES=5000`` asks for that many,
``FLUSSO_LONG=1`` for 2,000.  A failure is shrunk for some minutes, then printed as SQL and schema files, with the
``@reproduce_failure`` that shows it again; ``FLUSSO_SHRINK=0`` prints what was found as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, Mapping, Sequence, Tuple

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.generated import TYPES, Statement, World, namespaces, quoted, worlds
from tests.in_process import in_process, write_schemas
from tests.oracle import Documents
from tests.postgres_server import Database
from tests.waiting import wait_for

LONG = os.environ.get("FLUSSO_LONG") == "1"
#: Worlds that share a daemon, most of whose time is spent on starting and ending.
TOGETHER = 4
EXAMPLES = int(os.environ.get("FLUSSO_EXAMPLES") or (2000 if LONG else 200))


class Bench:
    """A database that worlds are made in and taken from, one group after another."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._names = itertools.count(1)
        self.counts: Counter[str] = Counter()
        database.execute(TYPES)

    def try_out(self, group: Sequence[World]) -> None:
        """Build all of ``group`` by one daemon, compare, change it, compare again."""
        slot = f"{self._database.name}_{next(self._names)}"
        url = self._database.url
        schemas = {f"w{world.place}_{n}": schema for world in group for n, schema in enumerate(world.schemas)}
        paths = write_schemas(self._folder, schemas)
        settings = {"on_error": "skip", "backfill": {"workers": 1, "chunk_rows": 2}}
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
            try:
                for world in group:
                    _load(connection, world)
                with in_process(url, slot, paths, **settings) as daemon:
                    self._count(daemon.right("as built"))
                    for transaction in itertools.chain(
                        *itertools.zip_longest(*(w.changes for w in group), fillvalue=())
                    ):
                        self.counts["transactions"] += _carry_out(connection, transaction)
                    self._count(daemon.right("after the changes"))
            finally:
                _clear(connection, slot, group)
        self.counts.update(daemons=1, worlds=len(group), indexes=len(schemas))

    def _count(self, expected: Mapping[str, Documents]) -> None:
        for documents in expected.values():
            self.counts.update(documents=len(documents), rejected=len(documents.rejected))


def _load(connection: psycopg.Connection[Any], world: World) -> None:
    for namespace in namespaces(world.place):
        connection.execute(f"CREATE SCHEMA {quoted(namespace)}".encode())
    for table in world.tables:
        for statement in table.ddl():
            connection.execute(statement.encode())
    for table in world.tables:
        for row in table.rows:
            _carry_out(connection, [table.insert(row)])


def _carry_out(connection: psycopg.Connection[Any], transaction: Sequence[Statement]) -> bool:
    """Run it; what violates a constraint, or does not fit its column, is rolled back."""
    with contextlib.suppress(psycopg.IntegrityError, psycopg.DataError), connection.transaction():
        for statement, parameters in transaction:
            connection.execute(statement.encode(), parameters)
        return bool(transaction)
    return False


def _clear(connection: psycopg.Connection[Any], slot: str, group: Sequence[World]) -> None:
    def dropped() -> bool:
        # The walsender ends a little after the daemon has closed its connection.
        with contextlib.suppress(psycopg.errors.ObjectInUse):
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", [slot]
            )
            return True
        return False

    wait_for(dropped, 30, "the slot is free")
    connection.execute(f"DROP PUBLICATION IF EXISTS {slot}".encode())
    for namespace in itertools.chain(*(namespaces(world.place) for world in group)):
        connection.execute(f"DROP SCHEMA IF EXISTS {quoted(namespace)} CASCADE".encode())


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> Bench:
    return Bench(database, tmp_path)


@pytest.mark.slow
def test_what_hypothesis_makes_up_is_built_and_kept_equal_to_the_oracle(bench: Bench) -> None:
    phases = {Phase.explicit, Phase.reuse, Phase.generate}
    if os.environ.get("FLUSSO_SHRINK") != "0":
        phases.add(Phase.shrink)

    @settings(
        max_examples=-(-EXAMPLES // TOGETHER),
        deadline=None,
        print_blob=True,
        phases=tuple(phases),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(st.tuples(*(worlds(place) for place in range(TOGETHER))))
    def try_out(group: Tuple[World, ...]) -> None:
        for world in group:
            note(world.script())
        bench.try_out(group)

    started = time.monotonic()
    try_out()
    print(
        ", ".join(f"{count} {what}" for what, count in bench.counts.items()), f"in {time.monotonic() - started:.0f} s"
    )
    assert bench.counts["worlds"] >= EXAMPLES and bench.counts["documents"] > bench.counts["indexes"]

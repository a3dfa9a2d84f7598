"""Random writers: a seed gives a history of transactions over any case's tables, carried out at full speed.

Values are drawn from what the tables hold at the start and from a few of our own, keys from a limited set of old
and new ones, so that rows are born, moved, deleted and born again under the same keys.  What violates a
constraint is rolled back and counted.  As a program: ``python -m tests.histories URL CASE SEED`` writes until
SIGTERM and then prints the counts.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import uuid
from collections import Counter
from contextlib import ExitStack
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import psycopg
from psycopg import sql

from tests.cases import CASES, Case
from tests.oracle.language import Names, Schema, TableName
from tests.oracle.rows import snapshot
from tests.oracle.values import TEXTS, WHOLE, Type

KeyValue = Tuple[Optional[str], ...]

FRESH_KEYS = 40
POOL_VALUES = 40
RECONNECT_SECONDS = 0.1
WORDS = ("a", "B", "zz", "é", "☃", "", " x", '"', "%_", "\\")


class Reference(NamedTuple):
    """These columns hold a key of ``target``."""

    columns: Names
    target: TableName
    target_columns: Names


class WritableTable(NamedTuple):
    """What a writer may do to one table, and with which values."""

    name: TableName
    types: Dict[str, Type]
    key: Names
    nullable: Set[str]
    generated: Set[str]
    references: List[Reference]
    #: Keys there at the start and keys to come; values as text.
    keys: List[KeyValue]
    fresh: List[KeyValue]
    pools: Dict[str, List[Optional[str]]]

    @property
    def plain(self) -> List[str]:
        """Columns that are neither key nor link nor computed."""
        links = {name for reference in self.references for name in reference.columns}
        return [name for name in self.types if name not in links | set(self.key) | self.generated]


class Step(NamedTuple):
    """One statement of a history; ``savepoint`` numbers the subtransaction it runs in (0: none)."""

    kind: str
    statement: sql.Composed
    values: Tuple[Optional[str], ...]
    savepoint: int = 0


class Transaction(NamedTuple):
    """``undone``: numbers of savepoints that are rolled back; ``rolled_back``: all of it is."""

    steps: Tuple[Step, ...]
    undone: frozenset[int] = frozenset()
    rolled_back: bool = False


# -- what there is to write to ------------------------------------------------------------------------


def read_tables(connection: psycopg.Connection[Any], case: Case) -> List[WritableTable]:
    """The tables that a case's indexes read, with their keys and links; the same rows give the same answer."""
    schemas = [Schema(path) for path in case.indexes.values()]
    names = sorted({name for schema in schemas for name in schema.tables()})
    references: Dict[TableName, Dict[Reference, None]] = {name: {} for name in names}
    for schema in schemas:
        for link in schema.links():
            references[link.table][Reference(link.columns, link.target, link.target_columns)] = None
    delicate = {place for schema in schemas for place in schema.delicate()}
    tables = []
    with snapshot(connection) as rows:
        for number, name in enumerate(names):
            table = rows.table(name)
            attributes = rows.text_rows(
                "SELECT attname, attnotnull, attgenerated <> '' FROM pg_attribute"
                " WHERE attrelid = %s::text::regclass AND attnum > 0 AND NOT attisdropped",
                [sql.Identifier(*name).as_string(connection)],
            )
            key_columns = [table.types[column] for column in table.key]
            keys = sorted(tuple(row[column] for column in table.key) for row in table.rows)
            tables.append(
                WritableTable(
                    name,
                    table.types,
                    table.key,
                    {str(column) for column, notnull, _ in attributes if notnull == "f"},
                    {str(column) for column, _, generated in attributes if generated == "t"},
                    [
                        Reference(own, target, columns or rows.table(target).key)
                        for own, target, columns in references[name]
                    ],
                    keys,
                    _fresh_keys(key_columns, keys, number),
                    {
                        column: _pool(type_, {row[column] for row in table.rows}, (name, column) in delicate)
                        for column, type_ in table.types.items()
                    },
                )
            )
    return tables


#: The n-th key to come, by type.
_FRESH: Dict[str, Callable[[int, int], str]] = {
    "uuid": lambda n, seed: str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}/{n}")),
    "text": lambda n, seed: f"w{n}{':%ü'[n % 4 : n % 4 + 1]}{seed}",
    "numeric": lambda n, seed: f"{n}.50",
    "bytea": lambda n, seed: f"\\x{n:04x}",
    "date": lambda n, seed: f"2030-{n % 12 + 1:02d}-{n % 28 + 1:02d}",
    "time": lambda n, seed: f"07:{n:02d}:00.5",
    "timestamp": lambda n, seed: f"2030-01-01 07:{n:02d}:00.5",
    "timestamptz": lambda n, seed: f"2030-01-01 07:{n:02d}:00.5-05:30",
}


def _fresh_keys(types: List[Type], keys: List[KeyValue], seed: int) -> List[KeyValue]:
    """Keys that no row has yet; none where we cannot make up a value of the type."""
    if len(types) != 1:
        return []
    (type_,) = types
    if type_.name in WHOLE:
        first = max((int(key[0] or 0) for key in keys), default=0) + 1
        last = {"int2": 32767}.get(type_.name, first + 10**6)
        return [(str(n),) for n in range(first, min(first + FRESH_KEYS + len(keys) // 4, last + 1))]
    make = _FRESH.get("text" if type_.name in TEXTS else "" if type_.labels else type_.name)
    return [] if make is None else [(make(n, seed),) for n in range(FRESH_KEYS)]


def _pool(type_: Type, held: Set[Optional[str]], delicate: bool) -> List[Optional[str]]:
    """Values a column may get: a sample of those it holds, and some that anything of its type takes.

    A delicate column gets only the former: a sink must not refuse a document for a value of ours.
    """
    values: List[Optional[str]] = list(sorted(value for value in held if value is not None)[:POOL_VALUES])
    if type_.array or delicate:
        return values
    if type_.labels:
        return list(type_.labels)
    if type_.name == "bool":
        return ["t", "f"]
    if type_.name in WHOLE or type_.name in ("numeric", "float4", "float8"):
        # Quarters: sums of floats stay exact, whatever the order.  Most domains and widths hold them.
        step = 1.0 if type_.name in WHOLE else 0.25
        values = [value for value in values if type_.name not in ("float4", "float8") or _exact(value)]
        return values + [format(n * step, "g") for n in range(0, 100, 7)]
    if type_.name in TEXTS:
        return values + [word for word in WORDS]
    return values


def _exact(value: Optional[str]) -> bool:
    number = float(value or 0)
    return number == number and abs(number) < 10**6 and number * 4 == int(number * 4)


# -- histories ----------------------------------------------------------------------------------------


class History:
    """A deterministic, endless sequence of transactions: the same tables and seed give the same one."""

    def __init__(self, tables: Sequence[WritableTable], seed: int) -> None:
        self._tables = list(tables)
        self._by_name = {table.name: table for table in tables}
        self._random = random.Random(seed)
        self._kinds: Dict[str, Tuple[int, Callable[[WritableTable], List[Step]]]] = {
            "insert": (26, self._insert),
            "upsert": (8, self._upsert),
            "update": (22, self._update),
            "update many": (2, self._update_many),
            "touch": (3, self._touch),
            "move": (14, self._move),
            "change key": (8, self._change_key),
            "delete": (12, self._delete),
            "replace": (5, self._replace),
        }

    def __iter__(self) -> Iterator[Transaction]:
        while True:
            yield self.next()

    def next(self) -> Transaction:
        chance = self._random.random()
        if chance < 0.6:
            return Transaction(tuple(self._steps()))
        steps = [step for _ in range(self._random.randint(2, 6)) for step in self._steps()]
        if chance < 0.8:
            return Transaction(tuple(steps))
        if chance < 0.88:
            return Transaction(tuple(steps), rolled_back=True)
        # Subtransactions one after another; about half of them are rolled back.
        numbers = sorted(self._random.randint(0, 3) for _ in steps)
        undone = frozenset(n for n in (1, 2, 3) if self._random.random() < 0.5)
        return Transaction(tuple(step._replace(savepoint=n) for step, n in zip(steps, numbers)), undone)

    def _steps(self) -> List[Step]:
        while True:
            table = self._random.choice(self._tables)
            weights = [weight for weight, _ in self._kinds.values()]
            (kind,) = self._random.choices(list(self._kinds), weights)
            steps = self._kinds[kind][1](table)
            if steps:
                return steps

    # -- values ---------------------------------------------------------------------------------------

    def _any_key(self, table: WritableTable) -> KeyValue:
        return self._random.choice(table.keys + table.fresh)

    def _value(self, table: WritableTable, column: str) -> Optional[str]:
        pool = table.pools[column]
        if column in table.nullable and (not pool or self._random.random() < 0.12):
            return None
        return self._random.choice(pool) if pool else None

    def _link(self, table: WritableTable, reference: Reference) -> Dict[str, Optional[str]]:
        """Values for link columns: mostly the key of a row that is or may be there, sometimes null."""
        target = self._by_name.get(reference.target)
        nullable = all(column in table.nullable for column in reference.columns)
        if nullable and self._random.random() < 0.1:
            return {column: None for column in reference.columns}
        if target is None or reference.target_columns != target.key:
            return {column: self._value(table, column) for column in reference.columns}
        return dict(zip(reference.columns, self._any_key(target)))

    def _row(self, table: WritableTable) -> Dict[str, Optional[str]]:
        """A whole new row."""
        row = {name: self._value(table, name) for name in table.types if name not in table.generated}
        if table.keys or table.fresh:
            row.update(zip(table.key, self._any_key(table)))
        for reference in table.references:
            # A self-relation of the key would overwrite the key chosen above.
            if len(table.key) > 1 or not set(reference.columns) & set(table.key):
                row.update(self._link(table, reference))
        return row

    # -- statements -----------------------------------------------------------------------------------

    def _where(self, table: WritableTable, key: KeyValue) -> Tuple[sql.Composable, KeyValue]:
        tests = [sql.SQL("{} = {}").format(sql.Identifier(name), _placeholder(table, name)) for name in table.key]
        return sql.SQL(" AND ").join(tests), key

    def _set(self, kind: str, table: WritableTable, key: KeyValue, values: Dict[str, Optional[str]]) -> List[Step]:
        assignments = [sql.SQL("{} = {}").format(sql.Identifier(name), _placeholder(table, name)) for name in values]
        where, parameters = self._where(table, key)
        statement = sql.SQL("UPDATE {} SET {} WHERE {}").format(
            sql.Identifier(*table.name), sql.SQL(", ").join(assignments), where
        )
        return [Step(kind, statement, (*values.values(), *parameters))]

    def _insertion(self, kind: str, table: WritableTable, row: Dict[str, Optional[str]], conflict: str) -> Step:
        updated = [name for name in row if name not in table.key]
        action = sql.SQL("DO NOTHING")
        if conflict == "update" and updated:
            action = sql.SQL("({}) DO UPDATE SET {}").format(
                sql.SQL(", ").join(map(sql.Identifier, table.key)),
                sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in updated),
            )  # type: ignore[assignment]
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT {}").format(
            sql.Identifier(*table.name),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(_placeholder(table, name) for name in row),
            action,
        )
        return Step(kind, statement, tuple(row.values()))

    # -- kinds ----------------------------------------------------------------------------------------

    def _insert(self, table: WritableTable) -> List[Step]:
        return [self._insertion("insert", table, self._row(table), "nothing")]

    def _upsert(self, table: WritableTable) -> List[Step]:
        return [self._insertion("upsert", table, self._row(table), "update")]

    def _update(self, table: WritableTable) -> List[Step]:
        if not table.plain:
            return []
        chosen = self._random.sample(table.plain, min(len(table.plain), self._random.randint(1, 3)))
        return self._set("update", table, self._any_key(table), {name: self._value(table, name) for name in chosen})

    def _update_many(self, table: WritableTable) -> List[Step]:
        if not table.plain or len(table.key) != 1:
            return []
        name = self._random.choice(table.plain)
        # Sorted, so that two writers lock rows in much the same order.
        keys = sorted(str(self._any_key(table)[0]) for _ in range(min(200, 1 + len(table.keys) // 10)))
        statement = sql.SQL("UPDATE {} SET {} = {} WHERE {}::text = ANY(%s::text[])").format(
            sql.Identifier(*table.name), sql.Identifier(name), _placeholder(table, name), sql.Identifier(table.key[0])
        )
        array = "{" + ",".join('"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"' for key in keys) + "}"
        return [Step("update many", statement, (self._value(table, name), array))]

    def _touch(self, table: WritableTable) -> List[Step]:
        where, parameters = self._where(table, self._any_key(table))
        statement = sql.SQL("UPDATE {} SET {name} = {name} WHERE {where}").format(
            sql.Identifier(*table.name), name=sql.Identifier(table.key[0]), where=where
        )
        return [Step("touch", statement, parameters)]

    def _move(self, table: WritableTable) -> List[Step]:
        if not table.references:
            return []
        reference = self._random.choice(table.references)
        return self._set("move", table, self._any_key(table), self._link(table, reference))

    def _change_key(self, table: WritableTable) -> List[Step]:
        return self._set("change key", table, self._any_key(table), dict(zip(table.key, self._any_key(table))))

    def _delete(self, table: WritableTable) -> List[Step]:
        where, parameters = self._where(table, self._any_key(table))
        statement = sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(*table.name), where)
        return [Step("delete", statement, parameters)]

    def _replace(self, table: WritableTable) -> List[Step]:
        """Delete and insert under the same key, in one transaction."""
        row = self._row(table)
        where, parameters = self._where(table, tuple(row[name] for name in table.key))
        deletion = sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(*table.name), where)
        return [Step("replace", deletion, parameters), self._insertion("replace", table, row, "nothing")]


def _placeholder(table: WritableTable, name: str) -> sql.Composable:
    """Text in, of any type; money is read as a number and so is written as one."""
    type_ = table.types[name]
    if type_.name == "money" and not type_.array:
        return sql.SQL("%s::numeric::money")
    return sql.SQL("%s::text::{}").format(sql.SQL(type_.written))


# -- writers ------------------------------------------------------------------------------------------


class Writer:
    """A thread that carries out a history until :meth:`stop`; use as a context manager.

    ``counts``: committed statements that found a row, by kind; ``transactions``, ``rolled back``, ``failed`` (by a
    constraint, a deadlock or the like), ``disconnected``.  A server that goes away is waited for.  ``pause_seconds``
    between transactions slow it down; ``limit`` ends it after so many.
    """

    def __init__(
        self, url: str, seed: int, case: Case, *, pause_seconds: float = 0.0, limit: Optional[int] = None
    ) -> None:
        self.url = url
        self.seed = seed
        self.case = case
        self.pause_seconds = pause_seconds
        self.limit = limit
        self.counts: Counter[str] = Counter()
        self._stop = threading.Event()
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, name=f"writer-{seed}", daemon=True)

    def __enter__(self) -> Writer:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> Writer:
        self._thread.start()
        return self

    def stop(self, timeout: float = 30.0) -> Dict[str, int]:
        """End after the transaction in hand and return the counts; raises what ended the writer early."""
        self._stop.set()
        return self.join(timeout)

    def join(self, timeout: float = 30.0) -> Dict[str, int]:
        """Wait until ``limit`` transactions are done or :meth:`stop` was called."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"writer {self.seed} still runs after {timeout} s")
        if self._error is not None:
            raise self._error
        return dict(self.counts)

    def _run(self) -> None:
        try:
            with psycopg.connect(self.url, autocommit=True) as connection:
                history = iter(History(read_tables(connection, self.case), self.seed))
            self._write(history)
        except BaseException as error:
            self._error = error

    def _write(self, history: Iterator[Transaction]) -> None:
        done = 0
        while not self._stop.is_set():
            try:
                with psycopg.connect(
                    self.url, autocommit=True, application_name=f"writer-{self.seed}", options="-c lock_timeout=5s"
                ) as connection:
                    while not self._stop.is_set() and done != self.limit:
                        done += 1
                        self.counts.update(carry_out(connection, next(history)))
                        if self.pause_seconds:
                            self._stop.wait(self.pause_seconds)
                return
            except psycopg.Error:
                # The server went away, or is not up again yet; a statement may have been refused just before it did.
                self.counts["disconnected"] += 1
                self._stop.wait(RECONNECT_SECONDS)


def carry_out(connection: psycopg.Connection[Any], transaction: Transaction) -> Dict[str, int]:
    """Run one transaction; returns what to count.  Raises only when the connection is gone."""
    counts: Counter[str] = Counter()
    try:
        with connection.transaction(force_rollback=transaction.rolled_back), ExitStack() as savepoint:
            number = 0
            for step in transaction.steps:
                if step.savepoint != number:
                    savepoint.close()
                    number = step.savepoint
                    savepoint.enter_context(connection.transaction(force_rollback=number in transaction.undone))
                found = connection.execute(step.statement, step.values).rowcount
                if found and number not in transaction.undone:
                    counts[step.kind] += 1
    except psycopg.Error:
        if connection.closed:
            raise
        return {"failed": 1}
    return {"rolled back": 1} if transaction.rolled_back else {**counts, "transactions": 1}


def main(url: str, case_name: str, seed: str) -> None:
    (case,) = [case for case in CASES if case.name == case_name]
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Writer(url, int(seed), case) as writer:
        print("writing", flush=True)
        ended.wait()
        print(json.dumps(writer.stop()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

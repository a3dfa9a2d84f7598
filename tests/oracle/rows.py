"""Raw rows: every table read in one REPEATABLE READ snapshot, each value as Postgres prints it.

Besides rows and catalog, Postgres is asked for what only it can know: which rows a raw filter keeps, what a
literal looks like in its type, and the order of texts under a collation that is not C.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import psycopg
from psycopg import sql

from tests.oracle.language import Names, TableName
from tests.oracle.values import Collation, Type

Place = Tuple[str, str]

_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "client_encoding": "UTF8",
    "row_security": "off",
    "jit": "off",
}
_C_LOCALES = {"C", "POSIX", "C.UTF-8", "C.UTF8", "UCS_BASIC"}


class Row:
    """One row: ``values`` by column name as text (None: SQL NULL), ``place`` identifies it within the snapshot."""

    __slots__ = ("place", "values")

    def __init__(self, place: Place, values: Dict[str, Optional[str]]) -> None:
        self.place = place
        self.values = values

    def __getitem__(self, column: str) -> Optional[str]:
        return self.values[column]


class TableRows(NamedTuple):
    name: TableName
    types: Dict[str, Type]
    key: Names
    rows: List[Row]


class Snapshot:
    """One transaction's view of the database; tables are read when first asked for."""

    def __init__(self, connection: psycopg.Connection[Any], literals: Iterable[str] = ()) -> None:
        self._connection = connection
        self._literals = set(literals)
        self._tables: Dict[TableName, TableRows] = {}
        self._types: Dict[int, Type] = {}
        self._collations: Dict[Tuple[int, TableName, str], Collation] = {}

    def text_rows(
        self, query: Union[str, sql.Composable], parameters: Optional[Sequence[Any]] = None
    ) -> List[List[Optional[str]]]:
        """The result as the server's own text, untouched by any loader."""
        cursor = self._connection.execute(query, parameters)  # type: ignore[arg-type]
        result = cursor.pgresult
        assert result is not None
        columns = range(result.nfields)
        found: List[List[Optional[str]]] = []
        for number in range(result.ntuples):
            values = (result.get_value(number, column) for column in columns)
            found.append([None if value is None else value.decode("utf-8") for value in values])
        return found

    def _one(self, query: Union[str, sql.Composable], parameters: Optional[Sequence[Any]] = None) -> Optional[str]:
        (row,) = self.text_rows(query, parameters)
        return row[0]

    # -- tables ---------------------------------------------------------------------------------------

    def table(self, name: TableName) -> TableRows:
        if name not in self._tables:
            self._tables[name] = self._read(name)
        return self._tables[name]

    def _read(self, name: TableName) -> TableRows:
        qualified = sql.Identifier(*name)
        oid = self._one("SELECT %s::text::regclass::oid", [qualified.as_string(self._connection)])
        attributes = self.text_rows(
            "SELECT attname, atttypid, attcollation FROM pg_attribute"
            " WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            [oid],
        )
        types: Dict[str, Type] = {}
        selected: List[sql.Composable] = []
        for attribute, type_oid, collation_oid in attributes:
            assert attribute and type_oid and collation_oid
            found = self._type(int(type_oid))
            reference: sql.Composable = sql.Identifier(attribute)
            if found.name == "money":
                # Its text depends on lc_monetary; as a number it is exact.
                reference = sql.SQL("{}::numeric{}").format(reference, sql.SQL("[]" if found.array else ""))
            selected.append(reference)
            types[attribute] = found
            if collation_oid != "0":
                types[attribute] = found._replace(collation=self._collation(int(collation_oid), name, attribute))
        rows = self.text_rows(
            sql.SQL("SELECT tableoid, ctid, {} FROM {}").format(sql.SQL(", ").join(selected), qualified)
        )
        names = list(types)
        keys = self.text_rows(
            "SELECT a.attname FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)"
            " JOIN pg_attribute a ON a.attnum = k.attnum"
            " WHERE i.indrelid = %s AND a.attrelid = i.indrelid AND i.indisprimary ORDER BY k.place",
            [oid],
        )
        return TableRows(
            name,
            types,
            tuple(str(key) for (key,) in keys),
            [Row((str(row[0]), str(row[1])), dict(zip(names, row[2:]))) for row in rows],
        )

    def kept(self, name: TableName, raw: str, alias: Optional[str]) -> Set[Place]:
        """The rows for which a raw filter is true; ``alias`` is the name the table has in it."""
        found = self.text_rows(
            sql.SQL("SELECT tableoid, ctid FROM {}{} WHERE ({}\n)").format(
                sql.Identifier(*name),
                sql.SQL(" AS {}").format(sql.Identifier(alias)) if alias else sql.SQL(""),
                sql.SQL(raw),
            )
        )
        return {(str(tableoid), str(ctid)) for tableoid, ctid in found}

    # -- types ----------------------------------------------------------------------------------------

    def _type(self, oid: int) -> Type:
        if oid not in self._types:
            ((name, kind, base, element, category, written),) = self.text_rows(
                "SELECT typname, typtype, typbasetype, typelem, typcategory, format_type(oid, -1)"
                " FROM pg_type WHERE oid = %s",
                [oid],
            )
            assert name and base and element and written
            if kind == "d":
                found = self._type(int(base))
            elif category == "A":
                found = self._type(int(element))._replace(array=True, written=written)
            elif kind == "e":
                labels = self.text_rows(
                    "SELECT enumlabel FROM pg_enum WHERE enumtypid = %s ORDER BY enumsortorder", [oid]
                )
                found = Type(name, written, labels=tuple(str(label) for (label,) in labels))
            else:
                found = Type(name, written)
            self._types[oid] = found
        return self._types[oid]

    def literal(self, text: str, wanted: Type) -> str:
        """``text`` read by the input function of ``wanted`` and printed again."""
        cast = "%s::text::{}" + ("::numeric" if wanted.name == "money" else "")
        found = self._one(sql.SQL("SELECT " + cast).format(sql.SQL(wanted.written)), [text])
        assert found is not None
        return found

    def _collation(self, oid: int, table: TableName, attribute: str) -> Collation:
        ((name, schema, provider, collate, ctype, deterministic),) = self.text_rows(
            "SELECT collname, collnamespace::regnamespace, collprovider, collcollate, collctype, collisdeterministic"
            " FROM pg_collation WHERE oid = %s",
            [oid],
        )
        assert deterministic == "t", f"{table}.{attribute}: the oracle knows no nondeterministic collations"
        if provider == "d":
            ((collate, ctype, provider),) = self.text_rows(
                "SELECT datcollate, datctype, to_jsonb(d) ->> 'datlocprovider' FROM pg_database d"
                " WHERE datname = current_database()"
            )
        # ICU collations have no collcollate; where its provider is not libc a database says C, too.
        bytewise = provider in (None, "c") and str(collate).upper() in _C_LOCALES
        ascii_only = provider in (None, "c") and str(ctype).upper() in ("C", "POSIX")
        if bytewise:
            return Collation(ascii_only, None)
        written = sql.SQL("COLLATE {}").format(sql.Identifier(str(schema), str(name))).as_string(self._connection)
        return Collation(ascii_only, lambda: self._ranks(table, attribute, written, ascii_only))

    def _ranks(self, table: TableName, attribute: str, collate: str, ascii_only: bool) -> Dict[str, int]:
        """The place of every text that may be compared: the column's values and the file's literals."""
        values = {row[attribute] for row in self.table(table).rows} | self._literals
        texts = {value for value in values if value is not None}
        texts |= {Collation(ascii_only, None).lower(text) for text in texts}
        ranked = self.text_rows(
            "SELECT v, dense_rank() OVER (ORDER BY v " + collate + ") FROM unnest(%s::text[]) AS v", [list(texts)]
        )
        return {str(text): int(str(rank)) for text, rank in ranked}


@contextmanager
def snapshot(connection: psycopg.Connection[Any], literals: Iterable[str] = ()) -> Iterator[Snapshot]:
    """A read-only REPEATABLE READ transaction; ``connection`` must not be in one already."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for name, value in _SETTINGS.items():
            connection.execute(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name.lower()), sql.Literal(value)))
        yield Snapshot(connection, literals)

"""Reads what Postgres says about the tables of the plans, once, and compares it again inside every snapshot.

Everything is read by OID and attribute number in one statement, so the values are of one moment.  Nothing here
judges: a missing table is listed, a view is described, and ``bind`` says what of it is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import psycopg
from psycopg.rows import tuple_row

from flusso_sync.postgres.quoting import array_literal, identifier, qualified
from flusso_sync.schema.plan import Columns, Table, TableUse
from flusso_sync.schema.types import normalise

#: pg_class.relkind in words.
KINDS: Mapping[str, str] = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
    "c": "composite type",
    "t": "TOAST table",
    "i": "index",
    "I": "partitioned index",
}


@dataclass(frozen=True)
class Type:
    """What a column's type comes down to once domains are unwrapped.

    ``sql`` is the type to cast a text to: qualified, without modifier, an array type for arrays.  ``base`` is the
    bare name of the type itself or of an array's elements (``int4``, ``text``, ``citext``), ``schema`` where it lives.
    ``looks_like`` is the name the schema language compares (an ENUM looks like ``text``); ``names`` are all
    names a ``custom`` field may use for it.  ``made_of`` changes with whatever of a user's types decides how its values
    are written, but for ``labels``: the OIDs and labels of every ENUM in it, to which labels may be added.
    """

    sql: str
    base: str
    schema: str = "pg_catalog"
    is_array: bool = False
    is_enum: bool = False
    is_composite: bool = False
    is_domain: bool = False
    looks_like: str = ""
    names: FrozenSet[str] = frozenset()
    made_of: Tuple[str, ...] = ()
    labels: Tuple[Tuple[int, str], ...] = ()

    @property
    def is_builtin(self) -> bool:
        return self.schema == "pg_catalog"

    @property
    def operators(self) -> str:
        """The database schema of the type's comparison operators; arrays and ENUMs share Postgres' own."""
        return "pg_catalog" if self.is_array or self.is_enum or self.is_composite else self.schema


@dataclass(frozen=True)
class Column:
    """A column.

    ``generated`` is empty, ``s`` (stored) or ``v`` (virtual); ``collation`` is quoted SQL, None where there is none.
    ``expression`` is what a generated column is computed by, and ``sources`` the columns that names; empty where it
    reads more than columns.  ``altered`` is another one after every ALTER of the column (pg_attribute.xmin).
    """

    name: str
    number: int
    type_oid: int
    type_modifier: int
    type_name: str
    type: Type
    not_null: bool = False
    generated: str = ""
    collation: Optional[str] = None
    deterministic: bool = True
    expression: str = ""
    sources: Columns = ()
    altered: str = ""

    @property
    def sql_type(self) -> str:
        """The type a text of this column is cast to: without domain and modifier."""
        return self.type.sql


class Derived(NamedTuple):
    """How a generated column is computed: ``expression`` names the columns ``sources``, of which ``collations`` are the
    collations (quoted SQL, None where there is none)."""

    expression: str
    sources: Columns
    collations: Tuple[Optional[str], ...]


@dataclass(frozen=True)
class Index:
    """An index that may be used: valid and ready.  ``columns`` is None when an expression is among its keys.

    ``constraint``: it backs a primary key or unique constraint.  ``immediate``: it is checked row by row, as a
    replica identity demands.
    """

    name: str
    oid: int
    columns: Optional[Columns]
    unique: bool = False
    primary: bool = False
    constraint: bool = False
    immediate: bool = True
    partial: bool = False
    is_replica_identity: bool = False
    method: str = "btree"


@dataclass(frozen=True)
class Relation:
    """What the catalog says about one table.

    ``leaves`` are the tables that really hold the rows of a partitioned table (or inherit from this one), at any
    depth; the stream names those.  ``replica_identity`` is pg_class.relreplident: d, n, f or i.  ``file`` is another
    one after every rewrite (pg_class.relfilenode).
    """

    table: Table
    oid: int
    kind: str
    persistence: str = "p"
    row_security: bool = False
    replica_identity: str = "d"
    is_partition: bool = False
    file: int = 0
    columns: Mapping[str, Column] = field(default_factory=dict)
    indexes: Tuple[Index, ...] = ()
    leaves: Tuple["Relation", ...] = ()

    @property
    def primary_key(self) -> Columns:
        """The primary key's columns in key order; empty when there is none."""
        for index in self.indexes:
            if index.primary and index.columns is not None:
                return index.columns
        return ()

    @property
    def identity_index(self) -> Optional[Index]:
        """The index that ``REPLICA IDENTITY USING INDEX`` names."""
        return next((index for index in self.indexes if index.is_replica_identity), None)

    @property
    def identity_columns(self) -> Optional[Columns]:
        """The columns an old tuple carries: None for all of them (FULL), empty for none at all."""
        if self.replica_identity == "f":
            return None
        if self.replica_identity == "d":
            return self.primary_key
        if self.replica_identity == "i":
            return (self.identity_index.columns or ()) if self.identity_index is not None else ()
        return ()

    def unique_over(self, columns: Sequence[str], *, constraint: bool, not_null: bool = True) -> Optional[Index]:
        """The unique index over exactly these columns, in any order; None when the table has none.

        ``constraint``: it must back one.  ``not_null``: no column may hold NULL.
        """
        wanted = sorted(columns)
        if not_null and not all(name in self.columns and self.columns[name].not_null for name in columns):
            return None
        for index in self.indexes:
            if index.unique and not index.partial and index.columns is not None and sorted(index.columns) == wanted:
                if index.constraint or not constraint:
                    return index
        return None

    def derived(self) -> Dict[str, Derived]:
        """Its generated columns that can be computed from the others, wherever the rows lie: partitions may compute a
        column each in its own way."""
        return {
            column.name: Derived(
                column.expression,
                column.sources,
                tuple(self.columns[name].collation for name in column.sources),
            )
            for column in self.columns.values()
            if column.sources
            and all(
                column.name in leaf.columns and leaf.columns[column.name].expression == column.expression
                for leaf in self.leaves
            )
        }

    def finds(self, columns: Sequence[str]) -> bool:
        """Whether an index leads with these columns in some order, so that rows are found by them without a scan."""
        return not self.lacking(columns)

    def lacking(self, columns: Sequence[str]) -> List["Relation"]:
        """The tables that hold rows (this one, its leaves) and have no such index; one of a partitioned table counts
        for all of its partitions."""
        if self.kind == "p":
            return [] if self._leads(columns) else [leaf for leaf in self.leaves if not leaf._leads(columns)]
        return [each for each in (self, *self.leaves) if not each._leads(columns)]

    def _leads(self, columns: Sequence[str]) -> bool:
        wanted = set(columns)
        for index in self.indexes:
            usable = index.method == "btree" or (index.method == "hash" and len(wanted) == 1)
            if usable and index.columns is not None and not index.partial:
                if set(index.columns[: len(wanted)]) == wanted:
                    return True
        return False


@dataclass(frozen=True)
class Catalog:
    """The tables that were asked for; ``missing`` are those that do not exist.

    ``functions``: of the names that were asked for, those of users' functions, with a digest of their definitions.
    """

    tables: Mapping[Table, Relation]
    missing: Tuple[Table, ...] = ()
    functions: Mapping[str, str] = field(default_factory=dict)

    @property
    def primary_keys(self) -> Mapping[Table, Columns]:
        """For ``with_keys`` and ``table_uses``: every table that has one."""
        return {t: r.primary_key for t, r in self.tables.items() if r.primary_key}

    @property
    def derived(self) -> Mapping[Table, Mapping[str, Derived]]:
        """Every table's generated columns that can be computed from its others."""
        return {table: relation.derived() for table, relation in self.tables.items()}

    @property
    def sources(self) -> Mapping[Table, Mapping[str, Columns]]:
        """For ``table_uses``: the columns that stand for a generated one."""
        return {t: {name: one.sources for name, one in derived.items()} for t, derived in self.derived.items()}

    def table_of(self, oid: int) -> Optional[Table]:
        """The table of the plans a relation of the stream belongs to: itself, or whose leaf it is."""
        for table, relation in self.tables.items():
            if relation.oid == oid or any(leaf.oid == oid for leaf in relation.leaves):
                return table
        return None


# -- reading ----------------------------------------------------------------------------------------

# The recursive parts: every descendant of the wanted tables, and every type a used type is made of.
_READ = """
WITH RECURSIVE wanted AS (
    SELECT w.schema, w.name, c.oid
    FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS w(schema, name)
    LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
        ON n.nspname = w.schema AND c.relname = w.name
), descendants(root, oid) AS (
    SELECT oid, oid FROM wanted WHERE oid IS NOT NULL
    UNION
    SELECT d.root, i.inhrelid FROM descendants d JOIN pg_catalog.pg_inherits i ON i.inhparent = d.oid
), relations AS (
    SELECT DISTINCT oid FROM descendants
), attributes AS (
    SELECT a.*, a.xmin AS altered FROM pg_catalog.pg_attribute a JOIN relations r ON r.oid = a.attrelid
    WHERE a.attnum > 0 AND NOT a.attisdropped
), types(oid) AS (
    SELECT atttypid FROM attributes
    UNION
    SELECT v.part FROM types y JOIN pg_catalog.pg_type t ON t.oid = y.oid
    CROSS JOIN LATERAL (
        SELECT t.typbasetype UNION ALL SELECT CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END
        UNION ALL
        SELECT a.atttypid FROM pg_catalog.pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT g.rngsubtype FROM pg_catalog.pg_range g WHERE t.oid IN (g.rngtypid, g.rngmultitypid)
    ) v(part)
    WHERE v.part <> 0
)
SELECT
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(schema, name, oid::int8)) FROM wanted)::text,
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(root::int8, oid::int8) ORDER BY root, oid)
     FROM descendants WHERE root <> oid)::text,
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'oid', c.oid::int8, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
        'persistence', c.relpersistence, 'row_security', c.relrowsecurity, 'replica_identity', c.relreplident,
        'is_partition', c.relispartition, 'file', c.relfilenode::int8))
     FROM relations r JOIN pg_catalog.pg_class c ON c.oid = r.oid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)::text,
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'relation', a.attrelid::int8, 'name', a.attname, 'number', a.attnum, 'type', a.atttypid::int8,
        'modifier', a.atttypmod, 'type_name', pg_catalog.format_type(a.atttypid, a.atttypmod),
        'not_null', a.attnotnull, 'generated', a.attgenerated, 'collation_schema', cn.nspname,
        'collation', co.collname, 'deterministic', co.collisdeterministic, 'altered', a.altered::text,
        'expression', pg_catalog.pg_get_expr(ad.adbin, ad.adrelid),
        'sources', (
            SELECT pg_catalog.json_agg(DISTINCT d.refobjsubid) FROM pg_catalog.pg_depend d
            WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = a.attrelid
            AND d.refobjsubid <> a.attnum
            -- Up to Postgres 14 it is the column that depends, later its expression.
            AND ((d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = ad.oid)
                 OR (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = a.attrelid
                     AND d.objsubid = a.attnum))
        )) ORDER BY a.attnum)
     FROM attributes a
     LEFT JOIN pg_catalog.pg_attrdef ad ON a.attgenerated <> '' AND ad.adrelid = a.attrelid AND ad.adnum = a.attnum
     LEFT JOIN (pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace)
        ON co.oid = a.attcollation)::text,
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'oid', t.oid::int8, 'schema', n.nspname, 'name', t.typname, 'kind', t.typtype, 'base', t.typbasetype::int8,
        'element', CASE WHEN t.typcategory = 'A' THEN t.typelem::int8 ELSE 0 END,
        'full_name', pg_catalog.format_type(t.oid, NULL),
        'labels', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(e.oid::int8, e.enumlabel) ORDER BY e.oid)
                   FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid),
        'attributes', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attname, a.atttypid::int8, a.atttypmod)
                                                  ORDER BY a.attnum)
                       FROM pg_catalog.pg_attribute a
                       WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
        'range_of', (SELECT g.rngsubtype::int8 FROM pg_catalog.pg_range g
                     WHERE t.oid IN (g.rngtypid, g.rngmultitypid))))
     FROM types y JOIN pg_catalog.pg_type t ON t.oid = y.oid
     JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace)::text,
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'relation', i.indrelid::int8, 'oid', i.indexrelid::int8, 'name', ic.relname, 'unique', i.indisunique,
        'primary', i.indisprimary, 'immediate', i.indimmediate, 'partial', i.indpred IS NOT NULL,
        'is_replica_identity', i.indisreplident, 'method', am.amname,
        'constraint', EXISTS (SELECT FROM pg_catalog.pg_constraint k
                              WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u')),
        'columns', (SELECT pg_catalog.json_agg(a.attname ORDER BY p.place)
                    FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS p(number, place)
                    LEFT JOIN pg_catalog.pg_attribute a
                        ON a.attrelid = i.indrelid AND a.attnum = p.number AND p.number > 0
                    WHERE p.place <= i.indnkeyatts)) ORDER BY i.indisprimary DESC, ic.relname)
     FROM relations r JOIN pg_catalog.pg_index i ON i.indrelid = r.oid
     JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid JOIN pg_catalog.pg_am am ON am.oid = ic.relam
     WHERE i.indisvalid AND i.indisready AND i.indislive)::text
"""


_FUNCTIONS = """
SELECT p.proname::text, pg_catalog.md5(pg_catalog.string_agg(pg_catalog.pg_get_functiondef(p.oid), '' ORDER BY p.oid))
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname <> 'pg_catalog'
WHERE p.proname = ANY ($1::text[]) AND p.prokind IN ('f', 'w')
GROUP BY p.proname
"""


def read_catalog(
    connection: psycopg.Connection[Any], tables: Iterable[Table], functions: Iterable[str] = ()
) -> Catalog:
    """What the catalog says about ``tables`` and their partitions, all of one moment, and about ``functions``.

    Runs one statement, or two, on ``connection`` (in its transaction, when it is in one) and leaves its row and cursor
    factories alone.  psycopg's errors pass through.
    """
    wanted = sorted(set(tables))
    with psycopg.RawCursor(connection, row_factory=tuple_row) as cursor:
        names = ([t.schema for t in wanted], [t.name for t in wanted])
        cursor.execute(_READ, [array_literal(part) for part in names])
        row = cursor.fetchone()
        assert row is not None
        catalog = _assemble(*(json.loads(part) if part is not None else [] for part in row))
        called = sorted(set(functions))
        if not called:
            return catalog
        return replace(catalog, functions=dict(cursor.execute(_FUNCTIONS, [called]).fetchall()))


Rows = List[Dict[str, Any]]


def _assemble(
    wanted: List[List[Any]], descendants: List[List[int]], classes: Rows, attributes: Rows, types: Rows, indexes: Rows
) -> Catalog:
    by_oid = {row["oid"]: row for row in types}
    columns: Dict[int, Dict[str, Column]] = {}
    names = {(row["relation"], row["number"]): row["name"] for row in attributes}
    for row in attributes:
        # A system column has a number below zero: none of the others tells what it was.
        sources = [names.get((row["relation"], number)) for number in row["sources"] or ()] if row["expression"] else []
        collation = qualified(row["collation_schema"], row["collation"]) if row["collation"] is not None else None
        columns.setdefault(row["relation"], {})[row["name"]] = Column(
            name=row["name"],
            number=row["number"],
            type_oid=row["type"],
            type_modifier=row["modifier"],
            type_name=row["type_name"],
            type=_resolve(row["type"], by_oid),
            not_null=row["not_null"],
            generated=row["generated"].strip(),
            collation=collation,
            deterministic=row["deterministic"] is not False,
            expression=row["expression"] or "",
            sources=() if None in sources else tuple(name for name in sources if name is not None),
            altered=row["altered"],
        )
    keyed: Dict[int, List[Index]] = {}
    for row in indexes:
        named = tuple(row.pop("columns") or (None,))
        relation = row.pop("relation")
        keyed.setdefault(relation, []).append(Index(columns=None if None in named else named, **row))
    found: Dict[int, Relation] = {}
    for row in classes:
        table = Table(row.pop("schema"), row.pop("name"))
        oid = row["oid"]
        found[oid] = Relation(table=table, columns=columns.get(oid, {}), indexes=tuple(keyed.get(oid, ())), **row)
    leaves: Dict[int, List[Relation]] = {}
    for root, oid in descendants:
        if found[oid].kind != "p":
            leaves.setdefault(root, []).append(found[oid])
    tables: Dict[Table, Relation] = {}
    missing: List[Table] = []
    for schema, name, oid in wanted:
        if oid is None:
            missing.append(Table(schema, name))
        else:
            whole = found[oid]
            tables[whole.table] = Relation(**{**vars(whole), "leaves": tuple(leaves[oid])}) if oid in leaves else whole
    return Catalog(tables, tuple(missing))


def _resolve(oid: int, types: Mapping[int, Dict[str, Any]]) -> Type:
    """Unwrap domains and one level of array: Postgres has no arrays of arrays, only of domains over them."""
    names = set()
    is_domain = False

    def unwrap(row: Dict[str, Any]) -> Dict[str, Any]:
        nonlocal is_domain
        while True:
            names.update({row["name"], f"{row['schema']}.{row['name']}", row["full_name"]})
            if row["kind"] != "d":
                return row
            is_domain = True
            row = types[row["base"]]

    whole = unwrap(types[oid])
    element = unwrap(types[whole["element"]]) if whole["element"] else whole
    if element["kind"] == "e":
        looks_like = "text"
    elif element["schema"] == "pg_catalog":
        # "char" is quoted by format_type, to tell it from char(n).
        looks_like = normalise(element["full_name"].strip('"'))
    else:
        looks_like = element["name"].lower()
    made_of, labels = _parts(oid, types)
    return Type(
        made_of=made_of,
        labels=labels,
        sql=qualified(whole["schema"], whole["name"]),
        base=element["name"],
        schema=element["schema"],
        is_array=bool(whole["element"]),
        is_enum=element["kind"] == "e",
        is_composite=element["kind"] == "c",
        is_domain=is_domain,
        looks_like=looks_like,
        names=frozenset({normalise(name) for name in names} | {looks_like}),
    )


def _parts(oid: int, types: Mapping[int, Dict[str, Any]]) -> Tuple[Tuple[str, ...], Tuple[Tuple[int, str], ...]]:
    """``made_of`` and ``labels`` of a type: of the users' types it is, or is made of, at any depth."""
    made_of: List[str] = []
    labels: List[Tuple[int, str]] = []
    seen = {oid}
    ahead = [oid]
    while ahead:
        row = types[ahead.pop()]
        attributes = row["attributes"] or ()
        if row["schema"] != "pg_catalog":
            made_of.append(f"{row['schema']}.{row['name']} {row['kind']} {row['base']} {row['range_of']} {attributes}")
        labels.extend((number, label) for number, label in row["labels"] or ())
        for part in (row["base"], row["element"], row["range_of"], *(attribute[1] for attribute in attributes)):
            if part and part not in seen:
                seen.add(part)
                ahead.append(part)
    return tuple(sorted(made_of)), tuple(sorted(labels))


# -- comparing --------------------------------------------------------------------------------------

# Zero rows: nothing a plan relies on has changed.  Found by OID: a table renamed away no longer has its name, and
# the one renamed into its place is another OID, so names need no look-up of their own.
_COMPARE = """
SELECT e.oid::int8, NULL::int2
FROM ROWS FROM (
    pg_catalog.unnest($1::oid[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[]),
    pg_catalog.unnest($4::text[])
) AS e(oid, schema, name, facts)
LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) ON c.oid = e.oid
WHERE (c.relname::text COLLATE "C", n.nspname::text COLLATE "C", pg_catalog.concat(c.relkind, c.relrowsecurity))
    IS DISTINCT FROM (e.name, e.schema, e.facts)
UNION ALL
SELECT e.oid::int8, e.number
FROM ROWS FROM (
    pg_catalog.unnest($5::oid[]), pg_catalog.unnest($6::int2[]), pg_catalog.unnest($7::text[]),
    pg_catalog.unnest($8::oid[]), pg_catalog.unnest($9::int4[])
) AS e(oid, number, name, type, modifier)
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = e.oid AND a.attnum = e.number
WHERE (a.attname::text COLLATE "C", a.atttypid, a.atttypmod, a.attisdropped)
    IS DISTINCT FROM (e.name, e.type, e.modifier, false)
"""


@dataclass(frozen=True)
class Shape:
    """What the plans rely on in the catalog, compared inside every snapshot after its LOCK (promise 8).

    Run ``statement`` with ``parameters`` (texts; it may stand in ``NOT EXISTS (...)``): no rows means that every
    table still is what it was: the same OID under the same name and schema, kind and row security, and every used
    column its name, type and modifier.  Otherwise hand the rows to :meth:`differences`.
    """

    parameters: Tuple[str, ...]
    names: Mapping[Tuple[int, Optional[int]], str]
    statement: str = _COMPARE

    def differences(self, rows: Iterable[Sequence[Any]]) -> List[str]:
        """One phrase for each row of the statement: ``column orders.total``, ``table public.orders``."""
        return [self.names[row[0], row[1]] for row in rows]


def shape_of(catalog: Catalog, uses: Iterable[TableUse]) -> Shape:
    """The shape of the tables in ``uses``, of their used columns (all of them where a raw filter may read any)."""
    names: Dict[Tuple[int, Optional[int]], str] = {}
    relations: List[Tuple[Any, ...]] = []
    columns: List[Tuple[Any, ...]] = []
    for use in uses:
        relation = catalog.tables.get(use.table)
        if relation is None:
            continue
        names[relation.oid, None] = f"table {use.table}"
        facts = relation.kind + ("t" if relation.row_security else "f")
        relations.append((relation.oid, use.table.schema, use.table.name, facts))
        for name in relation.columns if use.columns is None else use.columns:
            column = relation.columns.get(name)
            if column is not None:
                names[relation.oid, column.number] = f"column {use.table}.{name}"
                columns.append((relation.oid, column.number, name, column.type_oid, column.type_modifier))
    return Shape(tuple(array_literal(part) for part in (*_transposed(relations, 4), *_transposed(columns, 5))), names)


def _transposed(rows: Sequence[Tuple[Any, ...]], width: int) -> List[List[str]]:
    return [[str(row[place]) for row in rows] for place in range(width)]


def lock_statement(tables: Iterable[Table]) -> str:
    """``LOCK TABLE`` of all ``tables`` in the mode of a reader, in one order for everybody."""
    names = ", ".join(f"{identifier(t.schema)}.{identifier(t.name)}" for t in sorted(set(tables)))
    return f"LOCK TABLE {names} IN ACCESS SHARE MODE"

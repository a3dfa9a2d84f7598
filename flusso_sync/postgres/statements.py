"""Compiles a bound index to the statements that read its documents; text in, text out.

A document is built by correlated sub-selects, one for each relation, whose rows are found by index; objects are
put together as text, member by member (measured: as fast as ``row_to_json``, and it is compact, keeps the schema's
order and any number of fields, and leaves NaN, dates and base64 to us).  All look-ups are meant as nested loops over
indexes; sessions that run these statements say so with ``READING_SETTINGS``, because a generic plan
made while a table was small would otherwise scan it for every document after it has grown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from flusso_sync.postgres.bind import BoundIndex, ids_source
from flusso_sync.postgres.catalog import Column, Relation, Type
from flusso_sync.postgres.quoting import identifier, literal, qualified, table_name
from flusso_sync.postgres.render import (
    NULL,
    Piece,
    as_text,
    compare,
    constant,
    has_extremes,
    id_of,
    is_exact,
    joined,
    json_of,
    listed,
    member,
    members,
    number,
    operator,
    typed,
    value,
)
from flusso_sync.schema.paths import reads_related
from flusso_sync.schema.plan import (
    AggregateField,
    AnyField,
    AnyFilter,
    ChildLink,
    Columns,
    ConstantField,
    Filter,
    GeoField,
    JoinField,
    ObjectField,
    RawFilter,
    ScalarField,
    Table,
    TargetLink,
    ThroughLink,
)

#: Settings a session needs for these statements.  Names in raw filters are looked up along ``search_path``; our own
#: never are.
READING_SETTINGS: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "row_security": "off",
    "search_path": "pg_catalog, public",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
}

_OPERATORS: Mapping[str, str] = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}

_SUMS: Mapping[str, str] = {"int2": "int8", "int4": "int8", "int8": "numeric"}

_DEFAULT_COLLATION = qualified("pg_catalog", "default")


@dataclass(frozen=True)
class IndexStatements:
    """The statements of one index; parameters are numbered ($1 ..) and given as text.

    ``width`` is the number of key columns k (``BoundIndex.lookup``); keys are always given and returned in that order.

    ``lookup``: k arrays ``text[]`` of key texts, then batch_bytes, then max_document_bytes.  One row for each key in
    the order given: (ordinal from 1, id, size, document).  size NULL: no such row, delete that id.  document NULL:
    larger than max_document_bytes, or else behind the first batch_bytes of documents and to be built
    next (its size is right, so the next call can take just as many keys as fit).  The first document that is not
    too large always comes.

    ``range_first`` (k texts: upper bound) and ``range_after`` (k texts: lower bound, then k texts: upper bound), both
    then batch_bytes and max_document_bytes: the documents above the lower bound up to and including the upper one:
    (id, size, document, k key texts, NULL unless to be built next).  Rows that are no documents are absent.

    ``chunk_first`` (limit) and ``chunk_after`` (k texts: lower bound, then limit): walk the next root rows along the
    key's index: (shown, rows so far, id, k key texts), one row for each document and in any case one for the
    last root row, whose ``shown`` may be false.  No rows at all: the end.  ``chunk_until`` (k texts: upper bound, then
    limit) and ``chunk_between`` (k texts: lower bound, k texts: upper bound, then limit) do so up to and including
    that row.  ``shown``: the expression in all of these that tells whether a row is a document.

    ``ids``: k arrays ``text[]`` of key texts; one row for each key in the order given: (id).

    ``existing``: k arrays ``text[]`` of key texts; one row for each key whose row is a document: (ordinal from 1).

    ``by_id``: an array ``text[]`` of ids; reads every root row: (id, k key texts) of those that have one of them.

    ``estimate``: no parameters; one row: about how many root rows there are, NULL when nobody knows.
    """

    index: str
    width: int
    lookup: str
    range_first: str
    range_after: str
    chunk_first: str
    chunk_after: str
    chunk_until: str
    chunk_between: str
    shown: str
    ids: str
    existing: str
    by_id: str
    estimate: str


def compile_statements(bound: BoundIndex, leaf: Optional[Relation] = None) -> IndexStatements:
    """The statements of one index; with ``leaf``, those that read its root rows from one partition alone.

    A partition that was detached in the meantime has no rows.
    """
    compiler = _Compiler(bound, leaf)
    return IndexStatements(
        index=bound.plan.name,
        width=len(bound.lookup),
        lookup=compiler.lookup(),
        range_first=compiler.range(after=False),
        range_after=compiler.range(after=True),
        chunk_first=compiler.chunk(after=False, until=False),
        chunk_after=compiler.chunk(after=True, until=False),
        chunk_until=compiler.chunk(after=False, until=True),
        chunk_between=compiler.chunk(after=True, until=True),
        shown=compiler.shown(),
        ids=compiler.ids(),
        existing=compiler.existing(),
        by_id=compiler.by_id(),
        estimate=compiler.estimate(),
    )


class _Scope:
    """A row that expressions may name: its table, its alias, and which of its columns they did name."""

    def __init__(self, table: Table, alias: str, columns: Mapping[str, Column], *, only: bool = False) -> None:
        self.table = table
        self.alias = alias
        self.columns = columns
        self.only = only
        self.used: Dict[str, None] = {}

    def __call__(self, column: str) -> str:
        self.used[column] = None
        return f"{self.alias}.{identifier(column)}"

    def source(self) -> str:
        return f"{'ONLY ' if self.only else ''}{table_name(self.table)} AS {self.alias}"

    def again(self) -> _Scope:
        """The same row one level further in."""
        return _Scope(self.table, self.alias, self.columns, only=self.only)


class _Compiler:
    def __init__(self, bound: BoundIndex, leaf: Optional[Relation]) -> None:
        self._bound = bound
        self._leaf = leaf
        self._aliases = 0
        # A raw filter may name any column of the rows around it.
        self._any_column = _has_raw(bound.plan.fields)
        self._key = bound.lookup
        self._types = [bound.root.columns[name].type for name in self._key]

    # -- statements -----------------------------------------------------------------------------------

    def lookup(self) -> str:
        root = self._root()
        keys = self._wanted()
        found = self._found(root, keys)
        wanted_id = id_of(keys)
        bytes_, most = self._bounds(len(keys))
        # OFFSET 0 keeps the document one value, computed once; LATERAL keeps the order of the keys.
        return f"""SELECT d.ordinal, d.id, d.size::pg_catalog.int8,
    CASE WHEN {_comes(bytes_, most)} THEN d.document END
FROM (
    SELECT s.*, {_running(most)} AS total
    FROM (
        SELECT k.ordinal, {wanted_id} AS id, r.document, pg_catalog.octet_length(r.document) AS size
        FROM {self._given(keys)}
        LEFT JOIN LATERAL (
            SELECT {self._document(root)} AS document
            FROM {root.source()}
            WHERE {_all([*found, *self._shown(root)])}
            OFFSET 0
        ) AS r ON true
    ) AS s
) AS d"""

    def ids(self) -> str:
        """The ids of keys whose rows need not, or cannot, be read."""
        keys = self._wanted()
        return f"SELECT {id_of(keys)} FROM {self._given(keys)} ORDER BY k.ordinal"

    def existing(self) -> str:
        """Of the keys given, those whose rows are documents; nothing of the documents is read."""
        root = self._root()
        keys = self._wanted()
        return f"""SELECT k.ordinal
FROM {self._given(keys)}
CROSS JOIN LATERAL (
    SELECT FROM {root.source()}
    WHERE {_all([*self._found(root, keys), *self._shown(root)])}
    OFFSET 0
) AS r"""

    def by_id(self) -> str:
        root = self._root()
        keys = ", ".join(f"{root(name)}::pg_catalog.text" for name in self._key)
        any_of = f"{operator('=')} ANY ($1::pg_catalog.text[])"
        return f'SELECT {self._id(root)}, {keys} FROM {root.source()} WHERE ({self._id(root)}) COLLATE "C" {any_of}'

    def _wanted(self) -> List[Tuple[str, Type]]:
        """The parts of a key that is given, as expressions with their types."""
        return [(f"(k.key{place})::{type_.sql}", type_) for place, type_ in enumerate(self._types, 1)]

    def _given(self, keys: Sequence[Tuple[str, Type]]) -> str:
        """The keys given as parameters, one array for each part."""
        arrays = ", ".join(f"pg_catalog.unnest(${place}::pg_catalog.text[])" for place in range(1, len(keys) + 1))
        names = ", ".join(f"key{place}" for place in range(1, len(keys) + 1))
        return f"ROWS FROM ({arrays}) WITH ORDINALITY AS k({names}, ordinal)"

    def _found(self, root: _Scope, keys: Sequence[Tuple[str, Type]]) -> List[str]:
        """The conditions under which ``root`` is the row of a key that is given."""
        found = [
            self._equal(root(name), root.columns[name], text, root.columns[name])
            for name, (text, _) in zip(self._key, keys)
        ]
        if not all(is_exact(root.columns[name]) for name in self._key):
            # Found by a looser equality than that of ids: 'ABC' is not the document of 'abc'.
            found.append(f'({self._id(root)} COLLATE "C" {operator("=")} {id_of(keys)} COLLATE "C")')
        return found

    def range(self, *, after: bool) -> str:
        root = self._root()
        width = len(self._key)
        limits = [self._bound_by(root, "<=", width if after else 0)]
        if after:
            limits.insert(0, self._bound_by(root, ">", 0))
        limits += self._attached()
        bytes_, most = self._bounds(2 * width if after else width)
        keys = [f"{root(name)}::pg_catalog.text AS key{place}" for place, name in enumerate(self._key, 1)]
        comes = _comes(bytes_, most)
        next_ = f"{compare('d.size', '<=', most)} AND NOT ({comes})"
        texts = ", ".join(f"CASE WHEN {next_} THEN d.key{place} END" for place in range(1, width + 1))
        return f"""SELECT d.id, d.size::pg_catalog.int8, CASE WHEN {comes} THEN d.document END, {texts}
FROM (
    SELECT s.*, {_running(most)} AS total
    FROM (
        SELECT r.*, pg_catalog.octet_length(r.document) AS size
        FROM (
            SELECT {self._id(root)} AS id, {self._document(root)} AS document, {", ".join(keys)}
            FROM {root.source()}
            WHERE {_all([*limits, *self._shown(root)])}
            OFFSET 0
        ) AS r
    ) AS s
) AS d"""

    def chunk(self, *, after: bool, until: bool) -> str:
        root = self._root()
        width = len(self._key)
        flag = self._flag(root)
        keys = ", ".join(f"{root(name)}::pg_catalog.text AS key{place}" for place, name in enumerate(self._key, 1))
        names = ", ".join(f"c.key{place}" for place in range(1, width + 1))
        order = ", ".join(root(name) for name in self._bound.walk)
        limits = [self._bound_by(root, ">", 0)] if after else []
        if until:
            limits.append(self._bound_by(root, "<=", width if after else 0))
        limit = 1 + width * (after + until)
        return f"""SELECT c.shown, c.place, c.id, {names}
FROM (
    SELECT w.*, pg_catalog.row_number() OVER () AS place, pg_catalog.lead(false, 1, true) OVER () AS last
    FROM (
        SELECT {flag} AS shown, {self._id(root)} AS id, {keys}
        FROM {root.source()}
        WHERE {_all([*limits, *self._attached()])}
        ORDER BY {order}
        LIMIT ${limit}::pg_catalog.int8
    ) AS w
) AS c
WHERE c.shown OR c.last"""

    def shown(self) -> str:
        return self._flag(self._root())

    def _flag(self, root: _Scope) -> str:
        shown = self._shown(root)
        return f"({_all(shown)}) IS TRUE" if shown else "true"

    def estimate(self) -> str:
        name = literal(table_name(self._bound.plan.root))
        known = f"CASE WHEN {compare('c.reltuples', '>=', '0')} THEN c.reltuples END"
        parts = f"JOIN pg_catalog.pg_inherits AS i ON {compare('i.inhparent', '=', 'p.oid')}"
        # A partitioned table's own count is that of the last ANALYZE of the whole; its leaves are counted more often.
        return f"""WITH RECURSIVE parts(oid) AS (
    SELECT {name}::pg_catalog.regclass::pg_catalog.oid UNION SELECT i.inhrelid FROM parts AS p {parts}
)
SELECT pg_catalog.sum({known})::pg_catalog.int8
FROM parts AS p JOIN pg_catalog.pg_class AS c ON {compare("c.oid", "=", "p.oid")}
WHERE {compare("c.relkind", "<>", "'p'::pg_catalog.char")}"""

    # -- the root -------------------------------------------------------------------------------------

    def _root(self) -> _Scope:
        self._aliases = 0
        if self._leaf is not None:
            return _Scope(self._leaf.table, "root", self._bound.root.columns, only=True)
        return _Scope(self._bound.plan.root, "root", self._bound.root.columns)

    def _attached(self) -> List[str]:
        """The condition under which the leaf still is one of the root; looked at once for a whole statement."""
        if self._leaf is None:
            return []
        whole = f"(SELECT pg_catalog.pg_partition_root({self._leaf.oid}::pg_catalog.oid::pg_catalog.regclass))"
        return [compare(f"{whole}::pg_catalog.oid", "=", f"{self._bound.root.oid}::pg_catalog.oid")]

    def _id(self, root: _Scope) -> str:
        return id_of([(root(name), root.columns[name].type) for name in self._key])

    def _document(self, root: _Scope) -> str:
        return joined(self._object(root, self._bound.plan.fields))

    def _shown(self, root: _Scope) -> List[str]:
        """The conditions under which a root row is a document."""
        plan = self._bound.plan
        shown = self._filters(root, plan.filters)
        if plan.soft_delete is not None:
            marker = plan.soft_delete.column
            type_ = root.columns[marker].type
            boolean = type_.is_builtin and type_.base == "bool" and not type_.is_array
            on = root(marker) if boolean else f"{root(marker)} IS NOT NULL"
            shown.append(f"({_all([on, *self._filters(root, plan.soft_delete.when)])}) IS NOT TRUE")
        return shown

    def _bounds(self, used: int) -> Tuple[str, str]:
        """The last two parameters: batch_bytes and max_document_bytes."""
        return f"${used + 1}::pg_catalog.int8", f"${used + 2}::pg_catalog.int8"

    def _bound_by(self, root: _Scope, symbol: str, used: int) -> str:
        """``key symbol bound`` in the order of the key's index; parameters stand in the order of the key."""
        place = {name: used + number for number, name in enumerate(self._key, 1)}
        columns = [root.columns[name] for name in self._bound.walk]
        left = [root(name) for name in self._bound.walk]
        right = [f"(${place[name]}::pg_catalog.text)::{root.columns[name].type.sql}" for name in self._bound.walk]
        schemas = {column.type.operators for column in columns}
        if len(left) == 1:
            return compare(left[0], symbol, right[0], columns[0].type.operators)
        if schemas == {"pg_catalog"}:
            return compare(f"ROW({', '.join(left)})", symbol, f"ROW({', '.join(right)})")
        # A row comparison has one operator for all columns; citext beside int8 needs two.
        strict = symbol[0]
        ways: List[str] = []
        for depth, column in enumerate(columns):
            last = depth == len(columns) - 1
            equal = [compare(left[at], "=", right[at], columns[at].type.operators) for at in range(depth)]
            step = compare(left[depth], symbol if last else strict, right[depth], column.type.operators)
            ways.append(_all([*equal, step]))
        first = compare(left[0], strict + "=", right[0], columns[0].type.operators)
        return f"({first} AND ({' OR '.join(f'({way})' for way in ways)}))"

    # -- fields ---------------------------------------------------------------------------------------

    def _object(self, scope: _Scope, fields: Iterable[AnyField]) -> List[Piece]:
        return members(
            member(run[0].name, self._field(scope, run[0])) if len(run) == 1 else [self._together(scope, run)]
            for run in self._runs(fields)
        )

    def _field(self, scope: _Scope, field: AnyField) -> List[Piece]:
        if isinstance(field, ScalarField):
            column = scope.columns[field.column]
            return [value(scope(field.column), column, field.transforms, field.default)]
        if isinstance(field, GeoField):
            return [self._geo(scope, field)]
        if isinstance(field, ConstantField):
            return [constant(field.value)]
        if isinstance(field, ObjectField):
            return self._object(scope, field.fields)
        if isinstance(field, JoinField):
            return [self._join(scope, field)]
        return [self._aggregate(scope, field)]

    def _geo(self, scope: _Scope, field: GeoField) -> str:
        if field.column is not None:
            return json_of(scope(field.column), scope.columns[field.column].type)
        assert field.lat is not None and field.lon is not None
        parts = [
            f"{literal(text)} {operator('||')} {number(scope(name), scope.columns[name].type)}"
            for text, name in (('{"lat":', field.lat), (',"lon":', field.lon))
        ]
        # A NULL on either side makes the whole NULL.
        return f"COALESCE({parts[0]} {operator('||')} {parts[1]} {operator('||')} '}}', {NULL})"

    # -- related rows -----------------------------------------------------------------------------------

    def _alias(self, letter: str = "t") -> str:
        self._aliases += 1
        return f"{letter}{self._aliases}"

    def _scope(self, table: Table, letter: str = "t") -> _Scope:
        return _Scope(table, self._alias(letter), self._bound.columns(table))

    def _join(self, parent: _Scope, field: JoinField) -> str:
        row = self._scope(field.table)
        inner = row.again()
        document = joined(self._object(row, field.fields))
        source = self._source(parent, inner, field)
        if field.verb == "belongs_to":
            return f"COALESCE((SELECT {document} FROM {source}), {NULL})"
        limit = 1 if field.verb == "has_one" else field.limit
        tail = "" if limit is None else f" LIMIT {limit}"
        key = self._bound.key_of(field.table)
        order = [_direction(inner(item.column), item.descending) for item in field.order_by]
        ordered = {item.column for item in field.order_by}
        if key:
            order += [inner(name) for name in key if name not in ordered]
            columns = f"{inner.alias}.*" if self._any_column else ", ".join(row(name) for name in row.used)
            rows = f"(SELECT {columns} FROM {source} ORDER BY {', '.join(order)}{tail}) AS {row.alias}"
        else:
            # Without a key only the documents themselves tell rows apart.
            sort = [f"o.sort{place}" for place in range(1, len(order) + 1)]
            sorts = "".join(f", {inner(item.column)} AS sort{n}" for n, item in enumerate(field.order_by, 1))
            by = [_direction(name, item.descending) for name, item in zip(sort, field.order_by)]
            rows = (
                f"(SELECT o.document FROM (SELECT {document} AS document{sorts} FROM {source}) AS o "
                f'ORDER BY {", ".join([*by, """o.document COLLATE "C" """])}{tail}) AS o'
            )
            document = "o.document"
        if field.verb == "has_one":
            return f"COALESCE((SELECT {document} FROM {rows}), {NULL})"
        return f"(SELECT pg_catalog.concat('[', pg_catalog.string_agg({document}, ','), ']') FROM {rows})"

    def _source(self, parent: _Scope, row: _Scope, field: Union[JoinField, AggregateField]) -> str:
        """``table WHERE ...``: the related rows of ``parent``, filtered."""
        link = field.link
        filters = self._filters(row, field.filters)
        if isinstance(link, ThroughLink):
            junction = self._scope(link.junction, "j")
            linked = self._pairs(row, link.right_references, junction, link.right_key)
            mine = self._pairs(junction, link.left_key, parent, link.left_references)
            if any(isinstance(item, RawFilter) for item in field.filters):
                # A level of its own, where bare names are those of the related table first.
                inside = f"SELECT {row.alias}.* FROM {row.source()} WHERE {_all([*linked, *filters])}"
                return f"{junction.source()} CROSS JOIN LATERAL ({inside}) AS {row.alias} WHERE {_all(mine)}"
            return f"{junction.source()} JOIN {row.source()} ON {_all(linked)} WHERE {_all([*mine, *filters])}"
        if isinstance(link, ChildLink):
            linked = self._pairs(row, link.foreign_key, parent, link.references)
        else:
            assert isinstance(link, TargetLink)
            linked = self._pairs(row, link.target_key, parent, link.column)
        return f"{row.source()} WHERE {_all([*linked, *filters])}"

    def _pairs(self, row: _Scope, columns: Columns, parent: _Scope, others: Columns) -> List[str]:
        return [
            self._equal(row(mine), row.columns[mine], parent(theirs), parent.columns[theirs])
            for mine, theirs in zip(columns, others)
        ]

    def _equal(self, left: str, left_column: Column, right: str, right_column: Column) -> str:
        schemas = {left_column.type.operators, right_column.type.operators}
        schema = schemas.pop() if len(schemas) == 1 else "pg_catalog"
        collations = {c.collation for c in (left_column, right_column)} - {None, _DEFAULT_COLLATION}
        if len(collations) > 1:
            right = f"{right} COLLATE {left_column.collation}"
        return compare(left, "=", right, schema)

    # -- aggregates -------------------------------------------------------------------------------------

    def _aggregate(self, parent: _Scope, field: AggregateField) -> str:
        if field.op == "ids":
            return self._ids(parent, field)
        row = self._scope(field.table)
        source = self._source(parent, row, field)
        if field.op not in ("min", "max"):
            return f"(SELECT {self._reduced(row, field)} FROM {source})"
        # Not every type with an order has the aggregate; ties are broken so that equal values print alike.
        assert field.column is not None
        name = row(field.column)
        order = [_direction(name, field.op == "max"), *(row(part) for part in self._bound.key_of(field.table))]
        first = f"SELECT {name} FROM {source} AND {name} IS NOT NULL ORDER BY {', '.join(order)} LIMIT 1"
        value_ = json_of(f"{row.alias}.{identifier(field.column)}", row.columns[field.column].type)
        return f"COALESCE((SELECT {value_} FROM ({first}) AS {row.alias}), {NULL})"

    def _reduced(self, row: _Scope, field: AggregateField) -> str:
        """An aggregate over the rows in scope as JSON text (a count as it is)."""
        if field.op == "count":
            return "pg_catalog.count(*)"
        if field.op == "ids":
            _, columns = ids_source(field, self._bound.catalog)
            order = ", ".join(row(name) for name in columns)
            every = f"pg_catalog.string_agg({self._id_text(row, columns)}, ',' ORDER BY {order})"
            return f"pg_catalog.concat('[', {every}, ']')"
        assert field.column is not None
        name, type_ = row(field.column), row.columns[field.column].type
        base = type_.base
        if field.op in ("min", "max"):
            return json_of(f"pg_catalog.{field.op}({name})", type_)
        # Sums of floats depend on their order.
        key = [row(part) for part in self._bound.key_of(field.table)]
        order = f" ORDER BY {', '.join([*key, name])}" if base in ("float4", "float8") else ""
        if field.op == "sum":
            total = number(f"pg_catalog.sum({name}{order})", Type(sql="", base=_SUMS.get(base, base)))
        else:
            operand = f"({name})::pg_catalog.numeric" if base == "money" else name
            total = number(f"pg_catalog.avg({operand}{order})::pg_catalog.float8", Type(sql="", base="float8"))
        return f"COALESCE({total}, {NULL})"

    def _runs(self, fields: Iterable[AnyField]) -> List[List[AnyField]]:
        """Fields one by one, but neighbouring aggregates over the same rows together."""
        runs: List[List[AnyField]] = []
        for field in fields:
            before = runs[-1][0] if runs else None
            if (
                isinstance(field, AggregateField)
                and isinstance(before, AggregateField)
                and (field.table, field.link, field.filters) == (before.table, before.link, before.filters)
                and self._is_reducible(field)
                and self._is_reducible(before)
            ):
                runs[-1].append(field)
            else:
                runs.append([field])
        return runs

    def _is_reducible(self, field: AggregateField) -> bool:
        """Whether the field can share one pass over its rows with others."""
        if field.op == "ids":
            return isinstance(field.link, ChildLink)
        if field.op in ("min", "max"):
            assert field.column is not None
            return has_extremes(self._bound.columns(field.table)[field.column])
        return True

    def _together(self, parent: _Scope, run: Sequence[AnyField]) -> str:
        """Several members of an object out of one pass over the related rows."""
        fields = [field for field in run if isinstance(field, AggregateField)]
        row = self._scope(fields[0].table)
        source = self._source(parent, row, fields[0])
        parts = [member(field.name, [self._reduced(row, field)]) for field in fields]
        return f"(SELECT {joined(listed(parts))} FROM {source})"

    def _ids(self, parent: _Scope, field: AggregateField) -> str:
        table, columns = ids_source(field, self._bound.catalog)
        if isinstance(field.link, ThroughLink):
            row = self._scope(table, "j")
            conditions = self._pairs(row, field.link.left_key, parent, field.link.left_references)
            conditions += [f"{row(name)} IS NOT NULL" for name in columns]
            source = row.source()
            if reads_related(field):
                related = self._scope(field.table)
                linked = self._pairs(related, field.link.right_references, row, field.link.right_key)
                inside = _all([*linked, *self._filters(related, field.filters)])
                source += f" CROSS JOIN LATERAL (SELECT FROM {related.source()} WHERE {inside}) AS {related.alias}"
            source += f" WHERE {_all(conditions)}"
        else:
            row = self._scope(table)
            source = self._source(parent, row, field)
        names = ", ".join(row(name) for name in columns)
        rows = f"(SELECT {names} FROM {source} ORDER BY {names}) AS {row.alias}"
        text = self._id_text(row, columns)
        return f"(SELECT pg_catalog.concat('[', pg_catalog.string_agg({text}, ','), ']') FROM {rows})"

    def _id_text(self, row: _Scope, columns: Columns) -> str:
        parts = [(row(name), row.columns[name].type) for name in columns]
        if len(parts) == 1:
            return json_of(*parts[0])
        return f"pg_catalog.to_json({id_of(parts)})::pg_catalog.text"

    # -- filters ----------------------------------------------------------------------------------------

    def _filters(self, scope: _Scope, filters: Sequence[AnyFilter]) -> List[str]:
        return [
            # The line break ends a comment, should the text end in one.
            f"({item.sql}\n)" if isinstance(item, RawFilter) else self._filter(scope, item)
            for item in filters
        ]

    def _filter(self, scope: _Scope, item: Filter) -> str:
        name, type_ = scope(item.column), scope.columns[item.column].type
        schema = type_.operators
        if item.op in ("is_null", "is_not_null"):
            return f"{name} {'IS NULL' if item.op == 'is_null' else 'IS NOT NULL'}"
        if item.op in ("like", "ilike"):
            symbol = "~~" if item.op == "like" else "~~*"
            if type_.base == "citext" and not type_.is_enum:
                return compare(name, symbol, typed(item.values[0], type_), schema)
            return compare(as_text(name, type_), symbol, f"{literal(item.values[0])}::pg_catalog.text")
        operands = [typed(operand, type_) for operand in item.values]
        if item.op == "between":
            return f"({compare(name, '>=', operands[0], schema)} AND {compare(name, '<=', operands[1], schema)})"
        if item.op in ("in", "not_in"):
            symbol, glue = ("=", " OR ") if item.op == "in" else ("<>", " AND ")
            if type_.is_array:
                return "(" + glue.join(compare(name, symbol, operand, schema) for operand in operands) + ")"
            some = "ANY" if item.op == "in" else "ALL"
            return compare(name, symbol, f"{some} (ARRAY[{', '.join(operands)}])", schema)
        return compare(name, _OPERATORS[item.op], operands[0], schema)


def _all(conditions: Sequence[str]) -> str:
    return " AND ".join(conditions) if conditions else "true"


def _running(most: str) -> str:
    """The bytes of all documents up to here that are not too large; by rows, so that nothing is held back."""
    size = f"CASE WHEN {compare('s.size', '<=', most)} THEN s.size END"
    return f"pg_catalog.sum({size}) OVER (ROWS UNBOUNDED PRECEDING)"


def _comes(bytes_: str, most: str) -> str:
    fits = f"{compare('d.total', '<=', bytes_)} OR {compare('d.total', '=', 'd.size')}"
    return f"{compare('d.size', '<=', most)} AND ({fits})"


def _direction(name: str, descending: bool) -> str:
    return f"{name} DESC" if descending else name


def _has_raw(fields: Iterable[AnyField]) -> bool:
    for field in fields:
        if isinstance(field, (JoinField, AggregateField)):
            if any(isinstance(item, RawFilter) for item in field.filters):
                return True
        if isinstance(field, (JoinField, ObjectField)) and _has_raw(field.fields):
            return True
    return False

"""A first set of schema files for a database that nobody has described yet, from what its catalog says.

``survey_database`` reads tables, foreign keys, enum labels and sizes; everything after that is pure: which tables are
documents of their own, which are junctions, and what the file of each says.  The files pass ``flussod check``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import psycopg

from flusso_sync.postgres.bind import row_key
from flusso_sync.postgres.catalog import Catalog, Column, Relation, read_catalog
from flusso_sync.postgres.connection import READ_ONLY, SourceAccess, connect, rows, translating
from flusso_sync.schema.names import MAX_NAME_BYTES, spell
from flusso_sync.schema.plan import Columns, Table
from flusso_sync.schema.types import kinds_of

#: On average, a parent with more related rows than this gets their number instead of the rows themselves.
MANY_ROWS = 100

#: How far belongs_to is followed away from the root, and from its children.
DEPTH = 2
CHILD_DEPTH = 1

#: Columns that tell when, which a junction may have beside its two keys.
TIMES = frozenset({"timestamp with time zone", "timestamp without time zone", "date"})

#: Texts that are looked for as a whole, by their name.
_WHOLE = re.compile(
    r"(^|_)(email|slug|status|state|kind|type|country|county|city|region|code|zip|postal_?code|phone|fax|mobile|url|uri|"
    r"currency|lang|language|locale|ip|host|hash|checksum|namespace|role|plan|tier|rating)$"
)
#: Texts that are made of letters and digits and looked for by parts of them.
_CODES = re.compile(
    r"(^|_)(sku|isbn|ean|upc|serial|serial_?no|serial_?number|part_?no|part_?number|vin|iban|order_?no)$"
)

#: Types without a kind of their own whose text is worth finding as a whole.
_AS_KEYWORD = frozenset({"inet", "cidr", "macaddr", "macaddr8", "interval"})

_TABLES = """
select n.nspname::text, c.relname::text, c.relkind::text, c.reltuples::int8, obj_description(c.oid, 'pg_class')
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and c.relpersistence = 'p' and not c.relispartition
   and n.nspname not like 'pg\\_%%' and n.nspname <> 'information_schema'
   and has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, 'SELECT')
   and not exists (select from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1, 2
"""

# Those of partitions are copies of their parent's.
_FOREIGN_KEYS = """
select k.conname::text, n.nspname::text, c.relname::text, tn.nspname::text, tc.relname::text,
       (select json_agg(a.attname order by p.place) from unnest(k.conkey) with ordinality p(number, place)
          join pg_attribute a on a.attrelid = k.conrelid and a.attnum = p.number)::text,
       (select json_agg(a.attname order by p.place) from unnest(k.confkey) with ordinality p(number, place)
          join pg_attribute a on a.attrelid = k.confrelid and a.attnum = p.number)::text
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
  join pg_class tc on tc.oid = k.confrelid join pg_namespace tn on tn.oid = tc.relnamespace
 where k.contype = 'f' and k.conparentid = 0
 order by 2, 3, 1
"""

_ENUMS = "select enumtypid::int8, json_agg(enumlabel order by enumsortorder)::text from pg_enum group by 1"

_SLOTS = "select slot_name::text from pg_replication_slots"


class ForeignKey(NamedTuple):
    """``columns`` of ``table`` point at ``referenced`` of ``target``."""

    name: str
    table: Table
    columns: Columns
    target: Table
    referenced: Columns


@dataclass(frozen=True)
class Junction:
    """A table that does nothing but join two others; ``left`` and ``right`` are its two foreign keys."""

    table: Table
    left: ForeignKey
    right: ForeignKey


@dataclass(frozen=True)
class Database:
    """What the catalog says of everything this role may read.

    ``sizes``: estimated rows, None where nobody counted; ``labels``: of enum types, by OID; ``slots``: taken names.
    """

    name: str
    catalog: Catalog
    foreign_keys: Tuple[ForeignKey, ...] = ()
    sizes: Mapping[Table, Optional[int]] = field(default_factory=dict)
    comments: Mapping[Table, str] = field(default_factory=dict)
    labels: Mapping[int, Sequence[str]] = field(default_factory=dict)
    slots: Tuple[str, ...] = ()

    def relation(self, table: Table) -> Relation:
        return self.catalog.tables[table]

    def points_at(self, table: Table) -> List[ForeignKey]:
        return [key for key in self.foreign_keys if key.target == table]

    def points_from(self, table: Table) -> List[ForeignKey]:
        return [key for key in self.foreign_keys if key.table == table]

    def junctions(self) -> Dict[Table, Junction]:
        found = {}
        for table in self.catalog.tables:
            junction = self._junction(table)
            if junction is not None:
                found[table] = junction
        return found

    def _junction(self, table: Table) -> Optional[Junction]:
        """Two foreign keys that are unique together, and nothing beside them but a key of its own and times."""
        keys = self.points_from(table)
        if len(keys) != 2 or self.points_at(table):
            return None
        left, right = keys
        relation = self.relation(table)
        linked = set(left.columns) | set(right.columns)
        unique = any(
            index.unique and not index.partial and index.columns is not None and set(index.columns) == linked
            for index in relation.indexes
        )
        if not unique or not (set(left.columns) - set(right.columns)) or not (set(right.columns) - set(left.columns)):
            return None
        surrogate = set(relation.primary_key) if len(relation.primary_key) == 1 else set()
        rest = [column for name, column in relation.columns.items() if name not in linked | surrogate]
        if any(column.type_name.split("(")[0].strip() not in TIMES and not _is_time(column) for column in rest):
            return None
        return Junction(table, left, right)

    def roots(self) -> List[Table]:
        """The tables that documents can be made of: those with a key that are no junctions."""
        junctions = self.junctions()
        return [table for table, one in sorted(self.catalog.tables.items()) if row_key(one) and table not in junctions]


def _is_time(column: Column) -> bool:
    return column.type.base in ("timestamptz", "timestamp", "date") and not column.type.is_array


def survey_database(access: SourceAccess) -> Database:
    """Read everything; raises ``SourceError`` and its kin."""
    with connect(access, settings=READ_ONLY) as connection, translating("reading"):
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        found = _survey(connection)
        connection.execute("COMMIT")
        return found


def _survey(connection: "psycopg.Connection[Any]") -> Database:
    listed = rows(connection, _TABLES)
    wanted = [Table(schema, name) for schema, name, *_ in listed]
    catalog = read_catalog(connection, wanted)
    keys = []
    for name, schema, table, target_schema, target, columns, referenced in rows(connection, _FOREIGN_KEYS):
        key = ForeignKey(
            name,
            Table(schema, table),
            tuple(json.loads(columns)),
            Table(target_schema, target),
            tuple(json.loads(referenced)),
        )
        if key.table in catalog.tables and key.target in catalog.tables:
            keys.append(key)
    return Database(
        name=connection.info.dbname,
        catalog=catalog,
        foreign_keys=tuple(keys),
        sizes={Table(s, n): (count if count >= 0 else None) for s, n, _, count, _ in listed},
        comments={Table(s, n): comment for s, n, _, _, comment in listed if comment},
        labels={oid: tuple(json.loads(labels)) for oid, labels in rows(connection, _ENUMS)},
        slots=tuple(name for (name,) in rows(connection, _SLOTS)),
    )


# -- drafting -----------------------------------------------------------------------------------------


class Draft(NamedTuple):
    """One schema file: the name of its index, its root, and its text."""

    name: str
    table: Table
    text: str


def draft(database: Database, roots: Sequence[Table]) -> List[Draft]:
    """A schema file for each of ``roots``, under names that are told apart."""
    names: Dict[str, Table] = {}
    for table in roots:
        plain = _plain(table.name)
        if table.schema != "public" or plain in names:
            plain = _plain(f"{table.schema}_{table.name}") if table.schema != "public" else plain
        names[_unique(plain, names)] = table
    drafter = _Drafter(database)
    return [Draft(name, table, drafter.schema(name, table)) for name, table in names.items()]


def _plain(name: str) -> str:
    plain = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "table"
    return (plain if not plain[0].isdigit() else f"t_{plain}")[:MAX_NAME_BYTES]


def _unique(name: str, taken: Any) -> str:
    candidate, number = name, 2
    while candidate in taken:
        suffix = f"_{number}"
        candidate, number = name[: MAX_NAME_BYTES - len(suffix)] + suffix, number + 1
    return candidate


@dataclass
class _Scope:
    """Where fields are being written: the names taken there, how far in, the tables on the way here."""

    indent: str
    trail: Tuple[Table, ...]
    taken: Set[str] = field(default_factory=set)

    def inner(self, table: Table) -> "_Scope":
        return replace(self, indent=self.indent + "    ", trail=(*self.trail, table), taken=set())

    def name(self, wanted: str) -> str:
        """A document key like ``wanted`` that nothing else has here."""
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", wanted).strip("_") or "field"
        found = _unique((plain if not plain[0].isdigit() else f"f_{plain}")[:MAX_NAME_BYTES], self.taken)
        self.taken.add(found)
        return found


class _Drafter:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._junctions = database.junctions()

    def schema(self, index: str, root: Table) -> str:
        relation = self._database.relation(root)
        key = row_key(relation)
        lines = [
            f"# What a document of index {index} looks like: one per row of {_remark(str(root))}.",
            "# Written by flussod init; it is yours now.  flussod check says what a change of it means.",
        ]
        comment = self._database.comments.get(root)
        if comment:
            lines += [f"# {line}".rstrip() for line in comment.splitlines()]
        lines += ["version: 1", f"table: {_name(root)}"]
        lines.append(f"{'primary_key' if relation.primary_key else 'doc_id'}: {_columns(key)}")
        lines += self._hints(relation)
        scope = _Scope("  ", (root,))
        fields = [
            *self._own(scope, relation, hidden=self._hidden(root, DEPTH, ())),
            *self._targets(scope, root, DEPTH),
            *self._children(scope, root),
        ]
        lines += _fields("", fields)
        return "\n".join(lines) + "\n"

    def _hints(self, relation: Relation) -> Iterator[str]:
        for name, column in relation.columns.items():
            if name.lower() in ("deleted_at", "removed_at", "is_deleted", "deleted") and not column.type.is_array:
                yield f"# soft_delete: {{column: {_text(spell(name))}}}   # a row that is marked so is no document"

    # -- columns ----------------------------------------------------------------------------------------

    def _hidden(self, table: Table, depth: int, trail: Sequence[Table]) -> Set[str]:
        """Columns that only point at rows which are shown themselves."""
        found: Set[str] = set()
        for key in self._shown_targets(table, depth, trail):
            found |= set(key.columns)
        return found - set(row_key(self._database.relation(table)))

    def _own(self, scope: _Scope, relation: Relation, hidden: Set[str] = frozenset()) -> Iterator[str]:  # type: ignore[assignment]
        for name, column in relation.columns.items():
            if name not in hidden:
                yield self._column(scope, column, name in row_key(relation))

    def _column(self, scope: _Scope, column: Column, is_key: bool) -> str:
        kind, more, why = self._kind(column, is_key)
        name = scope.name(column.name)
        item = [f"{kind}: {_text(name)}"]
        if name.lower() != column.name:
            item.append(f"column: {_text(spell(column.name))}")
        item.append(f"required: {'true' if column.not_null else 'false'}")
        line = f"- {{{', '.join([*item, *more])}}}"
        return f"{scope.indent}# {line}   # {why}" if why else f"{scope.indent}{line}"

    def _kind(self, column: Column, is_key: bool) -> Tuple[str, List[str], str]:
        """Kind, further keys, and why the field is left for the reader to decide (empty: it is not)."""
        type_ = column.type
        if type_.is_enum:
            labels = list(self._labels(column))
            usable = labels and all(label.strip() and "=>" not in label and "\n" not in label for label in labels)
            return ("enum", [f"variants: [{', '.join(map(_text, labels))}]"], "") if usable else ("keyword", [], "")
        kinds = kinds_of(type_.looks_like)
        if not kinds:
            kind = "custom"
            more = [f"postgres: [{_text(type_.looks_like)}]", "opensearch: keyword"]
            as_text = type_.looks_like in _AS_KEYWORD and type_.is_builtin
            return kind, more, "" if as_text else f"a column of type {_remark(column.type_name)}"
        if "binary" in kinds:
            return "binary", [], "bytes are seldom searched, and make documents large"
        if kinds[0] != "text":
            return kinds[0], [], ""
        short = type_.base == "bpchar" or type_.base == "char"
        if is_key or short or _WHOLE.search(column.name.lower()):
            return "keyword", [], ""
        return ("identifier" if _CODES.search(column.name.lower()) else "text"), [], ""

    def _labels(self, column: Column) -> Sequence[str]:
        return self._database.labels.get(column.type_oid, ())

    # -- belongs_to ---------------------------------------------------------------------------------------

    def _shown_targets(self, table: Table, depth: int, trail: Sequence[Table]) -> List[ForeignKey]:
        if depth <= 0:
            return []
        found: Dict[Columns, ForeignKey] = {}
        for key in self._database.points_from(table):
            # A table on the way here would be shown inside itself; one that points at itself is shown once.
            if key.target not in trail and key.columns not in found:
                found[key.columns] = key
        return list(found.values())

    def _targets(self, scope: _Scope, table: Table, depth: int) -> Iterator[str]:
        for key in self._shown_targets(table, depth, [one for one in scope.trail if one != table]):
            columns = self._database.relation(table).columns
            required = all(columns[name].not_null for name in key.columns)
            target = self._database.relation(key.target)
            name = scope.name(_without_id(key, target))
            inner = scope.inner(key.target)
            further = depth - 1 if key.target != table else 0
            yield f"{scope.indent}- belongs_to: {_text(name)}"
            yield f"{scope.indent}  column: {_columns(key.columns)}"
            yield f"{scope.indent}  table: {_name(key.target)}"
            yield f"{scope.indent}  primary_key: {_columns(key.referenced)}"
            if required:
                yield f"{scope.indent}  required: true"
            fields = list(self._own(inner, target, hidden=self._hidden(key.target, further, scope.trail)))
            if further:
                fields += self._targets(inner, key.target, further)
            yield from _fields(f"{scope.indent}  ", fields)

    # -- has_many, has_one, many_to_many --------------------------------------------------------------------

    def _children(self, scope: _Scope, root: Table) -> Iterator[str]:
        keys = self._database.points_at(root)
        for key in keys:
            junction = self._junctions.get(key.table)
            among = [other for other in keys if other.table == key.table]
            if junction is not None:
                yield from self._through(scope, junction, key)
            else:
                yield from self._child(scope, root, key, alone=len(among) == 1 and key.table != root)

    def _through(self, scope: _Scope, junction: Junction, near: ForeignKey) -> Iterator[str]:
        far = junction.right if near is junction.left else junction.left
        target = self._database.relation(far.target)
        name = scope.name(far.target.name if far.target != near.target else _by(far.target.name, far.columns))
        own = self._database.relation(near.target)
        through = [
            f"table: {_name(junction.table)}",
            f"left_key: {_columns(near.columns)}",
            f"right_key: {_columns(far.columns)}",
        ]
        if near.referenced != own.primary_key:
            through.append(f"left_references: {_columns(near.referenced)}")
        if far.referenced != target.primary_key:
            through.append(f"right_references: {_columns(far.referenced)}")
        yield f"{scope.indent}- many_to_many: {_text(name)}"
        yield f"{scope.indent}  table: {_name(far.target)}"
        if target.primary_key:
            yield f"{scope.indent}  primary_key: {_columns(target.primary_key)}"
        yield f"{scope.indent}  through: {{{', '.join(through)}}}"
        fields = list(self._own(scope.inner(far.target), target))
        yield from _fields(f"{scope.indent}  ", fields)

    def _child(self, scope: _Scope, root: Table, key: ForeignKey, *, alone: bool) -> Iterator[str]:
        child = self._database.relation(key.table)
        one = child.unique_over(key.columns, constraint=False, not_null=False) is not None
        wanted = key.table.name if alone else _by(key.table.name, key.columns)
        name = scope.name(wanted)
        references = key.referenced != self._database.relation(root).primary_key
        average = self._average(key)
        if not one and average is not None and average > MANY_ROWS:
            item = [
                f"count: {_text(scope.name(f'{name}_count'))}",
                f"table: {_name(key.table)}",
                f"foreign_key: {_columns(key.columns)}",
            ]
            if references:
                item.append(f"references: {_columns(key.referenced)}")
            yield f"{scope.indent}# About {average:,} rows each, too many to show; has_many would."
            yield f"{scope.indent}- {{{', '.join(item)}}}"
            return
        own = row_key(child)
        inner = scope.inner(key.table)
        yield f"{scope.indent}- {'has_one' if one else 'has_many'}: {_text(name)}"
        yield f"{scope.indent}  table: {_name(key.table)}"
        if child.primary_key:
            yield f"{scope.indent}  primary_key: {_columns(child.primary_key)}"
        yield f"{scope.indent}  foreign_key: {_columns(key.columns)}"
        if references:
            yield f"{scope.indent}  references: {_columns(key.referenced)}"
        if own and not one:
            ordered = ", ".join(f"{{column: {_text(spell(column))}}}" for column in own)
            yield f"{scope.indent}  order_by: [{ordered}]"
        # Its parent is the document itself.
        hidden = self._hidden(key.table, CHILD_DEPTH, (root,)) | (set(key.columns) - set(own))
        fields = [
            *self._own(inner, child, hidden=hidden),
            *self._targets(inner, key.table, CHILD_DEPTH),
        ]
        yield from _fields(f"{scope.indent}  ", fields)

    def _average(self, key: ForeignKey) -> Optional[int]:
        children, parents = self._database.sizes.get(key.table), self._database.sizes.get(key.target)
        return None if not children or not parents else round(children / parents)


def _fields(indent: str, lines: Sequence[str]) -> Iterator[str]:
    """The key ``fields`` over them; a list of nothing but remarks is an empty one."""
    yield f"{indent}fields:" if any(not line.lstrip().startswith("#") for line in lines) else f"{indent}fields: []"
    yield from lines


def _remark(text: str) -> str:
    """On one line, whatever a name holds."""
    return " ".join(text.split())


def _without_id(key: ForeignKey, target: Relation) -> str:
    """``author_id`` points at an author; a key of several columns at what its table is called."""
    own = [column for column in key.columns if column not in target.primary_key] or list(key.columns)
    column = own[-1]
    stripped = re.sub(r"(_id|_fk|_key|_no|_nr|Id|ID)$", "", column)
    if len(key.columns) > 1 and len(own) != 1:
        return target.table.name
    return stripped if stripped and stripped != column else f"{column}_{target.table.name}"


def _by(name: str, columns: Sequence[str]) -> str:
    return f"{name}_by_{re.sub(r'(_id|_fk|Id|ID)$', '', columns[-1])}"


def _name(table: Table) -> str:
    plain = spell(table.name)
    return _text(plain if table.schema == "public" else f"{spell(table.schema)}.{plain}")


def _columns(columns: Sequence[str]) -> str:
    named = [_text(spell(column)) for column in columns]
    return named[0] if len(named) == 1 else f"[{', '.join(named)}]"


def _text(value: str) -> str:
    """A string as YAML, in quotes where it would be read as something else."""
    if re.match(r"[A-Za-z_][A-Za-z0-9_.]*\Z", value) and value.lower() not in ("null", "true", "false"):
        return value
    # JSON is YAML, but for a few characters that a line break is made of.
    quoted = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff]", lambda found: f"\\u{ord(found.group()):04x}", quoted)

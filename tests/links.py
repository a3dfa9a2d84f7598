"""The table of links: relation kinds by depth, made of tables by a rule, with every change that can happen to them.

Each route (one relation inside another, up to three deep) has tables, rows and an index of its own; each change is SQL
that the rule writes for the route.  What a document shows is decided here by walking raw rows along the links, nothing
else: a row that a filter, ``limit`` or soft delete keeps out counts as shown, for the document was made by looking at
it.
"""

from __future__ import annotations

import itertools
import json
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import psycopg

Node = Dict[str, Any]

JOINS = ("belongs_to", "has_one", "has_many", "many_to_many")
AGGREGATES = ("count", "sum", "avg", "min", "max", "ids")
#: Everything a route can end with.
ENDS = (*JOINS, *AGGREGATES, *(f"{op}_through" for op in AGGREGATES))

#: Rows per table; those of the routes' parents point at the first ones in turn.
ROWS = 6


class Shape(NamedTuple):
    """How the tables of a world are made."""

    name: str
    composite: bool = False
    partitioned: bool = False
    #: Every table in a database schema of its own.
    schemas: bool = False
    #: One table plays every part of a route but the junction's.
    itself: bool = False
    #: Link columns are generated from another column.
    generated: bool = False
    #: The junction has a key of its own.
    keyed: bool = False


SHAPES = (
    Shape("plain"),
    Shape("self", itself=True, keyed=True),
    Shape("composite", composite=True),
    Shape("partitioned", partitioned=True, keyed=True),
    Shape("schemas", schemas=True),
    Shape("generated", generated=True, keyed=True),
)

IDENTITIES = ("managed", "index", "full")

#: Routes of every shape under every identity.
FEW = (("many_to_many", "belongs_to"), ("has_one", "max_through"), ("has_many", "many_to_many", "sum"))

#: Routes of every shape under managed identities: with those above, each kind of join at each place.
SOME = (
    ("belongs_to", "has_one", "many_to_many"),
    ("many_to_many", "has_many", "belongs_to"),
    ("has_one", "belongs_to", "ids_through"),
)


def routes(shape: Shape, identity: str, everything: bool) -> List[Tuple[str, ...]]:
    """The routes of a world; ``everything``: each combination of joins, and each aggregate at each depth."""
    # ``ids`` list values of one column.
    ends = [kind for kind in ENDS if not kind.startswith("ids") or not shape.composite]
    aggregates = ends[len(JOINS) :]
    if everything:
        # All combinations of three in one world are enough: in the others each kind stands at each place.
        deepest = 3 if shape.name == "plain" and identity == "managed" else 2
        found = [route for depth in range(1, deepest + 1) for route in itertools.product(JOINS, repeat=depth)]
        found += SOME
        found += [(kind,) for kind in aggregates]
        found += [(JOINS[i % 4], end) for i, end in enumerate(aggregates)]
        found += [(JOINS[i % 4], JOINS[(i // 4 + i) % 4], end) for i, end in enumerate(aggregates)]
    elif identity != "managed":
        found = []
    elif shape.name == "plain":
        found = [*((kind,) for kind in ends), *itertools.product(JOINS, JOINS), *SOME]
    else:
        found = [*((kind,) for kind in JOINS), *SOME]
    return [route for route in dict.fromkeys((*found, *FEW)) if route[-1] in ends]


class Route:
    """The tables, rows, index and changes of one route."""

    def __init__(self, shape: Shape, kinds: Sequence[str], number: int) -> None:
        self.shape = shape
        self.kinds = tuple(kinds)
        self.name = f"r{number}"
        self.depth = len(self.kinds)
        levels = range(self.depth + 1)
        self.tables = [self._table("t" if shape.itself else f"t{level}", level) for level in levels]
        self.junctions = {
            level: self._table(f"j{level}", level) for level, kind in enumerate(self.kinds) if through(kind)
        }
        self.key = ("tenant", "id") if shape.composite else ("id",)

    def __repr__(self) -> str:
        return ">".join(self.kinds)

    def _table(self, part: str, level: int) -> str:
        return f"s{level}.{self.name}_{part}" if self.shape.schemas else f"public.{self.name}_{part}"

    @property
    def all_tables(self) -> List[str]:
        return list(dict.fromkeys([*self.tables, *self.junctions.values()]))

    @property
    def reads_the_last(self) -> bool:
        """``ids`` over a junction takes them from the junction."""
        return self.kinds[-1] != "ids_through"

    def key_of(self, table: str) -> Tuple[str, ...]:
        keyless = table in self.junctions.values() and not self.shape.keyed
        return (*self.link("l"), *self.link("r")) if keyless else self.key

    # -- tables and rows ----------------------------------------------------------------------------------

    def link(self, name: str) -> Tuple[str, ...]:
        return (f"{name}_tenant", name) if self.shape.composite else (name,)

    def create(self, identity: str) -> Iterator[str]:
        """DDL; under ``index`` every table has a constraint over its key and links that is its identity."""
        for table in self.all_tables:
            junction = table in self.junctions.values()
            keyed = not junction or self.shape.keyed
            links = [column for name in (("l", "r") if junction else ("up", "down")) for column in self.link(name)]
            columns = [f"{column} int NOT NULL" for column in (self.key if keyed else ())]
            if self.shape.generated:
                columns.append("data jsonb NOT NULL")
                columns += [f"{name} int GENERATED ALWAYS AS ((data ->> '{name}')::int) STORED" for name in links]
            else:
                columns += [f"{name} int{' NOT NULL' if identity == 'index' else ''}" for name in links]
            columns += ["note text", "rank int", "amount numeric", "flag boolean DEFAULT true", "gone timestamptz"]
            columns += ["unused text"]
            columns.append(f"PRIMARY KEY ({', '.join(self.key if keyed else links)})")
            told = [*(self.key if keyed else ()), *(["data"] if self.shape.generated else links)]
            if identity == "index":
                columns.append(f"UNIQUE ({', '.join(told)})")
            by = f" PARTITION BY RANGE ({self.key[-1]})" if self.shape.partitioned else ""
            yield f"CREATE TABLE {table} ({', '.join(columns)}){by}"
            leaves = [table]
            if by:
                leaves = [f"{table}_low", f"{table}_high"]
                yield f"CREATE TABLE {leaves[0]} PARTITION OF {table} FOR VALUES FROM (MINVALUE) TO (20)"
                yield f"CREATE TABLE {leaves[1]} PARTITION OF {table} FOR VALUES FROM (20) TO (MAXVALUE)"
            for leaf in leaves:
                if identity == "full":
                    yield f"ALTER TABLE {leaf} REPLICA IDENTITY FULL"
                elif identity == "index":
                    yield (
                        f"DO $$ BEGIN EXECUTE (SELECT 'ALTER TABLE {leaf} REPLICA IDENTITY USING INDEX '"
                        " || quote_ident(relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
                        f" WHERE indrelid = '{leaf}'::regclass AND indisunique ORDER BY indisprimary LIMIT 1); END $$"
                    )

    def row(self, table: str, id: int, links: Mapping[str, Optional[int]], tenant: int = 1) -> str:
        """An INSERT; ``links`` are the ids the row points at."""
        values: Dict[str, str] = {}
        if table not in self.junctions.values() or self.shape.keyed:
            values.update({"id": str(id), **({"tenant": str(tenant)} if self.shape.composite else {})})
        pointed: Dict[str, Optional[int]] = {}
        for name, target in links.items():
            pointed.update({column: target if column == name else 1 for column in self.link(name)})
        if self.shape.generated:
            values["data"] = f"'{json.dumps(pointed)}'"
        else:
            values.update({name: "NULL" if target is None else str(target) for name, target in pointed.items()})
        values.update(note=f"'n{id}'", rank=str(id % 3), amount=f"{id}.5", flag=str(id % 4 != 0))
        return f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})"

    def points(self, level: int, id: int) -> Dict[str, Optional[int]]:
        """Whom a row of a level points at when all is new."""
        if self.shape.itself:
            return {"up": id % ROWS + 1, "down": (id + 1) % ROWS + 1}
        return {"up": (id - 1) // 2 + 1, "down": id % 4 + 1}

    def fill(self) -> Iterator[str]:
        for level, table in enumerate(self.tables[:1] if self.shape.itself else self.tables):
            for id in range(1, ROWS + 1):
                yield self.row(table, id, self.points(level, id))
        for junction in self.junctions.values():
            for id in range(1, ROWS + 1):
                yield self.row(junction, id, {"l": id, "r": id})
                yield self.row(junction, id + 10, {"l": id, "r": id % ROWS + 1})

    def index(self) -> Node:
        """The schema file."""
        fields: List[Node] = self._fields(0)
        key = list(self.key) if self.shape.composite else "id"
        return {
            "version": 1,
            "table": self.tables[0],
            "primary_key": key,
            "filters": [{"column": "flag", "op": "is_not_null"}],
            "soft_delete": {"column": "gone"},
            "fields": [*fields, {"timestamp": "gone", "required": False}],
        }

    def _fields(self, level: int) -> List[Node]:
        fields: List[Node] = [{"text": f"note{level}", "column": "note", "required": False}]
        if level == self.depth:
            return fields
        kind, related = self.kinds[level], self.tables[level + 1]

        def written(name: str) -> Any:
            return list(self.link(name)) if self.shape.composite else name

        key = list(self.key) if self.shape.composite else "id"
        node: Node = {"table": related}
        if through(kind):
            node["through"] = {"table": self.junctions[level], "left_key": written("l"), "right_key": written("r")}
        elif kind == "belongs_to":
            node["column"] = written("down")
        else:
            node["foreign_key"] = written("up")
        filters = [{"column": "flag", "op": "eq", "value": True}]
        op = kind.replace("_through", "")
        if kind in JOINS:
            node.update({kind: f"f{level}", "primary_key": key, "fields": self._fields(level + 1)})
            if kind != "belongs_to":
                node["order_by"] = [{"column": "rank", "direction": "desc"}]
                node["filters"] = filters
            if kind in ("has_many", "many_to_many"):
                node["limit"] = 2
        elif op == "ids":
            node.update({"ids": f"f{level}", "element_type": "integer"})
        else:
            node.update({op: f"f{level}", "filters": filters})
            if op != "count":
                node["column"] = "amount"
            if op not in ("count", "avg"):
                node["value_type"] = "decimal"
        return [*fields, node]

    # -- what a document shows ------------------------------------------------------------------------------

    def shows(self, raw: "Rows") -> Dict[str, Set[Tuple[str, "Row"]]]:
        """Document id -> the rows it is made of, junction rows included."""
        found: Dict[str, Set[Tuple[str, Row]]] = {}
        for root in raw.rows[self.tables[0]]:
            id = ":".join(str(raw.value(self.tables[0], root, name)) for name in self.key)
            mine = found.setdefault(id, set())
            mine.add((self.tables[0], root))
            level_rows = {root}
            for level, kind in enumerate(self.kinds):
                own, related = self.tables[level], self.tables[level + 1]
                if through(kind):
                    junction = self.junctions[level]
                    between = raw.linked(own, level_rows, self.key, junction, self.link("l"))
                    mine.update((junction, row) for row in between)
                    if kind == "ids_through":
                        break
                    level_rows = raw.linked(junction, between, self.link("r"), related, self.key)
                elif kind == "belongs_to":
                    level_rows = raw.linked(own, level_rows, self.link("down"), related, self.key)
                else:
                    level_rows = raw.linked(own, level_rows, self.key, related, self.link("up"))
                mine.update((related, row) for row in level_rows)
        return found

    # -- changes ------------------------------------------------------------------------------------------------

    def changes(self, identity: str, everything: bool) -> Dict[str, List[str]]:
        """Title -> the statements of one transaction; ``everything``: also what matters at the end alone."""
        nulls = identity != "index" or self.shape.generated
        root = self.tables[0]
        found: Dict[str, List[str]] = {
            "root insert": [self.row(root, 9, self.points(0, 2))],
            "root update": [f"UPDATE {root} SET note = 'new' WHERE id = 2"],
            "root unused column": [f"UPDATE {root} SET unused = 'new' WHERE id = 2"],
            "root delete": [f"DELETE FROM {root} WHERE id = 2"],
            "root key": [f"UPDATE {root} SET id = 22 WHERE id = 2"],
            "root soft delete": [f"UPDATE {root} SET gone = now() WHERE id = 2"],
            "root filter": [f"UPDATE {root} SET flag = NULL WHERE id = 2"],
        }
        if self.depth > 1 and not everything:
            found = {title: found[title] for title in ("root delete", "root key")}
        for level, kind in enumerate(self.kinds, start=1):
            if level == self.depth and not self.reads_the_last:
                continue
            table, parent = self.tables[level], self.tables[level - 1]
            at = "" if self.depth == 1 else f" at depth {level}"
            found[f"child update{at}"] = [f"UPDATE {table} SET note = 'new' WHERE id = 3"]
            if level == self.depth or everything:
                found[f"child filter{at}"] = [f"UPDATE {table} SET flag = NOT flag WHERE id = 3"]
                found[f"child order{at}"] = [f"UPDATE {table} SET rank = 7, amount = 7 WHERE id = 3"]
                found[f"child unused column{at}"] = [f"UPDATE {table} SET unused = 'new' WHERE id = 3"]
            found[f"child delete{at}"] = [f"DELETE FROM {table} WHERE id = 3"]
            found[f"child key{at}"] = [f"UPDATE {table} SET id = 23 WHERE id = 3"]
            if through(kind):
                junction = self.junctions[level - 1]
                one = "l = 2 AND r = 3"
                found[f"child insert{at}"] = [
                    self.row(junction, 40, {"l": 2, "r": 9}),
                    self.row(table, 9, {"up": 1, "down": 1}),
                ]
                found[f"junction insert{at}"] = [self.row(junction, 41, {"l": 2, "r": 5})]
                found[f"junction delete{at}"] = [f"DELETE FROM {junction} WHERE {one}"]
                found[f"junction other parent{at}"] = [self._move(junction, "l", 5, one)]
                found[f"junction other target{at}"] = [self._move(junction, "r", 6, one)]
                if self.shape.keyed:
                    found[f"junction key{at}"] = [f"UPDATE {junction} SET id = 24 WHERE {one}"]
            elif kind == "belongs_to":
                found[f"child insert{at}"] = [
                    self._move(parent, "down", 9, "id = 3"),
                    self.row(table, 9, {"up": 1, "down": 1}),
                ]
                found[f"other target{at}"] = [self._move(parent, "down", 2, "id = 3")]
            else:
                found[f"child insert{at}"] = [self.row(table, 9, {"up": 2, "down": 1})]
                found[f"other parent{at}"] = [self._move(table, "up", 3, "id = 1")]
                if nulls:
                    found[f"no parent{at}"] = [self._move(table, "up", None, "id = 3")]
            if level < self.depth or self.shape.itself:
                continue
            found["moved, changed and moved back"] = [
                self._move(parent, "down", 5, "id = 3"),
                f"UPDATE {table} SET note = 'other' WHERE id IN (1, 2, 3)",
                self._move(parent, "down", 4, "id = 3"),
            ]
        found["everything at once"] = self._everything()
        return found

    def _move(self, table: str, name: str, target: Optional[int], where: str) -> str:
        if self.shape.generated:
            return f"UPDATE {table} SET data = data || '{json.dumps({name: target})}' WHERE {where}"
        return f"UPDATE {table} SET {name} = {'NULL' if target is None else target} WHERE {where}"

    def _everything(self) -> List[str]:
        statements: List[str] = []
        for level, table in enumerate(self.tables):
            statements += [
                self.row(table, 50 + level, {"up": 1, "down": 2}),
                f"UPDATE {table} SET note = 'at once' WHERE id = 1",
                self._move(table, "up", 4, "id = 2"),
                self._move(table, "down", 6, "id = 3"),
                f"UPDATE {table} SET id = {60 + level} WHERE id = 4",
                f"DELETE FROM {table} WHERE id = 5",
            ]
        for level, junction in self.junctions.items():
            statements += [
                self.row(junction, 70 + level, {"l": 1, "r": 3}),
                f"DELETE FROM {junction} WHERE l = 2 AND r = 2",
                self._move(junction, "l", 6, "l = 3 AND r = 3"),
                self._move(junction, "r", 4, "l = 1 AND r = 2"),
            ]
        return statements

    def used(self) -> Dict[str, Optional[Set[str]]]:
        """By table the columns that documents are made of; None for all of them: where a generated column is used, any
        other may be what it is computed from."""
        found: Dict[str, Set[str]] = {table: set(self.key_of(table)) for table in self.all_tables}
        found[self.tables[0]].update(("note", "flag", "gone"))
        linked: Set[str] = set()
        for level, kind in enumerate(self.kinds):
            own, related = self.tables[level], self.tables[level + 1]
            if through(kind):
                found[self.junctions[level]].update((*self.link("l"), *self.link("r")))
                linked.add(self.junctions[level])
            else:
                side, name = (own, "down") if kind == "belongs_to" else (related, "up")
                found[side].update(self.link(name))
                linked.add(side)
            if kind in JOINS:
                found[related].update(("note",) if kind == "belongs_to" else ("note", "rank", "flag"))
            elif not kind.startswith("ids"):
                found[related].update(("flag",) if kind.startswith("count") else ("flag", "amount"))
        return {table: None if self.shape.generated and table in linked else found[table] for table in found}

    def never_reads(self, table: str) -> bool:
        return table == self.tables[-1] and not self.reads_the_last and not self.shape.itself


def through(kind: str) -> bool:
    return kind == "many_to_many" or kind.endswith("_through")


Row = Tuple[Optional[str], ...]


class Rows:
    """The raw rows of a route's tables, as texts."""

    def __init__(self, connection: psycopg.Connection[Any], tables: Sequence[str]) -> None:
        self.columns: Dict[str, List[str]] = {}
        self.rows: Dict[str, Set[Row]] = {}
        for table in tables:
            found = connection.pgconn.exec_(f"SELECT * FROM {table}".encode())
            assert found.status == psycopg.pq.ExecStatus.TUPLES_OK, found.error_message
            width = range(found.nfields)
            self.columns[table] = [(found.fname(i) or b"").decode() for i in width]
            values = (tuple(found.get_value(row, i) for i in width) for row in range(found.ntuples))
            self.rows[table] = {tuple(None if v is None else v.decode() for v in row) for row in values}

    def value(self, table: str, row: Row, column: str) -> Optional[str]:
        return row[self.columns[table].index(column)]

    def linked(self, table: str, rows: Set[Row], columns: Sequence[str], other: str, others: Sequence[str]) -> Set[Row]:
        """The rows of ``other`` whose ``others`` equal ``columns`` of ``rows``."""
        wanted = {tuple(self.value(table, row, name) for name in columns) for row in rows}
        wanted = {values for values in wanted if None not in values}
        places = [self.columns[other].index(name) for name in others]
        return {row for row in self.rows[other] if tuple(row[i] for i in places) in wanted}

    def unlike(self, other: "Rows", table: str, columns: Optional[Set[str]]) -> Set[Row]:
        """Our rows whose ``columns`` (None: all) no row of ``other`` has."""
        places = [i for i, name in enumerate(self.columns[table]) if columns is None or name in columns]
        theirs = {tuple(row[i] for i in places) for row in other.rows[table]}
        return {row for row in self.rows[table] if tuple(row[i] for i in places) not in theirs}


def touched_by(route: Route, before: Rows, after: Rows, used: Mapping[str, Optional[Set[str]]]) -> Set[str]:
    """The documents that show, before or after, a row of which a ``used`` column is not the same before and after."""
    found: Set[str] = set()
    for one, other in ((before, after), (after, before)):
        changed = {
            (table, row)
            for table in route.all_tables
            if not route.never_reads(table)
            for row in one.unlike(other, table, used[table])
        }
        found.update(id for id, rows in route.shows(one).items() if rows & changed)
    return found

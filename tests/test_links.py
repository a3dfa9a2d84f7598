"""Every relation kind at every depth, by every change, under every replica identity: exactly the documents that show
the row before or after are built again, and they equal the oracle (promise 7, fault C1).

One world is one shape of tables under one identity, with a daemon over all its routes; each cell changes the rows of
one route, and puts them back.  ``FLUSSO_LONG=1`` takes many more combinations of kinds in every shape.

Built again beyond that, and no more than that: an id that a changed row names as its parent although there is no such
root (a delete that finds nothing); where a row moves more than once within one transaction, the parents it had in
between; where the identity brings no old tuple, the documents that show a row of which only an unused column changed.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import psycopg
import pytest

from flusso_sync.postgres import documents
from flusso_sync.postgres import identity as module
from flusso_sync.sinks.base import Write
from tests import guards
from tests.in_process import InProcess, in_process, write_schemas
from tests.links import IDENTITIES, SHAPES, Route, Rows, Shape, routes, touched_by
from tests.oracle import evaluate
from tests.oracle.compare import assert_same, compare
from tests.postgres_server import Database, PostgresServer
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.slow]

EVERYTHING = os.environ.get("FLUSSO_LONG") == "1"


class World:
    """One shape under one identity: a database, a daemon, and what its sink was told to write."""

    def __init__(self, shape: Shape, identity: str) -> None:
        self.shape, self.identity = shape, identity
        self.routes = [Route(shape, kinds, number) for number, kinds in enumerate(routes(shape, identity, EVERYTHING))]
        self.written: List[Tuple[str, str]] = []

    def __repr__(self) -> str:
        return f"{self.shape.name}-{self.identity}"

    def start(self, database: Database, folder: Path, exits: ExitStack) -> None:
        self.connection = exits.enter_context(closing(database.connect()))
        if self.shape.schemas:
            self.connection.execute("".join(f"CREATE SCHEMA s{level};" for level in range(4)).encode())
        for route in self.routes:
            for statement in (*route.create(self.identity), *route.fill()):
                self.connection.execute(statement.encode())
        self.paths = write_schemas(folder, {route.name: route.index() for route in self.routes})
        self.daemon: InProcess = exits.enter_context(in_process(database.url, database.name, self.paths))
        self.daemon.right("as built")
        found = self.connection.execute("SELECT oid::regclass::text, relreplident FROM pg_class WHERE relkind = 'r'")
        self.identities = {name.replace("public.", ""): identity for name, identity in found.fetchall()}
        self.daemon.sink.faults = self._record

    def _record(self, method: str, writes: Sequence[Write]) -> None:
        self.written.extend((write.index, write.id) for write in writes)

    def full(self, route: Route) -> Set[str]:
        """The tables whose old tuples are told in full."""
        leaf = "_low" if self.shape.partitioned else ""
        return {t for t in route.all_tables if self.identities[f"{t}{leaf}".replace("public.", "")] == "f"}

    def restore(self, route: Route, before: Rows, after: Rows) -> None:
        """Give every table the rows it had."""
        with self.connection.transaction():
            for table in route.all_tables:
                names = before.columns[table]
                given = [i for i, name in enumerate(names) if not self._generated(name)]
                columns, marks = ", ".join(names[i] for i in given), ", ".join(["%s"] * len(given))
                key = route.key_of(table)
                same = " AND ".join(f"{name} = %s" for name in key)
                for row in after.rows[table] - before.rows[table]:
                    values = [after.value(table, row, name) for name in key]
                    self.connection.execute(f"DELETE FROM {table} WHERE {same}".encode(), values)
                for row in before.rows[table] - after.rows[table]:
                    insert = f"INSERT INTO {table} ({columns}) VALUES ({marks})"
                    self.connection.execute(insert.encode(), [row[i] for i in given])

    def _generated(self, name: str) -> bool:
        return self.shape.generated and name.split("_")[0] in ("up", "down", "l", "r")


WORLDS = [World(shape, identity) for shape in SHAPES for identity in IDENTITIES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" not in metafunc.fixturenames:
        return
    cells = [
        pytest.param(world, (route, title, statements), id=f"{world}-{route!r}-{title}".replace(" ", "_"))
        for world in WORLDS
        for route in world.routes
        for title, statements in route.changes(world.identity, EVERYTHING).items()
    ]
    metafunc.parametrize(("world", "cell"), cells, indirect=["world"], scope="module")


@pytest.fixture(scope="module")
def world(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Iterator[World]:
    made: World = request.param
    name = postgres.create_database()
    with ExitStack() as exits:
        exits.callback(postgres.drop_database, name)
        made.start(Database(postgres, name), tmp_path_factory.mktemp("schemas"), exits)
        yield made


def test_cell(world: World, cell: Tuple[Route, str, List[str]]) -> None:
    route, title, statements = cell
    world.daemon.settle()
    world.written.clear()
    # When the statements are one transaction
    states = [Rows(world.connection, route.all_tables)]
    with world.connection.transaction():
        for statement in statements:
            world.connection.execute(statement.encode())
            states.append(Rows(world.connection, route.all_tables))
    world.daemon.settle()
    ids = [id for index, id in world.written if index == route.name]
    before, after = states[0], states[-1]
    try:
        # Then every document is the oracle's
        expected = evaluate(world.connection, world.paths[route.name])
        assert_same(expected, world.daemon.documents(route.name), title, key_order=True)
        # And exactly those were built that show what changed, each once
        assert len(ids) == len(world.written), "a document of another index was built"
        assert len(ids) == len(set(ids)), "a document was written twice"
        least = touched_by(route, before, after, route.used())
        told = {table: used if table in world.full(route) else None for table, used in route.used().items()}
        most = {id for one, next in zip(states, states[1:]) for id in touched_by(route, one, next, told)}
        orphans = set(ids) - set(route.shows(before)) - set(route.shows(after))
        assert least <= set(ids), f"not built again: {least - set(ids)}"
        assert set(ids) <= least | most | orphans, f"built in vain: {set(ids) - least - most}"
        assert len(orphans) <= 2 * len(statements)
        everything = dict.fromkeys(route.all_tables)
        assert touched_by(route, before, after, everything), "the change changes nothing that is shown"
    finally:
        world.restore(route, before, after)


# -- in vain, and old parents that were lost ----------------------------------------------------------------

SHOP: Dict[str, Any] = {
    "parents": {
        "version": 1,
        "table": "parents",
        "primary_key": "id",
        "fields": [
            {"text": "note", "required": False},
            {
                "has_many": "children",
                "table": "children",
                "primary_key": "id",
                "foreign_key": "parent_id",
                "fields": [{"text": "note", "required": False}],
            },
        ],
    }
}

TABLES = """
CREATE TABLE parents (id int PRIMARY KEY, note text, unused int);
CREATE TABLE children (id int PRIMARY KEY, parent_id int NOT NULL, note text, unused int);
INSERT INTO parents SELECT n, 'p' FROM generate_series(1, 3) n;
INSERT INTO children SELECT n, n % 3 + 1, 'c' FROM generate_series(1, 9) n;
"""


def test_an_update_of_what_no_index_uses_builds_nothing_and_is_counted(database: Database, tmp_path: Path) -> None:
    database.execute(TABLES)
    with in_process(database.url, database.name, write_schemas(tmp_path, SHOP)) as daemon:
        before = daemon.status
        database.execute("UPDATE children SET unused = 1")
        daemon.settle()
        wait_for(lambda: daemon.status["changes_ignored"] == 9, 20, "they are counted")
        assert daemon.status["documents_built"] == before["documents_built"]
        daemon.right()


def test_a_thousand_changes_of_one_row_in_a_backlog_build_it_once(database: Database, tmp_path: Path) -> None:
    database.execute(TABLES)
    with in_process(database.url, database.name, write_schemas(tmp_path, SHOP)) as daemon, database.connect() as other:
        before = daemon.status["documents_built"]
        # Given an engine that cannot read, for somebody's DDL holds a table
        with other.transaction():
            other.execute("LOCK TABLE children IN ACCESS EXCLUSIVE MODE")
            with closing(database.connect()) as connection:
                for number in range(1001):
                    connection.execute("UPDATE parents SET note = %s WHERE id = 1", [str(number)])
            wait_for(lambda: daemon.status["changes_captured"] == 1001, 30, "all are captured")
        # Then what came first is one batch, and the rest of them another
        daemon.right()
        assert daemon.status["documents_built"] - before <= 2
        assert daemon.status["documents_deduplicated"] >= 999


def test_an_identity_whose_index_was_dropped_is_set_anew_and_the_application_goes_on(
    database: Database, tmp_path: Path
) -> None:
    database.execute(TABLES + "ALTER TABLE children ADD CONSTRAINT fit UNIQUE (parent_id, id)")
    with in_process(database.url, database.name, write_schemas(tmp_path, SHOP)) as daemon:
        assert identity(database) == "i"
        # The DDL that restores what was there before is kept with the record.
        undo = 'to undo: ALTER TABLE "public"."children" REPLICA IDENTITY DEFAULT'
        assert daemon.status["facts"]["replica_identities_set"] == {"public.children": undo}
        # When the index goes, Postgres refuses the application's own statements
        database.execute("ALTER TABLE children DROP CONSTRAINT fit")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            database.execute("DELETE FROM children WHERE id = 1")
        # Then the watch mends it
        wait_for(lambda: identity(database) == "f", 60, "the identity is set anew")
        database.execute("DELETE FROM children WHERE id = 1; UPDATE children SET parent_id = 1 WHERE id = 2")
        daemon.right()


def identity(database: Database) -> str:
    return str(database.execute("SELECT relreplident::text FROM pg_class WHERE relname = 'children'")[0][0])


def test_a_link_generated_from_more_than_its_row_is_named_and_counted(database: Database, tmp_path: Path) -> None:
    database.execute(
        """
        CREATE TABLE parents (id int PRIMARY KEY, note text);
        CREATE TABLE children (
            id int PRIMARY KEY, note text, place int,
            parent_id int GENERATED ALWAYS AS (CASE WHEN tableoid = 0 THEN 0 ELSE place END) STORED
        );
        INSERT INTO parents VALUES (1, 'a'), (2, 'b');
        INSERT INTO children VALUES (1, 'x', 1), (2, 'y', 1);
        """
    )
    with in_process(database.url, database.name, write_schemas(tmp_path, SHOP)) as daemon:
        assert identity(database) == "d"
        assert any("parent_id is generated from more" in trouble["what"] for trouble in daemon.status["trouble"])
        database.execute("INSERT INTO children VALUES (3, 'z', 2); UPDATE children SET note = 'new' WHERE id = 1")
        daemon.right()
        database.execute("DELETE FROM children WHERE id = 2")
        daemon.settle()
        assert daemon.status["facts"]["untraceable_changes"]["public.children"] >= 1


@pytest.mark.parametrize("virtual", [False, True], ids=["stored", "virtual"])
def test_no_identity_is_set_with_which_postgres_would_refuse_the_application(
    postgres: PostgresServer, database: Database, tmp_path: Path, virtual: bool
) -> None:
    """Postgres 18 refuses UPDATE and DELETE of a published table whose identity has generated columns that are not
    sent; with FULL that is any generated column."""
    version = database.execute("SELECT current_setting('server_version_num')::int")[0][0]
    if virtual and version < 180000:
        pytest.skip(f"Postgres {version // 10000} has no virtual columns")
    kind = "VIRTUAL" if virtual else "STORED"
    database.execute(TABLES + f"ALTER TABLE children ADD twice int GENERATED ALWAYS AS (id * 2) {kind}")
    with in_process(database.url, database.name, write_schemas(tmp_path, SHOP)) as daemon:
        database.execute("UPDATE children SET parent_id = 2 WHERE id = 2; DELETE FROM children WHERE id = 3")
        if virtual:
            # Nothing else could tell the old parents, so that is said.
            assert identity(database) == "d"
            assert any("old parents of public.children" in trouble["what"] for trouble in daemon.status["trouble"])
        else:
            assert identity(database) == "f"
            daemon.right()


def test_a_root_without_a_primary_key_is_heard_by_its_doc_id(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE things (code text NOT NULL UNIQUE, note text); INSERT INTO things VALUES ('a', '1')")
    fields = [{"text": "note", "required": False}]
    paths = write_schemas(tmp_path, {"things": {"version": 1, "table": "things", "doc_id": "code", "fields": fields}})
    with in_process(database.url, database.name, paths) as daemon:
        assert database.execute("SELECT tablename::text FROM pg_publication_tables") == [("things",)]
        database.execute("UPDATE things SET code = 'b'; INSERT INTO things VALUES ('c', '3'), ('d', '4')")
        database.execute("DELETE FROM things WHERE code = 'c'")
        assert set(daemon.right()["things"]) == {"b", "d"}


#: Types of a parent's key and of the link to it, and how each writes values that are equal.
LOOSE = {
    "citext": ("citext", "citext", "Ab", "aB", "AB"),
    "a collation": ("text COLLATE loose", "text COLLATE loose", "Ab", "aB", "AB"),
    "a collation of the link": ("text", "text COLLATE loose", "Ab", "Ab", "Ab"),
    "scales": ("numeric", "numeric(8,3)", "1", "1.000", "1"),
    "numbers": ("numeric", "integer", "1.0", "1", "1"),
    "blanks": ("char(4)", "char(8)", "ab", "ab", "ab"),
}


@pytest.mark.parametrize("name", LOOSE)
def test_a_child_names_its_parent_by_another_text_of_the_same_key(
    database: Database, tmp_path: Path, name: str
) -> None:
    key, link, written, first, second = LOOSE[name]
    database.execute(
        f"""
        CREATE EXTENSION citext;
        CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE parents (id {key} PRIMARY KEY, note text);
        CREATE TABLE children (id int PRIMARY KEY, note text, parent_id {link});
        INSERT INTO parents VALUES ('{written}', 'a');
        INSERT INTO children VALUES (1, 'x', '{first}'), (2, 'y', '{second}'), (3, 'z', NULL);
        """
    )
    kind = "decimal" if key == "numeric" else "keyword"
    children = {**SHOP["parents"]["fields"][-1], "order_by": [{"column": "id"}]}
    fields = [{kind: "id", "required": True}, children]
    paths = write_schemas(tmp_path, {"parents": {**SHOP["parents"], "fields": fields}})
    with in_process(database.url, database.name, paths) as daemon:
        for statement in (
            "DELETE FROM children WHERE id = 1",
            f"INSERT INTO children VALUES (4, 'new', '{first}')",
            "UPDATE children SET parent_id = NULL WHERE id = 2",
            f"UPDATE children SET parent_id = '{second}' WHERE id = 3",
            f"UPDATE children SET note = 'other' WHERE parent_id = '{second}'",
            "DELETE FROM children",
        ):
            database.execute(statement)
            if "COLLATE" not in link:
                daemon.right(statement)
                continue
            # The oracle knows no such collation; a build reads the tables from the other end.
            daemon.settle()
            with in_process(database.url, f"{database.name}_f", paths) as fresh:
                fresh.settle()
                assert daemon.documents("parents") == fresh.documents("parents"), statement


@contextlib.contextmanager
def guarded(off: Optional[str]) -> Iterator[None]:
    """Switch a guard off in this process, for a while."""
    touched, identity_of = documents.touched, module.identity_of  # type: ignore[attr-defined]
    try:
        if off is not None:
            guards.GUARDS[off]()
        yield
    finally:
        documents.touched, module.identity_of = touched, identity_of  # type: ignore[attr-defined]


@pytest.mark.parametrize("guard", [None, "forget_old_tuples", "leave_identities_alone"])
def test_old_parents_need_old_tuples_and_identities_that_have_them(
    database: Database, tmp_path: Path, guard: Optional[str]
) -> None:
    database.execute(TABLES)
    with guarded(guard), in_process(database.url, database.name, write_schemas(tmp_path, SHOP)) as daemon:
        database.execute("DELETE FROM children WHERE id = 1; UPDATE children SET parent_id = 1 WHERE id = 4")
        daemon.settle()
        with closing(database.connect()) as connection:
            expected = evaluate(connection, tmp_path / "parents.schema.yml")
        found = compare(expected, daemon.documents("parents"))
    if guard is None:
        assert not found
    else:
        assert found, "the guard is off and no difference was found: the test proves nothing"

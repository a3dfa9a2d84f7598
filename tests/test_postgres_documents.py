"""Reading documents on a real server: no connection is left behind, no statement fails for ever, no trouble stays."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any, Callable, Dict, Iterator, List

import pytest

from flusso_sync.backoff import Stopped
from flusso_sync.config.load import Config
from flusso_sync.engine.source import ChangeRun, Document, Resolution
from flusso_sync.errors import SchemaDrift, SourceUnavailable
from flusso_sync.postgres.connection import SourceAccess
from flusso_sync.postgres.documents import DocumentSettings, PostgresDocuments, before_page_header
from flusso_sync.postgres.pgoutput import INSERT, Change, Shape, Wanted
from flusso_sync.schema.plan import Table
from flusso_sync.status import Status
from tests.cases import CASES, Case
from tests.postgres_server import Database
from tests.waiting import wait_for

SCHEMA: Dict[str, Any] = {
    "version": 1,
    "table": "things",
    "primary_key": "id",
    "filters": [{"raw": "slow(id)"}],
    "fields": [{"integer": "id", "required": True}],
}

#: Every row of an index over ``things`` takes ten milliseconds.
TABLES = """
CREATE FUNCTION slow(id int) RETURNS boolean LANGUAGE plpgsql STABLE AS
$$ BEGIN PERFORM pg_sleep(CASE WHEN id > 0 THEN 0.01 ELSE 0 END); RETURN true; END $$;
CREATE TABLE things (id int PRIMARY KEY);
"""


@pytest.fixture
def make(database: Database) -> Iterator[Callable[..., PostgresDocuments]]:
    database.execute(TABLES)
    made: List[PostgresDocuments] = []

    def documents(timeout: float = 60.0) -> PostgresDocuments:
        config = Config.from_mapping(
            {"source": {"type": "postgres"}, "index": [{"name": "things", "schema": SCHEMA, "enabled": True}]}
        )
        access = SourceAccess(lambda: database.url, "here", statement_timeout_seconds=timeout)
        one = PostgresDocuments(access, DocumentSettings())
        made.append(one)
        one.report_to(Status())
        one.open(config.plans, threading.Event())
        return one

    yield documents
    for one in made:
        one.close()


def sessions(database: Database) -> int:
    rows = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'flusso_sync' AND datname = current_database()"
    )
    return int(rows[0][0])


FEELINGS: Dict[str, Any] = {
    "version": 1,
    "table": "people",
    "primary_key": "id",
    "fields": [
        {"text": "mood", "required": False},
        {"text": "former", "required": False},
        {
            "custom": "home",
            "postgres": ["address"],
            "opensearch": "object",
            "required": False,
            "options": {"enabled": False},
        },
        {"integer": "age", "required": False},
    ],
}

#: Types within types; ``unused`` is of no document.
PEOPLE = """
CREATE TYPE mood AS ENUM ('sad', 'fine');
CREATE TYPE weather AS ENUM ('rain', 'sun');
CREATE TYPE place AS (street text, sky weather);
CREATE TYPE address AS (at place, floor int);
CREATE DOMAIN years AS int;
CREATE TYPE unused AS ENUM ('a');
CREATE TABLE people (id int PRIMARY KEY, mood mood, former mood[], home address, age years, rest unused);
INSERT INTO people VALUES (1, 'sad', '{sad,fine}', ROW(ROW('Elm St', 'rain')::place, 2)::address, 7, 'a');
"""

#: What happens to a type, and whether it changes any document.
TYPE_CHANGES = {
    "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'": True,
    "ALTER TYPE weather RENAME VALUE 'rain' TO 'wet'": True,
    "ALTER TYPE place RENAME ATTRIBUTE street TO road": True,
    "ALTER TYPE address ADD ATTRIBUTE door text": True,
    "ALTER TYPE address DROP ATTRIBUTE floor": True,
    "ALTER TYPE mood RENAME TO feeling": True,
    "ALTER TYPE mood ADD VALUE 'glad' BEFORE 'fine'": False,
    "ALTER TYPE weather ADD VALUE 'fog'": False,
    "ALTER DOMAIN years ADD CHECK (VALUE < 200)": False,
    "ALTER TYPE unused RENAME VALUE 'a' TO 'b'": False,
}


@pytest.mark.parametrize("statement", list(TYPE_CHANGES))
def test_types_whose_values_are_written_otherwise_now_are_noticed_and_new_labels_are_not(
    database: Database, statement: str
) -> None:
    database.execute(PEOPLE)
    config = Config.from_mapping(
        {"source": {"type": "postgres"}, "index": [{"name": "people", "schema": FEELINGS, "enabled": True}]}
    )
    access = SourceAccess(lambda: database.url, "here")

    def opened() -> PostgresDocuments:
        one = PostgresDocuments(access, DocumentSettings())
        one.report_to(Status())
        one.open(config.plans, threading.Event())
        assert not one.unreadable()
        return one

    def built(documents: PostgresDocuments) -> List[Document]:
        with documents.snapshot((), threading.Event()) as snapshot:
            return snapshot.build("people", [("1",)])[0]

    altered = TYPE_CHANGES[statement]
    with closing(opened()) as documents:
        before, shape = built(documents), documents.shape("people")
        documents.watch()
        database.execute(statement)
        if altered:
            with pytest.raises(SchemaDrift, match="people"):
                documents.watch()
        else:
            documents.watch()
    # The next start knows it as well, and what is added to what was added counts no more than that.
    with closing(opened()) as documents:
        assert documents.is_still("people", shape) is not altered
        assert (built(documents) == before) is (not altered or "RENAME TO" in statement)
        again = documents.shape("people")
    if altered or "ADD VALUE" in statement:
        assert again != shape
    database.execute(
        "ALTER TYPE mood ADD VALUE 'neither'".replace("mood", "feeling" if "feeling" in statement else "mood")
    )
    with closing(opened()) as documents:
        assert documents.is_still("people", again)


def test_a_function_of_a_raw_filter_is_named_and_noticed_when_it_is_replaced(
    make: Callable[..., PostgresDocuments], database: Database
) -> None:
    documents = make()
    shape = documents.shape("things")
    database.execute("CREATE FUNCTION another() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    documents.watch()
    database.execute(
        "CREATE OR REPLACE FUNCTION slow(id int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT id % 2 = 0'"
    )
    with pytest.raises(SchemaDrift, match="things"):
        documents.watch()
    status = Status()
    documents.report_to(status)
    documents.open(documents._plans, threading.Event())
    assert status.snapshot().to_json()["facts"]["filter_functions"] == {"things": ["slow"]}
    assert not documents.is_still("things", shape)


#: What rewrites a table or alters a column, and whether its documents are others afterwards.
REWRITES: Dict[str, bool] = {
    "VACUUM FULL measured": False,
    "ALTER TABLE measured ALTER amount SET STATISTICS 50": False,
    "ALTER TABLE measured ADD COLUMN filler float8 DEFAULT random()": False,
    "ALTER TABLE measured ALTER unused TYPE int USING unused * 2": False,
    "ALTER TABLE measured ALTER amount TYPE int": False,
    "CREATE TABLE measured_3 PARTITION OF measured FOR VALUES FROM (200) TO (300)": False,
    "ALTER TABLE measured ALTER amount TYPE int USING amount * 100": True,
}


@pytest.mark.parametrize(
    ("partitioned", "statement"),
    [(partitioned, one) for partitioned in (False, True) for one in REWRITES if partitioned or "PARTITION" not in one],
)
def test_values_that_were_rewritten_under_the_same_type_are_noticed(
    database: Database, partitioned: bool, statement: str
) -> None:
    if partitioned:
        database.execute(
            "CREATE TABLE measured (id int PRIMARY KEY, amount int, unused int) PARTITION BY RANGE (id);"
            "CREATE TABLE measured_1 PARTITION OF measured FOR VALUES FROM (0) TO (100);"
            "CREATE TABLE measured_2 PARTITION OF measured FOR VALUES FROM (100) TO (200)"
        )
    else:
        database.execute("CREATE TABLE measured (id int PRIMARY KEY, amount int, unused int)")
    database.execute("INSERT INTO measured SELECT n, n, n FROM generate_series(1, 150) n")
    schema = {
        "version": 1,
        "table": "measured",
        "primary_key": "id",
        "fields": [{"integer": "id", "required": True}, {"integer": "amount", "required": False}],
    }
    config = Config.from_mapping(
        {"source": {"type": "postgres"}, "index": [{"name": "measured", "schema": schema, "enabled": True}]}
    )

    def opened() -> PostgresDocuments:
        one = PostgresDocuments(SourceAccess(lambda: database.url, "here"), DocumentSettings())
        one.report_to(Status())
        one.open(config.plans, threading.Event())
        return one

    with closing(opened()) as documents:
        shape, order = documents.shape("measured"), documents.order("measured")
        database.execute(statement)
        if REWRITES[statement]:
            with pytest.raises(SchemaDrift, match="measured"):
                documents.watch()
        else:
            documents.watch()
    with closing(opened()) as documents:
        assert documents.is_still("measured", shape) is not REWRITES[statement]
        # A build that was cut off goes on; and an earlier version noted less.
        assert documents.order("measured") == order
        assert documents.is_still("measured", shape.split(":")[0])


def test_connections_of_threads_that_ended_are_closed(
    make: Callable[..., PostgresDocuments], database: Database
) -> None:
    documents = make()
    for _ in range(5):
        thread = threading.Thread(target=lambda: documents.estimate("things"))
        thread.start()
        thread.join()
    wait_for(lambda: sessions(database) <= 1, 10, "one connection is left at most")


def test_a_statement_that_takes_too_long_is_made_smaller_until_it_does_not(
    make: Callable[..., PostgresDocuments], database: Database
) -> None:
    database.execute("INSERT INTO things SELECT generate_series(1, 100)")
    documents = make(timeout=0.4)
    left: Any = [(str(n),) for n in range(1, 101)]
    built: List[Document] = []
    timeouts = 0
    deadline = time.monotonic() + 20
    while left:
        assert time.monotonic() < deadline, f"{len(left)} documents are left after {timeouts} timeouts"
        try:
            with documents.snapshot((), threading.Event()) as snapshot:
                some, rest = snapshot.build("things", left)
        except SourceUnavailable:
            timeouts += 1
            continue
        built.extend(some)
        left = rest
    assert timeouts >= 1
    assert sorted(int(document.id) for document in built) == list(range(1, 101))


LINKED: Dict[str, Any] = {
    "version": 1,
    "table": "parents",
    "primary_key": "id",
    "fields": [
        {"integer": "id", "required": True},
        {
            "has_many": "children",
            "table": "children",
            "foreign_key": "link",
            "primary_key": "id",
            "fields": [{"integer": "id", "required": True}],
        },
    ],
}

#: The stream tells ``given``, and the lookup computes ``link`` of it: for 7 it takes longer than a statement may.
LINKED_TABLES = """
CREATE FUNCTION linked(given int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
$$ BEGIN PERFORM pg_sleep(CASE WHEN given = 7 THEN 5 ELSE 0 END); RETURN given; END $$;
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (id int PRIMARY KEY, given int, link int GENERATED ALWAYS AS (linked(given)) STORED);
INSERT INTO parents VALUES (1), (8);
"""


def test_a_lookup_that_takes_too_long_is_made_a_job_and_holds_nobody_up(database: Database) -> None:
    database.execute(LINKED_TABLES)
    config = Config.from_mapping(
        {"source": {"type": "postgres"}, "index": [{"name": "parents", "schema": LINKED, "enabled": True}]}
    )
    access = SourceAccess(lambda: database.url, "here", statement_timeout_seconds=1.0)

    def run(table: str, columns: List[str], *rows: Any) -> ChangeRun:
        wanted = Wanted(Table("public", table), tuple(columns), None)
        shape = Shape(wanted, wanted.table, "f", [(name, True) for name in columns])
        return ChangeRun([Change(shape, INSERT, None, row) for row in rows], 1)

    with closing(PostgresDocuments(access, DocumentSettings())) as documents:
        documents.report_to(Status())
        documents.open(config.plans, threading.Event())

        def resolved(*runs: ChangeRun) -> Resolution:
            with documents.snapshot((), threading.Event()) as snapshot:
                return snapshot.resolve(runs)

        quick, parent = run("children", ["id", "given"], ("1", "8")), run("parents", ["id"], ("1",))
        assert resolved(quick, parent) == Resolution({"parents": [("1",), ("8",)]}, {}, [])
        slow = run("children", ["id", "given"], ("2", "7"))
        with pytest.raises(SourceUnavailable):
            resolved(slow, parent)
        found = resolved(slow, parent)
        assert (found.keys, found.rebuild) == ({"parents": [("1",)]}, {})
        (spread,) = found.spread
        assert (spread.index, list(spread.values), spread.label) == ("parents", [("7",)], "a change of public.children")
        # That cannot be listed either, so the index is built anew.
        assert documents.spread(spread.index, spread.path, spread.values, None, 10) is None


def test_waiting_for_a_lock_is_told_and_over_even_when_the_connection_broke_meanwhile(
    make: Callable[..., PostgresDocuments], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flusso_sync.postgres.documents.PATIENCE_SECONDS", 0.05)
    documents = make()
    status = Status()
    documents.report_to(status)
    stop = threading.Event()
    outcome: List[BaseException] = []

    def read() -> None:
        try:
            with documents.snapshot((), stop):
                pass
        except BaseException as error:
            outcome.append(error)

    with database.connect(autocommit=False) as ddl:
        ddl.execute("LOCK TABLE things IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=read)
        thread.start()
        wait_for(status.troubles)
        with closing(database.connect()) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'flusso_sync' AND datname = current_database()"
            )
        thread.join(10)
        assert isinstance(outcome[0], SourceUnavailable)
    read()
    assert not status.troubles()


def test_the_end_comes_to_whoever_waits_for_a_lock(make: Callable[..., PostgresDocuments], database: Database) -> None:
    documents = make()
    outcome: List[BaseException] = []

    def chunk() -> None:
        try:
            documents.next_chunk("things", None, None, 10)
        except BaseException as error:
            outcome.append(error)

    with database.connect(autocommit=False) as ddl:
        ddl.execute("LOCK TABLE things IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=chunk)
        thread.start()
        wait_for(lambda: sessions(database) == 1)
        documents.cancel()
        thread.join(2)
        assert not thread.is_alive() and isinstance(outcome[0], Stopped)


def test_a_partition_that_is_dropped_while_it_is_read_has_its_index_planned_anew(
    make: Callable[..., PostgresDocuments], database: Database
) -> None:
    database.execute(
        "DROP TABLE things; CREATE TABLE things (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF things FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE rest PARTITION OF things DEFAULT; INSERT INTO things VALUES (1), (2), (11)"
    )
    documents = make()
    first = documents.next_chunk("things", None, None, 2)
    assert first is not None and first.ids == ["1", "2"]
    database.execute("DROP TABLE rest")
    with pytest.raises(SchemaDrift, match="other partitions than when it was planned") as found:
        documents.next_chunk("things", first.upper, None, 2)
    assert found.value.relay and list(found.value.indexes) == ["things"]


def test_ids_that_are_documents_are_told_from_those_that_are_none(
    make: Callable[..., PostgresDocuments], database: Database
) -> None:
    """Also under a statement timeout that all of them together would break."""
    database.execute("INSERT INTO things SELECT generate_series(1, 100)")
    documents = make(timeout=0.4)
    strange = ["", "x", "007", "1:2", "9" * 30, "1\0", "-1", "101", " 1"]
    wanted = [*map(str, range(1, 101)), *strange]
    timeouts = 0
    deadline = time.monotonic() + 20
    while True:
        try:
            found = documents.existing("things", wanted)
            break
        except SourceUnavailable:
            timeouts += 1
            assert time.monotonic() < deadline, timeouts
    assert found == set(map(str, range(1, 101)))
    assert timeouts >= 1


def test_a_row_that_cannot_be_judged_counts_as_a_document(
    make: Callable[..., PostgresDocuments], database: Database
) -> None:
    documents = make()
    database.execute("INSERT INTO things SELECT generate_series(-3, 3)")
    database.execute(
        "CREATE OR REPLACE FUNCTION slow(id int) RETURNS boolean LANGUAGE plpgsql STABLE AS"
        " $$ BEGIN RETURN 1 / (id - 2) IS NOT NULL AND id > 0; END $$"
    )
    assert documents.existing("things", [str(n) for n in range(-5, 6)]) == {"1", "2", "3"}


#: What a user's function may raise for one row alone.
RAISED = {
    "an exception": "RAISE EXCEPTION 'not this one'",
    "a code of its own": "RAISE EXCEPTION 'not this one' USING ERRCODE = 'MY001'",
    "an assertion": "ASSERT false, 'not this one'",
    "a check": "RAISE check_violation USING MESSAGE = 'not this one'",
    "bad data": "RETURN 1 / (id - 2) IS NULL",
}


@pytest.mark.parametrize("raised", list(RAISED))
def test_a_row_for_which_a_raw_filter_raises_is_rejected_alone(
    make: Callable[..., PostgresDocuments], database: Database, raised: str
) -> None:
    documents = make()
    database.execute("INSERT INTO things SELECT generate_series(-3, 5)")
    database.execute(
        "CREATE OR REPLACE FUNCTION slow(id int) RETURNS boolean LANGUAGE plpgsql STABLE AS"
        f" $$ BEGIN IF id = 2 THEN {RAISED[raised]}; END IF; RETURN id > 0; END $$"
    )
    keys = [(str(n),) for n in range(-3, 6)]
    with documents.snapshot((), threading.Event()) as snapshot:
        by_key, rest = snapshot.build("things", keys)
    assert not rest
    chunk = documents.next_chunk("things", None, None, 100)
    assert chunk is not None
    with documents.snapshot((), threading.Event()) as snapshot:
        of_chunk, rest = snapshot.build_chunk(chunk)
    assert not rest
    for built in (by_key, of_chunk):
        assert {d.id for d in built if d.body is not None} == {"1", "3", "4", "5"}
        (error,) = [d.error for d in built if d.id == "2"]
        assert error is not None and "cannot be rendered" in error
        assert raised == "bad data" or "not this one" in error
    # Those that are no documents are deleted live, and no part of a build.
    assert {d.id for d in by_key if d.body is None} == {"-3", "-2", "-1", "0", "2"}
    assert len(of_chunk) == 5
    assert documents.next_chunk("things", chunk.upper, None, 100) is None


def test_a_position_lies_behind_whatever_was_seen_and_is_reached_by_what_is_flushed(
    make: Callable[..., PostgresDocuments], database: Database
) -> None:
    documents = make()
    database.execute("INSERT INTO things VALUES (1)")
    position = documents.position()
    assert position is not None
    (row,) = database.execute("SELECT pg_current_wal_flush_lsn() - '0/0'")
    wait_for(lambda: int(database.execute("SELECT pg_current_wal_flush_lsn() - '0/0'")[0][0]) >= position, 10)
    assert position >= int(row[0]) - 40


def test_where_a_page_of_the_wal_begins_its_header_is_no_position() -> None:
    page = 0x16B2000
    assert [before_page_header(page + n) - page for n in (0, 24, 40, 32, 64, 8168)] == [0, 0, 0, 32, 64, 8168]


def test_after_an_advance_a_snapshot_is_newer_than_any_write_by_hand_could_be(
    make: Callable[..., PostgresDocuments],
) -> None:
    documents = make()
    versions = []
    for _ in range(2):
        with documents.snapshot((), threading.Event()) as snapshot:
            versions.append(snapshot.version)
        documents.advance()
    assert versions[1] > versions[0] + 1000


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_every_id_of_every_case_is_taken_apart_and_found_again(database: Database, case: Case) -> None:
    """Keys of every type, composite ones, ``doc_id``, filters, soft deletes, partitions."""
    case.load(database.url)
    with database.connect() as connection:
        for change in case.changes:
            case.apply(connection, change)
    config = Config.from_mapping(
        {
            "source": {"type": "postgres"},
            "index": [{"name": name, "schema": str(path)} for name, path in case.indexes.items()],
        }
    )
    documents = PostgresDocuments(SourceAccess(lambda: database.url, "here"), DocumentSettings())
    with closing(documents):
        documents.open(config.plans, threading.Event())
        for index in case.indexes:
            ids: List[str] = []
            mark: Any = None
            while True:
                chunk = documents.next_chunk(index, mark, None, 1000)
                if chunk is None:
                    break
                ids.extend(chunk.ids)
                mark = chunk.upper
            assert ids, index
            assert documents.existing(index, [*ids, "no key: gives this"]) == set(ids), index
            assert set(documents.keys_of(index, [*ids, "no key: gives this"])) >= set(ids), index

"""The capture on a real server: order of birth, what breaks between two attempts, and a stream that loses nothing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set

import psycopg
import pytest

from flusso_sync import pipeline
from flusso_sync.backoff import Stopped
from flusso_sync.config.load import Config
from flusso_sync.engine.source import ChangeRun, Record
from flusso_sync.errors import FlussoError, SlotMissing, SourceChanged, SourceRefused, SourceUnauthorized
from flusso_sync.postgres import publication, slot
from flusso_sync.postgres.capture import GUARD_SETTINGS, CaptureSettings, PostgresCapture
from flusso_sync.postgres.connection import SourceAccess, connect
from flusso_sync.postgres.replication import ReplicationStream
from flusso_sync.status import IndexState, Status
from flusso_sync.worker import Worker
from tests.postgres_server import Database, PostgresServer
from tests.waiting import wait_for

SCHEMA: Dict[str, Any] = {
    "version": 1,
    "table": "parents",
    "primary_key": "id",
    "fields": [
        {"integer": "id", "required": True},
        {
            "has_many": "children",
            "table": "children",
            "foreign_key": "parent_id",
            "primary_key": "id",
            "fields": [{"integer": "id", "required": True}],
        },
    ],
}

TABLES = """
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (id int PRIMARY KEY, parent_id int);
CREATE TABLE others (id serial PRIMARY KEY, filler text);
"""


class Rig:
    """A capture over one database, its stream on a thread; ``runs`` is what it emitted."""

    def __init__(self, database: Database, url: Optional[str] = None, **settings: Any) -> None:
        config = Config.from_mapping(
            {"source": {"type": "postgres"}, "index": [{"name": "parents", "schema": SCHEMA, "enabled": True}]}
        )
        self.database = database
        self.slot = f"slot_{database.name}"[:60]
        self.access = SourceAccess(lambda: url or database.url, "here")
        self.capture = PostgresCapture(
            self.access, config.plans, CaptureSettings(slot=self.slot, publication=self.slot, **settings)
        )
        self.status = Status()
        self.capture.report_to(self.status, lambda: None)
        self.stop = threading.Event()
        self.runs: List[ChangeRun] = []
        self.failures: List[BaseException] = []
        self.thread: Optional[Worker] = None

    def prepare(self, record: Optional[Record] = None) -> Any:
        self.capture.connect(self.stop)
        return self.capture.prepare(record, self.stop)

    def start(self, emit: Optional[Callable[..., bool]] = None) -> None:
        taken = emit or (lambda run, timeout=None: bool(self.runs.append(run)) or True)
        self.thread = Worker(
            "flusso-capture",
            lambda: self.capture.stream(taken, self.stop),
            lambda name, error: self.failures.append(error),
        )
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        if self.thread is not None:
            self.thread.join(20)
            assert not self.thread.is_alive()
        self.capture.close()

    def seen(self) -> Set[str]:
        """Keys of the parents that complete transactions inserted."""
        return {change.new[0] for run in self.runs for change in run.changes if change.shape.table.name == "parents"}

    def confirmed(self) -> int:
        rows = self.database.execute(
            "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE slot_name = %s", [self.slot]
        )
        return int(rows[0][0]) if rows else 0

    def recorded(self, coverage: Mapping[str, str]) -> Record:
        """What a daemon notes that has got so far as the slot, which is the end of it when nobody streamed."""
        return Record(confirmed=self.confirmed(), coverage=coverage)

    def position(self) -> int:
        return int(self.database.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8")[0][0])

    def walsender(self) -> Optional[int]:
        rows = self.database.execute(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active", [self.slot]
        )
        return int(rows[0][0]) if rows else None


@pytest.fixture
def make(database: Database) -> Iterator[Callable[..., Rig]]:
    database.execute(TABLES)
    made: List[Rig] = []

    def rig(url: Optional[str] = None, **settings: Any) -> Rig:
        made.append(Rig(database, url, **settings))
        return made[-1]

    yield rig
    for one in made:
        one.end()


def test_a_quiet_watch_looks_after_the_guard_before_its_session_falls_asleep() -> None:
    falls_asleep = int(GUARD_SETTINGS["idle_session_timeout"]) / 1000
    assert pipeline.QUIET_WATCH_SECONDS + pipeline.WATCH_SECONDS <= falls_asleep
    assert pipeline.WATCH_SECONDS < pipeline.QUIET_WATCH_SECONDS


def test_a_table_without_a_key_gets_its_identity_before_it_is_published(
    make: Callable[..., Rig], database: Database
) -> None:
    database.execute("ALTER TABLE children DROP CONSTRAINT children_pkey")
    database.execute("INSERT INTO children VALUES (1, 1)")
    make().prepare()
    assert database.execute("SELECT relreplident::text FROM pg_class WHERE relname = 'children'") == [("f",)]
    # The application's own statements go on.
    database.execute("UPDATE children SET parent_id = 2; DELETE FROM children")


def test_a_blind_table_stops_before_anything_is_published(make: Callable[..., Rig], database: Database) -> None:
    database.execute("ALTER TABLE children DROP CONSTRAINT children_pkey")
    with pytest.raises(FlussoError, match="children has no usable replica identity"):
        make(manage_replica_identity=False).prepare()
    assert database.execute("SELECT count(*) FROM pg_publication") == [(0,)]
    assert database.execute("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == [(0,)]


def test_leaves_are_published_one_by_one_and_never_their_parent(make: Callable[..., Rig], database: Database) -> None:
    database.execute("DROP TABLE parents")
    database.execute("CREATE TABLE parents (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    for low in (0, 100):
        database.execute(f"CREATE TABLE parents_{low} PARTITION OF parents FOR VALUES FROM ({low}) TO ({low + 100})")
    make().prepare()
    members = database.execute("SELECT prrelid::regclass::text FROM pg_publication_rel ORDER BY 1")
    assert members == [("children",), ("parents_0",), ("parents_100",)]


def test_preparing_goes_on_over_a_connection_that_broke(make: Callable[..., Rig], database: Database) -> None:
    rig = make()
    rig.capture.connect(rig.stop)
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'flusso_sync%'"
        " AND datname = current_database()"
    )
    with contextlib.suppress(FlussoError):
        rig.capture.prepare(None, rig.stop)
    assert rig.capture.prepare(None, rig.stop).position > 0
    other = make()
    with pytest.raises(FlussoError, match="another daemon holds slot"):
        other.capture.connect(other.stop)


def test_a_rebuild_that_one_attempt_found_necessary_is_not_forgotten_by_the_next(
    make: Callable[..., Rig], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a slot that is older than the replica identity
    rig = make(manage_replica_identity=False)
    rig.prepare()
    rig.capture.close()
    database.execute("INSERT INTO children VALUES (1, 1)")
    # When the identity is strengthened, and the attempt then fails
    rig = make()
    rig.capture.connect(rig.stop)
    with monkeypatch.context() as patch:
        patch.setattr("flusso_sync.postgres.slot.wait_for_older", _failing)
        with pytest.raises(ConnectionResetError):
            rig.capture.prepare(None, rig.stop)
    assert database.execute("SELECT relreplident::text FROM pg_class WHERE relname = 'children'") == [("f",)]
    # Then the next one still knows
    assert set(rig.capture.prepare(None, rig.stop).rebuild) == {"parents"}


@pytest.mark.parametrize("recorded", ["all", "not all", "nothing"])
def test_a_published_table_that_no_record_knows_is_copied_only_after_older_transactions(
    make: Callable[..., Rig], database: Database, recorded: str
) -> None:
    # Given a slot and a publication that tells of everything
    rig = make()
    coverage = dict(rig.prepare().coverage)
    rig.capture.close()
    if recorded == "not all":
        # As after a start that ended before its wait did, or after an ALTER PUBLICATION by hand.
        del coverage["public.children"]
    record = None if recorded == "nothing" else rig.recorded(coverage)
    # When somebody has been writing since before
    again = make()
    prepared: List[Any] = []
    thread = threading.Thread(target=lambda: prepared.append(again.prepare(record)))
    with database.connect(autocommit=False) as writer:
        writer.execute("INSERT INTO children VALUES (1, 1)")
        thread.start()
        if recorded != "all":
            pid = f"pid {writer.info.backend_pid},"
            wait_for(lambda: any(pid in trouble.what for trouble in again.status.troubles()), 20, "it waits")
            assert not prepared
            writer.commit()
        thread.join(20)
    # Then nothing is rebuilt, for what is not built yet is built anyway
    assert prepared[0].rebuild == {} and not again.status.troubles()


def _failing(*args: Any) -> None:
    raise ConnectionResetError("now")


def test_a_table_that_stays_mute_is_never_published(make: Callable[..., Rig], database: Database) -> None:
    database.execute("ALTER TABLE children DROP CONSTRAINT children_pkey; INSERT INTO children VALUES (1, 1)")
    rig = make(manage_replica_identity=False, on_blind_table="warn")
    rig.prepare()
    # The application's own statements go on, and the index says that it does not hear of them.
    database.execute("UPDATE children SET parent_id = 2; DELETE FROM children")
    rig.status.set_index_state("parents", IndexState.SEEDED)
    index = rig.status.snapshot().indexes["parents"]
    assert index.state is IndexState.BLIND and "children" in index.details["blind"][0]
    assert any("REPLICA IDENTITY FULL" in trouble.todo for trouble in rig.status.troubles())


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER PUBLICATION {p} DROP TABLE children",
        "ALTER PUBLICATION {p} DROP TABLE children; ALTER PUBLICATION {p} ADD TABLE children",
        "ALTER PUBLICATION {p} SET (publish = 'insert')",
        "DROP PUBLICATION {p}",
        "ALTER TABLE children REPLICA IDENTITY DEFAULT",
        "ALTER TABLE children REPLICA IDENTITY NOTHING",
    ],
)
def test_the_watch_notices_once_that_less_is_told_and_what_may_be_missing_is_rebuilt(
    make: Callable[..., Rig], database: Database, statement: str
) -> None:
    rig = make(manage_publication=False, manage_replica_identity=False, on_blind_table="warn")
    database.execute(
        f"ALTER TABLE children REPLICA IDENTITY FULL; CREATE PUBLICATION {rig.slot} FOR TABLE parents, children"
    )
    coverage = rig.prepare().coverage
    rig.capture.watch()
    database.execute(statement.format(p=rig.slot))
    with pytest.raises(SourceChanged, match="children"):
        rig.capture.watch()
    # The next start knows it from the record, also when nobody was there to notice.
    database.execute(
        f"DROP PUBLICATION IF EXISTS {rig.slot}; CREATE PUBLICATION {rig.slot} FOR TABLE parents, children"
    )
    rig.capture.close()
    prepared = rig.prepare(rig.recorded(coverage))
    assert set(prepared.rebuild) == {"parents"}
    assert rig.capture.prepare(rig.recorded(prepared.coverage), rig.stop).coverage == (prepared.coverage)
    rig.capture.watch()


def test_an_identity_that_was_locked_out_is_set_by_the_watch(
    make: Callable[..., Rig], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flusso_sync.postgres.identity.LOCK_BUDGET_SECONDS", 0.2)
    rig = make()
    with database.connect(autocommit=False) as reader:
        reader.execute("SELECT count(*) FROM children")
        coverage = rig.prepare().coverage
        assert any("old parents of public.children" in trouble.what for trouble in rig.status.troubles())
        rig.capture.watch()
        reader.rollback()
    with pytest.raises(SourceChanged):
        rig.capture.watch()
    assert database.execute("SELECT relreplident::text FROM pg_class WHERE relname = 'children'") == [("f",)]
    assert set(rig.capture.prepare(rig.recorded(coverage), rig.stop).rebuild) == {"parents"}


LEAVES = """
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (id int PRIMARY KEY, parent_id int) PARTITION BY RANGE (id);
CREATE TABLE first PARTITION OF children FOR VALUES FROM (0) TO (10);
CREATE TABLE rest PARTITION OF children DEFAULT;
CREATE TABLE apart (LIKE children INCLUDING ALL);
"""
NEXT = "CREATE TABLE next PARTITION OF children FOR VALUES FROM (10) TO (20);"

#: What happens to the leaves before anybody looks, and whether rows may have been missed.
GROWTH = {
    "created": (NEXT, False),
    "two created": (NEXT + "CREATE TABLE last PARTITION OF children FOR VALUES FROM (20) TO (30)", False),
    "attached": ("ALTER TABLE children ATTACH PARTITION apart FOR VALUES FROM (10) TO (20)", False),
    "created and filled": (NEXT + "INSERT INTO children VALUES (11, 1)", True),
    "filled, then attached": (
        "INSERT INTO apart VALUES (11, 1); ALTER TABLE children ATTACH PARTITION apart FOR VALUES FROM (10) TO (20)",
        True,
    ),
    "filled and emptied": (NEXT + "INSERT INTO next VALUES (11, 1); DELETE FROM next", True),
    "filled, emptied and vacuumed": (NEXT + "INSERT INTO next VALUES (11, 1); DELETE FROM next;; VACUUM next", True),
    "filled and truncated": (NEXT + "INSERT INTO next VALUES (11, 1);; TRUNCATE next", True),
    "created, and another one gone": (NEXT + "ALTER TABLE children DETACH PARTITION first", True),
    "created, and another one's identity gone": (NEXT + "ALTER TABLE first REPLICA IDENTITY NOTHING", True),
    "created without any index": (
        "ALTER TABLE children DROP CONSTRAINT children_pkey;" + NEXT + "ALTER TABLE children ADD PRIMARY KEY (id)",
        False,
    ),
}


@pytest.mark.parametrize("theirs", [False, True], ids=["our publication", "a publication of all tables"])
@pytest.mark.parametrize("growth", list(GROWTH))
def test_a_leaf_that_never_held_a_row_is_heard_and_has_nothing_rebuilt(
    make: Callable[..., Rig], database: Database, growth: str, theirs: bool
) -> None:
    database.execute("DROP TABLE parents, children;" + LEAVES)
    rig = make(on_blind_table="warn")
    if theirs:
        database.execute(f"CREATE PUBLICATION {rig.slot} FOR ALL TABLES")
    coverage = rig.prepare().coverage
    record = rig.recorded(coverage)
    statements, missed = GROWTH[growth]
    # An old transaction must not hold up what has nothing to be read.
    with database.connect(autocommit=False) as older:
        older.execute("SELECT pg_current_xact_id()")
        for statement in statements.split(";;"):
            database.execute(statement)
        with pytest.raises(SourceChanged):
            rig.capture.watch()
        if missed:
            older.rollback()
        prepared = rig.prepare(record)
        older.rollback()
    assert set(prepared.rebuild) == ({"parents"} if missed else set())
    heard = {name for (name,) in database.execute("SELECT tablename::text FROM pg_publication_tables")}
    tree = database.execute("SELECT relid::text FROM pg_partition_tree('children') WHERE isleaf")
    if "identity gone" not in growth:
        assert {name for (name,) in tree} <= heard
    # From now on it is one of those that are compared.
    rig.capture.watch()
    rig.capture.close()
    rig = make(on_blind_table="warn")
    assert rig.prepare(rig.recorded(prepared.coverage)).rebuild == {}
    rig.capture.watch()


def test_a_leaf_created_while_another_one_is_published_is_published_as_well(
    make: Callable[..., Rig], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("DROP TABLE parents, children;" + LEAVES)
    rig = make()
    extend = publication.extend

    def slowly(connection: Any, found: Any) -> None:
        extend(connection, found)
        monkeypatch.undo()
        database.execute(NEXT)

    monkeypatch.setattr(publication, "extend", slowly)
    rig.prepare()
    heard = {name for (name,) in database.execute("SELECT tablename::text FROM pg_publication_tables")}
    assert heard == {"parents", "first", "rest", "next"}


def test_a_slot_older_than_its_publication_is_made_anew_and_is_a_gap_where_something_was_built(
    make: Callable[..., Rig], database: Database
) -> None:
    for built in (False, True):
        rig = make()
        database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [rig.slot])
        before = rig.confirmed()
        prepared = rig.prepare(rig.recorded({}) if built else None)
        assert prepared.position > before
        assert (prepared.gap is not None) is built
        rig.end()
        database.execute("SELECT pg_drop_replication_slot(%s)", [rig.slot])
        database.execute(f"DROP PUBLICATION {rig.slot}")


def test_a_failover_slot_needs_a_server_that_has_them(make: Callable[..., Rig], postgres: PostgresServer) -> None:
    rig = make(failover=True)
    if postgres._one("SELECT current_setting('server_version_num')::int") >= 170000:
        rig.prepare()
        assert rig.database.execute("SELECT failover FROM pg_replication_slots WHERE slot_name = %s", [rig.slot]) == [
            (True,)
        ]
    else:
        with pytest.raises(SourceRefused, match="no failover slots"):
            rig.prepare()


def test_whose_transaction_is_waited_for_is_told_to_a_role_without_further_rights(
    make: Callable[..., Rig], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flusso_sync.postgres.slot.CREATE_ATTEMPT_MILLISECONDS", 300)
    role = f"role_{database.name}"[:60]
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION")
    try:
        said: List[str] = []
        stop = threading.Event()
        access = SourceAccess(lambda: database.url.replace("postgres@", f"{role}@"), "here")

        def waiting(what: str) -> None:
            said.append(what)
            stop.set()

        with database.connect(autocommit=False) as writer:
            writer.execute("INSERT INTO parents VALUES (1)")
            with contextlib.closing(connect(access)) as connection, pytest.raises(Stopped):
                slot.create_slot(connection, f"waits_{database.name}", stop, waiting)
            assert f"pid {writer.info.backend_pid}, open, unnamed" in said[-1]
    finally:
        database.execute(f"DROP ROLE {role}")


def test_wal_of_other_tables_is_confirmed_while_ours_are_idle(make: Callable[..., Rig], database: Database) -> None:
    rig = make()
    rig.prepare()

    def emit(run: ChangeRun, timeout: Optional[float] = None) -> bool:
        # The pipeline in short: whatever is handed on is durable at once.
        rig.runs.append(run)
        if run.commit is not None:
            rig.capture.confirm(run.commit)
        return True

    rig.start(emit)
    database.execute("INSERT INTO others (filler) SELECT repeat('x', 500) FROM generate_series(1, 5000)")
    position = rig.position()
    wait_for(lambda: rig.confirmed() >= position, 20, "the WAL of others is confirmed")
    assert not any(run.changes for run in rig.runs)


def test_a_stream_cut_in_the_middle_of_a_transaction_resumes_and_misses_nothing(
    make: Callable[..., Rig], database: Database
) -> None:
    rig = make()
    rig.prepare()
    first, go = threading.Event(), threading.Event()

    def emit(run: ChangeRun, timeout: Optional[float] = None) -> bool:
        if run.changes and run.commit is None and not first.is_set():
            first.set()
            assert go.wait(20)
        rig.runs.append(run)
        return True

    rig.start(emit)
    database.execute("INSERT INTO parents SELECT generate_series(1, 60000)")
    # Given a part of a large transaction handed on, and the walsender ended
    assert first.wait(20)
    pid = rig.walsender()
    assert pid is not None
    database.execute("SELECT pg_terminate_backend(%s)", [pid])
    wait_for(lambda: rig.walsender() != pid)
    go.set()
    database.execute("INSERT INTO parents VALUES (70000)")
    wait_for(lambda: any(run.commit and len(run.changes) == 1 for run in rig.runs), 30, "the last commit arrives")
    # Then the transaction is complete, with one commit position that comes after all of its changes
    assert rig.seen() == {str(n) for n in [*range(1, 60001), 70000]}
    assert not rig.failures


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE children RENAME TO c; INSERT INTO c VALUES (2, 1); ALTER TABLE c RENAME TO children",
        "ALTER TABLE children RENAME parent_id TO p; UPDATE children SET p = 2;"
        " ALTER TABLE children RENAME p TO parent_id",
    ],
    ids=["a table", "a column"],
)
def test_what_changes_under_another_name_for_a_moment_is_heard(
    make: Callable[..., Rig], database: Database, statement: str
) -> None:
    database.execute("INSERT INTO children VALUES (1, 1)")
    rig = make()
    rig.prepare()
    rig.start()
    database.execute(f"BEGIN; {statement}; COMMIT; INSERT INTO parents VALUES (1)")
    wait_for(rig.seen, 20, "what came later is heard")
    heard = [change for run in rig.runs for change in run.changes if change.shape.table.name == "children"]
    assert len(heard) == 1 and rig.status.snapshot().changes_ignored == 0


def test_a_slot_made_anew_while_we_were_cut_off_is_not_streamed_as_if_it_were_ours(
    make: Callable[..., Rig], database: Database
) -> None:
    rig = make()
    rig.prepare()
    rig.start()
    database.execute("INSERT INTO parents VALUES (1)")
    wait_for(lambda: rig.seen() == {"1"})
    # When the slot is dropped, a row comes, and a slot of the same name is made
    with psycopg.connect(database.url, autocommit=True) as connection:
        pid = rig.walsender()

        def dropped() -> bool:
            connection.execute("SELECT pg_terminate_backend(%s)", [rig.walsender() or pid])
            with contextlib.suppress(psycopg.errors.ObjectInUse):
                connection.execute("SELECT pg_drop_replication_slot(%s)", [rig.slot])
                return True
            return False

        wait_for(dropped, 30, "the slot is dropped")
        connection.execute("INSERT INTO parents VALUES (2)")
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [rig.slot])
    # Then the stream ends with what makes the daemon look for the gap
    wait_for(lambda: rig.failures, 30, "the stream ends")
    assert isinstance(rig.failures[0], SlotMissing) and rig.failures[0].relay


def test_a_slot_made_anew_right_before_the_stream_begins_is_noticed_right_after(
    make: Callable[..., Rig], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    rig.prepare()
    look = ReplicationStream._check_continuity

    def too_early(self: ReplicationStream, start: int) -> None:
        look(self, start)
        database.execute("SELECT pg_drop_replication_slot(%s)", [rig.slot])
        database.execute("INSERT INTO parents VALUES (2)")
        database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [rig.slot])

    monkeypatch.setattr(ReplicationStream, "_check_continuity", too_early)
    rig.start()
    wait_for(lambda: rig.failures, 30, "the stream ends")
    assert isinstance(rig.failures[0], SlotMissing) and not rig.runs


def test_a_password_rotated_later_is_waited_for_and_a_wrong_one_at_first_is_refused(
    database: Database, postgres: PostgresServer
) -> None:
    role = f"role_{database.name}"[:60]
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'one'")
    postgres.hba(f"host all {role} 127.0.0.1/32 scram-sha-256")
    try:
        password = "wrong"
        url = database.url.split("@")[-1].replace("postgresql://", "")
        access = SourceAccess(lambda: f"postgresql://{role}:{password}@{url}", "here")
        with pytest.raises(SourceRefused):
            connect(access)
        password = "one"
        connect(access).close()
        database.execute(f"ALTER ROLE {role} PASSWORD 'two'")
        with pytest.raises(SourceUnauthorized) as caught:
            connect(access)
        assert caught.value.transient
        password = "two"
        connect(access).close()
    finally:
        postgres.hba()
        database.execute(f"DROP ROLE {role}")


@pytest.fixture
def tls(postgres: PostgresServer) -> Iterator[None]:
    """The server with a certificate of its own."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    data = postgres._one("SHOW data_directory")
    key, certificate = f"{data}/test.key", f"{data}/test.crt"
    subprocess.run(
        ["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost"]
        + ["-newkey", "rsa:2048", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    for path in (key, certificate):
        owner = subprocess.run(["stat", "-c", "%U", data], check=True, capture_output=True, text=True).stdout.strip()
        shutil.chown(path, owner)
    subprocess.run(["chmod", "600", key], check=True)
    postgres.set(ssl_cert_file=certificate, ssl_key_file=key, ssl="on")
    try:
        yield
    finally:
        postgres.set(ssl=None, ssl_cert_file=None, ssl_key_file=None)


def test_a_url_that_requires_tls_secures_stream_and_sql_alike(
    tls: None, make: Callable[..., Rig], database: Database
) -> None:
    separator = "&" if "?" in database.url else "?"
    rig = make(f"{database.url}{separator}sslmode=require")
    rig.prepare()
    rig.start()
    # Rows larger than what TLS decrypts at once
    database.execute("ALTER TABLE parents ADD filler text; ALTER TABLE parents ALTER filler SET STORAGE EXTERNAL")
    database.execute("INSERT INTO parents SELECT n, repeat('x', 100000) FROM generate_series(1, 50) n")
    wait_for(lambda: len(rig.seen()) == 50, 20, "the rows arrive")
    sessions = database.execute(
        "SELECT backend_type, bool_and(ssl) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)"
        " WHERE application_name LIKE 'flusso_sync%' AND datname = current_database() GROUP BY 1 ORDER BY 1"
    )
    assert sessions == [("client backend", True), ("walsender", True)]


def test_a_lag_that_is_asked_for_after_the_end_leaves_no_connection(database: Database) -> None:
    database.execute(TABLES)
    rig = Rig(database)
    rig.prepare()
    assert rig.capture.lag() is not None
    rig.end()
    assert rig.capture.lag() is None
    ours = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    wait_for(lambda: database.execute(ours) == [])


def test_a_slot_that_the_server_is_about_to_give_up_is_named_and_one_that_it_gave_up_blocks(
    make: Callable[..., Rig], database: Database, postgres: PostgresServer
) -> None:
    rig = make()
    rig.prepare()

    def told() -> str:
        rig.capture.lag()
        return next((f"{one.what} {one.blocking}" for one in rig.status.troubles() if one.key == "slot"), "")

    assert not told()
    postgres.set(max_slot_wal_keep_size="64MB")
    try:
        switch = "SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()"
        assert not told()
        # Segments have 16 MB: the server keeps five.
        for _ in range(4):
            database.execute(switch)
        assert "bytes more are written" in told() and told().endswith("False")
        postgres.set(max_slot_wal_keep_size="1MB")
        assert "about to be invalidated" in told()

        def lost() -> bool:
            database.execute(switch)
            database.execute("CHECKPOINT")
            return "was invalidated" in told()

        wait_for(lost, 60)
        assert told().endswith("True") and not rig.status.ready()[0]
    finally:
        postgres.set(max_slot_wal_keep_size=None)
    database.execute("SELECT pg_drop_replication_slot(%s)", [rig.slot])
    rig.prepare()
    assert not any(one.key == "slot" for one in rig.status.troubles())
    assert not told()

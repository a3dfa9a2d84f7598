"""Fault B2, other sources that look like ours: a clone of the database, a backup put back."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest

from tests.cases import SHOP
from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.fix_daemon import MakeDaemon
from tests.fix_deployment import OWNER, as_role, create_owner, give_to_owner
from tests.fix_opensearch import Prefix
from tests.oracle.compare import read_opensearch
from tests.postgres_server import Database, PostgresServer, make_folder, start_postgres
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

Deploy = Callable[[Database], Deployment]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of our own, whose files a test may copy and replace."""
    with start_postgres() as server:
        create_owner(server)
        yield server


@pytest.fixture
def shop(server: PostgresServer) -> Database:
    database = Database(server, server.create_database())
    give_to_owner(database)
    SHOP.load(as_role(database.url, OWNER))
    return database


@pytest.fixture
def over(opensearch_prefix: Prefix, make_daemon: MakeDaemon) -> Deploy:
    """A deployment over a database, at its own address; always in the same prefix, with the same slot."""

    def make(database: Database) -> Deployment:
        prefix = opensearch_prefix
        url = as_role(database.url, OWNER)
        return Deployment(database, prefix.url, prefix.prefix, SHOP, make_daemon, source_url=url)

    return make


def copy(source: Path, target: Path) -> None:
    """Files with their owner."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def change(database: Database, what: str, first: int) -> None:
    """Rows that come (``first`` and so on), go and change."""
    database.execute(
        f"INSERT INTO users (id, email, name, created_at) SELECT {first} + n, '{what}' || n, '{what}', now()"
        " FROM generate_series(0, 9) n ON CONFLICT (id) DO UPDATE SET name = excluded.name, email = excluded.email"
    )
    database.execute(f"UPDATE products SET title = title || ' {what}'")
    database.execute("DELETE FROM orders WHERE id = (SELECT min(id) FROM orders)")


@contextlib.contextmanager
def clone_of(server: PostgresServer) -> Iterator[PostgresServer]:
    """A copy of all files of ``server``, slots included, with a server over it at another port."""
    folder = make_folder("flusso-clone-")
    clone = PostgresServer(folder, server._binaries, server._owner)
    try:
        server.stop("fast")
        copy(server.data, clone.data)
        server.start()
        if server._owner is not None:
            shutil.chown(folder, server._owner.pw_uid, server._owner.pw_gid)
        clone.choose_port()
        clone.start()
        yield clone
    finally:
        clone.stop("fast")
        shutil.rmtree(folder, ignore_errors=True)


def contents(deployment: Deployment) -> Any:
    return {name: read_opensearch(deployment.opensearch, deployment.prefix + name) for name in SHOP.indexes}


@pytest.mark.parametrize("guard", [None, "owners_all_alike"])
def test_a_clone_is_refused_and_taken_over_only_when_told(
    server: PostgresServer, shop: Database, over: Deploy, heals: Heals, guard: str
) -> None:
    # Given a deployment that went on after its database was cloned
    ours = over(shop)
    daemon = ours.start(program=True)
    ours.settle()
    assert daemon.stop() == 0
    with clone_of(server) as clone:
        daemon = ours.start(program=True)
        change(shop, "ours", 5000)
        ours.settle()
        assert daemon.stop() == 0
        before = contents(ours)
        theirs = over(Database(clone, shop.name))
        for _ in range(5):
            change(theirs.database, "theirs", 6000)
        # When a copied configuration starts over the clone
        if guard:
            theirs.start([guard])
            theirs.settle()
            theirs.wait_until_built()
            assert ours.differences(), "the guard is off and nobody was harmed"
            return
        stranger = theirs.start(program=True)
        assert stranger.wait(60) == 8
        # Then it is refused by a sentence that names both, and nothing is touched
        assert f"127.0.0.1:{server.port}" in stranger.log and f"127.0.0.1:{clone.port}" in stranger.log
        assert "--adopt" in stranger.log and "Traceback" not in stranger.log
        assert contents(ours) == before
        ours.assert_right()
        # Told to, it takes over; where its slot stands tells that this is another history.
        stranger.start("--adopt")
        with heals("adopted"):
            stranger.wait_for(lambda: "it may be a copy" in stranger.log, 60, "the gap is told")
            theirs.settle()
            theirs.wait_until_built()
        theirs.assert_right()
        assert stranger.stop() == 0 and "Traceback" not in stranger.log
        # And the former owner is the stranger now.
        ours.start(program=True)
        assert ours.daemon.wait(60) == 8


def test_the_same_server_at_another_address_goes_on_without_a_gap(
    shop: Database, over: Deploy, opensearch_prefix: Prefix
) -> None:
    ours = over(shop)
    daemon = ours.start(program=True)
    ours.settle()
    assert daemon.stop() == 0
    shop.execute("UPDATE products SET title = title || ' meanwhile'")
    renamed = over(shop)
    source = renamed.config["source"]
    source["connection_url"] = source["connection_url"].replace("127.0.0.1", "localhost")
    daemon = renamed.start(program=True)
    assert daemon.wait(60) == 8
    built = opensearch_prefix.indexes()
    daemon.start("--adopt")
    renamed.settle()
    renamed.assert_right()
    assert "gap:" not in daemon.log and opensearch_prefix.indexes() == built


class Backup:
    """The files of a stopped server as they are now."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._place = server.folder / "backup"
        server.stop("fast")
        # Copied over one that is there, it would end up inside of it.
        shutil.rmtree(self._place, ignore_errors=True)
        copy(server.data, self._place)
        server.start()

    def put_back(self, *, recover: bool = False) -> None:
        """Put it in the place of what is there, and start the server; recovered from an archive, on a new timeline."""
        server = self._server
        server.stop("immediate")
        shutil.rmtree(server.data)
        copy(self._place, server.data)
        if recover:
            # The archive holds no more than the backup (manual, "Recovering Using a Continuous Archive Backup").
            server._write("postgresql.auto.conf", "restore_command = 'false'\n", append=True)
            server._write("recovery.signal", "")
        server.start()
        if recover:
            wait_for(lambda: not server._one("SELECT pg_is_in_recovery()"), 60, "the recovery ends")


def test_a_backup_put_back_is_a_gap_and_leaves_no_document_of_a_row_that_never_was(
    server: PostgresServer, shop: Database, over: Deploy, heals: Heals
) -> None:
    deployment = over(shop)
    daemon = deployment.start(["frequent_watch"])
    deployment.settle()
    assert daemon.stop() == 0
    backup = Backup(server)

    def healed(why: str, told: int = 0) -> None:
        with heals(why):
            daemon.wait_for(lambda: daemon.log.count("gap:") > told, 60, "the gap is told")
            deployment.settle()
            deployment.wait_until_built()
        deployment.assert_right()
        assert "Traceback" not in daemon.log

    def write_what_is_lost() -> None:
        change(shop, "to be lost", 5000)
        deployment.settle()

    deployment.start(["frequent_watch"])
    write_what_is_lost()
    assert daemon.stop() == 0
    backup.put_back()
    deployment.start(["frequent_watch"])
    healed("set back while it is stopped")
    write_what_is_lost()
    told = daemon.log.count("gap:")
    backup.put_back()
    healed("set back while it runs", told)
    assert daemon.log.count("it was set back") > 1


@pytest.mark.parametrize("guard", [None, "gaps_papered_over"])
def test_a_backup_recovered_onto_a_new_timeline_is_a_gap_even_when_it_is_ahead_of_our_record(
    server: PostgresServer, shop: Database, over: Deploy, heals: Heals, guard: Optional[str]
) -> None:
    # Given a deployment that went on after the backup, and was stopped
    deployment = over(shop)
    daemon = deployment.start(program=True)
    deployment.settle()
    assert daemon.stop() == 0
    backup = Backup(server)
    daemon = deployment.start(program=True)
    change(shop, "to be lost", 5000)
    deployment.settle()
    assert daemon.stop() == 0
    position, transaction = shop.execute(
        "SELECT pg_current_wal_flush_lsn(), pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    )[0]
    # When it is put back on a new timeline, where position and transaction ids soon are ahead of all that was
    backup.put_back(recover=True)

    def is_ahead() -> bool:
        shop.execute("CREATE TABLE filler AS SELECT generate_series(1, 20000)")
        shop.execute("DROP TABLE filler")
        shop.execute("DO $$ BEGIN FOR n IN 1..100 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        return bool(
            shop.execute(
                f"SELECT pg_current_wal_flush_lsn() > '{position}'::pg_lsn"
                f" AND pg_snapshot_xmin(pg_current_snapshot())::text::bigint > {transaction}"
            )[0][0]
        )

    wait_for(is_ahead, 60, "the new timeline is ahead")
    if guard:
        deployment.start([guard])
        deployment.settle()
        assert deployment.differences(), "the guard is off and nobody was harmed"
        return
    # Then only the timeline tells.
    daemon = deployment.start(program=True)
    with heals("new timeline"):
        daemon.wait_for(lambda: "is of timeline 1, and timeline 2 of the source left it at" in daemon.log, 60, "told")
        deployment.settle()
        deployment.wait_until_built()
    deployment.assert_right()
    assert "Traceback" not in daemon.log

"""``bin/flussod`` with a SQLite file: built, and kept right over changes, kill -9 and restarts, beside OpenSearch too.

Only the last test needs OpenSearch.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Callable, Iterator

import psycopg
import pytest

from flusso_sync.errors import EXIT_SINK
from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.sink import SqliteSink
from tests.cases import SHOP, TENANTS, THIRTY, Case
from tests.deployment import Deployment
from tests.fix_daemon import MakeDaemon
from tests.fix_deployment import OWNER, MakeDeployment, as_role, give_to_owner
from tests.histories import Writer
from tests.oracle.compare import compare, explain
from tests.postgres_server import Database
from tests.readers import PER_SECOND, of_file
from tests.test_generations import KNOWN, with_known_users
from tests.waiting import wait_for

pytestmark = pytest.mark.pg

MakeFileDeployment = Callable[..., Deployment]

#: Relative, so that it lies beside the configuration file.
FILE = "documents.sqlite"


@pytest.fixture
def deploy_file(database: Database, owner: str, make_daemon: MakeDaemon) -> Iterator[MakeFileDeployment]:
    """As ``deploy``, with a SQLite sink alone."""

    def make(case: Case, scale: int = 1, path: str = FILE, **settings: object) -> Deployment:
        give_to_owner(database)
        case.load(as_role(database.url, OWNER), scale)
        url = as_role(database.url, OWNER)
        deployment = Deployment(database, "", "", case, make_daemon, source_url=url, settings=settings)
        deployment.config["sinks"] = {"file": {"type": "sqlite", "path": path}}
        return deployment

    yield make


def reader(deployment: Deployment) -> SqliteSink:
    """As a command reads: without a lease, while the daemon runs."""
    path = deployment.daemon.folder / deployment.config["sinks"]["file"]["path"]
    return SqliteSink("reader", SqliteSettings(str(path), prefix=deployment.prefix))


def assert_file_right(deployment: Deployment) -> None:
    sink = reader(deployment)
    for name, documents in deployment.expected().items():
        found = dict(sink.scan(name))
        differences = compare(documents, found, key_order=True)
        assert not differences, explain(differences, name)
        assert sink.count(name) == len(found)


def change_all(deployment: Deployment) -> None:
    with psycopg.connect(deployment.database.url, autocommit=True) as connection:
        for change in deployment.case.changes:
            deployment.case.apply(connection, change)


@pytest.mark.parametrize("case", [THIRTY, TENANTS], ids=repr)
def test_the_file_is_built_and_stays_right_over_changes_writers_kill_9_and_a_restart(
    deploy_file: MakeFileDeployment, case: Case
) -> None:
    deployment = deploy_file(case, backfill={"chunk_rows": 7})
    daemon = deployment.start(program=True)
    deployment.settle()
    assert_file_right(deployment)
    change_all(deployment)
    deployment.settle()
    assert_file_right(deployment)
    url = deployment.database.url
    with Writer(url, 21, case, pause_seconds=0.005) as first, Writer(url, 22, case, pause_seconds=0.005) as second:
        for _ in range(3):
            daemon.wait_for_status(lambda s: s["changes_committed"] > 20, message="some of it is written")
            daemon.kill()
            daemon = deployment.start(program=True)
        first.stop()
        second.stop()
    deployment.settle()
    assert_file_right(deployment)
    status = daemon.status()
    assert status["documents_quarantined"] == 0 and set(status["indexes"].values()) == {"seeded"}
    assert daemon.stop() == 0 and "Traceback" not in daemon.log
    built = daemon.start().wait_for_status(lambda s: s["phase"] == "live")["documents_built"]
    assert built == 0, "what is complete is not built again"


def test_a_build_that_is_killed_again_and_again_under_a_writer_ends_right(deploy_file: MakeFileDeployment) -> None:
    deployment = deploy_file(SHOP, 30, backfill={"chunk_rows": 100, "workers": 2})
    daemon = deployment.start(program=True)
    with Writer(deployment.database.url, 5, SHOP, limit=300) as writer:
        for documents in (50, 200, 400):
            daemon.wait_for_status(lambda s, n=documents: s["documents_built"] >= n or s["phase"] == "live")
            daemon.kill()
            daemon = deployment.start(program=True)
        writer.join(90)
    deployment.settle()
    assert_file_right(deployment)
    assert "Traceback" not in daemon.log


def test_words_of_changed_rows_are_found_at_once_and_their_old_ones_no_more(deploy_file: MakeFileDeployment) -> None:
    deployment = deploy_file(SHOP)
    deployment.start(program=True)
    deployment.settle()
    deployment.database.execute("UPDATE products SET title = 'zanzibar lantern' WHERE id = 1")
    deployment.settle()
    sink = reader(deployment)
    assert [id for id, _ in sink.search("products", "Zanzibar")] == ["1"]
    deployment.database.execute("UPDATE products SET title = 'plain lamp' WHERE id = 1")
    deployment.settle()
    assert sink.search("products", "zanzibar") == []


def test_a_change_worked_off_by_itself_is_stored_in_the_file_and_survives_a_kill(
    deploy_file: MakeFileDeployment,
) -> None:
    deployment = deploy_file(SHOP, 5, engine={"fan_out_documents": 20})
    daemon = deployment.start(["slow_spreading"])
    deployment.settle()
    deployment.database.execute("UPDATE products SET title = title || '!'")
    deployment.settle()
    assert daemon.status()["facts"]["fan_out"]["jobs"], "confirmed, and not yet worked off"
    daemon.kill()
    assert reader(deployment).jobs()
    daemon = deployment.start(program=True)
    deployment.settle()
    daemon.wait_for_status(lambda s: "fan_out" not in s["facts"], 120)
    assert_file_right(deployment)
    assert not reader(deployment).jobs()


def test_a_file_deleted_under_the_daemon_is_built_again(deploy_file: MakeFileDeployment) -> None:
    deployment = deploy_file(SHOP)
    daemon = deployment.start(program=True)
    deployment.settle()
    for leftover in daemon.folder.glob(FILE + "*"):
        leftover.unlink()
    deployment.database.execute("UPDATE users SET name = name || '!'")
    daemon.wait_for(lambda: reader(deployment).count("users"), message="it is there again")
    deployment.settle()
    assert_file_right(deployment)
    assert "deleted or replaced while we run" in daemon.log


def test_tables_dropped_by_hand_are_built_again(deploy_file: MakeFileDeployment) -> None:
    deployment = deploy_file(SHOP)
    daemon = deployment.start(program=True)
    deployment.settle()
    sink = reader(deployment)
    with sink._file.visit() as connection:
        assert connection is not None
        connection.execute('DROP TABLE "users.1"')
    daemon.wait_for(lambda: sink.count("users"), message="it is there again")
    deployment.settle()
    assert_file_right(deployment)


def test_a_folder_in_place_of_the_file_ends_with_code_5_and_a_sentence(deploy_file: MakeFileDeployment) -> None:
    deployment = deploy_file(SHOP)
    deployment.config["sinks"]["file"]["path"] = "."
    daemon = deployment.start(program=True)
    assert daemon.wait() == EXIT_SINK
    assert "is a folder, and should be a file" in daemon.log and "Traceback" not in daemon.log


def test_readers_of_the_file_never_find_less_than_all(deploy_file: MakeFileDeployment, tmp_path: Path) -> None:
    """Over a reindex, a rollback, a kill in the middle of a build, a gap and another schema."""
    deployment = deploy_file(
        SHOP, 2, server={"admin_password": "canary"}, backfill={"chunk_rows": 50, "max_rows_per_second": 500}
    )
    (users,) = [entry for entry in deployment.config["index"] if entry["name"] == "users"]
    users["keep_generations"] = 1
    daemon = deployment.start(program=True)
    deployment.settle()
    with_known_users(deployment)
    deployment.settle()
    file = daemon.folder / FILE

    def rebuilding() -> None:
        daemon.wait_for_status(lambda s: s["indexes"]["users"] == "rebuilding", 60)

    with of_file(file, "users", "email", "known", KNOWN) as readers:

        def right(what: str) -> None:
            before = readers.asked
            wait_for(lambda: readers.asked >= before + PER_SECOND // 2, 30, "the readers ask")
            assert not readers.wrong, f"{what}: {len(readers.wrong)} of {readers.asked}: {readers.wrong[:3]}"

        deployment.reindex("users")
        rebuilding()
        right("reindex")
        deployment.wait_until_built()
        # What they get back stands still: a row that goes now is still found there, until the fresh one is complete.
        assert "back on generation 1 in sink file" in deployment.ask("rollback", "users")
        rebuilding()
        right("rollback")
        daemon.kill()
        right("killed")
        deployment.start(program=True)
        deployment.settle()
        deployment.wait_until_built()
        right("gone on with")
        assert daemon.stop() == 0
        deployment.database.execute("SELECT pg_drop_replication_slot(%s)", [deployment.slot])
        deployment.start(program=True)
        daemon.wait_for(lambda: "gap:" in daemon.log, 60, "the gap is told")
        deployment.wait_until_built()
        right("gap")
        assert daemon.stop() == 0
        schema = tmp_path / "users.schema.yml"
        schema.write_text(Path(users["schema"]).read_text() + "\n  - {constant: added, value: 7}\n")
        users["schema"] = str(schema)
        deployment.restart_anew()
        rebuilding()
        right("schema")
        deployment.wait_until_built()
        right("schema switched")
    print(f"{readers.asked} questions, {readers.per_second:.0f} a second")
    assert readers.per_second > PER_SECOND / 2
    assert {document["added"] for _, document in reader(deployment).scan("users")} == {7}


@pytest.mark.opensearch
def test_a_cluster_and_a_file_side_by_side_are_both_right(deploy: MakeDeployment, tmp_path: Path) -> None:
    deployment = deploy(SHOP, 3)
    deployment.config["sinks"]["file"] = {"type": "sqlite", "path": FILE}
    daemon = deployment.start(program=True)
    with Writer(deployment.database.url, 9, SHOP, limit=300) as writer:
        daemon.wait_for_status(lambda s: s["phase"] == "live")
        daemon.kill()
        daemon = deployment.start(program=True)
        writer.join(90)
    deployment.settle()
    deployment.assert_right()
    assert_file_right(deployment)
    # A sink that lacks everything is filled while the other one is kept.
    assert daemon.stop() == 0
    for leftover in daemon.folder.glob(FILE + "*"):
        shutil.move(str(leftover), str(tmp_path))
    change_all(deployment)
    deployment.start(program=True)
    deployment.settle()
    deployment.assert_right()
    assert_file_right(deployment)

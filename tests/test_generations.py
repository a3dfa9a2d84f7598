"""Readers who never stop asking, through everything that makes a new generation; builds that are gone on with."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

import pytest

from tests.cases import BEYOND, KEYS, TENANTS, Case
from tests.deployment import Deployment
from tests.faults.rig import writing
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.places import PLACE
from tests.readers import PER_SECOND, of_alias
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch]

#: Rows that nobody touches: what every reader must find, always.
KNOWN = 400


def with_known_users(deployment: Deployment) -> None:
    deployment.database.execute(
        "INSERT INTO users (id, email, name, active, created_at)"
        " SELECT 1000000 + n, 'known' || n, 'Known', true, '2024-01-01' FROM generate_series(1, %s) n",
        [KNOWN],
    )


@pytest.mark.fault
@pytest.mark.slow
def test_readers_never_see_less_than_all_through_everything_that_makes_a_new_generation(
    deploy: MakeDeployment, opensearch_prefix: Prefix, tmp_path: Path
) -> None:
    # Given a live deployment, readers who never stop, and changes of other rows
    deployment = deploy(scale=4, server={"admin_password": "canary"}, backfill={"chunk_rows": 100}, on_error="skip")
    (users,) = [entry for entry in deployment.config["index"] if entry["name"] == "users"]
    users["keep_generations"] = 1
    alias = deployment.prefix + "users"
    daemon = deployment.start()
    deployment.settle()
    passed: List[Tuple[str, int]] = []
    with writing(deployment, 50, 0.02) as writer:
        with_known_users(deployment)
        deployment.settle()
        opensearch_prefix.call("POST", f"/{alias}/_refresh")
        with of_alias(opensearch_prefix.url, alias, "email", "known", KNOWN) as readers:

            def right(what: str) -> None:
                before = sum(asked for _, asked in passed)
                wait_for(lambda: readers.asked >= before + PER_SECOND // 2, 30, "the readers ask")
                passed.append((what, readers.asked - before))
                assert not readers.wrong, f"{what}: {len(readers.wrong)} of {readers.asked}: {readers.wrong[:3]}"

            # When it is rebuilt because somebody asks
            deployment.reindex("users")
            daemon.wait_for_status(lambda s: s["indexes"]["users"] == "rebuilding", 60)
            deployment.wait_until_built()
            right("reindex")
            # When they get the former one back, which stands still, and then the fresh one
            assert "readers of index users are back on generation" in deployment.ask("rollback", "users")
            right("rolled back")
            deployment.wait_until_built()
            right("rollback")
            # When the daemon dies in the middle of a rebuild, and after the mark and before the switch of aliases
            for place in ("half a bulk sent", "mark written", "aliases switched"):
                gate = tmp_path / place
                daemon.kill()
                deployment.start(["die_at_a_place"], gate, **{PLACE: place})
                deployment.settle()
                gate.touch()
                daemon.wait_for_status(lambda s: s["phase"] == "live", 60)
                try:
                    deployment.reindex("users")
                except OSError:
                    pass
                assert daemon.wait(90) == -9, place
                deployment.start()
                deployment.settle()
                deployment.wait_until_built()
                right(f"killed at {place}")
            # When there is a gap
            assert daemon.stop() == 0
            deployment.database.execute("SELECT pg_drop_replication_slot(%s)", [deployment.slot])
            deployment.start()
            daemon.wait_for(lambda: "gap:" in daemon.log, 60, "the gap is told")
            deployment.wait_until_built()
            right("gap")
            # When the schema is another one
            assert daemon.stop() == 0
            schema = tmp_path / "users.schema.yml"
            schema.write_text(Path(users["schema"]).read_text() + "\n  - {constant: added, value: 7}\n")
            users["schema"] = str(schema)
            deployment.restart_anew()
            deployment.settle()
            deployment.wait_until_built()
            right("schema")
        writer.stop()
    print(f"{readers.asked} questions, {readers.per_second:.0f} a second: {passed}")
    assert readers.per_second > PER_SECOND / 2
    deployment.settle()
    found: Any = opensearch_prefix.call("POST", f"/{alias}/_search", {"size": 1, "query": {"term": {"added": 7}}})
    assert found["hits"]["hits"]
    assert daemon.stop() == 0


class Settings:
    """A thread that looks at every generation of an index, with its aliases, in one state of the cluster; in ``with``.

    ``wrong`` holds what readers had before it was as configured; ``built`` the settings that were seen of the others.
    """

    def __init__(self, node: Prefix, index: str, configured: Tuple[str, str]) -> None:
        self._node = node
        self._alias = node.prefix + index
        self._configured = configured
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settings", daemon=True)
        self.looks = 0
        self.wrong: List[str] = []
        self.built: Set[Tuple[str, str]] = set()

    def __enter__(self) -> Settings:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def look(self) -> Dict[str, Tuple[Tuple[str, str], bool]]:
        """Index -> refresh interval and replicas, and whether it is what readers have."""
        told = "*.aliases,*.settings.index.refresh_interval,*.settings.index.number_of_replicas"
        found = self._node.call("GET", f"/{self._alias}_*?filter_path={told}&ignore_unavailable=true")
        return {
            name: (
                (one["settings"]["index"]["refresh_interval"], one["settings"]["index"]["number_of_replicas"]),
                self._alias in one.get("aliases", {}),
            )
            for name, one in found.items()
        }

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            for name, (settings, is_read) in self.look().items():
                if not is_read:
                    self.built.add(settings)
                elif settings != self._configured:
                    self.wrong.append(f"{name}: {settings}")
            self.looks += 1


@pytest.mark.fault
def test_refresh_and_replicas_are_off_where_a_build_goes_alone_and_back_before_anybody_reads_it(
    deploy: MakeDeployment, opensearch_prefix: Prefix, tmp_path: Path
) -> None:
    # Given an index with settings of its own
    deployment = deploy(scale=2, server={"admin_password": "canary"}, backfill={"chunk_rows": 20})
    deployment.config["sinks"]["search"].update(refresh_interval="7s", number_of_replicas=1)
    configured = ("7s", "1")
    # When it is rebuilt again and again, and the process dies around the moment at which they are restored
    with Settings(opensearch_prefix, "orders", configured) as settings:
        for place in ("refreshed", "settings restored", "mark written", ""):
            gate = tmp_path / (place or "none")
            daemon = deployment.start(["die_at_a_place"] if place else [], gate, **{PLACE: place} if place else {})
            deployment.settle()
            deployment.wait_until_built()
            (read,) = [seen for seen, is_read in settings.look().values() if is_read]
            assert read == configured, place
            gate.touch()
            with contextlib.suppress(OSError):
                deployment.reindex("orders")
            if place:
                assert daemon.wait(90) == -9, place
        deployment.wait_until_built()
        before = settings.looks
        wait_for(lambda: settings.looks > before, 30)
    # Then nobody ever read one that was not as configured, and only those being built were otherwise
    assert not settings.wrong, settings.wrong[:3]
    assert settings.built <= {("-1", "0"), configured} and ("-1", "0") in settings.built
    assert list(settings.look().values()) == [(configured, True)]
    deployment.assert_right()


#: What happens to the tables between the death of a build and the life that goes on with it; whether it can go on.
BETWEEN = {
    "vacuum full": ("VACUUM FULL orders", "VACUUM FULL users", "VACUUM FULL products"),
    "cluster": ("CLUSTER orders USING orders_user_id_idx", "CLUSTER users USING users_pkey"),
    "rows gone and added": (
        "DELETE FROM orders WHERE id % 3 = 0",
        "INSERT INTO orders (id, user_id, status, placed_at) SELECT -n, 1, 'new', now() FROM generate_series(1, 90) n",
        "DELETE FROM users WHERE id % 5 = 0",
    ),
    "another key type": ("ALTER TABLE orders ALTER id TYPE numeric(20)", "ALTER TABLE products ALTER id TYPE bigint"),
}


def die_in_a_build(deployment: Deployment) -> None:
    deployment.config["sinks"]["search"]["batch_size"] = 20
    deployment.start(["die_at_a_place"], **{PLACE: "progress written"})
    assert deployment.daemon.wait(120) == -9


def gone_on(deployment: Deployment) -> List[str]:
    """The indexes whose builds went on where they had been cut off."""
    return re.findall(r"building index (\w+): it goes on after", deployment.daemon.log)


@pytest.mark.parametrize("between", BETWEEN, ids=lambda name: name.replace(" ", "-"))
def test_a_build_that_goes_on_after_the_table_was_turned_over_ends_right(deploy: MakeDeployment, between: str) -> None:
    deployment = deploy(scale=6, backfill={"chunk_rows": 50})
    die_in_a_build(deployment)
    for statement in BETWEEN[between]:
        deployment.database.execute(statement)
    deployment.start()
    deployment.settle(120)
    if between == "another key type":
        assert not {"orders", "products"}.intersection(gone_on(deployment))
    else:
        assert gone_on(deployment)
    deployment.assert_right()


@pytest.mark.parametrize("case", [BEYOND, KEYS, TENANTS], ids=repr)
def test_builds_by_composite_keys_leaves_and_every_type_go_on(deploy: MakeDeployment, case: Case) -> None:
    deployment = deploy(case, backfill={"chunk_rows": 3})
    die_in_a_build(deployment)
    deployment.start()
    deployment.settle(120)
    assert gone_on(deployment)
    deployment.assert_right()


@pytest.mark.slow
def test_a_build_of_slow_documents_keeps_every_transaction_short(deploy: MakeDeployment, tmp_path: Path) -> None:
    """Dead rows are kept for as long as the oldest snapshot is open, so a step of a build takes about half a second."""
    # Given documents that take 10 ms each, and chunks that would take 10 s
    deployment = deploy(scale=4, backfill={"chunk_rows": 1000, "workers": 2})
    slow = "SELECT id > 0 FROM (SELECT pg_sleep(0.01)) AS s"
    deployment.database.execute(f"CREATE FUNCTION slow(id bigint) RETURNS boolean LANGUAGE sql STABLE AS '{slow}'")
    (orders,) = [entry for entry in deployment.config["index"] if entry["name"] == "orders"]
    schema = tmp_path / "orders.schema.yml"
    schema.write_text(Path(orders["schema"]).read_text() + "\nfilters: [{raw: 'slow(id)'}]\n")
    orders["schema"] = str(schema)
    deployment.start()
    # When they are built
    oldest = 0.0
    sampled = 0
    with deployment.database.connect() as connection:

        def done() -> bool:
            nonlocal oldest, sampled
            rows = connection.execute(
                "SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8, query FROM pg_stat_activity"
                " WHERE application_name LIKE 'flusso_sync%%' AND datname = current_database()"
                " AND xact_start IS NOT NULL AND backend_type = 'client backend'"
            ).fetchall()
            oldest = max([oldest, *(row[0] for row in rows)])
            sampled += any("slow" in row[1] for row in rows)
            status = deployment.daemon.status()
            return bool(set(status["indexes"].values()) == {"seeded"})

        deployment.daemon.wait_for(done, 120, "built")
    # Then no transaction was open for longer than a few seconds; all 600 in one would have taken six
    print(f"the oldest transaction was {oldest:.2f} s old; {sampled} looks met a build")
    assert sampled >= 3
    assert oldest < 5.0
    deployment.settle()
    deployment.assert_right()

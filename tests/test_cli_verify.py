"""``flussod verify`` over real servers: whatever was done to an index by hand is found and repaired, and nothing that
is merely on its way is reported."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Set
from urllib.parse import quote

import psycopg
import pytest

from tests.cases import BEYOND, KEYS, OTHERS, SHOP, THIRTY, Case
from tests.deployment import Deployment
from tests.fix_daemon import FLUSSOD, write_yaml
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import call
from tests.histories import Writer

pytestmark = [pytest.mark.pg, pytest.mark.opensearch]

Json = Dict[str, Any]


class Verified:
    """One run of the command: how it ended, and its report by index."""

    def __init__(self, process: "subprocess.CompletedProcess[bytes]") -> None:
        self.code = process.returncode
        self.error = process.stderr.decode()
        self.output = process.stdout.decode()

    @property
    def indexes(self) -> Dict[str, Json]:
        assert self.output, self.error
        return {one["index"]: one for one in json.loads(self.output)["indexes"]}

    def differences(self, index: str, kind: str) -> Set[str]:
        return {one["id"] for one in self.indexes[index]["differences"] if one["kind"] == kind}


def verify(deployment: Deployment, *arguments: str, form: str = "json", timeout: float = 300.0) -> Verified:
    file = deployment.daemon.folder / "flusso.yaml"
    command = [str(FLUSSOD), "verify", "-c", str(file), "--format", form, *arguments]
    return Verified(
        subprocess.run(
            command, env=deployment.daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout
        )
    )


def assert_right(verified: Verified) -> None:
    wrong = [
        one
        for one in verified.indexes.values()
        if one["left"] or one["unsettled"] or not one["settled"] or one["compared"] != one["ids"]
    ]
    assert verified.code == 0 and not wrong, verified.error + json.dumps(wrong, ensure_ascii=False)


class Damage:
    """What somebody does to an index by hand, straight in OpenSearch."""

    def __init__(self, deployment: Deployment, index: str) -> None:
        self._url = deployment.opensearch
        self._index = deployment.prefix + index
        self.deleted: List[str] = []
        self.altered: List[str] = []
        self.added: List[str] = []

    def _path(self, id: str) -> str:
        return f"/{self._index}/_doc/{quote(id, safe='')}"

    def delete(self, ids: Sequence[str]) -> None:
        for id in ids:
            call(self._url, "DELETE", self._path(id))
        self.deleted.extend(ids)

    def alter(self, ids: Sequence[str], key: str, value: Any) -> None:
        for id in ids:
            source = call(self._url, "GET", self._path(id))["_source"]
            call(self._url, "PUT", self._path(id), {**source, key: value})
        self.altered.extend(ids)

    def shorten(self, ids: Sequence[str]) -> None:
        """Take away the last key."""
        for id in ids:
            source = call(self._url, "GET", self._path(id))["_source"]
            source.popitem()
            call(self._url, "PUT", self._path(id), source)
        self.altered.extend(ids)

    def add(self, ids: Sequence[str], document: Json) -> None:
        for id in ids:
            call(self._url, "PUT", self._path(id), document)
        self.added.extend(ids)


@contextlib.contextmanager
def toggling(url: str, statements: Sequence[str], writers: int = 2) -> Iterator[List[int]]:
    """Writers at full speed, each running the statements over and over; counts their rounds."""
    stop = threading.Event()
    rounds = [0] * writers

    def write(number: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.is_set():
                for statement in statements:
                    # Others may take the rows away that it is about.
                    with contextlib.suppress(psycopg.IntegrityError, psycopg.errors.DeadlockDetected):
                        connection.execute(statement.encode(), prepare=True)
                rounds[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def ids_of(deployment: Deployment, index: str) -> List[str]:
    body = {"size": 10000, "_source": False}
    found = call(deployment.opensearch, "POST", f"/{deployment.prefix}{index}/_search", body)
    return sorted(hit["_id"] for hit in found["hits"]["hits"])


@pytest.mark.parametrize("case", [SHOP, THIRTY, KEYS, BEYOND, *OTHERS], ids=repr)
def test_every_kind_of_index_is_right_when_it_is_and_repaired_when_not(deploy: MakeDeployment, case: Case) -> None:
    """Composite keys, ``doc_id``, partitions, soft deletes, filters, every type of key: nothing is reported of what is
    right; one document deleted and one added in each index are named, and repaired on a database where nothing else
    happens."""
    deployment = deploy(case, backfill={"chunk_rows": 7})
    deployment.start(["frequent_watch"])
    deployment.settle()
    with psycopg.connect(deployment.database.url, autocommit=True) as connection:
        for change in case.changes:
            case.apply(connection, change)
    deployment.settle()
    assert_right(verify(deployment))

    damage = {}
    for index in case.indexes:
        damage[index] = Damage(deployment, index)
        ids = ids_of(deployment, index)
        damage[index].delete(ids[:1])
        damage[index].shorten(ids[1:][-1:])
        damage[index].add(["no key: gives this", "987654321:1"], {})
    found = verify(deployment, "--repair")
    assert found.code == 0, found.output + found.error
    for index, done in damage.items():
        assert found.differences(index, "missing") == set(done.deleted), index
        assert found.differences(index, "different") == set(done.altered), index
        assert found.differences(index, "extra") == set(done.added), index
        report = found.indexes[index]
        assert report["repaired"] == report["missing"] + report["extra"] + report["different"], report
    assert_right(verify(deployment))
    deployment.assert_right()


#: Rows that change all the time: names, an order that comes and goes, items that move between two orders.
HOT = [
    "UPDATE users SET name = CASE WHEN name = 'a' THEN 'b' ELSE 'a' END WHERE id = 1 + floor(random() * 10)",
    "DELETE FROM orders WHERE id = 21",
    "INSERT INTO orders VALUES (21, 1, 'new', '2024-01-01') ON CONFLICT DO NOTHING",
    "UPDATE items SET order_id = CASE WHEN order_id = 22 THEN 23 ELSE 22 END WHERE id = 22",
    "UPDATE products SET title = title || '!' WHERE id = 3 AND length(title) < 100",
    "UPDATE products SET title = 'a' WHERE id = 3 AND length(title) >= 100",
]


def cold_orders(deployment: Deployment) -> List[str]:
    """Orders that show none of the hot rows."""
    rows = deployment.database.execute(
        "SELECT id FROM orders o WHERE user_id > 10 AND id NOT IN (21, 22, 23)"
        " AND NOT EXISTS (SELECT FROM items i WHERE i.order_id = o.id AND (product_id = 3 OR i.id = 22))"
        " AND EXISTS (SELECT FROM items i WHERE i.order_id = o.id) ORDER BY id"
    )
    return [str(row[0]) for row in rows]


def test_a_hundred_documents_damaged_by_hand_are_found_and_repaired_while_writers_run(deploy: MakeDeployment) -> None:
    """And not one more is reported, although other documents are written all the time."""
    deployment = deploy(SHOP, 20)
    deployment.start(program=True)
    deployment.settle()
    ids = cold_orders(deployment)
    random.Random(7).shuffle(ids)
    damage = Damage(deployment, "orders")
    with toggling(deployment.database.url, HOT) as rounds:
        damage.delete(ids[:34])
        damage.alter(ids[34:50], "meanPrice", 0.1234567890123)
        damage.shorten(ids[50:60])
        for id in ids[60:67]:
            # Deep inside, one digit.
            source = call(deployment.opensearch, "GET", f"/{deployment.prefix}orders/_doc/{id}")["_source"]
            items = [{**item, "price": item["price"] + 0.01} for item in source["items"]]
            damage.alter([id], "items", items)
        damage.add([f"by hand {n}" for n in range(11)], {"status": "new"})
        damage.add([str(10_000_000 + n) for n in range(11)], {"status": "new"})
        damage.add([f"00{id}" for id in ids[:11]], {"status": "new"})

        found = verify(deployment)
        assert found.code == 9, found.error
        assert found.differences("orders", "missing") == set(damage.deleted)
        assert found.differences("orders", "different") == set(damage.altered)
        assert found.differences("orders", "extra") == set(damage.added)
        report = found.indexes["orders"]
        assert (report["missing"], report["different"], report["extra"]) == (34, 33, 33)
        assert report["settled"] and report["left"] == 100
        for other in ("users", "products"):
            assert found.indexes[other]["left"] == 0, found.indexes[other]
        paths = {one["id"]: one for one in report["differences"] if one["kind"] == "different"}
        assert paths[ids[34]]["path"] == "meanPrice" and paths[ids[34]]["found"] == "0.1234567890123"
        assert paths[ids[50]]["path"] == "meanPrice" and paths[ids[50]]["found"] is None
        assert paths[ids[60]]["path"] == "items[0].price"

        repaired = verify(deployment, "orders", "--repair")
        assert repaired.code == 0, repaired.output + repaired.error
        assert (repaired.indexes["orders"]["repaired"], repaired.indexes["orders"]["left"]) == (100, 0)
        again = verify(deployment)
        assert again.code == 0, again.output
    assert min(rounds) > 20
    deployment.settle()
    assert_right(verify(deployment))
    deployment.assert_right()


@pytest.mark.parametrize("case", [SHOP, BEYOND], ids=repr)
def test_while_writers_run_at_full_speed_nothing_is_reported(deploy: MakeDeployment, case: Case) -> None:
    """Random histories with deletes, moves and changes of keys, and rows that toggle between two values."""
    deployment = deploy(case, 3)
    deployment.start()
    deployment.settle()
    url = deployment.database.url
    with contextlib.ExitStack() as writers:
        written = writers.enter_context(Writer(url, 3, case))
        if case is SHOP:
            writers.enter_context(toggling(url, HOT, writers=1))
        found = verify(deployment)
        assert found.code == 0, found.output + found.error
        assert all(one["settled"] and one["compared"] > 0 for one in found.indexes.values()), found.output
        assert written.counts["transactions"] > 50
    deployment.settle()
    assert_right(verify(deployment))


def test_what_an_identity_that_is_not_ours_to_change_did_not_tell_is_counted_found_and_repaired(
    deploy: MakeDeployment,
) -> None:
    deployment = deploy(SHOP)
    deployment.config["source"]["manage_replica_identity"] = False
    daemon = deployment.start()
    deployment.settle()
    assert any(
        trouble["what"].startswith("old parents of public.items cannot be traced")
        and "REPLICA IDENTITY" in trouble["todo"]
        for trouble in daemon.status()["trouble"]
    )
    deployment.database.execute("DELETE FROM items WHERE id % 10 = 0")
    deployment.settle()
    assert daemon.status()["facts"]["untraceable_changes"]["public.items"] > 0
    stale = {difference.id for difference in deployment.differences("orders")["orders"]}
    found = verify(deployment, "orders")
    assert (found.code, found.differences("orders", "different")) == (9, stale)
    assert verify(deployment, "--repair").code == 0
    deployment.assert_right()


def test_without_a_daemon_it_compares_and_says_what_it_cannot_know(deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP)
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    assert_right(verify(deployment))

    # What changed since then is a difference, on its way or not.
    deployment.database.execute("UPDATE users SET name = 'Ada' WHERE id = 49")
    found = verify(deployment, "users")
    assert (found.code, found.differences("users", "different")) == (9, {"49"})
    report = found.indexes["users"]
    assert not report["settled"] and "no daemon runs for sink search" in report["notes"]
    refused = verify(deployment, "--repair")
    assert refused.code == 5 and "--repair leaves the writing to the running daemon" in refused.error

    deployment.start()
    deployment.settle()
    assert_right(verify(deployment))


def test_samples_throttles_files_and_short_transactions(deploy: MakeDeployment, tmp_path: Path) -> None:
    deployment = deploy(SHOP, 20)
    deployment.start()
    deployment.settle()
    Damage(deployment, "orders").delete([str(n) for n in range(1, 3001, 3)])

    whole = verify(deployment, "orders", form="human")
    assert whole.code == 9 and "1,000 missing, 0 extra, 0 different" in whole.output
    assert "and 950 more" in whole.output and "✗ 1,000 differences left" in whole.output
    sample = verify(deployment, "orders", "--sample", "30").indexes["orders"]
    assert sample["sample_percent"] == 30 and sample["rows"] == 3000
    # Chunks of 500 rows, a third of each missing.
    assert 0 < sample["missing"] < 1000
    assert sample["compared"] in range(500, 3000, 500), sample

    file = tmp_path / "report.json"
    longest: List[float] = []
    stop = threading.Event()

    def watch() -> None:
        with psycopg.connect(deployment.database.url, autocommit=True) as connection:
            while not stop.wait(0.05):
                row = connection.execute(
                    "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)"
                    " FROM pg_stat_activity"
                    " WHERE application_name LIKE 'flusso_sync%' AND backend_type = 'client backend'"
                ).fetchone()
                assert row is not None
                longest.append(float(row[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    try:
        slow = verify(deployment, "users", "products", "--max-rows-per-second", "700", "--output", str(file))
    finally:
        stop.set()
        watcher.join(30)
    # 1,400 rows and as many ids.
    assert time.monotonic() - started >= 3.5
    assert (slow.code, slow.output) == (0, "")
    assert [one["rows"] for one in json.loads(file.read_text())["indexes"]] == [1000, 400]
    assert [path.name for path in tmp_path.iterdir() if "report" in path.name] == ["report.json"]
    assert longest and max(longest) < 2.0, max(longest)


def test_an_index_that_nobody_can_read_yet_and_one_that_is_not_there_are_told(deploy: MakeDeployment) -> None:
    deployment = deploy(SHOP)
    daemon = deployment.start()
    deployment.settle()
    daemon.stop()
    deployment.config["prefix"] = deployment.prefix + "other."
    write_yaml(daemon.folder / "flusso.yaml", deployment.config)
    refused = verify(deployment)
    assert refused.code == 5 and "readers find no index" in refused.error
    wrong = verify(deployment, "nothing")
    assert wrong.code == 2 and "no index nothing is enabled; there is orders, products, users" in wrong.error
    assert verify(deployment, "--sink", "nowhere").code == 2

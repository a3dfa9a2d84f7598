"""The OpenSearch sink on a real node: the contract, generations and aliases, the meta store, and what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from flusso_sync.engine.source import Record
from flusso_sync.errors import (
    DocumentRejected,
    IndexMissing,
    OwnerConflict,
    SinkBlocked,
    SinkError,
    SinkRefused,
    SinkUnavailable,
)
from flusso_sync.sinks import lease as lease_module
from flusso_sync.sinks import stateful
from flusso_sync.sinks.base import FailureKind, Rejected, Sink, Write
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings
from flusso_sync.sinks.opensearch.sink import OpenSearchSink
from flusso_sync.testing.sinks import ME, MakeSink, StatefulSinkContract, gone, plan, put
from tests.fix_opensearch import Prefix

Make = Callable[..., OpenSearchSink]


@pytest.fixture
def make(opensearch_prefix: Prefix) -> Iterator[Make]:
    made: List[OpenSearchSink] = []

    def make(**settings: Any) -> OpenSearchSink:
        defaults: Dict[str, Any] = {
            "url": opensearch_prefix.url,
            "prefix": opensearch_prefix.prefix,
            "number_of_replicas": 0,
            "timeout_secs": 20,
        }
        made.append(OpenSearchSink("search", OpenSearchSettings(**{**defaults, **settings})))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


class TestContract(StatefulSinkContract):
    @pytest.fixture(autouse=True)
    def _node(self, opensearch_prefix: Prefix) -> None:
        self.node = opensearch_prefix

    @pytest.fixture
    def make_sink(self, make: Make) -> Iterator[MakeSink]:
        yield make

    @pytest.fixture
    def make_keeping(self, make: Make) -> Iterator[MakeSink]:
        yield lambda: make(keep_generations={"users": 1})

    def read(self, sink: Sink, index: str) -> Dict[str, Any]:
        """What a search finds, without making anything visible that is not."""
        path = "/{p}" + index + "/_search?size=1000&ignore_unavailable=true"
        return {hit["_id"]: hit["_source"] for hit in self.node.call("GET", path)["hits"]["hits"]}

    def delete_index(self, sink: Sink, index: str) -> None:
        for name in self.node.indexes():
            if name.startswith(f"{self.node.prefix}{index}_"):
                self.node.call("DELETE", f"/{name}")


def start(sink: OpenSearchSink, *, complete: bool = True, canonical: str = "1") -> OpenSearchSink:
    sink.open(ME)
    sink.ensure([plan(canonical=canonical)])
    sink.begin_build("users")
    if complete:
        sink.complete_build("users")
    return sink


def generations(node: Prefix) -> List[str]:
    return [name for name in node.indexes() if name.startswith(f"{node.prefix}users_")]


def readers(node: Prefix) -> List[str]:
    """The indexes that the convenience alias stands for."""
    return [index for alias, index in node.aliases() if alias == f"{node.prefix}users"]


# -- generations, aliases, settings ---------------------------------------------------------------------------


def test_no_read_alias_exists_before_the_first_build_is_complete(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make(), complete=False)
    sink.write([put("1", build=True), put("2")], refresh=True)
    concrete = generations(opensearch_prefix)[0]
    aliases = {alias for alias, index in opensearch_prefix.aliases() if index == concrete}
    assert aliases == {f"{opensearch_prefix.prefix}w.{concrete[len(opensearch_prefix.prefix) :]}"}
    sink.complete_build("users")
    hash_alias = concrete.rpartition("_")[0]
    aliases = {alias for alias, index in opensearch_prefix.aliases() if index == concrete}
    assert {hash_alias, f"{opensearch_prefix.prefix}users"} <= aliases


def test_a_generation_is_built_without_refresh_and_served_as_configured(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make(refresh_interval="3s", number_of_shards=2), complete=False)

    def settings() -> Dict[str, Any]:
        name = generations(opensearch_prefix)[-1]
        index: Dict[str, Any] = opensearch_prefix.call("GET", f"/{name}/_settings")[name]["settings"]["index"]
        return index

    before = settings()
    assert (before["refresh_interval"], before["number_of_replicas"], before["number_of_shards"]) == ("-1", "0", "2")
    assert (before["gc_deletes"], before["translog"]["durability"].lower()) == ("10m", "request")
    sink.complete_build("users")
    assert settings()["refresh_interval"] == "3s"


def test_changed_refresh_interval_and_replicas_reach_an_existing_index(make: Make, opensearch_prefix: Prefix) -> None:
    start(make()).close()
    sink = make(refresh_interval="7s", number_of_replicas=1)
    sink.open(ME)
    assert sink.ensure([plan()])[0].seeded
    name = generations(opensearch_prefix)[0]
    index = opensearch_prefix.call("GET", f"/{name}/_settings")[name]["settings"]["index"]
    assert (index["refresh_interval"], index["number_of_replicas"]) == ("7s", "1")


def test_replicas_that_no_node_can_hold_are_not_waited_for(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make(number_of_replicas=3), complete=False)
    started = time.monotonic()
    sink.complete_build("users")
    assert time.monotonic() - started < 30
    assert readers(opensearch_prefix)


@pytest.mark.parametrize("copied", [True, False], ids=["copied in time", "never copied"])
def test_replicas_are_waited_for_before_readers_move_and_not_for_ever(
    make: Make,
    opensearch_prefix: Prefix,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    copied: bool,
) -> None:
    # Given a cluster of two nodes, as it tells of itself, one of which is busy
    sink = start(make(number_of_replicas=1, copies_wait_secs=60 if copied else 1), complete=False)
    get = sink._client.get
    looks: List[bool] = []

    def of_two(path: str, *arguments: Any, **keywords: Any) -> Any:
        answer = get(path, *arguments, **keywords)
        if path == "/_cluster/health":
            return answer._replace(data=b'{"number_of_data_nodes": 2}')
        if path.startswith("/_cluster/health/"):
            looks.append(bool(readers(opensearch_prefix)))
            return answer._replace(data=b'{"active_shards": %d}' % (2 if copied and len(looks) == 3 else 1))
        return answer

    monkeypatch.setattr(sink._client, "get", of_two)
    started = time.monotonic()
    sink.complete_build("users")
    # Then readers move once the copies are there, or once that has taken too long
    assert looks and not any(looks) and readers(opensearch_prefix)
    assert len(looks) == 3 if copied else time.monotonic() - started >= 1
    assert ("fewer than 2 copies per shard after 1 s" in caplog.text) is not copied


def test_a_refreshed_write_is_found_and_a_build_is_never_refreshed(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make(refresh_interval="-1"))
    sink.write([put("1")], refresh=True)
    assert sink.count("users") == 1
    sink.begin_build("users")
    sink.write([put("2", version=2)], refresh=True)
    assert sink.count("users") == 2
    being_built = generations(opensearch_prefix)[-1]
    assert opensearch_prefix.call("GET", f"/{being_built}/_count")["count"] == 0
    sink.write([put("3", version=2)])
    sink.refresh(["users"])
    assert sink.count("users") == 3
    assert opensearch_prefix.call("GET", f"/{being_built}/_count")["count"] == 0


def test_old_generations_and_older_hashes_go_after_the_switch(make: Make, opensearch_prefix: Prefix) -> None:
    start(make()).close()
    sink = start(make(), complete=False, canonical="2")
    assert len(generations(opensearch_prefix)) == 2
    sink.complete_build("users")
    sink.begin_build("users")
    sink.complete_build("users")
    left = generations(opensearch_prefix)
    assert [name.rpartition("_")[2] for name in left] == ["3"] and readers(opensearch_prefix) == left


def test_former_generations_are_kept_when_asked_for(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make(keep_generations={"users": 1}))
    for _ in range(3):
        sink.begin_build("users")
        sink.complete_build("users")
    assert [name.rpartition("_")[2] for name in generations(opensearch_prefix)] == ["3", "4"]
    assert [name.rpartition("_")[2] for name in readers(opensearch_prefix)] == ["4"]
    sink.close()
    again = make(keep_generations={"users": 1})
    again.open(ME)
    assert again.ensure([plan()])[0].seeded
    assert [name.rpartition("_")[2] for name in generations(opensearch_prefix)] == ["3", "4"]


def test_an_alias_moved_by_hand_to_a_former_generation_stays_there(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make(keep_generations={"users": 1}))
    sink.begin_build("users")
    sink.complete_build("users")
    old, new = generations(opensearch_prefix)
    alias = f"{opensearch_prefix.prefix}users"
    actions = [{"remove": {"index": new, "alias": alias}}, {"add": {"index": old, "alias": alias}}]
    opensearch_prefix.call("POST", "/_aliases", {"actions": actions})
    assert sink.watch() == []
    assert readers(opensearch_prefix) == [old]


def test_a_lost_answer_to_the_switch_is_made_good_by_the_next_call(
    make: Make, opensearch_prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = start(make())
    sink.begin_build("users")
    sink.write([put("1", build=True)])

    def lost(*args: object) -> None:
        raise SinkUnavailable("cut")

    with monkeypatch.context() as patch:
        patch.setattr(sink._generations, "_switch", lost)
        with pytest.raises(SinkUnavailable):
            sink.complete_build("users")
    # A live write in between goes to the generation that is still read, too.
    sink.write([put("2", version=2)], refresh=True)
    assert set(dict(sink.scan("users"))) == {"2"}
    sink.complete_build("users")
    assert set(dict(sink.scan("users"))) == {"1", "2"}
    assert len(generations(opensearch_prefix)) == 1


def test_a_lost_answer_to_a_rollback_does_not_take_readers_further_back(
    make: Make, opensearch_prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = start(make(keep_generations={"users": 2}))
    for _ in range(2):
        sink.begin_build("users")
        sink.complete_build("users")
    _, second, _ = sorted(generations(opensearch_prefix))
    move = sink._generations._aliases.move

    def lost(*args: Any) -> None:
        move(*args)
        raise SinkUnavailable("cut")

    with monkeypatch.context() as patch:
        patch.setattr(sink._generations._aliases, "move", lost)
        with pytest.raises(SinkUnavailable):
            sink.rollback("users")
    assert readers(opensearch_prefix) == [second]
    back = sink.rollback("users")
    assert readers(opensearch_prefix) == [second]
    newest = max(report.number for report in sink.generations()["users"])
    assert (back.read, back.building) == (int(second.rpartition("_")[2]), newest)


def test_a_death_between_mark_and_switch_is_finished_by_the_next_start(
    make: Make, opensearch_prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = start(make())
    sink.begin_build("users")
    sink.write([put("1", build=True)])

    def die(*args: object) -> None:
        raise SinkUnavailable("dead")

    monkeypatch.setattr(sink._generations, "_switch", die)
    with pytest.raises(SinkUnavailable):
        sink.complete_build("users")
    sink.close()
    again = make()
    again.open(ME)
    assert again.ensure([plan()])[0].seeded
    assert set(dict(again.scan("users"))) == {"1"}


def test_the_convenience_alias_is_taken_over_from_whoever_holds_it(make: Make, opensearch_prefix: Prefix) -> None:
    alias = f"{opensearch_prefix.prefix}users"
    opensearch_prefix.call("PUT", "/{p}users_ab12cd34_1", {"aliases": {alias: {}}})
    start(make())
    assert readers(opensearch_prefix) == [name for name in generations(opensearch_prefix) if "ab12cd34" not in name]
    assert f"{opensearch_prefix.prefix}users_ab12cd34_1" in generations(opensearch_prefix), "it is not ours to delete"


def test_an_index_in_the_place_of_the_convenience_alias_is_left_alone(make: Make, opensearch_prefix: Prefix) -> None:
    opensearch_prefix.call("PUT", "/{p}users")
    sink = start(make())
    sink.write([put("1")])
    hash_alias = generations(opensearch_prefix)[0].rpartition("_")[0]
    assert (hash_alias, generations(opensearch_prefix)[0]) in opensearch_prefix.aliases()


def test_an_index_in_the_place_of_the_hash_alias_is_refused_with_a_sentence(
    make: Make, opensearch_prefix: Prefix
) -> None:
    start(make()).close()
    hash_alias = generations(opensearch_prefix)[0].rpartition("_")[0]
    opensearch_prefix.clear()
    opensearch_prefix.call("PUT", f"/{hash_alias}")
    sink = make()
    sink.open(ME)
    with pytest.raises(SinkRefused, match="should be an alias"):
        sink.ensure([plan()])


def test_text_analysis_that_no_node_has_is_refused_with_a_sentence(make: Make) -> None:
    sink = make(text_analysis="icu")
    sink.open(ME)
    with pytest.raises(SinkRefused, match="analysis-icu"):
        sink.ensure([plan()])


def test_a_name_too_long_for_opensearch_is_refused(make: Make) -> None:
    sink = make()
    sink.open(ME)
    with pytest.raises(SinkRefused, match="255 bytes"):
        sink.ensure([plan("u" * 240)])


# -- indexes and aliases deleted under us ----------------------------------------------------------------------


def test_writing_to_an_index_deleted_under_us_says_so_and_creates_nothing(
    make: Make, opensearch_prefix: Prefix
) -> None:
    sink = start(make())
    sink.write([put("1")])
    opensearch_prefix.call("DELETE", f"/{generations(opensearch_prefix)[0]}")
    with pytest.raises(IndexMissing) as caught:
        sink.write([put("2")])
    assert caught.value.facts["index"] == "users"
    assert opensearch_prefix.indexes() == [f"{opensearch_prefix.prefix}flusso_sync_meta"]


def test_an_index_born_of_a_delete_is_noticed_and_deleted(make: Make, opensearch_prefix: Prefix) -> None:
    """A bulk delete with an external version creates a missing index, whatever require_alias says."""
    sink = start(make())
    opensearch_prefix.call("DELETE", f"/{generations(opensearch_prefix)[0]}")
    with pytest.raises(IndexMissing):
        sink.write([gone("1", 5)])
    assert opensearch_prefix.indexes() == [f"{opensearch_prefix.prefix}flusso_sync_meta"]


def test_an_index_born_after_its_generation_was_replaced_is_deleted_by_the_watch(
    make: Make, opensearch_prefix: Prefix
) -> None:
    sink = start(make())
    stray = f"{opensearch_prefix.prefix}w.{generations(opensearch_prefix)[0][len(opensearch_prefix.prefix) :]}"
    sink.begin_build("users")
    sink.complete_build("users")
    opensearch_prefix.call("PUT", f"/{stray}")
    assert sink.watch() == []
    assert stray not in opensearch_prefix.indexes()


def test_a_late_request_to_a_replaced_generation_is_no_reason_to_rebuild(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make())
    index = sink._indexes["users"]
    late = index.live
    sink.begin_build("users")
    sink.complete_build("users")
    index.live = late
    assert list(sink.write([gone("1", 5), put("2", version=5)])) == []
    assert list(sink.write([gone("1", 5)])) == []
    assert [name for name in opensearch_prefix.indexes() if ".users" in name] == []


def test_an_index_recreated_by_hand_under_the_same_name_is_not_ours(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make())
    name = generations(opensearch_prefix)[0]
    opensearch_prefix.call("DELETE", f"/{name}")
    write_alias = f"{opensearch_prefix.prefix}w.{name[len(opensearch_prefix.prefix) :]}"
    opensearch_prefix.call("PUT", f"/{name}", {"aliases": {write_alias: {}, f"{opensearch_prefix.prefix}users": {}}})
    assert sink.watch() == ["users"]
    sink.close()
    again = make()
    again.open(ME)
    assert not again.ensure([plan()])[0].seeded
    assert name not in opensearch_prefix.indexes()


def test_read_aliases_deleted_by_hand_are_put_back(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make())
    before = opensearch_prefix.aliases()
    name = generations(opensearch_prefix)[0]
    opensearch_prefix.call("DELETE", f"/{name}/_alias/{opensearch_prefix.prefix}users*")
    assert opensearch_prefix.aliases() != before
    assert sink.watch() == []
    assert opensearch_prefix.aliases() == before


def test_a_write_alias_deleted_by_hand_stops_writes_until_the_watch_puts_it_back(
    make: Make, opensearch_prefix: Prefix
) -> None:
    sink = start(make())
    before = opensearch_prefix.aliases()
    opensearch_prefix.call("DELETE", f"/{generations(opensearch_prefix)[0]}/_alias/{opensearch_prefix.prefix}w.users*")
    with pytest.raises(IndexMissing):
        sink.write([put("1"), gone("2")])
    assert sink.watch() == []
    assert opensearch_prefix.aliases() == before
    assert list(sink.write([put("1"), gone("2")])) == []


def test_an_index_being_built_that_is_deleted_is_named_and_not_completed(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make())
    sink.begin_build("users")
    opensearch_prefix.call("DELETE", f"/{generations(opensearch_prefix)[-1]}")
    with pytest.raises(IndexMissing):
        sink.complete_build("users")
    assert sink.watch() == ["users"]
    assert len(readers(opensearch_prefix)) == 1
    sink.begin_build("users")
    sink.complete_build("users")
    assert sink.watch() == []


# -- single requests ---------------------------------------------------------------------------------------------


def test_a_refused_document_is_named_and_its_neighbours_arrive(make: Make) -> None:
    sink = start(make())
    odd = Write("users", "2", b'{"id":"not a number","name":"x"}', 1)
    unknown = Write("users", "4", b'{"id":4,"colour":"red"}', 1)
    failures = sink.write([put("1"), odd, put("3"), unknown, gone("never there")])
    assert [(f.position, f.kind, f.status) for f in failures] == [
        (1, FailureKind.REJECTED, 400),
        (3, FailureKind.REJECTED, 400),
    ]
    assert "field [id] of type [long]" in failures[0].reason and "colour" in failures[1].reason
    assert "not a number" not in failures[0].reason, "a row's content has no place in logs"
    sink.refresh(["users"])
    assert set(dict(sink.scan("users"))) == {"1", "3"}


@pytest.mark.parametrize("block", ["read_only_allow_delete", "write", "read_only"])
def test_a_block_is_waited_out_and_nothing_is_rejected(make: Make, opensearch_prefix: Prefix, block: str) -> None:
    sink = start(make())
    name = generations(opensearch_prefix)[0]
    opensearch_prefix.call("PUT", f"/{name}/_settings", {f"index.blocks.{block}": True})
    try:
        with pytest.raises(SinkBlocked, match="block"):
            sink.write([put("1"), gone("2")])
    finally:
        opensearch_prefix.call("PUT", f"/{name}/_settings", {f"index.blocks.{block}": None})
    assert list(sink.write([put("1"), gone("2")])) == []


def test_a_blocked_index_does_not_hold_up_its_neighbours(make: Make, opensearch_prefix: Prefix) -> None:
    sink = make()
    sink.open(ME)
    sink.ensure([plan(), plan("orders")])
    name = generations(opensearch_prefix)[0]
    opensearch_prefix.call("PUT", f"/{name}/_settings", {"index.blocks.write": True})
    failures = sink.write([put("1"), put("2", index="orders")])
    opensearch_prefix.call("PUT", f"/{name}/_settings", {"index.blocks.write": None})
    assert [(f.position, f.kind) for f in failures] == [(0, FailureKind.RETRY)]


def test_a_closed_index_is_waited_for(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make())
    name = generations(opensearch_prefix)[0]
    opensearch_prefix.call("POST", f"/{name}/_close")
    with pytest.raises(SinkBlocked):
        sink.write([put("1"), gone("2")])
    assert sink.watch() == [], "closed is not gone"
    opensearch_prefix.call("POST", f"/{name}/_open")
    assert opensearch_prefix.call("GET", f"/_cluster/health/{name}?wait_for_status=yellow")["timed_out"] is False
    assert list(sink.write([put("1"), gone("2")])) == []


def test_a_missing_pipeline_is_refused_at_the_start(make: Make, opensearch_prefix: Prefix) -> None:
    name = f"{opensearch_prefix.prefix}pipe"
    with pytest.raises(SinkRefused, match="no ingest pipeline"):
        make(pipeline=name).open(ME)
    opensearch_prefix.call("PUT", f"/_ingest/pipeline/{name}", {"processors": []})
    try:
        make(pipeline=name).open(ME)
    finally:
        opensearch_prefix.call("DELETE", f"/_ingest/pipeline/{name}")


def test_concurrent_writes_and_refreshes_all_arrive(make: Make) -> None:
    sink = start(make(concurrency=4))
    failures: List[Any] = []

    def send(start: int) -> None:
        for batch in range(5):
            failures.extend(sink.write([put(str(start + batch * 50 + i)) for i in range(50)]))
            sink.refresh(["users"])

    threads = [threading.Thread(target=send, args=(n * 1000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and sink.count("users") == 1000


def test_a_document_read_back_is_the_bytes_that_were_written(make: Make) -> None:
    sink = start(make())
    document = '{"id":9007199254740993,"name":"ä \\u0000 <&>"}'.encode()
    assert list(sink.write([Write("users", "1", document, 2**62)])) == []
    assert sink.get("users", "1") == document
    assert sink.get("users", "2") is None
    sink.refresh(["users"])
    assert dict(sink.scan("users", size=1))["1"]["id"] == 9007199254740993
    assert sink.search("users", "9007199254740993")[0][0] == "1"


# -- owner, lease, meta store --------------------------------------------------------------------------------------


def test_the_meta_store_has_a_fixed_mapping(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make())
    sink.write_record(Record(confirmed=1))
    name = f"{opensearch_prefix.prefix}flusso_sync_meta"
    mapping = opensearch_prefix.call("GET", f"/{name}/_mapping")[name]["mappings"]
    assert mapping["dynamic"] == "false"
    assert "confirmed" not in mapping["properties"]


def test_indexes_of_another_owner_are_refused_although_the_meta_store_is_gone(
    make: Make, opensearch_prefix: Prefix
) -> None:
    start(make()).close()
    opensearch_prefix.call("DELETE", "/{p}flusso_sync_meta")
    other = make()
    other.open(replace(ME, system_identifier="666"))
    with pytest.raises(OwnerConflict, match="belongs to"):
        other.ensure([plan()])
    assert len(generations(opensearch_prefix)) == 1


def test_two_sinks_of_one_process_on_the_same_prefix_are_refused(make: Make) -> None:
    start(make())
    with pytest.raises(OwnerConflict, match="another sink of this process"):
        make().open(ME)


HOLDER = """
import sys, time
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings
from flusso_sync.sinks.opensearch.sink import OpenSearchSink
from flusso_sync.testing.sinks import ME
sink = OpenSearchSink("search", OpenSearchSettings(url=sys.argv[1], prefix=sys.argv[2]))
sink.open(ME)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_live_process_is_named_and_a_dead_one_is_replaced_at_once(make: Make, opensearch_prefix: Prefix) -> None:
    checkout = str(Path(__file__).resolve().parent.parent)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, opensearch_prefix.url, opensearch_prefix.prefix],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": checkout},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        sink = make()
        with pytest.raises(SinkUnavailable, match=f"process {holder.pid} ") as caught:
            sink.open(ME)
        assert not caught.value.in_doubt
        holder.kill()
        # Not even waited for: what the parent has not asked about yet is dead all the same.
        deadline = time.monotonic() + 10
        while True:
            try:
                sink.open(ME)
                break
            except SinkUnavailable:
                assert time.monotonic() < deadline, "a dead process of this host is not replaced at once"
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def lease_of(node: Prefix) -> Dict[str, Any]:
    found: Dict[str, Any] = node.call("GET", "/{p}flusso_sync_meta/_doc/owner")["_source"]
    return found


def set_lease(node: Prefix, **changes: Any) -> None:
    """Write the owner document as another process would."""
    owner = lease_of(node)
    owner["lease"] = {**owner.get("lease", {}), **changes}
    node.call("PUT", "/{p}flusso_sync_meta/_doc/owner", owner)


ELSEWHERE = {"host": "elsewhere", "pid": 1, "token": "other", "started": "1", "boot_id": "b", "pid_namespace": "n"}


def test_a_lease_that_nobody_renews_is_over_after_its_length_by_our_own_clock(
    make: Make, opensearch_prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 1.0)
    start(make()).close()
    # A host whose clock is far ahead: its word on when the lease ends is not taken.
    set_lease(opensearch_prefix, **ELSEWHERE, until=time.time() + 10_000)
    sink = make()
    started = time.monotonic()
    while True:
        try:
            sink.open(ME)
            break
        except SinkUnavailable as error:
            assert "elsewhere" in error.message
            assert time.monotonic() < started + 10
            time.sleep(0.05)
    assert time.monotonic() >= started + 1.0


def test_a_lease_that_is_renewed_is_never_taken(
    make: Make, opensearch_prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 0.5)
    start(make()).close()
    sink = make()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        set_lease(opensearch_prefix, **ELSEWHERE, until=time.time() + 30)
        with pytest.raises(SinkUnavailable):
            sink.open(ME)
        time.sleep(0.1)


def test_a_lease_taken_over_stops_every_write(
    make: Make, opensearch_prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stateful, "RENEW_SECONDS", 0.0)
    sink = start(make())
    set_lease(opensearch_prefix, **ELSEWHERE, until=time.time() + 30)
    with pytest.raises(OwnerConflict, match="elsewhere"):
        sink.renew()
    with pytest.raises(OwnerConflict):
        sink.write([put("1")])
    with pytest.raises(OwnerConflict):
        sink.write_record(Record(confirmed=1))
    sink.close()
    assert lease_of(opensearch_prefix)["lease"]["token"] == "other", "it is not ours to give back"


def test_who_cannot_renew_stops_writing_before_the_lease_ends_and_goes_on_after_renewing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", lease_module.SAFETY_SECONDS + 0.3)
    monkeypatch.setattr(stateful, "RENEW_SECONDS", 0.0)
    sink = make()
    sink.open(ME)
    sink.ensure([plan()])
    deadline = time.monotonic() + 5
    with pytest.raises(SinkUnavailable, match="lease") as caught:
        while time.monotonic() < deadline:
            sink.write([put("1")])
    assert not caught.value.in_doubt
    sink.renew()
    assert list(sink.write([put("1")])) == []


def test_closing_gives_the_lease_back(make: Make, opensearch_prefix: Prefix) -> None:
    sink = start(make())
    assert lease_of(opensearch_prefix)["lease"]["pid"] == os.getpid()
    sink.close()
    assert "lease" not in lease_of(opensearch_prefix)


def test_a_meta_store_deleted_while_running_is_made_anew_from_what_we_hold(
    make: Make, opensearch_prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stateful, "RENEW_SECONDS", 0.0)
    sink = start(make())
    sink.write_record(Record(confirmed=77))
    for job in ("over", "known", "newer"):
        sink.write_job(job, {"done": 0})
    sink.write_job("over", None)
    opensearch_prefix.call("DELETE", "/{p}flusso_sync_meta")
    with pytest.raises(SinkUnavailable, match="meta store"):
        sink.write_job("newer", {"done": 1})
    with pytest.raises(SinkUnavailable, match="meta store"):
        sink.write_record(Record(confirmed=78))
    assert f"{opensearch_prefix.prefix}flusso_sync_meta" not in opensearch_prefix.indexes()
    sink.renew()
    sink.close()
    again = make()
    again.open(ME)
    record = again.read_record()
    assert record is not None and record.confirmed == 78
    assert again.jobs() == {"known": {"done": 0}, "newer": {"done": 1}}
    assert again.ensure([plan()])[0].seeded


def test_a_full_quarantine_stops_and_keeps_what_it_has(make: Make) -> None:
    sink = start(make(quarantine_limit=2))
    sink.quarantine([Rejected("users", "1", "odd", 5), Rejected("users", "2", "odd", 6)])
    sink.quarantine([Rejected("users", "2", "odder", 7), Rejected("orders", "2", "odd", 7)])
    with pytest.raises(DocumentRejected, match="limit of 2 documents.*`flussod quarantine retry users`"):
        sink.quarantine([Rejected("users", "3", "odd", 8), Rejected("orders", "3", "odd", 8)])
    parked = {(p.index, p.id): (p.reason, p.lsn) for p in sink.parked()}
    assert parked.pop(("orders", "3")) == ("odd", 8), "whose place is not full"
    assert parked == {("users", "1"): ("odd", 5), ("users", "2"): ("odder", 7), ("orders", "2"): ("odd", 7)}


def test_an_adoption_cut_short_is_finished_by_the_next_start(
    make: Make, opensearch_prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(make())
    first.write_record(Record(confirmed=5))
    first.close()
    stranger = replace(ME, system_identifier="666")
    sink = make()

    def die() -> None:
        raise SinkUnavailable("dead")

    monkeypatch.setattr(sink, "_start_over", die)
    with pytest.raises(SinkUnavailable):
        sink.open(stranger, adopt=True)
    sink.close()
    again = make()
    again.open(stranger)
    assert again.read_record() is None
    assert not again.ensure([plan()])[0].seeded


def test_an_index_that_was_never_ensured_is_an_error_of_the_caller(make: Make) -> None:
    sink = start(make())
    with pytest.raises(SinkError, match="ensured"):
        sink.write([put("1", index="strangers")])


def test_the_settings_show_no_secret(make: Make, opensearch_prefix: Prefix) -> None:
    host = opensearch_prefix.url[len("http://") :]
    sink = start(make(url=f"http://ada:canary@{host}", password="canary", username="ada"))
    assert "canary" not in repr(sink._settings).replace("url='http://ada:canary", "")

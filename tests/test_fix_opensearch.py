"""A node of one's own: starts, survives kill -9 with its data, and a cluster of several holds copies."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flusso_sync.sinks.opensearch.settings import OpenSearchSettings
from flusso_sync.sinks.opensearch.sink import OpenSearchSink
from flusso_sync.testing.sinks import ME, plan, put
from tests.fix_opensearch import Node, NoOpenSearch, call, start_node, unavailable

pytestmark = [pytest.mark.opensearch, pytest.mark.slow]


def own_node(folder: Path, nodes: int = 1) -> Node:
    try:
        return start_node(folder, nodes=nodes)
    except NoOpenSearch as error:
        unavailable(str(error))
        raise


def test_an_acknowledged_write_outlives_a_killed_node(tmp_path: Path) -> None:
    with own_node(tmp_path) as node:
        sink = OpenSearchSink("search", OpenSearchSettings(url=node.url, number_of_replicas=0))
        sink.open(ME)
        sink.ensure([plan()])
        sink.begin_build("users")
        sink.complete_build("users")
        assert list(sink.write([put("1", version=5)])) == []
        url = node.url
        node.kill()
        node.start()
        assert node.url == url
        call(node.url, "GET", "/_cluster/health?wait_for_status=yellow&timeout=30s")
        assert sink.get("users", "1") is not None
        assert sink.watch() == []
        assert list(sink.write([put("2", version=5)])) == []
        sink.close()
        pid = node.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_readers_move_only_to_as_many_copies_as_the_cluster_can_hold(tmp_path: Path) -> None:
    with own_node(tmp_path, nodes=2) as node:
        sink = OpenSearchSink("search", OpenSearchSettings(url=node.url, number_of_replicas=3))
        sink.open(ME)
        sink.ensure([plan()])
        sink.begin_build("users")
        sink.write([put(str(n), build=True) for n in range(500)])
        sink.complete_build("users")
        shards = call(node.url, "GET", "/_cat/shards/users?h=prirep,state,docs&format=json")
        started = [(s["prirep"], s["docs"]) for s in shards if s["state"] == "STARTED"]
        assert sorted(started) == [("p", "500"), ("r", "500")]
        sink.close()


def test_copies_that_the_cluster_does_not_make_are_waited_for_no_longer_than_agreed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with own_node(tmp_path, nodes=2) as node:
        call(node.url, "PUT", "/_cluster/settings", {"persistent": {"cluster.routing.allocation.enable": "primaries"}})
        sink = OpenSearchSink("search", OpenSearchSettings(url=node.url, number_of_replicas=1, copies_wait_secs=3))
        sink.open(ME)
        sink.ensure([plan()])
        sink.begin_build("users")
        sink.write([put("1", version=5, build=True)])
        begun = time.monotonic()
        sink.complete_build("users")
        assert 3 <= time.monotonic() - begun < 30
        assert "fewer than 2 copies per shard after 3 s; readers move to it all the same" in caplog.text
        assert call(node.url, "GET", "/users/_count")["count"] == 1
        # They come by themselves once the cluster makes them.
        call(node.url, "PUT", "/_cluster/settings", {"persistent": {"cluster.routing.allocation.enable": "all"}})
        health = call(node.url, "GET", "/_cluster/health/users?wait_for_status=green&timeout=60s")
        assert not health["timed_out"]
        sink.close()

"""Fault D8: an older request that is carried out late overwrites nothing and brings nothing back."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from typing import Any, Optional

import pytest

from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.faults.front import Answer, Asked, Front
from tests.faults.rig import LONG
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Node, call, start_node
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

#: How long the older request is held up after the newer one is durable.
HELD_SECONDS = 90.0 if LONG else 1.0

ID = 7


class Held:
    """An ``intercept`` that keeps the first request which writes user 7, until it is let go."""

    def __init__(self, front: Front) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        self.answered = threading.Event()
        self._front = front
        self._armed = threading.Lock()
        front.intercept = self

    def __call__(self, asked: Asked) -> Optional[Answer]:
        wanted = asked.path.startswith("/_bulk") and any(
            b"users" in line and b'{"index"' in line and b'"_id":"%d"' % ID in line for line in asked.body.split(b"\n")
        )
        if not wanted or not self._armed.acquire(blocking=False):
            return None
        self.reached.set()
        self.go.wait()
        # Nobody waits for the answer any more; the node has the request all the same.
        answer = self._carry_out(asked)
        self.answered.set()
        return answer

    def _carry_out(self, asked: Asked) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._front._node, timeout=60)
        connection.request("POST", asked.path, asked.body, {"content-type": asked.headers["content-type"]})
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        return Answer(reply.status, data, {"content-type": "application/json"})


def delete_behind_a_held_write(deployment: Deployment, held: Held) -> None:
    """User 7 is written by a request that hangs, then deleted by one that is carried out."""
    deployment.settle()
    deployment.database.execute(f"UPDATE users SET name = 'late' WHERE id = {ID}")
    assert held.reached.wait(30)
    deployment.database.execute(f"DELETE FROM users WHERE id = {ID}")
    deployment.settle()
    deployment.assert_right()
    until = time.monotonic() + HELD_SECONDS
    wait_for(lambda: time.monotonic() > until, HELD_SECONDS + 30)


def start(deployment: Deployment, *guards: str) -> None:
    deployment.config["sinks"]["search"]["timeout_secs"] = 2
    deployment.start(["short_silences", *guards])
    deployment.settle()


def test_a_write_held_up_while_its_row_is_deleted_does_not_bring_it_back(
    deploy: MakeDeployment, front: Front, heals: Heals
) -> None:
    deployment = deploy(sink_port=front.port)
    start(deployment)
    held = Held(front)
    delete_behind_a_held_write(deployment, held)
    held.go.set()
    assert held.answered.wait(30)
    with heals():
        deployment.settle()
        deployment.assert_right()


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_write_held_up_over_a_reopened_index_does_not_bring_a_row_back(
    deploy: MakeDeployment, front: Front, opensearch_prefix: Any, heals: Heals, guarded: bool
) -> None:
    """Tombstones live in the running engine alone."""
    deployment = deploy(sink_port=front.port)
    start(deployment, *([] if guarded else ["engines_never_change"]))
    held = Held(front)
    delete_behind_a_held_write(deployment, held)
    # When the engine of the index begins anew
    (index,) = [name for name in opensearch_prefix.indexes() if "_users_" in name]
    opensearch_prefix.call("POST", f"/{index}/_close")
    opensearch_prefix.call("POST", f"/{index}/_open")
    wait_for(lambda: opensearch_prefix.status("GET", "/{p}users/_count") == 200, 30, "open again")
    finish(deployment, held, heals, guarded)


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_write_held_up_over_a_restart_of_the_node_does_not_bring_a_row_back(
    deploy: MakeDeployment, heals: Heals, guarded: bool
) -> None:
    with start_node() as node, contextlib.closing(Front(node.url)) as front:
        deployment = deploy(sink_port=front.port)
        deployment.opensearch = node.url
        start(deployment, *([] if guarded else ["engines_never_change"]))
        held = Held(front)
        try:
            delete_behind_a_held_write(deployment, held)
            restart(node, deployment)
            finish(deployment, held, heals, guarded)
        finally:
            held.go.set()


def restart(node: Node, deployment: Deployment) -> None:
    call(node.url, "POST", f"/{deployment.prefix}*/_flush?force=true")
    node.stop()
    node.start()

    def answers() -> bool:
        health = call(node.url, "GET", f"/_cluster/health/{deployment.prefix}*?timeout=1s")
        return health["status"] != "red"

    wait_for(answers, 60, "every shard is there again")


def finish(deployment: Deployment, held: Held, heals: Heals, guarded: bool) -> None:
    if guarded:
        deployment.daemon.wait_for(lambda: "are read again" in deployment.daemon.log, 60, "the watch sees it")
        deployment.settle()
    held.go.set()
    assert held.answered.wait(60)
    deployment.settle()
    if not guarded:
        assert deployment.differences(), "the guard is off and no difference was found: the test proves nothing"
        return
    with heals():
        deployment.settle()
        deployment.assert_right()
    assert "Traceback" not in deployment.daemon.log

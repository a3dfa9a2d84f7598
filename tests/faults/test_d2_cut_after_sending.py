"""Fault D2: a request was carried out and its answer is lost: writes go by key and version, so it is sent again."""

from __future__ import annotations

from typing import Callable

import pytest

from tests.faults.conftest import Heals
from tests.faults.rig import LONG, finish, port_of, writing
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.fix_proxy import Proxy
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]


def test_cuts_after_the_body_and_before_the_answer_lose_nothing(
    deploy: MakeDeployment, opensearch_prefix: Prefix, make_proxy: Callable[[int], Proxy], heals: Heals
) -> None:
    proxy = make_proxy(port_of(opensearch_prefix.url))
    deployment = deploy(sink_port=proxy.port, scale=3, backfill={"chunk_rows": 100})
    deployment.start()
    with writing(deployment, 31, 0.002) as writer:
        for number in range(500 if LONG else 25):
            # In its first bytes the answer is cut; the request was carried out.
            accepted = proxy.accepted
            proxy.cut_after(20 + 97 * number % 700, "down")
            wait_for(lambda before=accepted: proxy.accepted > before, 30, "a connection was cut and made anew")
        proxy.set("pass")
        with heals():
            deployment.settle()
        finish(deployment, writer)

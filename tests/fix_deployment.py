"""Fixture ``deploy``: a case's database, ``bin/flussod`` over it, OpenSearch behind it, the oracle beside it."""

from __future__ import annotations

from typing import Any, Callable, Iterator, Optional

import pytest

from tests.cases import SHOP, Case
from tests.deployment import Deployment
from tests.fix_daemon import MakeDaemon
from tests.postgres_server import Database

MakeDeployment = Callable[..., Deployment]


@pytest.fixture
def deploy(database: Database, opensearch_prefix: Any, make_daemon: MakeDaemon) -> Iterator[MakeDeployment]:
    """``deploy(case=SHOP, scale=1, source_url=None, sink_url=None, **settings) -> Deployment``; nothing is started.

    ``source_url`` and ``sink_url`` lead through a proxy; ``settings`` are further root keys of the configuration.
    """

    def make(
        case: Case = SHOP,
        scale: int = 1,
        source_url: Optional[str] = None,
        sink_url: Optional[str] = None,
        **settings: Any,
    ) -> Deployment:
        case.load(database.url, scale)
        deployment = Deployment(
            database,
            opensearch_prefix.url,
            opensearch_prefix.prefix,
            case,
            make_daemon,
            source_url=source_url,
            settings=settings,
        )
        if sink_url is not None:
            deployment.config["sinks"]["search"]["url"] = sink_url
        return deployment

    yield make

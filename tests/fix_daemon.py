"""``bin/flussod`` as a subprocess: its configuration written, port 0, waiting for conditions, nothing left running."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import pytest

from tests.postgres_server import die_with_parent
from tests.waiting import PAUSE_SECONDS, wait_for

CHECKOUT = Path(__file__).resolve().parent.parent
FLUSSOD = CHECKOUT / "bin" / "flussod"

Json = Dict[str, Any]
_PUBLIC_ADDRESS = re.compile(r"public\b.*?(127\.0\.0\.1:\d+)")


class DaemonEnded(AssertionError):
    """The daemon ended while a test waited for something; the message holds the end of its log."""


class DaemonProcess:
    """One daemon, started as often as a test likes; ``folder`` keeps its log and output over all starts."""

    def __init__(self, folder: Path, arguments: Sequence[str], env: Mapping[str, str], command: Sequence[str]) -> None:
        self.folder = folder
        self.arguments = list(arguments)
        self.env = dict(env)
        self.command = list(command)
        self.log_file = folder / "stderr.log"
        self.output_file = folder / "stdout.jsonl"
        self.process: Optional[subprocess.Popen[bytes]] = None
        self._log_begin = 0

    # -- life ---------------------------------------------------------------------------------------

    def start(self, *arguments: str) -> DaemonProcess:
        """Start with ``arguments`` after the usual ones; returns at once."""
        assert not self.running, "already running"
        self._log_begin = self.log_file.stat().st_size if self.log_file.exists() else 0
        command = [*self.command, "run", *self.arguments, *arguments]
        with open(self.output_file, "ab") as output, open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                cwd=str(self.folder),
                env=self.env,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        return self

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def exit_code(self) -> Optional[int]:
        """Of the last start; None while it runs."""
        return self.process.poll() if self.process else None

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end; returns the exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"flussod still runs after {timeout:g} s\n{self.log_tail()}") from None

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM and wait; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """``kill -9``."""
        self.signal(signal.SIGKILL)
        self.wait()

    # -- what it says -------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """Standard error since the last start."""
        with contextlib.suppress(FileNotFoundError), open(self.log_file, "rb") as file:
            file.seek(self._log_begin)
            return file.read().decode("utf-8", "replace")
        return ""

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.splitlines()[-lines:])

    @property
    def output(self) -> List[Json]:
        """Complete JSON lines of standard output, over all starts."""
        with contextlib.suppress(FileNotFoundError):
            text = self.output_file.read_text(encoding="utf-8")
            return [json.loads(line) for line in text.split("\n")[:-1]]
        return []

    @property
    def documents(self) -> Dict[Tuple[str, str], Any]:
        """What the lines of standard output add up to: (index, id) -> document."""
        documents: Dict[Tuple[str, str], Any] = {}
        for line in self.output:
            if line["op"] == "delete":
                documents.pop((line["index"], line["id"]), None)
            else:
                documents[line["index"], line["id"]] = line["document"]
        return documents

    @property
    def url(self) -> str:
        """The public surface, without a trailing slash; waits until the log names it."""
        address: str = self.wait_for(self._address, message="the log names the public address")
        return "http://" + address

    def _address(self) -> str:
        found = _PUBLIC_ADDRESS.search(self.log)
        return found.group(1) if found else ""

    def get(self, path: str, timeout: float = 5.0) -> Tuple[int, str]:
        """Status and body of a GET on the public surface."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def status(self) -> Json:
        status: Json = json.loads(self.get("/status")[1])
        return status

    def resident_bytes(self) -> int:
        """Resident memory now (Linux)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    # -- waiting ------------------------------------------------------------------------------------

    def wait_for(
        self, condition: Callable[[], Any], timeout: float = 60.0, message: str = "", pause: float = PAUSE_SECONDS
    ) -> Any:
        """Wait for ``condition()``; a daemon that ends meanwhile, or the deadline, fails with its log."""

        def alive() -> Any:
            answer = condition()
            if not answer and not self.running:
                raise DaemonEnded(f"flussod ended with code {self.exit_code}\n{self.log_tail()}")
            return answer

        try:
            return wait_for(alive, timeout, message, pause)
        except DaemonEnded:
            raise
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None

    def wait_for_status(
        self, condition: Callable[[Json], Any], timeout: float = 60.0, message: str = "", pause: float = PAUSE_SECONDS
    ) -> Json:
        """Wait until ``condition`` holds for ``/status``; returns that status.

        Each answer costs the daemon time; whoever measures it asks with a longer ``pause``, in seconds.
        """

        def ask() -> Optional[Json]:
            try:
                status = self.status()
            except OSError:
                return None
            return status if condition(status) else None

        answer: Json = self.wait_for(ask, timeout, message or "/status", pause)
        return answer

    def wait_until_live(self, timeout: float = 60.0) -> DaemonProcess:
        """Every index built, live changes flowing."""
        self.wait_for_status(lambda status: status["phase"] == "live", timeout, "phase live")
        return self


MakeDaemon = Callable[..., DaemonProcess]


def clean_environment(**extra: str) -> Dict[str, str]:
    """Ours, without what would configure a daemon from outside the test."""
    foreign = re.compile(r"FLUSSO_|OTEL_|PG[A-Z]+$|DATABASE_URL$|\w+_OPENSEARCH_")
    return {**{k: v for k, v in os.environ.items() if not foreign.match(k)}, **extra}


def write_yaml(path: Path, value: Union[str, Mapping[str, Any]]) -> None:
    """Text as it is; a mapping as JSON, which is YAML that no reader takes for something else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))


@contextlib.contextmanager
def daemons(folder: Path) -> Iterator[MakeDaemon]:
    """The factory behind the fixture, for scripts that are no tests."""
    made: List[DaemonProcess] = []

    def make(
        config: Union[str, Mapping[str, Any]],
        schemas: Optional[Mapping[str, Union[str, Mapping[str, Any]]]] = None,
        *arguments: str,
        env: Optional[Mapping[str, str]] = None,
        command: Sequence[str] = (str(FLUSSOD),),
        name: str = "",
        start: bool = True,
    ) -> DaemonProcess:
        place = folder / (name or f"daemon{len(made) + 1}")
        place.mkdir(parents=True, exist_ok=True)
        write_yaml(place / "flusso.yaml", config)
        for file, schema in (schemas or {}).items():
            write_yaml(place / file, schema)
        addresses = ["--public-address", "127.0.0.1:0", "--private-address", "127.0.0.1:0"]
        usual = ["-c", str(place / "flusso.yaml"), *addresses, *arguments]
        daemon = DaemonProcess(place, usual, clean_environment(**(env or {})), command)
        made.append(daemon)
        return daemon.start() if start else daemon

    try:
        yield make
    finally:
        for daemon in made:
            if daemon.running:
                daemon.signal(signal.SIGTERM)
        for daemon in made:
            if daemon.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.process.wait(10)
                if daemon.running:
                    daemon.kill()


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """``make_daemon(config, {file: schema}, *arguments, env=, command=, name=, start=True) -> DaemonProcess``.

    ``config`` and schemas are YAML text or mappings, written into a folder of the daemon's own; every daemon
    is stopped at the end of the test.
    """
    with daemons(tmp_path) as make:
        yield make

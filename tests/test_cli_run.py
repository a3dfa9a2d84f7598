"""``flussod run``: flags over variables over the file, signals, exit codes, and an end in bounded time."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
from click.testing import CliRunner

from flusso_sync.cli.commands import flussod
from tests.fix_daemon import clean_environment
from tests.postgres_server import die_with_parent
from tests.waiting import wait_for

DOUBLE = Path(__file__).resolve().parent / "daemon_double.py"


class Program:
    """The command line in a process, with a daemon double in the given mode."""

    def __init__(self, folder: Path, mode: str, *arguments: str, read_log: bool = True, **environ: str) -> None:
        config = folder / "flusso.yaml"
        if not config.exists():
            config.write_text("source: {type: postgres}\n")
        self.log_file = folder / "stderr.log"
        self.output_file = folder / "stdout.log"
        with open(self.log_file, "wb") as log, open(self.output_file, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(DOUBLE), mode, "--public-address", "127.0.0.1:0", *arguments],
                cwd=str(folder),
                env=clean_environment(**environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log if read_log else subprocess.PIPE,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def output(self) -> Dict[str, Any]:
        answer: Dict[str, Any] = json.loads(self.output_file.read_text())
        return answer

    def url(self) -> str:
        def find() -> Optional[str]:
            found = re.search(r"public surface on (http://[\d.:]+)", self.log)
            return found.group(1) if found else None

        return wait_for(find, 20, "the log names the address") or ""

    def wait_until_live(self) -> "Program":
        url = self.url()

        def live() -> bool:
            with urllib.request.urlopen(url + "/status", timeout=5) as answer:
                return bool(json.load(answer)["phase"] == "live")

        wait_for(live, 20)
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 20) -> int:
        return self.process.wait(timeout)


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    programs: List[Program] = []

    def start_one(mode: str, *arguments: str, **options: Any) -> Program:
        programs.append(Program(tmp_path, mode, *arguments, **options))
        return programs[-1]

    yield start_one
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
        program.process.wait(10)
        if program.process.stderr is not None:
            program.process.stderr.close()


# -- what the daemon is given ---------------------------------------------------------------------------


def test_flags_win_over_variables_and_variables_over_the_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "flusso.yaml").write_text(
        "source: {type: postgres, on_gap: rebuild, on_blind_table: stop}\n"
        "prefix: file_\n"
        "backfill: {workers: 1}\n"
        "server: {admin_user: file, private_address: '127.0.0.1:1'}\n"
    )
    program = start(
        "tell",
        "--on-gap",
        "stop",
        "--slot",
        "Mine",
        "--queue-capacity",
        "7",
        FLUSSO_ON_GAP="rebuild",
        FLUSSO_INDEX_PREFIX="dev_",
        FLUSSO_BACKFILL_WORKERS="3",
        FLUSSO_MANAGE_REPLICA_IDENTITY="false",
        FLUSSO_MANAGE_PUBLICATION="true",
        FLUSSO_SKIP_BACKFILL="true",
        FLUSSO_PRETTY="false",
        FLUSSO_LAG_POLL_SECS="2.5",
        FLUSSO_ADMIN_PASSWORD="canary",
    )
    assert program.end() == 0, program.log
    told = program.output
    assert told["options"] == {
        "slot": "mine",
        "publication": None,
        "manage_publication": True,
        "skip_backfill": True,
        "adopt": False,
        "queue_capacity": 7,
        "pretty": False,
        "lag_poll_interval": 2.5,
    }
    assert (told["prefix"], told["workers"]) == ("dev_", 3)
    assert told["source"]["on_gap"] == "stop"
    assert told["source"]["on_blind_table"] == "stop"
    assert told["source"]["manage_replica_identity"] is False
    assert (told["private"], told["admin_user"], told["admin_password"]) == ("127.0.0.1:1", "file", "canary")
    assert "canary" not in program.log
    assert told["addresses"]["public"] in program.log


def test_without_flags_the_daemon_is_told_nothing(start: Start) -> None:
    program = start("tell")
    assert program.end() == 0, program.log
    options = program.output["options"]
    assert options.pop("adopt") is False
    assert set(options.values()) == {None}


def test_a_publication_managed_by_others_warns_of_blind_tables_unless_told_otherwise(start: Start) -> None:
    program = start("tell", "--manage-publication", "false")
    assert program.end() == 0
    assert program.output["source"]["on_blind_table"] == "warn"
    program = start("tell", "--manage-publication", "false", "--on-blind-table", "stop")
    assert program.end() == 0
    assert program.output["source"]["on_blind_table"] == "stop"


def test_overrides_and_warnings_are_said_at_the_start_without_their_values(start: Start) -> None:
    program = start("finish", DATABASE_URL="postgresql://app:canary@db/shop")
    assert program.end() == 0
    assert "DATABASE_URL overrides source.connection_url" in program.log
    assert "canary" not in program.log


# -- surfaces -------------------------------------------------------------------------------------------


def test_without_a_password_the_private_surface_is_not_served_and_one_line_says_so(start: Start) -> None:
    program = start("tell", FLUSSO_ADMIN_PASSWORD="")
    assert program.end() == 0
    assert set(program.output["addresses"]) == {"public"}
    assert program.log.count("the private surface is not served") == 1


def test_with_a_password_the_private_surface_asks_for_it(start: Start) -> None:
    program = start("wait", "--private-address", "127.0.0.1:0", FLUSSO_ADMIN_PASSWORD="canary").wait_until_live()
    address = _status(program.url())["addresses"]["private"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{address}/indexes", timeout=5)
    assert refused.value.code == 401
    refused.value.close()
    token = base64.b64encode(b"admin:canary").decode()
    request = urllib.request.Request(f"http://{address}/indexes", headers={"Authorization": f"Basic {token}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert json.load(answer) == {}
    program.signal(signal.SIGTERM)
    assert program.end() == 0
    assert "canary" not in program.log


def test_a_password_whose_variable_is_unset_is_3(start: Start, tmp_path: Path) -> None:
    (tmp_path / "flusso.yaml").write_text("source: {type: postgres}\nserver: {admin_password: {env: NOBODY_SETS_ME}}\n")
    program = start("finish")
    assert program.end() == 3
    assert "NOBODY_SETS_ME" in program.log and "server.admin_password" in program.log


# -- usage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environ", "sentence"),
    [
        (("--queue-capacity", "0"), {}, "--queue-capacity"),
        (("--slot", "a-b"), {}, "--slot"),
        (("--on-gap", "ignore"), {}, "--on-gap"),
        (("--public-address", "localhost:9464"), {}, "--public-address"),
        (("--manage-publication", "yes"), {}, "neither true nor false"),
        (("--nonsense",), {}, "--nonsense"),
        ((), {"FLUSSO_SKIP_BACKFILL": "1"}, "FLUSSO_SKIP_BACKFILL"),
        ((), {"FLUSSO_PRETTY": "yes"}, "FLUSSO_PRETTY"),
        ((), {"FLUSSO_MANAGE_PUBLICATION": "1"}, "--manage-publication"),
        ((), {"FLUSSO_MANAGE_REPLICA_IDENTITY": "True"}, "--manage-replica-identity"),
    ],
)
def test_wrong_usage_is_2_and_names_the_flag_or_variable(
    arguments: List[str], environ: Dict[str, str], sentence: str
) -> None:
    answer = CliRunner().invoke(flussod, arguments, env=environ)
    assert answer.exit_code == 2
    assert sentence in answer.output


def test_wrong_usage_ends_the_process_with_2(start: Start) -> None:
    program = start("finish", "--nonsense")
    assert program.end() == 2
    assert "--nonsense" in program.log and "Traceback" not in program.log


# -- what is refused ------------------------------------------------------------------------------------


def test_a_refused_configuration_is_3_with_every_problem_and_no_stack_trace(start: Start, tmp_path: Path) -> None:
    (tmp_path / "flusso.yaml").write_text("source: {type: postgres, slotty: x}\non_error: maybe\n")
    program = start("finish")
    assert program.end() == 3
    assert "2 problems" in program.log
    assert "slotty" in program.log and "on_error" in program.log
    assert "flusso.yaml:1:" in program.log and "flusso.yaml:2:" in program.log
    assert "Traceback" not in program.log


def test_a_refused_configuration_in_json_logs_is_json(start: Start, tmp_path: Path) -> None:
    (tmp_path / "flusso.yaml").write_text("nothing: here\n")
    program = start("finish", FLUSSO_LOG_FORMAT="json")
    assert program.end() == 3
    assert any("nothing" in json.loads(line)["fields"]["message"] for line in program.log.splitlines())


def test_a_bad_prefix_from_a_variable_is_refused(start: Start) -> None:
    program = start("finish", FLUSSO_INDEX_PREFIX="BAD PREFIX")
    assert program.end() == 3
    assert "prefix" in program.log


def test_a_busy_address_is_3_and_names_it(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        program = start("finish", "--public-address", address)
        assert program.end() == 3
    assert address in program.log and "Traceback" not in program.log


def test_an_error_of_the_source_is_its_code_with_message_and_hint(start: Start) -> None:
    program = start("refuse")
    assert program.end() == 4
    assert "password authentication failed" in program.log and "Mend it" in program.log
    assert "Traceback" not in program.log
    assert "canary" not in program.log


def test_an_error_of_ours_is_1_with_its_stack_trace(start: Start) -> None:
    program = start("crash")
    assert program.end() == 1
    assert "Traceback" in program.log and "ZeroDivisionError: a mistake of ours" in program.log


def test_the_death_of_the_surface_ends_the_daemon_with_1(start: Start) -> None:
    program = start("lose_surface")
    assert program.end() == 1
    assert "the public surface died" in program.log


# -- signals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_0_in_time(start: Start, number: int) -> None:
    program = start("slow").wait_until_live()
    begin = monotonic()
    program.signal(number)
    assert program.end() == 0
    assert 0.5 <= monotonic() - begin < 4
    assert "stopping" in program.log and program.log.rstrip().endswith("stopped")


def test_the_surface_answers_until_the_daemon_has_stopped(start: Start) -> None:
    program = start("slow").wait_until_live()
    url = program.url()
    program.signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in program.log)
    with urllib.request.urlopen(url + "/healthz", timeout=5) as answer:
        assert answer.status == 200
    assert program.end() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_at_once(start: Start, number: int, code: int) -> None:
    program = start("deaf").wait_until_live()
    program.signal(number)
    wait_for(lambda: "stopping" in program.log)
    with pytest.raises(subprocess.TimeoutExpired):
        program.end(0.5)
    begin = monotonic()
    program.signal(number)
    assert program.end() == code
    assert monotonic() - begin < 4
    assert "ending at once" in program.log


def test_two_signals_at_once_are_one_request(start: Start) -> None:
    program = start("slow").wait_until_live()
    program.signal(signal.SIGINT)
    program.signal(signal.SIGTERM)
    assert program.end() == 0


@pytest.mark.slow
def test_whatever_hangs_the_process_is_gone_within_5_seconds(start: Start) -> None:
    program = start("deaf").wait_until_live()
    begin = monotonic()
    program.signal(signal.SIGTERM)
    assert program.end() == 0
    assert 4 < monotonic() - begin < 8
    assert "ending by force" in program.log


def test_hangup_reads_the_configuration_anew(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "flusso.yaml"
    text = "source: {type: postgres}\nserver: {private_address: '127.0.0.1:0', admin_password: canary-one}\n"
    file.write_text(text)
    program = start("wait").wait_until_live()
    url, first = program.url(), _status(program.url())["configuration"]
    address = _status(url)["addresses"]["private"]
    assert first["waits_for_restart"] == [] and _code(address, "canary-one") == 200

    file.write_text(text.replace("canary-one", "canary-two") + "backfill: {workers: 7}\nquarantine: {limit: 5}\n")
    program.signal(signal.SIGHUP)
    wait_for(lambda: "changed" in _status(url)["configuration"], 20)
    told = _status(url)["configuration"]
    assert told["changed"] == ["server.admin_password", "backfill.workers"]
    assert told["waits_for_restart"] == ["quarantine.limit"]
    assert told["read_at"] > first["read_at"]
    assert "in force now: server.admin_password, backfill.workers" in program.log
    assert "takes a restart: quarantine.limit" in program.log
    assert (_code(address, "canary-two"), _code(address, "canary-one")) == (200, 401)

    # A broken file changes nothing, and says so.
    file.write_text("source: {type: postgres, slotty: x}\non_error: maybe\n")
    program.signal(signal.SIGHUP)
    wait_for(lambda: _status(url)["trouble"], 20)
    (trouble,) = _status(url)["trouble"]
    assert "refused" in trouble["what"] and "slotty" in trouble["what"] and "1 more" in trouble["what"]
    assert not trouble["blocking"] and _status(url)["configuration"] == told
    assert "on_error" in program.log and "Traceback" not in program.log
    assert _code(address, "canary-two") == 200
    file.write_text(text.replace("canary-one", "{file: not-there}"))
    program.signal(signal.SIGHUP)
    wait_for(lambda: "not-there cannot be read" in _status(url)["trouble"][0]["what"], 20)
    assert _code(address, "canary-two") == 200

    file.write_text(text.replace("canary-one", "canary-two"))
    program.signal(signal.SIGHUP)
    wait_for(lambda: not _status(url)["trouble"], 20)
    assert _status(url)["configuration"]["waits_for_restart"] == []
    program.signal(signal.SIGTERM)
    assert program.end() == 0
    assert "canary" not in program.log


def test_a_flag_wins_over_what_is_read_anew(start: Start, tmp_path: Path) -> None:
    program = start("wait", "--backfill-workers", "3").wait_until_live()
    (tmp_path / "flusso.yaml").write_text("source: {type: postgres}\nbackfill: {workers: 7}\n")
    program.signal(signal.SIGHUP)
    wait_for(lambda: "nothing to change at once" in program.log, 20)
    program.signal(signal.SIGTERM)
    assert program.end() == 0


def _code(address: str, password: str) -> int:
    token = base64.b64encode(f"admin:{password}".encode()).decode()
    request = urllib.request.Request(f"http://{address}/indexes", headers={"Authorization": f"Basic {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_finite_source_ends_with_0(start: Start) -> None:
    program = start("finish")
    assert program.end() == 0


# -- standard error -------------------------------------------------------------------------------------


def test_a_log_that_nobody_reads_holds_up_neither_the_daemon_nor_its_end(start: Start) -> None:
    address = _free_address()
    program = start("spam", "--public-address", address, read_log=False)
    url = f"http://{address}"
    _wait_for_http(url)
    # The pipe holds 64 kB and a line has 2: by now it is long full.
    wait_for(lambda: _status(url)["uptime_seconds"] >= 1)
    begin = monotonic()
    program.signal(signal.SIGTERM)
    assert program.end() == 0
    assert monotonic() - begin < 4


def test_a_closed_standard_error_is_survived(tmp_path: Path) -> None:
    (tmp_path / "flusso.yaml").write_text("source: {type: postgres}\n")
    answer = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" "{DOUBLE}" tell --public-address 127.0.0.1:0 2>&- <&-'],
        cwd=str(tmp_path),
        env=clean_environment(),
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert answer.returncode == 0
    assert json.loads(answer.stdout)["addresses"]["public"].startswith("127.0.0.1:")


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _status(url: str) -> Dict[str, Any]:
    with urllib.request.urlopen(url + "/status", timeout=5) as answer:
        status: Dict[str, Any] = json.load(answer)
        return status


def _wait_for_http(url: str) -> None:
    def answers() -> bool:
        try:
            return bool(_status(url)["phase"] == "live")
        except (urllib.error.URLError, OSError):
            return False

    wait_for(answers, 20)

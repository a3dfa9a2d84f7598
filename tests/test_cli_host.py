"""The place of a run on its host: pid file, log file, background, another user, and the word a starter waits for."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List, Optional

import click
import pytest
from click.testing import CliRunner

from flusso_sync.cli import host as host_module
from flusso_sync.cli.account import Account, account
from flusso_sync.cli.commands import flussod
from flusso_sync.cli.host import UserCannotRead
from flusso_sync.cli.notify import notify
from flusso_sync.cli.pidfile import PidFile, PidFileHeld, PidFileUnusable
from tests.fix_daemon import clean_environment
from tests.waiting import wait_for

TESTS = Path(__file__).resolve().parent

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
linux = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="looks into /proc")


class Place:
    """A folder with a configuration, the files of a daemon, and that daemon, if it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pidfile = folder / "flussod.pid"
        self.log_file = folder / "flussod.log"
        (folder / "flusso.yaml").write_text("source: {type: postgres}\n")
        self.launcher = TESTS / "daemon_double.py"

    def command(self, mode: str, *arguments: str) -> List[str]:
        files = ["--pidfile", str(self.pidfile), "--log-file", str(self.log_file)]
        return [sys.executable, str(self.launcher), mode, "--public-address", "127.0.0.1:0", *files, *arguments]

    def run(self, mode: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run until it returns, and until nobody has its standard output and error any more."""
        return subprocess.run(
            self.command(mode, *arguments),
            cwd=self.folder,
            env=clean_environment(**environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )

    def daemonize(self, mode: str = "wait", *arguments: str, **environ: str) -> int:
        """Start in the background; returns the process id."""
        ran = self.run(mode, "--daemonize", *arguments, **environ)
        assert ran.returncode == 0, ran.stderr
        return self.pid

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not alive(pid), 20, "it ends")


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and is waited for by nobody is none (Linux)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return not os.path.isdir("/proc/self")
    return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    with contextlib.suppress(OSError, ValueError):
        os.kill(made.pid, signal.SIGKILL)


# -- background -----------------------------------------------------------------------------------------


def test_it_returns_0_once_the_daemon_runs_and_holds_nothing_of_the_starter(place: Place) -> None:
    pid = place.daemonize()
    assert alive(pid) and os.getsid(pid) not in (pid, os.getsid(0))
    assert "phase is live" in place.log and "standard output are read by nobody" in place.log
    if os.path.isdir("/proc/self"):
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert Path(f"/proc/{pid}/comm").read_text() == "flussod\n"
        opened = [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)]
        assert opened == ["/dev/null", "/dev/null", str(place.log_file)]
    place.stop(pid)
    assert not place.pidfile.exists()
    assert place.log.rstrip().endswith("stopped")


def test_a_refused_configuration_is_told_by_the_process_that_was_started(place: Place) -> None:
    (place.folder / "flusso.yaml").write_text("source: {type: postgres, slotty: x}\n")
    ran = place.run("wait", "--daemonize")
    assert ran.returncode == 3
    assert "flusso.yaml:1:" in ran.stderr and "slotty" in ran.stderr and "Traceback" not in ran.stderr
    assert "slotty" in place.log
    wait_for(lambda: not place.pidfile.exists(), 20, "the pid file is removed")


def test_a_source_that_refuses_at_the_first_connect_is_told_with_its_code(place: Place) -> None:
    ran = place.run("refuse", "--daemonize")
    assert ran.returncode == 4
    assert "password authentication failed" in ran.stderr and "Mend it" in ran.stderr
    assert "canary" not in ran.stderr + place.log


def test_an_outage_at_the_start_is_no_failure_and_is_told(place: Place) -> None:
    ran = place.run("outage", "--daemonize")
    assert ran.returncode == 0
    assert "flussod runs, and waits: the database is away" in ran.stderr
    place.stop(place.pid)


def test_an_error_of_ours_at_the_start_is_1(place: Place) -> None:
    ran = place.run("nonsense", "--daemonize")
    assert ran.returncode == 1
    assert "AttributeError" in ran.stderr and "Traceback" in place.log


def test_a_daemon_that_ends_at_once_is_told_as_it_ended(place: Place) -> None:
    ran = place.run("finish", "--daemonize")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_in_the_background_a_log_file_is_needed() -> None:
    answer = CliRunner().invoke(flussod, ["run", "--daemonize"])
    assert answer.exit_code == 2
    assert "--log-file" in answer.output


# -- pid file -------------------------------------------------------------------------------------------


def test_a_second_daemon_ends_with_8_and_a_sentence_and_disturbs_nothing(place: Place) -> None:
    pid = place.daemonize()
    for arguments in ((), ("--daemonize",)):
        ran = place.run("wait", *arguments)
        assert ran.returncode == 8
        assert f"a daemon runs already: process {pid} holds {place.pidfile}" in ran.stderr
    assert place.pid == pid and alive(pid)
    place.stop(pid)


def test_what_kill_9_leaves_behind_is_recognised_whoever_has_the_number_now(place: Place) -> None:
    killed = place.daemonize()
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: not alive(killed))
    assert place.pid == killed
    # A process that lives, and is no daemon.
    place.pidfile.write_text(f"{os.getpid()}\n")
    pid = place.daemonize()
    assert pid not in (killed, os.getpid())
    assert f"was left behind by process {os.getpid()}, which holds it no more" in place.log
    place.stop(pid)


def test_a_file_that_is_no_pid_file_is_left_as_it_is(place: Place) -> None:
    place.pidfile.write_text("precious words\n")
    ran = place.run("wait")
    assert ran.returncode == 3
    assert "holds something else than a process id" in ran.stderr
    assert place.pidfile.read_text() == "precious words\n"


def test_a_pid_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(PidFileUnusable, match="it is a link"):
        PidFile(str(tmp_path / "link")).take()


def test_a_pid_file_in_a_folder_that_is_not_there_is_3(place: Place) -> None:
    place.pidfile = place.folder / "not there" / "flussod.pid"
    ran = place.run("wait", "--daemonize")
    assert ran.returncode == 3
    assert "cannot be written: No such file or directory" in ran.stderr


def test_the_lock_outlives_whoever_forked_and_ends_with_the_last(tmp_path: Path) -> None:
    path = str(tmp_path / "pid")
    first = PidFile(path)
    first.take()
    first.write()
    with pytest.raises(PidFileHeld, match=f"process {os.getpid()} holds"):
        PidFile(path).take()
    first.release()
    assert not os.path.exists(path)
    second = PidFile(path)
    second.take()
    # A file that somebody made meanwhile is not ours to remove.
    os.unlink(path)
    Path(path).write_text("")
    second.write()
    second.release()
    assert os.path.exists(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_by_force_the_pid_file_goes_too(place: Place, number: int) -> None:
    pid = place.daemonize("deaf")
    os.kill(pid, number)
    wait_for(lambda: "stopping" in place.log)
    time.sleep(0.3)  # two signals that come together are one request
    os.kill(pid, number)
    wait_for(lambda: not alive(pid), 4, "it ends at once")
    assert not place.pidfile.exists()


# -- log file -------------------------------------------------------------------------------------------


def test_usr1_opens_the_log_anew_and_no_line_is_lost_or_torn(place: Place) -> None:
    pid = place.daemonize("count")
    moved = []
    for number in range(3):
        moved.append(place.folder / f"flussod.log.{number}")
        lines = len(place.log.splitlines())
        wait_for(lambda lines=lines: len(place.log.splitlines()) > lines + 20)
        place.log_file.rename(moved[-1])
        os.kill(pid, signal.SIGUSR1)
        wait_for(place.log_file.exists)
    wait_for(lambda: "line " in place.log)
    place.stop(pid)
    whole = "".join(file.read_text() for file in [*moved, place.log_file])
    counted = [int(found) for found in re.findall(r"^\S+Z  INFO \[\w+\] engine: line (\d+) x+$", whole, re.MULTILINE)]
    assert counted == list(range(len(counted))) and len(counted) > 60
    assert "dropped" not in whole


def test_a_log_file_that_cannot_be_opened_anew_goes_on_in_the_former(place: Place) -> None:
    pid = place.daemonize()
    former = place.folder / "former"
    place.log_file.rename(former)
    place.log_file.mkdir()
    os.kill(pid, signal.SIGUSR1)
    wait_for(lambda: "the log goes on in the former file" in former.read_text())
    place.stop(pid)
    assert former.read_text().rstrip().endswith("stopped")


def test_a_log_file_that_cannot_be_written_is_3(place: Place) -> None:
    place.log_file = place.folder / "not there" / "flussod.log"
    ran = place.run("wait")
    assert ran.returncode == 3
    assert "the log file" in ran.stderr and "No such file or directory" in ran.stderr


def test_in_the_foreground_the_last_sentence_is_seen_on_standard_error_too(place: Place) -> None:
    ran = place.run("refuse")
    assert ran.returncode == 4
    assert ran.stderr == re.sub(r"(?s).*(error: password)", r"\1", place.log)
    assert "password authentication failed" in place.log


def test_without_a_log_file_usr1_ends_nothing(place: Place) -> None:
    command = [sys.executable, str(place.launcher), "wait", "--public-address", "127.0.0.1:0"]
    with open(place.log_file, "wb") as log:
        process = subprocess.Popen(command, cwd=place.folder, env=clean_environment(), stderr=log)
    try:
        wait_for(lambda: "phase is live" in place.log, 20)
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "SIGUSR1 is ignored" in place.log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


# -- another user ---------------------------------------------------------------------------------------


@as_root
@linux
def test_it_becomes_the_user_once_the_files_are_open(place: Place) -> None:
    nobody = pwd.getpwnam("nobody")
    place.launcher = TESTS / "preloaded.py"
    logs = place.folder / "logs"
    logs.mkdir()
    os.chown(logs, nobody.pw_uid, nobody.pw_gid)
    place.log_file = logs / "flussod.log"
    closed = place.folder / "root's"
    closed.mkdir(mode=0o700)
    place.pidfile = closed / "flussod.pid"
    with _walkable(place.folder):
        pid = place.daemonize("wait", "--user", "nobody")
        status = Path(f"/proc/{pid}/status").read_text()
        for what, number in (("Uid", nobody.pw_uid), ("Gid", nobody.pw_gid)):
            assert re.search(rf"^{what}:\t{number}\t{number}\t{number}\t{number}$", status, re.MULTILINE), status
        assert not re.search(r"^Groups:.*\b0\b", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE), status
        assert (place.log_file.stat().st_uid, place.log_file.stat().st_mode & 0o777) == (nobody.pw_uid, 0o640)
        # What it opens later, it opens as that user.
        place.log_file.rename(logs / "former")
        os.kill(pid, signal.SIGUSR1)
        wait_for(place.log_file.exists)
        assert place.log_file.stat().st_uid == nobody.pw_uid
        place.stop(pid)
    # It may not remove the file from a folder of root's, so it says that it is gone.
    assert place.pidfile.read_text() == ""


@contextlib.contextmanager
def _walkable(folder: Path) -> Iterator[None]:
    """Let every user reach ``folder`` for a while."""
    opened = []
    try:
        for step in [folder, *folder.parents]:
            mode = step.stat().st_mode
            if not mode & 0o001:
                opened.append((step, mode))
                step.chmod(mode | 0o011)
        yield
    finally:
        for step, mode in opened:
            step.chmod(mode)


@as_root
def test_a_log_file_of_another_user_is_not_opened_through_a_link(place: Place) -> None:
    target = place.folder / "target"
    place.log_file.symlink_to(target)
    ran = place.run("wait", "--user", "nobody")
    assert ran.returncode == 3
    assert "it is a link" in ran.stderr and not target.exists()


def test_an_unknown_user_is_2(place: Place) -> None:
    ran = place.run("wait", "--user", "nobody-has-this-name")
    assert ran.returncode == 2
    assert "there is no user 'nobody-has-this-name' on this host" in ran.stderr
    assert not place.pidfile.exists() and not place.log_file.exists()


def test_only_root_becomes_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(click.BadParameter, match="only root can become 'root'; this is the user with id 4711"):
        account("root")


def test_whoever_it_is_already_needs_no_right(monkeypatch: pytest.MonkeyPatch) -> None:
    ourselves = pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(os, "setuid", None)
    found = account(ourselves)
    assert found.is_ours
    found.become()


def test_a_user_who_cannot_read_the_program_is_named_with_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserCannotRead, match=r"the user web cannot read \S*flusso_sync"):
        host_module._check_readable(Account("web", 1, 1, "/"))


# -- a service manager ----------------------------------------------------------------------------------


def test_a_service_manager_is_told_when_it_runs_and_when_it_stops(place: Place, tmp_path: Path) -> None:
    with _manager(tmp_path / "notify") as (address, manager):
        process = subprocess.Popen(
            place.command("wait"), cwd=place.folder, env=clean_environment(NOTIFY_SOCKET=address)
        )
        try:
            assert manager.recv(4096).decode() == "READY=1\nSTATUS=live"
            process.send_signal(signal.SIGTERM)
            assert manager.recv(4096).decode() == "STOPPING=1"
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


def test_a_service_manager_is_told_of_an_outage_only_while_it_lasts(place: Place, tmp_path: Path) -> None:
    with _manager(tmp_path / "notify") as (address, manager):
        process = subprocess.Popen(
            place.command("passing_outage"), cwd=place.folder, env=clean_environment(NOTIFY_SOCKET=address)
        )
        try:
            said = manager.recv(4096).decode()
            assert said.startswith("READY=1\nSTATUS=")
            if said.endswith("=live"):
                said = manager.recv(4096).decode()
            assert said.endswith("STATUS=the database is away")
            (place.folder / "back").touch()
            assert manager.recv(4096).decode() == "STATUS=live"
            process.send_signal(signal.SIGTERM)
            assert manager.recv(4096).decode() == "STOPPING=1"
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


@linux
def test_a_name_without_a_file_is_told_too() -> None:
    name = f"flusso-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(20)
        assert notify("READY=1", "STATUS=two\nlines", environ={"NOTIFY_SOCKET": "@" + name})
        assert manager.recv(100) == b"READY=1\nSTATUS=two lines"


@pytest.mark.parametrize("address", [None, "", "nonsense", "/nowhere/at/all"])
def test_where_nobody_listens_nothing_is_told(address: Optional[str]) -> None:
    assert not notify("READY=1", environ={} if address is None else {"NOTIFY_SOCKET": address})


@contextlib.contextmanager
def _manager(path: Path) -> Iterator["tuple[str, socket.socket]"]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(30)
        yield str(path), listening

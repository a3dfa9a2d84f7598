"""The files of ``etc/`` for hosts, run: the init script under a real sh with and without start-stop-daemon, the unit by
systemd-analyze, logrotate over a daemon that writes on.  One Postgres and one SQLite file for all.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any, Iterator, Optional

import psycopg
import pytest

from tests.fix_daemon import CHECKOUT, FLUSSOD, clean_environment, write_yaml
from tests.fix_pg import unavailable
from tests.postgres_server import Database, PostgresServer
from tests.test_cli_host import alive
from tests.waiting import wait_for

ETC = CHECKOUT / "etc"
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:{SBIN}"

#: What is left of a host that has nothing: the shell, what the script names at its head, what bin/flussod needs.
FEW_TOOLS = ("sh", "sleep", "rm", "mkdir", "chown", "readlink")


def tool(name: str, package: str = "") -> str:
    """Where a program is; without it the test is skipped, or fails under CI."""
    found = shutil.which(name, path=PATH)
    if found is None:
        unavailable(f"no {name} on the PATH (Debian: apt-get install {package or name})")
        raise AssertionError
    return found


class Ran:
    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.code, self.output, self.errors = done.returncode, done.stdout, done.stderr

    def __repr__(self) -> str:
        return f"code {self.code}\n{self.output}\n{self.errors}"


class OldHost:
    """A folder like the root of a host: ``etc`` with our files in it, a daemon's log, pid file and documents."""

    def __init__(self, root: Path, database: Database) -> None:
        self.database = database
        self.etc = root / "etc"
        self.pidfile = root / "run" / "flussod.pid"
        self.log_file = root / "var" / "log" / "flusso" / "flussod.log"
        self.documents = root / "shop.sqlite"
        self.script = self.etc / "init.d" / "flussod"
        self.settings = self.etc / "default" / "flussod"
        self.config = self.etc / "flusso" / "flusso.yaml"
        self.few = root / "few"
        self.script.parent.mkdir(parents=True)
        shutil.copy(ETC / "init.d" / "flussod", self.script)
        self.pidfile.parent.mkdir()
        self.few.mkdir()
        for name in FEW_TOOLS:
            (self.few / name).symlink_to(tool("dash" if name == "sh" else name, "dash"))
        self.configure()
        self.set_up()

    def configure(self, **settings: Any) -> None:
        """Write the configuration: the three indexes of ``etc/``, one SQLite file."""
        write_yaml(
            self.config,
            {
                "source": {
                    "type": "postgres",
                    "slot": f"flusso_{self.database.name}"[:60],
                    "publication": "shop",
                },
                "sinks": {"file": {"type": "sqlite", "path": str(self.documents)}},
                "index": [
                    {"name": name, "schema": str(ETC / "schemas" / f"{name}.schema.yml")}
                    for name in ("users", "orders", "products")
                ],
                **settings,
            },
        )

    def set_up(self, **changed: str) -> None:
        """Write etc/default/flussod: as it is shipped, then what is another host's here."""
        settings = {
            "DAEMON": str(FLUSSOD),
            "FLUSSO_CONFIG": str(self.config),
            "FLUSSO_USER": pwd.getpwuid(os.geteuid()).pw_name,
            "FLUSSO_PIDFILE": str(self.pidfile),
            "FLUSSO_LOG_FILE": str(self.log_file),
            "FLUSSO_PUBLIC_ADDRESS": "127.0.0.1:0",
            "DATABASE_URL": self.database.url,
            **changed,
        }
        self.settings.parent.mkdir(exist_ok=True)
        lines = [f"{name}={value}" for name, value in settings.items()]
        self.settings.write_text("\n".join([(ETC / "default" / "flussod").read_text(), *lines, ""]))

    def run(self, *arguments: str, path: str = PATH, script: Optional[Path] = None, shell: str = "dash") -> Ran:
        return Ran(
            subprocess.run(
                [tool(shell), str(script or self.script), *arguments],
                env={**clean_environment(), "PATH": path},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                timeout=180,
            )
        )

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def kill(self) -> int:
        """``kill -9``; returns the number of who died."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid), 20)
        return pid

    def has_document(self, product: str) -> bool:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self.documents)) as file:
            return any(product in json.loads(body)["name"] for (body,) in file.execute("SELECT body FROM products"))
        return False


@pytest.fixture(scope="module")
def shop(postgres: PostgresServer) -> Iterator[Database]:
    name = postgres.create_database()
    database = Database(postgres, name)
    database.execute((CHECKOUT / "examples" / "shop.sql").read_text(encoding="utf-8"))
    yield database
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def old_host(shop: Database, tmp_path_factory: pytest.TempPathFactory) -> OldHost:
    return OldHost(tmp_path_factory.mktemp("host"), shop)


@pytest.fixture
def host(old_host: OldHost) -> Iterator[OldHost]:
    """The host with nothing running before and after."""
    old_host.configure()
    old_host.set_up()
    yield old_host
    with contextlib.suppress(OSError, ValueError):
        old_host.kill()
    with contextlib.suppress(OSError):
        old_host.pidfile.unlink()


@pytest.fixture(params=["start-stop-daemon", "own means"])
def path(request: pytest.FixtureRequest, old_host: OldHost) -> str:
    """The PATH of the script: with start-stop-daemon on it, or with hardly anything."""
    if request.param == "own means":
        return str(old_host.few)
    tool("start-stop-daemon", "dpkg")
    return PATH


# -- the init script ------------------------------------------------------------------------------------


def test_it_starts_stops_restarts_reloads_and_tells_as_the_lsb_wants(host: OldHost, path: str) -> None:
    def run(action: str) -> Ran:
        return host.run(action, path=path)

    codes = {action: run(action).code for action in ("status", "stop", "try-restart", "reload", "force-reload")}
    assert codes == {"status": 3, "stop": 0, "try-restart": 0, "reload": 7, "force-reload": 7}
    assert run("status").code == 3

    started = run("start")
    assert started.code == 0, started
    pid = host.pid
    assert alive(pid)
    assert (run("status").code, f"runs (process {pid})" in run("status").output) == (0, True)
    again = run("start")
    assert (again.code, host.pid) == (0, pid) and "runs already" in again.output
    lamp = f"Lamp of {Path(path).name}"
    with psycopg.connect(host.database.url, autocommit=True) as connection:
        connection.execute("INSERT INTO products (sku, name, price) VALUES (%s, %s, 1)", [lamp, lamp])
    wait_for(lambda: host.has_document(lamp), 60, "the daemon writes documents")

    assert run("reload").code == 0
    wait_for(lambda: "SIGHUP" in host.log, 20)
    assert (run("restart").code, run("status").code) == (0, 0)
    assert host.pid != pid and not alive(pid)
    pid = host.pid
    assert (run("try-restart").code, run("status").code) == (0, 0)
    assert host.pid != pid and not alive(pid)

    # A daemon that runs is not given up for a configuration that would not start.
    pid = host.pid
    host.configure(prefix="BAD PREFIX")
    for action in ("reload", "force-reload", "restart", "try-restart"):
        refused = run(action)
        assert refused.code == 6 and "prefix" in refused.errors, refused
    assert host.pid == pid and alive(pid)
    host.configure()

    killed = host.kill()
    dead = run("status")
    assert dead.code == 1 and "dead, and its pid file exists" in dead.output
    assert run("reload").code == 7
    assert (run("restart").code, run("status").code) == (0, 0)
    assert f"left behind by process {killed}" in host.log

    assert (run("stop").code, run("status").code) == (0, 3)
    assert not host.pidfile.exists()
    run("start")
    host.kill()
    assert (run("stop").code, run("status").code) == (0, 3)


def test_a_process_that_has_the_number_now_is_neither_taken_for_the_daemon_nor_ended(host: OldHost, path: str) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            host.pidfile.write_text(f"{other.pid}\n")
            assert host.run("status", path=path).code == 1
            assert host.run("reload", path=path).code == 7
            assert host.run("reopen-log", path=path).code == 0
            assert host.run("stop", path=path).code == 0
            assert other.poll() is None
        finally:
            other.kill()


def test_a_start_that_fails_says_why(host: OldHost) -> None:
    def refused(code: int, sentence: str) -> None:
        ran = host.run("start", path=str(host.few))
        assert ran.code == code and sentence in ran.errors, ran
        assert "Traceback" not in ran.errors
        assert host.run("status").code == 3

    host.set_up(DAEMON="/nowhere/flussod")
    refused(5, "/nowhere/flussod is not there")
    host.set_up(FLUSSO_CONFIG="/nowhere/flusso.yaml")
    refused(6, "there is no /nowhere/flusso.yaml")
    host.set_up(FLUSSO_SKIP_BACKFILL="perhaps")
    refused(2, "FLUSSO_SKIP_BACKFILL")
    host.set_up()
    host.configure(prefix="BAD PREFIX")
    refused(6, "prefix")
    host.configure()
    host.set_up(DATABASE_URL=host.database.url.replace(host.database.name, "no_such_database"))
    refused(1, "no_such_database")
    refused(1, "exit code 4")
    host.set_up(FLUSSO_PIDFILE="/nowhere/flussod.pid")
    refused(4, "are you root?")


def test_a_locked_deployment_takes_the_lock_alone(host: OldHost, tmp_path: Path) -> None:
    lock = tmp_path / "shop.lock"
    build = [str(FLUSSOD), "build", "-c", str(host.config), "-o", str(lock)]
    subprocess.run(build, env=clean_environment(), stdout=subprocess.DEVNULL, check=True, timeout=60)
    host.config.unlink()
    host.set_up(FLUSSO_LOCKED="true", FLUSSO_LOCK=str(lock))
    started = host.run("start")
    assert started.code == 0, started
    pid = host.pid
    assert str(lock) in host.log
    whole = lock.read_text()
    lock.write_text("not a lock\n")
    refused = host.run("restart")
    assert (refused.code, host.pid) == (6, pid) and str(lock) in refused.errors
    lock.write_text(whole)
    assert host.run("restart").code == 0 and host.pid != pid
    assert host.run("stop").code == 0
    lock.unlink()
    missing = host.run("start")
    assert (missing.code, missing.errors) == (6, f"flussod: there is no {lock}\n")


def test_a_build_that_is_held_back_goes_on_at_the_rate_of_the_file_as_it_is_now(host: OldHost) -> None:
    """SIGHUP with a build under way: as set at the start it would take an hour."""
    with psycopg.connect(host.database.url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO products (sku, name, price) "
            "SELECT 'bulb-' || n, 'Bulb ' || n, 1 FROM generate_series(1, 4000) n"
        )
    host.documents.unlink(missing_ok=True)
    host.configure(backfill={"max_rows_per_second": 1, "workers": 1})
    assert host.run("start").code == 0
    assert "phase is backfilling" in host.log
    host.configure(backfill={"workers": 1}, quarantine={"limit": 7})
    assert host.run("reload").code == 0
    wait_for(lambda: "in force now: backfill.max_rows_per_second" in host.log, 30)
    assert "takes a restart: quarantine.limit" in host.log
    wait_for(lambda: host.has_document("Bulb 4000"), 90, "the build is complete")
    with psycopg.connect(host.database.url, autocommit=True) as connection:
        connection.execute("DELETE FROM products WHERE sku LIKE 'bulb-%'")
    assert host.run("stop").code == 0


def test_wrong_usage_is_2_and_names_the_actions(host: OldHost) -> None:
    for arguments in ((), ("nonsense",)):
        ran = host.run(*arguments)
        assert ran.code == 2 and "start|stop|restart" in ran.errors


def test_a_pid_file_that_names_no_process_is_not_known(host: OldHost) -> None:
    host.pidfile.write_text("precious words\n")
    assert host.run("status").code == 4
    assert host.run("stop").code == 4
    assert host.pidfile.read_text() == "precious words\n"


@pytest.mark.parametrize("place", ["init.d/flussod-two", "rc.d/init.d/flussod-two", "rc2.d/S20flussod-two"])
def test_under_another_name_it_is_another_service(host: OldHost, place: str) -> None:
    link = host.etc / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(host.script)
    two = host.etc / "default" / "flussod-two"
    two.write_text(f"FLUSSO_PIDFILE={host.pidfile.parent}/two.pid\n")
    (host.pidfile.parent / "two.pid").write_text("1\n")
    try:
        ran = host.run("status", script=link)
        assert (ran.code, ran.output) == (1, "flussod-two: is dead, and its pid file exists\n")
        assert host.run("status").code == 3
    finally:
        link.unlink()
        two.unlink()


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_every_shell_reads_it(host: OldHost, shell: str) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} on the PATH")
    command = [found, "sh"] if shell == "busybox" else [found, *(["--posix"] if shell == "bash" else [])]
    ran = subprocess.run([*command, str(host.script), "status"], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (3, "flussod: does not run\n")


def test_its_head_tells_an_init_system_all_it_asks() -> None:
    text = (ETC / "init.d" / "flussod").read_text()
    assert os.access(ETC / "init.d" / "flussod", os.X_OK)
    head = re.search(r"^### BEGIN INIT INFO\n(.*?)^### END INIT INFO$", text, re.MULTILINE | re.DOTALL)
    assert head is not None
    fields = dict(re.findall(r"^# ([A-Z][\w-]+): +(\S.*)$", head.group(1), re.MULTILINE))
    wanted = {"Provides", "Required-Start", "Required-Stop", "Default-Start", "Default-Stop", "Short-Description"}
    assert wanted | {"Description"} <= set(fields)
    assert fields["Provides"] == "flussod"


# -- logrotate ------------------------------------------------------------------------------------------


def test_logrotate_moves_the_log_and_the_daemon_writes_on(host: OldHost, tmp_path: Path) -> None:
    logrotate = tool("logrotate")
    assert host.run("start").code == 0
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    here = (ETC / "logrotate.d" / "flussod").read_text()
    for shipped, ours in (
        ("/var/log/flusso/", f"{host.log_file.parent}/"),
        ("/etc/init.d/", f"{host.etc}/init.d/"),
        ("su flusso flusso", f"su {user} {group}" if os.geteuid() == 0 else ""),
    ):
        assert shipped in here
        here = here.replace(shipped, ours)
    # Another deployment, whose log lies beside; and what a package manager leaves behind.
    asked = tmp_path / "asked"
    orders, left = host.etc / "init.d" / "flussod-orders", host.etc / "init.d" / "flussod.dpkg-new"
    orders.write_text(f'#!/bin/sh\necho "$@" >>{asked}\n')
    orders.chmod(0o755)
    left.write_text("not to be run\n")
    config = tmp_path / "logrotate.conf"
    config.write_text(here)
    config.chmod(0o644)
    former = Path(f"{host.log_file}.1")
    for _ in range(2):
        rotated = subprocess.run(
            [logrotate, "-f", "-s", str(tmp_path / "state"), str(config)],
            env={**clean_environment(), "PATH": PATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert (rotated.returncode, rotated.stdout) == (0, ""), rotated
        # Which file holds this line does not matter: what comes after it is in the new one.
        wait_for(lambda: "the log goes on in a new file" in former.read_text() + host.log, 20)
        assert host.run("reload").code == 0
        wait_for(lambda: "SIGHUP" in host.log, 20, "the daemon writes to the new file")
        assert host.log_file.stat().st_mode & 0o777 == 0o640
        if os.path.isdir("/proc/self"):
            assert os.readlink(f"/proc/{host.pid}/fd/2") == str(host.log_file)
    orders.unlink()
    left.unlink()
    assert asked.read_text() == "reopen-log\n" * 2, "it is told, too"
    assert Path(f"{host.log_file}.2.gz").exists()
    assert host.run("stop").code == 0
    assert host.log.rstrip().endswith("stopped")


# -- systemd --------------------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with the checkout in place of /opt/flusso-sync."""
    text = (ETC / "systemd" / "flussod.service").read_text()
    made = tmp_path / "flussod.service"
    made.write_text(text.replace("/opt/flusso-sync/", f"{CHECKOUT}/"))
    return made


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [tool("systemd-analyze", "systemd"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def test_the_unit_is_clean(unit: Path) -> None:
    verified = analyze("verify", "--man=no", str(unit))
    assert (verified.returncode, verified.stdout) == (0, "")
    unit.write_text(unit.read_text().replace("RestrictRealtime=yes", "RestrictRealtime=nonsense"))
    assert "nonsense" in analyze("verify", "--man=no", str(unit)).stdout


def test_the_unit_leaves_the_daemon_little_that_it_does_not_need(unit: Path) -> None:
    version = int(re.findall(r"systemd (\d+)", analyze("--version").stdout)[0])
    if version < 250:
        pytest.skip(f"systemd {version} looks at services that run only")
    # In tenths: below 2 of 10.
    told = analyze("security", "--offline=true", "--no-pager", "--threshold=20", str(unit))
    assert told.returncode == 0, told.stdout


def test_the_unit_speaks_of_what_is_there() -> None:
    unit = (ETC / "systemd" / "flussod.service").read_text()
    for path in re.findall(r"/opt/flusso-sync/(\S+)", unit):
        assert (CHECKOUT / path).exists(), path
    settings = dict(re.findall(r"^([A-Za-z]+)=(.*)$", unit, re.MULTILINE))
    assert settings["Type"] == "notify" and "HUP" in settings["ExecReload"]


def test_the_settings_are_read_alike_by_a_shell_and_by_systemd() -> None:
    """Plain assignments: systemd expands nothing, and takes quotes and $ otherwise than a shell."""
    lines = [line for line in (ETC / "default" / "flussod").read_text().splitlines() if line.strip()]
    settings = [line.lstrip("#") for line in lines if re.match(r"#?[A-Z_]+=", line)]
    assert len(settings) >= 8
    for setting in settings:
        assert re.fullmatch(r"[A-Z_]+=[\w/:@.-]+", setting), setting
    known = set(re.findall(r"FLUSSO_[A-Z_]+", (CHECKOUT / "flusso_sync" / "cli" / "run.py").read_text()))
    known |= set(re.findall(r"FLUSSO_[A-Z_]+", (CHECKOUT / "flusso_sync" / "cli" / "options.py").read_text()))
    known |= {"FLUSSO_LOG", "FLUSSO_LOG_FORMAT"}
    named = {setting.partition("=")[0] for setting in settings}
    assert {name for name in named if name.startswith("FLUSSO_")} <= known
    script = (ETC / "init.d" / "flussod").read_text()
    for name in named - known - {"DATABASE_URL"}:
        assert f"\n{name}=" in script, name

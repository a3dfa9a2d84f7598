"""``bin/demo``: starts everything, says where to look, keeps it running, and takes it all away again."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import Any, Iterator, List, Optional

import psycopg

from demo import shop
from demo.cluster import remove_indexes
from demo.documents import Documents
from demo.feed import Feed, Writer
from demo.page import Behind, Watch, page_app
from demo.proof import Proof
from demo.services import Flussod, Postgres
from demo.settings import clean_environment, copy_etc
from demo.stopwatch import Daemon
from flusso_sync.errors import FlussoError
from flusso_sync.testing.postgres import (
    NoPostgres,
    PostgresServer,
    find_binaries,
    make_folder,
    start_postgres,
    version_of,
)
from flusso_sync.web.server import AddressUnusable, Surface

#: Where the page is unless somebody else is there.
PORT = 9470

#: How often processes are looked at.
TICK_SECONDS = 0.05

#: How long threads of ours may take to notice the end.
JOIN_SECONDS = 6.0

#: In a folder of ``--keep``, so that nothing of somebody else's is taken for ours; holds the prefix of its indexes.
MARK = "flusso-demo"


class Failed(Exception):
    """The demo cannot go on; the sentence is for people."""


class Stopped(Exception):
    """The end was asked for before everything ran."""


class Screen:
    """One line per step, with the time it took; on a terminal it moves while the step lasts."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._moves = sys.stdout.isatty()
        self._begun = time.monotonic()

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator["Step"]:
        """Raises ``Stopped`` behind the step when the end was asked for meanwhile."""
        step = Step(what, self._moves)
        step.show(what)
        yield step
        if self._stop.is_set():
            raise Stopped
        step.end()

    def say(self, text: str = "") -> None:
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)

    def strong(self, text: str) -> str:
        """So that it stands out on a terminal."""
        return f"\x1b[1m{text}\x1b[0m" if self._moves else text

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun


class Step:
    def __init__(self, what: str, moves: bool) -> None:
        self._moves = moves
        self._begun = time.monotonic()
        self._last = ""
        self.result = what

    def show(self, text: str) -> None:
        """How it stands; the same text is not shown twice."""
        if text != self._last:
            self._last = text
            line = f"  … {text}"
            with contextlib.suppress(BrokenPipeError):
                print(
                    f"\r\x1b[K{line[: _columns() - 1]}" if self._moves else line,
                    end="" if self._moves else "\n",
                    flush=True,
                )

    def move(self, text: str) -> None:
        """As ``show``, where that is no line of its own."""
        if self._moves:
            self.show(text)

    def end(self) -> None:
        seconds = time.monotonic() - self._begun
        with contextlib.suppress(BrokenPipeError):
            print(f"{chr(13)}{chr(27)}[K" if self._moves else "", end="")
            print(f"  ✓ {self.result} ({seconds:.1f} s)", flush=True)


def _columns() -> int:
    return shutil.get_terminal_size((100, 40)).columns


def demonstrate(options: argparse.Namespace, stop: threading.Event) -> int:
    """Returns the exit code; raises ``Stopped``, and whatever keeps it from going on."""
    screen = Screen(stop)
    ca_file = _ca_file(options.ca_file)
    with contextlib.ExitStack() as stack:
        folder = _folder(options.keep, stack)
        prefix = _prefix(folder) if options.opensearch else None

        binaries = find_binaries()
        version = ".".join(map(str, version_of(binaries)))
        with screen.step(f"starting a throwaway Postgres {version}") as step:
            place = folder / "postgres"
            _make_folder(place)
            # Without the disk in the way, commits are what they are on a server; what is to be kept waits for it.
            keep = options.keep is not None
            server = stack.enter_context(
                start_postgres(
                    place,
                    keep=keep,
                    password=secrets.token_hex(12),
                    fsync="on" if keep else "off",
                    log_statement="none",
                )
            )
            step.result = f"Postgres {version} on port {server.port}, from {binaries}"
        with screen.step("filling a shop") as step:
            url = _shop(server, options.users, step, stop)
        os.environ["DATABASE_URL"] = url

        config = copy_etc(folder / "etc", options.opensearch, ca_file)
        arguments = ["-c", str(config)] + ([] if prefix is None else ["--index-prefix", prefix])
        # A folder that is kept may have another address than last time.
        flussod = Flussod(folder, arguments, {**clean_environment(), "DATABASE_URL": url}, adopt=keep)
        try:
            documents = Documents(str(config), prefix)
        except FlussoError as error:
            raise Failed(error.message) from error
        stack.callback(documents.close)
        if prefix is not None and not keep:
            stack.callback(_remove_indexes, documents, prefix)
        postgres = Postgres(server)
        stack.callback(flussod.stop)
        postgres.starts = 1
        daemon = Daemon(lambda: flussod.address)
        with screen.step("flussod builds its indexes") as step:
            flussod.start()
            _wait_until_live(flussod, daemon, step, stop)

        watch = Watch(daemon, stop)
        feed = Feed(url, documents, daemon, stop)
        writer = Writer(url, daemon, stop)
        proof = Proof(flussod)
        surface = _serve(options.port, Behind(url, postgres, flussod, documents, feed, writer, proof, watch), stop)
        for thread in (watch, feed, writer):
            stack.callback(thread.join, JOIN_SECONDS)
        stack.callback(proof.stop)
        stack.callback(surface.stop, 1.0)
        stack.callback(stop.set)

        address = f"http://{surface.address}/"
        screen.say()
        screen.say(f"  Open  {screen.strong(address)}   (ready after {screen.seconds:.1f} s)")
        screen.say()
        screen.say(f"  Rows change from elsewhere, too: {_psql(binaries)} {url}")
        screen.say(f"  What flussod says: {flussod.log}")
        screen.say("  Ctrl-C ends it" + (f"; the data stay in {folder}" if keep else " and leaves nothing behind"))
        if not options.no_browser:
            _open_browser(address)
        deadline = None if options.seconds is None else time.monotonic() + options.seconds
        while not stop.wait(TICK_SECONDS):
            if deadline is not None and time.monotonic() > deadline:
                break
            postgres.tick()
            flussod.tick()
        screen.say()
        screen.say("  stopping …")
    screen.say(f"  what was made is in {folder}" if options.keep else "  nothing is left behind")
    return 0


def _folder(keep: Optional[str], stack: contextlib.ExitStack) -> Path:
    if keep is None:
        folder = make_folder("flusso-demo-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    else:
        folder = Path(keep).expanduser().resolve()
        if folder.exists() and not folder.is_dir():
            raise Failed(f"{folder} is a file; name an empty folder, or a new one")
        if folder.exists() and not (folder / MARK).exists() and any(folder.iterdir()):
            raise Failed(f"{folder} holds something that is not of a demo; name an empty folder, or a new one")
        try:
            _make_folder(folder)
            mark = stack.enter_context(open(folder / MARK, "a"))
        except OSError as error:
            raise Failed(f"{folder} cannot be used: {error.strerror}; name a folder that you may write to") from error
        try:
            # Held until the end of this process, however it comes.
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failed(f"another demo runs in {folder}; end it first, or name another folder") from error
    if os.geteuid() != 0:
        folder.chmod(0o700)
    return folder


def _make_folder(folder: Path) -> None:
    """With what is missing above it.  As root the server is another user's, who has to come by, whatever the umask."""
    missing = [one for one in folder.parents if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        for one in [folder, *missing]:
            one.chmod(0o755)


def _ca_file(given: Optional[str]) -> Optional[Path]:
    if given is None:
        return None
    path = Path(given).expanduser().resolve()
    if not path.is_file():
        raise Failed(f"there is no file {path}; --ca-file names the authority of the cluster's certificate, in PEM")
    return path


def _psql(binaries: Path) -> str:
    """What calls it here: the one on the PATH, or beside the server's programs."""
    beside = binaries / "psql"
    return shlex.quote(str(beside)) if shutil.which("psql") is None and beside.exists() else "psql"


def _prefix(folder: Path) -> str:
    """In front of every index in a cluster that others use, too; the same at each start with this folder."""
    mark = folder / MARK
    known = mark.read_text() if mark.exists() else ""
    if not known:
        known = f"flusso_demo_{secrets.token_hex(3)}_"
        mark.write_text(known)
    return known


def _shop(server: PostgresServer, users: int, step: Step, stop: threading.Event) -> str:
    """The URL of a filled database; raises ``Stopped``."""
    with server.connect() as connection:
        there = connection.execute("SELECT 1 FROM pg_database WHERE datname = 'shop'").fetchone()
    url = server.url("shop" if there else server.create_database("shop"))
    told = "filling a shop: {:,} rows"
    with psycopg.connect(url, autocommit=True) as connection, _cancelled(connection, stop):
        if shop.is_filled(connection):
            rows = shop.count(connection)
        else:
            rows = shop.fill(connection, users, lambda number: step.move(told.format(number)))
    shown = ", ".join(f"{number:,} {table}" for table, number in rows.items())
    step.result = f"a shop of {sum(rows.values()):,} rows: {shown}"
    return url


@contextlib.contextmanager
def _cancelled(connection: "psycopg.Connection[Any]", stop: threading.Event) -> Iterator[None]:
    """Ends the statement that runs in the block when ``stop`` is set; the block ends in ``Stopped`` then."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(TICK_SECONDS):
            if stop.is_set():
                # Again and again: it may come between two statements.
                with contextlib.suppress(psycopg.Error):
                    connection.cancel()

    thread = threading.Thread(target=look, name="demo-cancel", daemon=True)
    thread.start()
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise Stopped from error
    finally:
        done.set()
        thread.join()


def _wait_until_live(flussod: Flussod, daemon: Daemon, step: Step, stop: threading.Event) -> None:
    """Until the first build of every index is complete."""
    while not stop.wait(0.1):
        if flussod.exit_code is not None:
            raise Failed(f"flussod ended by itself with code {flussod.exit_code}; it said:\n{flussod.log_tail()}")
        status = daemon.status()
        if status is None:
            continue
        built = sum(index["documents_built"] or 0 for index in status["index_details"].values())
        if status["phase"] == "live" and status["ready"]:
            counts = ", ".join(
                f"{index['documents'] or index['documents_built']:,} {name}"
                for name, index in status["index_details"].items()
            )
            step.result = f"flussod has built its indexes: {counts}"
            return
        if status["trouble"]:
            step.show(f"flussod waits: {status['trouble'][0]['what']}")
        else:
            step.show(f"flussod builds its indexes: {built:,} documents")


def _serve(port: Optional[int], behind: Behind, stop: threading.Event) -> Surface:
    """The page, on ``port``, or on the usual one, or on any."""
    ports: List[int] = [PORT, 0] if port is None else [port]
    for number in ports:
        hosts: "set[str]" = set()
        surface = Surface("demo", page_app(behind, hosts), "127.0.0.1", number, failed=lambda *_: stop.set())
        try:
            surface.bind()
        except AddressUnusable as error:
            if number == ports[-1]:
                raise Failed(f"{error.message}; name another one with --port") from error
            continue
        hosts.update({f"127.0.0.1:{surface.port}", f"localhost:{surface.port}"})
        surface.start()
        return surface
    raise AssertionError("the last port either serves or raises")


def _remove_indexes(documents: Documents, prefix: str) -> None:
    for why in remove_indexes(documents.config, prefix):
        print(f"  indexes {prefix}* are left in the cluster: {why}", file=sys.stderr)


def _open_browser(address: str) -> None:
    """Where there is one with a window: a browser of the terminal would take the terminal."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        threading.Thread(target=webbrowser.open, args=(address,), name="demo-browser", daemon=True).start()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/demo", description="See rows become documents.")
    parser.add_argument("--users", type=int, default=500, metavar="N", help="how large the shop is [500]")
    parser.add_argument("--seconds", type=float, metavar="N", help="end by itself")
    parser.add_argument("--port", type=int, metavar="N", help=f"where the page is [{PORT}, else any]")
    parser.add_argument("--no-browser", action="store_true", help="open none")
    parser.add_argument("--keep", metavar="DIR", help="keep everything there, and go on with it next time")
    parser.add_argument("--opensearch", metavar="URL", help="documents go to this cluster instead of a SQLite file")
    parser.add_argument("--ca-file", metavar="FILE", help="PEM file of the authorities that sign its certificate")
    options = parser.parse_args()
    if not 1 <= options.users <= 1_000_000:
        parser.error("--users is a number from 1 to 1,000,000")
    if options.ca_file is not None and options.opensearch is None:
        parser.error("--ca-file goes with --opensearch")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    environment = clean_environment()
    os.environ.clear()
    os.environ.update(environment)
    try:
        return demonstrate(options, stop)
    except Stopped:
        print("\n  stopped" + ("" if options.keep else "; nothing is left behind"))
        return 0
    except (Failed, NoPostgres, FlussoError, psycopg.Error, OSError) as error:
        print(f"\nbin/demo: {_sentence(error)}", file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str:
    if isinstance(error, psycopg.Error):
        return "Postgres says: " + (error.diag.message_primary or next(iter(str(error).splitlines()), repr(error)))
    if isinstance(error, OSError):
        return ": ".join(filter(None, (error.filename and str(error.filename), error.strerror or str(error))))
    return str(error)


if __name__ == "__main__":
    sys.exit(main())

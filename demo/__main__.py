"""``bin/demo``: starts everything, says where to look, keeps it running, and takes it all away again."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import Iterator, List, Optional

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


class Screen:
    """One line per step, with the time it took; on a terminal it moves while the step lasts."""

    def __init__(self) -> None:
        self._moves = sys.stdout.isatty()
        self._begun = time.monotonic()

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator["Step"]:
        step = Step(what, self._moves)
        step.show(what)
        yield step
        step.end()

    def say(self, text: str = "") -> None:
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)

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

    def end(self) -> None:
        seconds = time.monotonic() - self._begun
        with contextlib.suppress(BrokenPipeError):
            print(f"{chr(13)}{chr(27)}[K" if self._moves else "", end="")
            print(f"  ✓ {self.result} ({seconds:.1f} s)", flush=True)


def _columns() -> int:
    return shutil.get_terminal_size((100, 40)).columns


def demonstrate(options: argparse.Namespace, stop: threading.Event) -> int:
    """Returns the exit code; raises ``Failed`` and ``NoPostgres``."""
    screen = Screen()
    with contextlib.ExitStack() as stack:
        folder = _folder(options.keep, stack)
        prefix = _prefix(folder) if options.opensearch else None

        binaries = find_binaries()
        version = ".".join(map(str, version_of(binaries)))
        with screen.step(f"starting a throwaway Postgres {version}") as step:
            place = folder / "postgres"
            place.mkdir(exist_ok=True)
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
        if stop.is_set():
            return 0
        with screen.step("filling a shop") as step:
            url = _shop(server, options.users, step)
        os.environ["DATABASE_URL"] = url

        config = copy_etc(folder / "etc", options.opensearch)
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
        if stop.is_set():
            return 0

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
        screen.say(f"  Open  {address}   (ready after {screen.seconds:.1f} s)")
        screen.say(f"  Rows change from elsewhere, too: psql '{url}'")
        screen.say(f"  The daemon's own page: http://{flussod.address}/   its log: {flussod.log}")
        screen.say("  Ctrl-C ends it" + (f"; the data stay in {folder}" if keep else " and leaves nothing behind."))
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
        if folder.exists() and not (folder / MARK).exists() and any(folder.iterdir()):
            raise Failed(f"{folder} holds something that is not of a demo; name an empty folder, or a new one")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()
    if os.geteuid() != 0:
        # As root the server is another user's, who has to come by.
        folder.chmod(0o700)
    return folder


def _prefix(folder: Path) -> str:
    """In front of every index in a cluster that others use, too; the same at each start with this folder."""
    mark = folder / MARK
    known = mark.read_text() if mark.exists() else ""
    if not known:
        known = f"flusso_demo_{secrets.token_hex(3)}_"
        mark.write_text(known)
    return known


def _shop(server: PostgresServer, users: int, step: Step) -> str:
    """The URL of a filled database."""
    with server.connect() as connection:
        there = connection.execute("SELECT 1 FROM pg_database WHERE datname = 'shop'").fetchone()
    url = server.url("shop" if there else server.create_database("shop"))
    with psycopg.connect(url, autocommit=True) as connection:
        rows = shop.count(connection) if shop.is_filled(connection) else shop.fill(connection, users)
    shown = ", ".join(f"{number:,} {table}" for table, number in rows.items())
    step.result = f"a shop of {sum(rows.values()):,} rows: {shown}"
    return url


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
    options = parser.parse_args()
    if not 1 <= options.users <= 1_000_000:
        parser.error("--users is a number from 1 to 1,000,000")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    environment = clean_environment()
    os.environ.clear()
    os.environ.update(environment)
    try:
        return demonstrate(options, stop)
    except (Failed, NoPostgres) as error:
        print(f"\nbin/demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

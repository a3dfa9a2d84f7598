"""What ``bin/demo`` shows: a shop in a throwaway Postgres, changed a few times a second, and documents that follow."""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Optional

import psycopg

from tests.bench import shop
from tests.postgres_server import NoPostgres, die_with_parent, make_folder, start_postgres

FLUSSOD = Path(__file__).resolve().parents[2] / "bin" / "flussod"
CHANGES_PER_SECOND = 3.0
STOP_SECONDS = 10.0
#: Documents shown of those that one change brings; a product's may be dozens.
SHOWN = 4

#: What happens in a shop; ``{table}`` is the id of one of its rows.
CHANGES = [
    "UPDATE products SET price = price + 1, stock = stock - 1 WHERE id = {products}",
    "UPDATE orders SET status = 'sent' WHERE id = {orders}",
    "UPDATE users SET plan = 'pro' WHERE id = {users}",
    "INSERT INTO orders (user_id, status, total) VALUES ({users}, 'open', 42.50)",
    "INSERT INTO items (order_id, product_id, quantity, price) VALUES ({orders}, {products}, 2, 9.99)",
    "UPDATE orders SET user_id = {users} WHERE id = {orders}",
    "DELETE FROM items WHERE order_id = {orders}",
    "DELETE FROM orders WHERE id = {orders}",
]


def configuration(url: str) -> Dict[str, Any]:
    """Three indexes, no sink: documents go to standard output."""
    return {
        "source": {"type": "postgres", "connection_url": url},
        "index": [
            {"name": name, "schema": str(shop.SCHEMAS / f"{name}.schema.yml"), "enabled": True} for name in shop.INDEXES
        ],
    }


class Screen:
    """Short lines in colour, one writer at a time."""

    def __init__(self) -> None:
        self.colour = sys.stdout.isatty()
        self._lock = threading.Lock()

    def show(self, line: str, colour: str = "") -> None:
        width = shutil.get_terminal_size((160, 40)).columns
        line = line if len(line) <= width else line[: width - 1] + "…"
        with self._lock, contextlib.suppress(BrokenPipeError):
            print(f"\x1b[{colour}m{line}\x1b[0m" if self.colour and colour else line, flush=True)


class Documents:
    """Reads the daemon's standard output and shows what arrives; the first build only as a count."""

    def __init__(self, stream: IO[bytes], expected: int, screen: Screen) -> None:
        self.built = threading.Event()
        self._stream = stream
        self._expected = expected
        self._screen = screen
        self._counts: collections.Counter[str] = collections.Counter()
        self._arrived = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="demo-documents", daemon=True)
        self._thread.start()

    def next_change(self) -> None:
        """Whatever arrives from now on belongs, as far as a screen can tell, to the next change."""
        with self._lock:
            more, self._arrived = self._arrived - SHOWN, 0
        if more > 0:
            self._screen.show(f"  … and {more} more", "32")

    def join(self) -> None:
        self._thread.join(STOP_SECONDS)

    def _read(self) -> None:
        for raw in self._stream:
            line = json.loads(raw)
            if not self.built.is_set():
                self._count(line)
                continue
            with self._lock:
                self._arrived += 1
                if self._arrived > SHOWN:
                    continue
            if line["op"] == "delete":
                self._screen.show(f"  {line['index']}/{line['id']}  deleted", "31")
            else:
                text = json.dumps(line["document"], ensure_ascii=False, separators=(",", ":"))
                self._screen.show(f"  {line['index']}/{line['id']}  {text}", "32")

    def _count(self, line: Dict[str, Any]) -> None:
        self._counts[line["index"]] += 1
        if sum(self._counts.values()) >= self._expected:
            built = ", ".join(f"{count} {index}" for index, count in sorted(self._counts.items()))
            self._screen.show(f"built: {built}; now every change arrives by itself. Ctrl-C ends it.")
            self.built.set()


@contextlib.contextmanager
def daemon(folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """flussod over the shop, its log in ``folder``; stopped as an operator would, by SIGTERM."""
    config = folder / "flusso.yaml"
    config.write_text(json.dumps(configuration(url), indent=2))
    addresses = ["--public-address", "127.0.0.1:0", "--private-address", "127.0.0.1:0"]
    with open(folder / "flussod.log", "wb") as log:
        process = subprocess.Popen(
            [str(FLUSSOD), "run", "-c", str(config), *addresses],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C is for us; the daemon ends when we say so.
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def change(connection: psycopg.Connection[Any], dice: random.Random) -> str:
    """Change a row or two, as a shop does; returns the statement."""
    statement = dice.choice(CHANGES)
    ids = {}
    for table in re.findall(r"{(\w+)}", statement):
        rows = connection.execute(f"SELECT id FROM {table} ORDER BY id").fetchall()
        ids[table] = dice.choice(rows)[0]
    statement = statement.format(**ids)
    connection.execute(statement)
    return statement


def demonstrate(users: int, seconds: Optional[float], stop: threading.Event) -> int:
    screen = Screen()
    with contextlib.ExitStack() as stack:
        folder = make_folder("flusso-demo-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        screen.show("starting a throwaway Postgres ...")
        server = stack.enter_context(start_postgres())
        url = server.url(server.create_database("shop"))
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        rows = shop.fill(connection, users)
        screen.show(f"a shop in {url}: " + ", ".join(f"{n} {table}" for table, n in rows._asdict().items()))
        if stop.is_set():
            return 0

        process = stack.enter_context(daemon(folder, url))
        assert process.stdout is not None
        documents = Documents(process.stdout, sum(rows.documents.values()), screen)
        screen.show(f"flussod runs as process {process.pid} and builds three indexes ...")
        dice = random.Random(4)
        deadline = None if seconds is None else time.monotonic() + seconds
        while not stop.wait(1 / CHANGES_PER_SECOND) and process.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                break
            if documents.built.is_set():
                documents.next_change()
                screen.show(change(connection, dice), "33")
        else:
            if process.poll() is not None:
                screen.show(f"flussod ended by itself with code {process.returncode}:", "31")
                sys.stderr.write((folder / "flussod.log").read_text(errors="replace"))
                return process.returncode or 1
        screen.show("stopping ...")
        process.terminate()
        documents.join()
    screen.show("nothing is left behind")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/demo")
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--seconds", type=float)
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        return demonstrate(arguments.users, arguments.seconds, stop)
    except NoPostgres as error:
        print(f"bin/demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

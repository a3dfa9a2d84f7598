"""Readers who ask a hundred times a second and note every answer that is not the whole of what they know."""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Callable, Iterator, List

#: Questions are due so often; those that came late, because an answer took its time, are made up for.
PER_SECOND = 100

#: Threads that share the questions: one that waits for an answer keeps nobody from asking.
THREADS = 4

#: Asks once; the complaint about the answer, or an empty text.
Ask = Callable[[], str]


class Readers:
    """Threads that ask; use in ``with``.  ``asked`` counts answers, ``wrong`` holds every complaint and every error."""

    def __init__(self, session: "Callable[[], contextlib.AbstractContextManager[Ask]]") -> None:
        self._session = session
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, name="reader", daemon=True) for _ in range(THREADS)]
        self._started = self._ended = 0.0
        self._due = 0
        self.asked = 0
        self.wrong: List[str] = []

    def __enter__(self) -> Readers:
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self._ended = time.monotonic()

    @property
    def per_second(self) -> float:
        """How often was asked, on average, until now or until the end."""
        return self.asked / ((self._ended or time.monotonic()) - self._started)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._session() as ask:
                    while self._wait_for_turn():
                        complaint = ask()
                        with self._lock:
                            self.asked += 1
                            if complaint:
                                self.wrong.append(complaint)
            except Exception as error:
                # Whatever it is: readers were to see none.
                self.wrong.append(repr(error))

    def _wait_for_turn(self) -> bool:
        """False at the end."""
        with self._lock:
            due = self._started + self._due / PER_SECOND
            self._due += 1
        return not self._stop.wait(max(0.0, due - time.monotonic()))


def of_alias(url: str, alias: str, field: str, known: str, count: int) -> Readers:
    """Who count, behind ``alias`` of the cluster, the documents whose ``field`` begins with ``known``."""
    host = urllib.parse.urlsplit(url).netloc
    path = f"/{alias}/_search?filter_path=hits.total,_shards.failed,error"
    body = json.dumps({"size": 0, "track_total_hits": True, "query": {"prefix": {field: known}}})

    @contextlib.contextmanager
    def session() -> Iterator[Ask]:
        connection = http.client.HTTPConnection(host, timeout=30)

        def ask() -> str:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
            found = json.loads(data)
            right = answer.status == 200 and not found["_shards"]["failed"] and found["hits"]["total"]["value"] == count
            return "" if right else f"{answer.status} {data[:300]!r}"

        try:
            yield ask
        finally:
            connection.close()

    return Readers(session)


def of_file(path: Path, view: str, field: str, known: str, count: int) -> Readers:
    """The same of a SQLite file, each question a transaction of its own over a connection that stays open."""
    query = f"SELECT count(*) FROM \"{view}\" WHERE json_extract(body, '$.{field}') GLOB ?"

    @contextlib.contextmanager
    def session() -> Iterator[Ask]:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)

        def ask() -> str:
            (found,) = connection.execute(query, (known + "*",)).fetchone()
            return "" if found == count else f"{found} of {count}"

        try:
            yield ask
        finally:
            connection.close()

    return Readers(session)

"""A reader who asks the alias of the known rows all the time, and notes every answer that is not the whole of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import urllib.parse
from typing import Iterator, List, Optional

#: Seconds between two questions.
PAUSE_SECONDS = 0.05


class KnownReader:
    """Counts what is behind ``alias``; once it has seen it, never fewer documents, and never an error.

    ``asked`` counts questions; ``wrong`` holds every wrong answer.
    """

    def __init__(self, url: str, alias: str, count: int) -> None:
        self._host = urllib.parse.urlsplit(url).netloc
        self._path = f"/{alias}/_search?filter_path=hits.total,_shards.failed,error.type"
        self._body = json.dumps({"size": 0, "track_total_hits": True})
        self._count = count
        self._seen = False
        self._excuses = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self.asked = 0
        self.wrong: List[str] = []

    def __enter__(self) -> KnownReader:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(30)

    @contextlib.contextmanager
    def excused(self) -> Iterator[None]:
        """Nothing counts as wrong meanwhile: the server itself is away."""
        self._excuses += 1
        try:
            yield
        finally:
            self._excuses += 1

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._host, timeout=30)
        while not self._stop.wait(PAUSE_SECONDS):
            before = self._excuses
            problem = self._ask(connection)
            self.asked += 1
            excused = before % 2 or before != self._excuses
            if problem is None:
                self._seen = True
            elif self._seen and not excused:
                self.wrong.append(problem)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> Optional[str]:
        """None when all is there, else what is there instead."""
        try:
            connection.request("POST", self._path, self._body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        found = json.loads(data)
        whole = answer.status == 200 and not found["_shards"]["failed"]
        return None if whole and found["hits"]["total"]["value"] == self._count else f"{answer.status} {data[:300]!r}"

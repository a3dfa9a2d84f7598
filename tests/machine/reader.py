"""A reader who asks aliases all the time, and notes every error, and whatever is not the whole of known rows."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import urllib.parse
from typing import Iterator, List, Mapping, Optional, Set

#: Seconds between two questions.
PAUSE_SECONDS = 0.03


class Reader:
    """Counts what is behind ``aliases``, each with the number of its documents, or None where that changes.

    Once it has seen one there is never an error, and never another number.

    ``asked`` counts questions; ``wrong`` holds every wrong answer.
    """

    def __init__(self, url: str, aliases: Mapping[str, Optional[int]]) -> None:
        self._host = urllib.parse.urlsplit(url).netloc
        self._aliases = dict(aliases)
        self._body = json.dumps({"size": 0, "track_total_hits": True})
        self._seen: Set[str] = set()
        self._excuses = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self.asked = 0
        self.wrong: List[str] = []

    def __enter__(self) -> Reader:
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
        for alias in itertools.cycle(self._aliases):
            if self._stop.wait(PAUSE_SECONDS):
                break
            before = self._excuses
            problem = self._ask(connection, alias)
            self.asked += 1
            excused = before % 2 or before != self._excuses
            if problem is None:
                self._seen.add(alias)
            elif alias in self._seen and not excused:
                self.wrong.append(f"{alias}: {problem}")
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, alias: str) -> Optional[str]:
        """None when all is there, else what is there instead."""
        path = f"/{alias}/_search?filter_path=hits.total,_shards.failed,error.type"
        try:
            connection.request("POST", path, self._body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        found = json.loads(data)
        wanted = self._aliases[alias]
        if answer.status != 200 or found["_shards"]["failed"]:
            return f"{answer.status} {data[:300]!r}"
        count = found["hits"]["total"]["value"]
        return None if wanted is None or count == wanted else f"{count} documents in place of {wanted}"

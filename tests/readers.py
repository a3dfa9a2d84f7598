"""Readers who ask an alias many times a second and note every answer that is not the whole of what they know."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.parse
from typing import List

#: Seconds between two questions.
PAUSE_SECONDS = 0.01


class Reader:
    """A thread that counts, behind ``alias``, the documents whose ``field`` begins with ``known``; use in ``with``.

    ``asked`` counts questions; ``wrong`` holds every answer that was not ``count``, or was an error.
    """

    def __init__(self, url: str, alias: str, field: str, known: str, count: int) -> None:
        self._host = urllib.parse.urlsplit(url).netloc
        self._path = f"/{alias}/_search?filter_path=hits.total,_shards.failed,error"
        self._body = json.dumps({"size": 0, "track_total_hits": True, "query": {"prefix": {field: known}}})
        self._count = count
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

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._host, timeout=30)
        while not self._stop.wait(PAUSE_SECONDS):
            try:
                connection.request("POST", self._path, self._body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                connection.close()
                continue
            self.asked += 1
            found = json.loads(data)
            if answer.status != 200 or found["_shards"]["failed"] or found["hits"]["total"]["value"] != self._count:
                self.wrong.append(f"{answer.status} {data[:300]!r}")
        connection.close()

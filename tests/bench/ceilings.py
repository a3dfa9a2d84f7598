"""What the machine could do at most: COPY of the finished JSON, and a bulk load of ready documents.

Neither resolves, orders, confirms or recovers anything; the daemon's rate is given as a share of the lower one.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import psycopg

CONNECTIONS = 2
REQUEST_BYTES = 8 * 1024 * 1024
REQUEST_DOCUMENTS = 5000

#: Index settings that OpenSearch sets itself and refuses from others.
_OWN = ("uuid", "creation_date", "provided_name", "version")


class Node:
    """The little of OpenSearch's HTTP that a benchmark needs; one connection per call."""

    def __init__(self, url: str) -> None:
        self._host = urllib.parse.urlsplit(url).netloc

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, timeout=120)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        connection = self.connect()
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:500].decode(errors='replace')}")
        return json.loads(data) if data else None

    def count(self, index: str) -> int:
        self.call("POST", f"/{index}/_refresh")
        return int(self.call("GET", f"/{index}/_count")["count"])


def copy_seconds(url: str, query: str, settings: str) -> Tuple[int, float]:
    """Rows and seconds of ``COPY (query) TO STDOUT`` on one connection, read and thrown away."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(settings)
        begin = time.perf_counter()
        with connection.cursor() as cursor:
            with cursor.copy(f"COPY ({query}) TO STDOUT") as copy:
                for _ in copy:
                    pass
            rows = cursor.rowcount
        return rows, time.perf_counter() - begin


def spool(documents: Iterator[Tuple[str, bytes]], folder: Path) -> List[Path]:
    """Write ready bulk bodies, one file per request, so that loading them costs no building."""
    folder.mkdir(parents=True, exist_ok=True)
    files: List[Path] = []
    lines: List[bytes] = []
    size = 0

    def write() -> None:
        nonlocal lines, size
        files.append(folder / f"{len(files):06d}.ndjson")
        files[-1].write_bytes(b"".join(lines))
        lines, size = [], 0

    for id, body in documents:
        action = json.dumps({"index": {"_id": id}}).encode()
        lines.append(action + b"\n" + body + b"\n")
        size += len(lines[-1])
        if size >= REQUEST_BYTES or len(lines) >= REQUEST_DOCUMENTS:
            write()
    if lines:
        write()
    return files


def load(node: Node, index: str, files: List[Path]) -> float:
    """Bulk-load ``files`` into ``index`` over two connections and refresh; returns the seconds."""
    waiting = list(reversed(files))
    lock = threading.Lock()
    problems: List[str] = []

    def work() -> None:
        connection = node.connect()
        headers = {"Content-Type": "application/x-ndjson"}
        while not problems:
            with lock:
                if not waiting:
                    break
                file = waiting.pop()
            connection.request("POST", f"/{index}/_bulk?filter_path=errors", file.read_bytes(), headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status != 200 or json.loads(data)["errors"]:
                problems.append(f"bulk load refused: {answer.status} {data[:300]!r}")
        connection.close()

    threads = [threading.Thread(target=work, name=f"bench-bulk-{n}") for n in range(CONNECTIONS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(problems[0])
    node.call("POST", f"/{index}/_refresh")
    return time.perf_counter() - begin


def bulk_seconds(node: Node, like: str, files: List[Path]) -> Tuple[int, float]:
    """Documents and seconds of loading ``files`` into a fresh index made like ``like``, refreshed at the end.

    Same mapping, analysis, shards and durability; no replicas and no refresh meanwhile, as in the daemon's build.
    """
    target = f"{like}_ceiling"
    definition = next(iter(node.call("GET", f"/{like}").values()))
    settings = {k: v for k, v in definition["settings"]["index"].items() if k not in _OWN}
    settings.update(refresh_interval="-1", number_of_replicas="0")
    node.call("PUT", f"/{target}", {"settings": {"index": settings}, "mappings": definition["mappings"]})
    try:
        seconds = load(node, target, files)
        return node.count(target), seconds
    finally:
        node.call("DELETE", f"/{target}")


def difference(node: Node, index: str, documents: Mapping[str, bytes], rows: int) -> Optional[str]:
    """What is wrong with ``index``, which should have ``rows`` documents, among them exactly these; None if nothing."""
    count = node.count(index)
    if count != rows:
        return f"{index} has {count} documents, the table {rows} rows"
    found: Dict[str, Any] = {
        doc["_id"]: doc.get("_source") for doc in node.call("POST", f"/{index}/_mget", {"ids": list(documents)})["docs"]
    }
    for id, body in documents.items():
        if found.get(id) != json.loads(body):
            return f"{index}/{id} is {json.dumps(found.get(id))[:300]}, but should be {body[:300].decode()}"
    return None

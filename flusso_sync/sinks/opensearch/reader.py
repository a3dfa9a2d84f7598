"""Documents as readers find them: for people, tests and the verifier; needs neither lease nor anything ensured."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from flusso_sync.errors import SinkRefused, SinkUnavailable
from flusso_sync.sinks.base import Found, exact
from flusso_sync.sinks.opensearch.client import INDEX_MISSING, Client, segment
from flusso_sync.sinks.opensearch.names import Names

#: A page of a scan is asked for within this time of the one before it.
SCROLL_KEPT = "5m"

#: Documents of one request for many.
MOST_READ = 1000


class Reader:
    """Behind the convenience alias of each index."""

    def __init__(self, client: Client, names: Names, sink: str) -> None:
        self._client = client
        self._names = names
        self._sink = sink

    def get(self, index: str, id: str) -> Optional[bytes]:
        """The document as it was written, in real time; None when there is none."""
        path = f"/{segment(self._names.convenience(index))}/_source/{segment(id)}"
        answer = self._client.get(path, missing=True)
        return answer.data if answer.status == 200 else None

    def count(self, index: str) -> int:
        """How many documents a search finds."""
        answer = self._client.get(f"/{segment(self._names.convenience(index))}/_count", missing=True)
        return int(answer.json()["count"]) if answer.status == 200 else 0

    def search(self, index: str, words: str, limit: int = 10) -> List[Tuple[str, Any]]:
        """The best matches for plain words over all fields, at any depth: (id, document)."""
        name = segment(self._names.convenience(index))
        # A query over all fields does not look into nested objects, which OpenSearch keeps as documents of their own.
        mappings = self._client.get(f"/{name}/_mapping").json().values()
        nested = sorted({path for one in mappings for path in _nested(one.get("mappings", {}), "")})
        queries = [_plain(words, "*"), *({"nested": {"path": p, "query": _plain(words, f"{p}.*")}} for p in nested)]
        body = {"size": limit, "query": {"bool": {"should": queries}}}
        answer = self._client.send("POST", f"/{name}/_search", body)
        hits = _exact(answer.data).get("hits", {}).get("hits", [])
        return [(hit["_id"], hit.get("_source")) for hit in hits]

    def scan(self, index: str, size: int = 1000) -> Iterator[Tuple[str, Any]]:
        """Every document that is read, as of now: (id, document), numbers with all their digits."""
        for hits in self._scroll(index, {"size": size}):
            for hit in hits:
                yield hit["_id"], hit.get("_source")

    def scan_ids(self, index: str, size: int = 1000) -> Iterator[List[str]]:
        for hits in self._scroll(index, {"size": size, "_source": False}):
            yield [hit["_id"] for hit in hits]

    def _scroll(self, index: str, body: Mapping[str, Any]) -> Iterator[List[Dict[str, Any]]]:
        """Pages of hits as of now; whoever takes them may be slow.

        Without any filter_path, which would send documents through a parser that rounds their numbers.
        """
        name = segment(self._names.convenience(index))
        self._client.send("POST", f"/{name}/_refresh")
        answer = self._client.send("POST", f"/{name}/_search", {**body, "sort": ["_doc"]}, {"scroll": SCROLL_KEPT})
        page = _exact(answer.data)
        held = page["_scroll_id"]
        try:
            while True:
                if answer.status == 404:
                    raise SinkUnavailable(f"index {index} was replaced while it was read", in_doubt=False)
                if page.get("_shards", {}).get("failed"):
                    raise SinkUnavailable(f"index {index} can be read in part only", in_doubt=False)
                hits = page.get("hits", {}).get("hits", [])
                if not hits:
                    return
                yield hits
                held = page["_scroll_id"]
                scroll = {"scroll": SCROLL_KEPT, "scroll_id": held}
                answer = self._client.send("POST", "/_search/scroll", scroll, missing=True)
                page = _exact(answer.data)
        finally:
            self._client.send("DELETE", "/_search/scroll", {"scroll_id": held}, missing=True)

    def get_many(self, index: str, ids: Sequence[str]) -> Dict[str, Found]:
        path = f"/{segment(self._names.convenience(index))}/_mget"
        found: Dict[str, Found] = {}
        # OpenSearch refuses a whole request for an empty id, which no document can have.
        wanted = [id for id in ids if id]
        for start in range(0, len(wanted), MOST_READ):
            # No filter_path here: it would send the documents through a parser that rounds their numbers.
            answer = self._client.send("POST", path, {"ids": wanted[start : start + MOST_READ]})
            for one in _exact(answer.data).get("docs", ()):
                error = one.get("error")
                if error is not None and error.get("type") == INDEX_MISSING:
                    raise SinkRefused(
                        f"readers find no index {self._names.convenience(index)} in sink {self._sink}",
                        hint="It is there once its first build is complete",
                        index=index,
                    )
                if error is not None:
                    raise SinkUnavailable(f"index {index} cannot be read: {error.get('reason')}", in_doubt=False)
                if one.get("found"):
                    found[one["_id"]] = Found(one.get("_source"), int(one.get("_version", 0)))
        return found


def _plain(words: str, fields: str) -> Dict[str, Any]:
    """Any of the words, of whose signs only a star at the end means anything."""
    return {"simple_query_string": {"query": words, "fields": [fields], "lenient": True, "flags": "PREFIX"}}


def _nested(mapping: Mapping[str, Any], above: str) -> Iterator[str]:
    """Paths of nested objects, those inside others included."""
    for name, field in mapping.get("properties", {}).items():
        path = f"{above}{name}"
        if field.get("type") == "nested":
            yield path
        yield from _nested(field, f"{path}.")


def _exact(data: bytes) -> Dict[str, Any]:
    """An answer with every digit of every document kept."""
    result: Dict[str, Any] = exact(data)
    return result

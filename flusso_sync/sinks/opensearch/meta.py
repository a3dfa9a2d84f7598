"""The meta store in OpenSearch: one small index (see ``sinks/meta.py``).

Documents: ``owner`` (with the lease), ``record``, ``index:L`` per logical index, ``build:L`` per unfinished build,
``parked:…`` per quarantined document, ``mailbox`` for requests, ``job:…`` per change that is worked off by itself; each
says its kind and its key, by which it is found and sorted.  Writes go through an alias of its own with
``require_alias``, so that a meta store deleted under us is noticed and never born anew with a guessed mapping.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from flusso_sync.errors import DocumentRejected, SinkUnavailable
from flusso_sync.sinks.base import Parked, Rejected, park, quarantine_full
from flusso_sync.sinks.meta import Json, MetaConflict, MetaMissing, Stored, stored_int
from flusso_sync.sinks.opensearch.client import Client, Refused, segment
from flusso_sync.sinks.opensearch.names import Names

#: Version of the layout of these documents.
LAYOUT = 1

_PAGE = 1000

_BODY: Json = {
    "settings": {
        "index": {"number_of_shards": 1, "auto_expand_replicas": "0-1", "translog": {"durability": "request"}}
    },
    "mappings": {
        "dynamic": False,
        "_meta": {"flusso_sync": {"layout": LAYOUT}},
        "properties": {
            "kind": {"type": "keyword"},
            "index": {"type": "keyword"},
            "id": {"type": "keyword"},
            "key": {"type": "keyword"},
            "reason": {"type": "text"},
            "lsn": {"type": "keyword"},
            "delete": {"type": "boolean"},
            "first": {"type": "date"},
            "at": {"type": "date"},
            "tries": {"type": "integer"},
        },
    },
}


class Meta:
    """Reads and writes documents of the meta store; see the protocol of the same name."""

    def __init__(self, client: Client, names: Names) -> None:
        self._client = client
        self._names = names

    def prepare(self) -> None:
        """Make the index and its write alias where they are missing."""
        name, alias = self._names.meta, self._names.meta_writes
        answer = self._client.get(f"/{segment(name)}/_alias", missing=True)
        if answer.status == 404:
            body = {**_BODY, "aliases": {alias: {}}}
            try:
                self._client.send("PUT", f"/{segment(name)}", body, {"wait_for_active_shards": 1})
            except Refused as error:
                if error.type != "resource_already_exists_exception":
                    raise
        elif alias not in answer.json().get(name, {}).get("aliases", {}):
            self._client.send("PUT", f"/{segment(name)}/_alias/{segment(alias)}")

    def read(self, id: str) -> Optional[Stored]:
        answer = self._client.get(f"/{segment(self._names.meta)}/_doc/{segment(id)}", missing=True)
        if answer.status == 404:
            return None
        body = answer.json()
        return Stored(body["_source"], (body["_seq_no"], body["_primary_term"]))

    def write(self, id: str, source: Json, *, after: Optional[Stored] = None, create: bool = False) -> Stored:
        query: Dict[str, Any] = {"require_alias": True}
        if after is not None:
            seq_no, primary_term = after.revision
            query.update(if_seq_no=seq_no, if_primary_term=primary_term)
        elif create:
            query["op_type"] = "create"
        path = f"/{segment(self._names.meta_writes)}/_doc/{segment(id)}"
        document = {"kind": id.partition(":")[0], "key": id, **source}
        answer = self._client.send("PUT", path, document, query, missing=True, conflict=True)
        if answer.status == 404:
            raise MetaMissing(self._names.meta)
        if answer.status == 409:
            raise MetaConflict(id)
        body = answer.json()
        return Stored(source, (body["_seq_no"], body["_primary_term"]))

    def delete(self, id: str) -> None:
        self._client.send("DELETE", f"/{segment(self._names.meta)}/_doc/{segment(id)}", missing=True)

    def bulk(self, lines: Sequence[Json]) -> None:
        """Carry out action and source lines; any failure of an item is raised as transient."""
        path = f"/{segment(self._names.meta_writes)}/_bulk"
        body = "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines).encode()
        answer = self._client.request(
            "POST",
            path,
            body,
            query={"require_alias": True, "filter_path": "errors,items.*.error"},
            content_type="application/x-ndjson",
        ).json()
        if not answer.get("errors"):
            return
        errors = [result["error"] for item in answer["items"] for result in item.values() if "error" in result]
        if any(error.get("type") == "index_not_found_exception" for error in errors):
            raise MetaMissing(self._names.meta)
        raise SinkUnavailable(
            f"the meta store {self._names.meta} did not take {len(errors)} documents: {errors[0].get('reason')}"
        )

    def every(self, kind: str) -> Iterator[Tuple[str, Json]]:
        name = segment(self._names.meta)
        self._client.send("POST", f"/{name}/_refresh", missing=True)
        after: List[Any] = []
        while True:
            body: Json = {"size": _PAGE, "query": {"term": {"kind": kind}}, "sort": [{"key": "asc"}]}
            if after:
                body["search_after"] = after
            told = "hits.hits._id,hits.hits._source,hits.hits.sort,_shards.failed"
            query: Json = {"filter_path": told, "ignore_unavailable": True}
            answer = self._client.send("POST", f"/{name}/_search", body, query).json()
            if answer.get("_shards", {}).get("failed"):
                raise SinkUnavailable(f"the meta store {self._names.meta} can be read in part only", in_doubt=False)
            hits = answer.get("hits", {}).get("hits", [])
            for hit in hits:
                yield hit["_id"], hit["_source"]
            if len(hits) < _PAGE:
                return
            after = hits[-1]["sort"]


class Quarantine:
    """Rejected documents: what they were, why they were refused, and nothing of their content."""

    def __init__(self, meta: Meta, limit: int) -> None:
        self._meta = meta
        self._limit = limit
        self._parked: Dict[str, Dict[str, Parked]] = {}

    def load(self) -> None:
        found: Dict[str, Dict[str, Parked]] = {}
        for entry in self.entries():
            found.setdefault(entry.index, {})[entry.id] = entry
        self._parked = found

    def ids(self) -> Dict[str, List[str]]:
        return {index: sorted(entries) for index, entries in list(self._parked.items()) if entries}

    def park(self, documents: Sequence[Rejected]) -> None:
        """Store ``documents``; where an index's place is full, raises ``DocumentRejected`` once the rest is stored."""
        full: Optional[DocumentRejected] = None
        grown = {index: dict(entries) for index, entries in self._parked.items()}
        lines: List[Json] = []
        for document in documents:
            entries = grown.setdefault(document.index, {})
            if document.id not in entries and len(entries) >= self._limit:
                full = full or quarantine_full(self._limit, document)
                continue
            entry = entries[document.id] = park(entries.get(document.id), document)
            key = _key(document.index, document.id)
            lines.append({"index": {"_id": f"parked:{key}"}})
            lines.append(
                {
                    "kind": "parked",
                    "key": key,
                    "index": entry.index,
                    "id": entry.id,
                    "reason": entry.reason,
                    "lsn": str(entry.lsn),
                    "delete": entry.delete,
                    "first": entry.first,
                    "at": entry.last,
                    "tries": entry.tries,
                }
            )
        if lines:
            self._meta.bulk(lines)
            self._parked = grown
        if full is not None:
            raise full

    def entries(self, index: Optional[str] = None) -> Iterator[Parked]:
        """Everything parked, as the store has it."""
        for _, found in self._meta.every("parked"):
            if index in (None, found["index"]):
                yield Parked(
                    found["index"],
                    found["id"],
                    found["reason"],
                    stored_int(found, "lsn"),
                    first=found.get("first") or found["at"],
                    last=found["at"],
                    tries=found.get("tries", 1),
                    delete=found["delete"],
                )

    def release(self, index: str, ids: Sequence[str]) -> None:
        parked = self._parked.get(index, {})
        gone = [id for id in ids if id in parked]
        if gone:
            self._meta.bulk([{"delete": {"_id": f"parked:{_key(index, id)}"}} for id in gone])
            for id in gone:
                parked.pop(id, None)


def _key(index: str, id: str) -> str:
    """A key of bounded length: ids may be as long as OpenSearch allows ids to be."""
    return f"{index}:{hashlib.sha256(id.encode('utf-8', 'surrogatepass')).hexdigest()}"

"""What the cluster has: its indexes as they are, and what tells one running engine from the next."""

from __future__ import annotations

import json
import logging
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Set

from flusso_sync.errors import SinkUnauthorized
from flusso_sync.sinks.opensearch.client import Client, Refused, segment

log = logging.getLogger(__name__)

#: What is asked of an index to know whether it is ours.
_FACTS = (
    "*.mappings._meta.flusso_sync,*.aliases,*.settings.index.uuid,"
    "*.settings.index.refresh_interval,*.settings.index.number_of_replicas"
)

#: What tells one running engine of a shard from the next: its tombstones live there alone (settled.md section 5).  A
#: shard that is closed and opened keeps its allocation, but begins a primary term.
_ENGINES = (
    "nodes.*.ephemeral_id,metadata.indices.*.primary_terms,"
    "routing_table.indices.*.shards.*.primary,routing_table.indices.*.shards.*.node,"
    "routing_table.indices.*.shards.*.allocation_id"
)


class Held(NamedTuple):
    """An index as the cluster describes it; ``meta`` is what we wrote into its mapping."""

    name: str
    uuid: str
    aliases: Set[str]
    meta: Mapping[str, Any]
    refresh_interval: str
    number_of_replicas: str


class Cluster:
    """Looks at indexes, whoever made them."""

    def __init__(self, client: Client, sink: str) -> None:
        self._client = client
        self._sink = sink

    def find(self, pattern: str) -> Dict[str, Held]:
        """Every index behind a pattern, names or aliases: index name -> what it is."""
        path = "/" + ",".join(segment(part) if "*" not in part else part for part in pattern.split(","))
        query: Dict[str, Any] = {"expand_wildcards": "all", "ignore_unavailable": True, "filter_path": _FACTS}
        answer = self._client.get(path, query, missing=True)
        if answer.status == 404:
            return {}
        found: Dict[str, Held] = {}
        for name, entry in answer.json().items():
            settings = entry.get("settings", {}).get("index", {})
            found[name] = Held(
                name,
                str(settings.get("uuid", "")),
                set(entry.get("aliases", {})),
                entry.get("mappings", {}).get("_meta", {}).get("flusso_sync", {}),
                str(settings.get("refresh_interval", "")),
                str(settings.get("number_of_replicas", "")),
            )
        return found

    def counts(self, pattern: str) -> Dict[str, int]:
        """Index -> documents that a search finds in it."""
        path = f"/_cat/indices/{pattern}"
        query = {"h": "index,docs.count", "format": "json", "expand_wildcards": "all"}
        answer = self._client.get(path, query, missing=True)
        if answer.status == 404:
            return {}
        return {row["index"]: int(row["docs.count"]) for row in answer.json() if row.get("docs.count")}

    def engines(self, names: Sequence[str]) -> Dict[str, str]:
        """Index -> a text that is another one whenever an engine of its primary shards is."""
        if not names:
            return {}
        path = "/_cluster/state/metadata,nodes,routing_table/" + ",".join(segment(name) for name in names)
        try:
            query: Dict[str, Any] = {"filter_path": _ENGINES, "ignore_unavailable": True}
            state = self._client.get(path, query, missing=True).json()
        except (Refused, SinkUnauthorized) as error:
            # A user without the right to see the cluster's state; versions and tombstones guard all the same.
            log.debug("sink %s: the state of the cluster cannot be seen: %s", self._sink, error)
            return {}
        nodes = {id: node.get("ephemeral_id") for id, node in state.get("nodes", {}).items()}
        terms = state.get("metadata", {}).get("indices", {})
        marks: Dict[str, str] = {}
        for name, entry in state.get("routing_table", {}).get("indices", {}).items():
            engines: List[Any] = []
            for shard, copies in sorted(entry.get("shards", {}).items()):
                for copy in copies:
                    if copy.get("primary"):
                        node, allocation = nodes.get(copy.get("node")), copy.get("allocation_id")
                        engines.append([shard, node, allocation])
            if engines and all(node is not None for _, node, _ in engines):
                marks[name] = json.dumps([engines, terms.get(name)], sort_keys=True)
        return marks

"""The aliases of generations: two that readers use, and one of each generation's own that writes go through."""

from __future__ import annotations

import logging
from typing import Any, Dict, List

from flusso_sync.sinks.opensearch.client import Client
from flusso_sync.sinks.opensearch.cluster import Cluster, Held
from flusso_sync.sinks.opensearch.index import Built, Index
from flusso_sync.sinks.opensearch.names import Names

log = logging.getLogger(__name__)


class Aliases:
    """Moves them, and puts back what is gone."""

    def __init__(self, client: Client, cluster: Cluster, names: Names, sink: str) -> None:
        self._client = client
        self._cluster = cluster
        self._names = names
        self._sink = sink

    def move(self, index: Index, to: str, hash: str) -> None:
        """Let readers find the index ``to``: the alias of ``hash`` and the convenience alias, in one request."""
        hash_alias = self._names.hash_alias(index.name, hash)
        convenience = self._names.convenience(index.name)
        holders = self._cluster.find(f"{hash_alias},{convenience}")
        aliases = [hash_alias, convenience]
        if convenience in holders:
            log.warning(
                "sink %s: %s is an index, so it cannot be an alias of %s",
                self._sink,
                convenience,
                to,
                extra={"index": index.name},
            )
            aliases.remove(convenience)
        actions: List[Dict[str, Any]] = [
            {"remove": {"index": holder.name, "alias": alias}}
            for holder in holders.values()
            for alias in aliases
            if alias in holder.aliases and holder.name != to
        ]
        held = holders[to].aliases if to in holders else set()
        actions.extend({"add": {"index": to, "alias": alias}} for alias in aliases if alias not in held)
        if actions:
            self._client.send("POST", "/_aliases", {"actions": actions})

    def restore_writes(self, built: Built, held: Held) -> None:
        """Put back the alias that writes go through, if it is gone."""
        if built.target.alias not in held.aliases:
            self._client.send(
                "POST", "/_aliases", {"actions": [{"add": {"index": built.concrete, "alias": built.target.alias}}]}
            )

    def restore_reads(self, index: Index, built: Built) -> None:
        """Put back what nobody holds.  An alias that was moved by hand (to a former generation, say) stays there."""
        hash_alias = self._names.hash_alias(index.name, index.hash)
        convenience = self._names.convenience(index.name)
        holders = self._cluster.find(f"{hash_alias},{convenience}")
        taken = {alias for holder in holders.values() for alias in (*holder.aliases, holder.name)}
        adds = [
            {"add": {"index": built.concrete, "alias": alias}}
            for alias in (hash_alias, convenience)
            if alias not in taken
        ]
        if adds:
            log.warning(
                "sink %s: aliases of %s were gone and are put back",
                self._sink,
                built.concrete,
                extra={"index": index.name},
            )
            self._client.send("POST", "/_aliases", {"actions": adds})

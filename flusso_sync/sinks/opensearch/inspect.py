"""What ``flussod check`` says of a cluster: everything a run would be refused for or wait for there; only GETs."""

from __future__ import annotations

from typing import Any, Callable, List, Mapping, Optional, Sequence

from flusso_sync.errors import EXIT_SINK, FlussoError
from flusso_sync.findings import ERROR, INFO, WARNING, Finding, of_error
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.opensearch.client import Client, segment
from flusso_sync.sinks.opensearch.cluster import Cluster
from flusso_sync.sinks.opensearch.hash import index_hash
from flusso_sync.sinks.opensearch.names import Generation, Names
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings, read

#: Major versions that are tested; anything else warns.
SUPPORTED = (2, 3)

#: The plugin of ``text_analysis: icu``.
ICU = "analysis-icu"

#: Room for the number of a generation in its name.
LATE_GENERATION = 999_999

#: Settings of the whole cluster that keep us from writing.
BLOCKS = ("cluster.blocks.read_only", "cluster.blocks.read_only_allow_delete", "cluster.blocks.create_index")


def untested_version(sink: str, version: Mapping[str, Any]) -> Optional[str]:
    """A sentence when the server that tells ``version`` of itself is not one that is tested."""
    number, distribution = str(version.get("number", "")), str(version.get("distribution", ""))
    if distribution == "opensearch" and number.partition(".")[0] in {str(major) for major in SUPPORTED}:
        return None
    what = distribution or "a server other than OpenSearch"
    return f"sink {sink}: {what} {number} is not tested; OpenSearch {' and '.join(map(str, SUPPORTED))} is"


class Inspection:
    """One look at one cluster."""

    def __init__(self, client: Client, names: Names, settings: OpenSearchSettings, sink: str) -> None:
        self._client = client
        self._cluster = Cluster(client, sink)
        self._names = names
        self._settings = settings
        self._sink = sink
        self._found: List[Finding] = []

    def findings(
        self, plans: Sequence[IndexPlan], owner: Callable[[], List[Finding]], pipeline: Callable[[], None]
    ) -> List[Finding]:
        """All of them; ``owner`` tells of owner and lease, ``pipeline`` raises where there is none."""
        try:
            about = self._client.get("/").json()
            version = about.get("version", {}) if isinstance(about, dict) else {}
            untested = untested_version(self._sink, version)
            if untested is not None:
                self._say("FL072", WARNING, untested)
        except FlussoError as error:
            # Nothing else would be answered.
            return of_error(error)
        self._try(pipeline)
        self._try(lambda: self._found.extend(owner()))
        for plan in plans:
            self._try(lambda p=plan: self._names_of(p))  # type: ignore[misc]
        for look in (self._plugins, self._nodes, self._blocks):
            # Not every user may see these; a run does not look at them.
            self._try(look, needed=False)
        if read(self._settings.username):
            self._say(
                "FL075",
                INFO,
                f"sink {self._sink}: whether its user may create indexes and write cannot be tried without writing",
                f"It needs indices_all on {self._settings.prefix}*, cluster_composite_ops and cluster_monitor",
            )
        return self._found

    def _say(self, code: str, severity: str, message: str, remedy: str = "", **more: Any) -> None:
        ends = {"exit_code": EXIT_SINK if severity == ERROR else 0, **more}
        self._found.append(Finding(code, severity, message, remedy, **ends))

    def _try(self, look: Callable[[], None], *, needed: bool = True) -> None:
        try:
            look()
        except FlussoError as error:
            if needed:
                self._found += of_error(error)

    def _names_of(self, plan: IndexPlan) -> None:
        hash = index_hash(plan, self._settings)
        self._names.concrete(Generation(plan.name, hash, LATE_GENERATION))
        # By the first one readers look; a run goes on without it, under the other alone.
        aliases = {self._names.convenience(plan.name): WARNING, self._names.hash_alias(plan.name, hash): ERROR}
        found = self._cluster.find(",".join(aliases))
        for alias, severity in aliases.items():
            if alias in found:
                self._say(
                    "FL076",
                    severity,
                    f"{alias} is an index, and should be an alias",
                    "Rename or delete it, or set a prefix",
                    index=plan.name,
                )

    def _plugins(self) -> None:
        if self._settings.text_analysis != "icu":
            return
        nodes = {row["name"] for row in self._client.get("/_cat/nodes", {"h": "name", "format": "json"}).json()}
        rows = self._client.get("/_cat/plugins", {"h": "name,component", "format": "json"}).json()
        lacking = sorted(nodes - {row["name"] for row in rows if row["component"] == ICU})
        if lacking:
            self._say(
                "FL073",
                ERROR,
                f"sink {self._sink}: text_analysis is icu, and node {', '.join(lacking)} has no plugin {ICU}",
                "Install it on every node, or set text_analysis: builtin",
            )

    def _nodes(self) -> None:
        health = self._client.get("/_cluster/health").json()
        nodes, replicas = int(health["number_of_data_nodes"]), self._settings.number_of_replicas
        if replicas >= nodes:
            self._say(
                "FL080",
                WARNING,
                f"sink {self._sink}: number_of_replicas is {replicas}, and the cluster has {nodes} data "
                f"node{'s' if nodes != 1 else ''}: indexes stay yellow, and the end of each build waits for copies "
                "that cannot be",
                f"Set number_of_replicas: {max(0, nodes - 1)}, or add nodes",
            )

    def _blocks(self) -> None:
        settings = self._client.get("/_cluster/settings", {"flat_settings": True}).json()
        held = {**settings.get("persistent", {}), **settings.get("transient", {})}
        blocked = [name for name in BLOCKS if str(held.get(name)).lower() == "true"]
        if blocked:
            self._say(
                "FL081",
                WARNING,
                f"sink {self._sink}: the cluster has {', '.join(blocked)} set; a run would wait",
                "Clear it once its cause is gone",
            )
        pattern = f"/{segment(self._names.prefix)}*/_settings/index.blocks.*"
        answer = self._client.get(pattern, {"flat_settings": True}, missing=True)
        if answer.status == 404:
            return
        for name, entry in sorted(answer.json().items()):
            blocks = [key for key, value in entry.get("settings", {}).items() if str(value).lower() == "true"]
            if blocks and self._is_ours(name):
                self._say("FL081", WARNING, f"index {name} has {', '.join(blocks)} set; a run would wait", "Clear it")

    def _is_ours(self, name: str) -> bool:
        found = self._cluster.find(name).get(name)
        return found is not None and bool(found.meta)

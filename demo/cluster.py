"""Takes what a demo made in an OpenSearch cluster away again."""

from __future__ import annotations

from typing import List

from flusso_sync.config.connection import sink_settings
from flusso_sync.config.load import Config
from flusso_sync.config.models import OpenSearchSink
from flusso_sync.errors import FlussoError
from flusso_sync.sinks.opensearch.client import Client, segment
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings


def remove_indexes(config: Config, prefix: str) -> List[str]:
    """Delete every index whose name begins with ``prefix``; returns a sentence for each that is left."""
    left: List[str] = []
    for name, entry in config.sinks.items():
        if not isinstance(entry, OpenSearchSink):
            continue
        found = sink_settings(name, entry)
        client = Client(OpenSearchSettings(found.url, found.username, found.password, ca_file=entry.ca_file))
        try:
            # One by one: many clusters refuse to delete by a pattern.
            for index in client.get(f"/{segment(prefix)}*", {"expand_wildcards": "all"}).json():
                client.send("DELETE", f"/{segment(index)}", missing=True)
        except FlussoError as error:
            left.append(error.message)
        finally:
            client.close()
    return left

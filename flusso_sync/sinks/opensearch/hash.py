"""``H`` of opensearch.md, by our own rule: see ``sinks/hash.py``."""

from __future__ import annotations

from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.hash import shape_hash
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings


def index_hash(plan: IndexPlan, settings: OpenSearchSettings) -> str:
    options = {
        "text_analysis": settings.text_analysis,
        "auto_subfields": settings.auto_subfields,
        "number_of_shards": max(1, settings.number_of_shards),
    }
    return shape_hash(plan, options)

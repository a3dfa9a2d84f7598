"""The hash of an index: what it is built from, in 16 hex digits.

Another schema, another shaping option or another renderer is another hash, and so a new generation beside the old
one (settled.md section 5).
"""

from __future__ import annotations

import hashlib
import json

from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.opensearch.settings import OpenSearchSettings

#: Raised whenever our rendering of documents or our mapping changes.
RENDERER = 2


def index_hash(plan: IndexPlan, settings: OpenSearchSettings) -> str:
    """``H`` of opensearch.md, by our own rule."""
    shape = {
        "schema": plan.canonical,
        "text_analysis": settings.text_analysis,
        "auto_subfields": settings.auto_subfields,
        "number_of_shards": max(1, settings.number_of_shards),
        "renderer": RENDERER,
    }
    text = json.dumps(shape, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""The hash of an index: what it is built from, in 16 hex digits.

Another schema, another shaping option or another renderer is another hash, and so a new generation beside the old
one (settled.md section 5).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Mapping

from flusso_sync.schema.plan import IndexPlan

#: Raised whenever our rendering of documents, or what a sink makes of them, changes.
RENDERER = 2


def shape_hash(plan: IndexPlan, options: Mapping[str, Any]) -> str:
    """The hash of ``plan`` in a sink with these shaping options."""
    shape = {"schema": plan.canonical, **options, "renderer": RENDERER}
    text = json.dumps(shape, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

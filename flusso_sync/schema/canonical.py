"""One text per meaning: the part of an index's hash that comes from its schema file.

Comments, formatting and the order of keys do not change it; the order of fields does.  A value equal to its
default is left out, so a later version of the language with new keys does not rebuild every index.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Dict

from flusso_sync.schema.plan import ConstantField, IndexPlan, RawFilter, Table


def canonical(plan: IndexPlan) -> str:
    """Canonical JSON of the plan without its name."""
    return json.dumps(_value(plan), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _value(value: Any) -> Any:
    if isinstance(value, Table):
        return [value.schema, value.name]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, (tuple, list)):
        return [_value(item) for item in value]
    return value


def _fields(value: Any) -> Dict[str, Any]:
    result: Dict[str, Any] = {"": type(value).__name__}
    for attribute in dataclasses.fields(value):
        held = getattr(value, attribute.name)
        if isinstance(value, IndexPlan) and attribute.name in ("name", "canonical"):
            continue
        if isinstance(value, RawFilter) and attribute.name == "volatile":
            # A promise about the filter, not a part of the document.
            continue
        if isinstance(value, ConstantField) and attribute.name == "value":
            # Documents keep the order of keys within a constant, so it is part of the meaning.
            result["value"] = json.dumps(held, separators=(",", ":"), allow_nan=False)
            continue
        if attribute.default is not dataclasses.MISSING and held == attribute.default:
            continue
        if attribute.default_factory is not dataclasses.MISSING and held == attribute.default_factory():
            continue
        result[attribute.name] = _value(held)
    return result

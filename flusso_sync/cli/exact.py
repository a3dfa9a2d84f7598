"""JSON text of a parsed document with every digit it came with (numbers parsed as ``Decimal``)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any


def parse(text: "str | bytes") -> Any:
    """JSON with every digit kept."""
    return json.loads(text, parse_float=Decimal)


def render(value: Any, indent: int = 0, depth: int = 1) -> str:
    """Compact JSON, or indented by ``indent`` blanks a level; keys in the order they have."""
    if isinstance(value, Decimal):
        return str(value)
    if not isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    brackets = "{}" if isinstance(value, dict) else "[]"
    colon = ": " if indent else ":"
    parts = (
        [json.dumps(key, ensure_ascii=False) + colon + render(one, indent, depth + 1) for key, one in value.items()]
        if isinstance(value, dict)
        else [render(one, indent, depth + 1) for one in value]
    )
    if not indent or not parts:
        return brackets[0] + ",".join(parts) + brackets[1]
    line = "\n" + " " * (indent * depth)
    return brackets[0] + line + f",{line}".join(parts) + line[:-indent] + brackets[1]

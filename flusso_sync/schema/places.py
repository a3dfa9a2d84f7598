"""Where in its file each part of a plan was written, so that what a database says of it can be shown there.

A part is named as the checks name it: ``table``, ``primary_key``, ``filters``, ``soft_delete.when``, and fields by
their dotted names.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, List, Mapping, Tuple

from flusso_sync.config import yaml12
from flusso_sync.config.sentences import KeyPath
from flusso_sync.errors import Problem
from flusso_sync.schema.plan import IndexPlan, Place


def places_of(document: yaml12.Document, type_keys: Collection[str]) -> Mapping[str, Place]:
    """The place of every part; empty for a schema that stands in no file."""
    top = document.value
    if document.file is None or not isinstance(top, dict):
        return {}
    found: Dict[str, Place] = {}

    def note(name: str, path: KeyPath) -> None:
        position = document.keys.get(path) or document.positions.get(path)
        if position is not None:
            found.setdefault(name, Place(str(document.file), position.line, position.column))

    for key in ("table", "primary_key", "doc_id", "filters", "soft_delete", "fields"):
        note(key, (key,))
    note("soft_delete.when", ("soft_delete", "when"))
    # A stack: files may nest deeper than Python recurses.
    waiting: List[Tuple[Any, KeyPath, str]] = [(top.get("fields"), ("fields",), "")]
    while waiting:
        fields, path, prefix = waiting.pop()
        for position, item in enumerate(fields if isinstance(fields, list) else ()):
            kind = next((key for key in item if key in type_keys), None) if isinstance(item, dict) else None
            if kind is None:
                continue
            name = f"{prefix}{item[kind]}"
            note(name, (*path, position, kind))
            waiting.append((item.get("fields"), (*path, position, "fields"), name + "."))
    return found


def problem(plan: IndexPlan, path: str, message: str, code: str = "", *, at: str = "") -> Problem:
    """``message`` about a part of ``plan``, placed at it or at the part around it.

    ``at`` names the part where ``path`` names none.
    """
    place = plan.place(at or path)
    if place is None:
        return Problem(message, path=path or None, code=code)
    return Problem(message, file=place.file, line=place.line, column=place.column, path=path or None, code=code)

"""What a SQLite sink is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping


def _none() -> Mapping[str, int]:
    return {}


@dataclass(frozen=True)
class SqliteSettings:
    """``path`` is absolute or relative to the working folder; ``search`` keeps a full-text index."""

    path: str
    search: bool = True
    prefix: str = ""
    quarantine_limit: int = 10_000
    #: Index -> former generations that stay.
    keep_generations: Mapping[str, int] = field(default_factory=_none)

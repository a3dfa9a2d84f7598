"""How tables and views are called.

With prefix ``P``, logical name ``L`` and generation ``G``: the view that readers use ``P L``, the documents of a
generation ``P L.G``, their words ``P L.G.text``.  No name of an index holds a dot, so nothing else is called so.
"""

from __future__ import annotations

import re
from typing import Optional

from flusso_sync.errors import SinkRefused


class Names:
    """The names of one deployment; all of them need quotes."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.meta = f"{prefix}flusso_sync.meta"
        self.parked = f"{prefix}flusso_sync.parked"

    def view(self, index: str) -> str:
        """What readers use; refuses the one kind of name that SQLite keeps for itself."""
        name = f"{self.prefix}{index}"
        if name.lower().startswith("sqlite_"):
            raise SinkRefused(
                f"index {index}: SQLite lets nobody have a name that begins with sqlite_",
                hint="Set a prefix, or rename the index",
                index=index,
                code="FL076",
            )
        return name

    def documents(self, index: str, number: int) -> str:
        return f"{self.prefix}{index}.{number}"

    def words(self, index: str, number: int) -> str:
        return f"{self.prefix}{index}.{number}.text"

    def parse(self, index: str, table: str) -> Optional[int]:
        """The generation whose documents ``table`` holds; None for any other table."""
        start = f"{self.prefix}{index}."
        if not table.startswith(start):
            return None
        found = re.match(r"[1-9][0-9]*\Z", table[len(start) :])
        return int(found.group()) if found else None


def quoted(name: str) -> str:
    """An identifier as SQL."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'

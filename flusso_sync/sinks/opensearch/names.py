"""How indexes and aliases are called.

With prefix ``P``, logical name ``L``, hash ``H`` and generation ``G``: index ``P L_H_G``, hash alias ``P L_H``,
convenience alias ``P L``, write alias ``P w.L_H_G``.  No index of ours holds a dot, so an *index* named like a write
alias was created by a write that came after its alias had gone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

from flusso_sync.errors import SinkRefused

#: OpenSearch's limit on index names.
MAX_NAME_BYTES = 255

_GENERATION = re.compile(r"([0-9a-f]{16})_([1-9][0-9]*)\Z")


@dataclass(frozen=True)
class Generation:
    """One index of ours, taken apart."""

    index: str
    hash: str
    number: int


class Names:
    """The names of one deployment."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.meta = f"{prefix}flusso_sync_meta"
        self.meta_writes = f"{prefix}w.flusso_sync_meta"
        self.every_write_alias = f"{prefix}w.*"

    def convenience(self, index: str) -> str:
        return f"{self.prefix}{index}"

    def hash_alias(self, index: str, hash: str) -> str:
        return f"{self.prefix}{index}_{hash}"

    def concrete(self, generation: Generation) -> str:
        """The index itself; refuses a name that OpenSearch would not take."""
        name = f"{self.prefix}{generation.index}_{generation.hash}_{generation.number}"
        if len(name.encode()) + 2 > MAX_NAME_BYTES:
            raise SinkRefused(
                f"index {generation.index}: the name {name} is longer than OpenSearch's {MAX_NAME_BYTES} bytes",
                hint="Shorten the prefix or the name of the index",
                index=generation.index,
                code="FL076",
            )
        return name

    def writes(self, generation: Generation) -> str:
        """The alias that writes of a generation go through."""
        return f"{self.prefix}w.{generation.index}_{generation.hash}_{generation.number}"

    def every(self, index: str) -> str:
        """A pattern that finds every generation of ``index``, and perhaps more; see :meth:`parse`."""
        return f"{self.prefix}{index}_*"

    def parse(self, index: str, name: str) -> Optional[Generation]:
        """The generation of ``index`` that ``name`` is; None for any other index."""
        return self._parse(index, f"{self.prefix}{index}_", name)

    def parse_writes(self, index: str, name: str) -> Optional[Generation]:
        """The generation of ``index`` whose write alias is called ``name``."""
        return self._parse(index, f"{self.prefix}w.{index}_", name)

    @staticmethod
    def _parse(index: str, start: str, name: str) -> Optional[Generation]:
        if not name.startswith(start):
            return None
        found = _GENERATION.match(name, len(start))
        return Generation(index, found.group(1), int(found.group(2))) if found else None

"""Documents as readers find them, whatever the sink, and what differs between two states of one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from flusso_sync.backends import DefaultBackends
from flusso_sync.config.load import load_config
from flusso_sync.config.models import OpenSearchSink
from flusso_sync.daemon import DaemonOptions
from flusso_sync.errors import FlussoError, SinkUnavailable
from flusso_sync.schema.plan import Table
from flusso_sync.sinks.base import Sink

#: Documents of one change that are compared before and after; of a tag there may be hundreds.
MOST_COMPARED = 60

#: Paths that are told of one document.
MOST_PATHS = 4

#: How long a cluster may think about one question; people wait for the answer.
ANSWER_SECONDS = 4.0

_MISSING = object()


@dataclass(frozen=True)
class Name:
    """A document."""

    index: str
    id: str


class Documents:
    """Reads the first sink of a configuration that can be read; every method may be called by any thread."""

    def __init__(self, config_path: str, prefix: Optional[str] = None) -> None:
        self.config = load_config(config_path)
        patience = {"timeout_secs": ANSWER_SECONDS}
        self.config = replace(
            self.config,
            sinks={
                name: sink.model_copy(update=patience) if isinstance(sink, OpenSearchSink) else sink
                for name, sink in self.config.sinks.items()
            },
        )
        if prefix is not None:
            self.config = replace(self.config, prefix=prefix)
        self.indexes = tuple(self.config.indexes)
        self._backends = DefaultBackends()
        self._sinks = self._backends.sinks(self.config, DaemonOptions())
        self._sink: Sink = next(sink for _, sink in sorted(self._sinks.items()) if sink.stateful)

    def close(self) -> None:
        for sink in self._sinks.values():
            sink.close()

    def search(self, index: str, words: str, limit: int) -> List[Tuple[str, Any]]:
        """The best matches; the last word may be the beginning of one.

        Raises ``SinkUnavailable``, and another ``FlussoError`` while readers find no such index yet.
        """
        plain = re.findall(r"\w+", words)
        if not plain:
            return []
        ends_within = bool(re.search(r"\w\Z", words))
        query = " ".join(plain) + ("*" if ends_within else "")
        return self._sink.search(index, query, limit)

    def count(self, index: str) -> Optional[int]:
        """Documents that readers find; None while the sink is away."""
        try:
            return self._sink.count(index)
        except FlussoError:
            return None

    def read(self, names: Iterable[Name]) -> Optional[Dict[Name, Any]]:
        """Those that are there; none while readers find no such index yet, None while the sink is away."""
        found: Dict[Name, Any] = {}
        by_index: Dict[str, List[str]] = {}
        for name in names:
            by_index.setdefault(name.index, []).append(name.id)
        for index, ids in by_index.items():
            try:
                many = self._sink.get_many(index, ids)
            except SinkUnavailable:
                return None
            except FlussoError:
                # It is being built for the first time: nobody finds them.
                continue
            found.update({Name(index, id): one.document for id, one in many.items()})
        return found

    def touched(self, table: str, key: str) -> Dict[Name, Sequence[str]]:
        """Every document that shows the row now -> the fields that show it (none: the row is its own)."""
        explained = self._backends.explain(self.config, DaemonOptions(), Table("public", table), key)
        ways: Dict[Name, List[str]] = {}
        for way in explained.ways:
            for id in way.documents or ():
                fields = ways.setdefault(Name(way.index, id), [])
                fields.extend(field for field in way.fields if field not in fields)
        return {name: tuple(fields) for name, fields in ways.items()}


def differences(before: Any, after: Any) -> List[Dict[str, str]]:
    """Paths at which two states of a document differ, with both values as text; empty text where there is none.

    Objects in lists that have an ``id`` are recognised by it.
    """
    found = list(_differences("", before, after))
    told = [{"path": path, "before": _told(old), "after": _told(new)} for path, old, new in found[:MOST_PATHS]]
    if len(found) > MOST_PATHS:
        told.append({"path": f"and {len(found) - MOST_PATHS} more", "before": "", "after": ""})
    return told


def _differences(path: str, before: Any, after: Any) -> Iterator[Tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            below = f"{path}.{key}" if path else key
            yield from _differences(below, before.get(key, _MISSING), after.get(key, _MISSING))
    elif isinstance(before, list) and isinstance(after, list):
        old, new = _by_id(before), _by_id(after)
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(f"{path}[{key}]", old.get(key, _MISSING), new.get(key, _MISSING))
    elif before != after:
        yield path, before, after


def _by_id(items: Sequence[Any]) -> Mapping[str, Any]:
    keys = [str(item["id"]) if isinstance(item, dict) and "id" in item else str(n) for n, item in enumerate(items)]
    if all(isinstance(item, dict) and len(item) == 1 for item in items):
        # Such as {"label": "garden"}: nothing tells them apart but what they are.
        keys = [str(next(iter(item.values()))) for item in items]
    return dict(zip(keys, items))


def _told(value: Any) -> str:
    if value is _MISSING:
        return ""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_told(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{len(value)}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Any) -> Any:
    """The document for a browser: numbers as ``{"#": digits}``, since JavaScript would round them."""
    if isinstance(value, dict):
        return {key: shown(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shown(one) for one in value]
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return {"#": str(value)}
    return value

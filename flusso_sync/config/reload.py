"""What of a configuration that was read anew can hold at once, and what takes a restart.

Pure: compares two configurations, asks no server.  What may change at once is what its user reads anew each time it is
needed; everything else was built into something that runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from pydantic import BaseModel

from flusso_sync.config.connection import sink_settings, source_address
from flusso_sync.config.load import Config, IndexEntry
from flusso_sync.config.models import AnySink, OpenSearchSink, Section
from flusso_sync.errors import ConfigError

#: Keys of sections that hold from the next use on.
_AT_ONCE = (
    "server.admin_user",
    "backfill.workers",
    "backfill.max_rows_per_second",
    "backfill.max_lag_bytes",
)

#: Keys of a sink that are read anew at each connect.
_SINK_CREDENTIALS = ("username", "password")


@dataclass(frozen=True)
class Reloaded:
    """``config`` is what holds from now on; the keys that it took over, and those that wait for a restart."""

    config: Config
    changed: Tuple[str, ...]
    waiting: Tuple[str, ...]


def reloaded(running: Config, read: Config, environ: Optional[Mapping[str, str]] = None) -> Reloaded:
    """Take over from ``read`` what may change while ``running`` runs.

    Raises ``ConfigError`` when a secret that would hold at once cannot be read.
    """
    changed: List[str] = []
    waiting: List[str] = []
    taken: Dict[str, Any] = {"warnings": read.warnings}

    def sort(key: str, at_once: bool) -> bool:
        (changed if at_once else waiting).append(key)
        return at_once

    for section in ("source", "server", "engine", "backfill", "quarantine"):
        old, new = getattr(running, section), getattr(read, section)
        update = {
            name: getattr(new, name)
            for name in _different(old, new)
            if sort(f"{section}.{name}", _at_once(f"{section}.{name}", running, read, environ))
        }
        if update:
            taken[section] = old.model_copy(update=update)
    if running.prefix != read.prefix:
        waiting.append("prefix")
    taken["sinks"] = {name: sink for name, sink in _sinks(running, read, sort)}
    taken["indexes"] = {entry.name: entry for entry in _indexes(running, read, sort)}
    config = replace(running, **taken)
    if "server.admin_password" in changed and config.server.admin_password is not None:
        config.server.admin_password.resolve(environ, key="server.admin_password")
    for name, sink in config.sinks.items():
        if isinstance(sink, OpenSearchSink) and any(key.startswith(f"sinks.{name}.") for key in changed):
            sink_settings(name, sink, environ)
    return Reloaded(config, tuple(changed), tuple(waiting))


def _at_once(key: str, running: Config, read: Config, environ: Optional[Mapping[str, str]]) -> bool:
    if key == "server.admin_password":
        # Whether the private surface is served at all was decided at the start.
        return running.server.admin_password is not None and read.server.admin_password is not None
    if key == "source.connection_url":
        # The next connect takes it, if it leads to the same database: another user, password or parameter.
        try:
            return source_address(running, environ) == source_address(read, environ)
        except ConfigError:
            return False
    return key in _AT_ONCE


def _sinks(running: Config, read: Config, sort: Any) -> Iterator[Tuple[str, AnySink]]:
    """The sinks as they go on, with the credentials of ``read``."""
    for name, old in running.sinks.items():
        new = read.sinks.get(name)
        if new is None or type(new) is not type(old):
            sort(f"sinks.{name}", False)
            yield name, old
            continue
        update = {
            key: getattr(new, key)
            for key in _different(old, new)
            if sort(f"sinks.{name}.{key}", key in _SINK_CREDENTIALS)
        }
        yield name, old.model_copy(update=update) if update else old
    for name in read.sinks:
        if name not in running.sinks:
            sort(f"sinks.{name}", False)


def _indexes(running: Config, read: Config, sort: Any) -> Iterator[IndexEntry]:
    """The entries as they go on, with the ``on_error`` of ``read``; the root's is part of it."""
    for name, old in running.indexes.items():
        new = read.indexes.get(name)
        if new is None:
            sort(f"index.{name}", False)
            yield old
            continue
        for key, was, becomes in (
            ("schema", old.plan, new.plan),
            ("enabled", old.enabled, new.enabled),
            ("keep_generations", old.keep_generations, new.keep_generations),
        ):
            if was != becomes:
                sort(f"index.{name}.{key}", False)
        if old.on_error != new.on_error:
            sort(f"index.{name}.on_error", True)
        yield replace(old, on_error=new.on_error)
    for name in read.indexes:
        if name not in running.indexes:
            sort(f"index.{name}", False)


def _different(old: Section, new: BaseModel) -> List[str]:
    """Names of the fields that differ, in the order of the model."""
    return [name for name in type(old).model_fields if getattr(old, name) != getattr(new, name)]

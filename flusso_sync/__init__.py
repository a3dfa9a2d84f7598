"""flusso-sync keeps search documents in step with Postgres.

The embedding API (names and behaviour: README, "Embedding")::

    from flusso_sync import Daemon, load_config

    with Daemon(load_config("etc/flusso.yaml")).background() as running:
        running.wait_until_live(timeout=60)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flusso_sync.config.load import Config, load_config
    from flusso_sync.daemon import Backends, Daemon, DaemonOptions, RunningDaemon
    from flusso_sync.engine.policies import FailurePolicies
    from flusso_sync.engine.source import Capture, Documents, SourceParts
    from flusso_sync.errors import (
        BlindTable,
        ConfigError,
        DocumentRejected,
        FlussoError,
        Gap,
        IndexMissing,
        OwnerConflict,
        PublicationMismatch,
        SchemaDrift,
        SinkBlocked,
        SinkError,
        SinkOverloaded,
        SinkRefused,
        SinkUnavailable,
        SlotInUse,
        SlotLost,
        SlotMissing,
        SourceError,
        SourceRefused,
        SourceUnavailable,
        SyncStopped,
    )
    from flusso_sync.observer import BatchStats, FanOut, Observer, StatusObserver
    from flusso_sync.sinks.base import Sink
    from flusso_sync.status import IndexState, Phase, Status, StatusSnapshot

__version__ = "0.1.0"

#: A logical index name, as the configuration writes it.
IndexName = str

_HOMES = {
    "flusso_sync.config.load": ("Config", "load_config"),
    "flusso_sync.daemon": ("Backends", "Daemon", "DaemonOptions", "RunningDaemon"),
    "flusso_sync.engine.policies": ("FailurePolicies",),
    "flusso_sync.engine.source": ("Capture", "Documents", "SourceParts"),
    "flusso_sync.errors": (
        "BlindTable",
        "ConfigError",
        "DocumentRejected",
        "FlussoError",
        "Gap",
        "IndexMissing",
        "OwnerConflict",
        "PublicationMismatch",
        "SchemaDrift",
        "SinkBlocked",
        "SinkError",
        "SinkOverloaded",
        "SinkRefused",
        "SinkUnavailable",
        "SlotInUse",
        "SlotLost",
        "SlotMissing",
        "SourceError",
        "SourceRefused",
        "SourceUnavailable",
        "SyncStopped",
    ),
    "flusso_sync.observer": ("BatchStats", "FanOut", "Observer", "StatusObserver"),
    "flusso_sync.sinks.base": ("Sink",),
    "flusso_sync.status": ("IndexState", "Phase", "Status", "StatusSnapshot"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backends",
    "BatchStats",
    "BlindTable",
    "Capture",
    "Config",
    "ConfigError",
    "Daemon",
    "DaemonOptions",
    "DocumentRejected",
    "Documents",
    "FailurePolicies",
    "FanOut",
    "FlussoError",
    "Gap",
    "IndexMissing",
    "IndexName",
    "IndexState",
    "Observer",
    "OwnerConflict",
    "Phase",
    "PublicationMismatch",
    "RunningDaemon",
    "SchemaDrift",
    "Sink",
    "SinkBlocked",
    "SinkError",
    "SinkOverloaded",
    "SinkRefused",
    "SinkUnavailable",
    "SlotInUse",
    "SlotLost",
    "SlotMissing",
    "SourceError",
    "SourceParts",
    "SourceRefused",
    "SourceUnavailable",
    "Status",
    "StatusObserver",
    "StatusSnapshot",
    "SyncStopped",
    "__version__",
    "load_config",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use: ``import flusso_sync`` alone costs nothing."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value

"""Imported by the process that daemons are forked from: the whole package, and what it imports only when used."""

from __future__ import annotations

import importlib
import pkgutil

import flusso_sync
import tests.guards
import tests.machine.forks  # noqa: F401

for module in pkgutil.walk_packages(flusso_sync.__path__, "flusso_sync."):
    importlib.import_module(module.name)

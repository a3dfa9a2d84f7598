"""The version, from one place: setup.cfg in a checkout, the installed metadata otherwise."""

from __future__ import annotations

import configparser
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path


def version() -> str:
    """The version of the code that runs, also when another one is installed beside the checkout."""
    parser = configparser.ConfigParser()
    parser.read(Path(__file__).resolve().parent.parent.parent / "setup.cfg", encoding="utf-8")
    if parser.get("metadata", "name", fallback=None) == "flusso-sync":
        return parser.get("metadata", "version")
    try:
        return installed_version("flusso-sync")
    except PackageNotFoundError:
        return "unknown"

"""Throwaway Postgres servers, by the name the tests and the bench know them under."""

from __future__ import annotations

from flusso_sync.testing.postgres import (
    BIN_VARIABLE,
    Database,
    NoPostgres,
    PostgresServer,
    die_with_parent,
    find_binaries,
    free_port,
    make_folder,
    start_postgres,
    version_of,
    wheel_binaries,
)

__all__ = [
    "BIN_VARIABLE",
    "Database",
    "NoPostgres",
    "PostgresServer",
    "die_with_parent",
    "find_binaries",
    "free_port",
    "make_folder",
    "start_postgres",
    "version_of",
    "wheel_binaries",
]

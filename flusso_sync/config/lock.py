"""The lock: a configuration and its schema files, checked, in one file that a run needs nothing beside.

JSON with flusso's keys (``format_version``, ``flusso_version``, ``config`` with the schemas in it) and ``folder``:
where the configuration lay, as seen from the lock, for relative paths still start there.  The same files make the
same bytes.  No password is in it: where a literal holds one, the variable that overrides it is named instead.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Tuple, Union

from flusso_sync.config import yaml12
from flusso_sync.config.load import Config, Files, from_document, read_files
from flusso_sync.config.models import ConnectionParts, OpenSearchSink
from flusso_sync.config.sentences import KeyPath
from flusso_sync.config.values import Reference, Secret
from flusso_sync.errors import ConfigError, Problem
from flusso_sync.schema import names

#: Raised whenever an older flussod could not read what is written.
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Built:
    """A lock that was written; ``withheld`` are sentences about values that are not in it, with file and line."""

    config: Config
    withheld: Tuple[str, ...]


def build_lock(config_path: Union[str, Path], lock_path: Union[str, Path]) -> Built:
    """Read the configuration and its schemas, check them, and put the lock in the place of a former one.

    Asks no server and looks up no secret.  Raises ``ConfigError``.
    """
    from flusso_sync import __version__

    files = read_files(config_path)
    values: Dict[str, Any] = json.loads(json.dumps(files.document.value))
    withheld = []
    for path, variable in _secrets(files.config, values):
        _put(values, path, {"env": variable})
        sentence = f"is not written into the lock: a locked run takes it from {variable}"
        withheld.append(str(files.document.problem(path, sentence, key=True)))
    for position, entry in enumerate(values.get("index") or ()):
        entry["schema"] = _schema(entry["schema"], files, position)
    lock = {
        "format_version": FORMAT_VERSION,
        "flusso_version": __version__,
        "folder": _folder(Path(config_path), Path(lock_path)),
        "config": values,
    }
    _write(Path(lock_path), json.dumps(lock, indent=1) + "\n")
    return Built(files.config, tuple(withheld))


def load_lock(path: Union[str, Path]) -> Config:
    """The configuration that was built into the lock; no other file is read.  Raises ``ConfigError``."""
    lock = _read(str(path))
    version = lock.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise _refused(path, f"is a lock of the format {version!r}, and this flussod reads {FORMAT_VERSION}")
    config, folder = lock.get("config"), lock.get("folder")
    if not isinstance(config, dict) or not isinstance(folder, str):
        raise _refused(path, "is no lock")
    for entry in config.get("index") or ():
        if isinstance(entry, dict):
            entry["schema"] = _schema_document(entry.get("schema"), path)
    return from_document(yaml12.Document(config, str(path)), Path(path).parent / folder)


# -- secrets ------------------------------------------------------------------------------------------------------


def _secrets(config: Config, values: Mapping[str, Any]) -> Iterator[Tuple[KeyPath, str]]:
    """The literals that hold a password, or may hold one, and the variable that overrides each."""
    connection = config.source.connection_url
    held = connection.password if isinstance(connection, ConnectionParts) else connection
    if _is_secret(held):
        yield ("source", "connection_url"), "DATABASE_URL"
    for given in values.get("sinks") or {}:
        name = names.plain_identifier(given)
        sink = config.sinks[name]
        if isinstance(sink, OpenSearchSink):
            for key in ("url", "username", "password"):
                if _is_secret(getattr(sink, key)):
                    yield ("sinks", given, key), f"{name.upper()}_OPENSEARCH_{key.upper()}"
    if _is_secret(config.server.admin_password):
        yield ("server", "admin_password"), "FLUSSO_ADMIN_PASSWORD"


def _is_secret(value: Any) -> bool:
    """Whether people may not see the literal as it stands."""
    if not isinstance(value, Reference) or value.literal is None:
        return False
    return isinstance(value, Secret) or str(value) != value.literal.strip()


def _put(values: Dict[str, Any], path: KeyPath, value: Any) -> None:
    for step in path[:-1]:
        values = values[step]  # type: ignore[index]
    values[path[-1]] = value  # type: ignore[index]


# -- schemas ------------------------------------------------------------------------------------------------------


def _schema(name: str, files: Files, position: int) -> Dict[str, Any]:
    """A schema file as values, with the numbers whose text says more than they do: 0.10 is not 0.1 to numeric."""
    document = files.schemas[position]
    numbers = [[list(path), text] for path, text in document.texts.items()]
    return {"file": name, "value": document.value, "numbers": numbers}


def _schema_document(schema: Any, path: Union[str, Path]) -> yaml12.Document:
    try:
        texts = {tuple(steps): str(text) for steps, text in schema["numbers"]}
        return yaml12.Document(schema["value"], str(schema["file"]), texts=texts)
    except (KeyError, TypeError, ValueError):
        raise _refused(path, "is no lock") from None


# -- the file -----------------------------------------------------------------------------------------------------


def _folder(config_path: Path, lock_path: Path) -> str:
    """The configuration's folder as seen from the lock's."""
    return os.path.relpath(os.path.realpath(config_path.parent), os.path.realpath(lock_path.parent))


def _write(path: Path, text: str) -> None:
    """At once: a run that starts meanwhile reads the former lock or this one."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            new.write_text(text, encoding="utf-8")
            os.replace(new, path)
        finally:
            if new.exists():
                new.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([Problem(f"cannot be written: {reason}", file=str(path))]) from error


def _read(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            lock = json.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError):
            raise _refused(path, f"cannot be read: {error.strerror}", code="FL001") from error
        raise _refused(path, "is no lock") from error
    if not isinstance(lock, dict):
        raise _refused(path, "is no lock")
    return lock


def _refused(path: Union[str, Path], message: str, code: str = "FL003") -> ConfigError:
    problems: List[Problem] = [Problem(message, file=str(path), code=code)]
    return ConfigError(problems, hint="Make it anew: flussod build -c FILE -o LOCK")

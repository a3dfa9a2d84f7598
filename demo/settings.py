"""The files that the daemon of the demo runs with: those of ``etc/``, copied; and the environment it runs in."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Dict, Optional

ETC = Path(__file__).resolve().parent.parent / "etc"

#: Variables that would lead this daemon, or our own connections, to somebody else's servers or indexes.
FOREIGN = re.compile(
    r"FLUSSO_(?!LOG|POSTGRES_BIN)|PG[A-Z]+$|DATABASE_URL$|OTEL_|\w+_OPENSEARCH_(URL|USERNAME|PASSWORD)$"
)


def clean_environment() -> Dict[str, str]:
    """Ours, without what is meant for another deployment on this machine."""
    return {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}


def copy_etc(folder: Path, opensearch: Optional[str], ca_file: Optional[Path] = None) -> Path:
    """``etc/flusso.yaml`` with its schema files as they are; with ``opensearch`` its sink is that cluster instead.

    ``ca_file`` holds the authorities that sign the cluster's certificate.  Returns the copy of the configuration.
    """
    folder.mkdir(exist_ok=True)
    shutil.copytree(ETC / "schemas", folder / "schemas", dirs_exist_ok=True)
    text = (ETC / "flusso.yaml").read_text(encoding="utf-8")
    if opensearch is not None:
        # The URL may hold a password: the copy is for its owner alone.
        sink = f"  search:\n    type: opensearch\n    url: {json.dumps(opensearch)}\n    number_of_replicas: 0\n"
        if ca_file is not None:
            sink += f"    ca_file: {json.dumps(str(ca_file))}\n"
        sink += "\n"
        text, replaced = re.subn(r"(?ms)^(sinks:\n).*?(?=^# -- )", lambda found: found[1] + sink, text)
        assert replaced == 1
    path = folder / "flusso.yaml"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path

"""What ``bin/bench --save`` keeps in ``history.jsonl`` beside this file: a line of JSON for each run, newest last."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Mapping

import flusso_sync
from tests.bench.rig import Rig
from tests.fix_daemon import CHECKOUT

FILE = Path(__file__).with_name("history.jsonl")


def machine(rig: Rig) -> Dict[str, Any]:
    """What the figures of one run depend on besides us."""
    with rig.server.connect() as connection:
        row = connection.execute("SHOW server_version").fetchone()
    return {
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "postgres": row[0].split()[0] if row is not None else None,
        "opensearch": rig.node.call("GET", "/")["version"]["number"],
    }


def commit() -> str:
    """The commit that is checked out, with a plus when files differ from it; empty outside a repository."""
    ran = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        universal_newlines=True,
    )
    return ran.stdout.strip()


def entry(rig: Rig, users: int, rounds: int, figures: Dict[str, Any]) -> Dict[str, Any]:
    """One run, as it is kept; ``figures`` may still be filled."""
    return {
        "date": datetime.date.today().isoformat(),
        "version": flusso_sync.__version__,
        "commit": commit(),
        "machine": machine(rig),
        "users": users,
        "rounds": rounds,
        "runs": figures,
    }


def append(run: Mapping[str, Any], file: Path = FILE) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(run, sort_keys=True) + "\n")


def read(file: Path = FILE) -> List[Dict[str, Any]]:
    """Every run that was kept, the oldest first."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

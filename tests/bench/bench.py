"""The command ``bin/bench``: first builds of the shop, and everything else that is measured, or what is asked for."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List

from tests.bench import (
    builds,
    burst,
    capture,
    fanout,
    history,
    idle,
    latency,
    memory,
    plans,
    shapes,
    share,
    shop,
    sinks,
    sustained,
    twins,
)
from tests.bench.rig import Rig, Say, rig
from tests.fix_opensearch import NoOpenSearch
from tests.postgres_server import NoPostgres

RUNS = [*shop.INDEXES, "all"]

#: Of the shop that OpenSearch is warmed up with, unless the one that is measured is smaller.
WARM_USERS = 50_000

OTHERS: Dict[str, Any] = {
    "burst": burst,
    "capture": capture,
    "fanout": fanout,
    "idle": idle,
    "latency": latency,
    "memory": memory,
    "plans": plans,
    "shapes": shapes,
    "share": share,
    "sinks": sinks,
    "sustained": sustained,
    "twins": twins,
}


def warm(rig: Rig, users: int, schemas: Dict[str, Path]) -> None:
    """Build a shop and throw it away: a Java that has just begun takes twice as long for the same."""
    url = rig.server.url(rig.server.create_database("warm"))
    with rig.server.connect("warm") as connection:
        rows = shop.fill(connection, users)
    builds.measured(rig, "warm", url, schemas, rows.documents)


def measure(rig: Rig, runs: List[str], users: int, rounds: int, say: Say) -> Dict[str, Any]:
    """First builds over one shop, each run so many times, by turns: run -> figures."""
    url = rig.server.url(rig.server.create_database("shop"))
    with rig.server.connect("shop") as connection:
        rows = shop.fill(connection, users)
    say("shop: " + ", ".join(f"{n:,} {table}" for table, n in rows._asdict().items()))
    schemas = {index: shop.SCHEMAS / f"{index}.schema.yml" for index in shop.INDEXES}
    warm(rig, min(users, WARM_USERS), schemas)
    say(builds.HEADER)
    found: Dict[str, List[Dict[str, Any]]] = {run: [] for run in runs}
    for run in [*runs] * rounds:
        with rig.server.connect("shop") as connection:
            connection.execute("CHECKPOINT")
        wanted = schemas if run == "all" else {run: schemas[run]}
        found[run].append(builds.measured(rig, run, url, wanted, rows.documents))
        say(builds.line(run, found[run][-1]))
    return {run: builds.median(rounds) for run, rounds in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/bench")
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default=",".join([*RUNS, *OTHERS]))
    parser.add_argument("--node")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    unknown = sorted(set(wanted) - {*RUNS, *OTHERS})
    if unknown:
        parser.error(f"--only takes {', '.join([*RUNS, *OTHERS])}; not {', '.join(unknown)}")
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            print(text, file=sys.stderr, flush=True)

    figures: Dict[str, Any] = {}
    kept: Dict[str, Any] = {}
    failed = False
    try:
        say("starting its servers ...")
        with rig(arguments.node) as servers:
            # ``figures`` is filled while it runs: what was measured before a failure, or Ctrl-C, is not lost.
            kept = history.entry(servers, arguments.users, arguments.rounds, figures)
            runs = [run for run in wanted if run in RUNS]
            if runs:
                figures.update(measure(servers, runs, arguments.users, arguments.rounds, say))
            for run, module in OTHERS.items():
                if run in wanted:
                    figures[run] = module.measure(servers, arguments.rows or module.ROWS, say)
    except (NoPostgres, NoOpenSearch, RuntimeError, AssertionError, KeyboardInterrupt) as error:
        say(f"bin/bench: {error or 'interrupted'}")
        failed = True
    if arguments.save and figures:
        history.append(kept)
    if arguments.json:
        print(json.dumps(kept, indent=2))
    else:
        print("\n".join(_report(figures)))
    return 1 if failed else 0


def _report(figures: Dict[str, Any]) -> Iterator[str]:
    runs = [run for run in figures if run in RUNS]
    if runs:
        yield builds.HEADER
        yield from (builds.line(run, figures[run]) for run in runs)
    for run, module in OTHERS.items():
        if run in figures:
            yield module.report(figures[run])


if __name__ == "__main__":
    sys.exit(main())

"""What ``bin/bench`` measures: first builds of the shop, and what the same machine can do at most, in one run.

Latency and memory are measured by modules of their own.

Order of each measurement: the daemon builds; its index is compared with the tables; the daemon is stopped; then the
ceilings are measured with the documents that the source itself renders.  Nothing runs beside anything else.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from tests.bench import burst, capture, fanout, idle, latency, memory, share, shop, sustained
from tests.bench.ceilings import Node, bulk_seconds, copy_seconds, difference, spool, warm_up
from tests.bench.documents import Source, settings
from tests.bench.rig import Rig, Say, configuration, drop_slot, peak_memory, prefix, rig, seeded
from tests.fix_daemon import DaemonProcess
from tests.fix_opensearch import NoOpenSearch
from tests.postgres_server import NoPostgres

RUNS = [*shop.INDEXES, "all"]
#: Asked for by name alone.
OTHERS: Dict[str, Any] = {
    "burst": burst,
    "capture": capture,
    "fanout": fanout,
    "idle": idle,
    "latency": latency,
    "memory": memory,
    "share": share,
    "sustained": sustained,
}
PATIENCE_SECONDS = 1800.0
#: Every so many documents one is compared word for word.
SAMPLE_EVERY = 997
WARM_UP_DOCUMENTS = 30_000


class Built(NamedTuple):
    """A first build by the daemon."""

    documents: int
    #: From the first sight of phase ``backfilling`` to the last index seeded and readable.
    seconds: float
    #: From the start of the process.
    all_seconds: float
    #: The highest resident memory, in bytes.
    memory: int


class Ceiling(NamedTuple):
    """The same documents by COPY and by bulk, seconds each."""

    documents: int
    copy_seconds: float
    bulk_seconds: float


def _configuration(url: str, node: str, run: str) -> Dict[str, Any]:
    indexes = shop.INDEXES if run == "all" else (run,)
    return configuration(url, node, run, {index: shop.SCHEMAS / f"{index}.schema.yml" for index in indexes})


def build(daemon: DaemonProcess, indexes: Tuple[str, ...], rows: Dict[str, int]) -> Built:
    """Wait for the first build of ``daemon``, just started."""
    begin = time.perf_counter()
    building = 0.0

    def built() -> bool:
        nonlocal building
        with contextlib.suppress(OSError):
            status = daemon.status()
            if not building and status["phase"] in ("backfilling", "live"):
                building = time.perf_counter()
            return seeded(status, *indexes)
        return False

    daemon.wait_for(built, PATIENCE_SECONDS, "all indexes seeded")
    end = time.perf_counter()
    return Built(sum(rows[i] for i in indexes), end - building, end - begin, peak_memory(daemon))


def ceiling(source: Source, node: Node, run: str, index: str, rows: int, folder: Path) -> Ceiling:
    """Compare the index of ``run`` with its rows, then measure; raises ``RuntimeError`` when it is not right."""
    sample: Dict[str, bytes] = {}

    def documents() -> Iterator[Tuple[str, bytes]]:
        for number, (id, body) in enumerate(source.documents(index)):
            if number % SAMPLE_EVERY == 0:
                sample[id] = body
            yield id, body

    files = spool(documents(), folder)
    wrong = difference(node, prefix(run) + index, sample, rows)
    if wrong:
        raise RuntimeError(f"the build is wrong, so its time means nothing: {wrong}")
    copied, copying = copy_seconds(source.url, source.query(index), settings())
    loaded, loading = bulk_seconds(node, prefix(run) + index, files)
    if (copied, loaded) != (rows, rows):
        raise RuntimeError(f"the ceilings of {index} handled {copied} and {loaded} documents instead of {rows}")
    shutil.rmtree(folder)
    return Ceiling(rows, copying, loading)


def measure(rig: Rig, runs: List[str], users: int, rounds: int, say: Say) -> Dict[str, Any]:
    """First builds over one shop, each run so many times, by turns: run -> figures."""
    node, server, folder = rig.node, rig.server, rig.folder
    url = server.url(server.create_database("shop"))
    with server.connect("shop") as connection:
        rows = shop.fill(connection, users)
    say("shop: " + ", ".join(f"{n:,} {table}" for table, n in rows._asdict().items()))
    warm = rig.make(_configuration(url, rig.node_url, "all"), name="warm", start=False)
    with Source(warm.folder / "flusso.yaml", url) as source:
        for index in shop.INDEXES:
            documents = itertools.islice(source.documents(index), WARM_UP_DOCUMENTS)
            warm_up(node, spool(documents, folder / "warm"))
            shutil.rmtree(folder / "warm")
    measured: Dict[str, List[Dict[str, Any]]] = {run: [] for run in runs}
    for run in [*runs] * rounds:
        indexes = shop.INDEXES if run == "all" else (run,)
        with server.connect("shop") as connection:
            connection.execute("CHECKPOINT")
        daemon = rig.make(_configuration(url, rig.node_url, run), name=run)
        built = build(daemon, indexes, rows.documents)
        daemon.stop()
        drop_slot(rig, run)
        with Source(daemon.folder / "flusso.yaml", url) as source:
            ceilings = [ceiling(source, node, run, i, rows.documents[i], folder / "spool") for i in indexes]
        node.call("DELETE", f"/{prefix(run)}*")
        measured[run].append(_figures(built, ceilings))
        say(_line(run, measured[run][-1]))
    return {run: median(rounds) for run, rounds in measured.items()}


def median(rounds: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """The round that stands in the middle by its share of the lower ceiling, with the shares of all rounds."""
    ordered = sorted(rounds, key=lambda one: float(one["of_lower_ceiling"]))
    shares = [one["of_lower_ceiling"] for one in rounds]
    return {**ordered[(len(ordered) - 1) // 2], "of_lower_ceiling_of_each_round": shares}


def _figures(built: Built, ceilings: List[Ceiling]) -> Dict[str, Any]:
    documents = built.documents
    rate = documents / built.seconds
    copy = documents / sum(c.copy_seconds for c in ceilings)
    bulk = documents / sum(c.bulk_seconds for c in ceilings)
    return {
        "documents": documents,
        "seconds": round(built.seconds, 3),
        "seconds_from_start": round(built.all_seconds, 3),
        "documents_per_second": round(rate),
        "copy_per_second": round(copy),
        "bulk_per_second": round(bulk),
        "of_copy": round(rate / copy, 3),
        "of_bulk": round(rate / bulk, 3),
        "of_lower_ceiling": round(rate / min(copy, bulk), 3),
        "memory_bytes": built.memory,
    }


HEADER = (
    f"{'run':<10}{'documents':>10}{'docs/s':>10}{'COPY/s':>10}{'bulk/s':>10}"
    f"{'of COPY':>9}{'of bulk':>9}{'of lower':>10}{'seconds':>9}{'memory':>9}"
)


def _line(run: str, f: Dict[str, Any]) -> str:
    return (
        f"{run:<10}{f['documents']:>10,}{f['documents_per_second']:>10,}{f['copy_per_second']:>10,}"
        f"{f['bulk_per_second']:>10,}{f['of_copy']:>9.2f}{f['of_bulk']:>9.2f}{f['of_lower_ceiling']:>10.2f}"
        f"{f['seconds']:>9.1f}{f['memory_bytes'] / 1048576:>6.0f} MB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/bench")
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--node")
    parser.add_argument("--json", action="store_true")
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
    try:
        say("starting its servers ...")
        with rig(arguments.node) as servers:
            builds = [run for run in wanted if run in RUNS]
            if builds:
                say(HEADER)
                figures.update(measure(servers, builds, arguments.users, arguments.rounds, say))
            for run, module in OTHERS.items():
                if run in wanted:
                    figures[run] = module.measure(servers, arguments.rows or module.ROWS, say)
    except (NoPostgres, NoOpenSearch, RuntimeError, AssertionError) as error:
        say(f"bin/bench: {error}")
        return 1
    if arguments.json:
        print(json.dumps({"users": arguments.users, "runs": figures}, indent=2))
    else:
        print("\n".join(_report(figures)))
    return 0


def _report(figures: Dict[str, Any]) -> Iterator[str]:
    builds = [run for run in figures if run in RUNS]
    if builds:
        yield HEADER
        yield from (_line(run, figures[run]) for run in builds)
    for run, module in OTHERS.items():
        if run in figures:
            yield module.report(figures[run])


if __name__ == "__main__":
    sys.exit(main())

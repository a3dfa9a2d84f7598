"""First builds by the daemon, and what the same machine can do at most with the same documents, in one run.

Order of each measurement: the daemon builds; its index is compared with the tables; the daemon is stopped; then the
ceilings are measured with the documents that the source itself renders.  Nothing runs beside anything else.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from tests.bench.ceilings import bulk_seconds, copy_seconds, difference, spool
from tests.bench.documents import Source, settings
from tests.bench.rig import Rig, configuration, drop_slot, peak_memory, prefix, seeded
from tests.fix_daemon import DaemonProcess

PATIENCE_SECONDS = 1800.0
#: Every so many documents one is compared word for word.
SAMPLE_EVERY = 997
#: How often a build is looked at; it counts as so much longer at the most.
BUILT_LOOK_SECONDS = 0.1


class Built(NamedTuple):
    """A first build by the daemon."""

    documents: int
    #: From the first sight of phase ``backfilling`` to the last index seeded and readable.
    seconds: float
    #: From the start of the process.
    all_seconds: float
    #: The highest resident memory, in bytes.
    memory: int
    #: CPU seconds of the daemon from its start, and of each server meanwhile.
    cpu: Dict[str, float]


class Ceiling(NamedTuple):
    """The same documents by COPY and by bulk, seconds each."""

    documents: int
    copy_seconds: float
    bulk_seconds: float
    #: CPU seconds of OpenSearch for the bulk load, None where they cannot be known.
    bulk_cpu: Optional[float]


def build(rig: Rig, daemon: DaemonProcess, indexes: Tuple[str, ...], rows: Mapping[str, int]) -> Built:
    """Wait for the first build of ``daemon``, just started."""
    before = rig.cpu_seconds()
    begin = time.perf_counter()
    daemon.wait_for_status(lambda status: status["phase"] in ("backfilling", "live"), PATIENCE_SECONDS, "a build")
    building = time.perf_counter()
    # Seldom: each answer costs the daemon as much time as dozens of documents.
    daemon.wait_for_status(
        lambda status: seeded(status, *indexes), PATIENCE_SECONDS, "all indexes seeded", pause=BUILT_LOOK_SECONDS
    )
    end = time.perf_counter()
    used = {name: seconds - before.get(name, 0.0) for name, seconds in rig.cpu_seconds(daemon).items()}
    return Built(sum(rows[i] for i in indexes), end - building, end - begin, peak_memory(daemon), used)


def ceiling(rig: Rig, source: Source, run: str, index: str, rows: int) -> Ceiling:
    """Compare the index of ``run`` with its rows, then measure; raises ``RuntimeError`` when it is not right."""
    node, folder = rig.node, rig.folder / "spool"
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
    before = rig.cpu_seconds()
    loaded, loading = bulk_seconds(node, prefix(run) + index, files)
    if (copied, loaded) != (rows, rows):
        raise RuntimeError(f"the ceilings of {index} handled {copied} and {loaded} documents instead of {rows}")
    shutil.rmtree(folder)
    after = rig.cpu_seconds()
    return Ceiling(
        rows, copying, loading, after["opensearch"] - before["opensearch"] if "opensearch" in after else None
    )


def measured(rig: Rig, run: str, url: str, schemas: Mapping[str, Path], rows: Mapping[str, int]) -> Dict[str, Any]:
    """The first build of ``schemas`` (index -> file), each of so many ``rows``, and its ceilings."""
    daemon = rig.make(configuration(url, rig.node_url, run, dict(schemas)), name=run)
    built = build(rig, daemon, tuple(schemas), rows)
    daemon.stop()
    drop_slot(rig, run)
    with Source(daemon.folder / "flusso.yaml", url) as source:
        ceilings = [ceiling(rig, source, run, i, rows[i]) for i in schemas]
    rig.node.call("DELETE", f"/{prefix(run)}*")
    return _figures(built, ceilings)


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
        "cpu_seconds": {name: round(seconds, 2) for name, seconds in built.cpu.items()},
        "bulk_cpu_seconds": round(sum(c.bulk_cpu for c in ceilings if c.bulk_cpu is not None), 2),
        "daemon_cpu_seconds_per_million": round(built.cpu["daemon"] / documents * 1e6, 1),
    }


HEADER = (
    f"{'run':<10}{'documents':>10}{'docs/s':>10}{'COPY/s':>10}{'bulk/s':>10}"
    f"{'of COPY':>9}{'of bulk':>9}{'of lower':>10}{'seconds':>9}{'memory':>9}"
    f"{'CPU: daemon':>14}{'Postgres':>10}{'OpenSearch':>12}{'of bulk':>9}"
)


def line(run: str, f: Dict[str, Any]) -> str:
    return (
        f"{run:<10}{f['documents']:>10,}{f['documents_per_second']:>10,}{f['copy_per_second']:>10,}"
        f"{f['bulk_per_second']:>10,}{f['of_copy']:>9.2f}{f['of_bulk']:>9.2f}{f['of_lower_ceiling']:>10.2f}"
        f"{f['seconds']:>9.1f}{f['memory_bytes'] / 1048576:>6.0f} MB"
        f"{f['cpu_seconds']['daemon']:>12.1f} s{f['cpu_seconds']['postgres']:>8.1f} s"
        f"{f['cpu_seconds'].get('opensearch', 0):>10.1f} s{f['bulk_cpu_seconds']:>7.1f} s"
    )

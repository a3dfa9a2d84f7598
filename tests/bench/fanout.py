"""How long a commit takes to reach readers while a row that shows in very many documents is worked off.

As in ``latency``, the documents of one index are asked for in OpenSearch itself, idle first, and then while every
document of another index is written because one row changed.  That change is a stored job, so other commits pass it by;
built in the batch of its change instead, they must not, or the bound would say nothing.
"""

from __future__ import annotations

import time
from typing import Any, Dict

import psycopg

from tests.bench import latency, shop
from tests.bench.latency import (
    IDLE_SAMPLES,
    MORE_THAN_IDLE_MS,
    PATIENCE_SECONDS,
    WARM_UP_SAMPLES,
    Latencies,
    Sampler,
    make_stock,
)
from tests.bench.rig import (
    LOOK_SECONDS,
    Reader,
    Rig,
    Say,
    Transactions,
    configuration,
    drop_slot,
    peak_memory,
    prefix,
    seeded,
    table,
)
from tests.fix_daemon import DaemonProcess

#: Documents that show the row.
ROWS = 200_000

TABLES = (
    "CREATE TABLE depots (id bigint PRIMARY KEY, name text NOT NULL)",
    "INSERT INTO depots VALUES (1, 'depot0')",
    "CREATE TABLE parcels (id bigint PRIMARY KEY, depot_id bigint NOT NULL REFERENCES depots, label text NOT NULL)",
    "INSERT INTO parcels SELECT i, 1, 'parcel ' || md5(i::text) FROM generate_series(1, {rows}) i",
    "CREATE INDEX ON parcels (depot_id)",
    "VACUUM ANALYZE depots, parcels",
)

SCHEMAS = {"stock": shop.SCHEMAS / "stock.schema.yml", "parcels": shop.SCHEMAS / "parcels.schema.yml"}


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    """All figures; ``rows`` documents show the row that changes."""
    url = rig.server.url(rig.server.create_database("fanout"))
    with rig.server.connect("fanout") as connection:
        for statement in TABLES:
            connection.execute(statement.format(rows=rows).encode())
        make_stock(connection)
    say(f"fanout: {rows:,} parcels of one depot; first build ...")
    figures: Dict[str, Any] = {"rows": rows}
    for run, fan_out_documents in (("job", min(10_000, rows // 2)), ("guard_off", 10 * rows)):
        settings = {"engine": {"fan_out_documents": fan_out_documents}}
        config = configuration(url, rig.node_url, "fanout", SCHEMAS, {"concurrency": 2}, **settings)
        daemon = rig.make(config, name=f"fanout-{run.replace('_', '-')}")
        daemon.wait_for_status(lambda status: seeded(status, *SCHEMAS), PATIENCE_SECONDS, "built", pause=LOOK_SECONDS)
        with Sampler(url, rig.node_url, f"{prefix('fanout')}stock", seed=len(figures)) as sampler:
            sampler.wait(WARM_UP_SAMPLES)
            idle = sampler.begin()
            if run == "job":
                sampler.wait(IDLE_SAMPLES)
                figures["idle"] = idle.figures()
            with Transactions(url) as transactions:
                figures[run] = _change(rig, url, sampler, f"depot-{run}", rows)
            figures[run]["oldest_transaction_seconds"] = round(transactions.oldest_seconds, 2)
        figures[run]["jobs"] = daemon.log.count("documents of index parcels that show it are right again")
        figures[run]["memory_bytes"] = peak_memory(daemon)
        _stop(daemon)
        say(f"fanout: idle {figures['idle']}, {run} {figures[run]}")
    drop_slot(rig, "fanout")
    rig.node.call("DELETE", f"/{prefix('fanout')}*")
    return judged(figures)


def _stop(daemon: DaemonProcess) -> None:
    if daemon.stop() != 0:
        raise RuntimeError("the daemon did not stop in order")


def _change(rig: Rig, url: str, sampler: Sampler, name: str, rows: int) -> Dict[str, Any]:
    """Rename the depot and wait until every parcel shows it; what commits took meanwhile."""
    beside: Latencies = sampler.begin()
    begin = time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE depots SET name = %s WHERE id = 1", [name])
    with Reader(rig.node_url) as reader:
        while True:
            # A search finds what the sink was refreshed for; that comes with the end of the job, or of the batch.
            found = reader.ask(f"/{prefix('fanout')}parcels/_count?q=depot.name:{name}")["count"]
            if found == rows:
                break
            if time.perf_counter() - begin > PATIENCE_SECONDS:
                raise RuntimeError(f"{found} of {rows} parcels show the change after {PATIENCE_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - begin
    # The one that was under way.
    sampler.wait(1)
    sampler.begin()
    return {**beside.figures(), "seconds": round(seconds, 2), "documents_per_second": round(rows / seconds)}


def judged(figures: Dict[str, Any]) -> Dict[str, Any]:
    """The figures of all runs, the bound that the idle one gives, and whether the others are within it."""
    return latency.judged(figures, "job")


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    rows = [[*latency.HEAD, "docs/s", "memory"]]
    names = {"idle": "idle", "job": f"{figures['rows']:,} documents of one row", "guard_off": "the same, in one batch"}
    for run, name in names.items():
        one = figures[run]
        memory = f"{one['memory_bytes'] / 2**20:.0f} MB" if "memory_bytes" in one else ""
        rows.append([name, *latency.cells(one), f"{one.get('documents_per_second', 0):,}", memory])
    said = {True: "within", False: "BEYOND"}
    return "\n".join(
        [
            table(rows),
            f"p95 beside a job is {said[figures['job']['within']]} the bound of {figures['bound_ms']:.1f} ms "
            f"(twice idle, or idle + {MORE_THAN_IDLE_MS:g} ms); in one batch it is "
            f"{said[figures['guard_off']['within']]} it",
        ]
    )

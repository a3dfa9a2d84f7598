"""What Postgres makes of the daemon's statements: the plan and its cost per document, over few rows and over many.

The daemon's sessions plan generically and walk indexes alone (``READING_SETTINGS``), so that a plan may depend neither
on statistics nor on the keys of one batch.  Here each statement is explained over tables of three sizes, before their
first ANALYZE too, and as a session with Postgres' own settings would run it.
"""

from __future__ import annotations

import statistics
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple

import psycopg
from psycopg import sql

from flusso_sync.config.load import load_config
from flusso_sync.postgres.bind import bind
from flusso_sync.postgres.catalog import read_catalog
from flusso_sync.postgres.statements import READING_SETTINGS, compile_statements
from flusso_sync.schema.paths import tables
from tests.bench import documents, shop
from tests.bench.rig import Rig, Say, configuration, table
from tests.fix_daemon import write_yaml

#: Users of the largest of the shops.
ROWS = 500_000
SMALLEST = 33

INDEXES = ("users", "orders")
KEYS = 1_000
ROUNDS = 5
UNBOUNDED = str(1 << 60)

#: What the daemon asks of the planner.
PLANNER = ("plan_cache_mode", "max_parallel_workers_per_gather", "jit")


class Explained(NamedTuple):
    """One statement, run: microseconds and pages (8 KiB) per document, pages written to temporary files."""

    shape: str
    microseconds: float
    pages: float
    temporary: int


def measure(rig: Rig, rows: int, say: Say) -> Dict[str, Any]:
    """Statement -> size -> how its session plans -> figures."""
    figures: Dict[str, Any] = {}
    # Or there might be statistics before they are asked for.
    rig.server.set(autovacuum="off")
    for users in (SMALLEST, max(SMALLEST + 1, rows // 10), rows):
        name = f"plans{users}"
        url = rig.server.url(rig.server.create_database(name))
        with rig.server.connect(name) as connection:
            shop.fill(connection, users, analyze=False)
        statements = _statements(rig, url, name)
        _explain(url, statements, users, "ours, no statistics", READING_SETTINGS, figures)
        with rig.server.connect(name) as connection:
            connection.execute("VACUUM ANALYZE")
        _explain(url, statements, users, "ours", READING_SETTINGS, figures)
        others = {key: value for key, value in READING_SETTINGS.items() if not _plans(key)}
        _explain(url, statements, users, "Postgres' own", others, figures)
        say(f"plans: {users:,} users explained")
        rig.server.drop_database(name)
    rig.server.set(autovacuum=None)
    return figures


def _plans(setting: str) -> bool:
    return setting.startswith("enable_") or setting in PLANNER


def _statements(rig: Rig, url: str, name: str) -> Dict[str, Tuple[str, str]]:
    """Name -> index and the daemon's statement."""
    file = rig.folder / f"{name}.yaml"
    write_yaml(
        file,
        configuration(url, rig.node_url, name, {one: shop.SCHEMAS / f"{one}.schema.yml" for one in INDEXES}),
    )
    found: Dict[str, Tuple[str, str]] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for plan in load_config(str(file)).plans:
            compiled = compile_statements(bind(plan, read_catalog(connection, sorted(tables(plan)))))
            found[f"{plan.name}, {KEYS:,} keys"] = (plan.name, compiled.lookup)
            found[f"{plan.name}, a chunk"] = (plan.name, compiled.range_first)
    return found


def _explain(
    url: str,
    statements: Mapping[str, Tuple[str, str]],
    users: int,
    how: str,
    settings: Mapping[str, str],
    figures: Dict[str, Any],
) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(documents.settings(settings))
        for number, (name, (index, statement)) in enumerate(statements.items()):
            count = shop.size(users).documents[index]
            wanted = min(count, KEYS)
            keys = [str(1 + place * count // wanted) for place in range(wanted)]
            given: Any = keys if name.endswith("keys") else str(wanted)
            values = sql.SQL(", ").join([sql.Literal(given), sql.Literal(UNBOUNDED), sql.Literal(UNBOUNDED)])
            connection.execute(f"PREPARE s{number} AS {statement}".encode())
            explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE {}({})").format(
                sql.Identifier(f"s{number}"), values
            )
            runs = [_run(connection, explain, wanted) for _ in range(ROUNDS)]
            figures.setdefault(name, {}).setdefault(str(users), {})[how] = {
                "shape": runs[-1].shape,
                "microseconds": round(statistics.median(run.microseconds for run in runs), 1),
                "pages": round(runs[-1].pages, 1),
                "temporary": runs[-1].temporary,
            }


def _run(connection: psycopg.Connection[Any], explain: sql.Composable, count: int) -> Explained:
    row = connection.execute(explain).fetchone()
    assert row is not None
    (found,) = row[0]
    plan = found["Plan"]
    return Explained(
        shape(plan),
        found["Execution Time"] * 1000 / count,
        (plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]) / count,
        plan["Temp Written Blocks"],
    )


def shape(node: Mapping[str, Any]) -> str:
    """The tree of a plan without its figures, on one line."""
    kind = node["Node Type"]
    place = node.get("Index Name") or node.get("Relation Name")
    below = ", ".join(shape(child) for child in node.get("Plans", ()))
    return f"{kind}{f' {place}' if place else ''}{f' ({below})' if below else ''}"


def report(figures: Dict[str, Any]) -> str:
    """The figures for people."""
    rows: List[List[str]] = [["statement", "users", "planned by", "µs a document", "pages", "temporary", "plan"]]
    for name, sizes in figures.items():
        first = next(iter(sizes.values()))["ours"]["shape"]
        for users, ways in sizes.items():
            for how, one in ways.items():
                same = "the same" if one["shape"] == first else "another"
                pages = f"{one['pages']:.1f}"
                rows.append(
                    [name, f"{int(users):,}", how, f"{one['microseconds']:.1f}", pages, str(one["temporary"]), same]
                )
    return table(rows)

"""Fault E1 in builds: ``kill -9`` at every named place of a build's way, under a writer that never pauses.

Each life is the one that makes good what the last one left, and the next one to die.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from flusso_sync.engine.seeding import OPEN_CHUNKS_PER_WORKER
from tests.cases import SHOP, Case
from tests.faults.conftest import Heals
from tests.faults.rig import LONG, OwnCase, finish, writing
from tests.fix_deployment import MakeDeployment
from tests.fix_opensearch import Prefix
from tests.places import COUNTS, PLACE, PLACES

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

#: The shop is scaled in short runs; ``scale`` times 150 are its orders, times 220 its documents.
SCALE, CHUNK_ROWS = (1, 2000) if LONG else (8, 50)

#: At full size, orders have little in them, so that 26 rebuilds and 26 questions to the oracle end some day.
ORDERS = 200_000
TABLES = f"""
CREATE TABLE orders (id bigint PRIMARY KEY, status text NOT NULL);
CREATE TABLE notes (
    id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE, words text NOT NULL
);
INSERT INTO orders SELECT i, 'status ' || i % 7 FROM generate_series(1, {ORDERS}) i;
INSERT INTO notes SELECT i, 1 + (i * 7919) % {ORDERS}, 'note ' || i FROM generate_series(1, {ORDERS // 10}) i;
CREATE INDEX ON notes (order_id);
"""
SCHEMA: Dict[str, Any] = {
    "version": 1,
    "table": "orders",
    "primary_key": "id",
    "fields": [
        {"long": "id", "required": True},
        {"keyword": "status", "required": True},
        {
            "has_many": "notes",
            "table": "notes",
            "foreign_key": "order_id",
            "primary_key": "id",
            "fields": [{"long": "id", "required": True}, {"text": "words", "required": True}],
        },
    ],
}
WORKERS = 2
#: Of the writer: at full speed it would change each of so few rows before it is read.
PAUSE_SECONDS = 0.0 if LONG else 0.01
PATIENCE_SECONDS = 900.0 if LONG else 120.0
BOUND = CHUNK_ROWS * WORKERS * OPEN_CHUNKS_PER_WORKER

#: At full size the places are worked off in parts.
PARTS = 6 if LONG else 1

GUARDS = ["die_at_a_place", "count_chunks"]
BACKFILL = {"chunk_rows": CHUNK_ROWS, "workers": WORKERS}


def _case(folder: Path) -> Case:
    return OwnCase(folder, TABLES, {"orders": SCHEMA}) if LONG else SHOP


def chunks(counts: Path) -> "List[Tuple[str, int, int]]":
    """Index, generation and rows of each chunk that was read."""
    if not counts.exists():
        return []
    lines = [line.split() for line in counts.read_text().splitlines()]
    return [(index, int(generation), int(rows)) for index, generation, rows in lines]


def repeated(counts: Path, log: str) -> int:
    """Rows that were read more than once, or for a generation that was given up."""
    completed = Counter({index: int(rows) for index, rows in re.findall(r"index (\w+) is complete: (\d+) rows", log)})
    read: "Counter[str]" = Counter()
    for index, _, rows in chunks(counts):
        read[index] += rows
    return sum(read[index] - completed[index] for index in completed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_rebuild_killed_at_each_place_goes_on_and_repeats_no_more_than_was_under_way(
    part: int, deploy: MakeDeployment, tmp_path: Path, heals: Heals
) -> None:
    # Given a live deployment
    deployment = deploy(_case(tmp_path), SCALE, backfill=BACKFILL, server={"admin_password": "canary"})
    deployment.config["sinks"]["search"]["batch_size"] = CHUNK_ROWS
    names = list(PLACES)[part::PARTS]
    counts = tmp_path / "counts"

    def start(number: int) -> None:
        """Start a life that dies at a place once its gate is there."""
        name = names[number % len(names)]
        deployment.start(GUARDS, tmp_path / f"{number} {name}", **{PLACE: name, COUNTS: str(counts)})

    start(0)
    deployment.settle(PATIENCE_SECONDS)
    daemon = deployment.daemon
    for number, name in enumerate(names):
        counts.unlink()
        with writing(deployment, 100 + number, PAUSE_SECONDS) as writer:
            # When an index is rebuilt, and the process dies at the place
            (tmp_path / f"{number} {name}").touch()
            with contextlib.suppress(OSError):
                deployment.reindex("orders")
            assert daemon.wait(PATIENCE_SECONDS) == -9, name
            before = len(chunks(counts))
            # Then the next life completes it, and reads again what was under way at the most
            counts.touch()
            start(number + 1)
            with heals(f"killed at {name}"):
                deployment.settle(PATIENCE_SECONDS)
                deployment.wait_until_built(PATIENCE_SECONDS)
            again = repeated(counts, daemon.log) if len(chunks(counts)) > before else 0
            assert 0 <= again <= BOUND, name
            finish(deployment, writer, PATIENCE_SECONDS)
            print(
                f"killed at {name}: {before} chunks read before, {again} rows read again, of {BOUND} at the most; "
                f"{writer.counts['transactions']} transactions meanwhile, and the oracle finds nothing",
                flush=True,
            )


def test_a_first_build_killed_again_and_again_ends_right_and_is_never_read_before(
    deploy: MakeDeployment, opensearch_prefix: Prefix, tmp_path: Path, heals: Heals
) -> None:
    deployment = deploy(_case(tmp_path), SCALE, backfill=BACKFILL)
    deployment.config["sinks"]["search"]["batch_size"] = CHUNK_ROWS
    counts = tmp_path / "counts"
    lives = [
        "number spent",
        "index created",
        "build begun",
        "keys read",
        "chunk enqueued",
        "half a bulk sent",
        "progress to be written",
        "progress written",
        "chunk durable",
        "refreshed",
    ]
    with writing(deployment, 99, PAUSE_SECONDS) as writer:
        for name in lives:
            daemon = deployment.start(GUARDS, **{PLACE: name, COUNTS: str(counts)})
            assert daemon.wait(PATIENCE_SECONDS) == -9, name
            aliases = [alias for alias, _ in opensearch_prefix.aliases()]
            # No place before the last lets an index be complete; that one may have been the second or third.
            assert name == lives[-1] or f"{opensearch_prefix.prefix}orders" not in aliases, name
        deployment.start(["count_chunks"], **{COUNTS: str(counts)})
        with heals(f"{len(lives)} kills in a first build"):
            deployment.settle(PATIENCE_SECONDS)
        again = repeated(counts, daemon.log_file.read_text())
        print(f"{again} rows read again after {len(lives)} kills, of {3 * BOUND * len(lives)} at the most")
        assert again <= 3 * BOUND * len(lives)
        finish(deployment, writer, PATIENCE_SECONDS)

"""What a history is, and how a seed becomes one: plain values, drawn by Hypothesis.

A history is tables with rows, schema files over them (and others to change to), a configuration, the transactions of
two clients laid side by side, and troubles among them.  Any part of its steps is a history, too, so that a difference
can be narrowed down by leaving steps out.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.generated import (
    TAKEN,
    Author,
    Draw,
    Node,
    Shape,
    Statement,
    Table,
    draw_statement,
    draw_tables,
    inlined,
    quoted,
)
from tests.generated import namespaces as _namespaces
from tests.places import LIVE_PLACES, PLACES

#: The index that readers ask all the time, over rows that nobody touches.
KNOWN = "known"
KNOWN_ROWS = 24

NAMESPACES = _namespaces(0)

#: What is done to the connections through the proxies, until the network is mended.
FAULTS = (
    "stream reset",
    "stream dead",
    "queries reset",
    "queries dead",
    "source refuses",
    "source silent",
    "source cut",
    "sink reset",
    "sink dead",
    "sink refuses",
    "sink silent",
    "sink cut",
)


#: Changes of one row: mostly those that need to know what the row was before.
KINDS = (
    *("update", "update", "insert", "insert", "move", "move", "move", "delete", "delete", "rekey", "rekey", "replace"),
    *("all", "truncate"),
)


class Step(NamedTuple):
    """``who`` does ``what``, with these details; every step can be done at any moment, or left out."""

    who: str
    what: str
    detail: Tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.what == "run":
            return f"{self.who}: {inlined(*self.detail)}"
        said = ", ".join(detail if isinstance(detail, str) else json.dumps(detail) for detail in self.detail)
        return f"{self.who}: {self.what}{f' ({said})' if said else ''}"


class Life(NamedTuple):
    """A start of the daemon: ``place`` (None: nowhere) is where it dies once it is armed; ``armed`` from the start."""

    place: Optional[str]
    armed: bool


class History(NamedTuple):
    """``schemas``: index -> its schema files, the first one at the start, the others to change to."""

    number: int
    tables: Tuple[Table, ...]
    identities: Tuple[Tuple[str, str], ...]
    schemas: Mapping[str, Sequence[Node]]
    config: Mapping[str, Any]
    lives: Tuple[Life, ...]
    steps: Tuple[Step, ...]

    def script(self) -> str:
        """Tables, schema files and configuration as text."""
        lines = [f"CREATE SCHEMA {quoted(name)};" for name in NAMESPACES]
        for table in self.tables:
            lines += [f"{statement};" for statement in table.ddl()]
            lines += [inlined(*table.insert(row)) for row in table.rows]
        lines += [f"ALTER TABLE {table} REPLICA IDENTITY {identity};" for table, identity in self.identities]
        for index, versions in self.schemas.items():
            if index != KNOWN:
                lines += [f"{index}, {n}: {json.dumps(node, ensure_ascii=False)}" for n, node in enumerate(versions)]
        lines.append(f"configuration: {json.dumps(self.config)}")
        lives = (f"{life.place or 'nowhere'}{' at once' if life.armed else ''}" for life in self.lives)
        lines.append(f"the daemon's lives end at: {', '.join(lives)}")
        return "\n".join(lines)


#: Rows that stay as they are; a place of their own, under names that no drawn table has.
PEOPLE, TOWNS = quoted(NAMESPACES[0], "people"), quoted(NAMESPACES[0], "towns")
KNOWN_TABLES = (
    f"CREATE TABLE {TOWNS} (id int PRIMARY KEY, name text);"
    f"CREATE TABLE {PEOPLE} (id int PRIMARY KEY, name text, town int);"
    f"INSERT INTO {TOWNS} SELECT n, 'town ' || n FROM generate_series(1, 3) n;"
    f"INSERT INTO {PEOPLE} SELECT n, 'known ' || n, n % 3 + 1 FROM generate_series(1, {KNOWN_ROWS}) n;"
)


def known_schema(version: int) -> Node:
    name = {"text": "name", "required": False}
    town = {"belongs_to": "town", "table": TOWNS, "column": "town", "primary_key": "id", "fields": [name]}
    fields = [{"keyword": "name", "required": False}, town, {"constant": "version", "value": version}]
    return {"version": 1, "table": PEOPLE, "schema": quoted(NAMESPACES[0]), "primary_key": "id", "fields": fields}


# -- drawing -----------------------------------------------------------------------------------------------------------


def history(number: int) -> History:
    """The history of that number: the same one always, with the same version of Hypothesis."""
    found: List[History] = []

    @seed(number)
    @settings(
        max_examples=2,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(histories(number))
    def take(drawn: History) -> None:
        found.append(drawn)

    take()
    # The first one is the simplest there is, whatever the seed.
    return found[-1]


@st.composite
def histories(draw: Draw, number: int) -> History:
    tables, shapes = draw_tables(draw, 0, TAKEN, 4, 8)
    author = Author(draw, tables, places=False)
    names = ("a", "b")[: draw(st.integers(1, 2))]
    schemas: Dict[str, Sequence[Node]] = {
        name: [_schema(author) for _ in range(draw(st.sampled_from([1, 2])))] for name in names
    }
    schemas[KNOWN] = [known_schema(version) for version in (1, 2)]
    identities = tuple(
        (table.sql, "FULL") for table in tables if not table.partitions and draw(st.sampled_from([False, False, True]))
    )
    steps = _steps(draw, tables, shapes, {name: len(versions) for name, versions in schemas.items()})
    lives = tuple(_life(draw, number) for number in range(5))
    return History(number, tables, identities, schemas, _config(draw, names), lives, tuple(steps))


def _schema(author: Author) -> Node:
    """A schema file, rarely one of a single table: there is less to go wrong."""
    node: Node = {}
    for _ in range(4):
        node = author.schema()
        if any("table" in field for field in node["fields"]):
            break
    return node


def _config(draw: Draw, names: Sequence[str]) -> Node:
    """Small numbers, so that few rows make many chunks, batches and jobs."""

    def one(*choices: Any) -> Any:
        return draw(st.sampled_from(choices))

    return {
        "engine": {
            "batch_changes": one(1, 3, 4096),
            "queue_capacity": one(2, 16384),
            "fan_out_documents": one(1, 3, 10000),
            "batch_bytes": one(300, 32 * 2**20),
        },
        "backfill": {"workers": one(1, 2), "chunk_rows": one(1, 2, 5)},
        "sink": {"batch_size": one(1, 3, 1000), "concurrency": one(1, 2, 3)},
        "source": {"prepare": one(True, True, False)},
        "keep_generations": {name: one(0, 1, 2) for name in (*names, KNOWN)},
        # A second sink that remembers: a file, which is never away when OpenSearch is.
        "file": one(False, False, True),
    }


def _life(draw: Draw, number: int) -> Life:
    if draw(st.integers(0, 9)) < 4:
        return Life(None, False)
    place = draw(st.sampled_from([*PLACES, *LIVE_PLACES]))
    return Life(place, draw(st.booleans()))


def _steps(draw: Draw, tables: Sequence[Table], shapes: Sequence[Shape], versions: Mapping[str, int]) -> List[Step]:
    """The transactions of both clients side by side, with troubles among them."""
    lanes: List[List[Step]] = []
    for who in ("client 1", "client 2"):
        lane: List[Step] = []
        for _ in range(draw(st.integers(2, 7))):
            lane += _transaction(draw, who, tables, shapes)
        lanes.append(lane)
    # In about half of them nothing has an index built anew, which would make good what was missed before.
    calm = draw(st.booleans())
    lanes.append([step for _ in range(draw(st.integers(1, 4))) for step in _trouble(draw, versions, calm)])
    steps: List[Step] = []
    # Mostly a few steps of one lane in a row.
    while any(lanes):
        lane = draw(st.sampled_from([lane for lane in lanes if lane]))
        for _ in range(draw(st.integers(1, 4))):
            if lane:
                steps.append(lane.pop(0))
    if draw(st.integers(0, 3)):
        steps.insert(0, Step("daemon", "wait"))
    return [Step("daemon", "start"), *steps]


def _transaction(draw: Draw, who: str, tables: Sequence[Table], shapes: Sequence[Shape]) -> List[Step]:
    """One transaction: of one statement by itself, or of several, with subtransactions kept and undone."""

    def run(statement: Statement) -> Step:
        return Step(who, "run", statement)

    def some(most: int) -> List[Step]:
        return [run(draw_statement(draw, tables, shapes, KINDS)) for _ in range(draw(st.integers(1, most)))]

    what = draw(st.integers(0, 13))
    if what < 4:
        return some(2)
    if what == 4:
        # A rewrite: every row moves, and no message says so.
        table = draw(st.sampled_from([table.sql for table in tables]))
        statement = draw(st.sampled_from([f"VACUUM FULL {table}", f"ANALYZE {table}"]))
        return [run((statement, []))]
    if what == 5 and len(tables) > 1:
        # Several tables at once, and rows again in the same transaction.
        named = draw(st.lists(st.sampled_from([table.sql for table in tables]), min_size=1, max_size=2, unique=True))
        return [run(("BEGIN", [])), *some(1), run((f"TRUNCATE {', '.join(named)}", [])), *some(3), run(("COMMIT", []))]
    partitioned = [table for table in tables if table.parts]
    if what == 6 and partitioned:
        table = draw(st.sampled_from(partitioned))
        part, bound = draw(st.sampled_from(table.parts))
        if draw(st.booleans()):
            return [run((f"TRUNCATE {part}", []))]
        # Nothing in the stream tells of it; what is done to the part meanwhile is nobody's business.
        meanwhile = [[], [run((f"DELETE FROM {part}", []))], [run((f"TRUNCATE {part}", []))]]
        detached = run((f"ALTER TABLE {table.sql} DETACH PARTITION {part}", []))
        attached = run((f"ALTER TABLE {table.sql} ATTACH PARTITION {part} {bound}", []))
        return [detached, *draw(st.sampled_from(meanwhile)), *some(2), *([attached] if draw(st.booleans()) else [])]
    if what == 7:
        name = f"{who} {draw(st.integers(1, 10**6))}"
        end = f"{draw(st.sampled_from(['COMMIT', 'COMMIT', 'ROLLBACK']))} PREPARED '{name}'"
        return [run(("BEGIN", [])), *some(3), run((f"PREPARE TRANSACTION '{name}'", [])), run((end, []))]
    steps = [run(("BEGIN", [])), *some(3)]
    for name in ("s", "t")[: draw(st.integers(0, 2))]:
        end = draw(st.sampled_from([f"ROLLBACK TO {name}", f"ROLLBACK TO {name}", f"RELEASE {name}"]))
        steps += [run((f"SAVEPOINT {name}", [])), *some(2), run((end, []))]
        if draw(st.booleans()):
            steps += some(1)
    return [*steps, run((draw(st.sampled_from(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"])), []))]


def _trouble(draw: Draw, versions: Mapping[str, int], calm: bool) -> List[Step]:
    """One trouble, begun and ended, with what the operator asks for around it, unless ``calm``."""

    def daemon(what: str, *detail: Any) -> Step:
        return Step("daemon", what, detail)

    index = draw(st.sampled_from(sorted(versions)))
    end = daemon(draw(st.sampled_from(["kill", "kill", "stop"])))
    wait = [daemon("wait")] if draw(st.booleans()) else []
    start = [daemon("start"), *wait]
    asked = Step("operator", draw(st.sampled_from(["reindex", "reindex", "rollback"])), (index,))
    what = draw(st.sampled_from([0, 0, 4, 16, *range(18, 24)]) if calm else st.integers(0, 23))
    if what < 4:
        return [end, *start]
    if what < 8:
        return [*wait, daemon("arm"), *([asked] if draw(st.booleans()) and not calm else []), daemon("wait")]
    if what < 10:
        return [*wait, asked, *([asked] if draw(st.integers(0, 4)) == 4 else [])]
    if what == 10:
        # Back to what was complete before.
        return [Step("operator", "reindex", (index,)), daemon("wait"), Step("operator", "rollback", (index,)), *wait]
    if what < 14:
        version = draw(st.integers(0, versions[index] - 1))
        return [end, Step("operator", "change schema", (index, version)), *start]
    if what == 14 and index != KNOWN:
        return [
            daemon("stop"), Step("operator", "disable", (index,)), *start, daemon("stop"),
            Step("operator", "enable", (index,)), *start,
        ]  # fmt: skip
    if what == 15:
        return [end, Step("operator", "drop slot"), *start]
    if what < 18:
        return [Step("postgres", draw(st.sampled_from(["restart", "crash"]))), *wait]
    if what == 18 and draw(st.integers(0, 2)) == 2:
        return [Step("opensearch", draw(st.sampled_from(["restart", "crash"]))), *wait]
    seconds = draw(st.sampled_from([0.0, 0.3, 0.3, 1.0, 2.5]))
    fault = Step("network", draw(st.sampled_from(FAULTS)), (draw(st.integers(1, 3000)), draw(st.booleans())))
    return [
        fault,
        *([asked] if draw(st.integers(0, 3)) == 3 and not calm else []),
        Step("network", "mended", (seconds,)),
        *wait,
    ]

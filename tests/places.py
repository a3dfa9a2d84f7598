"""Places in the life of a build, and on the way of a live change, at which the process dies by ``kill -9``; and a count
of what a build reads.

Used through ``tests/guards.py``, in the process that runs the command line.
"""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple

#: Where to die: a key of :data:`PLACES` or :data:`LIVE_PLACES`.  Only once the gate's file exists, where one is named.
PLACE = "FLUSSO_TEST_PLACE"

#: A file that gets a line for every chunk whose keys were read: index, generation, rows.
COUNTS = "FLUSSO_TEST_COUNTS"


def _always(arguments: Any, answer: Any) -> bool:
    return True


def _of_a_build(arguments: Any, answer: Any) -> bool:
    """The second argument is a list of writes, and they are a build's."""
    return bool(arguments[1]) and arguments[1][0].build


def _live(arguments: Any, answer: Any) -> bool:
    """The second argument is a list of writes, and none of them is a build's."""
    return bool(arguments[1]) and not any(write.build for write in arguments[1])


def _accepted(arguments: Any, answer: Any) -> bool:
    return answer is True


def _stored(arguments: Any, answer: Any) -> bool:
    """The third argument is what was stored, not None."""
    return arguments[2] is not None


def _answered(arguments: Any, answer: Any) -> bool:
    return answer is not None


class Place(NamedTuple):
    """``owner`` is ``module:class`` (or a module alone); ``times``: die at that one; ``when`` says what counts."""

    owner: str
    name: str
    before: bool = False
    times: int = 1
    when: Callable[[Any, Any], bool] = _always


_SINK = "flusso_sync.sinks.opensearch.sink"
_CLASS = f"{_SINK}:OpenSearchSink"
_GENERATIONS = "flusso_sync.sinks.opensearch.generations"
_LIFE = f"{_GENERATIONS}:Generations"
_SEEDING = "flusso_sync.engine.seeding"

#: In the order in which a build comes by.
PLACES: Dict[str, Place] = {
    "number spent": Place(_GENERATIONS, "index_body", before=True),
    "index created": Place(_LIFE, "_create"),
    "build begun": Place(_CLASS, "begin_build"),
    "build started": Place(f"{_SEEDING}:Seeding", "start"),
    "keys read": Place("flusso_sync.postgres.documents:PostgresDocuments", "next_chunk", times=3, when=_answered),
    "stretch handed out": Place("flusso_sync.engine.frontier:Frontier", "handed_out", times=2),
    "pending registered": Place("flusso_sync.engine.engine:Engine", "register", times=3),
    "chunk built": Place(f"{_SEEDING}:Seeding", "_build", times=3),
    "chunk handed over": Place("flusso_sync.engine.engine:Engine", "submit", times=3),
    "chunk enqueued": Place("flusso_sync.engine.writer:SinkWriter", "enqueue", times=3, when=_of_a_build),
    "half a bulk sent": Place(_CLASS, "write", times=1, when=_of_a_build),
    "bulk done": Place(_CLASS, "write", times=2, when=_of_a_build),
    "chunk durable": Place(f"{_SEEDING}:Build", "durable", times=3),
    "progress to be written": Place(_CLASS, "save_progress", before=True, times=2),
    "progress written": Place(_CLASS, "save_progress", times=3),
    "last chunk durable": Place(f"{_SEEDING}:Build", "_settle", when=lambda a, answer: a[0].frontier.complete),
    "build to be completed": Place(_CLASS, "complete_build", before=True),
    "refreshed": Place(_LIFE, "_settle", before=True),
    "settings restored": Place(_LIFE, "_settle"),
    "copies waited for": Place(_LIFE, "_wait_copies"),
    "mark written": Place(_LIFE, "_finish_switch", before=True),
    "aliases switched": Place(_LIFE, "_switch"),
    "mark cleared": Place(_LIFE, "_save", when=lambda a, answer: a[1].seeded and not a[1].switching),
    "progress forgotten": Place(
        "flusso_sync.sinks.opensearch.meta:Meta", "delete", when=lambda a, answer: a[1].startswith("build:")
    ),
    "old generations deleted": Place(_LIFE, "_finish_switch"),
    "build completed": Place(f"{_SEEDING}:Seeding", "_complete"),
}

_SPREADER = "flusso_sync.engine.spread:Spreader"

#: In the order in which a change comes by; the last ones when it shows in many documents, or has indexes rebuilt.
LIVE_PLACES: Dict[str, Place] = {
    "change queued": Place("flusso_sync.engine.queue:ChangeQueue", "offer", when=_accepted),
    "batch taken": Place("flusso_sync.engine.engine:Engine", "_process", before=True),
    "first part built": Place("flusso_sync.engine.engine:Engine", "_advance"),
    "change enqueued": Place("flusso_sync.engine.writer:SinkWriter", "enqueue", when=_live),
    "half a live bulk sent": Place(_CLASS, "write", when=_live),
    "change written": Place(_CLASS, "write", when=_live),
    "batch processed": Place("flusso_sync.engine.engine:Engine", "_process"),
    "record to be written": Place("flusso_sync.pipeline:Pipeline", "_write_record", before=True),
    "record written": Place("flusso_sync.postgres.capture:PostgresCapture", "confirm", before=True),
    "fed back": Place("flusso_sync.postgres.replication:ReplicationStream", "feedback"),
    "job to be stored": Place(_SPREADER, "_write", before=True, when=_stored),
    "job stored": Place(_SPREADER, "_write", when=_stored),
    "step of a job done": Place(_SPREADER, "_step"),
    "job to be forgotten": Place(_SPREADER, "_forget", before=True),
    "job forgotten": Place(_SPREADER, "_forget"),
    "builds begun": Place("flusso_sync.builds:Builds", "begin"),
}

_HALVES = ("half a bulk sent", "half a live bulk sent")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def owner_of(place: Place) -> Any:
    """The class or module that the place's function belongs to."""
    module, _, name = place.owner.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def die_at_a_place() -> None:
    """Die at the place that the environment names."""
    name = os.environ[PLACE]
    place = {**PLACES, **LIVE_PLACES}[name]
    gate = os.environ.get("FLUSSO_TEST_GATE")
    owner = owner_of(place)
    original = getattr(owner, place.name)
    passed = 0

    def reached(arguments: Any, answer: Any) -> bool:
        nonlocal passed
        if (gate is None or Path(gate).exists()) and place.when(arguments, answer):
            passed += 1
        return passed >= place.times

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        if name in _HALVES and reached(arguments, None):
            original(arguments[0], arguments[1][: len(arguments[1]) // 2], **keywords)
            _die()
        if place.before and reached(arguments, None):
            _die()
        answer = original(*arguments, **keywords)
        if not place.before and name not in _HALVES and reached(arguments, answer):
            _die()
        return answer

    setattr(owner, place.name, deadly)


def count_chunks() -> None:
    """Write a line of :data:`COUNTS` for every chunk that a build reads."""
    from flusso_sync.engine.seeding import Build

    next_chunk = Build.next_chunk

    def counted(self: Any, documents: Any, rows: int) -> Any:
        taken = next_chunk(self, documents, rows)
        if taken is not None:
            with open(os.environ[COUNTS], "a") as file:
                file.write(f"{self.index} {max(self.targets.values())} {taken.chunk.rows}\n")
        return taken

    Build.next_chunk = counted  # type: ignore[method-assign]

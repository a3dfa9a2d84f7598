"""Builds are begun here: at the start, after a gap, a drift or a loss, and because somebody asks.

How one is carried out is ``engine/seeding.py``'s; here is decided where each goes, whether it goes on with what an
earlier life left, and which generation readers have meanwhile.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set

from flusso_sync.backoff import wait_out
from flusso_sync.engine.seeding import Seeding
from flusso_sync.engine.source import Documents
from flusso_sync.engine.writer import SinkWriter
from flusso_sync.errors import FlussoError, SinkRefused
from flusso_sync.observer import Observer
from flusso_sync.sinks.base import GenerationReport
from flusso_sync.status import IndexState, Status

log = logging.getLogger(__name__)


class Builds:
    """Of one life of the pipeline; every method may be called from any thread.

    ``stop`` ends whatever waits for a sink.
    """

    def __init__(
        self,
        seeding: Seeding,
        writers: Sequence[SinkWriter],
        documents: Documents,
        status: Status,
        observer: Observer,
        stop: threading.Event,
    ) -> None:
        self._seeding = seeding
        self._writers = writers
        self._documents = documents
        self._status = status
        self._observer = observer
        self._stop = stop
        #: Indexes that readers find in no sink before their build is complete.
        self.first: Set[str] = set()
        #: Indexes that are rebuilt because somebody asked, while what is read stays right.
        self.asked: Set[str] = set()
        #: Index under build -> ids that were parked when it began.
        self._parked_before: Dict[str, Set[str]] = {}
        #: Guards ``_beginning``: the indexes whose rebuild a watch asked for and that has not begun yet.
        self._watching = threading.Lock()
        self._beginning: Set[str] = set()

    def begin(
        self,
        reasons: Mapping[str, str],
        targets: Mapping[str, Sequence[str]],
        stop: threading.Event,
        progress: Optional[Mapping[str, Mapping[str, Any]]] = None,
    ) -> None:
        """Begin builds (``reasons``: index -> why; ``targets``: index -> names of sinks).

        Those in ``progress`` go on where an earlier life ended.
        """
        with self._seeding.changing:
            for index, reason in reasons.items():
                self._seeding.give_up(index)
                writers = [writer for writer in self._writers if writer.sink.name in targets[index]]
                stored = (progress or {}).get(index)
                if stored is not None and stored["order"] != self._documents.order(index):
                    log.info(
                        "index %s: its unfinished build walked in another order and is not gone on with",
                        index,
                        extra={"index": index},
                    )
                    stored = None
                generations: Dict[SinkWriter, int] = {}
                for writer in writers:
                    sink = writer.sink
                    begin = sink.resume_build if stored is not None and sink.stateful else sink.begin_build
                    generations[writer] = wait_out(
                        lambda b=begin, i=index: b(i),  # type: ignore[misc]
                        stop,
                        self._status,
                        f"sink {sink.name}",
                    )
                if stored is None:
                    log.info("building index %s: %s", index, reason, extra={"index": index})
                else:
                    log.info(
                        "building index %s: it goes on after %d rows", index, stored["rows"], extra={"index": index}
                    )
                self._start(index, generations, stored)
        if reasons:
            self._observer.on_backfill_started(list(reasons))

    def _start(
        self, index: str, generations: Mapping[SinkWriter, int], progress: Optional[Mapping[str, Any]] = None
    ) -> None:
        # Complete once, it is read, whatever the others are still waiting for.
        unread = self._status.index_state(index) in (IndexState.PENDING, IndexState.BACKFILLING)
        first = unread and index in self.first
        building = max(generations.values(), default=0)
        if building and not first:
            self._status.set_index_state(index, IndexState.REBUILDING, building=building)
        self._parked_before[index] = self.parked(index)
        self._seeding.start(index, generations, rebuilding=not first, progress=progress)

    def _everywhere(self, indexes: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return {index: [writer.sink.name for writer in self._writers] for index in indexes}

    # -- while the pipeline runs ------------------------------------------------------------------------

    def rebuild(self, reasons: Mapping[str, str]) -> None:
        """Build indexes anew into every sink; the new generations are begun when this returns."""
        self.asked.difference_update(reasons)
        self.begin(reasons, self._everywhere(list(reasons)), self._stop)

    def due(self, reasons: Mapping[str, str]) -> Mapping[str, str]:
        """Those of ``reasons`` that nobody is about to begin; whoever is told so calls ``rebuild_due``."""
        with self._watching:
            due = {index: reason for index, reason in reasons.items() if index not in self._beginning}
            self._beginning.update(due)
        return due

    def rebuild_due(self, reasons: Mapping[str, str]) -> None:
        try:
            self.rebuild(reasons)
        finally:
            with self._watching:
                self._beginning.difference_update(reasons)

    def reindex(self, index: str) -> str:
        """Build a new generation of ``index`` beside the one that is read; joins a build that is under way.

        Returns a sentence.
        """
        with self._seeding.changing:
            if self._seeding.building(index):
                return f"index {index} is being built already; what it is built from is as new as anything begun now"
            if self._status.index_state(index) is IndexState.SEEDED:
                self.asked.add(index)
            self.begin({index: "it was asked for"}, self._everywhere([index]), self._stop)
        return f"index {index} is built anew beside the one that is read"

    def rollback(self, index: str) -> str:
        """Let readers have the newest kept generation of ``index``, at once, and build a fresh one.

        Returns a sentence.  Raises ``SinkRefused`` where none is kept.
        """
        with self._seeding.changing:
            writers = [writer for writer in self._writers if writer.sink.stateful]
            if not writers:
                raise SinkRefused(f"no sink keeps generations of index {index}", index=index)
            numbers: List[str] = []
            begun: Dict[SinkWriter, int] = {}
            before: Dict[SinkWriter, int] = {}
            for writer in writers:
                # Before anything changes: a refusal leaves all as it is.
                found = self._generations_in(writer, index)
                if not any(one.state == "kept" for one in found):
                    raise SinkRefused(
                        f"sink {writer.sink.name} keeps no former generation of index {index}",
                        hint="index[].keep_generations says how many are kept",
                        index=index,
                    )
                before[writer] = _newest(found)
            # What a build stored from now on would be taken for progress of the next one.
            with self._seeding.unsaved(index):
                try:
                    for writer in writers:
                        sink = writer.sink
                        back = wait_out(lambda s=sink: s.rollback(index), self._stop, self._status, f"sink {sink.name}")  # type: ignore[misc]
                        numbers.append(f"generation {back.read} in sink {sink.name}")
                        begun[writer] = back.building
                except FlussoError:
                    if any(_newest(self._generations_in(w, index)) != number for w, number in before.items()):
                        # Done in part: some sink has a generation that nobody builds.
                        self.begin({index: "a rollback failed"}, self._everywhere([index]), self._stop)
                    raise
                self._seeding.give_up(index)
            self.asked.discard(index)
            self._start(index, begun)
        self._observer.on_backfill_started([index])
        sentence = (
            f"readers of index {index} are back on {', '.join(numbers)}, which stands still until the next is built"
        )
        log.warning("%s", sentence, extra={"index": index})
        return sentence

    def _generations_in(self, writer: SinkWriter, index: str) -> Sequence[GenerationReport]:
        sink = writer.sink
        found = wait_out(sink.generations, self._stop, self._status, f"sink {sink.name}")
        return found.get(index, ())

    # -- what is parked ---------------------------------------------------------------------------------

    def parked(self, index: str) -> Set[str]:
        """Ids of ``index`` that are parked in any sink."""
        return {id for writer in self._writers for id in writer.sink.quarantined().get(index, ())}

    def parked_since(self, index: str) -> List[str]:
        """Ids that were parked when the build of ``index`` began, and still are now that it is complete."""
        return sorted(self._parked_before.pop(index, set()) & self.parked(index))


def _newest(found: Sequence[GenerationReport]) -> int:
    """The highest number of a generation."""
    return max((one.number for one in found), default=0)

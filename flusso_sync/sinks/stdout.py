"""The stdout sink: one JSON envelope per operation (operations.md section 8), for pipes, logs and people.

Stateless: no owner, no record, no generations.  Documents are spliced as the bytes they are; only ``pretty`` parses.
"""

from __future__ import annotations

import contextlib
import json
import select
import sys
import threading
import time
from typing import Any, BinaryIO, Dict, List, Optional, Sequence

from flusso_sync import __version__
from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.errors import SinkRefused, SinkUnavailable
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.sinks.base import Failure, IndexReport, Rejected, Sink, Write, exact, exact_text


class StdoutSink(Sink):
    """Writes whole lines to ``stream`` (standard output), flushed with each request."""

    stateful = False
    # One writer: lines keep the order in which they were enqueued.
    concurrency = 1
    max_actions = 1000
    max_bytes = 8 * 1024 * 1024

    def __init__(self, name: str, *, pretty: bool = False, stream: Optional[BinaryIO] = None) -> None:
        self.name = name
        self._pretty = pretty
        self._stream = sys.stdout.buffer if stream is None else stream
        self._lock = threading.Lock()
        self._sequence = 0
        #: What is still to be written of a line that a full disk tore.
        self._torn = b""
        self._version = json.dumps(__version__).encode()
        self._fields: Dict[str, int] = {}

    def open(self, identity: SourceIdentity, *, adopt: bool = False) -> None:
        """Nothing to reach, nobody to ask."""

    def read_record(self) -> Optional[Record]:
        return None

    def write_record(self, record: Record) -> None:
        """Nothing is remembered: alone, every start builds anew."""

    def ensure(self, plans: Sequence[IndexPlan], *, skip_build: bool = False) -> List[IndexReport]:
        # Every document of an index has every declared field, so the plan knows how many there are.
        self._fields = {plan.name: len(plan.fields) for plan in plans}
        return [IndexReport(plan.name, seeded=False) for plan in plans]

    def begin_build(self, index: str) -> int:
        return 0

    def refresh(self, indexes: Sequence[str]) -> None:
        """Every line is out as soon as it is written."""

    def write(self, writes: Sequence[Write], *, refresh: bool = False) -> Sequence[Failure]:
        """Raises ``SinkRefused`` when nobody reads any more, ``SinkUnavailable`` when a file has no room now.

        Blocks while the reader of a pipe takes nothing.
        """
        stamp = json.dumps(_now()).encode()
        with self._lock:
            self._put([self._line(write, stamp) for write in writes])
        return ()

    def _put(self, lines: List[bytes]) -> None:
        """Write whole lines; where one is torn, the rest of it is the first thing written the next time."""
        torn, begun = self._torn, bool(self._torn)
        data = b"".join([torn, *lines])
        written = 0
        try:
            # Past the buffer, which after a failure would not say how much of it was written.
            self._stream.flush()
            raw: Any = getattr(self._stream, "raw", self._stream)
            while written < len(data):
                count = raw.write(memoryview(data)[written:])
                if count is None:
                    # Somebody made the descriptor non-blocking.
                    select.select([], [raw], [])
                else:
                    written += count
        except (BrokenPipeError, ValueError) as error:
            raise SinkRefused(
                f"sink {self.name}: nobody reads standard output any more",
                hint="Keep the reader of the pipe running",
            ) from error
        except OSError as error:
            left = [torn, *lines] if begun else lines
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
                begun = False
            self._torn = left[0][written:] if begun or written else b""
            # Lines that were not begun come again, with these numbers.
            self._sequence -= len(left) - bool(self._torn)
            raise SinkUnavailable(
                f"sink {self.name}: standard output takes nothing: {error.strerror}",
                hint="It is tried again until there is room",
            ) from error
        self._torn = b""

    def _line(self, write: Write, stamp: bytes) -> bytes:
        self._sequence += 1
        id, index = json.dumps(write.id).encode(), json.dumps(write.index).encode()
        tail = b',"seq":%d,"sink":"stdout","ts":%s,"version":%s}' % (self._sequence, stamp, self._version)
        if write.body is None:
            line = b'{"id":%s,"index":%s,"op":"delete"%s' % (id, index, tail)
        else:
            # A raw newline in JSON is never data, and would end the line here.
            body = write.body.replace(b"\n", b"")
            fields = self._fields.get(write.index)
            line = b'{"document":%s,"id":%s,"index":%s,"meta":{"bytes":%d,"fields":%s},"op":"upsert"%s' % (
                body,
                id,
                index,
                len(body),
                b"null" if fields is None else b"%d" % fields,
                tail,
            )
        if self._pretty:
            # What is nested too deeply to be indented stays a line.
            with contextlib.suppress(RecursionError):
                line = exact_text(exact(line), 2).encode()
        return line + b"\n"

    def complete_build(self, index: str) -> None:
        """Readers of a stream see every document as it is written."""

    def quarantine(self, documents: Sequence[Rejected]) -> None:
        """The log names them; nothing here keeps them."""

    def release(self, index: str, ids: Sequence[str]) -> None:
        """Nothing was kept."""

    def quarantined(self) -> Dict[str, List[str]]:
        return {}

    def renew(self) -> None:
        """No lease."""

    def watch(self) -> List[str]:
        return []

    def close(self) -> None:
        """Standard output stays open: it is not ours."""


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"

"""The stdout sink writes whole lines, numbered without a gap, whatever becomes of the file or pipe behind it."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from typing import Any, List, Optional

import pytest

from flusso_sync.errors import SinkRefused, SinkUnavailable
from flusso_sync.schema.language import parse_schema
from flusso_sync.sinks.base import Write
from flusso_sync.sinks.stdout import StdoutSink
from tests.oracle.compare import fold_stdout

SCHEMA = (
    "{version: 1, table: users, primary_key: id, fields: [{long: id, required: true}, {text: name, required: false}]}"
)


def writes(*ids: str, name: str = "x") -> List[Write]:
    return [Write("users", id, json.dumps({"id": int(id), "name": name}).encode(), 1) for id in ids]


def opened(stream: Any, *, pretty: bool = False) -> StdoutSink:
    sink = StdoutSink("print", pretty=pretty, stream=stream)
    plan, _ = parse_schema(SCHEMA, "users")
    sink.ensure([plan])
    return sink


class Disk(io.RawIOBase):
    """A file on a disk with so much ``room``; None: no end of it."""

    def __init__(self, room: Optional[int]) -> None:
        self.room = room
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = bytes(data)[: self.room]
        self.content += taken
        if self.room is not None:
            self.room -= len(taken)
        return len(taken)


def test_envelopes_are_those_of_the_manual() -> None:
    stream = io.BytesIO()
    sink = opened(stream)
    sink.write([Write("users", "4", b'{"id":4,\n"name":null}', 1), Write("users", 'a"b', None, 1)])
    first, second = stream.getvalue().splitlines()
    upsert, delete = json.loads(first), json.loads(second)
    assert list(upsert) == ["document", "id", "index", "meta", "op", "seq", "sink", "ts", "version"]
    assert upsert["document"] == {"id": 4, "name": None}
    assert upsert["meta"] == {"bytes": len(b'{"id":4,"name":null}'), "fields": 2}
    assert list(delete) == ["id", "index", "op", "seq", "sink", "ts", "version"]
    assert (delete["id"], delete["op"], delete["seq"]) == ('a"b', "delete", 2)


def test_pretty_lines_are_the_same_values() -> None:
    stream = io.BytesIO()
    opened(stream, pretty=True).write(writes("1"))
    text = stream.getvalue().decode()
    assert json.loads(text)["document"] == {"id": 1, "name": "x"} and text.count("\n") > 10


def test_pretty_lines_keep_every_digit_and_what_is_too_deep_stays_a_line() -> None:
    stream = io.BytesIO()
    numbers = ("1.10", "0.12345678901234567890123", "7" * 5000)
    opened(stream, pretty=True).write([Write("users", "1", f'{{"n":[{",".join(numbers)}]}}'.encode(), 1)])
    text = stream.getvalue().decode()
    assert all(f"\n      {number}" in text for number in numbers)
    deep = b'{"n":%s%s}' % (b"[" * 3000, b"]" * 3000)
    opened(stream, pretty=True).write([Write("users", "2", deep, 1)])
    assert stream.getvalue().count(deep) == 1


@pytest.mark.parametrize("pretty", [False, True])
def test_a_full_disk_is_waited_out_and_tears_no_line(pretty: bool) -> None:
    """Wherever the disk becomes full, and full again, every line is whole and no number is missing."""
    whole = Disk(None)
    opened(io.BufferedWriter(whole), pretty=pretty).write(writes("1", "2", "3"))
    for room in range(len(whole.content)):
        disk = Disk(room)
        sink = opened(io.BufferedWriter(disk), pretty=pretty)
        for more in (1, 0, room // 2, None):
            with pytest.raises(SinkUnavailable, match="No space left"):
                sink.write(writes("1", "2", "3"))
            disk.room = more
        # What is tried again may be less than before: a newer write took the place of one.
        sink.write(writes("1", "3", name="y"))
        found = json.loads("[" + disk.content.decode().replace("}\n{", "},{") + "]")
        assert [line["seq"] for line in found] == list(range(1, len(found) + 1))
        assert fold_stdout(json.dumps(line) for line in found)["users"]["3"]["name"] == "y"


def test_a_reader_that_went_away_is_named() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as stream, pytest.raises(SinkRefused, match="nobody reads"):
        opened(stream).write(writes("1"))


def test_a_slow_reader_of_a_non_blocking_pipe_gets_everything() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    received: List[bytes] = []

    def read() -> None:
        with open(reading, "rb") as stream:
            received.append(stream.read())

    with open(writing, "wb") as stream:
        reader = threading.Thread(target=read)
        reader.start()
        opened(stream).write(writes(*map(str, range(500)), name="x" * 1000))
    reader.join(10)
    assert len(fold_stdout(received[0].splitlines())["users"]) == 500

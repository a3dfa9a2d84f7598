"""Logs: their two forms, their levels, and that no reader of standard error can slow or break the daemon."""

from __future__ import annotations

import json
import logging
import os
import threading
from contextlib import contextmanager
from time import monotonic
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import pytest

from flusso_sync.logs import Logs, QueuedHandler, Repeats, configure, parse_levels, redact
from tests.waiting import wait_for


class Pipe:
    """A pipe logged into; ``lines`` reads what is there after closing the logs."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.reader, self.writer = os.pipe()
        self.logs: Logs = configure(environ, descriptor=self.writer)

    def text(self) -> str:
        assert self.logs.close(5)
        os.close(self.writer)
        self.writer = -1
        with os.fdopen(self.reader, "rb", closefd=False) as stream:
            return stream.read().decode()

    def lines(self) -> List[str]:
        return self.text().splitlines()

    def close(self) -> None:
        self.logs.close(1)
        for descriptor in (self.reader, self.writer):
            if descriptor >= 0:
                os.close(descriptor)


@contextmanager
def logging_to_pipe(**environ: str) -> Iterator[Pipe]:
    root = logging.getLogger()
    level = root.level
    pipe = Pipe(environ)
    try:
        yield pipe
    finally:
        pipe.close()
        root.setLevel(level)


engine = logging.getLogger("flusso_sync.engine.writer")


def test_text_names_time_level_thread_and_module_and_prints_extras_as_pairs() -> None:
    with logging_to_pipe() as pipe:
        engine.info("flushed %d documents", 5, extra={"index": "users", "reason": "two words"})
        (line,) = pipe.lines()
    stamp, rest = line.split(" ", 1)
    assert stamp.endswith("Z") and "T" in stamp and len(stamp) == len("2026-06-03T10:20:30.123456Z")
    assert rest == ' INFO [MainThread] engine.writer: flushed 5 documents index=users reason="two words"'


def test_json_is_one_object_per_line_with_flussos_keys() -> None:
    with logging_to_pipe(FLUSSO_LOG_FORMAT="JSON") as pipe:
        try:
            raise ValueError("broken\nvalue")
        except ValueError:
            engine.warning("first\nsecond", exc_info=True, extra={"count": 3})
        (line,) = pipe.lines()
    answer = json.loads(line)
    assert list(answer) == ["timestamp", "level", "fields", "target", "thread"]
    assert (answer["level"], answer["target"], answer["thread"]) == ("WARN", "engine.writer", "MainThread")
    assert answer["fields"]["message"] == "first\nsecond"
    assert answer["fields"]["count"] == 3
    assert "ValueError: broken" in answer["fields"]["exception"]


def test_a_value_cannot_start_a_line_of_its_own() -> None:
    with logging_to_pipe() as pipe:
        engine.info("id %s", "7\n2026-01-01T00:00:00Z ERROR forged\x1b[31m", extra={"key": "a\nb"})
        lines = pipe.lines()
    assert len(lines) == 1
    assert "\\n2026" in lines[0] and "\\x1b[31m" in lines[0] and "key=a\\nb" in lines[0]


def test_a_traceback_keeps_its_lines() -> None:
    with logging_to_pipe() as pipe:
        try:
            raise KeyError("lost")
        except KeyError:
            engine.exception("failed")
        lines = pipe.lines()
    assert "Traceback (most recent call last):" in lines
    assert lines[-1] == "KeyError: 'lost'"


def test_plain_records_are_their_lines_alone() -> None:
    with logging_to_pipe() as pipe:
        engine.error("refused:\n  one\n  two", extra={"plain": True})
        assert pipe.lines() == ["refused:", "  one", "  two"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", (logging.INFO, {}, [])),
        ("debug", (logging.DEBUG, {}, [])),
        ("WARN,engine=debug", (logging.WARNING, {"flusso_sync.engine": logging.DEBUG}, [])),
        ("engine::writer=trace", (logging.INFO, {"flusso_sync.engine.writer": logging.DEBUG}, [])),
        ("flusso_sync.sinks=error,urllib3=info", (20, {"flusso_sync.sinks": 40, "urllib3": 20}, [])),
        ("postgres", (logging.INFO, {"flusso_sync.postgres": logging.DEBUG}, [])),
        ("engine=loud, =debug", (logging.INFO, {}, ["engine=loud", "=debug"])),
    ],
)
def test_levels_are_read_like_rust_log(spec: str, expected: Tuple[int, Dict[str, int], List[str]]) -> None:
    assert parse_levels(spec) == expected


def test_filters_apply_to_their_module_alone_and_others_speak_from_warnings_up() -> None:
    with logging_to_pipe(FLUSSO_LOG="warn,engine=debug") as pipe:
        engine.debug("wanted")
        logging.getLogger("flusso_sync.postgres").info("not wanted")
        logging.getLogger("urllib3").info("not wanted")
        logging.getLogger("urllib3").warning("wanted, too")
        assert [line.rpartition(": ")[2] for line in pipe.lines()] == ["wanted", "wanted, too"]


def test_other_packages_say_the_same_warning_once_a_minute_and_ours_always(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    repeats = Repeats()
    monkeypatch.setattr("flusso_sync.logs.monotonic", lambda: clock[0])

    def passes(name: str, level: int, message: str) -> bool:
        record = logging.makeLogRecord({"name": name, "levelno": level, "msg": message})
        passed = repeats.filter(record)
        left_out.append(getattr(record, "left_out", 0))
        return bool(passed)

    left_out: List[int] = []
    assert [passes("otel", logging.ERROR, "export failed") for _ in range(5)] == [True] + [False] * 4
    assert passes("otel", logging.ERROR, "something else")
    assert all(passes("otel", logging.INFO, "export failed") for _ in range(5))
    assert all(passes("flusso_sync.engine", logging.ERROR, "export failed") for _ in range(5))
    assert set(left_out) == {0}
    clock[0] += 61
    assert passes("otel", logging.ERROR, "export failed")
    assert left_out[-1] == 4
    assert not passes("otel", logging.ERROR, "export failed")


def test_a_word_that_means_nothing_is_said() -> None:
    with logging_to_pipe(FLUSSO_LOG="engine=loud", FLUSSO_LOG_FORMAT="xml") as pipe:
        text = pipe.text()
    assert "'engine=loud' is not understood" in text
    assert "'xml' is not understood" in text


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:canary@db/shop",
        "postgresql://app:can@canary@db/shop?sslmode=require",
        "host=db user=app password=canary dbname=shop",
        "host=db password = 'a canary' dbname=shop",
        "connection to http://elastic:canary@[::1]:9200 failed",
        "postgresql://db/shop?user=app&password=canary",
    ],
)
def test_passwords_are_starred_out_whoever_logs_them(text: str) -> None:
    assert "canary" not in redact(text)
    assert "***" in redact(text)
    with logging_to_pipe() as pipe:
        logging.getLogger("psycopg").warning("failed: %s", text, extra={"url": text})
        try:
            raise OSError(text)
        except OSError:
            logging.getLogger("psycopg").exception("again")
        assert "canary" not in pipe.text()
    with logging_to_pipe(FLUSSO_LOG_FORMAT="json") as pipe:
        logging.getLogger("psycopg").warning("failed: %s", text, extra={"url": text})
        assert "canary" not in pipe.text()


def test_harmless_text_is_left_alone() -> None:
    for text in ("http://127.0.0.1:9464/status a@b", "postgresql://app@db/shop", "time 10:20 user@host"):
        assert redact(text) == text


def test_a_pipe_that_nobody_reads_costs_lines_and_no_time() -> None:
    with logging_to_pipe() as pipe:
        begin = monotonic()
        for n in range(30_000):
            engine.info("line %d %s", n, "x" * 50)
        assert monotonic() - begin < 10
        assert pipe.logs.dropped > 0
        begin = monotonic()
        assert not pipe.logs.close(0.3)
        assert monotonic() - begin < 10
        wait_for(lambda: "flusso-log" not in [t.name for t in threading.enumerate()])


def test_dropped_lines_are_counted_in_the_log_once_it_is_read_again() -> None:
    reader, writer = os.pipe()
    handler = QueuedHandler(writer, capacity=10)
    record = logging.makeLogRecord({"msg": "x" * 5000, "levelno": logging.INFO})
    for _ in range(200):
        handler.handle(record)
    dropped = handler.dropped
    assert dropped > 100
    received: List[bytes] = []

    def read() -> None:
        while True:
            block = os.read(reader, 65536)
            if not block:
                return
            received.append(block)

    thread = threading.Thread(target=read)
    thread.start()
    assert handler.shut_down(5)
    os.close(writer)
    thread.join(5)
    os.close(reader)
    assert f"({dropped} log lines were dropped)".encode() in b"".join(received)


def test_a_closed_reader_raises_nowhere() -> None:
    with logging_to_pipe() as pipe:
        os.close(pipe.reader)
        pipe.reader = -1
        for _ in range(100):
            engine.info("into the void")
        wait_for(lambda: pipe.logs.dropped > 0)
        assert pipe.logs.flush(5)


def test_without_standard_error_everything_is_dropped_quietly() -> None:
    handler = QueuedHandler(None)
    handler.handle(logging.makeLogRecord({"msg": "x"}))
    assert handler.dropped == 1
    assert handler.shut_down(1)


def test_a_record_that_cannot_be_formatted_is_reported_and_not_raised() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    # Handed to a handler of its own: pytest's raises what it cannot format, and nobody else's line comes in between.
    reader, writer = os.pipe()
    handler = QueuedHandler(writer)
    handler.handle(logging.makeLogRecord({"name": "one", "levelno": 20, "msg": "%d", "args": ("text",)}))
    handler.handle(logging.makeLogRecord({"name": "two", "levelno": 20, "msg": "%s", "args": (Broken(),)}))
    assert handler.shut_down(5)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        lines = stream.read().decode().splitlines()
    assert len(lines) == 2
    assert all("cannot be formatted" in line for line in lines)


def test_closing_twice_is_safe_and_later_records_go_nowhere() -> None:
    with logging_to_pipe() as pipe:
        engine.info("one")
        assert pipe.logs.close(5)
        assert pipe.logs.close(5)
        logging.getLogger("flusso_sync.engine").info("two")
        assert len(pipe.lines()) == 1


def test_many_threads_lose_no_line() -> None:
    received: List[Any] = []
    with logging_to_pipe() as pipe:
        reader = pipe.reader

        def read() -> None:
            with os.fdopen(reader, "rb", closefd=False) as stream:
                received.extend(stream.read().splitlines())

        drain = threading.Thread(target=read)
        drain.start()

        def write(name: int) -> None:
            for n in range(500):
                engine.info("thread %d line %d", name, n)

        writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
        assert pipe.logs.close(10)
        os.close(pipe.writer)
        pipe.writer = -1
        drain.join(10)
    assert len(received) == 2000
    assert len(set(line.split(b": ", 1)[1] for line in received)) == 2000

"""Progress of builds: lines that move on a terminal and tear nothing, sentences in the log everywhere else."""

from __future__ import annotations

import logging
import re
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

from flusso_sync.cli import progress as module
from flusso_sync.cli.progress import Progress, describe, draw, duration
from flusso_sync.config.load import Config
from flusso_sync.status import IndexState, Status
from tests.fix_daemon import clean_environment
from tests.screen import Screen, Terminal
from tests.waiting import wait_for

DOUBLE = Path(__file__).resolve().parent / "daemon_double.py"


def build(done: int, total: Optional[int], **others: Any) -> Dict[str, Any]:
    return {"done": done, "total": total, "rate": 8123.4, "eta_seconds": 10.2, "exact": False, "workers": 2, **others}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            build(120_000, 200_000),
            "index users: 120,000 of about 200,000 rows (60 %), 8,123 rows/s, about 10 s left",
        ),
        (
            build(199_999, 200_000, exact=True),
            "index users: 199,999 of 200,000 rows (99 %), 8,123 rows/s, about 10 s left",
        ),
        (build(7, None, eta_seconds=None, rate=0.0), "index users: 7 rows, 0 rows/s"),
        (build(0, 0, exact=True, eta_seconds=0.0), "index users: 0 of 0 rows (100 %), 8,123 rows/s, about 0 s left"),
        (build(0, 0, eta_seconds=None), "index users: 0 of about 0 rows (0 %), 8,123 rows/s"),
        (build(5, 4, eta_seconds=None), "index users: 5 of about 4 rows (100 %), 8,123 rows/s"),
    ],
)
def test_a_sentence_says_how_far_how_fast_and_how_long(given: Dict[str, Any], sentence: str) -> None:
    assert describe("users", given) == sentence


def test_durations_are_rounded_for_people() -> None:
    told = [duration(seconds) for seconds in (0.4, 99.4, 100, 5900, 7560)]
    assert told == ["0 s", "99 s", "2 min", "98 min", "2 h 6 min"]


def test_lines_fit_the_terminal_and_their_number_is_bounded() -> None:
    builds = {f"index_with_a_long_name_{number}": build(number, 100) for number in range(30)}
    for columns in (25, 60, 100, 200):
        lines = draw(builds, columns)
        assert len(lines) == module.MOST_LINES and lines[-1] == "and 21 more builds"
        assert max(map(len, lines)) < columns
    (line,) = draw({"users": build(120_000, 200_000)}, 120)
    assert re.search(r"^users +\S+ +60 % +120,000 of about 200,000 +8,123 rows/s +10 s left +2 workers$", line), line
    assert "\x1b" not in line and "\x1b" in draw({"users": build(1, 2)}, 120, colour=True)[0]
    assert draw({}, 100) == []


def test_a_log_line_every_ten_seconds_per_index_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "POLL_SECONDS", 0.005)
    status = Status()
    status.set_build_progress("users", 10, 100)
    progress = Progress(status, None, lambda: 80)

    def told() -> List[str]:
        return [record.getMessage() for record in caplog.records if record.name == module.logger.name]

    with caplog.at_level(logging.INFO, module.logger.name):
        progress.start()
        try:
            seen = threading.Event()
            snapshot = status.snapshot

            def counted() -> Any:
                seen.set()
                return snapshot()

            monkeypatch.setattr(status, "snapshot", counted)

            def looked() -> None:
                for _ in range(3):
                    seen.clear()
                    assert seen.wait(20)

            looked()
            assert told() == [], "not at once: most builds are over by then"
            for second in range(1, 31):
                now[0] += 1.0
                if second == 15:
                    status.set_build_progress("orders", 5, None)
                looked()
            # Of orders, seen first in second 15, the ten seconds are over in second 25.
            told_of = [line.partition(":")[0] for line in told()]
            assert told_of == ["index users", "index users", "index orders", "index users"]
            assert "10 of about 100 rows (10 %)" in told()[0]
            status.set_index_state("users", IndexState.SEEDED)
            before = len([line for line in told() if "users" in line])
            now[0] += 100
            looked()
            assert len([line for line in told() if "users" in line]) == before
        finally:
            progress.stop(5)


# -- on a terminal --------------------------------------------------------------------------------------

Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: List[Terminal] = []
    (tmp_path / "flusso.yaml").write_text("source: {type: postgres}\nsinks: {s: {type: sqlite, path: x}}\n")

    def start_one(mode: str, *, columns: int = 110, output: bool = False, **environ: str) -> Terminal:
        command = [sys.executable, str(DOUBLE), mode, "--public-address", "127.0.0.1:0"]
        made.append(Terminal(command, tmp_path, clean_environment(**environ), columns=columns, output=output))
        return made[-1]

    yield start_one
    for terminal in made:
        terminal.close()


BAR = re.compile(r"^(users|orders) +\S+ +(\d+) % +[\d,]+ of (about )?[\d,]+ +[\d,]+ rows/s .*2 workers$")


def test_two_lines_move_below_the_log_and_tear_no_line_of_it(start: Start) -> None:
    terminal = start("build")
    seen: List[int] = []

    def bars() -> List[str]:
        lines = terminal.lines()
        found = [number for number, line in enumerate(lines) if BAR.match(line)]
        if found:
            assert found == list(range(len(lines) - len(found), len(lines))), "they are the last lines, always"
            shown = BAR.match(lines[found[0]])
            assert shown is not None
            seen.append(int(shown.group(2)))
        return lines

    wait_for(lambda: len([line for line in bars() if BAR.match(line)]) == 2, 30, "both lines are drawn")
    wait_for(lambda: any("line 4 of step 40" in line for line in bars()), 60, "the log is whole")
    wait_for(lambda: not any(BAR.match(line) for line in terminal.lines()), 20, "the lines go with the builds")
    terminal.process.terminate()
    assert terminal.process.wait(20) == 0
    terminal.close()
    lines = terminal.lines()
    said = [line for number, line in enumerate(lines) if " of step " in line]
    # As wide as the terminal: each of these takes two lines of it, and the second holds the rest alone.
    told = re.findall(r"line (\d) of step (\d+) (x+)", "".join(lines))
    assert [(int(step), int(number)) for number, step, _ in told] == [(s, n) for s in range(1, 41) for n in range(5)]
    assert len(said) == 200 and all(len(xs) == 60 for _, _, xs in told)
    assert seen == sorted(seen) and 0 < seen[0] < 100 and seen[-1] <= 100
    assert not any(BAR.match(line) for line in lines)
    assert "A" in terminal.screen.escapes and "m" in terminal.screen.escapes


def test_colours_are_left_out_on_request_and_lines_still_move(start: Start) -> None:
    terminal = start("build", NO_COLOR="1")
    wait_for(lambda: sum(bool(BAR.match(line)) for line in terminal.lines()) == 2, 30, "both lines are drawn")
    assert set(terminal.screen.escapes) <= {"A", "J"}


@pytest.mark.parametrize(
    "case",
    ["json", "dumb", "printing", "no rich"],
)
def test_where_lines_cannot_move_none_does(start: Start, tmp_path: Path, case: str) -> None:
    environ: Dict[str, str] = {}
    if case == "json":
        environ["FLUSSO_LOG_FORMAT"] = "json"
    elif case == "dumb":
        environ["TERM"] = "dumb"
    elif case == "printing":
        (tmp_path / "flusso.yaml").write_text("source: {type: postgres}\n")
    else:
        # What Python takes for "not installed".
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
        environ["PYTHONPATH"] = str(tmp_path / "site")
    terminal = start("build", output=case == "printing", **environ)
    wait_for(lambda: any("line 4 of step 40" in line for line in terminal.lines()), 60, "the log is whole")
    assert "A" not in terminal.screen.escapes and "J" not in terminal.screen.escapes
    assert not any(BAR.match(line) for line in terminal.lines())


def test_nothing_moves_where_nothing_is_a_terminal(tmp_path: Path) -> None:
    config = Config.from_mapping({"source": {"type": "postgres"}, "sinks": {"s": {"type": "sqlite", "path": "x"}}})
    with open(tmp_path / "log", "wb") as file:
        assert not module.terminal_is_ours(config, file.fileno(), {"TERM": "xterm"})
    assert not module.terminal_is_ours(config, None, {"TERM": "xterm"})


def test_the_screen_of_these_tests_sees_what_is_torn() -> None:
    screen = Screen(20)
    screen.feed(b"one\r\ntwo\r\nbar\r\n\r\x1b[1A\x1b[Jthree\r\nbar\r\n")
    assert screen.lines == ["one", "two", "three", "bar", ""]
    torn = Screen(20)
    torn.feed(b"one\r\nbar\r\ntwo\r\n\r\x1b[1")
    torn.feed(b"A\x1b[J\xc3")
    torn.feed(b"\xb6")
    assert torn.lines == ["one", "bar", "ö"], "a line of the log was taken away with the bar"

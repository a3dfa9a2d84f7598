"""``flussod status`` tells what the page tells, to a terminal or a program, and outlives the daemon it watches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from flusso_sync.cli.status import _Pen, curve, seconds, size
from flusso_sync.status import IndexState, Status
from flusso_sync.web.dashboard import POINT_SECONDS
from flusso_sync.web.private import private_app
from flusso_sync.web.public import public_app
from flusso_sync.web.server import Surface
from tests.fix_daemon import FLUSSOD, clean_environment
from tests.scenes import SCENES, building, calm, troubled
from tests.screen import Terminal
from tests.test_web_private import Operator
from tests.waiting import wait_for


def answers(status: Status) -> "tuple[Dict[str, Any], Dict[str, Any]]":
    client = public_app(status).test_client()
    return client.get("/status").get_json(), client.get("/history").get_json()


def drawn(status: Status, columns: int = 120, *, colour: bool = False, blocks: bool = True) -> List[str]:
    return _Pen(columns, colour=colour, blocks=blocks).draw(*answers(status))


@pytest.fixture
def serve() -> Iterator[Any]:
    surfaces: List[Surface] = []

    def serve(app: Any, port: int = 0) -> Surface:
        surface = Surface("public", app, "127.0.0.1", port)
        surface.bind()
        surface.start()
        surfaces.append(surface)
        return surface

    yield serve
    for surface in surfaces:
        surface.stop(2)


def flussod(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(FLUSSOD), "status", *arguments],
        env={**clean_environment(), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )


def test_a_calm_daemon_is_a_screenful() -> None:
    lines = drawn(calm())
    assert lines[0] == "live" and lines[1].startswith("slot flusso  up 4 h 21 min")
    text = "\n".join(lines)
    assert "queue 10 of 16,384" in text and "48 MB of WAL retained" in text
    assert "sink search: 3 waiting, 1 of 2 requests, 431,000 written, 12 sent again" in text
    assert "lag over the last hour: at most 410 ms" in text
    (row,) = [line for line in lines if line.startswith("users ")]
    assert row.split()[:3] == ["users", "seeded", "50,000"] and row.split()[-2:] == ["3", "0"]
    assert len(lines) < 24


def test_trouble_stands_at_the_top_with_what_to_do() -> None:
    lines = drawn(troubled())
    assert lines[0] == "live, held up" and lines[2].startswith("not ready: sink search is away")
    text = "\n".join(lines)
    assert (
        text.index("replication slot flusso was lost") < text.index("! sink search") < text.index("! table public.ad")
    )
    assert "41 times, changes wait for it" in text and "Run: ALTER TABLE public.addresses" in text
    assert "away: sink search" in text
    assert "index products: Mend the table, or the schema file" in text
    assert text.index("! sink search") < text.index("capture ") < text.index("drifted")


def test_proofs_and_what_waits_for_a_restart_are_told() -> None:
    status = calm()
    status.set_fact("configuration.waits_for_restart", ["source.slot", "prefix"])
    said: Dict[str, Any] = {"state": "running", "ended": None, "seen": 400, "total": 1000, "found": 0}
    status.set_fact("verify.users", said)
    lines = drawn(status)
    assert lines[1].endswith("a restart takes over source.slot, prefix")
    assert "index users is compared with its rows: 40 %, 0 differences so far" in lines
    ended = {**said, "state": "right", "ended": "2026-01-02T03:04:05Z", "compared": 500, "differences": [], "notes": []}
    status.set_fact("verify.users", ended)
    assert "index users was compared at 2026-01-02T03:04:05Z: 0 differences in 500 documents" in drawn(status)
    status.set_fact("verify.users", {**said, "state": "failed", "why": "sink search is away"})
    assert "index users could not be compared with its rows: sink search is away" in drawn(status)


def test_builds_have_a_bar_and_a_sentence() -> None:
    text = "\n".join(drawn(building()))
    assert "██████████████░░░░░░░░░░ index orders: 92,500 of 150,000 rows (61 %)" in text
    assert "3 > 4" in text and "1 fan-out job under way" in text
    assert "##############.......... index orders" in "\n".join(drawn(building(), blocks=False))


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("scene", SCENES)
def test_nothing_is_wider_than_the_terminal_and_no_line_is_obeyed(scene: str, columns: int) -> None:
    status = SCENES[scene]()
    status.set_index_state("users", IndexState.DRIFTED, reason="evil\x1b[2J\nname")
    told = answers(status)
    plain = _Pen(columns, colour=False, blocks=True).draw(*told)
    for line in plain:
        assert len(line) < columns and line.isprintable(), line
    coloured = _Pen(columns, colour=True, blocks=True).draw(*told)
    assert [line.split("m", 1)[-1].replace("\x1b[0m", "") if "\x1b" in line else line for line in coloured] == plain
    if columns < 200:
        "".join(_Pen(columns, colour=False, blocks=False).draw(*told)).encode("ascii")


def test_an_hour_is_a_curve_with_holes_where_nobody_knew() -> None:
    now = 10_000.0
    points = [(now - 3600 + n * POINT_SECONDS + 1, 7.0 if n == 359 else 0.0) for n in range(360) if n < 100 or n > 259]
    shape = curve(points, 36, now)
    assert shape == "▁" * 10 + " " * 16 + "▁" * 9 + "█"
    assert curve([], 5, now) == "     "


def test_figures_are_short() -> None:
    assert [seconds(value) for value in (None, 0.0, 0.0124, 4.21, 42.0, 540.0)] == [
        "-",
        "0 ms",
        "12 ms",
        "4.2 s",
        "42 s",
        "9 min",
    ]
    assert [size(value) for value in (0, 900, 11_056, 1.5 * 1024**3, 5000 * 1024**4)] == [
        "0 B",
        "900 B",
        "11 kB",
        "1.5 GB",
        "5000 TB",
    ]


def test_the_program_asks_the_surface_of_the_configuration(serve: Any, tmp_path: Path) -> None:
    surface = serve(public_app(calm()))
    (tmp_path / "users.schema.yml").write_text("version: 1\ntable: users\nfields:\n  - {integer: id, required: true}\n")
    (tmp_path / "flusso.yaml").write_text(
        "source: {type: postgres, connection_url: 'postgresql://nobody@127.0.0.1:1/none'}\n"
        f"server: {{public_address: '{surface.address}'}}\n"
        "index:\n  - {name: users, schema: users.schema.yml}\n"
    )
    ran = flussod("-c", str(tmp_path / "flusso.yaml"))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("live\nslot flusso") and "\x1b" not in ran.stdout
    elsewhere = serve(public_app(troubled()))
    moved = flussod("-c", str(tmp_path / "flusso.yaml"), FLUSSO_PUBLIC_ADDRESS=elsewhere.address)
    assert moved.stdout.startswith("live, held up"), "where the daemon's own variable says it is"
    wrong = flussod("-c", str(tmp_path / "flusso.yaml"), FLUSSO_PUBLIC_ADDRESS="localhost:1")
    assert wrong.returncode == 2 and "FLUSSO_PUBLIC_ADDRESS" in wrong.stderr
    told = flussod("--server", surface.address, "--format", "json")
    assert json.loads(told.stdout)["index_details"]["users"]["documents"] == 50_000


def test_without_a_daemon_it_is_1_and_says_where_it_asked(serve: Any) -> None:
    ran = flussod("--server", "127.0.0.1:1")
    assert ran.returncode == 1 and "no daemon answers at http://127.0.0.1:1" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_private_surface_wants_its_password(serve: Any) -> None:
    surface = serve(private_app(calm(), lambda: ("admin", "canary"), Operator()))
    refused = flussod("--server", surface.address)
    assert refused.returncode == 1 and "answers 401" in refused.stderr and "--admin-password" in refused.stderr
    assert flussod("--server", surface.address, FLUSSO_ADMIN_PASSWORD="canary").stdout.startswith("live\n")


def test_watching_draws_in_place_and_goes_on_over_a_restart(serve: Any, tmp_path: Path) -> None:
    status = calm()
    surface = serve(public_app(status))
    terminal = Terminal(
        [sys.executable, str(FLUSSOD), "status", "--server", surface.address, "--watch", "--interval", "0.1"],
        tmp_path,
        clean_environment(),
        output=True,
    )
    try:
        wait_for(lambda: terminal.lines()[:1] == ["live"], 30)
        assert sum(line == "live" for line in terminal.lines()) == 1
        surface.stop(2)
        wait_for(lambda: any("no daemon answers" in line for line in terminal.lines()), 30)
        assert not any(line.startswith("users ") for line in terminal.lines()), "what was drawn before is gone"
        serve(public_app(troubled()), surface.port)
        wait_for(lambda: terminal.lines()[:1] == ["live, held up"], 30)
    finally:
        terminal.close()


def test_watching_as_json_is_a_line_for_each_answer(serve: Any) -> None:
    surface = serve(public_app(calm()))
    process = subprocess.Popen(
        [sys.executable, str(FLUSSOD), "status", "--server", surface.address]
        + ["--watch", "--interval", "0.1", "--format", "json"],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())["phase"] == "live"
    finally:
        process.kill()
        process.communicate(timeout=20)

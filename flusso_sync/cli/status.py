"""``flussod status``: what the page of a running daemon shows, drawn in a terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import click

from flusso_sync.cli.options import admin_password_option, admin_user_option, config_option, server_option
from flusso_sync.cli.progress import describe, duration
from flusso_sync.cli.reach import format_option
from flusso_sync.cli.run_options import with_variables
from flusso_sync.cli.surface import Surface
from flusso_sync.cli.table import plain, table
from flusso_sync.errors import DaemonUnreachable

#: The surfaces answer from memory.
ANSWER_SECONDS = 5.0

#: Width of the lag of an hour, and of a build, where the terminal is wide enough.
CURVE_COLUMNS = 60
BAR_COLUMNS = 24

EVENTS = 8

_COLOURS = {"good": "32", "busy": "36", "warn": "33", "bad": "31", "soft": "2", "bold": "1"}

_MOODS = {
    "seeded": "good",
    "backfilling": "busy",
    "rebuilding": "busy",
    "skipped": "warn",
    "blind": "warn",
    "drifted": "bad",
    "stopped": "bad",
}


@click.command(
    "status",
    short_help="Show how a running daemon is.",
    epilog="\b\nExamples:\n"
    "  flussod status -c etc/flusso.yaml\n"
    "  flussod status --watch\n"
    "  flussod status --server 127.0.0.1:9464 --format json\n\n"
    "\b\nExit codes, beside those of flussod --help:\n"
    "    0  the daemon answered, however it is\n"
    "    1  no daemon answers",
)
@config_option
@server_option("Ask the surface at HOST:PORT or a URL, and read no configuration.")
@admin_user_option("User, where that is the private surface [admin].")
@admin_password_option
@click.option("--watch", is_flag=True, help="Draw it anew again and again, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_seconds",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch asks.",
)
@format_option
def status(
    config_path: str,
    server: Optional[str],
    admin_user: Optional[str],
    admin_password: Optional[str],
    watch: bool,
    interval_seconds: float,
    form: str,
) -> None:
    """Show how a running daemon is: phase, trouble and what to do, the flow, lag over the last hour, every index.

    It asks the public surface of the configuration's daemon.  --watch goes on over a restart of the daemon; with
    --format json it prints a line for each answer.
    """
    surface = _Surface(server or _address(config_path), admin_user or "admin", admin_password if server else None)
    if not watch:
        answer = surface.get("status")
        if form == "json":
            click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        else:
            _show(_Pen.of_stdout().draw(answer, surface.get("history")))
        return
    drawn = 0
    while True:
        try:
            answer = surface.get("status")
            lines = [] if form == "json" else _Pen.of_stdout().draw(answer, surface.get("history"))
        except DaemonUnreachable as error:
            if form == "json":
                click.echo(error.message, err=True)
                time.sleep(interval_seconds)
                continue
            lines = [error.message, "It is asked again."]
        if form == "json":
            click.echo(json.dumps(answer, ensure_ascii=False))
        else:
            drawn = _draw_over(lines, drawn)
        time.sleep(interval_seconds)


def _address(config_path: str) -> str:
    from flusso_sync.config.load import load_config

    address = with_variables(load_config(config_path)).server.public_address
    if not address.port:
        raise click.UsageError("server.public_address is any free port: give --server, which the daemon's log names")
    return str(address)


class _Surface(Surface):
    """A surface to read from; ``password`` None asks without."""

    def __init__(self, server: str, user: str, password: Optional[str]) -> None:
        hint = "See server.public_address, or give --server"
        super().__init__(server, user, password, seconds=ANSWER_SECONDS, hint=hint)

    def get(self, path: str) -> Dict[str, Any]:
        """The JSON at ``path``; raises ``DaemonUnreachable``."""
        answer = self.request("GET", f"/{path}")
        if answer.code >= 300:
            hint = "Give --admin-user and --admin-password, or the address of the public surface"
            raise DaemonUnreachable(f"{self.url} answers {answer.code}", hint=hint if answer.code == 401 else None)
        try:
            found = json.loads(answer.text)
        except ValueError as error:
            raise DaemonUnreachable(f"no daemon answers at {self.url}: {error}", hint=self._hint) from error
        if not isinstance(found, dict) or not {"phase", "points"} & set(found):
            raise DaemonUnreachable(f"what answers at {self.url} is no daemon of flusso-sync")
        return found


def _show(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)


def _draw_over(lines: Sequence[str], former: int) -> int:
    """Write ``lines`` in place of the ``former`` ones on a terminal, else below them; returns how many stand."""
    if not sys.stdout.isatty():
        _show([*lines, ""])
        return 0
    # What does not fit could not be drawn over: it would scroll away.
    lines = lines[: shutil.get_terminal_size().lines - 1]
    sys.stdout.write((f"\x1b[{former}A\r\x1b[J" if former else "") + "".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
    return len(lines)


class _Pen:
    """Draws for a terminal of so many columns, with colours and block letters where it has them."""

    def __init__(self, columns: int, *, colour: bool, blocks: bool) -> None:
        self._columns = columns
        self._colour = colour
        self._blocks = blocks

    @classmethod
    def of_stdout(cls) -> _Pen:
        terminal = sys.stdout.isatty()
        colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        try:
            "▁█".encode(sys.stdout.encoding or "ascii")
            blocks = True
        except (UnicodeEncodeError, LookupError):
            blocks = False
        return cls(shutil.get_terminal_size((100, 40)).columns if terminal else 100, colour=colour, blocks=blocks)

    def draw(self, status: Mapping[str, Any], history: Mapping[str, Any]) -> List[str]:
        """The lines, none wider than the terminal."""
        drawn = [
            *self._head(status),
            *self._troubles(status),
            "",
            *self._flow(status),
            *self._hour(history),
            "",
            *self._indexes(status),
            *self._events(status),
        ]
        return [self._cut(*line) if isinstance(line, tuple) else self._cut(line, "") for line in drawn]

    # -- parts: lines, or pairs of a line and its mood ----------------------------------------------------

    def _head(self, status: Mapping[str, Any]) -> Iterator[Any]:
        ready = status["ready"]
        mood = "bad" if not ready else "warn" if status["trouble"] or status["gap"] else "good"
        held_up = ", held up" if not ready and status["phase"] in ("live", "backfilling") else ""
        slot = status["slot"].get("name")
        yield (f"{status['phase']}{held_up}", mood)
        changed = status["configuration"].get("waits_for_restart")
        parts = [*([f"slot {slot}"] if slot else []), f"up {duration(status['uptime_seconds'])}"]
        yield "  ".join([*parts, *([f"a restart takes over {', '.join(changed)}"] if changed else [])])
        if not ready:
            yield (f"not ready: {status['ready_reason']}", "bad")

    def _troubles(self, status: Mapping[str, Any]) -> Iterator[Any]:
        if status["gap"]:
            yield ""
            yield (f"! {status['gap']}", "warn")
            yield "  Every index is built anew; readers keep what they have until that is done."
        for trouble in sorted(status["trouble"], key=lambda one: not one["blocking"]):
            yield ""
            yield (f"! {trouble['what']}", "bad" if trouble["blocking"] else "warn")
            if trouble["todo"]:
                yield f"  {trouble['todo']}"
            kind = "changes wait for it" if trouble["blocking"] else "changes flow meanwhile"
            yield (f"  for {duration(trouble['seconds'])}, {trouble['count']} times, {kind}", "soft")

    def _flow(self, status: Mapping[str, Any]) -> Iterator[Any]:
        arrow = "→" if self._blocks else ">"
        queue, rates, slot = status["queue"], status["rates"], status["slot"]
        behind = "" if status["slot_lag_bytes"] is None else f", {size(status['slot_lag_bytes'])} behind"
        kept = "" if slot.get("retained_bytes") is None else f", {size(slot['retained_bytes'])} of WAL retained"
        yield (
            f"capture {rates['changes_per_second']:,.0f} changes/s {arrow} queue {_count(queue.get('changes'))} of "
            f"{_count(queue.get('capacity'))} {arrow} engine {rates['documents_per_second']:,.0f} documents/s {arrow} "
            f"{len(status['sinks'])} sink{'' if len(status['sinks']) == 1 else 's'}",
            "bold",
        )
        yield f"lag {seconds(status['lag_seconds'])}, {status['changes_in_flight']:,} in flight{behind}{kept}"
        for name, sink in status["sinks"].items():
            away = any(one["blocking"] and one["key"] == f"sink {name}" for one in status["trouble"])
            again = f", {sink['retries']:,} sent again" if sink["retries"] else ""
            yield (
                f"  {'away: ' if away else ''}sink {name}: {sink['waiting']:,} waiting, "
                f"{sink['requests_in_flight']} of {sink['concurrency']} requests, {sink['written']:,} written{again}",
                "bad" if away else "",
            )
        jobs = status["facts"].get("fan_out", {}).get("waiting")
        if jobs:
            yield f"  {jobs:,} fan-out job{'' if jobs == 1 else 's'} under way"

    def _hour(self, history: Mapping[str, Any]) -> Iterator[Any]:
        column = history["columns"].index("lag_seconds")
        lags = [(point[0], point[column]) for point in history["points"] if point[column] is not None]
        if len(lags) < 2:
            return
        worst = max(lags, key=lambda one: float(one[1]))
        at = time.strftime("%H:%M:%S", time.localtime(worst[0]))
        yield f"lag over the last hour: at most {seconds(worst[1])}, at {at}"
        if self._blocks:
            yield (curve(lags, min(CURVE_COLUMNS, self._columns - 1), time.time()), "busy")

    def _indexes(self, status: Mapping[str, Any]) -> Iterator[Any]:
        header = ("index", "state", "documents", "written/s", "lag", "generation", "quarantine")
        found = status["index_details"]
        rows = [
            (
                name,
                index["state"],
                _count(index["documents"]),
                f"{index['documents_per_second']:,.0f}",
                seconds(index["lag_seconds"]),
                _generation(index),
                f"{index['quarantined']:,}",
            )
            for name, index in found.items()
        ]
        lines = list(table(header, rows, right=("documents", "written/s", "lag", "generation", "quarantine")))
        yield (lines[0], "soft")
        for line, index in zip(lines[1:], found.values()):
            yield (line, "warn" if index["quarantined"] else _MOODS.get(index["state"], ""))
        for name, index in found.items():
            if index["build"] is not None:
                yield f"{self._bar(index['build'])}{describe(name, index['build'])}"
            for reason in (index.get("reason"), index.get("todo"), *index.get("blind", ())):
                if reason:
                    yield f"index {name}: {reason}"
            proof = status["verify"].get(name)
            if proof:
                yield (f"index {name} {_proof(proof)}", {"right": "good", "wrong": "bad"}.get(proof["state"], ""))

    def _bar(self, build: Mapping[str, Any]) -> str:
        if not build["total"]:
            return ""
        full = min(BAR_COLUMNS, BAR_COLUMNS * int(build["done"]) // int(build["total"]))
        on, off = ("█", "░") if self._blocks else ("#", ".")
        return on * full + off * (BAR_COLUMNS - full) + " "

    def _events(self, status: Mapping[str, Any]) -> Iterator[Any]:
        if status["events"]:
            yield ""
        for event in status["events"][:EVENTS]:
            yield (f"{event['at'][:19].replace('T', ' ')}  {event['text']}", "soft")

    def _cut(self, text: str, mood: str) -> str:
        text = plain(text)
        if len(text) >= self._columns:
            text = text[: max(1, self._columns - 2)] + ("…" if self._blocks else "~")
        return f"\x1b[{_COLOURS[mood]}m{text}\x1b[0m" if self._colour and mood else text


def seconds(value: Optional[float]) -> str:
    """``12 ms``, ``4.2 s``, ``3 min``."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 10 else duration(value)


def size(value: float) -> str:
    """``11 kB``, ``1.5 GB``."""
    units = ["B", "kB", "MB", "GB", "TB"]
    unit = units.pop(0)
    while value >= 1024 and units:
        value, unit = value / 1024, units.pop(0)
    return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:.0f} {unit}"


def curve(points: Sequence[Tuple[float, float]], columns: int, now: float) -> str:
    """The last hour up to ``now`` in ``columns`` letters; the worst of each stretch, a space where nobody knew."""
    worst: List[Optional[float]] = [None] * columns
    for at, value in points:
        column = int((at - (now - 3600)) / 3600 * columns)
        if 0 <= column < columns:
            worst[column] = max(value, worst[column] or 0.0)
    most = max((value for value in worst if value is not None), default=0.0) or 1.0
    return "".join(" " if value is None else "▁▂▃▄▅▆▇█"[min(7, int(value / most * 7.999))] for value in worst)


def _proof(proof: Mapping[str, Any]) -> str:
    """What a comparison of an index with its rows found, or how far it is."""
    if proof["state"] in ("waiting", "running"):
        part = f" {min(99, 100 * proof['seen'] // proof['total'])} %," if proof["total"] else ""
        return f"is compared with its rows:{part} {proof['found']:,} differences so far"
    if proof["state"] == "failed":
        return f"could not be compared with its rows: {proof['why']}"
    return f"was compared at {proof['ended']}: {proof['found']:,} differences in {proof['compared']:,} documents"


def _count(value: Optional[int]) -> str:
    return "-" if value is None else f"{value:,}"


def _generation(index: Mapping[str, Any]) -> str:
    number = _count(index["generation"])
    return f"{number} > {index['building']}" if index.get("building") else number

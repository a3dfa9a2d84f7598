"""Builds as a person sees them: lines that move on a terminal, else a line in the log every ten seconds.

On a terminal the lines are handed to the thread that writes the log, which keeps them below everything it writes: so
neither tears the other.  They are drawn by rich; without it, or where something else is printed on the same terminal,
the log tells.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence

if TYPE_CHECKING:
    from flusso_sync.config.load import Config
    from flusso_sync.status import Status

logger = logging.getLogger("flusso_sync.cli.progress")

#: How often the lines are drawn anew, and how often the log tells instead.
DRAW_SECONDS = 0.25
LOG_SECONDS = 10.0

#: How often the builds are looked at for the log.
POLL_SECONDS = 5.0

#: Most lines; what is more is counted in the last one.
MOST_LINES = 10

BAR_COLUMNS = 20

Show = Callable[[Sequence[str]], None]


def describe(index: str, build: Mapping[str, Any]) -> str:
    """``index users: 120,000 of about 200,000 rows (60 %), 8,123 rows/s, about 10 s left``.

    ``build`` is a ``BuildProgress`` in JSON form.
    """
    parts = [f"index {index}: {build['done']:,} {_of(build)}".rstrip()]
    parts.append(f"{build['rate']:,.0f} rows/s")
    if build["eta_seconds"] is not None:
        parts.append(f"about {duration(build['eta_seconds'])} left")
    return ", ".join(parts)


def _of(build: Mapping[str, Any]) -> str:
    if build["total"] is None:
        return "rows"
    about = "" if build["exact"] else "about "
    return f"of {about}{build['total']:,} rows ({percent(build)} %)"


def percent(build: Mapping[str, Any]) -> int:
    """Whole percents, rounded down: 100 is reached with the last row."""
    total = build["total"]
    if not total:
        return 100 if build["exact"] else 0
    return min(100, 100 * int(build["done"]) // int(total))


def duration(seconds: float) -> str:
    """``42 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def terminal_is_ours(config: Config, descriptor: Optional[int], environ: Mapping[str, str] = os.environ) -> bool:
    """Whether lines may move on ``descriptor``: a terminal that only the log writes to, and rich to draw with."""
    if descriptor is None or not os.isatty(descriptor) or find_spec("rich") is None:
        return False
    if environ.get("TERM", "") in ("", "dumb") or environ.get("FLUSSO_LOG_FORMAT", "").strip().lower() == "json":
        return False
    return not (prints(config) and sys.stdout is not None and sys.stdout.isatty())


def prints(config: Config) -> bool:
    """Whether documents go to standard output."""
    return not config.sinks or any(sink.type == "stdout" for sink in config.sinks.values())


class Progress:
    """Follows ``status`` on a thread of its own between ``start`` and ``stop``.

    ``show`` keeps lines below the log, None where there is no terminal for them; ``columns`` is its width now.
    """

    def __init__(
        self, status: Status, show: Optional[Show], columns: Callable[[], int], *, colour: bool = False
    ) -> None:
        self._status = status
        self._show = show
        self._columns = columns
        self._colour = colour
        self._stop = threading.Event()
        self._told: Dict[str, float] = {}
        self._thread = threading.Thread(target=self._loop, name="flusso-builds-shown", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 0.5) -> None:
        """Take the lines away; safe without ``start``."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _loop(self) -> None:
        interval = POLL_SECONDS if self._show is None else DRAW_SECONDS
        while not self._stop.wait(interval):
            builds = {
                name: index.build.to_json()
                for name, index in self._status.snapshot().indexes.items()
                if index.build is not None
            }
            if self._show is None:
                self._log(builds)
            else:
                self._show(draw(builds, self._columns(), colour=self._colour))
        if self._show is not None:
            self._show(())

    def _log(self, builds: Mapping[str, Mapping[str, Any]]) -> None:
        now = monotonic()
        self._told = {name: self._told.get(name, now) for name in builds}
        for name, build in builds.items():
            if now - self._told[name] >= LOG_SECONDS:
                self._told[name] = now
                logger.info("%s", describe(name, build), extra={"index": name})


def draw(builds: Mapping[str, Mapping[str, Any]], columns: int, *, colour: bool = False) -> List[str]:
    """A line per build, none wider than ``columns``."""
    if not builds:
        return []
    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right", "left", "right", "right", "right"):
        grid.add_column(no_wrap=True, overflow="ellipsis", justify=justify)
    shown = list(builds.items())
    left = len(shown) - MOST_LINES
    for name, build in shown if left <= 0 else shown[: MOST_LINES - 1]:
        total = build["total"]
        eta = build["eta_seconds"]
        workers = build["workers"]
        about = "" if build["exact"] else "about "
        grid.add_row(
            Text(name, style="bold"),
            ProgressBar(total=max(1, total or 1), completed=min(build["done"], total or 0), width=BAR_COLUMNS),
            "" if total is None else f"{percent(build)} %",
            f"{build['done']:,}" if total is None else f"{build['done']:,} of {about}{total:,}",
            f"{build['rate']:,.0f} rows/s",
            "" if eta is None else f"{duration(eta)} left",
            f"{workers} worker{'' if workers == 1 else 's'}" if workers else "",
        )
    console = Console(
        file=io.StringIO(),
        width=max(20, columns - 1),
        force_terminal=True,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        legacy_windows=False,
    )
    with console.capture() as captured:
        console.print(grid, crop=True, no_wrap=True)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return lines if left <= 0 else [*lines, f"and {left + 1} more builds"]


def columns_of(descriptor: int) -> int:
    """The width of a terminal; 80 where it does not tell."""
    try:
        return os.get_terminal_size(descriptor).columns or 80
    except OSError:
        return 80

"""``flussod verify``: compares what readers find with the rows, while both change, and has differences repaired."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import click

from flusso_sync.cli.asking import ask
from flusso_sync.cli.deployment import at_once
from flusso_sync.cli.options import config_option, forms_option
from flusso_sync.errors import EXIT_DIFFERENCES, EXIT_OK, DaemonUnreachable, SinkRefused

if TYPE_CHECKING:
    from flusso_sync.config.load import Config
    from flusso_sync.schema.plan import IndexPlan
    from flusso_sync.sinks.base import Answer, Sink
    from flusso_sync.verify import Difference, Progress, Result

#: Between two lines of progress where there is no terminal.
LINE_SECONDS = 10.0

#: How long the answer to a repair is waited for; the daemon looks for requests every five seconds.
ANSWER_SECONDS = 120.0

#: Differences that are printed for people, of each index.
MOST_PRINTED = 50

Comparison = Tuple[str, "Sink", str]


class VerifyOptions(NamedTuple):
    """What the command line says."""

    config_path: str
    indexes: Sequence[str]
    sink: Optional[str]
    form: str
    output: Optional[str]
    repair: bool
    sample: Optional[float]
    max_rows_per_second: Optional[float]
    wait: float
    index_prefix: Optional[str]


@click.command(
    "verify",
    short_help="Compare what readers find with the rows.",
    epilog="\b\nExamples:\n  flussod verify -c etc/flusso.yaml\n  flussod verify orders --repair\n"
    "  flussod verify --sample 1 --format json --output verify.json",
)
@click.argument("indexes", nargs=-1, metavar="[INDEX]...")
@config_option
@click.option("--sink", metavar="NAME", help="Compare this sink alone [every one that can be read].")
@forms_option("How to print the report.", "json")
@click.option("--output", metavar="FILE", type=click.Path(dir_okay=False), help="Write the report there [stdout].")
@click.option("--repair", is_flag=True, help="Have the running daemon write what differs anew, and compare again.")
@click.option(
    "--sample",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="PERCENT",
    help="Compare only so much of the rows and of the ids, in stretches drawn by lot.",
)
@click.option(
    "--max-rows-per-second",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Read no more rows, and no more ids of the index, in a second.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="How long the daemon may take to catch up with what was seen.",
)
@click.option(
    "--index-prefix",
    envvar="FLUSSO_INDEX_PREFIX",
    show_envvar=True,
    metavar="TEXT",
    help="As of the daemon: put in front of every index.",
)
@click.pass_context
def verify(ctx: click.Context, /, **given: Any) -> None:
    """Compare each INDEX (all that are enabled, unless named) with the rows it is made of, while both change.

    What the daemon has not written yet is waited for, so that nothing on its way is reported.  Ends with 0
    when every index is right, or was repaired, and with 9 when differences are left.  Reads only; takes
    neither the slot nor the lease.
    """
    from flusso_sync import logs

    options = VerifyOptions(**given)
    # Ctrl-C unwinds, so that the terminal and what the servers hold for us are left in order.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = logs.configure({"FLUSSO_LOG": "warn", **os.environ})
    # Findings about the schema are the business of check and run.
    logging.getLogger("flusso_sync.postgres.documents").setLevel(logging.ERROR)
    try:
        with at_once():
            code = _verify(options)
    finally:
        started.close()
    ctx.exit(code)


def _verify(options: VerifyOptions) -> int:
    from flusso_sync.backends import DefaultBackends
    from flusso_sync.config.connection import check_prefix
    from flusso_sync.config.load import load_config
    from flusso_sync.daemon import DaemonOptions
    from flusso_sync.status import Status

    config = load_config(options.config_path)
    if options.index_prefix is not None:
        config = replace(config, prefix=options.index_prefix)
    check_prefix(config.prefix)
    plans = _plans(config, options.indexes)
    backends = DefaultBackends()
    with contextlib.ExitStack() as closing:
        sinks = backends.sinks(config, DaemonOptions())
        for sink in sinks.values():
            closing.callback(sink.close)
        chosen = _readable(sinks, options.sink)
        holders = {name: sink.holder() for name, sink in chosen.items()}
        if options.repair:
            for name, holder in holders.items():
                if holder is None:
                    raise SinkRefused(
                        f"no daemon runs for sink {name}, and --repair leaves the writing to the running daemon",
                        hint="Start it (flussod run) and repair then, or verify without --repair",
                    )
        documents = backends.source(config, DaemonOptions()).documents
        closing.callback(documents.close)
        status = Status()
        documents.report_to(status)
        documents.open(plans, threading.Event())
        for error in documents.unreadable().values():
            raise error
        started = datetime.now(timezone.utc)
        results = _compare(config, options, plans, chosen, documents, status)
    report = _Report(started, options, results)
    _write(report.json() if options.form == "json" else report.human(), options.output)
    return EXIT_DIFFERENCES if any(result.left for result in results) else EXIT_OK


def _compare(
    config: Config,
    options: VerifyOptions,
    plans: Sequence[IndexPlan],
    sinks: Mapping[str, Sink],
    documents: Any,
    status: Any,
) -> List[Result]:
    from flusso_sync.verify import Options, Verifier

    limits = Options(
        chunk_rows=config.backfill.chunk_rows,
        max_rows_per_second=options.max_rows_per_second,
        sample_percent=options.sample,
        wait_seconds=options.wait,
    )
    results: List[Result] = []
    for name, sink in sinks.items():

        def repair(index: str, ids: Sequence[str], sink: Sink = sink) -> Answer:
            from flusso_sync.sinks.base import Answer

            try:
                return ask([sink], "repair", index, ids, timeout_seconds=ANSWER_SECONDS, keep_seconds=ANSWER_SECONDS)
            except DaemonUnreachable as error:
                return Answer(False, error.message)

        for plan in plans:
            with _progress(f"{plan.name} in {name}" if len(sinks) > 1 else plan.name) as progress:
                verifier = Verifier(
                    documents,
                    sink,
                    limits,
                    repair=repair if options.repair else None,
                    progress=progress,
                    status=status,
                )
                result = verifier.verify(plan.name)
            pipeline = getattr(config.sinks.get(name), "pipeline", None)
            if pipeline:
                result.note(f"documents pass the ingest pipeline {pipeline}; what it changes is a difference here")
            results.append(result)
    return results


def _plans(config: Config, names: Sequence[str]) -> List[IndexPlan]:
    enabled = {entry.plan.name: entry.plan for entry in config.indexes.values() if entry.enabled}
    unknown = [name for name in names if name not in enabled]
    if unknown:
        there = ", ".join(sorted(enabled)) or "none"
        raise click.BadParameter(f"no index {unknown[0]} is enabled; there is {there}", param_hint="INDEX")
    return [enabled[name] for name in dict.fromkeys(names)] if names else list(enabled.values())


def _readable(sinks: Mapping[str, Sink], name: Optional[str]) -> Mapping[str, Sink]:
    """The sinks to compare: those that can be read back."""
    from flusso_sync.sinks.base import Sink

    if name is not None and name not in sinks:
        raise click.BadParameter(f"no sink {name}; there is {', '.join(sinks)}", param_hint="--sink")
    chosen = {key: sink for key, sink in sinks.items() if name in (None, key)}
    readable = {key: sink for key, sink in chosen.items() if type(sink).get is not Sink.get}
    if not readable:
        raise SinkRefused(
            f"sink {', '.join(chosen)} cannot be read back, so there is nothing to compare",
            hint="Name a sink of type opensearch or sqlite in the configuration",
        )
    return readable


# -- progress -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Progress]:
    """A bar on a terminal, if ``rich`` is there to draw it; else a line now and then.  On standard error."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
    except ImportError:
        yield _Lines(title)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]} differ"),
    ]
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None, found=0)

        def show(done: int, total: Optional[int], found: int) -> None:
            bars.update(task, completed=done, total=None if total is None else max(total, done), found=found)

        yield show


class _Lines:
    """A line of progress every :data:`LINE_SECONDS`, the first after as long."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = self._said = time.monotonic()

    def __call__(self, done: int, total: Optional[int], found: int) -> None:
        now = time.monotonic()
        if now - self._said < LINE_SECONDS:
            return
        self._said = now
        click.echo(progress_line(self._title, done, total, found, now - self._started), err=True)


def progress_line(title: str, done: int, total: Optional[int], found: int, seconds: float) -> str:
    """How far it is; an estimate of rows that are not there any more, or not yet, makes no more than an estimate."""
    line = f"{title}: {done:,} rows and ids seen"
    if total is not None and done:
        left = seconds * max(0, total - done) / done
        line += f" of about {max(total, done):,}, {_duration(left)} left"
    return f"{line}, {found:,} differ"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


# -- the report -----------------------------------------------------------------------------------------


class _Report:
    def __init__(self, started: datetime, options: VerifyOptions, results: Sequence[Result]) -> None:
        self._started = started
        self._options = options
        self._results = results

    def json(self) -> str:
        report: Dict[str, Any] = {
            "started": self._started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "right": not any(result.left for result in self._results),
            "repair": self._options.repair,
            "sample_percent": self._options.sample,
            "indexes": [result.to_json() for result in self._results],
        }
        return json.dumps(report, indent=2, ensure_ascii=False) + "\n"

    def human(self) -> str:
        lines: List[str] = []
        for result in self._results:
            lines.extend(self._lines(result))
        left = sum(result.left for result in self._results)
        repaired = sum(result.repaired for result in self._results)
        if left:
            lines.append(f"✗ {_count(left, 'difference')} left")
        elif repaired:
            lines.append(f"✓ {_count(repaired, 'difference')} found and repaired")
        elif self._options.sample is not None:
            lines.append(f"✓ no difference in a sample of {self._options.sample:g} percent")
        else:
            lines.append("✓ no difference")
        return "\n".join(lines) + "\n"

    def _lines(self, result: Result) -> Iterator[str]:
        yield (
            f"{result.index} in {result.sink}: {_count(result.compared, 'document')} and {_count(result.ids, 'id')} "
            f"compared in {result.seconds:.1f} s: {result.missing:,} missing, {result.extra:,} extra, "
            f"{result.different:,} different"
        )
        if result.sample_percent is not None:
            yield f"  a sample of about {result.sample_percent:g} percent; what else differs is not known"
        for difference in result.differences[:MOST_PRINTED]:
            yield f"  {_line(difference)}"
        if result.found > MOST_PRINTED:
            yield f"  … and {result.found - MOST_PRINTED:,} more (--format json names up to 10,000)"
        if result.repaired:
            yield f"  {_count(result.repaired, 'document')} repaired"
        if result.parked:
            yield f"  {_count(result.parked, 'document')} of the quarantine differ from their rows, as they must"
        if result.rejected:
            yield f"  {_count(result.rejected, 'row')} make no document that can be written"
        if result.unsettled:
            yield f"  {_count(result.unsettled, 'document')} were written at every look and could not be compared"
        for note in result.notes:
            yield f"  note: {note}"


def _line(difference: Difference) -> str:
    line = f"{difference.kind:<9}  {json.dumps(difference.id, ensure_ascii=False)}"
    if difference.kind == "different":
        said = "nothing" if difference.expected is None else difference.expected
        held = "nothing" if difference.found is None else difference.found
        line += f"  {difference.path or 'the whole'}: the rows say {said}, the index {held}"
    return line + ("  (repaired)" if difference.repaired else "")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _write(text: str, output: Optional[str]) -> None:
    """To standard output, or to a file that is there in full or not at all."""
    if output is None:
        click.echo(text, nl=False)
        return
    path = Path(output)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise click.FileError(output, error.strerror or str(error)) from error

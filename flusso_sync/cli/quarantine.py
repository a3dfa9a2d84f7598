"""``flussod quarantine``: documents that a sink refused, listed and tried again."""

from __future__ import annotations

import json
from typing import Any, Optional, Tuple

import click

from flusso_sync.cli.reach import ask_options, examples, format_option, reach, reach_options
from flusso_sync.cli.table import table


@click.group(
    "quarantine",
    short_help="Documents that a sink refused: list them, try them again.",
    epilog="\b\nExamples:\n  flussod quarantine list\n  flussod quarantine retry users",
)
def quarantine() -> None:
    """Documents that a sink refused and that were set aside, under on_error: skip.

    One leaves the quarantine when its row changes and can be written, when its row goes, or by `retry`.
    """


@quarantine.command(
    "list",
    short_help="Show them, newest first.",
    epilog=examples("flussod quarantine list", "flussod quarantine list users --format json"),
)
@click.argument("index", required=False)
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Most documents to show."
)
@reach_options
@format_option
def list_parked(index: Optional[str], limit: int, form: str, **where: Any) -> None:
    """Show the documents set aside, of INDEX or of all: why, since when, and how often they were tried."""
    with reach(**where) as reached:
        counts, documents = reached.parked(reached.any_index(index), limit)
    if form == "json":
        click.echo(json.dumps({"counts": counts, "documents": documents}, indent=2, ensure_ascii=False))
        return
    if not documents:
        click.echo("nothing is in quarantine" if index is None else f"nothing of index {index} is in quarantine")
        return
    rows = [
        [one["index"], one["id"], one["sink"], one["tries"], one["first"], one["last"], one["lsn"], _what(one)]
        for one in documents
    ]
    for line in table(("index", "id", "sink", "tries", "first", "last", "position", "reason"), rows, right=("tries",)):
        click.echo(line)
    left = sum(counts.values()) - len(documents)
    if left > 0:
        click.echo(f"and {left:,} more (--limit)")


def _what(one: Any) -> str:
    return f"delete: {one['reason']}" if one["delete"] else str(one["reason"])


@quarantine.command(
    "retry",
    short_help="Read them again and write what can be written.",
    epilog=examples("flussod quarantine retry users", "flussod quarantine retry users 17 42"),
)
@click.argument("index")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@ask_options
def retry(index: str, ids: Tuple[str, ...], **where: Any) -> None:
    """Have the daemon read documents of INDEX again, those of the IDs or all, and write what can be written by now."""
    with reach(**where) as reached:
        click.echo(reached.ask("retry", reached.index(index), ids))

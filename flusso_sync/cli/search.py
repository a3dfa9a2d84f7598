"""``flussod search``: the best matches for some words."""

from __future__ import annotations

from typing import Optional, Tuple

import click

from flusso_sync.cli.deployment import Deployment, deployment_options, sink_option
from flusso_sync.cli.reach import format_option


@click.command(
    "search",
    short_help="Find documents by words.",
    epilog="\b\nExamples:\n  flussod search users ada -c etc/flusso.yaml\n"
    "  flussod search products desk lamp --limit 3 --format json\n\n"
    "Words that begin with a minus sign come after `--`.",
)
@click.argument("index")
@click.argument("words", nargs=-1, required=True)
@deployment_options
@sink_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Most documents to show.")
@format_option
def search(
    index: str,
    words: Tuple[str, ...],
    config_path: str,
    index_prefix: Optional[str],
    sink_name: Optional[str],
    limit: int,
    form: str,
) -> None:
    """Print the documents of INDEX that match WORDS best: id and document, one a line.

    With --format json each line is {"id": …, "document": …}.  No match is no error.  A word that ends with * stands
    for all that begin so.
    """
    from flusso_sync.cli.table import plain
    from flusso_sync.sinks.base import exact_text

    deployment = Deployment.load(config_path, index_prefix)
    name = deployment.index(index, enabled=False)
    with deployment.sinks() as sinks:
        sink = deployment.readable(sinks, sink_name)
        found = sink.search(name, " ".join(words), limit)
    for id, document in found:
        if form == "json":
            click.echo(exact_text({"id": id, "document": document}))
        else:
            click.echo(f"{plain(id)}  {exact_text(document)}")

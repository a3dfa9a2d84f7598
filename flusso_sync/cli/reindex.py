"""``flussod reindex``: a new generation of an index, beside the one that is read."""

from __future__ import annotations

from typing import Any

import click

from flusso_sync.cli.reach import ask_options, examples, reach


@click.command(
    "reindex",
    short_help="Build an index anew beside the one that is read.",
    epilog=examples("flussod reindex users -c etc/flusso.yaml", "flussod reindex users --server 127.0.0.1:9465"),
)
@click.argument("index")
@ask_options
def reindex(index: str, **where: Any) -> None:
    """Have the daemon build INDEX anew, while readers keep what they have and changes go to both.

    Readers get the new generation when it is complete.  While INDEX is being built already, the request joins that
    build.
    """
    with reach(**where) as reached:
        click.echo(reached.ask("reindex", reached.index(index)))

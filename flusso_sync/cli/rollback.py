"""``flussod rollback``: back to a generation that was kept."""

from __future__ import annotations

from typing import Any

import click

from flusso_sync.cli.reach import ask_options, examples, reach


@click.command(
    "rollback",
    short_help="Let readers have the former generation of an index.",
    epilog=examples("flussod rollback users -c etc/flusso.yaml", "flussod rollback users --server 127.0.0.1:9465"),
)
@click.argument("index")
@ask_options
def rollback(index: str, **where: Any) -> None:
    """Let readers have the newest kept generation of INDEX at once, while a fresh one is built.

    What they get stands still at the position that `flussod indexes` shows, until the fresh one is complete.  Refused,
    with exit code 5, where none is kept: index[].keep_generations says how many are.
    """
    with reach(**where) as reached:
        click.echo(reached.ask("rollback", reached.index(index)))

"""``flussod get``: one document, as readers find it."""

from __future__ import annotations

from typing import Optional

import click

from flusso_sync.cli.deployment import Deployment, deployment_options, sink_option
from flusso_sync.errors import EXIT_INTERNAL


@click.command(
    "get",
    short_help="Print one document.",
    # An id may begin with a minus sign.
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExamples:\n  flussod get users 1 -c etc/flusso.yaml\n  flussod get users 1 --pretty\n\n"
    "Exit code 1: there is no such document.",
)
@click.argument("index")
@click.argument("id")
@deployment_options
@sink_option
@click.option("--pretty", is_flag=True, help="Indent it; else it is printed byte by byte as it is stored.")
@click.pass_context
def get(
    ctx: click.Context,
    /,
    index: str,
    id: str,
    config_path: str,
    index_prefix: Optional[str],
    sink_name: Optional[str],
    pretty: bool,
) -> None:
    """Print the document of INDEX whose id is ID, as readers find it now."""
    from flusso_sync.sinks.base import exact, exact_text

    deployment = Deployment.load(config_path, index_prefix)
    name = deployment.index(index, enabled=False)
    with deployment.sinks() as sinks:
        sink = deployment.readable(sinks, sink_name)
        body = sink.get(name, id)
    if body is None:
        click.echo(f"index {name} has no document {id!r} in sink {sink.name}", err=True)
        ctx.exit(EXIT_INTERNAL)
    click.echo(exact_text(exact(body), 2).encode() if pretty else body)

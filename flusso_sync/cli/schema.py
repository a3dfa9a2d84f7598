"""``flussod schema``: the JSON Schema of our files, for editors."""

from __future__ import annotations

import json

import click


@click.command(
    "schema",
    short_help="Print the JSON Schema of the configuration or of schema files.",
    epilog="\b\nExamples:\n  flussod schema config > flusso.schema.json\n  flussod schema index > index.schema.json\n\n"
    "An editor with the YAML language server uses it where a file begins with\n"
    "# yaml-language-server: $schema=flusso.schema.json",
)
@click.argument("what", type=click.Choice(["config", "index"]), envvar="FLUSSO_SCHEMA", metavar="config|index")
def schema(what: str) -> None:
    """Print what an editor needs to complete and check flusso.yaml (config) or *.schema.yml files (index).

    JSON Schema, draft 7, made from the rules the loader itself keeps.
    """
    click.echo(schema_text(what), nl=False)


def schema_text(what: str) -> str:
    """The JSON text of either schema."""
    from flusso_sync.config.jsonschema import config_schema
    from flusso_sync.schema.jsonschema import index_schema

    made = config_schema() if what == "config" else index_schema()
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"

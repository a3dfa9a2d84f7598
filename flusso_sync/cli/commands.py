"""The command group: finds each subcommand by name, imports it only then, and turns errors into exit codes."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Dict, List, Optional

import click

from flusso_sync.cli.exit import exit_code_table, explain
from flusso_sync.errors import FlussoError

#: Subcommand -> the module that defines a click command of that name.
COMMANDS: Dict[str, str] = {
    "build": "flusso_sync.cli.build",
    "check": "flusso_sync.cli.check",
    "explain": "flusso_sync.cli.explain",
    "get": "flusso_sync.cli.get",
    "init": "flusso_sync.cli.init",
    "indexes": "flusso_sync.cli.indexes",
    "preview": "flusso_sync.cli.preview",
    "quarantine": "flusso_sync.cli.quarantine",
    "reindex": "flusso_sync.cli.reindex",
    "rollback": "flusso_sync.cli.rollback",
    "run": "flusso_sync.cli.run",
    "schema": "flusso_sync.cli.schema",
    "search": "flusso_sync.cli.search",
    "slot": "flusso_sync.cli.slot",
    "status": "flusso_sync.cli.status",
    "verify": "flusso_sync.cli.verify",
}

#: Without one of these in front, ``flussod -c F`` means ``flussod run -c F``.
_GROUP_OPTIONS = ("-h", "--help", "-V", "--version")


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> List[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: List[str]) -> List[str]:
        # While a shell completes, nothing yet is no "run": the name of a command may be about to come.
        short = not ctx.resilient_parsing if not args else args[0].startswith("-") and args[0] not in _GROUP_OPTIONS
        if short:
            args = ["run", *args]
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlussoError as error:
            click.echo(explain(error), err=True)
            ctx.exit(error.exit_code)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from flusso_sync import __version__

        click.echo(f"flussod {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\n\n".join(
        [
            "\b\nExamples:\n"
            "  flussod                          run with ./flusso.yaml\n"
            "  flussod -c etc/flusso.yaml       run with that file (short for: flussod run -c ...)\n"
            "  flussod init URL                 write a first configuration for a database\n"
            "  flussod check -c etc/flusso.yaml say what a run would stumble over, change nothing\n"
            "  flussod preview orders 7         a document as it would be built now\n"
            "  flussod explain items 17         which documents a change of a row builds anew\n"
            "  flussod status --watch           how a running daemon is\n"
            "  flussod indexes                  what there is of each index\n"
            "  flussod reindex users            build an index anew beside the one that is read\n"
            "  flussod verify -c etc/flusso.yaml compare what readers find with the rows\n"
            "  flussod run --help               every flag and variable of the daemon",
            exit_code_table(),
        ]
    ),
)
@click.option(
    "-V", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
def flussod() -> None:
    """Keep search documents in step with Postgres.

    A YAML file names the database, where documents go, and one schema file per index that says what a
    document looks like.  The daemon builds every document once and rebuilds it whenever a row in it changes.
    """

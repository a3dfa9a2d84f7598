"""``flussod build``: a configuration and its schemas checked and put into one file, for ``flussod run --locked``."""

from __future__ import annotations

import click

from flusso_sync.cli.options import DEFAULT_LOCK, config_option


@click.command(
    "build",
    short_help="Put configuration and schemas into one file, for run --locked.",
    epilog="\b\nExamples:\n  flussod build -c etc/flusso.yaml\n"
    "  flussod build -o /srv/flusso.lock && flussod run --locked --lock /srv/flusso.lock\n\n"
    "The same files make the same bytes, so that a test can tell whether a lock is current.",
)
@config_option
@click.option(
    "-o",
    "--out",
    "lock_path",
    metavar="FILE",
    envvar="FLUSSO_OUT",
    show_envvar=True,
    default=DEFAULT_LOCK,
    show_default=True,
    help="The lock, put in the place of a former one.",
)
def build(config_path: str, lock_path: str) -> None:
    """Check the configuration with its schema files and write both into a lock.

    No server is asked and no secret looked up.  A password that stands in the file is not written: the lock names the
    variable that overrides it, and a locked run takes it from there.
    """
    from flusso_sync.config.lock import build_lock

    built = build_lock(config_path, lock_path)
    for sentence in (*built.config.warnings, *built.withheld):
        click.echo(f"warning: {sentence}", err=True)
    click.echo(f"✓ compiled {len(built.config.indexes)} index(es) → {lock_path}")

"""``flussod slot``: the replication slot of a deployment, looked at, and dropped when that is given up."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple, TypeVar

import click

from flusso_sync.cli.deployment import at_once
from flusso_sync.cli.options import config_option, slot_option
from flusso_sync.cli.reach import examples, format_option
from flusso_sync.cli.status import size
from flusso_sync.cli.table import table
from flusso_sync.errors import EXIT_INTERNAL, EXIT_OK

if TYPE_CHECKING:
    from flusso_sync.backends import SlotState

F = TypeVar("F", bound=Callable[..., Any])


@click.group(
    "slot",
    short_help="The replication slot: show it, drop it for good.",
    epilog="\b\nExamples:\n  flussod slot show\n  flussod slot drop",
)
def slot() -> None:
    """The replication slot of a deployment: what makes the server keep the changes that are not written yet."""


def _options(command: F) -> F:
    return config_option(slot_option("The slot [that of the configuration].")(command))


@slot.command(
    "show",
    short_help="Show how it is, and how much WAL it retains.",
    epilog=examples("flussod slot show -c etc/flusso.yaml", "flussod slot show --format json"),
)
@_options
@format_option
@click.pass_context
def show(ctx: click.Context, config_path: str, slot: Optional[str], form: str) -> None:
    """Show the slot as the database has it.  Ends with 1 when there is none."""
    name, state = _ask(config_path, slot)
    if form == "json":
        click.echo(json.dumps(None if state is None else _facts(name, state), indent=2))
    elif state is None:
        click.echo(f"there is no replication slot {name}")
    else:
        shown = _facts(name, state)
        cells = [shown["slot"], shown["confirmed_lsn"], shown["wal_status"], _bytes(state.retained_bytes)]
        cells += [_bytes(state.safe_wal_bytes), state.active_pid]
        header = ("slot", "confirmed", "wal status", "retained", "safe", "read by pid")
        for line in table(header, [cells], right=("retained", "safe", "read by pid")):
            click.echo(line)
    ctx.exit(EXIT_INTERNAL if state is None else EXIT_OK)


@slot.command(
    "drop",
    short_help="Drop it, when the deployment is given up.",
    epilog=examples("flussod slot drop -c etc/flusso.yaml", "flussod slot drop --yes"),
)
@_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(config_path: str, slot: Optional[str], yes: bool) -> None:
    """Drop the slot, so that the server need not keep WAL for it any more.

    Refused, with exit code 8, while a daemon holds it or anybody streams from it.  A daemon that starts after that
    builds every index anew (source.on_gap).
    """
    name, state = _ask(config_path, slot)
    if state is not None and state.active_pid is None and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: give --yes to drop the slot")
        click.confirm(
            f"Drop replication slot {name}, which retains {_bytes(state.retained_bytes)} of WAL? Changes since "
            "it was read last are lost to it, and a later start builds every index anew",
            abort=True,
            err=True,
        )
    if state is not None:
        name, state = _ask(config_path, slot, drop=True)
    if state is None:
        click.echo(f"there is no replication slot {name}")
        return
    click.echo(f"replication slot {name} is dropped; the server may free {_bytes(state.retained_bytes)} of WAL")


def _ask(config_path: str, slot: Optional[str], *, drop: bool = False) -> Tuple[str, Optional[SlotState]]:
    from flusso_sync.backends import DefaultBackends
    from flusso_sync.config.load import load_config
    from flusso_sync.daemon import DaemonOptions

    config = load_config(config_path)
    with at_once():
        return slot or config.source.slot, DefaultBackends().slot(config, DaemonOptions(slot=slot), drop=drop)


def _facts(name: str, state: SlotState) -> Dict[str, Any]:
    from flusso_sync.status import format_lsn

    return {
        "slot": name,
        "confirmed_lsn": format_lsn(state.confirmed),
        "wal_status": state.wal_status,
        "invalidation_reason": state.invalidation_reason or None,
        "retained_bytes": state.retained_bytes,
        "safe_wal_bytes": state.safe_wal_bytes,
        "active_pid": state.active_pid,
    }


def _bytes(count: Optional[int]) -> Optional[str]:
    return None if count is None else size(count)

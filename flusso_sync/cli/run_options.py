"""What a run may be told besides its files: flags and their variables, and the configuration under them."""

from __future__ import annotations

import os
from dataclasses import dataclass, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple, TypeVar

import click

from flusso_sync.cli.options import (
    Switch,
    admin_password_option,
    admin_user_option,
    index_prefix_option,
    manage_publication_option,
    publication_option,
    slot_name,
    slot_option,
    socket_address,
    true_false,
)

if TYPE_CHECKING:
    from flusso_sync.config.load import Config
    from flusso_sync.config.values import Address
    from flusso_sync.daemon import DaemonOptions

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class RunOptions:
    """What the command line and its variables say; None means "as the configuration says"."""

    config_path: str
    #: Read instead of the configuration and its schema files.
    lock_path: Optional[str] = None
    slot: Optional[str] = None
    publication: Optional[str] = None
    manage_publication: Optional[bool] = None
    manage_replica_identity: Optional[bool] = None
    on_gap: Optional[str] = None
    on_blind_table: Optional[str] = None
    skip_backfill: Optional[bool] = None
    adopt: Optional[bool] = None
    pretty: Optional[bool] = None
    queue_capacity: Optional[int] = None
    backfill_workers: Optional[int] = None
    lag_poll_secs: Optional[float] = None
    index_prefix: Optional[str] = None
    public_address: Optional[Address] = None
    private_address: Optional[Address] = None
    admin_user: Optional[str] = None
    admin_password: Optional[str] = None

    def applied_to(self, config: Config) -> Config:
        """The configuration with these values in place of its own."""
        from flusso_sync.config.values import Secret

        changes: Dict[str, Any] = {
            "prefix": self.index_prefix,
            "source.manage_replica_identity": self.manage_replica_identity,
            "source.on_gap": self.on_gap,
            "source.on_blind_table": self.on_blind_table,
            "backfill.workers": self.backfill_workers,
            "server.public_address": self.public_address,
            "server.private_address": self.private_address,
            "server.admin_user": self.admin_user,
            "server.admin_password": None if self.admin_password is None else Secret(self.admin_password),
        }
        if self.manage_publication is False and "on_blind_table" not in config.source.model_fields_set:
            # As in the file: who keeps the publication to himself is warned, not stopped.
            changes["source.on_blind_table"] = self.on_blind_table or "warn"
        for path, value in changes.items():
            if value is not None:
                config = _replaced(config, path.split("."), value)
        return config

    def daemon_options(self) -> DaemonOptions:
        """What the daemon takes as options of its own."""
        from flusso_sync.daemon import DaemonOptions

        return DaemonOptions(
            slot=self.slot,
            publication=self.publication,
            manage_publication=self.manage_publication,
            skip_backfill=self.skip_backfill,
            adopt=bool(self.adopt),
            queue_capacity=self.queue_capacity,
            pretty=self.pretty,
            lag_poll_interval=self.lag_poll_secs,
        )


def _replaced(model: Any, path: List[str], value: Any) -> Any:
    """A copy of a frozen model (pydantic's or a dataclass) with the value at ``path`` replaced."""
    name, *rest = path
    new = _replaced(getattr(model, name), rest, value) if rest else value
    if is_dataclass(model) and not isinstance(model, type):
        return replace(model, **{name: new})
    return model.model_copy(update={name: new})


_OPTIONS = (
    slot_option("Replication slot of this deployment, created when missing [flusso]."),
    publication_option("Publication it streams, created when missing [flusso]."),
    manage_publication_option("May the daemon create and extend the publication."),
    click.option(
        "--manage-replica-identity",
        type=true_false,
        metavar="true|false",
        envvar="FLUSSO_MANAGE_REPLICA_IDENTITY",
        show_envvar=True,
        help="May the daemon strengthen the replica identity of tables that need it.",
    ),
    click.option(
        "--on-gap",
        type=click.Choice(["rebuild", "stop"]),
        envvar="FLUSSO_ON_GAP",
        show_envvar=True,
        help="When changes were lost: rebuild every index beside the old one, or stop with exit code 7.",
    ),
    click.option(
        "--on-blind-table",
        type=click.Choice(["stop", "warn"]),
        envvar="FLUSSO_ON_BLIND_TABLE",
        show_envvar=True,
        help="When the changes of a table cannot be heard.",
    ),
    click.option(
        "--skip-backfill",
        is_flag=True,
        default=None,
        cls=Switch,
        envvar="FLUSSO_SKIP_BACKFILL",
        show_envvar=True,
        help="Build nothing at the start; only changes from now on are written.",
    ),
    click.option(
        "--adopt",
        is_flag=True,
        default=None,
        cls=Switch,
        envvar="FLUSSO_ADOPT",
        show_envvar=True,
        help="Take over indexes that belong to another source: a clone, or the same database at a new address.",
    ),
    click.option(
        "--pretty",
        is_flag=True,
        default=None,
        cls=Switch,
        envvar="FLUSSO_PRETTY",
        show_envvar=True,
        help="Indent documents on stdout, when the file names no sinks.",
    ),
    click.option(
        "--queue-capacity",
        type=click.IntRange(min=1),
        envvar="FLUSSO_QUEUE_CAPACITY",
        show_envvar=True,
        metavar="N",
        help="Changes held between the stream and the engine.",
    ),
    click.option(
        "--backfill-workers",
        type=click.IntRange(1, 64),
        envvar="FLUSSO_BACKFILL_WORKERS",
        show_envvar=True,
        metavar="N",
        help="Connections that read rows while an index is built.",
    ),
    click.option(
        "--lag-poll-secs",
        type=click.FloatRange(min=0, min_open=True),
        envvar="FLUSSO_LAG_POLL_SECS",
        show_envvar=True,
        metavar="SECONDS",
        help="How often the slot's lag is sampled [15].",
    ),
    index_prefix_option("Put in front of every index, alias and meta index."),
    click.option(
        "--public-address",
        type=socket_address,
        metavar="IP:PORT",
        envvar="FLUSSO_PUBLIC_ADDRESS",
        show_envvar=True,
        help="Health, status and metrics [127.0.0.1:9464]; port 0 takes any free one.",
    ),
    click.option(
        "--private-address",
        type=socket_address,
        metavar="IP:PORT",
        envvar="FLUSSO_PRIVATE_ADDRESS",
        show_envvar=True,
        help="The administration surface [127.0.0.1:9465]; served only with a password.",
    ),
    admin_user_option("User of that surface [admin]."),
    admin_password_option,
)


def run_options(command: F) -> F:
    """Whatever decides what a run does, for it and for whoever foretells it."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


#: Variables of a run that tell where it is: variable -> key, and how its value is read.
_WHERE: Mapping[str, Tuple[str, Callable[[str], Any]]] = {
    "FLUSSO_SLOT": ("source.slot", slot_name),
    "FLUSSO_PUBLIC_ADDRESS": ("server.public_address", socket_address),
    "FLUSSO_PRIVATE_ADDRESS": ("server.private_address", socket_address),
}


def with_variables(config: Config) -> Config:
    """The configuration of a daemon that was started with these variables, for commands that look for it."""
    for variable, (path, read) in _WHERE.items():
        text = os.environ.get(variable)
        if text:
            try:
                config = _replaced(config, path.split("."), read(text))
            except click.BadParameter as error:
                raise click.BadParameter(error.message, param_hint=variable) from None
    return config

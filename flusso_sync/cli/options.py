"""Option types shared by the commands: what flags and ``FLUSSO_*`` variables accept."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

import click

if TYPE_CHECKING:
    from flusso_sync.config.values import Address

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_CONFIG = "flusso.yaml"
DEFAULT_LOCK = "flusso.lock"


def true_false(value: str) -> bool:
    """A click type: ``true`` or ``false``, nothing else."""
    if value in ("true", "false"):
        return value == "true"
    raise click.BadParameter(f"{value!r} is neither true nor false")


def socket_address(value: str) -> Address:
    """A click type: ``IP:port`` with a literal IP."""
    # Imported here: only who passes an address pays for pydantic.
    from flusso_sync.config.values import parse_address

    try:
        return parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def publication_name(value: str) -> str:
    """A click type: a publication, by the rules that hold for the key of the file."""
    from flusso_sync.schema import names

    try:
        return names.identifier(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def slot_name(value: str) -> str:
    """A click type: a replication slot; Postgres allows them fewer characters than other names."""
    name = publication_name(value)
    if not re.match(r"[a-z0-9_]+\Z", name):
        raise click.BadParameter(f"{value!r} must hold lowercase letters, digits and _ only, as slot names do")
    return name


class Switch(click.Option):
    """A flag without a value whose variable accepts only ``true`` and ``false``."""

    def resolve_envvar_value(self, ctx: click.Context) -> Optional[str]:
        value = super().resolve_envvar_value(ctx)
        if value is not None and value not in ("true", "false"):
            raise click.BadParameter(
                f"the variable must be true or false, not {value!r}", ctx=ctx, param=self, param_hint=str(self.envvar)
            )
        return value


#: What ``--format`` can be, of some command or other.
FORMATS = ("human", "json", "github")


class _Format(click.Option):
    """Its variable is shared: a form that only another command has leaves this one at its default."""

    def resolve_envvar_value(self, ctx: click.Context) -> Optional[str]:
        value = super().resolve_envvar_value(ctx)
        assert isinstance(self.type, click.Choice)
        return None if value in FORMATS and value not in self.type.choices else value


def forms_option(help: str, *forms: str) -> Callable[[F], F]:
    """``--format``, ``human`` or one of the other ``forms``."""
    return click.option(
        "--format",
        "form",
        cls=_Format,
        type=click.Choice(["human", *forms]),
        envvar="FLUSSO_FORMAT",
        show_envvar=True,
        default="human",
        show_default=True,
        help=help,
    )


def slot_option(help: str) -> Callable[[F], F]:
    return click.option("--slot", type=slot_name, envvar="FLUSSO_SLOT", show_envvar=True, metavar="NAME", help=help)


def publication_option(help: str) -> Callable[[F], F]:
    return click.option(
        "--publication",
        type=publication_name,
        envvar="FLUSSO_PUBLICATION",
        show_envvar=True,
        metavar="NAME",
        help=help,
    )


def manage_publication_option(help: str) -> Callable[[F], F]:
    return click.option(
        "--manage-publication",
        type=true_false,
        metavar="true|false",
        envvar="FLUSSO_MANAGE_PUBLICATION",
        show_envvar=True,
        help=help,
    )


def index_prefix_option(help: str) -> Callable[[F], F]:
    return click.option("--index-prefix", envvar="FLUSSO_INDEX_PREFIX", show_envvar=True, metavar="TEXT", help=help)


def server_option(help: str) -> Callable[[F], F]:
    return click.option("--server", envvar="FLUSSO_SERVER", show_envvar=True, metavar="ADDRESS", help=help)


def admin_user_option(help: str) -> Callable[[F], F]:
    return click.option("--admin-user", envvar="FLUSSO_ADMIN_USER", show_envvar=True, metavar="NAME", help=help)


def admin_password_option(command: F) -> F:
    return click.option(
        "--admin-password",
        envvar="FLUSSO_ADMIN_PASSWORD",
        show_envvar=True,
        metavar="TEXT",
        help="Password there; the variable keeps it out of the process list.",
    )(command)


def config_option(command: F) -> F:
    """``-c/--config``, the same for every command that reads the configuration."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        metavar="FILE",
        envvar="FLUSSO_CONFIG",
        show_envvar=True,
        default=DEFAULT_CONFIG,
        show_default=True,
        help="The configuration file.",
    )(command)

"""Whom a command speaks to: the private surface of a daemon, or the meta store that it looks into.

With ``--server`` it is that surface.  Without, it is the meta store of the configuration's sinks, also where a password
would open a surface: an address may by now be another deployment's, a meta store is always read by the daemon that
holds its lease.  Only where no sink remembers anything is the surface of the configuration used, if it has one.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar, Union

import click

from flusso_sync.cli.asking import KEEP_SECONDS
from flusso_sync.cli.deployment import Deployment, deployment_options, index_name
from flusso_sync.cli.meta_store import MetaStore
from flusso_sync.cli.options import admin_password_option, admin_user_option, forms_option, server_option
from flusso_sync.cli.surface import PrivateSurface
from flusso_sync.errors import SinkRefused

F = TypeVar("F", bound=Callable[..., Any])

#: The watch of a daemon looks every 5 s, and a retry takes up to 20 s there.
ANSWER_SECONDS = 60.0

EXIT_CODES_HELP = (
    "\b\nExit codes, beside those of flussod --help:\n"
    "    0  done, or left for the daemon\n"
    "    1  no daemon answers, it does not accept the password, or it gives no answer in time\n"
    "    2  unknown or disabled index, wrong usage\n"
    "    5  refused (the sentence says why), or the sink is away"
)


def examples(*lines: str) -> str:
    """An epilog: examples, then the exit codes of these commands."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) + "\n\n" + EXIT_CODES_HELP


#: ``--format human|json``, for commands that list something.
format_option = forms_option("A table, or JSON.", "json")


def reach_options(command: F) -> F:
    """The options of every command that looks at what a daemon has."""
    for option in (
        admin_password_option,
        admin_user_option("User there [admin]."),
        server_option(
            "Speak HTTP to the private surface of a daemon at HOST:PORT or a URL, and read no configuration."
        ),
    ):
        command = option(command)
    return deployment_options(command)


def ask_options(command: F) -> F:
    """The options of every command that asks a daemon for something."""
    for option in (
        click.option(
            "--timeout",
            "timeout_seconds",
            type=click.FloatRange(min=0),
            default=ANSWER_SECONDS,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for an answer in the meta store, where the daemon looks every 5 s.",
        ),
        click.option(
            "--keep",
            "keep_seconds",
            type=click.FloatRange(min=0),
            default=KEEP_SECONDS,
            show_default=True,
            metavar="SECONDS",
            help="How long what is asked for stands in the meta store while no daemon takes it.",
        ),
    ):
        command = option(command)
    return reach_options(command)


class Reached:
    """A daemon, or the place where it will look."""

    def __init__(self, at: Union[PrivateSurface, MetaStore], deployment: Optional[Deployment]) -> None:
        self._at = at
        self._deployment = deployment

    def index(self, given: str) -> str:
        """The name of an enabled index; what a configuration tells is told before anything is sent."""
        return index_name(given) if self._deployment is None else self._deployment.index(given)

    def any_index(self, given: Optional[str]) -> Optional[str]:
        """The name of an index of any kind, for reading."""
        if given is None:
            return None
        return index_name(given) if self._deployment is None else self._deployment.index(given, enabled=False)

    def ask(self, command: str, index: str, ids: Sequence[str] = ()) -> str:
        return self._at.ask(command, index, ids)

    def listing(self) -> Dict[str, Any]:
        return self._at.listing()

    def parked(self, index: Optional[str], limit: int) -> Tuple[Dict[str, int], List[Dict[str, Any]]]:
        return self._at.parked(index, limit)

    @property
    def note(self) -> str:
        """What a listing could not tell, and why."""
        return self._at.unknown if isinstance(self._at, MetaStore) else ""


@contextlib.contextmanager
def reach(
    config_path: str,
    index_prefix: Optional[str],
    server: Optional[str],
    admin_user: Optional[str],
    admin_password: Optional[str],
    timeout_seconds: float = ANSWER_SECONDS,
    keep_seconds: float = KEEP_SECONDS,
) -> Iterator[Reached]:
    """The options of :func:`reach_options` or :func:`ask_options`, as something to ask."""
    if server is not None:
        if not admin_password:
            raise click.UsageError("--server needs --admin-password, or better FLUSSO_ADMIN_PASSWORD")
        yield Reached(PrivateSurface(server, admin_user or "admin", admin_password), None)
        return
    deployment = Deployment.load(config_path, index_prefix)
    with deployment.sinks() as sinks:
        store = MetaStore(deployment, sinks, timeout_seconds, keep_seconds)
        if store.usable:
            yield Reached(store, deployment)
            return
    yield Reached(_own_surface(deployment, admin_user, admin_password), deployment)


def _own_surface(deployment: Deployment, user: Optional[str], password: Optional[str]) -> PrivateSurface:
    """The surface that the configuration names."""
    server = deployment.config.server
    if not password and server.admin_password is not None:
        password = server.admin_password.resolve(key="server.admin_password")
    if not password or not server.private_address.port:
        raise SinkRefused(
            "there is no way to the daemon: none of the sinks remembers anything, and the configuration names no "
            "private surface",
            hint="Set server.admin_password, or give --server and the password",
        )
    return PrivateSurface(str(server.private_address), user or server.admin_user, password)

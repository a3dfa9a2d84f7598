"""``flussod run``: the daemon, the public surface, signals and telemetry around it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

import click

from flusso_sync.cli.account import account
from flusso_sync.cli.exit import exit_code, explain, root_error
from flusso_sync.cli.host import Host, HostOptions
from flusso_sync.cli.options import DEFAULT_LOCK, Switch, config_option
from flusso_sync.cli.run_options import RunOptions, run_options
from flusso_sync.errors import EXIT_INTERNAL, EXIT_OK, FlussoError

if TYPE_CHECKING:
    from flusso_sync.cli.progress import Progress
    from flusso_sync.cli.reload import Reloader
    from flusso_sync.config.load import Config
    from flusso_sync.logs import Logs
    from flusso_sync.status import Status
    from flusso_sync.web.private import Operations
    from flusso_sync.web.server import Surface

logger = logging.getLogger("flusso_sync.cli.run")

#: Descriptors we ask for: the surface alone may hold a thousand connections.
OPEN_FILES = 4096

#: Parts of the time between a signal and the end that belong to surfaces and exporters.
SURFACE_STOP_SECONDS = 0.5
TELEMETRY_STOP_SECONDS = 0.5


@click.command(
    "run",
    short_help="Build every index and keep it right.",
    epilog="\b\nExamples:\n  flussod run -c etc/flusso.yaml\n  flussod run --locked --lock release.lock\n"
    "  flussod run -c etc/flusso.yaml --daemonize --log-file flussod.log --pidfile flussod.pid\n\n"
    "Every flag has the variable named beside it; a flag wins over its variable, both over the file.",
)
@config_option
@click.option(
    "--locked",
    is_flag=True,
    default=None,
    cls=Switch,
    envvar="FLUSSO_LOCKED",
    show_envvar=True,
    help="Run by the lock that flussod build wrote; no configuration and no schema file is looked at.",
)
@click.option(
    "--lock",
    "lock_path",
    envvar="FLUSSO_LOCK",
    show_envvar=True,
    metavar="FILE",
    default=DEFAULT_LOCK,
    show_default=True,
    help="That lock; run by also where no configuration is named and there is no ./flusso.yaml.",
)
@run_options
@click.option(
    "--daemonize",
    is_flag=True,
    default=None,
    cls=Switch,
    envvar="FLUSSO_DAEMONIZE",
    show_envvar=True,
    help="Go on in the background; ends once the daemon runs, or with its exit code and sentence.",
)
@click.option(
    "--pidfile",
    envvar="FLUSSO_PIDFILE",
    show_envvar=True,
    metavar="FILE",
    help="Write the process id there and lock it; a second daemon ends with exit code 8.",
)
@click.option(
    "--log-file",
    envvar="FLUSSO_LOG_FILE",
    show_envvar=True,
    metavar="FILE",
    help="Append the log to it instead of standard error; SIGUSR1 opens it anew.",
)
@click.option(
    "--user",
    type=account,
    envvar="FLUSSO_USER",
    show_envvar=True,
    metavar="NAME",
    help="Become that user once pid file and log file are open; takes root.",
)
@click.pass_context
def run(ctx: click.Context, /, **flags: Any) -> None:
    """Build every index, then keep it right while rows change, until SIGTERM or Ctrl-C.

    Logs go to standard error (FLUSSO_LOG=info,engine=debug for levels, FLUSSO_LOG_FORMAT=json for JSON
    lines), data to standard output.  An outage of Postgres or of a sink is waited for, unready.
    """
    from flusso_sync import logs
    from flusso_sync.cli.signals import Signals

    place = _host_options(flags)
    if not flags.pop("locked") and not _only_the_lock(ctx, flags["config_path"], flags["lock_path"]):
        flags["lock_path"] = None
    if place.daemonize:
        # Before the folder changes.
        for name in ("config_path", "lock_path"):
            flags[name] = flags[name] and os.path.abspath(flags[name])
    options = RunOptions(**flags)
    host = Host(place)
    ended = host.enter()
    if ended is not None:
        ctx.exit(ended)
    started = logs.configure(descriptor=host.log_descriptor)
    shutdown = threading.Event()

    def before_exit(code: int) -> None:
        host.leave(code)
        started.close(0.1)

    #: Set by SIGHUP; one that comes while the configuration is first read has it read once more.
    reload = threading.Event()
    actions: Dict[signal.Signals, Callable[[], Any]] = {
        signal.SIGHUP: reload.set,
        signal.SIGUSR1: lambda: host.reopen_log(started),
    }
    code = EXIT_INTERNAL
    try:
        with Signals(shutdown, before_exit=before_exit, actions=actions):
            code = _run(options, shutdown, reload, started, host)
    finally:
        started.close()
        host.leave(code)
    ctx.exit(code)


def _only_the_lock(ctx: click.Context, config_path: str, lock_path: str) -> bool:
    """Whether nobody named a configuration, there is none where it is looked for, and there is a lock."""
    named = ctx.get_parameter_source("config_path") is not click.core.ParameterSource.DEFAULT
    return not named and not os.path.exists(config_path) and os.path.exists(lock_path)


def _host_options(flags: Dict[str, Any]) -> HostOptions:
    """The flags that concern the host, taken out of ``flags``."""
    daemonize, user = bool(flags.pop("daemonize")), flags.pop("user")
    paths = {name: flags.pop(name) or None for name in ("pidfile", "log_file")}
    if daemonize and paths["log_file"] is None:
        raise click.UsageError("--daemonize takes a --log-file: what goes wrong would be seen nowhere")
    whole = {name: None if path is None else os.path.abspath(path) for name, path in paths.items()}
    return HostOptions(daemonize=daemonize, user=user, **whole)


def _run(options: RunOptions, shutdown: threading.Event, reload: threading.Event, started: Logs, host: Host) -> int:
    """Everything between the set-up of logs and the exit code."""
    host.say_what_was_found()
    try:
        return _serve(options, shutdown, reload, started, host)
    except BaseException as error:
        cause = root_error(error)
        if isinstance(cause, FlussoError):
            logger.error("%s", explain(error), extra={"plain": True})
        else:
            logger.error("%s", explain(error), exc_info=cause)
        host.failed(exit_code(error), explain(error))
        return exit_code(error)


def _serve(options: RunOptions, shutdown: threading.Event, reload: threading.Event, started: Logs, host: Host) -> int:
    # Imported here, in the order in which they are needed: a refused configuration is reported before the
    # slow ones are loaded.
    from flusso_sync import __version__
    from flusso_sync.cli.progress import prints
    from flusso_sync.config.connection import check_prefix, overrides
    from flusso_sync.config.load import load_config

    def read() -> Config:
        if options.lock_path is None:
            found = load_config(options.config_path)
        else:
            from flusso_sync.config.lock import load_lock

            found = load_lock(options.lock_path)
        found = options.applied_to(found)
        check_prefix(found.prefix)
        return found

    config = read()
    logger.info(
        "flusso-sync %s on Python %s, %s", __version__, sys.version.split()[0], options.lock_path or options.config_path
    )
    for warning in config.warnings:
        logger.warning("%s", warning)
    for override in overrides(config):
        logger.info("%s", override)
    if host.in_background and prints(config):
        logger.warning("documents on standard output are read by nobody: a daemon in the background has none")
    _allow_open_files()

    from flusso_sync.backends import DefaultBackends
    from flusso_sync.cli.reload import Reloader
    from flusso_sync.daemon import Daemon
    from flusso_sync.status import Status
    from flusso_sync.telemetry import Telemetry
    from flusso_sync.web.public import public_app
    from flusso_sync.web.server import Surface
    from flusso_sync.web.synced import Synced

    deaths: List[BaseException] = []

    def surface_died(name: str, error: BaseException) -> None:
        deaths.append(error)
        shutdown.set()

    status = Status()
    telemetry = Telemetry(status)
    progress = _progress(config, status, started)
    synced = Synced(status)
    surfaces: List[Surface] = []
    reloader: Optional[Reloader] = None
    try:
        public = config.server.public_address
        surfaces.append(
            Surface(
                "public", public_app(status, telemetry.scrape, synced), public.host, public.port, failed=surface_died
            )
        )
        surfaces[0].bind()
        backends = DefaultBackends()
        daemon = Daemon(
            config, backends, options=options.daemon_options(), observers=[telemetry.observer()], status=status
        )
        try:
            running = daemon.start()
            synced.attach(running)

            def apply(changed: Config) -> None:
                backends.renew(changed)
                running.reload(changed)

            reloader = Reloader(config, status, reload, read=read, apply=apply)
            private = _private_surface(reloader, status, running, surface_died)
            if private is not None:
                surfaces.append(private)
                private.bind()
            for surface in surfaces:
                surface.start()
                status.set_fact(f"addresses.{surface.name}", surface.address)
                logger.info("%s surface on http://%s", surface.name, surface.address)
            progress.start()
            reloader.start()
            if not shutdown.is_set():
                host.await_running(status)
                running.run(shutdown)
        finally:
            host.stopping()
            if reloader is not None:
                reloader.stop()
            progress.stop()
            for surface in reversed(surfaces):
                surface.stop(SURFACE_STOP_SECONDS / len(surfaces))
    finally:
        telemetry.shutdown(TELEMETRY_STOP_SECONDS)
    if deaths:
        return EXIT_INTERNAL
    logger.info("stopped")
    return EXIT_OK


def _progress(config: Config, status: Status, started: Logs) -> Progress:
    """Builds below the log on a terminal, else in the log."""
    from flusso_sync.cli.progress import Progress, columns_of, terminal_is_ours
    from flusso_sync.logs import standard_error

    descriptor = standard_error()
    live = terminal_is_ours(config, descriptor)
    return Progress(
        status,
        started.show if live else None,
        lambda: columns_of(2 if descriptor is None else descriptor),
        colour=not os.environ.get("NO_COLOR"),
    )


def _private_surface(
    reloader: Reloader,
    status: Status,
    operations: Operations,
    failed: Callable[[str, BaseException], None],
) -> Optional[Surface]:
    """The private surface, or None and one line in the log when there is no password for it."""
    server = reloader.config.server
    secret = server.admin_password
    if secret is None or not secret.resolve(key="server.admin_password"):
        logger.info("the private surface is not served: there is no admin password (server.admin_password)")
        return None
    from flusso_sync.web.private import private_app
    from flusso_sync.web.server import Surface

    def credentials() -> Tuple[str, str]:
        now = reloader.config.server
        # A reload never takes the password away, it replaces it.
        assert now.admin_password is not None
        return now.admin_user, now.admin_password.resolve(key="server.admin_password")

    address = server.private_address
    return Surface("private", private_app(status, credentials, operations), address.host, address.port, failed=failed)


def _allow_open_files() -> None:
    """Raise the soft limit of descriptors as far as we may want it; many systems start at 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            # A sandbox may forbid it; with fewer, the surface refuses connections earlier.
            logger.debug("the limit of open files stays at %d: %s", soft, error)

"""A configuration as every command but ``run`` uses it: its indexes by name, its sinks for reading and for requests."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping, Optional, TypeVar

import click

from flusso_sync.cli.options import config_option, index_prefix_option
from flusso_sync.cli.run_options import with_variables
from flusso_sync.errors import SinkError, SinkRefused, SinkUnavailable, SourceError, SourceUnavailable

if TYPE_CHECKING:
    from flusso_sync.config.load import Config
    from flusso_sync.sinks.base import Sink

F = TypeVar("F", bound=Callable[..., Any])


def deployment_options(command: F) -> F:
    """``-c`` and ``--index-prefix``: where the sinks are, and how the indexes there are called."""
    prefix = index_prefix_option("The prefix the daemon was started with, where that is not the file's.")
    return config_option(prefix(command))


def sink_option(command: F) -> F:
    """``--sink NAME``, for commands that read documents."""
    return click.option("--sink", "sink_name", metavar="NAME", help="The sink to read [the first that can be read].")(
        command
    )


class Deployment:
    """What the file says; nothing is connected before a sink is asked for something."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @classmethod
    def load(cls, config_path: str, index_prefix: Optional[str]) -> Deployment:
        """Read the file and its schemas; raises ``ConfigError``."""
        from flusso_sync.config.connection import check_prefix
        from flusso_sync.config.load import load_config

        config = with_variables(load_config(config_path))
        if index_prefix is not None:
            config = replace(config, prefix=index_prefix)
        check_prefix(config.prefix)
        return cls(config)

    def index(self, given: str, *, enabled: bool = True) -> str:
        """The index that ``given`` names; an unknown or (unless told otherwise) disabled one is wrong usage."""
        name = index_name(given)
        entry = self.config.indexes.get(name)
        if entry is None:
            raise unknown_index(name, self.config.indexes)
        if enabled and not entry.enabled:
            raise click.UsageError(f"index {name} is disabled in the configuration, so no daemon builds it")
        return name

    @contextlib.contextmanager
    def sinks(self) -> Iterator[Dict[str, Sink]]:
        """The sinks by name, closed at the end; one that is away ends the command (``at_once``)."""
        from flusso_sync.backends import DefaultBackends
        from flusso_sync.daemon import DaemonOptions

        made = dict(DefaultBackends().sinks(self.config, DaemonOptions()))
        try:
            with at_once():
                yield made
        finally:
            for sink in made.values():
                sink.close()

    def stateful(self, sinks: Mapping[str, Sink]) -> List[Sink]:
        """Those that remember, in name order."""
        return [sink for _, sink in sorted(sinks.items()) if sink.stateful]

    def readable(self, sinks: Mapping[str, Sink], name: Optional[str]) -> Sink:
        """The sink called ``name``, or the first that documents can be read from."""
        if name is not None:
            if name not in sinks:
                raise click.UsageError(f"no sink {name}{_meant(name, sinks)}; there is {', '.join(sorted(sinks))}")
            return sinks[name]
        found = self.stateful(sinks)
        if not found:
            raise SinkRefused(
                "documents can be read from none of the sinks", hint="Name a sink of another type than stdout"
            )
        return found[0]


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """A source or sink that is away ends the command, with one sentence: waiting is the daemon's."""
    try:
        yield
    except SourceUnavailable as error:
        raise SourceError(error.message, hint="See that it runs, and mend its address or the network") from error
    except SinkUnavailable as error:
        raise SinkError(error.message) from error


def index_name(given: str) -> str:
    """A name of an index as it is known everywhere."""
    from flusso_sync.schema import names

    try:
        return names.plain_identifier(given)
    except ValueError as error:
        raise click.UsageError(f"the index {error}") from None


def unknown_index(name: str, known: Mapping[str, Any]) -> click.UsageError:
    """The sentence for an index that nobody knows, with the nearest name."""
    there = ", ".join(sorted(known)) or "none"
    return click.UsageError(f"unknown index {name}{_meant(name, known)}; there is {there}")


def _meant(name: str, known: Mapping[str, Any]) -> str:
    from flusso_sync.config.sentences import nearest

    guess = nearest(name, known)
    return f" (did you mean {guess}?)" if guess else ""

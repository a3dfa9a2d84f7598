"""``flussod indexes``: what there is of each index, and what is being done to it."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List

import click

from flusso_sync.cli.progress import describe
from flusso_sync.cli.reach import examples, format_option, reach, reach_options
from flusso_sync.cli.table import table


@click.command(
    "indexes",
    short_help="Show every index, its generations, and its build.",
    epilog=examples(
        "flussod indexes -c etc/flusso.yaml",
        "flussod indexes --format json",
        "flussod indexes --server 127.0.0.1:9465",
    ),
)
@reach_options
@format_option
def indexes(form: str, **where: Any) -> None:
    """Show every index: its state, the generations of it in each sink, and how far its build is.

    A generation that readers see and that gets every change is "read", the next one "building", one that stands still
    "kept"; "up to" is the position in the change stream that a kept one shows.  States come from the daemon, on its
    public surface unless --server is given; generations are read from the sinks.
    """
    with reach(**where) as reached:
        found = reached.listing()
    if form == "json":
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        header = ("index", "state", "sink", "generation", "is", "documents", "up to")
        for line in table(header, list(_rows(found)), right=("generation", "documents")):
            click.echo(line)
        for line in _builds(found):
            click.echo(line)
    if reached.note:
        click.echo(reached.note, err=True)


def _rows(found: Dict[str, Any]) -> Iterator[List[Any]]:
    for name, entry in found.items():
        state = entry["state"] if entry.get("enabled", True) else "disabled"
        rows = [
            [sink, one["number"], one["state"], _count(one["documents"]), one["frozen_lsn"] or ""]
            for sink, generations in entry["sinks"].items()
            for one in generations
        ]
        rows += [[sink, None, "not readable now", None, ""] for sink in entry["unreadable"]]
        for number, row in enumerate(rows or [[None, None, None, None, ""]]):
            yield ["" if number else name, "" if number else state, *row]


def _count(documents: Any) -> Any:
    return None if documents is None else f"{documents:,}"


def _builds(found: Dict[str, Any]) -> Iterator[str]:
    """One sentence per index that is being built, and one per sink that could not be read."""
    for name, entry in found.items():
        if entry["build"] is not None:
            yield describe(name, entry["build"])
    for sink, why in {sink: why for entry in found.values() for sink, why in entry["unreadable"].items()}.items():
        yield f"sink {sink}: {why}"

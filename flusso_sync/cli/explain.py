"""``flussod explain``: which documents a change of a row would build anew, along which relations, by which SQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Iterator, Optional

import click

from flusso_sync.cli.deployment import Deployment, at_once, deployment_options
from flusso_sync.cli.reach import format_option
from flusso_sync.cli.table import plain

if TYPE_CHECKING:
    from flusso_sync.backends import Explanation, Way

#: Ids that are printed for people, of each way.
MOST_PRINTED = 20


@click.command(
    "explain",
    short_help="Say which documents a change of a row builds anew.",
    # A key may begin with a minus sign.
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExamples:\n  flussod explain items -c etc/flusso.yaml\n  flussod explain items 17\n"
    "  flussod explain shop.lines 5:2 --format json     a key of two columns\n\n"
    "The statements are those the daemon runs; $1 and so on are the values the stream tells.",
)
@click.argument("table")
@click.argument("key", required=False)
@deployment_options
@format_option
def explain(table: str, key: Optional[str], config_path: str, index_prefix: Optional[str], form: str) -> None:
    """Say which documents a change of a row of TABLE would build anew, along which relations, by which SQL.

    With KEY, its primary key, the documents that this row is shown in now are listed.  Reads only.
    """
    from flusso_sync.backends import DefaultBackends
    from flusso_sync.daemon import DaemonOptions
    from flusso_sync.schema import names

    deployment = Deployment.load(config_path, index_prefix)
    try:
        wanted = names.table(table, "public")
    except ValueError as error:
        raise click.UsageError(f"TABLE {error}") from None
    with at_once():
        found = DefaultBackends().explain(deployment.config, DaemonOptions(), wanted, key)
    if form == "json":
        report = {
            "table": str(found.table),
            "primary_key": list(found.key),
            "key": key,
            "exists": found.there,
            "ways": [way.to_json() for way in found.ways],
            "broken": dict(found.broken),
        }
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for line in _lines(found, key):
        click.echo(line)


def _lines(found: Explanation, key: Optional[str]) -> Iterator[str]:
    row = "A change of a row of" if key is None else f"A change of row {plain(key)} of"
    yield f"{row} {plain(str(found.table))}"
    if found.there is False:
        yield "  (there is no such row now)"
    for way in found.ways:
        yield ""
        shown = ", ".join(way.fields)
        yield f"{way.index}: " + (f"shown in {plain(shown)}" if way.fields else "the document of the row itself")
        for hop in way.hops:
            yield f"  {plain(hop)}"
        yield from _statement(way, key)
        if way.documents is not None:
            yield from _documents(way)
    for index, why in found.broken.items():
        yield ""
        yield f"{index}: not known, for it does not fit its tables: {why}"


def _statement(way: Way, key: Optional[str]) -> Iterator[str]:
    told = plain(", ".join(way.columns))
    if way.statement is None:
        yield f"  found without a query: {told} of the change name the documents"
    else:
        yield f"  found by {told} of the change:"
        yield f"    {plain(way.statement)}"
    if way.by_key is not None and key is not None:
        yield "  as tried here, by the row's own key:"
        yield f"    {plain(way.by_key)}"


def _documents(way: Way) -> Iterator[str]:
    documents = way.documents or ()
    count = f"more than {len(documents):,}" if way.more else f"{len(documents):,}"
    yield f"  {count} document{'' if len(documents) == 1 and not way.more else 's'}" + (":" if documents else "")
    for id in documents[:MOST_PRINTED]:
        yield f"    {json.dumps(id, ensure_ascii=False)}"
    if len(documents) > MOST_PRINTED:
        yield f"    … and {len(documents) - MOST_PRINTED:,} more (--format json lists up to 1,000)"

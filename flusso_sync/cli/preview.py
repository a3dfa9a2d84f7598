"""``flussod preview``: a document as it would be built now, beside the one that readers find."""

from __future__ import annotations

import contextlib
import difflib
import json
import threading
from typing import TYPE_CHECKING, Any, Iterator, List, NamedTuple, Optional, Tuple

import click

from flusso_sync.cli.deployment import Deployment, at_once, deployment_options, sink_option
from flusso_sync.cli.reach import format_option
from flusso_sync.errors import EXIT_INTERNAL, SinkError
from flusso_sync.sinks.base import exact, exact_text

if TYPE_CHECKING:
    from flusso_sync.engine.source import Document


class Difference(NamedTuple):
    """Where rows and index part: a path such as ``items[2].price``, and both values as JSON text, None where absent."""

    path: str
    built: Optional[str]
    indexed: Optional[str]


@click.command(
    "preview",
    short_help="Show a document as it would be built now, and what differs.",
    # An id may begin with a minus sign.
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExamples:\n  flussod preview orders 7 -c etc/flusso.yaml\n  flussod preview orders 7 --format json\n\n"
    "Exit code 1: neither the rows nor the index have such a document.",
)
@click.argument("index")
@click.argument("id")
@deployment_options
@sink_option
@format_option
@click.pass_context
def preview(
    ctx: click.Context,
    /,
    index: str,
    id: str,
    config_path: str,
    index_prefix: Optional[str],
    sink_name: Optional[str],
    form: str,
) -> None:
    """Build the document of INDEX whose id is ID from the rows as they are now, beside the one that readers find.

    What is not written yet, or was changed by hand, shows as a difference.  Reads only; no daemon is needed.
    """
    deployment = Deployment.load(config_path, index_prefix)
    name = deployment.index(index)
    document = _built(deployment, name, id)
    indexed, told = _indexed(deployment, name, id, sink_name)
    body = None if document is None else document.body
    error = None if document is None else document.error
    if form == "json":
        built = None if body is None else exact(body)
        found = None if indexed is None else exact(indexed)
        both = body is not None and indexed is not None
        differing = differences(built, found) if both else []
        report = {
            "index": name,
            "id": id,
            "built": built,
            "error": error,
            "sink": told,
            "indexed": found,
            "same": both and not differing,
            "differences": [one._asdict() for one in differing],
        }
        click.echo(exact_text(report, 2))
    else:
        for line in _lines(name, id, body, error, indexed, told):
            click.echo(line)
    if body is None and indexed is None and error is None:
        ctx.exit(EXIT_INTERNAL)


def _built(deployment: Deployment, index: str, id: str) -> Optional[Document]:
    """From the rows; None when there are none."""
    from flusso_sync.backends import DefaultBackends
    from flusso_sync.daemon import DaemonOptions

    stop = threading.Event()
    documents = DefaultBackends().source(deployment.config, DaemonOptions()).documents
    with contextlib.closing(documents), at_once():
        documents.open([deployment.config.indexes[index].plan], stop)
        for refusal in documents.unreadable().values():
            raise refusal
        key = documents.keys_of(index, [id]).get(id)
        if key is None:
            return None
        with documents.snapshot((), stop) as snapshot:
            built, _ = snapshot.build(index, [key])
        return built[0] if built else None


def _indexed(
    deployment: Deployment, index: str, id: str, sink_name: Optional[str]
) -> Tuple[Optional[bytes], Optional[str]]:
    """What readers find, and in which sink; None for the sink when none can be read."""
    with deployment.sinks() as sinks:
        if sink_name is None and not deployment.stateful(sinks):
            return None, None
        sink = deployment.readable(sinks, sink_name)
        try:
            return sink.get(index, id), sink.name
        except SinkError as error:
            if error.transient:
                raise
            # Nothing was built yet.
            return None, sink.name


def _lines(
    index: str, id: str, body: Optional[bytes], error: Optional[str], indexed: Optional[bytes], sink: Optional[str]
) -> Iterator[str]:
    shown = json.dumps(id, ensure_ascii=False)
    place = f"sink {sink}" if sink is not None else "no sink that can be read"
    before = [] if indexed is None else exact_text(exact(indexed), 2).splitlines()
    if error is not None:
        yield f"document {shown} of {index} cannot be built: {error}"
        yield from before
        return
    if body is None:
        yield f"the rows make no document {shown} of {index}" + (
            f"; {place} has one:" if indexed is not None else f", and {place} has none"
        )
        yield from before
        return
    now = exact_text(exact(body), 2).splitlines()
    yield from now
    yield ""
    if sink is None:
        yield f"built now; {place}"
    elif indexed is None:
        yield f"{place} has no such document"
    elif not differences(exact(body), exact(indexed)):
        yield f"✓ {place} has the same"
    else:
        yield f"✗ {place} has another (- as it is there, + as the rows make it now):"
        yield from list(difflib.unified_diff(before, now, lineterm="", n=2))[2:]


def differences(built: Any, indexed: Any) -> List[Difference]:
    """Every place at which two parsed documents part, in the order of the built one; the order of keys is none."""
    from flusso_sync.verify import ABSENT, partings

    def text(value: Any) -> Optional[str]:
        return None if value is ABSENT else exact_text(value)

    return [Difference(path, text(new), text(old)) for path, new, old in partings(built, indexed)]

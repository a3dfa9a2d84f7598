"""``flussod preview``: a document as it would be built now, beside the one that readers find."""

from __future__ import annotations

import difflib
import json
import threading
from typing import TYPE_CHECKING, Any, Iterator, List, NamedTuple, Optional, Tuple

import click

from flusso_sync.cli.deployment import Deployment, deployment_options, sink_option
from flusso_sync.cli.exact import parse, render
from flusso_sync.cli.reach import format_option
from flusso_sync.errors import EXIT_INTERNAL, SinkError, SourceError, SourceUnavailable

if TYPE_CHECKING:
    from flusso_sync.engine.source import Document

_ABSENT = object()


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
        built = None if body is None else parse(body)
        found = None if indexed is None else parse(indexed)
        report = {
            "index": name,
            "id": id,
            "built": built,
            "error": error,
            "sink": told,
            "indexed": found,
            "same": body is not None and indexed is not None and not differences(built, found),
            "differences": [one._asdict() for one in differences(built, found)]
            if built is not None and found is not None
            else [],
        }
        click.echo(render(report, 2))
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
    try:
        documents.open([deployment.config.indexes[index].plan], stop)
        for refusal in documents.unreadable().values():
            raise refusal
        key = documents.keys_of(index, [id]).get(id)
        if key is None:
            return None
        with documents.snapshot((), stop) as snapshot:
            built, _ = snapshot.build(index, [key])
        return built[0] if built else None
    except SourceUnavailable as error:
        raise SourceError(error.message) from error
    finally:
        documents.close()


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
    before = [] if indexed is None else render(parse(indexed), 2).splitlines()
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
    now = render(parse(body), 2).splitlines()
    yield from now
    yield ""
    if sink is None:
        yield f"built now; {place}"
    elif indexed is None:
        yield f"{place} has no such document"
    elif not differences(parse(body), parse(indexed)):
        yield f"✓ {place} has the same"
    else:
        yield f"✗ {place} has another (- as it is there, + as the rows make it now):"
        yield from list(difflib.unified_diff(before, now, lineterm="", n=2))[2:]


def differences(built: Any, indexed: Any, path: str = "") -> List[Difference]:
    """Every place at which two parsed documents part, in the order of the built one; the order of keys is none."""
    if isinstance(built, dict) and isinstance(indexed, dict):
        found: List[Difference] = []
        for key in [*built, *(key for key in indexed if key not in built)]:
            below = f"{path}.{key}" if path else str(key)
            found += differences(built.get(key, _ABSENT), indexed.get(key, _ABSENT), below)
        return found
    if isinstance(built, list) and isinstance(indexed, list):
        longer = max(len(built), len(indexed))
        pad = [_ABSENT]
        pairs = zip(built + pad * (longer - len(built)), indexed + pad * (longer - len(indexed)))
        return [one for at, (new, old) in enumerate(pairs) for one in differences(new, old, f"{path}[{at}]")]
    # True is 1 to Python, and not to JSON.
    if built is not _ABSENT and indexed is not _ABSENT and built == indexed:
        if isinstance(built, bool) == isinstance(indexed, bool):
            return []
    return [Difference(path, _text(built), _text(indexed))]


def _text(value: Any) -> Optional[str]:
    return None if value is _ABSENT else render(value)

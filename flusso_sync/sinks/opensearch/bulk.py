"""One bulk request: the body from finished bytes, and the judgement of every item of the answer; pure.

Index actions are sent with ``require_alias``, which does not bind deletes: a delete with an external version
creates a missing index.  So each item's ``_index`` must be the concrete generation that its alias stands for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from flusso_sync.errors import SinkBlocked, SinkUnauthorized
from flusso_sync.sinks.base import Failure, FailureKind, Write
from flusso_sync.sinks.opensearch.client import BLOCKS, INDEX_MISSING, Unreadable

#: All of the answer that is read, and nothing that a document could forge.
FILTER_PATH = "errors,items.*._index,items.*.status,items.*.error"

#: OpenSearch refuses the whole request for a longer id, or an empty one.
MAX_ID_BYTES = 512

_PLAIN_ID = re.compile(rb"[A-Za-z0-9_:.%+/@ -]*\Z").match
_VERSION = b'","version":%d,"version_type":"external_gte"}}\n'

#: Stands once in each item of an answer.
NAMES = b'"_index":'

#: Statuses of an item that mean "not now".
_NOT_NOW = frozenset({408, 429, 502, 503, 504})


class Target(NamedTuple):
    """One generation to write to: the alias that is named and the index that must answer."""

    alias: str
    concrete: str
    #: What a body needs, encoded once.
    index_action: bytes
    delete_action: bytes
    answered: bytes


def target(alias: str, concrete: str) -> Target:
    start = f'":{{"_index":{json.dumps(alias)},"_id":"'
    return Target(
        alias, concrete, b'{"index' + start.encode(), b'{"delete' + start.encode(), f'"_index":"{concrete}"'.encode()
    )


#: One action of a body: the position of its write, and where it goes.
Item = Tuple[int, Target]


class Body(NamedTuple):
    data: bytes
    items: List[Item]
    #: Writes that must not be sent at all.
    unsendable: List[Failure]


def body_of(writes: Sequence[Write], targets: Sequence[Sequence[Target]]) -> Body:
    """The body that sends ``writes[i]`` to each of ``targets[i]``."""
    parts: List[bytes] = []
    append = parts.append
    items: List[Item] = []
    unsendable: List[Failure] = []
    ends: Dict[int, bytes] = {0: b'"}}\n'}
    for position, write in enumerate(writes):
        id = write.id
        encoded = id.encode("utf-8", "replace")
        if not id or len(encoded) > MAX_ID_BYTES:
            why = "its id is empty" if not id else f"its id is longer than {MAX_ID_BYTES} bytes"
            unsendable.append(Failure(position, FailureKind.REJECTED, why, 400))
            continue
        # Only digits, letters and what commonly joins them need no second look.
        if not (encoded.isalnum() or _PLAIN_ID(encoded)):
            encoded = json.dumps(id, ensure_ascii=False)[1:-1].encode("utf-8", "replace")
        end = ends.get(write.version)
        if end is None:
            end = ends[write.version] = _VERSION % write.version
        document = write.body
        # A raw newline in JSON is never data, and would end the action here.
        if document is not None and b"\n" in document:
            document = document.replace(b"\n", b" ")
        for to in targets[position]:
            items.append((position, to))
            if document is None:
                append(to.delete_action + encoded + end)
            else:
                # Documents may be large: joined once, at the end.
                append(to.index_action + encoded + end)
                append(document)
                append(b"\n")
    return Body(b"".join(parts), items, unsendable)


class Judgement(NamedTuple):
    """What became of a request.

    ``missing``: targets that are gone.  ``strange``: index names that answered and are not the generation that
    was meant, with the target that was.
    """

    failures: List[Failure]
    missing: List[Target]
    strange: List[Tuple[str, Target]]


_ALL_DONE = Judgement([], [], [])


def judge(data: bytes, items: Sequence[Item], writes: Sequence[Write], max_retries: int) -> Judgement:
    """Read the answer to ``items``.

    Raises ``Unreadable`` when it is not one answer per action, ``SinkBlocked`` or ``SinkUnauthorized`` when that is
    what happened to every one.
    """
    if data.startswith(b'{"errors":false'):
        # Nothing but statuses and index names stands in such an answer, so counting the names is exact.
        expected = Counter(to.answered for _, to in items)
        if all(data.count(name) == count for name, count in expected.items()) and data.count(NAMES) == len(items):
            return _ALL_DONE
    answers = _answers(data, len(items))
    found: Dict[int, Failure] = {}
    missing: Dict[Target, None] = {}
    strange: Dict[Tuple[str, Target], None] = {}
    blocked = denied = 0
    for (position, to), (action, answer) in zip(items, answers):
        error = answer.get("error")
        status = answer.get("status")
        if not isinstance(status, int):
            raise Unreadable("an item of OpenSearch's answer to a bulk request has no status")
        if error is None and (status < 300 or (status == 404 and action == "delete")):
            if answer.get("_index") != to.concrete:
                strange[(str(answer.get("_index")), to)] = None
            continue
        type_ = str(error.get("type") or "") if isinstance(error, dict) else ""
        reason = _reason(error) or f"refused with status {status}"
        if type_ == INDEX_MISSING:
            missing[to] = None
            continue
        if type_ in BLOCKS:
            blocked += 1
            failure = Failure(position, FailureKind.RETRY, reason, status)
        elif status in (401, 403):
            denied += 1
            failure = Failure(position, FailureKind.RETRY, reason, status)
        elif status == 409:
            failure = Failure(position, FailureKind.CONFLICT, reason, status)
        elif status in _NOT_NOW or (status >= 500 and writes[position].tries < max_retries):
            failure = Failure(position, FailureKind.RETRY, reason, status)
        else:
            failure = Failure(position, FailureKind.REJECTED, reason, status)
        found[position] = _worse(found.get(position), failure)
    if items and blocked == len(items):
        raise SinkBlocked(
            f"OpenSearch blocks writing: {next(iter(found.values())).reason}",
            hint="Writing goes on by itself once the block is cleared",
        )
    if items and denied == len(items):
        raise SinkUnauthorized(
            f"OpenSearch denies writing: {next(iter(found.values())).reason}", hint="See the rights of the sink's user"
        )
    return Judgement(list(found.values()), list(missing), list(strange))


#: Where OpenSearch begins to quote the value it refuses; a row's content has no place in logs.
_QUOTES = ("Preview of field's value", "The prefix of the first immense term")


def _reason(error: Any) -> str:
    """Why an item failed, without the value that was at fault."""
    if not isinstance(error, dict):
        return str(error or "")
    type_, reason = str(error.get("type") or ""), str(error.get("reason") or "")
    for quote in _QUOTES:
        reason = reason.partition(quote)[0].rstrip(" ,.;")
    cause = error.get("caused_by")
    if isinstance(cause, dict):
        # What the cause says quotes values too; it is needed only where the rest says nothing at all.
        why = cause.get("reason") if reason == "failed to parse" else cause.get("type")
        reason = f"{reason} ({why})" if why else reason
    return f"{type_}: {reason}" if type_ else reason


#: A write with several targets is as bad as its worst, and waits before it is given up.
_RANK = {FailureKind.RETRY: 2, FailureKind.REJECTED: 1, FailureKind.CONFLICT: 0}


def _worse(one: Optional[Failure], other: Failure) -> Failure:
    return other if one is None or _RANK[other.kind] > _RANK[one.kind] else one


def _answers(data: bytes, count: int) -> List[Tuple[str, Mapping[str, Any]]]:
    try:
        items = json.loads(data)["items"]
        answers = [next(iter(item.items())) for item in items]
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
        raise Unreadable("OpenSearch's answer to a bulk request cannot be read") from error
    if len(answers) != count:
        raise Unreadable(f"OpenSearch answered {len(answers)} items to a bulk request of {count}")
    return answers

"""Bulk bodies by bytes, and the judgement of every item of the answer; no server."""

from __future__ import annotations

import json
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flusso_sync.errors import SinkBlocked, SinkUnauthorized
from flusso_sync.sinks.base import FailureKind, Write
from flusso_sync.sinks.opensearch.bulk import Judgement, body_of, judge, target
from flusso_sync.sinks.opensearch.client import Unreadable

READ = target("w.users_0123456789abcdef_1", "users_0123456789abcdef_1")
BUILT = target("w.users_0123456789abcdef_2", "users_0123456789abcdef_2")

OK = {"_index": READ.concrete, "status": 200}


def failed(status: int, type: str, reason: str = "why", **more: Any) -> Dict[str, Any]:
    return {"_index": READ.alias, "status": status, "error": {"type": type, "reason": reason, **more}}


def answer(*items: Dict[str, Any], action: str = "index") -> bytes:
    errors = any("error" in item for item in items)
    return json.dumps({"errors": errors, "items": [{action: item} for item in items]}, separators=(",", ":")).encode()


def judged(*items: Dict[str, Any], tries: int = 0, action: str = "index") -> Judgement:
    writes = [Write("users", str(n), b"{}", 1) for n in range(len(items))]
    for write in writes:
        write.tries = tries
    body = body_of(writes, [[READ]] * len(writes))
    return judge(answer(*items, action=action), body.items, writes, max_retries=3)


def lines(data: bytes) -> List[Any]:
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def test_a_body_names_alias_id_and_version_and_holds_the_document_as_it_is() -> None:
    writes = [Write("users", "7", b'{"a": 1.10}', 5), Write("users", "8", None, 6), Write("users", "9", b"{}", 0)]
    body = body_of(writes, [[READ]] * 3)
    assert body.data.split(b"\n") == [
        b'{"index":{"_index":"w.users_0123456789abcdef_1","_id":"7","version":5,"version_type":"external_gte"}}',
        b'{"a": 1.10}',
        b'{"delete":{"_index":"w.users_0123456789abcdef_1","_id":"8","version":6,"version_type":"external_gte"}}',
        b'{"index":{"_index":"w.users_0123456789abcdef_1","_id":"9"}}',
        b"{}",
        b"",
    ]


def test_a_write_with_two_targets_is_sent_to_both() -> None:
    body = body_of([Write("users", "7", b"{}", 5), Write("users", "8", None, 5)], [[READ, BUILT], [BUILT]])
    named = [next(iter(line.values()))["_index"] for line in lines(body.data) if line]
    assert named == [READ.alias, BUILT.alias, BUILT.alias]
    assert [position for position, _ in body.items] == [0, 0, 1]


@given(st.text(min_size=1, max_size=120), st.booleans())
def test_any_id_arrives_as_it_is_and_in_one_line(id: str, delete: bool) -> None:
    body = body_of([Write("users", id, None if delete else b'{"x":\n1}', 3)], [[READ]])
    if body.unsendable:
        assert len(id.encode("utf-8", "replace")) > 512
        return
    parsed = lines(body.data)
    assert len(parsed) == (1 if delete else 2)
    found = next(iter(parsed[0].values()))["_id"]
    assert found == id.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("id", ["", "x" * 513, "ä" * 257])
def test_an_id_that_would_spoil_the_whole_request_is_never_sent(id: str) -> None:
    body = body_of([Write("users", id, None, 1), Write("users", "1", b"{}", 1)], [[READ]] * 2)
    assert [(f.position, f.kind) for f in body.unsendable] == [(0, FailureKind.REJECTED)]
    assert [position for position, _ in body.items] == [1]


def test_an_answer_without_errors_from_the_right_index_is_success() -> None:
    assert judged(OK, OK, {**OK, "status": 201}) == Judgement([], [], [])


def test_a_missing_delete_is_success_whatever_else_is_in_the_request() -> None:
    missing = {"_index": READ.concrete, "status": 404}
    assert judged(missing, action="delete") == Judgement([], [], [])
    writes = [Write("users", "1", None, 1), Write("users", "2", b"{}", 1)]
    items = [{"delete": missing}, {"index": failed(400, "mapper_parsing_exception")}]
    data = json.dumps({"errors": True, "items": items})
    judgement = judge(data.encode(), body_of(writes, [[READ]] * 2).items, writes, 3)
    assert [f.position for f in judgement.failures] == [1]


@pytest.mark.parametrize(
    "status, type, kind",
    [
        (409, "version_conflict_engine_exception", FailureKind.CONFLICT),
        (429, "opensearch_rejected_execution_exception", FailureKind.RETRY),
        (429, "cluster_block_exception", FailureKind.RETRY),
        (403, "cluster_block_exception", FailureKind.RETRY),
        (403, "security_exception", FailureKind.RETRY),
        (400, "index_closed_exception", FailureKind.RETRY),
        (503, "unavailable_shards_exception", FailureKind.RETRY),
        (500, "something_new_exception", FailureKind.RETRY),
        (400, "mapper_parsing_exception", FailureKind.REJECTED),
        (400, "strict_dynamic_mapping_exception", FailureKind.REJECTED),
        (400, "something_new_exception", FailureKind.REJECTED),
    ],
)
def test_each_failure_is_what_its_status_and_type_say(status: int, type: str, kind: FailureKind) -> None:
    judgement = judged(OK, failed(status, type), OK)
    assert [(f.position, f.kind, f.status) for f in judgement.failures] == [(1, kind, status)]
    assert type in judgement.failures[0].reason


def test_an_unknown_server_error_is_not_retried_for_ever() -> None:
    error = failed(500, "something_new_exception")
    assert [judged(OK, error, tries=n).failures[0].kind for n in (0, 2, 3)] == [
        FailureKind.RETRY,
        FailureKind.RETRY,
        FailureKind.REJECTED,
    ]


def test_a_block_on_every_item_is_a_block_of_the_sink() -> None:
    with pytest.raises(SinkBlocked, match="flood-stage"):
        judged(*[failed(429, "cluster_block_exception", "flood-stage watermark")] * 3)


def test_denied_rights_on_every_item_are_the_sinks_too() -> None:
    with pytest.raises(SinkUnauthorized):
        judged(*[failed(403, "security_exception")] * 2)


def test_a_missing_index_or_alias_is_named() -> None:
    judgement = judged(OK, failed(404, "index_not_found_exception"), failed(404, "index_not_found_exception"))
    assert judgement.missing == [READ] and judgement.failures == []


@pytest.mark.parametrize("errors", [False, True])
def test_an_answer_from_another_index_is_never_success(errors: bool) -> None:
    """Not even where the request as a whole reports no errors."""
    items = [OK, {"_index": READ.alias, "status": 404}]
    writes = [Write("users", "1", None, 1), Write("users", "2", None, 1)]
    data = json.dumps({"errors": errors, "items": [{"delete": i} for i in items]}, separators=(",", ":")).encode()
    assert judge(data, body_of(writes, [[READ]] * 2).items, writes, 3).strange == [(READ.alias, READ)]


def test_answers_swapped_between_two_indexes_are_noticed() -> None:
    writes = [Write("users", "1", b"{}", 1)]
    items = body_of(writes, [[READ, BUILT]]).items
    data = answer({"_index": BUILT.concrete, "status": 200}, {"_index": BUILT.concrete, "status": 200})
    assert judge(data, items, writes, 3).strange == [(BUILT.concrete, READ)]


@pytest.mark.parametrize("data", [b"", b"<html>", b"{}", b'{"errors":false}', b'{"errors":false,"items":[1]}', b"[]"])
def test_an_answer_nobody_can_read_is_an_error(data: bytes) -> None:
    writes = [Write("users", "1", b"{}", 1)]
    with pytest.raises(Unreadable):
        judge(data, body_of(writes, [[READ]]).items, writes, 3)


@pytest.mark.parametrize("count", [1, 3])
def test_missing_or_extra_items_are_an_error(count: int) -> None:
    writes = [Write("users", str(n), b"{}", 1) for n in range(2)]
    with pytest.raises(Unreadable, match="items"):
        judge(answer(*[OK] * count), body_of(writes, [[READ]] * 2).items, writes, 3)


def test_with_two_targets_waiting_wins_over_rejection_and_that_over_conflict() -> None:
    writes = [Write("users", "1", b"{}", 1)]
    items = body_of(writes, [[READ, BUILT]]).items

    def worst(*pair: Dict[str, Any]) -> FailureKind:
        (failure,) = judge(answer(*pair), items, writes, 3).failures
        return failure.kind

    conflict, rejected, busy = failed(409, "c"), failed(400, "r"), failed(429, "b")
    assert worst(conflict, {**OK, "_index": BUILT.concrete}) is FailureKind.CONFLICT
    assert worst(conflict, rejected) is worst(rejected, conflict) is FailureKind.REJECTED
    assert worst(rejected, busy) is worst(busy, conflict) is FailureKind.RETRY


@pytest.mark.parametrize(
    "error",
    [
        {
            "type": "mapper_parsing_exception",
            "reason": "failed to parse field [n] of type [long]. Preview of field's value: 'SECRET'",
            "caused_by": {"type": "illegal_argument_exception", "reason": 'For input string: "SECRET"'},
        },
        {
            "type": "illegal_argument_exception",
            "reason": 'Document contains at least one immense term in field="n". '
            "The prefix of the first immense term is: '[SECRET]...'",
        },
    ],
)
def test_a_reason_names_the_field_and_not_the_value(error: Dict[str, Any]) -> None:
    judgement = judged(OK, {"_index": READ.concrete, "status": 400, "error": error})
    reason = judgement.failures[0].reason
    assert "SECRET" not in reason and error["type"] in reason and "n" in reason


def test_a_reason_that_says_nothing_brings_its_cause() -> None:
    cause = {"type": "illegal_argument_exception", "reason": "field name cannot be an empty string"}
    error = failed(400, "mapper_parsing_exception", "failed to parse", caused_by=cause)
    assert "empty string" in judged(OK, error).failures[0].reason

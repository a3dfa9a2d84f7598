"""The private surface lets nobody in without the password and slows guessing down without holding a thread."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
from flask.testing import FlaskClient

from flusso_sync.errors import ConfigError, Problem, SinkRefused, SinkUnavailable
from flusso_sync.sinks.base import Parked, Sink
from flusso_sync.sinks.memory import Generation, Held, MemorySink, MemoryStore, Refusal, StoredIndex
from flusso_sync.status import IndexState, Status
from flusso_sync.web import private as module
from flusso_sync.web.private import Guesses, private_app


def basic(user: str, password: str) -> Dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


RIGHT = basic("admin", "pässword: with colon")


class Operator:
    """In place of the daemon: knows ``users``, writes down what it is asked for, and may be held up."""

    def __init__(self) -> None:
        self.asked: List[Tuple[str, ...]] = []
        self.hold: Optional[threading.Event] = None
        self.store = MemoryStore()
        self.sinks: Dict[str, Sink] = {"memory": MemorySink(store=self.store, stateful=True)}

    def _do(self, command: str, name: str, *ids: str) -> str:
        if name == "closed":
            raise RuntimeError("not running")
        if name != "users":
            raise KeyError(name)
        self.asked.append((command, name, *ids))
        if self.hold is not None:
            assert self.hold.wait(20)
        return f"{command} of {name} is done"

    def reindex(self, name: str) -> str:
        return self._do("reindex", name)

    def rollback(self, name: str) -> str:
        if len(self.asked) == 1:
            raise SinkRefused("sink memory keeps no former generation of index users", hint="Keep one")
        return self._do("rollback", name)

    def retry(self, name: str, ids: Sequence[str] = ()) -> str:
        return self._do("retry", name, *ids)

    def verify(self, name: str) -> str:
        return self._do("verify", name)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    yield clock


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
def status() -> Status:
    status = Status()
    status.set_index_state("users", IndexState.SEEDED)
    return status


@pytest.fixture
def client(operator: Operator, status: Status) -> FlaskClient:
    return private_app(status, lambda: ("admin", "pässword: with colon"), operator).test_client()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("admin", "wrong"),
        basic("root", "pässword: with colon"),
        basic("admin", "pässword"),
        basic("", ""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic %%%"},
        {"Authorization": "Bearer x"},
    ],
)
@pytest.mark.parametrize(
    "request_line",
    [
        "GET /indexes",
        "GET /generations",
        "GET /quarantine",
        "POST /reindex?index=users",
        "POST /rollback?index=users",
        "POST /quarantine/retry?index=users",
        "POST /verify?index=users",
        "GET /nothing",
        "GET /",
        "GET /dashboard.js",
        "GET /status",
        "GET /history",
        "PUT /indexes",
    ],
)
def test_without_the_password_every_route_is_401(
    client: FlaskClient, operator: Operator, request_line: str, headers: Dict[str, str]
) -> None:
    method, path = request_line.split()
    answer = client.open(path, method=method, headers=headers)
    assert (answer.status_code, answer.data) == (401, b"unauthorized\n")
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="flusso", charset="UTF-8"'
    assert operator.asked == []


def test_an_empty_password_lets_nobody_in(operator: Operator) -> None:
    client = private_app(Status(), lambda: ("admin", ""), operator).test_client()
    assert client.get("/indexes", headers=basic("admin", "")).status_code == 401


def test_a_rotated_password_holds_from_the_next_request(operator: Operator) -> None:
    current = ["old"]
    client = private_app(Status(), lambda: ("admin", current[0]), operator).test_client()
    assert client.get("/indexes", headers=basic("admin", "old")).status_code == 200
    current[0] = "new"
    assert client.get("/indexes", headers=basic("admin", "old")).status_code == 401
    assert client.get("/indexes", headers=basic("admin", "new")).status_code == 200


def test_a_password_that_cannot_be_read_lets_nobody_in_and_shows_no_path(
    operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    def credentials() -> Tuple[str, str]:
        raise ConfigError([Problem("the file /canary/secret cannot be read", path="server.admin_password")])

    client = private_app(Status(), credentials, operator).test_client()
    answer = client.post("/reindex?index=users", headers=RIGHT)
    assert (answer.status_code, operator.asked) == (503, [])
    assert b"canary" not in answer.data and b"cannot be read" in answer.data
    assert "/canary/secret" in caplog.text
    assert client.get("/status").status_code == 401, "who gives none is asked for one as ever"


def test_a_fault_of_ours_is_no_unknown_index(operator: Operator, status: Status) -> None:
    def broken(name: str) -> str:
        raise KeyError("something else")

    operator.reindex = broken  # type: ignore[method-assign]
    client = private_app(status, lambda: ("admin", "pässword: with colon"), operator).test_client()
    assert client.post("/reindex?index=users", headers=RIGHT).status_code == 500


def test_indexes_are_their_states(client: FlaskClient) -> None:
    answer = client.get("/indexes", headers=RIGHT)
    assert (answer.status_code, answer.data) == (200, b'{"users":"seeded"}')


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?index=users", (202, "reindex of users queued\n")),
        ("?index=%20Users%20", (202, "reindex of users queued\n")),
        ("", (400, "missing query parameter ?index=<name>\n")),
        ("?index=a-b", (400, 'invalid index name "a-b"\n')),
        ("?index=", (400, 'invalid index name ""\n')),
        ("?index=orders", (404, "unknown index orders\n")),
        ("?index=closed", (503, "reindex queue is full or closed\n")),
    ],
)
def test_reindex_answers_as_flusso_does(client: FlaskClient, query: str, expected: Tuple[int, str]) -> None:
    answer = client.post("/reindex" + query, headers=RIGHT)
    assert (answer.status_code, answer.data.decode()) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("/rollback?index=users", (200, "rollback of users is done\n")),
        ("/rollback", (400, "missing query parameter ?index=<name>\n")),
        ("/rollback?index=orders", (404, "unknown index orders\n")),
        ("/rollback?index=closed", (503, "rollback queue is full or closed\n")),
        ("/quarantine/retry?index=users&id=7&id=%C3%B6%2F2", (200, "retry of users is done\n")),
        ("/verify?index=users", (202, "verify of users is done\n")),
        ("/verify?index=orders", (404, "unknown index orders\n")),
        ("/quarantine/retry?index=a-b", (400, 'invalid index name "a-b"\n')),
        ("/quarantine/retry?index=orders", (404, "unknown index orders\n")),
    ],
)
def test_rollback_and_retry_answer_with_the_daemons_sentence(
    client: FlaskClient, operator: Operator, query: str, expected: Tuple[int, str]
) -> None:
    answer = client.post(query, headers=RIGHT)
    assert (answer.status_code, answer.data.decode()) == expected
    if "id=7" in query:
        assert operator.asked == [("retry", "users", "7", "ö/2")]


def test_ids_may_come_in_the_body_and_a_refusal_is_409(client: FlaskClient, operator: Operator) -> None:
    answer = client.post("/quarantine/retry?index=users", data={"id": ["1", "2"]}, headers=RIGHT)
    assert answer.status_code == 200 and operator.asked == [("retry", "users", "1", "2")]
    answer = client.post("/rollback?index=users", headers=RIGHT)
    assert answer.status_code == 409
    assert answer.data.decode() == "sink memory keeps no former generation of index users. Keep one\n"


def test_what_takes_long_is_answered_in_time_and_at_most_eight_wait(
    client: FlaskClient, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACT_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(module, name, 0.05)
    operator.hold = threading.Event()
    try:
        answer = client.post("/quarantine/retry?index=users", headers=RIGHT)
        assert (answer.status_code, answer.data) == (202, b"retry of users queued\n")
        for _ in range(module.MOST_REQUESTS - 1):
            answer = client.post("/reindex?index=users", headers=RIGHT)
            assert (answer.status_code, answer.data) == (202, b"reindex of users queued\n")
        answer = client.post("/reindex?index=users", headers=RIGHT)
        assert (answer.status_code, answer.data) == (503, b"reindex queue is full or closed\n")
        # Those who only read are not held up.
        assert client.get("/generations", headers=RIGHT).status_code == 200
    finally:
        operator.hold.set()
    assert len(operator.asked) == module.MOST_REQUESTS


def read(client: FlaskClient, path: str) -> Any:
    answer = client.get(path, headers=RIGHT)
    assert (answer.status_code, answer.content_type) == (200, "application/json"), answer.data
    return json.loads(answer.data)


def test_generations_are_listed_with_state_and_build(client: FlaskClient, operator: Operator, status: Status) -> None:
    operator.store.indexes["users"] = StoredIndex(
        read=Generation(2, "s", {"1": Held(b"{}", 1)}), kept=[Generation(1, "s", {}, frozen=0x10000000A)]
    )
    status.set_index_state("users", IndexState.REBUILDING)
    status.set_build_progress("users", 5, 10)
    (name,) = listed = read(client, "/generations")
    assert name == "users"
    users = listed["users"]
    assert (users["state"], users["build"]["done"], users["build"]["total"]) == ("rebuilding", 5, 10)
    assert users["sinks"]["memory"] == [
        {"number": 2, "state": "read", "name": "memory:2", "documents": 1, "frozen_lsn": None},
        {"number": 1, "state": "kept", "name": "memory:1", "documents": 0, "frozen_lsn": "1/A"},
    ]
    assert read(client, "/generations?index=USERS") == listed
    answer = client.get("/generations?index=orders", headers=RIGHT)
    assert (answer.status_code, answer.data) == (404, b"unknown index orders\n")
    sink = operator.sinks["memory"]
    assert isinstance(sink, MemorySink)
    sink.faults = lambda method, writes: Refusal(SinkUnavailable("it is away", hint="It is tried again"))
    users = read(client, "/generations")["users"]
    assert (users["sinks"], users["unreadable"]) == ({}, {"memory": "it is away"})
    answer = client.get("/quarantine", headers=RIGHT)
    assert (answer.status_code, answer.data) == (503, b"it is away. It is tried again\n")


def test_the_quarantine_is_listed_newest_first_and_bounded(client: FlaskClient, operator: Operator) -> None:
    for number in range(150):
        one = Parked(
            "users", f"u{number}", "too odd", number, first="2026-01-01T00:00:00Z", last=f"2026-01-02T{number}"
        )
        operator.store.parked["users", one.id] = one
    operator.store.parked["orders", "1"] = Parked("orders", "1", "odd", 7, last="2026-09-09T")
    listed = read(client, "/quarantine")
    assert listed["counts"] == {"orders": 1, "users": 150}
    assert len(listed["documents"]) == module.LISTED
    assert listed["documents"][0] == {
        "sink": "memory", "index": "orders", "id": "1", "reason": "odd", "lsn": "0/7", "first": "",
        "last": "2026-09-09T", "tries": 1, "delete": False,
    }  # fmt: skip
    listed = read(client, "/quarantine?index=users&limit=2")
    assert [one["id"] for one in listed["documents"]] == ["u99", "u98"] and listed["counts"] == {"users": 150}
    for limit in ("-1", "x", "٣", "100001", "9" * 5000):
        assert client.get(f"/quarantine?limit={limit}", headers=RIGHT).status_code == 400


def test_reindex_needs_post_and_unknown_paths_are_empty(client: FlaskClient, operator: Operator) -> None:
    for path, method, code in (
        ("/reindex?index=users", "GET", 405),
        ("/indexes", "OPTIONS", 405),
        ("/nothing", "GET", 404),
    ):
        answer = client.open(path, method=method, headers=RIGHT)
        assert (answer.status_code, answer.data) == (code, b"")
    assert operator.asked == []


JSON = {**RIGHT, "Accept": "application/json"}


def test_who_accepts_json_gets_every_sentence_as_json(client: FlaskClient, operator: Operator) -> None:
    wrong = {**JSON, **basic("admin", "wrong")}
    for method, path, headers, code, told in (
        ("GET", "/indexes", {"Accept": "application/json"}, 401, "unauthorized"),
        ("GET", "/indexes", wrong, 401, "unauthorized"),
        ("POST", "/reindex", JSON, 400, "missing query parameter ?index=<name>"),
        ("POST", "/reindex?index=nobody", JSON, 404, "unknown index nobody"),
        ("POST", "/reindex?index=closed", JSON, 503, "reindex queue is full or closed"),
        ("GET", "/nothing", JSON, 404, "Not Found"),
        ("GET", "/reindex", JSON, 405, "Method Not Allowed"),
    ):
        answer = client.open(path, method=method, headers=headers)
        assert (answer.status_code, answer.get_json()) == (code, {"code": code, "error": told})
    answer = client.post("/reindex?index=users", headers=JSON)
    assert (answer.status_code, answer.get_json()) == (202, {"code": 202, "message": "reindex of users queued"})
    answer = client.post("/rollback?index=users", headers=JSON)
    assert answer.status_code == 409 and "keeps no former generation" in answer.get_json()["error"]
    refused = client.get("/nothing", headers={**RIGHT, "Accept": "*/*"})
    assert refused.data == b"", "text for everybody else"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 202),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://flusso.example:9465"}, 202),
        ({"Origin": "https://FLUSSO.example:9465"}, 202),
        ({"Sec-Fetch-Site": "none"}, 202),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://flusso.example:9464"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://flusso.example:9465"}, 403),
    ],
)
def test_another_sites_page_changes_nothing_although_the_browser_knows_the_password(
    client: FlaskClient, operator: Operator, headers: Dict[str, str], code: int
) -> None:
    answer = client.post("/reindex?index=users", headers={**RIGHT, **headers}, base_url="http://flusso.example:9465/")
    assert answer.status_code == code
    assert operator.asked == ([("reindex", "users")] if code == 202 else [])
    assert client.get("/indexes", headers={**RIGHT, **headers}).status_code == 200, "reading is the browser's to refuse"


def test_the_page_is_the_public_one_with_actions(client: FlaskClient, status: Status) -> None:
    page = client.get("/", headers=RIGHT).get_data(as_text=True)
    assert 'data-surface="private"' in page and 'data-surface="public"' not in page
    assert client.get("/status", headers=RIGHT).get_json()["indexes"] == {"users": "seeded"}


def test_guessing_is_refused_for_longer_and_longer_even_with_the_right_password(
    client: FlaskClient, clock: Clock
) -> None:
    pauses: List[int] = []
    for _ in range(12):
        while True:
            answer = client.get("/indexes", headers=basic("admin", "guess"))
            if answer.status_code != 429:
                break
            assert client.get("/indexes", headers=RIGHT).status_code == 429, "else guessing could go on"
            pauses.append(int(answer.headers["Retry-After"]))
            clock.now += pauses[-1]
        assert answer.status_code == 401
    assert pauses == [2, 3, 5, 9, 17, 33, 61]


def test_the_right_password_forgets_wrong_guesses(client: FlaskClient, clock: Clock) -> None:
    for _ in range(10):
        for _ in range(module.FREE_GUESSES - 1):
            assert client.get("/indexes", headers=basic("admin", "typo")).status_code == 401
        assert client.get("/indexes", headers=RIGHT).status_code == 200


def test_a_browser_that_asks_without_credentials_first_is_not_guessing(client: FlaskClient) -> None:
    for _ in range(50):
        assert client.get("/indexes").status_code == 401
    assert client.get("/indexes", headers=RIGHT).status_code == 200


def test_one_address_does_not_pay_for_another_and_memory_is_bounded(clock: Clock) -> None:
    guesses = Guesses()
    for _ in range(10_000):
        guesses.wrong("10.0.0.1")
    assert guesses.pause("10.0.0.1") == module.LONGEST_PAUSE_SECONDS
    assert guesses.pause("10.0.0.2") == 0
    for n in range(3 * module.ADDRESSES):
        guesses.wrong(f"host {n}")
    assert len(guesses._wrong) == module.ADDRESSES

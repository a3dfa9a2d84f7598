"""The private surface lets nobody in without the password and slows guessing down without holding a thread."""

from __future__ import annotations

import base64
from typing import Dict, Iterator, List, Tuple

import pytest
from flask.testing import FlaskClient

from flusso_sync.status import IndexState, Status
from flusso_sync.web import private as module
from flusso_sync.web.private import Guesses, private_app


def basic(user: str, password: str) -> Dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


RIGHT = basic("admin", "pässword: with colon")


class Reindexer:
    def __init__(self) -> None:
        self.asked: List[str] = []

    def __call__(self, name: str) -> None:
        if name == "closed":
            raise RuntimeError("not running")
        if name != "users":
            raise KeyError(name)
        self.asked.append(name)


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
def reindexer() -> Reindexer:
    return Reindexer()


@pytest.fixture
def client(reindexer: Reindexer) -> FlaskClient:
    status = Status()
    status.set_index_state("users", IndexState.SEEDED)
    return private_app(status, lambda: ("admin", "pässword: with colon"), reindexer).test_client()


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
@pytest.mark.parametrize("request_line", ["GET /indexes", "POST /reindex?index=users", "GET /nothing", "PUT /indexes"])
def test_without_the_password_every_route_is_401(
    client: FlaskClient, reindexer: Reindexer, request_line: str, headers: Dict[str, str]
) -> None:
    method, path = request_line.split()
    answer = client.open(path, method=method, headers=headers)
    assert (answer.status_code, answer.data) == (401, b"unauthorized\n")
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="flusso", charset="UTF-8"'
    assert reindexer.asked == []


def test_an_empty_password_lets_nobody_in(reindexer: Reindexer) -> None:
    client = private_app(Status(), lambda: ("admin", ""), reindexer).test_client()
    assert client.get("/indexes", headers=basic("admin", "")).status_code == 401


def test_a_rotated_password_holds_from_the_next_request(reindexer: Reindexer) -> None:
    current = ["old"]
    client = private_app(Status(), lambda: ("admin", current[0]), reindexer).test_client()
    assert client.get("/indexes", headers=basic("admin", "old")).status_code == 200
    current[0] = "new"
    assert client.get("/indexes", headers=basic("admin", "old")).status_code == 401
    assert client.get("/indexes", headers=basic("admin", "new")).status_code == 200


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


def test_reindex_needs_post_and_unknown_paths_are_empty(client: FlaskClient, reindexer: Reindexer) -> None:
    for path, method, code in (
        ("/reindex?index=users", "GET", 405),
        ("/indexes", "OPTIONS", 405),
        ("/nothing", "GET", 404),
    ):
        answer = client.open(path, method=method, headers=RIGHT)
        assert (answer.status_code, answer.data) == (code, b"")
    assert reindexer.asked == []


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

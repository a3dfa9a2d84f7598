"""The public surface answers from memory, reveals no rows and changes nothing."""

from __future__ import annotations

import json
from typing import Optional

import pytest
from flask.testing import FlaskClient

from flusso_sync.status import IndexState, Phase, Status
from flusso_sync.web.public import public_app

TEXT = "text/plain; charset=utf-8"


@pytest.fixture
def status() -> Status:
    return Status(["users"])


@pytest.fixture
def client(status: Status) -> FlaskClient:
    return public_app(status, lambda: b"flusso_batches_total 1.0\n").test_client()


def test_health_is_ok_and_empty_even_before_anything_works(client: FlaskClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.data) == (200, b"")


def test_readiness_follows_the_status_with_its_reason_on_one_line(client: FlaskClient, status: Status) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.data) == (503, b"phase is starting\n")
    status.set_phase(Phase.BACKFILLING)
    assert client.get("/readyz").status_code == 200
    status.set_phase(Phase.LIVE)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.data) == (200, b"ok\n")
    status.trouble("sink", "primary\r\nis away", blocking=True)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.data) == (503, b"primary is away\n")
    status.clear_trouble("sink")
    status.set_phase(Phase.STOPPED)
    assert client.get("/readyz").status_code == 503


def test_status_is_json_in_the_order_of_the_snapshot(client: FlaskClient, status: Status) -> None:
    status.set_index_state("users", IndexState.SEEDED)
    answer = client.get("/status")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.data.startswith(b'{"phase":"starting","uptime_seconds":0,"indexes":{"users":"seeded"},')
    assert list(json.loads(answer.data)) == list(status.snapshot().to_json())


def test_metrics_are_the_text_as_it_is(client: FlaskClient) -> None:
    answer = client.get("/metrics")
    assert (answer.status_code, answer.content_type, answer.data) == (200, TEXT, b"flusso_batches_total 1.0\n")


@pytest.mark.parametrize("text", [None])
def test_metrics_that_cannot_be_made_now_are_503(status: Status, text: Optional[bytes]) -> None:
    assert public_app(status, lambda: text).test_client().get("/metrics").status_code == 503
    assert public_app(status).test_client().get("/metrics").status_code == 503


@pytest.mark.parametrize("path", ["/", "/nothing", "/status/", "/indexes", "/reindex", "/static/x"])
def test_other_paths_are_404_and_empty(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.data) == (404, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/status", "/metrics"])
def test_other_methods_are_405_and_empty(client: FlaskClient, path: str, method: str) -> None:
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.data) == (405, b"")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_an_error_of_ours_is_an_empty_500(status: Status, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Optional[bytes]:
        raise RuntimeError("postgresql://app:canary@db/shop")

    answer = public_app(status, broken).test_client().get("/metrics")
    assert (answer.status_code, answer.data) == (500, b"")
    assert any(record.exc_info for record in caplog.records)


def test_answers_are_not_to_be_stored(client: FlaskClient) -> None:
    assert client.get("/readyz").headers["Cache-Control"] == "no-store"

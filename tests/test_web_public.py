"""The public surface answers from memory, reveals no rows and changes nothing."""

from __future__ import annotations

import configparser
import json
import re
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import List, Optional

import pytest
from flask.testing import FlaskClient

from flusso_sync import web
from flusso_sync.status import IndexState, Phase, Status
from flusso_sync.web.dashboard import FILES
from flusso_sync.web.public import public_app
from flusso_sync.web.server import THREADS, Surface
from flusso_sync.web.synced import WAITERS, Synced

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


def test_ids_of_documents_are_for_the_private_surface_alone(client: FlaskClient, status: Status) -> None:
    one = {"sink": "search", "id": "canary@example.com", "kind": "different", "path": "name"}
    status.set_fact("verify.users", {"state": "wrong", "found": 1, "differences": [one]})
    answer = client.get("/status")
    assert b"canary" not in answer.data
    assert answer.get_json()["verify"]["users"] == {
        "state": "wrong",
        "found": 1,
        "differences": [{**one, "id": None}],
    }


def test_metrics_are_the_text_as_it_is(client: FlaskClient) -> None:
    answer = client.get("/metrics")
    assert (answer.status_code, answer.content_type, answer.data) == (200, TEXT, b"flusso_batches_total 1.0\n")


@pytest.mark.parametrize("text", [None])
def test_metrics_that_cannot_be_made_now_are_503(status: Status, text: Optional[bytes]) -> None:
    assert public_app(status, lambda: text).test_client().get("/metrics").status_code == 503
    assert public_app(status).test_client().get("/metrics").status_code == 503


@pytest.mark.parametrize(
    "path", ["/nothing", "/index.html", "/dashboard.py", "/status/", "/indexes", "/reindex", "/static/x"]
)
def test_other_paths_are_404_and_empty(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.data) == (404, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/dashboard.js", "/healthz", "/readyz", "/status", "/history", "/metrics"])
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


def test_the_page_and_its_files_are_the_packages_and_may_use_nothing_else(client: FlaskClient) -> None:
    page = client.get("/")
    assert (page.status_code, page.content_type) == (200, "text/html; charset=utf-8")
    text = page.get_data(as_text=True)
    assert 'data-surface="public"' in text
    used = set(re.findall(r'(?:href|src)="([^"#]+)"', text))
    for path in used - {"status"}:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200 and len(answer.data) > 100, path
    files = {path.name for path in (Path(web.__file__).parent / "static").iterdir()}
    assert files == {name for name, _ in FILES.values()}, "each file is served, each served file is there"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\son[a-z]+=|\sstyle=|https?://", text), (
        "nothing inline or from afar"
    )
    for name in ("dashboard.js", "dashboard.css"):
        content = client.get(f"/{name}").get_data(as_text=True).replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|innerHTML|\beval\b|@import|url\(", content), name


def test_the_files_of_the_page_are_part_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).resolve().parent.parent / "setup.cfg")
    assert "web/static/*" in setup["options.package_data"]["flusso_sync"]


def test_the_history_names_its_columns(client: FlaskClient, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/history").get_json()["points"] == []
    status.set_phase(Phase.LIVE)
    status.lag(4096)
    start = time.monotonic()
    monkeypatch.setattr("flusso_sync.status.monotonic", lambda: start + 60)
    answer = client.get("/history").get_json()
    (point,) = answer["points"]
    told = dict(zip(answer["columns"], point))
    assert abs(told.pop("at") - time.time()) < 60
    assert told == {"lag_seconds": 0, "lag_bytes": 4096, "changes_per_second": 0, "documents_per_second": 0}
    assert answer["interval_seconds"] == 10


def test_every_answer_is_kept_from_other_sites(client: FlaskClient) -> None:
    for path in ("/", "/status", "/healthz", "/nothing", "/metrics"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", path
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], path


def test_answers_are_not_to_be_stored(client: FlaskClient) -> None:
    assert client.get("/readyz").headers["Cache-Control"] == "no-store"


# -- read your writes -----------------------------------------------------------------------------------------


class Fake:
    """A daemon whose synced position a test sets."""

    def __init__(self) -> None:
        self.done = 0
        self.end = 7
        #: Questions that go to the source.
        self.asked = 0
        self.waiting = threading.Event()

    def synced(self, lsn: int, timeout: float) -> bool:
        self.waiting.set()
        deadline = time.monotonic() + timeout
        while self.done < lsn and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.done >= lsn

    def position(self) -> int:
        self.asked += 1
        return self.end


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def waiter(status: Status, fake: Fake) -> FlaskClient:
    view = Synced(status)
    view.attach(fake)
    status.set_phase(Phase.LIVE)
    return public_app(status, synced=view).test_client()


def test_synced_waits_for_a_position_and_says_where_it_stands(waiter: FlaskClient, fake: Fake, status: Status) -> None:
    status.set_confirmed(5)
    answer = waiter.get("/synced?lsn=0/6&timeout=0.1")
    assert (answer.status_code, answer.get_json()["confirmed_lsn"]) == (504, "0/5")
    fake.done = 6
    answer = waiter.get("/synced?lsn=0/6&timeout=5")
    assert answer.get_json() == {"synced": True, "reason": "ok", "lsn": "0/6", "confirmed_lsn": "0/5"}
    assert waiter.get("/synced?lsn=now&timeout=0").get_json()["lsn"] == "0/7"
    assert waiter.get("/synced?lsn=1/0&timeout=0").get_json()["lsn"] == "1/0"


def test_synced_asks_the_source_nothing_but_for_now_and_that_once(waiter: FlaskClient, fake: Fake) -> None:
    for position, asked in (("0/6", 0), ("now", 1)):
        fake.asked = 0
        assert waiter.get(f"/synced?lsn={position}&timeout=0.6").status_code == 504
        assert fake.asked == asked


def test_synced_leaves_a_real_thread_for_health_and_turns_further_waiters_away(status: Status, fake: Fake) -> None:
    view = Synced(status)
    view.attach(fake)
    status.set_phase(Phase.LIVE)
    surface = Surface("public", public_app(status, synced=view), "127.0.0.1", 0)
    surface.bind()
    surface.start()
    codes: List[int] = []

    def wait() -> None:
        codes.append(urllib.request.urlopen(f"http://{surface.address}/synced?lsn=0/6&timeout=30", timeout=40).status)

    threads = [threading.Thread(target=wait) for _ in range(WAITERS)]
    try:
        for thread in threads:
            fake.waiting.clear()
            thread.start()
            assert fake.waiting.wait(10)
        for _ in range(3 * THREADS):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://{surface.address}/synced?lsn=0/6", timeout=10)
            assert (refused.value.code, refused.value.headers["Retry-After"]) == (429, "1")
            refused.value.close()
            with urllib.request.urlopen(f"http://{surface.address}/healthz", timeout=10) as healthy:
                assert healthy.status == 200
        assert codes == [], "those that wait still do"
        fake.done = 6
        for thread in threads:
            thread.join(10)
        assert codes == [200] * WAITERS
    finally:
        fake.done = 6
        surface.stop(2)


def test_synced_tells_trouble_instead_of_waiting_it_out(waiter: FlaskClient, status: Status) -> None:
    status.trouble("sink", "the sink is away", blocking=True)
    started = time.monotonic()
    answer = waiter.get("/synced?lsn=0/6&timeout=30")
    assert (answer.status_code, answer.get_json()["reason"]) == (503, "the sink is away")
    assert time.monotonic() - started < 10


def test_synced_waiters_never_take_every_thread(waiter: FlaskClient, fake: Fake) -> None:
    threads = [threading.Thread(target=waiter.get, args=("/synced?lsn=0/6&timeout=20",)) for _ in range(WAITERS)]
    for thread in threads:
        fake.waiting.clear()
        thread.start()
        assert fake.waiting.wait(10)
    answer = waiter.get("/synced?lsn=0/6")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert waiter.get("/healthz").status_code == 200
    fake.done = 6
    for thread in threads:
        thread.join(10)
    assert waiter.get("/synced?lsn=0/6").status_code == 200
    assert WAITERS < THREADS


@pytest.mark.parametrize(
    "query", ["", "lsn=x", "lsn=0/G", "lsn=0/1&timeout=x", "lsn=0/1&timeout=-1", "lsn=1/2/3", "lsn=0/1&timeout=1e9"]
)
def test_synced_refuses_what_it_does_not_understand(waiter: FlaskClient, query: str) -> None:
    answer = waiter.get(f"/synced?{query}")
    assert answer.status_code == 400 and answer.get_json()["reason"]


def test_synced_before_there_is_a_daemon_is_unavailable(status: Status) -> None:
    assert public_app(status, synced=Synced(status)).test_client().get("/synced?lsn=0/1").status_code == 503

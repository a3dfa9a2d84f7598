"""The page in a real browser: it tells what the status tells, at every width, by keyboard and to a screen reader.

With ``FLUSSO_SCREENSHOTS=DIR`` every view of the first test is left there as a picture.
"""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import pytest

from flusso_sync.daemon import Daemon
from flusso_sync.errors import SinkRefused
from flusso_sync.sinks.base import Sink
from flusso_sync.status import IndexState, Phase, Status
from flusso_sync.web.private import private_app
from flusso_sync.web.public import public_app
from flusso_sync.web.server import Surface
from tests.scenes import SCENES, building, calm, troubled
from tests.test_daemon import changes, config
from tests.test_pipeline import Lives
from tests.waiting import wait_for

#: The browser itself answers within this, also on a machine that is busy with other tests.
PATIENCE_MILLIS = 30_000

USER, PASSWORD = "admin", "a password"


class Operator:
    """In place of the daemon: writes down what it is asked for."""

    sinks: Dict[str, Sink] = {}

    def __init__(self) -> None:
        self.asked: List[Tuple[str, str]] = []

    def reindex(self, name: str) -> str:
        self.asked.append(("reindex", name))
        return "begun"

    def rollback(self, name: str) -> str:
        raise SinkRefused(f"sink search keeps no former generation of index {name}")

    def retry(self, name: str, ids: Sequence[str] = ()) -> str:
        self.asked.append(("retry", name))
        return f"3 of 3 parked documents of index {name} are right now"

    def verify(self, name: str) -> str:
        self.asked.append(("verify", name))
        return f"index {name} is compared with its rows"


class Screen:
    """Opens pages, and remembers what they asked for and complained of."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.surfaces: List[Surface] = []
        self.contexts: List[Any] = []
        self.requests: List[Tuple[str, str]] = []
        self.complaints: List[str] = []

    def serve(self, status: Status, operator: Optional[Operator] = None, port: int = 0) -> Surface:
        app = public_app(status) if operator is None else private_app(status, lambda: (USER, PASSWORD), operator)
        surface = Surface("page", app, "127.0.0.1", port)
        surface.bind()
        surface.start()
        self.surfaces.append(surface)
        return surface

    def open(self, surface: Surface, width: int = 1280, height: int = 900, **how: Any) -> Any:
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            http_credentials={"username": USER, "password": PASSWORD},
            **how,
        )
        self.contexts.append(context)
        context.set_default_timeout(PATIENCE_MILLIS)
        page = context.new_page()
        page.on("request", lambda request: self.requests.append((request.method, request.url)))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        page.goto(f"http://{surface.address}/")
        until(page, "document.getElementById('phase').textContent !== 'Asking…'")
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        for surface in self.surfaces:
            surface.stop(2)


@pytest.fixture
def screen(browser: Any) -> Iterator[Screen]:
    screen = Screen(browser)
    yield screen
    screen.close()


def until(page: Any, expression: str) -> None:
    """Wait for ``expression``; from outside, because the page's policy forbids to evaluate text in it."""
    deadline = time.monotonic() + PATIENCE_MILLIS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never: {expression}"
        page.wait_for_timeout(50)


def text(page: Any, id: str) -> str:
    said: str = page.locator(f"#{id}").inner_text()
    return said


#: Visible texts whose colour differs too little from what is behind them (WCAG 2.1, AA), with the ratio.
FAINT = """() => {
  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const over = (top, under) => ({
    r: top.r * top.a + under.r * (1 - top.a), g: top.g * top.a + under.g * (1 - top.a),
    b: top.b * top.a + under.b * (1 - top.a), a: 1 });
  const light = ({ r, g, b }) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), { r: 255, g: 255, b: 255, a: 1 });
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.textContent.trim() || !node.checkVisibility() || node.closest(".unseen, .skip, noscript")) continue;
    const style = getComputedStyle(node);
    const ground = behind(node);
    const ink = parse(node.closest("svg") ? style.fill : style.color);
    const [one, other] = [light(over(ink, ground)), light(ground)].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) faint.push(`${text.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""

#: Elements that reach beyond the window, or hide part of their own text.
CUT_OFF = """() => [...document.querySelectorAll("main *, header *, dialog *")]
  .filter((node) => node.checkVisibility() && !node.closest(".unseen, svg, thead, .events"))
  .filter((node) => {
    const box = node.getBoundingClientRect();
    const hides = getComputedStyle(node).overflowX !== "visible" && node.scrollWidth > node.clientWidth + 1;
    return box.right > innerWidth + 1 || box.left < -1 || hides;
  })
  .map((node) => `${node.tagName} ${node.id} ${node.className}: ${node.textContent.slice(0, 40)}`)"""


HEIGHTS = {360: 740, 1280: 800, 2560: 1440, 3840: 2160}

VIEWS = [(width, scheme) for width in HEIGHTS for scheme in ("light", "dark")]


@pytest.mark.parametrize(
    ("scene", "private"), [*((scene, False) for scene in SCENES), ("building", True)], ids=lambda value: str(value)
)
def test_everything_fits_and_can_be_read(screen: Screen, scene: str, private: bool) -> None:
    page = screen.open(screen.serve(SCENES[scene](), Operator() if private else None))
    page.locator("#inside > summary").click()
    folder = os.environ.get("FLUSSO_SCREENSHOTS")
    for width, scheme in VIEWS:
        page.set_viewport_size({"width": width, "height": HEIGHTS[width]})
        page.emulate_media(color_scheme=scheme)
        if folder:
            name = f"{scene}-{width}-{scheme}-{'private' if private else 'public'}.png"
            page.screenshot(path=str(Path(folder) / name), full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, scheme)
        assert page.evaluate(CUT_OFF) == [], (width, scheme)
        assert page.evaluate(FAINT) == [], (width, scheme)
    assert screen.complaints == []


def test_the_page_asks_nobody_but_its_own_surface_and_only_reads(screen: Screen) -> None:
    surface = screen.serve(calm())
    page = screen.open(surface)
    until(page, "document.querySelector('#plot path') !== null")
    asked = [url for _, url in screen.requests if url.endswith("/status")]
    wait_for(
        lambda: sum(url.endswith("/status") for _, url in screen.requests) > len(asked) or page.wait_for_timeout(100),
        30,
    )
    assert {method for method, _ in screen.requests} == {"GET"}
    assert all(url.startswith(f"http://{surface.address}/") for _, url in screen.requests)
    assert page.locator("button:visible").count() == 0
    assert screen.complaints == [], "nothing that the Content-Security-Policy forbids"


def test_phase_trouble_and_what_to_do_stand_at_the_top(screen: Screen) -> None:
    page = screen.open(screen.serve(troubled()))
    assert text(page, "phase") == "Live, held up"
    assert "sink search is away" in text(page, "sentence")
    gap, sink, blind = page.locator("#troubles > li").all_inner_texts()
    assert "replication slot flusso was lost" in gap
    assert "Start it, or look at its log" in sink and "41 times" in sink and "changes wait for it" in sink
    assert "ALTER TABLE public.addresses REPLICA IDENTITY FULL" in blind and "changes flow meanwhile" in blind
    top = page.locator("#trouble").bounding_box()["y"]
    assert top < page.locator("#flow").bounding_box()["y"] < page.locator("#rows").bounding_box()["y"]
    assert page.locator("#sinks > li").first.get_attribute("data-blocked") is not None
    assert page.title().startswith("! Live")


def test_the_flow_shows_rates_depth_and_sinks_and_moves_only_when_something_does(screen: Screen) -> None:
    page = screen.open(screen.serve(calm()))
    assert "changes/s" in text(page, "capture") and "slot flusso, WAL reserved" in text(page, "capture")
    assert "48 MB retained" in text(page, "capture-wal")
    assert "room for 16,384" in text(page, "queue")
    assert "resolve 0.7 ms, build 2.1 ms" in text(page, "engine")
    assert "12 sent again" in text(page, "sinks")
    moves = "getComputedStyle(document.getElementById('engine'), '::before').animationName"
    assert page.evaluate(moves) == "along"
    still = screen.open(screen.serve(calm()), reduced_motion="reduce")
    assert still.evaluate(moves) == "none", "who asked for less motion gets less"
    idle = screen.open(screen.serve(SCENES["beginning"]()))
    assert idle.evaluate(moves) == "none"
    # A rate of its own needs two answers.
    until(page, "/^2[0-9]{2}\\/s$/.test(document.querySelector('#sinks > li:nth-child(2) .rate').textContent)")


def test_only_the_sink_that_is_away_is_shown_away(screen: Screen) -> None:
    status = calm()
    held = {"waiting": 0, "waiting_bytes": 0, "requests_in_flight": 0, "concurrency": 1}
    counts = {"requests": 1, "written": 1, "retries": 0}
    status.set_figures("sinks", lambda: {name: {**held, **counts} for name in ("search", "search2")})
    status.trouble("sink search2", "sink search2 is away", blocking=True)
    status.trouble("source visibility", "a transaction is not seen yet", blocking=True)
    page = screen.open(screen.serve(status))
    away = page.locator("#sinks > li[data-blocked]")
    assert away.all_inner_texts() and ["search2" in one for one in away.all_inner_texts()] == [True]
    assert page.locator("#engine[data-blocked]").count() == 1
    assert page.locator("#capture[data-blocked]").count() == 0, "changes come on"


def test_a_row_per_index_with_progress_documents_generation_and_quarantine(screen: Screen) -> None:
    status = building()
    page = screen.open(screen.serve(status))
    table = page.get_by_role("table", name="Indexes")
    assert table.get_by_role("row").count() == 4
    assert table.get_by_role("columnheader").all_inner_texts()[:3] == ["Index", "State", "Documents"]
    assert table.get_by_role("rowheader").all_inner_texts() == ["users", "orders", "products"]
    users = table.get_by_role("row", name="users")
    cells = users.get_by_role("cell").all_inner_texts()
    assert cells[0].split("\n")[0] == "seeded" and "Is compared with its rows: 44 %" in cells[0]
    assert cells[1] == "50,000" and cells[-2:] == ["3", "3"]
    bar = table.get_by_role("progressbar", name="Build of orders")
    assert float(bar.get_attribute("value")) == pytest.approx(92_500 / 150_000)
    assert "61 % · 92,500 of 150,000 rows" in bar.get_attribute("aria-valuetext")
    assert "of about 20,000 rows" in table.get_by_role("row", name="products").inner_text()
    assert "3 → 4" in table.get_by_role("row", name="orders").inner_text()
    # It moves on with the next answers, and is gone with the build.
    status.set_build_progress("orders", 149_999, 150_000, exact=True)
    until(page, "document.querySelector('#rows tr:nth-child(2)').textContent.includes('99 %')")
    status.set_index_state("orders", IndexState.SEEDED)
    until(page, "document.querySelector('#rows tr:nth-child(2)').textContent.includes('seeded')")
    assert table.get_by_role("progressbar").count() == 1


def test_folded_rows_are_still_a_table_with_names_beside_the_values(screen: Screen) -> None:
    page = screen.open(screen.serve(calm()), 360, 740)
    table = page.get_by_role("table", name="Indexes")
    assert table.get_by_role("rowheader").all_inner_texts() == ["users", "orders", "products"]
    assert table.get_by_role("columnheader").count() == 7
    label = "getComputedStyle(document.querySelector('#rows td.number'), '::before').content"
    assert page.evaluate(label) == '"Documents"'


def test_the_chart_is_told_in_words_and_walked_by_keyboard(screen: Screen) -> None:
    page = screen.open(screen.serve(calm()))
    plot = page.get_by_role("img", name="Lag, now")
    assert "at most 410 ms" in plot.get_attribute("aria-label")
    moment = page.get_by_role("slider", name="A moment of the last hour")
    moment.focus()
    page.keyboard.press("ArrowLeft")
    first = moment.get_attribute("aria-valuetext")
    assert first.endswith(" ms") and text(page, "reading") == first
    page.keyboard.press("Home")
    assert text(page, "reading") == moment.get_attribute("aria-valuetext") != first
    page.get_by_role("radio", name="Lag").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="WAL behind").is_checked()
    assert page.get_by_role("img", name="WAL behind, now").count() == 1
    box = page.locator("#chart").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator("#plot .spot").count() == 1
    assert text(page, "reading").endswith(" kB")


def test_a_young_daemon_says_that_points_are_on_their_way(screen: Screen) -> None:
    page = screen.open(screen.serve(SCENES["beginning"]()))
    assert "first are on their way" in text(page, "chart-empty")
    assert page.get_by_role("slider").count() == 0


def test_landmarks_headings_and_what_is_told_aloud(screen: Screen) -> None:
    page = screen.open(screen.serve(building(), Operator()))
    assert page.get_by_role("main").count() == 1 and page.get_by_role("banner").count() == 1
    assert page.get_by_role("heading", level=1).inner_text().strip() == "flusso-sync"
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings == ["Building", "Flow", "Indexes", "The last hour", "Lately", "Inside"]
    for region in ("Flow", "Indexes", "The last hour", "Lately"):
        assert page.get_by_role("region", name=region).count() == 1, region
    assert "Building" in page.get_by_role("status").first.inner_text()
    nameless = """[...document.querySelectorAll("button, input, a[href], summary, progress, [role=img]")]
        .filter((n) => n.checkVisibility())
        .filter((n) => !(n.getAttribute("aria-label") || n.labels?.length || n.textContent.trim()))
        .map((n) => n.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.evaluate("document.documentElement.lang") == "en"


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(screen: Screen) -> None:
    page = screen.open(screen.serve(building(), Operator()))
    reached: List[str] = []
    for _ in range(13):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(n => n.getAttribute('aria-label') || n.labels?.[0]?.textContent || n.textContent.trim())"
                "(document.activeElement)"
            )
        )
        seen = "getComputedStyle(document.activeElement.closest('label, .chart') ?? document.activeElement)"
        box = page.evaluate("document.activeElement.getBoundingClientRect().width")
        assert box > 0 and page.evaluate(f"{seen}.visibility") == "visible", reached[-1]
    assert reached[:9] == [
        "Skip to the indexes",
        "Rebuild: users",
        "Retry parked: users",
        "Verify: users",
        "Roll back: users",
        "Rebuild: orders",
        "Rebuild: products",
        "Lag",
        "A moment of the last hour",
    ]
    assert "Inside" in reached[9:]
    page.locator("#inside > summary").focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("heading", name="Threads").is_visible()
    assert "flusso-engine" in text(page, "threads") and "9 GB" in text(page, "source")


def test_an_action_asks_first_and_escape_means_no(screen: Screen) -> None:
    operator = Operator()
    page = screen.open(screen.serve(building(), operator))
    button = page.get_by_role("button", name="Rebuild: users")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Rebuild users?")
    assert "Readers keep the present one" in dialog.inner_text()
    assert page.evaluate("document.activeElement.textContent") == "Cancel", "Enter alone changes nothing"
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Rebuild: users"
    assert operator.asked == [] and not [url for method, url in screen.requests if method == "POST"]

    # The row stays the same over answers: focus is where it was.
    before = len(screen.requests)
    wait_for(lambda: len(screen.requests) > before + 1 or page.wait_for_timeout(100), 30)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Rebuild: users"

    button.click()
    dialog.get_by_role("button", name="Rebuild").click()
    page.get_by_text("reindex of users queued").wait_for()
    assert operator.asked == [("reindex", "users")]
    assert screen.complaints == []


def test_answers_and_refusals_are_told_as_the_daemon_says_them(screen: Screen) -> None:
    page = screen.open(screen.serve(building(), Operator()))
    page.get_by_role("button", name="Retry parked: users").click()
    assert "3 parked documents of it will be read again" in page.get_by_role("dialog").inner_text()
    page.get_by_role("dialog").get_by_role("button", name="Retry parked").click()
    page.get_by_text("3 of 3 parked documents of index users are right now").wait_for()
    page.get_by_role("button", name="Roll back: users").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    page.get_by_text("sink search keeps no former generation of index users").wait_for()
    assert page.locator("#toast").get_attribute("data-bad") is not None
    assert page.get_by_role("button", name="Roll back: orders").count() == 0, "nothing is kept of it"


def test_a_proof_is_asked_for_and_what_it_found_stands_in_the_row(screen: Screen) -> None:
    status, operator = calm(), Operator()
    page = screen.open(screen.serve(status, operator))
    page.get_by_role("button", name="Verify: users").click()
    assert (
        "Every row is read and compared" in page.get_by_role("dialog", name="Compare users with its rows?").inner_text()
    )
    page.get_by_role("dialog").get_by_role("button", name="Verify").click()
    page.get_by_text("index users is compared with its rows").wait_for()
    assert operator.asked == [("verify", "users")]
    said: Dict[str, Any] = {"state": "running", "ended": None, "seen": 400, "total": 1000, "found": 0}
    status.set_fact("verify.users", said)
    page.get_by_text("Is compared with its rows: 40 %, 0 differences so far").wait_for()
    ended = {**said, "state": "wrong", "ended": "2026-01-02T03:04:05Z", "found": 1, "compared": 500, "notes": []}
    status.set_fact(
        "verify.users", {**ended, "differences": [{"id": "7", "kind": "different", "path": "items[0].price"}]}
    )
    page.get_by_text("1 difference in 500 documents · 7 different at items[0].price").wait_for()
    assert page.evaluate(FAINT) == []
    status.set_fact("configuration.waits_for_restart", ["source.slot"])
    page.get_by_text("a restart takes over source.slot").wait_for()
    assert screen.complaints == []


def test_a_restart_of_the_daemon_is_survived_without_a_reload(screen: Screen) -> None:
    surface = screen.serve(calm())
    page = screen.open(surface)
    page.evaluate("window.same = true")
    surface.stop(2)
    until(page, "document.getElementById('phase').textContent === 'No answer'")
    assert "may be restarting" in text(page, "sentence")
    assert page.get_by_role("rowheader").all_inner_texts() == ["users", "orders", "products"], "what it said last"
    fresh = Status(["users", "orders"])
    fresh.set_phase(Phase.LIVE)
    fresh.set_index_state("users", IndexState.SEEDED)
    screen.serve(fresh, port=surface.port)
    until(page, "document.getElementById('phase').textContent === 'Live'")
    until(page, "document.querySelectorAll('#rows tr').length === 2")
    assert page.evaluate("window.same") and "up 0 ms" not in text(page, "where")
    assert page.evaluate("document.body.dataset.stale === undefined")
    said = [line for line in screen.complaints if "ERR_CONNECTION" not in line]
    assert said == []


def test_what_the_status_says_is_text_whatever_stands_in_it(screen: Screen) -> None:
    evil = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    status = Status([evil])
    status.set_phase(Phase.LIVE)
    status.set_index_state(evil, IndexState.DRIFTED, reason=evil, todo=evil)
    status.trouble(evil, evil, evil, blocking=True)
    status.set_gap(evil)
    status.set_fact("slot", {"name": evil, "wal_status": evil})
    status.set_figures("sinks", lambda: {evil: {"waiting": 0, "requests_in_flight": 0, "concurrency": 1, "written": 0}})
    page = screen.open(screen.serve(status, Operator()))
    assert page.get_by_role("rowheader").inner_text() == evil
    assert page.locator("#rows img, #troubles img, #sinks img, #events img, #where img").count() == 0
    assert "taken" not in page.title()
    assert [line for line in screen.complaints if "Content Security" in line] == []


def test_the_page_of_a_running_daemon(screen: Screen) -> None:
    """The real thing behind it, with a third party's source: figures appear as the pipeline makes them."""
    lives = Lives({f"k{number}": "1" for number in range(40)}, changes(200))
    status = Status()
    with Daemon(config(), lives).with_status(status).background():
        page = screen.open(screen.serve(status))
        until(page, "document.getElementById('phase').textContent === 'Live'")
        row = page.get_by_role("row", name="things")
        expected = f"{len(lives.expected)}"
        wait_for(lambda: status.snapshot().changes_committed == 200)
        until(page, "document.querySelector('#rows td.number').textContent !== '–'")
        wait_for(lambda: row.get_by_role("cell").all_inner_texts()[1] == expected or page.wait_for_timeout(200), 40)
        assert "one" in text(page, "sinks") and "0 waiting" in text(page, "sinks")
        assert "build" in text(page, "engine-stages")


def test_the_surface_that_needs_a_password_shows_nothing_without_it(screen: Screen) -> None:
    surface = screen.serve(calm(), Operator())
    context = screen.browser.new_context()
    screen.contexts.append(context)
    page = context.new_page()
    answer = page.request.get(f"http://{surface.address}/")
    assert answer.status == 401 and "flusso-sync" not in answer.text()
    header = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert page.request.get(f"http://{surface.address}/", headers={"Authorization": header}).ok

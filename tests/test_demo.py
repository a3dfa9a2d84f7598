"""``bin/demo``: a page on which rows become documents, and nothing left behind, however it is ended."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

import psycopg
import pytest

from demo.__main__ import Failed, Stopped, _cancelled, _psql, _sentence, _serve
from demo.documents import Documents
from demo.page import Behind, page_app
from demo.settings import copy_etc
from flusso_sync.config.models import OpenSearchSink
from flusso_sync.errors import SinkUnavailable
from tests.fix_daemon import CHECKOUT, clean_environment
from tests.fix_opensearch import call
from tests.fix_pg import unavailable
from tests.postgres_server import Database, NoPostgres, find_binaries
from tests.test_dashboard import CUT_OFF, FAINT
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.slow]

START_SECONDS = 120.0
PATIENCE_MILLIS = 60_000


class Demo:
    """One running demo."""

    def __init__(
        self, folder: Path, *arguments: str, checkout: Path = CHECKOUT, umask: int = 0o022, **environ: str
    ) -> None:
        self.output = folder / "output"
        command = [str(checkout / "bin" / "demo"), "--no-browser", "--port", "0", "--users", "60", *arguments]
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(TMPDIR=str(folder), DATABASE_URL="postgresql://nobody@nowhere/none", **environ),
                start_new_session=True,
                preexec_fn=lambda: os.umask(umask) and None,
            )

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def address(self) -> str:
        """``host:port`` of the page; waits until it is told."""

        def told() -> Optional[str]:
            assert self.process.poll() is None, self.said
            found = re.search(r"Open +http://(\S+)/ ", self.said)
            return found[1] if found else None

        address: str = wait_for(told, START_SECONDS, "the address of the page")
        return address

    def ask(self, path: str, what: Any = None, **headers: str) -> Tuple[int, Any]:
        """The answer to a GET, or to a POST of ``what``."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        with contextlib.closing(connection):
            if what is None:
                connection.request("GET", path, headers=headers)
            else:
                connection.request("POST", path, json.dumps(what), {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")

    def state(self) -> Any:
        return self.ask("/state")[1]

    def stop(self, number: int = signal.SIGINT) -> None:
        """As by Ctrl-C; it must end well, and every process of it."""
        children = descendants(self.process.pid)
        self.process.send_signal(number)
        assert self.process.wait(60) == 0, self.said
        assert len(children) >= 3, "Postgres and its own, flussod"
        assert [pid for pid in children if alive(pid)] == []

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def folder_for_all(name: str) -> Iterator[Path]:
    """A folder with a space in its name that every user may enter."""
    try:
        find_binaries()
    except NoPostgres as error:
        unavailable(str(error))
    folder = Path("/tmp") / f"flusso {name} {os.getpid()}"
    folder.mkdir()
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where demos keep their files."""
    with folder_for_all("demo") as folder:
        yield folder


@pytest.fixture(scope="module")
def shown() -> Iterator[Demo]:
    """One demo for every test in a browser."""
    with folder_for_all("page") as folder:
        demo = Demo(folder)
        try:
            yield demo
            demo.stop()
        finally:
            demo.kill()


@pytest.fixture
def started(place: Path) -> Iterator[List[Demo]]:
    """Demos put in here do not outlive the test."""
    demos: List[Demo] = []
    yield demos
    for demo in demos:
        demo.kill()


def descendants(pid: int) -> Set[int]:
    parents: Dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    found: Set[int] = set()
    todo = {pid}
    while todo:
        todo = {child for child, parent in parents.items() if parent in todo}
        found |= todo
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def checkout_with_spaces(folder: Path) -> Path:
    """A copy of what ``bin/demo`` needs of this checkout; its environment is ours."""
    checkout = folder / "a check out"
    checkout.mkdir()
    for name in ("bin", "demo", "etc", "examples", "flusso_sync"):
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite*"))
    (checkout / "tests").mkdir()
    for file in ("tests/__init__.py", "tests/postgres_server.py", "setup.cfg", "pyproject.toml"):
        shutil.copy(CHECKOUT / file, checkout / file)
    (checkout / ".venv").symlink_to((CHECKOUT / ".venv").resolve())
    return checkout


def test_ctrl_c_leaves_nothing_also_under_a_path_with_spaces(place: Path, started: List[Demo]) -> None:
    checkout = checkout_with_spaces(place)
    demo = Demo(place, checkout=checkout)
    started.append(demo)
    assert demo.ask("/search?q=lamp")[1]["documents"]
    assert demo.state()["daemon"]["running"]

    demo.stop()

    assert "nothing is left behind" in demo.said
    assert sorted(path.name for path in place.iterdir()) == ["a check out", "output"]


def test_what_is_kept_is_gone_on_with(place: Path, started: List[Demo]) -> None:
    # As root the server is another user's, who must be able to reach it all the same.
    kept = place / "to be" / "kept"
    first = Demo(place, "--keep", str(kept), umask=0o077)
    started.append(first)
    status, entry = first.ask("/change", {"kind": "add_note", "id": 1, "value": "Behind the waterfall."})
    assert (status, entry["kind"]) == (200, "add_note")
    wait_for(lambda: first.ask("/search?q=waterfall&index=orders")[1]["documents"], 60, "the note is found")
    (place / "beside").mkdir()
    beside = Demo(place / "beside", "--keep", str(kept))
    started.append(beside)
    assert beside.process.wait(60) == 1
    assert beside.said.split("\n") == [
        "",
        f"bin/demo: another demo runs in {kept}; end it first, or name another folder",
        "",
    ]
    assert first.state()["postgres"]["running"]
    first.stop(signal.SIGTERM)

    second = Demo(place, "--keep", str(kept))
    started.append(second)
    (found,) = second.ask("/search?q=waterfall&index=orders")[1]["documents"]
    assert (found["index"], found["id"]) == ("orders", "1")
    with urllib.request.urlopen(second.state()["daemon"]["dashboard"] + "status", timeout=30) as answer:
        # At most what was not confirmed yet is written again.
        assert json.load(answer)["documents_built"] < 10, "nothing is built anew"
    second.stop()
    assert (kept / "etc" / "flusso.sqlite").exists()


def test_a_folder_of_somebody_else_is_not_taken(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "letter").write_text("dear")
    demo = Demo(place, "--keep", str(place / "mine"))
    assert demo.process.wait(60) == 1
    assert "holds something that is not of a demo" in demo.said
    assert [path.name for path in (place / "mine").iterdir()] == ["letter"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--keep", "{}/letter"], 1, "bin/demo: {}/letter is a file; name an empty folder, or a new one"),
        (["--keep", "{}/letter/box"], 1, "bin/demo: {}/letter/box cannot be used: Not a directory"),
        (["--opensearch", "https://search", "--ca-file", "{}/ca"], 1, "bin/demo: there is no file {}/ca;"),
        (["--ca-file", "{}/letter"], 2, "--ca-file goes with --opensearch"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(place: Path, arguments: List[str], code: int, sentence: str) -> None:
    (place / "letter").write_text("dear")
    demo = Demo(place, *(one.format(place) for one in arguments))
    assert demo.process.wait(60) == code
    assert sentence.format(place) in demo.said and "Traceback" not in demo.said


def test_whatever_goes_wrong_is_one_line() -> None:
    assert _sentence(OSError(errno.ENOSPC, "No space left on device", "/tmp/x")) == "/tmp/x: No space left on device"
    assert _sentence(psycopg.OperationalError("gone\nfor good")) == "Postgres says: gone"


def test_a_port_that_is_taken_is_named(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Failed, match=f"{port}.*; name another one with --port"):
            _serve(port, behind(None), threading.Event())


def test_ctrl_c_ends_a_statement_that_fills_the_shop(database: Database) -> None:
    stop = threading.Event()
    with database.connect() as connection, pytest.raises(Stopped), _cancelled(connection, stop):
        stop.set()
        connection.execute("SELECT pg_sleep(600)")


def test_a_psql_that_is_not_on_the_path_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert _psql(tmp_path) == "psql", "nothing better is known"
    beside = tmp_path / "some where"
    beside.mkdir()
    (beside / "psql").touch(0o755)
    assert _psql(beside) == f"'{beside}/psql'"
    monkeypatch.setenv("PATH", str(beside))
    assert _psql(beside) == "psql"


def test_a_cluster_with_an_authority_of_its_own(tmp_path: Path) -> None:
    documents = Documents(str(copy_etc(tmp_path, "https://search.example.com", tmp_path / "our own.pem")))
    (sink,) = documents.config.sinks.values()
    assert isinstance(sink, OpenSearchSink) and sink.ca_file == str(tmp_path / "our own.pem")
    documents.close()


def behind(documents: Optional[Documents]) -> Any:
    """A page over nothing but ``documents``."""
    nothing: Any = None
    url = "postgresql://nobody@127.0.0.1:1/none"
    return Behind(url, nothing, nothing, documents or nothing, nothing, nothing, nothing, nothing)


def test_an_index_that_is_away_is_no_index_without_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = Documents(str(copy_etc(tmp_path, None)))

    def away(*_: Any) -> Any:
        raise SinkUnavailable("gone", in_doubt=False)

    monkeypatch.setattr(documents._sink, "search", away)
    monkeypatch.setattr(documents._sink, "get_many", away)
    client = page_app(behind(documents), {"localhost"}).test_client()
    assert client.get("/search?q=lamp").get_json() == {"documents": [], "away": True}
    one = client.get("/document?index=orders&id=1").get_json()
    assert (one["document"], one["away"], one["tables"]) == (None, True, None)
    monkeypatch.setattr(documents._sink, "get_many", lambda *_: {})
    assert client.get("/document?index=orders&id=1").get_json()["away"] is False
    documents.close()


def test_the_page_is_for_this_machine_and_its_own_requests(place: Path, started: List[Demo]) -> None:
    demo = Demo(place)
    started.append(demo)
    here = f"http://{demo.address}"
    change = {"kind": "rename_user", "id": 1, "value": "Mallory"}

    def refused(code: int, path: str, what: Any = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        assert demo.ask(path, what, **named)[0] == code

    refused(403, "/state", Host="demo.example.com")
    refused(403, "/change", change, Host="demo.example.com")
    refused(403, "/change", change, Origin="http://evil.example.com")
    refused(403, "/change", change, Origin="null")
    refused(403, "/end", {"what": "postgres"}, Sec_Fetch_Site="cross-site")
    refused(415, "/change", change, Content_Type="text/plain")
    refused(405, "/end")
    refused(400, "/change", {"kind": "drop_everything"})
    refused(400, "/change", {"kind": "set_price", "id": 1, "value": "a lot"})
    refused(400, "/change", {"kind": "rename_user", "id": "1; DROP TABLE users", "value": "x"})
    refused(400, "/change", {"kind": "delete_item", "id": 999_999_999})
    assert demo.ask("/document?index=users&id=1")[1]["document"]["name"] == "Ada Hopper"
    assert demo.ask("/change", change, Origin=here, **{"Sec-Fetch-Site": "same-origin"})[0] == 200
    wait_for(
        lambda: demo.ask("/document?index=users&id=1")[1]["document"]["name"] == "Mallory", 60, "what may be, happens"
    )
    connection = http.client.HTTPConnection(demo.address, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        headers = connection.getresponse().headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    demo.stop()


@pytest.mark.opensearch
def test_the_same_over_a_cluster_which_is_left_as_it_was(place: Path, started: List[Demo], opensearch: str) -> None:
    def ours() -> List[str]:
        return [name for name in call(opensearch, "GET", "/_all?expand_wildcards=all") if "flusso_demo_" in name]

    demo = Demo(place, "--opensearch", opensearch)
    started.append(demo)
    found = demo.ask("/search?q=chair&index=orders")[1]["documents"]
    assert found, "words inside items are found"
    assert ours()
    status, entry = demo.ask("/change", {"kind": "rename_product", "id": 2, "value": "Walnut throne"})
    assert status == 200
    wait_for(lambda: demo.state()["feed"][0]["found_ms"], 60, "the change is found")
    assert "1" in [one["id"] for one in demo.ask("/search?q=thro&index=orders")[1]["documents"]]
    demo.stop()
    assert ours() == []


class Page:
    """The page in Chromium, used as a person would."""

    def __init__(self, browser: Any, address: str, width: int = 1600, height: int = 1000) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.context.set_default_timeout(PATIENCE_MILLIS)
        self.page = self.context.new_page()
        self.complaints: List[str] = []
        self.foreign: List[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        self.page.on("request", lambda one: one.url.startswith(f"http://{address}/") or self.foreign.append(one.url))
        self.page.goto(f"http://{address}/")

    def until(self, what: str, **by: Any) -> Any:
        """The first node that fits the selector ``what`` (and has the text)."""
        node = self.page.locator(what, **by).first
        node.wait_for(state="visible")
        return node

    def search(self, words: str, index: str = "") -> None:
        self.page.locator(f"input[name=which][value='{index}']").check(force=True)
        self.page.locator("#words").fill(words)

    def choose(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).first.click()
        self.until("#rows-title", has_text=re.compile(rf"Rows of {name}$"))

    def act(self, kind: str, value: Optional[str] = None, row: str = "") -> None:
        form = self.page.locator(f"{row} form[data-kind={kind}]").first
        if value is not None:
            form.locator("input, select").first.fill(value)
        form.locator("button").click()

    def told(self, title: str) -> Any:
        """The newest entry, when it has that title and was found."""
        return self.until("#feed > li:first-child:has(.ms)", has_text=title)

    def tab_to(self, what: str) -> Any:
        """Press Tab until the focus is on what fits the selector."""
        for _ in range(80):
            self.page.keyboard.press("Tab")
            if self.page.locator(f"{what}:focus").count():
                return self.page.locator(":focus")
        raise AssertionError(f"no Tab leads to {what}")

    def has_focus(self, what: str) -> bool:
        return bool(self.page.locator(f"{what}:focus").count())


@pytest.fixture
def open_page(browser: Any, shown: Demo) -> Iterator[Callable[..., Page]]:
    pages: List[Page] = []

    def open_one(**how: Any) -> Page:
        pages.append(Page(browser, shown.address, **how))
        return pages[-1]

    yield open_one
    for page in pages:
        page.context.close()


@pytest.mark.browser
@pytest.mark.fault
def test_a_newcomer_types_changes_breaks_and_proves(open_page: Callable[..., Page], shown: Demo) -> None:
    shop, demo = open_page(), shown

    shop.search("lamp", "orders")
    shop.until(".card mark", has_text="lamp")
    shop.search("hopp", "users")
    shop.until(".card mark", has_text="Hopp")
    shop.choose("users/1")
    shop.act("rename_user", "Ada Lovelace")
    renamed = shop.told("Rename a customer").inner_text()
    assert "users/1 is the row's own document" in renamed and "orders/1 shows it in user" in renamed
    assert re.search(r"found after [\d.]+ m?s", renamed)
    shop.until(".card[data-chosen]", has_text="Ada Lovelace")

    shop.search("oak chair", "orders")
    shop.choose("orders/1")
    shop.act("move_item", "2")
    moved = shop.told("Move an item").inner_text()
    assert "orders/1 shows it in items" in moved and "orders/2 has it now, in items" in moved
    wait_for(lambda: shop.page.locator("form[data-kind=delete_item]").count() == 1, 60, "the other item is left")
    shop.act("delete_item")
    deleted = shop.told("Delete an item").inner_text()
    assert "orders/1 shows it in items" in deleted
    card = shop.page.locator(".card[data-chosen] .tree").first
    wait_for(lambda: "quantity" not in card.inner_text(), 60, "the document without items")

    shop.act("truncate_notes")
    shop.told("TRUNCATE notes")
    shop.until(".card[data-chosen] .none", has_text="none")

    shop.search("lamp", "products")
    shop.choose("products/1")
    shop.act("remove_tag")
    assert "products/1 shows it in tags" in shop.told("Remove a tag").inner_text()
    wait_for(lambda: shop.page.locator("form[data-kind=delete_tag]").count() == 1, 60, "the other tag is left")
    shop.act("delete_tag")
    assert "shows it in tags" in shop.told("Delete a tag").inner_text()
    shop.until(".card[data-chosen] .none", has_text="none")

    shop.page.locator("#writer-switch").click()
    wait_for(lambda: demo.state()["writer"]["made"] > 100, 60, "a hundred changes")

    killed = demo.state()["daemon"]["pid"]
    shop.page.locator("#kill-daemon").click()
    shop.until("#daemon-word", has_text="Dead, back in")
    shop.act("set_price", "41.50")
    shop.until("#feed > li:first-child .chip", has_text="on its way")
    assert "41.50" in shop.told("Change a price").inner_text()
    assert demo.state()["daemon"]["pid"] != killed

    shop.page.locator("#stop-postgres").click()
    shop.until("#postgres-word", has_text="Stopped, back in")
    shop.search("chair", "products")
    shop.until(".card mark", has_text="chair")
    shop.until("#postgres-word", has_text="Running")
    shop.until("#daemon-word", has_text="Live")

    shop.page.locator("#writer-switch").click()
    shop.until("#writer-switch[aria-checked=false]")
    shop.page.locator("#verify").click()
    assert "0 differences between rows and" in shop.until("#proof[data-mood=good]").inner_text()

    assert shop.complaints == [] and shop.foreign == []


HEIGHTS = {360: 740, 800: 1000, 1280: 800, 1600: 1000, 3840: 2160}


@pytest.mark.browser
def test_everything_fits_and_can_be_read(open_page: Callable[..., Page]) -> None:
    """With ``FLUSSO_SCREENSHOTS=DIR`` every view is left there as a picture."""
    shop = open_page()
    shop.search("oak lamp")
    shop.until("#rows-title", has_text="Rows of ")
    shop.act("move_item")
    shop.told("Move an item")
    shop.page.locator("#verify").click()
    shop.until("#proof[data-mood=good]")
    # What flashes has done so.
    wait_for(lambda: not shop.page.locator("[data-flash]").count() or shop.page.wait_for_timeout(100), 30)
    folder = os.environ.get("FLUSSO_SCREENSHOTS")
    for width, height in HEIGHTS.items():
        shop.page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            shop.page.emulate_media(color_scheme=scheme)
            if folder:
                shop.page.screenshot(path=str(Path(folder) / f"demo-{width}-{scheme}.png"), full_page=True)
            assert shop.page.evaluate("document.documentElement.scrollWidth") <= width, (width, scheme)
            # What is written in a field may be longer than the field.
            cut_off = [node for node in shop.page.evaluate(CUT_OFF) if not node.startswith("INPUT")]
            assert cut_off == [], (width, scheme)
            assert shop.page.evaluate(FAINT) == [], (width, scheme)
        if width < 1600:
            rows, lately = (shop.page.locator(part).bounding_box() for part in (".work .rows", ".work .lately"))
            assert 0 <= lately["y"] - rows["y"] - rows["height"] < 60, (
                f"what changed is right below the rows at {width}"
            )
    assert shop.complaints == []


@pytest.mark.browser
@pytest.mark.fault
def test_everything_by_keyboard_alone_and_the_focus_stays(open_page: Callable[..., Page], shown: Demo) -> None:
    shop = open_page()
    shop.until(".card:nth-child(3)")
    shop.tab_to("#words")
    shop.page.keyboard.press("Control+A")
    shop.page.keyboard.type("chair")
    shop.until(".card:nth-child(3) mark", has_text="chair")
    name = shop.tab_to(".card:nth-child(3) .pick").inner_text()
    shop.page.keyboard.press("Enter")
    shop.until("#rows-title", has_text=f"Rows of {name}")
    shop.until(".card:first-child .pick[aria-pressed=true]", has_text=name)
    assert shop.has_focus(".card:first-child .pick"), "the card has moved, the focus with it"

    shop.tab_to("form[data-kind=rename_product] input")
    shop.page.keyboard.press("Control+A")
    shop.page.keyboard.type("Walnut chair")
    shop.page.keyboard.press("Enter")
    shop.told("Rename a product")
    assert shop.has_focus("form[data-kind=rename_product] input")
    rests = shop.page.locator("form [aria-disabled=true]")
    wait_for(lambda: not rests.count(), 30, "the button can be pressed again")
    shop.tab_to("form[data-kind=rename_product] button")
    shop.page.keyboard.press("Enter")
    shop.until("#feed > li:nth-child(2)", has_text="Rename a product")
    wait_for(lambda: not rests.count(), 30, "the button can be pressed again")
    assert shop.has_focus("form[data-kind=rename_product] button")

    shop.page.locator("#kill-daemon").focus()
    shop.page.keyboard.press("Enter")
    shop.until("#daemon-word", has_text="Dead, back in")
    assert shop.has_focus("#kill-daemon[aria-disabled=true]")
    starts = shown.state()["daemon"]["starts"]
    shop.page.keyboard.press("Enter")
    shop.until("#daemon-word", has_text="Live")
    assert shop.has_focus("#kill-daemon[aria-disabled=false]")
    assert shown.state()["daemon"]["starts"] == starts + 1, "the second time nothing was pressed"
    shop.tab_to("#verify")
    shop.page.keyboard.press("Enter")
    shop.until("#proof[data-mood=good]")
    assert shop.has_focus("#verify")
    assert shop.complaints == []


@pytest.mark.browser
def test_what_is_unfolded_keeps_the_focus_when_its_document_changes(
    open_page: Callable[..., Page], shown: Demo
) -> None:
    def of(id: int) -> Any:
        return shown.ask(f"/document?index=users&id={id}")[1]["document"]

    def is_long(document: Any) -> bool:
        return any(isinstance(value, list) and len(value) > 3 for value in document.values())

    id = next(id for id in range(4, 60) if is_long(of(id)))
    shop = open_page()
    shop.search(of(id)["email"], "users")
    shop.choose(f"users/{id}")
    summary = shop.until(".card[data-chosen] summary")
    summary.focus()
    shop.page.keyboard.press("Enter")
    assert shown.ask("/change", {"kind": "rename_user", "id": id, "value": "Emmy Noether"})[0] == 200
    shop.until(".card[data-chosen] h3", has_text="Emmy Noether")
    assert shop.has_focus(".card[data-chosen] details[open] > summary")
    # A row that is gone takes the focus from the button that removed it; it goes to the heading of the rows.
    shop.page.locator("form[data-kind=delete_order] button").first.focus()
    shop.page.keyboard.press("Enter")
    shop.told("Delete an order")
    wait_for(lambda: shop.has_focus("#rows-title"), 30)


@pytest.mark.browser
def test_in_one_column_choosing_leads_to_the_rows_and_changing_tells_what_was_found(
    open_page: Callable[..., Page],
) -> None:
    shop = open_page(width=360, height=740)
    shop.search("table", "orders")
    shop.until(".card:nth-child(2) mark", has_text="table")
    name = shop.until(".card:nth-child(2) .pick").inner_text()
    shop.choose(name)
    wait_for(lambda: -2 < shop.page.locator("#rows-title").bounding_box()["y"] < 100, 30)
    shop.act("rename_user", "Alan Turing")
    told = shop.until("#toast", has_text="found after").inner_text()
    assert re.match(r"found after [\d.]+ m?s: (users|orders)/\d+", told)


@pytest.mark.browser
def test_what_was_found_stays_while_the_index_is_away(open_page: Callable[..., Page]) -> None:
    shop = open_page()
    shop.search("table", "orders")
    shop.until(".card mark", has_text="table")
    before = shop.page.locator(".card h3").all_inner_texts()
    silent = json.dumps({"documents": [], "away": True})
    shop.page.route("**/search?*", lambda route: route.fulfill(body=silent, content_type="application/json"))
    shop.until("#found-note", has_text="the index does not answer; this is what it found last")
    shop.until("#index-word", has_text="No answer")
    assert shop.page.locator(".card h3").all_inner_texts() == before
    assert shop.page.evaluate(FAINT) == []
    shop.page.unroute("**/search?*")
    shop.until("#found-note", has_text="the best matches")
    wait_for(lambda: "No answer" not in shop.page.locator("#index-word").inner_text(), 30)

"""``bin/demo``: a page on which rows become documents, and nothing left behind, however it is ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import pytest

from tests.fix_daemon import CHECKOUT, clean_environment
from tests.fix_opensearch import call
from tests.fix_pg import unavailable
from tests.postgres_server import NoPostgres, find_binaries
from tests.waiting import wait_for

pytestmark = [pytest.mark.pg, pytest.mark.slow]

START_SECONDS = 120.0
PATIENCE_MILLIS = 60_000


class Demo:
    """One running demo."""

    def __init__(self, folder: Path, *arguments: str, checkout: Path = CHECKOUT, **environ: str) -> None:
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


@pytest.fixture
def place() -> Iterator[Path]:
    """Where demos keep their files: a folder with a space in its name that every user may enter."""
    try:
        find_binaries()
    except NoPostgres as error:
        unavailable(str(error))
    folder = Path("/tmp") / f"flusso demo {os.getpid()}"
    folder.mkdir()
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


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
    kept = place / "kept"
    first = Demo(place, "--keep", str(kept))
    started.append(first)
    status, entry = first.ask("/change", {"kind": "add_note", "id": 1, "value": "Behind the waterfall."})
    assert (status, entry["kind"]) == (200, "add_note")
    wait_for(lambda: first.ask("/search?q=waterfall&index=orders")[1]["documents"], 60, "the note is found")
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

    def __init__(self, browser: Any, address: str) -> None:
        self.context = browser.new_context(viewport={"width": 1600, "height": 1000})
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


@pytest.fixture
def page(browser: Any, place: Path, started: List[Demo]) -> Iterator[Tuple[Page, Demo]]:
    demo = Demo(place)
    started.append(demo)
    page = Page(browser, demo.address)
    yield page, demo
    page.context.close()
    demo.stop()


@pytest.mark.browser
@pytest.mark.fault
def test_a_newcomer_types_changes_breaks_and_proves(page: Tuple[Page, Demo]) -> None:
    shop, demo = page

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
    shop.act("delete_item")
    deleted = shop.told("Delete an item").inner_text()
    assert "orders/1 shows it in items" in deleted
    assert shop.page.locator(".card[data-chosen] .tree").first.inner_text().count("quantity") == 0

    shop.act("truncate_notes")
    shop.told("TRUNCATE notes")
    shop.until(".card[data-chosen] .none", has_text="none")

    shop.search("lamp", "products")
    shop.choose("products/1")
    shop.act("remove_tag")
    assert "products/1 shows it in tags" in shop.told("Remove a tag").inner_text()

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

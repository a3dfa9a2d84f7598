"""``python -m tests.pictures``: the picture of the README, taken of the real page while it runs, into docs/pictures."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.fix_browser import find_chromium
from tests.fix_daemon import CHECKOUT
from tests.test_demo import Demo, Page

PICTURES = CHECKOUT / "docs" / "pictures"


def take(folder: Path) -> None:
    """A search, a customer renamed, an item moved to another order."""
    demo = Demo(Path(folder), "--users", "500")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
            shop = Page(browser, demo.address)
            shop.page.set_viewport_size({"width": 1440, "height": 860})
            # The best match of what the page begins with is chosen.
            shop.until("#rows-title", has_text="Rows of orders/")
            shop.act("rename_user", "Ada Lovelace")
            shop.told("Rename a customer")
            shop.act("move_item")
            shop.told("Move an item")
            shop.search("lovela")
            shop.until(".card[data-chosen] mark", has_text="Lovela")
            shop.page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
            shop.page.wait_for_timeout(3000)
            PICTURES.mkdir(exist_ok=True)
            shop.page.screenshot(path=str(PICTURES / "demo.png"))
            browser.close()
        demo.stop()
    finally:
        demo.kill()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="flusso-pictures-", dir="/tmp") as place:
        Path(place).chmod(0o777)
        take(Path(place))
    sys.exit(0)

"""Fixture ``browser``: a real Chromium without a window, one for all tests of a run.

It is the machine's own (``FLUSSO_CHROMIUM`` names another), driven by playwright.  One that cannot be had skips the
test and names the cause; with ``CI=true`` it fails it.
"""

from __future__ import annotations

import os
import shutil
from typing import Any, Iterator, NoReturn, Optional

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def _cannot(why: str) -> NoReturn:
    sentence = f"no browser: {why}"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


def find_chromium() -> Optional[str]:
    """The program to start, None when there is none."""
    return os.environ.get("FLUSSO_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        _cannot("playwright is not installed (bin/setup --dev)")
    program = find_chromium()
    if program is None:
        _cannot("no chromium on the PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        try:
            # As root it has no sandbox; what it is shown here is our own page.
            started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except Error as error:
            _cannot(f"{program} does not start: {error}")
        yield started
        started.close()

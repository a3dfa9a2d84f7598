"""The manual: a site that builds strictly, pages made from the program that are current, examples that are true."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple
from xml.etree import ElementTree

import pytest
import yaml

from flusso_sync import Config, findings
from flusso_sync.cli.commands import COMMANDS
from flusso_sync.schema.language import parse_schema
from tests.manual import pages

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def blocks(language: str) -> List[Tuple[str, str]]:
    """Page and text of every block of a language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(page.name, text) for page in PAGES for text in pattern.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_page_made_from_the_program_is_current(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == pages()[name], "run: python -m tests.manual"


def build(source: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(source / "mkdocs.yml"), "-d", str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )


def test_the_site_is_built_and_needs_no_network(tmp_path: Path) -> None:
    built = build(CHECKOUT, tmp_path / "site")
    assert built.returncode == 0, built.stdout
    for page in PAGES:
        assert (tmp_path / "site" / page.with_suffix(".html").name).exists(), page
    for made in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?:[^\"]+)", made.read_text())
        assert loaded == [], made


@pytest.mark.parametrize("wrong", ["[x](nowhere.md)", "[x](sizing.md#nowhere)"])
def test_a_link_that_leads_nowhere_fails_the_site(tmp_path: Path, wrong: str) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(CHECKOUT / "mkdocs.yml", tmp_path)
    with open(tmp_path / "docs" / "index.md", "a", encoding="utf-8") as page:
        page.write(f"\n{wrong}\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0 and "nowhere" in built.stdout


def test_pictures_are_whole_and_load_nothing() -> None:
    pictures = sorted((DOCS / "pictures").glob("*.svg"))
    assert len(pictures) >= 3
    for picture in pictures:
        root = ElementTree.parse(picture).getroot()
        assert root.get("aria-label"), picture
        assert not re.search(r"href=|<script|<style", picture.read_text()), picture


def test_yaml_of_the_pages_is_read_by_the_loaders() -> None:
    seen = 0
    for page, text in blocks("yaml"):
        value = yaml.safe_load(text)
        if "table" in value:
            parse_schema(text, "example")
            seen += 1
        elif {"source", "sinks", "server", "engine", "backfill", "quarantine"} & set(value):
            source = {"type": "postgres", **value.get("source", {})}
            Config.from_mapping({**value, "source": source})
            seen += 1
        else:
            assert page in (), f"{page}: neither a configuration nor a schema file: {text}"
    assert seen >= 2


def test_commands_and_codes_that_are_named_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for command in re.findall(r"`flussod ([a-z]+)[ `]", text):
            assert command in COMMANDS, (page.name, command)
        for code in re.findall(r"\bFL\d{3}\b", text):
            assert code in findings.CODES, (page.name, code)


def test_each_runbook_is_led_to_by_an_alert_or_the_start_page() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    led = set(re.findall(r"runbooks\.md#([a-z-]+)", text))
    assert {"the-slot-grows", "lag", "a-gap", "the-quarantine-fills"} <= led
    assert "(runbooks.md)" in (DOCS / "index.md").read_text(encoding="utf-8")

"""``bin/release`` refuses what is no release, before it builds anything; this checkout builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.fix_pg import unavailable

CHECKOUT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="releases are made with git")


def git(checkout: Path, *arguments: str) -> None:
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=checkout, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One that is ready: version 1.2.3 and a changelog of today."""
    folder = tmp_path / "check out"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(CHECKOUT / "bin" / "release", folder / "bin" / "release")
    # Whatever comes after the checks has begun.
    (folder / "bin" / "setup").write_text("#!/bin/sh\necho 'the build begins' >&2\nexit 77\n")
    (folder / "bin" / "setup").chmod(0o755)
    (folder / "flusso_sync").mkdir()
    (folder / "flusso_sync" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## [1.2.3] - {time.strftime('%Y-%m-%d')}\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def said(checkout: Path, *arguments: str) -> str:
    command = [str(checkout / "bin" / "release"), *arguments]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    assert ran.returncode != 0
    return ran.stdout.decode()


def test_what_is_ready_is_built(checkout: Path) -> None:
    assert said(checkout) == "the build begins\n"


@pytest.mark.parametrize("heading", ["## [1.2.2] - 2024-01-01", "## [1.2.30] - 2024-01-01", "## [1.2.3]"])
def test_another_version_in_the_changelog_is_refused_also_dry(checkout: Path, heading: str) -> None:
    (checkout / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n## [1.2.3] - 2020-01-01\n")
    for arguments in ((), ("--dry-run",)):
        assert f"the version is 1.2.3, but CHANGELOG.md begins with '{heading}'" in said(checkout, *arguments)


@pytest.mark.parametrize("date", ["unreleased", "2020-01-01"])
def test_another_date_is_refused_but_dry(checkout: Path, date: str) -> None:
    (checkout / "CHANGELOG.md").write_text(f"## [1.2.3] - {date}\n")
    assert "set the date to" in said(checkout)
    assert said(checkout, "--dry-run") == "the build begins\n"


def test_files_not_committed_and_a_tag_that_exists_are_refused(checkout: Path) -> None:
    (checkout / "new").touch()
    assert "not committed" in said(checkout)
    (checkout / "new").unlink()
    git(checkout, "tag", "v1.2.3")
    assert "the tag v1.2.3 exists" in said(checkout)


@pytest.mark.slow
@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="what is released is what git knows")
def test_this_checkout_builds_and_passes_twine_check_and_check_manifest() -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FLUSSO_", "PYTHON"))}
    command = [str(CHECKOUT / "bin" / "release"), "--build"]
    ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    if b"cannot be had" in ran.stdout:
        unavailable(ran.stdout.decode())
    assert ran.returncode == 0, ran.stdout.decode()
    assert "would be right; nothing is kept" in ran.stdout.decode()

"""The sink that docs/sinks.md shows is taken from the page as it stands, keeps the contract, and serves a daemon."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping

import pytest

from flusso_sync.daemon import Daemon
from flusso_sync.errors import IndexMissing, SinkUnavailable
from flusso_sync.sinks.base import Sink
from tests.sink_contract import ME, MakeSink, SinkContract, plan, put
from tests.test_daemon import changes, config
from tests.third_party import ThirdParty

PAGE = Path(__file__).resolve().parent.parent / "docs" / "sinks.md"


def shown() -> Any:
    """The class of the page."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: Dict[str, Any] = {"__name__": "shown"}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["FolderSink"]


FolderSink = shown()


def read(folder: Path, index: str) -> Dict[str, Any]:
    """What a reader finds behind the link: id -> document."""
    documents = [json.loads(path.read_bytes()) for path in (folder / index).glob("*.json")]
    return {found["id"]: found["document"] for found in documents}


class TestContract(SinkContract):
    @pytest.fixture
    def make_sink(self, tmp_path: Path) -> Iterator[MakeSink]:
        self.folder = tmp_path / "documents"
        yield lambda: FolderSink("folder", str(self.folder))

    def read(self, sink: Sink, index: str) -> Dict[str, Any]:
        return read(self.folder, index)


def test_former_generations_go_and_readers_find_one_all_the_time(tmp_path: Path) -> None:
    sink = FolderSink("folder", str(tmp_path))
    sink.open(ME)
    sink.ensure([plan()])
    for round in range(3):
        number = sink.begin_build("users")
        sink.write([put("1", f"round{round}", build=True)])
        if round:
            assert read(tmp_path, "users")["1"]["name"] == f"round{round - 1}"
        sink.complete_build("users")
        assert read(tmp_path, "users")["1"]["name"] == f"round{round}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["users", f"users.{number}"]


def test_its_errors_are_those_of_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkUnavailable, match="sink folder"):
        FolderSink("folder", str(tmp_path / "file" / "below")).open(ME)
    sink = FolderSink("folder", str(tmp_path / "documents"))
    sink.open(ME)
    sink.ensure([plan()])
    sink.complete_build("users")
    (tmp_path / "documents" / "users.1").rmdir()
    assert sink.watch() == ["users"]
    with pytest.raises(IndexMissing):
        sink.write([put("1")])


def test_a_daemon_fills_it_and_keeps_it_right(tmp_path: Path) -> None:
    class Backends(ThirdParty):
        def sinks(self, config: Any, options: Any) -> Mapping[str, Sink]:
            return {"folder": FolderSink("folder", str(tmp_path))}

    backends = Backends({f"k{number}": "first" for number in range(300)}, changes(200))
    Daemon(config(), backends).start().run(threading.Event())
    assert read(tmp_path, "things") == backends.expected

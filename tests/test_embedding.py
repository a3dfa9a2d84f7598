"""What is public is what docs/embedding.md lists: each name with its signature, each error with what waiting does."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

import flusso_sync
import flusso_sync.testing
from flusso_sync import FlussoError, IndexState, Observer, Phase, RunningDaemon, Status, SyncStopped
from flusso_sync.backends import DefaultBackends
from flusso_sync.sinks.memory import MemorySink
from flusso_sync.testing import plugin

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "embedding.md").read_text(encoding="utf-8")

#: Classes whose methods are listed one by one.
WHOLE = (flusso_sync.Daemon, RunningDaemon, Observer, flusso_sync.testing.InMemory)


def rows() -> Iterator[List[str]]:
    """The rows of all tables of the page, as cells."""
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def listed() -> Dict[str, str]:
    """Name -> how the page writes it."""
    codes = [row[0].strip("` ") for row in rows()]
    return {re.split(r"\(", code)[0]: code for code in codes}


def written(name: str, thing: Any) -> str:
    """A callable as the page is to write it."""
    text = str(inspect.signature(thing)).replace("(self, ", "(").replace("(self)", "()")
    # Annotations are texts, some of them in quotes of their own; a default keeps its own.
    return name + re.sub(r"(?<=: |> )'([^']*)'", r"\1", text.replace('"', ""))


def public() -> Dict[str, Any]:
    found = {name: getattr(flusso_sync, name) for name in flusso_sync.__all__}
    found.update((name, getattr(flusso_sync.testing, name)) for name in flusso_sync.testing.__all__)
    found.update(DefaultBackends=DefaultBackends, MemorySink=MemorySink)
    found.update((name, getattr(plugin, name)) for name in vars(plugin) if name.startswith("flusso_"))
    for owner in WHOLE:
        for name, thing in vars(owner).items():
            if not name.startswith("_") and (inspect.isfunction(thing) or isinstance(thing, property)):
                found[f"{owner.__name__}.{name}"] = thing
    # It is listed by its methods alone.
    del found["RunningDaemon"], found["Observer"]
    return found


def test_the_page_lists_all_that_is_public_and_nothing_else() -> None:
    assert sorted(listed()) == sorted(public())


def test_signatures_of_the_page_are_those_of_the_code() -> None:
    things = public()
    signed = {name: code for name, code in listed().items() if "(" in code}
    assert len(signed) > 30
    for name, code in signed.items():
        assert code == written(name, things[name])
    functions = {name for name, thing in things.items() if inspect.isfunction(thing)}
    assert functions <= set(signed), "every function is listed with its signature"


@pytest.mark.parametrize("name", sorted(name for name in public() if name not in ("IndexName", "__version__")))
def test_what_is_public_says_what_it_does_and_is_typed(name: str) -> None:
    thing = public()[name]
    if name.startswith("flusso_"):
        assert (getattr(plugin, name).__doc__ or "").strip()
        return
    # A class's own text, not one that it inherits.
    assert (thing.__doc__ or "").strip()
    if inspect.isfunction(thing):
        parameters = inspect.signature(thing).parameters.values()
        missing = [one.name for one in parameters if one.name != "self" and one.annotation is one.empty]
        assert not missing and inspect.signature(thing).return_annotation is not inspect.Signature.empty


def test_each_error_is_listed_with_what_waiting_does_and_its_exit_code() -> None:
    errors: Dict[str, Tuple[str, str]] = {}
    for name in flusso_sync.__all__:
        thing = getattr(flusso_sync, name)
        if isinstance(thing, type) and issubclass(thing, FlussoError):
            code = "1, or that of its cause" if thing is SyncStopped else str(thing.exit_code)
            errors[name] = ("yes" if thing.transient else "no", code)
    shown = {row[0].strip("`"): (row[1], row[2]) for row in rows() if row[0].strip("`") in errors}
    assert shown == errors


def test_states_and_reading_methods_of_the_page_are_there() -> None:
    cells = {row[0].strip("`"): row[-1] for row in rows()}
    assert re.findall(r"`(\w+)`", cells["Phase"]) == [phase.value for phase in Phase]
    assert re.findall(r"`(\w+)`", cells["IndexState"]) == [state.value for state in IndexState]
    for name in re.findall(r"`(\w+)", cells["Status"]):
        assert hasattr(Status, name)
    for name in re.findall(r"`(\w+)`", cells["PostgresServer"]):
        assert hasattr(flusso_sync.testing.PostgresServer, name)
    for name in re.findall(r"`(\w+)`", cells["RunningDaemon.sinks"].partition(":")[2]):
        assert hasattr(flusso_sync.Sink, name)
    fields = {field.name for field in dataclasses.fields(flusso_sync.BatchStats)}
    assert set(re.findall(r"`(\w+)`", cells["BatchStats"])) <= fields

"""The list of guards and of the tests that fail without them is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.guards import GUARDS, PROOFS

#: Those that issue 7 names.
NAMED = {
    "old-tuple use",
    "TRUNCATE handling",
    "identity management",
    "lock-before-snapshot",
    "visibility",
    "fan-out storing",
}

PAIRS = [(guard, test) for guards in PROOFS.values() for guard, test in guards.items()]


@pytest.mark.parametrize("guard, test", PAIRS, ids=[guard for guard, _ in PAIRS])
def test_a_guard_has_a_test_that_switches_it_off(guard: str, test: str) -> None:
    assert guard in GUARDS and GUARDS[guard].__doc__
    file, name = test.split("::")
    source = (Path(__file__).parent / file).read_text()
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    said = "".join(ast.get_source_segment(source, node) or "" for node in (function, *function.decorator_list))
    named = f'"{guard}"' in said or ("GUARD" in said and f'GUARD = "{guard}"' in source)
    assert named, f"{test} does not switch {guard} off"


def test_every_guard_of_the_promises_is_listed() -> None:
    assert NAMED <= PROOFS.keys()
    listed = {guard for guards in PROOFS.values() for guard in guards}
    off = {name for name, guard in GUARDS.items() if re.match("(Promise|The guard) [^:]* off", guard.__doc__ or "")}
    assert len(off) > 8
    assert off <= listed, "name the test that fails without them in PROOFS of tests/guards.py"

"""The random-history machine: fifty histories end right, and it finds what a guard switched off lets through.

``bin/test histories`` carries out any other: ``--seed N`` the one that a failure here names, ``--count 1000`` many.
"""

from __future__ import annotations

from collections import Counter
from typing import Iterator, Optional, Sequence

import pytest

from tests.faults.rig import LONG
from tests.fix_opensearch import Node
from tests.machine import __main__ as machine
from tests.machine.__main__ import carry_out, told
from tests.machine.draws import FAULTS, History, history
from tests.machine.forks import warm_up
from tests.machine.servers import POSTGRES, Servers
from tests.places import LIVE_PLACES, PLACES, owner_of
from tests.postgres_server import PostgresServer

#: Histories of the default run, and how many are one test.
HISTORIES, TOGETHER = 50, 5


@pytest.fixture(scope="module")
def servers(
    postgres: PostgresServer, opensearch: str, opensearch_node: Optional[Node], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    warm_up()
    postgres.start()
    postgres.set(**POSTGRES)
    shared = Servers(postgres, opensearch_node, opensearch, tmp_path_factory.mktemp("histories"))
    yield shared
    shared.close()
    postgres.set(**{name: None for name in POSTGRES})


def test_a_number_gives_the_same_history_always_and_another_number_another() -> None:
    assert history(7) == history(7)
    assert len({repr(history(number)) for number in range(10)}) == 10


def test_every_place_is_a_function_of_the_package() -> None:
    for place in (*PLACES.values(), *LIVE_PLACES.values()):
        assert callable(getattr(owner_of(place), place.name))


def test_every_kind_of_step_place_and_fault_comes_up() -> None:
    drawn = [history(number) for number in range(1, 101)]
    steps = Counter(step.what for one in drawn for step in one.steps)
    asked = {"start", "stop", "kill", "arm", "wait", "reindex", "rollback", "change schema", "disable", "drop slot"}
    assert asked | {"crash", "restart", "mended", *FAULTS} <= steps.keys()
    assert {*PLACES, *LIVE_PLACES} == {life.place for one in drawn for life in one.lives if life.place}
    statements = Counter(step.detail[0].split()[0] for one in drawn for step in one.steps if step.what == "run")
    assert {"INSERT", "UPDATE", "DELETE", "TRUNCATE", "VACUUM"} <= statements.keys()
    assert {"BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "ROLLBACK"} <= statements.keys()
    # Of two clients, whose transactions are open at the same time.
    assert all({"client 1", "client 2"} <= {step.who for step in one.steps} for one in drawn)


def test_what_differs_is_told_with_its_steps_and_seed_and_narrowed_to_the_steps_that_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = history(3)
    needed = [drawn.steps[5], drawn.steps[-2]]

    def differs(servers: object, drawn: History, *rest: object) -> Optional[str]:
        return "different" if all(step in drawn.steps for step in needed) else None

    monkeypatch.setattr(machine, "carry_out", differs)
    few = machine.narrowed(None, drawn, (), 60.0)  # type: ignore[arg-type]
    # The first step, which starts the daemon, always stays.
    assert all(step in few.steps for step in needed) and len(few.steps) <= 3
    text = told(few, "different")
    assert all(str(step) in text for step in few.steps) and "bin/test histories --seed 3" in text


@pytest.mark.pg
@pytest.mark.opensearch
@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, HISTORIES, TOGETHER), ids=lambda first: f"{first}-{first + TOGETHER - 1}")
def test_histories_end_right(servers: Servers, first: int) -> None:
    counts: Counter[str] = Counter()
    for number in range(first, first + TOGETHER):
        drawn = history(number)
        found = carry_out(servers, drawn, (), counts)
        assert found is None, told(drawn, found)
    print(dict(counts))


#: Guards that few histories can do without; the default run shows it of the first one.
GUARDS = (
    "leave_identities_alone",
    "forget_old_tuples",
    "truncates_ignored",
    "slot_after_the_first_read",
    "confirm_before_durable",
)


@pytest.mark.pg
@pytest.mark.opensearch
@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("guard", GUARDS if LONG else GUARDS[:1])
def test_a_guard_switched_off_makes_a_difference_that_is_found(servers: Servers, guard: str) -> None:
    found = first_difference(servers, [guard], range(1, 300 if LONG else 40))
    assert found is not None, "the guard is off and no difference was found: the machine proves nothing"
    print(f"{guard} off: found by history {found}")


def first_difference(servers: Servers, guards: Sequence[str], numbers: Sequence[int]) -> Optional[int]:
    """The first of these histories that finds one."""
    for number in numbers:
        if carry_out(servers, history(number), guards, Counter()) is not None:
            return number
    return None

"""The ledger confirms a position only when everything up to it is durable."""

from __future__ import annotations

import random
import threading
from typing import List, Tuple

from hypothesis import given
from hypothesis import strategies as st

from flusso_sync.engine.ledger import Entry, Ledger


def test_a_position_is_confirmed_only_after_all_before_it() -> None:
    ledger = Ledger()
    first, second = ledger.open(10, 1), ledger.open(20, 1)
    second.release()
    assert ledger.confirmed == 0
    first.release()
    assert ledger.confirmed == 20


def test_a_part_of_a_large_transaction_confirms_nothing() -> None:
    ledger = Ledger(confirmed=5)
    ledger.open(None, 256).release()
    assert ledger.confirmed == 5
    ledger.open(40, 10).release()
    assert ledger.confirmed == 40


def test_an_idle_position_waits_for_the_work_before_it() -> None:
    ledger = Ledger()
    work = ledger.open(10, 3)
    work.hold(2)
    work.release()
    ledger.open(99, 0).release()
    assert ledger.confirmed == 0 and not ledger.worked_beyond(0)
    work.release(2)
    assert ledger.confirmed == 99 and ledger.worked_beyond(0) and not ledger.worked_beyond(10)


def test_a_stream_sent_again_never_moves_the_position_back() -> None:
    ledger = Ledger()
    ledger.open(30, 1).release()
    ledger.open(10, 1).release()
    assert ledger.confirmed == 30


def test_entries_are_reported_once_and_in_order() -> None:
    told: List[int] = []
    ledger = Ledger(on_finished=lambda entry: told.append(entry.changes))
    entries = [ledger.open(i, i) for i in range(1, 6)]
    for entry in (entries[2], entries[0], entries[4], entries[1], entries[3]):
        entry.release()
    assert told == [1, 2, 3, 4, 5]
    assert ledger.wait_drained(0)


def test_waiting_for_a_position_wakes_when_it_is_confirmed() -> None:
    ledger = Ledger()
    entry = ledger.open(7, 1)
    reached: List[int] = []
    thread = threading.Thread(target=lambda: reached.append(ledger.wait_beyond(6, 10)))
    thread.start()
    entry.release()
    thread.join(10)
    assert reached == [7]
    assert ledger.wait_beyond(7, 0.01) == 7


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30), st.randoms(use_true_random=False)
)
def test_whatever_the_order_of_completion_no_unfinished_entry_is_passed(
    shape: List[Tuple[int, bool]], chance: random.Random
) -> None:
    ledger = Ledger()
    entries: List[Entry] = []
    steps: List[Entry] = []
    for number, (holds, commits) in enumerate(shape, start=1):
        entry = ledger.open(number * 10 if commits else None, 1)
        entry.hold(holds)
        entries.append(entry)
        steps.extend([entry] * (holds + 1))
    chance.shuffle(steps)
    for entry in steps:
        entry.release()
        unfinished = next((i for i, e in enumerate(entries) if not e.finished), len(entries))
        expected = max([e.position for e in entries[:unfinished] if e.position is not None], default=0)
        assert ledger.confirmed == expected
    assert ledger.open_entries == 0

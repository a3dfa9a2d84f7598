"""Whether a server continues what a record tells: set back, on another timeline, or somewhere else."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Optional

import pytest

from flusso_sync.engine.source import Record
from flusso_sync.postgres.connection import SourceAccess
from flusso_sync.postgres.history import Standing, ancestors, describe_break, history_of, standing
from flusso_sync.postgres.slot import SlotState
from tests.postgres_server import Database

#: The record: position 1000, of timeline 1, with the version of a snapshot that ended at transaction 50.
RECORD = Record(confirmed=1000, version=(50 << 16) | 65535, timeline=1, slot="s", address="here:1/shop")
NOW = Standing(recovering=False, position=1000, timeline=1, next_transaction=50)

HISTORY = "1\t0/3E8\tno recovery target specified\n\n# a comment\n2\t0/5000\tbefore 2026-01-01\n"


def told(record: Record = RECORD, address: str = "here:1/shop", at: int = 1000, text: str = HISTORY, **now: Any) -> str:
    slot: Optional[SlotState] = SlotState(at, None, "reserved", None, 0) if at else None
    return describe_break(record, NOW._replace(**now), address, slot, lambda: text) or ""


def test_the_same_server_in_the_same_history_is_no_gap() -> None:
    assert not told() and not told(position=5000, next_transaction=90) and not told(at=900)
    assert not told(Record(confirmed=1000), "there:1/shop", at=7), "of an older daemon"


def test_a_server_behind_what_we_had_of_it_was_set_back() -> None:
    assert "behind the versions" in told(next_transaction=49)
    assert told(position=999) == "the source is behind our record 0/3E8, it ends at 0/3E7: it was set back"
    assert not told(position=0, recovering=True), "a standby that starts"


def test_another_timeline_is_no_gap_where_the_record_lies_on_it() -> None:
    assert ancestors(HISTORY) == {1: 1000, 2: 0x5000}
    assert not told(timeline=2) and not told(timeline=3)
    assert "left it at 0/3E7" in told(timeline=2, text=HISTORY.replace("3E8", "3E7"))
    assert "is not a continuation" in told(timeline=2, text="")
    # An older backup, put back as it was.
    assert "of timeline 3" in told(Record(confirmed=1000, timeline=3), timeline=1)


def test_another_address_is_a_gap_unless_the_slot_has_our_last_feedback() -> None:
    assert not told(address="there:1/shop")
    assert "it may be a copy" in told(address="there:1/shop", at=900)


@pytest.mark.pg
def test_a_server_says_where_it_is(database: Database) -> None:
    with closing(database.connect()) as connection:
        found = standing(connection)
        assert (found.recovering, found.timeline) == (False, 1) and found.position > 0
        connection.execute("SELECT pg_current_xact_id(), pg_logical_emit_message(false, 'x', 'y')")
        connection.execute("CREATE TABLE t (id int)")
        again = standing(connection)
        assert again.position > found.position and again.next_transaction > found.next_transaction
    assert history_of(SourceAccess(lambda: database.url, "here"), 1) == ""

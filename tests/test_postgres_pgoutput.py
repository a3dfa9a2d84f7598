"""The decoder reads what the plan wants from real message bytes, and refuses what it does not know."""

from __future__ import annotations

import struct
from typing import List, Optional, Sequence, Tuple, Union

import pytest

from flusso_sync.postgres.pgoutput import ABSENT, Absent, Begin, Change, Commit, Decoder, MalformedMessage, Wanted
from flusso_sync.schema.plan import Table

ITEMS = Table("public", "items")
Cell = Union[str, None, Absent]


def relation(oid: int, name: str, columns: Sequence[Tuple[str, bool]], identity: str = "d") -> bytes:
    body = b"R" + struct.pack(">I", oid) + b"public\0" + name.encode() + b"\0" + identity.encode()
    body += struct.pack(">h", len(columns))
    for column, in_key in columns:
        body += bytes([int(in_key)]) + column.encode() + b"\0" + struct.pack(">Ii", 25, -1)
    return body


def cells(values: Sequence[Cell]) -> bytes:
    body = struct.pack(">h", len(values))
    for value in values:
        if value is None:
            body += b"n"
        elif isinstance(value, Absent):
            body += b"u"
        else:
            data = value.encode()
            body += b"t" + struct.pack(">i", len(data)) + data
    return body


def insert(values: Sequence[Cell], oid: int = 1) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + cells(values)


def update(new: Sequence[Cell], old: Optional[Sequence[Cell]] = None, marker: bytes = b"K") -> bytes:
    before = b"" if old is None else marker + cells(old)
    return b"U" + struct.pack(">I", 1) + before + b"N" + cells(new)


def delete(old: Sequence[Cell], marker: bytes = b"K") -> bytes:
    return b"D" + struct.pack(">I", 1) + marker + cells(old)


def decoder(
    keys: Tuple[str, ...] = ("order_id", "id"),
    compare: Optional[Tuple[str, ...]] = ("id", "order_id", "name"),
    identity: str = "d",
) -> Decoder:
    """Columns on the wire: note, id (the key), name, order_id."""
    made = Decoder(lambda table: Wanted(ITEMS, keys, compare) if table == ITEMS else None)
    full = identity == "f"
    columns = [("note", full), ("id", True), ("name", full), ("order_id", full)]
    assert made.decode(relation(1, "items", columns, identity)) is None
    return made


def change(made: Decoder, data: bytes) -> Change:
    decoded = made.decode(data)
    assert isinstance(decoded, Change)
    return decoded


def test_an_insert_gives_the_wanted_columns_in_the_plans_order() -> None:
    found = change(decoder(), insert(["n", "7", "näme", None]))
    assert found.shape.columns == ("order_id", "id")
    assert (found.kind, found.old, found.new) == ("I", None, (None, "7"))


def test_an_old_key_tells_nothing_of_columns_outside_it() -> None:
    found = change(decoder(), delete([None, "7", None, None]))
    assert found.old == (ABSENT, "7")
    moved = change(decoder(), update(["n", "8", "x", "2"], [None, "7", None, None]))
    assert (moved.old, moved.new) == ((ABSENT, "7"), ("2", "8"))


def test_a_full_old_tuple_tells_everything() -> None:
    made = decoder(identity="f")
    assert change(made, delete(["n", "7", "x", None], b"O")).old == (None, "7")
    assert change(made, update(["n", "7", "x", "2"], ["n", "7", "x", "1"], b"O")).old == ("1", "7")


def test_an_update_of_unused_columns_alone_is_skipped_and_counted() -> None:
    made = decoder(identity="f")
    assert made.decode(update(["other", "7", "x", "1"], ["n", "7", "x", "1"], b"O")) is None
    assert made.skipped == 1
    assert made.decode(update(["n", "7", "y", "1"], ["n", "7", "x", "1"], b"O")) is not None
    assert made.decode(update(["n", "7", ABSENT, "1"], ["n", "7", "x", "1"], b"O")) is None


def test_every_update_counts_where_any_column_may_matter() -> None:
    made = decoder(compare=None, identity="f")
    assert made.decode(update(["other", "7", "x", "1"], ["n", "7", "x", "1"], b"O")) is not None


def test_a_table_that_has_another_name_for_a_moment_is_known_by_its_oid() -> None:
    made = Decoder({ITEMS: Wanted(ITEMS, ("id",), None)}.get, {1: Wanted(ITEMS, ("id",), None)})
    for oid, name in ((1, "renamed"), (2, "items"), (3, "others")):
        assert made.decode(relation(oid, name, [("id", True)])) is None
    assert change(made, insert(["1"], 1)).shape.table == ITEMS
    assert change(made, insert(["2"], 2)).shape.table == ITEMS
    assert made.decode(insert(["3"], 3)) is None


def test_every_update_counts_while_a_column_that_matters_has_another_name() -> None:
    made = decoder(compare=("id", "renamed"), identity="f")
    same = ["n", "1", "a", "7"]
    assert change(made, update(["n", "1", "b", "7"], same, b"O")).new == ("7", "1")
    assert made.skipped == 0


def test_an_unchanged_toast_value_is_unknown_or_the_old_one_never_empty() -> None:
    assert change(decoder(), update(["n", "7", "x", ABSENT])).new == (ABSENT, "7")
    full = change(decoder(identity="f"), update(["n", "7", "y", ABSENT], ["n", "7", "x", "1"], b"O"))
    assert full.new == ("1", "7")


def test_transactions_are_framed_by_begin_and_commit() -> None:
    made = decoder()
    assert made.decode(b"B" + struct.pack(">QqI", 100, 0, 77)) == Begin(100, 77)
    assert made.decode(b"C" + struct.pack(">BQQq", 0, 100, 120, 0)) == Commit(100, 120)


def test_a_truncate_names_each_watched_table() -> None:
    made = decoder()
    made.decode(relation(2, "others", [("id", True)]))
    found = made.decode(b"T" + struct.pack(">iBII", 2, 1, 2, 1))
    assert isinstance(found, list)
    assert [(c.kind, c.shape.table) for c in found] == [("T", ITEMS)]


def test_other_tables_are_not_looked_into() -> None:
    made = decoder()
    made.decode(relation(2, "others", [("id", True)]))
    assert made.decode(insert(["1"], oid=2)) is None


@pytest.mark.parametrize("length", range(1, len(insert(["n", "7", "x", "12"])) - 1))
def test_a_truncated_insert_is_malformed_not_half_read(length: int) -> None:
    whole = insert(["n", "7", "x", "12"])
    with pytest.raises(MalformedMessage):
        decoder().decode(whole[:length])


def test_an_unknown_message_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="unknown kind"):
        decoder().decode(b"Zabc")


def test_messages_without_meaning_for_documents_are_passed_over() -> None:
    quiet: List[bytes] = [b"O" + b"\0" * 9 + b"origin\0", b"Y" + b"\0" * 8, b"M\0" + b"\0" * 8 + b"x\0\0\0\0\0"]
    assert [decoder().decode(message) for message in quiet] == [None, None, None]

"""The wire format of pgoutput, protocol 1, decoded for what the plan uses and skipped for the rest.

Pure: bytes in, values out.  Formats: PostgreSQL manual, "Logical Replication Message Formats".  A decoder is
told which columns of which tables are wanted; other tables' messages are not looked into, other columns are
skipped by their length.  Truncated and unknown messages raise ``MalformedMessage``.
"""

from __future__ import annotations

import struct
from operator import itemgetter
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from flusso_sync.schema.plan import Table


class MalformedMessage(ValueError):
    """A message is shorter than it says, or of a kind that protocol 1 does not have."""


class Absent:
    """A value that the stream does not tell: an unchanged TOAST value, or a column outside the old key."""

    _only: Optional["Absent"] = None

    def __new__(cls) -> "Absent":
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = Absent()

Value = Union[str, None, Absent]
Values = Tuple[Value, ...]

INSERT, UPDATE, DELETE, TRUNCATE = "I", "U", "D", "T"


class Wanted(NamedTuple):
    """What is wanted of one table: values of ``keys``; ``compare`` are the columns whose change matters.

    ``compare`` None: any change matters, also of columns not named anywhere.  ``table`` is the name the change
    is reported under (the root of a partition tree, for its leaves).
    """

    table: Table
    keys: Tuple[str, ...]
    compare: Optional[Tuple[str, ...]]


#: A value as the stream has it: its bytes, None for null, or ``ABSENT``.
Cell = Union[bytes, None, Absent]


def _picker(positions: Sequence[int]) -> Callable[[Sequence[Cell]], Tuple[Cell, ...]]:
    """What takes the cells at ``positions`` out of those of a tuple, in their order."""
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda cells: tuple(cells[position] for position in positions)


class Shape:
    """The columns of a relation message that changes refer to: one object per message, shared by its changes."""

    __slots__ = ("table", "leaf", "columns", "key", "full", "pick", "reach", "_compare")

    def __init__(self, wanted: Wanted, leaf: Table, identity: str, columns: Sequence[Tuple[str, bool]]) -> None:
        self.table = wanted.table
        self.leaf = leaf
        names = [name for name, _ in columns]
        #: The wanted columns that the relation has, in the plan's order; values of a change are aligned with it.
        self.columns: Tuple[str, ...] = tuple(name for name in wanted.keys if name in names)
        self.full = identity == "f"
        keyed = {name for name, in_key in columns if in_key}
        #: Which of ``columns`` an old key tuple tells.
        self.key: Tuple[bool, ...] = tuple(name in keyed for name in self.columns)
        positions = [names.index(name) for name in self.columns]
        #: How many cells of a tuple have to be looked at for the wanted ones, and what takes those out.
        self.reach = max(positions, default=-1) + 1
        self.pick = _picker(positions)
        self._compare: Optional[Callable[[Sequence[Cell]], Tuple[Cell, ...]]] = None
        # Where one of them has another name for a moment, every update counts.
        if wanted.compare is not None and set(wanted.compare).issubset(names):
            self._compare = _picker([names.index(name) for name in names if name in wanted.compare])

    def agree(self, before: Sequence[Cell], now: Sequence[Cell]) -> bool:
        """Whether nothing that matters differs between the old row and the new one."""
        compare = self._compare
        return compare is not None and (before == now or compare(before) == compare(now))

    def __repr__(self) -> str:
        return f"<Shape {self.leaf} {self.columns}>"


class Change(NamedTuple):
    """One row that changed.  ``old`` and ``new`` are aligned with ``shape.columns``.

    ``old`` is None where the stream has no old tuple: always for an insert, and for an update whose replica
    identity did not change.
    """

    shape: Shape
    kind: str
    old: Optional[Values]
    new: Optional[Values]


class Begin(NamedTuple):
    final_lsn: int
    xid: int


class Commit(NamedTuple):
    commit_lsn: int
    end_lsn: int


_begin = struct.Struct(">QqI").unpack_from
_commit = struct.Struct(">BQQq").unpack_from
_int32 = struct.Struct(">i").unpack_from
_uint32 = struct.Struct(">I").unpack_from
_int16 = struct.Struct(">h").unpack_from

Message = Union[Begin, Commit, Change, List[Change], None]


class Decoder:
    """Decodes the messages of one stream.  ``wanted`` answers for a table what is wanted of it, if anything.

    ``by_oid``: the same by OID, for a table that has another name for a moment.
    ``skipped`` counts updates whose old and new row agree in all columns that matter; whoever reads it may set it back.
    """

    def __init__(
        self, wanted: Callable[[Table], Optional[Wanted]], by_oid: Optional[Mapping[int, Wanted]] = None
    ) -> None:
        self._wanted = wanted
        self._by_oid: Mapping[int, Wanted] = by_oid or {}
        self._shapes: Dict[int, Optional[Shape]] = {}
        self.skipped = 0

    def decode(self, data: bytes) -> Message:
        """One message: a begin, a commit, a change, the changes of a truncate, or None if it says nothing to us."""
        try:
            return self._decode(data)
        except MalformedMessage:
            raise
        except (struct.error, IndexError, ValueError, KeyError) as error:
            kind = data[:1]
            raise MalformedMessage(f"a pgoutput message of kind {kind!r} and {len(data)} bytes is cut short") from error

    def _decode(self, data: bytes) -> Message:
        kind = data[0]
        if kind == 0x55:  # U: relation, optionally 'K' or 'O' and a tuple, 'N', tuple
            shape = self._shapes[_uint32(data, 1)[0]]
            return None if shape is None else self._update(data, shape)
        if kind == 0x49:  # I: relation, 'N', tuple
            shape = self._shapes[_uint32(data, 1)[0]]
            return None if shape is None else Change(shape, INSERT, None, _read(data, 6, shape))
        if kind == 0x44:  # D: relation, 'K' or 'O', tuple
            shape = self._shapes[_uint32(data, 1)[0]]
            if shape is None:
                return None
            old = _read(data, 6, shape)
            return Change(shape, DELETE, old if data[5] == 0x4F else _only_key(old, shape), None)
        if kind == 0x42:  # B: final LSN, commit time, xid
            final_lsn, _, xid = _begin(data, 1)
            return Begin(final_lsn, xid)
        if kind == 0x43:  # C: flags, commit LSN, end LSN, commit time
            _, commit_lsn, end_lsn, _ = _commit(data, 1)
            return Commit(commit_lsn, end_lsn)
        if kind == 0x52:  # R
            self._relation(data)
            return None
        if kind == 0x54:  # T: number of relations, flags, relations
            count = _int32(data, 1)[0]
            shapes = [self._shapes[_uint32(data, 6 + 4 * i)[0]] for i in range(count)]
            return [Change(shape, TRUNCATE, None, None) for shape in shapes if shape is not None]
        if kind in b"OYM":  # origin, type, logical decoding message: nothing in them concerns a document
            return None
        raise MalformedMessage(f"pgoutput sent a message of unknown kind {data[:1]!r}")

    def _update(self, data: bytes, shape: Shape) -> Message:
        marker = data[5]
        if marker == 0x4E:  # 'N': the identity did not change and is not FULL
            return Change(shape, UPDATE, None, _read(data, 6, shape))
        before, after = _cells(data, 6, _int16(data, 6)[0])
        if data[after] != 0x4E:
            raise MalformedMessage("pgoutput sent an update without a new tuple")
        if marker == 0x4B:  # 'K': the old key, for it changed
            old = _only_key(_texts(shape.pick(before)), shape)
            return Change(shape, UPDATE, old, _fill(_read(data, after + 1, shape), old))
        # 'O', the old row, which an unchanged TOAST value of the new one is taken from.
        now, _ = _cells(data, after + 1, _int16(data, after + 1)[0], before)
        if shape.agree(before, now):
            self.skipped += 1
            return None
        cells, new_cells = shape.pick(before), shape.pick(now)
        old = _texts(cells)
        return Change(shape, UPDATE, old, old if new_cells == cells else _texts(new_cells))

    def _relation(self, data: bytes) -> None:
        oid = _uint32(data, 1)[0]
        end = data.index(0, 5)
        schema = data[5:end].decode()
        start, end = end + 1, data.index(0, end + 1)
        name = data[start:end].decode()
        position = end + 1
        identity = chr(data[position])
        count = _int16(data, position + 1)[0]
        position += 3
        columns: List[Tuple[str, bool]] = []
        for _ in range(count):
            in_key = bool(data[position] & 1)
            end = data.index(0, position + 1)
            columns.append((data[position + 1 : end].decode(), in_key))
            position = end + 9
        if position > len(data):
            raise IndexError
        # An empty schema name stands for pg_catalog.
        leaf = Table(schema or "pg_catalog", name)
        wanted = self._by_oid.get(oid) or self._wanted(leaf)
        self._shapes[oid] = None if wanted is None else Shape(wanted, leaf, identity, columns)


def _cells(
    data: bytes, position: int, count: int, unchanged: Optional[Sequence[Cell]] = None
) -> Tuple[List[Cell], int]:
    """The first ``count`` cells of the tuple at ``position`` (where it says how many it has), and where they end.

    ``unchanged`` are the cells of the old row, if it is known.
    """
    position += 2
    cells: List[Cell] = []
    for _ in range(count):
        kind = data[position]
        if kind == 0x74:  # t: length, text
            start = position + 5
            position = start + _int32(data, position + 1)[0]
            cells.append(data[start:position])
        else:
            if kind == 0x6E:  # n: null
                cells.append(None)
            else:  # u: unchanged TOAST
                cells.append(ABSENT if unchanged is None else unchanged[len(cells)])
            position += 1
    if position > len(data):
        raise IndexError
    return cells, position


def _texts(cells: Sequence[Cell]) -> Values:
    return tuple([str(cell, "utf-8") if isinstance(cell, bytes) else cell for cell in cells])


def _read(data: bytes, position: int, shape: Shape) -> Values:
    """The wanted values of the tuple at ``position``."""
    return _texts(shape.pick(_cells(data, position, shape.reach)[0]))


def _only_key(values: Values, shape: Shape) -> Values:
    """Under an old key tuple the columns outside the key are sent as null: they are not told."""
    if all(shape.key):
        return values
    return tuple(value if told else ABSENT for value, told in zip(values, shape.key))


def _fill(new: Values, old: Values) -> Values:
    """An unchanged TOAST value of the new tuple is the old tuple's, where that has it."""
    if ABSENT not in new:
        return new
    return tuple(old[i] if value is ABSENT else value for i, value in enumerate(new))

"""The wire format of pgoutput, protocol 1, decoded for what the plan uses and skipped for the rest.

Pure: bytes in, values out.  Formats: PostgreSQL manual, "Logical Replication Message Formats".  A decoder is
told which columns of which tables are wanted; other tables' messages are not looked into, other columns are
skipped by their length.  Truncated and unknown messages raise ``MalformedMessage``.
"""

from __future__ import annotations

import struct
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

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


class Shape:
    """The columns of a relation message that changes refer to: one object per message, shared by its changes."""

    __slots__ = ("table", "leaf", "columns", "key", "full", "_want", "_order", "_compare")

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
        last = max(positions, default=-1)
        self._want: Tuple[bool, ...] = tuple(i in positions for i in range(last + 1))
        in_wire_order = sorted(positions)
        # Values are read in the order of the wire; this puts them into the order of ``columns``.
        order = tuple(in_wire_order.index(p) for p in positions)
        self._order: Optional[Tuple[int, ...]] = None if order == tuple(range(len(order))) else order
        self._compare: Optional[Tuple[int, ...]] = (
            None if wanted.compare is None else tuple(i for i, name in enumerate(names) if name in wanted.compare)
        )

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

    ``skipped`` counts updates whose old and new row agree in all columns that matter; whoever reads it may set it back.
    """

    def __init__(self, wanted: Callable[[Table], Optional[Wanted]]) -> None:
        self._wanted = wanted
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
        if kind == 0x49:  # I: relation, 'N', tuple
            shape = self._shapes[_uint32(data, 1)[0]]
            if shape is None:
                return None
            return Change(shape, INSERT, None, _read(data, 6, shape))
        if kind == 0x55:  # U: relation, optionally 'K' or 'O' and a tuple, 'N', tuple
            shape = self._shapes[_uint32(data, 1)[0]]
            if shape is None:
                return None
            return self._update(data, shape)
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
        old = _read(data, 6, shape)
        after = _skip(data, 6)
        if data[after] != 0x4E:
            raise MalformedMessage("pgoutput sent an update without a new tuple")
        new = _read(data, after + 1, shape)
        if marker == 0x4B:
            return Change(shape, UPDATE, _only_key(old, shape), _fill(new, old, shape.key))
        if shape._compare is not None and not _differ(data, 6, after + 1, shape._compare):
            self.skipped += 1
            return None
        return Change(shape, UPDATE, old, _fill(new, old, None))

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
        wanted = self._wanted(leaf)
        self._shapes[oid] = None if wanted is None else Shape(wanted, leaf, identity, columns)


def _read(data: bytes, position: int, shape: Shape) -> Values:
    """The wanted values of the tuple at ``position`` (its column count)."""
    position += 2
    values: List[Value] = []
    for want in shape._want:
        kind = data[position]
        if kind == 0x74:  # t: length, text
            end = position + 5 + _int32(data, position + 1)[0]
            if want:
                if end > len(data):
                    raise IndexError
                values.append(str(data[position + 5 : end], "utf-8"))
            position = end
        else:
            if want:
                values.append(None if kind == 0x6E else ABSENT)  # n: null, u: unchanged TOAST
            position += 1
    order = shape._order
    return tuple(values) if order is None else tuple(values[i] for i in order)


def _skip(data: bytes, position: int) -> int:
    """Where the tuple at ``position`` ends."""
    count = _int16(data, position)[0]
    position += 2
    for _ in range(count):
        if data[position] == 0x74:
            position += 5 + _int32(data, position + 1)[0]
        else:
            position += 1
    return position


def _slices(data: bytes, position: int) -> List[Optional[bytes]]:
    """Every value of a tuple as it is; ``b"u"`` alone marks an unchanged TOAST value."""
    count = _int16(data, position)[0]
    position += 2
    found: List[Optional[bytes]] = []
    for _ in range(count):
        kind = data[position]
        if kind == 0x74:
            end = position + 5 + _int32(data, position + 1)[0]
            found.append(data[position:end])
            position = end
        else:
            found.append(None if kind == 0x6E else b"u")
            position += 1
    return found


def _differ(data: bytes, old: int, new: int, compare: Sequence[int]) -> bool:
    before, after = _slices(data, old), _slices(data, new)
    if len(before) != len(after):
        return True
    for i in compare:
        value = after[i]
        if value != before[i] and value != b"u":
            return True
    return False


def _only_key(values: Values, shape: Shape) -> Values:
    """Under an old key tuple the columns outside the key are sent as null: they are not told."""
    if all(shape.key):
        return values
    return tuple(value if told else ABSENT for value, told in zip(values, shape.key))


def _fill(new: Values, old: Values, told: Optional[Sequence[bool]]) -> Values:
    """An unchanged TOAST value of the new tuple is the old tuple's, where that has it."""
    if ABSENT not in new:
        return new
    return tuple(old[i] if value is ABSENT and (told is None or told[i]) else value for i, value in enumerate(new))

"""The plan: what a schema file means, resolved once, free of YAML, SQL and servers.

Everything downstream (document SQL, tracing of changes, OpenSearch mapping, checks) reads these
frozen values.  Key columns are always tuples, so composite keys need no other shape.  A key that only
the catalog knows is the empty tuple ``PRIMARY_KEY`` until :func:`flusso_sync.schema.paths.with_keys`
fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, NamedTuple, Optional, Tuple, Union

Columns = Tuple[str, ...]

#: "The table's primary key, whatever the catalog says it is."
PRIMARY_KEY: Columns = ()


@dataclass(frozen=True, order=True)
class Table:
    """A table by database schema and name, both exactly as the catalog spells them (unquoted)."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Place(NamedTuple):
    """Where in a schema file something stands; line and column from 1."""

    file: str
    line: int
    column: int


# -- filters --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """``column op values``; ``values`` are the operands as text (none for the null checks).

    ``op`` is one of eq neq lt lte gt gte like ilike in not_in between is_null is_not_null.
    """

    column: str
    op: str
    values: Tuple[str, ...] = ()


@dataclass(frozen=True)
class RawFilter:
    """SQL text used as it is, in parentheses; the root row is called ``root`` in root filters."""

    sql: str
    volatile: bool = False


AnyFilter = Union[Filter, RawFilter]


@dataclass(frozen=True)
class SoftDelete:
    """The row counts as deleted when ``column`` is on (boolean true, else any non-null) and ``when`` holds."""

    column: str
    when: Tuple[AnyFilter, ...] = ()


@dataclass(frozen=True)
class Order:
    column: str
    descending: bool = False


# -- links between a parent row and its related rows ------------------------------------------------


@dataclass(frozen=True)
class ChildLink:
    """has_one, has_many, aggregates: ``related.foreign_key = parent.references``."""

    foreign_key: Columns
    references: Columns = PRIMARY_KEY


@dataclass(frozen=True)
class TargetLink:
    """belongs_to: ``related.target_key = parent.column``."""

    column: Columns
    target_key: Columns = PRIMARY_KEY


@dataclass(frozen=True)
class ThroughLink:
    """many_to_many and aggregates over a junction.

    ``junction.left_key = parent.left_references`` and ``junction.right_key = related.right_references``.
    """

    junction: Table
    left_key: Columns
    right_key: Columns
    left_references: Columns = PRIMARY_KEY
    right_references: Columns = PRIMARY_KEY


Link = Union[ChildLink, TargetLink, ThroughLink]


# -- fields ---------------------------------------------------------------------------------------

#: Scalar kinds: text identifier keyword uuid boolean short integer long float double decimal date
#: timestamp binary json enum custom map.
Options = Mapping[str, Any]


def _options() -> Options:
    return {}


@dataclass(frozen=True)
class ScalarField:
    """One column of the row in scope, rendered by ``kind``.

    ``default`` is the literal as text (None: no default).  ``postgres`` and ``opensearch`` are set for
    ``custom`` only, ``values`` for ``map`` only, ``variants`` for ``enum`` only.
    """

    name: str
    kind: str
    column: str
    required: bool = False
    transforms: Tuple[str, ...] = ()
    default: Optional[str] = None
    variants: Tuple[str, ...] = ()
    values: Optional[str] = None
    postgres: Tuple[str, ...] = ()
    opensearch: Optional[str] = None
    options: Options = field(default_factory=_options, hash=False)


@dataclass(frozen=True)
class GeoField:
    """Either ``lat`` and ``lon`` (two numeric columns) or ``column`` (one json or text column)."""

    name: str
    lat: Optional[str] = None
    lon: Optional[str] = None
    column: Optional[str] = None
    required: bool = False
    options: Options = field(default_factory=_options, hash=False)


@dataclass(frozen=True)
class ConstantField:
    """The same JSON value in every document; keeps its JSON type."""

    name: str
    value: Any = field(default=None, hash=False)


@dataclass(frozen=True)
class ObjectField:
    """Columns of the same row, grouped under a name."""

    name: str
    fields: Tuple["AnyField", ...]
    options: Options = field(default_factory=_options, hash=False)


@dataclass(frozen=True)
class JoinField:
    """belongs_to, has_one (one object or null), has_many, many_to_many (array of objects).

    ``declared_key`` is the file's ``primary_key`` of the related table (nullability and checks).
    """

    name: str
    verb: str
    table: Table
    link: Link
    fields: Tuple["AnyField", ...]
    filters: Tuple[AnyFilter, ...] = ()
    order_by: Tuple[Order, ...] = ()
    limit: Optional[int] = None
    required: bool = False
    declared_key: Columns = PRIMARY_KEY
    options: Options = field(default_factory=_options, hash=False)


@dataclass(frozen=True)
class AggregateField:
    """count, sum, avg, min, max, ids over related rows.

    ``value_type`` is the scalar kind of the result (``element_type`` for ids; None for count and avg).
    """

    name: str
    op: str
    table: Table
    link: Link
    column: Optional[str] = None
    value_type: Optional[str] = None
    filters: Tuple[AnyFilter, ...] = ()
    options: Options = field(default_factory=_options, hash=False)


AnyField = Union[ScalarField, GeoField, ConstantField, ObjectField, JoinField, AggregateField]


@dataclass(frozen=True)
class IndexPlan:
    """One index: its root table, what makes a document, and which rows are documents.

    ``canonical`` is the canonical JSON text of the parsed schema: the part of the index hash that does
    not depend on a sink (settled.md section 5).  ``places`` says where in its file each part was written.
    """

    name: str
    root: Table
    fields: Tuple[AnyField, ...]
    primary_key: Columns = PRIMARY_KEY
    doc_id: Columns = PRIMARY_KEY
    filters: Tuple[AnyFilter, ...] = ()
    soft_delete: Optional[SoftDelete] = None
    canonical: str = ""
    places: Mapping[str, Place] = field(default_factory=_options, compare=False, repr=False)

    def place(self, path: str) -> Optional[Place]:
        """Where the part called ``path`` stands, else the part around it, else the table."""
        while path:
            if path in self.places:
                return self.places[path]
            path = path.rpartition(".")[0]
        return self.places.get("table")


# -- relation paths ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hop:
    """One step away from the root: rows of ``child`` whose ``child_columns`` equal ``parent_columns`` of ``parent``.

    All link kinds reduce to hops; a junction is a table on the way.
    """

    parent: Table
    parent_columns: Columns
    child: Table
    child_columns: Columns


@dataclass(frozen=True)
class Path:
    """From the root of ``index`` to the table a change happened in; ``hops[0].parent`` is the root."""

    index: str
    hops: Tuple[Hop, ...]

    @property
    def table(self) -> Table:
        return self.hops[-1].child


@dataclass(frozen=True)
class TableUse:
    """What the indexes of one deployment need of one table.

    ``columns``: every column read (None when a raw filter may read any); ``keys``: columns that must be
    decoded from the stream (keys, doc_id and link columns); ``links``: columns that must be in the
    replica identity so that a DELETE or a move names its old parents.
    """

    table: Table
    columns: Optional[Tuple[str, ...]]
    keys: Tuple[str, ...]
    links: Tuple[str, ...]
    indexes: Tuple[str, ...]

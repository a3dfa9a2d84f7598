"""The publication: which tables the stream tells us about.

Tables are named leaf by leaf, never by a partitioned parent (design section 4, "Partitions").  We create a
publication or add tables to one; somebody else's that would hide changes is refused with the statement that
mends it (settled.md section 4).
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, NamedTuple, Optional, Sequence, Set, Tuple

import psycopg

from flusso_sync.errors import PublicationMismatch
from flusso_sync.postgres.connection import rows, translating
from flusso_sync.postgres.quoting import identifier, table_name
from flusso_sync.schema.plan import Table

_PUBLICATION = """
select p.oid::int8, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot
  from pg_publication p where p.pubname = %s
"""

_MEMBERS = "select schemaname::text, tablename::text from pg_publication_tables where pubname = %s"

# Row filters and column lists came with Postgres 15.
_RESTRICTED = """
select n.nspname::text, c.relname::text, r.prqual is not null, r.prattrs is not null
  from pg_publication_rel r join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
 where r.prpubid = %s::oid and (r.prqual is not null or r.prattrs is not null)
"""


# An entry dropped and added again is another one, and so is a publication whose operations were changed.
_TOLD = """
select t.schemaname::text, t.tablename::text, p.xmin::text || coalesce('.' || r.oid::text, '')
  from pg_publication p join pg_publication_tables t on t.pubname = p.pubname
  left join (pg_publication_rel r join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace)
         on r.prpubid = p.oid and n.nspname = t.schemaname and c.relname = t.tablename
 where p.pubname = %s
"""


# Every row, also one that was rolled back, makes the file of its table grow before it is in the WAL, and that of each
# index over all rows beyond its first page.  TRUNCATE and whatever rewrites a table or an index gives it a file of
# another number (but in the transaction that made the table, and then nobody saw the rows).  VACUUM may cut an emptied
# table down to nothing, an index never, and it notes how many rows it found.
# https://www.postgresql.org/docs/current/catalog-pg-class.html
_NEVER_HELD_ROWS = """
select c.oid::int8
  from pg_class c join pg_am a on a.oid = c.relam
  join (select i.indrelid,
               bool_and(x.relfilenode = x.oid and pg_relation_size(x.oid) = current_setting('block_size')::int8) as bare
          from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
         where i.indrelid = any(%s::oid[]) and i.indpred is null and m.amname = 'btree'
         group by i.indrelid) b on b.indrelid = c.oid and b.bare
 where a.amname = 'heap' and c.relfilenode = c.oid and c.reltuples < 0 and pg_relation_size(c.oid) = 0
"""


# Attached again, a table is a child by another row, whose xmin VACUUM FULL leaves as it is.
_ATTACHED = """
with recursive up(leaf, parent, mark) as (
    select i.inhrelid, i.inhparent, i.xmin::text from pg_inherits i where i.inhrelid = any(%s::oid[])
    union all
    select up.leaf, i.inhparent, i.xmin::text from up join pg_inherits i on i.inhrelid = up.parent
)
select leaf::int8, string_agg(parent || '.' || mark, ' ' order by parent) from up group by leaf
"""


class Coverage(NamedTuple):
    """Whether a publication tells us of every table.  ``statement`` is the DDL that adds what is missing."""

    exists: bool
    missing: Tuple[Table, ...]
    statement: Optional[str]


def coverage(connection: "psycopg.Connection[Any]", publication: str, needed: Sequence[Table]) -> Coverage:
    """Compare a publication with the tables needed.

    Raises ``PublicationMismatch`` when it exists and would hide changes of tables it has.
    """
    found = rows(connection, _PUBLICATION, (publication,))
    quoted = identifier(publication)
    if not found:
        # Without them, Postgres 18 refuses the application's UPDATE of a table with FULL that has, or gets, one.
        generated = " WITH (publish_generated_columns = stored)" if connection.info.server_version >= 180000 else ""
        statement = f"CREATE PUBLICATION {quoted} FOR TABLE {_list(needed)}{generated}" if needed else None
        return Coverage(False, tuple(needed), statement)
    oid, _, insert, update, delete, truncate, via_root = found[0]
    operations = {"insert": insert, "update": update, "delete": delete, "truncate": truncate}
    absent = [operation for operation, published in operations.items() if not published]
    if absent:
        raise PublicationMismatch(
            f"publication {publication} does not publish {', '.join(absent)}",
            hint=f"Run: ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate')",
        )
    if via_root:
        raise PublicationMismatch(
            f"publication {publication} publishes partitions as their root table",
            hint=f"Run: ALTER PUBLICATION {quoted} SET (publish_via_partition_root = false)",
        )
    if connection.info.server_version >= 150000:
        wanted = set(needed)
        for schema, name, filtered, _ in rows(connection, _RESTRICTED, (oid,)):
            table = Table(schema, name)
            if table in wanted:
                what = "a row filter" if filtered else "a column list"
                mend = f"ALTER PUBLICATION {quoted} DROP TABLE {table_name(table)}"
                raise PublicationMismatch(
                    f"publication {publication} has {what} on {table}, so some of its changes would not be told",
                    hint=f"Run: {mend}; ALTER PUBLICATION {quoted} ADD TABLE {table_name(table)}",
                )
    members: Set[Table] = {Table(schema, table) for schema, table in rows(connection, _MEMBERS, (publication,))}
    missing = tuple(table for table in needed if table not in members)
    return Coverage(True, missing, f"ALTER PUBLICATION {quoted} ADD TABLE {_list(missing)}" if missing else None)


def publishes_generated(connection: "psycopg.Connection[Any]", publication: str) -> bool:
    """Whether stored generated columns are sent, as in any that we create; never before Postgres 18."""
    if connection.info.server_version < 180000:
        return False
    found = rows(connection, "select pubgencols = 's' from pg_publication where pubname = %s", (publication,))
    return bool(found[0][0]) if found else True


def told(connection: "psycopg.Connection[Any]", publication: str) -> Dict[Table, str]:
    """Every table the publication tells of, with a mark that changes when it was altered for that table."""
    return {Table(schema, name): mark for schema, name, mark in rows(connection, _TOLD, (publication,))}


def attached(connection: "psycopg.Connection[Any]", oids: Iterable[int]) -> Dict[int, str]:
    """By those of the tables ``oids`` that are children of others a mark that changes when one is attached again."""
    wanted = sorted(oids)
    return dict(rows(connection, _ATTACHED, (wanted,))) if wanted else {}


def never_held_rows(connection: "psycopg.Connection[Any]", oids: Iterable[int]) -> Set[int]:
    """Those of the tables ``oids`` in which certainly nobody ever saw a row; without an index that cannot be told."""
    wanted = sorted(oids)
    return {oid for (oid,) in rows(connection, _NEVER_HELD_ROWS, (wanted,))} if wanted else set()


def extend(connection: "psycopg.Connection[Any]", found: Coverage) -> None:
    """Create the publication or add what is missing.  Raises ``SourceRefused`` without the right."""
    if found.statement is not None:
        with translating("creating or extending the publication"):
            connection.execute(found.statement)


def _list(tables: Iterable[Table]) -> str:
    return ", ".join(f"ONLY {table_name(table)}" for table in tables)

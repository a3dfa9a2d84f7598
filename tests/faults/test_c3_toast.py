"""Fault C3: values that the stream leaves out because they did not change.  Documents come from the tables, and a link
that is not told counts as unknown, never as empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.rig import OwnCase
from tests.fix_deployment import MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

#: Texts that do not compress, out of line: a megabyte in a field, and more than a tuple bears in key and link.
TABLES = """
    CREATE FUNCTION noise(seed integer, kilobytes integer) RETURNS text LANGUAGE sql IMMUTABLE AS
        $$ SELECT string_agg(md5(seed || '-' || n), '') FROM generate_series(1, kilobytes * 32) n $$;
    CREATE TABLE authors (id integer PRIMARY KEY, code text NOT NULL UNIQUE, life text, born integer);
    CREATE TABLE books (id integer PRIMARY KEY, author_code text, body text, pages integer);
    ALTER TABLE authors ALTER code SET STORAGE EXTERNAL, ALTER life SET STORAGE EXTERNAL;
    ALTER TABLE books ALTER author_code SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL;
    INSERT INTO authors SELECT n, left(noise(n, 3), 2500), noise(n + 100, CASE n WHEN 1 THEN 1024 ELSE 4 END), 1900
        FROM generate_series(1, 6) n;
    INSERT INTO books SELECT n, (SELECT code FROM authors WHERE id = n % 5 + 1), noise(n + 200, 3), n
        FROM generate_series(1, 30) n;
    CREATE INDEX ON books USING hash (author_code);
"""
SCHEMAS = {
    "authors": {
        "version": 1,
        "table": "authors",
        "primary_key": "id",
        "fields": [
            {"integer": "id", "required": True},
            {"text": "life", "required": False},
            {"integer": "born", "required": False},
            {"sum": "pages", "table": "books", "column": "pages", "value_type": "long", "foreign_key": "author_code",
             "references": "code"},
        ],
    },
    "books": {
        "version": 1,
        "table": "books",
        "primary_key": "id",
        "fields": [
            {"integer": "id", "required": True},
            {"text": "body", "required": False},
            {"integer": "pages", "required": False},
            {"belongs_to": "author", "column": "author_code", "table": "authors", "primary_key": "code",
             "fields": [{"integer": "id", "required": True}, {"integer": "born", "required": False}]},
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_what_the_stream_leaves_out_is_never_taken_for_empty(
    deploy: MakeDeployment, tmp_path: Path, identity: str
) -> None:
    deployment = deploy(OwnCase(tmp_path, TABLES, SCHEMAS))
    for table in ("authors", "books"):
        deployment.database.execute(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
    daemon = deployment.start()
    deployment.settle()
    for statement in (
        # Another column of rows whose field, key or link is out of line.
        "UPDATE authors SET born = born + 1",
        "UPDATE books SET pages = pages + 100 WHERE id % 2 = 0",
        # Moves, and moves back, of links that are out of line; and a key that is.
        "UPDATE books SET author_code = (SELECT code FROM authors WHERE id = 6) WHERE id % 3 = 0",
        "UPDATE books SET pages = pages + 1 WHERE id % 3 = 0",
        "UPDATE authors SET code = left(code, 2400) || 'changed' WHERE id = 6",
        "DELETE FROM books WHERE id % 4 = 0",
        "UPDATE books SET author_code = NULL WHERE id % 9 = 0",
        "DELETE FROM authors WHERE id = 2",
    ):
        deployment.database.execute(statement)
        deployment.settle()
        found = deployment.differences()
        assert not found, (statement, {index: [d.id for d in some] for index, some in found.items()})
    status = daemon.status()
    assert not status["facts"].get("untraceable_changes") and status["documents_quarantined"] == 0

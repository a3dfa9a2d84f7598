"""What goes beyond flusso's schema language, through a live daemon over a real Postgres (design.md section 5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from flusso_sync.errors import EXIT_CONFIG, EXIT_SOURCE, ConfigError, FlussoError, SyncStopped
from flusso_sync.schema.language import load_schema
from tests.fix_pg import Database
from tests.generated import quoted
from tests.in_process import in_process, write_schemas

pytestmark = pytest.mark.pg

Node = Dict[str, Any]


def schema(table: str, fields: List[Node], **more: Any) -> Node:
    return {"version": 1, "table": table, "fields": fields, **more}


def refusal(database: Database, folder: Path, top: Node) -> FlussoError:
    """Why the daemon ends with this schema."""
    paths = write_schemas(folder, {"refused": top})
    with pytest.raises(SyncStopped) as caught:
        with in_process(database.url, database.name, paths):
            pass
    cause = caught.value.__cause__
    assert isinstance(cause, FlussoError)
    return cause


# -- keys --------------------------------------------------------------------------------------------------------------

KEYED = """
CREATE TABLE things (
    id int PRIMARY KEY, code text NOT NULL UNIQUE, a int NOT NULL, b int NOT NULL, loose text UNIQUE,
    indexed int NOT NULL, UNIQUE (b, a)
);
CREATE UNIQUE INDEX ON things (indexed);
CREATE UNIQUE INDEX ON things (a) WHERE b > 2;
CREATE TABLE keyless (n int, parent int);
INSERT INTO things VALUES (1, 'x:1', 1, 2, NULL, 7), (2, 'y%', 1, 3, 'l', 8);
"""


@pytest.mark.parametrize("place", ["primary_key", "doc_id"])
@pytest.mark.parametrize(
    "columns, named", [("indexed", "indexed"), ("loose", "loose"), ("a", "a"), (["id", "code"], "(id, code)")]
)
def test_a_key_that_is_no_unique_constraint_over_not_null_columns_is_refused(
    database: Database, tmp_path: Path, place: str, columns: Any, named: str
) -> None:
    database.execute(KEYED)
    cause = refusal(database, tmp_path, schema("things", [{"integer": "id", "required": True}], **{place: columns}))
    assert isinstance(cause, ConfigError) and cause.exit_code == EXIT_CONFIG
    (problem,) = cause.problems
    assert problem.path == place
    assert f"{named} of table public.things is neither its primary key (id) nor a unique constraint" in problem.message


def test_a_key_of_columns_that_do_not_exist_and_a_relation_without_a_key_are_refused_at_once(
    database: Database, tmp_path: Path
) -> None:
    database.execute(KEYED)
    children: Node = {
        "has_many": "c",
        "table": "things",
        "foreign_key": "a",
        "fields": [{"integer": "id", "required": True}],
    }
    nothing = refusal(database, tmp_path, schema("keyless", [children]))
    assert nothing.exit_code == EXIT_CONFIG and "table public.keyless has no primary key" in nothing.message
    unknown = refusal(database, tmp_path, schema("things", [], primary_key="nope", doc_id="never"))
    assert isinstance(unknown, ConfigError)
    assert [problem.path for problem in unknown.problems] == ["primary_key", "doc_id"]


@pytest.mark.parametrize(
    "kind, statement",
    [
        ("a view", "CREATE VIEW it AS SELECT * FROM things"),
        ("a materialized view", "CREATE MATERIALIZED VIEW it AS SELECT * FROM things"),
        ("an unlogged table", "CREATE UNLOGGED TABLE it (id int PRIMARY KEY)"),
    ],
)
def test_what_is_no_lasting_table_is_refused_by_the_source(
    database: Database, tmp_path: Path, kind: str, statement: str
) -> None:
    database.execute(KEYED + statement)
    cause = refusal(database, tmp_path, schema("it", [{"integer": "id", "required": True}], primary_key="id"))
    assert cause.exit_code == EXIT_SOURCE and f"public.it is {kind}" in cause.message


def test_the_key_comes_from_the_catalog_or_is_any_unique_constraint(database: Database, tmp_path: Path) -> None:
    database.execute(KEYED)
    field = [{"keyword": "code", "required": True}]
    tops = {
        "silent": schema("things", field),
        "said": schema("things", field, primary_key="id"),
        "code": schema("things", field, primary_key="code"),
        "pair": schema("things", field, primary_key=["a", "b"]),
        "turned": schema("things", field, primary_key=["b", "a"]),
        "named": schema("things", field, doc_id="code"),
        "named_pair": schema("things", field, primary_key="id", doc_id=["b", "a"]),
    }
    with in_process(database.url, database.name, write_schemas(tmp_path, tops)) as daemon:
        ids = {name: sorted(documents) for name, documents in daemon.right().items()}
        assert ids == {
            "silent": ["1", "2"], "said": ["1", "2"], "code": ["x:1", "y%"], "pair": ["1:2", "1:3"],
            "turned": ["2:1", "3:1"], "named": ["x:1", "y%"], "named_pair": ["2:1", "3:1"],
        }  # fmt: skip
        for statement in (
            "UPDATE things SET code = code || '%:' WHERE id = 1",
            "UPDATE things SET b = 9 WHERE id = 2",
            "UPDATE things SET id = 7 WHERE id = 2",
            "INSERT INTO things VALUES (3, ':', -1, 0, NULL, 9)",
            "DELETE FROM things WHERE code = ':'",
            "DELETE FROM things WHERE b = 9",
        ):
            database.execute(statement)
            daemon.right(statement)


# -- names -------------------------------------------------------------------------------------------------------------


def test_any_name_postgres_takes_is_taken_live(database: Database, tmp_path: Path) -> None:
    longest = "ü" * 31 + "x"
    assert len(longest.encode()) == 63
    space, one, two = 'Sch;ema."x', longest, 'two; DROP TABLE "one"--'
    mood, key, link = "Mo'od\\;", "k" * 63, 'l"i.n;k'
    for statement in (
        f"CREATE SCHEMA {quoted(space)}",
        f"CREATE TYPE {quoted(space, mood)} AS ENUM ('a', 'B;\"')",
        f"CREATE DOMAIN {quoted(space, 'Do.main')} AS {quoted(space, mood)}[]",
        f"""CREATE TABLE {quoted(space, one)} ({quoted(key)} text, "Select" {quoted(space, mood)},
            "from" {quoted(space, "Do.main")}, PRIMARY KEY ({quoted(key)}))""",
        f"""CREATE TABLE {quoted(space, two)} ({quoted(link)} text, "%s" int, "$1" money, PRIMARY KEY ("%s"))""",
        # Unquoted names of other cases and schemas are other tables.
        f"CREATE TABLE {quoted(two)} (id int PRIMARY KEY)",
        f"INSERT INTO {quoted(space, one)} VALUES ('a', 'B;\"', '{{a,NULL}}'), ('b', NULL, NULL)",
        f"INSERT INTO {quoted(space, two)} VALUES ('a', 1, 12.5), ('a', 2, NULL), ('c', 3, 1)",
    ):
        database.execute(statement)
    children: Node = {
        "has_many": "rows",
        "table": quoted(space, two),
        "foreign_key": quoted(link),
        "order_by": [{"column": '"%s"', "direction": "desc"}],
        "fields": [{"decimal": "money", "column": '"$1"', "required": False}],
    }
    fields: List[Node] = [
        {"enum": "mood", "column": '"Select"', "required": False, "variants": ["a", 'B;"'], "default": "a"},
        {"keyword": "moods", "column": '"from"', "required": False},
        children,
        {
            "sum": "all",
            "table": quoted(space, two),
            "foreign_key": quoted(link),
            "column": '"$1"',
            "value_type": "decimal",
        },
    ]
    filters = [{"column": '"Select"', "op": "neq", "value": "a"}]
    tops = {
        "whole": schema(quoted(space, one), fields),
        "part": schema(quoted(one), fields, schema=quoted(space), filters=filters, doc_id=quoted(key)),
        "other": schema(quoted(two), [{"integer": "id", "required": True}]),
    }
    with in_process(database.url, database.name, write_schemas(tmp_path, tops)) as daemon:
        assert len(daemon.right("as built")["whole"]) == 2
        for statement in (
            f"UPDATE {quoted(space, two)} SET {quoted(link)} = 'b' WHERE \"%s\" = 1",
            f'DELETE FROM {quoted(space, two)} WHERE "%s" = 2',
            f"UPDATE {quoted(space, one)} SET {quoted(key)} = 'c' WHERE {quoted(key)} = 'a'",
            f"UPDATE {quoted(space, one)} SET \"Select\" = 'a'",
            f"INSERT INTO {quoted(two)} VALUES (1)",
        ):
            database.execute(statement)
            daemon.right(statement)


def test_tables_of_one_name_in_two_schemas_are_two_tables(database: Database, tmp_path: Path) -> None:
    database.execute(
        """
        CREATE SCHEMA a; CREATE SCHEMA b;
        CREATE TABLE a.t (id int PRIMARY KEY, n text); CREATE TABLE b.t (id int PRIMARY KEY, n text, a_id int);
        CREATE TABLE public.t (id int PRIMARY KEY, n text);
        INSERT INTO a.t VALUES (1, 'a1'), (2, 'a2'); INSERT INTO b.t VALUES (1, 'b1', 2), (3, 'b3', 1);
        """
    )
    back: Node = {"belongs_to": "back", "column": "a_id", "table": "a.t", "fields": [{"text": "n", "required": False}]}
    rows: Node = {
        "has_many": "rows",
        "table": "b.t",
        "foreign_key": "a_id",
        "fields": [{"text": "n", "required": False}],
    }
    tops = {
        "ia": schema("a.t", [{"text": "n", "required": False}, rows]),
        "ib": schema("t", [{"text": "n", "required": False}, back], schema="b"),
        "ip": schema("t", [{"text": "n", "required": False}]),
    }
    with in_process(database.url, database.name, write_schemas(tmp_path, tops)) as daemon:
        for statement in (
            "UPDATE b.t SET n = 'b' WHERE id = 1",
            "UPDATE a.t SET n = 'a' WHERE id = 1",
            "DELETE FROM b.t WHERE id = 1",
            "INSERT INTO public.t VALUES (1, 'p1'), (3, 'p3')",
            "DELETE FROM a.t WHERE id = 1",
            "UPDATE public.t SET id = 2 WHERE id = 1",
            "TRUNCATE b.t",
        ):
            database.execute(statement)
            daemon.right(statement)


# -- partitions --------------------------------------------------------------------------------------------------------


def test_partitions_of_partitions_are_heard_by_their_leaves(database: Database, tmp_path: Path) -> None:
    database.execute(
        """
        CREATE SCHEMA side;
        CREATE TABLE owners (id int, region text, name text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
        CREATE TABLE owners_eu PARTITION OF owners FOR VALUES IN ('eu') PARTITION BY HASH (id);
        CREATE TABLE side.owners_eu_0 PARTITION OF owners_eu FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE side.owners_eu_1 PARTITION OF owners_eu FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE owners_rest PARTITION OF owners DEFAULT PARTITION BY RANGE (id);
        CREATE TABLE owners_rest_low PARTITION OF owners_rest FOR VALUES FROM (0) TO (10);
        CREATE TABLE owners_rest_all PARTITION OF owners_rest DEFAULT;
        -- The link is no part of the key, and the columns of a leaf stand in another order.
        CREATE TABLE pets (at date, id int, owner int, region text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE pets_24 (region text, owner int, gone int, id int NOT NULL, at date NOT NULL);
        ALTER TABLE pets_24 DROP COLUMN gone;
        ALTER TABLE pets ATTACH PARTITION pets_24 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE TABLE pets_rest PARTITION OF pets DEFAULT;
        INSERT INTO owners SELECT n, (ARRAY['eu', 'us', 'as'])[n % 3 + 1], 'owner ' || n
        FROM generate_series(1, 24) AS n;
        INSERT INTO pets SELECT date '2023-06-01' + 40 * n, n, n, (ARRAY['eu', 'us', 'as'])[n % 3 + 1]
        FROM generate_series(1, 24) AS n;
        """
    )
    pets: Node = {
        "has_many": "pets",
        "table": "pets",
        "foreign_key": ["owner", "region"],
        "fields": [{"integer": "id", "required": True}, {"date": "at", "required": True}],
    }
    owner: Node = {
        "belongs_to": "owner",
        "column": ["owner", "region"],
        "table": "owners",
        "fields": [{"text": "name", "required": False}],
    }
    tops = {
        "owners": schema("owners", [{"text": "name", "required": False}, pets]),
        "pets": schema("pets", [{"keyword": "region", "required": False}, owner]),
    }
    with in_process(database.url, database.name, write_schemas(tmp_path, tops)) as daemon:
        assert len(daemon.right("as built")["owners"]) == 24
        for statement in (
            "UPDATE owners SET name = name || '!' WHERE id % 2 = 0",
            "UPDATE pets SET owner = 3 WHERE id IN (1, 2, 12, 20)",
            "UPDATE pets SET at = at + 400 WHERE id < 6",
            "UPDATE owners SET region = 'eu' WHERE id = 4",
            "UPDATE owners SET region = 'nowhere', id = id + 100 WHERE id IN (3, 5)",
            "DELETE FROM pets WHERE id % 4 = 0",
            "INSERT INTO owners VALUES (500, 'eu', 'late'), (501, 'us', 'later')",
            "DELETE FROM owners WHERE id % 3 = 1",
            "TRUNCATE pets_rest",
            "TRUNCATE side.owners_eu_1",
            "TRUNCATE owners",
        ):
            database.execute(statement)
            daemon.right(statement)


# -- constants, raw filters --------------------------------------------------------------------------------------------


def test_constants_keep_their_json_type(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    values: List[Any] = [
        0, -(2**63), 12345678901234567890, 2.5, 1.5e300, True, False, None, "", 'é"\\\n\u2028', "null", "2024-01-02",
        [], [1, "a", None, [True, {}]], {}, {"b": 1, "a": {"c": [1.5, None]}},
    ]  # fmt: skip
    fields = [{"constant": f"c{number}", "value": value} for number, value in enumerate(values)]
    with in_process(database.url, database.name, write_schemas(tmp_path, {"t": schema("t", fields)})) as daemon:
        daemon.right()
        body = daemon.sink.get("t", "1")
        assert body is not None
        found = json.loads(body)
        assert list(found.values()) == values
        assert [type(value) for value in found.values()] == [type(value) for value in values]
        assert list(found["c15"]) == ["b", "a"], "keys keep the order of the file"


def test_a_volatile_function_is_refused_and_one_marked_so_is_named(database: Database, tmp_path: Path) -> None:
    database.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1), (2, NULL);
        CREATE FUNCTION moody(int) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT $1 IS NOT NULL';
        """
    )
    field = [{"integer": "n", "required": False}]
    cause = refusal(database, tmp_path, schema("t", field, filters=[{"raw": "public.moody(n)"}]))
    assert cause.exit_code == EXIT_CONFIG and "filters: moody() is VOLATILE" in cause.message
    marked = schema("t", field, filters=[{"raw": "moody(n) and now() > '2000-01-01'", "volatile": True}])
    paths = write_schemas(tmp_path, {"t": marked})
    _, (warning,) = load_schema(paths["t"], "t")
    assert "filters[0].raw: is marked volatile" in str(warning)
    with in_process(database.url, database.name, paths) as daemon:
        assert set(daemon.right()["t"]) == {"1"}
        said = {"t": ["filters: moody(n) and now() > '2000-01-01'"]}
        assert daemon.status["facts"]["volatile_filters"] == said

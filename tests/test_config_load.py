"""Loading: the whole file, every default, every problem at once, nothing leaked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple, Type, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from flusso_sync.config import yaml12
from flusso_sync.config.load import Config, load_config
from flusso_sync.config.models import ConnectionParts, Deployment, OpenSearchSink, SqliteSink, StdoutSink
from flusso_sync.config.values import Address, Secret, Setting
from flusso_sync.errors import EXIT_CONFIG, ConfigError
from flusso_sync.schema.language import parse_schema
from flusso_sync.schema.plan import Table

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
ETC = ROOT / "etc" / "flusso.yaml"

SCHEMA = "version: 1\ntable: users\nfields:\n  - {integer: id, required: true}\n"


def write(folder: Path, text: str, **schemas: str) -> Path:
    for name, schema in {"users": SCHEMA, **schemas}.items():
        (folder / f"{name}.schema.yml").write_text(schema)
    file = folder / "flusso.yaml"
    file.write_text(text)
    return file


def refused(path: Path) -> List[Tuple[str, int, int, str]]:
    """(file name, line, column, sentence) of every problem."""
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.exit_code == EXIT_CONFIG
    found = []
    for problem in caught.value.problems:
        assert problem.file and problem.line and problem.column, problem
        found.append((Path(problem.file).name, problem.line, problem.column, f"{problem.path}: {problem.message}"))
    return found


# -- what loads ---------------------------------------------------------------------------------------


def test_the_example_of_flusso_loads() -> None:
    config = load_config(DATA / "flusso.yaml")
    assert config.prefix == "dev_"
    assert config.source.connection_url == Setting(env="APP_DATABASE_URL")
    assert list(config.sinks) == ["audit", "primary"]
    primary = config.sinks["primary"]
    assert isinstance(primary, OpenSearchSink)
    assert (primary.pipeline, primary.max_bytes, primary.password) == (
        "my-pipeline",
        10485760,
        Secret(env="OS_PASSWORD"),
    )
    assert [(entry.name, entry.enabled, entry.on_error) for entry in config.indexes.values()] == [
        ("users", True, "skip"),
        ("orders", False, "stop"),
    ]
    assert [plan.name for plan in config.plans] == ["users"]
    assert config.warnings == ()


def test_defaults_are_those_of_the_manual() -> None:
    config = Config.from_mapping(
        {"source": {"type": "postgres"}, "sinks": {"s": {"type": "opensearch", "url": "http://x"}}}
    )
    source, sink, engine, backfill = config.source, config.sinks["s"], config.engine, config.backfill
    assert isinstance(sink, OpenSearchSink)
    assert (source.slot, source.publication, source.manage_publication) == ("flusso", "flusso", True)
    assert (source.manage_replica_identity, source.on_gap, source.on_blind_table) == (True, "rebuild", "stop")
    assert (source.max_retained_wal_bytes, source.on_retained_wal) == (None, "warn")
    assert (source.statement_timeout_secs, source.lock_timeout_secs) == (60, 2)
    assert (source.prepare, source.failover_slot) == (True, False)
    assert (sink.tls_verify, sink.batch_size, sink.max_bytes, sink.timeout_secs) == (True, 1000, 10485760, 30)
    assert (sink.max_retries, sink.number_of_shards, sink.number_of_replicas) == (3, 1, 1)
    assert (sink.refresh_interval, sink.text_analysis, sink.auto_subfields) == ("10s", "builtin", True)
    assert (sink.concurrency, sink.ca_file, sink.client_cert, sink.client_key) == (2, None, None, None)
    assert (engine.queue_capacity, engine.batch_changes, engine.batch_bytes) == (16384, 4096, 32 * 2**20)
    assert (engine.max_document_bytes, engine.fan_out_documents) == (20 * 2**20, 10000)
    assert 1 <= backfill.workers <= 4
    assert (backfill.chunk_rows, backfill.max_rows_per_second, backfill.max_lag_bytes) == (5000, None, 256 * 2**20)
    assert config.server.public_address == Address("127.0.0.1", 9464)
    assert config.server.private_address == Address("127.0.0.1", 9465)
    assert (config.server.admin_user, config.server.admin_password) == ("admin", None)
    assert (config.quarantine.limit, config.on_error, config.prefix) == (10000, "stop", "")


def test_every_key_of_our_own_is_read(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            """
source:
  type: postgres
  connection_url: {host: /run/pg, port: 7, user: u, password: {file: word}, database: d}
  slot: '"2nd_slot"'
  publication: '"My Publication"'
  manage_replica_identity: false
  on_gap: stop
  on_blind_table: warn
  max_retained_wal_bytes: 10GB
  on_retained_wal: give_up
  statement_timeout_secs: 0.5
  lock_timeout_secs: 1
  prepare: false
  failover_slot: true
sinks:
  Os: {type: opensearch, url: "https://x", concurrency: 4, ca_file: ca.pem, client_cert: /c.pem, client_key: k.pem,
       max_bytes: 5MB, refresh_interval: -1}
  lite: {type: sqlite, path: docs.db, search: false}
  out: {type: stdout, pretty: true}
index:
  - {name: Users, schema: users.schema.yml, keep_generations: 2}
server: {public_address: "0.0.0.0:0", private_address: "[::1]:1", admin_user: boss, admin_password: {env: P}}
engine: {queue_capacity: 1, batch_changes: 2, batch_bytes: 3MB, max_document_bytes: 4MB, fan_out_documents: 5}
backfill: {workers: 6, chunk_rows: 7, max_rows_per_second: 8, max_lag_bytes: 9MB}
quarantine: {limit: 11}
""",
        )
    )
    parts = config.source.connection_url
    assert isinstance(parts, ConnectionParts)
    assert parts.password == Secret(file=str(tmp_path / "word"))
    assert (config.source.slot, config.source.publication) == ("2nd_slot", "My Publication")
    assert config.source.max_retained_wal_bytes == 10 * 2**30
    assert (config.source.statement_timeout_secs, config.source.on_retained_wal) == (0.5, "give_up")
    sink, lite = config.sinks["os"], config.sinks["lite"]
    assert isinstance(sink, OpenSearchSink) and isinstance(lite, SqliteSink)
    assert (sink.ca_file, sink.client_cert) == (str(tmp_path / "ca.pem"), "/c.pem")
    assert (sink.max_bytes, sink.refresh_interval, sink.concurrency) == (5 * 2**20, "-1", 4)
    assert (lite.path, lite.search) == (str(tmp_path / "docs.db"), False)
    assert config.indexes["users"].keep_generations == 2
    assert config.server.private_address == Address("::1", 1)
    assert (config.engine.batch_bytes, config.backfill.max_lag_bytes) == (3 * 2**20, 9 * 2**20)
    not_yet = "has no effect in this version"
    assert [warning for warning in config.warnings if not warning.endswith(not_yet)] == []


def test_whoever_manages_the_publication_alone_is_warned_of_blind_tables_only() -> None:
    for source, policy in [
        ({}, "stop"),
        ({"manage_publication": False}, "warn"),
        ({"manage_publication": False, "on_blind_table": "stop"}, "stop"),
    ]:
        assert Config.from_mapping({"source": {"type": "postgres", **source}}).source.on_blind_table == policy


def test_empty_sections_are_absent_sections(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "source:\n  type: postgres\n  slot:\nsinks:\nindex:\nserver:\nengine:\n"))
    assert (config.sinks, config.indexes, config.source.slot) == ({}, {}, "flusso")


def test_zeros_that_flusso_clamps_load_with_a_warning(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            'source: {type: postgres}\nsinks:\n  s: {type: opensearch, url: "http://u", batch_size: 0, max_bytes: 0, '
            "timeout_secs: 0, number_of_shards: 0}\n",
        )
    )
    sink = config.sinks["s"]
    assert isinstance(sink, OpenSearchSink)
    assert (sink.batch_size, sink.max_bytes, sink.timeout_secs, sink.number_of_shards) == (1, 1, 1, 1)
    assert len([warning for warning in config.warnings if warning.endswith(": 0 acts as 1")]) == 4
    assert re.match(r".*flusso\.yaml:3:42: sinks\.s\.batch_size: 0 acts as 1$", config.warnings[0])


def test_a_password_without_user_and_an_odd_interval_are_warnings(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            HEAD + 'sinks:\n  s: {type: opensearch, url: "http://u", password: geheim, refresh_interval: soon}\n',
        )
    )
    assert len(config.warnings) == 3  # and that there is no index
    assert "S_OPENSEARCH_USERNAME" in config.warnings[0]
    assert "geheim" not in "".join(config.warnings)


def test_loading_resolves_no_secret() -> None:
    config = load_config(DATA / "flusso.yaml")
    assert config.to_dict()["source"]["connection_url"] == "${APP_DATABASE_URL}"


def test_one_schema_file_can_serve_two_indexes(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            "source: {type: postgres}\nindex:\n"
            "  - {name: a, schema: users.schema.yml}\n  - {name: b, schema: ./users.schema.yml}\n",
        )
    )
    assert [plan.name for plan in config.plans] == ["a", "b"]
    assert config.indexes["a"].plan.canonical == config.indexes["b"].plan.canonical


def test_a_config_is_built_in_code_without_files(tmp_path: Path) -> None:
    (tmp_path / "users.schema.yml").write_text(SCHEMA)
    plan, _ = parse_schema(SCHEMA, "whatever")
    config = Config.from_mapping(
        {
            "source": {"type": "postgres", "connection_url": Setting("postgres://a/b")},
            "index": [
                {"name": "path", "schema": tmp_path / "users.schema.yml"},
                {
                    "name": "inline",
                    "schema": {"version": 1, "table": "users", "fields": ({"integer": "id", "required": True},)},
                },
                {"name": "plan", "schema": plan, "enabled": False, "on_error": "skip"},
            ],
        },
        tmp_path,
    )
    assert {entry.plan.canonical for entry in config.indexes.values()} == {plan.canonical}
    assert [entry.plan.name for entry in config.indexes.values()] == ["path", "inline", "plan"]
    assert config.path is None


def test_problems_of_a_config_in_code_name_their_key_path() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(
            {
                "source": {"type": "postgres", "slott": "x"},
                "index": [{"name": "a", "schema": {"version": 1, "fields": [3]}}],
            }
        )
    assert [problem.path for problem in caught.value.problems] == [
        "source.slott",
        "index[0].schema",
        "index[0].schema.fields[0]",
    ]


def test_a_config_cannot_be_changed() -> None:
    config = load_config(DATA / "flusso.yaml")
    with pytest.raises(Exception, match="frozen"):
        config.source.slot = "other"
    with pytest.raises(Exception, match="cannot assign"):
        config.prefix = "other"  # type: ignore[misc]


# -- what is refused ----------------------------------------------------------------------------------

HEAD = "source: {type: postgres}\n"


@pytest.mark.parametrize(
    ("text", "line", "column", "sentence"),
    [
        ("", 1, 1, "None: the configuration must be a mapping with at least `source`, got an empty file"),
        ("- a\n", 1, 1, "None: the configuration must be a mapping with at least `source`, got a list"),
        ("prefix: a\n", 1, 1, "None: `source` is missing"),
        ("source:\n", 1, 1, "None: `source` is missing"),
        ("source: postgres\n", 1, 9, 'source: must be a mapping, got "postgres"'),
        ("source: {}\n", 1, 1, "source: `type` is missing"),
        ("source: {type: mysql}\n", 1, 16, 'source.type: must be postgres, got "mysql"'),
        (HEAD + "on_error: stp\n", 2, 11, 'on_error: must be stop or skip, got "stp" (did you mean stop?)'),
        (HEAD + "prefix: BAD PREFIX\n", 2, 9, "prefix: must be lowercase"),
        (HEAD + "prefix: [a]\n", 2, 9, "prefix: must be text, got a list"),
        (HEAD + "indx: []\n", 2, 1, 'indx: unknown key "indx"; did you mean `index`? accepted here: source, sinks,'),
        (HEAD + "source: {}\n", 2, 1, 'None: the key "source" stands here a second time; the first is in line 1'),
        (HEAD + "index: {}\n", 2, 8, "index: must be a list, got a mapping"),
        (HEAD + "index: [x]\n", 2, 9, 'index[0]: must be a mapping, got "x"'),
        (HEAD + "index: [{schema: users.schema.yml}]\n", 2, 9, "index[0]: `name` is missing"),
        (HEAD + "index: [{name: a}]\n", 2, 9, "index[0]: `schema` is missing"),
        (HEAD + "index: [{name: a, schema: gone.yml}]\n", 2, 27, "index[0].schema: the schema file "),
        (HEAD + "index: [{name: a, schema: {}}]\n", 2, 27, "index[0].schema: must be text, got a mapping"),
        (HEAD + "index: [{name: a-b, schema: users.schema.yml}]\n", 2, 16, "index[0].name: must be a name"),
        (HEAD + "index: [{name: 1, schema: users.schema.yml}]\n", 2, 16, "index[0].name: must be text, got 1; put"),
        (
            HEAD + "index: [{name: a, schema: users.schema.yml, enabled: on}]\n",
            2,
            54,
            "index[0].enabled: must be true or",
        ),
        (HEAD + "sinks: []\n", 2, 8, "sinks: must be a mapping, got a list"),
        (HEAD + "sinks: {a: }\n", 2, 12, "sinks.a: must be a mapping with `type`"),
        (HEAD + "sinks: {a: {}}\n", 2, 9, "sinks.a: `type` is missing; a sink is opensearch, stdout or sqlite"),
        (HEAD + "sinks: {a: {type: opensarch}}\n", 2, 19, "sinks.a.type: must be opensearch, stdout or sqlite, got"),
        (HEAD + "sinks: {a: {type: [x]}}\n", 2, 19, "sinks.a.type: must be opensearch, stdout or sqlite, got a list"),
        (HEAD + "sinks: {a: {type: opensearch}}\n", 2, 9, "sinks.a: `url` is missing"),
        (
            HEAD + "sinks: {a: {type: stdout, pritty: true}}\n",
            2,
            27,
            'sinks.a.pritty: unknown key "pritty"; did you mean',
        ),
        (HEAD + "sinks: {a-b: {type: stdout}}\n", 2, 9, "sinks.a-b: must be a name"),
        (HEAD + "sinks: {url: {type: stdout, x: 1}}\n", 2, 29, "sinks.url.x: unknown key"),
        (HEAD + "sinks: {a: {type: stdout}, A: {type: stdout}}\n", 2, 28, 'sinks.A: the sink name "a" is used twice'),
        (
            HEAD + "sinks: {a: {type: opensearch, url: x, batch_size: -1}}\n",
            2,
            51,
            "sinks.a.batch_size: must be at least 0",
        ),
        (
            HEAD + "sinks: {a: {type: opensearch, url: x, max_retries: 4294967296}}\n",
            2,
            52,
            "sinks.a.max_retries: must be at",
        ),
        (
            HEAD + "sinks: {a: {type: opensearch, url: x, max_retries: 1.5}}\n",
            2,
            52,
            "sinks.a.max_retries: must be a whole",
        ),
        (
            HEAD + "sinks: {a: {type: opensearch, url: x, timeout_secs: .inf}}\n",
            2,
            53,
            "sinks.a.timeout_secs: must be a",
        ),
        (
            HEAD + "sinks: {a: {type: opensearch, url: {env: A, x: 1}}}\n",
            2,
            36,
            "sinks.a.url: must be text, {env: VARIABLE}",
        ),
        (HEAD + "sinks: {a: {type: opensearch, url: {env: }}}\n", 2, 36, "sinks.a.url: `env` must name a variable"),
        (HEAD + "server: {public_address: 'localhost:1'}\n", 2, 26, "server.public_address: must be IP:port"),
        (HEAD + "server: {public_address: 9464}\n", 2, 26, "server.public_address: must be IP:port"),
        (HEAD + "engine: {batch_bytes: 0}\n", 2, 23, "engine.batch_bytes: must be at least 1, got 0"),
        (HEAD + "engine: {queue_capacity: 10MB}\n", 2, 26, "engine.queue_capacity: must be a whole number"),
        (HEAD + "backfill: {max_lag_bytes: 10XB}\n", 2, 27, "backfill.max_lag_bytes: must be a size such as 32MB"),
        ("source: {type: postgres, connection_url: 5}\n", 1, 42, "source.connection_url: must be a postgresql:// URL,"),
        (
            "source: {type: postgres, connection_url: [a]}\n",
            1,
            42,
            "source.connection_url: must be a postgresql:// URL,",
        ),
        (
            "source: {type: postgres, connection_url: {host: h}}\n",
            1,
            26,
            "source.connection_url: `database` is missing",
        ),
        (
            "source: {type: postgres, connection_url: {env: A, host: h}}\n",
            1,
            42,
            "source.connection_url: must be text,",
        ),
        (
            "source: {type: postgres, connection_url: {databse: h}}\n",
            1,
            43,
            "source.connection_url.databse: unknown key",
        ),
        (
            "source: {type: postgres, connection_url: {database: d, port: 70000}}\n",
            1,
            62,
            "source.connection_url.port: must",
        ),
        ("source: {type: postgres, slot: '\"A b\"'}\n", 1, 32, "source.slot: must hold lowercase letters"),
        ("source: {type: postgres, lock_timeout_secs: 0}\n", 1, 45, "source.lock_timeout_secs: must be more than 0"),
    ],
)
def test_a_broken_file_gives_a_sentence_with_line_and_column(
    tmp_path: Path, text: str, line: int, column: int, sentence: str
) -> None:
    problems = refused(write(tmp_path, text))
    assert any(found[:3] == ("flusso.yaml", line, column) and found[3].startswith(sentence) for found in problems), (
        problems
    )


def test_index_names_clash_once_they_are_lowercased(tmp_path: Path) -> None:
    text = HEAD + "index:\n  - {name: users, schema: users.schema.yml}\n  - {name: Users, schema: users.schema.yml}\n"
    (problem,) = refused(write(tmp_path, text))
    assert problem == (
        "flusso.yaml",
        4,
        12,
        'index[1].name: the index name "users" is used twice (names are lowercased)',
    )


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    problems = refused(
        write(
            tmp_path,
            "source: {type: postgres, prepare: maybe}\nindex:\n  - {name: a, schema: a.schema.yml, enabled: false}\n"
            "  - {name: b, schema: b.schema.yml}\nfoo: 1\n",
            a="version: 2\ntable: t\nfields: [{text: x}]\n",
            b="version: 1\ntable: [\n",
        )
    )
    assert [problem[:2] for problem in problems] == [
        ("flusso.yaml", 1),
        ("flusso.yaml", 5),
        ("a.schema.yml", 1),
        ("a.schema.yml", 3),
        ("b.schema.yml", 3),
    ]


def test_no_message_and_no_dump_holds_a_secret(tmp_path: Path) -> None:
    text = (
        "source:\n  type: postgres\n  connection_url: {host: h, password: [geheim], database: 1}\n"
        "server: {admin_password: {geheim: geheim2}}\n"
        "sinks:\n  s: {type: opensearch, url: {env: 5}, password: 17041704, username: {a: b, c: geheim}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert len(caught.value.problems) == 6
    for secret in ("geheim2", "[geheim", "17041704", "'geheim"):
        assert secret not in str(caught.value)
    config = Config.from_mapping(
        {
            "source": {"type": "postgres", "connection_url": "postgres://u:geheim@h/d"},
            "sinks": {"s": {"type": "opensearch", "url": "https://u:geheim@h", "password": "geheim"}},
            "server": {"admin_password": "geheim"},
        }
    )
    assert "geheim" not in f"{config!r} {config.to_dict()} {json.dumps(config.to_dict())}"


def test_a_config_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "gone.yaml")


def test_what_a_run_would_stumble_over_or_do_nothing_with_is_a_warning(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            "source: {type: postgres, connection_url: 'mysql://geheim@x/y'}\n"
            "sinks:\n  s: {type: opensearch, url: 'geheim:9200'}\n"
            "index: []\n",
        )
    )
    places = [warning.split("flusso.yaml:")[1] for warning in config.warnings]
    assert [place.split(": ", 1)[1] for place in places] == [
        "source.connection_url: not a postgresql:// URL; DATABASE_URL must be set",
        "sinks.s.url: neither an http:// nor an https:// URL; S_OPENSEARCH_URL must be set",
        "index: no index is named and enabled: nothing will be written",
    ]
    assert [place.split(": ")[0] for place in places] == ["1:26", "3:25", "4:1"]


def test_what_has_no_effect_is_a_warning(tmp_path: Path) -> None:
    lone = load_config(write(tmp_path, "source: {type: postgres, on_retained_wal: give_up}\n"))
    sentence = ": source.on_retained_wal: has no effect without max_retained_wal_bytes"
    assert [warning for warning in lone.warnings if warning.endswith(sentence)]
    both = "source: {type: postgres, on_retained_wal: give_up, max_retained_wal_bytes: 1GB}\n"
    assert not [warning for warning in load_config(write(tmp_path, both)).warnings if "retained" in warning]
    assert "NOT YET" not in ETC.read_text()


ETC_LINES = ETC.read_text().splitlines()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_loads_or_says_where_it_is_damaged(tmp_path: Path, data: st.DataObject) -> None:
    lines = list(re.sub(r"(?m)^( *)#(?=\S)", r"\1", "\n".join(ETC_LINES)).split("\n"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        damage = data.draw(st.sampled_from(["drop", "twice", "indent", "value", "cut", "key"]))
        if damage == "drop":
            del lines[at]
        elif damage == "twice":
            lines.insert(at, lines[at])
        elif damage == "indent":
            lines[at] = " " + lines[at]
        elif damage == "value":
            lines[at] = (
                lines[at].split(":")[0] + ": " + data.draw(st.sampled_from(["[1]", "{a: b}", "-3", "yes", "", "'"]))
            )
        elif damage == "cut":
            lines[at] = lines[at][: len(lines[at]) // 2]
        else:
            lines[at] = lines[at].replace("_", "-", 1)
    (tmp_path / "schemas").mkdir(exist_ok=True)
    for schema in (ROOT / "etc" / "schemas").iterdir():
        (tmp_path / "schemas" / schema.name).write_bytes(schema.read_bytes())
    file = tmp_path / "flusso.yaml"
    file.write_text("\n".join(lines))
    try:
        load_config(file)
    except ConfigError as error:
        assert error.problems
        assert all(problem.line and problem.column and problem.message for problem in error.problems)


# -- etc/flusso.yaml ----------------------------------------------------------------------------------


def uncommented() -> Any:
    """The file with every commented key taken in: those without a blank after the ``#``."""
    return yaml12.load_text(re.sub(r"(?m)^( *)#(?=\S)", r"\1", ETC.read_text()), "etc/flusso.yaml").value


def models_in(annotation: Any) -> Iterator[Type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def keys_of(model: Type[BaseModel]) -> Set[str]:
    return {info.alias or name for name, info in model.model_fields.items()}


def test_the_shipped_file_loads_as_it_is() -> None:
    config = load_config(ETC)
    assert config.warnings == ()
    assert [type(sink) for sink in config.sinks.values()] == [SqliteSink]
    assert {entry.plan.root for entry in config.indexes.values()} == {
        Table("public", name) for name in ("users", "orders", "products")
    }


def test_the_shipped_file_loads_with_every_comment_taken_away(tmp_path: Path) -> None:
    config = Config.from_mapping(uncommented(), ETC.parent)
    assert {type(sink) for sink in config.sinks.values()} == {StdoutSink, OpenSearchSink, SqliteSink}


def test_the_shipped_file_names_every_key_and_no_other() -> None:
    shown = uncommented()
    assert set(shown) == keys_of(Deployment)
    for key, info in Deployment.model_fields.items():
        for model in models_in(info.annotation):
            if issubclass(model, ConnectionParts):
                text = ETC.read_text()
                assert all(re.search(rf"\b{part}: ", text) for part in keys_of(model))
            elif key == "sinks":
                kind = model.model_fields["type"].annotation.__args__[0]  # type: ignore[union-attr]
                (entry,) = [sink for sink in shown["sinks"].values() if sink["type"] == kind]
                assert set(entry) == keys_of(model), kind
            elif key == "index":
                assert set().union(*shown["index"]) == keys_of(model)
            else:
                if key != "source" or model.__name__ == "Source":
                    assert set(shown[key]) == keys_of(model), key


def test_the_shipped_file_shows_the_defaults() -> None:
    shown = uncommented()
    examples = {  # keys without a default: an example is shown
        "prefix", "connection_url", "max_retained_wal_bytes", "url", "username", "password", "ca_file", "client_cert",
        "client_key", "pipeline", "path", "admin_password", "max_rows_per_second", "workers",
    }  # fmt: skip
    told = Config.from_mapping(
        {**shown, "sinks": {name: strip(sink, examples) for name, sink in shown["sinks"].items()}}, ETC.parent
    )
    bare = Config.from_mapping(
        {
            "source": {"type": "postgres"},
            "sinks": {n: {k: s[k] for k in ("type", "url", "path") if k in s} for n, s in shown["sinks"].items()},
        },
        ETC.parent,
    )
    for section in ("source", "engine", "backfill", "quarantine", "server"):
        one, other = getattr(told, section).model_dump(), getattr(bare, section).model_dump()
        assert strip(one, examples) == strip(other, examples)
    assert {n: strip(s.model_dump(), examples) for n, s in told.sinks.items()} == {
        n: strip(s.model_dump(), examples) for n, s in bare.sinks.items()
    }
    assert (told.on_error, told.indexes["users"].keep_generations) == ("stop", 0)


def strip(values: Dict[str, Any], names: Set[str]) -> Dict[str, Any]:
    needed = {"url", "path"} if "type" in values and values["type"] in ("opensearch", "sqlite") else set()
    return {key: value for key, value in values.items() if key not in names - needed}


def test_every_key_is_described() -> None:
    seen: Set[Type[BaseModel]] = set()
    waiting: List[Type[BaseModel]] = [Deployment]
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        assert model.__doc__
        for name, info in model.model_fields.items():
            assert info.description, f"{model.__name__}.{name}"
            waiting.extend(models_in(info.annotation))
    assert len(seen) == 11


def test_editors_get_a_json_schema() -> None:
    schema = Deployment.model_json_schema()
    assert json.loads(json.dumps(schema))["properties"]["index"]["items"]
    assert "schema" in schema["$defs"]["Index"]["properties"]

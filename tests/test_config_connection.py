"""Which connection a run gets: precedence, escaping, addresses, prefixes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flusso_sync.config.connection import (
    SinkSettings,
    check_prefix,
    overrides,
    sink_settings,
    source_address,
    source_conninfo,
)
from flusso_sync.config.load import Config
from flusso_sync.config.models import OpenSearchSink
from flusso_sync.errors import ConfigError

PARTS = {"host": "db", "user": "me", "password": "geheim", "database": "shop"}


def config(connection: Any = None, sinks: Mapping[str, Any] = {}) -> Config:  # noqa: B006
    return Config.from_mapping({"source": {"type": "postgres", "connection_url": connection}, "sinks": sinks})


@pytest.mark.parametrize(
    ("connection", "environ", "conninfo"),
    [
        ("postgres://literal/a", {}, "postgres://literal/a"),
        (" postgres://literal/a ", {}, "postgres://literal/a"),
        ("postgres://literal/a", {"DATABASE_URL": "postgresql://over/b"}, "postgresql://over/b"),
        ({"env": "X"}, {"X": "postgres://x/a", "DATABASE_URL": "postgres://over/b"}, "postgres://x/a"),
        (PARTS, {"DATABASE_URL": "postgres://over/b"}, "postgres://over/b"),
        (PARTS, {}, "host='db' port='5432' user='me' dbname='shop' password='geheim'"),
        (None, {"DATABASE_URL": "postgres://over/b?sslmode=require"}, "postgres://over/b?sslmode=require"),
    ],
)
def test_the_source_follows_the_precedence(connection: Any, environ: Dict[str, str], conninfo: str) -> None:
    assert source_conninfo(config(connection), environ) == conninfo


@pytest.mark.parametrize(
    ("connection", "environ", "fragment"),
    [
        (None, {}, "DATABASE_URL is not set"),
        ({"env": "X"}, {"DATABASE_URL": "postgres://over/b"}, "variable X is not set"),
        ("postgres://literal/a", {"DATABASE_URL": ""}, "DATABASE_URL is not"),
        ("mysql://geheim@literal/a", {}, "must be a postgresql:// URL"),
        ("postgres://geheim a/b", {}, "must be a postgresql:// URL"),
        ({"env": "X"}, {"X": "geheim"}, r"\$\{X\} is not"),
    ],
)
def test_a_source_that_cannot_be_named_is_a_sentence_without_secrets(
    connection: Any, environ: Dict[str, str], fragment: str
) -> None:
    with pytest.raises(ConfigError, match=fragment) as caught:
        source_conninfo(config(connection), environ)
    assert "geheim" not in str(caught.value)


def test_the_source_is_read_anew_at_each_call(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("one")
    loaded = Config.from_mapping(
        {"source": {"type": "postgres", "connection_url": {**PARTS, "password": {"file": "word"}}}}, tmp_path
    )
    assert "password='one'" in source_conninfo(loaded, {})
    (tmp_path / "word").write_text("two")
    assert "password='two'" in source_conninfo(loaded, {})


def test_a_password_of_unused_parts_is_not_read() -> None:
    loaded = config({**PARTS, "password": {"env": "UNSET"}})
    assert source_conninfo(loaded, {"DATABASE_URL": "postgres://over/b"}) == "postgres://over/b"


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@given(ANY_TEXT, ANY_TEXT)
def test_parts_reach_libpq_whatever_they_hold(user: str, password: str) -> None:
    conversion = pytest.importorskip("psycopg.conninfo")
    read = conversion.conninfo_to_dict(source_conninfo(config({**PARTS, "user": user, "password": password}), {}))
    assert (read["user"], read["password"], read["dbname"]) == (user, password, "shop")


@pytest.mark.parametrize(
    ("connection", "environ", "address"),
    [
        ("postgres://u:p@host:5433/db", {}, "host:5433/db"),
        ("postgres://u@host", {}, "host:5432/u"),
        ("postgres://host/a%20b", {}, "host:5432/a b"),
        ("postgres://u:p%40x@h1:1,h2:2/db", {}, "h1:1,h2:2/db"),
        ("postgres://u:p?x@host/db?user=v", {}, "host:5432/db"),
        ("postgres://[::1]:5433/db", {}, "[::1]:5433/db"),
        ("postgresql:///db?host=/run/pg&port=7&sslmode=require", {}, "/run/pg:7/db"),
        ("postgresql://%2Frun%2Fpg/db", {}, "/run/pg:5432/db"),
        ("postgresql:///", {"PGHOST": "env", "PGPORT": "9", "PGDATABASE": "d"}, "env:9/d"),
        ("postgresql:///?user=me", {}, "local:5432/me"),
        (PARTS, {}, "db:5432/shop"),
        (PARTS, {"DATABASE_URL": "postgres://over/b"}, "over:5432/b"),
    ],
)
def test_the_address_is_named_as_the_connection_names_it(
    connection: Any, environ: Dict[str, str], address: str
) -> None:
    assert source_address(config(connection), environ) == address


def sink(**options: Any) -> OpenSearchSink:
    loaded = config(sinks={"main": {"type": "opensearch", "url": "https://os:9200/", **options}}).sinks["main"]
    assert isinstance(loaded, OpenSearchSink)
    return loaded


@pytest.mark.parametrize(
    ("options", "environ", "settings"),
    [
        ({}, {}, ("https://os:9200", None, None)),
        ({"username": "u", "password": "p"}, {}, ("https://os:9200", "u", "p")),
        ({"username": "u"}, {}, ("https://os:9200", "u", "")),
        ({"password": "p"}, {}, ("https://os:9200", None, None)),
        ({"password": "p"}, {"MAIN_OPENSEARCH_USERNAME": "u"}, ("https://os:9200", "u", "p")),
        ({}, {"MAIN_OPENSEARCH_URL": "http://other:1"}, ("http://other:1", None, None)),
        ({"url": {"env": "X"}}, {"X": "http://x", "MAIN_OPENSEARCH_URL": "http://other"}, ("http://x", None, None)),
        ({"url": "http://u:p%40@os:9200/base/"}, {}, ("http://os:9200/base", "u", "p@")),
        ({"url": "http://u:p@os", "username": "v", "password": "w"}, {}, ("http://os", "v", "w")),
    ],
)
def test_a_sink_follows_the_precedence(options: Any, environ: Dict[str, str], settings: Any) -> None:
    assert sink_settings("main", sink(**options), environ) == SinkSettings(*settings)


def test_a_sink_without_a_usable_url_is_a_sentence_without_secrets() -> None:
    for url in ("", "os:9200", "https://", "ftp://geheim@os", "https://u:geheim@os:port"):
        with pytest.raises(ConfigError, match=r"sinks\.main\.url: must be an http:// or https:// URL") as caught:
            sink_settings("main", sink(), {"MAIN_OPENSEARCH_URL": url})
        assert "geheim" not in str(caught.value)


def test_settings_do_not_show_the_password() -> None:
    assert "geheim" not in repr(SinkSettings("http://x", "u", "geheim"))


def test_overrides_in_force_are_named() -> None:
    loaded = config("postgres://a/b", {"main": {"type": "opensearch", "url": {"env": "X"}, "username": "u"}})
    environ = {
        "DATABASE_URL": "",
        "MAIN_OPENSEARCH_URL": "",
        "MAIN_OPENSEARCH_USERNAME": "",
        "MAIN_OPENSEARCH_PASSWORD": "",
    }
    assert [str(found) for found in overrides(loaded, environ)] == [
        "DATABASE_URL overrides source.connection_url",
        "MAIN_OPENSEARCH_USERNAME overrides sinks.main.username",
        "MAIN_OPENSEARCH_PASSWORD overrides sinks.main.password",
    ]
    assert overrides(config({"env": "X"}), environ) == ()


@pytest.mark.parametrize("prefix", ["", "dev_", "1-x.y", "a" * 50])
def test_a_good_prefix_passes(prefix: str) -> None:
    check_prefix(prefix)


@pytest.mark.parametrize(
    "prefix", ["a" * 51, "a b", "a,b", "a:b", 'a"b', "a*", "Dev_", "_dev", "-dev", "ädev", "a<b", "a\nb"]
)
def test_a_bad_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="prefix: must"):
        check_prefix(prefix)


def test_configuration_needs_no_database_driver() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None; "
        "import flusso_sync.config.load, flusso_sync.config.connection as c; "
        "k = flusso_sync.config.load.Config.from_mapping({'source': {'type': 'postgres'}}); "
        "print(c.source_address(k, {'DATABASE_URL': 'postgres://a/b'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("a:5432/b", 0), done.stderr

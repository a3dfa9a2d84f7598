"""What of a configuration read anew holds at once, and what is named as taking a restart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from flusso_sync import Config
from flusso_sync.backends import DefaultBackends
from flusso_sync.config.reload import reloaded
from flusso_sync.daemon import DaemonOptions
from flusso_sync.engine.policies import FailurePolicies, OnError

SCHEMA = {"version": 1, "table": "users", "primary_key": "id", "fields": [{"long": "id", "required": True}]}
OTHER = {**SCHEMA, "table": "people"}

BASE: Dict[str, Any] = {
    "source": {"type": "postgres", "connection_url": "postgresql://app:one@db/shop"},
    "sinks": {"search": {"type": "opensearch", "url": "http://search:9200", "username": "u", "password": "one"}},
    "index": [{"name": "users", "schema": SCHEMA}],
    "server": {"admin_password": "one"},
}


def config(**changed: Any) -> Config:
    return Config.from_mapping({**BASE, **changed})


def source(**changed: Any) -> Dict[str, Any]:
    return {"source": {**BASE["source"], **changed}}


def sink(**changed: Any) -> Dict[str, Any]:
    return {"sinks": {"search": {**BASE["sinks"]["search"], **changed}}}


def index(**changed: Any) -> Dict[str, Any]:
    return {"index": [{**BASE["index"][0], **changed}]}


CASES: List[Tuple[Dict[str, Any], List[str], List[str]]] = [
    ({}, [], []),
    ({"server": {"admin_password": "two", "admin_user": "root"}}, ["server.admin_user", "server.admin_password"], []),
    ({"server": {}}, [], ["server.admin_password"]),
    (
        {"server": {**BASE["server"], "public_address": "127.0.0.1:1", "private_address": "127.0.0.1:2"}},
        [],
        ["server.public_address", "server.private_address"],
    ),
    (
        {"backfill": {"workers": 9, "max_rows_per_second": 5, "max_lag_bytes": 5, "chunk_rows": 5}},
        ["backfill.workers", "backfill.max_rows_per_second", "backfill.max_lag_bytes"],
        ["backfill.chunk_rows"],
    ),
    ({"on_error": "skip"}, ["index.users.on_error"], []),
    (index(on_error="skip"), ["index.users.on_error"], []),
    (index(schema=OTHER), [], ["index.users.schema"]),
    (index(enabled=False, keep_generations=2), [], ["index.users.enabled", "index.users.keep_generations"]),
    ({"index": []}, [], ["index.users"]),
    ({"index": [*BASE["index"], {"name": "people", "schema": OTHER}]}, [], ["index.people"]),
    (source(connection_url="postgresql://app:two@db/shop"), ["source.connection_url"], []),
    (source(connection_url="postgresql://app:one@db/shop?sslmode=require"), ["source.connection_url"], []),
    (source(connection_url="postgresql://app:one@other/shop"), [], ["source.connection_url"]),
    (source(connection_url={"env": "NOBODY_SETS_ME"}), [], ["source.connection_url"]),
    (source(slot="other", on_gap="stop"), [], ["source.slot", "source.on_gap"]),
    (sink(password="two", username="v"), ["sinks.search.username", "sinks.search.password"], []),
    (sink(url="http://other:9200", concurrency=3), [], ["sinks.search.url", "sinks.search.concurrency"]),
    ({"sinks": {"search": {"type": "sqlite", "path": "x"}}}, [], ["sinks.search"]),
    ({"sinks": {**BASE["sinks"], "more": {"type": "stdout"}}}, [], ["sinks.more"]),
    ({"prefix": "dev_"}, [], ["prefix"]),
    ({"engine": {"batch_changes": 5}, "quarantine": {"limit": 5}}, [], ["engine.batch_changes", "quarantine.limit"]),
]


@pytest.mark.parametrize(("changed", "at_once", "waiting"), CASES)
def test_each_key_is_taken_over_or_named(changed: Dict[str, Any], at_once: List[str], waiting: List[str]) -> None:
    running, read = config(), config(**changed)
    outcome = reloaded(running, read, {})
    assert (sorted(outcome.changed), sorted(outcome.waiting)) == (sorted(at_once), sorted(waiting))
    # What is taken over is so, and what waits goes on waiting however often it is read again.
    again = reloaded(outcome.config, read, {})
    assert (again.changed, sorted(again.waiting)) == ((), sorted(waiting))
    back = reloaded(outcome.config, running, {})
    assert (sorted(back.changed), back.waiting) == (sorted(at_once), ())
    assert back.config == running


def test_the_page_names_what_holds_without_a_restart() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "hosts.md").read_text(encoding="utf-8")
    table = page.partition("## Changing the configuration")[2].partition("\n## ")[0]
    named = {key for line in table.splitlines() if line.startswith("| `") for key in re.findall(r"`([^`]+)`", line)}
    told = {key for _, at_once, _ in CASES for key in at_once}
    told = {re.sub(r"^sinks\.\w+", "sinks.*", re.sub(r"^index\.\w+", "index[]", key)) for key in told}
    assert named - {"on_error"} == told


def test_the_next_connect_takes_the_new_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    backends = DefaultBackends()
    running = config()
    access = backends._access(running, DaemonOptions())
    assert ":one@" in access.conninfo()
    read = config(**source(connection_url="postgresql://app:two@db/shop"), **sink(password="two"))
    backends.renew(reloaded(running, read, {}).config)
    assert ":two@" in access.conninfo()
    password = backends._sink("search", running).password
    assert password is not None and password.resolve() == "two"


def test_policies_are_followed_by_who_was_handed_the_former_ones() -> None:
    handed = FailurePolicies(OnError.STOP)
    handed.follow(FailurePolicies(OnError.STOP).with_override("users", OnError.SKIP))
    assert (handed.of("users"), handed.of("orders")) == (OnError.SKIP, OnError.STOP)

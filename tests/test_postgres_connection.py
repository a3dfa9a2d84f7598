"""What a failed connect means: waiting heals a server that is not ready, and nothing else that it refuses."""

from __future__ import annotations

import traceback
from typing import Type

import psycopg
import pytest

from flusso_sync.errors import SourceError, SourceRefused, SourceUnauthorized, SourceUnavailable
from flusso_sync.postgres.connection import SourceAccess, connect, connect_failure


def failure(said: str, reached: bool = False) -> SourceError:
    access = SourceAccess(lambda: "", "db:5432/shop")
    if reached:
        access.reached.set()
    return connect_failure(psycopg.OperationalError(f"connection failed: FATAL:  {said}"), access)


@pytest.mark.parametrize(
    "said",
    [
        "the database system is starting up",
        "the database system is shutting down",
        "the database system is in recovery mode",
        "the database system is not yet accepting connections\nDETAIL:  Consistent recovery state …",
        "the database system is not accepting connections\nDETAIL:  Hot standby mode is disabled.",
        "sorry, too many clients already",
    ],
)
@pytest.mark.parametrize("reached", [False, True], ids=["at first", "later"])
def test_a_server_that_is_not_ready_is_waited_for(said: str, reached: bool) -> None:
    assert type(failure(said, reached)) is SourceUnavailable


@pytest.mark.parametrize("reached, kind", [(False, SourceRefused), (True, SourceUnauthorized)])
@pytest.mark.parametrize(
    "said",
    [
        'password authentication failed for user "shop"',
        'no pg_hba.conf entry for host "127.0.0.1", user "shop", database "shop"',
        'database "shop" does not exist',
        'role "shop" does not exist',
    ],
)
def test_a_refusal_ends_a_first_connect_and_is_waited_out_later(
    said: str, reached: bool, kind: Type[SourceError]
) -> None:
    assert type(failure(said, reached)) is kind


@pytest.mark.parametrize("reached, kind", [(False, SourceRefused), (True, SourceUnauthorized)])
@pytest.mark.parametrize(
    "url, said",
    [
        ("postgresql://shop:canary@[::1/shop", "IPv6"),
        ("postgresql://shop:canary%zz@db/shop", "percent-encoded"),
        ("postgresql://shop@db/shop?canary", "query parameter"),
        ("postgresql://shop@db/shop?nonsense=canary", "query parameter"),
    ],
)
def test_what_libpq_cannot_read_is_refused_without_being_shown(
    url: str, said: str, reached: bool, kind: Type[SourceError]
) -> None:
    access = SourceAccess(lambda: url, "db:5432/shop")
    if reached:
        access.reached.set()
    with pytest.raises(SourceError) as refused:
        connect(access)
    assert type(refused.value) is kind and said in str(refused.value)
    told = "".join(traceback.format_exception(None, refused.value, refused.value.__traceback__))
    assert "canary" not in told

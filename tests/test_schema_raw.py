"""Raw filters: which change by themselves, and which cannot stand in parentheses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flusso_sync.schema.raw import called_names, changes_by_itself


@pytest.mark.parametrize(
    "sql",
    [
        "created_at > now()",
        "created_at > NOW ( )",
        "created_at > pg_catalog.now()",
        'created_at > "now"()',
        "created_at > now /* x */ ()",
        "created_at > CURRENT_TIMESTAMP",
        "day = current_date",
        "day > LOCALTIMESTAMP - interval '1 day'",
        "t = localtime(0)",
        "owner = current_user",
        "x = current_setting('a.b')",
        "t < clock_timestamp()",
        "t < statement_timestamp()",
        "timeofday() > ''",
        "random() < 0.5",
        "id = random_normal()",
        "age(born) > '18 years'",
        "age ( f(a, b) ) > '18 years'",
        "id IN (SELECT user_id FROM vip)",
        "exists(select 1)",
        "id in (TABLE vip)",
        "day = 'today'::date",
        "day > DATE 'yesterday'",
        "t < 'now'::timestamptz",
        "'x' = '--' and t < now()",
        "$$ a $$ = a and now() > t",
    ],
)
def test_a_filter_that_changes_by_itself_is_told(sql: str) -> None:
    assert changes_by_itself(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "length(title) > 0",
        "title = 'now()'",
        "title = 'it''s now()'",
        r"title = E'\' now()'",
        "title = $$now()$$ and body = $q$ SELECT $$ $q$",
        "a > 1 -- now()\n and b",
        "a > 1 /* SELECT /* now() */ now() */ and b",
        '"select" = 1 and "now" > 2',
        "now > 1",
        "created_timestamp > '2020-01-01'",
        "to_timestamp(a) > b",
        "current_state = 'x'",
        "state = 'now'",
        "day = '2024-01-01'::date",
        "age(a, b) > '1 day'",
        "age(f(a), b) > '1 day'",
        "randomness > 3",
        "selected",
        "a::text = 'x' and b[1:2] = c",
        "price > 1.5e3 and qty >= .5",
    ],
)
def test_a_filter_over_columns_passes(sql: str) -> None:
    assert changes_by_itself(sql) is None


@pytest.mark.parametrize(
    ("sql", "fragment"),
    [
        ("a = 'x", "not closed"),
        ('a = "x', "not closed"),
        ("a /* x", "comment is not closed"),
        ("(a", "parentheses"),
        ("a)", "parentheses"),
        ("a; drop table b", "one condition"),
    ],
)
def test_what_cannot_stand_in_parentheses_is_refused(sql: str, fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment):
        changes_by_itself(sql)


def test_called_names_are_those_to_look_up() -> None:
    sql = "f(a) AND G (b) and \"H\"(c) and d IN (1) and (e) and not (x) and s.f(y) and 'k(' = z -- l()"
    assert called_names(sql) == ("f", "g", "H")


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_sentence(sql: str) -> None:
    try:
        changes_by_itself(sql)
        called_names(sql)
    except ValueError as error:
        assert str(error)

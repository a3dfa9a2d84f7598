"""Raw SQL filters, read just far enough to know two things: whether they hang together, and whether they
change by themselves.

A filter that changes without a row changing (``now()``, a sub-select, ``random()``) makes documents wrong
without an event, so it is refused unless its author says ``volatile: true`` (settled.md section 1).  Text in
literals, quoted names and comments does not count.  What Postgres alone knows (user functions marked
VOLATILE) is checked once connected; :func:`called_names` says what to look up.
"""

from __future__ import annotations

import re
from typing import Iterator, List, NamedTuple, Optional, Tuple

#: Keywords that need no parentheses to be evaluated anew each time.
_CHANGING_WORDS = frozenset(
    {
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "localtime",
        "localtimestamp",
    }
)

#: Literals that a date or time type reads as a moment near the one of evaluation.
_CHANGING_LITERALS = frozenset({"now", "today", "tomorrow", "yesterday"})
_TIME_TYPES = frozenset({"date", "time", "timetz", "timestamp", "timestamptz"})

#: Words that are followed by a parenthesis without being called.
_NOT_CALLED = frozenset(
    "all and any array as between by case cast else exists filter from ilike in is like not on or over row select "
    "similar some then when where with values".split()
)


class Token(NamedTuple):
    """``kind`` is word (lowercased), name (was in double quotes), literal or sign."""

    kind: str
    text: str


_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*)
    | (?P<block>/\*)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<literal>(?:[uU]&|[bBxXnN])?'(?:[^']|'')*')
    | (?P<dollar>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
    | (?P<name>(?:[uU]&)?"(?:[^"]|"")*")
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*|\.\d[\w.]*)
    | (?P<sign>::|.)
    """,
    re.VERBOSE | re.DOTALL,
)


#: Begins a quotation.  Unclosed ones must end the reading: each would be looked for up to the end of the text.
_DOLLAR = re.compile(r"\$(?:[^\W\d]\w*)?\$")


def tokens(sql: str) -> List[Token]:
    """The tokens of a condition without blanks and comments; raises ``ValueError`` when it cannot stand in
    parentheses (unclosed literal, comment or parenthesis, or a second statement)."""
    found: List[Token] = []
    position = 0
    depth = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        assert match is not None  # the last alternative takes any character
        kind = match.lastgroup or ""
        text = match.group()
        position = match.end()
        if kind in ("space", "comment"):
            continue
        if kind == "block":
            position = _block_end(sql, position)
        elif kind == "word":
            found.append(Token("word", text.lower()))
        elif kind == "name":
            found.append(Token("name", text[text.index('"') + 1 : -1].replace('""', '"')))
        elif kind in ("escaped", "literal", "dollar", "tag"):
            found.append(Token("literal", text))
        elif kind == "number":
            found.append(Token("literal", text))
        else:
            if text in "'\"":
                raise ValueError(f"a quotation mark {text} is not closed")
            if text == "$" and _DOLLAR.match(sql, position - 1):
                raise ValueError("a quotation in dollar signs is not closed")
            if text == "$" and sql[position : position + 1].isdigit():
                raise ValueError("has no parameters: `$1` and the like would be those of the statement around it")
            if text == ";":
                raise ValueError("must be one condition; `;` is not accepted")
            depth += {"(": 1, ")": -1}.get(text, 0)
            if depth < 0:  # it would close the parenthesis around it: `a) OR (b`
                break
            found.append(Token("sign", text))
    if depth:
        raise ValueError("its parentheses do not match")
    return found


def _block_end(sql: str, position: int) -> int:
    depth = 1
    while depth:
        match = re.compile(r"/\*|\*/").search(sql, position)
        if match is None:
            raise ValueError("a comment is not closed")
        depth += 1 if match.group() == "/*" else -1
        position = match.end()
    return position


def changes_by_itself(sql: str) -> Optional[str]:
    """What makes the condition change without a row changing, as the file spells it; None: nothing seen."""
    found = tokens(sql)
    for index, token in enumerate(found):
        following = found[index + 1] if index + 1 < len(found) else Token("", "")
        called = following == Token("sign", "(")
        if token.kind == "word":
            if token.text in ("select", "table") and (token.text == "select" or following.kind in ("word", "name")):
                return f"a sub-select ({token.text.upper()})"
            if token.text in _CHANGING_WORDS:
                return token.text.upper()
        if token.kind in ("word", "name") and called and _changing_call(token.text, found, index + 1):
            return f"{token.text}()"
        if token.kind == "literal" and token.text.strip("'").strip().lower() in _CHANGING_LITERALS:
            before = found[index - 1].text if index else ""
            cast = found[index + 2].text if following.text == "::" and index + 2 < len(found) else ""
            if before in _TIME_TYPES or cast in _TIME_TYPES:
                return f"{token.text} as a moment"
    return None


def _changing_call(name: str, found: List[Token], opening: int) -> bool:
    if name in ("now", "timeofday") or name.startswith(("random", "current_")):
        return True
    if name.endswith("_timestamp") and name != "to_timestamp":
        return True
    return name == "age" and _arguments(found, opening) == 1


def _arguments(found: List[Token], opening: int) -> int:
    depth = 0
    commas = 0
    for token in found[opening:]:
        if token.kind != "sign":
            continue
        if token.text == "(":
            depth += 1
        elif token.text == ")":
            depth -= 1
            if not depth:
                break
        elif token.text == "," and depth == 1:
            commas += 1
    return commas + 1


def called_names(sql: str) -> Tuple[str, ...]:
    """Names followed by a parenthesis, each once: what to look up in ``pg_proc``."""

    def calls() -> Iterator[str]:
        found = tokens(sql)
        for token, following in zip(found, found[1:]):
            if following == Token("sign", "("):
                if token.kind == "name" or (token.kind == "word" and token.text not in _NOT_CALLED):
                    yield token.text

    return tuple(dict.fromkeys(calls()))

"""One value: from Postgres' text to JSON, to a document id, and to something Python can compare."""

from __future__ import annotations

import base64
import json
import re
from decimal import Decimal
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

Json = Any
Tree = Union[None, str, List["Tree"]]

TEXTS = {"text", "varchar", "bpchar", "char", "name", "citext"}
WHOLE = {"int2", "int4", "int8", "oid"}
NUMBERS = WHOLE | {"numeric", "money", "float4", "float8"}
TIMES = {"date", "timestamp", "timestamptz", "time", "timetz"}
#: Types without a JSON form of their own: their text is the value, as to_json has it.
PLAIN = {
    "uuid",
    "inet",
    "cidr",
    "macaddr",
    "interval",
    "xml",
    "tsvector",
    "bit",
    "varbit",
    "int4range",
    "daterange",
    "point",
}

_DATE = re.compile(
    r"(?P<year>\d+)-(?P<month>\d\d)-(?P<day>\d\d)(?: (?P<time>\d\d:\d\d:\d\d(?:\.\d+)?))?(?P<zone>\+00)?(?P<bc> BC)?"
)
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(\.\d+)?(?:([+-])(\d\d)(?::(\d\d)(?::(\d\d))?)?)?")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Unbuildable(Exception):
    """A value that makes its document a rejected one."""


class Collation:
    """The order and the letters of a text column; ``ranks`` is None where the order is that of the bytes."""

    def __init__(self, ascii_only: bool, ranks: Optional[Callable[[], Dict[str, int]]]) -> None:
        self._ascii_only = ascii_only
        self._ranks = ranks
        self._known: Optional[Dict[str, int]] = None

    def key(self, text: str) -> Any:
        if self._ranks is None:
            return text.encode("utf-8")
        if self._known is None:
            self._known = self._ranks()
        return self._known[text]

    def lower(self, text: str) -> str:
        """SQL lower: letter by letter, and only A to Z under C."""
        if self._ascii_only:
            return "".join(c.lower() if c.isascii() else c for c in text)
        return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


class Type(NamedTuple):
    """A column's type: the base type's name, domains resolved; ``array``: an array of it."""

    name: str
    written: str
    array: bool = False
    labels: Tuple[str, ...] = ()
    collation: Collation = Collation(False, None)

    @property
    def texts(self) -> bool:
        return self.name in TEXTS or bool(self.labels)


# -- JSON -----------------------------------------------------------------------------------------------


def render(type_: Type, text: Optional[str]) -> Json:
    """The value in a document."""
    if text is None:
        return None
    if type_.array:
        return _each(type_._replace(array=False), parse_array(text))
    return _scalar(type_, text)


def _each(type_: Type, tree: Tree) -> Json:
    if isinstance(tree, list):
        return [_each(type_, inner) for inner in tree]
    return None if tree is None else _scalar(type_, tree)


def _scalar(type_: Type, text: str) -> Json:
    name = type_.name
    if name == "bpchar":
        return text.rstrip(" ")
    if type_.texts or name in PLAIN:
        return text
    if name in WHOLE:
        return int(text)
    if name in NUMBERS:
        return number(Decimal(text))
    if name == "bool":
        return text == "t"
    if name in ("json", "jsonb"):
        return parse_json(text)
    if name == "bytea":
        return base64.b64encode(bytes.fromhex(text[2:])).decode("ascii")
    if name in TIMES:
        return iso(name, text)
    raise AssertionError(f"the oracle does not know how type {name} looks in a document")


def number(value: Decimal) -> Optional[Decimal]:
    return value if value.is_finite() else None


def iso(name: str, text: str) -> Optional[str]:
    """A date or time in ISO form, timestamptz and timetz in UTC; None for an infinite one."""
    if text in ("infinity", "-infinity"):
        return None
    if name == "time":
        return text
    if name == "timetz":
        # The remainder of a negative Decimal is negative.
        return _clock((_seconds(text)[0] + 86400) % 86400)
    match = _DATE.fullmatch(text)
    assert match is not None, text
    year = _year(match)
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    date = f"{sign}{abs(year):04d}-{match['month']}-{match['day']}"
    if name == "date":
        return date
    return f"{date}T{match['time']}" + ("+00:00" if name == "timestamptz" else "")


def _year(match: "re.Match[str]") -> int:
    """Astronomical: 1 BC is the year 0."""
    return 1 - int(match["year"]) if match["bc"] else int(match["year"])


def _seconds(text: str) -> Tuple[Decimal, int]:
    """A time of day as seconds in UTC, and its zone as seconds west of Greenwich."""
    match = _TIME.fullmatch(text)
    assert match is not None, text
    hours, minutes, seconds, fraction, sign, *zone = match.groups()
    west = sum(int(part or 0) * unit for part, unit in zip(zone, (3600, 60, 1))) * (1 if sign == "-" else -1)
    local = int(hours) * 3600 + int(minutes) * 60 + int(seconds) + Decimal(fraction or 0)
    return local + west, west


def _clock(seconds: Decimal) -> str:
    whole = int(seconds)
    fraction = str((seconds - whole).normalize())[1:] if seconds != whole else ""
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{fraction}"


def parse_json(text: str) -> Json:
    """As jsonb reads it: of repeated keys the last, keys by length then bytes, what it refuses is refused."""

    def ordered(pairs: List[Tuple[str, Json]]) -> Dict[str, Json]:
        last = dict(pairs)
        return {key: last[key] for key in sorted(last, key=lambda key: (len(key.encode("utf-8")), key.encode("utf-8")))}

    def check(value: Json) -> None:
        if isinstance(value, str):
            if "\0" in value or _LONE_SURROGATE.search(value):
                raise Unbuildable("a character that jsonb refuses")
        elif isinstance(value, list):
            for inner in value:
                check(inner)
        elif isinstance(value, dict):
            for key, inner in value.items():
                check(key)
                check(inner)

    # Surrogates are looked for before sorting: they have no UTF-8 form.
    check(json.loads(text, parse_float=Decimal))
    return json.loads(text, parse_float=Decimal, object_pairs_hook=ordered)


def parse_array(text: str) -> Tree:
    """Postgres' array text as nested lists of element texts."""
    if text.startswith("["):
        text = text[text.index("=") + 1 :]
    place = 0

    def item() -> Tree:
        nonlocal place
        if text[place] == "{":
            place += 1
            inner: List[Tree] = []
            while text[place] != "}":
                inner.append(item())
                if text[place] == ",":
                    place += 1
            place += 1
            return inner
        if text[place] == '"':
            found = []
            place += 1
            while text[place] != '"':
                if text[place] == "\\":
                    place += 1
                found.append(text[place])
                place += 1
            place += 1
            return "".join(found)
        start = place
        while text[place] not in ",}":
            place += 1
        plain = text[start:place]
        return None if plain == "NULL" else plain

    return item()


# -- ids ------------------------------------------------------------------------------------------------


def id_part(type_: Type, text: Optional[str]) -> str:
    """One key column's value in a document id."""
    assert text is not None and not type_.array, "a key column is null or an array"
    name = type_.name
    if name == "bool":
        return "true" if text == "t" else "false"
    if name == "numeric":
        return (text.rstrip("0").rstrip(".")) if "." in text else text
    if name == "bpchar":
        return text.rstrip(" ")
    if name in TIMES:
        found = iso(name, text)
        assert found is not None, "an infinite key has no id"
        return found
    return text


def document_id(parts: List[str]) -> str:
    """One part as it is; several joined by colons, with colons and percent signs inside a part escaped."""
    if len(parts) == 1:
        return parts[0]
    return ":".join(part.replace("%", "%25").replace(":", "%3A") for part in parts)


# -- comparing ------------------------------------------------------------------------------------------


def sort_key(type_: Type, text: str) -> Any:
    """Something whose order in Python is the type's order in Postgres."""
    assert not type_.array, "the oracle does not compare arrays"
    name = type_.name
    if type_.labels:
        return type_.labels.index(text)
    if name == "citext":
        return type_.collation.key(type_.collation.lower(text))
    if name == "bpchar":
        return type_.collation.key(text.rstrip(" "))
    if name in TEXTS:
        return type_.collation.key(text)
    if name in NUMBERS:
        value = Decimal(text)
        return (1, Decimal(0)) if value.is_nan() else (0, value)
    if name == "bool":
        return text == "t"
    if name == "bytea":
        return bytes.fromhex(text[2:])
    if name == "uuid":
        return text
    if name == "time":
        return _seconds(text)[0]
    if name == "timetz":
        return _seconds(text)
    if name in TIMES:
        if text.endswith("infinity"):
            return (-1,) if text.startswith("-") else (1,)
        match = _DATE.fullmatch(text)
        assert match is not None, text
        return (0, _year(match), int(match["month"]), int(match["day"]), match["time"] or "")
    raise AssertionError(f"the oracle does not know the order of type {name}")


def link_value(type_: Type, text: str) -> Any:
    """Something that is equal for two columns, perhaps of different types, when Postgres says so."""
    name = type_.name
    if name in NUMBERS:
        value = Decimal(text)
        # To Postgres NaN is equal to itself.
        return "NaN" if value.is_nan() else value
    if name == "bpchar":
        return text.rstrip(" ")
    if name == "date" and not text.endswith("infinity"):
        # Beside a timestamp a day is its midnight.
        day, era = text[: -len(" BC")] if text.endswith(" BC") else text, text[-3:] if text.endswith(" BC") else ""
        return f"{day} 00:00:00{era}"
    return text


def like(pattern: str) -> "re.Pattern[str]":
    """A LIKE pattern as a regular expression for ``fullmatch``."""
    found = []
    letters = iter(pattern)
    for letter in letters:
        if letter == "%":
            found.append(".*")
        elif letter == "_":
            found.append(".")
        else:
            found.append(re.escape(next(letters) if letter == "\\" else letter))
    return re.compile("".join(found), re.DOTALL)

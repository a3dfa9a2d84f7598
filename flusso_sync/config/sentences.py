"""The words messages about users' files are made of: key paths, values seen, what is accepted.

Pure, and shared by the configuration and the schema language, so that both sound alike.
"""

from __future__ import annotations

from typing import Any, Iterable, Optional, Sequence, Tuple, Union

#: How to reach a value from the top of a file: keys of mappings, positions in lists (from 0).
KeyPath = Tuple[Union[str, int], ...]

#: A value or key shown in a message is cut here; files may hold anything.
SHOWN_CHARACTERS = 60

#: Most problems listed of one file: who names the wrong file gets an answer in seconds, not a hundred thousand lines.
MAX_PROBLEMS = 1000

MORE_PROBLEMS = f"only the first {MAX_PROBLEMS:,} problems of this file are listed; there are more"

#: Keys whose values never appear in a message.
_SECRET_KEYS = frozenset({"password", "admin_password", "connection_url", "url", "client_key"})


def render(path: KeyPath) -> str:
    """The key path as people write it: ``index[0].schema``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            shown = cut(str(step))
            text += f".{shown}" if text else shown
    return text


def cut(text: str) -> str:
    """The beginning of a text from a file, on one line and without what a terminal would obey."""
    begun = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    if begun.isprintable():
        return begun
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in begun
    )


def is_secret(path: KeyPath) -> bool:
    """Whether the value at ``path`` must not be shown."""
    return any(step in _SECRET_KEYS for step in path)


def show(value: Any, path: KeyPath = ()) -> str:
    """The value seen, for a message: its kind and, unless it may be a secret, its beginning."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if is_secret(path):
        return "a value not shown here"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return cut(repr(value))
    return f'"{cut(str(value))}"'


def either(words: Iterable[str]) -> str:
    """``a, b or c``."""
    listed = list(words)
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} or {listed[-1]}"


def distance(one: str, other: str) -> int:
    """Edits (insert, delete, replace, swap of neighbours) that turn one word into the other."""
    before: Sequence[int] = []
    row: Sequence[int] = range(len(other) + 1)
    for i, a in enumerate(one, 1):
        current = [i]
        for j, b in enumerate(other, 1):
            cost = min(row[j] + 1, current[j - 1] + 1, row[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, row = row, current
    return row[-1]


def nearest(word: str, known: Iterable[str]) -> Optional[str]:
    """The known word a typo most likely meant: begun with it, or at most two edits away and fewer than its letters."""
    known = list(known)
    if len(word) > 64:
        return None
    begun = [candidate for candidate in known if len(word) > 2 and candidate.startswith(word.lower())]
    if len(begun) == 1:
        return begun[0]
    best: Optional[str] = None
    best_distance = min(3, max(2, len(word)))
    for candidate in known:
        if abs(len(word) - len(candidate)) >= best_distance:
            continue
        edits = distance(word.lower(), candidate.lower())
        if edits < best_distance and edits < len(candidate):
            best, best_distance = candidate, edits
    return best


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence for a key nobody knows, with the nearest one and all that are accepted."""
    accepted = list(known)
    guess = nearest(key, accepted)
    hint = f"; did you mean `{guess}`?" if guess else ""
    return f"unknown key {show(key)}{hint or ';'} accepted here: {', '.join(accepted)}"


def unknown_word(word: Any, known: Iterable[str], path: KeyPath = ()) -> str:
    """The sentence for a value outside a fixed set."""
    accepted = list(known)
    guess = nearest(word, accepted) if isinstance(word, str) else None
    hint = f" (did you mean {guess}?)" if guess else ""
    return f"must be {either(accepted)}, got {show(word, path)}{hint}"

"""The words of a document: which of its values a full-text index holds, said in SQL, and how words are asked for.

Searched are texts, identifiers, keywords, enums and uuids, alone, in lists and maps, at any depth.  SQLite takes them
out of the stored document itself, so that what is forgotten is always exactly what was remembered.
"""

from __future__ import annotations

import re
import sqlite3
from typing import List, Optional, Sequence, Tuple

from flusso_sync.schema.plan import AggregateField, AnyField, IndexPlan, JoinField, ObjectField, ScalarField

#: Kinds of field whose values are words.
KINDS = frozenset({"text", "identifier", "keyword", "enum", "uuid"})

#: Types that a custom field names for OpenSearch, and that hold words there.
CUSTOM = frozenset({"text", "match_only_text", "search_as_you_type", "keyword", "wildcard", "constant_keyword"})

#: How texts are cut into words: at what is neither letter nor digit, in any case, with or without accents.
TOKENIZER = "unicode61 remove_diacritics 2"

_MANY = ("has_many", "many_to_many")


def lacks(connection: sqlite3.Connection) -> Optional[str]:
    """What this build of SQLite has not got and a full-text index needs; None when all is there."""
    for name, trial in [
        ("FTS5", "CREATE VIRTUAL TABLE trial USING fts5(words, content = '')"),
        ("JSON functions", "SELECT atom FROM json_tree('[1]')"),
    ]:
        try:
            connection.execute(trial)
        except sqlite3.OperationalError:
            return name
    return None


def words_of(plan: IndexPlan, body: str) -> Optional[str]:
    """An SQL expression for all words of the document that the expression ``body`` holds; None without any."""
    return _words(plan.fields, body, 0)


def _words(fields: Sequence[AnyField], source: str, depth: int) -> Optional[str]:
    single, many = _paths(fields, "$")
    terms: List[str] = []
    if single:
        # Several paths give a list of all values, and a walk over that the leaves; the last path finds nothing.
        paths = ", ".join(f"'{path}'" for path in [*single, "$[0]"])
        terms.append(f"(SELECT group_concat(atom, ' ') FROM json_tree(json_extract({source}, {paths})))")
    for path, inner in many:
        row = f"e{depth}"
        words = _words(inner, f"{row}.value", depth + 1)
        if words is not None:
            terms.append(f"(SELECT group_concat({words}, ' ') FROM json_each({source}, '{path}') {row})")
    if not terms:
        return None
    return " || ' ' || ".join(f"coalesce({term}, '')" for term in terms)


def _paths(fields: Sequence[AnyField], above: str) -> Tuple[List[str], List[Tuple[str, Sequence[AnyField]]]]:
    """Paths of the values that are words, and of lists of objects with what is in them."""
    single: List[str] = []
    many: List[Tuple[str, Sequence[AnyField]]] = []
    for field in fields:
        # Names of fields are letters, digits and _.
        path = f'{above}."{field.name}"'
        if isinstance(field, JoinField) and field.verb in _MANY:
            many.append((path, field.fields))
        elif isinstance(field, (ObjectField, JoinField)):
            below, lists = _paths(field.fields, path)
            single.extend(below)
            many.extend(lists)
        elif _is_words(field):
            single.append(path)
    return single, many


def _is_words(field: AnyField) -> bool:
    if isinstance(field, AggregateField):
        return field.op not in ("count", "avg") and field.value_type in KINDS
    if not isinstance(field, ScalarField):
        return False
    if field.kind == "custom":
        return field.opensearch in CUSTOM
    return field.kind in KINDS or (field.kind == "map" and field.values in KINDS)


def query_of(words: str) -> str:
    """Plain words as a query of FTS5: any of them, and nothing in them means anything but itself.

    Only a ``*`` at the end of a word does, as in OpenSearch: it stands for any end.  Empty when there is nothing to
    search for.
    """
    plain = words.encode("utf-8", "replace").decode().replace("\0", " ")
    return " OR ".join(_term(word) for word in plain.split() if re.search(r"\w", word))


def _term(word: str) -> str:
    whole = '"' + word.rstrip("*").replace('"', '""') + '"'
    # A beginning ends with a letter or digit: behind anything else, FTS5 would take the star for the word before.
    return whole + "*" if re.search(r"\w\*+\Z", word) else whole

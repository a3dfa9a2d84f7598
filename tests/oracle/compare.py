"""What an index holds, read back, and how it differs from what it should hold."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from decimal import Decimal
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional

from tests.oracle.documents import Documents
from tests.oracle.values import Json

PAGE = 2000


class Difference(NamedTuple):
    """``what`` is missing, extra or different; ``path`` the first place where the two part."""

    id: str
    what: str
    path: str = ""
    expected: Json = None
    actual: Json = None

    def __str__(self) -> str:
        if self.what != "different":
            return f"{self.id!r}: {self.what}"
        return f"{self.id!r}: {self.path or 'document'}: expected {_show(self.expected)}, found {_show(self.actual)}"


def parse(text: "str | bytes") -> Json:
    """JSON with every fraction as an exact Decimal."""
    return json.loads(text, parse_float=Decimal)


def compare(expected: Mapping[str, Json], actual: Mapping[str, Json], key_order: bool = False) -> List[Difference]:
    """Every document that is missing, extra or different, by id.

    Numbers are compared by value.  Ids that the oracle says are rejected may hold anything.  ``key_order``
    also compares the order of keys within objects.
    """
    rejected = expected.rejected if isinstance(expected, Documents) else {}
    differences = []
    for id in sorted(expected.keys() | actual.keys()):
        if id in rejected:
            continue
        if id not in actual:
            differences.append(Difference(id, "missing"))
        elif id not in expected:
            differences.append(Difference(id, "extra"))
        else:
            found = _first_difference(id, expected[id], actual[id], "", key_order)
            if found is not None:
                differences.append(found)
    return differences


def _first_difference(id: str, expected: Json, actual: Json, path: str, key_order: bool) -> Optional[Difference]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        same_keys = list(expected) == list(actual) if key_order else expected.keys() == actual.keys()
        if not same_keys:
            return Difference(id, "different", f"{path} (keys)".strip(), list(expected), list(actual))
        for key, value in expected.items():
            found = _first_difference(id, value, actual[key], f"{path}.{key}" if path else key, key_order)
            if found is not None:
                return found
        return None
    if isinstance(expected, list) and isinstance(actual, list):
        for place, (value, other) in enumerate(zip(expected, actual)):
            found = _first_difference(id, value, other, f"{path}[{place}]", key_order)
            if found is not None:
                return found
        if len(expected) != len(actual):
            return Difference(id, "different", f"{path} (length)".strip(), len(expected), len(actual))
        return None
    if _is_number(expected) and _is_number(actual):
        same = Decimal(expected) == Decimal(actual)
    else:
        # In Python True == 1.
        same = type(expected) is type(actual) and expected == actual
    return None if same else Difference(id, "different", path, expected, actual)


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def _show(value: Json) -> str:
    text = str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 300 else text[:300] + "…"


def explain(differences: List[Difference], name: str = "index", most: int = 10) -> str:
    """Text for an assertion: counts by kind and the first differences."""
    counts = {what: sum(d.what == what for d in differences) for what in ("missing", "extra", "different")}
    head = f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items())
    lines = [head, *(f"  {difference}" for difference in differences[:most])]
    if len(differences) > most:
        lines.append(f"  … and {len(differences) - most} more")
    return "\n".join(lines)


def assert_same(
    expected: Mapping[str, Json], actual: Mapping[str, Json], name: str = "index", key_order: bool = False
) -> None:
    differences = compare(expected, actual, key_order)
    if differences:
        raise AssertionError(explain(differences, name))


# -- reading sinks --------------------------------------------------------------------------------------


def read_opensearch(url: str, index: str, refresh: bool = True) -> Dict[str, Json]:
    """All documents behind an index or alias, refreshed first.  Raises ``LookupError`` when there is none."""
    base = url.rstrip("/")
    name = urllib.parse.quote(index, safe="")
    if refresh:
        _request("POST", f"{base}/{name}/_refresh")
    page = _request("POST", f"{base}/{name}/_search?scroll=1m", {"size": PAGE, "sort": ["_doc"]})
    documents: Dict[str, Json] = {}
    try:
        while page["hits"]["hits"]:
            for hit in page["hits"]["hits"]:
                assert hit["_id"] not in documents, f"{index} holds {hit['_id']!r} twice"
                documents[hit["_id"]] = hit["_source"]
            try:
                page = _request("POST", f"{base}/_search/scroll", {"scroll": "1m", "scroll_id": page["_scroll_id"]})
            except LookupError:
                # Readers have another index by now, and this one went while it was read.
                return read_opensearch(url, index, refresh)
    finally:
        # What went with its index needs no end.
        with contextlib.suppress(LookupError):
            _request("DELETE", f"{base}/_search/scroll", {"scroll_id": page["_scroll_id"]})
    return documents


def _request(method: str, url: str, body: Optional[Dict[str, Any]] = None) -> Any:
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode("utf-8"),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return parse(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        if error.code == 404:
            raise LookupError(text) from error
        raise AssertionError(f"{method} {url}: {error.code}: {text}") from error


def fold_stdout(lines: Iterable["str | bytes"]) -> Dict[str, Dict[str, Json]]:
    """The documents by index that a reader of the stdout sink's lines is left with.

    Asserts the envelopes on the way: their keys, and ``seq`` counting from 1.
    """
    indexes: Dict[str, Dict[str, Json]] = {}
    last = 0
    for line in lines:
        if not line.strip():
            continue
        envelope = parse(line)
        # A new process, or a pipeline built again, counts from 1.
        assert envelope["seq"] in (last + 1, 1), f"seq {envelope['seq']} after {last}"
        last = envelope["seq"]
        assert envelope["sink"] == "stdout" and {"ts", "version"} <= envelope.keys()
        documents = indexes.setdefault(envelope["index"], {})
        if envelope["op"] == "upsert":
            document = envelope["document"]
            fields = len(document) if isinstance(document, dict) else None
            assert envelope["meta"]["fields"] == fields and envelope["meta"]["bytes"] > 0
            documents[envelope["id"]] = document
        else:
            assert envelope["op"] == "delete" and "document" not in envelope
            documents.pop(envelope["id"], None)
    return indexes

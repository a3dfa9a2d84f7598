"""YAML files as YAML 1.2 reads them, with the place of every value.

PyYAML parses (its C parser when it is there); what a scalar means, what is refused and where things stand is
decided here, on its events, because its own constructor follows YAML 1.1: ``yes``, ``on``, ``010``, ``1:20``
and dates stay text.  Refused with line and column: duplicate keys, tags, several documents, values that
contain themselves, files too large, too deep or expanding to too much.  Nothing recurses on user input.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import yaml

from flusso_sync.config.sentences import MAX_PROBLEMS, MORE_PROBLEMS, KeyPath, render, show
from flusso_sync.errors import ConfigError, Problem

#: Largest file read, in bytes; more is refused without reading it.
MAX_FILE_BYTES = 10_000_000

#: What PyYAML says of a tab used for indentation, and of other characters.
_NO_TOKEN = re.compile(r"found character .*that cannot start any token")

#: A table of TOML, which flusso's own configuration is written in.
_TOML = re.compile(r"^\[\[?[A-Za-z_][\w.-]*\]\]?[ \t]*\r?$", re.MULTILINE)

#: What PyYAML takes for the end of a line.
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")

#: Most values a file may hold once its aliases are expanded.
MAX_VALUES = 100_000

#: Deepest nesting of lists and mappings.
MAX_DEPTH = 200

TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_INFINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)\Z")
_NAN = frozenset({".nan", ".NaN", ".NAN"})

#: int() refuses longer digit strings on newer Pythons, and takes long over them on older ones.
_MAX_DIGITS = 1000


class Position(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """A parsed file: plain values, and where each of them and each key stands.

    ``texts`` holds the source text of numbers, for those who must not pass them through a float.
    """

    value: Any
    file: Optional[str] = None
    positions: Mapping[KeyPath, Position] = field(default_factory=dict)
    keys: Mapping[KeyPath, Position] = field(default_factory=dict)
    texts: Mapping[KeyPath, str] = field(default_factory=dict)

    def problem(self, path: KeyPath, message: str, *, key: bool = False, code: str = "") -> Problem:
        """``message`` about the value at ``path`` (or its key), placed at the nearest known position."""
        position: Optional[Position] = None
        places = [self.keys, self.positions] if key else [self.positions, self.keys]
        for length in range(len(path), -1, -1):
            for known in places:
                position = position or known.get(path[:length])
            if position:
                break
        line, column = position or (None, None)
        return Problem(message, file=self.file, line=line, column=column, path=render(path) or None, code=code)


def load_file(path: Union[str, Path], file: Optional[str] = None) -> Document:
    """Read and parse a file; raises ``ConfigError``.  ``file`` is the name messages use."""
    shown = file or str(path)
    try:
        with open(path, "rb") as stream:
            # Asking for one byte too many answers for files without a size, too.
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([Problem(f"cannot be read: {reason}", file=shown, code="FL001")]) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([Problem(f"is larger than {MAX_FILE_BYTES:,} bytes", file=shown, code="FL001")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise ConfigError([Problem("is not UTF-8 text", file=shown, line=line, column=column, code="FL002")]) from error
    return load_text(text, shown)


def load_text(text: str, file: Optional[str] = None) -> Document:
    """Parse YAML text; raises ``ConfigError`` with every duplicate key, or the one syntax error."""
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError([Problem(f"is larger than {MAX_FILE_BYTES:,} bytes", file=file, code="FL001")])
    composer = _Composer(file)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.context_mark and error.problem == "could not find expected ':'":
            # Not where the search ended, which is the line below or a later one.
            mark, error = error.context_mark, type(error)(problem="a key without its colon, or a text without quotes")
        sentence = " ".join(part for part in (error.problem, error.context) if part)
        if "maximum nesting depth" in sentence:  # libyaml's own bound, met before ours on one long line
            raise ConfigError([composer.problem(mark, TOO_DEEP)]) from error
        if mark and error.problem and _NO_TOKEN.match(error.problem) and _character(text, mark) == "\t":
            sentence = "a tab; YAML is indented with spaces alone"
        if _TOML.search(text):
            sentence = f"{sentence}; this looks like TOML: write the same keys as YAML"
        raise ConfigError([composer.problem(mark, f"is not valid YAML: {sentence}")]) from error
    except yaml.reader.ReaderError as error:
        # libyaml counts the bytes of UTF-8, PyYAML's own reader counts characters.
        before = text[: error.position]
        if _LOADER is not yaml.SafeLoader:
            before = text.encode("utf-8", "surrogatepass")[: error.position].decode("utf-8", "replace")
        lines = _BREAK.split(before)
        sentence = f"is not valid YAML: {error.reason}"
        raise ConfigError(
            [Problem(sentence, file=file, line=len(lines), column=len(lines[-1]) + 1, code="FL002")]
        ) from error
    except UnicodeEncodeError as error:
        raise ConfigError(
            [Problem("is not valid YAML: half a character", file=file, line=1, column=1, code="FL002")]
        ) from error
    except (ValueError, OverflowError) as error:
        # PyYAML's own parser, which reads \\UFFFFFFFF as a number and then cannot make a character of it.
        sentence = "is not valid YAML: an escape names no character"
        raise ConfigError([composer.problem(composer.last_mark, sentence)]) from error
    if composer.problems:
        raise ConfigError(composer.problems)
    return composer.document()


def _character(text: str, mark: Any) -> str:
    """The character at a mark of the parser's; its lines end where YAML's do, not where ``\\n`` is."""
    lines = _BREAK.split(text)
    return lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""


class _Node:
    """A value before aliases are expanded; ``size`` counts it with everything inside, expanded."""

    __slots__ = ("items", "kind", "position", "size", "text", "value")

    def __init__(self, kind: str, position: Position) -> None:
        self.kind = kind
        self.position = position
        self.size = 1
        self.value: Any = None
        self.text: Optional[str] = None
        #: list: (None, node); mapping: (key node, node).
        self.items: List[Tuple[Optional[_Node], _Node]] = []


class _Composer:
    """Builds the tree from parser events, on a stack of its own instead of the interpreter's."""

    def __init__(self, file: Optional[str]) -> None:
        self.file = file
        self.problems: List[Problem] = []
        #: Where the last event began.
        self.last_mark: Any = None
        self._root: Optional[_Node] = None
        self._documents = 0
        #: Open lists and mappings: node, anchor, where it began.
        self._stack: List[Tuple[_Node, Optional[str], Any]] = []
        self._pending_key: List[Optional[_Node]] = []
        self._seen: List[Dict[str, Position]] = []
        self._anchors: Dict[str, Optional[_Node]] = {}

    def problem(self, mark: Any, message: str) -> Problem:
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        return Problem(message, file=self.file, line=line, column=column, code="FL002")

    def _refuse(self, mark: Any, message: str) -> ConfigError:
        return ConfigError([*self.problems, self.problem(mark, message)])

    def take(self, event: Any) -> None:
        mark = self.last_mark = event.start_mark
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._refuse(mark, "holds a second YAML document; one file is one document")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            node = _Node("scalar", Position(mark.line + 1, mark.column + 1))
            self._scalar(event, node)
            if event.anchor is not None:
                self._anchors[event.anchor] = node
            self._add(node, mark)
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            if event.tag not in (None, "!", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
                raise self._refuse(mark, f"the tag {show(event.tag)} is not accepted; plain YAML only")
            if len(self._stack) >= MAX_DEPTH:
                raise self._refuse(mark, TOO_DEEP)
            kind = "list" if isinstance(event, yaml.SequenceStartEvent) else "mapping"
            if event.anchor is not None:
                self._anchors[event.anchor] = None
            self._stack.append((_Node(kind, Position(mark.line + 1, mark.column + 1)), event.anchor, mark))
            self._pending_key.append(None)
            self._seen.append({})
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            node, anchor, began = self._stack.pop()
            self._pending_key.pop()
            self._seen.pop()
            if anchor is not None:
                self._anchors[anchor] = node
            self._add(node, began)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            raise self._refuse(event.start_mark, f"the alias *{event.anchor} names no anchor before it")
        node = self._anchors[event.anchor]
        if node is None:
            raise self._refuse(event.start_mark, f"the alias *{event.anchor} stands inside its own anchor")
        self._add(node, event.start_mark)

    def _add(self, node: _Node, mark: Any) -> None:
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1][0]
        key = self._pending_key[-1]
        if parent.kind == "mapping" and key is None:
            self._key(node, mark)
            return
        parent.items.append((key, node))
        self._pending_key[-1] = None
        parent.size += node.size
        if parent.size > MAX_VALUES:
            raise self._refuse(mark, f"holds more than {MAX_VALUES:,} values (aliases counted where they are used)")

    def _key(self, node: _Node, mark: Any) -> None:
        if node.kind != "scalar":
            raise self._refuse(mark, "a key must be plain text, not a list or a mapping")
        name = node.text or ""
        first = self._seen[-1].get(name)
        if first is not None:
            self.problems.append(
                self.problem(mark, f"the key {show(name)} stands here a second time; the first is in line {first.line}")
            )
            if len(self.problems) >= MAX_PROBLEMS:
                raise self._refuse(mark, MORE_PROBLEMS)
        else:
            self._seen[-1][name] = node.position
        self._pending_key[-1] = node

    def _scalar(self, event: Any, node: _Node) -> None:
        text = event.value
        node.text = text
        tag = event.tag
        if tag in ("!", "tag:yaml.org,2002:str"):
            node.value = text
        elif tag is not None:
            raise self._refuse(event.start_mark, f"the tag {show(tag)} is not accepted; plain YAML only")
        elif event.style not in (None, "") or not event.implicit[0]:
            node.value = text
        elif len(text) > _MAX_DIGITS and any(form.match(text) for form in (_FLOAT, _OCTAL, _HEXADECIMAL)):
            raise self._refuse(event.start_mark, f"a number of more than {_MAX_DIGITS} characters; quote it")
        else:
            node.value = scalar(text)

    def document(self) -> Document:
        positions: Dict[KeyPath, Position] = {}
        keys: Dict[KeyPath, Position] = {}
        texts: Dict[KeyPath, str] = {}
        if self._root is None:
            return Document(None, self.file, {(): Position(1, 1)})
        holder: List[Any] = [None]
        # (node, path, container to put it into, key there)
        work: List[Tuple[_Node, KeyPath, Any, Any]] = [(self._root, (), holder, 0)]
        while work:
            node, path, container, at = work.pop()
            positions[path] = node.position
            value: Any
            if node.kind == "list":
                value = [None] * len(node.items)
                for index, (_, child) in enumerate(node.items):
                    work.append((child, (*path, index), value, index))
            elif node.kind == "mapping":
                value = {}
                for key, child in node.items:
                    assert key is not None
                    name = key.text or ""
                    value[name] = None  # keeps the order of the file, whatever order the work is done in
                    keys[(*path, name)] = key.position
                    work.append((child, (*path, name), value, name))
            else:
                value = node.value
                if isinstance(value, (int, float)) and not isinstance(value, bool) and node.text is not None:
                    texts[path] = node.text
            container[at] = value
        return Document(holder[0], self.file, positions, keys, texts)


def scalar(text: str) -> Any:
    """What a plain scalar means by the core rules of YAML 1.2, except that ``010`` stays text."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if text[0] not in "+-.0123456789":
        return text
    if _DECIMAL.match(text):
        return int(text)
    if _OCTAL.match(text):
        return int(text[2:], 8)
    if _HEXADECIMAL.match(text):
        return int(text[2:], 16)
    if _FLOAT.match(text):
        return float(text)
    if _INFINITE.match(text):
        return -math.inf if text.startswith("-") else math.inf
    if text in _NAN:
        return math.nan
    return text

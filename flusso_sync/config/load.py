"""From files to a :class:`Config`, or to one error that lists everything wrong in all of them.

Reads files and nothing else: no variable is looked up, no secret resolved, no server asked.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple, Type, Union, get_args

from pydantic import BaseModel, ValidationError

from flusso_sync.config import yaml12
from flusso_sync.config.connection import is_http_url, is_source_url, prefix_problem
from flusso_sync.config.models import (
    CLAMPED,
    SINK_TYPES,
    TAGGED,
    AnySink,
    Backfill,
    Deployment,
    Engine,
    OpenSearchSink,
    Quarantine,
    Server,
    Source,
)
from flusso_sync.config.sentences import (
    MAX_PROBLEMS,
    MORE_PROBLEMS,
    KeyPath,
    either,
    render,
    show,
    unknown_key,
    unknown_word,
)
from flusso_sync.config.values import Reference
from flusso_sync.errors import ConfigError, Problem
from flusso_sync.schema import names
from flusso_sync.schema.language import parse_document
from flusso_sync.schema.plan import IndexPlan

#: How a file of TOML begins; YAML takes it for one long text.
_ASSIGNMENT = re.compile(r"[\w.-]+ *= *\S")

_INTERVAL = re.compile(r"(-1|0|\d+(\.\d+)?(nanos|micros|ms|s|m|h|d))\Z")


@dataclass(frozen=True)
class IndexEntry:
    """One index of the deployment; ``on_error`` is its own policy or the root's."""

    name: str
    plan: IndexPlan
    enabled: bool = True
    on_error: str = "stop"
    keep_generations: int = 0


@dataclass(frozen=True)
class Config:
    """Everything a run needs to know, checked; read-only.

    ``sinks`` and ``indexes`` are in name order and in file order.  No sinks means standard output.
    ``warnings`` are sentences with file, line and column.
    """

    source: Source
    sinks: Mapping[str, AnySink] = field(default_factory=dict)
    indexes: Mapping[str, IndexEntry] = field(default_factory=dict)
    on_error: str = "stop"
    prefix: str = ""
    server: Server = field(default_factory=Server)
    engine: Engine = field(default_factory=Engine)
    backfill: Backfill = field(default_factory=Backfill)
    quarantine: Quarantine = field(default_factory=Quarantine)
    path: Optional[str] = None
    warnings: Tuple[str, ...] = ()

    @property
    def plans(self) -> Tuple[IndexPlan, ...]:
        """The plans of the enabled indexes."""
        return tuple(entry.plan for entry in self.indexes.values() if entry.enabled)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], base_folder: Union[str, Path] = ".") -> Config:
        """A Config from plain values of the same shape as the file, for a host program.

        An index's ``schema`` may be a path (relative to ``base_folder``), the schema itself as a mapping, or an
        ``IndexPlan``.  Raises ``ConfigError``.
        """
        return _Loader(yaml12.Document(_plain(mapping)), Path(base_folder), None).config()

    def to_dict(self) -> Dict[str, Any]:
        """The configuration as JSON-able values for people to see: literal secrets are stars."""
        entries = [
            {
                "name": entry.name,
                "table": str(entry.plan.root),
                "enabled": entry.enabled,
                "on_error": entry.on_error,
                "keep_generations": entry.keep_generations,
            }
            for entry in self.indexes.values()
        ]
        return {
            "source": self.source.model_dump(mode="json"),
            "sinks": {name: sink.model_dump(mode="json") for name, sink in self.sinks.items()},
            "index": entries,
            "on_error": self.on_error,
            "prefix": self.prefix,
            "server": self.server.model_dump(mode="json"),
            "engine": self.engine.model_dump(mode="json"),
            "backfill": self.backfill.model_dump(mode="json"),
            "quarantine": self.quarantine.model_dump(mode="json"),
        }


def load_config(path: Union[str, Path]) -> Config:
    """Read the config file and every schema file it names, or the lock (``*.lock``) that was built of them.

    Raises one ``ConfigError`` with all problems of all these files.
    """
    if str(path).endswith(".lock"):
        from flusso_sync.config.lock import load_lock

        return load_lock(path)
    return read_files(path).config


@dataclass(frozen=True)
class Files:
    """What was read: the configuration, its file, and the schema file of each entry of ``index`` by position."""

    config: Config
    document: yaml12.Document
    schemas: Mapping[int, yaml12.Document]


def read_files(path: Union[str, Path]) -> Files:
    """As ``load_config``, with the files as they were read."""
    document = yaml12.load_file(path)
    loader = _Loader(document, Path(path).parent, str(path))
    return Files(loader.config(), document, loader.schemas)


def from_document(document: yaml12.Document, base: Path) -> Config:
    """The Config of a file whose schemas stand in it, each a ``Document``; relative paths start at ``base``.

    Raises ``ConfigError``.
    """
    return _Loader(document, base, None).config()


class _Loader:
    """One load: collects problems and warnings until it can hand out a Config."""

    def __init__(self, document: yaml12.Document, base: Path, path: Optional[str]) -> None:
        self._document = document
        self._base = base
        self._path = path
        #: Schema files by the position of the entry that names them.
        self.schemas: Dict[int, yaml12.Document] = {}
        self._problems: List[Problem] = []
        self._schema_problems: List[Problem] = []
        self._warnings: List[str] = []

    def config(self) -> Config:
        top = self._document.value
        if not isinstance(top, dict):
            seen = "an empty file" if top is None else show(top)
            if isinstance(top, str) and _ASSIGNMENT.match(top):
                seen += "; this looks like TOML: write the same keys as YAML"
            self._refuse((), f"the configuration must be a mapping with at least `source`, got {seen}")
            raise ConfigError(self._problems)
        plans = self._plans(top.get("index"))
        deployment = self._validate(top)
        self._check_names(top)
        prefix = top.get("prefix")
        if isinstance(prefix, str):
            sentence = prefix_problem(prefix)
            if sentence:
                self._refuse(("prefix",), sentence)
        if self._problems or self._schema_problems or deployment is None:
            ordered = sorted(self._problems, key=lambda p: (p.line or 0, p.column or 0))
            raise ConfigError([*ordered, *self._schema_problems])
        self._warn_about(top, deployment)
        indexes = {
            entry.name: IndexEntry(
                name=entry.name,
                plan=replace(plans[position], name=entry.name),
                enabled=entry.enabled,
                on_error=entry.on_error or deployment.on_error,
                keep_generations=entry.keep_generations,
            )
            for position, entry in enumerate(deployment.index)
        }
        return Config(
            source=deployment.source,
            sinks=dict(sorted(deployment.sinks.items())),
            indexes=indexes,
            on_error=deployment.on_error,
            prefix=deployment.prefix,
            server=deployment.server,
            engine=deployment.engine,
            backfill=deployment.backfill,
            quarantine=deployment.quarantine,
            path=self._path,
            warnings=tuple(self._warnings),
        )

    def _refuse(self, path: KeyPath, message: str, *, key: bool = False) -> None:
        self._problems.append(self._document.problem(path, message, key=key, code="FL003"))

    def _warn(self, path: KeyPath, message: str) -> None:
        self._warnings.append(str(self._document.problem(path, message, key=True)))

    # -- schema files -----------------------------------------------------------------------------------

    def _plans(self, entries: Any) -> Dict[int, IndexPlan]:
        """The plan of each entry by position; a file that several entries name is read once."""
        plans: Dict[int, IndexPlan] = {}
        read: Dict[Path, Tuple[Optional[yaml12.Document], Optional[IndexPlan]]] = {}
        for position, entry in enumerate(entries if isinstance(entries, list) else ()):
            schema = entry.get("schema") if isinstance(entry, dict) else None
            name = str(entry.get("name")) if isinstance(entry, dict) else ""
            plan: Optional[IndexPlan] = None
            if isinstance(schema, IndexPlan):
                plan = schema
            elif isinstance(schema, (dict, yaml12.Document)) and self._path is None:
                plan = self._inline(schema, name, ("index", position, "schema"))
            elif isinstance(schema, str) and schema.strip():
                file = self._base / schema
                if file not in read:
                    read[file] = self._read(file, name, ("index", position, "schema"))
                document, plan = read[file]
                if document is not None:
                    self.schemas[position] = document
            if plan is not None:
                plans[position] = plan
        return plans

    def _read(self, file: Path, name: str, path: KeyPath) -> Tuple[Optional[yaml12.Document], Optional[IndexPlan]]:
        try:
            document = yaml12.load_file(file)
        except ConfigError as error:
            if all(problem.line is None for problem in error.problems):
                # Nothing in the file to point at: point at the line that names it.
                for problem in error.problems:
                    self._refuse(path, f"the schema file {file} {problem.message}")
            else:
                self._schema_problems.extend(error.problems)
            return None, None
        return document, self._parse(document, name)

    def _inline(self, schema: Union[Dict[str, Any], yaml12.Document], name: str, path: KeyPath) -> Optional[IndexPlan]:
        before = len(self._schema_problems)
        plan = self._parse(schema if isinstance(schema, yaml12.Document) else yaml12.Document(schema), name)
        self._schema_problems[before:] = [
            replace(problem, path=".".join(part for part in (render(path), problem.path) if part))
            for problem in self._schema_problems[before:]
        ]
        return plan

    def _parse(self, document: yaml12.Document, name: str) -> Optional[IndexPlan]:
        try:
            plan, warnings = parse_document(document, name)
        except ConfigError as error:
            self._schema_problems.extend(error.problems)
            return None
        self._warnings.extend(warnings)
        return plan

    # -- the config file --------------------------------------------------------------------------------

    def _validate(self, top: Dict[str, Any]) -> Optional[Deployment]:
        value = top
        if isinstance(top.get("index"), list) and self._path is None:
            # Schemas given as values have been parsed; the model knows paths only.
            entries = [
                {**entry, "schema": "given"} if isinstance(entry, dict) and _is_given(entry.get("schema")) else entry
                for entry in top["index"]
            ]
            value = {**top, "index": entries}
        try:
            return Deployment.model_validate(value, context={"base": self._base})
        except ValidationError as error:
            for number, detail in enumerate(error.errors(include_url=False, include_input=False)):
                self._translate(dict(detail))
                if number + 1 >= MAX_PROBLEMS:
                    self._problems.append(replace(self._problems[-1], message=MORE_PROBLEMS, path=None))
                    break
            return None

    def _translate(self, detail: Dict[str, Any]) -> None:
        """One pydantic error as a sentence of ours at its place in the file."""
        location = tuple(detail["loc"])
        kind = str(detail["type"])
        context = detail.get("ctx") or {}
        on_key = location[:1] == ("sinks",) and location[2:] == ("[key]",)
        path: KeyPath = location
        # Told by their place, not by their text alone, which may be a key of the user's.
        if location[:1] == ("sinks",) or location[:2] == ("source", "connection_url"):
            path = tuple(step for at, step in enumerate(location) if not (at == 2 and (on_key or step in TAGGED)))
        value = _at(self._document.value, path)
        seen = show(value, path)
        if kind == "missing":
            self._refuse(path[:-1], f"`{path[-1]}` is missing", key=True)
            return
        if kind == "extra_forbidden":
            self._refuse(path, unknown_key(str(path[-1]), _keys_at(location[:-1])), key=True)
            return
        if kind in ("union_tag_not_found", "union_tag_invalid"):
            self._refuse_union(path, value)
            return
        if kind == "value_error":
            message = str(context.get("error"))
        elif kind == "literal_error":
            message = unknown_word(value, re.findall(r"'([^']*)'", str(context.get("expected"))), path)
        elif kind == "bool_type":
            message = f"must be true or false, got {seen}"
        elif kind in ("int_type", "int_parsing", "int_from_float", "int_parsing_size"):
            message = f"must be a whole number, got {seen}"
        elif kind in ("float_type", "float_parsing", "finite_number"):
            message = f"must be a number, got {seen}"
        elif kind == "string_type":
            quotes = "" if value is None or isinstance(value, (list, dict)) else "; put it in quotes"
            message = f"must be text, got {seen}{quotes}"
        elif kind in ("dict_type", "model_type", "model_attributes_type"):
            message = f"must be a mapping, got {seen}"
        elif kind == "list_type":
            message = f"must be a list, got {seen}"
        elif kind in _BOUNDS:
            word, bound = _BOUNDS[kind]
            message = f"must be {word} {context.get(bound)}, got {seen}"
        else:
            message = f"{detail['msg']}, got {seen}"
        self._refuse(path, message, key=on_key)

    def _refuse_union(self, path: KeyPath, value: Any) -> None:
        if path[:1] != ("sinks",):
            self._refuse(
                path,
                "must be a postgresql:// URL, {env: VARIABLE}, or parts (host, port, user, password, database), "
                f"got {'a number' if isinstance(value, (int, float)) else show(value, path)}",
            )
        elif not isinstance(value, dict):
            self._refuse(path, f"must be a mapping with `type`, got {show(value)}")
        elif value.get("type") is None:
            self._refuse(path, f"`type` is missing; a sink is {either(SINK_TYPES)}", key=True)
        else:
            self._refuse((*path, "type"), unknown_word(value["type"], SINK_TYPES))

    def _check_names(self, top: Dict[str, Any]) -> None:
        """Names that are the same once they are lowercased."""
        entries = top.get("index")
        if isinstance(entries, list):
            named = [
                (("index", position, "name"), entry.get("name"))
                for position, entry in enumerate(entries)
                if isinstance(entry, dict)
            ]
            self._unique(named, "index", key=False)
        sinks = top.get("sinks")
        if isinstance(sinks, dict):
            self._unique([(("sinks", name), name) for name in sinks], "sink", key=True)

    def _unique(self, named: Iterable[Tuple[KeyPath, Any]], what: str, *, key: bool) -> None:
        seen: Set[str] = set()
        for path, given in named:
            try:
                name = names.plain_identifier(given) if isinstance(given, str) else ""
            except ValueError:
                continue  # told elsewhere
            if name and name in seen:
                self._refuse(path, f"the {what} name {show(name)} is used twice (names are lowercased)", key=key)
            seen.add(name)

    def _warn_about(self, top: Dict[str, Any], deployment: Deployment) -> None:
        # Literal URLs can be overridden by variables, so that what is wrong with them is no refusal yet.
        connection = deployment.source.connection_url
        if isinstance(connection, Reference) and connection.literal is not None:
            if not is_source_url(connection.literal):
                self._warn(("source", "connection_url"), "not a postgresql:// URL; DATABASE_URL must be set")
        for given, options in (top.get("sinks") or {}).items():
            sink = deployment.sinks[names.plain_identifier(given)]
            if not isinstance(sink, OpenSearchSink):
                continue
            if sink.url.literal is not None and not is_http_url(sink.url.literal):
                variable = f"{names.plain_identifier(given).upper()}_OPENSEARCH_URL"
                self._warn(("sinks", given, "url"), f"neither an http:// nor an https:// URL; {variable} must be set")
            for option in CLAMPED:
                if options.get(option) == 0:
                    self._warn(("sinks", given, option), "0 acts as 1")
            if sink.password is not None and sink.username is None:
                variable = f"{names.plain_identifier(given).upper()}_OPENSEARCH_USERNAME"
                sentence = f"has no `username` beside it; without {variable} no authentication is sent"
                self._warn(("sinks", given, "password"), sentence)
            if not _INTERVAL.match(sink.refresh_interval):
                sentence = f"{show(sink.refresh_interval)} does not look like an interval such as 10s or -1"
                self._warn(("sinks", given, "refresh_interval"), sentence)
        source = deployment.source
        if source.on_retained_wal == "give_up" and source.max_retained_wal_bytes is None:
            self._warn(("source", "on_retained_wal"), "has no effect without max_retained_wal_bytes")
        if not any(entry.enabled for entry in deployment.index):
            self._warn(("index",) if "index" in top else (), "no index is named and enabled: nothing will be written")


_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def _is_given(schema: Any) -> bool:
    return isinstance(schema, (dict, IndexPlan, yaml12.Document))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _at(value: Any, path: KeyPath) -> Any:
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _keys_at(location: Tuple[Union[int, str], ...]) -> List[str]:
    """The keys accepted at a location of pydantic's, following its tags."""
    models: Tuple[Type[BaseModel], ...] = (Deployment,)
    for at, step in enumerate(location):
        if at == 2 and isinstance(step, str) and step in TAGGED:
            models = TAGGED[step]
            continue
        for model in models:
            found = _fields(model).get(str(step))
            if found is not None:
                models = _models_in(found)
                break
    return [key for model in models for key in _fields(model)]


def _fields(model: Type[BaseModel]) -> Dict[str, Any]:
    return {info.alias or name: info.annotation for name, info in model.model_fields.items()}


def _models_in(annotation: Any) -> Tuple[Type[BaseModel], ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for inner in get_args(annotation) for model in _models_in(inner))

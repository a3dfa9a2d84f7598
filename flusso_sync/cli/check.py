"""``flussod check``: what a run would be refused for, wait for or do, found without changing anything."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence

import click

from flusso_sync.cli.exit import explain
from flusso_sync.cli.options import Switch, config_option, forms_option
from flusso_sync.cli.run_options import RunOptions, run_options
from flusso_sync.errors import EXIT_CODES, ConfigError, FlussoError
from flusso_sync.findings import ERROR, INFO, WARNING, Finding, exit_code, of_error
from flusso_sync.logs import redact

if TYPE_CHECKING:
    from flusso_sync.backends import DefaultBackends
    from flusso_sync.config.load import Config
    from flusso_sync.config.yaml12 import Document
    from flusso_sync.daemon import DaemonOptions
    from flusso_sync.engine.source import Record, SourceIdentity
    from flusso_sync.schema.plan import AnyField, IndexPlan
    from flusso_sync.sinks.base import Sink

NOT_ASKED = "the database was not asked: column types and publication coverage are not checked"

#: Code -> the key of the configuration that a finding is about, where it names no place of its own; those of the source
#: that are not here are about its connection.
_ABOUT = {
    "FL018": "source.failover_slot",
    "FL019": "source.slot",
    "FL020": "source.slot",
    "FL021": "source.slot",
    "FL022": "source.publication",
    "FL023": "source.publication",
    "FL024": "source.publication",
    "FL025": "source.publication",
    "FL036": "source.max_retained_wal_bytes",
}
_ABOUT_SOURCE = ("FL01", "FL02", "FL03")

#: GitHub's words for our severities
#: (https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions).
_GITHUB = {ERROR: "error", WARNING: "warning", INFO: "notice"}


@click.command(
    "check",
    short_help="Say what a run would stumble over, change nothing.",
    epilog="\b\nExamples:\n  flussod check -c etc/flusso.yaml\n  flussod check --offline\n"
    "  flussod check --format github        annotations in a workflow of GitHub\n\n"
    "Every finding has a code; docs/findings.md lists them.  Ends with 0 when there is no error, else with the code a "
    "run would end with (flussod --help).",
)
@config_option
@click.option(
    "--offline",
    is_flag=True,
    cls=Switch,
    envvar="FLUSSO_OFFLINE",
    show_envvar=True,
    help="Check the files alone; ask neither database nor sinks.",
)
@forms_option("How to print the report.", "json", "github")
@run_options
@click.pass_context
def check(ctx: click.Context, /, config_path: str, offline: bool, form: str, **flags: Any) -> None:
    """Say what the files mean, and everything a run would be refused for, wait for or do.

    It takes the flags and variables of a run, and foretells the run that has them.  The database and the sinks are
    asked, read-only, unless --offline.  Secrets are never printed.
    """
    from flusso_sync.config.connection import check_prefix
    from flusso_sync.config.load import load_config

    options = RunOptions(config_path, **flags)
    report = _Report(config_path)
    try:
        report.config = options.applied_to(load_config(config_path))
        check_prefix(report.config.prefix)
    except ConfigError as error:
        report.add(of_error(error))
        if form == "human":
            click.echo(explain(error), err=True)
            ctx.exit(error.exit_code)
    else:
        config = report.config
        report.findings += [_warning(text) for text in config.warnings]
        if not offline:
            _ask(report, config, options.daemon_options())
    if form == "human":
        lines = report.human()
    elif form == "json":
        lines = iter([json.dumps(report.json(), indent=2, ensure_ascii=False)])
    else:
        lines = (_annotation(finding) for finding in report.findings)
    for line in lines:
        click.echo(redact(line))
    ctx.exit(exit_code(report.findings))


def _warning(text: str) -> Finding:
    """A warning of the loader, taken apart: ``file:line:column: key path: sentence``."""
    place, _, rest = text.partition(": ")
    file, line, column = [*place.rsplit(":", 2), "", ""][:3]
    if not (line.isdigit() and column.isdigit()):
        return Finding("FL005", WARNING, text)
    path, _, message = rest.partition(": ")
    if not message or " " in path:
        path, message = "", rest
    return Finding("FL005", WARNING, message, path=path, file=file, line=int(line), column=int(column))


# -- asking ---------------------------------------------------------------------------------------------


def _ask(report: "_Report", config: Config, options: DaemonOptions) -> None:
    """Look at addresses, source and sinks, in the order in which a run needs them."""
    from flusso_sync.backends import DefaultBackends

    report.asked = True
    _addresses(report, config)
    backends = DefaultBackends()
    try:
        source = backends.inspection(config, options)
    except FlussoError as error:
        report.add(of_error(error))
        _sinks(report, backends, config, options, None)
        return
    try:
        identity = source.connect()
        # A run learns of sinks before it judges the schemas, and of the stream last.
        before = len(source.findings)
        report.add(source.findings)
        records = _sinks(report, backends, config, options, identity)
        source.schemas()
        source.stream(records)
        report.add(source.findings[before:])
        report.coverage = None if source.coverage is None else source.coverage.to_json()
        report.connected = source.connected
    finally:
        source.close()


def _sinks(
    report: "_Report",
    backends: DefaultBackends,
    config: Config,
    options: DaemonOptions,
    identity: Optional[SourceIdentity],
) -> List[Record]:
    """Look at every sink; returns the records of those that have one."""
    try:
        sinks = backends.sinks(config, options)
    except FlussoError as error:
        report.add(of_error(error))
        return []
    records: List[Record] = []
    for name, sink in sorted(sinks.items()):
        try:
            found = list(sink.inspect(config.plans, identity))
            report.add(found, f"sinks.{name}")
            if sink.stateful and not any(finding.severity == ERROR for finding in found):
                records += _record(sink)
        except FlussoError as error:
            report.add(of_error(error), f"sinks.{name}")
        finally:
            sink.close()
    return records


def _record(sink: Sink) -> List[Record]:
    record = sink.read_record()
    return [] if record is None else [record]


def _addresses(report: "_Report", config: Config) -> None:
    """Whether the surfaces could be served, by taking their addresses for a moment."""
    import socket

    server = config.server
    wanted = [("public", server.public_address)]
    if server.admin_password is not None:
        wanted.append(("private", server.private_address))
    for name, address in wanted:
        if not address.port:
            continue
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind((address.host, address.port))
                taken.listen(1)
            except OSError as error:
                taken_by = Finding(
                    "FL007",
                    WARNING,
                    f"the {name} surface cannot be served on {address}: {error.strerror or error}",
                    f"If that is not this deployment's daemon, set server.{name}_address to a free address",
                )
                report.add([taken_by], f"server.{name}_address")


# -- telling --------------------------------------------------------------------------------------------


class _Report:
    """What is known; ``findings`` in the order in which a run would meet them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.config: Optional[Config] = None
        self.findings: List[Finding] = []
        self.coverage: Optional[Dict[str, Any]] = None
        self.asked = False
        self.connected = False
        self._document: Optional[Document] = None

    def add(self, findings: Sequence[Finding], about: str = "") -> None:
        """Each at its own place, else at the key ``about``, or that which its code is about."""
        self.findings += [self._placed(finding, about) for finding in findings]

    def _placed(self, finding: Finding, about: str) -> Finding:
        source = "source.connection_url" if finding.code.startswith(_ABOUT_SOURCE) else ""
        own = finding.path if finding.index is None else ""
        key = own or about or _ABOUT.get(finding.code, source)
        config = self.config
        # A lock has the keys of several files, and no lines that anybody wrote.
        if finding.file or not key or config is None or config.path is None or config.path.endswith(".lock"):
            return finding
        if self._document is None:
            from flusso_sync.config.yaml12 import load_file

            self._document = load_file(config.path)
        place = self._document.problem(tuple(key.split(".")), "", key=True)
        return replace(finding, file=place.file, line=place.line, column=place.column)

    def json(self) -> Dict[str, Any]:
        config = self.config
        plans = [] if config is None else config.plans
        # As flusso: null when nothing was asked and nothing is wrong.
        told = self.asked or any(finding.severity == ERROR for finding in self.findings)
        return {
            "config": None if config is None else config.to_dict(),
            "mappings": [{"index": plan.name, "fields": [_field(field) for field in plan.fields]} for plan in plans],
            "warnings": [] if config is None else list(config.warnings),
            "diagnostics": [finding.to_json() for finding in self.findings] if told else None,
            "coverage": self.coverage,
            "exit_code": exit_code(self.findings),
        }

    def human(self) -> Iterator[str]:
        config = self.config
        if config is not None:
            yield from _meaning(config, self._path)
        if not self.asked and self.findings:
            yield ""
            yield "Warnings"
            for warning in config.warnings if config is not None else ():
                yield f"  {warning}"
        yield ""
        if not self.asked:
            yield f"[offline] {NOT_ASKED}"
            yield "✓ check passed"
            return
        if self.findings:
            yield "Findings"
            for finding in self.findings:
                yield from _lines(finding)
            yield ""
        yield from self._coverage()
        yield self._verdict()

    def _coverage(self) -> Iterator[str]:
        coverage = self.coverage
        if coverage is None:
            return
        yield "Publication"
        total = len(coverage["present"]) + len(coverage["missing"])
        yield f"  {len(coverage['present'])} of {total} tables are published"
        if coverage["missing"]:
            yield f"  missing: {', '.join(coverage['missing'])}"
            yield "  a run will add them" if coverage["will_manage"] else "  a run cannot add them"
            for statement in coverage["remediation"]:
                yield f"    {statement}"
        yield ""

    def _verdict(self) -> str:
        counts = {severity: sum(f.severity == severity for f in self.findings) for severity in (ERROR, WARNING)}
        told = ", ".join(f"{n} {what}{'s' if n != 1 else ''}" for what, n in counts.items() if n)
        code = exit_code(self.findings)
        if not code:
            return f"✓ check passed{f' ({told})' if told else ''}"
        return f"[failed] {told}; code {code}: {EXIT_CODES.get(code, '')}"


def _lines(finding: Finding) -> Iterator[str]:
    place = f"{finding.place}: " if finding.file else ""
    about = replace(finding, remedy="")
    first, *rest = str(about).splitlines() or [""]
    yield f"  {finding.severity:<7}  {finding.code}  {place}{first}"
    for line in rest:
        yield f"                  {line}"
    if finding.remedy:
        yield f"                  → {finding.remedy}"


def _annotation(finding: Finding) -> str:
    """A workflow command of GitHub; it shows the first line of a message beside the code."""
    properties = {"file": finding.file, "line": finding.line, "col": finding.column, "title": finding.code}
    told = ",".join(f"{key}={_escaped(str(value), ':,')}" for key, value in properties.items() if value is not None)
    message = str(replace(finding, remedy="")) + (f". {finding.remedy}" if finding.remedy else "")
    return f"::{_GITHUB[finding.severity]} {told}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    return "".join(f"%{ord(letter):02X}" if letter in "%\r\n" + more else letter for letter in text)


def _meaning(config: Config, path: str) -> Iterator[str]:
    """What the files say."""
    yield f"✓ {path} is valid"
    yield ""
    yield "Source"
    source = config.source
    yield f"  {source.type}  {_connection(source.connection_url)}  slot {source.slot}  publication {source.publication}"
    yield ""
    yield "Sinks"
    for name, sink in config.sinks.items():
        yield f"  {name}  {sink.type}  {getattr(sink, 'url', None) or getattr(sink, 'path', '')}".rstrip()
    if not config.sinks:
        yield "  stdout (none is named)"
    yield ""
    yield "Indexes"
    for entry in config.indexes.values():
        yield "  " + _index_line(entry.plan, entry.enabled)
    for plan in config.plans:
        yield ""
        yield plan.name
        yield from _tree(plan.fields, "  ")


def _connection(reference: Any) -> str:
    if reference is None:
        return "${DATABASE_URL}"
    if hasattr(reference, "database"):
        return f"{reference.user}@{reference.host}:{reference.port}/{reference.database}"
    return str(reference)


def _index_line(plan: IndexPlan, enabled: bool) -> str:
    key = ", ".join(plan.primary_key) or "from the catalog"
    line = f"{plan.name}  {'enabled' if enabled else 'disabled'}  {plan.root}  pk {key}"
    return f"{line}  soft-delete {plan.soft_delete.column}" if plan.soft_delete else line


def _tree(fields: Sequence[AnyField], indent: str) -> Iterator[str]:
    for field in fields:
        shown = _field(field)
        yield f"{indent}{f'{field.name} ':.<{max(4, 36 - len(indent))}} {shown['type']}  {_need(field)}".rstrip()
        yield from _tree(getattr(field, "fields", ()), indent + "  ")


def _need(field: AnyField) -> str:
    required = getattr(field, "required", None)
    return "" if required is None else "required" if required else "optional"


def _field(field: AnyField) -> Dict[str, Any]:
    """A field for people: its name and what it is; children of objects and joins below it."""
    kind = getattr(field, "kind", None) or getattr(field, "verb", None) or getattr(field, "op", None)
    answer: Dict[str, Any] = {
        "name": field.name,
        "type": kind or {"GeoField": "geo", "ConstantField": "constant"}.get(type(field).__name__, "object"),
    }
    if hasattr(field, "table"):
        answer["table"] = str(field.table)
    if hasattr(field, "required"):
        answer["required"] = field.required
    if hasattr(field, "fields"):
        answer["children"] = [_field(child) for child in field.fields]
    return answer

"""``flussod check``: reads the files and says what they mean; touches neither database nor sink."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Sequence

import click

from flusso_sync.cli.exit import explain
from flusso_sync.cli.options import Switch, config_option
from flusso_sync.errors import ConfigError
from flusso_sync.logs import redact

if TYPE_CHECKING:
    from flusso_sync.config.load import Config
    from flusso_sync.schema.plan import AnyField, IndexPlan

NOT_ASKED = "the database was not asked: column types and publication coverage are not checked"


@click.command("check", short_help="Say what is wrong with the files, touch nothing.")
@config_option
@click.option(
    "--offline",
    is_flag=True,
    cls=Switch,
    envvar="FLUSSO_OFFLINE",
    show_envvar=True,
    help="Check the files alone (which is all this version checks).",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["human", "json"]),
    envvar="FLUSSO_FORMAT",
    show_envvar=True,
    default="human",
    show_default=True,
    help="How to print the report.",
)
@click.pass_context
def check(ctx: click.Context, /, config_path: str, offline: bool, form: str) -> None:
    """Say what the configuration means, or everything that is wrong with it.

    Ends with 0 when the files are good and with 3 when they are refused.  Secrets are never printed.
    """
    from flusso_sync.config.load import load_config

    try:
        config = load_config(config_path)
    except ConfigError as error:
        if form == "json":
            refused = {"config": None, "mappings": [], "diagnostics": _diagnostics(error), "coverage": None}
            click.echo(redact(json.dumps(refused, indent=2, ensure_ascii=False)))
        else:
            click.echo(explain(error), err=True)
        ctx.exit(error.exit_code)
    if form == "json":
        report = {
            "config": config.to_dict(),
            "mappings": [
                {"index": plan.name, "fields": [_field(field) for field in plan.fields]} for plan in config.plans
            ],
            "warnings": list(config.warnings),
            "diagnostics": None,
            "coverage": None,
        }
        click.echo(redact(json.dumps(report, indent=2, ensure_ascii=False)))
    else:
        for line in _report(config, config_path):
            click.echo(redact(line))


def _diagnostics(error: ConfigError) -> List[Dict[str, Any]]:
    return [
        {
            "severity": "error",
            "message": problem.message,
            "file": problem.file,
            "line": problem.line,
            "column": problem.column,
            "path": problem.path,
        }
        for problem in error.problems
    ]


def _report(config: Config, path: str) -> Iterator[str]:
    """The human form, line by line."""
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
    if config.warnings:
        yield ""
        yield "Warnings"
        for warning in config.warnings:
            yield f"  {warning}"
    yield ""
    yield f"[offline] {NOT_ASKED}"
    yield "✓ check passed"


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

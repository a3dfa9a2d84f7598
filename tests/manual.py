"""The pages of the manual that are made from the program: ``python -m tests.manual`` writes them.

``tests/test_manual.py`` holds that they are current.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

import click

from flusso_sync.cli.commands import COMMANDS, LazyGroup, flussod
from flusso_sync.cli.exit import exit_code_table
from flusso_sync.config.jsonschema import config_schema
from flusso_sync.schema import language, meanings
from flusso_sync.schema.types import MAP_VALUES, OPENSEARCH, describe

DOCS = Path(__file__).resolve().parent.parent / "docs"

MADE = "This page is made from the program (`python -m tests.manual`)."


def pages() -> Dict[str, str]:
    """File name -> text."""
    return {
        "configuration.md": "\n".join(_configuration()) + "\n",
        "schema.md": "\n".join(_schema()) + "\n",
        "cli.md": "\n".join(_cli()) + "\n",
    }


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# -- flusso.yaml ----------------------------------------------------------------------------------------------


def _configuration() -> Iterator[str]:
    made = config_schema()
    parts = made["definitions"]
    yield "# flusso.yaml"
    yield ""
    yield f"{MADE} `etc/flusso.yaml` has the same keys, explained at"
    yield "length; editors complete them by `flussod schema config`. A key that is not known is"
    yield "refused, with its line and what it may have meant."
    yield ""
    yield "Sizes are bytes, or a number with a unit (`512kB`, `10GB`; powers of 1024). A *secret* is a text,"
    yield "`{env: NAME}` or `{file: PATH}`, the last two read anew at each connect. Relative paths start at the"
    yield "folder of the file."
    yield ""
    yield from _keys("The file", made, parts, "")
    for title, name, prefix in (
        ("source", "Source", "source."),
        ("source.connection_url, as parts", "ConnectionParts", "source.connection_url."),
        ("sinks.NAME, type: opensearch", "OpenSearchSink", "sinks.NAME."),
        ("sinks.NAME, type: sqlite", "SqliteSink", "sinks.NAME."),
        ("sinks.NAME, type: stdout", "StdoutSink", "sinks.NAME."),
        ("index[]", "Index", "index[]."),
        ("server", "Server", "server."),
        ("engine", "Engine", "engine."),
        ("backfill", "Backfill", "backfill."),
        ("quarantine", "Quarantine", "quarantine."),
    ):
        yield ""
        yield from _keys(title, parts[name], parts, prefix)


def _keys(title: str, section: Mapping[str, Any], parts: Mapping[str, Any], prefix: str) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield section["description"]
    yield ""
    yield "| key | takes | default | meaning |"
    yield "|---|---|---|---|"
    for key, value in section["properties"].items():
        default = "**required**" if key in section.get("required", ()) else _default(value)
        yield f"| `{prefix}{key}` | {_cell(_takes(value))} | {default} | {_cell(value['description'])} |"


def _default(value: Mapping[str, Any]) -> str:
    if "default" not in value:
        return ""
    found = value["default"]
    text = {True: "true", False: "false", "": '""'}.get(found, str(found)) if not isinstance(found, int) else None
    if text is None:
        text = str(found).lower() if isinstance(found, bool) else f"{found:,}" if found >= 10_000 else str(found)
    return f"`{text}`"


def _takes(value: Mapping[str, Any]) -> str:
    """What a key takes, in words."""
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in value:
            inner = [one for one in value[choice] if one != {"type": "null"}]
            if any("env" in one.get("properties", {}) for one in inner):
                return "a secret"
            if {"integer", "string"} == {one.get("type") for one in inner}:
                return "a size" if any("kK" in one.get("pattern", "") for one in inner) else "text"
            words = [_takes(one) for one in inner]
            return " or ".join(dict.fromkeys(words))
    if "$ref" in value:
        return "a mapping"
    kind = value.get("type")
    if kind in ("integer", "number"):
        low = value.get("minimum", value.get("exclusiveMinimum"))
        high = value.get("maximum")
        more = " above 0" if "exclusiveMinimum" in value else f" from {low}" if low is not None else ""
        most = f" to {high:,}" if high and high < 2**31 else ""
        return f"a{' whole' if kind == 'integer' else ''} number{more}{most}"
    return {"boolean": "`true`, `false`", "array": "a list", "object": "a mapping", "string": "text"}[str(kind)]


# -- schema files ---------------------------------------------------------------------------------------------


def _schema() -> Iterator[str]:
    yield "# Schema files"
    yield ""
    yield f"{MADE} A file `*.schema.yml` describes one index. Editors complete it"
    yield "by `flussod schema index`; what each type of Postgres becomes is in [types.md](types.md)."
    yield ""
    yield "```yaml"
    yield "version: 1"
    yield "table: orders"
    yield "soft_delete: {column: cancelled_at}"
    yield "filters: [{column: total, op: gt, value: 0}]"
    yield "fields:"
    yield "  - {long: id, required: true}"
    yield "  - {enum: status, required: true, variants: [new, paid, shipped]}"
    yield "  - belongs_to: customer"
    yield "    column: customer_id"
    yield "    table: customers"
    yield "    fields: [{text: name, required: true}]"
    yield "  - has_many: items"
    yield "    table: items"
    yield "    foreign_key: order_id"
    yield "    order_by: [{column: id, direction: desc}]"
    yield "    limit: 100"
    yield "    fields: [{integer: quantity, required: true}]"
    yield "  - many_to_many: tags"
    yield "    table: tags"
    yield "    through: {table: order_tags, left_key: order_id, right_key: tag_id}"
    yield "    fields: [{keyword: label, required: true}]"
    yield "  - {sum: pieces, table: items, column: quantity, value_type: long, foreign_key: order_id}"
    yield "  - {constant: kind, value: order}"
    yield "```"
    yield ""
    yield "A name is lowercased unless it stands in double quotes inside the text: `table: '\"Mixed.Name\"'`. A dot"
    yield "outside quotes separates database schema and table. A key of several columns is a list: `[tenant_id, id]`."
    yield ""
    yield "## Top"
    yield ""
    yield from _table(meanings.TOP)
    yield ""
    yield "## Kinds of fields"
    yield ""
    yield "Each item of `fields` has exactly one of these keys, whose value is the name in the document, and beside it"
    yield "the keys of the last two columns."
    yield ""
    yield "| kind | what it is | reads | becomes | needs | may have |"
    yield "|---|---|---|---|---|---|"
    for kind, keys in language.FIELD_KEYS.items():
        reads = describe(kind) if kind in OPENSEARCH and kind != "geo" else ""
        needs, may = (", ".join(f"`{key}`" for key in some) for some in (keys.required, keys.optional))
        becomes = f"`{OPENSEARCH[kind]}`" if kind in OPENSEARCH else ""
        yield f"| `{kind}` | {_cell(meanings.KINDS[kind])} | {reads} | {becomes} | {needs} | {may} |"
    yield ""
    yield "An aggregate (`count`, `sum`, `avg`, `min`, `max`, `ids`) needs exactly one of `foreign_key` and `through`;"
    yield "a `geo` field both of `lat` and `lon`, or one `column`."
    yield ""
    yield "## Keys beside them"
    yield ""
    yield from _table(meanings.BESIDE)
    yield ""
    yield f"`transforms` are {_words(language.TRANSFORMS)}; `values` of a map are {_words(MAP_VALUES)}."
    for title, told in (
        ("through", meanings.THROUGH),
        ("order_by", meanings.ORDER),
        ("soft_delete", meanings.SOFT_DELETE),
        ("filters", meanings.FILTER),
    ):
        yield ""
        yield f"## {title}"
        yield ""
        yield from _table(told)
    yield ""
    yield "| op | value |"
    yield "|---|---|"
    yield f"| {_words(language.SCALAR_OPS)} | a text, a number, true or false |"
    yield f"| {_words(language.LIST_OPS)} | a list of them, not empty |"
    yield "| `between` | a list of two |"
    yield f"| {_words(language.NULL_OPS)} | none |"


def _table(told: Mapping[str, str]) -> Iterator[str]:
    yield "| key | meaning |"
    yield "|---|---|"
    for key, sentence in told.items():
        yield f"| `{key}` | {_cell(sentence)} |"


def _words(some: Any) -> str:
    return ", ".join(f"`{one}`" for one in some)


# -- commands -------------------------------------------------------------------------------------------------


def commands() -> Iterator[List[str]]:
    """Every command as its words, groups before what is in them."""
    for name in sorted(COMMANDS):
        yield [name]
        found = _command([name])
        if isinstance(found, click.Group):
            yield from ([name, inner] for inner in sorted(found.commands))


def _command(words: List[str]) -> click.Command:
    found: Optional[click.Command] = flussod
    for word in words:
        assert isinstance(found, (LazyGroup, click.Group))
        found = found.get_command(click.Context(found), word)
    assert found is not None
    return found


def _cli() -> Iterator[str]:
    yield "# Every command"
    yield ""
    yield f"{MADE} [commands.md](commands.md) tells what they are for, with examples."
    yield ""
    yield 'Completion in a shell: `eval "$(_FLUSSOD_COMPLETE=bash_source flussod)"` in `~/.bashrc`, `zsh_source` in'
    yield "`~/.zshrc`, or `_FLUSSOD_COMPLETE=fish_source flussod | source` in fish."
    yield ""
    yield "## Exit codes"
    yield ""
    yield "```text"
    yield from (line.strip() for line in exit_code_table().splitlines()[2:])
    yield "```"
    for words in commands():
        command = _command(words)
        context = click.Context(command, info_name=" ".join(["flussod", *words]))
        yield ""
        yield f"## flussod {' '.join(words)}"
        yield ""
        yield " ".join((command.help or command.short_help or "").split())
        given = [one for one in command.params if isinstance(one, click.Argument)]
        arguments = [_metavar(one, context) for one in given]
        options = [one for one in command.params if isinstance(one, click.Option)]
        yield ""
        yield f"`flussod {' '.join([*words, *(['[OPTIONS]'] if options else []), *arguments])}`"
        if options:
            yield ""
            yield "| option | variable | meaning |"
            yield "|---|---|---|"
        for option in options:
            takes = "" if option.is_flag else _cell(option.metavar or "|".join(getattr(option.type, "choices", "N")))
            *short, last = (*option.opts, *option.secondary_opts)
            names = ", ".join([*(f"`{one}`" for one in short), f"`{last} {takes}`" if takes else f"`{last}`"])
            variable = f"`{option.envvar}`" if isinstance(option.envvar, str) else ""
            default = f" Default: `{_plain(option.default)}`." if option.show_default and not option.is_flag else ""
            yield f"| {names} | {variable} | {_cell(option.help or '')}{default} |"


def _plain(default: Any) -> str:
    """A default as one would type it."""
    return f"{default:g}" if isinstance(default, float) else str(default)


def _metavar(argument: click.Argument, context: click.Context) -> str:
    try:
        return argument.make_metavar(context)
    except TypeError:  # click 8.1
        return argument.make_metavar()  # type: ignore[call-arg]


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(DOCS / name, file=sys.stderr)

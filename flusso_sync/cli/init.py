"""``flussod init``: a first configuration and schema files for a database, from its URL alone."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence
from urllib.parse import urlsplit

import click

from flusso_sync.cli.deployment import at_once
from flusso_sync.cli.table import plain, table
from flusso_sync.errors import SourceRefused

if TYPE_CHECKING:
    from flusso_sync.backends import Database
    from flusso_sync.schema.plan import Table

CONFIG = "flusso.yaml"
SCHEMAS = "schemas"

#: What editors complete and check the files by.
EDITOR = "editor"
CONFIG_JSON = "flusso.schema.json"
INDEX_JSON = "index.schema.json"

#: What holds a URL with a password; for its owner's eyes.
SOURCE_SECRET = "database.url"
SINK_SECRET = "search.url"


class _File(NamedTuple):
    path: Path
    text: str
    private: bool = False


@click.command(
    "init",
    short_help="Write a first configuration for a database.",
    epilog="\b\nExamples:\n  flussod init postgresql://app@localhost/shop\n"
    "  flussod init --yes --table orders --table customers -o search\n"
    "  flussod init --sink http://localhost:9200\n\n"
    "What it writes passes flussod check and runs as it is: flussod -c flusso.yaml",
)
@click.argument("url", required=False)
@click.option("-o", "--output", metavar="FOLDER", default=".", show_default=True, help="Where the files go.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: every table that documents can be made of.")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="A root table; may be given several times.")
@click.option(
    "--sink",
    default="sqlite",
    show_default=True,
    metavar="sqlite|stdout|URL",
    help="Where documents go: one file, standard output, or the URL of an OpenSearch cluster.",
)
def init(url: Optional[str], output: str, yes: bool, tables: Sequence[str], sink: str) -> None:
    """Describe the database at URL (else DATABASE_URL): flusso.yaml, and a schema file for each root table.

    Relations are found by foreign keys in both directions, junctions and enum types recognised.  On a terminal
    it asks which tables.  Nothing that is there is overwritten; nothing is written to the database.
    """
    from flusso_sync.backends import DefaultBackends, drafts
    from flusso_sync.config.connection import is_http_url
    from flusso_sync.config.load import Config
    from flusso_sync.daemon import DaemonOptions

    if sink not in ("sqlite", "stdout") and not is_http_url(sink):
        raise click.UsageError(f"--sink must be sqlite, stdout or an http(s):// URL, got {sink!r}")
    source: Dict[str, object] = {"type": "postgres"}
    if url is not None:
        source["connection_url"] = url
    elif not os.environ.get("DATABASE_URL"):
        raise click.UsageError("name the database: flussod init postgresql://user@host/database, or set DATABASE_URL")
    folder = Path(output)
    _refuse_to_overwrite([folder / CONFIG])
    # An explicit URL is meant, whatever the variable says.
    shadowed = os.environ.pop("DATABASE_URL", None) if url is not None else None
    try:
        with at_once():
            database = DefaultBackends().database(Config.from_mapping({"source": source}), DaemonOptions())
    finally:
        if shadowed is not None:
            os.environ["DATABASE_URL"] = shadowed
    roots = database.roots()
    if not roots:
        raise SourceRefused(
            f"database {database.name} has no table that this role may read and documents could be made of",
            hint="A root table needs a primary key; GRANT SELECT on it to the role",
        )
    chosen = _named(tables, roots) if tables else roots
    if not tables and not yes and sys.stdin.isatty():
        chosen = _asked(database, roots)
    written = drafts(database, chosen)
    hint = _modeline(f"../{EDITOR}/{INDEX_JSON}")
    schemas = [_File(folder / SCHEMAS / f"{one.name}.schema.yml", hint + one.text) for one in written]
    files = [*_config(folder, url, sink, database, [one.name for one in written]), *schemas, *_for_editors(folder)]
    _refuse_to_overwrite([file.path for file in files])
    for file in files:
        _write(file)
    for file in files:
        click.echo(f"✓ {file.path}")
    for remark in _left_out(database, roots):
        click.echo(remark)
    shown = click.format_filename(str(folder / CONFIG))
    click.echo(f"\nNext: flussod check -c {shown}, then flussod run -c {shown}")


# -- which tables ------------------------------------------------------------------------------------------


def _named(given: Sequence[str], roots: Sequence[Table]) -> List[Table]:
    """The tables that ``--table`` names, in the order of the catalog."""
    found = [_find(name, roots) for name in given]
    return [root for root in roots if root in found]


def _find(name: str, roots: Sequence[Table]) -> Table:
    from flusso_sync.config.sentences import nearest

    for matching in (lambda root: str(root) == name, lambda root: root.name == name):
        found = [root for root in roots if matching(root)]
        if found:
            return found[0]
    guess = nearest(name, [str(root) for root in roots] + [root.name for root in roots])
    meant = f" (did you mean {guess}?)" if guess else ""
    raise click.UsageError(f"no table {plain(name)}{meant} that documents can be made of")


def _asked(database: Database, roots: Sequence[Table]) -> List[Table]:
    click.echo(f"Tables of {plain(database.name)} that documents can be made of:\n")
    rows = []
    for number, root in enumerate(roots, 1):
        size = database.sizes.get(root)
        rows.append([number, root, "" if size is None else f"{size:,}"])
    for line in table(["", "table", "rows"], rows, right=["", "rows"]):
        click.echo(f"  {line}")
    junctions = sorted(map(str, database.junctions()))
    if junctions:
        click.echo(f"\nJunctions are shown inside them: {plain(', '.join(junctions))}")
    click.echo("")

    def parse(text: str) -> List[Table]:
        wanted = [part for part in re.split(r"[\s,]+", text.strip()) if part]
        if wanted in ([], ["all"]):
            return list(roots)
        found = []
        for part in wanted:
            if part.isdigit():
                if not 1 <= int(part) <= len(roots):
                    raise click.UsageError(f"there is no number {part}")
                found.append(roots[int(part) - 1])
            else:
                found.append(_find(part, roots))
        return [root for root in roots if root in found]

    answer: List[Table] = click.prompt(
        "Which? Numbers or names, with commas", default="all", value_proc=parse, show_default=True
    )
    return answer


def _left_out(database: Database, roots: Sequence[Table]) -> List[str]:
    """What is no root although one may have expected it."""
    junctions = database.junctions()
    keyless = [str(one) for one in sorted(database.catalog.tables) if one not in roots and one not in junctions]
    if not keyless:
        return []
    return [f"No documents of their own, for want of a primary key: {plain(', '.join(keyless))}"]


# -- files -------------------------------------------------------------------------------------------------


def _refuse_to_overwrite(paths: Sequence[Path]) -> None:
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there:
        raise click.UsageError(f"{', '.join(there)} is there already; nothing was written.  Name another --output")


def _write(file: _File) -> None:
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(file.path, flags, 0o600 if file.private else 0o666), "w", encoding="utf-8") as stream:
            stream.write(file.text)
    except OSError as error:
        raise click.FileError(str(file.path), error.strerror or str(error)) from error


def _config(folder: Path, url: Optional[str], sink: str, database: Database, indexes: Sequence[str]) -> List[_File]:
    """flusso.yaml, and beside it what nobody else should read."""
    private: List[_File] = []
    if url is None:
        connection, remark = "{env: DATABASE_URL}", "Read from this variable at each connect."
    elif _has_secret(url):
        private.append(_File(folder / SOURCE_SECRET, url.strip() + "\n", private=True))
        connection = f"{{file: {SOURCE_SECRET}}}"
        remark = "In a file of its own because it holds a password; keep that out of version control."
    else:
        connection, remark = json.dumps(url.strip()), "The variable DATABASE_URL, where set, replaces it."
    slot = "flusso"
    if slot in database.slots:
        # Slots are the server's, not the database's; this one is somebody's.
        slot = _free(f"flusso_{database.name}", database.slots)
    lines = [
        _modeline(f"{EDITOR}/{CONFIG_JSON}").rstrip(),
        f"# Documents of database {plain(database.name)}.  Written by flussod init; it is yours now.",
        "#",
        f"#   flussod check -c {CONFIG}    what a run would stumble over; changes nothing",
        f"#   flussod run -c {CONFIG}      builds every document, then keeps it right; Ctrl-C ends it",
        "#",
        "# Every other key, with its default and meaning, is in etc/flusso.yaml of flusso-sync.",
        "",
        "source:",
        "  type: postgres",
        f"  # {remark}",
        f"  connection_url: {connection}",
        "  # Made at the first start.  While nobody reads the slot the server keeps WAL for it: when you are done for",
        f"  # good, SELECT pg_drop_replication_slot('{slot}'); DROP PUBLICATION {slot};",
        f"  slot: {slot}",
        f"  publication: {slot}",
        "",
        "sinks:",
    ]
    if sink == "sqlite":
        lines += [
            "  # One file, read by as many as like: flussod search, flussod get, sqlite3.",
            "  documents: {type: sqlite, path: documents.sqlite}",
        ]
    elif sink == "stdout":
        lines += ["  # One line of JSON for each document.", "  documents: {type: stdout}"]
    else:
        place = json.dumps(sink.strip())
        if _has_secret(sink):
            private.append(_File(folder / SINK_SECRET, sink.strip() + "\n", private=True))
            place = f"{{file: {SINK_SECRET}}}"
        lines += [
            "  # Readers use the alias called as the index.  On a cluster of one node set number_of_replicas: 0.",
            "  documents:",
            "    type: opensearch",
            f"    url: {place}",
        ]
    lines += ["", "index:"]
    for name in indexes:
        lines += [f"  - name: {_quoted(name)}", f"    schema: {SCHEMAS}/{name}.schema.yml"]
    return [_File(folder / CONFIG, "\n".join(lines) + "\n"), *private]


def _modeline(path: str) -> str:
    """The comment by which the YAML language server finds a file's JSON Schema, from the file's own folder."""
    return f"# yaml-language-server: $schema={path}\n"


def _for_editors(folder: Path) -> List[_File]:
    from flusso_sync.cli.schema import schema_text

    names = {CONFIG_JSON: "config", INDEX_JSON: "index"}
    return [_File(folder / EDITOR / name, schema_text(what)) for name, what in names.items()]


def _has_secret(url: str) -> bool:
    split = urlsplit(url.strip())
    return ":" in split.netloc.rpartition("@")[0] or "password=" in split.query.lower()


def _free(wanted: str, taken: Sequence[str]) -> str:
    name = re.sub(r"[^a-z0-9_]+", "_", wanted.lower())[:60]
    number = 2
    found = name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found


def _quoted(name: str) -> str:
    return json.dumps(name) if name in ("null", "true", "false") else name

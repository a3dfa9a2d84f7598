"""Findings: what ``flussod check`` reports, each under a code that never changes its meaning.

The code is given where a rule is kept: a refusal of a run carries the code of the finding that would have foretold it.
docs/findings.md is this table, compared by a test.  Codes are never used again for something else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from flusso_sync.errors import (
    EXIT_CONFIG,
    EXIT_INTERNAL,
    EXIT_SINK,
    EXIT_SOURCE,
    BlindTable,
    ConfigError,
    FlussoError,
    Gap,
    OwnerConflict,
    PublicationMismatch,
    SinkError,
    SinkUnauthorized,
    SinkUnavailable,
    SlotInUse,
    SourceError,
    SourceUnauthorized,
    SourceUnavailable,
)

ERROR, WARNING, INFO = "error", "warning", "info"


class Code(NamedTuple):
    """``severity`` is the usual one; ``meaning`` and ``remedy`` are for the manual."""

    severity: str
    meaning: str
    remedy: str


#: Groups of codes: the first number of each, and its heading in the manual.
GROUPS: Mapping[int, str] = {
    1: "Files and addresses",
    10: "The server, the role and the stream",
    40: "Schema files against the tables",
    70: "Sinks",
}

CODES: Mapping[str, Code] = {
    "FL001": Code(ERROR, "A file cannot be read.", "Mend its path or its rights."),
    "FL002": Code(ERROR, "A file is not YAML 1.2: one document, no key twice.", "Mend the line it names."),
    "FL003": Code(ERROR, "A key of the configuration is unknown, missing, or has a value it does not take.",
                  "etc/flusso.yaml has every key with what it takes."),
    "FL004": Code(ERROR, "A key of a schema file is unknown, missing, or has a value it does not take.",
                  "etc/schemas has documented examples."),
    "FL005": Code(WARNING, "A key loads, and means less than one may think.", "Do as the sentence says, or leave it."),
    "FL006": Code(ERROR, "A variable or file that a connection needs is not there, or holds no URL.",
                  "Set the variable, or write the value into the file."),
    "FL007": Code(WARNING, "An address of the HTTP surfaces is in use, by a running daemon or by something else.",
                  "Nothing, if that is this deployment's daemon; else another server.public_address or "
                  "server.private_address."),
    "FL010": Code(ERROR, "The database cannot be reached; a run would wait for it, unready.",
                  "See that it runs, and mend its address in source.connection_url, or the network."),
    "FL011": Code(ERROR, "The database refuses the connection.", "Mend user, password, database name or pg_hba.conf."),
    "FL012": Code(ERROR, "The server is too old.", "Postgres 14 or newer is needed."),
    "FL013": Code(WARNING, "This version of Postgres is not tested.", "Postgres 14 to 18 are."),
    "FL014": Code(ERROR, "wal_level is not logical.", "Set wal_level = logical and restart Postgres."),
    "FL015": Code(ERROR, "The role may not replicate.", "ALTER ROLE … REPLICATION, by a superuser."),
    "FL016": Code(ERROR, "Every replication slot is taken; a run would wait for one.",
                  "Drop what nobody uses, or raise max_replication_slots and restart Postgres."),
    "FL017": Code(ERROR, "Every WAL sender is taken; a run would wait for one.",
                  "End what nobody uses, or raise max_wal_senders and restart Postgres."),
    "FL018": Code(ERROR, "source.failover_slot is set, and the server has no failover slots.",
                  "Postgres 17 or newer has them; else remove the key."),
    "FL019": Code(ERROR, "The replication slot is not one of ours: physical, of another plugin or another database.",
                  "Name another source.slot."),
    "FL020": Code(INFO, "Another process uses the replication slot; a second daemon would wait for it.",
                  "Nothing, if that is this deployment's daemon."),
    "FL021": Code(WARNING, "A gap: the slot does not continue what was written. A run rebuilds every index beside the "
                  "one that is read, or ends with 7 under on_gap: stop (then this is an error).",
                  "Nothing, or restore the slot."),
    "FL022": Code(ERROR, "The publication would hide changes: an operation missing, a row filter, a column list, or "
                  "partitions published as their root.", "Run the statement, or name another source.publication."),
    "FL023": Code(ERROR, "The publication does not exist, and the daemon may not create it.",
                  "Have the owner of the tables run the statement, or grant the right."),
    "FL024": Code(ERROR, "Tables are not published and the daemon may not add them: their changes would not be heard "
                  "(a warning under on_blind_table: warn).",
                  "Have the owner of the publication and the tables run the statement."),
    "FL025": Code(INFO, "A run will create the publication or add tables to it.", "Nothing."),
    "FL026": Code(ERROR, "A table has no usable replica identity and the daemon may not set one: published, it would "
                  "refuse its application's UPDATE and DELETE (a warning under on_blind_table: warn).",
                  "Have its owner run the statement."),
    "FL027": Code(WARNING, "The replica identity of a table is too weak to tell the old parents of a row that was "
                  "deleted or moved, and is not the daemon's to change: such changes are counted, not followed.",
                  "Have its owner run the statement; flussod verify --repair heals what went stale."),
    "FL028": Code(INFO, "A run will strengthen the replica identity of a table.", "Nothing; the undo is named."),
    "FL029": Code(WARNING, "A link is a generated column that old rows cannot tell.",
                  "Link by a column that is not generated."),
    "FL030": Code(ERROR, "The role may not read a table, or policies would hide rows from it.",
                  "GRANT USAGE, GRANT SELECT; for policies ALTER ROLE … BYPASSRLS."),
    "FL031": Code(INFO, "Nothing bounds the WAL that the slot keeps while no daemon reads it.",
                  "Set max_slot_wal_keep_size on the server, or watch the disk."),
    "FL032": Code(WARNING, "The server is a standby: publication and replica identities must be made on its primary.",
                  "Make them there; a slot on a standby needs Postgres 16."),
    "FL033": Code(WARNING, "A transaction has been open for long; the creation of the slot waits for its end.",
                  "End it, if it should not be open."),
    "FL034": Code(WARNING, "So few connections are free that builds may have to wait for them.",
                  "Raise max_connections, or lower backfill.workers."),
    "FL035": Code(
        ERROR,
        "No replication connection can be opened beside that for SQL: a pooler, pg_hba.conf or a limit is in the way.",
        "Let the URL lead to the server itself; raise the role's CONNECTION LIMIT.",
    ),
    "FL036": Code(WARNING, "The slot makes the server keep more WAL than source.max_retained_wal_bytes allows.",
                  "Raise the limit, if a run is to go on with it under on_retained_wal: give_up."),
    "FL040": Code(ERROR, "A table does not exist, or the role may not see its database schema.",
                  "Mend the name, or GRANT USAGE on the schema."),
    "FL041": Code(ERROR, "A view, a foreign, an unlogged or a temporary table: its changes are not in the stream.",
                  "Name the tables that a view is made of."),
    "FL042": Code(ERROR, "A column does not exist.", "Mend the name; the sentence lists what there is."),
    "FL043": Code(ERROR, "primary_key or doc_id is neither the primary key nor a unique constraint over NOT NULL "
                  "columns.", "Name columns that are, or leave primary_key out."),
    "FL044": Code(ERROR, "The key of a relation or root cannot be found, or has another number of columns.",
                  "Write the columns into the schema file."),
    "FL045": Code(ERROR, "The type of a column is not one that the kind of the field reads.",
                  "Use a kind that does; flussod init writes those."),
    "FL046": Code(WARNING, "A required field, over a column that may be null.",
                  "Write required: false, or set the column NOT NULL."),
    "FL047": Code(ERROR, "A filter cannot be applied to its column, or its operand is no value of the column's type.",
                  "Mend operator or operand."),
    "FL048": Code(ERROR, "Values of a column have no order, and order_by, min or max needs one.",
                  "Name another column."),
    "FL049": Code(ERROR, "sum, avg, lat or lon over a column that holds no numbers.", "Name another column."),
    "FL050": Code(ERROR, "value_type cannot hold the result of an aggregate.", "Use the type that the sentence names."),
    "FL051": Code(ERROR, "ids over a table without a key, or with an element_type that does not fit.",
                  "Mend element_type, or give the table a key."),
    "FL052": Code(ERROR, "The target of a belongs_to is not unique.",
                  "Name its primary key or the columns of a unique constraint."),
    "FL053": Code(ERROR, "The columns of a link cannot be compared.", "Link columns of one type."),
    "FL054": Code(ERROR, "A default that is no value of its column, or a transform of something else than text.",
                  "Mend or remove it."),
    "FL055": Code(ERROR, "A raw filter may change without any row changing, so documents would go stale.",
                  "Write it over columns, or set volatile: true to accept that."),
    "FL056": Code(ERROR, "Postgres refuses a statement of the index, most often for its raw filters.",
                  "Mend the SQL near the place it names."),
    "FL057": Code(WARNING, "No index over the columns of a link: every change that is traced, and every document that "
                  "is built, reads the whole table.", "Run the CREATE INDEX CONCURRENTLY."),
    "FL058": Code(INFO, "A raw filter is marked volatile, and so stands outside the promises.", "Nothing."),
    "FL070": Code(ERROR, "The sink cannot be reached; a run would wait for it, unready.",
                  "See that it runs, and mend its url, or the network."),
    "FL071": Code(ERROR, "The sink refuses the connection, its user, or a request every start makes.",
                  "Mend user, password, certificates and rights."),
    "FL072": Code(WARNING, "This server is not tested.", "OpenSearch 2 and 3 are."),
    "FL073": Code(ERROR, "text_analysis: icu, and the plugin analysis-icu is not on every node.",
                  "Install it, or set text_analysis: builtin."),
    "FL074": Code(ERROR, "The ingest pipeline does not exist.", "Create it, or remove the key pipeline."),
    "FL075": Code(INFO, "Whether the user may write cannot be tried without writing.",
                  "The action groups indices_all on `PREFIX*`, cluster_composite_ops and cluster_monitor are enough."),
    "FL076": Code(ERROR, "A name of an index is too long, reserved, or taken by something that is not ours.",
                  "Rename the index or what took its name, or set a prefix."),
    "FL077": Code(ERROR, "The sink belongs to another source, slot or address.",
                  "Another prefix, file or cluster; --adopt takes it over once."),
    "FL078": Code(INFO, "Another process holds the lease of the sink; a second daemon would wait.",
                  "Nothing, if that is this deployment's daemon."),
    "FL079": Code(ERROR, "The SQLite file cannot be used: its folder, its rights, its owner, or this Python's SQLite.",
                  "Do as the sentence says."),
    "FL080": Code(WARNING, "More replicas than the cluster has nodes for: it stays yellow, and the switch of a build "
                  "waits a minute for them.", "Lower number_of_replicas, or add nodes."),
    "FL081": Code(WARNING, "The cluster blocks writes or the creation of indexes; a run would wait.",
                  "Clear the block once its cause is gone."),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that ``check`` says.

    ``path`` is the key path in a file, or the field's dotted name in its index.  ``exit_code`` is what a run would end
    with, 0 where it would not end.  ``facts`` are for programs.
    """

    code: str
    severity: str
    message: str
    remedy: str = ""
    index: Optional[str] = None
    path: str = ""
    file: Optional[str] = None
    line: Optional[int] = None
    column: Optional[int] = None
    exit_code: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        about = f"index {self.index}: " if self.index else ""
        place = f"{self.path}: " if self.path and self.index else ""
        return f"{about}{place}{self.message}" + (f"; {_lowered(self.remedy)}" if self.remedy else "")

    @property
    def place(self) -> str:
        """``file:line:column``, as far as it is known."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    def to_json(self) -> Dict[str, Any]:
        """flusso's four keys, and ours."""
        return {
            "code": self.code,
            "severity": self.severity,
            "index": self.index,
            "field": self.path or None,
            "message": self.message,
            "remedy": self.remedy or None,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path or None,
            "exit_code": self.exit_code,
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


def of_error(error: FlussoError, *, default: str = "", severity: str = ERROR) -> List[Finding]:
    """The findings that foretell ``error``: one for each problem of files, else one."""
    if isinstance(error, ConfigError):
        return [
            Finding(
                problem.code or default or "FL003",
                severity,
                problem.message,
                error.hint or "",
                path=problem.path or "",
                file=problem.file,
                line=problem.line,
                column=problem.column,
                exit_code=EXIT_CONFIG,
            )
            for problem in error.problems
        ]
    code = error.code or default or _family(error)
    hint = error.hint or ""
    if hint.startswith("It is tried again"):
        # By a run; whoever looks wants to know where to look.
        hint = CODES[code].remedy
    index = getattr(error, "index", None)
    return [Finding(code, severity, error.message, hint, index=index, exit_code=error.exit_code)]


#: What an error without a code of its own is reported as.
_FAMILIES = (
    (SourceUnauthorized, "FL011"),
    (SinkUnauthorized, "FL071"),
    (SourceUnavailable, "FL010"),
    (SlotInUse, "FL020"),
    (PublicationMismatch, "FL022"),
    (BlindTable, "FL024"),
    (Gap, "FL021"),
    (SourceError, "FL011"),
    (OwnerConflict, "FL077"),
    (SinkUnavailable, "FL070"),
    (SinkError, "FL071"),
)


def _family(error: FlussoError) -> str:
    return next((code for kind, code in _FAMILIES if isinstance(error, kind)), "FL003")


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:] if text.startswith("Run: ") else text


def exit_code(findings: List[Finding]) -> int:
    """What a run would end with: the code of the first error, in the order in which a run meets them."""
    for finding in findings:
        if finding.severity == ERROR:
            return finding.exit_code or EXIT_INTERNAL
    return 0


def manual() -> str:
    """docs/findings.md."""
    lines = [
        "# What flussod check finds",
        "",
        "Each finding has a code that keeps its meaning over versions, a severity, file and line (a lock has none),",
        "one sentence, and what to do. A run that is refused for the same reason names the same code in brackets. This",
        "page is made from the table in `flusso_sync/findings.py`:",
        "`python -m flusso_sync.findings > docs/findings.md`.",
        "",
        "An `error` is what a run would end for, wait for without end, or write wrong documents for; `check` then ends",
        f"with the exit code the run would end with (mostly {EXIT_CONFIG} for files, {EXIT_SOURCE} for the source, "
        f"{EXIT_SINK} for a sink).",
        "A `warning` costs time or completeness, an `info` tells what a run will do; with these alone, `check` ends",
        "with 0.",
    ]
    for code, entry in CODES.items():
        heading = GROUPS.get(int(code[2:]))
        if heading is not None:
            lines += ["", f"## {heading}", "", "| code | severity | meaning | what to do |", "|---|---|---|---|"]
        lines.append(f"| {code} | {entry.severity} | {entry.meaning} | {entry.remedy} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(manual(), end="")

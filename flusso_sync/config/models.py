"""The keys of ``flusso.yaml``: one frozen model per mapping, one description per key.

Above each default stands, where it is not obvious, why it has that value and what happens at the limit.  The
descriptions become the editors' JSON Schema and are what ``etc/flusso.yaml`` explains at length.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Dict, List, Literal, Mapping, Optional, Tuple, Type, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from flusso_sync.config.sentences import show
from flusso_sync.config.values import Address, Secret, Setting, parse_address, parse_size
from flusso_sync.schema import names

U32 = 2**32 - 1
U64 = 2**64 - 1

#: Sockets count milliseconds in 32 bits; a longer wait acts as these eleven days.
_LONGEST_SECONDS = 1_000_000

# -- value types --------------------------------------------------------------------------------------


def _identifier(value: Any) -> Any:
    return names.identifier(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    return names.plain_identifier(value) if isinstance(value, str) else value


def _slot(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = names.identifier(value)
    if not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_"):
        raise ValueError(f"must hold lowercase letters, digits and _ only, as slot names do, got {show(value)}")
    return name


def _at_least_one(value: Any) -> Any:
    """A zero that flusso clamps; the loader says so in a warning."""
    return 1 if value == 0 and isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _clamped_seconds(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _LONGEST_SECONDS < value <= U64:
        return _LONGEST_SECONDS
    return _at_least_one(value)


def _clamped_size(value: Any) -> Any:
    return _at_least_one(parse_size(value))


def _address(value: Any) -> Any:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be IP:port such as 127.0.0.1:9464, got {show(value)}")
    return parse_address(value)


def _from_base(value: str, info: ValidationInfo) -> str:
    """Relative paths start at the folder of the config file."""
    if not value.strip():
        raise ValueError("must be a path, got an empty text")
    if "\0" in value:
        raise ValueError("must be a path; no path holds a zero byte")
    return str((info.context or {}).get("base", Path()) / value)


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


#: Blanks, a number, a unit; what a zero means is the key's own affair.
_SIZE_TEXT = {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([kKmMgGtT]([iI]?[bB])?|[bB])?\s*$"}
_SIZE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": U64}, _SIZE_TEXT]}
_CLAMPED_SIZE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": U64}, _SIZE_TEXT]}
_ADDRESS_SCHEMA = {
    "type": "string",
    "pattern": r"^\s*([0-9]+(\.[0-9]+){3}|\[[0-9a-fA-F:.]+(%\S+)?\]):[0-9]{1,5}\s*$",
    "examples": ["127.0.0.1:9464", "[::1]:9464"],
}
_SLOT_PATTERN = r'^\s*([a-zA-Z_][a-zA-Z0-9_]{0,62}|"[a-z0-9_]{1,63}")\s*$'
_PREFIX_PATTERN = r'^([a-z0-9][^A-Z ,:"*+/\\|?#<>]{0,49})?$'
_TEXT_PATTERN = r"\S"
_INTERVAL_SCHEMA = {"anyOf": [{"type": "string", "pattern": _TEXT_PATTERN}, {"type": "integer"}]}

Identifier = Annotated[
    str, BeforeValidator(_identifier), WithJsonSchema({"type": "string", "pattern": names.IDENTIFIER_PATTERN})
]
Name = Annotated[str, BeforeValidator(_plain), WithJsonSchema({"type": "string", "pattern": names.NAME_PATTERN})]
SlotName = Annotated[str, BeforeValidator(_slot), WithJsonSchema({"type": "string", "pattern": _SLOT_PATTERN})]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1, le=U64), WithJsonSchema(_SIZE_SCHEMA)]
ClampedSize = Annotated[int, BeforeValidator(_clamped_size), Field(ge=0, le=U64), WithJsonSchema(_CLAMPED_SIZE_SCHEMA)]
# Bounds are lost on the way to JSON Schema where something runs before them.
ClampedCount = Annotated[
    int,
    BeforeValidator(_at_least_one),
    Field(ge=0, le=U32),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": U32}),
]
ClampedSeconds = Annotated[
    float,
    BeforeValidator(_clamped_seconds),
    Field(ge=0, le=U64, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": U64}),
]
Count = Annotated[int, Field(ge=1, le=U32)]
Seconds = Annotated[float, Field(gt=0, le=U32, allow_inf_nan=False)]
SocketAddress = Annotated[Address, PlainValidator(_address), PlainSerializer(str), WithJsonSchema(_ADDRESS_SCHEMA)]
PathText = Annotated[str, AfterValidator(_from_base), WithJsonSchema({"type": "string", "pattern": _TEXT_PATTERN})]
Text = Annotated[str, AfterValidator(_not_blank), WithJsonSchema({"type": "string", "pattern": _TEXT_PATTERN})]
OnError = Literal["stop", "skip"]


class Section(BaseModel):
    """A mapping of the file: unknown keys are refused, values are not coerced, null means "not there"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if value is not None}


# -- source -------------------------------------------------------------------------------------------


class ConnectionParts(Section):
    """A connection named by its parts instead of a URL; nothing in them needs escaping."""

    host: Text = Field(default="127.0.0.1", description="Host name, address, or folder of the Unix socket")
    port: int = Field(default=5432, ge=0, le=65535, description="Port of the server")
    user: Text = Field(default="postgres", description="Role to log in as")
    password: Optional[Secret] = Field(default=None, description="Password: text, {env: VAR} or {file: PATH}")
    database: Text = Field(description="Database to read")


def _connection_shape(value: Any) -> Optional[str]:
    if isinstance(value, (str, Setting)):
        return "<url>"
    if isinstance(value, ConnectionParts):
        return "<parts>"
    if isinstance(value, Mapping):
        return "<url>" if "env" in value or "file" in value else "<parts>"
    return None


Connection = Annotated[
    Union[Annotated[Setting, Tag("<url>")], Annotated[ConnectionParts, Tag("<parts>")]],
    Discriminator(_connection_shape),
]


class Source(Section):
    """The database documents are built from."""

    type: Literal["postgres"] = Field(description="Kind of source; `postgres` is the only one")
    connection_url: Optional[Connection] = Field(
        default=None,
        description="Where the database is: a postgresql:// URL, {env: VAR}, {file: PATH}, or parts (host, port, user, "
        "password, database); DATABASE_URL overrides all but env and file",
    )
    slot: SlotName = Field(default="flusso", description="Replication slot of this deployment; created when missing")
    publication: Identifier = Field(default="flusso", description="Publication the slot streams; created when missing")
    manage_publication: bool = Field(default=True, description="May create the publication and add tables to it")
    manage_replica_identity: bool = Field(
        default=True,
        description="May strengthen a table's default replica identity, so that deletes and moves name their parents",
    )
    on_gap: Literal["rebuild", "stop"] = Field(
        default="rebuild", description="When changes were lost: rebuild every index beside the old one, or stop"
    )
    # A table we cannot hear would go stale in silence.  Who manages the publication alone has been told so by
    # flusso for years and expects a warning, hence the other default there.
    on_blind_table: Literal["stop", "warn"] = Field(
        default="stop",
        description="When a table cannot be heard: stop, or warn (the default with manage_publication: false)",
    )
    max_retained_wal_bytes: Optional[Size] = Field(
        default=None, description="WAL the slot may hold back before on_retained_wal acts; sizes such as 10GB"
    )
    on_retained_wal: Literal["warn", "give_up"] = Field(
        default="warn", description="Beyond max_retained_wal_bytes: warn, or give the slot up and rebuild every index"
    )
    statement_timeout_secs: Seconds = Field(default=60.0, description="Longest a statement on the source may take")
    # Short on purpose: a lock request that waits makes the application's own statements queue behind it.
    lock_timeout_secs: Seconds = Field(default=2.0, description="Longest to wait for a table lock before trying again")
    prepare: bool = Field(default=True, description="Prepare statements; false for a pooler such as PgBouncer")
    failover_slot: bool = Field(default=False, description="Create the slot with FAILOVER (Postgres 17 and later)")

    @model_validator(mode="before")
    @classmethod
    def _default_of_on_blind_table(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("manage_publication") is False and data.get("on_blind_table") is None:
            return {**data, "on_blind_table": "warn"}
        return data


# -- sinks --------------------------------------------------------------------------------------------


class OpenSearchSink(Section):
    """Documents go to indexes of an OpenSearch cluster."""

    type: Literal["opensearch"] = Field(description="Kind of sink: `opensearch`")
    url: Setting = Field(description="http:// or https:// URL; <SINK>_OPENSEARCH_URL overrides a literal")
    username: Optional[Setting] = Field(
        default=None, description="User of basic auth; <SINK>_OPENSEARCH_USERNAME overrides"
    )
    password: Optional[Secret] = Field(
        default=None, description="Password of basic auth; <SINK>_OPENSEARCH_PASSWORD overrides"
    )
    tls_verify: bool = Field(default=True, description="false accepts any certificate")
    ca_file: Optional[PathText] = Field(
        default=None, description="PEM file of the authorities that sign the cluster's certificate"
    )
    client_cert: Optional[PathText] = Field(default=None, description="PEM file of the client certificate")
    client_key: Optional[PathText] = Field(default=None, description="PEM file of the client certificate's key")
    # Two fill a small node's write threads; more only lengthen its queue.
    concurrency: Count = Field(default=2, description="Bulk requests in flight at once")
    batch_size: ClampedCount = Field(default=1000, description="Most actions in one bulk request; 0 acts as 1")
    max_bytes: ClampedSize = Field(
        default=10_485_760, description="Most bytes in one bulk request; a larger action goes alone"
    )
    timeout_secs: ClampedSeconds = Field(default=30.0, description="Longest a request may take; 0 acts as 1")
    max_retries: int = Field(default=3, ge=0, le=U32, description="Extra attempts for answers that may be final")
    pipeline: Optional[Text] = Field(default=None, description="Ingest pipeline for every bulk request")
    number_of_shards: ClampedCount = Field(default=1, description="Primary shards of a new index; changing it rebuilds")
    number_of_replicas: int = Field(default=1, ge=0, le=U32, description="Replicas of a complete index")
    refresh_interval: Annotated[Text, BeforeValidator(_number_as_text), WithJsonSchema(_INTERVAL_SCHEMA)] = Field(
        default="10s", description='Refresh interval of a complete index; "-1" for none'
    )
    text_analysis: Literal["builtin", "icu"] = Field(
        default="builtin",
        description="Analysis of texts; `icu` needs the analysis-icu plugin on every node; changing it rebuilds",
    )
    auto_subfields: bool = Field(
        default=True, description="Give texts and keywords their usual subfields; changing it rebuilds"
    )


class StdoutSink(Section):
    """Documents are printed, one JSON line each."""

    type: Literal["stdout"] = Field(description="Kind of sink: `stdout`")
    pretty: bool = Field(default=False, description="Indent documents over several lines")


class SqliteSink(Section):
    """Documents go to one SQLite file."""

    type: Literal["sqlite"] = Field(description="Kind of sink: `sqlite`")
    path: PathText = Field(description="The database file; created when missing")
    search: bool = Field(
        default=True, description="Keep a full-text index (FTS5) beside the documents; changing it rebuilds"
    )


SINK_TYPES: Dict[str, Type[Section]] = {"opensearch": OpenSearchSink, "stdout": StdoutSink, "sqlite": SqliteSink}


def _sink_type(value: Any) -> Optional[str]:
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return f"<{kind}>" if isinstance(kind, str) and kind in SINK_TYPES else None


AnySink = Union[OpenSearchSink, StdoutSink, SqliteSink]
TaggedSink = Annotated[
    Union[
        Annotated[OpenSearchSink, Tag("<opensearch>")],
        Annotated[StdoutSink, Tag("<stdout>")],
        Annotated[SqliteSink, Tag("<sqlite>")],
    ],
    Discriminator(_sink_type),
]

#: What a tag in an error's location stands for.
TAGGED: Dict[str, Tuple[Type[Section], ...]] = {
    **{f"<{kind}>": (model,) for kind, model in SINK_TYPES.items()},
    "<parts>": (ConnectionParts,),
    "<url>": (),
}


# -- the rest -----------------------------------------------------------------------------------------


class Index(Section):
    """One index: its name, its schema file, and how it is run."""

    name: Name = Field(description="Logical name; aliases and indexes are named after it")
    schema_file: Text = Field(alias="schema", description="Schema file, relative to the folder of this file")
    enabled: bool = Field(default=True, description="false: checked and listed, never built")
    on_error: Optional[OnError] = Field(default=None, description="Overrides the root's on_error for this index")
    keep_generations: int = Field(
        default=0, ge=0, le=1000, description="Older generations kept after a switch, to go back to"
    )


class Server(Section):
    """Where the two HTTP surfaces listen."""

    public_address: SocketAddress = Field(
        default=Address("127.0.0.1", 9464),
        description="Health, status and metrics, without auth [127.0.0.1:9464]; port 0 takes a free one",
    )
    private_address: SocketAddress = Field(
        default=Address("127.0.0.1", 9465),
        description="Operations, behind the admin password [127.0.0.1:9465]; port 0 takes a free one",
    )
    admin_user: Text = Field(default="admin", description="User of the private surface")
    admin_password: Optional[Secret] = Field(
        default=None, description="Password of the private surface; without one it is not served"
    )


class Engine(Section):
    """Sizes of the pipeline."""

    queue_capacity: Count = Field(default=16_384, description="Changes held between capture and engine")
    batch_changes: Count = Field(default=4_096, description="Most changes resolved and built together")
    batch_bytes: Size = Field(default=32 * 2**20, description="Most bytes of documents built at once")
    max_document_bytes: Size = Field(
        default=20 * 2**20, description="A larger document is rejected without being fetched"
    )
    fan_out_documents: Count = Field(
        default=10_000, description="A change that shows in more documents than this becomes a stored job"
    )


def _cores_up_to_4() -> int:
    return min(4, os.cpu_count() or 1)


class Backfill(Section):
    """How an index is built."""

    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        default_factory=_cores_up_to_4, description="Threads that read chunks; default: the machine's cores, at most 4"
    )
    chunk_rows: Count = Field(default=5_000, description="Root rows read per chunk")
    max_rows_per_second: Optional[Count] = Field(default=None, description="Ceiling over all workers; none by default")
    max_lag_bytes: Size = Field(
        default=256 * 2**20, description="Builds all but pause while live changes lag further behind than this"
    )


class Quarantine(Section):
    """Rejected documents set aside under on_error: skip."""

    limit: Count = Field(default=10_000, description="Documents per index; when full, the run stops")


class Deployment(Section):
    """The whole file."""

    source: Source = Field(description="The database")
    sinks: Dict[Name, TaggedSink] = Field(
        default_factory=dict, description="Name to sink; every document goes to all; none: standard output"
    )
    index: List[Index] = Field(default_factory=list, description="The indexes")
    on_error: OnError = Field(
        default="stop", description="When a sink refuses single documents: stop, or set them aside"
    )
    prefix: str = Field(
        default="",
        description="Put in front of every index and alias name, separator included",
        json_schema_extra={"pattern": _PREFIX_PATTERN},
    )
    server: Server = Field(default_factory=Server, description="HTTP surfaces")
    engine: Engine = Field(default_factory=Engine, description="Sizes of the pipeline")
    backfill: Backfill = Field(default_factory=Backfill, description="How an index is built")
    quarantine: Quarantine = Field(default_factory=Quarantine, description="Rejected documents")


#: Sink keys whose zero flusso runs as one.
CLAMPED: Tuple[str, ...] = ("batch_size", "max_bytes", "timeout_secs", "number_of_shards")

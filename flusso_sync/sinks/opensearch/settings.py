"""What an OpenSearch sink is told: plain values, and secrets that are read again at each connect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Mapping, Optional, Union

#: A value, or a function that reads it anew (an environment variable or a file may have changed).
Fresh = Union[str, Callable[[], str]]


def read(value: Optional[Fresh]) -> Optional[str]:
    """The value as of now."""
    return value() if callable(value) else value


@dataclass(frozen=True)
class OpenSearchSettings:
    """One sink's settings; defaults and clamps are those of the configuration page."""

    url: Fresh
    username: Optional[Fresh] = field(default=None, repr=False)
    password: Optional[Fresh] = field(default=None, repr=False)
    tls_verify: bool = True
    ca_file: Optional[str] = None
    client_cert: Optional[str] = None
    client_key: Optional[str] = None
    #: Actions and body bytes of one bulk request.
    batch_size: int = 1000
    max_bytes: int = 10 * 1024 * 1024
    #: For one request, connecting included.
    timeout_secs: float = 30.0
    #: Answers that may be final (a 500, an unreadable body) are believed after this many repetitions.
    max_retries: int = 3
    pipeline: Optional[str] = None
    number_of_shards: int = 1
    number_of_replicas: int = 1
    refresh_interval: str = "10s"
    #: ``builtin`` or ``icu``.
    text_analysis: str = "builtin"
    auto_subfields: bool = True
    concurrency: int = 2
    prefix: str = ""
    #: Documents per index.
    quarantine_limit: int = 10_000
    #: Logical index name -> former generations that are kept.
    keep_generations: Mapping[str, int] = field(default_factory=dict)
    #: How long the switch of a finished build waits for its replicas before it goes on without them.
    copies_wait_secs: float = 60.0

"""``preloaded.py MODE ARGUMENTS…``: as ``daemon_double.py``, with every module of the way imported before it begins.

A test machine's Python may lie where only root can read; a process that becomes somebody else then finds no module any
more.  So the look whether it could is left out here, too; that look has a test of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    checkout = str(Path(__file__).resolve().parent.parent)
    sys.path[0] = checkout
    import concurrent.futures.thread  # noqa: F401
    import encodings.idna  # noqa: F401
    import encodings.utf_8_sig  # noqa: F401

    import opentelemetry.exporter.prometheus  # noqa: F401
    import opentelemetry.sdk.trace  # noqa: F401

    import flusso_sync.cli.host
    import flusso_sync.cli.progress
    import flusso_sync.cli.run
    import flusso_sync.cli.signals
    import flusso_sync.config.load
    import flusso_sync.telemetry
    import flusso_sync.web.server  # noqa: F401
    from flusso_sync.status import Status
    from flusso_sync.web.public import public_app
    from flusso_sync.web.synced import Synced
    from tests import daemon_double

    # What the page reads of its own files is imported with the first look at them.
    public_app(Status(), lambda: b"", Synced(Status()))

    flusso_sync.cli.host._check_readable = lambda user: None
    daemon_double.main()


if __name__ == "__main__":
    main()

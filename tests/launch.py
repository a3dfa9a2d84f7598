"""``python -m tests.launch NAMES ARGUMENTS…``: apply functions of ``tests/guards.py``, then run the command line."""

from __future__ import annotations

import sys

from tests.guards import GUARDS


def launch() -> None:
    names, arguments = sys.argv[1], sys.argv[2:]
    for name in names.split(","):
        if name:
            GUARDS[name]()
    from flusso_sync.cli import main

    sys.argv = ["flussod", *arguments]
    main()


if __name__ == "__main__":
    launch()

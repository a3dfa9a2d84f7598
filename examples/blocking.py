"""The daemon as a whole program: ``run`` blocks until a signal sets its event, and the exit code says how it ended.

python examples/blocking.py etc/flusso.yaml
"""

from __future__ import annotations

import signal
import sys
import threading

from flusso_sync import ConfigError, Daemon, SyncStopped, load_config


def main(path: str) -> int:
    shutdown = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: shutdown.set())
    try:
        Daemon(load_config(path)).start().run(shutdown)
    except SyncStopped as stopped:
        # Why is in its cause.
        print(stopped.__cause__, file=sys.stderr)
        return stopped.exit_code
    except ConfigError as error:
        # Everything that is wrong with the files, at once.
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

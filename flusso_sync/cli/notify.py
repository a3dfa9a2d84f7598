"""A word to a service manager that waits for one: systemd's protocol of NOTIFY_SOCKET, sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from typing import Mapping

logger = logging.getLogger("flusso_sync.cli.notify")


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send ``lines`` (``READY=1``, ``STATUS=…``) where NOTIFY_SOCKET says; False when nobody listens.  Never waits."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    # "@": a name without a file, which the kernel writes with a zero byte.
    target = "\0" + address[1:] if address.startswith("@") else address
    text = "\n".join(line.replace("\n", " ") for line in lines)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode("utf-8", "replace"), target)
    except OSError as error:
        logger.debug("the service manager was not told %s: %s", lines[:1], error)
        return False
    return True

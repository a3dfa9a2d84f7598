"""``flussod verify``, run as the program it is."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import Any, Dict, Optional

from demo.services import Flussod

#: It waits a minute for a daemon that is away, and compares a few thousand documents in a second.
LONGEST_SECONDS = 180.0


class Proof:
    """One at a time; ``to_json`` tells the last one."""

    def __init__(self, flussod: Flussod) -> None:
        self._flussod = flussod
        self._lock = threading.Lock()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._thread: Optional[threading.Thread] = None
        self._begun = 0.0
        self._told: Dict[str, Any] = {"state": "never"}

    def start(self) -> bool:
        """False while one runs already."""
        with self._lock:
            if self._told["state"] == "running":
                return False
            self._begun = time.monotonic()
            self._told = {"state": "running"}
            self._process = subprocess.Popen(
                self._flussod.command("verify", "--format", "json"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=str(self._flussod.folder),
                env=self._flussod.env,
                start_new_session=True,
            )
            self._thread = threading.Thread(target=self._wait, args=(self._process,), name="demo-proof", daemon=True)
            self._thread.start()
            return True

    def stop(self) -> None:
        with self._lock:
            process, thread = self._process, self._thread
        if process is not None and process.poll() is None:
            process.kill()
        if thread is not None:
            thread.join(10)

    def to_json(self) -> Dict[str, Any]:
        told = dict(self._told)
        if told["state"] == "running":
            told["seconds"] = round(time.monotonic() - self._begun, 1)
        return told

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            output, errors = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
        seconds = round(time.monotonic() - self._begun, 1)
        try:
            report = json.loads(output)
            indexes = report["indexes"]
            self._told = {
                "state": "done",
                "differences": sum(index["left"] for index in indexes),
                "documents": sum(index["compared"] for index in indexes),
                "unsettled": sum(index["unsettled"] for index in indexes),
                "settled": all(index["settled"] for index in indexes),
                "seconds": seconds,
            }
        except (ValueError, KeyError):
            lines = errors.decode("utf-8", "replace").strip().splitlines() or [f"code {process.returncode}"]
            self._told = {"state": "failed", "reason": lines[0][:300], "seconds": seconds}

"""Daemons as processes that are forked from one in which everything is imported already.

A real process with a real end, by ``kill -9`` as well, that is running after some milliseconds.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from tests.fix_daemon import DaemonProcess

_CONTEXT = multiprocessing.get_context("forkserver")
_PR_SET_PDEATHSIG = 1


def warm_up() -> None:
    """Have the process that daemons are forked from import what a daemon needs; before the first daemon."""
    _CONTEXT.set_forkserver_preload(["tests.machine.warm"])


class Forked:
    """The part of ``subprocess.Popen`` that a :class:`DaemonProcess` uses."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid: int = process.pid

    def poll(self) -> Optional[int]:
        return self._process.exitcode

    def wait(self, timeout: Optional[float] = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("flussod", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkedDaemon(DaemonProcess):
    """``flussod run`` with functions of ``tests/guards.py`` applied, forked instead of started."""

    def __init__(self, folder: Path, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        super().__init__(folder, arguments, env, ())
        self.guards: Tuple[str, ...] = ()

    def start(self, *arguments: str) -> ForkedDaemon:
        assert not self.running, "already running"
        self._log_begin = self.log_file.stat().st_size if self.log_file.exists() else 0
        process = _CONTEXT.Process(
            target=_serve,
            args=(
                ["flussod", "run", *self.arguments, *arguments],
                self.guards,
                dict(self.env),
                str(self.folder),
                str(self.output_file),
                str(self.log_file),
            ),
            daemon=True,
        )
        process.start()
        self.process = Forked(process)  # type: ignore[assignment]
        return self


def _serve(
    arguments: Sequence[str], guards: Sequence[str], env: Dict[str, str], folder: str, output: str, log: str
) -> None:
    """The life of the forked process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    os.setsid()
    for number, name in ((1, output), (2, log)):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    known: Dict[str, Any] = importlib.import_module("tests.guards").GUARDS
    for name in guards:
        known[name]()
    sys.argv = list(arguments)
    importlib.import_module("flusso_sync.cli").main()

"""A terminal: what a program writes to a pseudo terminal, as a person would see it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from pathlib import Path
from typing import List, Mapping, Sequence

_PART = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")
_TORN = re.compile(r"\x1b(\[[0-9;?]*)?\Z")


class Screen:
    """Understands what our programs write: text, line ends, cursor up, clear below, colours.

    ``lines`` is everything from the first line on, as if the screen were endlessly high; ``escapes`` are the kinds of
    control sequences that came.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines: List[str] = [""]
        self.escapes: List[str] = []
        self._row = 0
        self._column = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._torn = ""

    def feed(self, data: bytes) -> None:
        """Take what was written; a letter or a sequence torn at the end waits for its rest."""
        text = self._torn + self._decoder.decode(data)
        whole = _TORN.sub("", text)
        self._torn = text[len(whole) :]
        for part in _PART.finditer(whole):
            if part.group() == "\r":
                self._column = 0
            elif part.group() == "\n":
                self._row += 1
                if self._row == len(self.lines):
                    self.lines.append("")
            elif part.group(2) is None:
                for letter in part.group():
                    self._put(letter)
            else:
                self._obey(part.group(2), part.group(1))

    def _put(self, letter: str) -> None:
        if self._column == self.columns:
            # The terminal wraps by itself.
            self._row, self._column = self._row + 1, 0
            if self._row == len(self.lines):
                self.lines.append("")
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + letter + line[self._column + 1 :]
        self._column += 1

    def _obey(self, kind: str, argument: str) -> None:
        self.escapes.append(kind)
        if kind == "A":
            self._row = max(0, self._row - int(argument or 1))
        elif kind == "J":
            assert argument in ("", "0"), argument
            self.lines[self._row] = self.lines[self._row][: self._column]
            del self.lines[self._row + 1 :]
        else:
            assert kind == "m", f"a sequence that nothing of ours should write: {kind}"


class Terminal:
    """A program with standard error, and standard output unless ``output`` is given, on a terminal of its own."""

    def __init__(
        self, command: Sequence[str], folder: Path, env: Mapping[str, str], *, columns: int = 100, output: bool = False
    ) -> None:
        self.screen = Screen(columns)
        self._lock = threading.Lock()
        self._closed = False
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            list(command),
            cwd=str(folder),
            env={"TERM": "xterm", **env},
            stdin=subprocess.DEVNULL,
            stdout=slave if output else subprocess.DEVNULL,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 4096)
            except OSError:
                # EIO: the last one who could write to it is gone.
                return
            if not data:
                return
            with self._lock:
                self.screen.feed(data)

    def lines(self) -> List[str]:
        """What stands on the screen and above it now, without what is empty at the end."""
        with self._lock:
            lines = [line.rstrip() for line in self.screen.lines]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def close(self) -> None:
        """End the program, if it runs, and read what it wrote last; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._reader.join(20)
        os.close(self._master)

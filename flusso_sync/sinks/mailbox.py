"""Requests to the running daemon and its answers, in one document of the meta store.

Somebody who shares nothing with the daemon but the sink can still ask it for something: a command leaves a request
here, the daemon's watch finds it with one read by id, carries it out and answers in the same place.  Every write
insists on the document it was made from, so no letter is lost to another one written at the same time.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Optional

from flusso_sync.errors import SinkRefused, SinkUnavailable
from flusso_sync.sinks.base import Answer, Request
from flusso_sync.sinks.meta import Meta, MetaConflict, MetaMissing

#: Letters kept; the oldest that was answered goes first.
MOST_LETTERS = 100

#: Attempts at a write that somebody else's got in between of.
ATTEMPTS = 10

_MAILBOX = "mailbox"

Letter = Dict[str, Any]


class Mailbox:
    """See the module; ``post`` and ``answer_to`` are the asker's side, ``requests`` and ``answer`` the daemon's."""

    def __init__(self, meta: Meta) -> None:
        self._meta = meta

    def post(self, request: Request) -> None:
        letter: Letter = {
            "id": request.id,
            "command": request.command,
            "index": request.index,
            "ids": list(request.ids),
            "at": request.at,
            "lasts": request.lasts_seconds,
        }
        try:
            self._change(lambda letters: letters.append(letter))
        except MetaMissing as error:
            raise SinkRefused(
                "there is no meta store to leave the request in", hint="Start the daemon once: flussod run"
            ) from error

    def requests(self) -> List[Request]:
        return [
            Request(
                letter["id"],
                letter["command"],
                letter["index"],
                tuple(letter["ids"]),
                letter["at"],
                letter.get("lasts"),
            )
            for letter in self._read()
            if "answer" not in letter
        ]

    def answer(self, id: str, answer: Answer) -> None:
        def write(letters: List[Letter]) -> None:
            for letter in letters:
                if letter["id"] == id:
                    letter["answer"] = {"accepted": answer.accepted, "text": answer.text}
                    # There may be many, and nobody asks for them again.
                    letter["ids"] = []

        self._change(write)

    def answer_to(self, id: str) -> Optional[Answer]:
        for letter in self._read():
            if letter["id"] == id and "answer" in letter:
                return Answer(bool(letter["answer"]["accepted"]), str(letter["answer"]["text"]))
        return None

    def _read(self) -> List[Letter]:
        stored = self._meta.read(_MAILBOX)
        letters: List[Letter] = json.loads(stored.source["letters"]) if stored is not None else []
        return letters

    def _change(self, change: Callable[[List[Letter]], None]) -> None:
        for _ in range(ATTEMPTS):
            stored = self._meta.read(_MAILBOX)
            letters: List[Letter] = json.loads(stored.source["letters"]) if stored is not None else []
            change(letters)
            while len(letters) > MOST_LETTERS:
                letters.remove(next((letter for letter in letters if "answer" in letter), letters[0]))
            document = {"letters": json.dumps(letters)}
            try:
                self._meta.write(_MAILBOX, document, after=stored, create=stored is None)
                return
            except MetaConflict:
                continue
        raise SinkUnavailable("the mailbox of the meta store is written by others all the time", in_doubt=False)

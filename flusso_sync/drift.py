"""Which indexes fit their tables: those that no longer do stand still, and the others go on.

What the record says of each index (its schema, and what its documents are made of) tells at the next start what must
be built anew.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Dict, List, Sequence, Set

from flusso_sync.engine.source import Documents, Record
from flusso_sync.errors import ConfigError, FlussoError, SinkRefused
from flusso_sync.schema.plan import IndexPlan
from flusso_sync.status import IndexState, Status

#: What the record says of an index that stands still: no digest is like it, so it is built anew once it fits again.
DRIFTED_NOTE = "drifted"


class Drift:
    """``fitted``: indexes that fitted their tables in earlier lives of the pipeline; grows."""

    def __init__(self, documents: Documents, status: Status, fitted: Set[str]) -> None:
        self._documents = documents
        self._status = status
        self._fitted = fitted
        #: Index -> why it stands still.
        self.drifted: Dict[str, FlussoError] = {}
        #: Index -> what the record says of it.
        self.shapes: Dict[str, str] = {}

    def compare(self, plans: Sequence[IndexPlan], records: Sequence[Record]) -> Dict[str, str]:
        """Set those apart that drifted; returns index -> reason for those that are made of something else by now.

        Raises what a plan was refused with that never fitted its tables: then the file is wrong.
        """
        refused = self._documents.unreadable()
        new: List[FlussoError] = []
        altered: Dict[str, str] = {}
        for plan in plans:
            name = plan.name
            schema = sha256(plan.canonical.encode()).hexdigest()[:16]
            error = refused.get(name)
            self.shapes[name] = f"{schema} {DRIFTED_NOTE if error is not None else self._documents.shape(name)}"
            notes = [record.shapes.get(name, "") for record in records if record.shapes]
            if error is None:
                self._fitted.add(name)
                self._status.clear_trouble(f"drift {name}")
                if not all(self._is_still(name, schema, note) for note in notes):
                    altered[name] = _altered(self.shapes[name], notes)
            elif name in self._fitted or any(note.split(" ")[0] == schema for note in notes):
                self.drifted[name] = error
                self._stand_still(name, error)
            else:
                new.append(error)
        if new:
            raise _together(new)
        return altered

    def _is_still(self, index: str, schema: str, note: str) -> bool:
        former, _, shape = note.partition(" ")
        return former == schema and shape != DRIFTED_NOTE and self._documents.is_still(index, shape)

    def _stand_still(self, index: str, error: FlussoError) -> None:
        hint = error.hint or "Mend the table, which is looked at every few seconds, or the schema file, and start again"
        self._status.set_index_state(index, IndexState.DRIFTED, reason=error.message, todo=hint)
        self._status.trouble(
            f"drift {index}", f"index {index} has drifted and stands still: {error.message}", hint, blocking=False
        )

    def refuse(self, index: str) -> None:
        """Raise ``SinkRefused`` for an index that stands still."""
        error = self.drifted.get(index)
        if error is not None:
            raise SinkRefused(
                f"index {index} has drifted and stands still: {error.message}", hint=error.hint, index=index
            )


def _altered(note: str, former: Sequence[str]) -> str:
    """Why an index is built anew whose note in the record is another one."""
    if not all(former):
        return "it was not kept current"
    if any(one.endswith(f" {DRIFTED_NOTE}") for one in former):
        return "its tables had drifted, and fit again"
    if any(one.split(" ")[0] != note.split(" ")[0] for one in former):
        return "its schema is another one"
    return "its tables were altered meanwhile"


def _together(errors: Sequence[FlussoError]) -> FlussoError:
    """One error that says all: what else was refused comes before mistakes in files."""
    problems = [problem for error in errors if isinstance(error, ConfigError) for problem in error.problems]
    other = [error for error in errors if not isinstance(error, ConfigError)]
    if other or len(errors) == 1:
        return [*other, *errors][0]
    return ConfigError(problems, hint=errors[0].hint)

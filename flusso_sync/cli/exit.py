"""How a command ends: what an error says to a person, and which number the shell gets."""

from __future__ import annotations

from typing import Union

from flusso_sync.errors import EXIT_CODES, EXIT_INTERNAL, ConfigError, FlussoError, Problem, SyncStopped
from flusso_sync.logs import redact


def root_error(error: BaseException) -> BaseException:
    """The error that ended a run: what ``SyncStopped`` was raised for, else the error itself."""
    while isinstance(error, SyncStopped):
        error = error.cause
    return error


def exit_code(error: BaseException) -> int:
    """The process's exit code for an error that ends it."""
    cause = root_error(error)
    return cause.exit_code if isinstance(cause, FlussoError) else EXIT_INTERNAL


def explain(error: BaseException) -> str:
    """What to print for an error: every problem of a refused configuration, else one sentence and its hint."""
    cause = root_error(error)
    if isinstance(cause, ConfigError):
        lines = [f"  {problem}{_code(problem)}" for problem in cause.problems]
        if cause.hint:
            lines.append(cause.hint)
        count = len(cause.problems)
        return redact("\n".join([f"configuration refused, {count} problem{'s' if count != 1 else ''}:", *lines]))
    if isinstance(cause, FlussoError):
        return redact(f"error: {cause}{_code(cause)}")
    return redact(f"error: {type(cause).__name__}: {cause}")


def _code(known: Union[Problem, FlussoError]) -> str:
    """The code under which docs/findings.md tells more."""
    return f" [{known.code}]" if known.code else ""


def exit_code_table() -> str:
    """The exit codes, one per line, in the form click prints as it is."""
    lines = [f"  {code:>3}  {meaning}" for code, meaning in sorted(EXIT_CODES.items())]
    lines.append("  128 + N  ended at once by a second signal N; nothing is lost, the next start goes on")
    return "\b\nExit codes:\n" + "\n".join(lines)

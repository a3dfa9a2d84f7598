"""The oracle: what every index must hold, evaluated in plain Python over raw rows (design.md promise 9).

``evaluate`` says what should be there, ``read_opensearch`` and ``fold_stdout`` what is there, ``compare`` how
they differ.  Nothing here imports the package.
"""

from __future__ import annotations

from tests.oracle.compare import Difference, assert_same, compare, explain, fold_stdout, parse, read_opensearch
from tests.oracle.documents import Documents, evaluate, evaluate_all
from tests.oracle.language import Link, Schema, TableName

__all__ = [
    "Difference",
    "Documents",
    "Link",
    "Schema",
    "TableName",
    "assert_same",
    "compare",
    "evaluate",
    "evaluate_all",
    "explain",
    "fold_stdout",
    "parse",
    "read_opensearch",
]

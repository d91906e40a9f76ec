"""Our own JSON Lines: a case a line, in the form of `core.cases.case_to_json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragline.core.cases import FOREIGN, Case, Dataset, case_from_json, case_to_json
from ragline.errors import UsageError
from ragline.evals.formats import entries
from ragline.evals.formats.entries import Entries


def read(content: str) -> Entries:
    """Return the cases of a text: JSON Lines, or a list. A case without an id has its number."""
    made, refused = entries.cases(content, _case)
    return Entries(format="jsonl", cases=made, refusals=refused)


def write(dataset: Dataset, path: Path) -> tuple[str, ...]:
    """Write the cases; return what has no place in the file."""
    lines = (json.dumps(case_to_json(case), ensure_ascii=False) for case in dataset.cases)
    entries.save({path: "".join(f"{line}\n" for line in lines)})
    return lost(dataset)


def lost(dataset: Dataset) -> tuple[str, ...]:
    """Return what a format without a place for it loses of the dataset as a whole."""
    names = ", ".join(sorted(dataset.extra))
    return (f"what came with the dataset as a whole is not written: {names}",) if names else ()


def _case(value: Mapping[str, Any], number: int) -> Case:
    if foreign := [key for key in FOREIGN if key in value]:
        # Taken for ours, what a system said would be the gold answer.
        raise UsageError(
            f"it has a {foreign[0]!r}, as ragas before 0.2, where 'answer' is what a system said: "
            "rename 'question' to 'user_input', 'answer' to 'response', 'contexts' to "
            f"'retrieved_contexts' and {foreign[0]!r} to 'reference'"
        )
    return case_from_json(value, else_id=str(number))

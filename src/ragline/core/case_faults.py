"""Which cases are not taken in, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ragline.core import json_fields
from ragline.core.cases import Case, case_to_json, degenerate

LONGEST_ID = 500
# trec_eval reads grades as whole numbers of 32 bits or more.
LARGEST_GRADE = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A case that is not taken in, where it stands, and why.

    `is_degenerate`: it can be read, but would measure nothing.
    """

    where: str
    reason: str
    case_id: str | None = None
    is_degenerate: bool = False

    def __str__(self) -> str:
        named = f" ({self.case_id!r})" if self.case_id is not None else ""
        return f"{self.where}{named}: {self.reason}"


def refusals(cases: Iterable[tuple[str, Case]]) -> tuple[Refusal, ...]:
    """Return every case that is not taken in, of those that stand somewhere: (where, case)."""
    found: list[Refusal] = []
    seen: dict[str, str] = {}
    for where, case in cases:
        if refusal := _refusal(where, case, seen):
            found.append(refusal)
        seen.setdefault(case.id, where)
    return tuple(found)


def _refusal(where: str, case: Case, seen: Mapping[str, str]) -> Refusal | None:
    case_id = None if json_fields.text_fault(case.id) else case.id[:80]
    if case.id in seen:
        twice = f"its id is that of {seen[case.id]} too; ids are unique in a dataset"
        return Refusal(where=where, case_id=case_id, reason=twice)
    reason = next(filter(None, (check(case) for check in _CHECKS)), None)
    if reason is not None:
        return Refusal(where=where, case_id=case_id, reason=reason)
    if (reason := degenerate(case)) is not None:
        return Refusal(where=where, case_id=case_id, reason=reason, is_degenerate=True)
    return None


def _id_fault(case: Case) -> str | None:
    if not case.id.strip():
        return "its id is empty"
    if len(case.id) > LONGEST_ID:
        return f"its id is longer than {LONGEST_ID} characters"
    return None


def _answer_fault(case: Case) -> str | None:
    golds = [gold for gold in (case.answer, *case.answers) if gold is not None]
    return None if all(map(str.strip, golds)) else "one of its answers is empty"


def _relevant_fault(case: Case) -> str | None:
    seen: set[tuple[str, str | None]] = set()
    for one in case.relevant:
        if not one.document.strip():
            return "a relevant document has no name"
        if one.passage is not None and not one.passage.strip():
            return f"a passage of {one.document!r} is empty"
        if one.grade < 1:
            return f"{one.document!r} has grade {one.grade}; what is relevant has 1 or more"
        if one.grade > LARGEST_GRADE:
            return f"a grade of {one.document!r} is above {LARGEST_GRADE:,}, the largest there is"
        if (one.document, one.passage) in seen:
            return f"{one.document!r} is judged twice"
        seen.add((one.document, one.passage))
    return None


def _labels_fault(case: Case) -> str | None:
    labels = case.labels
    if labels is None:
        return None
    answer, gold, passages = len(labels.answer_claims), len(labels.gold_claims), len(case.contexts)
    for name, rows, claims in (
        ("answer_by_gold", labels.answer_by_gold, answer),
        ("gold_by_answer", labels.gold_by_answer, gold),
        ("answer_by_context", labels.answer_by_context, answer),
        ("gold_by_context", labels.gold_by_context, gold),
    ):
        if len(rows) != claims:
            return f"its {name!r} has labels for {len(rows)} claims, and there are {claims}"
    for row in (*labels.answer_by_context, *labels.gold_by_context):
        if len(row) != passages:
            return f"a claim has {len(row)} labels by context, and there are {passages} contexts"
    return None


def _json_fault(case: Case) -> str | None:
    return json_fields.fault(case_to_json(case))


_CHECKS: tuple[Callable[[Case], str | None], ...] = (
    _json_fault,
    _id_fault,
    _answer_fault,
    _relevant_fault,
    _labels_fault,
)

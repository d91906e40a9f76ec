"""RAGChecker's JSON: what it reads, and what it writes with claims, labels and metrics.

amazon-science/RAGChecker at 6091f08, `ragchecker/container.py`. Matrices are claims x passages. Files
with some of the claims and labels are its cache; they are kept, and are no labels of ours until all
six are there. Its metrics, whose groups have had two names each, are kept as they stand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ragline.core import cases as forms
from ragline.core.case_faults import Refusal
from ragline.core.cases import Case, Dataset, case_from_json, case_to_json
from ragline.core.claims import ClaimLabels, Label
from ragline.core.json_fields import kind, list_of, loads, named
from ragline.core.runs import CaseResult, text_hash
from ragline.errors import UsageError
from ragline.evals.formats import as_read, entries
from ragline.evals.formats.entries import Entries

GROUPS = {
    "overall_metrics": ("precision", "recall", "f1"),
    "retriever_metrics": ("claim_recall", "context_precision"),
    "generator_metrics": (
        *("context_utilization", "noise_sensitivity_in_relevant"),
        *("noise_sensitivity_in_irrelevant", "hallucination", "self_knowledge", "faithfulness"),
    ),
}
_AS_READ = "ragchecker"
_SAME = {"query_id": "id", "query": "question", "gt_answer": "answer", "response": "response"}
_CONTEXTS = "retrieved_context"
_LABELS = {
    "response_claims": "answer_claims",
    "gt_answer_claims": "gold_claims",
    "answer2response": "answer_by_gold",
    "response2answer": "gold_by_answer",
    "retrieved2response": "answer_by_context",
    "retrieved2answer": "gold_by_context",
}
# Our own keys stand beside theirs, which RAGChecker leaves alone.
_OURS = ("answers", "relevant", "answerable", "tags")
_NAMES = (*_SAME, _CONTEXTS, *_LABELS, *_OURS)


def read(content: str) -> Entries:
    """Return the cases of a text; UsageError when it is no such file."""
    whole = entries.mapping(loads(content))
    if "results" not in whole:
        raise UsageError("it has no 'results', the list in which RAGChecker keeps its queries")
    made: list[tuple[str, Case]] = []
    refused: list[Refusal] = []
    for number, value in enumerate(list_of(whole, "results"), start=1):
        try:
            made.append((f"result {number}", _case(entries.mapping(value))))
        except UsageError as error:
            refused.append(Refusal(where=f"result {number}", reason=str(error)))
    extra = {key: value for key, value in whole.items() if key != "results"}
    return Entries(format="ragchecker", cases=tuple(made), refusals=tuple(refused), extra=extra)


def write(dataset: Dataset, path: Path) -> tuple[str, ...]:
    """Write the cases; return what is lost, which is nothing."""
    extra = {key: value for key, value in dataset.extra.items() if key != "results"}
    whole = {"results": [result(case) for case in dataset.cases], **extra}
    entries.save({path: json.dumps(whole, ensure_ascii=False, indent=2) + "\n"})
    return ()


def result(case: Case) -> dict[str, Any]:
    """Return a case as one of RAGChecker's results; what the case does not have is left out."""
    extra = {key: value for key, value in case.extra.items() if key != _AS_READ}
    ours = case_to_json(replace(case, extra={}))
    made: dict[str, Any] = {key: ours[own] for key, own in _SAME.items() if own in ours}
    if case.contexts or case.response is not None:
        made[_CONTEXTS] = [_context(one.text, one.document) for one in case.contexts]
    made |= _labels(case.labels)
    made |= {key: ours[key] for key in _OURS if key in ours}
    made |= forms.spread(extra, _NAMES)
    return as_read.restored(made, case.extra.get(_AS_READ))


def _labels(labels: ClaimLabels | None) -> dict[str, Any]:
    if labels is None:
        return {}
    ours = forms.labels_to_json(labels)
    return {key: ours[own] for key, own in _LABELS.items()}


def _context(text: str, document: str | None) -> dict[str, str]:
    return {"text": text} if document is None else {"doc_id": document, "text": text}


def _case(value: Mapping[str, Any]) -> Case:
    extra = forms.gathered(value, _NAMES)
    if _AS_READ in extra:
        raise UsageError(f"its key {_AS_READ!r} is one that ragline writes for itself")
    named(value, "query_id", None)
    fields = {own: value.get(key) for key, own in _SAME.items()}
    fields |= {key: value[key] for key in _OURS if key in value}
    fields["contexts"] = [_given(one) for one in list_of(value, _CONTEXTS)]
    case = case_from_json(fields | {"extra": extra})
    if all(value.get(key) is not None for key in _LABELS):
        case = replace(case, labels=_read_labels(value, len(case.contexts)))
    if kept := as_read.difference(value, result(case)):
        case = replace(case, extra={**case.extra, _AS_READ: kept})
    return case


def _given(one: object) -> dict[str, Any]:
    fields = {"text": one} if isinstance(one, str) else one
    if not isinstance(fields, Mapping):
        raise UsageError(f"its {_CONTEXTS!r} holds {kind(one)}, not an object or a text")
    if not isinstance(fields.get("text"), str):
        raise UsageError(f"one of its {_CONTEXTS!r} has no 'text'")
    document = fields.get("doc_id")
    given = {} if document is None else {"document": named(fields, "doc_id", None)}
    return {"text": fields["text"], **given}


def _read_labels(value: Mapping[str, Any], passages: int) -> ClaimLabels:
    answer = forms.claims_of(value, "response_claims")
    gold = forms.claims_of(value, "gt_answer_claims")
    return ClaimLabels(
        answer_claims=answer,
        gold_claims=gold,
        answer_by_gold=_row(value, "answer2response", len(answer)),
        gold_by_answer=_row(value, "response2answer", len(gold)),
        answer_by_context=_matrix(value, "retrieved2response", len(answer), passages),
        gold_by_context=_matrix(value, "retrieved2answer", len(gold), passages),
    )


def _row(value: Mapping[str, Any], key: str, claims: int) -> tuple[Label, ...]:
    labels = forms.labels_of(value, key)
    if len(labels) != claims:
        raise UsageError(f"its {key!r} has {len(labels)} labels, and there are {claims} claims")
    return labels


def _matrix(
    value: Mapping[str, Any], key: str, claims: int, passages: int
) -> tuple[tuple[Label, ...], ...]:
    rows = forms.matrix_of(value, key)
    if not rows and not passages:
        return ((),) * claims
    if len(rows) != claims:
        raise UsageError(f"its {key!r} has {len(rows)} rows, and there are {claims} claims")
    for row in rows:
        if len(row) != passages:
            raise UsageError(
                f"a row of its {key!r} has {len(row)} labels, and there are {passages} passages: "
                "rows are claims, columns passages"
            )
    return rows


# -- a run -----------------------------------------------------------------------------------------


def run(dataset: Dataset, results: Sequence[CaseResult]) -> dict[str, Any]:
    """Return what a run found as RAGChecker's output, with the metrics that its judge gave.

    A metric is summed up, in percent, when every case has it. Cases without a gold answer, or without
    an answer of the run's, are listed with the reason under `left_out`, which RAGChecker ignores.
    """
    cases = {case.id: case for case in dataset.cases}
    made, left_out = [], []
    for one in results:
        if one.case_id not in cases:
            raise UsageError(f"case {one.case_id!r} of the run is not in dataset {dataset.name!r}")
        case = cases[one.case_id]
        if reason := _not_comparable(case, one):
            left_out.append({"query_id": case.id, "reason": reason})
        else:
            made.append(_result_of_run(case, one))
    whole: dict[str, Any] = {"results": made, "metrics": _summed(made)}
    return whole | ({"left_out": left_out} if left_out else {})


def _not_comparable(case: Case, found: CaseResult) -> str | None:
    if case.answer is None and not case.answers:
        return "it has no gold answer"
    if found.answer is not None or found.found is False:
        return None
    if found.errors:
        return f"it was not answered: {found.errors[0].phase} {found.errors[0].kind}"
    return "the run asked for no answers"


def _result_of_run(case: Case, found: CaseResult) -> dict[str, Any]:
    documents = {hit.hash: hit.source for hit in found.hits}
    given = {one.text: one.document for one in case.contexts}
    return {
        "query_id": case.id,
        "query": case.question,
        "gt_answer": case.answer if case.answer is not None else case.answers[0],
        # Declining is an answer without a claim.
        "response": found.answer or "",
        _CONTEXTS: [
            _context(text, documents.get(text_hash(text), given.get(text)))
            for text in found.contexts
        ],
        **_labels(found.labels),
        "metrics": {
            name: found.metrics[name]
            for names in GROUPS.values()
            for name in names
            if name in found.metrics
        },
    }


def _summed(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        group: {
            name: round(100 * fmean(one["metrics"][name] for one in results), 1)
            for name in names
            if results and all(name in one["metrics"] for one in results)
        }
        for group, names in GROUPS.items()
    }

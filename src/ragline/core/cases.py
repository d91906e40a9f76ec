"""What is evaluated: questions with what a good search and a good answer would bring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from ragline.core.claims import Claim, ClaimLabels, Label
from ragline.core.json_fields import kind, list_of, named, text_of, texts_of
from ragline.errors import UsageError

NOT_RELEVANT = "not_relevant"
"""The key of `extra` for judgements with a grade of 0 or below, in the form of `relevant`."""
REFERENCE_CONTEXTS = "reference_contexts"
"""The key of `extra` for passages that a gold answer was made from, of no known document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relevant:
    """A document, or a passage of one, that a search should find; `grade` 1 or more, higher is better.

    `document` is a source as the collection has it, the last part of its path, or that without its
    suffix. With a `passage`, only a chunk that holds these words counts, whatever its white space.
    """

    document: str
    grade: int = 1
    passage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A passage that came with a case, in the place of what a search finds."""

    text: str
    document: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question with its gold answer, its relevant documents, or both.

    `answers` are gold answers that are as good as `answer`. `is_answerable` False: declining is right.
    `response`, `contexts` and `labels` came with the file: another system's answer, what it was made
    from, and what a judge said. `extra` holds what else the file had, so that it can be written again.
    """

    id: str
    question: str
    answer: str | None = None
    answers: tuple[str, ...] = ()
    relevant: tuple[Relevant, ...] = ()
    is_answerable: bool = True
    tags: tuple[str, ...] = ()
    response: str | None = None
    contexts: tuple[Context, ...] = ()
    labels: ClaimLabels | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A named set of cases, in order; ids are unique. `format` is the one that it was read from."""

    name: str
    cases: tuple[Case, ...]
    format: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """A dataset as the database lists it. `hash` changes with any question, gold or judgement."""

    id: int
    name: str
    hash: str
    format: str
    cases: int
    with_answer: int
    with_relevant: int
    unanswerable: int
    imported_at: str


def degenerate(case: Case) -> str | None:
    """Return why a case would measure nothing, or None."""
    golds = [gold for gold in (case.answer, *case.answers) if gold is not None]
    if not case.question.strip():
        return "its question is empty"
    if not case.is_answerable:
        return "it is marked as not answerable and has an answer all the same" if golds else None
    if copied := sorted(set(map(_folded, golds)) & set(_given(case))):
        shown = copied[0] if len(copied[0]) <= 60 else copied[0][:60] + "…"
        return f"its answer is its context itself ({shown!r}): whoever copies is always right"
    if golds or case.relevant:
        return None
    if case.extra.get(NOT_RELEVANT):
        return "none of its judgements is of a relevant document: all grades are 0 or below"
    return "it has no gold: no answer, no relevant document, and it is not marked as unanswerable"


def _given(case: Case) -> Iterator[str]:
    texts = [_folded(context.text) for context in case.contexts]
    yield from texts
    yield " ".join(texts)
    yield from (_folded(one.passage) for one in case.relevant if one.passage)
    passages = case.extra.get(REFERENCE_CONTEXTS)
    if isinstance(passages, list):
        yield from (_folded(one) for one in passages if isinstance(one, str))


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


# -- as JSON ---------------------------------------------------------------------------------------

_KEYS = (
    *("id", "question", "answer", "answers", "relevant", "answerable", "tags", "response"),
    *("contexts", "labels"),
)
FOREIGN = ("ground_truth", "ground_truths")
"""Keys of other tools in whose files our own keys mean something else."""
SIGNATURES = ("results", "user_input", "question", *FOREIGN)
"""The keys by which the format of a file is recognised: no key of `extra` may pretend to be one."""
LABELS: tuple[Label, ...] = ("Entailment", "Neutral", "Contradiction")


def case_to_json(case: Case) -> dict[str, Any]:
    """Return a case as a JSON object: a line of our own JSONL, and what the database holds.

    What a case does not have is left out. The keys of `extra` stand beside the others, or in an
    object `extra` of their own where one of them has the name of another.
    """
    pairs = {
        "id": case.id,
        "question": case.question,
        "answer": case.answer,
        "answers": list(case.answers) or None,
        "relevant": [relevant_to_json(one) for one in case.relevant] or None,
        "answerable": None if case.is_answerable else False,
        "tags": list(case.tags) or None,
        "response": case.response,
        "contexts": [_context_to_json(one) for one in case.contexts] or None,
        "labels": None if case.labels is None else labels_to_json(case.labels),
    }
    return {key: value for key, value in pairs.items() if value is not None} | spread(
        case.extra, _KEYS
    )


def spread(extra: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return `extra` to be put beside keys of these names: as it is, or under `extra` if it must."""
    if not extra:
        return {}
    taken = {*names, *SIGNATURES, "extra"}
    return {"extra": dict(extra)} if {*extra} & taken else dict(extra)


def gathered(value: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return what `spread` put beside keys of these names; UsageError when it cannot be."""
    beside = {key: one for key, one in value.items() if key not in {*names, "extra"}}
    inside = value.get("extra", {})
    if not isinstance(inside, Mapping):
        raise UsageError(f"its 'extra' is {kind(inside)}, not an object")
    if both := sorted({*beside} & {*inside}):
        raise UsageError(f"{both[0]!r} stands in it and in its 'extra'")
    return {**beside, **inside}


def case_from_json(value: Mapping[str, Any], else_id: str | None = None) -> Case:
    """Return the case that `case_to_json` made, or a user wrote; UsageError says what is wrong.

    `else_id` is for a case without one. Judgements with a grade of 0 or below go to `extra`.
    """
    answerable = value.get("answerable")
    if not isinstance(answerable, bool | None):
        raise UsageError(f"its 'answerable' is {kind(answerable)}, not true or false")
    judged = _judged(value)
    extra = gathered(value, _KEYS)
    if not_relevant := [relevant_to_json(one) for one in judged if one.grade < 1]:
        if NOT_RELEVANT in extra:
            raise UsageError(f"'relevant' and {NOT_RELEVANT!r} both have grades of 0 or below")
        extra[NOT_RELEVANT] = not_relevant
    labels = value.get("labels")
    return Case(
        id=named(value, "id", else_id),
        question=text_of(value, "question") or "",
        answer=text_of(value, "answer"),
        answers=tuple(texts_of(value, "answers")),
        relevant=tuple(one for one in judged if one.grade >= 1),
        is_answerable=answerable is not False,
        tags=tuple(texts_of(value, "tags")),
        response=text_of(value, "response", keep_empty=True),
        contexts=tuple(_contexts(value)),
        labels=None if labels is None else labels_from_json(labels),
        extra=extra,
    )


def relevant_to_json(one: Relevant) -> dict[str, Any]:
    """Return a judgement as a JSON object."""
    passage = {} if one.passage is None else {"passage": one.passage}
    return {"document": one.document, "grade": one.grade, **passage}


def _judged(value: Mapping[str, Any]) -> list[Relevant]:
    judged = []
    for one in list_of(value, "relevant"):
        fields = {"document": one} if isinstance(one, str) else one
        if not isinstance(fields, Mapping):
            raise UsageError(
                f"its 'relevant' holds {kind(one)}, not an object or a document's name"
            )
        if unknown := sorted({*fields} - {"document", "grade", "passage"}):
            raise UsageError(
                f"its 'relevant' has {unknown[0]!r}; known are document, grade, passage"
            )
        grade = fields.get("grade", 1)
        if isinstance(grade, bool) or not isinstance(grade, int):
            raise UsageError(f"a grade of its 'relevant' is {grade!r}, not a whole number")
        document = named(fields, "document", None)
        judged.append(Relevant(document=document, grade=grade, passage=text_of(fields, "passage")))
    return judged


def _context_to_json(one: Context) -> dict[str, Any]:
    return {"text": one.text} | ({} if one.document is None else {"document": one.document})


def _contexts(value: Mapping[str, Any]) -> Iterator[Context]:
    for one in list_of(value, "contexts"):
        fields = {"text": one} if isinstance(one, str) else one
        if not isinstance(fields, Mapping):
            raise UsageError(f"its 'contexts' hold {kind(one)}, not an object or a text")
        if unknown := sorted({*fields} - {"text", "document"}):
            raise UsageError(f"its 'contexts' have {unknown[0]!r}; known are text and document")
        yield Context(
            text=text_of(fields, "text", keep_empty=True) or "",
            document=text_of(fields, "document", keep_empty=True),
        )


def labels_to_json(labels: ClaimLabels) -> dict[str, Any]:
    """Return claims and labels as a JSON object with the names of their fields."""
    return {
        "answer_claims": [list(claim) for claim in labels.answer_claims],
        "gold_claims": [list(claim) for claim in labels.gold_claims],
        "answer_by_gold": list(labels.answer_by_gold),
        "gold_by_answer": list(labels.gold_by_answer),
        "answer_by_context": [list(row) for row in labels.answer_by_context],
        "gold_by_context": [list(row) for row in labels.gold_by_context],
    }


def labels_from_json(value: object) -> ClaimLabels:
    """Return what `labels_to_json` made; UsageError says what is wrong. Shapes are not checked."""
    if not isinstance(value, Mapping):
        raise UsageError(f"its 'labels' are {kind(value)}, not an object")
    return ClaimLabels(
        answer_claims=claims_of(value, "answer_claims"),
        gold_claims=claims_of(value, "gold_claims"),
        answer_by_gold=labels_of(value, "answer_by_gold"),
        gold_by_answer=labels_of(value, "gold_by_answer"),
        answer_by_context=matrix_of(value, "answer_by_context"),
        gold_by_context=matrix_of(value, "gold_by_context"),
    )


def claims_of(value: Mapping[str, Any], key: str) -> tuple[Claim, ...]:
    """Return the claims of a key: lists of texts, or texts."""
    claims: list[Claim] = []
    for one in list_of(value, key):
        parts = [one] if isinstance(one, str) else one
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise UsageError(f"a claim of its {key!r} is neither text nor a list of texts")
        claims.append(tuple(parts))
    return tuple(claims)


def labels_of(value: Mapping[str, Any], key: str) -> tuple[Label, ...]:
    """Return the labels of a key, one a claim."""
    return tuple(_label(key, one) for one in list_of(value, key))


def matrix_of(value: Mapping[str, Any], key: str) -> tuple[tuple[Label, ...], ...]:
    """Return the labels of a key, claims x passages."""
    rows = list_of(value, key)
    if not all(isinstance(row, list) for row in rows):
        raise UsageError(f"its {key!r} is not a list of rows, one a claim")
    return tuple(tuple(_label(key, one) for one in row) for row in rows)


def _label(key: str, given: object) -> Label:
    for label in LABELS:
        if given == label:
            return label
    raise UsageError(f"its {key!r} has the label {given!r}; known are {', '.join(LABELS)}")


# -- what it is ------------------------------------------------------------------------------------


def content_hash(dataset: Dataset) -> str:
    """Return the SHA-256, in hex, of all that a measurement depends on.

    Those are questions, golds, judgements, and the answers, contexts and labels that came with them;
    neither their order nor tags nor `extra`.
    """
    return _hashed(
        case_to_json(replace(case, tags=(), extra={}))
        | {"relevant": sorted(_judgement(one) for one in case.relevant)}
        for case in dataset.cases
    )


def labels_hash(dataset: Dataset) -> str:
    """Return the SHA-256, in hex, of the labels that came with the cases: their judge's identity."""
    return _hashed(
        {"id": case.id, "labels": labels_to_json(case.labels)}
        for case in dataset.cases
        if case.labels is not None
    )


def _judgement(one: Relevant) -> tuple[str, str, int]:
    return (one.document, one.passage or "", one.grade)


def _hashed(cases: Iterable[Mapping[str, Any]]) -> str:
    ordered = sorted(cases, key=itemgetter("id"))
    text = json.dumps(ordered, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

"""Cases and datasets as a person, a tool or an attacker might write them, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ragline.core import case_faults
from ragline.core.cases import LABELS, NOT_RELEVANT, Case, Context, Dataset, Relevant
from ragline.core.claims import ClaimLabels

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
words = texts.filter(lambda text: bool(text.strip()))
# What another format calls its own things, to collide with.
keys = st.sampled_from(
    [
        "id",
        "extra",
        "query",
        "user_input",
        "text",
        "_id",
        "metadata",
        "metrics",
        "relevant",
        "split",
        "ground_truth",
    ]
) | texts.filter(lambda key: key not in ("ragchecker", "ragas"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
extras = st.dictionaries(keys, json_values, max_size=3)
contexts = st.builds(Context, text=texts, document=st.none() | texts)


@st.composite
def claim_labels(draw: st.DrawFn, passages: int) -> ClaimLabels:
    """Claims with a label for each, and for each passage."""
    claims = st.lists(st.lists(texts, min_size=1, max_size=3).map(tuple), max_size=3)
    answer, gold = draw(claims), draw(claims)

    def row(length: int) -> Any:
        labels = st.sampled_from(LABELS)
        return draw(st.lists(labels, min_size=length, max_size=length).map(tuple))

    return ClaimLabels(
        answer_claims=tuple(answer),
        gold_claims=tuple(gold),
        answer_by_gold=row(len(answer)),
        gold_by_answer=row(len(gold)),
        answer_by_context=tuple(row(passages) for _ in answer),
        gold_by_context=tuple(row(passages) for _ in gold),
    )


@st.composite
def cases(
    draw: st.DrawFn, *, has_passages: bool = True, names: Any = words, least_relevant: int = 0
) -> Case:
    """A case that is taken in; `names` are ids and documents."""
    documents = draw(st.lists(names, unique=True, min_size=least_relevant, max_size=4))
    judged = draw(st.integers(least_relevant, len(documents)))
    passages = st.none() | words if has_passages else st.none()
    relevant = tuple(
        Relevant(document=name, grade=draw(st.integers(1, 4)), passage=draw(passages))
        for name in documents[:judged]
    )
    below = [{"document": name, "grade": draw(st.integers(-2, 0))} for name in documents[judged:]]
    given = tuple(draw(st.lists(contexts, max_size=3)))
    is_answerable = draw(st.booleans())
    case = Case(
        id=draw(names),
        question=draw(words),
        answer=draw(st.none() | words) if is_answerable else None,
        answers=tuple(draw(st.lists(words, max_size=2 * is_answerable))),
        relevant=relevant,
        is_answerable=is_answerable,
        tags=tuple(draw(st.lists(texts, max_size=2))),
        response=draw(st.none() | texts),
        contexts=given,
        labels=draw(st.none() | claim_labels(len(given))),
        extra=draw(extras) | ({NOT_RELEVANT: below} if below else {}),
    )
    return draw(st.just(case).filter(lambda one: not case_faults.refusals([("", one)])))


def datasets(one: st.SearchStrategy[Case], extra: Any = None) -> st.SearchStrategy[Dataset]:
    """A dataset of one to three cases."""
    several = st.lists(one, min_size=1, max_size=3, unique_by=lambda case: case.id).map(tuple)
    whole = st.just({}) if extra is None else extra
    return st.builds(
        Dataset, name=st.just("made"), cases=several, format=st.just("jsonl"), extra=whole
    )

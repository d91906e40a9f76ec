"""Questions with known relevant documents: the Cranfield collection and the paragraphs of SQuAD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corpus import NotRun
from judged_sets import JudgedSet, NotThere
from judged_sets import cranfield as cranfield_set
from judged_sets import squad as squad_set
from ragline.core.ranking import ndcg_at
from ragline.rag.ingest import Text

K = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Texts by their source, and questions with the sources that are relevant to each."""

    name: str
    texts: Sequence[Text]
    questions: Sequence[str]
    relevant: Sequence[frozenset[str]]

    def ndcg(self, number: int, sources: Sequence[str]) -> float:
        """Return nDCG@10 of the documents, each where its best chunk stands; binary relevance."""
        return ndcg_at(K, list(dict.fromkeys(sources)), self.relevant[number])

    def is_first(self, number: int, sources: Sequence[str]) -> float:
        """Return 1.0 when the first hit is of a relevant document."""
        return float(bool(sources) and sources[0] in self.relevant[number])


def cranfield() -> Judged:
    """Return Cranfield: 1,400 abstracts, 225 questions, codes 1 to 4 relevant."""
    return _judged("Cranfield", cranfield_set)


def squad() -> Judged:
    """Return the paragraphs of SQuAD 2, and the questions that one of them answers."""
    return _judged("SQuAD", squad_set)


def whole_cranfield() -> JudgedSet:
    """Return Cranfield as the dataset that is evaluated, and its texts."""
    return _there(cranfield_set)


def _there(load: Callable[[], JudgedSet]) -> JudgedSet:
    try:
        return load()
    except NotThere as error:
        raise NotRun(str(error)) from error


def _judged(name: str, load: Callable[[], JudgedSet]) -> Judged:
    data = _there(load)
    cases = [case for case in data.dataset.cases if case.relevant]
    return Judged(
        name=name,
        texts=data.texts,
        questions=[case.question for case in cases],
        relevant=[frozenset(one.document for one in case.relevant) for case in cases],
    )

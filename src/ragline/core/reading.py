"""SQuAD's measures of an answer, and how well questions without one are declined.

Rajpurkar et al., Know What You Don't Know: Unanswerable Questions for SQuAD (2018), as its official
script computes them. Words are what stands between spaces: text without spaces is one word.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """How well `n` questions were told apart, of which `unanswerable` should have been declined.

    `precision` is the share of the `declined` ones that are unanswerable, None when none was declined;
    `recall` the share of the unanswerable ones that were declined, None when there are none.
    """

    precision: float | None
    recall: float | None
    n: int
    unanswerable: int
    declined: int


def normalised(text: str) -> str:
    """Return `text` as SQuAD compares it: lower case, no punctuation, no articles, single spaces.

    >>> normalised(" The  Norse-men,  a tribe. ")
    'norsemen tribe'
    """
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(said: str, golds: Sequence[str]) -> float:
    """Return 1.0 when the normalised answer is a gold one; without gold answers, when it is empty."""
    return float(normalised(said) in _normalised(golds))


def f1(said: str, golds: Sequence[str]) -> float:
    """Return the best harmonic mean of the precision and recall of words over the gold answers.

    Without gold answers, 1.0 when the normalised answer is empty, else 0.0.
    """
    return max(_f1(normalised(said).split(), gold.split()) for gold in _normalised(golds))


def abstention(outcomes: Iterable[tuple[bool, bool]]) -> Abstention:
    """Return the figures of questions given as (is answerable, was answered)."""
    counts = Counter((bool(answerable), bool(answered)) for answerable, answered in outcomes)
    right = counts[False, False]
    declined, unanswerable = right + counts[True, False], right + counts[False, True]
    return Abstention(
        precision=right / declined if declined else None,
        recall=right / unanswerable if unanswerable else None,
        n=counts.total(),
        unanswerable=unanswerable,
        declined=declined,
    )


def _normalised(golds: Sequence[str]) -> list[str]:
    """Return the gold answers, without those of which nothing is left; for none, the empty one."""
    return [text for gold in golds if (text := normalised(gold))] or [""]


def _f1(said: Sequence[str], gold: Sequence[str]) -> float:
    if not said or not gold:
        return float(said == gold)
    same = (Counter(said) & Counter(gold)).total()
    return 2 * same / (len(said) + len(gold))

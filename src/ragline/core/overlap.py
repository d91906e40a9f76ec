"""How much of a text another one has in its words. This is overlap, and never called entailment.

A turned-round meaning ("may" for "may not"), or the same in other words, is not seen. Against people's
preferences between two answers it is nevertheless worth something: bench/judges.py measures how much.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache

from ragline.core import grounding, lexical
from ragline.core.claims import Claim
from ragline.core.languages import CODES
from ragline.core.plaintext import MARK
from ragline.core.sentences import sentences
from ragline.core.small_words import SMALL_WORDS
from ragline.core.stopwords import STOP_WORDS

# Of the 217 labels in the example that RAGChecker ships (a claim, and a passage or an answer; two
# questions; 64 entailed), 0.5, 0.6 and 0.7 get 0.843, 0.876 and 0.857 right: kappa 0.65, 0.70 and 0.63,
# precision 0.69, 0.79 and 0.85, recall 0.84, 0.78 and 0.62. There the veto of numbers changes nothing
# from 0.55 on; bench/judges.py prints it again.
THRESHOLD = 0.6
_ITEM = re.compile(r"^[^\S\n]*(?:[0-9]{1,3}[.)]|[-*+•])[^\S\n]", re.MULTILINE)
# What an apostrophe cuts off: "it's", "we'll", "l'eau", "qu'elle". Without it, the letter is a word.
_ELIDED = re.compile(
    r"\b(?:[a-z]|qu)(?=['\u2019]\w)|(?<=\w['\u2019])(?:s|t|re|ve|ll|d|m)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """The sentences of a text, or a claim: the words of each that say something; all its numbers."""

    sentences: tuple[frozenset[str], ...]
    numbers: frozenset[str]


def scores(answer: str, gold: str, language: str = "english") -> dict[str, float]:
    """Return the precision, recall and F1 of an answer's words, each counted as often as it stands.

    Stop words count only in a text that has no others, such as "No.". Languages are those of
    `lexical.LANGUAGES`.
    """
    said, wanted = _counts(answer, language), _counts(gold, language)
    same = (said & wanted).total()
    precision = same / said.total() if said else 0.0
    recall = same / wanted.total() if wanted else 0.0
    f1 = 2 * precision * recall / (precision + recall) if same else 0.0
    return {"lex_precision": precision, "lex_recall": recall, "lex_f1": f1}


def containment(text: Claim | str, passage: str, language: str = "english") -> float:
    """Return the share, from 0 to 1, of the words of a claim that a passage has; 0.0 without words.

    Of a text, the mean over its sentences, so that a long one says no more than a short one. A
    sentence of stop words alone says nothing and does not count.
    """
    found = [
        len(words & _known(passage, language).terms) / len(words)
        for words in _said(text, language).sentences
    ]
    return sum(found) / len(found) if found else 0.0


def supported(claim: Claim | str, passage: str, language: str = "english") -> bool:
    """Return whether a passage has most of the words of a claim, and every number."""
    numbers = _said(claim, language).numbers
    return (
        numbers <= _known(passage, language).numbers
        and containment(claim, passage, language) >= THRESHOLD
    )


def _counts(text: str, language: str) -> Counter[str]:
    bare = _bare(text)
    terms = lexical.telling_terms(bare, language, _small_words(language))
    return Counter(terms or lexical.telling_terms(bare, language, frozenset()))


# A judge asks for every claim against every passage.
@lru_cache(maxsize=1024)
def _said(text: Claim | str, language: str) -> _Said:
    if isinstance(text, str):
        bare = _bare(text)
        parts = [bare[start:end] for start, end in sentences(bare)]
    else:
        parts = [_bare(" ".join(text))]
    small = _small_words(language)
    words = [frozenset(lexical.telling_terms(part, language, small)) for part in parts]
    numbers = [grounding.source(part, language).numbers for part in parts]
    return _Said(sentences=tuple(filter(None, words)), numbers=frozenset().union(*numbers))


@lru_cache(maxsize=256)
def _known(passage: str, language: str) -> grounding.Source:
    return grounding.source(passage, language)


def _bare(text: str) -> str:
    """Return `text` without what states nothing: numbers of citations and list items, elided words."""
    return _ELIDED.sub(" ", _ITEM.sub(" ", MARK.sub(" ", text)))


@cache
def _small_words(language: str) -> frozenset[str]:
    """Return the words of a language that say nothing by themselves; none where they are not known."""
    code = CODES.get(language, "")
    return STOP_WORDS["english"] if code == "en" else SMALL_WORDS.get(code, frozenset())

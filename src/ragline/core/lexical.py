"""How text becomes terms: the same way for documents and for questions."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache

import snowballstemmer

from ragline.core.stopwords import STOP_WORDS
from ragline.errors import UsageError

# Raised whenever the same text would give other terms, so that documents are ingested again.
VERSION = 2
LONGEST_TERM = 100
LANGUAGES = ("simple", *sorted(snowballstemmer.algorithms()))
_WORD = re.compile(r"[^\W_]+")


def terms(text: str, language: str) -> list[str]:
    """Return the terms of `text` in order: words, lower case, without accents, stemmed."""
    stem = _stemmer(language)
    return [stem(word) for word in _WORD.findall(fold(text))]


def question_terms(text: str, language: str) -> list[str]:
    """Return the terms to look for: without stop words, unless there would be nothing left."""
    stem, stop_words = _stemmer(language), STOP_WORDS.get(language, frozenset())
    words = _WORD.findall(fold(text))
    telling = [word for word in words if word not in stop_words]
    return [stem(word) for word in telling or words]


def term_counts(text: str, language: str) -> Counter[str]:
    """Return how often each term stands in `text`."""
    return Counter(terms(text, language))


def fold(text: str) -> str:
    """Return `text` in lower case, compatibility-normalised, without combining marks."""
    if text.isascii():
        return text.lower()
    # Before and after: compatibility forms such as the letters of "™" hide capitals.
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    decomposed = unicodedata.normalize("NFKD", decomposed)
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return unicodedata.normalize("NFKC", bare).replace("đ", "d")


def check_language(language: str) -> str:
    """Return `language` when it names a way to cut words; else raise UsageError."""
    if language not in LANGUAGES:
        raise UsageError(f"language {language!r} is not known; use one of {', '.join(LANGUAGES)}")
    return language


@cache
def _stemmer(language: str) -> Callable[[str], str]:
    check_language(language)
    if language == "simple":
        return _cut
    stemmer = snowballstemmer.stemmer(language)

    @lru_cache(maxsize=200_000)
    def stem(word: str) -> str:
        return _cut(str(stemmer.stemWord(word)) or word)

    return stem


def _cut(word: str) -> str:
    return word[:LONGEST_TERM]

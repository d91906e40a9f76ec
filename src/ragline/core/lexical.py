"""How text becomes terms: the same way for documents and for questions.

Words are folded (lower case, without accents) and stemmed. Where a script has no spaces between words,
and for Korean, whose words end in particles, a run of letters becomes its overlapping pairs instead,
whatever the language of the collection. Decision 009 says why and what it costs.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple

import snowballstemmer

from ragline.core.stopwords import STOP_WORDS
from ragline.errors import UsageError

# Raised whenever the same text would give other terms, so that documents are ingested again.
VERSION = 3
LONGEST_TERM = 100
LANGUAGES = ("simple", *sorted(snowballstemmer.algorithms()))

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_WORD = re.compile(r"[^\W_]+")

# Marks that a reader may leave out: combining accents, Hebrew points, Arabic vowels and Quran signs,
# and the dot that Hindi writes below a letter or not.
_ACCENTS = (
    "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"
    "\ufe20-\ufe2f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u08d3-\u08ff\u093c"
)
# Seen by nobody: soft hyphens, joiners, directions, variants of a glyph; and the stroke that only
# stretches an Arabic word.
_UNSEEN = (
    "\u00ad\u034f\u061c\u0640\u180b-\u180e\u200c-\u200f\u202a-\u202e\u2060-\u2069"
    "\ufe00-\ufe0f\ufeff"
)
_DROPPED = re.compile(f"[{_ACCENTS}{_UNSEEN}\U000e0100-\U000e01ef]")
# Cyrillic letters of their own, which a mark makes of others. Stemmers know them.
_WHOLE = re.compile("([йўїѓќ])")
# Letters that have no decomposition and that people type without the stroke.
_UNSTRUCK = str.maketrans(
    {
        "đ": "d", "ð": "d", "ħ": "h", "\u0131": "i", "ł": "l", "ø": "o", "ŧ": "t", "ƀ": "b", "ɨ": "i",
        "æ": "ae", "œ": "oe", "þ": "th",
    }
)  # fmt: skip
_OTHER_DIGIT = re.compile(r"[^\D0-9]")

# Letters of Chinese, Japanese and Korean, and of Thai, Lao, Burmese, Khmer and their relatives.
_ONE_IS_A_WORD = (
    "\u2e80-\u2fd5\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U000323af\u1100-\u11ff\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
)
_SPACELESS = (
    _ONE_IS_A_WORD
    + "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\U0001b000-\U0001b167\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2"
    "\u0eb3\u0ebd\u0ec0-\u0ec6\u0edc-\u0edf\u1000-\u102a\u103f\u1050-\u1055\u105a-\u105d\u1061"
    "\u1065\u1066\u106e-\u1070\u1075-\u1081\u108e\ua9e0-\ua9e4\ua9e6-\ua9ef\ua9fa-\ua9fe"
    "\uaa60-\uaa76\uaa7a\uaa7e\uaa7f\u1780-\u17b3\u17d7\u17dc\u1950-\u1974\u1980-\u19ab\u19b0-\u19c9"
    "\u1a20-\u1a54"
)
_IS_A_WORD = re.compile(f"[{_ONE_IS_A_WORD}]")
# Beyond lie symbols, ideographs, and variation selectors, which nobody sees.
_AFTER_MARKS = 0x1F000


def terms(text: str, language: str) -> list[str]:
    """Return the terms of `text` in order: words, lower case, without accents, stemmed.

    Runs without spaces give pairs of letters, and each Chinese or Korean letter also by itself, so
    that a question of one such letter finds it.
    """
    stem = _stemmer(language)
    found: list[str] = []
    for run, word in _parts(text):
        if word:
            found.append(stem(word))
        else:
            letters = _letters(run)
            found += _pairs(letters)
            if len(letters) > 1:
                found += [_cut(letter) for letter in letters if _IS_A_WORD.match(letter)]
    return found


def question_terms(text: str, language: str) -> list[str]:
    """Return the terms to look for: without stop words, unless there would be nothing left.

    >>> question_terms("What is the 계약 기간 of a Vertrag?", "german")
    ['what', 'is', 'the', '계약', '기간', 'of', 'a', 'vertrag']
    """
    telling = telling_terms(text, language, STOP_WORDS.get(language, frozenset()))
    return telling or telling_terms(text, language, frozenset())


def telling_terms(text: str, language: str, stop_words: AbstractSet[str]) -> list[str]:
    """Return the terms without `stop_words`, which are folded; runs without spaces give only pairs."""
    stem = _stemmer(language)
    found: list[str] = []
    for run, word in _parts(text):
        if run:
            found += _pairs(_letters(run))
        elif word not in stop_words:
            found.append(stem(word))
    return found


def term_counts(text: str, language: str) -> Counter[str]:
    """Return how often each term stands in `text`."""
    return Counter(terms(text, language))


def fold(text: str) -> str:
    """Return `text` in lower case, compatibility-normalised, without the marks that may be left out.

    Vowel signs of Indic scripts, the voicing marks of kana and the tones of Thai are kept.

    >>> fold("Nhà thầu STRASSE ｶﾞｽ हिन्दी ٢٠٢٤")
    'nha thau strasse ガス हिन्दी 2024'
    """
    if text.isascii():
        return text.lower()
    # Before and after: compatibility forms such as the letters of "™" hide capitals.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", text).casefold())
    bare = "".join(
        part if _WHOLE.match(part) else _DROPPED.sub("", unicodedata.normalize("NFKD", part))
        for part in _WHOLE.split(folded)
    )
    return unicodedata.normalize("NFC", plain_digits(bare.translate(_UNSTRUCK)))


def plain_digits(text: str) -> str:
    """Return `text` with the digits 0 to 9 in the place of those of other scripts."""
    return _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit.group())), text)


def check_language(language: str) -> str:
    """Return `language` when it names a way to cut words; else raise UsageError."""
    if language not in LANGUAGES:
        raise UsageError(f"language {language!r} is not known; use one of {', '.join(LANGUAGES)}")
    return language


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Yield the folded text's parts in order, each as (run of letters without spaces, word)."""
    folded = fold(text)
    if folded.isascii():
        yield from (("", word) for word in _ASCII_WORD.findall(folded))
        return
    patterns = _patterns()
    if patterns.needed.search(folded):
        yield from patterns.parts.findall(folded)
    else:
        yield from (("", word) for word in _WORD.findall(folded))


def _letters(run: str) -> list[str]:
    """Return the letters of a run, each with its vowel signs and tones."""
    return _patterns().letter.findall(run)


def _pairs(letters: list[str]) -> list[str]:
    if len(letters) == 1:
        return [_cut(letters[0])]
    return [(one + other)[:LONGEST_TERM] for one, other in pairwise(letters)]


class _Patterns(NamedTuple):
    needed: re.Pattern[str]
    """Found in every text that simple words do not cut rightly, and in few others."""
    parts: re.Pattern[str]
    """A run of letters without spaces, or else a word."""
    letter: re.Pattern[str]
    """A letter of such a run, with its marks."""


@cache
def _patterns() -> _Patterns:
    """Return what cuts folded text. Only text that is not ASCII has to wait some milliseconds for it.

    `\\w` knows no marks: without a list of them, words of Indic scripts fall apart at vowel signs.
    """
    marks = "".join(_ranges([c for c in range(0x300, _AFTER_MARKS) if _is_mark(c)]))
    mark, letter = f"[{marks}]", f"[{_SPACELESS}][{marks}]*+"
    in_word = rf"[^\W_{_SPACELESS}]"
    # One range for all beyond U+FFFF: of many, the engine would try each on every character.
    near = re.sub(r"[\U00010000-\U0010ffff]-?", "", _SPACELESS + marks)
    return _Patterns(
        needed=re.compile(rf"[{near}\U00010000-\U0010ffff]"),
        parts=re.compile(rf"((?:{letter})++)|({in_word}++(?:{mark}++{in_word}*+)*+)"),
        letter=re.compile(letter),
    )


def _is_mark(code: int) -> bool:
    return unicodedata.category(chr(code)) in ("Mn", "Mc")


def _ranges(codes: list[int]) -> Iterator[str]:
    first = last = codes[0]
    for code in [*codes[1:], -1]:
        if code != last + 1:
            yield f"{chr(first)}-{chr(last)}"
            first = code
        last = code


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

"""Whether a model's sentences rest on the passages that they cite, as far as words can tell.

The check is lexical: it sees that a sentence's telling words and all its numbers stand in what it
cites. It does not see a turned-round meaning ("may" for "may not"), so it is called support by words
and never entailment.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from ragline.core import lexical
from ragline.core.plaintext import MARK, settled
from ragline.core.results import Sentence
from ragline.core.sentences import sentences
from ragline.core.stopwords import STOP_WORDS

# docs/decisions/008-generated-answers.md has what was measured.
SUPPORT_THRESHOLD = 0.6
UNSUPPORTED = "[unsupported]"
_IN_MARK = r"\s\d,;\uff0c\u3001\uff1b"
_OPENS = r"[\[\u3010\uff3b]"
_CLOSES = r"[\]\u3011\uff3d]"
_MARKS = re.compile(
    rf"(?P<gap>[^\S\n]{{0,9}})(?P<marks>{MARK.pattern}(?:[^\S\n]{{0,9}}{MARK.pattern})*)"
)
_PAUSE = re.compile(r"[.,:;!?…]?(?:\s|\Z)")
# Chinese and Japanese leave no space behind a full stop, nor behind the marks that follow it.
_MARKS_BEHIND_STOP = re.compile(
    rf"[.!?…][\"'`\u201d\u2019»)\]*_]{{0,9}}"
    rf"(?P<narrow>(?:\s{{0,9}}{MARK.pattern})+[^\S\n]{{0,9}}[.!?]?)(?=\s|\Z)"
    r"|[\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965][\u300d\u300f\u201d\u2019\uff09\u300b]{0,9}"
    rf"(?P<wide>(?:\s{{0,9}}{MARK.pattern})+\u3002?)"
)
_MARKS_ONLY = re.compile(rf"[{_IN_MARK}\[\]\u3010\u3011\uff3b\uff3d.]*\Z")
# Halves of a mark that would be one together with those of the sentence before or behind.
_OPENS_LAST = re.compile(rf"{_OPENS}(?=[{_IN_MARK}]*\Z)")
_CLOSES_FIRST = re.compile(rf"\A([{_IN_MARK}]*){_CLOSES}")
_ITEM = re.compile(r"\A(?:[0-9]{1,3}[.)]|[-*+•])\s")
_NUMBER = re.compile(r"[0-9]+")
_SEPARATOR = re.compile(r"(?<=[0-9])[,\u00a0\u2009\u202f\u066c\uff0c](?=[0-9]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The words and numbers of a passage that may be cited."""

    language: str
    terms: frozenset[str]
    numbers: frozenset[str]


def source(text: str, language: str) -> Source:
    """Return what sentences that cite `text` are compared with."""
    terms = frozenset(lexical.terms(text, language))
    return Source(language=language, terms=terms, numbers=_numbers(text))


def checked(raw: str, sources: Mapping[int, Source], *, starts_line: bool = False) -> Sentence:
    """Return a model's sentence as plain text, with its citations checked."""
    invalid: list[int] = []

    def valid(found: re.Match[str]) -> str:
        numbers = _numbered(found["marks"])
        invalid.extend(n for n in numbers if n not in sources)
        return _shown(found, [n for n in numbers if n in sources])

    text = settled(raw, lambda text: _unhalved(_MARKS.sub(valid, text)))
    cited = tuple(dict.fromkeys(_numbered(text)))
    support = _support(text, [sources[number] for number in cited])
    return Sentence(
        text=text,
        citations=cited,
        invalid_citations=tuple(dict.fromkeys(invalid)),
        lexical_support=support,
        is_supported=support is not None and support >= SUPPORT_THRESHOLD,
        starts_line=starts_line,
    )


def cut(text: str, *, is_whole: bool) -> tuple[list[tuple[str, bool]], str]:
    """Return the complete sentences of a text that grows, and its rest.

    With each sentence comes whether it starts a line. Marks behind a full stop belong to the
    sentence before them, so a sentence is complete only when it is clear what follows.
    """
    spans = _spans(text)
    if not is_whole:
        spans = spans[:-1]
        # "It runs. [1" may go on, and the mark is that of the sentence before it.
        if spans and _MARKS_ONLY.match(text, spans[-1][1]):
            spans = spans[:-1]
    done = [(text[start:end], _starts_line(text, start)) for start, end in spans]
    return done, text[spans[-1][1] :] if spans else text


def joined(parts: Sequence[Sentence]) -> str:
    """Return the text of an answer; what its citations do not support is marked."""
    said = [part.text if part.is_supported else f"{part.text} {UNSUPPORTED}" for part in parts]
    gaps = ["\n" if part.starts_line else " " for part in parts]
    return "".join(gap + text for gap, text in zip(gaps, said, strict=True)).strip()


def confidence(parts: Sequence[Sentence]) -> float:
    """Return the mean support of an answer's sentences, from 0 to 1; 0 for one that cites nothing."""
    return sum(part.lexical_support or 0.0 for part in parts) / len(parts) if parts else 0.0


def _spans(text: str) -> list[tuple[int, int]]:
    """Return the spans of the sentences, each with the marks that follow its full stop."""
    starts = [start for start, _ in sentences(_MARKS_BEHIND_STOP.sub(_blanked, text))]
    return [
        (start, start + len(text[start:following].rstrip()))
        for start, following in pairwise([*starts, len(text)])
    ]


def _blanked(found: re.Match[str]) -> str:
    whole, marks = found.group(), found["narrow"] or found["wide"]
    return whole[: -len(marks)] + re.sub(r"\S", " ", marks)


def _starts_line(text: str, start: int) -> bool:
    line = text.rfind("\n", 0, start)
    return line >= 0 and not text[line:start].strip()


def _support(text: str, cited: Sequence[Source]) -> float | None:
    """Return the share of the words of `text` in what it cites; 0 where a number is missing."""
    bare = _ITEM.sub("", MARK.sub(" ", text))
    if not cited:
        return None
    if not _numbers(bare) <= frozenset().union(*(one.numbers for one in cited)):
        return 0.0
    return max(_share(bare, language, cited) for language in {one.language for one in cited})


def _share(text: str, language: str, cited: Sequence[Source]) -> float:
    words = set(lexical.question_terms(text, language))
    if words <= _small(language):  # "It is [1]." says nothing that words could bear out
        return 0.0
    known = frozenset().union(*(one.terms for one in cited if one.language == language))
    return len(words & known) / len(words)


@cache
def _small(language: str) -> frozenset[str]:
    """Return the terms of the stop words, which are terms of a text that has no others."""
    words = STOP_WORDS.get(language, frozenset())
    return frozenset(term for word in words for term in lexical.question_terms(word, language))


def _numbers(text: str) -> frozenset[str]:
    """Return the numbers of a text, in the digits 0 to 9 whatever the script; others as they are."""
    others = [c for c in text if not c.isascii() and unicodedata.category(c) in ("Nl", "No")]
    return frozenset((*_NUMBER.findall(_SEPARATOR.sub("", lexical.plain_digits(text))), *others))


def _numbered(text: str) -> list[int]:
    """Return the numbers in the marks of a text."""
    return [int(n) for marks in MARK.findall(text) for n in re.findall(r"\d+", marks)]


def _shown(found: re.Match[str], numbers: Sequence[int]) -> str:
    if numbers:
        return found["gap"] + "".join(f"[{number}]" for number in numbers)
    # A space, because what stood on both sides may be something together.
    return "" if _PAUSE.match(found.string, found.end()) else " "


def _unhalved(text: str) -> str:
    return _CLOSES_FIRST.sub(r"\1)", _OPENS_LAST.sub("(", text))

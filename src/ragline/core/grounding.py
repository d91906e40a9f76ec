"""Whether a model's sentences rest on the passages that they cite, as far as words can tell.

The check is lexical: it sees that a sentence's telling words and all its numbers stand in what it
cites. It does not see a turned-round meaning ("may" for "may not"), so it is called support by words
and never entailment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragline.core import lexical
from ragline.core.plaintext import plain
from ragline.core.results import Sentence
from ragline.core.sentences import sentences

# docs/decisions/008-generated-answers.md has what was measured.
SUPPORT_THRESHOLD = 0.6
UNSUPPORTED = "[unsupported]"
_MARK = re.compile(r"[\[【]\s{0,9}((?:[0-9]{1,4}[\s,;]{0,9}){1,20})[\]】]")
_MARKS_FIRST = re.compile(rf"(?:\s*{_MARK.pattern})+[^\S\n]*[.!?]?(?=\s|\Z)")
_MARKS_ONLY = re.compile(r"[\s\[\]【】0-9,;.]*\Z")
_ITEM = re.compile(r"\A(?:[0-9]{1,3}[.)]|[-*+•])\s")
_NUMBER = re.compile(r"[0-9]+")
_SEPARATOR = re.compile(r"(?<=[0-9])[,\u00a0\u202f](?=[0-9]{3})")


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
    text = plain(raw)
    given = [number for marks in _MARK.findall(text) for number in _marks(marks)]
    cited = tuple(dict.fromkeys(number for number in given if number in sources))
    support = _support(text, [sources[number] for number in cited])
    return Sentence(
        text=_tidy(_MARK.sub(lambda found: _kept(found[1], sources), text)),
        citations=cited,
        invalid_citations=tuple(dict.fromkeys(n for n in given if n not in sources)),
        lexical_support=support,
        is_supported=support is not None and support >= SUPPORT_THRESHOLD,
        starts_line=starts_line,
    )


def cut(text: str, *, is_whole: bool) -> tuple[list[tuple[str, bool]], str]:
    """Return the complete sentences of a text that grows, and its rest.

    With each sentence comes whether it starts a line. Marks behind a full stop belong to the
    sentence before them, so a sentence is complete only when it is clear what follows.
    """
    spans = _with_marks(text, sentences(text))
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


def _with_marks(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans with marks that open a sentence handed to the one before."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        marks = _MARKS_FIRST.match(text, start, end) if found else None
        if marks:
            found[-1] = (found[-1][0], marks.end())
            rest = text[marks.end() : end]
            start = end - len(rest.lstrip())  # noqa: PLW2901
        if start < end:
            found.append((start, end))
    return found


def _starts_line(text: str, start: int) -> bool:
    before = text[:start]
    return "\n" in before[len(before.rstrip()) :]


def _support(text: str, cited: Sequence[Source]) -> float | None:
    """Return the share of the words of `text` in what it cites; 0 where a number is missing."""
    bare = _ITEM.sub("", _MARK.sub(" ", text))
    if not cited:
        return None
    if not _numbers(bare) <= frozenset().union(*(one.numbers for one in cited)):
        return 0.0
    return max(_share(bare, language, cited) for language in {one.language for one in cited})


def _share(text: str, language: str, cited: Sequence[Source]) -> float:
    words = set(lexical.question_terms(text, language))
    known = frozenset().union(*(one.terms for one in cited if one.language == language))
    return len(words & known) / len(words) if words else 0.0


def _numbers(text: str) -> frozenset[str]:
    return frozenset(_NUMBER.findall(_SEPARATOR.sub("", text)))


def _marks(inside: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(inside)]


def _kept(inside: str, sources: Mapping[int, Source]) -> str:
    return "".join(f"[{number}]" for number in _marks(inside) if number in sources)


def _tidy(text: str) -> str:
    return re.sub(r"[^\S\n]+(?=[.,;!?]?\s|[.,;!?]?\Z)", "", text).strip()

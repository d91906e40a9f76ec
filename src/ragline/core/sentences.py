"""Where sentences begin and end, by rules and without a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Possessive (`*+`, `++`) and without look-ahead: a line of a million full stops stays linear.
# The marks of Chinese and Japanese, the Arabic question mark and Urdu full stop, the danda of Indic
# scripts, and those of Armenian, Ethiopic, Tibetan, Burmese and Khmer are never part of a word.
_STOP = re.compile(
    r"(?P<wide>[\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965\u0589\u1362\u1367\u0f0d\u104b"
    r"\u17d4\u17d5]++[\u300d\u300f\u201d\u2019\uff09\u3011\u300b]*+)"
    r"|(?P<narrow>[.!?…]++[\"'`\u201d\u2019»)\]*_]*+)"
    r"|(?P<line>\n[^\S\n]*+(?=\n|[-*+•‣·][^\S\n]|\(?[0-9]{1,3}[.)][^\S\n]))"
)
_WORD_BEFORE = re.compile(r"[^\s(\[\"'\u201c\u2018]*\Z")
_ENUMERATED = re.compile(r"\(?(?:[0-9]{1,3}|[A-Za-z])[.)]\Z")

_ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        """
        al appx approx apr art aug bzw ca cf ch chap co corp dec dept dr ed eds e.g eg eq esp est
        etc feb fig figs ft gen gov inc i.e ie incl jan jr jul jun lat lt ltd mar max messrs min
        misc mr mrs ms mt nov no nos nr oct op p.s pp prof ref refs rep resp rev sec sen sep sept
        sgt sr st tab tel u.k u.s u.s.a viz vol vols vs z.b d.h a.m p.m
        """,
    )
)
# These end a sentence as often as not: they do so before a capital letter.
_EITHER_WAY = frozenset(
    ("al", "co", "corp", "etc", "inc", "jr", "ltd", "a.m", "p.m", "u.k", "u.s", "u.s.a")
)


def sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Return the spans of the sentences in `text[start:end]`, without the spaces around them.

    Every character that is not a space is in exactly one span. A line break ends a sentence only
    before an empty line or a list item; paragraphs are often wrapped by hand.

    >>> text = "It needs Python 3.11, e.g. Debian 12. See setup.py for more."
    >>> [text[a:b] for a, b in sentences(text)]
    ['It needs Python 3.11, e.g. Debian 12.', 'See setup.py for more.']
    """
    end = len(text) if end is None else end
    spans: list[tuple[int, int]] = []
    begin = start
    for stop in _stops(text, start, end):
        if span := trim(text, begin, stop):
            spans.append(span)
        begin = stop
    if span := trim(text, begin, end):
        spans.append(span)
    return spans


def trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return the span without the spaces around it, or None when nothing else is in it."""
    part = text[start:end]
    kept = part.strip()
    if not kept:
        return None
    first = start + len(part) - len(part.lstrip())
    return first, first + len(kept)


def _stops(text: str, start: int, end: int) -> Iterator[int]:
    for match in _STOP.finditer(text, start, end):
        stop = match.end()
        if match.lastgroup != "narrow" or _ends_sentence(text, start, match.start(), stop, end):
            yield stop


def _ends_sentence(text: str, start: int, mark: int, stop: int, end: int) -> bool:
    if stop >= end:
        return True
    if not text[stop].isspace():
        return False
    following = text[stop : min(end, stop + 40)].lstrip()[:1]
    if text[mark] != ".":
        return not following.islower()
    before = _WORD_BEFORE.search(text[max(start, mark - 24) : mark])
    word = before.group() if before else ""
    return not _is_inside(word, _opens_line(text, start, mark - len(word)), following)


def _is_inside(word: str, opens_line: bool, following: str) -> bool:
    """Whether the full stop after `word` belongs to the word, not to the sentence."""
    if following.islower():
        return True
    if opens_line and _ENUMERATED.match(word + "."):
        return True
    if word.lower() in _EITHER_WAY:
        return not following.isupper()
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I")


def _opens_line(text: str, start: int, position: int) -> bool:
    line = text[max(start, position - 24) : position].rpartition("\n")
    return not line[2].strip() and (bool(line[1]) or position - 24 <= start)

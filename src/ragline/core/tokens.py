"""An estimate of subword tokens that needs no model.

Chunks are cut before any model is known, and must not be cut anew when it changes. So we count
units of text: a run of letters or digits by its length, everything else by the character.

Measured against the WordPiece tokenizer of all-MiniLM-L6-v2, over the long descriptions of 86
installed distributions (755,000 characters of Markdown and reStructuredText, 258,000 real tokens):
the estimate is 1.02 of the real total, 0.91 to 1.39 per document. Of 1,192 chunks with at least 120
real tokens none is below 0.7 of its real count, 0.7 % are below 0.85, and no chunk of 180 estimated
tokens has more than 211 real ones.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Runs are limited so that no unit counts more than 16 tokens: a chunk of any allowed size has room
# for every unit. U+0300 to U+036F are combining accents; they belong to the letter before them.
_UNIT = re.compile(
    r"([A-Za-z\u00c0-\u024f\u1e00-\u1eff\u0300-\u036f]{1,48})"
    r"|([0-9]{1,24})"
    r"|([\u0370-\u0dff\u10a0-\u10ff\u1200-\u135f]{1,30})"
    r"|([\uac00-\ud7a3])"
    r"|(\S)"
)

# Index: length of a run of Latin letters. Short words are one token in every vocabulary; past
# sixteen letters a word is rarely a word.
_LATIN = [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 4, 4] + [-(-n // 3) for n in range(17, 49)]


@dataclass(frozen=True, slots=True)
class Units:
    """Where the units of a text are, and how many tokens come before each."""

    starts: list[int]
    ends: list[int]
    before: list[int]

    def count(self, start: int, end: int) -> int:
        """Return the tokens of the units that begin in `[start, end)`."""
        first = bisect_left(self.starts, start)
        return self.before[bisect_left(self.starts, end, first)] - self.before[first]

    def within(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the spans of the units that begin in `[start, end)`."""
        first = bisect_left(self.starts, start)
        last = bisect_left(self.starts, end, first)
        return list(zip(self.starts[first:last], self.ends[first:last], strict=True))


def units(text: str, spans: Iterable[tuple[int, int]]) -> Units:
    """Return the units in these spans, which are in order, to count parts of them in O(log n)."""
    starts: list[int] = []
    ends: list[int] = []
    costs = [0]
    for first, last in spans:
        for match in _UNIT.finditer(text, first, last):
            start, end = match.span()
            starts.append(start)
            ends.append(end)
            costs.append(_cost(match.lastindex, end - start))
    return Units(starts, ends, list(accumulate(costs)))


def count_tokens(text: str) -> int:
    """Return about how many subword tokens `text` has; never less than its words.

    >>> count_tokens("Pools are sized per workload.")
    7
    """
    return sum(_cost(m.lastindex, m.end() - m.start()) for m in _UNIT.finditer(text))


def first_tokens(text: str, most: int) -> str:
    """Return `text`, or its first units with at most so many tokens together."""
    found = units(text, [(0, len(text))])
    kept = bisect_right(found.before, most) - 1
    if kept == len(found.ends):
        return text
    return text[: found.ends[kept - 1]] if kept > 0 else ""


def _cost(kind: int | None, length: int) -> int:
    if kind == 1:
        return _LATIN[length]
    if kind in (2, 3):
        return (length + 1) // 2
    return 2 if kind == 4 else 1

"""Questions as people may ask them, taken from a collection's own texts: headings, titles, sentences.

Their answers lie where people's do. A point midway between two vectors lies where nobody asks, and is
far harder to find the neighbours of.
"""

from __future__ import annotations

from collections.abc import Collection

from ragline.core import asking
from ragline.core import sentences as sentence
from ragline.core.results import CollectionFacts
from ragline.db import samples
from ragline.rag.app import App
from ragline.rag.search import target_of

SHORTEST_WORDS = 4
_FEWEST_LETTERS = 4
# Headings and titles are those of many chunks at once.
_SPARE = 3


async def likely(
    app: App, facts: CollectionFacts, count: int, but: Collection[str] = ()
) -> list[str]:
    """Return up to `count` different texts, drawn anew, none of which is in `but`.

    Every other one is of what stands above a chunk, as far as there is such a thing; the rest are the
    first words of a sentence within.
    """
    async with app.connection(app.search_workload) as connection:
        drawn = await samples.headed(
            connection, target_of(facts), chunks=facts.chunks, size=_SPARE * (count + len(but))
        )
    taken = {text.casefold() for text in but}
    found: list[str] = []
    for heading, body in drawn:
        both = [_heading(heading), words_of(body)]
        for text in both if len(found) % 2 == 0 else reversed(both):
            if text and text.casefold() not in taken:
                taken.add(text.casefold())
                found.append(text)
                break
        if len(found) == count:
            break
    return found


def _heading(text: str) -> str:
    """Return a heading as somebody would ask for it; "" where it says nothing."""
    said = asking.words(text.strip().rstrip("¶#").strip())
    return said if sum(one.isalpha() for one in said) >= _FEWEST_LETTERS else ""


def words_of(body: str) -> str:
    """Return the words of the middle sentence that is long enough; "" where there is none."""
    spans = sentence.sentences(body)
    texts = (
        body[start:end] for start, end in [*spans[len(spans) // 2 :], *spans[: len(spans) // 2]]
    )
    asked = (asking.words(text) for text in texts)
    return next(
        (text for text in asked if len(text.split()) >= SHORTEST_WORDS or _is_dense(text)), ""
    )


def _is_dense(text: str) -> bool:
    """Whether it is long enough although nothing stands between its words."""
    return len(text) >= SHORTEST_WORDS * 3 and not text.isascii()

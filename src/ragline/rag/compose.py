"""From a parsed text to what is written: its chunks and their terms. Runs where the parser ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ragline.core import lexical
from ragline.core.chunking import Chunk, ChunkPolicy, chunk
from ragline.rag.formats import Rejected

if TYPE_CHECKING:
    from ragline.rag.formats import Parsed

# In characters: a page of text marked as a heading would be repeated with each of its chunks.
_LONGEST_HEADING = 300
_LONGEST_TITLE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How a text becomes chunks and terms.

    `title` is what the source says; `else_title` stands in where neither it nor the text has one.
    """

    size: int
    overlap: int
    language: str
    title: str | None = None
    else_title: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A text with its chunks and, for each of them, how often it holds which term."""

    text: str
    title: str | None
    metadata: Mapping[str, Any]
    chunks: tuple[Chunk, ...]
    term_counts: tuple[Mapping[str, int], ...]
    digest: bytes = b""
    """SHA-256 of the bytes that were parsed."""


def compose(parsed: Parsed, cut: Cut) -> Composed:
    """Return the chunks and terms of a text; raise Rejected when it has none."""
    policy = ChunkPolicy(size=cut.size, overlap=cut.overlap)
    chunks = tuple(
        replace(c, headings=tuple(heading[:_LONGEST_HEADING] for heading in c.headings))
        for c in chunk(parsed.text, parsed.blocks, policy)
    )
    if not chunks:
        raise Rejected("NO_TEXT", "it holds no text")
    title = cut.title or parsed.title or cut.else_title
    title = title[:_LONGEST_TITLE] if title else None
    _check_unicode(title or "", "title")
    _check_unicode(parsed.text, "text")
    return Composed(
        text=parsed.text,
        title=title,
        metadata=parsed.metadata,
        chunks=chunks,
        term_counts=tuple(
            dict(lexical.term_counts(passage(title, c.headings, c.body), cut.language))
            for c in chunks
        ),
    )


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Rejected(
            "NOT_TEXT", f"half a character stands at {error.start} of its {what}"
        ) from error


def passage(title: str | None, headings: Sequence[str], body: str) -> str:
    """Return what is embedded and indexed for a chunk: title and headings it lacks, then its text."""
    above = dict.fromkeys([*([title] if title else []), *headings])
    return "\n".join([*(line for line in above if line not in body), body])

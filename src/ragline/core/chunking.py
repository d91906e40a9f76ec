"""Cutting a document into chunks along its structure.

The blocks of a document (headings, paragraphs, code …) form sections. A section that fits is one
chunk; tiny neighbours share one; a long section is packed block by block, and a block that does not
fit is cut at sentence or line ends, then between words, then inside them. Nothing here looks at a
model: tokens are the estimate of `ragline.core.tokens`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from ragline.core.sentences import sentences, trim
from ragline.core.tokens import Units, units
from ragline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

BlockKind = Literal["heading", "paragraph", "code", "list", "table"]

_LINE = re.compile(r"[^\n]+")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a document's text, in character offsets. `level` and `title` are a heading's."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    title: str | None = None
    """The heading as plain text, when it is not `text[start:end]`."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document. `body` is `text[start:end]`; `headings` are those above all of it."""

    ordinal: int
    start: int
    end: int
    body: str
    headings: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class ChunkPolicy:
    """How large chunks may be, and how much of one its follower repeats, in tokens."""

    size: int = 200
    overlap: int = 40

    def __post_init__(self) -> None:
        if self.size < 16:
            raise UsageError(f"chunk size {self.size} is too small; it must be at least 16 tokens")
        if not 0 <= self.overlap <= self.size / 2:
            raise UsageError(
                f"chunk overlap {self.overlap} must be between 0 and half of the size {self.size}"
            )


def chunk(text: str, blocks: Sequence[Block], policy: ChunkPolicy) -> list[Chunk]:
    """Return the chunks of `text`, in order, none empty and none above `policy.size` tokens.

    Every character of every block that is not a space is in some chunk. One exception: a heading
    that skipped text (a row of badges) parts from its section is in `headings` of what follows,
    not in a body. What lies between the blocks is never in a chunk.
    """
    trimmed = list(_trimmed(text, blocks))
    counted = units(text, ((block.start, block.end) for block in trimmed))
    groups = _groups(_sections(text, trimmed), counted, policy)
    chunks: list[Chunk] = []
    for group, following in zip_longest(groups, groups[1:]):
        if following and _speaks_for(following, group):
            continue
        headings = _common_path(group.sections)
        for start, end in _pack(text, group.blocks, counted, policy):
            tokens = counted.count(start, end)
            chunks.append(Chunk(len(chunks), start, end, text[start:end], headings, tokens))
    return chunks


# -- sections ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Section:
    """A heading and what follows up to the next one. A gap of skipped text also begins one."""

    path: tuple[tuple[int, str], ...]
    is_after_gap: bool
    blocks: list[Block] = field(default_factory=list)

    @property
    def has_text(self) -> bool:
        return self.blocks[-1].kind != "heading"

    def is_under(self, above: _Section) -> bool:
        return len(self.path) > len(above.path) and self.path[: len(above.path)] == above.path


def _sections(text: str, blocks: Iterable[Block]) -> Iterator[_Section]:
    current: _Section | None = None
    path: tuple[tuple[int, str], ...] = ()
    position = 0
    for block in blocks:
        gap = bool(text[position : block.start].strip()) and current is not None
        position = block.end
        if block.kind == "heading":
            title = text[block.start : block.end] if block.title is None else block.title
            above = (step for step in path if step[0] < block.level)
            path = (*above, (block.level, " ".join(title.split())))
        if current is None or gap or block.kind == "heading":
            if current is not None:
                yield current
            current = _Section(path, gap)
        current.blocks.append(block)
    if current is not None:
        yield current


def _trimmed(text: str, blocks: Iterable[Block]) -> Iterator[Block]:
    position = 0
    for block in blocks:
        if not position <= block.start <= block.end <= len(text):
            raise ValueError(f"block {block} is out of order, or not in a text of {len(text)}")
        position = block.end
        if span := trim(text, block.start, block.end):
            yield Block(block.kind, *span, block.level, block.title)


def _common_path(sections: Sequence[_Section]) -> tuple[str, ...]:
    """Return the headings above all text of these sections."""
    paths = [s.path for s in sections if s.has_text] or [sections[-1].path]
    common = 0
    while all(len(p) > common and p[common] == paths[0][common] for p in paths):
        common += 1
    return _titles(paths[0][:common])


def _titles(path: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(title for _, title in path if title)


# -- groups of sections --------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """Sections that are cut into chunks together."""

    sections: list[_Section]
    tokens: int

    @property
    def blocks(self) -> list[Block]:
        return [block for section in self.sections for block in section.blocks]

    @property
    def has_text(self) -> bool:
        return any(section.has_text for section in self.sections)


def _groups(sections: Iterable[_Section], counted: Units, policy: ChunkPolicy) -> list[_Group]:
    groups: list[_Group] = []
    for section in sections:
        tokens = counted.count(section.blocks[0].start, section.blocks[-1].end)
        group = groups[-1] if groups else None
        if group and _belongs(section, tokens, group, policy):
            group.sections.append(section)
            group.tokens += tokens
        else:
            groups.append(_Group([section], tokens))
    return groups


def _belongs(section: _Section, tokens: int, group: _Group, policy: ChunkPolicy) -> bool:
    """Whether the section shares the group before it: headings alone, or tiny and both fit."""
    if section.is_after_gap:
        return False
    first, last = group.sections[0], group.sections[-1]
    if not group.has_text and section.is_under(last):
        return True
    if not _is_tiny(group.tokens, policy) or group.tokens + tokens > policy.size:
        return False
    is_sibling = bool(first.path) and section.path[:-1] == first.path[:-1]
    return section.is_under(first) or (is_sibling and section.path[-1][0] == first.path[-1][0])


def _speaks_for(following: _Group, group: _Group) -> bool:
    """Whether the group is headings alone, cut off by a gap, and all in the next one's path."""
    if group.has_text or not following.sections[0].is_after_gap:
        return False
    above = _common_path(following.sections)
    for section in group.sections:
        titles = _titles(section.path)
        if not section.path[-1][1] or above[: len(titles)] != titles:
            return False
    return True


def _is_tiny(tokens: int, policy: ChunkPolicy) -> bool:
    return tokens * 3 < policy.size


# -- packing -------------------------------------------------------------------------------------

# How each kind of block is cut when it does not fit; the steps after these are the same for all.
_FIRST_CUT = {"code": "lines", "table": "lines"}


@dataclass(frozen=True, slots=True)
class _Part:
    """A span that should stay whole, and the way to cut it when it cannot."""

    start: int
    end: int
    cut: str
    is_heading: bool = False


def _parts(block: Block) -> _Part:
    cut = _FIRST_CUT.get(block.kind, "sentences")
    return _Part(block.start, block.end, cut, block.kind == "heading")


def _finer(text: str, part: _Part, counted: Units) -> list[_Part]:
    start, end = part.start, part.end
    if part.cut == "sentences":
        spans, cut = sentences(text, start, end), "words"
    elif part.cut == "lines":
        spans, cut = _matches(_LINE, text, start, end), "sentences"
    elif part.cut == "words":
        spans, cut = _matches(_WORD, text, start, end), "units"
    else:
        spans, cut = counted.within(start, end), ""
    return [_Part(a, b, cut, part.is_heading) for a, b in spans]


def _matches(pattern: re.Pattern[str], text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans = (trim(text, *match.span()) for match in pattern.finditer(text, start, end))
    return [span for span in spans if span]


def _pack(
    text: str, blocks: Sequence[Block], counted: Units, policy: ChunkPolicy
) -> Iterator[tuple[int, int]]:
    """Fill chunks part by part. A part is cut finer when it is too long for any chunk, or when
    leaving it to the next chunk would leave this one with nearly nothing, or only a heading."""
    todo = [_parts(block) for block in reversed(blocks)]
    now: list[_Part] = []
    start = fresh = 0  # `now` begins at start; before fresh it repeats the chunk before
    while todo:
        part = todo.pop()
        if not now:
            start = fresh = part.start
        tokens = counted.count(part.start, part.end)
        if counted.count(start, part.end) <= policy.size:
            now.append(part)
        elif part.cut and (tokens > policy.size or _should_cut(part, now, fresh, counted, policy)):
            todo += reversed(_finer(text, part, counted))
        elif now[-1].end <= fresh:  # only the repeated part: it makes room
            todo.append(part)
            now = []
        else:
            yield start, now[-1].end
            todo.append(part)
            now, fresh = _repeated(text, now, counted, policy), now[-1].end
            start = now[0].start if now else fresh
    if now:
        yield start, now[-1].end


def _should_cut(
    part: _Part, now: Sequence[_Part], fresh: int, counted: Units, policy: ChunkPolicy
) -> bool:
    if all(one.is_heading for one in now):
        return True
    if part.cut in ("words", "units") or now[-1].end <= fresh:
        return False
    return _is_tiny(counted.count(max(fresh, now[0].start), now[-1].end), policy)


def _repeated(text: str, done: Sequence[_Part], counted: Units, policy: ChunkPolicy) -> list[_Part]:
    """Return the last whole sentences, lines or words of a chunk that fit into the overlap."""
    kept: list[_Part] = []
    end = done[-1].end
    todo = list(done)
    while todo and not todo[-1].is_heading:
        part = todo.pop()
        if counted.count(part.start, end) <= policy.overlap:
            kept.append(part)
        elif part.cut in ("sentences", "lines"):
            todo += _finer(text, part, counted)
        else:
            break
    # A chunk must not begin where the one before it began.
    return [part for part in reversed(kept) if part.start > done[0].start]

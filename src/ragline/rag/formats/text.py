"""Plain text and reStructuredText: paragraphs, underlined headings, lists, literal blocks."""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ragline.core.chunking import Block
from ragline.rag.formats import Parsed, Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ragline.core.chunking import BlockKind

# Only encodings of text on the web: Python knows others ("punycode") that take quadratic time.
WEB_CHARSET = re.compile(
    r"(?:windows-|cp)125\d|iso-?8859-\d+|latin-?\d|us-ascii|ascii|koi8-[ru]|gbk|gb2312|gb18030"
    r"|big5(?:-hkscs)?|shift[-_]jis|euc-(?:jp|kr)|iso-2022-jp|tis-620|utf-16(?:le|be)?\Z"
)
_PARAGRAPH = re.compile(r"[^\n]*\S[^\n]*(?:\n[^\n]*\S[^\n]*)*")
_RULE = re.compile(r"([=\-~^\"'#*+.:`])\1{2,}[^\S\n]*\Z")
_ITEM = re.compile(r"[^\S\n]*(?:[-*+•]|\(?[0-9]{1,3}[.)]|#\.)[^\S\n]")
_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
# What reStructuredText keeps out of sight: images, link targets, rows of substitutions.
_UNSEEN = re.compile(
    r"\.\.[^\S\n]+(?:\|[^|\n]+\|[^\S\n]+)?(?:image|figure|raw|contents)::"
    r"|\.\.[^\S\n]+_|\.\.[^\S\n]*\Z|[^\S\n]+\S|(?:\|[^|\s][^|\n]*\|_*[^\S\n]*)+\Z"
)


def parse(data: bytes) -> Parsed:
    """Return the text with its paragraphs, lists, literal blocks and underlined headings."""
    text = decode(data)
    blocks = tuple(_blocks(text))
    title = next((block.title for block in blocks if block.kind == "heading"), None)
    return Parsed(text, blocks, title)


def decode(data: bytes, encoding: str = "utf-8") -> str:
    """Return the text of `data` without byte order mark, with `\\n` as its only line break."""
    if not data:
        raise Rejected("EMPTY", "the file is empty")
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data.startswith(BOM_UTF8):
        encoding = "utf-8-sig"
    elif b"\0" in data:
        raise Rejected("NUL_BYTE", f"byte {data.index(0)} is NUL; this is not a text file")
    return plain(_decoded(data, encoding))


def plain(text: str) -> str:
    """Return the text with `\\n` as its only line break; reject what no one could read."""
    if "\0" in text:
        raise Rejected("NUL_BYTE", f"character {text.index(chr(0))} is NUL; this is no text file")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise Rejected("EMPTY", "the file has no text in it, only spaces")
    controls = sum(1 for _ in _CONTROL.finditer(text))
    if controls * 20 > len(text):
        raise Rejected("NOT_TEXT", f"{controls} of {len(text)} characters are control characters")
    return text


def clean(text: str) -> str:
    """Return `text` trimmed, with `\\n` as its only line break and spaces for what cannot be shown."""
    return _UNREADABLE.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def rendered(found: Sequence[tuple[BlockKind, int, str]]) -> tuple[str, tuple[Block, ...]]:
    """Return kinds, levels and texts as one text and the blocks in it, parted by blank lines.

    Items of a list and rows of a table that follow each other are one block.
    """
    parts: list[str] = []
    blocks: list[Block] = []
    position = 0
    for kind, level, text in found:
        continues = bool(blocks) and kind in ("list", "table") and blocks[-1].kind == kind
        separator = "\n" if continues else "\n\n" if blocks else ""
        parts += (separator, text)
        start = position + len(separator)
        position = start + len(text)
        if continues:
            blocks[-1] = Block(kind, blocks[-1].start, position)
        else:
            title = text if kind == "heading" else None
            blocks.append(Block(kind, start, position, level, title))
    return "".join(parts), tuple(blocks)


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        reason = "INVALID_UTF8" if encoding.startswith("utf-8") else "NOT_TEXT"
        raise Rejected(
            reason, f"byte {error.start} is not {error.encoding}; convert the file to UTF-8"
        ) from error


def _blocks(text: str) -> Iterator[Block]:
    outline = _Outline()
    is_literal = False
    for match in _PARAGRAPH.finditer(text):
        start, end = match.span()
        is_literal = is_literal and text[start].isspace()
        if is_literal:
            yield Block("code", start, end)
            continue
        while heading := outline.heading(text, start, end):
            yield heading
            start = heading.end + 1
        body = text[start:end]
        if body.strip() and not _is_unseen(body):
            yield Block("list" if _ITEM.match(body) else "paragraph", start, end)
        is_literal = body.rstrip().endswith("::")


def _is_unseen(body: str) -> bool:
    """Whether no line is for a reader; an indented line belongs to the one above it."""
    first, *rest = body.split("\n")
    return all(_UNSEEN.match(line) or _RULE.match(line) for line in (first.lstrip(), *rest))


@dataclass(slots=True)
class _Outline:
    """The styles of underlined headings, in the order in which they appeared: their levels."""

    styles: list[tuple[str, bool]] = field(default_factory=list)

    def heading(self, text: str, start: int, end: int) -> Block | None:
        """Return the heading at the start of a paragraph, if there clearly is one."""
        lines = text[start:end].split("\n", 3)
        is_over = bool(_RULE.match(lines[0])) and len(lines) > 2
        if is_over and lines[0].rstrip() != lines[2].rstrip():
            return None
        above, rule = (lines[1], lines[2]) if is_over else (lines[0], (*lines, "")[1])
        title = above.strip()
        if not _RULE.match(rule) or len(rule.rstrip()) < len(above.rstrip()):
            return None
        if _RULE.match(above) or not title or (above[0].isspace() and not is_over):
            return None
        style = (rule[0], is_over)
        if style not in self.styles:
            self.styles.append(style)
        last = start + len("\n".join(lines[: 3 if is_over else 2]))
        return Block("heading", start, last, self.styles.index(style) + 1, title)

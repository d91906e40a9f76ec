"""Markdown (CommonMark and tables). The text stays as it was written; blocks point into it."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from ragline.core.chunking import Block, BlockKind
from ragline.core.sentences import trim
from ragline.rag.formats import Parsed
from ragline.rag.formats.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markdown_it.token import Token

_KINDS: dict[str, BlockKind] = {
    "heading_open": "heading",
    "paragraph_open": "paragraph",
    "blockquote_open": "paragraph",
    "html_block": "paragraph",
    "fence": "code",
    "code_block": "code",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "table_open": "table",
}
_FRONT_MATTER = re.compile(r"---[^\S\n]*\n((?:[^\n]*\n){1,200}?)(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)")
_FIELD = re.compile(r"([\w.-]+)[^\S\n]*:(?:[^\S\n]+(.*))?\Z")
_TAG = re.compile(r"<!--.*?-->|<[^>]*>", re.DOTALL)
_HTML_HEADING = re.compile(r"<h([1-6])\b[^>]*>(.*?)</h\1\s*>", re.DOTALL | re.IGNORECASE)

_PARSER = MarkdownIt("commonmark").enable("table")


def parse(data: bytes) -> Parsed:
    """Return the Markdown with its blocks; headings carry their plain text.

    Paragraphs that show nothing but images (badges), link definitions and comments are no blocks.
    """
    text = decode(data)
    metadata, begin = _front_matter(text)
    found = tuple(blocks(text, begin))
    title = metadata.get("title") or next((b.title for b in found if b.title), None)
    return Parsed(text, found, title, {**metadata})


def _front_matter(text: str) -> tuple[dict[str, str], int]:
    match = _FRONT_MATTER.match(text)
    if not match:
        return {}, 0
    found: dict[str, str] = {}
    for line in match.group(1).splitlines():
        if one := _FIELD.match(line):
            found[one.group(1)] = (one.group(2) or "").strip().strip("\"'")
        elif line.strip() and not line.startswith((" ", "\t", "-", "#")):
            return {}, 0  # prose between two rules
    return {key: value for key, value in found.items() if value}, match.end()


def blocks(text: str, begin: int = 0) -> Iterator[Block]:
    """Yield the blocks of Markdown from character `begin` on."""
    body = text[begin:]
    starts = list(accumulate((len(line) + 1 for line in body.split("\n")), initial=begin))
    tokens = _PARSER.parse(body)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        kind = _KINDS.get(token.type)
        if kind is None or token.level or token.map is None:
            continue
        first, last = token.map
        span = trim(text, starts[first], min(starts[last], len(text)))
        if span and (block := _block(text, kind, span, token, following)):
            yield block


def _block(
    text: str, kind: BlockKind, span: tuple[int, int], token: Token, following: Token | None
) -> Block | None:
    inline = following.children or () if following and following.type == "inline" else ()
    if kind == "heading":
        return Block(kind, *span, int(token.tag[1]), _visible(inline))
    if token.type == "html_block":
        return _html(text, span)
    if token.type == "paragraph_open" and not _visible(inline):
        return None
    return Block(kind, *span)


def _visible(inline: Sequence[Token]) -> str:
    """Return what a reader sees of inline text, without images and markup."""
    shown = {"text": None, "code_inline": None, "softbreak": " ", "hardbreak": " "}
    parts = [shown[t.type] or t.content for t in inline if t.type in shown]
    return " ".join("".join(parts).split())


def _html(text: str, span: tuple[int, int]) -> Block | None:
    source = text[slice(*span)]
    seen = _TAG.sub(" ", source)
    if not seen.strip():
        return None
    heading = _HTML_HEADING.search(source)
    if heading and _TAG.sub("", source).strip() == _TAG.sub("", heading.group(2)).strip():
        title = " ".join(_TAG.sub("", heading.group(2)).split())
        return Block("heading", *span, int(heading.group(1)), title)
    return Block("paragraph", *span)

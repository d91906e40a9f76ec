"""HTML: what a reader sees, in the order of the source."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from selectolax.lexbor import LexborHTMLParser

from ragline.core.chunking import BlockKind
from ragline.rag.formats import Parsed, Rejected
from ragline.rag.formats.text import WEB_CHARSET, decode, plain, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selectolax.lexbor import LexborNode

_META_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE
)
# fmt: off
_DROPPED = frozenset((
    "script", "style", "nav", "template", "noscript", "head", "svg", "iframe", "object", "canvas",
    "audio", "video",
))
_BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details",
    "dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2",
    "h3", "h4", "h5", "h6", "header", "hr", "html", "legend", "li", "main", "menu", "ol", "p",
    "pre", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
))
# fmt: on
_SPACES = re.compile(r"\s+")
# Elements that only their end tag closes. The parser takes time by the square of the depth.
_NESTING = re.compile(
    r"<(/?)(?:a|article|b|blockquote|center|div|em|font|form|g|i|main|nav|ol|section|small|span"
    r"|strong|svg|table|u|ul)\b",
    re.IGNORECASE,
)
_MOST_DEPTH = 50_000
_AROUND_BREAK = re.compile(r" *\n *")


def parse(data: bytes) -> Parsed:
    """Return the visible text with headings, code, lists and tables as blocks."""
    source = _decoded(data)
    _check_depth(source)
    tree = LexborHTMLParser(source)
    page = _Page()
    if tree.root is not None:
        for node, is_entry in _walk(tree.root):
            page.enter(node) if is_entry else page.leave(node)
    page.close_paragraph()
    text, blocks = rendered(page.found)
    if not text:
        raise Rejected("NO_TEXT", "the page shows no text")
    title = tree.css_first("title")
    return Parsed(text, blocks, " ".join(title.text().split()) or None if title else None)


def _check_depth(source: str) -> None:
    if source.count("<") <= _MOST_DEPTH:
        return
    depth = 0
    for match in _NESTING.finditer(source):
        depth = max(0, depth - 1) if match[1] else depth + 1
        if depth > _MOST_DEPTH:
            raise Rejected("TOO_DEEP", f"its elements are nested more than {_MOST_DEPTH} deep")


def _decoded(data: bytes) -> str:
    if data.startswith(BOM_UTF8):
        return decode(data)  # it weighs more than what the page says of itself
    declared = _META_CHARSET.search(data[:2048])
    name = declared.group(1).decode("ascii").lower() if declared else "utf-8"
    if not WEB_CHARSET.match(name) or name.startswith("utf"):
        return decode(data)  # a page that can be read as ASCII up to here is not UTF-16
    if re.match(r"iso-?8859-1\Z|latin-?1|us-ascii|ascii", name):
        # As browsers do: it has letters where Latin 1 has controls.
        return plain(data.decode("windows-1252", errors="replace"))
    return decode(data, name)


def _walk(root: LexborNode) -> Iterator[tuple[LexborNode, bool]]:
    """Yield every node on entry, and every element on leaving; nesting may be any depth."""
    stack = [(root, True)]
    while stack:
        node, is_entry = stack.pop()
        yield node, is_entry
        if not is_entry:
            continue
        if node.is_element_node and node.tag not in _DROPPED:
            stack.append((node, False))
            children = []
            child = node.first_child
            while child is not None:
                children.append((child, True))
                child = child.next
            stack += reversed(children)


@dataclass(slots=True)
class _Page:
    """The blocks found so far, and the line that is being read."""

    found: list[tuple[BlockKind, int, str]] = field(default_factory=list)
    line: list[str] = field(default_factory=list)
    open_tags: dict[str, int] = field(default_factory=dict)
    cells: list[str] = field(default_factory=list)
    has_bullet: bool = False

    def inside(self, *tags: str) -> int:
        return sum(self.open_tags.get(tag, 0) for tag in tags)

    def enter(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if node.is_text_node:
            text = node.text_content or ""
            self.line.append(text if self.inside("pre") else _SPACES.sub(" ", text))
        elif tag == "br":
            self.line.append("\n")
        elif tag in _BLOCKS:
            self._boundary(tag)
            self.open_tags[tag] = self.inside(tag) + 1
            self.has_bullet = self.has_bullet or tag == "li"

    def leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag not in _BLOCKS:
            return
        if tag in ("td", "th") and self.inside("td", "th") == 1:
            self.cells.append(" ".join("".join(self.line).split()))
            self.line.clear()
        else:
            self._boundary(tag)
        self.open_tags[tag] -= 1
        if tag == "tr" and not self.inside("td", "th"):
            self._close_row()

    def _boundary(self, tag: str) -> None:
        if self.inside("td", "th"):
            self.line.append(" ")  # a cell is one line, whatever is in it
        elif tag == "pre" or not self.inside("pre"):
            self.close_paragraph()

    def _close_row(self) -> None:
        if any(self.cells):
            self.found.append(("table", 0, " | ".join(self.cells)))
        self.cells.clear()

    def close_paragraph(self) -> None:
        """End the block at hand: a heading, code, a list item or a paragraph."""
        raw = "".join(self.line)
        self.line.clear()
        if not raw.strip():
            return
        if self.inside("pre"):
            lines = [line.rstrip() for line in raw.split("\n")]
            self.found.append(("code", 0, "\n".join(lines).strip("\n")))
            return
        text = _AROUND_BREAK.sub("\n", re.sub(r" {2,}", " ", raw)).strip()
        level = next((n for n in range(1, 7) if self.inside(f"h{n}")), 0)
        if level:
            self.found.append(("heading", level, " ".join(text.split())))
        elif self.inside("li"):
            indent = "  " * (self.inside("ul", "ol", "menu") - 1)
            self.found.append(("list", 0, indent + ("- " if self.has_bullet else "  ") + text))
            self.has_bullet = False
        else:
            self.found.append(("paragraph", 0, text))

"""What a page would make of an answer: Markdown with HTML and automatic links, as eager as can be."""

from __future__ import annotations

from html.parser import HTMLParser

import linkify_it
from linkify_it.tlds import TLDS
from markdown_it import MarkdownIt

# What Markdown itself makes of words. None of it fetches, links or runs anything.
_HARMLESS = frozenset(
    "p em strong s code pre ul ol li blockquote h1 h2 h3 h4 h5 h6 hr br "
    "table thead tbody tr th td".split()
)
_MARKDOWN = MarkdownIt("js-default", {"html": True, "linkify": True, "typographer": True})
# With all endings of hosts, as chats know them, and not only the few that are told from words.
_LINKIFY = linkify_it.LinkifyIt().tlds(TLDS)
_MARKDOWN.linkify = _LINKIFY


class _Effects(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        telling = {name for name, _ in attrs} - {"start", "class", "style"}
        # Of a table's column and of a block of code, written by the renderer.
        styles = {value for name, value in attrs if name == "style"}
        if tag not in _HARMLESS or telling or any("url" in (style or "") for style in styles):
            self.found.append(f"<{tag} {dict(attrs)}>")

    def handle_comment(self, data: str) -> None:
        self.found.append(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self.found.append(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self.found.append(f"<?{data}>")

    def unknown_decl(self, data: str) -> None:
        self.found.append(f"<![{data}]>")


def html(text: str) -> str:
    """Return the page that a renderer makes of a text."""
    return str(_MARKDOWN.render(text))


def effects(text: str) -> list[str]:
    """Return the tags that are more than words, and the addresses that a linker would link."""
    parser = _Effects()
    parser.feed(html(text))
    parser.close()
    return parser.found


def links(text: str) -> list[str]:
    """Return what a program that knows no Markdown would make links of, in plain text."""
    return [found.url for found in _LINKIFY.match(text) or []]

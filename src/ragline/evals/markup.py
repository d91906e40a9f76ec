"""HTML as values: elements that escape what they hold, so that no text can become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

from ragline.evals.report_content import legible

_VOID = frozenset(("meta", "br", "hr", "line", "circle", "rect", "path"))


class Html(str):
    """Markup made here. Any other string is text, and is escaped where it is put in."""

    __slots__ = ()


def text(value: str) -> Html:
    """Return text as markup that shows it, whatever it holds."""
    return value if isinstance(value, Html) else Html(html.escape(legible(value)))


def element(tag: str, *children: str, **attributes: str | float | bool | None) -> Html:
    """Return an element with its children in order.

    Names of attributes lose a last `_` and write others as `-`; None and False leave one out.

    >>> element("p", "1 < 2", class_="note", hidden=False)
    '<p class="note">1 &lt; 2</p>'
    """
    start = f"<{tag}{''.join(_attribute(*item) for item in attributes.items())}>"
    if tag in _VOID:
        return Html(start[:-1] + "/>")
    return Html(f"{start}{joined(children)}</{tag}>")


def joined(children: Iterable[str]) -> Html:
    """Return pieces of text and markup as one."""
    return Html("".join(text(child) for child in children))


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    written = name.removesuffix("_").replace("_", "-")
    if value is True:
        return f" {written}"
    shown = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f' {written}="{html.escape(legible(shown))}"'

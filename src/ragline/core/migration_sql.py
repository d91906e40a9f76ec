"""The words of SQL statements: where one ends, what names mean, which functions are called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ragline.core.sql_names import unquoted
from ragline.core.sql_tokens import comment_end

PART = r'(?:"(?:[^"]|"")+"|[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)'
NAME = rf"{PART}(?:\s*\.\s*{PART})?"
_PIECE = re.compile(
    r"""(?P<comment>--[^\n]*|/\*)
    |(?P<dollar>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<text>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*")
    |(?P<space>\s+)
    |(?P<word>[^\W\d][\w$]*)
    |(?P<end>;)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_CALL = re.compile(rf"({NAME})\s*\(")


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of SQL as written. `kind` is the name of what it matched in `_PIECE`."""

    kind: str
    text: str
    start: int


def pieces(sql: str) -> Iterator[Piece]:
    """Yield all of a text, piece by piece; a quote that is never closed is a sign like others."""
    at = 0
    while (found := _PIECE.match(sql, at)) is not None:
        start, at = at, found.end()
        if found[0] == "/*":
            at = comment_end(sql, start) or len(sql)
        yield Piece(found.lastgroup or "other", sql[start:at], start)


def split(sql: str) -> list[str]:
    """Return the statements of a text without comments; quotes and dollar quotes are respected.

    >>> split("select ';'; -- one; two\\n drop table a;")
    ["select ';'", 'drop table a']
    """
    found: list[str] = []
    current: list[str] = []
    for piece in pieces(sql):
        if piece.kind == "end":
            found.append("".join(current).strip())
            current = []
        else:
            current.append(" " if piece.kind == "comment" else piece.text)
    found.append("".join(current).strip())
    return [text for text in found if text]


def plain(name: str) -> str:
    """Return a name without quotes and case: what two texts must agree in to mean one thing.

    >>> plain('Public."My Table"')
    'public.My Table'
    """
    return ".".join(map(unquoted, re.findall(PART, name)))


def parted(name: str) -> tuple[str | None, str]:
    """Return schema and name of a table as SQL writes it, unquoted; no schema is None."""
    parts = [plain(part) for part in re.findall(PART, name)]
    return (parts[0], parts[1]) if len(parts) > 1 else (None, parts[0])


def last(name: str) -> str:
    """Return the last part of a plain name."""
    return name.rpartition(".")[2]


def top_level(text: str) -> Iterator[Piece]:
    """Yield the pieces of a text that stand in no brackets."""
    depth = 0
    for piece in pieces(text):
        depth -= piece.text in (")", "]")
        if depth == 0:
            yield piece
        depth += piece.text in ("(", "[")


def divided(text: str) -> list[str]:
    """Return what commas divide, outside of brackets and quotes.

    >>> divided("a = f(1, 2), b = ','")
    ['a = f(1, 2)', "b = ','"]
    """
    commas = [piece.start for piece in top_level(text) if piece.text == ","]
    parts = zip([-1, *commas], [*commas, len(text)], strict=True)
    return [text[one + 1 : other].strip() for one, other in parts]


def before_word(text: str, *words: str) -> str:
    """Return what stands before the first of some words, outside of brackets and quotes.

    >>> before_word("a = ' where ', b = 1 where c", "where")
    "a = ' where ', b = 1 "
    """
    seen = [" "] * len(text)
    for piece in top_level(text):
        # A word within quotes is no word of the statement.
        is_code = piece.kind in ("word", "space", "other")
        seen[piece.start : piece.start + len(piece.text)] = (
            piece.text if is_code else "'" * len(piece.text)
        )
    found = re.search(rf"\b({'|'.join(words)})\b", "".join(seen), re.IGNORECASE)
    return text if found is None else text[: found.start()]


def calls(text: str) -> tuple[str, ...]:
    """Return the names that brackets follow: functions, among keywords and types."""
    return tuple(dict.fromkeys(_CALL.findall(text)))

"""SQL cut into tokens: enough to see what a statement names, and what a filter of a plan says."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, cast

Kind = Literal["word", "quoted", "text", "parameter", "number", "operator", "mark"]

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*)
    | (?P<text>[eE]'(?:[^'\\]|''|\\.)*'|(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'
        |\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
    | (?P<parameter>\$\d+)
    | (?P<number>\d[\w.]*|\.\d\w*)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<mark>::|:=|[(),.;:\[\]{}])
    | (?P<operator>[-+*/<>=~!@\#%^&|`?]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")
_OF_A_KEY = ("->", "->>", "#>", "#>>")
_KEY = re.compile(r"'[^'\\\0]*'|\d+")
# What a word of SQL uses without writing it down, found as every other operator is.
_IMPLIED = {
    "in": ("=", "<>"),
    "like": ("~~", "!~~"),
    "ilike": ("~~*", "!~~*"),
    "similar": ("~", "!~"),
    "between": ("<", "<=", ">", ">="),
    "case": ("=",),
    "nullif": ("=",),
    "using": ("=",),
    "natural": ("=",),
    "distinct": ("=",),
}


@dataclass(frozen=True, slots=True)
class Token:
    """A token as written. `name` is what a word or a quoted name means."""

    kind: Kind
    text: str

    @property
    def name(self) -> str:
        """The identifier that it is, as the catalog has it."""
        if self.kind == "quoted":
            return self.text[1:-1].replace('""', '"')
        return self.text.lower()


def tokens(sql: str) -> list[Token] | None:
    """Return the tokens of SQL, without comments; None for what cannot be read."""
    found: list[Token] = []
    at = 0
    while at < len(sql):
        if sql.startswith("/*", at):
            if (end := comment_end(sql, at)) is None:
                return None
            at = end
            continue
        match = _TOKEN.match(sql, at)
        if match is None:
            return None
        text, kind = match[0], match.lastgroup
        if kind == "operator":
            text = text.partition("/*")[0].partition("--")[0]
        at += len(text)
        if kind != "space":
            found.append(Token(cast("Kind", kind), text))
    return found


def first_word(sql: str) -> str:
    """Return the word that a statement begins with, in small letters; "" for none."""
    for token in tokens(sql) or ():
        if token.text == "(":
            continue
        return token.text.lower() if token.kind == "word" else ""
    return ""


def mentions(sql: str, names: Collection[str]) -> str | None:
    """Return the first name that SQL may mean, or use as an operator; what cannot be read means all.

    A name written with escapes could mean any.
    """
    if not names:
        return None
    found = tokens(sql)
    if found is None or any(token.text[:2].lower() == "u&" for token in found):
        return next(iter(names))
    return next((name for name in _named(found) if name in names), None)


def with_keys(sql: str, said: str) -> tuple[str, tuple[str, ...]] | None:
    """Return SQL with the keys of JSON values that were taken out of it, and those keys.

    `said` is the same statement as somebody sent it. None where it is not the same, or has no keys.
    """
    read, full = tokens(sql), tokens(said)
    if read is None or full is None:
        return None
    found: dict[int, str] = {}
    at = 0
    for number, token in enumerate(read):
        if at >= len(full):
            return None
        if token.kind != "parameter":
            if token != full[at]:
                return None
            at += 1
            continue
        at += full[at].text == "-"
        if at >= len(full):
            return None
        before = read[number - 1].text if number else ""
        if before in _OF_A_KEY and _KEY.fullmatch(full[at].text):
            found[number] = full[at].text
        at += 1
        if number + 1 < len(read) and read[number + 1].text == ")":
            at = _list_end(full, at)  # one stands for a whole list
    if not found or at != len(full):
        return None
    return _renumbered(read, found), tuple(dict.fromkeys(found.values()))


def _list_end(full: list[Token], at: int) -> int:
    if at >= len(full) or full[at].text != ",":
        return at
    while at < len(full) and full[at].text != ")":
        at += 1
    return at


def _renumbered(read: list[Token], put_back: dict[int, str]) -> str:
    """Return tokens as SQL, with some parameters replaced, and no number left out among the others."""
    kept = [token for number, token in enumerate(read) if number not in put_back]
    numbers = sorted({int(token.text[1:]) for token in kept if token.kind == "parameter"})
    names = {f"${number}": f"${place}" for place, number in enumerate(numbers, start=1)}
    return " ".join(
        put_back.get(number, names.get(token.text, token.text)) for number, token in enumerate(read)
    )


def called(sql: str) -> set[str]:
    """Return the names that stand before a parenthesis: functions, and a few words of SQL."""
    found = tokens(sql) or []
    return {
        one.name
        for one, following in itertools.pairwise(found)
        if following.text == "(" and one.kind in ("word", "quoted")
    }


def _named(found: Iterable[Token]) -> Iterable[str]:
    for token in found:
        if token.kind in ("word", "quoted"):
            yield token.name
            yield from _IMPLIED.get(token.name, ())
        elif token.kind == "operator":
            yield token.text


def comment_end(sql: str, at: int) -> int | None:
    """Return where a comment ends; they nest."""
    depth = 0
    for found in _COMMENT.finditer(sql, at):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return found.end()
    return None

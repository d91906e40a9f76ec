"""Just enough of SQL to say what a statement does: no parser, and it never has to be one."""

from __future__ import annotations

import re

_PIECES = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
  | (?P<body>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<text>[eE]?'(?:[^'\\]|''|\\.)*')
  | (?P<quoted>"(?:[^"]|"")*")
  | (?P<space>\s+)
  | (?P<end>;)
  | (?P<other>[^\s;'"$/-]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
PART = r'(?:"(?:[^"]|"")*"|[^\W\d][\w$]*)'
NAME = rf"{PART}(?:\s*\.\s*{PART})?"
_BEGINNING = re.compile(r"^(?:begin|then|else|loop|declare)\b\s*")


def statements(text: str) -> list[str]:
    """Return the statements of a text, without comments, on one line, in lower case but for names.

    Texts in quotes are kept; a DO block is followed by the statements in its body.
    """
    found: list[str] = []
    parts: list[str] = []
    bodies: list[str] = []
    for match in _PIECES.finditer(text):
        kind = match.lastgroup
        if kind == "end":
            _close(found, parts, bodies)
        elif kind in ("space", "comment"):
            parts.append(" ")
        elif match["body"] is not None:
            bodies.append(match["body"].split("$", 2)[2].rsplit("$", 2)[0])
            parts.append("$$")
        else:
            parts.append(match[0] if kind in ("text", "quoted") else match[0].lower())
    _close(found, parts, bodies)
    return found


def _close(found: list[str], parts: list[str], bodies: list[str]) -> None:
    statement = re.sub(r" +", " ", "".join(parts)).strip()
    if statement:
        found.append(statement)
    if statement.startswith("do "):
        for body in bodies:
            found += [
                inner
                for one in statements(body)
                if (inner := _without_beginning(one)) not in ("", "end")
            ]
    parts.clear()
    bodies.clear()


def _without_beginning(statement: str) -> str:
    while (shorter := _BEGINNING.sub("", statement)) != statement:
        statement = shorter
    return statement


def without_texts(statement: str) -> str:
    """Return a statement with every text in quotes made empty: a word in it is no keyword."""
    return re.sub(r"'(?:[^'\\]|''|\\.)*'", "''", statement)


def plain(name: str) -> str:
    """Return a name without its quotes.

    >>> plain('public . "My table"')
    'public.My table'
    """
    parts = re.findall(PART, name)
    return ".".join(
        part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts
    )


def names(listed: str) -> list[str]:
    """Return the names of a list such as DROP TABLE takes."""
    return [plain(found) for found in re.findall(NAME, listed)]

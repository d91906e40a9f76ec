"""The words of SQL statements: where one ends, what names mean, which functions are called."""

from __future__ import annotations

import re
from collections.abc import Iterator

PART = r'(?:"(?:[^"]|"")+"|[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)'
NAME = rf"{PART}(?:\s*\.\s*{PART})?"
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
    |(?P<quoted>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<dollar>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<end>;)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_CALL = re.compile(rf"({NAME})\s*\(")
_OPENING, _CLOSING = "([", ")]"


def split(sql: str) -> list[str]:
    """Return the statements of a text without comments; quotes and dollar quotes are respected.

    >>> split("select ';'; -- one; two\\n drop table a;")
    ["select ';'", 'drop table a']
    """
    found: list[str] = []
    current: list[str] = []
    for token in _TOKEN.finditer(sql):
        if token["end"]:
            found.append("".join(current).strip())
            current = []
        else:
            current.append(" " if token["comment"] else token.group())
    found.append("".join(current).strip())
    return [text for text in found if text]


def plain(name: str) -> str:
    """Return a name without quotes and case: what two texts must agree in to mean one thing.

    >>> plain('Public."My Table"')
    'public.My Table'
    """
    parts = re.findall(PART, name)
    return ".".join(
        part[1:-1].replace('""', '"') if part.startswith('"') else part.lower() for part in parts
    )


def parted(name: str) -> tuple[str | None, str]:
    """Return schema and name of a table as SQL writes it, unquoted; no schema is None."""
    parts = [plain(part) for part in re.findall(PART, name)]
    return (parts[0], parts[1]) if len(parts) > 1 else (None, parts[0])


def last(name: str) -> str:
    """Return the last part of a plain name."""
    return name.rpartition(".")[2]


def top_level(text: str) -> Iterator[tuple[int, str]]:
    """Yield the pieces of a text that stand in no brackets, each with where it begins.

    A quoted piece comes whole, so that no word inside of it is taken for a word of the statement.
    """
    depth = 0
    for token in _TOKEN.finditer(text):
        said = token.group()
        if token["other"] and said in _CLOSING:
            depth -= 1
        if depth == 0:
            yield token.start(), said
        if token["other"] and said in _OPENING:
            depth += 1


def divided(text: str) -> list[str]:
    """Return what commas divide, outside of brackets and quotes.

    >>> divided("a = f(1, 2), b = ','")
    ['a = f(1, 2)', "b = ','"]
    """
    commas = [at for at, said in top_level(text) if said == ","]
    parts = zip([-1, *commas], [*commas, len(text)], strict=True)
    return [text[one + 1 : other].strip() for one, other in parts]


def before_word(text: str, *words: str) -> str:
    """Return what stands before the first of some words, outside of brackets and quotes.

    >>> before_word("a = ' where ', b = 1 where c", "where")
    "a = ' where ', b = 1 "
    """
    seen = [" "] * len(text)
    for at, said in top_level(text):
        if len(said) == 1:
            seen[at] = said
        else:
            seen[at : at + len(said)] = "'" * len(said)
    found = re.search(rf"\b({'|'.join(words)})\b", "".join(seen), re.IGNORECASE)
    return text if found is None else text[: found.start()]


def calls(text: str) -> tuple[str, ...]:
    """Return the names that brackets follow: functions, among keywords and types."""
    return tuple(dict.fromkeys(_CALL.findall(text)))

"""Just enough of SQL to say what a statement does: no parser, and it never has to be one."""

from __future__ import annotations

import re

from ragline.core.migration_sql import NAME, pieces, plain

_TEXT = re.compile(r"(?<!\w)[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'", re.DOTALL)
_BEGINNING = re.compile(
    r"^(?:begin|then|else|declare|loop"
    r"|(?:if|elsif|elseif)\b.*?\bthen|when\b.*?\bthen|(?:while|for|foreach)\b.*?\bloop)\b\s*"
)
_EXECUTED = re.compile(r"^(?:execute|perform)\b")
_PASTED = re.compile(r"%(?:\d+\$)?[Is]")
_DEEPEST = 5


def statements(text: str, *, depth: int = 0) -> list[str]:
    """Return the statements of a text, without comments, on one line, in lower case but for names.

    Texts in quotes are kept; a DO block is followed by the statements in its body, and an EXECUTE in
    it by those in its texts.
    """
    found: list[str] = []
    parts: list[str] = []
    bodies: list[str] = []
    for piece in pieces(text):
        if piece.kind == "end":
            _close(found, parts, bodies, depth)
        elif piece.kind in ("space", "comment"):
            parts.append(" ")
        elif piece.kind == "dollar":
            bodies.append(piece.text.split("$", 2)[2].rsplit("$", 2)[0])
            parts.append("$$")
        else:
            parts.append(piece.text if piece.kind in ("text", "quoted") else piece.text.lower())
    _close(found, parts, bodies, depth)
    return found


def _close(found: list[str], parts: list[str], bodies: list[str], depth: int) -> None:
    statement = re.sub(r" +", " ", "".join(parts)).strip()
    if statement:
        found.append(statement)
    if statement.startswith("do ") and depth < _DEEPEST:
        # A body is in dollars, or in quotes.
        inside = bodies or [_unquoted(one) for one in _TEXT.findall(statement)]
        for body in inside:
            for one in statements(body, depth=depth + 1):
                found += _of_body(one, depth)
    parts.clear()
    bodies.clear()


def _of_body(statement: str, depth: int) -> list[str]:
    inner = _without_beginning(statement)
    if _EXECUTED.match(inner):
        # What format() pastes into it has no name yet.
        texts = [_PASTED.sub('"…"', _unquoted(one)) for one in _TEXT.findall(inner)]
        return [inner, *(one for text in texts for one in statements(text, depth=depth + 1))]
    return [] if inner in ("", "end", "end if", "end loop") else [inner]


def _unquoted(text: str) -> str:
    return text[text.index("'") + 1 : -1].replace("''", "'")


def _without_beginning(statement: str) -> str:
    while (shorter := _BEGINNING.sub("", statement)) != statement:
        statement = shorter
    return statement


def without_texts(statement: str) -> str:
    """Return a statement with every text in quotes made empty: a word in it is no keyword."""
    return _TEXT.sub("''", statement)


def parts_of(statement: str) -> list[str]:
    """Return what a WITH statement does, one part after the other; another one is its only part.

    >>> parts_of("with d as (delete from t returning a) insert into u select * from d")
    ['delete from t returning a', 'insert into u select * from d']
    """
    if not statement.startswith("with "):
        return [statement]
    found, depth, start = [], 0, 0
    for position, character in enumerate(statement):
        if character == "(":
            depth += 1
            start = position + 1 if depth == 1 else start
        elif character == ")":
            depth -= 1
            if depth == 0:
                found.append(statement[start:position].strip())
                start = position + 1
    return [*found, statement[start:].strip()]


def outermost(statement: str) -> str:
    """Return a statement without what stands in brackets.

    >>> outermost("set a = (select b from u where u.id = 1)")
    'set a = ()'
    """
    found, depth = [], 0
    for character in statement:
        depth -= character == ")"
        if depth <= 0:
            found.append(character)
        depth += character == "("
    return "".join(found)


def names(listed: str) -> list[str]:
    """Return the names of a list such as DROP TABLE takes."""
    return [plain(found) for found in re.findall(NAME, listed)]

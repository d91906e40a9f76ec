"""Filters as a line of text: for people, on the command line.

    lang = "en" and (year >= 2020 or tags contains 'x') and not draft exists
    author in ["a", "b"]      `published at` < "2024-05"

`or` binds loosest, then `and`, then `not`. Values are JSON's; texts may stand in single quotes too. A
key that is not a plain word, or is a word of this language, stands in double quotes or backticks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NoReturn, assert_never

from ragline.core.filters.expressions import (
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Order,
    Scalar,
)
from ragline.errors import UsageError

LONGEST_TEXT = 2_000_000
_DEEPEST_TEXT = 50
_SIGNS: dict[str, Order] = {"=": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_SIGN_OF = {order: sign for sign, order in _SIGNS.items()}
_WORDS = frozenset("and or not in contains exists true false null".split(" "))
_CONSTANTS: dict[str, Scalar] = {"true": True, "false": False, "null": None}
_PLAIN_KEY = re.compile(r"[^\W\d][\w.-]*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)

_Kind = Literal["space", "text", "number", "word", "sign", "other", "end"]
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<text>"[^"\\]*(?:\\.[^"\\]*)*" | '[^'\\]*(?:\\.[^'\\]*)*' | `[^`\\]*(?:\\.[^`\\]*)*`)
    | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,4})?(?![\w.]))
    | (?P<word>[^\W\d][\w.-]*)
    | (?P<sign><=|>=|!=|=|<|>|\(|\)|\[|\]|,)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def from_text(text: str) -> Filter:
    """Return the filter that a line of text stands for; raises UsageError that says where it is wrong.

    >>> from_text("year >= 2020 and not draft exists")
    And(parts=(Compare(key='year', op='ge', value=2020), Not(part=Exists(key='draft'))))
    """
    if len(text) > LONGEST_TEXT:
        raise UsageError(
            f"the filter has {len(text):,} characters; at most {LONGEST_TEXT:,} are read"
        )
    reader = _Reader(text)
    found = _alternatives(reader)
    if reader.kind != "end":
        reader.expected("`and`, `or` or the end")
    return found


def to_text(filter: Filter) -> str:  # noqa: A002 -- the word for it
    """Return a filter on one line; `from_text` gives the same filter back."""
    match filter:
        case And(parts):
            return " and ".join(_bracketed(part) for part in parts)
        case Or(parts):
            return " or ".join(_bracketed(part) for part in parts)
        case Not(part):
            return f"not {_bracketed(part)}"
        case Compare(key, order, value):
            return f"{_written_key(key)} {_SIGN_OF[order]} {_written(value)}"
        case In(key, values):
            return f"{_written_key(key)} in [{', '.join(map(_written, values))}]"
        case Contains(key, value):
            return f"{_written_key(key)} contains {_written(value)}"
        case Exists(key):
            return f"{_written_key(key)} exists"
        case _:
            assert_never(filter)


def _bracketed(part: Filter) -> str:
    return f"({to_text(part)})" if isinstance(part, And | Or) else to_text(part)


def _written_key(key: str) -> str:
    if _PLAIN_KEY.fullmatch(key) and key.lower() not in _WORDS:
        return key
    return json.dumps(key, ensure_ascii=False)


def _written(value: Scalar) -> str:
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


@dataclass(slots=True)
class _Reader:
    """A text and the token that is read next."""

    text: str
    kind: _Kind = "space"
    token: str = ""
    start: int = 0
    end: int = 0
    depth: int = 0

    def __post_init__(self) -> None:
        self.step()

    def step(self) -> None:
        """Go on to the next token."""
        self.kind = "space"
        while self.kind == "space":
            self.start = self.end
            found = _TOKEN.match(self.text, self.start)
            self.kind = "end" if found is None else found.lastgroup  # type: ignore[assignment]
            self.token = "" if found is None else found.group()
            self.end += len(self.token)

    def takes(self, *tokens: str) -> bool:
        """Go on if the next token is one of these words or signs."""
        is_one = self.kind in ("word", "sign") and self.token.lower() in tokens
        if is_one:
            self.step()
        return is_one

    def deeper(self, read: Callable[[_Reader], Filter]) -> Filter:
        self.depth += 1
        if self.depth > _DEEPEST_TEXT:
            self.fail(f"more than {_DEEPEST_TEXT} brackets and `not` inside each other")
        found = read(self)
        self.depth -= 1
        return found

    def expected(self, what: str) -> NoReturn:
        if self.kind == "end":
            self.fail(f"expected {what}, and the text ends")
        if self.kind == "other" and self.token in tuple("\"'`"):
            self.fail(f"this {self.token} is never closed")
        shown = self.token if len(self.token) <= 40 else f"{self.token[:39]}…"
        self.fail(f"expected {what}, found {shown!a}")

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        place = self.start if at is None else at
        raise UsageError(f"filter, character {place + 1}: {why}")


def _alternatives(reader: _Reader) -> Filter:
    at = reader.start
    parts = [_conjunction(reader)]
    while reader.takes("or"):
        parts.append(_conjunction(reader))
    return parts[0] if len(parts) == 1 else _made(at, lambda: Or(tuple(parts)))


def _conjunction(reader: _Reader) -> Filter:
    at = reader.start
    parts = [_negation(reader)]
    while reader.takes("and"):
        parts.append(_negation(reader))
    return parts[0] if len(parts) == 1 else _made(at, lambda: And(tuple(parts)))


def _negation(reader: _Reader) -> Filter:
    at = reader.start
    if reader.takes("not"):
        part = reader.deeper(_negation)
        return _made(at, lambda: Not(part))
    if reader.takes("("):
        inner = reader.deeper(_alternatives)
        if not reader.takes(")"):
            reader.expected("`and`, `or` or `)`")
        return inner
    return _condition(reader)


def _condition(reader: _Reader) -> Filter:
    at = reader.start
    key = _read_key(reader)
    if reader.takes("exists"):
        return _made(at, lambda: Exists(key))
    if reader.takes("contains"):
        value = _read_value(reader)
        return _made(at, lambda: Contains(key, value))
    if reader.takes("in"):
        values = _read_list(reader)
        return _made(at, lambda: In(key, values))
    order = _SIGNS.get(reader.token) if reader.kind == "sign" else None
    if order is None:
        reader.expected("an operator after the key (= != < <= > >= in contains exists)")
    reader.step()
    value = _read_value(reader)
    return _made(at, lambda: Compare(key, order, value))


def _read_key(reader: _Reader) -> str:
    token = reader.token
    is_quoted = reader.kind == "text" and token[0] != "'"
    is_plain = reader.kind == "word" and token.lower() not in _WORDS
    if not is_quoted and not is_plain:
        reader.expected(
            "a key (in double quotes or backticks if it is no plain word), `not` or `(`"
        )
    key = _unquoted(reader) if is_quoted else token
    reader.step()
    return key


def _read_value(reader: _Reader) -> Scalar:
    value: Scalar
    if reader.kind == "text" and reader.token[0] != "`":
        value = _unquoted(reader)
    elif reader.kind == "number":
        # Short whole numbers, the usual ones, read as Python's own.
        value = (
            int(reader.token) if len(reader.token) < 20 and _is_whole(reader) else _exact(reader)
        )
    elif reader.kind == "word" and reader.token.lower() in _CONSTANTS:
        value = _CONSTANTS[reader.token.lower()]
    else:
        reader.expected("a value (a text in quotes, a number, true, false or null)")
    reader.step()
    return value


def _is_whole(reader: _Reader) -> bool:
    return reader.token.lstrip("-").isdigit()


def _exact(reader: _Reader) -> Decimal:
    if len(reader.token) > 4000:
        reader.fail("this number is too long to be compared with")
    return Decimal(reader.token)


def _read_list(reader: _Reader) -> tuple[Scalar, ...]:
    if not reader.takes("["):
        reader.expected("a list such as [1, 2] after `in`")
    values: list[Scalar] = []
    if reader.takes("]"):
        return ()
    while True:
        values.append(_read_value(reader))
        if reader.takes("]"):
            return tuple(values)
        if not reader.takes(","):
            reader.expected("`,` or `]`")


def _unquoted(reader: _Reader) -> str:
    """Return what a quoted token says: JSON's escapes, and any quote after a backslash."""

    def meaning(found: re.Match[str]) -> str:
        escaped = found.group(1)
        if len(escaped) == 5:
            return chr(int(escaped[1:], 16))
        if escaped in "\"'`\\/":
            return escaped
        if escaped not in _ESCAPES:
            reader.fail(
                f"a backslash before {escaped!a} means nothing; write \\\\ for a backslash",
                reader.start + 1 + found.start(),
            )
        return _ESCAPES[escaped]

    plain = _ESCAPE.sub(meaning, reader.token[1:-1])
    # JSON writes characters beyond U+FFFF as two halves.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _made(at: int, make: Callable[[], Filter]) -> Filter:
    try:
        return make()
    except UsageError as error:
        raise UsageError(f"filter, character {at + 1}: {error}") from error

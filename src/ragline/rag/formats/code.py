"""Source code: cut where functions and classes begin, else at blank lines; lines stay as they are.

A definition is found by its first line, as `git diff` finds what to show above a hunk. That works
for files with errors and for new dialects too, and a wrong guess only moves a cut. Definitions are
headings, so every chunk of a method names its class.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ragline.core.chunking import Block
from ragline.rag.formats import Parsed, Rejected
from ragline.rag.formats.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

# The longest of code without a blank line that stays one block, in characters: about one chunk.
_LONG = 600
# A definition within a function is part of it; members of a class within a namespace are not.
_MOST_LEVELS = 3
_LONGEST_TITLE = 200
_LONGEST_LINE = 400  # of what is looked at: generated lines of a megabyte define nothing

_MODIFIERS = (
    r"(?:(?:public|private|protected|internal|static|final|abstract|sealed|async|override|virtual"
    r"|synchronized|native|default|partial|readonly|open|data|inline|suspend|export|declare|extern"
    r"|unsafe|const|fileprivate|mutating|implicit|case|operator)\s+)*"
)
_BRACES = (
    r"(?:class|interface|struct|enum|record|trait|object|namespace|module|union|protocol|extension"
    r"|actor)\b"
)
# A call or a statement looks much like a method; these words never name one.
_NO_NAME = r"(?!(?:if|for|while|switch|catch|return|else|do|try|with|new|throw|await|case|using)\b)"
_METHOD = rf"{_MODIFIERS}{_NO_NAME}[\w<>\[\],.?*&:~@\s]*?[\w$~#]+\s*(?:<[^>(]*>\s*)?\([^;]*$"

_CONTAINERS = {
    "python": r"class\s+\w",
    "ruby": r"(?:class|module)\s",
    "php": _MODIFIERS + _BRACES,
    "rust": r"(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+)?(?:impl\b|trait\s|mod\s|struct\s|enum\s)",
    "go": r"type\s+\w+\s+(?:struct|interface)\b",
    "javascript": rf"(?:export\s+)?(?:default\s+)?{_MODIFIERS}(?:class|interface|enum|namespace)\s",
    "c": r"(?:template\s*<.*>\s*)?(?:typedef\s+)?(?:class|struct|union|enum|namespace)\b[^;]*$",
}
_FUNCTIONS = {
    "python": r"(?:async\s+)?def\s+\w",
    "ruby": r"def\s",
    "php": rf"{_MODIFIERS}function\b",
    "rust": r"(?:pub(?:\([^)]*\))?\s+)?(?:(?:const|async|unsafe|extern(?:\s+\"\w+\")?)\s+)*fn\s"
    r"|macro_rules!",
    "go": r"func\b",
    "javascript": (
        rf"(?:export\s+)?(?:default\s+)?{_MODIFIERS}(?:function\b|type\s+\w+.*=)"
        r"|(?:export\s+)?(?:const|let|var)\s+\w+.*(?:=>|\bfunction\b)"
        rf"|{_MODIFIERS}(?:get\s+|set\s+)?{_NO_NAME}[\w$#]+\s*\([^;]*\)[^;=]*\{{\s*$"
    ),
    "kotlin": rf"{_MODIFIERS}fun\s",
    "scala": rf"{_MODIFIERS}def\s",
    "swift": rf"{_MODIFIERS}(?:func\s|init\b)",
    "java": _METHOD,
    "c": rf"{_NO_NAME}[\w:<>,*&~\s\[\]]+\([^;]*$",
    "lua": r"(?:local\s+)?function\b",
    "shell": r"(?:function\s+[\w:-]+|[\w:-]+\s*\(\))",
    "sql": r"(?i:create|alter|insert|update|delete|select|with|grant|comment\s+on|drop)\b",
    "toml": r"\[",
    "yaml": r"[\w\"'][^#]*:\s*(?:[|>&!].*)?$",
}
# What stands right above a definition and belongs to it.
_ATTACHED = re.compile(
    r"\s*(?:#(?!include|define|if|end|!)|//|/\*|\*|--|@|\[\w|\"\"\"|'''|template\s*<)"
)
_BLANK = re.compile(r"\n[^\S\n]*\n")
_FLAT = frozenset(("sql", "toml", "yaml", "shell", "lua", "go"))  # nothing is defined further in


def parse(data: bytes, language: str) -> Parsed:
    """Return the source as it is, with a heading for each definition; `language` picks how it looks."""
    text = decode(data)
    if language == "json":
        _check_depth(text)
    return Parsed(text, tuple(_blocks(text, language)))


def _check_depth(text: str) -> None:
    try:
        json.loads(text)
    except RecursionError as error:
        raise Rejected("TOO_DEEP", "its values are nested too deep to be read") from error
    except ValueError:
        return  # comments and trailing commas are usual in settings of tools


def _blocks(text: str, language: str) -> Iterator[Block]:
    position = 0
    for start, line_start, line_end, level in _definitions(text, language):
        yield from _plain(text, position, start)
        title = " ".join(text[line_start:line_end].split())[:_LONGEST_TITLE].rstrip("{: ")
        yield Block("heading", start, line_end, level, title)
        position = line_end
    yield from _plain(text, position, len(text))


def _definitions(text: str, language: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield where each definition begins, with and without its comments, its line's end, its level."""
    containers = re.compile(_CONTAINERS.get(language, _MODIFIERS + _BRACES))
    functions = re.compile(_FUNCTIONS.get(language, r"(?!)"))
    open_indents: list[int] = []  # of the containers around the line
    attached: int | None = None
    position = 0
    for line in text.split("\n"):
        start, position = position, position + len(line) + 1
        bare = line.strip()[:_LONGEST_LINE]
        indent = len(line) - len(line.lstrip())
        if not bare:
            attached = None
            continue
        if _ATTACHED.match(line) and not (language == "toml" and bare[0] == "["):
            attached = start if attached is None else attached
            continue
        if bare[0] not in "})]":
            while open_indents and indent <= open_indents[-1]:
                open_indents.pop()
            is_container = containers.match(bare) is not None
            is_here = indent == 0 or _is_direct(line, indent, open_indents, language)
            if is_here and (is_container or functions.match(bare)):
                level = min(len(open_indents) + 1, _MOST_LEVELS)
                yield start if attached is None else attached, start, start + len(line), level
                if is_container and len(open_indents) < _MOST_LEVELS:
                    open_indents.append(indent)
        attached = None


def _is_direct(line: str, indent: int, open_indents: list[int], language: str) -> bool:
    """Whether a line is one step further in than the container around it, not inside a function."""
    if not open_indents or language in _FLAT:
        return False
    return 0 < indent - open_indents[-1] <= (1 if line[0] == "\t" else 4)


def _plain(text: str, start: int, end: int) -> Iterator[Block]:
    """Yield code without definitions, in one piece when it is short, else cut at blank lines."""
    while start < end:
        stop = end
        if end - start > _LONG:
            match = _BLANK.search(text, start + _LONG // 2, end)
            stop = match.start() if match else end
        if text[start:stop].strip():
            yield Block("code", start, stop)
        start = stop

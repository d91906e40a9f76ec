"""Formats: bytes of a file to text and its blocks.

Each format is a module with `parse(data: bytes) -> Parsed`, named in `PARSERS` and imported on
first use. A file that cannot be parsed is `Rejected` with a reason; no parser guesses.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from ragline.errors import RaglineError

if TYPE_CHECKING:
    from pathlib import Path

    from ragline.core.chunking import Block

# media type -> module; a module of another package may be named by a caller of its own
PARSERS = {
    "text/plain": "ragline.rag.formats.text",
    "text/markdown": "ragline.rag.formats.markdown",
    "text/html": "ragline.rag.formats.html",
    "application/pdf": "ragline.rag.formats.pdf",
}

_SUFFIXES = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".rst": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".mkd": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".pdf": "application/pdf",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """The text of a file. Blocks point into `text`, whose line breaks are all `\\n`."""

    text: str
    blocks: tuple[Block, ...]
    title: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


class Rejected(RaglineError):
    """A file that is not taken in: `reason` for machines, the message for people."""

    exit_code = 2
    status = 422

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def media_type(path: Path, head: bytes) -> str | None:
    """Return the media type of a file by its name and its first bytes, or None when unsupported."""
    if head.lstrip().startswith(b"%PDF-"):
        return "application/pdf"
    if path.suffix:
        return _SUFFIXES.get(path.suffix.lower())
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "text/html"
    return "text/plain" if _looks_like_text(head) else None


def parse(data: bytes, module: str) -> Parsed:
    """Return what the parser in `module` makes of `data`, or raise Rejected."""
    try:
        parser = import_module(module)
    except ModuleNotFoundError as error:
        raise Rejected(
            "UNSUPPORTED",
            f"this format needs the package {error.name!r}: pip install 'ragline[formats]'",
        ) from error
    parsed = parser.parse(data)
    if not isinstance(parsed, Parsed):
        raise TypeError(f"{module}.parse returned {type(parsed).__name__}, not Parsed")
    return parsed


def _looks_like_text(head: bytes) -> bool:
    if not head or b"\0" in head:
        return False
    # An incremental decoder forgives a character that the end of the head cuts in two.
    try:
        getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True

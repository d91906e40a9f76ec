"""What is ingested: files, rows of files, pages, and texts given as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ragline.rag import files
from ragline.rag.formats import Rejected, open_regular

# In bytes; an index entry of PostgreSQL holds little more.
LONGEST_SOURCE = 2000

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something to ingest: where it comes from, what it is, and its bytes or the file of them.

    `else_title` names it where neither it nor its text has a title.
    """

    source: str
    media_type: str
    content: Path | Callable[[], bytes]
    title: str | None = None
    else_title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A document given as text rather than as a file."""

    source: str
    text: str
    media_type: str = "text/plain"
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def from_file(item: files.Found) -> Source:
    """Return a file that was found as something to ingest."""
    return Source(
        source=item.source,
        media_type=item.media_type,
        content=item.path,
        else_title=PurePosixPath(item.source).stem,
    )


def from_text(item: Text) -> Source:
    """Return a text as something to ingest."""
    return Source(
        source=item.source,
        media_type=item.media_type,
        content=lambda: _content(item.text),
        title=item.title,
        else_title=PurePosixPath(item.source).stem,
        metadata=item.metadata,
    )


async def from_texts(items: Iterable[Text]) -> AsyncIterator[Source]:
    """Yield texts as things to ingest."""
    for item in items:
        yield from_text(item)


def _content(text: str) -> bytes:
    # Parsers would speak of a file that there is not.
    if not text.strip():
        raise Rejected("EMPTY", "the text is empty" if not text else "the text has only spaces")
    return _encoded(text)


def _encoded(text: str, what: str = "it") -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Rejected(
            "NOT_TEXT", f"{what} is not valid Unicode: {error.reason} at character {error.start}"
        ) from error


def fault_of_name(source: str) -> Rejected | None:
    """Return why no document can have this name, or None."""
    try:
        size = len(_encoded(source))
    except Rejected as error:
        return error
    if size == 0:
        return Rejected("NO_NAME", "the source is empty; give each document a name")
    if "\0" in source:
        return Rejected("NUL_BYTE", "its name holds a NUL character, which no name has")
    if size > LONGEST_SOURCE:
        shown = f"{source[:80]}…"
        return Rejected(
            "NAME_TOO_LONG", f"the name has {size} bytes, more than {LONGEST_SOURCE}: {shown}"
        )
    return None


def content(source: Source) -> tuple[Path | bytes, bytes]:
    """Return what a parser is given, and the hash of all that counts as content.

    A file is all bytes, which never come into this process as a whole. Raises Rejected when they
    cannot be had.
    """
    if isinstance(source.content, Path):
        return source.content, _hash(source.content)
    about = _about(source)
    data = source.content()
    return data, hashlib.sha256(data + about).digest()


def _about(source: Source) -> bytes:
    about = [source.media_type, source.title, source.metadata]
    if source.title is not None:
        _encoded(source.title, "its title")
    try:
        return json.dumps(about, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise Rejected("BAD_METADATA", f"its metadata has no JSON form: {error}") from error
    except RecursionError as error:
        raise Rejected("TOO_DEEP", "its metadata is nested too deep to be stored") from error


def _hash(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise Rejected("UNREADABLE", f"{path} cannot be read: {error.strerror}") from error
    return digest.digest()

"""Formats: bytes of a file to text and its blocks.

Each format is a module with `parse(data: bytes) -> Parsed`, named in `PARSERS` and imported on
first use; behind a colon stands what one module for several formats is told as well. A file that
cannot be parsed is `Rejected` with a reason; no parser guesses. Files that hold many documents,
one a row, are in `RECORDS`; see `ragline.rag.formats.rows`.
"""

from __future__ import annotations

import os
import re
import stat
from codecs import getincrementaldecoder
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ragline.errors import RaglineError

if TYPE_CHECKING:
    from pathlib import PurePath
    from types import ModuleType

    from ragline.core.chunking import Block

_CODE = {
    "text/x-python": ("python", ".py .pyi .pyw"),
    "text/javascript": ("javascript", ".js .jsx .mjs .cjs"),
    "text/typescript": ("javascript", ".ts .tsx .mts .cts"),
    "text/x-go": ("go", ".go"),
    "text/x-rust": ("rust", ".rs"),
    "text/x-c": ("c", ".c .h"),
    "text/x-c++": ("c", ".cc .cpp .cxx .hh .hpp .hxx"),
    "text/x-csharp": ("java", ".cs"),
    "text/x-java": ("java", ".java"),
    "text/x-kotlin": ("kotlin", ".kt .kts"),
    "text/x-scala": ("scala", ".scala"),
    "text/x-swift": ("swift", ".swift"),
    "text/x-ruby": ("ruby", ".rb"),
    "text/x-php": ("php", ".php"),
    "text/x-lua": ("lua", ".lua"),
    "text/x-shellscript": ("shell", ".sh .bash .zsh"),
    "application/sql": ("sql", ".sql"),
    "application/toml": ("toml", ".toml"),
    "application/yaml": ("yaml", ".yaml .yml"),
    "application/json": ("json", ".json"),
    "text/css": ("lines", ".css .scss"),
    "text/x-ini": ("toml", ".ini .cfg .conf"),
}

DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
# media type -> module; a module of another package may be named by a caller of its own
PARSERS = {
    "text/plain": "ragline.rag.formats.text",
    "text/markdown": "ragline.rag.formats.markdown",
    "text/html": "ragline.rag.formats.html",
    "application/pdf": "ragline.rag.formats.pdf",
    DOCX: "ragline.rag.formats.docx",
    "application/x-ipynb+json": "ragline.rag.formats.notebook",
    "message/rfc822": "ragline.rag.formats.mail",
    **{kind: f"ragline.rag.formats.code:{name}" for kind, (name, _) in _CODE.items()},
}

RECORDS = {
    "application/jsonl": "ragline.rag.formats.jsonl",
    "text/csv": "ragline.rag.formats.table",
    "text/tab-separated-values": "ragline.rag.formats.table:\t",
    "application/mbox": "ragline.rag.formats.mbox",
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
    ".docx": DOCX,
    ".ipynb": "application/x-ipynb+json",
    ".eml": "message/rfc822",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".mbox": "application/mbox",
    **{suffix: kind for kind, (_, suffixes) in _CODE.items() for suffix in suffixes.split()},
}
_SHEBANG = re.compile(rb"#![^\n]*?\b(?:(python)[\d.]*|(node)|(?:ba|da|k|z)?(sh))\b")
_SCRIPTS = {b"python": "text/x-python", b"sh": "text/x-shellscript", b"node": "text/javascript"}


@dataclass(frozen=True, slots=True)
class Parsed:
    """The text of a file. Blocks point into `text`, whose line breaks are all `\\n`."""

    text: str
    blocks: tuple[Block, ...]
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Rejected(RaglineError):
    """A file that is not taken in: `reason` for machines, the message for people."""

    exit_code = 2
    status = 422

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def media_type(path: PurePath, head: bytes) -> str | None:
    """Return the media type of a file by its name and its first bytes, or None when unsupported."""
    if head.lstrip().startswith(b"%PDF-"):
        return "application/pdf"
    if path.suffix:
        return _SUFFIXES.get(path.suffix.lower())
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "text/html"
    if script := _SHEBANG.match(head):
        return _SCRIPTS[script[script.lastindex or 0]]
    return "text/plain" if _looks_like_text(head) else None


def media_types_of_text() -> frozenset[str]:
    """Return the media types of files that are text all through."""
    return frozenset((*_CODE, "text/plain", "text/markdown", "text/html"))


def parse(data: bytes, module: str) -> Parsed:
    """Return what the parser in `module` makes of `data`, or raise Rejected."""
    parser, variant = load(module)
    parsed = parser.parse(data, variant) if variant else parser.parse(data)
    if not isinstance(parsed, Parsed):
        raise TypeError(f"{module}.parse returned {type(parsed).__name__}, not Parsed")
    check_metadata(parsed.metadata)
    return parsed


# Metadata are facts to filter by, and are held in memory with every document under way.
MOST_METADATA_VALUES = 10_000
MOST_METADATA_BYTES = 1 << 20
MOST_METADATA_DEPTH = 100


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise Rejected for metadata too large or too deep. Sizes are of text in UTF-8, at least."""
    todo: list[tuple[object, int]] = [(metadata, 0)]
    seen = size = 0
    while todo:
        value, depth = todo.pop()
        inner: Iterable[object] = ()
        if isinstance(value, str):
            size += len(value) if value.isascii() else len(value.encode(errors="replace"))
        elif isinstance(value, Mapping):
            inner = chain(value, value.values())
            seen += len(value)
        elif isinstance(value, list | tuple):
            inner = value
            seen += len(value)
        if seen > MOST_METADATA_VALUES or size > MOST_METADATA_BYTES:
            raise Rejected(
                "TOO_LARGE",
                f"its metadata has more than {MOST_METADATA_VALUES} values "
                f"or {MOST_METADATA_BYTES} bytes",
            )
        if depth > MOST_METADATA_DEPTH:
            raise Rejected(
                "TOO_DEEP", f"its metadata is nested more than {MOST_METADATA_DEPTH} deep"
            )
        todo += ((one, depth + 1) for one in inner)


def load(module: str) -> tuple[ModuleType, str]:
    """Import the module of a format; return it and what stands behind the colon."""
    name, _, variant = module.partition(":")
    try:
        return import_module(name), variant
    except ModuleNotFoundError as error:
        raise Rejected(
            "UNSUPPORTED",
            f"this format needs the package {error.name!r}: pip install 'ragline[formats]'",
        ) from error


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; raise Rejected for what is no regular file or lies behind a symlink.

    Whoever can write to the folder may put a pipe in the place of a file: opening that would wait
    for ever, and reading a device might never end.
    """
    # Looked at before as well: opening some devices does something.
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise Rejected("UNREADABLE", "it is neither a file nor a folder")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Rejected("UNREADABLE", "it is neither a file nor a folder")
        if _where(descriptor, path) != path.absolute():
            raise Rejected("UNREADABLE", "it was moved, or a folder above it is a symlink now")
    except BaseException:
        file.close()
        raise
    return file


def _where(descriptor: int, path: Path) -> Path:
    """Return where an open file really is: O_NOFOLLOW looks at the last part of a path only."""
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:  # not Linux, or no /proc
        return path.resolve()


def _looks_like_text(head: bytes) -> bool:
    if not head or b"\0" in head:
        return False
    # An incremental decoder forgives a character that the end of the head cuts in two.
    try:
        getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True

"""PDF: the text layer. Scanned pages have none and are rejected."""

from __future__ import annotations

import logging
import re
from io import BytesIO
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING

from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError, PyPdfError

from ragline.core.chunking import Block
from ragline.rag.formats import Parsed, Rejected
from ragline.rag.formats.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

# pypdf reports every repaired fault; a handler that drops them keeps them off stderr.
logging.getLogger("pypdf").addHandler(logging.NullHandler())

# What pypdf lets through from damaged files beside its own errors.
_FAULTS = (
    PyPdfError, ArithmeticError, AssertionError, AttributeError, EOFError, LookupError,
    NotImplementedError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip

_ITEM = re.compile(r"(?:[-*•‣·▪]|\(?[0-9]{1,3}[.)])\s")


def parse(data: bytes) -> Parsed:
    """Return the text of the pages, parted by blank lines; `page_starts` are character offsets."""
    if not data:
        raise Rejected("EMPTY", "the file is empty")
    try:
        reader = _open(data)
        pages = [clean(page.extract_text()) for page in reader.pages]
        title = clean(str(reader.metadata.title or "")) if reader.metadata else ""
    except (FileNotDecryptedError, DependencyError) as error:
        raise Rejected("ENCRYPTED", "the PDF is encrypted; save it without a password") from error
    except LimitReachedError as error:
        raise Rejected("BOMB", f"the PDF is made to break its reader: {error}") from error
    except _FAULTS as error:
        what = str(error) or type(error).__name__
        raise Rejected("DAMAGED", f"the PDF cannot be read: {what}") from error
    if not any(pages):
        raise Rejected("NO_TEXT", f"none of the {len(pages)} pages has text; is it a scan?")
    return _assembled([list(_paragraphs(page)) for page in pages], title)


def _open(data: bytes) -> PdfReader:
    reader = PdfReader(BytesIO(data))
    # Many PDFs are encrypted with an empty password, only to forbid printing.
    if reader.is_encrypted and not reader.decrypt(""):
        raise FileNotDecryptedError
    return reader


def _paragraphs(page: str) -> Iterator[str]:
    """Yield paragraphs from the lines of a page: joined, but for items and short last lines."""
    lines = [" ".join(line.split()) for line in page.split("\n")]
    usual = median([len(line) for line in lines if line] or [0])
    paragraph = ""
    for line in lines:
        if paragraph and (not line or _ITEM.match(line)):
            yield paragraph
            paragraph = ""
        paragraph = _joined(paragraph, line)
        if len(line) < usual * 0.7 and line.endswith((".", "!", "?", ":", "。")):
            yield paragraph
            paragraph = ""
    if paragraph:
        yield paragraph


def _joined(before: str, line: str) -> str:
    if not before or not line:
        return before or line
    if before.endswith("\u00ad"):
        return before[:-1] + line
    if re.search(r"[a-z]-\Z", before[-2:]) and line[0].islower():
        return before[:-1] + line
    return f"{before} {line}"


def _assembled(pages: list[list[str]], title: str) -> Parsed:
    paragraphs = [one for page in pages for one in page]
    starts = list(accumulate((len(one) + 2 for one in paragraphs), initial=0))
    blocks = [
        Block("list" if _ITEM.match(one) else "paragraph", start, start + len(one))
        for one, start in zip(paragraphs, starts, strict=False)
    ]
    text = "\n\n".join(paragraphs)
    firsts = accumulate((len(page) for page in pages[:-1]), initial=0)
    metadata = {
        "pages": str(len(pages)),
        "page_starts": " ".join(str(min(starts[first], len(text))) for first in firsts),
    }
    return Parsed(text, tuple(blocks), title or None, metadata)

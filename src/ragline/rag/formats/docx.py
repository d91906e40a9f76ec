"""Word (.docx): headings, paragraphs, lists and tables, in the order of the document.

A streaming reader of the two or three parts that hold text, on zipfile and expat. It meets files
of strangers, so it counts every byte that it unpacks and refuses document type declarations, with
which all attacks by XML entities begin. Libraries that build the whole document in memory do
neither, and leave out what stands in content controls, text boxes and footnotes.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import NoReturn
from xml.parsers import expat

from ragline.core.chunking import BlockKind
from ragline.rag.formats import Parsed, Rejected
from ragline.rag.formats.text import clean, rendered

# A book of 1,000 pages has about 20 MB of XML, packed to a tenth or a twentieth of it.
_MOST_UNPACKED_BYTES = 256 << 20
_MOST_RATIO = 200
_RATIO_COUNTS_FROM_BYTES = 8 << 20
_PIECE_BYTES = 1 << 16
_MOST_DEPTH = 1000

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_HEADING = re.compile(r"heading\s*([1-9])\Z", re.IGNORECASE)
_LEVEL_OF_TEXT = 9  # Word's number for a paragraph that is no heading
# What is in the file but not on the page; of two forms of the same drawing, the newer is read.
_DROPPED = frozenset(("del", "moveFrom", "Fallback", "instrText", "rPr", "sectPr", "annotation"))

Attributes = dict[str, str]


def parse(data: bytes) -> Parsed:
    """Return the text with headings, lists and tables as blocks; footnotes stand at the end."""
    if not data:
        raise Rejected("EMPTY", "the file is empty")
    if data.startswith(_OLE):
        raise _not_a_zip(data)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return _parsed(_Parts(archive))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
        raise Rejected("DAMAGED", f"the file cannot be unpacked: {error}") from error
    # The second for an encoding that Python does not know.
    except (expat.ExpatError, LookupError) as error:
        raise Rejected("DAMAGED", f"its XML cannot be read: {error}") from error
    except (RuntimeError, ValueError, OSError) as error:
        if "encrypted" in str(error):
            raise Rejected("ENCRYPTED", "the file is packed with a password") from error
        raise Rejected("DAMAGED", f"the file cannot be unpacked: {error}") from error


def _not_a_zip(data: bytes) -> Rejected:
    if "EncryptedPackage".encode("utf-16-le") in data:
        return Rejected("ENCRYPTED", "the document is encrypted; save it without a password")
    return Rejected("UNSUPPORTED", "this is Word's format of before 2007; save it as .docx")


def _parsed(parts: _Parts) -> Parsed:
    main = parts.target_of("officeDocument") or "word/document.xml"
    if main not in parts.names:
        raise Rejected("DAMAGED", f"there is no {main} in it, as in every .docx")
    folder = main.rpartition("/")[0]
    levels = _heading_levels(parts, f"{folder}/styles.xml")
    body = _Body(levels)
    parts.read(main, body.enter, body.leave, body.text)
    for name in (f"{folder}/footnotes.xml", f"{folder}/endnotes.xml"):
        if name in parts.names:
            parts.read(name, body.enter, body.leave, body.text)
    text, blocks = rendered(body.found)
    if not text:
        raise Rejected("NO_TEXT", "the document holds no text")
    about = _properties(parts)
    return Parsed(text, blocks, about.pop("title", None), about)


# -- parts of the archive --------------------------------------------------------------------------


class _Parts:
    """The files in the archive, none of which is unpacked further than allowed."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._left = _MOST_UNPACKED_BYTES
        self.names = frozenset(archive.namelist())

    def target_of(self, kind: str) -> str | None:
        """Return the name of the part that the package says is its `kind`."""
        found: list[str] = []

        def enter(tag: str, attributes: Attributes) -> None:
            if tag == "Relationship" and attributes.get("Type", "").endswith("/" + kind):
                found.append(attributes.get("Target", "").lstrip("/"))

        if "_rels/.rels" in self.names:
            self.read("_rels/.rels", enter)
        return found[0] if found else None

    def read(
        self,
        name: str,
        enter: Callable[[str, Attributes], None],
        leave: Callable[[str], None] = lambda _tag: None,
        text: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Go through the XML of a part; names of tags and attributes come without namespaces."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        depth = 0

        def enters(tag: str, attributes: Attributes) -> None:
            nonlocal depth
            depth += 1
            if depth > _MOST_DEPTH:
                raise Rejected(
                    "TOO_DEEP", f"elements of {name} are nested more than {depth - 1} deep"
                )
            enter(_local(tag), {_local(key): value for key, value in attributes.items()})

        def leaves(tag: str) -> None:
            nonlocal depth
            depth -= 1
            leave(_local(tag))

        parser.StartElementHandler = enters
        parser.EndElementHandler = leaves
        parser.CharacterDataHandler = text
        parser.StartDoctypeDeclHandler = _refuse_doctype
        for piece in self._pieces(name):
            parser.Parse(piece, False)
        parser.Parse(b"", True)

    def _pieces(self, name: str) -> Iterator[bytes]:
        packed = max(self._archive.getinfo(name).compress_size, 1)
        unpacked = 0
        with self._archive.open(name) as part:
            while piece := part.read(_PIECE_BYTES):
                unpacked += len(piece)
                self._left -= len(piece)
                is_ratio_mad = unpacked > max(_RATIO_COUNTS_FROM_BYTES, packed * _MOST_RATIO)
                if self._left < 0 or is_ratio_mad:
                    raise Rejected(
                        "BOMB",
                        f"{name} unpacks from {packed} to more than {unpacked} bytes",
                    )
                yield piece


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _refuse_doctype(*_: object) -> NoReturn:
    raise Rejected("XML_DOCTYPE", "its XML declares entities, which no Word document does")


def _heading_levels(parts: _Parts, name: str) -> dict[str, int]:
    """Return the heading level of each style that has one, itself or by what it is based on."""
    styles = _Styles()
    if name in parts.names:
        parts.read(name, styles.enter)
    for style in styles.based_on:
        above, seen = style, {style}
        while above not in styles.levels and styles.based_on.get(above, above) not in seen:
            above = styles.based_on[above]
            seen.add(above)
        if above in styles.levels:
            styles.levels.setdefault(style, styles.levels[above])
    return {style: level for style, level in styles.levels.items() if level <= _LEVEL_OF_TEXT}


@dataclass(slots=True)
class _Styles:
    levels: dict[str, int] = field(default_factory=dict)
    based_on: dict[str, str] = field(default_factory=dict)
    now: str = ""

    def enter(self, tag: str, attributes: Attributes) -> None:
        value = attributes.get("val", "")
        if tag == "style":
            self.now = attributes.get("styleId", "")
        elif tag == "name" and (match := _HEADING.match(value)):
            self.levels[self.now] = int(match.group(1))
        elif tag == "name" and value.lower() == "title":
            self.levels[self.now] = 1
        elif tag == "basedOn":
            self.based_on[self.now] = value
        elif tag == "outlineLvl" and value.isascii() and value.isdigit():
            self.levels.setdefault(self.now, int(value) + 1)


def _properties(parts: _Parts) -> dict[str, str]:
    wanted = {"title": "title", "creator": "author", "created": "created", "modified": "modified"}
    about: dict[str, str] = {}
    now = ""

    def enter(tag: str, _attributes: Attributes) -> None:
        nonlocal now
        now = wanted.get(tag, "")

    def leave(_tag: str) -> None:
        nonlocal now
        now = ""

    def text(piece: str) -> None:
        if now:
            about[now] = about.get(now, "") + piece

    if "docProps/core.xml" in parts.names:
        parts.read("docProps/core.xml", enter, leave, text)
    return {key: clean(value) for key, value in about.items() if clean(value)}


# -- the text --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Paragraph:
    pieces: list[str] = field(default_factory=list)
    has_words: bool = False
    level: int = 0
    is_item: bool = False
    indent: int = 0


@dataclass(slots=True)
class _Body:
    """What has been found so far, and the paragraphs and rows that are being read."""

    levels: dict[str, int]
    found: list[tuple[BlockKind, int, str]] = field(default_factory=list)
    open: list[_Paragraph] = field(default_factory=list)
    rows: list[list[list[str]]] = field(default_factory=list)  # of each open table: row, cells
    dropped: int = 0
    is_text: bool = False

    def enter(self, tag: str, attributes: Attributes) -> None:
        if self.dropped or tag in _DROPPED:
            self.dropped += 1
        elif tag == "p":
            self.open.append(_Paragraph())
        elif tag in ("tbl", "tr", "tc"):
            self._enter_table(tag)
        elif self.open:
            self._inside(tag, attributes.get("val", ""))

    def _enter_table(self, tag: str) -> None:
        if tag == "tbl":
            self.rows.append([])
        elif self.rows and tag == "tr":
            self.rows[-1].clear()
        elif self.rows:
            self.rows[-1].append([])

    def _inside(self, tag: str, value: str) -> None:
        paragraph = self.open[-1]
        if tag == "t":
            self.is_text = True
        elif tag in ("br", "cr"):
            paragraph.pieces.append("\n")
        elif tag == "tab":
            paragraph.pieces.append("\t" if paragraph.has_words else "")
        elif tag == "noBreakHyphen":
            paragraph.pieces.append("-")
        elif tag == "pStyle":
            paragraph.level = self.levels.get(value, 0)
            paragraph.is_item = paragraph.is_item or value.startswith(("List", "list"))
        elif tag == "outlineLvl" and value.isascii() and value.isdigit():
            paragraph.level = int(value) + 1 if int(value) < _LEVEL_OF_TEXT else 0
        elif tag == "numId":
            paragraph.is_item = value != "0"
        elif tag == "ilvl" and value.isascii() and value.isdigit():
            paragraph.indent = min(int(value), 8)

    def leave(self, tag: str) -> None:
        if self.dropped:
            self.dropped -= 1
        elif tag == "t":
            self.is_text = False
        elif tag == "p" and self.open:
            self._close(self.open.pop())
        elif tag == "tr" and self.rows:
            cells = [" ".join(" ".join(cell).split()) for cell in self.rows[-1]]
            self.rows[-1].clear()
            if any(cells):
                self._add(" | ".join(cells))
        elif tag == "tbl" and self.rows:
            self.rows.pop()

    def text(self, piece: str) -> None:
        if self.is_text and not self.dropped and self.open:
            self.open[-1].pieces.append(piece)
            self.open[-1].has_words |= not piece.isspace()

    def _close(self, paragraph: _Paragraph) -> None:
        text = clean("".join(paragraph.pieces))
        if not text:
            return
        if self.rows:
            self._add(text)
        elif paragraph.level:
            self.found.append(("heading", paragraph.level, " ".join(text.split())))
        elif paragraph.is_item:
            self.found.append(("list", 0, "  " * paragraph.indent + "- " + text))
        else:
            self.found.append(("paragraph", 0, text))

    def _add(self, text: str) -> None:
        """Add a row or paragraph to the cell at hand; a table in a cell is part of the cell."""
        for cells in reversed(self.rows):
            if cells:
                cells[-1].append(text)
                return
        self.found.append(("table", 0, text))

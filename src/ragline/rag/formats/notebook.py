"""Jupyter notebooks: what is written, the code, and what it printed; never images."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ragline.core.chunking import Block
from ragline.rag.formats import Parsed, Rejected, markdown
from ragline.rag.formats.text import clean, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def parse(data: bytes) -> Parsed:
    """Return the cells in order: Markdown with its blocks, code and text output as code."""
    cells, language = _cells(decode(data))
    blocks: list[Block] = []
    pieces: list[str] = []
    position = 0
    for kind, source in cells:
        text = clean(source)
        if not text:
            continue
        if pieces:
            pieces.append("\n\n")
            position += 2
        pieces.append(text)
        blocks += _shifted(kind, text, position)
        position += len(text)
    if not blocks:
        raise Rejected("NO_TEXT", "the notebook has no cell with text in it")
    title = next((block.title for block in blocks if block.title), None)
    return Parsed("".join(pieces), tuple(blocks), title, {"language": language} if language else {})


def _shifted(kind: str, text: str, position: int) -> Iterator[Block]:
    if kind != "markdown":
        yield Block("code" if kind == "code" else "paragraph", position, position + len(text))
        return
    for block in markdown.blocks(text):
        yield replace(block, start=block.start + position, end=block.end + position)


def _cells(text: str) -> tuple[list[tuple[str, str]], str]:
    try:
        notebook = json.loads(text)
    except RecursionError as error:
        raise Rejected("TOO_DEEP", "its values are nested too deep to be read") from error
    except ValueError as error:
        raise Rejected("DAMAGED", f"the notebook is not valid JSON: {error}") from error
    try:
        sheets = notebook.get("worksheets")  # up to version 3
        cells = notebook["cells"] if sheets is None else [c for s in sheets for c in s["cells"]]
        about = (notebook.get("metadata") or {}).get("language_info") or {}
        language = about.get("name") or ""
        return [part for cell in cells for part in _parts(cell)], str(language)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Rejected("DAMAGED", f"this is no notebook: {type(error).__name__} {error}") from error


def _parts(cell: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    source = _joined(cell.get("source", cell.get("input", "")))
    kind = cell["cell_type"]
    if kind == "heading":
        yield "markdown", "#" * min(int(cell.get("level", 1)), 6) + " " + source
        return
    yield kind, source
    for output in cell.get("outputs") or ():
        # A traceback is made for terminals; its last line says it all.
        error = f"{output['ename']}: {output.get('evalue', '')}" if "ename" in output else ""
        shown = output.get("data") or output
        yield "code", error or _joined(output.get("text") or shown.get("text/plain"))


def _joined(source: object) -> str:
    if isinstance(source, list):
        return "".join(str(line) for line in source)
    return "" if source is None else str(source)

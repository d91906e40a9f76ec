"""Jupyter notebooks: the cells with the line of the file that each of their lines stands in."""

from __future__ import annotations

import json
import json.scanner
import re
from bisect import bisect_right
from dataclasses import replace
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

from ragline.core.dsn_audit import finding, lines, python
from ragline.core.dsn_audit.finding import Spot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAGIC = re.compile(r"^(?P<indent>\s*)(?P<mark>[%!?])(?P<rest>.*)$")
_ASSIGNED_MAGIC = re.compile(r"^(?P<before>\s*[\w, ]+=\s*)[%!](?P<rest>.*)$")
_CELL_MAGIC = re.compile(r"%%(?P<name>\w+)")
_OF_PYTHON = frozenset({"capture", "prun", "python", "python3", "time", "timeit"})
_SHELLS = frozenset({"bash", "sh", "shell", "script", "system", "sx", "!"})


class _Placed(str):
    """A text of a JSON file that knows where it began."""

    __slots__ = ("offset",)
    offset: int


class _Decoder(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__()
        self.parse_string = _placed
        # The C scanner does not ask `parse_string`.
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]


def _placed(text: str, end: int, strict: bool = True) -> tuple[str, int]:
    found, after = scanstring(text, end, strict)
    placed = _Placed(found)
    placed.offset = end
    return placed, after


def spots(text: str) -> Iterator[Spot]:
    """Yield the faults of a notebook, each with its line in the file and its cell."""
    try:
        notebook = _Decoder().decode(text)
        cells, is_python = _cells(notebook), _is_python(notebook)
    except json.JSONDecodeError as error:
        line, why = error.lineno, "not JSON"
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        line, why = 1, "not a notebook"
    else:
        starts = [0, *(found.end() for found in re.finditer("\n", text))]
        for number, cell in enumerate(cells, start=1):
            yield from _of_cell(cell, number, starts, is_python=is_python)
        return
    yield Spot(line=line, kind=finding.UNPARSABLE, evidence=why)
    yield from lines.credentials(text)


def _is_python(notebook: Any) -> bool:
    """Whether its cells are Python: so, unless it says another language."""
    about = notebook.get("metadata")
    for part, name in (("language_info", "name"), ("kernelspec", "language")):
        said = about.get(part) if isinstance(about, dict) else None
        language = said.get(name) if isinstance(said, dict) else None
        if isinstance(language, str):
            return language.lower().startswith(("python", "ipython"))
    return True


def _cells(notebook: Any) -> list[Mapping[str, Any]]:
    sheets = notebook.get("worksheets")  # up to version 3
    cells = notebook["cells"] if sheets is None else [c for s in sheets for c in s["cells"]]
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise TypeError("cells are objects")
    return cells


def _of_cell(
    cell: Mapping[str, Any], number: int, starts: list[int], *, is_python: bool
) -> Iterator[Spot]:
    source, at = _source(cell.get("source", cell.get("input")), starts)
    if cell.get("cell_type") == "code":
        for spot in _of_code(source) if is_python else lines.spots(source, "source"):
            yield replace(spot, line=_line(at, spot.line), cell=number)
    else:
        for spot in lines.credentials(source):
            yield replace(spot, line=_line(at, spot.line), cell=number)
    for text, line in _texts(cell.get("outputs"), starts):
        for spot in lines.credentials(text):
            yield replace(spot, line=line, cell=number)


def _line(at: list[int], line: int) -> int:
    return at[min(line, len(at)) - 1] if at else 1


def _source(value: object, starts: list[int]) -> tuple[str, list[int]]:
    """Return a cell's text, and for each of its lines the line of the file."""
    pieces = value if isinstance(value, list) else [value]
    text, at = "", [0]
    for piece in pieces:
        if not isinstance(piece, _Placed):
            continue
        line = bisect_right(starts, piece.offset)
        at[-1] = at[-1] or line
        at += [line] * piece.count("\n")
        if piece.endswith("\n"):
            at[-1] = 0  # begins with the next piece
        text += piece
    return text, [line or at[max(0, index - 1)] or 1 for index, line in enumerate(at)]


def _texts(value: object, starts: list[int]) -> Iterator[tuple[str, int]]:
    """Yield every text of what a cell printed, except for images."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, _Placed):
            yield one, bisect_right(starts, one.offset)
        elif isinstance(one, list):
            waiting += reversed(one)
        elif isinstance(one, dict):
            waiting += [
                item for key, item in one.items() if not str(key).startswith(("image/", "applic"))
            ]


def _of_code(source: str) -> Iterator[Spot]:
    if magic := _CELL_MAGIC.match(source.lstrip("\n")):
        if magic["name"] in _SHELLS:
            yield from lines.spots(source, "shell")
            return
        if magic["name"] == "sql":
            yield from lines.spots(source, "sql")
            return
    code: list[str] = []
    is_continued = False
    for number, line in enumerate(source.split("\n"), start=1):
        if is_continued:
            yield from _of_magic("!" + line, number)
            code.append("")
        elif found := _MAGIC.match(line):
            yield from _of_magic(found["mark"] + found["rest"], number)
            code.append(f"{found['indent']}pass")
        elif found := _ASSIGNED_MAGIC.match(line):
            yield from _of_magic("!" + found["rest"], number)
            code.append(f"{found['before']}None")
        else:
            code.append(re.sub(r"^(\s*[\w.]+)\?{1,2}\s*$", r"\1", line))
            continue
        is_continued = line.endswith("\\")
    may_be_other = magic is not None and magic["name"] not in _OF_PYTHON
    for spot in python.spots("\n".join(code)):
        # A cell of %%html or %%R is no broken Python.
        if not (may_be_other and spot.kind is finding.UNPARSABLE):
            yield spot


def _of_magic(text: str, number: int) -> Iterator[Spot]:
    for spot in lines.spots(text[1:], "shell" if text[0] == "!" else "config"):
        yield replace(spot, line=number)

"""A report as plain text for a terminal: tables that fold, and words in the place of colours."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ragline.evals.report_content import Content, Table, legible

_NARROWEST = 40
_NARROWEST_WORDS = 12
_GAP = 3
_INDENT = "    "
# What a person wants at once; `brief` leaves the rest to the other forms.
_ESSENTIAL = frozenset(
    {
        "run", "dataset", "dataset content", "judge", "collections", "search", "filter", "answers",
        "contexts", "settings_hash",
    }
)  # fmt: skip
_FEW = {"slowest": 0, "improved": 3, "regressed": 5, "changed": 0}


def text(content: Content, width: int) -> str:
    """Return the report for a terminal of `width` columns."""
    width = max(width, _NARROWEST)
    parts = [
        _filled(content.title, width),
        _filled(f"{content.status.upper()}: {content.summary}", width),
    ]
    parts += [_filled(f"! {mark}", width) for mark in content.marks]
    parts += [_table(table, width) for table in content.tables]
    return "\n\n".join(parts)


def brief(content: Content) -> Content:
    """Return what of a report is read at once: no long lists, and no facts that do not differ."""
    tables = [_brief(table) for table in content.tables]
    return replace(content, tables=tuple(table for table in tables if table.rows))


def _without_words(table: Table, row: tuple[str, ...]) -> tuple[str, ...]:
    """Return a line of a verdict; one that passed needs no reason."""
    if row[1] != "pass":
        return row
    return tuple(
        "" if column.is_long else cell for column, cell in zip(table.columns, row, strict=True)
    )


def pointer(width: int) -> str:
    """Return where the rest of a brief report is."""
    return _filled("All cases and facts, with plots: --report FILE.html, or .md, or .json", width)


def _brief(table: Table) -> Table:
    if table.key == "provenance":
        is_pair = len(table.columns) > 2
        rows = [row for row in table.rows if (row[-1] if is_pair else row[0] in _ESSENTIAL)]
        return replace(
            table,
            title="Measured on, where the two differ" if is_pair else table.title,
            rows=tuple(rows),
        )
    if table.key == "verdict":
        return replace(table, rows=tuple(_without_words(table, row) for row in table.rows))
    few = _FEW.get(table.key)
    return table if few is None else replace(table, rows=table.rows[:few], note="")


def _table(table: Table, width: int) -> str:
    rows = [tuple(_line(cell) for cell in row) for row in table.rows[: table.fewer]]
    short = [place for place, column in enumerate(table.columns) if not column.is_long]
    widths = _widths(table, rows, short, width)
    lines = [_filled(table.title, width)]
    if widths:
        lines += _grid(table, rows, widths, width)
        lines += _listed(
            table, rows, [at for at in range(len(table.columns)) if at not in short], width
        )
    else:
        lines += _listed(table, rows, range(1, len(table.columns)), width)
    if left := len(table.rows) - len(rows):
        lines.append(_filled(f"{left} more rows are in the other forms of this report.", width))
    if table.note:
        lines.append(_filled(table.note, width))
    return "\n".join(lines)


def _widths(
    table: Table, rows: Sequence[tuple[str, ...]], short: Sequence[int], width: int
) -> dict[int, int]:
    """Return the width of each column; none when the table is too wide to be one.

    Numbers and verdicts stay in one piece; their heads, and words, are folded.
    """
    from rich.cells import cell_len

    widest = {at: max((cell_len(row[at]) for row in rows), default=1) for at in short}
    heads = {at: cell_len(table.columns[at].name) for at in short}
    least = {
        at: max(1, widest[at])
        if table.columns[at].is_number or table.columns[at].name == "verdict"
        else min(max(widest[at], heads[at]), _NARROWEST_WORDS)
        for at in short
    }
    widths = {at: max(widest[at], heads[at]) for at in short}
    room = width - _GAP * (len(short) - 1)
    while sum(widths.values()) > room:
        free = [at for at in short if widths[at] > least[at]]
        if not free:
            return {}
        widths[max(free, key=lambda at: widths[at])] -= 1
    return widths


def _grid(
    table: Table, rows: Sequence[tuple[str, ...]], widths: Mapping[int, int], width: int
) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.ASCII_DOUBLE_HEAD, show_edge=False, pad_edge=False)
    for at, its_width in widths.items():
        column = table.columns[at]
        grid.add_column(
            Text(column.name),
            justify="right" if column.is_number else "left",
            # Folded, not cut: what does not fit on the line goes on in the next.
            overflow="fold",
            width=its_width,
        )
    for row in rows:
        grid.add_row(*(Text(row[at]) for at in widths))
    written = io.StringIO()
    Console(file=written, width=width, color_system=None, force_terminal=False).print(grid)
    return [line.rstrip() for line in written.getvalue().rstrip().split("\n")]


def _listed(
    table: Table, rows: Sequence[tuple[str, ...]], places: Iterable[int], width: int
) -> Iterator[str]:
    """Yield a line for each row with some of its cells, under the name of the row."""
    chosen = [(at, table.columns[at]) for at in places]
    for row in rows:
        cells = [
            row[at] if column.is_long else f"{column.name} {row[at]}"
            for at, column in chosen
            if row[at]
        ]
        if cells:
            # A red line begins with its metric's name, and so does its row.
            name = "" if cells[0].startswith(f"{row[0]} ") else f"{row[0]}: "
            yield _filled(f"- {name}{'; '.join(cells)}", width)


def _filled(words: str, width: int) -> str:
    """Return words folded to a width of columns, of which some letters take two."""
    from rich.console import Console
    from rich.text import Text

    lines = Text(_line(words)).wrap(Console(file=io.StringIO()), width - len(_INDENT))
    return f"\n{_INDENT}".join(line.plain.rstrip() for line in lines)


def _line(words: str) -> str:
    return " ".join(legible(words).split())

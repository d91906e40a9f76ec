"""A report as Markdown, for a pull request or a page: tables, and the worst cases."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ragline.core.plaintext import plain
from ragline.evals.report_content import Content, Panel, Side, Table, legible

# What may begin markup within a line; nothing of ours begins a line with a text of others.
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>#|~&!$@^])")
# Readers of a pull request have little patience; the HTML report has whole texts.
_LONGEST = 600


def markdown(content: Content) -> str:
    """Return the whole report, ended by a line break."""
    parts = [
        f"# {_words(content.title)}",
        f"**{content.status.upper()}**: {_words(content.summary)}",
        *(f"> **Note:** {_words(mark)}" for mark in content.marks),
    ]
    for table in content.tables:
        parts += _table(table)
        if table.key == content.panels_after and content.panels:
            parts.append(f"## {_words(content.panels_title)}")
            parts += [part for panel in content.panels for part in _panel(panel)]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield f"## {_words(table.title)}"
    lines = [
        _row([column.name for column in table.columns]),
        "|" + "|".join(" ---: " if column.is_number else " --- " for column in table.columns) + "|",
        *(_row(row) for row in table.rows),
    ]
    yield "\n".join(lines)
    if table.note:
        yield f"Note: {_words(table.note)}"


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(_words(cell) for cell in cells) + " |"


def _panel(panel: Panel) -> Iterator[str]:
    yield f"### case {_words(panel.case_id)}: {_words(panel.what)}"
    lines = [
        f"- question: {_cut(panel.question or 'not in the dataset any more')}",
        f"- gold answer: {_cut(panel.gold or 'none')}",
    ]
    if panel.relevant:
        lines.append(f"- relevant: {_cut(', '.join(panel.relevant))}")
    yield "\n".join([*lines, *(line for side in panel.sides for line in _side(side))])


def _side(side: Side) -> Iterator[str]:
    yield f"- {_words(side.name)}" + "".join(f"; {_words(f'{n} {v}')}" for n, v in side.metrics)
    if side.answer is not None:
        yield f"    - answer: {_cut(side.answer or '(empty)')}"
    for number, passage in enumerate(side.passages, start=1):
        marks = ("", ", relevant")[bool(passage.is_relevant)]
        marks += ("", ", only here")[not passage.is_shared]
        shown = "" if passage.text is None else f": {_cut(passage.text)}"
        yield f"    - {number}: {_words(passage.source)}{marks}{shown}"


def _cut(words: str) -> str:
    cut = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} … ({len(words):,} characters)"
    return _words(cut)


def _words(words: str) -> str:
    """Return words on one line that Markdown shows as they are, and no reader makes a link of."""
    return _PUNCTUATION.sub(r"\\\1", plain(" ".join(legible(words).split())))

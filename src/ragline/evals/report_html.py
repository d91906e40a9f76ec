"""A report as one HTML file that needs nothing else: no network, no script, no font, no image."""

from __future__ import annotations

from collections.abc import Iterator

from ragline.evals import plots
from ragline.evals.markup import Html, element, joined
from ragline.evals.report_content import Column, Content, Foreign, Panel, Passage, Side, Table

# Even if a text found its way out of its place, the page may load and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --faint: #59636e;
  --line: #d1d9e0; --soft: #f6f8fa; --pass: #116329; --fail: #b3261e; --open: #7d4e00;
  --bar: #2f6db3; --mark: #fff8c5; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1318; --ink: #e6edf3; --faint: #9aa5b1;
  --line: #363d46; --soft: #191f26; --pass: #56d364; --fail: #ff8a80; --open: #e3b341;
  --bar: #6ea8e6; --mark: #3a2f08; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0 .75rem; }
.faint, .note { color: var(--faint); font-size: .9rem; }
.headline { border: 2px solid currentColor; border-radius: .5rem; padding: .75rem 1rem; }
.headline b { font-size: 1.25rem; letter-spacing: .04em; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .open { color: var(--open); }
.headline p { color: var(--ink); margin: .25rem 0 0; }
.mark-note { background: var(--mark); border-left: .35rem solid var(--open); margin: .5rem 0;
  padding: .5rem .75rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .9rem .35rem 0; text-align: left;
  vertical-align: top; overflow-wrap: break-word; }
th { font-weight: 600; }
td.long { min-width: 13rem; overflow-wrap: anywhere; }
tr:has(+ tr.more) > td { border-bottom: 0; }
tr.more > td { padding-top: 0; color: var(--faint); }
tr.more div { position: sticky; left: 0; max-width: min(64rem, calc(100vw - 2.5rem)); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.verdict { font-weight: 600; white-space: nowrap; }
svg.plot { display: block; overflow: visible; margin: .5rem 0; font: .85rem system-ui, sans-serif; }
svg text { fill: var(--ink); paint-order: stroke; stroke: var(--page); stroke-width: 4px; }
svg .tick { fill: var(--faint); }
svg .grid { stroke: var(--line); } svg .zero { stroke: var(--ink); stroke-width: 1.5; }
svg .interval { stroke: var(--ink); stroke-width: 2; }
svg .margin { stroke: var(--fail); stroke-width: 2; stroke-dasharray: 4 3; }
svg .mark.pass { fill: var(--pass); } svg .mark.fail { stroke: var(--fail); stroke-width: 12; }
svg .mark.open { fill: var(--page); stroke: var(--open); stroke-width: 3; }
svg .bar { fill: var(--bar); } svg .before { fill: url(#hatching); stroke: var(--bar); }
svg .hatch { stroke: var(--bar); stroke-width: 1.5; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; margin: 1rem 0; }
.sides { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.side { background: var(--soft); border-radius: .4rem; padding: .6rem .8rem; min-width: 0; }
.said { white-space: pre-wrap; }
.passages { padding-left: 1.6rem; margin: .25rem 0; }
.passages li { margin: .35rem 0; }
.passage { max-height: 14rem; overflow: auto; white-space: pre-wrap; font-size: .9rem;
  border-left: .2rem solid var(--line); padding-left: .6rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
.tag { border: 1px solid currentColor; border-radius: .3rem; padding: 0 .3rem; font-size: .8rem;
  white-space: nowrap; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  article, svg.plot, tr { break-inside: avoid; } .passage { max-height: none; }
  .scroll { overflow: visible; } table { font-size: 8pt; } .number { white-space: normal; } }
"""
_STATUSES = {"pass": "pass", "fail": "fail", "partial": "fail"}
_SIGNS = {"pass": "✓", "fail": "✗", "partial": "✗", "complete": "✓"}


def page(content: Content) -> str:
    """Return the whole page."""
    body = joined(
        [
            element("h1", content.title, dir="auto"),
            _headline(content),
            *(element("p", mark, class_="mark-note", dir="auto") for mark in content.marks),
            *_sections(content),
        ]
    )
    head = joined(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="referrer", content="no-referrer"),
            element("title", content.title),
            element("style", Html(_STYLE)),
        ]
    )
    whole = element(
        "html", element("head", head), element("body", element("main", body)), lang="en"
    )
    return f"<!doctype html>\n{whole}\n"


def _headline(content: Content) -> Html:
    sign = _SIGNS.get(content.status, "○")
    return element(
        "div",
        element("b", f"{sign} {content.status.upper()}"),
        element("p", content.summary, dir="auto"),
        class_=f"headline {_class(content.status)}",
    )


def _class(status: str) -> str:
    return _STATUSES.get(status, "open")


def _sections(content: Content) -> Iterator[Html]:
    """Yield the tables in order, each with the plot that shows it, and the cases side by side."""
    is_drawn = False
    for table in content.tables:
        yield element("h2", table.title)
        if table.key == "phases" and content.bars:
            if len(content.bar_names) > 1:
                yield element("p", "Hatched: the baseline. Solid: the run.", class_="note")
            yield plots.phase_bars(content.bars, content.bar_names)
        yield _table(table)
        if not is_drawn and content.intervals:
            yield from _intervals(content)
            is_drawn = True
        if table.key == content.panels_after:
            yield from _panels(content)


def _intervals(content: Content) -> Iterator[Html]:
    yield element("h2", "Differences with their 95 % intervals")
    yield element(
        "p",
        "Right of 0 the run is better than the baseline. The dashed line is the margin: an interval "
        "that stays right of it is a pass (●), a fail is ■, and ○ is open. ↓: lower is better, so its "
        "difference is turned round.",
        class_="note",
    )
    yield plots.intervals(content.intervals)


def _table(table: Table) -> Html:
    # One long column has room at the end; several would push the figures off the screen.
    is_folded = sum(column.is_long for column in table.columns) > 1
    shown = [at for at, column in enumerate(table.columns) if not (is_folded and column.is_long)]
    head = element("tr", *(_head(table.columns[at]) for at in shown))
    rows: list[Html] = []
    for row in table.rows:
        rows.append(element("tr", *(_cell(table.columns[at], row[at]) for at in shown)))
        if is_folded:
            long = [
                value for column, value in zip(table.columns, row, strict=True) if column.is_long
            ]
            rows.append(_long(long, len(shown)))
    whole = element("table", element("thead", head), element("tbody", *rows))
    # A wide table scrolls within itself, also by keyboard.
    parts = [
        element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=table.title)
    ]
    if table.note:
        parts.append(element("p", table.note, class_="note"))
    return joined(parts)


def _head(column: Column) -> Html:
    return element("th", column.name, scope="col", class_="number" if column.is_number else None)


def _cell(column: Column, value: str) -> Html:
    if column.name == "verdict":
        sign = _SIGNS.get(value, "○")
        return element("td", f"{sign} {value}", class_=f"verdict {_class(value)}")
    if column.is_number:
        return element("td", value, class_="number")
    return element("td", _words(value), class_="long" if column.is_long else None)


def _long(values: list[str], span: int) -> Html:
    lines = [element("div", _words(value)) for value in values if value]
    return element("tr", element("td", *lines, colspan=span), class_="more")


def _words(value: str) -> Html:
    """Return text; what others wrote in a direction of its own, so that it cannot turn ours."""
    return element("bdi", value) if isinstance(value, Foreign) else joined([value])


def _panels(content: Content) -> Iterator[Html]:
    if content.panels:
        yield element("h2", content.panels_title)
        yield from (_panel(panel) for panel in content.panels)


def _panel(panel: Panel) -> Html:
    known = [
        ("question", panel.question or "not in the dataset any more"),
        ("gold answer", panel.gold or "none"),
    ]
    if panel.relevant:
        known.append(("relevant", ", ".join(panel.relevant)))
    facts = joined(
        [
            joined([element("dt", name), element("dd", value, class_="said", dir="auto")])
            for name, value in known
        ]
    )
    return element(
        "article",
        element("h3", "case ", element("bdi", panel.case_id), f": {panel.what}"),
        element("dl", facts),
        element("div", *(_side(side) for side in panel.sides), class_="sides"),
    )


def _side(side: Side) -> Html:
    parts = [element("h3", side.name)]
    if side.metrics:
        shown = "; ".join(f"{name} {value}" for name, value in side.metrics)
        parts.append(element("p", shown, class_="faint"))
    if side.answer is not None:
        parts.append(element("p", "answer", class_="faint"))
        parts.append(element("p", side.answer or "(empty)", class_="said", dir="auto"))
    if side.passages:
        listed = (_passage(passage) for passage in side.passages)
        parts.append(element("ol", *listed, class_="passages"))
    else:
        parts.append(element("p", "no passages", class_="faint"))
    return element("div", *parts, class_="side")


def _passage(passage: Passage) -> Html:
    tags = []
    if passage.is_relevant:
        tags.append("relevant")
    if not passage.is_shared:
        tags.append("only here")
    parts = [element("bdi", passage.source)]
    parts += [joined([" ", element("span", tag, class_="tag")]) for tag in tags]
    if passage.text is not None:
        parts.append(element("div", passage.text, class_="passage", dir="auto", tabindex=0))
    return element("li", *parts)

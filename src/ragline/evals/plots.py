"""Plots as SVG inside the page: widths in percent and heights in pixels, so they fit any screen.

Colours come from the page's style sheet. Shapes and words say the same, for those who see no colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ragline.evals.markup import Html, element, joined
from ragline.evals.report_content import Bars, Interval, seconds, signed

_ROW = 46
_AXIS = 40
_EDGE = 6.0  # percent kept free at both sides, for marks and numbers
_BAR = 16
_BAR_ROOM = 70.0  # percent; the rest is for the number behind the bar
_STEPS = (1, 2, 2.5, 5, 10)


def intervals(shown: Sequence[Interval]) -> Html:
    """Return each metric's difference with its interval and margin, better to the right."""
    rows = [_gain(one) for one in shown]
    scale = _Scale(rows)
    height = _ROW * len(rows) + _AXIS
    parts = [_described("Differences by metric", [_spoken(one) for one in shown])]
    parts += list(_axis(scale, height))
    for place, row in enumerate(rows):
        parts += list(_interval(scale, row, place * _ROW))
    return element(
        "svg", *parts, class_="plot", width="100%", height=height, role="img", focusable="false"
    )


def _gain(one: Interval) -> Interval:
    """Return the difference as a gain: a metric that is better when lower is turned round."""
    if not one.is_lower_better:
        return one
    return Interval(
        metric=f"{one.metric} ↓",
        low=-one.high,
        value=-one.value,
        high=-one.low,
        margin=one.margin,
        status=one.status,
    )


class _Scale:
    """From differences to percent of the width, with 0 always in sight."""

    def __init__(self, rows: Sequence[Interval]) -> None:
        ends = [0.0, *(row.low for row in rows), *(row.high for row in rows)]
        ends += [row.value for row in rows]
        ends += [-row.margin for row in rows if row.margin is not None]
        low, high = min(ends), max(ends)
        if high - low < 1e-9:
            low, high = low - 0.01, high + 0.01
        self.low, self.high = low, high

    def x(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{_EDGE + share * (100 - 2 * _EDGE):.2f}%"

    def ticks(self) -> list[float]:
        """Return about five round numbers within the scale."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * s for s in _STEPS if power * s >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _axis(scale: _Scale, height: int) -> Iterator[Html]:
    bottom = height - _AXIS
    for tick in scale.ticks():
        x = scale.x(tick)
        is_zero = abs(tick) < 1e-12
        yield element("line", x1=x, x2=x, y1=0, y2=bottom, class_="zero" if is_zero else "grid")
        yield element(
            "text",
            "0" if is_zero else f"{tick:+.4g}",
            x=x,
            y=bottom + 16,
            text_anchor="middle",
            class_="tick",
        )
    yield element("text", "← worse", x="0", y=bottom + 34, class_="tick")
    yield element("text", "better →", x="100%", y=bottom + 34, text_anchor="end", class_="tick")


def _interval(scale: _Scale, row: Interval, top: int) -> Iterator[Html]:
    y = top + 31
    low, high = scale.x(row.low), scale.x(row.high)
    yield element("text", row.metric, x="0", y=top + 15, class_="label")
    yield element("text", row.status, x="100%", y=top + 15, text_anchor="end", class_="label")
    if row.margin is not None:
        x = scale.x(-row.margin)
        yield element("line", x1=x, x2=x, y1=y - 11, y2=y + 11, class_="margin")
    yield element("line", x1=low, x2=high, y1=y, y2=y, class_="interval")
    for end in (low, high):
        yield element("line", x1=end, x2=end, y1=y - 5, y2=y + 5, class_="interval")
    yield _mark(row.status, scale.x(row.value), y)


def _mark(status: str, x: str, y: int) -> Html:
    """Return a disc for a pass, a square for a fail, and a ring for what is open."""
    if status == "fail":
        # A line as thick as long is a square, and can stand at a percentage.
        return element("line", x1=x, x2=x, y1=y - 6, y2=y + 6, class_="mark fail")
    kind = "pass" if status == "pass" else "open"
    return element("circle", cx=x, cy=y, r=6, class_=f"mark {kind}")


def _spoken(one: Interval) -> str:
    margin = "" if one.margin is None else f", margin {one.margin:g}"
    return (
        f"{one.metric}: {signed(one.metric, one.value)}, 95 % interval "
        f"{signed(one.metric, one.low)} to {signed(one.metric, one.high)}{margin}: {one.status}."
    )


def phase_bars(shown: Sequence[Bars], names: Sequence[str]) -> Html:
    """Return a bar for each phase and run; where there are two runs, the baseline's is hatched."""
    longest = max((ms or 0.0 for one in shown for ms in one.ms), default=0.0) or 1.0
    parts = [_described("Time by phase", [_spoken_bars(one, names) for one in shown])]
    if len(names) > 1:
        parts.append(_hatching())
    top = 0
    for one in shown:
        parts.append(element("text", one.phase, x="0", y=top + 15, class_="label"))
        top += 20
        for place, ms in enumerate(one.ms):
            is_baseline = len(one.ms) > 1 and place == 0
            parts += list(_bar(ms, longest, top, is_baseline=is_baseline))
            top += _BAR + 3
        top += 10
    return element(
        "svg", *parts, class_="plot", width="100%", height=top, role="img", focusable="false"
    )


def _bar(ms: float | None, longest: float, top: int, *, is_baseline: bool) -> Iterator[Html]:
    width = (ms or 0.0) / longest * _BAR_ROOM
    kind = "bar before" if is_baseline else "bar"
    yield element("rect", x="0", y=top, width=f"{width:.2f}%", height=_BAR, class_=kind)
    yield element(
        "text",
        "not in this run" if ms is None else seconds(ms),
        x=f"{width + 1:.2f}%",
        y=top + 12,
        class_="tick",
    )


def _hatching() -> Html:
    stroke = element("path", d="M0 6 L6 0", class_="hatch")
    return element(
        "defs",
        element(
            "pattern",
            stroke,
            id="hatching",
            width=6,
            height=6,
            patternUnits="userSpaceOnUse",
        ),
    )


def _spoken_bars(one: Bars, names: Sequence[str]) -> str:
    took = ", ".join(
        f"{name} {'none' if ms is None else seconds(ms)}"
        for name, ms in zip(names, one.ms, strict=True)
    )
    return f"{one.phase}: {took}."


def _described(title: str, sentences: Sequence[str]) -> Html:
    return joined([element("title", title), element("desc", " ".join(sentences))])

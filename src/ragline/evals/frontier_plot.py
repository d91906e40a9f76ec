"""The frontier of an index tuning as a picture: an SVG file, or a page with it and the tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ragline.core.frontier import Design, Place, Point, Trial
from ragline.evals.index_tuned import Tuned
from ragline.evals.markup import Html, element, joined

_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 46, 60
_TICKS_MS = [base * 10.0**power for power in range(-3, 6) for base in (1, 2, 5)]
_COLOURS = {"vector": "#2f6db3", "halfvec": "#116329", "bit": "#b3261e", "ivfflat": "#7d4e00"}
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1b1f24; }
.faint { fill: #59636e; } .grid { stroke: #d1d9e0; } .target { stroke: #b3261e; stroke-dasharray: 5 4; }
.way { fill: none; stroke-opacity: .35; } .front { fill: none; stroke: #1b1f24; stroke-width: 1.5; }
"""
_PAGE_STYLE = """
body { margin: 0 auto; padding: 1rem; max-width: 62rem; font: 1rem/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; font-size: .92rem; } svg { max-width: 100%; height: auto; }
th, td { border-bottom: 1px solid #d1d9e0; padding: .3rem .9rem .3rem 0; text-align: left; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def svg(tuned: Tuned) -> str:
    """Return the picture: recall over the middle search time, one line for each index that was built.

    Colours tell the storages apart, and a ring what the frontier consists of.
    """
    if not tuned.trials:
        raise ValueError("nothing was tried, so there is nothing to draw")
    scale = _Scale(tuned)
    front = {(place.design, place.point) for place in tuned.frontier}
    parts: list[str] = [
        element("title", f"Indexes of {tuned.collection}: recall and time"),
        element("desc", tuned.reason),
        element("style", Html(_STYLE)),
        *_axes(scale, tuned),
        _line(scale, _quickest(tuned.frontier), "front"),
    ]
    for trial in tuned.trials:
        parts.append(_line(scale, trial.points, "way", _colour(trial.design)))
        parts += [
            _mark(scale, trial, point, is_front=(trial.design, point) in front)
            for point in trial.points
        ]
    parts += list(_legend(tuned.trials))
    parts += list(_chosen(scale, tuned))
    return element(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        width=_WIDTH,
        height=_HEIGHT,
        role="img",
    )


def page(tuned: Tuned) -> str:
    """Return a page with the picture and what was measured, in one file that needs no other."""
    rows = [_row(trial, tuned.target) for trial in tuned.trials]
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", f"Indexes of {tuned.collection}"),
        element("style", Html(_PAGE_STYLE)),
    ]
    names = ("index", "breadth", "recall", "p50 ms", "p95 ms", "MB", "build s")
    body = [
        element("h1", f"Indexes of {tuned.collection}"),
        element("p", tuned.reason),
        Html(svg(tuned)),
        element(
            "table",
            element("tr", *(element("th", name) for name in names)),
            *(element("tr", *(element("td", cell) for cell in row)) for row in rows),
        ),
        *(element("p", f"not built: {one.design}: {one.why}") for one in tuned.skipped),
    ]
    whole = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _row(trial: Trial, target: float) -> tuple[str, ...]:
    found = trial.needed(target)
    point = found or trial.best
    reached = "" if found else f" ({target:g} not reached)"
    return (
        str(trial.design),
        f"{trial.design.knob} {point.breadth}",
        f"{point.recall:.3f} [{point.low:.3f}, {point.high:.3f}]{reached}",
        f"{point.p50_ms:.2f}",
        f"{point.p95_ms:.2f}",
        f"{trial.size_bytes / 2**20:,.1f}",
        f"{trial.build_s:.1f}",
    )


class _Scale:
    """From times, by their logarithm, and recalls to places in the picture."""

    def __init__(self, tuned: Tuned) -> None:
        points = [point for trial in tuned.trials for point in trial.points]
        times = [max(point.p50_ms, 1e-3) for point in points]
        self.fastest, self.slowest = min(times) / 1.15, max(times) * 1.15
        recalls = sorted([tuned.target, *(point.recall for point in points)])
        # Narrow searches that find little would press the rest together.
        self.least = max(0.0, min(tuned.target - 0.1, recalls[len(recalls) // 20]))

    def x(self, ms: float) -> float:
        share = math.log(max(ms, 1e-3) / self.fastest) / math.log(self.slowest / self.fastest)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, recall: float) -> float:
        share = (max(recall, self.least) - self.least) / (1.0 - self.least)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _axes(scale: _Scale, tuned: Tuned) -> Iterator[Html]:
    bottom, right = float(_HEIGHT - _BOTTOM), float(_WIDTH - _RIGHT)
    for ms in _TICKS_MS:
        if scale.fastest <= ms <= scale.slowest:
            x = scale.x(ms)
            yield element("line", x1=x, x2=x, y1=float(_TOP), y2=bottom, class_="grid")
            yield element(
                "text", f"{ms:g}", x=x, y=bottom + 18, text_anchor="middle", class_="faint"
            )
    step = (1.0 - scale.least) / 5
    for number in range(6):
        recall = scale.least + number * step
        y = scale.y(recall)
        yield element("line", x1=float(_LEFT), x2=right, y1=y, y2=y, class_="grid")
        yield element(
            "text", f"{recall:.3f}", x=_LEFT - 8.0, y=y + 4, text_anchor="end", class_="faint"
        )
    y = scale.y(tuned.target)
    yield element("line", x1=float(_LEFT), x2=right, y1=y, y2=y, class_="target")
    what = f"middle search time in ms (n = {tuned.n_seen} questions)"
    yield element("text", what, x=right, y=_HEIGHT - 16.0, text_anchor="end", class_="faint")
    yield element("text", f"recall@{tuned.k}", x=8.0, y=_TOP - 12.0, class_="faint")


def _quickest(frontier: Sequence[Place]) -> list[Point]:
    """Return the points that no other beats in recall and time alone, by recall."""
    found: list[Point] = []
    for place in sorted(frontier, key=lambda one: (one.point.p50_ms, -one.point.recall)):
        if not found or place.point.recall > found[-1].recall:
            found.append(place.point)
    return found


def _line(scale: _Scale, points: Sequence[Point], kind: str, colour: str | None = None) -> Html:
    way = " L".join(f"{scale.x(one.p50_ms):.1f} {scale.y(one.recall):.1f}" for one in points)
    return element("path", d=f"M{way}", class_=kind, stroke=colour)


def _mark(scale: _Scale, trial: Trial, point: Point, *, is_front: bool) -> Html:
    said = (
        f"{trial.design}, {trial.design.knob} {point.breadth}: {point.recall:.3f} in "
        f"{point.p50_ms:.2f} ms, {trial.size_bytes / 2**20:,.1f} MB, built in {trial.build_s:.1f} s"
    )
    x, y, colour = scale.x(point.p50_ms), scale.y(point.recall), _colour(trial.design)
    ring = [element("circle", cx=x, cy=y, r=6.5, fill="none", stroke=colour)] if is_front else []
    return element(
        "g", element("title", said), element("circle", cx=x, cy=y, r=3.5, fill=colour), *ring
    )


def _legend(trials: Sequence[Trial]) -> Iterator[Html]:
    x = float(_LEFT + 70)
    for name in dict.fromkeys(_way(trial.design) for trial in trials):
        yield element("circle", cx=x, cy=_TOP - 28.0, r=5, fill=_COLOURS[name])
        label = name if name == "ivfflat" else f"hnsw {name}"
        yield element("text", label, x=x + 10, y=_TOP - 24.0)
        x += 125.0
    yield element("text", "ring: on the frontier", x=x, y=_TOP - 24.0, class_="faint")


def _chosen(scale: _Scale, tuned: Tuned) -> Iterator[Html]:
    if tuned.proposal is None:
        return
    point = tuned.proposal.seen
    x, y = scale.x(point.p50_ms), scale.y(point.recall)
    yield element("circle", cx=x, cy=y, r=11, fill="none", stroke="#1b1f24", stroke_width=2)
    is_left = x < _WIDTH / 2
    yield element(
        "text",
        joined([f"{tuned.proposal.design}, ef_search {point.breadth}"]),
        x=x + (16 if is_left else -16),
        y=y + 22,
        text_anchor="start" if is_left else "end",
    )


def _way(design: Design) -> str:
    return "ivfflat" if design.method == "ivfflat" else design.storage


def _colour(design: Design) -> str:
    return _COLOURS[_way(design)]

"""An index tuning as text for people: the frontier, what was not tried, and the proposal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ragline.cli import output

if TYPE_CHECKING:
    from ragline.core.frontier import Trial
    from ragline.evals.index_tuned import Proposal, Tuned

_MIB = 2**20


def text(tuned: Tuned) -> str:
    """Return everything that came of it."""
    lines = [
        f"{tuned.collection}: {tuned.chunks:,} vectors, recall@{tuned.k} of at least {tuned.target:g}",
        f"questions: {tuned.questions}; {tuned.n_seen} to choose by, {tuned.n_unseen} for the check",
    ]
    if tuned.trials:
        lines += [_now(tuned), "", _table(tuned).rstrip(), ""]
        lines.append(
            f"* on the frontier of recall, time, size and build time ({len(tuned.frontier)} points)"
        )
    lines += _skipped(tuned)
    lines += [f"no effect: {sentence}" for sentence in tuned.dead_knobs]
    lines += [f"unreachable: {sentence}" for sentence in tuned.unreachable]
    lines += [f"warning: {sentence}" for sentence in tuned.warnings]
    if tuned.production is not None:
        seen = tuned.production
        lines.append(
            f"production meanwhile: p95 {seen.meanwhile_p95_ms:.2f} ms against "
            f"{seen.before_p95_ms:.2f} ms before ({seen.ratio:.2f} x, n = {seen.n})"
        )
    lines.append("")
    if tuned.proposal is not None:
        lines += list(_proposed(tuned.proposal))
    lines.append(tuned.reason)
    return "\n".join(lines)


def _now(tuned: Tuned) -> str:
    now = tuned.now
    if now is None:
        return "now: unknown"
    design = "no index" if now.design is None else str(now.design)
    return (
        f"now: {design}, ef_search {now.ef_search}: {now.recall:.3f} [{now.low:.3f}, {now.high:.3f}], "
        f"{now.p50_ms:.2f} ms with the chunks' texts; comparing every vector takes "
        f"{tuned.exact_p50_ms or 0.0:.2f} ms"
    )


def _table(tuned: Tuned) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("index", no_wrap=True)
    for name in ("breadth", "recall", "p50 ms", "p95 ms", "MB", "build s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    front = {(place.design, place.point) for place in tuned.frontier}
    for trial in tuned.trials:
        point = trial.needed(tuned.target) or trial.best
        mark = "*" if (trial.design, point) in front else ""
        table.add_row(*map(Text, (*_cells(trial, tuned.target), mark)))
    shown = io.StringIO()
    Console(file=shown, width=max(110, output.width()), no_color=True).print(table)
    return "\n".join(line.rstrip() for line in shown.getvalue().splitlines())


def _cells(trial: Trial, target: float) -> tuple[str, ...]:
    found = trial.needed(target)
    point = found or trial.best
    return (
        str(trial.design),
        f"{trial.design.knob} {point.breadth}",
        f"{point.recall:.3f} [{point.low:.3f}, {point.high:.3f}]" + ("" if found else " short"),
        f"{point.p50_ms:.2f}",
        f"{point.p95_ms:.2f}",
        f"{trial.size_bytes / _MIB:,.1f}",
        f"{trial.build_s:.1f}",
    )


def _skipped(tuned: Tuned) -> Iterator[str]:
    """Yield each reason once, with the designs that it kept from being built."""
    by_reason: dict[str, list[str]] = {}
    for one in tuned.skipped:
        by_reason.setdefault(one.why, []).append(str(one.design))
    for why, designs in by_reason.items():
        more = f" and {len(designs) - 1} more" if len(designs) > 1 else ""
        yield f"not built: {designs[0]}{more}: {why}"


def _proposed(proposal: Proposal) -> Iterator[str]:
    design = proposal.design
    yield (
        f"proposed: {design}, ef_search {proposal.ef_search}: {proposal.size_bytes / _MIB:,.1f} MB, "
        f"{proposal.unseen.p50_ms:.2f} ms, built in {proposal.build_s:.1f} s"
    )
    for one in proposal.filters:
        if one.way == "exact":
            yield (
                f"  {output.on_one_line(one.text)}: {one.share:.1%} of the chunks, so few that all are "
                "compared"
            )
            continue
        yield (
            f"  {output.on_one_line(one.text)}: {one.share:.1%} of the chunks, recall {one.recall:.3f} "
            f"[{one.low:.3f}, {one.high:.3f}], rows {one.rows:.3f}, {one.p50_ms:.2f} ms ({one.way})"
        )

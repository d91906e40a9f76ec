"""An index tuning as text for people: the frontier, what was not tried, and the proposal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ragline.cli import output

if TYPE_CHECKING:
    from ragline.core.frontier import Design, Point
    from ragline.evals.index_tuned import Proposal, Tuned

_MIB = 2**20


def text(tuned: Tuned) -> str:
    """Return everything that came of it."""
    name = output.on_one_line(tuned.collection)
    lines = [f"{name}: {tuned.chunks:,} vectors, recall@{tuned.k} of at least {tuned.target:g}"]
    if tuned.trials:
        lines += [
            f"questions: {tuned.questions}; {tuned.n_seen} to choose by, {tuned.n_unseen} for the check",
            _now(tuned),
            "",
            f"each index (m/ef_construction, or lists), searched as narrowly as holds {tuned.target:g}:",
            *_table(_each(tuned)),
            "",
            "the frontier: what no other beats in recall, time, size and build time at once:",
            *_table(_front(tuned)),
            "",
        ]
    lines += _skipped(tuned)
    lines += [f"no effect: {sentence}" for sentence in tuned.dead_knobs]
    lines += [f"unreachable: {sentence}" for sentence in tuned.unreachable]
    lines += [f"warning: {output.on_one_line(sentence)}" for sentence in tuned.warnings]
    if tuned.production is not None:
        seen = tuned.production
        lines.append(
            f"production meanwhile: p95 {seen.meanwhile_p95_ms:.2f} ms (n = {seen.n_meanwhile}) against "
            f"{seen.quiet_p95_ms:.2f} ms in {seen.windows} pauses in between (n = {seen.n_quiet}): "
            f"{seen.ratio:.2f} x"
        )
    lines.append("")
    if tuned.proposal is not None:
        lines += list(_proposed(tuned.proposal, tuned.filtered))
    lines.append(output.on_one_line(tuned.reason))
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


_HEAD = ("index", "breadth", "recall", "95 %", "p50 ms", "p95 ms", "MB", "build s")


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows under their heads, wherever they are shown: they fit into 80 columns."""
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    return [
        " ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (_HEAD, *rows)
    ]


def _each(tuned: Tuned) -> list[tuple[str, ...]]:
    rows = []
    for trial in tuned.trials:
        found = trial.needed(tuned.target)
        # What falls short shows the best that it does.
        row = _row(trial.design, found or trial.best, trial.size_bytes, trial.build_s)
        rows.append(row if found else (*row[:2], f"<{row[2]}", *row[3:]))
    return rows


def _front(tuned: Tuned) -> list[tuple[str, ...]]:
    return [_row(one.design, one.point, one.size_bytes, one.build_s) for one in tuned.frontier]


def _row(design: Design, point: Point, size_bytes: int, build_s: float) -> tuple[str, ...]:
    built = design.lists if design.method == "ivfflat" else f"{design.m}/{design.ef_construction}"
    return (
        f"{design.method} {design.storage} {built}",
        f"{'ef' if design.method == 'hnsw' else 'probes'} {point.breadth}",
        f"{point.recall:.3f}",
        f"{point.low:.3f}-{point.high:.3f}",
        f"{point.p50_ms:.2f}",
        f"{point.p95_ms:.2f}",
        f"{size_bytes / _MIB:,.1f}",
        f"{build_s:.1f}",
    )


def _skipped(tuned: Tuned) -> Iterator[str]:
    """Yield each reason once, with the designs that it kept from being built."""
    by_reason: dict[str, list[str]] = {}
    for one in tuned.skipped:
        by_reason.setdefault(one.why, []).append(str(one.design))
    for why, designs in by_reason.items():
        more = f" and {len(designs) - 1} more" if len(designs) > 1 else ""
        yield f"not built: {designs[0]}{more}: {why}"


def _proposed(proposal: Proposal, filtered: str) -> Iterator[str]:
    design = proposal.design
    yield (
        f"proposed: {design}, ef_search {proposal.ef_search}: {proposal.size_bytes / _MIB:,.1f} MB, "
        f"{proposal.unseen.p50_ms:.2f} ms, built in {proposal.build_s:.1f} s"
    )
    if len(proposal.rivals) > 1:
        shown = "; ".join(f"{one.design} {one.points[0].p50_ms:.2f} ms" for one in proposal.rivals)
        yield f"  side by side, built anew, n = {proposal.rivals[0].points[0].n}: {shown}"
    yield f"  filters: {filtered}"
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

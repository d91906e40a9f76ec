"""What a stage of `ragline tune` sets and leaves alone, as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragline.core.stages import LeftAlone, Recommendation, Tuning


def text(found: Tuning) -> str:
    """Return what a stage would set, each with its reason, and what it leaves alone."""
    from ragline.core import tuning_text

    lines = [f"{found.title}: PostgreSQL {found.version}, {tuning_text.described(found.machine)}"]
    for one in found.recommended:
        lines += _recommended(one)
    if not found.recommended:
        lines.append("  nothing to set")
    if found.left_alone:
        lines.append("left alone:")
        lines += [_left(one) for one in found.left_alone]
    lines += [f"warning: {warning}" for warning in found.warnings]
    return "\n".join(lines)


def _recommended(one: Recommendation) -> Sequence[str]:
    value = one.value if one.now is None else f"{one.now} -> {one.value}"
    restart = "   (restart)" if one.restarts else ""
    why = ". ".join(part for part in (one.how, one.reason, one.note) if part)
    return (f"  {one.name} = {value}{restart}", f"      {why}", f"      source: {one.source}")


def _left(one: LeftAlone) -> str:
    now = "" if one.now is None else f" ({one.now})"
    return f"  {one.name}{now}: {one.reason}. Source: {one.source}"

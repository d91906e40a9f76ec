"""All checks together: what they find in the order of the catalogue, and what comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ragline.core.checkup import Finding, urgency
from ragline.core.doctor import access, capacity, indexes, reaching, spaces, upkeep, versions
from ragline.core.doctor.catalogue import IDS, is_wanted
from ragline.core.doctor.words import unknown

if TYPE_CHECKING:
    from ragline.core.doctor.facts import Facts, Unknown


def judge(
    facts: Facts, inventory: indexes.Inventory | Unknown, wanted: Sequence[str] = IDS
) -> tuple[Finding, ...]:
    """Return what is found out by the wanted checks: at least one finding for each."""
    found = [
        finding
        for part in (reaching, versions, access, spaces, upkeep, capacity)
        for finding in part.judge(facts)
    ]
    return told([*found, *indexes.judge(facts, inventory)], wanted)


def unreached(refusal: reaching.Refusal, wanted: Sequence[str] = IDS) -> tuple[Finding, ...]:
    """Return what failed, and that nothing else could be looked at."""
    return without_answer(reaching.refused(refusal), wanted)


def without_answer(broken: Finding, wanted: Sequence[str] = IDS) -> tuple[Finding, ...]:
    """Return a finding on which all others rest, and these as unknown. It is told, wanted or not."""
    others = [unknown(id_, f"{broken.id} failed") for id_ in wanted if id_ != broken.id]
    return (broken, *others)


def told(found: Iterable[Finding], wanted: Sequence[str]) -> tuple[Finding, ...]:
    """Return the wanted findings in the order of the catalogue, the worst of an id first.

    An id without any finding was not looked at: that is unknown, never a pass. A finding whose id the
    catalogue does not have is told where all of its kind is wanted.
    """
    by_id: dict[str, list[Finding]] = {id_: [] for id_ in wanted}
    for finding in found:
        if finding.id in by_id or is_wanted(finding.id, wanted):
            by_id.setdefault(finding.id, []).append(finding)
    return tuple(
        finding
        for id_, some in by_id.items()
        for finding in sorted(some, key=urgency) or [unknown(id_, "it was not looked at")]
    )


def first(found: Iterable[Finding]) -> list[Finding]:
    """Return what needs something done, the most urgent first."""
    order = {id_: place for place, id_ in enumerate(IDS)}
    bad = [finding for finding in found if finding.status in ("fail", "warn")]
    return sorted(bad, key=lambda one: (urgency(one), order.get(one.id, len(IDS))))


def resting_on(found: Sequence[Finding]) -> str | None:
    """Return the check on which all others rest, where it failed; None where they were made."""
    head, *others = found
    is_alone = head.status == "fail" and others and all(one.status == "unknown" for one in others)
    return head.id if is_alone else None

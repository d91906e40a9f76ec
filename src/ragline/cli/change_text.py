"""Changes as text for people: plans, the ledger, verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ragline.cli.output import on_one_line

if TYPE_CHECKING:
    from ragline.change.loop import Whole
    from ragline.core.change import Entry

WAITS = 3
_HASH = re.compile("[0-9a-f]{64}")
_SHOWN_OF_HASH = 12
_SEEN = re.compile("; a change of [^;]+ would have been found four times in five")
_ORDER = {"fail": 0, "inconclusive": 1, "pass": 2}
_FOLDED = 3
_FAILED, _INCONCLUSIVE, _UNDO_FAILED = 4, 5, 6
_CODES = {"kept": 0, "undone": _FAILED, "inconclusive": _INCONCLUSIVE, "failed": _UNDO_FAILED}


def exit_code(entry: Entry) -> int:
    """Return how the command that applied a change ends."""
    return WAITS if entry.waits_for else _CODES.get(entry.state, 1)


def plan(entry: Entry, *, is_next: bool = True) -> str:
    """Return a plan with everything somebody should know before it is applied.

    `is_next`: with the line that applies it, where that is not done at once.
    """
    lines = [f"change {entry.id} (plan {entry.plan_hash}): {on_one_line(entry.title)}"]
    for part in entry.plan["parts"]:
        lines.append(
            f"  {part['kind']} {on_one_line(part['target'])}: {difference(part['now'], part['want'])}"
        )
        lines += [f"    warning: {on_one_line(warning)}" for warning in part["warnings"]]
    lines += steps(entry.plan["steps"])
    lines.append(f"undo: {entry.undo}")
    lines.append(_measured(entry.asked))
    if is_next:
        lines.append(
            f"next: ragline change apply {entry.id}   (until {entry.expires_at:%H:%M} UTC)"
        )
    return "\n".join(lines)


def difference(now: object, want: object) -> str:
    """Return what a value is and shall be; of one with several facts those that differ.

    >>> difference({"m": 16, "storage": "vector"}, {"m": 24, "storage": "vector"})
    'm 16 -> 24'
    >>> difference(None, "32MB")
    'default -> 32MB'
    """
    if not isinstance(now, Mapping) or not isinstance(want, Mapping):
        return f"{value(now)} -> {value(want)}"
    names = [name for name in {**now, **want} if now.get(name) != want.get(name)]
    said = [f"{name} {value(now.get(name))} -> {value(want.get(name))}" for name in names]
    return ", ".join(said) or "as it is"


def _step(number: int, step: Mapping[str, Any]) -> Iterable[str]:
    first, *more = str(step["text"]).split("\n")
    yield f"  {number}. [{step['phase']}] {on_one_line(first)}"
    # Behind a bar: a name with a line end in it is not taken for a step.
    yield from (f"     | {on_one_line(line)}" for line in more)
    facts = []
    if step["lock"] != "none":
        facts.append(f"locks: {step['lock']}")
        facts.append(f"blocks: {step['blocks']}")
    if step["disk_bytes"]:
        facts.append(f"disk: {size(step['disk_bytes'])}")
    if step["expected_s"] is not None:
        facts.append(f"about {step['expected_s']:.3g} s")
    if facts:
        yield f"     {'; '.join(facts)}"
    if step["loses"]:
        yield f"     may lose: {step['loses']}"


def steps(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the steps of a plan with their locks, and what they take together."""
    lines = ["steps:"]
    for number, step in enumerate(found, start=1):
        lines += _step(number, step)
    restarts = sum(step["action"] == "restart" for step in found)
    known = [step["expected_s"] for step in found]
    took = "unknown" if None in known else f"about {sum(known):.3g} s"
    disk = sum(step["disk_bytes"] for step in found)
    loses = [step["loses"] for step in found if step["loses"]]
    lines.append(
        f"restarts: {restarts or 'none'}; time: {took}; disk: {size(disk) if disk else 'none'}; "
        f"may be lost: {'; '.join(loses) if loses else 'nothing'}"
    )
    return lines


def _measured(asked: Mapping[str, Any] | None) -> str:
    if asked is None:
        return "measured: nothing, on your word"
    where = ", ".join(asked["collections"]) or "the largest collections"
    dataset = f" and dataset {asked['dataset']}" if asked["dataset"] else ""
    sort = asked.get("sampled", "all")
    number = len(asked["texts"]) if sort == "given" else asked["questions"]
    which = {
        "all": "questions made of",
        "likely": "texts that read like questions, drawn anew, of",
        "midway": "points midway between vectors of",
        "given": "given questions to",
    }[sort]
    return (
        f"measured: {number} {which} {on_one_line(where)}{dataset}, as workload "
        f"{asked['workload']}; kept if quality loses at most {asked['quality_margin']:g} and the middle "
        f"search time at most {asked['latency_margin']:.0%}"
    )


def table(entries: Sequence[Entry]) -> str:
    """Return the ledger, a line for each change."""
    if not entries:
        return "the ledger is empty; `ragline change plan` begins a change"
    lines = [f"{'no.':>5}  {'state':<13} {'planned (UTC)':<17} {'undo took':>10}  what"]
    for entry in entries:
        took = "-" if entry.undo_ms is None else f"{entry.undo_ms:,.0f} ms"
        lines.append(
            f"{entry.id:>5}  {_state(entry):<13} {entry.planned_at:%Y-%m-%d %H:%M}  {took:>10}  "
            f"{_cut(entry.title, 100)}"
        )
        if entry.reason:
            lines.append(f"{'':<50} {_cut(entry.reason, 160)}")
        if entry.state == "kept" and entry.undone_by is None:
            lines.append(f"{'':<50} undo: {entry.undo}")
    return "\n".join(lines)


def _state(entry: Entry) -> str:
    if entry.undone_by is not None:
        return f"undone by {entry.undone_by}"
    return "waits" if entry.waits_for else entry.state


def ended(entry: Entry) -> str:
    """Return how a change ended, with the lines of its verdict."""
    said = f"is {entry.state}: {on_one_line(entry.reason or entry.title)}"
    if entry.undoes is not None and entry.state == "kept":
        said = f"took change {entry.undoes} back: {on_one_line(entry.title)}"
    lines = [f"change {entry.id} {said}"]
    lines += verdict(entry.verdict)
    if entry.undo_ms is not None:
        lines.append(f"  putting it back took {entry.undo_ms:,.0f} ms")
    if entry.state == "kept":
        lines.append(f"  undo: {entry.undo}")
    return "\n".join(lines)


def verdict(found: Mapping[str, Any] | None) -> list[str]:
    """Return the lines of a verdict: each with n, interval and the smallest drop it could have seen."""
    if not found or found["rung"] == "nothing":
        return []
    lines = [f"  verdict {found['status']} (by {found['rung']}, {found['seconds']:.1f} s)"]
    same = [row for row in found["rows"] if _is_same(row)]
    others = [row for row in found["rows"] if len(same) < _FOLDED or not _is_same(row)]
    # What decided comes first.
    others.sort(key=lambda row: _ORDER.get(row["status"], len(_ORDER)))
    lines += [f"    {row['status']:<12} {_row(row)}" for row in others]
    if len(same) >= _FOLDED:
        counts = sorted(row["n"] for row in same)
        lines.append(
            f"    {'pass':<12} {len(same)} lines of quality: {same[0]['reason']}; "
            f"n = {counts[0]} to {counts[-1]} each"
        )
    if found.get("is_too_noisy"):
        lines.append("    the machine is too noisy for the margin of latency")
    return lines


def _is_same(row: Mapping[str, Any]) -> bool:
    return row["status"] == "pass" and str(row["reason"]).startswith("unchanged by construction")


def _row(row: Mapping[str, Any]) -> str:
    # What could have been seen stands at the end of the line.
    reason = _SEEN.sub("", on_one_line(str(row["reason"])))
    said = f"{row['metric']}{_figures(row)}: {reason or row['line']}"
    facts = [
        f"n = {row['n']}" if row.get("n") else "",
        _interval(row),
        _detectable(row),
    ]
    return "; ".join([said, *filter(None, facts)])


def _figures(row: Mapping[str, Any]) -> str:
    if row.get("value") is None:
        return ""
    unit = f" {row['unit']}" if row.get("unit") else ""
    now = f"{row['value']:.4g}{unit}"
    return f" {now}" if row.get("baseline") is None else f" {row['baseline']:.4g}{unit} -> {now}"


def _interval(row: Mapping[str, Any]) -> str:
    if row.get("low") is None or row.get("high") is None:
        return ""
    form = "+.1%" if row.get("is_ratio") else "+.4f"
    return f"by [{row['low']:{form}}, {row['high']:{form}}]"


def _detectable(row: Mapping[str, Any]) -> str:
    seen = row.get("detectable")
    if seen is None:
        return ""
    return f"would have seen {seen:{'.0%' if row.get('is_ratio') else '.3g'}}"


def _cut(text: str, length: int) -> str:
    line = on_one_line(text)
    return line if len(line) <= length else line[: length - 2].rstrip() + " …"


def whole(found: Whole) -> str:
    """Return all that the ledger knows of a change."""
    entry = found.entry
    lines = [
        f"change {entry.id}: {on_one_line(entry.title)}",
        f"  state {_state(entry)}: {on_one_line(entry.reason)}",
        f"  plan {entry.plan_hash}, key {entry.key}",
    ]
    for place, part in enumerate(entry.parts):
        was = "not taken yet" if entry.snapshot is None else value(entry.snapshot[place])
        lines.append(
            f"  {part.kind} {on_one_line(part.target)}: was {was}, wanted {value(part.want)}"
        )
    lines += verdict(entry.verdict)
    lines.append("  history:")
    lines += [
        f"    {line.at:%Y-%m-%d %H:%M:%S}  {line.state:<12} {line.by_user:<14} "
        f"{_cut(line.reason, 200)}"
        for line in found.history
    ]
    if found.steps:
        lines.append("  steps:")
    for step in found.steps:
        done = "broken off" if step.ended_at is None else _took(step.started_at, step.ended_at)
        said = f"failed: {on_one_line(step.error)}" if step.error else done
        lines.append(f"    {step.direction:<4} {step.phase:<7} {on_one_line(step.text)}  ({said})")
    if entry.undo_ms is not None:
        lines.append(f"  putting it back took {entry.undo_ms:,.0f} ms")
    if entry.retire_at is not None:
        lines.append(f"  what it replaced is kept until {entry.retire_at:%Y-%m-%d %H:%M} UTC")
    if entry.is_open or (entry.state == "kept" and entry.undone_by is None):
        lines.append(f"  undo: {entry.undo}")
    return "\n".join(lines)


def progress(found: Whole) -> list[str]:
    """Return the states and ended steps of a change in the order of time."""
    said = [(line.at, f"{line.state}  {_cut(line.reason, 200)}".rstrip()) for line in found.history]
    said += [
        (step.ended_at, f"  done: {on_one_line(step.text)}")
        for step in found.steps
        if step.ended_at is not None
    ]
    return [f"{at:%H:%M:%S}  {text}" for at, text in sorted(said)]


def _took(began: Any, ended: Any) -> str:
    return f"{(ended - began).total_seconds() * 1000:,.0f} ms"


def value(found: object) -> str:
    """Return a value of a part, short enough for a line."""
    if found is None:
        return "default"
    if isinstance(found, Mapping):
        said = ", ".join(
            f"{name} {value(item)}" for name, item in found.items() if item not in (None, [], ())
        )
        return said or "all defaults"
    if isinstance(found, Sequence) and not isinstance(found, str):
        return ", ".join(map(str, found))
    if isinstance(found, str) and _HASH.fullmatch(found):
        return found[:_SHOWN_OF_HASH]
    return on_one_line(str(found))


def size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit is returned")

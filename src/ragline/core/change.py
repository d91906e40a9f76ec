"""A change as values: what should be, what was, the steps between, and where it stands.

Undo is the same as do with the old value: `steps(target, now, was)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

Value: TypeAlias = "bool | int | float | str | Mapping[str, Any] | Sequence[Any] | None"
"""What JSON knows. None is "not there", or "as the server has it by default"."""
State = Literal[
    "planned", "preparing", "snapshotted", "applying", "applied", "measuring", "keeping",
    "undoing", "kept", "undone", "inconclusive", "failed",
]  # fmt: skip
Phase = Literal["prepare", "apply", "adopt"]
"""prepare: beside what is in use, outside the slot. apply: in effect, to be judged. adopt: after the
verdict. Undo runs all three, without a verdict between."""
Action = Literal["sql", "reload", "restart", "build", "drop", "switch", "fill"]
OPEN: tuple[State, ...] = (
    "snapshotted", "applying", "applied", "measuring", "keeping", "undoing", "failed",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing to be different: "role eval_app.work_mem should be 32MB"."""

    kind: str
    target: str
    want: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One statement of a change; doing it twice is doing it once.

    `action` tells the loop what is shared by all parts (one reload, one restart); all else is run by
    the kind. `arguments` are the kind's own. `lock` and `blocks` say what others notice; `loses` what
    cannot be had back. `expected_s` None is unknown.
    """

    kind: str
    target: str
    phase: Phase
    action: Action
    text: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    lock: str = "none"
    blocks: str = "nothing"
    disk_bytes: int = 0
    expected_s: float | None = None
    loses: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A collection searched otherwise than its callers are: another slot, space or policy.

    `policy` None is the policy in force; else the whole policy as `core.search_policy` writes it.
    """

    slot: int | None = None
    space_id: int | None = None
    policy: Mapping[str, Any] | None = None


Arm: TypeAlias = Mapping[str, Trial]
"""One side of a measurement: collections by name; what is not named is searched as always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPart:
    """A part with what is there now and what is wanted, complete and checked."""

    kind: str
    target: str
    now: Value
    want: Value
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a change would do. `hash` names parts, state and steps: it fits nothing else."""

    parts: tuple[PlannedPart, ...]
    steps: tuple[Step, ...]
    hash: str

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.steps)

    @property
    def restarts(self) -> bool:
        """Whether the server has to be restarted."""
        return any(step.action == "restart" for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A change in the ledger. `undo` is the one line that takes it back."""

    id: int
    key: str
    title: str
    state: State
    parts: tuple[Part, ...]
    plan: Mapping[str, Any]
    plan_hash: str
    asked: Mapping[str, Any] | None
    is_cluster_wide: bool
    snapshot: tuple[Value, ...] | None
    before: Mapping[str, Any] | None
    verdict: Mapping[str, Any] | None
    reason: str
    waits_for: str | None
    undo: str
    undoes: int | None
    undone_by: int | None
    keep_for_s: float
    retire_at: datetime | None
    undo_ms: float | None
    planned_at: datetime
    expires_at: datetime
    opened_at: datetime | None
    applied_at: datetime | None
    closed_at: datetime | None

    @property
    def is_open(self) -> bool:
        """Whether it holds the one place of changes that are in effect and not decided."""
        return self.state in OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLine:
    """A state that a change came to."""

    at: datetime
    state: State
    reason: str
    by_user: str


def plan(parts: Sequence[PlannedPart], steps: Sequence[Step]) -> Plan:
    """Return a plan with its hash."""
    said = json.dumps(
        [
            [[part.kind, part.target, part.now, part.want] for part in parts],
            [[step.kind, step.phase, step.action, step.text] for step in steps],
        ],
        sort_keys=True,
    )
    digest = hashlib.sha256(said.encode()).hexdigest()[:12]
    return Plan(parts=tuple(parts), steps=tuple(steps), hash=digest)


def to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain values."""
    return asdict(plan)


def joined(steps: Sequence[Step]) -> list[Step]:
    """Return the steps of several parts in the order they run: by phase, one reload, one restart.

    A restart reads the files as well, so that a reload beside it is not needed.
    """
    ordered: list[Step] = []
    for phase in ("prepare", "apply", "adopt"):
        of_phase = [step for step in steps if step.phase == phase]
        own = [step for step in of_phase if step.action not in ("reload", "restart")]
        shared = [step for step in of_phase if step.action == "restart"] or [
            step for step in of_phase if step.action == "reload"
        ]
        ordered += [*own, *shared[:1]]
    return ordered


def title(parts: Sequence[Part]) -> str:
    """Return what a change is about, in a line."""
    said = "; ".join(f"{part.kind} {part.target} = {_short(part.want)}" for part in parts)
    return said if len(said) <= 300 else said[:297] + "..."


def _short(value: Value) -> str:
    if value is None:
        return "default"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} {_short(item)}" for name, item in value.items() if item is not None
        )
    return str(value)

"""What a tuning says as a piece of postgresql.conf, and what it is for, in a line."""

from __future__ import annotations

from ragline.core import gucs
from ragline.core.stages import Machine, Tuning


def fragment(tuning: Tuning) -> str:
    """Return a commented piece of postgresql.conf; every value is quoted, so it can be included."""
    machine = tuning.machine
    lines = [
        f"# {tuning.title}: PostgreSQL {tuning.version}, {described(machine)}",
        "# Include it at the end of postgresql.conf; what ALTER SYSTEM says wins over it.",
    ]
    for one in tuning.recommended:
        lines += [
            "",
            *(f"# {text}" for text in (one.how, one.reason, one.note) if text),
            f"# source: {one.source}" + ("; takes a restart" if one.restarts else ""),
            f"{one.name} = '{one.value}'",
        ]
    lines += ["", "# Left alone:"]
    lines += [f"#   {one.name}: {one.reason} ({one.source})" for one in tuning.left_alone]
    lines += ["", *(f"# warning: {warning}" for warning in tuning.warnings)]
    return "\n".join(lines).rstrip() + "\n"


def described(machine: Machine) -> str:
    """Return what a machine is, in a line."""
    parts = [
        machine.system,
        f"{gucs.written(gucs.rounded(machine.memory_bytes))} of memory",
        None if machine.cores is None else f"{machine.cores} cores",
        machine.disk,
    ]
    return ", ".join(part for part in parts if part)

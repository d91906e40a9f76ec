"""Numbers of PostgreSQL's settings with their units, read as the server reads them (`guc.c`)."""

from __future__ import annotations

import math
import re

_MEMORY = (("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10), ("B", 0))
_TIME_US = {
    "d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1000, "us": 1
}  # fmt: skip
_NUMBER = re.compile(
    r"\s*([+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))\s*([A-Za-z]*)\s*",
    re.ASCII,
)
_BASE_UNIT = re.compile(r"(\d*)([A-Za-z]+)")


def number(text: str, unit: str | None, *, is_whole: bool) -> float | None:
    """Return a number in a base unit of pg_settings ("8kB", "ms"); None where the server takes none.

    >>> number("32MB", "kB", is_whole=True)
    32768.0
    """
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    digits, suffix = found.groups()
    value = _plain_number(digits, is_whole=is_whole)
    if value is None:
        return None
    if suffix:
        converted = None if unit is None else _converted(value, suffix, unit)
        if converted is None:
            return None
        value = converted
    if not math.isfinite(value):
        return None
    return float(round(value)) if is_whole else value


def _plain_number(digits: str, *, is_whole: bool) -> float | None:
    bare = digits.lstrip("+-")
    sign = -1 if digits.startswith("-") else 1
    if bare[:2].lower() == "0x":
        return sign * int(bare, 16)
    octal = re.match(r"0(\d+)", bare) if is_whole else None  # as for file modes
    if octal and set("89") & set(octal[1]):
        return None
    return sign * int(bare, 8) if octal and octal[0] == bare else float(digits)


def _converted(value: float, suffix: str, unit: str) -> float | None:
    base = _BASE_UNIT.fullmatch(unit)
    if not base:
        return None
    count, word = int(base[1] or 1), base[2]
    sizes: dict[str, int] = {name: 1 << bits for name, bits in _MEMORY}
    if word not in sizes:
        sizes = _TIME_US
    if suffix not in sizes or word not in sizes:
        return None
    size = count * sizes[word]
    found = value * sizes[suffix] / size
    names = list(sizes)
    smaller = names[names.index(suffix) + 1 :]
    if smaller and value != int(value):
        # "30.1GB" is taken to the next smaller unit, as the server does.
        step = sizes[smaller[0]] / size
        found = round(found / step) * step
    return found


def known_units(unit: str | None) -> str:
    """Return the units that may stand beside a setting's own; "" where it has none."""
    if unit is None:
        return ""
    return ", ".join(_TIME_US if unit in _TIME_US else [name for name, _ in reversed(_MEMORY)])

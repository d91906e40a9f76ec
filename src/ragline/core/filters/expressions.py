"""The values that filters are made of. Each checks itself when it is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeAlias, get_args

from ragline.errors import UsageError

MOST_NODES = 200
DEEPEST = 20
MOST_VALUES = 1000
LONGEST_VALUE_BYTES = 10_000
LARGEST_BYTES = 256_000
# A number has at most this many digits before the point, and after it. No index holds longer ones.
LARGEST_EXPONENT = 1000

# A float is kept as the decimal it prints.
Scalar: TypeAlias = str | bool | int | float | Decimal | None
Kind = Literal["text", "number", "boolean", "null"]
Order = Literal["eq", "ne", "lt", "le", "gt", "ge"]
_ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True, slots=True)
class Extent:
    """How large a filter is: nodes of its tree, levels of it, bytes of its keys and values."""

    nodes: int
    depth: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Compare:
    """The key's value is equal to, unlike, before or after a value.

    A missing key compares as false, also with `ne`. Before and after mean numbers by size or texts by
    code point: a text is neither before nor after a number. Floats count as the decimal they print.
    """

    key: str
    op: Order
    value: Scalar
    # Python has True == 1; JSON has not, and neither have two filters.
    kind: Kind = field(init=False, repr=False)
    extent: Extent = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key, value = _key(self.key), _scalar(self.value)
        kind = kind_of(value)
        if self.op not in _ORDERS:
            raise UsageError(f"{_shown(self.op)} is not one of {', '.join(_ORDERS)}")
        if self.op not in ("eq", "ne") and kind not in ("text", "number"):
            raise UsageError(
                f"{_shown(value)} has no before and after: compare with a number or a text"
            )
        _set(self, key=key, value=value, kind=kind, extent=_extent(key, (value,)))


@dataclass(frozen=True, slots=True)
class In:
    """The key's value is equal to one of the values. Without values, to none."""

    key: str
    values: tuple[Scalar, ...]
    kinds: tuple[Kind, ...] = field(init=False, repr=False)
    extent: Extent = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = _key(self.key)
        values = tuple(_scalar(value) for value in _listed(self.values, "values"))
        if len(values) > MOST_VALUES:
            raise UsageError(f"{len(values)} values are listed; at most {MOST_VALUES} can be")
        kinds = tuple(kind_of(value) for value in values)
        _set(self, key=key, values=values, kinds=kinds, extent=_extent(key, values))


@dataclass(frozen=True, slots=True)
class Contains:
    """The key's value is an array that has the value, or a text that the value is part of."""

    key: str
    value: Scalar
    kind: Kind = field(init=False, repr=False)
    extent: Extent = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key, value = _key(self.key), _scalar(self.value)
        _set(self, key=key, value=value, kind=kind_of(value), extent=_extent(key, (value,)))


@dataclass(frozen=True, slots=True)
class Exists:
    """The key is there, whatever its value; null is a value."""

    key: str
    extent: Extent = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = _key(self.key)
        _set(self, key=key, extent=_extent(key, ()))


@dataclass(frozen=True, slots=True)
class _Joined:
    parts: tuple[Filter, ...]
    extent: Extent = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = _several(self.parts)
        _set(self, parts=parts, extent=_around(parts))


@dataclass(frozen=True, slots=True)
class And(_Joined):
    """Every part holds. There are two parts at least."""


@dataclass(frozen=True, slots=True)
class Or(_Joined):
    """One part or more holds. There are two parts at least."""


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold. Nothing is unknown: `not (x = 1)` holds where there is no x."""

    part: Filter
    extent: Extent = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _set(self, extent=_around((_filter(self.part),)))


Filter: TypeAlias = Compare | In | Contains | Exists | And | Or | Not


def kind_of(value: Scalar) -> Kind:
    """Return which of JSON's types a value has."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "boolean"
    return "null" if value is None else "number"


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise UsageError(f"{_shown(key)} is not a key: keys are texts")
    return _text(key, "the key")


def _scalar(value: object) -> Scalar:
    """Return a value as it is kept, or refuse it."""
    if isinstance(value, str):
        return _text(value, "the value")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        # Not repr(): numpy's floats print as np.float64(0.1).
        return _number(Decimal(float.__repr__(value)))
    if isinstance(value, int | Decimal):
        return _number(value)
    advice = "list several with `in`, look into an array with `contains`, write a date as a text"
    raise UsageError(
        f"{_shown(value)} cannot be compared with: give a text, a number, true, false or null "
        f"({advice})"
    )


def _text(text: str, what: str) -> str:
    plain = str.__str__(text)
    if "\0" in plain:
        raise UsageError(f"{what} {_shown(plain)} holds a NUL character, which no text has")
    try:
        size = len(plain.encode())
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} {_shown(plain)} holds half of a character (a lone surrogate) at {error.start}"
        ) from error
    if size > LONGEST_VALUE_BYTES:
        raise UsageError(
            f"{what} {_shown(plain)} has {size:,} bytes; at most {LONGEST_VALUE_BYTES:,} can be "
            "compared with"
        )
    return plain


def _number(number: int | Decimal) -> int | Decimal:
    if isinstance(number, int):
        if abs(number) < 10**LARGEST_EXPONENT:
            return int(number)
        raise _too_long("a whole number")
    if not number.is_finite():
        raise UsageError(f"{number} is not a number that JSON has")
    exponent = number.as_tuple().exponent
    # Zero may be written with any exponent, and the server would keep all its digits.
    is_short = isinstance(exponent, int) and exponent >= -LARGEST_EXPONENT
    if is_short and number.adjusted() < LARGEST_EXPONENT:
        return number
    raise _too_long("a number")


def _too_long(what: str) -> UsageError:
    return UsageError(
        f"{what} with more than {LARGEST_EXPONENT} digits before or after its point cannot be "
        "compared with"
    )


def _listed(given: object, what: str) -> Iterable[object]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"{_shown(given)} is not a list of {what}")
    return given


def _several(parts: object) -> tuple[Filter, ...]:
    checked = tuple(_filter(part) for part in _listed(parts, "filters"))
    if len(checked) < 2:
        raise UsageError(f"`and` and `or` join two filters or more, not {len(checked)}")
    return checked


def _filter(part: object) -> Filter:
    if not isinstance(part, Compare | In | Contains | Exists | And | Or | Not):
        raise UsageError(f"{_shown(part)} is not a filter")
    return part


def _extent(key: str, values: tuple[Scalar, ...]) -> Extent:
    size = len(key.encode()) + sum(map(_size, values))
    if size > LARGEST_BYTES:
        raise _too_large(size)
    return Extent(nodes=1, depth=1, size_bytes=size)


def _size(value: Scalar) -> int:
    if isinstance(value, str):
        return len(value.encode())
    return 8 if value is None or isinstance(value, bool) else len(str(value))


def _around(parts: tuple[Filter, ...]) -> Extent:
    nodes = 1 + sum(part.extent.nodes for part in parts)
    depth = 1 + max(part.extent.depth for part in parts)
    size = sum(part.extent.size_bytes for part in parts)
    if nodes > MOST_NODES:
        raise UsageError(
            f"the filter has {nodes} conditions and joints; at most {MOST_NODES} are allowed (list "
            "values with `in`)"
        )
    if depth > DEEPEST:
        raise UsageError(f"the filter is nested {depth} deep; at most {DEEPEST} is allowed")
    if size > LARGEST_BYTES:
        raise _too_large(size)
    return Extent(nodes=nodes, depth=depth, size_bytes=size)


def _too_large(size: int) -> UsageError:
    return UsageError(
        f"keys and values of the filter have {size:,} bytes; at most {LARGEST_BYTES:,} are allowed"
    )


def _shown(value: object) -> str:
    """Return a value for a message: short, and printable whatever it holds."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        value = str.__str__(value)[:60]
    try:
        text = ascii(value)
    except ValueError:  # a whole number with more digits than Python prints
        return "a very long number"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _set(frozen: object, **fields: object) -> None:
    for name, value in fields.items():
        object.__setattr__(frozen, name, value)

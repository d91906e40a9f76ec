"""Which changes of a column's type may lose values."""

from __future__ import annotations

import re

_WIDER = {
    "smallint": ("integer", "bigint", "numeric", "double precision"),
    "integer": ("bigint", "numeric", "double precision"),
    "bigint": ("numeric",),
    "real": ("double precision",),
    "date": ("timestamp without time zone", "timestamp with time zone"),
    "json": ("jsonb",),
}
_ALIASES = {
    "int": "integer", "int4": "integer", "int8": "bigint", "int2": "smallint", "float8":
    "double precision", "float": "double precision", "float4": "real", "varchar":
    "character varying", "timestamptz": "timestamp with time zone", "timestamp":
    "timestamp without time zone", "decimal": "numeric",
}  # fmt: skip


def narrows(old: str, new: str) -> bool:
    """Return whether values of a type may not survive becoming another; types as SQL writes them.

    >>> narrows("integer", "BIGINT"), narrows("text", "varchar(5)"), narrows("varchar(5)", "text")
    (False, True, False)
    """
    one, one_length = _type(old)
    other, other_length = _type(new)
    if one == other:
        return other_length is not None and (
            one_length is None or _is_less(other_length, one_length, one)
        )
    if other in ("text", "character varying") and other_length is None:
        return one in ("vector", "halfvec")
    return other not in _WIDER.get(one, ()) or other_length is not None


def _type(text: str) -> tuple[str, tuple[int, ...] | None]:
    name, _, rest = " ".join(text.lower().split()).partition("(")
    numbers = tuple(int(one) for one in re.findall(r"\d+", rest.partition(")")[0])) or None
    name = name.strip()
    after = rest.partition(")")[2].strip()
    full = f"{name} {after}".strip()
    return _ALIASES.get(full, full), numbers


def _is_less(new: tuple[int, ...], old: tuple[int, ...], name: str) -> bool:
    if name != "numeric":
        return new != old and (len(new) != len(old) or new < old)
    places, old_places = (new[1:] or (0,))[0], (old[1:] or (0,))[0]
    return places < old_places or new[0] - places < old[0] - old_places

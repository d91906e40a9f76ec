"""Tables of somebody else's that are searched in place, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

MetadataType = Literal["jsonb", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A table that is a collection, and which of its columns are what. Names as the catalog has them.

    `key` is unique and never null. `is_typed`: the embedding column itself states the dimension; else
    every expression casts it. `filters` are columns that filters name beside the keys of `metadata`,
    with their types; `only` the values, as text, that rows must have in some columns to belong to the
    collection. `words` is SQL of type tsvector that an index of the table holds, in the configuration
    `words_config`; None where no index finds words. `layout` names the library whose table it is.
    """

    schema: str
    table: str
    key: str
    key_type: str
    text: str
    embedding: str
    is_typed: bool
    metadata: str | None = None
    metadata_type: MetadataType = "jsonb"
    filters: tuple[tuple[str, str], ...] = ()
    only: tuple[tuple[str, str], ...] = ()
    words: str | None = None
    words_config: str | None = None
    layout: str | None = None

    @property
    def has_integer_key(self) -> bool:
        """Whether the key leads to the number of a hit and back."""
        return self.key_type in ("smallint", "integer", "bigint")


def to_json(attached: Attached) -> dict[str, Any]:
    """Return it as plain values."""
    return asdict(attached)


def from_json(values: Mapping[str, Any]) -> Attached:
    """Return what `to_json` wrote."""
    pairs = {name: tuple(map(tuple, values.get(name, ()))) for name in ("filters", "only")}
    return Attached(**{**values, **pairs})

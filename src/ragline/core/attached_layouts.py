"""Tables with vectors as their catalog describes them, and whose libraries' tables they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

VECTOR_TYPES = ("vector", "halfvec")
_TEXT_NAMES = ("content", "text", "body", "document", "chunk", "passage", "message", "page_content")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column. `type` is as SQL writes it; `kind` the bare name of the type, such as "vector".

    `dimension` is what a vector's column declares. `is_text`: a type of strings. `is_stable_text`:
    every session writes its values as the same text. `made_by` is the expression of a generated one.
    """

    name: str
    type: str
    kind: str
    is_not_null: bool = False
    dimension: int | None = None
    is_text: bool = False
    is_stable_text: bool = True
    made_by: str | None = None

    @property
    def is_vector(self) -> bool:
        """Whether it holds vectors that can be searched."""
        return self.kind in VECTOR_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorIndex:
    """A valid index of vectors: `operator_class` says metric and type, `options` how it is built."""

    name: str
    method: str
    operator_class: str
    columns: tuple[str, ...]
    is_partial: bool
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsIndex:
    """A valid GIN index of a whole table over SQL of type tsvector."""

    name: str
    expression: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as the catalog has it. `keys` are unique sets of columns, the primary key first."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    keys: tuple[tuple[str, ...], ...] = ()
    vector_indexes: tuple[VectorIndex, ...] = ()
    words_indexes: tuple[WordsIndex, ...] = ()

    def column(self, name: str) -> Column | None:
        """Return a column by its exact name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def single_keys(self) -> tuple[str, ...]:
        """The columns that are unique and never null, each by itself."""
        alone = [key[0] for key in self.keys if len(key) == 1]
        return tuple(dict.fromkeys(name for name in alone if self._is_not_null(name)))

    def _is_not_null(self, name: str) -> bool:
        column = self.column(name)
        return column is not None and column.is_not_null


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which column is what. `part` is one that says to which of several collections a row belongs."""

    layout: str
    why: str
    key: str | None
    text: str
    embedding: str
    metadata: str | None = None
    filters: tuple[str, ...] = ()
    part: str | None = None
    collection: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """A library's table: known by columns, and where those are common ones, by its name as well."""

    name: str
    text: str
    embedding: str = "embedding"
    key: str | None = None
    metadata: str | None = None
    also: tuple[str, ...] = ()
    table: str | None = None
    has_filters: bool = False
    part: str | None = None
    collection: Callable[[str], str] = field(default=lambda table: table)


_LAYOUTS = (
    _Layout(
        name="LangChain PGVector",
        key="id",
        text="document",
        metadata="cmetadata",
        also=("collection_id",),
        table="langchain_pg_embedding",
        part="collection_id",
    ),
    _Layout(
        name="LangChain PGVectorStore",
        key="langchain_id",
        text="content",
        metadata="langchain_metadata",
        also=("langchain_id",),
        has_filters=True,
    ),
    _Layout(
        name="LlamaIndex PGVectorStore",
        key="id",
        text="text",
        metadata="metadata_",
        also=("metadata_", "node_id"),
        table=r"data_.+",
        collection=lambda table: table.removeprefix("data_"),
    ),
    _Layout(name="Haystack PgvectorDocumentStore", key="id", text="content", metadata="meta",
            also=("meta",)),
    _Layout(name="document_chunks", text="content", metadata="metadata", table="document_chunks",
            has_filters=True),
    _Layout(name="conversation_messages", text="content", metadata="metadata",
            table="conversation_messages", has_filters=True),
)  # fmt: skip

# What filters can name: values of these are compared as what they are.
FILTER_KINDS = (
    "text", "varchar", "bpchar", "citext", "uuid", "bool", "int2", "int4", "int8", "numeric",
    "float4", "float8", "date", "timestamp", "timestamptz",
)  # fmt: skip


def recognised(table: Table) -> Columns | None:
    """Return whose table it is and what its columns are; None where it is no known library's."""
    for layout in _LAYOUTS:
        if layout.table is not None and not re.fullmatch(layout.table, table.name):
            continue
        if not all(map(table.column, layout.also)):
            continue
        text, embedding = table.column(layout.text), table.column(layout.embedding)
        if text and text.is_text and embedding and embedding.is_vector:
            return _columns(table, layout)
    return None


def likely(table: Table) -> Mapping[str, tuple[str, ...]]:
    """Return for each role the columns that may play it, the likeliest first."""
    texts = sorted(
        (column.name for column in table.columns if column.is_text),
        key=lambda name: (name.lower() not in _TEXT_NAMES, name not in table.single_keys),
    )
    return {
        "id": table.single_keys,
        "text": tuple(name for name in texts if name not in table.single_keys),
        "embedding": tuple(column.name for column in table.columns if column.is_vector),
        "metadata": tuple(c.name for c in table.columns if c.kind in ("jsonb", "json")),
    }


def _columns(table: Table, layout: _Layout) -> Columns:
    key = layout.key if layout.key in table.single_keys else None
    metadata = table.column(layout.metadata) if layout.metadata else None
    if metadata is not None and metadata.kind not in ("jsonb", "json"):
        metadata = None
    keys = table.single_keys
    key = key or (keys[0] if keys else None)
    used = {key, layout.text, layout.embedding, layout.part}
    seen = dict.fromkeys((*layout.also, layout.text, layout.embedding))
    named = f"table {table.name}, " if layout.table else ""
    return Columns(
        layout=layout.name,
        why=f"{named}columns {', '.join(seen)}",
        key=key,
        text=layout.text,
        embedding=layout.embedding,
        metadata=None if metadata is None else metadata.name,
        filters=tuple(
            c.name for c in table.columns if c.kind in FILTER_KINDS and c.name not in used
        )
        if layout.has_filters
        else (),
        part=layout.part,
        collection=layout.collection(table.name),
    )

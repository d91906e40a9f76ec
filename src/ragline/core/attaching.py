"""Deciding what is what in a table that is to be attached; pure, each refusal says what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from ragline.core.attached import Attached, MetadataType
from ragline.core.attached_layouts import (
    FILTER_KINDS,
    Column,
    Columns,
    Table,
    VectorIndex,
    WordsIndex,
    likely,
    recognised,
)
from ragline.errors import PreconditionFailed, UsageError

METRICS = ("cosine", "l2", "inner_product")
_OF_CLASS = {"cosine": "cosine", "l2": "l2", "ip": "inner_product"}
_CLASS = re.compile(r"(vector|halfvec)_(cosine|l2|ip)_ops")
_CONFIG = re.compile(r"to_tsvector\('([^']+)'::regconfig")
_PLAIN = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be attached. What is None or empty is taken from the table where it is recognised.

    `only` are values, as text, that rows must have to belong. `model` is the id of a configured model,
    or "unknown"; None is whichever configured one the vectors turn out to be of.
    """

    table: str
    id: str | None = None
    text: str | None = None
    embedding: str | None = None
    metadata: str | None = None
    filters: tuple[str, ...] = ()
    only: tuple[tuple[str, str], ...] = ()
    collection: str | None = None
    model: str | None = None
    metric: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The vector index that searches walk already, and what of it a collection keeps."""

    name: str | None
    metric: str
    storage: str
    m: int | None = None
    ef_construction: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is what. `dimension` None: the column does not declare one."""

    attached: Attached
    collection: str
    dimension: int | None
    storage: str
    why: str | None
    part: str | None


def table_name(said: str) -> tuple[str | None, str]:
    """Return schema and name of a table as people write them, quoted or not.

    Raises UsageError for what names no table.
    """
    names = _names(said)
    if not 1 <= len(names) <= 2 or "\0" in said:
        raise UsageError(
            f"{said!r} names no table: say table or schema.table, in double quotes what holds dots"
        )
    return (names[0] if len(names) == 2 else None), names[-1]


def _names(said: str) -> list[str]:
    """Return the names that dots part; none where it is not made of names."""
    parts = re.findall(r'"((?:[^"]|"")+)"|([^".]+)', said)
    if ".".join(f'"{inner}"' if inner else plain for inner, plain in parts) != said:
        return []
    return [inner.replace('""', '"') if inner else plain for inner, plain in parts]


def choice(table: Table, request: Request) -> Choice:
    """Return which columns are what; raises UsageError naming what there is."""
    known = recognised(table)
    key = _key(table, request, known)
    text = _text(table, request, known)
    embedding = _embedding(table, request, known)
    metadata = _metadata(table, request, known)
    filters = _filters(table, request, known)
    words = _words(table, text.name)
    only = tuple((_named(table, name, "--only").name, value) for name, value in request.only)
    return Choice(
        attached=Attached(
            schema=table.schema,
            table=table.name,
            key=key.name,
            key_type=key.type,
            text=text.name,
            embedding=embedding.name,
            is_typed=embedding.dimension is not None,
            metadata=None if metadata is None else metadata.name,
            metadata_type=_metadata_type(metadata),
            filters=tuple((column.name, column.type) for column in filters),
            only=only,
            words=None if words is None else words[0],
            words_config=None if words is None else words[1],
            layout=None if known is None else known.layout,
        ),
        collection=request.collection or _collection_name(known, table),
        dimension=embedding.dimension,
        storage=embedding.kind,
        why=None if known is None else known.why,
        part=None if known is None or only else known.part,
    )


def plain_name(text: str) -> str:
    """Return a text as a collection can be called."""
    return _PLAIN.sub("_", text).strip("_.-")[:100]


def index(table: Table, attached: Attached, storage: str, wanted: str | None) -> Index:
    """Return the metric, and the vector index of it that is there.

    Raises UsageError where indexes of several metrics leave open which one is meant.
    """
    if wanted is not None and wanted not in METRICS:
        raise UsageError(f"--metric is {wanted!r}; there are: {', '.join(METRICS)}")
    found = [
        (one, match)
        for one in table.vector_indexes
        if not one.is_partial
        and attached.embedding in one.columns
        and (match := _CLASS.fullmatch(one.operator_class))
    ]
    metrics = sorted({_OF_CLASS[match[2]] for _, match in found})
    if wanted is None and len(metrics) > 1:
        raise UsageError(
            f"table {table.name} has vector indexes for {' and '.join(metrics)}: say which its "
            f"searches go by, such as --metric {metrics[0]}"
        )
    metric = wanted or (metrics[0] if metrics else "cosine")
    # HNSW before IVFFlat; of the column's own type before others.
    fitting = sorted(
        ((one, match[1]) for one, match in found if _OF_CLASS[match[2]] == metric),
        key=lambda pair: (pair[0].method != "hnsw", pair[1] != storage, pair[0].name),
    )
    if not fitting:
        return Index(name=None, metric=metric, storage=storage)
    one, holds = fitting[0]
    return _described(one, metric, holds)


def _described(one: VectorIndex, metric: str, holds: str) -> Index:
    if one.method != "hnsw":
        return Index(name=one.name, metric=metric, storage=holds)
    return Index(
        name=one.name,
        metric=metric,
        storage=holds,
        m=int(one.options.get("m", 16)),
        ef_construction=int(one.options.get("ef_construction", 64)),
    )


def _collection_name(known: Columns | None, table: Table) -> str:
    name = table.name if known is None or known.collection is None else known.collection
    return plain_name(name)


# One column after the other.


def _named(table: Table, said: str, option: str) -> Column:
    """Return a column as people write it: as it is, in quotes, or in other capitals."""
    exact = said[1:-1].replace('""', '"') if re.fullmatch(r'"(?:[^"]|"")+"', said) else said
    if column := table.column(exact):
        return column
    alike = [column for column in table.columns if column.name.lower() == exact.lower()]
    if len(alike) == 1 and exact == said:
        return alike[0]
    names = [column.name for column in table.columns]
    near = get_close_matches(exact, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise UsageError(
        f"table {table.name} has no column {said!r} ({option}){hint} Its columns: {_listed(table)}"
    )


def _listed(table: Table) -> str:
    return ", ".join(f"{column.name} ({column.type})" for column in table.columns)


def _required(table: Table, said: str | None, option: str) -> Column:
    """Return the column that was named, or that is known for its part."""
    if said is not None:
        return _named(table, said, f"--{option}")
    may_be = likely(table)
    if not may_be["embedding"]:
        raise UsageError(
            f"table {table.name} has no column of type vector or halfvec, so there is nothing to "
            f"search by; its columns: {_listed(table)}"
        )
    hints = [f"--{role} {names[0]}" for role, names in may_be.items() if names]
    hint = f" Likely: {' '.join(hints)}." if hints else ""
    raise UsageError(
        f"table {table.name} is not one that ragline recognises: say --{option} COLUMN.{hint} Its "
        f"columns: {_listed(table)}"
    )


def _key(table: Table, request: Request, known: Columns | None) -> Column:
    if not table.single_keys:
        raise PreconditionFailed(_no_key(table))
    column = _required(table, request.id or (known.key if known else None), "id")
    if column.name not in table.single_keys:
        raise UsageError(
            f"column {column.name} of table {table.name} is not unique and never null, so it cannot "
            f"name its rows; --id can be: {', '.join(table.single_keys)}"
        )
    if not column.is_stable_text:
        raise UsageError(
            f"column {column.name} is of type {column.type}, which sessions write in different ways, "
            "so it names no row for sure: name a key of whole numbers, text or uuid by --id"
        )
    return column


def _no_key(table: Table) -> str:
    several = next((key for key in table.keys if len(key) > 1), None)
    has = f"only ({', '.join(several)}) together" if several else "none"
    return (
        f"table {table.name} needs one column that is unique and never null, to name its rows; it has "
        f"{has}: add a primary key, such as `alter table … add column id bigint generated always as "
        "identity primary key`, or a unique constraint on a column that is not null"
    )


def _text(table: Table, request: Request, known: Columns | None) -> Column:
    column = _required(table, request.text or (known.text if known else None), "text")
    if not column.is_text:
        texts = likely(table)["text"]
        raise UsageError(
            f"column {column.name} is of type {column.type}, not text: name the column whose text was "
            f"embedded by --text; there are: {', '.join(texts) or 'none'}"
        )
    return column


def _embedding(table: Table, request: Request, known: Columns | None) -> Column:
    said = request.embedding or (known.embedding if known else None)
    column = _required(table, said, "embedding")
    if not column.is_vector:
        vectors = likely(table)["embedding"]
        raise UsageError(
            f"column {column.name} is of type {column.type}; ragline searches columns of type vector "
            f"and halfvec. Of table {table.name} these are: {', '.join(vectors) or 'none'}"
        )
    return column


def _metadata(table: Table, request: Request, known: Columns | None) -> Column | None:
    said = request.metadata or (known.metadata if known else None)
    if said is None:
        return None
    column = _named(table, said, "--metadata")
    if column.kind not in ("jsonb", "json"):
        found = likely(table)["metadata"]
        raise UsageError(
            f"column {column.name} is of type {column.type}; --metadata is a column of type jsonb or "
            f"json (there are: {', '.join(found) or 'none'}), other columns are named by --filter"
        )
    return column


def _metadata_type(column: Column | None) -> MetadataType:
    return "json" if column is not None and column.kind == "json" else "jsonb"


def _filters(table: Table, request: Request, known: Columns | None) -> list[Column]:
    said: Sequence[str] = request.filters or (known.filters if known else ())
    columns = [_named(table, name, "--filter") for name in dict.fromkeys(said)]
    for column in columns:
        if column.kind not in FILTER_KINDS:
            raise UsageError(
                f"column {column.name} is of type {column.type}, which filters cannot compare; they "
                "can text, numbers, true and false, dates, times and uuid"
            )
    return columns


def _words(table: Table, text: str) -> tuple[str, str | None] | None:
    """Return SQL of a tsvector that an index holds, and its configuration where it is written down."""
    ranked = sorted(table.words_indexes, key=lambda one: not _is_of(table, one, text))
    for one in ranked:
        source = one.expression
        column = table.column(one.columns[0]) if len(one.columns) == 1 else None
        is_column = column is not None and column.kind == "tsvector"
        if is_column and column is not None and column.made_by:
            source = column.made_by
        config = _CONFIG.search(source)
        if is_column or config:
            return one.expression, config[1] if config else None
    return None


def _is_of(table: Table, one: WordsIndex, text: str) -> bool:
    made = [column.made_by or "" for name in one.columns if (column := table.column(name))]
    return text in one.columns or any(re.search(rf"\b{re.escape(text)}\b", by) for by in made)

"""Tables with vectors as other programs make them, each filled with texts about pumps and roofs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeAlias

import asyncpg

from ragline.models.embed import Embedder
from ragline.models.embed_fake import FakeEmbedder

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TEXTS = tuple(
    f"{subject} number {number} is {state} and stands in hall {number % 5}"
    for number in range(10)
    for subject, state in (("The pump", "loud"), ("The roof", "green"), ("A valve", "shut"))
)

_LLAMA_INDEX = """
create table public.{table} (
    id bigserial not null, text varchar not null, metadata_ json, node_id varchar,
    embedding vector({dimension}),
    text_search_tsv tsvector generated always as (to_tsvector('english', text)) stored,
    primary key (id)
);
create index {table}_idx on public.{table} using gin (text_search_tsv);
create index {table}_idx_1 on public.{table} ((metadata_ ->> 'ref_doc_id'));
create index {table}_embedding_idx on public.{table} using hnsw (embedding vector_cosine_ops)
    with (m = 12, ef_construction = 48);
"""
_HAYSTACK = """
create table public.haystack_documents (
    id varchar(128) primary key, embedding vector({dimension}), content text, blob_data bytea,
    blob_meta jsonb, blob_mime_type varchar(255), meta jsonb
);
create index haystack_keyword_index on public.haystack_documents
    using gin (to_tsvector('english', content));
"""
_DOCUMENT_CHUNKS = """
create table public.documents (id serial primary key, file_path text);
create table public.document_chunks (
    id serial primary key, document_id integer references public.documents (id) on delete cascade,
    chunk_index integer not null default 0, content text not null, embedding vector({dimension}),
    metadata jsonb default '{{}}', created_at timestamp default current_timestamp
);
create index document_chunks_embedding_idx on public.document_chunks
    using hnsw (embedding vector_cosine_ops);
"""
_CONVERSATION_MESSAGES = """
create table public.conversation_messages (
    message_id serial primary key, session_id varchar(255) not null, role varchar(20) not null,
    content text not null, content_hash varchar(64), message_index integer not null,
    relevance_score double precision default 0.5, embedding vector({dimension}),
    metadata jsonb default '{{}}', unique (session_id, message_index)
);
create index idx_conversation_messages_embedding on public.conversation_messages
    using ivfflat (embedding vector_l2_ops) with (lists = 4);
"""


async def vectors(texts: Sequence[str], model: Embedder | None = None) -> list[str]:
    """Return a model's vectors of texts, as SQL writes them; the fake one's of 64 dimensions."""
    made = (await (model or FakeEmbedder(64)).embed_documents(texts)).vectors
    return [str(vector.tolist()) for vector in made]


async def llama_index(db: Db, table: str = "data_notes", texts: Sequence[str] = TEXTS) -> None:
    await db.execute(_LLAMA_INDEX.format(table=table, dimension=64))
    await db.executemany(
        f"insert into public.{table} (text, metadata_, node_id, embedding) "  # noqa: S608
        "values ($1, $2, $3, $4::text::vector)",
        [
            (text, json.dumps({"number": n}), f"node-{n}", vector)
            for n, (text, vector) in enumerate(zip(texts, await vectors(texts), strict=True))
        ],
    )


async def haystack(db: Db, texts: Sequence[str] = TEXTS) -> None:
    await db.execute(_HAYSTACK.format(dimension=64))
    await db.executemany(
        "insert into public.haystack_documents (id, content, meta, embedding) "
        "values ($1, $2, $3, $4::text::vector)",
        [
            (f"doc {n}", text, json.dumps({"number": n}), vector)
            for n, (text, vector) in enumerate(zip(texts, await vectors(texts), strict=True))
        ],
    )


async def document_chunks(
    db: Db, texts: Sequence[str] = TEXTS, model: Embedder | None = None
) -> None:
    await db.execute(_DOCUMENT_CHUNKS.format(dimension=model.facts.dimension if model else 64))
    await db.execute("insert into public.documents (file_path) values ('a.md'), ('b.md')")
    await db.executemany(
        "insert into public.document_chunks (document_id, chunk_index, content, embedding) "
        "values ($1, $2, $3, $4::text::vector)",
        [
            (1 + n % 2, n, text, vector)
            for n, (text, vector) in enumerate(zip(texts, await vectors(texts, model), strict=True))
        ],
    )


async def conversation_messages(
    db: Db, texts: Sequence[str] = TEXTS, model: Embedder | None = None
) -> None:
    dimension = model.facts.dimension if model else 64
    await db.execute(_CONVERSATION_MESSAGES.format(dimension=dimension))
    await db.executemany(
        "insert into public.conversation_messages "
        "(session_id, role, content, message_index, embedding) "
        "values ($1, $2, $3, $4, $5::text::vector)",
        [
            (f"s{n % 3}", "human" if n % 2 else "ai", text, n, vector)
            for n, (text, vector) in enumerate(zip(texts, await vectors(texts, model), strict=True))
        ],
    )

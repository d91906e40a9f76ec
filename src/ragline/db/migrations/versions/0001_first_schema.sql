-- search_path is "ragline, pg_temp": qualify what is in the schema of vector. The role is ragline_owner where it exists.

comment on table alembic_version is 'Which version the schema has; kept by Alembic.';
comment on column alembic_version.version_num is 'The last migration applied.';

create table collection (
    id integer generated always as identity primary key,
    name text not null unique
        constraint collection_name_is_plain check (name ~ '^[^\W_][\w.-]{0,99}$'),
    language text not null default 'english',
    chunk_size integer not null
        constraint chunk_size_in_range check (chunk_size between 16 and 4096),
    chunk_overlap integer not null
        constraint chunk_overlap_in_range check (chunk_overlap between 0 and chunk_size / 2),
    active_space_id integer,
    epoch bigint not null default 0,
    created_at timestamptz not null default now()
);
comment on table collection is 'A named set of documents.';
comment on column collection.id is 'Key.';
comment on column collection.name is 'What people call it: letters, digits, dot, dash, underscore.';
comment on column collection.language is 'How its words are cut for BM25: a stemmer''s name, or "simple" for none.';
comment on column collection.chunk_size is 'Most tokens (estimated) in a chunk.';
comment on column collection.chunk_overlap is 'Most tokens (estimated) that neighbouring chunks share.';
comment on column collection.active_space_id is 'The embedding space that searches use; none yet means lexical search only.';
comment on column collection.epoch is 'Raised in every transaction that changes the content, at least once for each changed document; never lowered.';
comment on column collection.created_at is 'When it was made.';

create table embedding_space (
    id integer generated always as identity primary key,
    collection_id integer not null references collection on delete cascade,
    model_id text not null constraint model_is_named check (model_id <> ''),
    weights_hash text not null constraint weights_are_known check (weights_hash <> ''),
    dimension integer not null constraint dimension_in_range check (dimension between 1 and 16000),
    metric text not null constraint metric_is_known check (metric in ('cosine', 'l2', 'inner_product')),
    storage text not null constraint storage_is_known check (storage in ('vector', 'halfvec')),
    normalised boolean not null,
    languages text[] not null,
    created_at timestamptz not null default now(),
    unique (id, collection_id)
);
comment on table embedding_space is 'A model, a dimension and a metric. Each space keeps its vectors in a table of its own, embedding_<id>.';
comment on column embedding_space.id is 'Key; part of the name of the table that holds the vectors.';
comment on column embedding_space.collection_id is 'The collection whose chunks it embeds.';
comment on column embedding_space.model_id is 'The model''s name.';
comment on column embedding_space.weights_hash is 'Hash of the model''s weights and tokenizer: two models never mix.';
comment on column embedding_space.dimension is 'Numbers per vector.';
comment on column embedding_space.metric is 'How distance is measured: cosine, l2 or inner_product.';
comment on column embedding_space.storage is 'Float (vector, 4 bytes a number) or half (halfvec, 2 bytes).';
comment on column embedding_space.normalised is 'Whether the model gives vectors of length 1.';
comment on column embedding_space.languages is 'Languages the model was made for.';
comment on column embedding_space.created_at is 'When it was made.';

alter table collection add constraint active_space_is_own
    foreign key (active_space_id, id) references embedding_space (id, collection_id)
    deferrable initially deferred;

create table document (
    id bigint generated always as identity primary key,
    collection_id integer not null references collection on delete cascade,
    source text not null
        constraint source_fits_its_index check (octet_length(source) between 1 and 2000),
    title text,
    media_type text not null,
    body text not null constraint body_is_not_empty check (body <> ''),
    characters integer not null generated always as (char_length(body)) stored,
    content_hash bytea not null constraint hash_is_sha256 check (octet_length(content_hash) = 32),
    recipe text not null,
    metadata jsonb not null default '{}'
        constraint metadata_is_object check (jsonb_typeof(metadata) = 'object'),
    ingested_at timestamptz not null default now(),
    unique (collection_id, source),
    unique (id, collection_id, characters)
);
comment on table document is 'One source text with its metadata and content hash.';
comment on column document.id is 'Key; new whenever the content changes.';
comment on column document.collection_id is 'The collection it belongs to.';
comment on column document.source is 'Where it came from: a file''s path or a name given by the caller; unique in its collection.';
comment on column document.title is 'Its title, where the source says one.';
comment on column document.media_type is 'What it was parsed as.';
comment on column document.body is 'The parsed text; chunk offsets count its characters.';
comment on column document.characters is 'Length of body in characters.';
comment on column document.content_hash is 'SHA-256 of the bytes that were ingested: unchanged content costs nothing.';
comment on column document.recipe is 'How it was parsed, chunked and cut into words; another recipe means ingesting again.';
comment on column document.metadata is 'What else is known about it, as a JSON object.';
comment on column document.ingested_at is 'When this content came in.';

create table chunk (
    id bigint generated always as identity primary key,
    collection_id integer not null,
    document_id bigint not null,
    document_characters integer not null,
    ordinal integer not null constraint ordinal_counts_from_zero check (ordinal >= 0),
    start_char integer not null,
    end_char integer not null,
    body text not null,
    headings text[] not null default '{}',
    tokens integer not null constraint tokens_are_positive check (tokens > 0),
    term_ids integer[] not null,
    frequencies smallint[] not null,
    length integer not null,
    constraint offsets_lie_in_document
        check (0 <= start_char and start_char < end_char and end_char <= document_characters),
    constraint body_is_as_long_as_its_offsets
        check (char_length(body) = end_char - start_char),
    constraint each_term_has_a_frequency
        check (
            cardinality(term_ids) = cardinality(frequencies) and length >= cardinality(term_ids)
            and 0 < all (frequencies)
        ),
    unique (document_id, ordinal),
    foreign key (document_id, collection_id, document_characters)
        references document (id, collection_id, characters) on delete cascade
);
comment on table chunk is 'A piece of a document with character offsets.';
comment on column chunk.id is 'Key.';
comment on column chunk.collection_id is 'The collection of its document.';
comment on column chunk.document_id is 'The document it is cut from.';
comment on column chunk.document_characters is 'Length of that document: a foreign key keeps it true, so that the offsets provably lie inside.';
comment on column chunk.ordinal is 'Its place among the chunks of the document, from 0.';
comment on column chunk.start_char is 'First character, counted from 0.';
comment on column chunk.end_char is 'One past the last character.';
comment on column chunk.body is 'The text: characters start_char to end_char of the document.';
comment on column chunk.headings is 'The headings above it, outermost first.';
comment on column chunk.tokens is 'Estimated tokens.';
comment on column chunk.term_ids is 'Its distinct terms, from which the postings are made.';
comment on column chunk.frequencies is 'How often each term stands in it, in the order of term_ids.';
comment on column chunk.length is 'Number of terms in it, repeats counted: the length of BM25.';

create table term (
    id integer generated always as identity primary key,
    term text collate "C" not null unique
        constraint term_is_short check (term <> '' and char_length(term) <= 100)
);
comment on table term is 'Dictionary of terms, so that postings hold short integers. Unused entries do no harm.';
comment on column term.id is 'Key.';
comment on column term.term is 'The term as it is searched: folded and stemmed.';

create table posting (
    collection_id integer not null,
    term_id integer not null,
    chunk_id bigint not null,
    frequency smallint not null,
    length integer not null,
    primary key (collection_id, term_id, chunk_id) include (frequency, length)
) with (fillfactor = 100);
comment on table posting is 'Raw BM25 postings, written by triggers on chunk. Weights are computed when searched, so they are never stale.';
comment on column posting.collection_id is 'Collection of the chunk.';
comment on column posting.term_id is 'The term.';
comment on column posting.chunk_id is 'A chunk that holds it.';
comment on column posting.frequency is 'How often.';
comment on column posting.length is 'Length of the chunk in terms.';

create table term_statistic (
    collection_id integer not null,
    term_id integer not null,
    chunks integer not null
);
create index term_statistic_by_term on term_statistic (collection_id, term_id) include (chunks);
comment on table term_statistic is 'In how many chunks a term stands: the sum of its rows. Writers only append, so they never wait for each other; fold_statistics() adds rows up.';
comment on column term_statistic.collection_id is 'Collection.';
comment on column term_statistic.term_id is 'The term.';
comment on column term_statistic.chunks is 'Chunks more (or, negative, fewer) that hold the term.';

create table collection_statistic (
    collection_id integer not null,
    chunks bigint not null,
    tokens bigint not null
);
create index collection_statistic_by_collection
    on collection_statistic (collection_id) include (chunks, tokens);
comment on table collection_statistic is 'How many chunks a collection has and how long they are together: the sum of its rows, appended and folded like term_statistic.';
comment on column collection_statistic.collection_id is 'Collection.';
comment on column collection_statistic.chunks is 'Chunks more (or, negative, fewer).';
comment on column collection_statistic.tokens is 'Terms more (or fewer), repeats counted.';

-- Postings and statistics follow the chunks, whoever changes them. The functions run as the owner:
-- no workload may write these tables itself.
create function index_new_chunks() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into ragline.posting (collection_id, term_id, chunk_id, frequency, length)
    select n.collection_id, t.term_id, n.id, t.frequency, n.length
    from new_chunk n, unnest(n.term_ids, n.frequencies) as t (term_id, frequency);

    insert into ragline.term_statistic (collection_id, term_id, chunks)
    select n.collection_id, t.term_id, count(*)
    from new_chunk n, unnest(n.term_ids) as t (term_id)
    group by n.collection_id, t.term_id;

    insert into ragline.collection_statistic (collection_id, chunks, tokens)
    select collection_id, count(*), sum(length) from new_chunk group by collection_id;
    return null;
end
$$;

create function forget_old_chunks() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    -- Locked, so that a collection is not removed between these rows and their commit. One that is
    -- being removed by this very statement is not found: forget_collection() has cleared it already.
    alive integer[] := array(
        select id from ragline.collection
        where id in (select collection_id from old_chunk)
        order by id for key share
    );
begin
    delete from ragline.posting p
    using old_chunk o, unnest(o.term_ids) as t (term_id)
    where o.collection_id = any (alive)
      and p.collection_id = o.collection_id and p.term_id = t.term_id and p.chunk_id = o.id;

    insert into ragline.term_statistic (collection_id, term_id, chunks)
    select o.collection_id, t.term_id, -count(*)
    from old_chunk o, unnest(o.term_ids) as t (term_id)
    where o.collection_id = any (alive)
    group by o.collection_id, t.term_id;

    insert into ragline.collection_statistic (collection_id, chunks, tokens)
    select collection_id, -count(*), -sum(length)
    from old_chunk where collection_id = any (alive) group by collection_id;
    return null;
end
$$;

create trigger index_inserted after insert on chunk
    referencing new table as new_chunk
    for each statement execute function index_new_chunks();
create trigger forget_deleted after delete on chunk
    referencing old table as old_chunk
    for each statement execute function forget_old_chunks();
-- "a" before "b": the old postings must be gone before the new ones come.
create trigger a_forget_updated after update on chunk
    referencing old table as old_chunk
    for each statement execute function forget_old_chunks();
create trigger b_index_updated after update on chunk
    referencing new table as new_chunk
    for each statement execute function index_new_chunks();

create function refuse_truncate() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'truncating ragline.% would leave postings and statistics behind', tg_table_name
        using hint = 'delete the documents or the collection instead';
end
$$;
create trigger never_truncated before truncate on chunk
    for each statement execute function refuse_truncate();

-- Deferred to the commit: writers of one collection queue for the row only while they commit.
create function raise_epoch() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op in ('INSERT', 'UPDATE') then
        update ragline.collection set epoch = epoch + 1 where id = new.collection_id;
    end if;
    if tg_op = 'DELETE' or tg_op = 'UPDATE' and old.collection_id <> new.collection_id then
        update ragline.collection set epoch = epoch + 1 where id = old.collection_id;
    end if;
    return null;
end
$$;
create constraint trigger content_raises_epoch after insert or update or delete on document
    deferrable initially deferred for each row execute function raise_epoch();

-- Chunks changed apart from their document: one that this transaction wrote raises it itself.
create function raise_epoch_of_chunk() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update ragline.collection c set epoch = epoch + 1
    where c.id in (
        select d.collection_id from ragline.document d
        where d.id in (new.document_id, old.document_id)
          and d.xmin <> pg_current_xact_id()::xid
    );
    return null;
end
$$;
create constraint trigger content_raises_epoch after insert or update or delete on chunk
    deferrable initially deferred for each row execute function raise_epoch_of_chunk();

create function forget_collection() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    delete from ragline.posting where collection_id = old.id;
    delete from ragline.term_statistic where collection_id = old.id;
    delete from ragline.collection_statistic where collection_id = old.id;
    return null;
end
$$;
create trigger forget_collection after delete on collection
    for each row execute function forget_collection();

create function drop_space_table() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    execute format('drop table if exists ragline.%I', 'embedding_' || old.id);
    return null;
end
$$;
create trigger drop_vectors after delete on embedding_space
    for each row execute function drop_space_table();

create function create_space(
    collection integer, model text, weights text, dimension integer, metric text, storage text,
    normalised boolean, languages text[], indexed boolean
) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    space integer;
    vector_schema text := (
        select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'vector'
    );
    grantee text;
begin
    insert into ragline.embedding_space (
        collection_id, model_id, weights_hash, dimension, metric, storage, normalised, languages
    ) values (
        create_space.collection, model, weights, create_space.dimension, create_space.metric,
        create_space.storage, create_space.normalised, create_space.languages
    ) returning id into space;

    -- A vector whose cosine distance to itself is NaN would silently never be found: zero, and what
    -- is so small or large that its square leaves the range of a float.
    execute format(
        'create table ragline.%1$I (
            chunk_id bigint primary key references ragline.chunk on delete cascade,
            embedding %2$I.%3$I(%4$s) not null
                constraint vector_has_a_direction
                check (%2$I.cosine_distance(embedding, embedding) <> ''NaN'')
        )',
        'embedding_' || space, vector_schema, storage, dimension
    );
    execute format(
        'comment on table ragline.%I is %L', 'embedding_' || space,
        'Vectors of embedding space ' || space || '.'
    );
    execute format(
        'comment on column ragline.%I.chunk_id is %L', 'embedding_' || space, 'The chunk.'
    );
    execute format(
        'comment on column ragline.%I.embedding is %L', 'embedding_' || space, 'Its vector.'
    );
    -- Out of line, a vector costs three times as much to scan; a plain row must fit a page.
    if dimension * (case storage when 'halfvec' then 2 else 4 end) <= 8000 then
        execute format(
            'alter table ragline.%I alter column embedding set storage plain', 'embedding_' || space
        );
    end if;
    for grantee in
        select rolname from pg_roles
        where rolname in ('ragline_serve', 'eval_app', 'ltst_app', 'ragline_read', 'ragline_admin')
          and has_schema_privilege(oid, 'ragline', 'usage')
    loop
        execute format('grant select on ragline.%I to %I', 'embedding_' || space, grantee);
        if grantee = 'ragline_serve' then
            execute format('grant insert, delete on ragline.%I to %I', 'embedding_' || space, grantee);
        end if;
    end loop;
    -- Beyond 4,000 dimensions no HNSW index can hold it: searches of such a space are exact.
    if indexed and ragline.space_index_statement(space, false) is not null then
        execute ragline.space_index_statement(space, false);
    end if;
    return space;
end
$$;

-- The statement that builds a space's HNSW index; null when the dimension is beyond what one can hold.
create function space_index_statement(space integer, online boolean) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select format(
        'create index %s %I on ragline.%I using hnsw (%s %I.%I)',
        case when online then 'concurrently' else '' end,
        'embedding_' || s.id || '_hnsw', 'embedding_' || s.id,
        case when s.storage = 'vector' and s.dimension > 2000
             then format('(embedding::%I.halfvec(%s))', n.nspname, s.dimension)
             else 'embedding' end,
        n.nspname,
        case when s.dimension > 2000 then 'halfvec' else s.storage end
        || case s.metric when 'cosine' then '_cosine_ops' when 'l2' then '_l2_ops' else '_ip_ops' end
    )
    from ragline.embedding_space s,
         pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where s.id = space and e.extname = 'vector' and s.dimension <= 4000
$$;

-- Adds up the appended rows of terms that have more than `most` of them. Searches see the same sums
-- before and after; two folds at once each add up what they themselves took away.
create function fold_statistics(collection integer, most integer) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    folded bigint;
begin
    -- A collection removed meanwhile would leave the new rows behind.
    perform from ragline.collection c where c.id = fold_statistics.collection for key share;
    if not found then
        return 0;
    end if;
    with taken as (
        delete from ragline.term_statistic
        -- An array: "in (select …)" becomes a nested loop as long as the table was never analysed.
        where collection_id = collection and term_id = any (array(
            select term_id from ragline.term_statistic
            where collection_id = collection group by term_id having count(*) > most
        ))
        returning term_id, chunks
    ), summed as (
        insert into ragline.term_statistic (collection_id, term_id, chunks)
        select collection, term_id, sum(chunks) from taken group by term_id having sum(chunks) <> 0
        returning 1
    )
    select count(*) into folded from taken;

    if (select count(*) from ragline.collection_statistic where collection_id = collection) > most then
        with taken as (
            delete from ragline.collection_statistic where collection_id = collection
            returning chunks, tokens
        )
        insert into ragline.collection_statistic (collection_id, chunks, tokens)
        select collection, sum(chunks), sum(tokens) from taken having count(*) > 0;
    end if;
    return folded;
end
$$;

revoke execute on all functions in schema ragline from public;

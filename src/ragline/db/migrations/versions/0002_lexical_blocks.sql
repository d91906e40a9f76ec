-- Compact postings: blocks of chunk numbers in order of impact find the candidates, the terms that
-- stand with each chunk weigh them exactly. What changed since the last fold stands beside the blocks.

-- One byte a term. BM25 saturates: at 255 a term has 99 % of the weight that it could ever have.
alter table chunk drop constraint each_term_has_a_frequency;
create function packed_frequencies(frequencies smallint[]) returns bytea
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select coalesce(string_agg(
        set_byte('\x00'::bytea, 0, least(f.frequency, 255)), ''::bytea order by f.place
    ), ''::bytea)
    from unnest(frequencies) with ordinality as f (frequency, place)
$$;
alter table chunk alter column frequencies type bytea using packed_frequencies(frequencies);
drop function packed_frequencies;
alter table chunk add constraint each_term_has_a_frequency
    check (
        cardinality(term_ids) = octet_length(frequencies) and length >= cardinality(term_ids)
        and position('\x00'::bytea in frequencies) = 0
    );
create function are_distinct(numbers integer[]) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select count(distinct n.number) = cardinality(numbers) from unnest(numbers) as n (number)
$$;
alter table chunk add constraint each_term_stands_once check (are_distinct(term_ids));
comment on column chunk.term_ids is 'Its distinct terms.';
comment on column chunk.frequencies is 'How often each term stands in it, a byte each in the order of term_ids; 255 means 255 or more.';

-- Not a column of collection: writers raise the epoch there, and would wait for the first fold.
create table impact_reference (
    collection_id integer primary key,
    mean_length integer not null constraint length_is_positive check (mean_length > 0)
);
comment on table impact_reference is 'The length that impact classes are counted from. It never changes, so that a chunk is looked for where it was put.';
comment on column impact_reference.collection_id is 'The collection.';
comment on column impact_reference.mean_length is 'Mean length of its chunks in terms when postings were first folded.';

create table fresh_chunk (
    collection_id integer not null,
    chunk_id bigint not null,
    term_ids integer[] not null,
    frequencies bytea not null,
    length integer not null,
    primary key (collection_id, chunk_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
comment on table fresh_chunk is 'Chunks whose postings are in no block yet: searches read them here, fold_postings() moves them.';
comment on column fresh_chunk.collection_id is 'Collection of the chunk.';
comment on column fresh_chunk.chunk_id is 'The chunk.';
comment on column fresh_chunk.term_ids is 'Its terms.';
comment on column fresh_chunk.frequencies is 'How often each stands in it, a byte each.';
comment on column fresh_chunk.length is 'Its length in terms.';

create table dead_chunk (like fresh_chunk including constraints including indexes)
    with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
comment on table dead_chunk is 'Chunks that are gone while blocks still name them: searches leave them out, fold_postings() clears them away.';
comment on column dead_chunk.collection_id is 'Collection the chunk was in.';
comment on column dead_chunk.chunk_id is 'The chunk that was.';
comment on column dead_chunk.term_ids is 'Its terms, which lead to the blocks.';
comment on column dead_chunk.frequencies is 'How often each stood in it, a byte each.';
comment on column dead_chunk.length is 'Its length in terms.';

create table posting_block (
    collection_id integer not null,
    term_id integer not null,
    impact smallint not null constraint impact_is_a_class check (impact between 0 and 16),
    first_chunk_id bigint not null,
    offsets integer[] not null,
    primary key (collection_id, term_id, impact, first_chunk_id)
);
-- As it is: compressing costs more time than it saves space, and a block fits a quarter of a page.
alter table posting_block alter column offsets set storage external;
comment on table posting_block is 'Which chunks hold a term, in blocks by impact. Written by fold_postings() alone.';
comment on column posting_block.collection_id is 'Collection of the chunks.';
comment on column posting_block.term_id is 'The term.';
comment on column posting_block.impact is 'How much the term weighs in these chunks: 1 most, 16 least, 0 not sorted (the first chunks of a term).';
comment on column posting_block.first_chunk_id is 'The chunk that the block was begun with. A chunk stands in the last block of its impact that begins at or before it.';
comment on column posting_block.offsets is 'The chunks, each as its distance from first_chunk_id.';

-- What the blocks hold; a search adds what is fresh and takes off what is dead. Only a fold writes it,
-- so writers never meet here.
truncate term_statistic;
drop index term_statistic_by_term;
alter table term_statistic add primary key (collection_id, term_id);
alter table term_statistic add constraint chunks_are_counted check (chunks >= 0);
alter table term_statistic set (fillfactor = 80);
comment on table term_statistic is 'In how many of the chunks that blocks name a term stands, those that died since included; written by fold_postings() alone.';
comment on column term_statistic.chunks is 'How many.';
drop function fold_statistics;
comment on table collection_statistic is 'How many chunks a collection has and how long they are together: the sum of its rows. Writers only append, so they never wait for each other; fold_postings() adds up.';

-- The class of f / (f + k1 (1 - b + b length / mean)), the part of BM25 that depends on the chunk: 1
-- from 0.96 on, then one for every 0.04 less, 16 below 0.40. Narrow, so that the best chunks of a common
-- term stand in classes that a search can read whole.
create function impact_class(frequency integer, length integer, reference_length integer)
returns smallint
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select (16 - width_bucket(
        frequency / (frequency + 1.2::float8 * (0.25::float8 + 0.75::float8 * length / reference_length)),
        0.40::float8, 0.96::float8, 14
    ))::smallint
$$;

create or replace function index_new_chunks() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into ragline.fresh_chunk (collection_id, chunk_id, term_ids, frequencies, length)
    select collection_id, id, term_ids, frequencies, length from new_chunk;

    insert into ragline.collection_statistic (collection_id, chunks, tokens)
    select collection_id, count(*), sum(length) from new_chunk group by collection_id;
    return null;
end
$$;

create or replace function forget_old_chunks() returns trigger
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
    -- A fold that has one of them in hand is waited for: then the blocks name it, and it is dead.
    with was_fresh as (
        delete from ragline.fresh_chunk f
        using old_chunk o
        where o.collection_id = any (alive)
          and f.collection_id = o.collection_id and f.chunk_id = o.id
        returning f.chunk_id
    )
    insert into ragline.dead_chunk (collection_id, chunk_id, term_ids, frequencies, length)
    select o.collection_id, o.id, o.term_ids, o.frequencies, o.length
    from old_chunk o
    where o.collection_id = any (alive)
      and o.id not in (select chunk_id from was_fresh);

    insert into ragline.collection_statistic (collection_id, chunks, tokens)
    select collection_id, -count(*), -sum(length)
    from old_chunk where collection_id = any (alive) group by collection_id;
    return null;
end
$$;

create or replace function forget_collection() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    delete from ragline.fresh_chunk where collection_id = old.id;
    delete from ragline.dead_chunk where collection_id = old.id;
    delete from ragline.posting_block where collection_id = old.id;
    delete from ragline.impact_reference where collection_id = old.id;
    delete from ragline.term_statistic where collection_id = old.id;
    delete from ragline.collection_statistic where collection_id = old.id;
    return null;
end
$$;

-- Clears up to `most` dead chunks out of the blocks and moves up to `most` fresh ones into them; says
-- how many both were. Searches find the same before and after. One fold of a collection at a time:
-- while another is at it, nothing is done.
create function fold_postings(collection integer, most integer) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- A plan made while the tables were small would be kept for when they are large.
set plan_cache_mode = force_custom_plan as $$
declare
    -- The first chunks of a term are not sorted by impact: most terms are rare, and a row costs more
    -- than what it could save.
    unsorted constant integer := 192;
    block_size constant integer := 480;
    reference integer;
    cleared integer;
    emptied integer[];
    moved integer;
    late_terms integer[];
    late_impacts smallint[];
    late_chunks bigint[];
    late_covers bigint[];
begin
    if not pg_try_advisory_xact_lock(hashtext('ragline.fold_postings'), collection) then
        return 0;
    end if;
    -- A collection removed meanwhile would leave the blocks behind.
    perform from ragline.collection c where c.id = fold_postings.collection for key share;
    if not found then
        return 0;
    end if;
    select r.mean_length into reference
    from ragline.impact_reference r where r.collection_id = fold_postings.collection;
    if reference is null then
        insert into ragline.impact_reference (collection_id, mean_length)
        select fold_postings.collection,
               coalesce(greatest(1, round(sum(s.tokens) / nullif(sum(s.chunks), 0)))::integer, 1)
        from ragline.collection_statistic s where s.collection_id = fold_postings.collection
        returning mean_length into reference;
    end if;

    with gone as (
        delete from ragline.dead_chunk d
        where d.collection_id = fold_postings.collection and d.chunk_id = any (array(
            select w.chunk_id from ragline.dead_chunk w
            where w.collection_id = fold_postings.collection
            order by w.chunk_id limit most
        ))
        returning d.chunk_id, d.term_ids, d.frequencies, d.length
    ), entry as (
        select g.chunk_id, t.term_id, k.impact
        from gone g
        cross join unnest(g.term_ids) with ordinality as t (term_id, place)
        cross join lateral (values
            (0::smallint),  -- where the first chunks of a term stand
            (ragline.impact_class(get_byte(g.frequencies, t.place::integer - 1), g.length, reference))
        ) as k (impact)
    ), place as (
        select e.term_id, e.impact, b.first_chunk_id,
               array_agg((e.chunk_id - b.first_chunk_id)::integer) as offsets
        from entry e
        cross join lateral (
            select w.first_chunk_id from ragline.posting_block w
            where w.collection_id = fold_postings.collection
              and w.term_id = e.term_id and w.impact = e.impact
              and (e.impact = 0 or w.first_chunk_id <= e.chunk_id)
            order by w.first_chunk_id desc limit 1
        ) as b
        -- Where it cannot be told as a distance, it does not stand.
        where abs(e.chunk_id - b.first_chunk_id) >> 31 = 0
        group by e.term_id, e.impact, b.first_chunk_id
    ), changed as (
        update ragline.posting_block b
        set offsets = array(
            select o.chunk from unnest(b.offsets) as o (chunk) where o.chunk <> all (p.offsets)
        )
        from place p
        where b.collection_id = fold_postings.collection and b.term_id = p.term_id
          and b.impact = p.impact and b.first_chunk_id = p.first_chunk_id
          and b.offsets && p.offsets
        returning b.term_id, b.offsets
    ), counted as (
        update ragline.term_statistic s set chunks = s.chunks - t.chunks
        from (select term_id, count(*) as chunks from entry where impact = 0 group by term_id) as t
        where s.collection_id = fold_postings.collection and s.term_id = t.term_id
        returning 1
    )
    select (select count(*) from gone), array(select term_id from changed where offsets = '{}')
    into cleared, emptied;
    delete from ragline.posting_block b
    where b.collection_id = fold_postings.collection and b.term_id = any (emptied)
      and b.offsets = '{}';

    with taken as (
        delete from ragline.fresh_chunk f
        where f.collection_id = fold_postings.collection and f.chunk_id = any (array(
            select w.chunk_id from ragline.fresh_chunk w
            where w.collection_id = fold_postings.collection
              -- One that came again before its old self was cleared away waits for that.
              and not exists (
                  select from ragline.dead_chunk d
                  where d.collection_id = w.collection_id and d.chunk_id = w.chunk_id
              )
            order by w.chunk_id limit most
            -- Nobody is waited for: who deletes one of these may be waiting for this very fold.
            for update skip locked
        ))
        returning f.chunk_id, f.term_ids, f.frequencies, f.length
    ), entry as materialized (
        select x.chunk_id, t.term_id,
               row_number() over (partition by t.term_id order by x.chunk_id) as place,
               ragline.impact_class(get_byte(x.frequencies, t.place::integer - 1), x.length, reference)
               as impact
        from taken x
        cross join unnest(x.term_ids) with ordinality as t (term_id, place)
    ), head as (
        select e.term_id, b.first_chunk_id, coalesce(cardinality(b.offsets), 0) as entries
        from (select distinct term_id from entry) as e
        left join lateral (
            select w.first_chunk_id, w.offsets from ragline.posting_block w
            where w.collection_id = fold_postings.collection
              and w.term_id = e.term_id and w.impact = 0
            limit 1
        ) as b on true
    ), sorted as materialized (
        select e.term_id, e.chunk_id,
               case when h.entries + e.place <= unsorted
                         and abs(e.chunk_id - coalesce(
                             h.first_chunk_id, min(e.chunk_id) over (partition by e.term_id)
                         )) >> 30 = 0
                    then 0::smallint else e.impact end as impact,
               h.first_chunk_id as head_first
        from entry e join head h using (term_id)
    ), tail as (
        select s.term_id, s.impact, b.first_chunk_id, cardinality(b.offsets) as entries,
               b.first_chunk_id + b.offsets[cardinality(b.offsets)] as last_chunk_id
        from (select distinct term_id, impact from sorted where impact > 0) as s
        left join lateral (
            select w.first_chunk_id, w.offsets from ragline.posting_block w
            where w.collection_id = fold_postings.collection
              and w.term_id = s.term_id and w.impact = s.impact
            order by w.first_chunk_id desc limit 1
        ) as b on true
    ), numbered as (
        select s.term_id, s.impact, s.chunk_id, t.first_chunk_id as tail_first,
               -- In the tail while it has room, and as far as a distance can be told in an integer.
               (case when s.chunk_id >> 30 = t.first_chunk_id >> 30 then t.entries else block_size end
                + row_number() over (
                    partition by s.term_id, s.impact, s.chunk_id >> 30 order by s.chunk_id
                ) - 1) / block_size as block
        from sorted s
        join tail t using (term_id, impact)
        where t.first_chunk_id is null or s.chunk_id > t.last_chunk_id
    ), placed as (
        select term_id, impact, chunk_id,
               case when block = 0 then tail_first
                    else min(chunk_id) over (partition by term_id, impact, chunk_id >> 30, block)
               end as first_chunk_id
        from numbered
        union all
        select term_id, impact, chunk_id,
               coalesce(head_first, min(chunk_id) over (partition by term_id))
        from sorted
        where impact = 0
    ), written as (
        insert into ragline.posting_block (collection_id, term_id, impact, first_chunk_id, offsets)
        select fold_postings.collection, term_id, impact, first_chunk_id,
               array_agg((chunk_id - first_chunk_id)::integer order by chunk_id)
        from placed group by term_id, impact, first_chunk_id
        on conflict (collection_id, term_id, impact, first_chunk_id)
        do update set offsets = posting_block.offsets || excluded.offsets
        returning 1
    ), counted as (
        insert into ragline.term_statistic as s (collection_id, term_id, chunks)
        select fold_postings.collection, term_id, count(*) from entry group by term_id
        on conflict (collection_id, term_id) do update set chunks = s.chunks + excluded.chunks
        returning 1
    )
    select (select count(*) from taken), l.term_ids, l.impacts, l.chunk_ids
    into moved, late_terms, late_impacts, late_chunks
    from (
        select array_agg(s.term_id) as term_ids, array_agg(s.impact) as impacts,
               array_agg(s.chunk_id) as chunk_ids
        from sorted s join tail t using (term_id, impact)
        where s.chunk_id <= t.last_chunk_id
    ) as l;

    -- Committed late, or come again: the blocks that cover them are written anew, and cut to size.
    if late_terms is not null then
        with late as (
            select l.term_id, l.impact, l.chunk_id, b.first_chunk_id as cover
            from unnest(late_terms, late_impacts, late_chunks) as l (term_id, impact, chunk_id)
            left join lateral (
                select w.first_chunk_id from ragline.posting_block w
                where w.collection_id = fold_postings.collection
                  and w.term_id = l.term_id and w.impact = l.impact
                  and w.first_chunk_id <= l.chunk_id
                order by w.first_chunk_id desc limit 1
            ) as b on true
        ), opened as (
            delete from ragline.posting_block b
            using (select distinct term_id, impact, cover from late) as l
            where b.collection_id = fold_postings.collection and b.term_id = l.term_id
              and b.impact = l.impact and b.first_chunk_id = l.cover
            returning b.term_id, b.impact, b.first_chunk_id, b.offsets
        ), member as (
            select term_id, impact, chunk_id, cover from late
            union all
            select o.term_id, o.impact, o.first_chunk_id + e.chunk, o.first_chunk_id
            from opened o cross join unnest(o.offsets) as e (chunk)
        )
        select array_agg(term_id), array_agg(impact), array_agg(chunk_id), array_agg(cover)
        into late_terms, late_impacts, late_chunks, late_covers
        from member;

        insert into ragline.posting_block (collection_id, term_id, impact, first_chunk_id, offsets)
        select fold_postings.collection, term_id, impact, first,
               array_agg((chunk_id - first)::integer order by chunk_id)
        from (
            select n.*, min(chunk_id) over (
                partition by term_id, impact, cover, chunk_id >> 30, block
            ) as first
            from (
                select m.*, (row_number() over (
                    partition by m.term_id, m.impact, m.cover, m.chunk_id >> 30 order by m.chunk_id
                ) - 1) / block_size as block
                from unnest(late_terms, late_impacts, late_chunks, late_covers)
                    as m (term_id, impact, chunk_id, cover)
            ) as n
        ) as p
        group by term_id, impact, first;
    end if;

    with taken as (
        delete from ragline.collection_statistic s
        where s.collection_id = fold_postings.collection
        returning s.chunks, s.tokens
    )
    insert into ragline.collection_statistic (collection_id, chunks, tokens)
    select fold_postings.collection, sum(chunks), sum(tokens) from taken having count(*) > 0;
    return cleared + moved;
end
$$;

-- Begins anew, with the length that chunks have now, where it has become twice or half of what impact
-- classes are counted from; says whether it did. Searches read every chunk as a fresh one until folds
-- have moved them.
create function rebuild_postings(collection integer) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan as $$
declare
    ratio float8;
begin
    perform pg_advisory_xact_lock(hashtext('ragline.fold_postings'), collection);
    perform from ragline.collection c where c.id = rebuild_postings.collection for key share;
    if not found then
        return false;
    end if;
    select s.mean / r.mean_length into ratio
    from ragline.impact_reference r
    cross join (
        select sum(c.tokens)::float8 / nullif(sum(c.chunks), 0) as mean
        from ragline.collection_statistic c where c.collection_id = rebuild_postings.collection
    ) as s
    where r.collection_id = rebuild_postings.collection;
    if ratio is null or ratio between 0.5 and 2 then
        return false;
    end if;
    -- Waits for who is deleting chunks, and makes who would delete one wait: else it would be dead in
    -- blocks that are gone, and fresh as well.
    insert into ragline.fresh_chunk (collection_id, chunk_id, term_ids, frequencies, length)
    select c.collection_id, c.id, c.term_ids, c.frequencies, c.length
    from ragline.chunk c where c.collection_id = rebuild_postings.collection
    for key share
    on conflict do nothing;
    delete from ragline.dead_chunk where collection_id = rebuild_postings.collection;
    delete from ragline.posting_block where collection_id = rebuild_postings.collection;
    delete from ragline.term_statistic where collection_id = rebuild_postings.collection;
    delete from ragline.impact_reference where collection_id = rebuild_postings.collection;
    return true;
end
$$;

drop table posting;

insert into fresh_chunk (collection_id, chunk_id, term_ids, frequencies, length)
select collection_id, id, term_ids, frequencies, length from chunk;
do $$
declare item integer;
begin
    for item in select id from collection order by id loop
        while ragline.fold_postings(item, 20000) > 0 loop null; end loop;
    end loop;
end
$$;

revoke execute on function are_distinct(integer[]), impact_class(integer, integer, integer),
    fold_postings(integer, integer), rebuild_postings(integer) from public;

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

drop function fold_postings, rebuild_postings, impact_class;
drop table fresh_chunk, dead_chunk, posting_block, impact_reference;

alter table chunk drop constraint each_term_has_a_frequency, drop constraint each_term_stands_once;
drop function are_distinct;
create function unpacked_frequencies(frequencies bytea) returns smallint[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select coalesce(array_agg(get_byte(frequencies, n)::smallint order by n), '{}')
    from generate_series(0, octet_length(frequencies) - 1) as n
$$;
alter table chunk alter column frequencies type smallint[] using unpacked_frequencies(frequencies);
drop function unpacked_frequencies;
alter table chunk add constraint each_term_has_a_frequency
    check (
        cardinality(term_ids) = cardinality(frequencies) and length >= cardinality(term_ids)
        and 0 < all (frequencies)
    );
comment on column chunk.term_ids is 'Its distinct terms, from which the postings are made.';
comment on column chunk.frequencies is 'How often each term stands in it, in the order of term_ids.';

insert into posting (collection_id, term_id, chunk_id, frequency, length)
select c.collection_id, t.term_id, c.id, t.frequency, c.length
from chunk c, unnest(c.term_ids, c.frequencies) as t (term_id, frequency);

alter table term_statistic drop constraint term_statistic_pkey, drop constraint chunks_are_counted;
alter table term_statistic reset (fillfactor);
create index term_statistic_by_term on term_statistic (collection_id, term_id) include (chunks);
truncate term_statistic;
insert into term_statistic (collection_id, term_id, chunks)
select c.collection_id, t.term_id, count(*)
from chunk c, unnest(c.term_ids) as t (term_id) group by c.collection_id, t.term_id;
comment on table term_statistic is 'In how many chunks a term stands: the sum of its rows. Writers only append, so they never wait for each other; fold_statistics() adds rows up.';
comment on column term_statistic.chunks is 'Chunks more (or, negative, fewer) that hold the term.';
comment on table collection_statistic is 'How many chunks a collection has and how long they are together: the sum of its rows, appended and folded like term_statistic.';

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
revoke execute on function fold_statistics(integer, integer) from public;

create or replace function index_new_chunks() returns trigger
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

create or replace function forget_old_chunks() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
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

create or replace function forget_collection() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    delete from ragline.posting where collection_id = old.id;
    delete from ragline.term_statistic where collection_id = old.id;
    delete from ragline.collection_statistic where collection_id = old.id;
    return null;
end
$$;

-- any_terms --
-- how many chunks hold one of the words, counted up to $3
select count(*) from (
    select distinct p.chunk_id
    from term t
    join posting p on p.collection_id = $1 and p.term_id = t.id
    where t.term = any ($2::text[])
    limit $3
) as found

-- frequencies --
select w.word,
       (select coalesce(sum(chunks), 0)::bigint from collection_statistic where collection_id = $1)
           as total,
       (select coalesce(sum(s.chunks), 0)::bigint
        from term t join term_statistic s on s.collection_id = $1 and s.term_id = t.id
        where t.term = w.word) as chunks
from pg_catalog.unnest($2::text[]) as w (word)

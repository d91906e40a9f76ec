-- frequencies --
select w.word,
       (select coalesce(sum(chunks), 0)::bigint from collection_statistic where collection_id = $1)
           as total,
       (coalesce((
           select s.chunks from term_statistic s where s.collection_id = $1 and s.term_id = t.id
       ), 0) + (
           select count(*) from fresh_chunk f where f.collection_id = $1 and t.id = any (f.term_ids)
       ) - (
           select count(*) from dead_chunk d where d.collection_id = $1 and t.id = any (d.term_ids)
       )) as chunks
from pg_catalog.unnest($2::text[]) as w (word)
left join term t on t.term = w.word

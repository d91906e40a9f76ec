-- one_collection --
select c.id, c.name, c.language, c.chunk_size, c.chunk_overlap, c.epoch, c.created_at,
       s.id as space_id, s.model_id, s.weights_hash, s.dimension, s.metric, s.storage,
       s.normalised, s.languages,
       k.exact_chunks, k.levels, k.chunks as calibrated_chunks,
       (select coalesce(sum(chunks), 0)::bigint from collection_statistic where collection_id = c.id)
           as chunks,
       (select count(*) from document where collection_id = c.id) as documents
from collection c
left join embedding_space s on s.id = c.active_space_id
left join search_calibration k on k.space_id = s.id
where c.name = $1

-- all_collections --
select c.id, c.name, c.language, c.chunk_size, c.chunk_overlap, c.epoch, c.created_at,
       s.id as space_id, s.model_id, s.weights_hash, s.dimension, s.metric, s.storage,
       s.normalised, s.languages,
       k.exact_chunks, k.levels, k.chunks as calibrated_chunks,
       (select coalesce(sum(chunks), 0)::bigint from collection_statistic where collection_id = c.id)
           as chunks,
       (select count(*) from document where collection_id = c.id) as documents
from collection c
left join embedding_space s on s.id = c.active_space_id
left join search_calibration k on k.space_id = s.id
order by c.name

-- add_collection --
insert into collection (name, language, chunk_size, chunk_overlap)
values ($1, $2, $3, $4)
on conflict (name) do nothing
returning id

-- remove_collection --
delete from collection where name = $1 returning id

-- add_space --
select ragline.create_space($1, $2, $3, $4, $5, $6, $7, $8::text[], $9)

-- activate_space --
-- only the first one to come: a later switch is a gated change
update collection set active_space_id = $2 where id = $1 and active_space_id is null
returning active_space_id

-- space_index --
select i.indisvalid as valid
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indexrelid
where c.relnamespace = 'ragline'::regnamespace::oid and c.relname = $1

-- space_index_statement --
select ragline.space_index_statement($1, true)

-- raise_epoch --
update collection set epoch = epoch + 1 where id = $1

-- keep_calibration --
insert into search_calibration (space_id, exact_chunks, levels, chunks) values ($1, $2, $3, $4)
on conflict (space_id) do update
set exact_chunks = excluded.exact_chunks, levels = excluded.levels, chunks = excluded.chunks,
    measured_at = now()

-- one_collection --
-- of an attached table nobody but the server's statistics tells that rows were written
select c.id, c.name, c.language, c.chunk_size, c.chunk_overlap, c.created_at,
       c.epoch + coalesce(
           pg_catalog.pg_stat_get_tuples_inserted(a.table_oid)
           + pg_catalog.pg_stat_get_tuples_updated(a.table_oid)
           + pg_catalog.pg_stat_get_tuples_deleted(a.table_oid), 0) as epoch,
       s.id as space_id, s.model_id, s.weights_hash, s.dimension, s.metric, s.storage,
       s.normalised, s.languages, s.index_slot, x.storage as index_storage,
       x.m as index_m, x.ef_construction as index_ef_construction,
       k.exact_chunks, k.levels, k.chunks as calibrated_chunks,
       c.search_version, p.k, p.vector_weight, p.ef_search, p.iterative, p.early_exit,
       a.description as attached,
       (select coalesce(sum(chunks), 0)::bigint from collection_statistic where collection_id = c.id)
           as chunks,
       (select count(*) from document where collection_id = c.id) as documents
from collection c
left join embedding_space s on s.id = c.active_space_id
left join space_index x on x.space_id = s.id and x.slot = s.index_slot
left join search_calibration k on k.space_id = s.id
left join search_policy p on p.collection_id = c.id
left join attached_table a on a.collection_id = c.id
where c.name = $1

-- all_collections --
select c.id, c.name, c.language, c.chunk_size, c.chunk_overlap, c.created_at,
       c.epoch + coalesce(
           pg_catalog.pg_stat_get_tuples_inserted(a.table_oid)
           + pg_catalog.pg_stat_get_tuples_updated(a.table_oid)
           + pg_catalog.pg_stat_get_tuples_deleted(a.table_oid), 0) as epoch,
       s.id as space_id, s.model_id, s.weights_hash, s.dimension, s.metric, s.storage,
       s.normalised, s.languages, s.index_slot, x.storage as index_storage,
       x.m as index_m, x.ef_construction as index_ef_construction,
       k.exact_chunks, k.levels, k.chunks as calibrated_chunks,
       c.search_version, p.k, p.vector_weight, p.ef_search, p.iterative, p.early_exit,
       a.description as attached,
       (select coalesce(sum(chunks), 0)::bigint from collection_statistic where collection_id = c.id)
           as chunks,
       (select count(*) from document where collection_id = c.id) as documents
from collection c
left join embedding_space s on s.id = c.active_space_id
left join space_index x on x.space_id = s.id and x.slot = s.index_slot
left join search_calibration k on k.space_id = s.id
left join search_policy p on p.collection_id = c.id
left join attached_table a on a.collection_id = c.id
order by c.name

-- add_collection --
insert into collection (name, language, chunk_size, chunk_overlap)
values ($1, $2, $3, $4)
on conflict (name) do nothing
returning id

-- remove_collection --
-- what is attached is detached: rights were given that are to be taken back
delete from collection c
where c.name = $1 and not exists (select from attached_table a where a.collection_id = c.id)
returning id

-- add_space --
select ragline.create_space($1, $2, $3, $4, $5, $6, $7, $8::text[], $9)

-- activate_space --
-- only the first one to come: a later switch is a gated change
update collection set active_space_id = $2 where id = $1 and active_space_id is null
returning active_space_id

-- one_space --
-- as it is searched through the slot $2, or without one through its own
select s.id as space_id, s.model_id, s.weights_hash, s.dimension, s.metric, s.storage,
       s.normalised, s.languages, x.slot as index_slot, x.storage as index_storage,
       x.m as index_m, x.ef_construction as index_ef_construction,
       k.exact_chunks, k.levels, k.chunks as calibrated_chunks
from embedding_space s
join space_index x on x.space_id = s.id and x.slot = coalesce($2::smallint, s.index_slot)
left join search_calibration k on k.space_id = s.id
where s.id = $1

-- space_index --
-- the name of space_index_name(), which not all who search may call
select i.indisvalid as valid, c.relname as name
from embedding_space s
join pg_catalog.pg_class c
  on c.relname = ('embedding_' || s.id::text || '_hnsw'
                  || case coalesce($2::smallint, s.index_slot) when 0 then '_0' when 1 then ''
                     else '_' || coalesce($2, s.index_slot)::text end)::name
join pg_catalog.pg_index i on i.indexrelid = c.oid
where s.id = $1 and c.relnamespace = 'ragline'::regnamespace::oid

-- space_index_statement --
select ragline.space_index_statement(s.id, coalesce($2::integer, s.index_slot), true)
from embedding_space s where s.id = $1

-- raise_epoch --
update collection set epoch = epoch + 1 where id = $1

-- keep_calibration --
insert into search_calibration (space_id, exact_chunks, levels, chunks) values ($1, $2, $3, $4)
on conflict (space_id) do update
set exact_chunks = excluded.exact_chunks, levels = excluded.levels, chunks = excluded.chunks,
    measured_at = now()

-- attached_state --
-- whether the table that was attached is still there, and may be read
select t.oid is not null as is_there, n.nspname as schema, t.relname as table,
       pg_catalog.to_regclass(pg_catalog.format('%I.%I', a.description ->> 'schema',
                                                a.description ->> 'table')) is not null as is_another,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'usage')
                and pg_catalog.has_table_privilege(t.oid, 'select'), false) as may_read,
       coalesce(t.relrowsecurity, false) as has_row_security
from attached_table a
left join pg_catalog.pg_class t on t.oid = a.table_oid
left join pg_catalog.pg_namespace n on n.oid = t.relnamespace
where a.collection_id = $1

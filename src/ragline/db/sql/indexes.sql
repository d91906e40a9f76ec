-- searched_space --
select c.id as collection_id, s.id as space_id, s.dimension, s.metric, s.storage, s.index_slot,
       (select coalesce(sum(chunks), 0)::bigint from ragline.collection_statistic
        where collection_id = c.id) as vectors,
       (select n.nspname::text
        from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'vector') as vector_schema
from ragline.collection c
left join ragline.embedding_space s on s.id = c.active_space_id
where c.name = $1

-- vector_indexes --
-- each slot: how it is described, and what is really there
select w.slot, w.name, d.storage, d.m, d.ef_construction,
       i.indexrelid is not null as is_there,
       coalesce(i.indisvalid and i.indisready and i.indislive, false) as is_valid,
       x.reloptions as options, a.amname as method, o.opcname as operator_class,
       i.indexprs is not null as is_cast,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) as predicate,
       pg_catalog.pg_relation_size(x.oid) as size_bytes
from (
    select slot, ragline.space_index_name($1, slot) as name
    from pg_catalog.generate_series(0, 2) as slot
) as w
left join ragline.space_index d on d.space_id = $1 and d.slot = w.slot
left join pg_catalog.pg_class x
    on x.relnamespace = 'ragline'::regnamespace::oid and x.relname = w.name and x.relkind = 'i'
left join pg_catalog.pg_index i on i.indexrelid = x.oid
left join pg_catalog.pg_am a on a.oid = x.relam
left join pg_catalog.pg_opclass o on o.oid = i.indclass[0]
order by w.slot

-- slot_statement --
select ragline.space_index_statement($1, $2, true)

-- describe_slot --
insert into ragline.space_index (space_id, slot, storage, m, ef_construction)
values ($1, $2, $3, $4, $5)
on conflict (space_id, slot) do update
set storage = excluded.storage, m = excluded.m, ef_construction = excluded.ef_construction,
    made_at = now()
where (space_index.storage, space_index.m, space_index.ef_construction)
    is distinct from (excluded.storage, excluded.m, excluded.ef_construction)

-- forget_slot --
-- never the one that searches use
delete from ragline.space_index i
using ragline.embedding_space s
where i.space_id = $1 and i.slot = $2 and s.id = i.space_id and s.index_slot <> i.slot

-- switch_slot --
update ragline.embedding_space set index_slot = $2 where id = $1 and index_slot <> $2

-- ordinary_index --
-- what constraint it keeps is what forbids to drop it
select x.relname as name, t.relname as table,
       coalesce(i.indisvalid and i.indisready and i.indislive, false) as is_valid,
       pg_catalog.pg_get_indexdef(x.oid) as definition,
       (select n.conname from pg_catalog.pg_constraint n where n.conindid = x.oid limit 1)
           as constraint,
       pg_catalog.pg_relation_size(x.oid) as size_bytes
from pg_catalog.pg_class x
join pg_catalog.pg_index i on i.indexrelid = x.oid
join pg_catalog.pg_class t on t.oid = i.indrelid
where x.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $2)
  and x.relname = $1

-- indexes_of_table --
select x.relname as name
from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
where i.indrelid = (
    select oid from pg_catalog.pg_class
    where relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $2) and relname = $1
)
order by 1

-- probed_index --
-- an index on a table that is rolled back: what the server makes of its definition
select pg_catalog.pg_get_indexdef(x.oid) as definition, x.reltablespace <> 0 as is_elsewhere
from pg_catalog.pg_class x
join pg_catalog.pg_index i on i.indexrelid = x.oid
where i.indrelid = $1 and x.relname = $2

-- definition_in_ledger --
-- as jsonb writes a text
select exists (
    select from ragline.change
    where pg_catalog.strpos(plan::text, pg_catalog.to_jsonb($1::text)::text) > 0
       or pg_catalog.strpos(snapshot::text, pg_catalog.to_jsonb($1::text)::text) > 0
)

-- table_kind --
select case c.relkind
           when 'r' then case when c.relpersistence = 't' then 'temporary table' else 'table' end
           when 'p' then 'partitioned table' when 'v' then 'view'
           when 'm' then 'materialized view' when 'f' then 'foreign table' else 'relation of no rows'
       end
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2

-- table_bytes --
select pg_catalog.pg_table_size(c.oid)
from pg_catalog.pg_class c
where c.relnamespace = 'ragline'::regnamespace::oid and c.relname = $1 and c.relkind = 'r'

-- build_progress --
-- a build of one backend; before it has its first lock there is no row of progress
select a.wait_event_type = 'Lock' as is_waiting, p.phase, p.blocks_done, p.blocks_total,
       p.tuples_done, p.tuples_total, pg_catalog.pg_blocking_pids(a.pid) as blockers,
       p.current_locker_pid as locker
from pg_catalog.pg_stat_activity a
left join pg_catalog.pg_stat_progress_create_index p on p.pid = a.pid
where a.pid = $1

-- writers --
-- transactions whose end a build waits for before it begins
select distinct l.pid, l.virtualtransaction as transaction
from pg_catalog.pg_locks l
join pg_catalog.pg_class c on c.oid = l.relation
where l.database = (select oid from pg_catalog.pg_database where datname = current_database())
  and c.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $2)
  and c.relname = $1
  and l.granted and l.pid <> pg_catalog.pg_backend_pid()
  and l.mode in (
      'RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
  )

-- users --
-- transactions whose end the drop of an index waits for, after it has made it invalid
select distinct l.pid, l.virtualtransaction as transaction
from pg_catalog.pg_locks l
join pg_catalog.pg_index i on i.indrelid = l.relation
join pg_catalog.pg_class x on x.oid = i.indexrelid
where l.database = (select oid from pg_catalog.pg_database where datname = current_database())
  and x.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $2)
  and x.relname = $1
  and l.granted and l.pid <> pg_catalog.pg_backend_pid()

-- builds_in_flight --
-- what a killed client left, and what somebody else is at: by the index, or, before there is one, by
-- the statement, however its names are quoted
select a.pid, a.application_name, a.usename
from pg_catalog.pg_stat_activity a
left join pg_catalog.pg_stat_progress_create_index p on p.pid = a.pid
left join pg_catalog.pg_class x on x.oid = p.index_relid
where a.datname = pg_catalog.current_database() and a.pid <> pg_catalog.pg_backend_pid()
  and a.backend_type = 'client backend' and a.state = 'active'
  and (
      x.relname = $1
      and x.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $2)
      or pg_catalog.strpos(
          pg_catalog.replace(a.query, '"', ''),
          'concurrently ' || pg_catalog.replace($1, '"', '') || ' on '
          || pg_catalog.replace($2, '"', '') || '.'
      ) > 0
  )

-- stop_backend --
-- whether it is gone: within the given milliseconds
select pg_catalog.pg_terminate_backend($1, $2)

-- last_build --
-- of a table of vectors, as the ledger has it: how many seconds, and with which ef_construction
select extract(epoch from ended_at - started_at)::float8 as seconds,
       (pg_catalog.regexp_match(text, 'ef_construction = (\d+)'))[1]::integer as ef_construction
from ragline.change_step
where phase = 'prepare' and error is null and ended_at is not null
  and pg_catalog.strpos(text, 'on ragline.' || $1 || ' using hnsw') > 0
  and text ~ 'ef_construction = \d+' and ended_at - started_at > interval '1 second'
order by ended_at desc
limit 1

-- build_memory --
select setting::bigint * 1024 from pg_catalog.pg_settings where name = 'maintenance_work_mem'

-- attached_space --
-- a collection in a table of somebody else, and how production's index is described
select c.id as collection_id, a.description, s.id as space_id, s.dimension, s.metric,
       s.storage as held, x.storage as index_storage, x.m, x.ef_construction,
       n.nspname::text as vector_schema,
       t.oid is not null and t.oid = a.table_oid as is_there,
       (select r.oid::regclass::text from pg_catalog.pg_class r where r.oid = a.table_oid) as is_called,
       greatest(t.reltuples, 0)::bigint as rows
from ragline.collection c
join ragline.attached_table a on a.collection_id = c.id
left join ragline.embedding_space s on s.id = c.active_space_id
left join ragline.space_index x on x.space_id = s.id and x.slot = 1
left join pg_catalog.pg_extension e on e.extname = 'vector'
left join pg_catalog.pg_namespace n on n.oid = e.extnamespace
left join pg_catalog.pg_namespace tn on tn.nspname = a.description ->> 'schema'
left join pg_catalog.pg_class t on t.relnamespace = tn.oid and t.relname = a.description ->> 'table'
where c.name = $1

-- sharing_a_table --
-- other collections whose vectors are the same column, compared in the same way
select c.name, c.id as collection_id, s.id as space_id
from ragline.embedding_space mine
join ragline.attached_table at on at.collection_id = mine.collection_id
join ragline.attached_table other on other.table_oid = at.table_oid
    and other.collection_id <> at.collection_id
    and other.description ->> 'embedding' = at.description ->> 'embedding'
join ragline.collection c on c.id = other.collection_id
join ragline.embedding_space s on s.id = c.active_space_id
where mine.id = $1
  and (s.dimension, s.metric, s.storage) = (mine.dimension, mine.metric, mine.storage)
order by c.name

-- change_of_an_index --
select min(c.id) from ragline.change c
where c.closed_at is null and c.state <> 'planned'
  and exists (
      select from pg_catalog.jsonb_array_elements(c.parts) as p
      where p ->> 'kind' = 'index' and p ->> 'target' = any ($1::text[])
  )

-- may_index --
-- what an index of a table takes: to own it, and to create in its schema
select pg_catalog.pg_get_userbyid(t.relowner) as owner, current_user::text as user,
       pg_catalog.pg_has_role(t.relowner, 'usage') as is_owner,
       pg_catalog.has_schema_privilege(n.oid, 'create') as may_create,
       pg_catalog.pg_is_in_recovery() as is_replica
from pg_catalog.pg_class t
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
where n.nspname = $1 and t.relname = $2

-- vector_indexes_of_table --
select x.relname as name, m.amname as method, o.opcname as operator_class,
       coalesce(i.indisvalid and i.indisready and i.indislive, false) as is_valid,
       x.reloptions as options, i.indpred is not null as is_partial,
       case when i.indexprs is null then pg_catalog.quote_ident(k.attname)
            else pg_catalog.pg_get_expr(i.indexprs, i.indrelid)
       end as expression,
       pg_catalog.pg_get_indexdef(x.oid) as definition
from pg_catalog.pg_index i
join pg_catalog.pg_class x on x.oid = i.indexrelid
join pg_catalog.pg_am m on m.oid = x.relam
join pg_catalog.pg_class t on t.oid = i.indrelid
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
left join pg_catalog.pg_attribute k on k.attrelid = t.oid and k.attnum = i.indkey[0]
left join pg_catalog.pg_opclass o on o.oid = i.indclass[0]
where n.nspname = $1 and t.relname = $2 and m.amname in ('hnsw', 'ivfflat') and i.indnkeyatts = 1
order by x.relname

-- quoted_names --
select pg_catalog.quote_ident(name) as quoted
from pg_catalog.unnest($1::text[]) with ordinality as given (name, place) order by place

-- raise_search_version --
update ragline.collection set search_version = search_version + 1 where id = $1

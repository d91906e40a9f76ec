-- locked --
-- tables that nobody may even read: who asks for a definition or a size waits until that is over
with held as (
    select l.relation as oid from pg_catalog.pg_locks l
    where l.mode = 'AccessExclusiveLock' and l.locktype = 'relation'
      and l.pid is distinct from pg_catalog.pg_backend_pid()
      and l.database = (
          select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()
      )
), locked as (
    select oid from held
    union select i.indrelid from pg_catalog.pg_index i join held h on h.oid = i.indexrelid
    union select t.oid from pg_catalog.pg_class t join held h on h.oid = t.reltoastrelid
)
select t.oid, n.nspname::text as schema, t.relname::text as name
from locked k
join pg_catalog.pg_class t on t.oid = k.oid
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and t.relkind in ('r', 'p', 'm') and t.relpersistence <> 't'
order by 2, 3

-- indexes --
-- every index outside the catalog; sessions that ask look nowhere but in the catalog
with used as (  -- by whom; what is the server's own is not written down as needed
    select d.classid, d.objid, d.refclassid, d.refobjid,
           coalesce(p.proowner, o.oprowner, y.typowner) as owner
    from pg_catalog.pg_depend d
    left join pg_catalog.pg_proc p
        on d.refclassid = 'pg_catalog.pg_proc'::regclass and p.oid = d.refobjid
    left join pg_catalog.pg_operator o
        on d.refclassid = 'pg_catalog.pg_operator'::regclass and o.oid = d.refobjid
    left join pg_catalog.pg_type y
        on d.refclassid = 'pg_catalog.pg_type'::regclass and y.oid = d.refobjid
    where d.classid in ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_statistic_ext'::regclass)
), stranger as (
    select u.classid, u.objid from used u
    where u.owner is not null
      and not exists (
          select from pg_catalog.pg_roles r
          where r.oid = u.owner and (r.rolsuper or r.rolname = current_user)
      )
      and not exists (
          select from pg_catalog.pg_depend m
          join pg_catalog.pg_extension e
              on e.oid = m.refobjid and m.refclassid = 'pg_catalog.pg_extension'::regclass
          where m.classid = u.refclassid and m.objid = u.refobjid and m.deptype = 'e'
            and e.extname = 'vector'
      )
), strange as materialized (  -- planning a query runs what is in any index or statistics of a table
    select j.indrelid as table_oid
    from stranger s join pg_catalog.pg_index j on j.indexrelid = s.objid
    where s.classid = 'pg_catalog.pg_class'::regclass
    union
    select j.stxrelid
    from stranger s join pg_catalog.pg_statistic_ext j on j.oid = s.objid
    where s.classid = 'pg_catalog.pg_statistic_ext'::regclass
)
select x.oid, t.oid as table_oid, n.nspname::text as schema, t.relname::text as table,
       x.relname::text as name, a.amname::text as method,
       array(
           select o.opcname::text
           from pg_catalog.generate_series(0, i.indnkeyatts - 1) as k (at)
           join pg_catalog.pg_opclass o on o.oid = i.indclass[k.at]
           order by k.at
       ) as operator_classes,
       array(
           select pg_catalog.pg_get_indexdef(x.oid, k.at, false)
           from pg_catalog.generate_series(1, i.indnkeyatts::int) as k (at) order by k.at
       ) as keys,
       array(
           select pg_catalog.concat_ws(' ', i.indclass[k.at], i.indcollation[k.at], i.indoption[k.at])
           from pg_catalog.generate_series(0, i.indnkeyatts - 1) as k (at) order by k.at
       ) as key_rules,
       array(
           select pg_catalog.pg_get_indexdef(x.oid, k.at, false)
           from pg_catalog.generate_series(i.indnkeyatts + 1, i.indnatts::int) as k (at) order by k.at
       ) as included,
       pg_catalog.pg_get_indexdef(x.oid) as definition,
       x.reloptions as options,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) as predicate,
       i.indisunique as is_unique,
       (select c.conname::text from pg_catalog.pg_constraint c where c.conindid = x.oid
        order by c.contype limit 1) as constraint,
       i.indisreplident as is_replica_identity,
       exists (select from strange r where r.table_oid = t.oid) as runs_foreign_code,
       x.relkind = 'I' as is_partitioned,
       x.relispartition as is_part,
       i.indisvalid and i.indislive as is_valid,
       i.indisready as is_ready,
       case
           when i.indisvalid and i.indisready then false
           when exists (
               select from pg_catalog.pg_stat_progress_create_index p
               where p.datname = pg_catalog.current_database()
                 and (
                     p.index_relid = x.oid
                     or p.relid = t.oid and p.command = 'REINDEX CONCURRENTLY'
                 )
           ) then true
           when exists (  -- dropped concurrently, or built by somebody whom we may not watch
               select from pg_catalog.pg_locks l
               where l.granted
                 and (
                     l.relation = x.oid
                     or l.relation = t.oid
                     and not pg_catalog.pg_has_role('pg_read_all_stats', 'usage')
                 )
                 and l.mode in ('ShareUpdateExclusiveLock', 'AccessExclusiveLock')
                 and l.pid <> pg_catalog.pg_backend_pid()
                 and l.database = (
                     select oid from pg_catalog.pg_database
                     where datname = pg_catalog.current_database()
                 )
           ) then null
           else false
       end as is_building,
       coalesce(pg_catalog.pg_relation_size(x.oid), 0) as size_bytes,
       nullif(x.reltuples, -1)::bigint as index_rows,
       case
           when t.reltuples >= 0 and t.relpages > 0 then
               t.reltuples::float8 / t.relpages
               * (coalesce(pg_catalog.pg_relation_size(t.oid), 0)
                  / pg_catalog.current_setting('block_size')::float8)
           when t.relkind = 'p' then null
           else s.n_live_tup
       end::bigint as table_rows,
       coalesce(pg_catalog.pg_table_size(t.oid), 0) as table_bytes,
       coalesce(u.idx_scan, 0) as scans,
       coalesce(u.idx_tup_read, 0) as rows_read,
       (pg_catalog.to_jsonb(u) ->> 'last_idx_scan')::timestamptz as last_scan,
       case when pg_catalog.current_setting('track_commit_timestamp') = 'on'
            then pg_catalog.pg_xact_commit_timestamp(i.xmin) end as created_at,
       y.typname::text as key_type, b.atttypmod as key_modifier
from pg_catalog.pg_index i
join pg_catalog.pg_class x on x.oid = i.indexrelid
join pg_catalog.pg_class t on t.oid = i.indrelid
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
join pg_catalog.pg_am a on a.oid = x.relam
join pg_catalog.pg_attribute b on b.attrelid = x.oid and b.attnum = 1
join pg_catalog.pg_type y on y.oid = b.atttypid
left join pg_catalog.pg_stat_all_tables s on s.relid = t.oid
left join pg_catalog.pg_stat_all_indexes u on u.indexrelid = x.oid
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and t.oid <> all ($1::oid[])
  and t.relpersistence <> 't'
  and not (n.nspname = 'ragline' and t.relname ~ '^trial_[0-9]+$')  -- while a tuning runs
order by n.nspname, t.relname, x.relname

-- tables --
select t.oid, n.nspname::text as schema, t.relname::text as name,
       case t.relkind when 'p' then 'partitioned' when 'm' then 'materialized view'
           else 'table' end as kind,
       case
           when t.reltuples >= 0 and t.relpages > 0 then
               t.reltuples::float8 / t.relpages
               * (coalesce(pg_catalog.pg_relation_size(t.oid), 0)
                  / pg_catalog.current_setting('block_size')::float8)
           when t.relkind = 'p' then null
           else s.n_live_tup
       end::bigint as rows,
       coalesce(pg_catalog.pg_table_size(t.oid), 0) as bytes,
       coalesce(pg_catalog.pg_indexes_size(t.oid), 0) as index_bytes,
       coalesce(s.seq_scan, 0) as sequential_scans,
       coalesce(s.idx_scan, 0) as index_scans,
       coalesce(s.n_tup_ins, 0) as inserted,
       coalesce(s.n_tup_upd, 0) as updated,
       coalesce(s.n_tup_hot_upd, 0) as updated_in_place,
       coalesce(s.n_tup_del, 0) as deleted,
       greatest(s.last_analyze, s.last_autoanalyze) as analysed_at,
       array(
           select array[b.attname::text, y.typname::text, b.atttypmod::text]
           from pg_catalog.pg_attribute b
           join pg_catalog.pg_type y on y.oid = b.atttypid
           join pg_catalog.pg_extension e
               on e.extname = 'vector' and e.extnamespace = y.typnamespace
           where b.attrelid = t.oid and b.attnum > 0 and not b.attisdropped
             and y.typname in ('vector', 'halfvec', 'sparsevec')
           order by b.attnum
       ) as vectors
from pg_catalog.pg_class t
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
left join pg_catalog.pg_stat_all_tables s on s.relid = t.oid
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and t.relkind in ('r', 'p', 'm') and t.relpersistence <> 't'
  and t.oid <> all ($1::oid[])
  and not (n.nspname = 'ragline' and t.relname ~ '^trial_[0-9]+$')  -- while a tuning runs
order by n.nspname, t.relname

-- knows_collections --
-- whether ragline's tables are here, are tables of whom the schema belongs to (a view of a stranger's would
-- run with our rights), and may be read; the schema itself is `complaint`'s to judge
select coalesce(pg_catalog.bool_and(c.oid is not null), false) as are_here,
       coalesce(pg_catalog.bool_and(
           c.relkind = 'r' and not c.relhasrules
           and (
               c.relowner = n.nspowner
               or exists (
                   select from pg_catalog.pg_roles r
                   where r.oid = c.relowner
                     and (r.rolsuper or r.rolname in (current_user, 'ragline_owner'))
               )
           )
       ), false) as are_tables,
       coalesce(pg_catalog.bool_and(
           pg_catalog.has_table_privilege(c.oid, 'select')
           and pg_catalog.has_schema_privilege(n.oid, 'usage')
       ), false) as are_readable
from (values ('collection'), ('embedding_space'), ('attached_table')) as w (name)
left join pg_catalog.pg_namespace n on n.nspname = 'ragline'
left join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = w.name

-- collections_of_tables --
-- whose vectors are where, and in which slot production looks; an attached table may serve several
select t.oid as table_oid, c.name as collection, s.index_slot, s.metric,
       c.active_space_id = s.id as is_active, false as is_attached
from ragline.embedding_space s
join ragline.collection c on c.id = s.collection_id
join pg_catalog.pg_class t
    on t.relnamespace = 'ragline'::regnamespace::oid
    and t.relname = ('embedding_' || s.id)::name and t.relkind = 'r'
union all
select a.table_oid, c.name, null, s.metric, true, true
from ragline.attached_table a
join ragline.collection c on c.id = a.collection_id
left join ragline.embedding_space s on s.id = c.active_space_id
order by 2

-- server --
select pg_catalog.current_setting('server_version_num')::int as version,
       e.extversion::text as pgvector,
       (select v.default_version::text from pg_catalog.pg_available_extensions v
        where v.name = 'vector') as pgvector_available,
       n.nspname::text as vector_schema,
       pg_catalog.current_setting('block_size')::int as block_size,
       (select b.setting::bigint * pg_catalog.current_setting('block_size')::bigint
        from pg_catalog.pg_settings b where b.name = 'shared_buffers') as shared_buffers_bytes,
       pg_catalog.pg_is_in_recovery() as is_replica,
       (select greatest(
            d.stats_reset, (select w.stats_reset from pg_catalog.pg_stat_bgwriter w)
        ) from pg_catalog.pg_stat_database d
        where d.datname = pg_catalog.current_database()) as statistics_since,
       pg_catalog.clock_timestamp() as now,
       pg_catalog.current_setting('hnsw.ef_search', true) as ef_search,
       pg_catalog.current_setting('ivfflat.probes', true) as probes
from (select) as one_row
left join pg_catalog.pg_extension e on e.extname = 'vector'
left join pg_catalog.pg_namespace n on n.oid = e.extnamespace

-- buffer_cache_schema --
select n.nspname::text
from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
where e.extname = 'pg_buffercache'

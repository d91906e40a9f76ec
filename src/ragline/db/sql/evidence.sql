-- What statements cost, as pg_stat_statements counts it; asked with its schema first on the search path.

-- source --
select n.nspname::text as schema, e.extversion as version,
       exists (
           select from pg_catalog.pg_available_extensions where name = 'pg_stat_statements'
       ) as is_available,
       current_setting('pg_stat_statements.track', true) as tracks,
       nullif(current_setting('pg_stat_statements.max', true), '')::int as most,
       pg_catalog.pg_has_role(session_user, 'pg_read_all_stats', 'usage') as sees_all,
       pg_catalog.clock_timestamp() as now
from (select) as always
left join pg_catalog.pg_extension e on e.extname = 'pg_stat_statements'
left join pg_catalog.pg_namespace n on n.oid = e.extnamespace

-- counted_since --
select stats_reset, dealloc from pg_stat_statements_info

-- statements --
-- the same statement of several roles is one, and its texts differ in nothing but spelling
select s.queryid::text as id, min(s.query) as text, sum(s.calls)::bigint as calls,
       sum(s.total_exec_time)::float8 as total_ms, sum(s.rows)::bigint as rows,
       array_agg(distinct coalesce(r.rolname::text, '')) as users
from pg_stat_statements s
left join pg_catalog.pg_roles r on r.oid = s.userid
where s.dbid = (select oid from pg_catalog.pg_database where datname = current_database())
  and s.calls > 0
group by s.queryid
order by 4 desc, 1

-- search_paths --
-- where a role's statements look for names: what it has of its own goes before the database's
select distinct on (r.rolname) r.rolname::text as user_name, own.path
from pg_catalog.pg_roles r
left join lateral (
    select pg_catalog.substr(item, pg_catalog.strpos(item, '=') + 1) as path,
           (d.setrole <> 0)::int * 2 + (d.setdatabase <> 0)::int as rank
    from pg_catalog.pg_db_role_setting d
    cross join lateral pg_catalog.unnest(d.setconfig) as item
    where pg_catalog.split_part(item, '=', 1) = 'search_path'
      and d.setrole in (0, r.oid)
      and d.setdatabase in (
          0, (select oid from pg_catalog.pg_database where datname = current_database())
      )
) own on true
where r.rolname = any ($1::text[])
order by r.rolname, own.rank desc nulls last

-- not_trusted --
-- Planning a statement runs functions that it names and that call themselves immutable or stable. What
-- a role less mighty than ours could have written is not run on our account: names of functions,
-- operators, and relations that bring such functions along.
with untrusted as (
    select p.oid, p.proname
    from pg_catalog.pg_proc p
    join pg_catalog.pg_roles r on r.oid = p.proowner
    join pg_catalog.pg_language l on l.oid = p.prolang
    where not r.rolsuper and r.rolname not in (session_user, 'ragline_owner')
      -- only a superuser can have written those
      and l.lanname not in ('c', 'internal')
)
select proname::text as name from untrusted
union
select o.oprname::text from pg_catalog.pg_operator o join untrusted u on u.oid = o.oprcode
union
select c.relname::text
from pg_catalog.pg_class c
join pg_catalog.pg_roles r on r.oid = c.relowner
where c.relkind = 'v' and not r.rolsuper and r.rolname <> session_user
  and exists (select from untrusted)
union
select c.relname::text
from pg_catalog.pg_depend d
join untrusted u on u.oid = d.refobjid
left join pg_catalog.pg_policy p
    on d.classid = 'pg_catalog.pg_policy'::regclass and p.oid = d.objid
left join pg_catalog.pg_index i
    on d.classid = 'pg_catalog.pg_class'::regclass and i.indexrelid = d.objid
left join pg_catalog.pg_constraint k
    on d.classid = 'pg_catalog.pg_constraint'::regclass and k.oid = d.objid
join pg_catalog.pg_class c on c.oid in (p.polrelid, i.indrelid, k.conrelid)
where d.refclassid = 'pg_catalog.pg_proc'::regclass

-- columns --
-- the estimates of a table with its heirs are its own where it has none
select distinct on (a.attrelid, a.attnum)
       a.attrelid as table_oid, a.attname::text as name, t.typname::text as type,
       tn.nspname::text as type_schema, a.atttypmod as modifier, s.avg_width as width,
       s.n_distinct::float8 as distinct, s.null_frac::float8 as null_share
from pg_catalog.pg_attribute a
join pg_catalog.pg_class c on c.oid = a.attrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_type t on t.oid = a.atttypid
join pg_catalog.pg_namespace tn on tn.oid = t.typnamespace
left join pg_catalog.pg_stats s
    on s.schemaname = n.nspname and s.tablename = c.relname and s.attname = a.attname
where a.attrelid = any ($1::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum, s.inherited desc nulls last

-- planner_costs --
select current_setting('seq_page_cost')::float8 as seq_page,
       current_setting('random_page_cost')::float8 as random_page,
       current_setting('cpu_tuple_cost')::float8 as tuple,
       current_setting('cpu_index_tuple_cost')::float8 as index_tuple,
       current_setting('cpu_operator_cost')::float8 as operator

-- kept_indexes --
-- what must not be dropped whoever uses it, and why
select i.indexrelid as oid,
       case
           when i.indisreplident then 'replication identifies rows by it'
           when i.indisclustered then 'its table is clustered by it'
           when k.conname is not null then 'it keeps constraint ' || k.conname
           when h.inhparent is not null then 'it is part of the index of a partitioned table'
           when i.indisunique then 'it keeps rows from being there twice'
           when f.conname is not null then 'foreign key ' || f.conname || ' is checked by it'
       end as reason
from pg_catalog.pg_index i
-- a foreign key names the index of the table that it points to
left join pg_catalog.pg_constraint k
    on k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x', 'f')
left join pg_catalog.pg_inherits h on h.inhrelid = i.indexrelid
left join lateral (
    select conname::text from pg_catalog.pg_constraint
    where contype = 'f' and conrelid = i.indrelid and conkey[1] = i.indkey[0]
    limit 1
) f on true

-- replicas --
select count(*) from pg_catalog.pg_stat_replication

-- relations_named --
select n.nspname::text as schema, c.relname::text as name
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm', 'p') and c.relname = any ($1::text[])
  -- points and trigrams have operators of the same names
  and exists (
      select from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
      where a.attrelid = c.oid and t.typname in ('vector', 'halfvec', 'sparsevec', 'bit', 'varbit')
  )
  and n.nspname <> all ('{pg_catalog,information_schema}') and n.nspname !~ '^pg_'

-- limits --
-- of a transaction that only plans
select pg_catalog.set_config('statement_timeout', $1::text || 'ms', true),
       pg_catalog.set_config('lock_timeout', $2::text || 'ms', true),
       pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true)

-- prepared_parameters --
select pg_catalog.cardinality(parameter_types) as count
from pg_catalog.pg_prepared_statements where name = $1

-- partitions --
select oid from pg_catalog.pg_class where relispartition and relkind = 'r'

-- volatile_functions --
select distinct proname::text as name from pg_catalog.pg_proc
where provolatile = 'v' and proname = any ($1::text[])
order by 1

-- What statements cost, as pg_stat_statements counts it; asked with its schema on the search
-- path after pg_catalog: what strangers put there must not be found first, so calls say whose they are.

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
select s.queryid::text as id, pg_catalog.min(s.query) as text,
       pg_catalog.sum(s.calls)::bigint as calls,
       pg_catalog.sum(s.total_exec_time)::float8 as total_ms,
       pg_catalog.sum(s.rows)::bigint as rows,
       pg_catalog.array_agg(distinct coalesce(r.rolname::text, '')) as users
from pg_stat_statements s
left join pg_catalog.pg_roles r on r.oid = s.userid
where s.dbid = (
    select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()
)
  and s.calls > 0
group by s.queryid
order by 4 desc, 1

-- seen_texts --
-- what sessions ran last or run now, with its constants, where it was not cut off
select query_id::text as id, query as text
from pg_catalog.pg_stat_activity
where datname = current_database() and query_id is not null and pid <> pg_catalog.pg_backend_pid()
  and octet_length(query) < (
      select setting::int - 1 from pg_catalog.pg_settings where name = 'track_activity_query_size'
  )

-- unindexed_references --
-- an index serves a foreign key when it begins with its columns, in whatever order
select k.conname::text as name, k.conrelid as table_oid,
       (
           select array_agg(a.attname::text order by u.place)
           from pg_catalog.unnest(k.conkey) with ordinality as u (number, place)
           join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.number
       ) as columns,
       n.nspname::text as to_schema, c.relname::text as to_table
from pg_catalog.pg_constraint k
join pg_catalog.pg_class c on c.oid = k.confrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where k.contype = 'f' and k.conparentid = 0
  and not exists (
      select from pg_catalog.pg_index i
      where i.indrelid = k.conrelid and i.indisvalid and i.indpred is null
        and (i.indkey::int2[])[0:pg_catalog.cardinality(k.conkey) - 1] @> k.conkey
  )

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
-- a role less mighty than ours could have written is not run on our account: names of functions, and of
-- all that brings them along: operators, types, casts, relations by their defaults, constraints,
-- policies, indexes and heirs, and views of those, whoever has made them.
with recursive foreign_made as (
    select p.oid
    from pg_catalog.pg_proc p
    join pg_catalog.pg_roles r on r.oid = p.proowner
    join pg_catalog.pg_language l on l.oid = p.prolang
    where not r.rolsuper and r.rolname not in (session_user, 'ragline_owner')
      -- only a superuser can have written those; nobody but a trigger calls the others
      and l.lanname not in ('c', 'internal')
      and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
),
untrusted as (
    select oid from foreign_made
    union
    -- what looks for names where its caller does finds theirs
    select p.oid
    from pg_catalog.pg_proc p
    join pg_catalog.pg_language l on l.oid = p.prolang
    where exists (select from foreign_made)
      and l.lanname not in ('c', 'internal')
      and p.pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      and p.prosqlbody is null
      and not coalesce(p.proconfig::text ~ 'search_path=', false)
      and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
),
tainted (classid, objid) as (
    select 'pg_proc'::regclass::oid, oid from untrusted
    union
    select reached.classid, reached.objid
    from tainted t
    cross join lateral (
        -- of what depends on a relation, the rules of views read it
        select d.classid, d.objid
        from pg_catalog.pg_depend d
        where d.refclassid = t.classid and d.refobjid = t.objid
          and d.classid <> 'pg_trigger'::regclass
          and (t.classid <> 'pg_class'::regclass or d.classid = 'pg_rewrite'::regclass)
        union all
        select 'pg_class'::regclass, o.relation
        from (
            select 'pg_attrdef'::regclass as class, oid, adrelid from pg_catalog.pg_attrdef
            union all
            select 'pg_rewrite'::regclass, oid, ev_class from pg_catalog.pg_rewrite
            union all
            select 'pg_policy'::regclass, oid, polrelid from pg_catalog.pg_policy
            union all
            select 'pg_constraint'::regclass, oid, conrelid from pg_catalog.pg_constraint
            union all
            select 'pg_class'::regclass, indexrelid, indrelid from pg_catalog.pg_index
            union all
            select 'pg_class'::regclass, inhrelid, inhparent from pg_catalog.pg_inherits
        ) as o (class, oid, relation)
        where o.class = t.classid and o.oid = t.objid and o.relation <> 0
        union all
        select 'pg_type'::regclass, k.contypid
        from pg_catalog.pg_constraint k
        where t.classid = 'pg_constraint'::regclass and k.oid = t.objid and k.contypid <> 0
        union all
        select 'pg_type'::regclass, between_them.oid
        from pg_catalog.pg_cast k
        join pg_catalog.pg_type between_them on between_them.oid in (k.castsource, k.casttarget)
        where t.classid = 'pg_cast'::regclass and k.oid = t.objid
          and between_them.typnamespace <> 'pg_catalog'::regnamespace
    ) as reached
)
select p.proname::text as name
from tainted t join pg_catalog.pg_proc p on t.classid = 'pg_proc'::regclass and p.oid = t.objid
union
select o.oprname::text
from tainted t join pg_catalog.pg_operator o on t.classid = 'pg_operator'::regclass and o.oid = t.objid
union
select c.relname::text
from tainted t join pg_catalog.pg_class c on t.classid = 'pg_class'::regclass and c.oid = t.objid
union
select y.typname::text
from tainted t join pg_catalog.pg_type y on t.classid = 'pg_type'::regclass and y.oid = t.objid

-- columns --
-- the estimates of a table with its heirs are its own where it has none
select distinct on (a.attrelid, a.attnum)
       a.attrelid as table_oid, a.attname::text as name, t.typname::text as type,
       a.atttypmod as modifier, s.avg_width as width, s.n_distinct::float8 as distinct
from pg_catalog.pg_attribute a
join pg_catalog.pg_class c on c.oid = a.attrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_type t on t.oid = a.atttypid
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

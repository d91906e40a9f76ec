-- leftovers --
-- tables of trials, whoever is at them
select substr(c.relname, 7)::integer as number
from pg_catalog.pg_class c
where c.relnamespace = 'ragline'::regnamespace::oid and c.relkind = 'r' and c.relpersistence = 'u'
  and c.relname ~ '^trial_[1-9][0-9]{0,8}$'
order by 1

-- server --
select (select extversion from pg_catalog.pg_extension where extname = 'vector') as version,
       (select n.nspname::text
        from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'vector') as vector_schema,
       (select setting::bigint * 1024 from pg_catalog.pg_settings where name = 'maintenance_work_mem')
       as build_memory

-- kept_as --
-- whether a column's values lie in the row itself or out of line: it decides what reading them costs
select attstorage::text from pg_catalog.pg_attribute
where attrelid = $1::text::regclass and attname = $2 and not attisdropped

-- relation_bytes --
select pg_catalog.pg_relation_size($1::text::regclass)

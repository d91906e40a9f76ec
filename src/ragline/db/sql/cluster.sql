-- is_there --
select pg_catalog.to_regclass('ragline_cluster.open_change') is not null

-- is_a_strangers --
select exists (
    select from (
        select nspowner as owner from pg_catalog.pg_namespace where nspname = 'ragline_cluster'
        union all
        select c.relowner from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'ragline_cluster'
        union all
        select p.proowner from pg_catalog.pg_proc p
        join pg_catalog.pg_namespace n on n.oid = p.pronamespace
        where n.nspname = 'ragline_cluster'
    ) as o
    join pg_catalog.pg_roles r on r.oid = o.owner
    where not r.rolsuper and r.rolname <> current_user
)

-- take_place --
insert into ragline_cluster.open_change as o (database_oid, database, change_id, key)
select d.oid, d.datname, $2, $3::uuid from pg_catalog.pg_database d where d.datname = $1::text
on conflict (is_the_one) do update
set database_oid = excluded.database_oid, database = excluded.database,
    change_id = excluded.change_id, key = excluded.key, opened_at = excluded.opened_at
where o.key = excluded.key
   or not exists (select from pg_catalog.pg_database d where d.oid = o.database_oid)
returning change_id

-- holder --
-- by what the database is called now
select d.datname as database, o.change_id, o.key
from ragline_cluster.open_change o join pg_catalog.pg_database d on d.oid = o.database_oid

-- forget_dropped --
delete from ragline_cluster.open_change o
where not exists (select from pg_catalog.pg_database d where d.oid = o.database_oid)

-- give_back --
delete from ragline_cluster.open_change where key = $1::uuid

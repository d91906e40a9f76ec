-- What the doctor reads: for any user, on a replica too, and without ragline's schema. Sessions that ask
-- look nowhere but in the catalog.

-- server --
select current_setting('server_version_num')::int as version_num,
       current_setting('server_version') as version,
       current_user::text as user_name,
       r.rolsuper as is_superuser,
       r.rolbypassrls as bypasses_rls,
       pg_catalog.current_database()::text as database,
       pg_catalog.pg_is_in_recovery() as is_replica,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create') as may_create,
       pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'usage') as sees_all_settings,
       pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_all_sessions,
       coalesce((select s.ssl from pg_catalog.pg_stat_ssl s
                 where s.pid = pg_catalog.pg_backend_pid()), false) as uses_tls,
       n.oid is not null as has_schema,
       coalesce(pg_catalog.has_schema_privilege(n.oid, 'usage'), false) as may_use_schema,
       (select count(*) from pg_catalog.pg_class c
        where c.relrowsecurity and c.relkind in ('r', 'p'))::int as tables_with_rls,
       pg_catalog.pg_postmaster_start_time() as started_at
from pg_catalog.pg_roles r
left join pg_catalog.pg_namespace n on n.nspname = 'ragline'
where r.rolname = current_user

-- settings --
-- those that this user may not see have no row
select name, coalesce(setting, '') as setting, context, source,
       pending_restart as is_pending
from pg_catalog.pg_settings

-- extensions --
select name::text as name, default_version as available, installed_version as installed
from pg_catalog.pg_available_extensions
where name in ('vector', 'pg_stat_statements', 'pg_buffercache', 'hypopg')

-- ages --
select datname::text as database, pg_catalog.age(datfrozenxid) as xid,
       pg_catalog.mxid_age(datminmxid) as multixact
from pg_catalog.pg_database

-- sessions --
-- of other users' an ordinary user sees that they are there, and no more
with seen as (
    select pid, usesysid, usename, application_name, state, state_change, xact_start,
           backend_type is null as is_hidden,
           usesysid is not null and coalesce(backend_type, 'client backend') = 'client backend'
               as is_client
    from pg_catalog.pg_stat_activity where pid <> pg_catalog.pg_backend_pid()
), client as (
    select *,
           pg_catalog.concat('session ', pid, ' of ', usename,
                             ' (' || nullif(application_name, '') || ')') as who,
           case when state like 'idle in transaction%' then
               extract(epoch from pg_catalog.clock_timestamp() - state_change)::float8
           end as idle_s,
           extract(epoch from pg_catalog.clock_timestamp() - xact_start)::float8 as open_s
    from seen where is_client
)
select count(*)::int as connections,
       (count(*) filter (where is_hidden))::int as hidden,
       max(idle_s) as idle_longest_s,
       (select who from client where idle_s is not null order by idle_s desc limit 1) as idle_who,
       max(open_s) as oldest_s,
       (select who from client where open_s is not null order by open_s desc limit 1) as oldest_who
from client

-- prepared --
select gid as name, database::text as database, owner::text as owner,
       extract(epoch from pg_catalog.clock_timestamp() - prepared)::float8 as seconds
from pg_catalog.pg_prepared_xacts order by prepared limit 20

-- slots --
select slot_name::text as name, slot_type as kind, active as is_active, wal_status,
       pg_catalog.pg_wal_lsn_diff(
           case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
               else pg_catalog.pg_current_wal_lsn() end,
           restart_lsn
       )::bigint as kept_bytes,
       greatest(pg_catalog.age(xmin), pg_catalog.age(catalog_xmin)) as xmin_age
from pg_catalog.pg_replication_slots order by 1

-- standbys --
select coalesce(nullif(application_name, ''), 'of process ' || pid) as name, state,
       pg_catalog.pg_wal_lsn_diff(
           case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
               else pg_catalog.pg_current_wal_lsn() end,
           replay_lsn
       )::bigint as behind_bytes,
       extract(epoch from replay_lag)::float8 as lag_s
from pg_catalog.pg_stat_replication order by 1

-- replica --
select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_is_wal_replay_paused()
           else false end as is_paused,
       exists (select from pg_catalog.pg_stat_wal_receiver) as has_receiver,
       greatest(pg_catalog.pg_wal_lsn_diff(
           pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()
       ), 0)::bigint as to_replay_bytes,
       extract(epoch from pg_catalog.clock_timestamp()
               - pg_catalog.pg_last_xact_replay_timestamp())::float8 as behind_s

-- neglected --
select pg_catalog.format('%I.%I', n.nspname, c.relname) as table,
       pg_catalog.pg_stat_get_dead_tuples(c.oid) as dead,
       pg_catalog.pg_stat_get_live_tuples(c.oid) as live
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and c.reloptions is not null and n.nspname not like 'pg\_temp%'
  and exists (
      select from pg_catalog.pg_options_to_table(c.reloptions) o
      where o.option_name = 'autovacuum_enabled' and not o.option_value::boolean
  )
  and pg_catalog.pg_stat_get_dead_tuples(c.oid) > 0
order by 2 desc limit 20

-- roles --
-- with the tables with row-level security that bind all but their owner, who is also each of its members
with secured as (
    select c.relowner, pg_catalog.format('%I.%I', n.nspname, c.relname) as name
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relrowsecurity and not c.relforcerowsecurity and c.relkind in ('r', 'p')
)
select r.rolname::text as name, r.rolsuper as is_superuser, r.oid = 10 as is_first,
       r.rolbypassrls as bypasses_rls, r.rolconnlimit as connection_limit,
       array(
           select s.name from secured s where pg_catalog.pg_has_role(r.oid, s.relowner, 'usage')
           order by s.name limit 20
       ) as owned
from pg_catalog.pg_roles r where r.rolcanlogin order by r.rolname

-- hba --
select line_number as line, type as kind, pg_catalog.array_to_string(database, ',') as databases,
       pg_catalog.array_to_string(user_name, ',') as users, address,
       type = 'local' or address in ('localhost', 'samehost')
           -- 127.0.0.1/0 is everybody
           or address like '127.%' and netmask like '255.%'
           or address = '::1' and netmask = 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff' as is_local,
       auth_method as method, error
from pg_catalog.pg_hba_file_rules order by line_number

-- wal --
select count(*)::int as files, coalesce(sum(size), 0)::bigint as bytes
from pg_catalog.pg_ls_waldir()

-- archiver --
select archived_count as archived, failed_count as failed, last_failed_wal as last_failed,
       coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) as is_failing
from pg_catalog.pg_stat_archiver

-- spaces --
-- what a space says, and what the column is that holds its vectors
select s.id, c.name as collection, s.model_id, s.weights_hash, s.dimension, s.storage,
       coalesce(c.active_space_id = s.id, false) as is_active,
       case when a.collection_id is not null then
           pg_catalog.concat_ws('.', a.description ->> 'schema', a.description ->> 'table')
       end as attached_to,
       t.typname::text as column_type,
       nullif(f.atttypmod, -1) as column_dimension
from ragline.embedding_space s
join ragline.collection c on c.id = s.collection_id
left join ragline.attached_table a on a.collection_id = s.collection_id
left join pg_catalog.pg_attribute f
    on f.attrelid = coalesce(
        a.table_oid, pg_catalog.to_regclass('ragline.embedding_' || s.id)::oid
    )
    and f.attname = coalesce(a.description ->> 'embedding', 'embedding') and not f.attisdropped
left join pg_catalog.pg_type t on t.oid = f.atttypid
order by c.name, s.id

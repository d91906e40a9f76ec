-- facts --
select
    current_setting('server_version_num')::int as version,
    current_setting('server_version') as version_text,
    session_user::text as user_name,
    (select rolsuper from pg_catalog.pg_roles where rolname = session_user) as is_superuser,
    pg_catalog.pg_is_in_recovery() as is_replica,
    coalesce(current_setting('allow_alter_system', true), 'on') = 'on' as allows_alter_system,
    pg_catalog.has_function_privilege('pg_catalog.pg_reload_conf()', 'execute') as may_reload,
    pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'select')
        and pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'execute')
        as may_read_files,
    array(
        select rolname::text from pg_catalog.pg_roles where rolname = any($1::text[]) order by 1
    ) as managed_roles,
    -- Its connections carry its name, and its base file is the server's main one.
    exists (
        select from pg_catalog.pg_stat_activity where application_name ilike 'patroni%'
    ) or exists (
        select from pg_catalog.pg_settings where sourcefile like '%/postgresql.base.conf'
    ) as is_patroni

-- setting --
select name, vartype, context, unit, min_val, max_val, enumvals, setting, boot_val, source,
       sourcefile, pending_restart
from pg_catalog.pg_settings where lower(name) = lower($1)

-- setting_names --
select name from pg_catalog.pg_settings order by name

-- as_session_sees_it --
select setting, source, current_setting(name) as shown
from pg_catalog.pg_settings where lower(name) = lower($1)

-- file_settings --
-- in the order in which the server reads them: the last of a name counts
select sourcefile, sourceline, name, setting, applied, error
from pg_catalog.pg_file_settings order by seqno

-- own_settings --
-- what roles and databases have of their own, which goes before the server's
select coalesce(r.rolname::text, 'every role') as role, d.datname::text as database,
       substr(item, strpos(item, '=') + 1) as value
from pg_catalog.pg_db_role_setting s
cross join unnest(s.setconfig) as item
left join pg_catalog.pg_roles r on r.oid = s.setrole
left join pg_catalog.pg_database d on d.oid = s.setdatabase
where lower(split_part(item, '=', 1)) = lower($1)
order by 1, 2

-- role_setting --
select substr(item, strpos(item, '=') + 1)
from pg_catalog.pg_db_role_setting s
cross join unnest(s.setconfig) as item
join pg_catalog.pg_roles r on r.oid = s.setrole
join pg_catalog.pg_database d on d.oid = s.setdatabase
where r.rolname = $1 and d.datname = current_database()
  and lower(split_part(item, '=', 1)) = lower($2)

-- connection_limit --
select rolconnlimit from pg_catalog.pg_roles where rolname = $1

-- extension_schema --
select n.nspname::text
from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
where e.extname = $1

-- started_at --
select pg_catalog.pg_postmaster_start_time()

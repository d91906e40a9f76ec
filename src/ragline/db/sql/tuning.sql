-- What `ragline tune` asks a server.

-- server --
select current_setting('server_version_num')::int as version_num, pg_catalog.version() as said

-- settings --
-- what only superusers and pg_read_all_settings may see is not there for others
select name, setting, unit, context, vartype, source, enumvals, max_val, pending_restart
from pg_catalog.pg_settings
where name = any ($1::text[])

-- own_settings --
-- of roles, in this database or everywhere; role 0 is whoever comes to the database
select coalesce(r.rolname, 'this database') as role,
       pg_catalog.split_part(s.entry, '=', 1) as name,
       pg_catalog.substr(s.entry, pg_catalog.strpos(s.entry, '=') + 1) as value
from pg_catalog.pg_db_role_setting d
     left join pg_catalog.pg_roles r on r.oid = d.setrole
     cross join lateral pg_catalog.unnest(d.setconfig) as s (entry)
where d.setdatabase in (
        0, (select oid from pg_catalog.pg_database where datname = current_database())
    )
order by 1, 2

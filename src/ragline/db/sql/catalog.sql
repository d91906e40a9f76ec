-- schema_version --
select version_num from ragline.alembic_version

-- complaint --
-- Why reading the schema would run what a stranger put there, with our rights; null when it would not.
-- Looks into the catalog only, with operators that no search_path can replace.
with trusted as (
    select r.oid
    from pg_catalog.pg_roles r
    where r.rolsuper
       or r.rolname operator(pg_catalog.=) current_user
       or r.rolname operator(pg_catalog.=) 'ragline_owner'
)
select case
    when not exists (select from trusted t where t.oid operator(pg_catalog.=) n.nspowner) then
        pg_catalog.format(
            'schema ''ragline'' of this database belongs to %1$I, who is neither a superuser nor '
            'ragline_owner nor you (%2$I): what is in it could run with your rights, so nothing was '
            'read. Use it as %1$I; or drop or rename it; or, if you trust %1$I and what the '
            'schema holds, let %1$I hand it over: `grant ragline_owner to %1$I`, then '
            '`ragline migrate apply` as %1$I, then `revoke ragline_owner from %1$I`',
            pg_catalog.pg_get_userbyid(n.nspowner), current_user
        )
    when v.oid is null then null
    when not exists (select from trusted t where t.oid operator(pg_catalog.=) v.relowner)
        or v.relkind operator(pg_catalog.<>) 'r'
        or v.relhasrules or v.relhastriggers or v.relrowsecurity or v.relhassubclass
        or v.relchecks operator(pg_catalog.<>) 0::pg_catalog.int2
    then
        pg_catalog.format(
            'ragline.alembic_version of this database, which belongs to %1$I, is not the plain '
            'table that ragline made: reading it could run somebody''s code with your rights, so '
            'nothing was read. Find out who changed it, and restore the table from a backup',
            pg_catalog.pg_get_userbyid(v.relowner)
        )
    end
from pg_catalog.pg_namespace n
left join pg_catalog.pg_class v
    on v.relnamespace operator(pg_catalog.=) n.oid
    and v.relname operator(pg_catalog.=) 'alembic_version'
where n.nspname operator(pg_catalog.=) 'ragline'

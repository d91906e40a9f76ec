-- Idempotent; runs before every `migrate apply`, as the user of the DSN. Roles are cluster-wide, so
-- another database of the same cluster may have made them already.
do $bootstrap$
declare
    may_create_roles boolean := (
        select rolsuper or rolcreaterole from pg_catalog.pg_roles where rolname = current_user
    );
    is_superuser boolean := (
        select rolsuper from pg_catalog.pg_roles where rolname = current_user
    );
    workload_role record;
begin
    -- Two databases may be migrated at once; role creation is not transactional across them.
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('ragline.roles'));
    if may_create_roles then
        if not exists (select from pg_catalog.pg_roles where rolname = 'ragline_owner') then
            create role ragline_owner nologin;
            comment on role ragline_owner is 'owns everything of ragline; cannot log in';
        end if;
        for workload_role in
            select * from (values
                ('ragline_serve', 'ragline workload serve: search, answers, documents'),
                ('eval_app', 'ragline workload eval: evaluations'),
                ('ltst_app', 'ragline workload memory: conversation memory and its jobs'),
                ('ragline_read', 'ragline workload read: dashboards and inspection'),
                ('ragline_admin', 'ragline workload admin: ingest, indexes, changes')
            ) as wanted (name, purpose)
        loop
            if not exists (
                select from pg_catalog.pg_roles where rolname = workload_role.name
            ) then
                execute format('create role %I login', workload_role.name);
                execute format(
                    'comment on role %I is %L', workload_role.name, workload_role.purpose
                );
            end if;
        end loop;
        -- A superuser is a member of everything; others must say so before they may hand over.
        if not is_superuser
            and not pg_catalog.pg_has_role(current_user, 'ragline_owner', 'member')
        then
            execute format('grant ragline_owner to %I', current_user);
        end if;
        if not pg_catalog.pg_has_role('ragline_admin', 'ragline_owner', 'member') then
            grant ragline_owner to ragline_admin;
        end if;
    end if;

    create extension if not exists vector;
    if is_superuser and exists (
        select from pg_catalog.pg_available_extensions where name = 'pg_stat_statements'
    ) then
        create extension if not exists pg_stat_statements;
    end if;

    if not exists (select from pg_catalog.pg_namespace where nspname = 'ragline') then
        if exists (select from pg_catalog.pg_roles where rolname = 'ragline_owner')
            and pg_catalog.pg_has_role(current_user, 'ragline_owner', 'member')
        then
            execute format(
                'grant create on database %I to ragline_owner', pg_catalog.current_database()
            );
            create schema ragline authorization ragline_owner;
            execute format(
                'revoke create on database %I from ragline_owner', pg_catalog.current_database()
            );
        else
            create schema ragline;
        end if;
        comment on schema ragline is 'Everything that ragline keeps in this database.';
    end if;
end
$bootstrap$;

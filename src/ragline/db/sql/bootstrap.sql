-- Idempotent; runs before every `migrate apply`, as the user of the DSN. Roles are cluster-wide, so
-- another database of the same cluster may have made them already.
do $bootstrap$
declare
    is_superuser boolean := (
        select rolsuper from pg_catalog.pg_roles where rolname = current_user
    );
    may_create_roles boolean := (
        select rolsuper or rolcreaterole from pg_catalog.pg_roles where rolname = current_user
    );
    before_16 boolean := current_setting('server_version_num')::int < 160000;
    -- From 16 on, whoever makes a role may administer it, but not act as it: that is granted apart.
    acting text := case when before_16 then 'member' else 'set' end;
    may_administer boolean;
    may_hand_over boolean := false;
    vector_schema name;
    workload_role record;
    item record;
begin
    -- One at a time in this database; in others of the same cluster a retry settles it.
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('ragline.migration'));
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

        -- Roles that somebody else made are theirs to hand out.
        may_administer := is_superuser or before_16 or pg_catalog.pg_has_role(
            current_user, 'ragline_owner', 'member with admin option'
        );
        -- A superuser is a member of everything; others must say so before they may hand over.
        if may_administer and not is_superuser
            and not pg_catalog.pg_has_role(current_user, 'ragline_owner', acting)
        then
            execute format('grant ragline_owner to %I', current_user);
        end if;
        if may_administer
            and not pg_catalog.pg_has_role('ragline_admin', 'ragline_owner', 'member')
        then
            grant ragline_owner to ragline_admin;
        end if;
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = 'ragline_owner') then
        may_hand_over := pg_catalog.pg_has_role(current_user, 'ragline_owner', acting);
    end if;

    -- Into the schema that the user's own settings choose; all else here sees the catalog only.
    set local search_path to default;
    create extension if not exists vector;
    if is_superuser and exists (
        select from pg_catalog.pg_available_extensions where name = 'pg_stat_statements'
    ) then
        create extension if not exists pg_stat_statements;
    end if;
    set local search_path = pg_catalog, pg_temp;
    select n.nspname into vector_schema
    from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
    where e.extname = 'vector';
    if may_hand_over
        and not pg_catalog.has_schema_privilege('ragline_owner', vector_schema, 'usage')
    then
        execute format('grant usage on schema %I to ragline_owner', vector_schema);
    end if;

    if not exists (select from pg_catalog.pg_namespace where nspname = 'ragline') then
        if may_hand_over then
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
    elsif may_hand_over then
        -- What a stranger made would run, or let him run what he likes, as the owner.
        for item in
            select o.what, pg_catalog.pg_get_userbyid(o.owner) as owner
            from (
                select format('schema %I', nspname) as what, nspowner as owner
                from pg_catalog.pg_namespace where nspname = 'ragline'
                union all
                select format('relation %I', relname), relowner
                from pg_catalog.pg_class where relnamespace = 'ragline'::regnamespace::oid
                union all
                select format('function %I', proname), proowner
                from pg_catalog.pg_proc where pronamespace = 'ragline'::regnamespace::oid
                union all
                select format('operator %s', oprname), oprowner
                from pg_catalog.pg_operator where oprnamespace = 'ragline'::regnamespace::oid
            ) as o
            join pg_catalog.pg_roles r on r.oid = o.owner
            where not r.rolsuper and r.rolname not in ('ragline_owner', current_user)
        loop
            raise insufficient_privilege using message = format(
                '%s in schema ragline belongs to %I, and is not taken over', item.what, item.owner
            );
        end loop;
        -- Migrated before by this user, when the roles could not be made: the owner takes it over.
        for item in
            select format('schema %I', nspname) as object
            from pg_catalog.pg_namespace
            where nspname = 'ragline' and nspowner <> 'ragline_owner'::regrole::oid
            union all
            select format('table ragline.%I', relname)
            from pg_catalog.pg_class
            where relnamespace = 'ragline'::regnamespace::oid and relkind in ('r', 'p')
              and relowner <> 'ragline_owner'::regrole::oid
            union all
            select format('function %s', oid::regprocedure)
            from pg_catalog.pg_proc
            where pronamespace = 'ragline'::regnamespace::oid
              and proowner <> 'ragline_owner'::regrole::oid
        loop
            execute format('alter %s owner to ragline_owner', item.object);
        end loop;
    end if;
end
$bootstrap$;

-- Idempotent; runs after every `migrate apply`. What each workload may do, and no more.
-- Settings are defaults of the role in this database; a role can raise its own (only the
-- connection limit is enforced), so they keep honest work honest, nothing else.
do $grants$
declare
    database text := pg_catalog.current_database();
    is_superuser boolean := (
        select rolsuper from pg_catalog.pg_roles where rolname = current_user
    );
    setting record;
    item record;
begin
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('ragline.roles'));
    for item in
        select rolname from pg_catalog.pg_roles
        where rolname in ('ragline_serve', 'eval_app', 'ltst_app', 'ragline_read', 'ragline_admin')
    loop
        execute format('grant connect on database %I to %I', database, item.rolname);
        execute format('grant usage on schema ragline to %I', item.rolname);
        execute format('grant select on all tables in schema ragline to %I', item.rolname);
        execute format('revoke select on ragline.alembic_version from %I', item.rolname);
        execute format('grant select on ragline.alembic_version to %I', item.rolname);
    end loop;
    if exists (select from pg_catalog.pg_roles where rolname = 'ragline_serve') then
        grant insert, update, delete on ragline.document, ragline.chunk to ragline_serve;
        grant insert on ragline.collection, ragline.term to ragline_serve;
        grant update (active_space_id) on ragline.collection to ragline_serve;
        grant delete on ragline.collection to ragline_serve;
        grant usage on all sequences in schema ragline to ragline_serve;
        grant execute on function
            ragline.create_space(integer, text, text, integer, text, text, boolean, text[], boolean),
            ragline.fold_statistics(integer, integer)
        to ragline_serve;
    end if;

    for setting in
        select * from (values
            ('ragline_serve', 'statement_timeout', '30s', false),
            ('ragline_read', 'statement_timeout', '30s', false),
            ('ragline_read', 'default_transaction_read_only', 'on', false),
            ('eval_app', 'statement_timeout', '20s', false),
            ('eval_app', 'work_mem', '32MB', false),
            ('eval_app', 'temp_file_limit', '32GB', true),
            ('ltst_app', 'statement_timeout', '25s', false),
            ('ltst_app', 'work_mem', '64MB', false),
            ('ltst_app', 'temp_file_limit', '64GB', true)
        ) as wanted (role, name, value, needs_superuser)
        where exists (select from pg_catalog.pg_roles where rolname = wanted.role)
    loop
        if is_superuser or not setting.needs_superuser then
            execute format(
                'alter role %I in database %I set %I = %L',
                setting.role, database, setting.name, setting.value
            );
        end if;
    end loop;
end
$grants$;

-- Idempotent; runs after every `migrate apply` whose schema belongs to ragline_owner. What each
-- workload may do, and no more. Settings are defaults of the role in this database; a role can raise
-- its own (only the connection limit is enforced), so they keep honest work honest, nothing else.
do $grants$
declare
    database text := pg_catalog.current_database();
    is_superuser boolean := (
        select rolsuper from pg_catalog.pg_roles where rolname = current_user
    );
    alters_any_role boolean := (
        select rolsuper or rolcreaterole and current_setting('server_version_num')::int < 160000
        from pg_catalog.pg_roles where rolname = current_user
    );
    vector_schema name := (
        select n.nspname
        from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'vector'
    );
    setting record;
    item record;
begin
    for item in
        select rolname from pg_catalog.pg_roles
        where rolname in ('ragline_serve', 'eval_app', 'ltst_app', 'ragline_read', 'ragline_admin')
    loop
        execute format('grant connect on database %I to %I', database, item.rolname);
        if not pg_catalog.has_schema_privilege(item.rolname, vector_schema, 'usage') then
            execute format('grant usage on schema %I to %I', vector_schema, item.rolname);
        end if;
        execute format('grant usage on schema ragline to %I', item.rolname);
        execute format('grant select on all tables in schema ragline to %I', item.rolname);
    end loop;
    -- No update: a document whose content changes is deleted and inserted again.
    revoke update on ragline.document, ragline.chunk from ragline_serve;
    grant insert, delete on ragline.document, ragline.chunk to ragline_serve;
    grant insert on ragline.collection, ragline.term to ragline_serve;
    grant update (active_space_id) on ragline.collection to ragline_serve;
    grant delete on ragline.collection to ragline_serve;
    grant usage on all sequences in schema ragline to ragline_serve;
    grant execute on function
        ragline.create_space(integer, text, text, integer, text, text, boolean, text[], boolean),
        ragline.fold_postings(integer, integer),
        -- A check runs with the rights of who writes.
        ragline.are_distinct(integer[])
    to ragline_serve;
    -- What evaluations keep is theirs alone to write, and the judges' verdicts theirs to read.
    revoke usage on sequence ragline.dataset_id_seq, ragline.run_id_seq, ragline.baseline_id_seq
        from ragline_serve;
    revoke select on ragline.verdict from ragline_serve, ltst_app, ragline_read;
    -- Snapshots know of settings what only a superuser may.
    revoke select on ragline.snapshot from ragline_serve, eval_app, ltst_app, ragline_read;
    revoke select on ragline.backup from ragline_serve, eval_app, ltst_app, ragline_read;
    revoke usage on sequence ragline.snapshot_id_seq, ragline.backup_id_seq from ragline_serve;
    grant insert, delete on ragline.dataset, ragline.dataset_case, ragline.run, ragline.noise
        to eval_app;
    grant insert on ragline.run_case, ragline.baseline to eval_app;
    grant insert, update, delete on ragline.verdict to eval_app;
    grant update (superseded_at) on ragline.dataset to eval_app;
    grant update (
        state, owner, lease_until, metrics, errors, phases_ms, spent, cache, warnings, seconds,
        closed_at
    ) on ragline.run to eval_app;
    grant update (
        hits, contexts, answer, found, labels, metrics, errors, warnings, phases_ms, total_ms,
        spent, reuse_key, is_reused, saved_at
    ) on ragline.run_case to eval_app;
    grant update (ended_at) on ragline.baseline to eval_app;
    -- create_space() grants this too, to roles that exist by then.
    -- From the catalog: a table of ours is never read with a superuser's rights.
    for item in
        select relname from pg_catalog.pg_class
        where relnamespace = 'ragline'::regnamespace::oid and relkind = 'r'
          and relname ~ '^embedding_[0-9]+$'
    loop
        execute format('grant insert, delete on ragline.%I to ragline_serve', item.relname);
    end loop;

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
        where not needs_superuser or is_superuser
    loop
        if alters_any_role
            or pg_catalog.pg_has_role(current_user, setting.role, 'member with admin option')
        then
            execute format(
                'alter role %I in database %I set %I = %L',
                setting.role, database, setting.name, setting.value
            );
        end if;
    end loop;
end
$grants$;

drop table change_step, change_history, change;
drop trigger space_raises_version on collection;
drop trigger slot_raises_version on embedding_space;
drop trigger first_index_is_described on embedding_space;
drop table search_policy;
drop function
    keep_changes, write_change_history, keep_change_history, raise_search_version,
    raise_own_search_version, describe_first_index;

create or replace function space_index_statement(space integer, online boolean) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select format(
        'create index %s %I on ragline.%I using hnsw (%s %I.%I)',
        case when online then 'concurrently' else '' end,
        'embedding_' || s.id || '_hnsw', 'embedding_' || s.id,
        case when s.storage = 'vector' and s.dimension > 2000
             then format('(embedding::%I.halfvec(%s))', n.nspname, s.dimension)
             else 'embedding' end,
        n.nspname,
        case when s.dimension > 2000 then 'halfvec' else s.storage end
        || case s.metric when 'cosine' then '_cosine_ops' when 'l2' then '_l2_ops' else '_ip_ops' end
    )
    from ragline.embedding_space s,
         pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where s.id = space and e.extname = 'vector' and s.dimension <= 4000
$$;

-- Searches of the older version do not use an index with a predicate: one without is built again.
do $indexes$
declare
    space record;
begin
    for space in
        select s.id, s.index_slot,
               pg_catalog.to_regclass(format('ragline.%I', ragline.space_index_name(s.id, s.index_slot)))
               is not null as is_there
        from ragline.embedding_space s
    loop
        if space.index_slot = 0 and space.is_there then
            execute format(
                'alter index ragline.%I rename to %I',
                ragline.space_index_name(space.id, 0), 'embedding_' || space.id || '_hnsw_full'
            );
        end if;
        execute format('drop index if exists ragline.%I', ragline.space_index_name(space.id, 1));
        execute format('drop index if exists ragline.%I', ragline.space_index_name(space.id, 2));
        if space.index_slot = 0 and space.is_there then
            execute format(
                'alter index ragline.%I rename to %I',
                'embedding_' || space.id || '_hnsw_full', 'embedding_' || space.id || '_hnsw'
            );
        elsif space.is_there then
            execute ragline.space_index_statement(space.id, false);
        end if;
    end loop;
end
$indexes$;

drop function space_index_statement(integer, integer, boolean);
drop function space_index_name;
drop table space_index;
alter table embedding_space drop column index_slot;
alter table collection drop column search_version;

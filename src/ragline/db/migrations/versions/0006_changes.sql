-- What searches depend on besides the content. Searches read the number with their hits: where it is
-- not the one they knew, they look again, so that no process goes on with what was changed.
alter table collection add column search_version integer not null default 1;
comment on column collection.search_version is 'Raised whenever the active space, its index or the search policy changes.';

-- Two vector indexes of one space never compete for a query: each has a predicate that is always true
-- and that only a query with the same literal implies. Slot 0 is an index from before there were slots.
alter table embedding_space add column index_slot smallint not null default 1
    constraint slot_is_known check (index_slot in (0, 1, 2));
comment on column embedding_space.index_slot is 'Which of its vector indexes searches use: 1 or 2; 0 is one from before there were two.';
update embedding_space set index_slot = 0;

create table space_index (
    space_id integer not null references embedding_space on delete cascade,
    slot smallint not null constraint slot_is_known check (slot in (0, 1, 2)),
    storage text not null constraint storage_is_known check (storage in ('vector', 'halfvec')),
    m smallint not null default 16 constraint m_in_range check (m between 2 and 100),
    ef_construction smallint not null default 64
        constraint ef_construction_in_range check (ef_construction between 4 and 1000),
    made_at timestamptz not null default now(),
    primary key (space_id, slot),
    constraint ef_construction_is_twice_m check (ef_construction >= 2 * m)
);
comment on table space_index is 'How the vector index in each slot of a space is built, whether it is built yet or not.';
comment on column space_index.space_id is 'The embedding space.';
comment on column space_index.slot is 'The slot; see embedding_space.index_slot.';
comment on column space_index.storage is 'What the index holds: the vectors, or their halves in 2 bytes a number.';
comment on column space_index.m is 'Neighbours of each vector in the graph.';
comment on column space_index.ef_construction is 'How many candidates are looked at for each vector while building.';
comment on column space_index.made_at is 'When it was described.';
insert into space_index (space_id, slot, storage)
select id, 0, case when dimension > 2000 then 'halfvec' else storage end from embedding_space;

create function describe_first_index() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into ragline.space_index (space_id, slot, storage) values (
        new.id, new.index_slot, case when new.dimension > 2000 then 'halfvec' else new.storage end
    );
    return null;
end
$$;
create trigger first_index_is_described after insert on embedding_space
    for each row execute function describe_first_index();

do $rename$
declare
    item record;
begin
    for item in
        select relname from pg_catalog.pg_class
        where relnamespace = 'ragline'::regnamespace::oid and relkind = 'i'
          and relname ~ '^embedding_[0-9]+_hnsw$'
    loop
        execute format('alter index ragline.%I rename to %I', item.relname, item.relname || '_0');
    end loop;
end
$rename$;

create function space_index_name(space integer, slot integer) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select 'embedding_' || space || '_hnsw'
        || case slot when 0 then '_0' when 1 then '' else '_' || slot end
$$;

-- The statement that builds the vector index of a slot; null when the dimension is beyond what one can
-- hold. Searches write the same expression and the same literal.
create function space_index_statement(space integer, slot integer, online boolean) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select format(
        'create index %s %I on ragline.%I using hnsw (%s %I.%I) with (m = %s, ef_construction = %s)%s',
        case when online then 'concurrently' else '' end,
        ragline.space_index_name(s.id, i.slot), 'embedding_' || s.id,
        case when s.storage = 'vector' and i.storage = 'halfvec'
             then format('(embedding::%I.halfvec(%s))', n.nspname, s.dimension)
             else 'embedding' end,
        n.nspname,
        i.storage
        || case s.metric when 'cosine' then '_cosine_ops' when 'l2' then '_l2_ops' else '_ip_ops' end,
        i.m, i.ef_construction,
        case i.slot when 0 then '' else format(' where chunk_id <> -%s', i.slot) end
    )
    from ragline.embedding_space s
    join ragline.space_index i on i.space_id = s.id and i.slot = space_index_statement.slot
    cross join pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where s.id = space and e.extname = 'vector' and s.dimension <= 4000
      and (i.storage = 'halfvec' or s.dimension <= 2000)
$$;

create or replace function space_index_statement(space integer, online boolean) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select ragline.space_index_statement(s.id, s.index_slot::integer, online)
    from ragline.embedding_space s where s.id = space
$$;

create table search_policy (
    collection_id integer primary key references collection on delete cascade,
    k smallint constraint k_in_range check (k between 1 and 1000),
    vector_weight double precision constraint weight_is_a_share check (vector_weight between 0 and 1),
    ef_search smallint constraint ef_search_in_range check (ef_search between 1 and 1000),
    iterative text constraint mode_is_known
        check (iterative in ('off', 'strict_order', 'relaxed_order')),
    early_exit integer constraint budget_is_positive check (early_exit > 0)
);
comment on table search_policy is 'How a collection is searched where a caller does not say; null is the default, and no row is all defaults.';
comment on column search_policy.collection_id is 'The collection.';
comment on column search_policy.k is 'How many hits a search returns.';
comment on column search_policy.vector_weight is 'What the vectors'' share counts in a hybrid search, from 0 to 1; the words'' counts the rest.';
comment on column search_policy.ef_search is 'How many candidates the vector index looks at.';
comment on column search_policy.iterative is 'Whether, and in which order, an index scan goes on when too little was found.';
comment on column search_policy.early_exit is 'After so many postings lexical search stops looking for candidates.';

create function raise_search_version() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op <> 'INSERT' then
        update ragline.collection set search_version = search_version + 1
        where id = old.collection_id;
    end if;
    if tg_op = 'INSERT' then
        update ragline.collection set search_version = search_version + 1
        where id = new.collection_id;
    end if;
    return null;
end
$$;
create trigger policy_raises_version after insert or update or delete on search_policy
    for each row execute function raise_search_version();
create trigger slot_raises_version after update of index_slot on embedding_space
    for each row when (old.index_slot <> new.index_slot) execute function raise_search_version();

create function raise_own_search_version() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    new.search_version := old.search_version + 1;
    return new;
end
$$;
create trigger space_raises_version before update of active_space_id on collection
    for each row when (old.active_space_id is distinct from new.active_space_id)
    execute function raise_own_search_version();

create table change (
    id bigint generated always as identity primary key,
    key uuid not null unique default gen_random_uuid(),
    title text not null constraint title_is_short check (char_length(title) between 1 and 1000),
    parts jsonb not null constraint parts_are_a_list check (jsonb_typeof(parts) = 'array'),
    plan jsonb not null,
    plan_hash text not null,
    asked jsonb,
    is_cluster_wide boolean not null,
    state text not null default 'planned' constraint state_is_known check (state in (
        'planned', 'preparing', 'snapshotted', 'applying', 'applied', 'measuring', 'keeping',
        'undoing', 'kept', 'undone', 'inconclusive', 'failed'
    )),
    snapshot jsonb,
    before jsonb,
    verdict jsonb,
    reason text not null default '',
    waits_for text,
    undoes bigint references change,
    undo text not null generated always as ('ragline change undo ' || id::text) stored,
    owner text,
    restarting_until timestamptz,
    keep_for interval not null default '7 days',
    retire_at timestamptz,
    undo_ms double precision,
    planned_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    opened_at timestamptz,
    applied_at timestamptz,
    closed_at timestamptz,
    constraint snapshot_comes_first
        check (state in ('planned', 'preparing') or snapshot is not null or closed_at is not null),
    constraint closed_when_decided
        check ((closed_at is not null) = (state in ('kept', 'undone', 'inconclusive'))),
    constraint kept_for_a_reason check (state <> 'kept' or verdict is not null)
);
-- One change at a time. What is prepared beside what is in use needs no place here.
create unique index one_open_change on change ((true)) where state in (
    'snapshotted', 'applying', 'applied', 'measuring', 'keeping', 'undoing', 'failed'
);
comment on table change is 'The ledger: every change made on purpose, what was before, how it was judged, what became of it.';
comment on column change.id is 'Key; people say it.';
comment on column change.key is 'Key that no restored backup gives out twice; the journal beside the ledger names it.';
comment on column change.title is 'What it changes, in a line.';
comment on column change.parts is 'Kind, target and wanted value of each part.';
comment on column change.plan is 'The steps as they were shown.';
comment on column change.plan_hash is 'Of parts, of what was there, and of the steps: a plan that no longer fits is refused.';
comment on column change.asked is 'What is measured, and held against which lines; null: nothing is, on somebody''s word.';
comment on column change.is_cluster_wide is 'Whether it also holds the place that all databases of the cluster share.';
comment on column change.state is 'Where it is; kept, undone and inconclusive (and therefore undone) are ends.';
comment on column change.snapshot is 'What was there before the first step, part by part.';
comment on column change.before is 'What was measured before the first step.';
comment on column change.verdict is 'How it was judged, with every line, n and interval.';
comment on column change.reason is 'Why it is in this state, in a sentence.';
comment on column change.waits_for is 'What somebody else has to do before it goes on, such as a restart.';
comment on column change.undoes is 'The kept change that this one takes back.';
comment on column change.undo is 'The line that takes it back.';
comment on column change.owner is 'The process that is at it.';
comment on column change.restarting_until is 'While the server restarts nobody holds its lock: until then the process is believed to live.';
comment on column change.keep_for is 'How long what it replaced is kept, so that undo is immediate.';
comment on column change.retire_at is 'When what it replaced is dropped; null when there is nothing, or no more.';
comment on column change.undo_ms is 'How long putting it back took.';
comment on column change.planned_at is 'When it was planned.';
comment on column change.expires_at is 'Until when the plan may be applied.';
comment on column change.opened_at is 'When the snapshot was taken.';
comment on column change.applied_at is 'When all steps were done.';
comment on column change.closed_at is 'When it was decided.';

create table change_history (
    change_id bigint not null references change on delete cascade,
    ordinal integer not null,
    at timestamptz not null default clock_timestamp(),
    state text not null,
    reason text not null,
    by_user text not null default session_user,
    primary key (change_id, ordinal)
);
comment on table change_history is 'Every state that a change went through; written by a trigger.';
comment on column change_history.change_id is 'The change.';
comment on column change_history.ordinal is 'Its place in the order, from 1.';
comment on column change_history.at is 'When.';
comment on column change_history.state is 'The state it came to.';
comment on column change_history.reason is 'Why.';
comment on column change_history.by_user is 'Who was logged in.';

create table change_step (
    change_id bigint not null references change on delete cascade,
    ordinal integer not null,
    direction text not null constraint direction_is_known check (direction in ('do', 'undo')),
    phase text not null constraint phase_is_known check (phase in ('prepare', 'apply', 'adopt')),
    text text not null,
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    error text,
    primary key (change_id, ordinal)
);
comment on table change_step is 'Every step that was begun, in order, and when it ended.';
comment on column change_step.change_id is 'The change.';
comment on column change_step.ordinal is 'Its place in the order, from 1.';
comment on column change_step.direction is 'do, or undo.';
comment on column change_step.phase is 'prepare: beside what is in use; apply: in effect, to be judged; adopt: after the verdict.';
comment on column change_step.text is 'The statement, as people read it.';
comment on column change_step.started_at is 'When it began.';
comment on column change_step.ended_at is 'When it ended well; null: it was broken off, or failed.';
comment on column change_step.error is 'What it failed with.';

create function keep_changes() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'DELETE' then
        if old.state = 'planned' then
            return old;
        end if;
        raise exception 'change % is in the ledger and stays there', old.id
            using errcode = 'restrict_violation';
    end if;
    if (new.id, new.key, new.title, new.parts, new.plan_hash, new.is_cluster_wide, new.undoes)
        is distinct from
       (old.id, old.key, old.title, old.parts, old.plan_hash, old.is_cluster_wide, old.undoes)
        or old.snapshot is not null and new.snapshot is distinct from old.snapshot
        or old.verdict is not null and new.verdict is distinct from old.verdict
    then
        raise exception 'what change % was about never changes', old.id
            using errcode = 'restrict_violation';
    end if;
    if new.state <> old.state and not (old.state, new.state) in (
        ('planned', 'preparing'), ('planned', 'snapshotted'),
        ('preparing', 'snapshotted'), ('preparing', 'undone'), ('preparing', 'planned'),
        ('snapshotted', 'applying'), ('snapshotted', 'undoing'),
        ('applying', 'applied'), ('applying', 'undoing'),
        ('applied', 'measuring'), ('applied', 'keeping'), ('applied', 'undoing'),
        ('measuring', 'keeping'), ('measuring', 'undoing'),
        ('keeping', 'kept'), ('keeping', 'undoing'), ('keeping', 'failed'),
        ('undoing', 'undone'), ('undoing', 'inconclusive'), ('undoing', 'failed'),
        ('failed', 'undoing'), ('failed', 'keeping')
    ) then
        raise exception 'change % is %, from where it cannot become %', old.id, old.state, new.state
            using errcode = 'restrict_violation';
    end if;
    if old.closed_at is not null and new.state <> old.state then
        raise exception 'change % is closed', old.id using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;
create trigger changes_are_kept before update or delete on change
    for each row execute function keep_changes();

create function write_change_history() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' and new.state = old.state and new.reason = old.reason then
        return null;
    end if;
    insert into ragline.change_history (change_id, ordinal, state, reason)
    select new.id, coalesce(max(ordinal), 0) + 1, new.state, new.reason
    from ragline.change_history where change_id = new.id;
    return null;
end
$$;
create trigger history_is_written after insert or update on change
    for each row execute function write_change_history();

create function keep_change_history() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    -- A plan that nobody applied takes its first line with it.
    if tg_op = 'DELETE' and not exists (select from ragline.change where id = old.change_id) then
        return old;
    end if;
    raise exception 'history never changes' using errcode = 'restrict_violation';
end
$$;
create trigger history_is_kept before update or delete on change_history
    for each row execute function keep_change_history();

revoke execute on function
    describe_first_index(), space_index_name(integer, integer),
    space_index_statement(integer, integer, boolean), raise_search_version(),
    raise_own_search_version(), keep_changes(), write_change_history(), keep_change_history()
from public;

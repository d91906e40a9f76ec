create table snapshot (
    id bigint generated always as identity primary key,
    name text unique
        constraint name_is_plain check (name ~ '^[A-Za-z_][A-Za-z0-9_.-]{0,63}$' and name <> 'now'),
    note text not null default '' constraint note_is_short check (char_length(note) <= 2000),
    taken_at timestamptz not null default clock_timestamp(),
    by_user text not null default session_user,
    contents jsonb not null constraint contents_are_groups check (jsonb_typeof(contents) = 'object')
);
comment on table snapshot is 'What the server was at a time: settings, files, roles, versions, machine, schema, sizes, content.';
comment on column snapshot.id is 'Key; people say it.';
comment on column snapshot.name is 'What people call it beside its number; null is nothing.';
comment on column snapshot.note is 'Why it was taken.';
comment on column snapshot.taken_at is 'When.';
comment on column snapshot.by_user is 'Who was logged in.';
comment on column snapshot.contents is 'Groups of facts by name; of what may hold a secret only a hash.';

create function keep_snapshots() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'snapshot % never changes', old.id using errcode = 'restrict_violation';
end
$$;
create trigger snapshots_are_kept before update on snapshot
    for each row execute function keep_snapshots();

revoke execute on function keep_snapshots() from public;

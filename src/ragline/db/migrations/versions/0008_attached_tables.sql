-- Tables of somebody else's that are searched in place: nothing of theirs is copied or altered.
create table attached_table (
    collection_id integer primary key references collection on delete cascade,
    description jsonb not null
        constraint description_is_an_object check (jsonb_typeof(description) = 'object'),
    table_oid oid not null,
    granted jsonb not null default '[]'
        constraint grants_are_a_list check (jsonb_typeof(granted) = 'array'),
    attached_at timestamptz not null default clock_timestamp(),
    by_user text not null default session_user
);
comment on table attached_table is 'Collections whose rows are in a table of somebody else, searched in place.';
comment on column attached_table.collection_id is 'The collection; its space has no table of vectors.';
comment on column attached_table.description is 'The table, and which of its columns are key, text, embedding, metadata and filters.';
comment on column attached_table.table_oid is 'The table itself: one that was dropped and made again is another.';
comment on column attached_table.granted is 'Rights that attaching gave to the workloads'' roles, to be taken back when it is detached.';
comment on column attached_table.attached_at is 'When.';
comment on column attached_table.by_user is 'Who was logged in.';

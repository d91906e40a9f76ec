-- Backups of tables: what a migration may lose is kept before it does.
create table backup (
    id bigint generated always as identity primary key,
    name text unique
        constraint name_is_plain check (name ~ '^[A-Za-z_][A-Za-z0-9_.-]{0,63}$'),
    tables jsonb not null constraint tables_are_a_list check (jsonb_typeof(tables) = 'array'),
    path text not null,
    size_bytes bigint not null,
    sha256 text not null constraint hash_is_hexadecimal check (sha256 ~ '^[0-9a-f]{64}$'),
    contents jsonb not null,
    server_version text not null,
    created_at timestamptz not null default clock_timestamp(),
    by_user text not null default session_user,
    verified_at timestamptz,
    verification jsonb,
    constraint verified_with_what_was_seen check ((verified_at is null) = (verification is null))
);
comment on table backup is 'Backups of tables made with pg_dump: where the file is, what it holds, whether it was restored to see.';
comment on column backup.id is 'Key; people say it.';
comment on column backup.name is 'What people call it beside its number; null is nothing.';
comment on column backup.tables is 'The tables, with their schemas.';
comment on column backup.path is 'The file, on the machine that made it.';
comment on column backup.size_bytes is 'Its size.';
comment on column backup.sha256 is 'Hash of the file: another one is not this backup.';
comment on column backup.contents is 'Rows and a hash of the content of each table when it was made.';
comment on column backup.server_version is 'The server it was made on.';
comment on column backup.created_at is 'When.';
comment on column backup.by_user is 'Who was logged in.';
comment on column backup.verified_at is 'When it was last restored into an empty database and compared; null is never.';
comment on column backup.verification is 'What was seen then, table by table.';

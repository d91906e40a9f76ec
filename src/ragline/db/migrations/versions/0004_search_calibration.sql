create table search_calibration (
    space_id integer primary key references embedding_space on delete cascade,
    exact_chunks integer not null
        constraint exact_chunks_are_counted check (exact_chunks >= 0),
    levels jsonb not null
        constraint levels_are_a_list check (jsonb_typeof(levels) = 'array'),
    chunks bigint not null constraint chunks_are_counted check (chunks > 0),
    measured_at timestamptz not null default now()
);
comment on table search_calibration is 'Where comparing every allowed chunk becomes slower than walking the vector index, as measured in a collection.';
comment on column search_calibration.space_id is 'The embedding space it was measured in.';
comment on column search_calibration.exact_chunks is 'Up to so many chunks that a filter allows, all are compared.';
comment on column search_calibration.levels is 'For each share of chunks kept: ef_search and the factor of rows that reached the recall, the recall, and the milliseconds of both ways.';
comment on column search_calibration.chunks is 'How many chunks there were.';
comment on column search_calibration.measured_at is 'When.';

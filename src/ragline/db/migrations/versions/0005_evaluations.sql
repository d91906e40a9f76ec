-- search_path is "ragline, pg_temp". The role is ragline_owner where it exists.
-- json, not jsonb: what is kept comes back as it was, keys in their order and every character.

create table dataset (
    id integer generated always as identity primary key,
    name text not null
        constraint dataset_name_is_plain check (name ~ '^[^\W_][\w.-]{0,99}$'),
    hash text not null constraint dataset_hash_is_sha256 check (hash ~ '^[0-9a-f]{64}$'),
    format text not null constraint dataset_format_is_named check (format <> ''),
    extra json not null default '{}'
        constraint dataset_extra_is_object check (json_typeof(extra) = 'object'),
    imported_at timestamptz not null default now(),
    superseded_at timestamptz
);
create unique index one_current_dataset on dataset (name) where superseded_at is null;
comment on table dataset is 'A named set of cases to evaluate with. It never changes: another one takes its place, and runs keep the one they were made with.';
comment on column dataset.id is 'Key.';
comment on column dataset.name is 'What people call it: letters, digits, dot, dash, underscore.';
comment on column dataset.hash is 'SHA-256, in hex, of its questions, gold answers and judgements: runs are compared only where it is the same.';
comment on column dataset.format is 'The format it was read from.';
comment on column dataset.extra is 'What else its file held, so that it can be written again.';
comment on column dataset.imported_at is 'When it came in.';
comment on column dataset.superseded_at is 'When another one of the same name took its place; null for the current one.';

create table dataset_case (
    dataset_id integer not null references dataset on delete cascade,
    ordinal integer not null constraint case_ordinal_counts_from_zero check (ordinal >= 0),
    case_id text not null
        constraint case_id_fits_its_index check (octet_length(case_id) between 1 and 2000),
    has_answer boolean not null,
    has_relevant boolean not null,
    is_answerable boolean not null,
    body json not null constraint case_body_is_object check (json_typeof(body) = 'object'),
    primary key (dataset_id, ordinal),
    unique (dataset_id, case_id)
);
comment on table dataset_case is 'One question of a dataset with what a good search and a good answer would bring.';
comment on column dataset_case.dataset_id is 'The dataset.';
comment on column dataset_case.ordinal is 'Its place in the dataset, from 0.';
comment on column dataset_case.case_id is 'Its name, unique in the dataset.';
comment on column dataset_case.has_answer is 'Whether it has a gold answer.';
comment on column dataset_case.has_relevant is 'Whether it says which documents are relevant.';
comment on column dataset_case.is_answerable is 'False: the right thing is to decline.';
comment on column dataset_case.body is 'The case as a JSON object: question, answers, relevant documents, and what came with it.';

create table run (
    id integer generated always as identity primary key,
    name text not null unique
        constraint run_name_is_plain
        check (name ~ '^[^\W_][\w.-]{0,99}$' and name !~ '^[0-9]+$'),
    dataset_id integer not null references dataset,
    cases integer not null constraint run_has_cases check (cases > 0),
    state text not null default 'running'
        constraint run_state_is_known check (state in ('running', 'complete', 'partial')),
    owner text constraint run_owner_is_named check (owner <> ''),
    lease_until timestamptz,
    settings json not null
        constraint run_settings_are_object check (json_typeof(settings) = 'object'),
    judge_id text constraint run_judge_is_named check (judge_id <> ''),
    provenance json not null default '{}'
        constraint run_provenance_is_object check (json_typeof(provenance) = 'object'),
    metrics json not null default '{}'
        constraint run_metrics_are_object check (json_typeof(metrics) = 'object'),
    errors json not null default '{}'
        constraint run_errors_are_object check (json_typeof(errors) = 'object'),
    phases_ms json not null default '{}'
        constraint run_phases_are_object check (json_typeof(phases_ms) = 'object'),
    spent json not null default '{}'
        constraint run_spent_is_object check (json_typeof(spent) = 'object'),
    cache json not null default '{}'
        constraint run_cache_is_object check (json_typeof(cache) = 'object'),
    warnings json not null default '[]'
        constraint run_warnings_are_list check (json_typeof(warnings) = 'array'),
    seconds double precision not null default 0
        constraint run_seconds_are_finite check (seconds >= 0 and seconds < 'infinity'),
    started_at timestamptz not null default clock_timestamp(),
    closed_at timestamptz,
    unique (id, state),
    constraint running_is_owned
        check ((state = 'running') = (owner is not null) and (owner is null) = (lease_until is null)),
    constraint running_is_open check ((state = 'running') = (closed_at is null))
);
create index run_by_dataset on run (dataset_id);
comment on table run is 'One evaluation of a dataset. Once complete it never changes; it can only be removed as a whole.';
comment on column run.id is 'Key.';
comment on column run.name is 'What people call it; the dataset''s name and the key where they gave none. Never only digits.';
comment on column run.dataset_id is 'The dataset, as it was when the run began.';
comment on column run.cases is 'How many cases the dataset has.';
comment on column run.state is 'running, complete (every case is there without an error) or partial.';
comment on column run.owner is 'The process that works on it, until lease_until; one at a time.';
comment on column run.lease_until is 'When another process may go on with it, unless the owner says before that it is still there.';
comment on column run.settings is 'What is measured.';
comment on column run.judge_id is 'Who judged the answers; null without a judge.';
comment on column run.provenance is 'What it was measured on: epochs and spaces, server, code, models, prompt.';
comment on column run.metrics is 'Each metric''s value, how many cases have it, and how many lack it by an error.';
comment on column run.errors is 'How many errors, by phase and class.';
comment on column run.phases_ms is 'Milliseconds by phase, summed over the cases.';
comment on column run.spent is 'What the models took.';
comment on column run.cache is 'The verdict cache: hits, misses, bytes.';
comment on column run.warnings is 'What to know when reading it.';
comment on column run.seconds is 'How long it took.';
comment on column run.started_at is 'When it began.';
comment on column run.closed_at is 'When it ended; null while it runs.';

create table run_case (
    run_id integer not null references run on delete cascade,
    ordinal integer not null,
    case_id text not null,
    hits json not null default '[]'
        constraint case_hits_are_list check (json_typeof(hits) = 'array'),
    contexts json not null default '[]'
        constraint case_contexts_are_list check (json_typeof(contexts) = 'array'),
    answer text,
    found boolean,
    labels json constraint case_labels_are_object check (json_typeof(labels) = 'object'),
    metrics json not null default '{}'
        constraint case_metrics_are_object check (json_typeof(metrics) = 'object'),
    errors json not null default '[]'
        constraint case_errors_are_list check (json_typeof(errors) = 'array'),
    warnings json not null default '[]'
        constraint case_warnings_are_list check (json_typeof(warnings) = 'array'),
    phases_ms json not null default '{}'
        constraint case_phases_are_object check (json_typeof(phases_ms) = 'object'),
    total_ms double precision not null default 0
        constraint case_time_is_finite check (total_ms >= 0 and total_ms < 'infinity'),
    spent json not null default '{}'
        constraint case_spent_is_object check (json_typeof(spent) = 'object'),
    reuse_key text
        constraint reuse_key_fits_its_index check (octet_length(reuse_key) between 1 and 2000),
    is_reused boolean not null default false,
    has_errors boolean not null generated always as (json_array_length(errors) > 0) stored,
    saved_at timestamptz not null default clock_timestamp(),
    primary key (run_id, ordinal)
);
create index run_case_by_reuse_key on run_case (reuse_key, saved_at)
    where not has_errors and reuse_key is not null;
comment on table run_case is 'What a run found for one case.';
comment on column run_case.run_id is 'The run.';
comment on column run_case.ordinal is 'The case''s place in the dataset.';
comment on column run_case.case_id is 'The case.';
comment on column run_case.hits is 'The chunks that the search found, in their order: collection, id, source, hash, score.';
comment on column run_case.contexts is 'The texts that the answer was made from and judged against.';
comment on column run_case.answer is 'The answer, where one was made.';
comment on column run_case.found is 'Whether an answer was found; null where none was asked for.';
comment on column run_case.labels is 'The claims, and what a judge said of each; null without a judge.';
comment on column run_case.metrics is 'What was measured. What was not is absent, and errors say why.';
comment on column run_case.errors is 'What went wrong: phase, class, message.';
comment on column run_case.warnings is 'What to know when reading it.';
comment on column run_case.phases_ms is 'Milliseconds by phase; they sum up to total_ms.';
comment on column run_case.total_ms is 'How long the case took.';
comment on column run_case.spent is 'What the models took; null is unknown.';
comment on column run_case.reuse_key is 'Names everything that answer and labels depend on: a later case with the same key takes them from here.';
comment on column run_case.is_reused is 'Whether answer and labels were taken from an earlier run.';
comment on column run_case.has_errors is 'Whether anything went wrong.';
comment on column run_case.saved_at is 'When it was written.';

create table baseline (
    id integer generated always as identity primary key,
    dataset text not null,
    name text not null
        constraint baseline_name_is_plain check (name ~ '^[^\W_][\w.-]{0,99}$'),
    run_id integer not null,
    run_state text not null default 'complete'
        constraint baseline_is_a_complete_run check (run_state = 'complete'),
    note text,
    set_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    constraint baseline_ends_after_it_began check (ended_at >= set_at),
    constraint baseline_run_is_complete
        foreign key (run_id, run_state) references run (id, state) on delete cascade
);
create unique index one_current_baseline on baseline (dataset, name) where ended_at is null;
create index baseline_by_run on baseline (run_id);
comment on table baseline is 'Runs that others are compared with, and which were before. Only complete runs.';
comment on column baseline.id is 'Key.';
comment on column baseline.dataset is 'Name of the run''s dataset.';
comment on column baseline.name is 'What people call the baseline; one is current for each dataset and name.';
comment on column baseline.run_id is 'The run.';
comment on column baseline.run_state is 'Always complete: a foreign key keeps it true.';
comment on column baseline.note is 'Why, in the words of who set it.';
comment on column baseline.set_at is 'Since when.';
comment on column baseline.ended_at is 'Until when; null for the current one.';

create table verdict (
    key bytea primary key constraint verdict_key_is_sha256 check (octet_length(key) = 32),
    judge_id text not null constraint verdict_judge_is_named check (judge_id <> ''),
    reply text not null,
    checksum bytea not null,
    bytes integer not null generated always as (
        octet_length(reply) + octet_length(judge_id) + 64
    ) stored,
    made_at timestamptz not null default clock_timestamp(),
    used_at timestamptz not null default clock_timestamp(),
    hits bigint not null default 0 constraint verdict_hits_are_counted check (hits >= 0),
    constraint verdict_checksum_fits check (checksum = sha256(key || convert_to(reply, 'UTF8')))
);
comment on table verdict is 'What a judge replied, so that the same question is not asked again. The evaluation''s own cache: no other workload may read or write it.';
comment on column verdict.key is 'SHA-256 of the judge''s id, a zero byte and the whole prompt.';
comment on column verdict.judge_id is 'The judge: its model and the hash of its prompts.';
comment on column verdict.reply is 'The reply.';
comment on column verdict.checksum is 'SHA-256 of key and reply: a reply that no longer fits is never used.';
comment on column verdict.bytes is 'Bytes of reply, judge_id, key and checksum.';
comment on column verdict.made_at is 'When it was written.';
comment on column verdict.used_at is 'When it was last used; the oldest go first when there are too many.';
comment on column verdict.hits is 'How often it was used.';

create table noise (
    dataset_id integer not null references dataset on delete cascade,
    settings_hash text not null constraint noise_settings_are_known check (settings_hash <> ''),
    metric text not null constraint noise_metric_is_named check (metric <> ''),
    half_width double precision not null
        constraint noise_is_finite check (half_width >= 0 and half_width < 'infinity'),
    n integer not null constraint noise_has_cases check (n > 0),
    runs integer not null constraint noise_needs_two_runs check (runs >= 2),
    measured_at timestamptz not null default now(),
    primary key (dataset_id, settings_hash, metric)
);
comment on table noise is 'How far a metric moves between runs of the same dataset and settings when nothing has changed.';
comment on column noise.dataset_id is 'The dataset.';
comment on column noise.settings_hash is 'Hash of the settings of the runs.';
comment on column noise.metric is 'The metric.';
comment on column noise.half_width is 'Half of the interval in which the differences lie, in units of the metric.';
comment on column noise.n is 'How many cases had the metric.';
comment on column noise.runs is 'How many runs were compared.';
comment on column noise.measured_at is 'When.';

-- A dataset is what runs were measured with: its row and its cases stay as they were imported.
create function refuse_other_dataset() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'dataset % never changes', old.name
        using errcode = 'restrict_violation', hint = 'import it again: the new one takes its place';
end
$$;
create trigger dataset_never_changes
    before update of id, name, hash, format, extra, imported_at on dataset
    for each row execute function refuse_other_dataset();

create function refuse_other_case() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'the cases of a dataset never change'
        using errcode = 'restrict_violation', hint = 'import it again: the new one takes its place';
end
$$;
create trigger case_never_changes before update on dataset_case
    for each row execute function refuse_other_case();

create function keep_cases_of_runs() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    run_name text;
begin
    -- Against the key share lock that a new run takes: one of the two comes first.
    perform from ragline.dataset
    where id in (select dataset_id from changed_case) order by id for update;
    select r.name into run_name
    from ragline.run r where r.dataset_id in (select dataset_id from changed_case) limit 1;
    if found then
        raise exception 'run % was made with these cases: they never change', run_name
            using errcode = 'restrict_violation';
    end if;
    return null;
end
$$;
create trigger cases_of_runs_get_no_more after insert on dataset_case
    referencing new table as changed_case
    for each statement execute function keep_cases_of_runs();
create trigger cases_of_runs_stay after delete on dataset_case
    referencing old table as changed_case
    for each statement execute function keep_cases_of_runs();

create function begin_run() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if new.state <> 'running' then
        raise exception 'a run begins as running, not as %', new.state
            using errcode = 'check_violation';
    end if;
    select coalesce(new.name, left(d.name, 80) || '-' || new.id) into new.name
    from ragline.dataset d where d.id = new.dataset_id for key share;
    if not found then
        raise exception 'there is no dataset %', new.dataset_id
            using errcode = 'foreign_key_violation';
    end if;
    new.cases := (select count(*) from ragline.dataset_case where dataset_id = new.dataset_id);
    return new;
end
$$;
create trigger run_begins before insert on run
    for each row execute function begin_run();

create function keep_run() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    measured bigint;
begin
    if old.state = 'complete' then
        raise exception 'run % is complete and never changes', old.name
            using errcode = 'restrict_violation';
    end if;
    if (new.id, new.name, new.dataset_id, new.cases, new.judge_id, new.started_at,
        new.settings::text, new.provenance::text)
        is distinct from
       (old.id, old.name, old.dataset_id, old.cases, old.judge_id, old.started_at,
        old.settings::text, old.provenance::text)
    then
        raise exception 'run % keeps what it was begun with', old.name
            using errcode = 'restrict_violation';
    end if;
    if new.state = 'complete' then
        -- The row is locked by now, and who writes a case shares that lock: none comes in between.
        select count(*) into measured
        from ragline.run_case where run_id = new.id and not has_errors;
        if measured <> new.cases then
            raise exception 'run % is not complete: % of % cases are there without an error',
                new.name, measured, new.cases using errcode = 'check_violation';
        end if;
    end if;
    return new;
end
$$;
create trigger run_keeps_its_promises before update on run
    for each row execute function keep_run();

create function keep_baseline_of_run() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    kept record;
begin
    select b.name, b.dataset into kept
    from ragline.baseline b where b.run_id = old.id and b.ended_at is null limit 1;
    if found then
        raise exception 'run % is the current baseline % of dataset %',
            old.name, kept.name, kept.dataset
            using errcode = 'restrict_violation', hint = 'set the baseline to another run first';
    end if;
    return old;
end
$$;
create trigger current_baseline_stays before delete on run
    for each row execute function keep_baseline_of_run();

create function keep_case_results() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    of_run record;
begin
    select r.name, r.state, r.dataset_id into of_run
    from ragline.run r
    where r.id = case when tg_op = 'DELETE' then old.run_id else new.run_id end
    for share;
    -- Not found: the whole run is being removed; of a new row the foreign key says what is wrong.
    if found and of_run.state = 'complete' then
        raise exception 'run % is complete: its cases never change', of_run.name
            using errcode = 'restrict_violation';
    end if;
    if tg_op = 'DELETE' then
        return old;
    end if;
    if of_run.name is null then
        return new;
    end if;
    if tg_op = 'UPDATE' and (new.run_id, new.ordinal) <> (old.run_id, old.ordinal) then
        raise exception 'a case of run % stays in its place', of_run.name
            using errcode = 'restrict_violation';
    end if;
    if not exists (
        select from ragline.dataset_case c
        where c.dataset_id = of_run.dataset_id
          and c.ordinal = new.ordinal and c.case_id = new.case_id
    ) then
        raise exception 'case % (%) is not in the dataset of run %',
            new.ordinal, new.case_id, of_run.name using errcode = 'foreign_key_violation';
    end if;
    return new;
end
$$;
create trigger case_results_are_kept before insert or update or delete on run_case
    for each row execute function keep_case_results();

create function set_baseline() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    select d.name into new.dataset
    from ragline.run r join ragline.dataset d on d.id = r.dataset_id where r.id = new.run_id;
    if not found then
        raise exception 'there is no run %', new.run_id using errcode = 'foreign_key_violation';
    end if;
    update ragline.baseline set ended_at = greatest(set_at, clock_timestamp())
    where dataset = new.dataset and name = new.name and ended_at is null;
    return new;
end
$$;
create trigger baseline_ends_the_former before insert on baseline
    for each row execute function set_baseline();

create function keep_baselines() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if old.ended_at is not null
        or (new.id, new.dataset, new.name, new.run_id, new.run_state, new.note, new.set_at)
            is distinct from
           (old.id, old.dataset, old.name, old.run_id, old.run_state, old.note, old.set_at)
    then
        raise exception 'baseline % of dataset % is history and never changes',
            old.name, old.dataset using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;
create trigger baseline_is_history before update on baseline
    for each row execute function keep_baselines();

revoke execute on function
    refuse_other_dataset(), refuse_other_case(), keep_cases_of_runs(), begin_run(), keep_run(),
    keep_baseline_of_run(), keep_case_results(), set_baseline(), keep_baselines()
from public;

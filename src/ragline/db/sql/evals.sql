-- datasets --
-- the current ones, or the one of a name
select d.id, d.name, d.hash, d.format, d.extra, d.imported_at, count(c.dataset_id) as cases,
       count(*) filter (where c.has_answer) as with_answer,
       count(*) filter (where c.has_relevant) as with_relevant,
       count(*) filter (where not c.is_answerable) as unanswerable
from dataset d
left join dataset_case c on c.dataset_id = d.id
where d.superseded_at is null and ($1::text is null or d.name = $1)
group by d.id
order by d.name

-- dataset_of_run --
select d.id, d.name, d.hash, d.format, d.extra, d.imported_at, count(c.dataset_id) as cases,
       count(*) filter (where c.has_answer) as with_answer,
       count(*) filter (where c.has_relevant) as with_relevant,
       count(*) filter (where not c.is_answerable) as unanswerable
from run r
join dataset d on d.id = r.dataset_id
left join dataset_case c on c.dataset_id = d.id
where r.id = $1
group by d.id

-- dataset_cases --
select body from dataset_case where dataset_id = $1 order by ordinal

-- current_dataset --
select id, hash from dataset where name = $1 and superseded_at is null for update

-- runs_of_dataset --
select r.name
from run r
join dataset d on d.id = r.dataset_id
where d.name = $1
order by r.id desc

-- supersede_dataset --
-- clock_timestamp: two imports may follow each other in one transaction
update dataset set superseded_at = clock_timestamp() where id = $1

-- add_dataset --
insert into dataset (name, hash, format, extra) values ($1, $2, $3, $4) returning id

-- remove_dataset --
delete from dataset where name = $1 and superseded_at is null returning id

-- remove_unused_dataset --
-- one that only waited for its runs to be removed, or (given $2) that another takes the place of
delete from dataset d
where d.id = $1 and (d.superseded_at is not null or $2)
  and not exists (select from run r where r.dataset_id = d.id)
returning d.id

-- add_run --
-- trigger begin_run() counts the cases and makes up a name
insert into run (name, dataset_id, settings, judge_id, provenance, owner, lease_until)
values ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7::interval)
returning id, name, cases

-- claim_run --
update run
set state = 'running', owner = $2, lease_until = clock_timestamp() + $3::interval, closed_at = null
where id = $1 and state <> 'complete'
  and (owner is null or owner = $2 or lease_until < clock_timestamp())
returning id

-- renew_run --
update run set lease_until = clock_timestamp() + $3::interval
where id = $1 and owner = $2
returning id

-- run_holder --
select name, state, owner, lease_until, lease_until < clock_timestamp() as is_over
from run where id = $1

-- save_cases --
-- The run first: its row orders who writes. Nobody waits for the disk: cases that a crash of the server
-- takes are measured again, and the commit that closes the run waits for all of them.
with renewed as (
    update run set lease_until = clock_timestamp() + $3::interval
    where id = $1 and owner = $2 and set_config('synchronous_commit', 'off', true) is not null
    returning id
)
insert into run_case (
    run_id, ordinal, case_id, hits, contexts, answer, found, labels, metrics, errors, warnings,
    phases_ms, total_ms, spent, reuse_key, is_reused
)
select r.id, c.*
from renewed r
cross join unnest(
    $4::int[], $5::text[], $6::json[], $7::json[], $8::text[], $9::boolean[], $10::json[],
    $11::json[], $12::json[], $13::json[], $14::json[], $15::double precision[], $16::json[],
    $17::text[], $18::boolean[]
) as c
on conflict (run_id, ordinal) do update set
    hits = excluded.hits, contexts = excluded.contexts,
    answer = excluded.answer, found = excluded.found, labels = excluded.labels,
    metrics = excluded.metrics, errors = excluded.errors, warnings = excluded.warnings,
    phases_ms = excluded.phases_ms, total_ms = excluded.total_ms, spent = excluded.spent,
    reuse_key = excluded.reuse_key, is_reused = excluded.is_reused, saved_at = clock_timestamp()
returning ordinal

-- close_run --
update run set
    state = $3, owner = null, lease_until = null, closed_at = clock_timestamp(),
    metrics = $4, errors = $5, phases_ms = $6, spent = $7, cache = $8, warnings = $9, seconds = $10
where id = $1 and owner = $2
returning id

-- runs --
-- by key, by name, of a dataset, or all; one whose owner is gone is not running any more
select r.id, r.name, d.name as dataset, d.hash as dataset_hash,
       case when r.lease_until < clock_timestamp() then 'partial' else r.state end as state,
       r.settings, r.judge_id, r.provenance, r.cases, r.metrics, r.errors, r.phases_ms, r.spent,
       r.cache, r.warnings, r.seconds, r.started_at, counted.*
from (
    select i.id
    from run i
    join dataset of on of.id = i.dataset_id
    where ($1::int is null or i.id = $1) and ($2::text is null or i.name = $2)
      and ($3::text is null or of.name = $3)
    order by i.id desc
    limit $4
) as wanted
join run r on r.id = wanted.id
join dataset d on d.id = r.dataset_id
cross join lateral (
    select count(*) as done, count(*) filter (where has_errors) as failed,
           count(*) filter (where is_reused) as reused
    from run_case where run_id = r.id
) as counted
order by r.id desc

-- case_results --
select ordinal, case_id, hits, contexts, answer, found, labels, metrics, errors, warnings,
       phases_ms, total_ms, spent, reuse_key, is_reused
from run_case where run_id = $1 order by ordinal

-- remove_run --
delete from run where id = $1 and (owner is null or lease_until < clock_timestamp())
returning dataset_id

-- reusable --
-- an index scan for each key, which stops at the newest
select c.ordinal, c.case_id, c.hits, c.contexts, c.answer, c.found, c.labels, c.metrics, c.errors,
       c.warnings, c.phases_ms, c.total_ms, c.spent, c.reuse_key, c.is_reused
from unnest($1::text[]) as wanted (reuse_key)
cross join lateral (
    select * from run_case
    where reuse_key = wanted.reuse_key and not has_errors and reuse_key is not null
    order by saved_at desc
    limit 1
) as c

-- add_baseline --
-- trigger set_baseline() fills in the dataset and ends the former one
insert into baseline (name, run_id, note) values ($1, $2, $3)
returning id

-- baselines --
select b.id, b.name, b.dataset, b.run_id, r.name as run, b.note, b.set_at, b.ended_at
from baseline b
join run r on r.id = b.run_id
where ($1::text is null or b.dataset = $1) and ($2::int is null or b.id = $2)
order by b.set_at desc, b.id desc

-- current_baseline --
select run_id from baseline where name = $1 and dataset = $2 and ended_at is null

-- forget_noise --
delete from noise where dataset_id = $1 and settings_hash = $2

-- add_noise --
insert into noise (dataset_id, settings_hash, metric, half_width, n, runs)
select $1, $2, m.metric, m.half_width, m.n, $6
from unnest($3::text[], $4::double precision[], $5::int[]) as m (metric, half_width, n)

-- noise --
select metric, half_width, n, runs, measured_at
from noise where dataset_id = $1 and settings_hash = $2 order by metric

-- verdicts --
select key, reply, checksum from verdict where key = any ($1::bytea[])

-- touch_verdicts --
-- sorted, like put_verdicts: two that meet queue, but never in a circle
with used as (
    select key from verdict where key = any ($1::bytea[]) order by key for no key update
)
update verdict v set used_at = clock_timestamp(), hits = v.hits + 1
from used where v.key = used.key

-- put_verdicts --
insert into verdict (key, judge_id, reply, checksum)
select n.key, $1, n.reply, n.checksum
from unnest($2::bytea[], $3::text[], $4::bytea[]) as n (key, reply, checksum)
order by n.key
on conflict (key) do update set
    judge_id = excluded.judge_id, reply = excluded.reply, checksum = excluded.checksum,
    made_at = excluded.made_at, used_at = excluded.used_at

-- verdict_facts --
select count(*) as entries, coalesce(sum(bytes), 0)::bigint as bytes,
       coalesce(sum(hits), 0)::bigint as hits, min(made_at) as oldest, max(used_at) as newest_use
from verdict

-- evict_verdicts --
-- By ctid, four times quicker than by key: rows that are locked here cannot move. Skip locked: what
-- another uses right now is not old.
with newest_first as (
    select used_at, key, sum(bytes) over (order by used_at desc, key desc) as kept from verdict
    -- nothing is sorted as long as all of it fits
    where (select sum(bytes) from verdict) > $1
), first_gone as (
    select used_at, key from newest_first where kept > $1 order by used_at desc, key desc limit 1
)
delete from verdict where ctid = any (array(
    select v.ctid from verdict v
    where (v.used_at, v.key) <= (select used_at, key from first_gone)
    for update skip locked
))

-- damaged_verdicts --
-- of a range of keys: all at once would take longer than a statement may
select key from verdict
where key >= $1 and ($2::bytea is null or key < $2)
  and checksum <> sha256(key || convert_to(reply, 'UTF8'))
order by key

-- clear_verdicts --
-- sorted, like the others that wait for rows; by key, which a row keeps when another has moved it
with gone as (
    select key from verdict where $1::text is null or judge_id = $1 order by key for update
)
delete from verdict v using gone where v.key = gone.key

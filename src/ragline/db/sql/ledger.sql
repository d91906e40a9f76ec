-- add_change --
insert into change (
    title, parts, plan, plan_hash, asked, is_cluster_wide, undoes, keep_for, expires_at
) values (
    $1, $2, $3, $4, $5, $6, $7, $8::float8 * interval '1 second',
    clock_timestamp() + $9::float8 * interval '1 second'
)
returning id

-- add_put_back --
-- what the journal knew of and the ledger did not, because a backup was restored
insert into change (
    key, title, parts, plan, plan_hash, is_cluster_wide, state, snapshot, reason, undo_ms,
    expires_at, opened_at, closed_at
) values (
    $1, $2, $3, $4, $5, $6, 'undone', $7, $8, $9, clock_timestamp(), $10, clock_timestamp()
)
returning id

-- one_change --
select c.*, extract(epoch from c.keep_for)::float8 as keep_for_s,
       (select u.id from change u where u.undoes = c.id and u.state = 'kept'
        order by u.id desc limit 1) as undone_by
from change c where c.id = $1

-- change_by_key --
select c.*, extract(epoch from c.keep_for)::float8 as keep_for_s,
       (select u.id from change u where u.undoes = c.id and u.state = 'kept'
        order by u.id desc limit 1) as undone_by
from change c where c.key = $1

-- changes --
select c.*, extract(epoch from c.keep_for)::float8 as keep_for_s,
       (select u.id from change u where u.undoes = c.id and u.state = 'kept'
        order by u.id desc limit 1) as undone_by
from change c order by c.id desc limit $1

-- unsettled_changes --
select c.*, extract(epoch from c.keep_for)::float8 as keep_for_s, null::bigint as undone_by,
       coalesce(c.restarting_until > clock_timestamp(), false) as is_restarting
from change c
where c.closed_at is null and c.state <> 'planned'
order by c.id

-- changes_to_retire --
select c.*, extract(epoch from c.keep_for)::float8 as keep_for_s, null::bigint as undone_by
from change c
where c.retire_at <= clock_timestamp() and c.closed_at is not null
order by c.id

-- move_change --
update change set
    state = $2,
    reason = $3,
    snapshot = coalesce($4::jsonb, snapshot),
    before = coalesce($5::jsonb, before),
    verdict = coalesce($6::jsonb, verdict),
    waits_for = $7,
    owner = $8,
    undo_ms = coalesce($9::float8, undo_ms),
    restarting_until = null,
    opened_at = case $2 when 'snapshotted' then clock_timestamp() else opened_at end,
    applied_at = case $2 when 'applied' then clock_timestamp() else applied_at end,
    closed_at = case when $2 in ('kept', 'undone', 'inconclusive') then clock_timestamp() end,
    retire_at = case when $2 = 'kept' then clock_timestamp() + keep_for else retire_at end
where id = $1
returning id

-- expect_restart --
update change set restarting_until = clock_timestamp() + $2::float8 * interval '1 second'
where id = $1

-- retire --
update change set retire_at = clock_timestamp() where id = $1

-- retained_changes --
-- what these replaced is still there, so that taking them back is immediate
select c.*, extract(epoch from c.keep_for)::float8 as keep_for_s, null::bigint as undone_by
from change c
where c.retire_at > clock_timestamp() and c.state = 'kept'
order by c.id desc

-- retired --
update change set retire_at = null where id = $1

-- same_target_since --
-- a later change of the same thing decides what lies beside it
select max(c.id) from change c, jsonb_array_elements(c.parts) as p
where c.id > $1 and c.state = 'kept' and p ->> 'kind' = $2 and p ->> 'target' = $3

-- remove_old_plans --
delete from change where state = 'planned' and expires_at < clock_timestamp() - interval '1 day'

-- begin_step --
insert into change_step (change_id, ordinal, direction, phase, text)
select $1, coalesce(max(ordinal), 0) + 1, $2, $3, $4 from change_step where change_id = $1
returning ordinal

-- end_step --
update change_step set ended_at = case when $3::text is null then clock_timestamp() end, error = $3
where change_id = $1 and ordinal = $2

-- steps_of_change --
select ordinal, direction, phase, text, started_at, ended_at, error
from change_step where change_id = $1 order by ordinal

-- history_of_change --
select at, state, reason, by_user from change_history where change_id = $1 order by ordinal

-- other_way --
-- when the open change, or the one that it takes back, began the step whose text begins so
-- its own transactions come after the last row written before it, and before that of its end
select s.started_at, o.plan, case when s.ended_at is not null then s.xmin::text end as until,
       (
           select b.transaction::text
           from (
               select xmin, at from change_history h where h.change_id = o.id
               union all
               select xmin, ended_at from change_step e where e.change_id = o.id
           ) b (transaction, at)
           where b.at <= s.started_at
           order by age(b.transaction)
           limit 1
       ) as after
from change c
join change o on o.id in (c.id, c.undoes)
join change_step s on s.change_id = o.id
where c.closed_at is null
  and c.state in ('applying', 'applied', 'measuring', 'keeping', 'undoing', 'failed')
  and starts_with(s.text, $1)
order by s.started_at
limit 1

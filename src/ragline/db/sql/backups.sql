-- add --
insert into ragline.backup (name, tables, path, size_bytes, sha256, contents, server_version)
values ($1, $2::jsonb, $3, $4, $5, $6::jsonb, $7)
returning id

-- one --
select id, name, tables, path, size_bytes, sha256, contents, server_version, created_at, by_user,
       verified_at, verification
from ragline.backup where id::text = $1 or name = $1

-- every --
select id, name, tables, path, size_bytes, sha256, contents, server_version, created_at, by_user,
       verified_at, verification
from ragline.backup order by id desc limit $1

-- verified --
update ragline.backup
set verified_at = case when $2::jsonb is null then null else clock_timestamp() end,
    verification = $2::jsonb
where id = $1

-- remove --
delete from ragline.backup where id = $1

-- relied_on_by --
-- changes that can still be taken back, or are not settled, and whose steps name the backup
select c.id
from ragline.change c
where c.state <> 'planned' and (c.closed_at is null or c.state = 'kept')
  and not exists (select from ragline.change u where u.undoes = c.id and u.state = 'kept')
  and exists (
      select from jsonb_path_query(c.plan, '$.steps[*].arguments.backups.*') used (backup)
      where used.backup = to_jsonb($1::bigint)
  )
order by c.id

-- name_taken --
select exists (select from ragline.backup where name = $1)

-- relations --
select c.oid::bigint as oid, n.nspname::text as schema, c.relname::text as name,
       c.relkind::text as kind, c.relispartition as is_partition,
       pg_catalog.pg_table_size(c.oid) as bytes,
       (select inhparent::bigint from pg_catalog.pg_inherits
        where inhrelid = c.oid and c.relispartition) as parent,
       (select array_agg(a.attname::text order by a.attname::text collate "C")
        from pg_catalog.pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'f', 'v', 'm') and n.nspname !~ '^pg_'
  and n.nspname <> 'information_schema'
  and not (n.nspname = 'ragline' and c.relname ~ '^trial_[0-9]+$')  -- while a tuning runs
order by 2, 3

-- columns --
select a.attname::text as name, pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
       a.attnotnull as is_required, a.attgenerated <> '' as is_generated,
       a.attidentity <> '' as is_identity
from pg_catalog.pg_attribute a
where a.attrelid = $1::oid and a.attnum > 0 and not a.attisdropped
order by a.attnum

-- key --
-- the primary key, else a unique index that holds for every row
select array_agg(a.attname::text order by k.position) as columns
from pg_catalog.pg_index i
cross join lateral pg_catalog.unnest(i.indkey::smallint[]) with ordinality k (number, position)
join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
where i.indrelid = $1::oid and i.indisunique and i.indisvalid and i.indpred is null
  and i.indexprs is null and k.position <= i.indnkeyatts
group by i.indexrelid, i.indisprimary
having bool_and(a.attnotnull and a.attgenerated = '')
order by i.indisprimary desc, i.indexrelid
limit 1

-- triggers --
-- of a table and its partitions; what those have from the table goes with it
select t.tgname::text as name, t.tgenabled::text as state, n.nspname::text as schema,
       c.relname::text as table
from pg_catalog.pg_trigger t
join pg_catalog.pg_class c on c.oid = t.tgrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where t.tgrelid = any ($1::bigint[]::oid[]) and not t.tgisinternal and t.tgenabled <> 'D'
  and t.tgparentid = 0
order by 3, 4, 1

-- references --
select c.conrelid::bigint as child, c.confrelid::bigint as parent, c.confdeltype::text as on_delete,
       c.confupdtype::text as on_update,
       exists (select from pg_catalog.pg_index i
               where i.indexrelid = c.conindid and i.indisprimary) as is_of_key,
       c.conrelid::regclass::text as child_name, c.conname::text as name,
       c.condeferrable as may_wait
from pg_catalog.pg_constraint c where c.contype = 'f' and c.conrelid <> c.confrelid

-- scratch_databases --
select d.datname::text as name
from pg_catalog.pg_database d
where d.datname like $1
order by 1

-- this_database --
select d.oid::bigint as oid,
       (select system_identifier::text from pg_catalog.pg_control_system()) as cluster,
       pg_catalog.pg_encoding_to_char(d.encoding) as encoding, d.datcollate::text
       as collate, d.datctype::text as ctype,
       (select rolcreatedb or rolsuper from pg_catalog.pg_roles where rolname = current_user)
       as may_create,
       current_setting('server_version_num')::int / 10000 as major,
       current_setting('server_version') as version,
       pg_catalog.pg_is_in_recovery() as is_replica,
       case when pg_catalog.pg_has_role('pg_read_all_settings', 'usage')
            then current_setting('data_directory') end as folder,
       pg_catalog.pg_postmaster_start_time() as started
from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()

-- What a snapshot holds. Sessions that ask look nowhere but in pg_catalog, so that definitions name
-- their schemas.

-- settings --
select name, setting, unit, vartype, source, context, sourcefile, pending_restart, boot_val
from pg_catalog.pg_settings order by name

-- sees_all_settings --
select pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'usage')

-- own_settings --
-- of this database and of every database; those of others are no matter of ours
select r.rolname::text as role, d.setdatabase <> 0 as is_here,
       pg_catalog.split_part(s.entry, '=', 1) as name,
       pg_catalog.substr(s.entry, pg_catalog.strpos(s.entry, '=') + 1) as value
from pg_catalog.pg_db_role_setting d
left join pg_catalog.pg_roles r on r.oid = d.setrole
cross join lateral pg_catalog.unnest(d.setconfig) as s (entry)
where d.setdatabase in (
    0, (select oid from pg_catalog.pg_database where datname = current_database())
)
order by 1, 2, 3

-- connection_limits --
select rolname::text as role, rolconnlimit as value
from pg_catalog.pg_roles where rolname !~ '^pg_' order by 1

-- extensions --
select e.extname::text as name, e.extversion as version, n.nspname::text as schema
from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
order by 1

-- server_version --
select current_setting('server_version') as version, pg_catalog.version() as build

-- relations --
with own as (
    select c.*, n.nspname
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      and not exists (
          select from pg_catalog.pg_depend d
          where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid
            and d.deptype = 'e'
      )
)
select c.nspname || '.' || c.relname as name,
       case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
           when 'f' then 'foreign table' when 'S' then 'sequence' else 'table' end as kind,
       pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat_ws(E'\n',
           c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.reloptions::text,
           pg_catalog.pg_get_userbyid(c.relowner), pg_catalog.pg_get_expr(c.relpartbound, c.oid),
           (select string_agg(a::text, ',' order by a::text collate "C")
            from pg_catalog.unnest(c.relacl) a),
           (select string_agg(pg_catalog.concat_ws(' ', a.attname,
                       pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                       a.attgenerated, a.attcollation::regcollation,
                       pg_catalog.pg_get_expr(f.adbin, f.adrelid)), ',' order by a.attnum)
            from pg_catalog.pg_attribute a
            left join pg_catalog.pg_attrdef f on f.adrelid = a.attrelid and f.adnum = a.attnum
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
           (select string_agg(o.conname || ' ' || o.convalidated || ' '
                       || pg_catalog.pg_get_constraintdef(o.oid), ',' order by o.conname)
            from pg_catalog.pg_constraint o where o.conrelid = c.oid),
           (select string_agg(t.tgenabled::text || pg_catalog.pg_get_triggerdef(t.oid), ','
                       order by t.tgname)
            from pg_catalog.pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal),
           (select string_agg(pg_catalog.concat_ws(' ', p.polname, p.polcmd, p.polpermissive,
                       p.polroles::regrole[], pg_catalog.pg_get_expr(p.polqual, c.oid), '|',
                       pg_catalog.pg_get_expr(p.polwithcheck, c.oid)), ',' order by p.polname)
            from pg_catalog.pg_policy p where p.polrelid = c.oid),
           case when c.relkind in ('v', 'm') then pg_catalog.pg_get_viewdef(c.oid) end,
           (select pg_catalog.concat_ws(' ', s.seqtypid::regtype, s.seqstart, s.seqincrement,
                       s.seqmax, s.seqmin, s.seqcache, s.seqcycle)
            from pg_catalog.pg_sequence s where s.seqrelid = c.oid)
       ), 'UTF8')), 'hex') as hash
from own c order by 1

-- indexes --
select n.nspname || '.' || c.relname as name, i.indrelid::regclass::text as table,
       pg_catalog.pg_get_indexdef(c.oid) as definition, i.indisvalid as is_valid
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indexrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by 1

-- functions --
select n.nspname || '.' || p.proname || '('
           || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')' as name,
       pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat_ws(E'\n',
           pg_catalog.pg_get_functiondef(p.oid), pg_catalog.pg_get_userbyid(p.proowner),
           (select string_agg(a::text, ',' order by a::text collate "C")
            from pg_catalog.unnest(p.proacl) a)
       ), 'UTF8')), 'hex') as hash
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and p.prokind <> 'a'
  and not exists (
      select from pg_catalog.pg_depend d
      where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
  )
order by 1

-- sizes --
select n.nspname || '.' || c.relname as name,
       case when c.relkind = 'i' then 'index' else 'table' end as kind,
       case when c.relkind = 'i' then pg_catalog.pg_relation_size(c.oid)
            else pg_catalog.pg_table_size(c.oid) end as bytes
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and c.relkind in ('r', 'm', 'i')
order by 1

-- content --
-- in 256 parts, so that no collection is held in memory as a whole; the rows of an attached table are
-- its application's, and not read
with hashed as (
    select collection_id,
           pg_catalog.sha256(
               pg_catalog.sha256(pg_catalog.convert_to(source, 'UTF8')) || content_hash
               || pg_catalog.convert_to(
                   pg_catalog.concat_ws(E'\n', recipe, title, metadata::text), 'UTF8')
           ) as hash
    from ragline.document
), parted as (
    select collection_id, pg_catalog.get_byte(hash, 0) as part, count(*) as documents,
           pg_catalog.sha256(string_agg(hash, ''::bytea order by hash)) as hash
    from hashed group by 1, 2
)
select c.name, c.epoch,
       case when a.collection_id is null then coalesce(sum(p.documents), 0)::bigint end as documents,
       case when a.collection_id is null then pg_catalog.encode(pg_catalog.sha256(
           coalesce(string_agg(p.hash, ''::bytea order by p.part), ''::bytea)), 'hex') end as hash
from ragline.collection c
left join parted p on p.collection_id = c.id
left join ragline.attached_table a on a.collection_id = c.id
group by c.id, c.name, c.epoch, a.collection_id order by c.name

-- data_directory --
select setting from pg_catalog.pg_settings where name = 'data_directory'

-- backend --
select pg_catalog.pg_backend_pid()

-- add --
insert into ragline.snapshot (name, note, contents) values ($1, $2, $3) returning id

-- one --
select id, name, note, taken_at, by_user, contents
from ragline.snapshot where id::text = $1 or name = $1

-- every --
select id, name, note, taken_at, by_user, pg_catalog.pg_column_size(contents) as bytes
from ragline.snapshot order by id desc limit $1

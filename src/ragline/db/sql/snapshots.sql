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
      and not (n.nspname = 'ragline' and c.relname ~ '^trial_[0-9]+$')  -- while a tuning runs
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
           c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
           c.reloptions::text, pg_catalog.pg_get_userbyid(c.relowner),
           pg_catalog.pg_get_expr(c.relpartbound, c.oid), pg_catalog.pg_get_partkeydef(c.oid),
           (select string_agg(h.inhparent::regclass::text, ',' order by h.inhseqno)
            from pg_catalog.pg_inherits h where h.inhrelid = c.oid),
           (select f.ftserver::text || f.ftoptions::text
            from pg_catalog.pg_foreign_table f where f.ftrelid = c.oid),
           (select string_agg(r.ev_enabled::text || pg_catalog.pg_get_ruledef(r.oid), ','
                       order by r.rulename)
            from pg_catalog.pg_rewrite r where r.ev_class = c.oid and r.rulename <> '_RETURN'),
           (select string_agg(a::text, ',' order by a::text collate "C")
            from pg_catalog.unnest(c.relacl) a),
           (select string_agg(pg_catalog.concat_ws(' ', a.attname,
                       pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                       a.attgenerated, a.attcollation::regcollation, a.attstorage,
                       nullif(a.attstattarget, -1), a.attoptions::text, a.attfdwoptions::text,
                       (select string_agg(b::text, ',' order by b::text collate "C")
                        from pg_catalog.unnest(a.attacl) b),
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
join pg_catalog.pg_class t on t.oid = i.indrelid
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and not (n.nspname = 'ragline' and t.relname ~ '^trial_[0-9]+$')
order by 1

-- functions --
select n.nspname || '.' || p.proname || '('
           || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')' as name,
       pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat_ws(E'\n',
           case when p.prokind = 'a' then (
                select pg_catalog.concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggcombinefn,
                    a.aggtranstype::regtype, a.agginitval, a.aggsortop::regoperator)
                from pg_catalog.pg_aggregate a where a.aggfnoid = p.oid)
                else pg_catalog.pg_get_functiondef(p.oid) end,
           pg_catalog.pg_get_userbyid(p.proowner),
           (select string_agg(a::text, ',' order by a::text collate "C")
            from pg_catalog.unnest(p.proacl) a)
       ), 'UTF8')), 'hex') as hash
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and not exists (
      select from pg_catalog.pg_depend d
      where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
  )
order by 1

-- objects --
-- what is neither a relation nor a function; of user mappings and subscriptions only what is no secret
with own (classid, objid, kind, name, said) as (
    select 'pg_catalog.pg_namespace'::regclass, n.oid, 'schema', n.nspname::text,
           pg_catalog.concat_ws(E'\n', pg_catalog.pg_get_userbyid(n.nspowner),
               (select string_agg(a::text, ',' order by a::text collate "C")
                from pg_catalog.unnest(n.nspacl) a))
    from pg_catalog.pg_namespace n
    where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    union all
    select 'pg_catalog.pg_type'::regclass, t.oid, case t.typtype when 'd' then 'domain' else 'type' end,
           n.nspname || '.' || t.typname,
           pg_catalog.concat_ws(E'\n', t.typtype, pg_catalog.pg_get_userbyid(t.typowner),
               (select string_agg(a::text, ',' order by a::text collate "C")
                from pg_catalog.unnest(t.typacl) a),
               pg_catalog.format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typnotnull,
               t.typdefault,
               (select string_agg(e.enumlabel, ',' order by e.enumsortorder)
                from pg_catalog.pg_enum e where e.enumtypid = t.oid),
               (select string_agg(o.conname || ' ' || pg_catalog.pg_get_constraintdef(o.oid), ','
                           order by o.conname)
                from pg_catalog.pg_constraint o where o.contypid = t.oid),
               (select r.rngsubtype::regtype from pg_catalog.pg_range r where r.rngtypid = t.oid),
               (select string_agg(a.attname || ' '
                           || pg_catalog.format_type(a.atttypid, a.atttypmod), ',' order by a.attnum)
                from pg_catalog.pg_attribute a
                where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped))
    from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
    left join pg_catalog.pg_class c on c.oid = t.typrelid
    where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and t.typtype in ('b', 'c', 'd', 'e', 'r')
      and (c.oid is null or c.relkind = 'c') and t.typcategory <> 'A'
    union all
    select 'pg_catalog.pg_foreign_server'::regclass, s.oid, 'foreign server', s.srvname::text,
           pg_catalog.concat_ws(E'\n', s.srvfdw, s.srvtype, s.srvversion, s.srvoptions::text,
               pg_catalog.pg_get_userbyid(s.srvowner),
               (select string_agg(a::text, ',' order by a::text collate "C")
                from pg_catalog.unnest(s.srvacl) a))
    from pg_catalog.pg_foreign_server s
    union all
    select 'pg_catalog.pg_user_mapping'::regclass, m.umid, 'user mapping',
           m.srvname || '.' || m.usename, ''
    from pg_catalog.pg_user_mappings m
    union all
    select 'pg_catalog.pg_publication'::regclass, p.oid, 'publication', p.pubname::text,
           pg_catalog.concat_ws(E'\n', p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete,
               p.pubtruncate, pg_catalog.pg_get_userbyid(p.pubowner),
               (select string_agg(r.prrelid::regclass::text, ',' order by r.prrelid::regclass::text)
                from pg_catalog.pg_publication_rel r where r.prpubid = p.oid))
    from pg_catalog.pg_publication p
    union all
    select 'pg_catalog.pg_subscription'::regclass, s.oid, 'subscription', s.subname::text,
           pg_catalog.concat_ws(E'\n', s.subenabled, s.subslotname, s.subpublications::text)
    from pg_catalog.pg_subscription s
    where s.subdbid = (select oid from pg_catalog.pg_database where datname = current_database())
    union all
    select 'pg_catalog.pg_event_trigger'::regclass, e.oid, 'event trigger', e.evtname::text,
           pg_catalog.concat_ws(E'\n', e.evtevent, e.evtfoid::regproc, e.evtenabled, e.evttags::text)
    from pg_catalog.pg_event_trigger e
    union all
    select 'pg_catalog.pg_statistic_ext'::regclass, s.oid, 'statistics',
           n.nspname || '.' || s.stxname, pg_catalog.pg_get_statisticsobjdef(s.oid)
    from pg_catalog.pg_statistic_ext s join pg_catalog.pg_namespace n on n.oid = s.stxnamespace
)
select o.name, o.kind,
       pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(o.said, 'UTF8')), 'hex') as hash
from own o
where not exists (
    select from pg_catalog.pg_depend d
    where d.classid = o.classid and d.objid = o.objid and d.deptype = 'e'
)
order by 2, 1

-- sizes --
select n.nspname || '.' || c.relname as name,
       case when c.relkind = 'i' then 'index' else 'table' end as kind,
       case when c.relkind = 'i' then pg_catalog.pg_relation_size(c.oid)
            else pg_catalog.pg_table_size(c.oid) end as bytes
from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and c.relkind in ('r', 'm', 'i')
  and not (n.nspname = 'ragline' and c.relname ~ '^trial_[0-9]+(_tried_[0-9])?$')
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

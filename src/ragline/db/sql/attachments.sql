-- tables_named --
-- whatever can be asked for under a name; what cannot be attached is said to be so
select c.oid::bigint as oid, n.nspname as schema, c.relname as name, c.relkind::text as kind,
       c.relpersistence::text as persistence, c.relrowsecurity as has_row_security,
       exists (select from pg_catalog.pg_inherits i where i.inhparent = c.oid) as has_children,
       pg_catalog.pg_get_userbyid(c.relowner) as owner,
       pg_catalog.has_schema_privilege(n.oid, 'usage')
           and pg_catalog.has_table_privilege(c.oid, 'select') as may_read
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relname = $2
  and ($1::text is null or n.nspname = $1)
  and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'
  and (n.nspname !~ '^pg_temp_' or n.oid = pg_catalog.pg_my_temp_schema()
       or $1::text is not null)
order by n.nspname <> 'public', n.nspname

-- table_names --
select n.nspname as schema, c.relname as name,
       exists (
           select from pg_catalog.pg_attribute a
           join pg_catalog.pg_type t on t.oid = a.atttypid
           where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
             and t.typname in ('vector', 'halfvec')
       ) as has_vectors
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and c.relpersistence <> 't'
  and n.nspname not in ('pg_catalog', 'information_schema', 'ragline')
order by 3 desc, 1, 2
limit 1000

-- columns --
select a.attname as name, pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
       t.typname as kind, a.attnotnull as is_not_null,
       case when t.typname in ('vector', 'halfvec') and a.atttypmod > 0 then a.atttypmod end
           as dimension,
       t.typcategory = 'S' as is_text, p.provolatile = 'i' as is_stable_text,
       case when a.attgenerated <> '' then pg_catalog.pg_get_expr(d.adbin, d.adrelid) end as made_by
from pg_catalog.pg_attribute a
join pg_catalog.pg_type t on t.oid = a.atttypid
join pg_catalog.pg_proc p on p.oid = t.typoutput
left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = $1::bigint::oid and a.attnum > 0 and not a.attisdropped
order by a.attnum

-- keys --
select array(
           select a.attname::text from pg_catalog.unnest(i.indkey::smallint[]) with ordinality
               as k (attnum, at)
           join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
           where k.at <= i.indnkeyatts order by k.at
       ) as columns
from pg_catalog.pg_index i
where i.indrelid = $1::bigint::oid and i.indisunique and i.indisvalid and i.indisready
  and i.indimmediate and i.indpred is null and i.indexprs is null
order by i.indisprimary desc, i.indnkeyatts, i.indexrelid

-- vector_and_words_indexes --
select x.relname as name, m.amname as method, o.opcname as operator_class,
       o.opcintype = 'pg_catalog.tsvector'::regtype as is_of_words,
       i.indpred is not null as is_partial, x.reloptions as options,
       pg_catalog.pg_get_indexdef(i.indexrelid, k.at, false) as expression,
       array(
           select a.attname::text from pg_catalog.pg_attribute a
           where a.attrelid = i.indrelid and a.attnum > 0 and (
               a.attnum = i.indkey[k.at - 1]
               or i.indkey[k.at - 1] = 0 and exists (
                   select from pg_catalog.pg_depend d
                   where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = i.indexrelid
                     and d.refobjid = i.indrelid and d.refobjsubid = a.attnum
               )
           )
           order by a.attnum
       ) as columns
from pg_catalog.pg_index i
join pg_catalog.pg_class x on x.oid = i.indexrelid
join pg_catalog.pg_am m on m.oid = x.relam
cross join pg_catalog.generate_series(1, i.indnkeyatts::integer) as k (at)
join pg_catalog.pg_opclass o on o.oid = i.indclass[k.at - 1]
where i.indrelid = $1::bigint::oid and i.indisvalid
  and (m.amname in ('hnsw', 'ivfflat')
       or m.amname = 'gin' and o.opcintype = 'pg_catalog.tsvector'::regtype)
  -- searches would call what stands in it, with their own rights: nobody's functions but ours
  and not exists (
      select from pg_catalog.pg_depend d
      join pg_catalog.pg_proc f on f.oid = d.refobjid
      join pg_catalog.pg_roles r on r.oid = f.proowner
      where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = i.indexrelid
        and d.refclassid = 'pg_catalog.pg_proc'::regclass
        and not r.rolsuper and r.rolname <> session_user
  )
order by i.indexrelid, k.at

-- server --
select pg_catalog.pg_is_in_recovery() as is_replica,
       pg_catalog.current_setting('default_text_search_config') as words_config,
       (select n.nspname from pg_catalog.pg_extension e
        join pg_catalog.pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'vector') as vector_schema,
       session_user::text as user,
       (select pg_catalog.pg_get_userbyid(nspowner) from pg_catalog.pg_namespace
        where nspname = 'ragline') as owner

-- roles --
-- those of the workloads that come into this database as such
select rolname as role from pg_catalog.pg_roles
where rolname = any ($1::text[])
  and pg_catalog.has_schema_privilege(oid, 'ragline', 'usage')
order by rolname

-- lacking --
-- what roles would need, and have neither by themselves nor as members or as everybody
select r.role, w.kind
from pg_catalog.unnest($1::text[]) as r (role)
cross join (values ('schema'), ('table')) as w (kind)
where not case w.kind
    when 'schema' then pg_catalog.has_schema_privilege(
        r.role, (select relnamespace from pg_catalog.pg_class where oid = $2::bigint::oid), 'usage')
    else pg_catalog.has_table_privilege(r.role, $2::bigint::oid, 'select')
end
order by r.role, w.kind

-- one_at_a_time --
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('ragline.attach'))

-- attached_to --
select c.name, a.description, a.table_oid::bigint as oid
from ragline.attached_table a join ragline.collection c on c.id = a.collection_id
where a.table_oid = $1::bigint::oid
order by c.name

-- is_taken --
select exists (select from ragline.collection where name = $1)

-- add_collection --
insert into ragline.collection (name, language, chunk_size, chunk_overlap)
values ($1, $2, 256, 0)
returning id

-- add_space --
insert into ragline.embedding_space (
    collection_id, model_id, weights_hash, dimension, metric, storage, normalised, languages
) values ($1, $2, $3, $4, $5, $6, $7, $8::text[])
returning id

-- describe_index --
-- a trigger wrote the row
update ragline.space_index
set storage = $2, m = coalesce($3::smallint, m), ef_construction = coalesce($4::smallint, ef_construction)
where space_id = $1

-- activate_space --
update ragline.collection set active_space_id = $2 where id = $1

-- add_attached --
insert into ragline.attached_table (collection_id, description, table_oid, granted)
values ($1, $2, $3::bigint::oid, $4)

-- attached_table --
select c.id, c.name, a.description, a.table_oid::bigint as oid, a.granted,
       t.oid is not null as is_there, n.nspname as schema, t.relname as table
from ragline.collection c
join ragline.attached_table a on a.collection_id = c.id
left join pg_catalog.pg_class t on t.oid = a.table_oid
left join pg_catalog.pg_namespace n on n.oid = t.relnamespace
where c.name = $1
for update of c, a

-- others_of_table --
select a.collection_id, a.granted
from ragline.attached_table a
where a.table_oid = $1::bigint::oid and a.collection_id <> $2
order by a.collection_id
for update

-- others_of_schema --
select a.collection_id, a.granted
from ragline.attached_table a
join pg_catalog.pg_class t on t.oid = a.table_oid
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
where n.nspname = $1 and a.collection_id <> $2
order by a.collection_id
for update of a

-- keep_granted --
update ragline.attached_table set granted = $2 where collection_id = $1

-- forget_collection --
delete from ragline.collection where id = $1

-- still_granted --
select g.role, g.kind
from unnest($1::text[], $2::text[]) as g (role, kind)
join pg_catalog.pg_roles r on r.rolname = g.role
where case g.kind
    when 'table' then exists (
        select from pg_catalog.pg_class t, pg_catalog.aclexplode(t.relacl) a
        where t.oid = $3::bigint::oid and a.grantee = r.oid and a.privilege_type = 'SELECT'
    )
    else exists (
        select from pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
        where n.nspname = $4::text and a.grantee = r.oid and a.privilege_type = 'USAGE'
    )
end

-- changes_of --
-- those that are at work on a collection, or were kept on it, and all on indexes of any table
select c.id, c.title, c.state, c.parts, c.snapshot, c.retire_at
from ragline.change c
where exists (
        select from pg_catalog.jsonb_array_elements(c.parts) as p
        where p ->> 'target' = $1
           or p ->> 'kind' = 'index' and pg_catalog.starts_with(p ->> 'target', '@')
    )
  and c.state not in ('planned', 'undone', 'inconclusive')
order by c.id

-- indexes_of --
select x.relname as name, pg_catalog.pg_get_indexdef(x.oid) as definition
from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
where i.indrelid = $1::bigint::oid
order by x.relname

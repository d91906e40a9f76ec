-- search_path is "ragline, pg_temp". The role is ragline_owner where it exists.

-- What the metadata of documents says, in rows that b-trees can order. What is too long for an index is
-- cut, so that it compares with everything shorter as if it were whole.
create table attribute (
    document_id bigint not null,
    collection_id integer not null,
    field text collate "C" not null,
    word text collate "C",
    number numeric
);
comment on table attribute is 'The metadata of documents by key and value, written by triggers on document: one row for each key, and one for each distinct element of an array. Filters find their documents here.';
comment on column attribute.document_id is 'The document.';
comment on column attribute.collection_id is 'Collection of the document.';
comment on column attribute.field is 'The key, its first 200 characters, behind a sign for what the row is about: = its value, ~ its value cut, ? its value that is null, an array or an object, [ an element of its array.';
comment on column attribute.word is 'A text, its first 200 characters; or true or false.';
comment on column attribute.number is 'A number, up to 1e300; what has more than 20 decimals lies half-way between those with 20. 1 or 0 beside true or false.';

-- Every value has its range in one index: texts by word, numbers where word is null. It holds the
-- document as well, so that a filter need not visit the table.
create index attribute_by_value on attribute (collection_id, field, word, number, document_id);
create index attribute_by_document on attribute (document_id);
-- Words belong to keys: without this the planner thinks that "en" is as rare for `lang` as anywhere.
create statistics attribute_word_of_field (dependencies, mcv)
    on collection_id, field, word from attribute;

-- Runs as the owner: no workload may write this table itself.
create function index_new_metadata() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into ragline.attribute (document_id, collection_id, field, word, number)
    select distinct
        n.id, n.collection_id,
        case when v.is_element then '['
             when jsonb_typeof(v.value) in ('null', 'array', 'object') then '?'
             when jsonb_typeof(v.value) = 'string' and char_length(v.value #>> '{}') > 200 then '~'
             else '=' end || left(m.key, 200),
        case when jsonb_typeof(v.value) in ('string', 'boolean') then left(v.value #>> '{}', 200) end,
        case jsonb_typeof(v.value)
            when 'number' then
                case when scale(trim_scale(v.value::numeric)) > 20
                     then trunc(least(greatest(v.value::numeric, -1e300), 1e300), 20)
                          + sign(v.value::numeric) * 5e-21
                     else trim_scale(least(greatest(v.value::numeric, -1e300), 1e300)) end
            when 'boolean' then v.value::boolean::int
        end
    from new_document n
    cross join lateral jsonb_each(n.metadata) as m
    cross join lateral (
        select false as is_element, m.value
        union all
        select true, e.value
        from jsonb_array_elements(
            case jsonb_typeof(m.value) when 'array' then m.value else '[]' end
        ) as e
        where jsonb_typeof(e.value) not in ('array', 'object')
    ) as v;
    return null;
end
$$;

create function forget_old_metadata() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    delete from ragline.attribute a using old_document o where a.document_id = o.id;
    return null;
end
$$;

create trigger index_inserted_metadata after insert on document
    referencing new table as new_document
    for each statement execute function index_new_metadata();
create trigger forget_deleted_metadata after delete on document
    referencing old table as old_document
    for each statement execute function forget_old_metadata();
-- "a" before "b": the old rows must be gone before the new ones come.
create trigger a_forget_updated_metadata after update on document
    referencing old table as old_document
    for each statement execute function forget_old_metadata();
create trigger b_index_updated_metadata after update on document
    referencing new table as new_document
    for each statement execute function index_new_metadata();

-- Documents that were there before: the same rows as index_new_metadata() writes.
insert into attribute (document_id, collection_id, field, word, number)
select distinct
    n.id, n.collection_id,
    case when v.is_element then '['
         when jsonb_typeof(v.value) in ('null', 'array', 'object') then '?'
         when jsonb_typeof(v.value) = 'string' and char_length(v.value #>> '{}') > 200 then '~'
         else '=' end || left(m.key, 200),
    case when jsonb_typeof(v.value) in ('string', 'boolean') then left(v.value #>> '{}', 200) end,
    case jsonb_typeof(v.value)
        when 'number' then
            case when scale(trim_scale(v.value::numeric)) > 20
                 then trunc(least(greatest(v.value::numeric, -1e300), 1e300), 20)
                      + sign(v.value::numeric) * 5e-21
                 else trim_scale(least(greatest(v.value::numeric, -1e300), 1e300)) end
        when 'boolean' then v.value::boolean::int
    end
from document n
cross join lateral jsonb_each(n.metadata) as m
cross join lateral (
    select false as is_element, m.value
    union all
    select true, e.value
    from jsonb_array_elements(
        case jsonb_typeof(m.value) when 'array' then m.value else '[]' end
    ) as e
    where jsonb_typeof(e.value) not in ('array', 'object')
) as v;
analyze attribute;

revoke execute on function index_new_metadata(), forget_old_metadata() from public;

-- Names are joined, never `= any`: with one plan for all values that would compare every name with
-- every document.

-- by_source --
select d.source as name, count(*) as documents
from unnest($2::text[]) as wanted (name)
join document d on d.source = wanted.name
where d.collection_id = any ($1::int[])
group by d.source

-- by_name --
select wanted.name, count(*) as documents
from unnest($2::text[]) as wanted (name)
join document d on split_part(d.source, '/', -1) = wanted.name
where d.collection_id = any ($1::int[])
group by wanted.name

-- by_stem --
select stem as name, count(*) as documents
from (
    select regexp_replace(split_part(source, '/', -1), '(.)\.[^.]*$', '\1') as stem
    from document
    where collection_id = any ($1::int[])
) as named
join unnest($2::text[]) as wanted (name) on wanted.name = named.stem
group by stem

-- by_row --
-- an id may have a # itself
select id_of_row as name, count(*) as documents
from (
    select coalesce(
        substring(source from '(?i)\.(?:jsonl|ndjson|csv|tsv|mbox)#(.*)$'),
        split_part(source, '#', -1)
    ) as id_of_row
    from document
    where collection_id = any ($1::int[])
) as named
join unnest($2::text[]) as wanted (name) on wanted.name = named.id_of_row
group by 1

-- bodies --
-- the chunks of documents that have a name in the way $3
select d.name, c.body
from (
    select id, case $3::text
        when 'source' then source
        when 'name' then split_part(source, '/', -1)
        when 'stem' then regexp_replace(split_part(source, '/', -1), '(.)\.[^.]*$', '\1')
        else coalesce(
            substring(source from '(?i)\.(?:jsonl|ndjson|csv|tsv|mbox)#(.*)$'),
            split_part(source, '#', -1)
        )
    end as name
    from document
    where collection_id = any ($1::int[])
) as d
join unnest($2::text[]) as wanted (name) on wanted.name = d.name
join chunk c on c.document_id = d.id

-- by_source --
select source as name, count(*) as documents from document
where collection_id = any ($1::int[]) and source = any ($2::text[])
group by source

-- by_name --
select split_part(source, '/', -1) as name, count(*) as documents from document
where collection_id = any ($1::int[]) and split_part(source, '/', -1) = any ($2::text[])
group by 1

-- by_stem --
select stem as name, count(*) as documents
from (
    select regexp_replace(split_part(source, '/', -1), '(.)\.[^.]*$', '\1') as stem
    from document
    where collection_id = any ($1::int[])
) as named
where stem = any ($2::text[])
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
where id_of_row = any ($2::text[])
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
join chunk c on c.document_id = d.id
where d.name = any ($2::text[])

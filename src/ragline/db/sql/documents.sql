-- known_documents --
select source, content_hash, recipe from document
where collection_id = $1 and ($2::text[] is null or source = any ($2))

-- add_document --
insert into document (
    collection_id, source, title, media_type, body, content_hash, recipe, metadata
) values ($1, $2, $3, $4, $5, $6, $7, $8)
returning id, characters

-- remove_document_by_source --
delete from document where collection_id = $1 and source = $2

-- remove_document --
delete from document where id = $1
returning collection_id

-- space_written_to --
select active_space_id from collection where id = $1 for no key update

-- chunk_ids --
select pg_catalog.nextval(pg_catalog.pg_get_serial_sequence('chunk', 'id')::regclass)
from generate_series(1, $1::int)

-- add_terms --
-- sorted: two writers that meet in the dictionary queue, but never in a circle
insert into term (term)
select t from pg_catalog.unnest($1::text[]) as t order by t
on conflict (term) do nothing

-- term_ids --
select term, id from term where term = any ($1::text[])

-- fold_postings --
select ragline.fold_postings($1, $2)

-- rebuild_postings --
select ragline.rebuild_postings($1)

-- unfolded --
-- chunks that searches read beside the blocks, counted up to $2
select count(*) from (
    (select 1 from fresh_chunk where collection_id = $1 limit $2)
    union all
    (select 1 from dead_chunk where collection_id = $1 limit $2)
) as waiting

-- documents_page --
select d.id, d.source, d.title, d.media_type, d.characters, d.metadata, d.ingested_at,
       (select count(*) from chunk where document_id = d.id) as chunks
from document d
where d.collection_id = $1 and d.id > $2
order by d.id
limit $3

-- one_document --
select d.id, c.name as collection, d.source, d.title, d.media_type, d.characters, d.metadata,
       d.ingested_at, d.body, (select count(*) from chunk where document_id = d.id) as chunks
from document d
join collection c on c.id = d.collection_id
where d.id = $1

select (select search_version from collection where id = 7),
           r.chunk_id, content.document_id, origin.source, origin.title, content.body,
           content.start_char, content.end_char, content.headings, origin.metadata, r.distance
    from (
    select e.chunk_id, embedding <-> $1::vector(384) as distance
    from embedding_3 e
    where (select pg_catalog.set_config('hnsw.ef_search', $2, true)) is not null and e.chunk_id <> -1
    order by embedding <-> $1::vector(384)
    limit 10
) as r
    join chunk content on content.id = r.chunk_id
    join document origin on origin.id = content.document_id
    order by r.distance, r.chunk_id

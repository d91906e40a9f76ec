select (select active_space_id from collection where id = 7),
           r.chunk_id, c.document_id, d.source, d.title, c.body, c.start_char, c.end_char,
           c.headings, d.metadata, r.distance
    from (
    select chunk_id, embedding <=> $1::halfvec(3072) as distance
    from embedding_3
    where (select set_config('hnsw.ef_search', $2, true)) is not null
    order by embedding <=> $1::halfvec(3072)
    limit 10
) as r
    join chunk c on c.id = r.chunk_id
    join document d on d.id = c.document_id
    order by r.distance, r.chunk_id

select (select search_version from collection where id = 7),
           r.chunk_id, content.document_id, origin.source, origin.title, content.body,
           content.start_char, content.end_char, content.headings, origin.metadata, r.fused, r.vector_rank, r.distance, r.lexical_rank, r.score
    from (
    select coalesce(v.chunk_id, l.chunk_id) as chunk_id,
           0.7::float8 * coalesce(v.share, 0::float8)
           + 0.3::float8 * coalesce(l.share, 0::float8) as fused,
           v.rank as vector_rank, v.distance, l.rank as lexical_rank, l.score
    from (
        select n.*, pg_catalog.row_number() over (order by n.distance, n.chunk_id) as rank,
               n.similarity / nullif(pg_catalog.max(n.similarity) over (), 0::float8) as share
        from (
            select chunk_id, distance, greatest(1::float8 - distance, 0::float8) as similarity
            from (
    select e.chunk_id, embedding <=> $1::halfvec(384) as distance
    from embedding_3 e
    where (select pg_catalog.set_config('hnsw.ef_search', $2, true) || pg_catalog.set_config('hnsw.iterative_scan', 'strict_order', true)) is not null and e.chunk_id <> -1
    order by embedding <=> $1::halfvec(384)
    limit 40
) as nearest
        ) as n
    ) as v
    full join (
        select b.*, pg_catalog.row_number() over (order by b.score desc, b.chunk_id) as rank,
               b.score / nullif(pg_catalog.max(b.score) over (), 0::float8) as share
        from (
    with asked as materialized (
        select t.id as term_id, n.mean_length,
               w.times * 2.2::float8
               * pg_catalog.ln(
                   1::float8 + (n.chunks - s.chunks + 0.5::float8) / (s.chunks + 0.5::float8)
               )
               as weight
        from (
            select word, pg_catalog.count(*)::float8 as times
            from pg_catalog.unnest($3::text[]) as word group by 1
        ) as w
        join term t on t.term = w.word
        cross join (
            select pg_catalog.sum(chunks)::float8 as chunks,
                   greatest(
                       pg_catalog.sum(tokens)::float8
                       / nullif(pg_catalog.sum(chunks)::float8, 0::float8),
                       1
                   ) as mean_length
            from collection_statistic where collection_id = 7
        ) as n
        cross join lateral (
            select (coalesce((
                       select chunks from term_statistic
                       where collection_id = 7 and term_id = t.id
                   ), 0) + (
                       select pg_catalog.count(*) from fresh_chunk f
                       where f.collection_id = 7 and t.id = any (f.term_ids)
                   ) - (
                       select pg_catalog.count(*) from dead_chunk d
                       where d.collection_id = 7 and t.id = any (d.term_ids)
                   ))::float8 as chunks
            offset 0
        ) as s
        where s.chunks > 0::float8
) , block as (
        select first_chunk_id, offsets, gain,
               pg_catalog.sum(entries) over (order by gain desc rows unbounded preceding)
               - entries as before
        from (
            select b.first_chunk_id, b.offsets, pg_catalog.cardinality(b.offsets) as entries,
                   a.weight * (array[0.6, 0.97, 0.94, 0.9, 0.86, 0.82, 0.78, 0.74, 0.7, 0.66, 0.62, 0.58, 0.54, 0.5, 0.46, 0.42, 0.35]::float8[])[b.impact + 1] as gain
            from asked a
            join posting_block b
              on b.collection_id = 7 and b.term_id = a.term_id
        ) as every
    ),
    candidate as (
        select chunk_id
        from (
            select b.first_chunk_id + o.chunk as chunk_id, pg_catalog.sum(b.gain) as gain
            from block b cross join lateral pg_catalog.unnest(b.offsets) as o (chunk)
            where b.before < 6000::bigint
            group by 1
            order by gain desc, chunk_id limit 250 + (select pg_catalog.count(*) from dead_chunk d where d.collection_id = 7)
        ) as named
        where (select true from dead_chunk d where d.collection_id = 7 and d.chunk_id = named.chunk_id) is null
        limit 250
    )

    select chunk_id, score from (

        select x.id as chunk_id,
               pg_catalog.sum(a.weight * f.frequency / (
                   f.frequency + 1.2::float8 * (
                       0.25::float8 + 0.75::float8 * x.length::float8 / a.mean_length
                   )
               )) as score
        from candidate n join chunk x on x.id = n.chunk_id
        cross join asked a
        cross join lateral (
            select pg_catalog.array_position(x.term_ids, a.term_id) as place offset 0
        ) as p
        cross join lateral (
            select pg_catalog.get_byte(x.frequencies, p.place - 1)::float8 as frequency
        ) as f
        where p.place is not null
        group by x.id

        union all

        select x.chunk_id as chunk_id,
               pg_catalog.sum(a.weight * f.frequency / (
                   f.frequency + 1.2::float8 * (
                       0.25::float8 + 0.75::float8 * x.length::float8 / a.mean_length
                   )
               )) as score
        from fresh_chunk x
        cross join asked a
        cross join lateral (
            select pg_catalog.array_position(x.term_ids, a.term_id) as place offset 0
        ) as p
        cross join lateral (
            select pg_catalog.get_byte(x.frequencies, p.place - 1)::float8 as frequency
        ) as f
        where p.place is not null and x.collection_id = 7
        group by x.chunk_id

    ) as weighed
    order by score desc, chunk_id
    limit 40
) as b
    ) as l using (chunk_id)
    order by fused desc, least(v.rank, l.rank), chunk_id
    limit 10
) as r
    join chunk content on content.id = r.chunk_id
    join document origin on origin.id = content.document_id
    order by r.fused desc, least(r.vector_rank, r.lexical_rank), r.chunk_id

select (select active_space_id from collection where id = 7),
           r.chunk_id, c.document_id, d.source, d.title, c.body, c.start_char, c.end_char,
           c.headings, d.metadata, r.fused, r.vector_rank, r.distance, r.lexical_rank, r.score
    from (
    select coalesce(v.chunk_id, l.chunk_id) as chunk_id,
           coalesce(1.0::float8 / (60 + v.rank)::float8, 0)
           + coalesce(1.0::float8 / (60 + l.rank)::float8, 0) as fused,
           v.rank as vector_rank, v.distance, l.rank as lexical_rank, l.score
    from (
        select n.*, row_number() over (order by n.distance, n.chunk_id) as rank
        from (
    select chunk_id, (embedding::halfvec(2001)) <=> $1::halfvec(2001) as distance
    from embedding_3
    where (select set_config('hnsw.ef_search', $2, true) || set_config('hnsw.iterative_scan', 'strict_order', true)) is not null
    order by (embedding::halfvec(2001)) <=> $1::halfvec(2001)
    limit 40
) as n
    ) as v
    full join (
        select b.*, row_number() over (order by b.score desc, b.chunk_id) as rank
        from (
    select p.chunk_id,
           sum(q.weight * p.frequency::float8 / (
               p.frequency::float8 + 1.2::float8
               * (0.25::float8 + 0.75::float8 * p.length::float8 / q.mean_length))
           ) as score
    from (
        select t.id as term_id, n.mean_length,
               w.times * 2.2::float8
               * ln(1::float8 + (n.chunks - s.chunks + 0.5::float8) / (s.chunks + 0.5::float8))
               as weight
        from (
            select word, count(*)::float8 as times
            from pg_catalog.unnest($3::text[]) as word group by 1
        ) as w
        join term t on t.term = w.word
        cross join (
            select sum(chunks)::float8 as chunks,
                   greatest(
                       sum(tokens)::float8 / nullif(sum(chunks)::float8, 0::float8), 1
                   ) as mean_length
            from collection_statistic where collection_id = 7
        ) as n
        cross join lateral (
            select sum(chunks)::float8 as chunks
            from term_statistic
            where collection_id = 7 and term_id = t.id
        ) as s
        where s.chunks > 0::float8
        offset 0
    ) as q
    join posting p
      on p.collection_id = 7 and p.term_id = q.term_id
    group by p.chunk_id
    order by score desc, p.chunk_id
    limit 40
) as b
    ) as l using (chunk_id)
    order by fused desc, least(v.rank, l.rank), chunk_id
    limit 10
) as r
    join chunk c on c.id = r.chunk_id
    join document d on d.id = c.document_id
    order by r.fused desc, least(r.vector_rank, r.lexical_rank), r.chunk_id

select (
               select c.search_version
               from collection c join attached_table a on a.collection_id = c.id
               where c.id = 7 and a.table_oid = '"Möbel"."a ""table"".x"'::regclass::oid
           ),
           pg_catalog.hashtextextended(content."id"::text, 0::bigint), pg_catalog.hashtextextended(content."id"::text, 0::bigint), content."id"::text, null::text, coalesce(content."content"::text, ''),
           0, pg_catalog.char_length(coalesce(content."content"::text, '')), '{}'::text[],
           (case pg_catalog.jsonb_typeof(content."metadata"::jsonb) when 'object' then content."metadata"::jsonb else '{}'::jsonb end operator(pg_catalog.||) pg_catalog.jsonb_build_object('lang'::text, content."lang")), r.fused, r.vector_rank, r.distance, r.lexical_rank, r.score
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
    select chunk_id, distance from (
    select e."id" as chunk_id, (e."embedding"::vector(384)) <=> $4::vector(384) as distance
    from "Möbel"."a ""table"".x" e
    where $5::text is not null and e."collection" =  E'it''s \\ ours' and (((case pg_catalog.jsonb_typeof(coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb)) when 'string' then (coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb) operator(pg_catalog.#>>) '{}'::text[]) collate "C" = $1::text else false end) and (case pg_catalog.jsonb_typeof((e."metadata"::jsonb -> $2::text)) when 'number' then (e."metadata"::jsonb -> $2::text)::numeric > $3::numeric else false end))) and ((e."lang" = $1::text)) and e."embedding" is not null offset 0
) as compared
    where distance <> 'NaN'::float8
    order by distance, chunk_id
    limit 40
) as nearest
        ) as n
    ) as v
    full join (
        select b.*, pg_catalog.row_number() over (order by b.score desc, b.chunk_id) as rank,
               b.score / nullif(pg_catalog.max(b.score) over (), 0::float8) as share
        from (
    with asked as materialized (select (select pg_catalog.string_agg(pg_catalog.chr(39) || pg_catalog.replace(pg_catalog.replace(lexeme, pg_catalog.chr(92), pg_catalog.chr(92) || pg_catalog.chr(92)), pg_catalog.chr(39), pg_catalog.chr(39) || pg_catalog.chr(39)) || pg_catalog.chr(39), ' | ')::tsquery from pg_catalog.unnest(pg_catalog.to_tsvector('english'::regconfig, pg_catalog.array_to_string($6::text[], ' '))) as word) as query)
    select chunk_id, score from (
        select e."id" as chunk_id,
               pg_catalog.ts_rank_cd((to_tsvector('english'::regconfig, content)), (select query from asked), 1)::float8 as score
        from (select * from "Möbel"."a ""table"".x" w) as e
        where e."collection" =  E'it''s \\ ours' and (((case pg_catalog.jsonb_typeof(coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb)) when 'string' then (coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb) operator(pg_catalog.#>>) '{}'::text[]) collate "C" = $1::text else false end) and (case pg_catalog.jsonb_typeof((e."metadata"::jsonb -> $2::text)) when 'number' then (e."metadata"::jsonb -> $2::text)::numeric > $3::numeric else false end))) and ((e."lang" = $1::text)) and (to_tsvector('english'::regconfig, content)) operator(pg_catalog.@@) (select query from asked)
        limit 5000
    ) as weighed
    order by score desc, chunk_id
    limit 40
) as b
    ) as l using (chunk_id)
    order by fused desc, least(v.rank, l.rank), chunk_id
    limit 10
) as r
    join "Möbel"."a ""table"".x" content on content."id" = r.chunk_id
    order by r.fused desc, least(r.vector_rank, r.lexical_rank), r.chunk_id

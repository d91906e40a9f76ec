select (
               select c.search_version
               from collection c join attached_table a on a.collection_id = c.id
               where c.id = 7 and a.table_oid = '"Möbel"."a ""table"".x"'::regclass::oid
           ),
           pg_catalog.hashtextextended(content."id"::text, 0::bigint), pg_catalog.hashtextextended(content."id"::text, 0::bigint), content."id"::text, null::text, coalesce(content."content"::text, ''),
           0, pg_catalog.char_length(coalesce(content."content"::text, '')), '{}'::text[],
           (case pg_catalog.jsonb_typeof(content."metadata"::jsonb) when 'object' then content."metadata"::jsonb else '{}'::jsonb end operator(pg_catalog.||) pg_catalog.jsonb_build_object('lang'::text, content."lang")), r.score
    from (
    with asked as materialized (select (select pg_catalog.string_agg(pg_catalog.chr(39) || pg_catalog.replace(pg_catalog.replace(lexeme, pg_catalog.chr(92), pg_catalog.chr(92) || pg_catalog.chr(92)), pg_catalog.chr(39), pg_catalog.chr(39) || pg_catalog.chr(39)) || pg_catalog.chr(39), ' | ')::tsquery from pg_catalog.unnest(pg_catalog.to_tsvector('english'::regconfig, pg_catalog.array_to_string($1::text[], ' '))) as word) as query)
    select chunk_id, score from (
        select e."id" as chunk_id,
               pg_catalog.ts_rank_cd((to_tsvector('english'::regconfig, content)), (select query from asked), 1)::float8 as score
        from (select * from "Möbel"."a ""table"".x" w) as e
        where e."collection" =  E'it''s \\ ours' and (to_tsvector('english'::regconfig, content)) operator(pg_catalog.@@) (select query from asked)
        limit 5000
    ) as weighed
    order by score desc, chunk_id
    limit 10
) as r
    join "Möbel"."a ""table"".x" content on content."id" = r.chunk_id
    order by r.score desc, r.chunk_id

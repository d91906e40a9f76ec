select (
               select c.search_version
               from collection c join attached_table a on a.collection_id = c.id
               join pg_catalog.pg_class t on t.oid = a.table_oid and not t.relrowsecurity
               where c.id = 7 and a.table_oid = '"Möbel"."a ""table"".x"'::regclass::oid
           ),
           (pg_catalog.hashtextextended(content."id"::text, 0::bigint) operator(pg_catalog.|) (-9223372036854775808)::bigint), (pg_catalog.hashtextextended(content."id"::text, 0::bigint) operator(pg_catalog.|) (-9223372036854775808)::bigint), content."id"::text, null::text, coalesce(content."content"::text, ''),
           0, pg_catalog.char_length(coalesce(content."content"::text, '')), '{}'::text[],
           (case pg_catalog.jsonb_typeof(content."metadata"::jsonb) when 'object' then content."metadata"::jsonb else '{}'::jsonb end operator(pg_catalog.||) pg_catalog.jsonb_build_object('lang'::text, content."lang")), r.distance
    from (
    select chunk_id, distance from (
    select e."id" as chunk_id, (e."embedding"::vector(384)) <=> $1::vector(384) as distance
    from "Möbel"."a ""table"".x" e
    where $2::text is not null and e."collection" operator(pg_catalog.=)  E'it''s \\ ours' and e."embedding" is not null offset 0
) as compared
    where distance <> 'NaN'::float8
    order by distance, chunk_id
    limit 10
) as r
    join "Möbel"."a ""table"".x" content on content."id" = r.chunk_id
    order by r.distance, r.chunk_id

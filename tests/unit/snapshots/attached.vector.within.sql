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
    select e."id" as chunk_id, (e."embedding"::vector(384)) <=> $4::vector(384) as distance
    from "Möbel"."a ""table"".x" e
    where (select pg_catalog.set_config('hnsw.ef_search', $5, true) || coalesce((
        select pg_catalog.set_config('ivfflat.probes', greatest(
            pg_catalog.ceil(pg_catalog.sqrt(coalesce((
                select option_value from pg_catalog.pg_options_to_table(x.reloptions)
                where option_name = 'lists'
            ), '100')::float8))::integer,
            pg_catalog.current_setting('ivfflat.probes', true)::integer
        )::text, true)
        from pg_catalog.pg_index i
        join pg_catalog.pg_class x on x.oid = i.indexrelid
        join pg_catalog.pg_am m on m.oid = x.relam
        where i.indrelid = '"Möbel"."a ""table"".x"'::regclass::oid and m.amname = 'ivfflat' limit 1
    ), '') || pg_catalog.set_config('hnsw.iterative_scan', 'relaxed_order', true) || pg_catalog.set_config('ivfflat.iterative_scan', 'relaxed_order', true) || pg_catalog.set_config('hnsw.max_scan_tuples', '200000', true)
            || pg_catalog.set_config('hnsw.scan_mem_multiplier', '16', true)) is not null
      and e."collection" operator(pg_catalog.=)  E'it''s \\ ours' and e."embedding" is not null and (case when (case pg_catalog.jsonb_typeof(coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb)) when 'string' then ((coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb)) operator(pg_catalog.#>>) '{}'::text[]) collate "C" = $1::text else false end and case pg_catalog.jsonb_typeof(e."metadata"::jsonb -> $2::text) when 'number' then (e."metadata"::jsonb -> $2::text)::numeric > $3::numeric else false end) then true else false end)
    order by (e."embedding"::vector(384)) <=> $4::vector(384)
    limit 20
) as compared
    where distance <> 'NaN'::float8
    order by distance, chunk_id
    limit 10
) as r
    join "Möbel"."a ""table"".x" content on content."id" = r.chunk_id
    order by r.distance, r.chunk_id

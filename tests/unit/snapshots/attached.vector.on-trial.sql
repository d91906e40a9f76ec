select (
               select c.search_version
               from collection c join attached_table a on a.collection_id = c.id
               join pg_catalog.pg_class t on t.oid = a.table_oid and not t.relrowsecurity
               where c.id = 7 and a.table_oid = '"Möbel"."a ""table"".x"'::regclass::oid
           ),
           (case when content."id"::bigint < 0::bigint then content."id"::bigint operator(pg_catalog.#) 4611686018427387904::bigint else - (content."id"::bigint) end), (case when content."id"::bigint < 0::bigint then content."id"::bigint operator(pg_catalog.#) 4611686018427387904::bigint else - (content."id"::bigint) end), content."id"::text, null::text, coalesce(content."content"::text, ''),
           0, pg_catalog.char_length(coalesce(content."content"::text, '')), '{}'::text[],
           case pg_catalog.jsonb_typeof(content."metadata") when 'object' then content."metadata" else '{}'::jsonb end, r.distance
    from (
    select chunk_id, distance from (
    select e."id" as chunk_id, (vector(e."embedding", 384, false)::halfvec(384)) <=> $1::halfvec(384) as distance
    from "Möbel"."a ""table"".x" e
    where (select pg_catalog.set_config('hnsw.ef_search', $2, true) || coalesce((
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
    ), '')) is not null
      and e."embedding" is not null
    order by (vector(e."embedding", 384, false)::halfvec(384)) <=> $1::halfvec(384)
    limit 10
) as compared
    where distance <> 'NaN'::float8
    order by distance, chunk_id
    limit 10
) as r
    join "Möbel"."a ""table"".x" content on content."id" = r.chunk_id
    order by r.distance, r.chunk_id

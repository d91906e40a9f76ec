select (
               select c.search_version
               from collection c join attached_table a on a.collection_id = c.id
               join pg_catalog.pg_class t on t.oid = a.table_oid and not t.relrowsecurity
               where c.id = 7 and a.table_oid = '"Möbel"."a ""table"".x"'::regclass::oid
           ),
           (pg_catalog.hashtextextended(content."id"::text, 0::bigint) operator(pg_catalog.|) (-9223372036854775808)::bigint), (pg_catalog.hashtextextended(content."id"::text, 0::bigint) operator(pg_catalog.|) (-9223372036854775808)::bigint), content."id"::text, null::text, coalesce(content."content"::text, ''),
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
    where $5::text is not null and e."collection" operator(pg_catalog.=)  E'it''s \\ ours' and ((case pg_catalog.jsonb_typeof(coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb)) when 'string' then ((coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb)) operator(pg_catalog.#>>) '{}'::text[]) collate "C" = $1::text else false end and case pg_catalog.jsonb_typeof(e."metadata"::jsonb -> $2::text) when 'number' then (e."metadata"::jsonb -> $2::text)::numeric > $3::numeric else false end)) and ((e."lang" = $1::text)) and e."embedding" is not null offset 0
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
    with word as materialized (
        select (pg_catalog.chr(39) || pg_catalog.replace(pg_catalog.replace(lexeme, pg_catalog.chr(92), pg_catalog.chr(92) || pg_catalog.chr(92)), pg_catalog.chr(39), pg_catalog.chr(39) || pg_catalog.chr(39)) || pg_catalog.chr(39))::tsquery as query,
               pg_catalog.cardinality(positions)::float8 as times,
               pg_catalog.row_number() over () as place
        from pg_catalog.unnest(pg_catalog.to_tsvector('english'::regconfig, pg_catalog.array_to_string($6::text[], ' ')))
),
    asked as materialized (
        select query, times * pg_catalog.ln(
                   1::float8 + (greatest(every, rows) - rows + 0.5::float8) / (rows + 0.5::float8)
               ) as weight,
               pg_catalog.sum(rows) over (order by rows, place rows unbounded preceding) - rows
               as before
        from (
            select said.place, said.query, said.times, n.rows::float8 * case when n.rows < 500 then 1::float8 else greatest(t.pages / ((n.last::text::point)[0] + 1::float8), 1::float8) end as rows, t.pages * t.density as every
            from word said
            cross join lateral (
                select pg_catalog.count(*) as rows, pg_catalog.max(first.at) as last
                from (
                    select e."ragline ctid" as at from (select w.*, w.ctid as "ragline ctid" from "Möbel"."a ""table"".x" w) as e
                    where (to_tsvector('english'::regconfig, content)) operator(pg_catalog.@@) said.query limit 500
                ) as first
            ) as n
            cross join (
                select pg_catalog.pg_relation_size(c.oid)::float8
                       / pg_catalog.current_setting('block_size')::float8 as pages,
                       greatest(c.reltuples::float8, 0::float8)
                       / greatest(c.relpages::float8, 1::float8) as density
                from pg_catalog.pg_class c where c.oid = '"Möbel"."a ""table"".x"'::regclass::oid
            ) as t
            where n.rows > 0
        ) as counted
),
    held as materialized (
        select e."id" as chunk_id, pg_catalog.setweight((to_tsvector('english'::regconfig, content)), 'D') as words
        from (select w.*, w.ctid as "ragline ctid" from "Möbel"."a ""table"".x" w) as e
        where e."collection" operator(pg_catalog.=)  E'it''s \\ ours' and ((case pg_catalog.jsonb_typeof(coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb)) when 'string' then ((coalesce(pg_catalog.to_jsonb(e."lang"), 'null'::jsonb)) operator(pg_catalog.#>>) '{}'::text[]) collate "C" = $1::text else false end and case pg_catalog.jsonb_typeof(e."metadata"::jsonb -> $2::text) when 'number' then (e."metadata"::jsonb -> $2::text)::numeric > $3::numeric else false end)) and ((e."lang" = $1::text)) and (to_tsvector('english'::regconfig, content)) operator(pg_catalog.@@) (select pg_catalog.string_agg(query::text, ' | ')::tsquery from word)
)
    select chunk_id, pg_catalog.sum(
               weight * frequency / (
                   frequency + 1.2::float8 * (
                       0.25::float8 + 0.75::float8 * length / mean_length
                   )
               )
           ) as score
    from (
        select h.chunk_id, a.weight * 2.2::float8 as weight,
               pg_catalog.width_bucket(
                   pg_catalog.ts_rank('{1,1,1,1}'::real[], h.words, a.query)::float8,
                   array[0.60693, 0.75891, 0.82646, 0.86445, 0.88877, 0.90566, 0.91806, 0.92756, 0.93507, 0.94115, 0.94617, 0.95039, 0.95399, 0.95709, 0.95979]::float8[]
               )::float8 as frequency,
               pg_catalog.length(h.words)::float8 as length,
               (select greatest(pg_catalog.avg(pg_catalog.length(words))::float8, 1::float8)
                from held) as mean_length
        from held h join asked a on h.words operator(pg_catalog.@@) a.query
    ) as weighed
    group by chunk_id
    order by score desc, chunk_id
    limit 40
) as b
    ) as l using (chunk_id)
    order by fused desc, least(v.rank, l.rank), chunk_id
    limit 10
) as r
    join "Möbel"."a ""table"".x" content on content."id" = r.chunk_id
    order by r.fused desc, least(r.vector_rank, r.lexical_rank), r.chunk_id

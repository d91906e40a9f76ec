select (
               select c.search_version
               from collection c join attached_table a on a.collection_id = c.id
               join pg_catalog.pg_class t on t.oid = a.table_oid and not t.relrowsecurity
               where c.id = 7 and a.table_oid = '"Möbel"."a ""table"".x"'::regclass::oid
           ),
           (pg_catalog.hashtextextended(content."id"::text, 0::bigint) operator(pg_catalog.|) (-9223372036854775808)::bigint), (pg_catalog.hashtextextended(content."id"::text, 0::bigint) operator(pg_catalog.|) (-9223372036854775808)::bigint), content."id"::text, null::text, coalesce(content."content"::text, ''),
           0, pg_catalog.char_length(coalesce(content."content"::text, '')), '{}'::text[],
           (case pg_catalog.jsonb_typeof(content."metadata"::jsonb) when 'object' then content."metadata"::jsonb else '{}'::jsonb end operator(pg_catalog.||) pg_catalog.jsonb_build_object('lang'::text, content."lang")), r.score
    from (
    with word as materialized (
        select (pg_catalog.chr(39) || pg_catalog.replace(pg_catalog.replace(lexeme, pg_catalog.chr(92), pg_catalog.chr(92) || pg_catalog.chr(92)), pg_catalog.chr(39), pg_catalog.chr(39) || pg_catalog.chr(39)) || pg_catalog.chr(39))::tsquery as query,
               pg_catalog.cardinality(positions)::float8 as times,
               pg_catalog.row_number() over () as place
        from pg_catalog.unnest(pg_catalog.to_tsvector('english'::regconfig, pg_catalog.array_to_string($1::text[], ' ')))
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
        select likely.chunk_id, read.words
        from (
            select p.chunk_id
            from asked cross join lateral (
                select e."id" as chunk_id from (select w.*, w.ctid as "ragline ctid" from "Möbel"."a ""table"".x" w) as e
                where e."collection" operator(pg_catalog.=)  E'it''s \\ ours' and (to_tsvector('english'::regconfig, content)) operator(pg_catalog.@@) asked.query limit 3000
            ) as p
            where asked.before < 3000::float8
            group by p.chunk_id
            order by pg_catalog.sum(asked.weight) desc, p.chunk_id limit 250
        ) as likely
        cross join lateral (
            select pg_catalog.setweight((to_tsvector('english'::regconfig, content)), 'D') as words from (select w.*, w.ctid as "ragline ctid" from "Möbel"."a ""table"".x" w) as e
            where e."id" = likely.chunk_id offset 0
        ) as read
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
    limit 10
) as r
    join "Möbel"."a ""table"".x" content on content."id" = r.chunk_id
    order by r.score desc, r.chunk_id

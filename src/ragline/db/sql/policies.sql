-- policy_of --
select p.k, p.vector_weight, p.ef_search, p.iterative, p.early_exit
from ragline.collection c
left join ragline.search_policy p on p.collection_id = c.id
where c.name = $1

-- keep_policy --
insert into ragline.search_policy (
    collection_id, k, vector_weight, ef_search, iterative, early_exit
)
select id, $2::smallint, $3::double precision, $4::smallint, $5::text, $6::integer
from ragline.collection where name = $1
on conflict (collection_id) do update set
    k = excluded.k, vector_weight = excluded.vector_weight, ef_search = excluded.ef_search,
    iterative = excluded.iterative, early_exit = excluded.early_exit
returning collection_id

-- forget_policy --
delete from ragline.search_policy
where collection_id = (select id from ragline.collection where name = $1)

-- postings --
select coalesce(sum(chunks), 0)::bigint from ragline.term_statistic where collection_id = $1

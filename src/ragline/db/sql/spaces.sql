-- spaces_of --
select s.id, s.collection_id, s.model_id, s.weights_hash, s.dimension, s.metric, s.storage,
       s.normalised, s.languages, s.id is not distinct from c.active_space_id as is_active
from ragline.collection c
join ragline.embedding_space s on s.collection_id = c.id
where c.id = $1
order by s.id

-- collection_of --
select id, language, active_space_id from ragline.collection where name = $1

-- make_space --
select ragline.create_space($1, $2, $3, $4, $5, $6, $7, $8::text[], false)

-- take_over_graph --
-- the new index is built as the one is that searches use now
update ragline.space_index fresh set m = old.m, ef_construction = old.ef_construction
from ragline.embedding_space s, ragline.space_index old
where fresh.space_id = $1 and s.id = $2 and old.space_id = s.id and old.slot = s.index_slot

-- lock_collection --
-- for update: whoever writes a document holds the row's key until the commit, and is waited for
select active_space_id from ragline.collection where id = $1 for update

-- switch_space --
update ragline.collection set active_space_id = $2
where id = $1 and active_space_id is distinct from $2

-- drop_space --
-- never the one in use, whoever asks
delete from ragline.embedding_space s
where s.id = $1
  and not exists (select from ragline.collection c where c.active_space_id = s.id)

-- space_size --
select coalesce(sum(tokens), 0)::bigint as tokens, count(*) as chunks
from ragline.chunk where collection_id = $1

-- sample_chunks --
select c.id, d.title, c.headings, c.body
from ragline.chunk c join ragline.document d on d.id = c.document_id
where c.collection_id = $1
order by c.id
limit $2

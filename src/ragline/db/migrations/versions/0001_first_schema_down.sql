do $$
declare space record;
begin
    for space in select id from ragline.embedding_space loop
        execute format('drop table if exists ragline.%I', 'embedding_' || space.id);
    end loop;
end
$$;
drop table collection, embedding_space, document, chunk, term, posting, term_statistic,
    collection_statistic cascade;
drop function index_new_chunks, forget_old_chunks, refuse_truncate, raise_epoch, raise_epoch_of_chunk,
    forget_collection, drop_space_table, create_space, space_index_statement, fold_statistics;

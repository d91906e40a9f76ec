drop trigger index_inserted_metadata on document;
drop trigger forget_deleted_metadata on document;
drop trigger a_forget_updated_metadata on document;
drop trigger b_index_updated_metadata on document;
drop function index_new_metadata, forget_old_metadata;
drop table attribute;

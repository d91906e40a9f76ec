drop table attached_table;

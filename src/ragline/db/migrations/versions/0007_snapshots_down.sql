drop table snapshot;
drop function keep_snapshots;

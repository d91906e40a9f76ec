-- schema_version --
select version_num from ragline.alembic_version

"""Run by Alembic; the connection, its transaction and its role come from `db.migrate`."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=None,
    version_table="alembic_version",
    version_table_schema="ragline",
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
